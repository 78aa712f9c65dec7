"""Signals, kept from what must not be cut in two."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)  # that ask a process to end


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """SIGINT inside the block is handled after it. Other threads than the main one get none anyway."""
    former = signal.getsignal(signal.SIGINT)
    if not callable(former) or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, object]] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
        if came:
            former(*came[0])  # type: ignore[arg-type]


@contextmanager
def forks_in_peace() -> Iterator[None]:
    """Signals inside the block are handled after it, so that no half of a fork is cut off, and the child has none of
    this process's handlers at work before it calls `belong_to_parent`."""
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
