"""What a run has left in its folder, read once and as far as it is there."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError

from dongu.config import DEFAULT_THRESHOLD, Task
from dongu.doctor.finding import Finding
from dongu.errors import InputError
from dongu.files import read_regular
from dongu.judge.answers import Evaluation
from dongu.judge.words import Entries
from dongu.run.dynamics import read_dynamics
from dongu.run.folder import FINDINGS, RunFolder, dump_json
from dongu.run.journal import read_lines
from dongu.run.predictions import read_predictions

_TASK: TypeAdapter[Task] = TypeAdapter(Task)
_FINDINGS = TypeAdapter(tuple[Finding, ...])
STEP_NUMBERS = ("step", "epoch", "loss", "learning_rate", "grad_norm")
TIMED_NUMBERS = ("step", "seconds", "tokens", "padded_tokens")


class RecordedRows(BaseModel):
    """A split in run.json."""

    rows: int
    texts: str  # sha256


class RecordedLengths(BaseModel):
    """How long the rows of a split are, as `Tokens.summary` has it."""

    tokens: int
    cut: int
    width: int
    counts: list[int]


class Change(BaseModel):
    """What was otherwise when a run went on."""

    step: int
    changes: list[str]


class Record(BaseModel):
    """What a page asks of run.json."""

    options: dict[str, Any]
    given: list[str] | None = None  # None in what an older version wrote
    label_names: tuple[str, ...]
    metric: str  # the main one
    metrics: list[str] = []
    total_steps: int | None = None
    data: dict[str, RecordedRows] = {}
    lengths: dict[str, RecordedLengths] = {}
    constant_answer: list[float] | None = None
    versions: dict[str, str] = {}
    hardware: dict[str, str] = {}
    processes: int = 1
    changes: list[Change] = []


class Outcome(BaseModel):
    """What a page asks of results.json beside the metrics."""

    best_step: int
    temperature: float | None = None
    calibrated: bool = False
    threshold: float = DEFAULT_THRESHOLD
    abstain_below: float | None = None
    abstained: list[dict[str, Any]] | None = None  # None where it was not asked for
    bag_of_words: list[dict[str, Any]] = []


class Rates(BaseModel):
    """What the steps came to, a second; of the machine where it could be measured."""

    examples: float
    tokens: float
    model_flops: float | None = None
    product_flops: float | None = None


class Summary(BaseModel):
    """The last line of timing.jsonl."""

    per_second: Rates
    peak_memory_bytes: int | None


@dataclass(frozen=True)
class Trace:
    """A run as its files tell it. What is missing is empty, or None."""

    name: str
    task: Task
    record: Record
    outcome: Outcome | None  # of a finished run
    splits: Mapping[str, Entries]  # its metrics on each labelled split, NaN where JSON has null
    findings: Sequence[Finding]
    answers: Mapping[str, Evaluation]  # of each labelled split
    dynamics: np.ndarray
    digests: Mapping[str, str]  # sha256 of each file of a finished run
    steps: Mapping[str, np.ndarray]  # STEP_NUMBERS, (steps,) each
    evaluations: Sequence[Mapping[str, float]]  # of validation
    timed: Mapping[str, np.ndarray]  # TIMED_NUMBERS, (steps,) each
    phases: Mapping[str, float]  # seconds
    summary: Summary | None  # of the last start


@dataclass(frozen=True)
class Earlier:
    """A finished run beside this one, on the same data."""

    name: str
    splits: Mapping[str, Entries]


def read_trace(folder: RunFolder, results: Mapping[str, Any] | None = None) -> Trace:
    """Read it all; `results` are those of a run that is just about to write them.

    Raises:
        InputError: the folder is no run, or one of its files is damaged.
    """
    path = folder.path
    with _reading(folder.record):
        record = Record.model_validate(folder.read_record())
        task: Task = _TASK.validate_python(record.options["task"])
    if results is not None:
        results = json.loads(dump_json(results))  # as they will be read
    elif folder.is_finished:
        results = folder.read_results()
        shown = [folder.metrics, folder.dynamics, *(path / "predictions").glob("*.jsonl")]
        folder.check_written(*(file.relative_to(path).as_posix() for file in shown if file.exists()))
    with _reading(folder.results):
        splits = _splits(results or {})
        outcome = None if results is None else Outcome.model_validate(results)
    logged, timed = _read_metrics(folder.metrics), _read_timing(folder.timing)
    with _reading(path / FINDINGS):
        findings = _FINDINGS.validate_json(read_regular(path / FINDINGS)) if (path / FINDINGS).exists() else ()
    files = {split: path / "predictions" / f"{split}.jsonl" for split in splits}
    rows = task, record.label_names, DEFAULT_THRESHOLD if outcome is None else outcome.threshold
    answers = {split: read_predictions(file, *rows) for split, file in files.items() if file.exists()}
    with _reading(folder.dynamics):
        dynamics = read_dynamics(folder.dynamics)
    written = {} if outcome is None else folder.written()
    digests, name = {file: entry["sha256"] for file, entry in written.items()}, path.absolute().name
    return Trace(name, task, record, outcome, splits, findings, answers, dynamics, digests, **logged, **timed)


def _read_metrics(path: Path) -> dict[str, Any]:
    """`steps` and `evaluations`."""
    with _reading(path):
        lines = read_lines(path)
        evaluations = [
            _numbers({name: value for name, value in line.items() if name not in ("event", "split")})
            for line in lines
            if line["event"] == "evaluation" and line["split"] == "validation"
        ]
        steps = _columns([line for line in lines if line["event"] == "step"], STEP_NUMBERS)
        return {"steps": steps, "evaluations": evaluations}


def _read_timing(path: Path) -> dict[str, Any]:
    """`timed`, `phases` and `summary`."""
    with _reading(path):
        lines = read_lines(path)
        timed = _columns([line for line in lines if line["event"] == "step"], TIMED_NUMBERS)
        phases: dict[str, float] = {"steps": math.fsum(timed["seconds"])} if len(timed["step"]) else {}
        for line in lines:
            if line["event"] == "phase":
                phases[str(line["phase"])] = phases.get(str(line["phase"]), 0.0) + float(line["seconds"])
        summaries = [Summary.model_validate(line) for line in lines if line["event"] == "summary"]
        return {"timed": timed, "phases": phases, "summary": summaries[-1] if summaries else None}


def previous_run(folder: RunFolder, trace: Trace) -> Earlier | None:
    """Of the finished runs beside this one, on the same data, the last that ended before this one began."""
    began = folder.record.stat().st_mtime_ns
    ended = []
    for file in folder.path.absolute().parent.glob("*/results.json"):
        with contextlib.suppress(OSError):  # another run may be written, or removed, at this moment
            if file.parent.name != trace.name and (time := file.stat().st_mtime_ns) < began:
                ended.append((time, file.parent))
    for _, path in sorted(ended, reverse=True):
        other = RunFolder(path)
        with contextlib.suppress(InputError), _reading(path):  # what lies beside a run may be anything
            if _texts(Record.model_validate(other.read_record())) == _texts(trace.record):
                return Earlier(path.name, _splits(other.read_results()))
    return None


def _texts(record: Record) -> dict[str, str]:
    """The digest of each split's rows."""
    return {split: rows.texts for split, rows in record.data.items()}


def _splits(results: Mapping[str, Any]) -> dict[str, Entries]:
    tables = {split: entries for split, entries in results.items() if isinstance(entries, Mapping)}
    return {split: {name: _numbers(entry) for name, entry in entries.items()} for split, entries in tables.items()}


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    """NaN for null."""
    return {key: math.nan if number is None else float(number) for key, number in entry.items()}


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what damaged content leads to into an `InputError` that names the file."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, OSError):
            reason = error.strerror or reason
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        hint = "restore it from a copy, or remove it: the page works without it"
        raise InputError(f"cannot be read ({reason})", where=str(path), hint=hint) from error


def _columns(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, np.ndarray]:
    """One array a number, NaN for null."""
    return {name: np.array([line[name] for line in lines], dtype=np.float64) for name in names}
