"""Where a run speaks to a person: lines, names with their texts, the table of its progress."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

from tqdm import tqdm

from dongu import launch, text
from dongu.run.progress import Progress
from dongu.text import printable
from dongu.waiting import about_to_write

FROM_CACHE = "; from the cache"  # which the tokens of a second run are
_FIGURES = re.compile(rf"\d[\d.,]*|{FROM_CACHE}")


class Console:
    """Lines and a progress bar; on any but the main process it says nothing.

    With `several`, it is that of several runs of one recipe: what one of them said is said again only where it differs
    in more than its figures, and each run ends in its verdict alone.
    """

    def __init__(self, *, enabled: bool = True, stream: TextIO | None = None, several: bool = False) -> None:
        self.stream = stream or sys.stdout
        self.enabled = enabled
        self.several = several
        self._before: set[tuple[str, str]] = set()  # what the runs before have said
        self._warned: set[str] = set()
        self._said: set[tuple[str, str]] = set()  # and what this one does

    @property
    def shown(self) -> TextIO | None:
        """Where what takes a while is shown; None where nothing is."""
        return self.stream if self.enabled else None

    def line(self, line: str = "") -> None:
        """One line, above the progress bar where there is one, and at once where somebody follows a file."""
        if self.enabled:
            about_to_write()
            tqdm.write(self._encodable(printable(line)), file=self.stream)
            self.stream.flush()

    def _encodable(self, line: str) -> str:
        """With a question mark for what the stream's encoding lacks, which would end the run: of a pipe it may be
        ASCII. The command has made its streams UTF-8."""
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        return line.encode(encoding, "replace").decode(encoding)

    def lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.line(line)

    def warn(self, warning: str) -> None:
        """What may be wrong, and does not end the run; in a file it stays one line, which can be searched for."""
        self.lines(text.wrapped(warning, "WARNING: ", " " * 6) if self.stream.isatty() else [f"WARNING: {warning}"])

    def warn_once(self, warnings: Iterable[str]) -> None:
        """Those of the warnings that were not printed before."""
        for warning in warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                self.warn(warning)

    def fields(self, rows: Iterable[tuple[str, str]]) -> None:
        """Aligned `name  text` lines."""
        self.lines(text.fields((name, said) for name, said in rows if self.is_new(said, name)))

    def is_new(self, said: str, name: str = "") -> bool:
        """Whether the run before did not say it, figures aside; under this name, if it has one."""
        bare = (name, _FIGURES.sub("", said))
        self._said.add(bare)
        return not self.several or bare not in self._before

    def next_run(self) -> None:
        """What follows is another run's."""
        self._before, self._said = self._said, set()

    def progress(self, total_steps: int, done: int, metrics: Sequence[str]) -> Progress:
        """The table of a run's evaluations."""
        return Progress(self, total_steps, done, metrics)


def console_for(*, quiet: bool) -> Console:
    """That of a call in Python."""
    return Console(enabled=not quiet and launch.rank() == 0)
