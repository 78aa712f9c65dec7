"""`metrics.jsonl` and `timing.jsonl`: a line is written when its event is over.

A run that goes on from a checkpoint first cuts both where they stood at it, so no line is there twice, or half.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from dongu.evaluate import Evaluation
from dongu.files import storage
from dongu.loop import Step
from dongu.run.folder import RunFolder, dump_json


class Journal:
    """Appends to a run's two logs; on any but the main process it does nothing."""

    def __init__(self, folder: RunFolder, *, enabled: bool, metrics_bytes: int = 0, timing_bytes: int = 0) -> None:
        self._folder = folder
        self._metrics: TextIO | None = None
        self._timing: TextIO | None = None
        if enabled:
            with storage(folder.path):
                self._metrics = _open_at(folder.metrics, metrics_bytes)
                self._timing = _open_at(folder.timing, timing_bytes)

    def step(self, step: Step) -> None:
        """One update: its numbers to one log, its seconds to the other."""
        self._write(
            self._metrics,
            {
                "event": "step",
                "step": step.number,
                "epoch": step.epoch,
                "loss": step.loss,
                "learning_rate": step.learning_rate,
                "grad_norm": step.grad_norm,
                "examples": step.examples,
            },
        )
        self._write(
            self._timing,
            {
                "event": "step",
                "step": step.number,
                "seconds": step.seconds,
                "tokens": step.tokens,
                "padded_tokens": step.padded_tokens,
            },
        )

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """One evaluation."""
        self._write(
            self._metrics,
            {"event": "evaluation", "step": step, "split": evaluation.split, **evaluation.metrics},
        )

    def phase(self, name: str, seconds: float, step: int) -> None:
        """How long something other than a step took."""
        self._write(self._timing, {"event": "phase", "phase": name, "step": step, "seconds": seconds})

    def durable_bytes(self) -> tuple[int, int]:
        """Flush both logs to the disk and give their lengths: what a checkpoint may count on."""
        lengths = []
        for file in (self._metrics, self._timing):
            if file is not None:
                with storage(self._folder.path):
                    os.fsync(file.fileno())
                    lengths.append(os.fstat(file.fileno()).st_size)
        return (lengths[0], lengths[1]) if lengths else (0, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._metrics, self._timing):
            if file is not None:
                file.close()

    def _write(self, file: TextIO | None, line: Mapping[str, Any]) -> None:
        if file is not None:
            with storage(self._folder.path):
                file.write(dump_json(line) + "\n")
                file.flush()


def _open_at(path: Path, length: int) -> TextIO:
    file = path.open("a", encoding="utf-8", newline="\n")
    file.truncate(length)
    return file
