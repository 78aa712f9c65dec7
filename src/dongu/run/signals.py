"""What a signal does to a run: it ends at the next step boundary, its state saved; a second one ends it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, Self

from dongu.errors import StoppedError

AGAIN_SECONDS = 0.01  # until a signal whose exception got lost raises it once more
# SIGUSR1 is how SLURM announces the end of a job (`sbatch --signal=USR1@120`): the same as being told to terminate.
EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129, signal.SIGUSR1: 143}


class Stop(KeyboardInterrupt):
    """A signal where no step boundary is to be waited for; what catches `Exception` does not hold it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)


def end_at_once() -> None:
    """Where no `StopSignals` is at work, a signal ends the process with the same code, and without a word."""
    for number in EXIT_CODES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: os._exit(EXIT_CODES[signal.Signals(number)]))


@contextlib.contextmanager
def handled(handler: Any, numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """Inside the block these signals call `handler`; after it what they called before. Ignored ones stay ignored."""
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    former = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, before in former.items():
            signal.signal(number, before)


class StopSignals:
    """Catches the signals that ask a process to end, while the block runs, in the main thread.

    A signal that was ignored before (SIGHUP under nohup) stays ignored.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._raises = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in EXIT_CODES:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._former[number] = signal.signal(number, self._receive)
            for handler in self._former.values():
                outer = getattr(handler, "__self__", None)
                if isinstance(outer, StopSignals) and outer.received is not None:
                    self.received = outer.received  # its `Stop` came where Python swallows it: in a `__del__`
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
            outer = getattr(handler, "__self__", None)
            if kind is None and isinstance(outer, StopSignals):  # it came as the last files of a run were written:
                outer.received = outer.received or self.received  # the next run of several ends by it

    @contextlib.contextmanager
    def at_once(self, *, enabled: bool = True) -> Iterator[None]:
        """Inside the block a signal raises `Stop` where it comes: for what can be cut off anywhere and done again.

        It may come where a library calls Python back, and makes another exception of it, or where Python can raise
        none (in a `__del__`): then the block ends by `Stop` all the same, a moment later.

        Not among several processes: the others would wait for this one's part.
        """
        if not enabled:
            yield
            return
        former, self._raises = sys.unraisablehook, True
        sys.unraisablehook = lambda ignored: self._again() if isinstance(ignored.exc_value, Stop) else former(ignored)
        try:
            if self.received is not None:
                raise Stop(self.received)
            yield
        except BaseException as error:
            if self.received is None or isinstance(error, Stop | StoppedError):
                raise
            raise Stop(self.received) from error
        finally:
            sys.unraisablehook, self._raises = former, False

    def _again(self) -> None:
        """Raise `Stop` anew, where it does not get lost."""
        signal.signal(signal.SIGALRM, self._raise)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)

    def _raise(self, *_: object) -> None:
        if self._raises and self.received is not None:
            raise Stop(self.received)

    def agreed(self, accelerator: Any, step: Any = None) -> bool:
        """Whether some process got a signal; the same answer on each, so that all end at the same step.

        A step tells, if all have read it; without one they ask each other, and wait for the answer.
        """
        received = self.received is not None
        if accelerator.num_processes == 1:
            return received
        if step is not None:
            return bool(step.is_asked_to_end)
        import torch

        flag = torch.tensor(float(received), device=accelerator.device)
        return bool(accelerator.reduce(flag, "sum") > 0)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            os._exit(EXIT_CODES[signal.Signals(number)])  # asked twice: whatever is half done is done again on resume
        self.received = signal.Signals(number)
        if self._raises:
            raise Stop(number)
        # Not print: the signal may have come in the middle of one.
        with contextlib.suppress(OSError):  # nobody can be told
            os.write(2, f"\n{self.received.name}: ending after this step (once more: at once)\n".encode())
