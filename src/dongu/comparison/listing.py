"""The runs of a folder: how each stands, what it came to, and which of its options are its own; without torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dongu.comparison.sides import COMPARED_SPLITS, PLACES, asked_first
from dongu.comparison.words import aligned, option_shown
from dongu.config import LOWER_IS_BETTER, RunConfig
from dongu.errors import InputError, StorageError, UsageError
from dongu.files import open_regular
from dongu.judge.words import metric_name
from dongu.run.folder import RunFolder
from dongu.text import decimals, with_interval

DEPTH = 4  # folders below the one that is listed: groups of runs, and in them those of --seeds and --folds
TAIL_BYTES = 1 << 16  # of a log, where its last lines are

State = Literal["finished", "running", "stopped", "damaged"]


@dataclass(frozen=True)
class ListedRun:
    """A run in a list.

    `splits` has the metrics of validation and test by their names, with `value`, and of a finished run `low` and
    `high`; `step` is the last one of the log. `problem` says what is wrong with a damaged one, of which nothing else is
    known.
    """

    path: Path
    state: State
    metric: str = ""
    step: int | None = None
    splits: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    given: Sequence[str] = ()  # which of the options somebody gave
    problem: str = ""

    def value(self, split: str, metric: str) -> float | None:
        """A metric, where there is one."""
        value = self.splits.get(split, {}).get(metric, {}).get("value")
        return value if isinstance(value, int | float) else None


@dataclass(frozen=True)
class Listing:
    """The runs of a folder, the best first. `differs` names the options that are not the same for all of them."""

    folder: Path
    runs: tuple[ListedRun, ...]
    differs: tuple[str, ...]


def list_runs(folder: Path, metric: str | None = None) -> Listing:
    """Read what the runs below a folder say of themselves.

    They are sorted by the metric; by default by each run's own, those with the same together.

    Raises:
        UsageError: it is not a folder.
    """
    if not folder.is_dir():
        raise UsageError("is not a folder", where=str(folder), hint="dongu runs FOLDER lists the runs below a folder")
    runs = sorted(map(_read, _found(folder)), key=lambda run: _rank(run, metric))
    options = [run.options for run in runs if run.state != "damaged"]
    names = asked_first((name for name in RunConfig.model_fields if name not in PLACES), map(vars, runs))
    differs = [name for name in names if any(each.get(name) != options[0].get(name) for each in options)]
    if len({each.get("data") for each in options}) > 1:
        differs.insert(0, "data")
    return Listing(folder, tuple(runs), tuple(differs))


def _found(folder: Path) -> Iterator[Path]:
    """The folders with a run.json, and those that cannot be listed; what lies in a run is its own."""
    top = len(folder.parts)
    closed: list[OSError] = []  # that cannot be listed
    for here, inside, files in os.walk(folder, onerror=closed.append):
        if "run.json" in files:
            yield Path(here)
        deep = "run.json" in files or len(Path(here).parts) - top >= DEPTH
        inside[:] = [] if deep else sorted(name for name in inside if not name.startswith("."))
    yield from (Path(error.filename) for error in closed)


def _read(path: Path) -> ListedRun:
    folder = RunFolder(path)
    try:
        record = folder.read_record()
        state: State
        step, logged = _last_of_log(folder.metrics)
        if folder.is_finished:
            results = folder.read_json("results.json")
            step, state = results.get("steps"), "finished"
            splits = {name: entry for name in COMPARED_SPLITS if isinstance(entry := results.get(name), Mapping)}
        else:
            state = "running" if folder.is_locked else "stopped"
            splits = {"validation": {name: {"value": value} for name, value in logged.items()}} if logged else {}
    except (InputError, StorageError, OSError) as error:
        return ListedRun(path, "damaged", problem=_said(error))
    return ListedRun(path, state, record["metric"], step, splits, record["options"], record.get("given", ()))


def _said(error: InputError | StorageError | OSError) -> str:
    return f"cannot be read ({error.strerror or error})" if isinstance(error, OSError) else error.what


def _last_of_log(path: Path) -> tuple[int | None, dict[str, float]]:
    """The last step of a log, and the metrics of its last evaluation of validation, if its last lines have one."""
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return None, {}
    try:
        size = os.fstat(descriptor).st_size
        content = os.pread(descriptor, TAIL_BYTES, max(0, size - TAIL_BYTES))
    finally:
        os.close(descriptor)
    step, metrics = None, {}
    for line in content.split(b"\n")[0 if size <= TAIL_BYTES else 1 : -1]:  # whole ones
        try:
            event = json.loads(line)
            step = int(event["step"])
            if event["event"] == "evaluation" and event["split"] == "validation":
                metrics = {name: value for name, value in event.items() if name not in ("event", "step", "split")}
        except (ValueError, KeyError, TypeError):
            continue  # `dongu verify` says what is wrong with a log
    return step, metrics


def _rank(run: ListedRun, metric: str | None) -> tuple[Any, ...]:
    """Runs without a value behind those that have one, damaged ones last; the least loss or error is the best."""
    name = metric or run.metric
    value = run.value("validation", name)
    best = 0.0 if value is None else value if name in LOWER_IS_BETTER else -value
    return run.state == "damaged", name, value is None, best, str(run.path)


def listing_lines(listing: Listing, metric: str | None = None, width: int | None = None) -> Iterator[str]:
    """The list for a person: a run a line; what does not fit into a `width` goes below, beside the runs again."""
    if not listing.runs:
        yield f"there is no run below {listing.folder}"
        return
    options = [name.replace("_", "-") for name in listing.differs]
    rows = [["run", *COMPARED_SPLITS[::-1], "metric", "state", "step", *options]]
    for run in listing.runs:
        name = metric or run.metric
        values = [_cell(run.splits.get(split, {}).get(name)) for split in COMPARED_SPLITS[::-1]]
        options = ["" if run.problem else option_shown(run.options.get(option)) for option in listing.differs]
        step = "" if run.step is None else f"{run.step:,}"
        rows.append([str(run.path), *values, metric_name(name), run.state, step, *options])
    blocks = [[0]]  # columns that fit beside each other, the runs first in each
    widths = [max(map(len, column)) + len("  ") for column in zip(*rows, strict=True)]
    for column in range(1, len(widths)):
        together = sum(widths[each] for each in [*blocks[-1], column]) - len("  ")
        if width is not None and together > width and len(blocks[-1]) > 1:
            blocks.append([0])
        blocks[-1].append(column)
    for number, block in enumerate(blocks):
        yield from [""] * (number > 0)
        yield from aligned([[row[column] for column in block] for row in rows])
    for run in listing.runs:
        if run.problem:
            yield f"{run.path}: {run.problem}"


def _cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "-"
    return with_interval(entry) if "low" in entry else decimals(entry.get("value"))


def listing_json(listing: Listing) -> dict[str, Any]:
    """The same for a machine; of the options those that differ."""
    runs: Sequence[dict[str, Any]] = [
        {
            "path": str(run.path),
            "state": run.state,
            "problem": run.problem or None,
            "metric": run.metric or None,
            "step": run.step,
            **{split: run.splits.get(split) for split in COMPARED_SPLITS[::-1]},
            "options": {name: run.options.get(name) for name in listing.differs if not run.problem},
        }
        for run in listing.runs
    ]
    return {"folder": str(listing.folder), "differs": listing.differs, "runs": runs}
