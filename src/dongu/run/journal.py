"""`metrics.jsonl`, `timing.jsonl` and `dynamics.bin`: what is said of an event is written when it is over.

A run that goes on from a checkpoint first cuts all where they stood at it, so nothing is there twice, or half.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field

from dongu.errors import CheckpointError
from dongu.files import disk, open_to_write, read_log, storage
from dongu.judge.answers import Evaluation
from dongu.run.dynamics import bytes_until, records
from dongu.run.folder import RunFolder, dump_json

if TYPE_CHECKING:  # a report is made without torch
    from dongu.update import Step


@dataclass(frozen=True)
class LogMark:
    """How far `metrics.jsonl` had come, and what it held."""

    bytes: Annotated[int, Field(ge=0)] = 0
    sha256: str = hashlib.sha256().hexdigest()


class Journal:
    """Appends to a run's logs; on any but the main process it does nothing.

    `metrics.jsonl` goes on at the `mark`; `step` is the last one whose lines stay in `timing.jsonl`, and whose records
    stay in `dynamics.bin`.
    """

    def __init__(self, folder: RunFolder, *, enabled: bool, step: int = 0, mark: LogMark | None = None) -> None:
        self._folder, self._mark = folder, mark or LogMark()
        self._files: dict[Path, FileIO] = {}
        if enabled:
            with storage(folder.path), ExitStack() as opened:
                opened.callback(self.__exit__)  # where one cannot be opened, the others are closed
                self._files[folder.metrics] = _open_at(folder.metrics, self._mark.bytes)
                self._digest = hashlib.sha256(read_log(folder.metrics))
                self._files[folder.timing] = _open_at(folder.timing, _bytes_until(folder.timing, step))
                self._files[folder.dynamics] = _open_at(folder.dynamics, bytes_until(folder.dynamics, step))
                opened.pop_all()

    def step(self, step: Step) -> None:
        """One update: its numbers to one log, its seconds to another, the losses of its rows to the third."""
        self._write(self._folder.metrics, step_line(step))
        timed = {name: getattr(step, name) for name in ("seconds", "tokens", "padded_tokens")}
        self._write(self._folder.timing, {"event": "step", "step": step.number, **timed})
        self._append(self._folder.dynamics, records(step))

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        line = {"event": "evaluation", "step": step, "split": evaluation.split, **evaluation.metrics}
        self._write(self._folder.metrics, line)

    def record(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers of the user's own."""
        self._write(self._folder.metrics, {"event": "record", "step": step, **numbers})

    def phase(self, name: str, seconds: float, step: int) -> None:
        """How long something other than a step took."""
        self._write(self._folder.timing, {"event": "phase", "phase": name, "step": step, "seconds": seconds})

    def summary(self, sums: Mapping[str, Any], step: int) -> None:
        self._write(self._folder.timing, {"event": "summary", "step": step, **sums})

    def mark(self) -> LogMark:
        """Flush the logs to the disk and say how far `metrics.jsonl` has come: what a checkpoint may count on."""
        if self._files:
            with storage(self._folder.path):
                for path in (*self._files, self._folder.path):
                    disk.sync(path)
                self._mark = LogMark(self._files[self._folder.metrics].tell(), self._digest.hexdigest())
        return self._mark

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def _write(self, path: Path, line: Mapping[str, Any]) -> None:
        self._append(path, (dump_json(line) + "\n").encode())

    def _append(self, path: Path, content: bytes) -> None:
        if path in self._files:
            with storage(self._folder.path):
                disk.append(self._files[path], content)
            if path == self._folder.metrics:
                self._digest.update(content)


def step_line(step: Step) -> dict[str, Any]:
    """What `metrics.jsonl` says of an update."""
    names = ("epoch", "loss", "learning_rate", "grad_norm", "examples")
    return {"event": "step", "step": step.number, **{name: getattr(step, name) for name in names}}


def check_log(metrics: Path, mark: LogMark) -> None:
    """Raise `CheckpointError` if the log does not begin as it stood at the checkpoint."""
    try:
        content = memoryview(read_log(metrics))[: mark.bytes]
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})", where=str(metrics)) from error
    if len(content) != mark.bytes:
        raise CheckpointError(f"has {len(content):,} bytes, not {mark.bytes:,} or more", where=str(metrics))
    if hashlib.sha256(content).hexdigest() != mark.sha256:
        raise CheckpointError("begins with other lines than were written", where=str(metrics))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; a run that is going on, or was killed, may end in a half one.

    Raises:
        OSError: as `read_log`.
        ValueError: a line is damaged.
    """
    return [line for _, line in _lines(path)]


def _lines(path: Path, *, strict: bool = True) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each whole line, and how many bytes the log has up to its end; unless `strict`, damaged ones are left out."""
    length = 0
    for number, content in enumerate(read_log(path).splitlines(keepends=True), start=1):
        length += len(content)
        if not content.endswith(b"\n"):
            break
        try:
            line = json.loads(content)
            line["step"] = int(line["step"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            if strict:
                raise ValueError(f"line {number} is damaged: {error}") from error
            continue
        yield length, line


def logged_steps(metrics: Path) -> int:
    """The last step in a log; 0 without one, and what is damaged says nothing.

    Raises:
        CheckpointError: something else than a log has its name.
    """
    check_log(metrics, LogMark())
    return max((line["step"] for _, line in _lines(metrics, strict=False)), default=0)


def _bytes_until(timing: Path, step: int) -> int:
    """The length of the whole lines that come before the first one of a later step."""
    length = 0
    with suppress(ValueError):
        for end, line in _lines(timing):
            if line["step"] > step:
                break
            length = end
    return length


def _open_at(path: Path, length: int) -> FileIO:
    """Open to append after so many bytes; what stands behind them goes."""
    file = open_to_write(path, "ab")
    file.truncate(length)
    file.seek(length)
    return file
