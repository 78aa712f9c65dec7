"""What takes longer than two seconds says so: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator, contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from typing import Self, TextIO

from dongu.text import WIDTH, clock, printable

FIRST_SECONDS = 1.0  # without anything on the screen, after which a bar is drawn
REDRAWN_SECONDS = 0.25
LINE_SECONDS = 10.0  # before the first line where the stream is no terminal; each later one waits twice as long
LEAST_BAR = 10  # columns, or there is none
UNITS = {"bytes": ("MB", 1e6)}  # how a count of them is written


class Screen:
    """Where the innermost of what is being done is shown: on the last line of a terminal, or as lines of a file.

    A thread of its own shows it, so that it also moves while a library computes. The time without anything on the
    screen counts, and not that of each `Waiting`: several short ones are no longer silence than one.
    """

    def __init__(self, stream: TextIO, since: float) -> None:
        self.waits: list[Waiting] = []
        self._stream, self._last, self._process = stream, since, os.getpid()
        self._lock = threading.RLock()
        self._drawn = 0  # columns of the line that stands there
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._show, name="dongu-waiting", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.clear()

    def clear(self) -> None:
        """Take the bar away: something else is about to be written."""
        if os.getpid() == self._process:  # in a fork the lock may be held for ever
            with self._lock:
                self.wipe()
                self._last = time.monotonic()

    def wipe(self) -> None:
        """Take the bar away: nothing is being done."""
        with self._lock:
            if self._drawn:
                self._write("\r" + " " * self._drawn + "\r")
                self._drawn, self._last = 0, time.monotonic()

    def _show(self) -> None:
        show = self._draw if self._stream.isatty() else self._tell
        while not self._over.wait(min(REDRAWN_SECONDS, FIRST_SECONDS)):
            with suppress(IndexError):  # nothing is being done, or no longer
                show(self.waits[-1])

    def _draw(self, wait: Waiting) -> None:
        with self._lock:
            if not self._drawn and time.monotonic() - self._last < FIRST_SECONDS:
                return
            if wait.redraw is None and wait.what:
                columns = self._columns() - 1  # in the last one a terminal may begin a new line
                self._write("\r" + wait.line(columns).ljust(columns))
                self._drawn = columns
        if wait.redraw is not None:  # without the lock: it writes as others do
            wait.redraw()

    def _tell(self, wait: Waiting) -> None:
        if wait.in_files and time.monotonic() >= wait.told_at:
            print(f"{wait.what}: {wait.state()[1]}", file=self._stream, flush=True)
            wait.told_at, wait.told_every = time.monotonic() + 2 * wait.told_every, 2 * wait.told_every

    def _columns(self) -> int:
        with suppress(OSError):  # no terminal of this machine
            return os.get_terminal_size(self._stream.fileno()).columns or WIDTH
        return WIDTH

    def _write(self, text: str) -> None:
        """Past the buffer, whose lock somebody may hold who wants this one."""
        with suppress(OSError, ValueError):  # what is shown may get lost
            try:
                descriptor = self._stream.fileno()
            except OSError:
                self._stream.write(text)
                return
            os.write(descriptor, text.encode(self._stream.encoding or "utf-8", "replace"))


_screen: ContextVar[Screen | None] = ContextVar("screen", default=None)


@contextmanager
def shown_on(stream: TextIO | None, since: float | None = None) -> Iterator[Screen | None]:
    """Inside the block each `Waiting` is shown on this stream, on none by default; an outer block has its way.

    `since` is when something was last written to it, by `time.monotonic` (now).
    """
    if stream is None or _screen.get() is not None:
        yield _screen.get()
        return
    with Screen(stream, time.monotonic() if since is None else since) as screen:
        token = _screen.set(screen)
        try:
            yield screen
        finally:
            _screen.reset(token)


def about_to_write() -> None:
    """Take the bar away, if there is one."""
    if (screen := _screen.get()) is not None:
        screen.clear()


class Waiting(ContextDecorator):
    """Something that may take a while: `with Waiting("tokenizing", 3668, "rows") as wait: …; wait.add(1024)`.

    What is counted is not slowed down. The innermost is shown, where there are several. `@Waiting("sorting")` is for
    each call of a function.

    Args:
        what: is done, in a word or two; nothing is shown without.
        total: of what is counted; None where it is not known.
        unit: that is counted; without one the seconds are shown.
        at: gives the count, in place of `add`.
        in_files: whether it is worth a line where the stream is no terminal.
        redraw: draws it, where it has a bar of its own.
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        unit: str = "",
        *,
        at: Callable[[], int] | None = None,
        in_files: bool = True,
        redraw: Callable[[], object] | None = None,
    ) -> None:
        self.what, self.total, self.unit = printable(what), total, unit
        self.in_files, self.redraw = in_files and bool(what), redraw
        self.done = 0
        self._at = at or (lambda: self.done)
        self._screen: Screen | None = None

    def add(self, count: int = 1) -> None:
        self.done += count

    def _recreate_cm(self) -> Waiting:
        return Waiting(self.what)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self.told_every, self.told_at = LINE_SECONDS, self._began + LINE_SECONDS
        self._screen = _screen.get()
        if self._screen is not None:
            if not self.what:
                self._screen.wipe()
            self._screen.waits.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._screen is not None:
            self._screen.waits.remove(self)
            if not self._screen.waits:
                self._screen.wipe()

    def line(self, columns: int) -> str:
        """It in one line of a terminal, with a bar if its end is known and there is room."""
        count, said = self.state()
        room = columns - len(self.what) - len(said) - 3
        if not self.total or room < LEAST_BAR:
            return f"{self.what}  {said}"[:columns]
        full = min(room, room * count // self.total)
        return f"{self.what}  {'█' * full}{' ' * (room - full)} {said}"

    def state(self) -> tuple[int, str]:
        """What is done, and in words: `1,024 of 3,668 rows, 512 rows/s, 0:05 left`."""
        seconds = max(1e-3, time.monotonic() - self._began)
        if not self.unit:
            return 0, clock(seconds)
        count = self._at()
        unit, size = UNITS.get(self.unit, (self.unit, 1))
        said = f"{count / size:,.0f}" + (f" of {self.total / size:,.0f}" if self.total else "")
        rate = count / seconds
        said += f" {unit}, {rate / size:,.{0 if rate / size >= 10 else 1}f} {unit}/s"
        if self.total and count:
            said += f", {clock(max(0, self.total - count) / rate)} left"
        return count, said


def idle() -> Waiting:
    """Inside `with idle()` nothing is shown: a person or a client is waited for, or nothing is left to do."""
    return Waiting("")


@contextmanager
def loading(what: str = "PyTorch and transformers") -> Iterator[None]:
    """While these are imported: a tenth sooner without the garbage collector, which would look
    through their 400,000 objects again and again. They stay to the end, so it passes them over afterwards too."""
    collects = gc.isenabled()
    gc.disable()
    try:
        with Waiting(f"loading {what}"):
            yield
    finally:
        _pass_over()
        if collects:
            gc.enable()


@cache
def _pass_over() -> None:
    """Once in a process: whatever is garbage at a later time shall be collected."""
    gc.freeze()
