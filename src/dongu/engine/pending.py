"""Updates that a GPU may still be at: their numbers arrive late, and one that is not finite must not be made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dongu.errors import NonFiniteError
from dongu.model.optimizer import skip_on_gpu


class Pending:
    """The steps of a loop whose numbers nobody has looked at yet, in their order.

    On a CPU each is looked at before the optimizer steps. A GPU is not waited for: from the first number that is not
    finite on, a flag on the device keeps the optimizer from changing anything, and the loop learns of it a step later.

    Args:
        device: where updates are computed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._steps: list[Any] = []
        self._skip: Tensor | None = None
        self.undo: Callable[[int], None] = lambda _: None  # be where the loop was after that update, once there is one

    def bind(self, optimizer: torch.optim.Optimizer) -> None:
        """This optimizer makes the updates from here on."""
        self._optimizer = optimizer
        self._skip = skip_on_gpu(optimizer, self._device)

    def clear(self) -> None:
        """Whatever the device has seen before counts no more."""
        if self._skip is not None:
            self._skip.zero_()

    def add(self, step: Any) -> None:
        """A step whose update comes next.

        Args:
            step: it has a number, and `check()`.

        Raises:
            NonFiniteError: its numbers are not finite, and this is no GPU.
        """
        self._steps.append(step)
        if self._skip is None:
            self.settle()

    def flag(self, number: Tensor) -> None:
        """Have a GPU skip all updates from here on unless the number, (), is finite."""
        if self._skip is not None:
            torch.maximum(self._skip, number.isfinite().logical_not(), out=self._skip)

    def settle(self, behind: int = 0) -> None:
        """Wait for all steps but the last few. Where an update was not made, be where it had not been tried.

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
