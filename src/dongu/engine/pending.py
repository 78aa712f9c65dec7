"""Updates that a GPU may still be computing: their numbers arrive late, and one that is not finite must not be made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dongu.errors import NonFiniteError
from dongu.model.optimizer import skip_on_gpu


class Pending:
    """The steps of a loop whose numbers were not checked yet, in order.

    On a CPU each is checked before the optimizer steps. A GPU is not waited for: once a number is not finite, a flag
    on the device keeps the optimizer from changing anything, and the loop learns of it one step later.

    Args:
        device: where updates are computed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._steps: list[Any] = []
        self._skip: Tensor | None = None
        self.undo: Callable[[int], None] = lambda _: None  # return to the state after that update; set by the loop

    def bind(self, optimizer: torch.optim.Optimizer) -> None:
        """Have the flag stop this optimizer, which makes the updates from now on."""
        self._optimizer = optimizer
        self._skip = skip_on_gpu(optimizer, self._device)

    def clear(self) -> None:
        """Reset the flag: what was not finite before no longer stops an update."""
        if self._skip is not None:
            self._skip.zero_()

    def add(self, step: Any) -> None:
        """Add the step whose update is made next.

        Args:
            step: with a number and `check()`.

        Raises:
            NonFiniteError: its numbers are not finite, and the device is no GPU.
        """
        self._steps.append(step)
        if self._skip is None:
            self.settle()

    def flag(self, number: Tensor) -> None:
        """Have a GPU skip all updates from here on unless the number, (), is finite."""
        if self._skip is not None:
            torch.maximum(self._skip, number.isfinite().logical_not(), out=self._skip)

    def settle(self, behind: int = 0) -> None:
        """Wait for all steps but the last few. If an update was not made, return to the state before it.

        Raises:
            NonFiniteError: see `Step.check`.
        """
        while len(self._steps) > behind:
            step = self._steps[0]
            try:
                step.check()
            except NonFiniteError:
                self._steps.clear()
                self._optimizer.zero_grad()
                self.clear()
                self.undo(step.number - 1)
                raise
            self._steps.pop(0)
