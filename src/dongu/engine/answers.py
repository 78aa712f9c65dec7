"""Evaluation and prediction on CUDA by replay."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dongu.engine.recordings import Recordings, Shape
from dongu.text import reason_of


@dataclass(frozen=True)
class _Recording:
    """One shape's forward."""

    static_input: Tensor  # which each replay overwrites, as it does the logits
    logits: Tensor
    replay: Callable[[], None]


class Answers(Recordings):
    """`compute(numbers, shape)` in eval mode and without a gradient.

    Recording a shape takes longer than launching it once from Python, and in one pass over some rows most shapes
    occur once. So a shape is recorded when it occurs again, as all of them do in the next evaluation.
    """

    def __init__(self, compute: Callable[[Tensor, Shape], Tensor], model: nn.Module) -> None:
        super().__init__(compute, model)
        self.not_recorded: str | None = None  # why nothing more is recorded
        self._seen: set[Hashable] = set()
        self._is_warm = False
        self._one_at_a_time = threading.Lock()  # all replays share their memory

    def __call__(self, numbers: Tensor, shape: Shape) -> Tensor | None:
        """Logits of the numbers, (count,) int64, on the host or on the device; None if Python must launch them."""
        with self._one_at_a_time:
            self.look()
            name = (shape, torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda"))
            if name not in self._seen or self.not_recorded:
                self._seen.add(name)
                return None
            try:
                recording = self.recorded(name, lambda: self._record(numbers, shape))
            except (RuntimeError, TypeError, ValueError) as error:  # no memory, or something that cannot be recorded
                self._discard()
                self.not_recorded = reason_of(error)
                return None
            recording.static_input.copy_(numbers, non_blocking=True)
            recording.replay()
            return recording.logits.clone()  # type: ignore[no-any-return]

    def _record(self, numbers: Tensor, shape: Shape) -> _Recording:
        static_input, made = numbers.to(self._device, copy=True), []
        replay = self.replayable(lambda: made.append(self.forward(static_input, shape)), static_input, shape)
        return _Recording(static_input, made[0], replay)

    def _discard(self) -> None:
        super()._discard()
        self._seen.clear()

    def _warm_up(self, numbers: Tensor, shape: Shape) -> None:
        if not self._is_warm:
            self.forward(numbers, shape)
            self._is_warm = True
