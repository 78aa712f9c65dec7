"""What takes longer than two seconds says so: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self, TextIO

from dongu.text import clock, printable

FIRST_SECONDS = 2.0  # what is over by then is not shown
REDRAWN_SECONDS = 0.25
LINE_SECONDS = 10.0  # before the first line where the stream is no terminal; each later one waits twice as long
UNITS = {"bytes": ("MB", 1e6)}  # how a count of them is written

_shown_on: ContextVar[TextIO | None] = ContextVar("shown_on", default=None)


@contextmanager
def shown_on(stream: TextIO | None) -> Iterator[None]:
    """Inside the block each `Waiting` is shown on this stream, on none by default; an outer block has its way."""
    if stream is None or _shown_on.get() is not None:
        yield
        return
    token = _shown_on.set(stream)
    try:
        yield
    finally:
        _shown_on.reset(token)


class Waiting:
    """Something that may take a while: `with Waiting("tokenizing", 3668, "rows") as wait: …; wait.add(1024)`.

    A thread of its own shows it, so that it also moves while a library computes; what is counted is not slowed down.

    Args:
        what: is done, in a word or two.
        total: of what is counted; None where it is not known.
        unit: that is counted; without one the seconds are shown.
        at: gives the count, in place of `add`.
    """

    def __init__(
        self, what: str, total: int | None = None, unit: str = "", *, at: Callable[[], int] | None = None
    ) -> None:
        self.what, self.total, self.unit = printable(what), total, unit
        self.done = 0
        self._at = at or (lambda: self.done)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, count: int = 1) -> None:
        """So many more are done."""
        self.done += count

    def __enter__(self) -> Self:
        if (stream := _shown_on.get()) is not None:
            self._began = time.monotonic()
            show = self._draw if stream.isatty() else self._tell
            self._thread = threading.Thread(target=show, args=(stream,), name="dongu-waiting", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _draw(self, stream: TextIO) -> None:
        if self._over.wait(FIRST_SECONDS):
            return
        from tqdm import tqdm  # it knows of the bars that are there already

        what = self.what.replace("{", "{{").replace("}", "}}")
        style = f"{what}  {{bar}} {{desc}}" if self.total else f"{what}  {{desc}}"
        options: dict[str, Any] = {"bar_format": style, "file": stream, "dynamic_ncols": True, "leave": False}
        with tqdm(total=self.total, **options) as bar:
            while True:
                count, said = self._state()
                bar.n = count
                bar.set_description_str(said, refresh=True)
                if self._over.wait(REDRAWN_SECONDS):
                    return

    def _tell(self, stream: TextIO) -> None:
        seconds = LINE_SECONDS
        while not self._over.wait(seconds):
            print(f"{self.what}: {self._state()[1]}", file=stream, flush=True)
            seconds *= 2

    def _state(self) -> tuple[int, str]:
        """What is done, and in words: `1,024 of 3,668 rows, 512 rows/s, 0:05 left`."""
        seconds = time.monotonic() - self._began
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


@contextmanager
def loading() -> Iterator[None]:
    """While PyTorch and transformers are imported: a tenth sooner without the garbage collector, which would look
    through their 400,000 objects again and again. They stay to the end, so it passes them over afterwards too."""
    collects = gc.isenabled()
    gc.disable()
    try:
        with Waiting("loading PyTorch and transformers"):
            yield
    finally:
        if not gc.get_freeze_count():  # whatever is garbage at a later time shall be collected
            gc.freeze()
        if collects:
            gc.enable()
