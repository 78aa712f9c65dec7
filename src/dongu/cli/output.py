"""The standard streams of a command: UTF-8, and none of them can end a run."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from dongu.errors import StorageError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Output(io.FileIO):
    """The raw file under a standard stream. After its first failure to write it drops what it gets.

    A closed pipe (`| head`) is no failure: the command goes on, with its own exit code.

    Attributes:
        needed: whether the command fails if its output cannot be written; else it says so once and goes on.
        before: is called before something is written.
    """

    before: Callable[[], object] | None = None

    def __init__(self, descriptor: int, *, needed: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.needed = self._answers = needed
        self._lost = False

    def write(self, content: ReadableBuffer, /) -> int:
        """
        Raises:
            StorageError: nothing can be written, and it is needed.
        """
        if self.before is not None:
            self.before()
        if not self._lost:
            try:
                return super().write(content)
            except OSError as error:
                self._lost = True
                what = f"cannot be written ({error.strerror})"
                closed = isinstance(error, BrokenPipeError)
                if self.needed and not closed:
                    hint = "the answer is lost: free some space, or send it to another place"
                    raise StorageError(what, where="standard output", hint=hint) from error
                if self._answers and not closed:
                    print(f"dongu: standard output {what}; the run continues", file=sys.stderr)
        return memoryview(content).nbytes


@contextlib.contextmanager
def standard_streams() -> Iterator[Output | None]:
    """Put `Output` under the standard streams while the block runs; yields that of standard output.

    It is None where something else stands in for the stream, as in a notebook or a test. A closed
    stream is replaced by the null device, and so is its file descriptor: the next file that is opened would get the
    number otherwise, and with it the output that is meant for the stream.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    given, former = sys.stdin, (sys.stdout, sys.stderr)
    with contextlib.ExitStack() as stack:
        if given is None:
            sys.stdin = stack.enter_context(Path(os.devnull).open(encoding="utf-8"))
        output = _under(former[0], stack, needed=True)
        sys.stdout, sys.stderr = output, _under(former[1], stack, needed=False)
        raw = getattr(getattr(output, "buffer", None), "raw", None)
        try:
            yield raw if isinstance(raw, Output) else None
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(StorageError, ValueError):  # said already, or closed by somebody
                    stream.flush()
            sys.stdin, (sys.stdout, sys.stderr) = given, former


@contextlib.contextmanager
def told_before(call: Callable[[], object]) -> Iterator[None]:
    """Inside the block, `call` is called before anything is written to a terminal."""
    raws = [getattr(getattr(stream, "buffer", None), "raw", None) for stream in (sys.stdout, sys.stderr)]
    shown = [raw for raw in raws if isinstance(raw, Output) and raw.isatty()]
    for raw in shown:
        raw.before = call
    try:
        yield
    finally:
        for raw in shown:
            raw.before = None


def _under(stream: TextIO | None, stack: contextlib.ExitStack, *, needed: bool) -> TextIO:
    """The same stream in UTF-8, whatever the locale: under LC_ALL=C the first `·` would be an error."""
    if stream is None or stream.closed:
        return stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    try:
        descriptor = stream.fileno()
    except OSError:
        stream.reconfigure(encoding="utf-8", errors="replace")
        return stream
    with contextlib.suppress(OSError):
        stream.flush()
    raw = io.BufferedWriter(Output(descriptor, needed=needed))
    at_once = stream.line_buffering or stream.write_through
    return io.TextIOWrapper(raw, encoding="utf-8", errors="replace", line_buffering=at_once)
