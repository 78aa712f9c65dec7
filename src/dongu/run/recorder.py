"""Hands each step of a run to those who record it, once it can be read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from dongu.update import Step


class Recorder:
    """The steps that were made and are not recorded yet, in their order.

    To read one that a GPU is still at would wait for it, and leave the GPU with nothing to do afterwards.

    Each is handed to the observers; `evenly` what is read does not depend on what has arrived, so that all GPUs of a
    run read the same.
    """

    def __init__(self, *observers: Callable[[Step], None], evenly: bool = False) -> None:
        self._observers, self._evenly = observers, evenly
        self._made: deque[Step] = deque()
        self._last: Step | None = None  # that was recorded

    def add(self, step: Step) -> None:
        """One more step, which need not have arrived."""
        self._made.append(step)

    def catch_up(self, *, behind: int) -> Step | None:
        """Record what has arrived, and wait for the others but so many; the last step that was recorded, if any was.

        Raises:
            NonFiniteError: the update of one of them was not made.
        """
        while self._made and (len(self._made) > behind or (not self._evenly and self._made[0].arrival.is_there)):
            self._last = step = self._made.popleft()
            for observe in self._observers:
                observe(step)
        return self._last
