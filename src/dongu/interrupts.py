"""Signals, kept from what must not be cut in two."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)  # that ask a process to end


@contextmanager
def interrupts_wait(numbers: Collection[signal.Signals] = (signal.SIGINT,)) -> Iterator[None]:
    """Such signals inside the block are handled after it. Other threads than the main one get none anyway."""
    former: dict[int, Callable[[int, FrameType | None], object]] = {}
    if threading.current_thread() is threading.main_thread():
        former = {number: handler for number in numbers if callable(handler := signal.getsignal(number))}
    came: list[tuple[int, FrameType | None]] = []
    for number in former:
        signal.signal(number, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        if came:
            former[came[0][0]](*came[0])


@contextmanager
def forks_in_peace() -> Iterator[None]:
    """Signals inside the block are handled after it, so that no half of a fork is cut off, and the child has none of
    this process's handlers at work before it calls `belong_to_parent`."""
    with interrupts_wait(ENDING):  # other threads take what is blocked here, and its handler is called in this one
        former = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)


def belong_to_parent() -> None:
    """In a child: signals that a terminal or a scheduler sends to both are the parent's, which ends it by SIGTERM."""
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
