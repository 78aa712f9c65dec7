"""What is compared: finished runs, or recipes, which `--seeds` trained with several seeds; read, and held together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dongu.config import NUMBERS, RunConfig, option_flag
from dongu.errors import InputError, UsageError
from dongu.judge.answers import Evaluation
from dongu.judge.metrics import NAMED
from dongu.judge.words import splits_of
from dongu.run.folder import RunFolder
from dongu.run.predictions import RESTORE, read_answers
from dongu.run.several import SEEDS
from dongu.text import typed

PLACES = ("data", "out")  # options that say where things lie, and nothing of what they are
HOLDING_OUT = (  # options that decide which rows of one file are validation and test
    "seed", "validation", "test", "group_column", "time_column", "fold", "split_file", "unlabelled", "empty",
    "bad_rows", "label_column",
)  # fmt: skip
COMPARED_SPLITS = ("test", "validation")  # the first that all runs have metrics of is compared


@dataclass(frozen=True)
class FinishedRun:
    """A run as it is compared."""

    path: Path
    record: dict[str, Any]  # run.json
    results: dict[str, Any]  # results.json
    computed: Evaluation | None = None  # what a model answered that is compared as a run is, on the one split compared

    @property
    def splits(self) -> list[str]:
        """Those with metrics."""
        return [*splits_of(self.results)]

    def fingerprint(self, split: str) -> Any:
        """The digest of the split's texts, truth and row numbers, as `told_by` gives it.

        Raises:
            InputError: run.json has none.
        """
        try:
            known = self.record["data"][split]
            return known.get("compared", known["texts"])
        except (KeyError, TypeError) as error:
            what, hint = f"has no digest of {split}", "a run of this version has one: train it again"
            raise InputError(what, where=str(RunFolder(self.path).record), hint=hint) from error

    def answers(self, split: str) -> Evaluation:
        """What the run answered; `read_answers` says what it refuses."""
        if self.computed is not None:
            return self.computed
        return read_answers(RunFolder(self.path), split, self.record, self.results)


@dataclass(frozen=True)
class Side:
    """A finished run, or those of a recipe by their `seeds`, which are None for a run."""

    path: Path
    runs: tuple[FinishedRun, ...]
    seeds: tuple[int, ...] | None = None

    def values(self, split: str, name: str) -> np.ndarray:
        """A metric of each run, (runs,); NaN where it is undefined."""
        found = [run.results[split][name]["value"] for run in self.runs]
        return np.array([math.nan if value is None else value for value in found])


def holds_seeds(path: Path) -> bool:
    """Whether a folder is one that `--seeds` wrote."""
    return (path / SEEDS).exists() and not RunFolder(path).record.exists()


def read_recipe(path: Path) -> Side:
    """
    Raises:
        InputError: the folder names no seeds, has fewer than two finished runs, or one of them is damaged.
    """
    seeds = RunFolder(path).read_json(SEEDS).get("seeds")
    if not (isinstance(seeds, list) and all(isinstance(seed, int) for seed in seeds)):
        raise InputError("names no seeds", where=str(path / SEEDS), hint="the command that trained them repairs it")
    if len(seeds) < 2:
        hint = "train more of them: the same command with a larger --seeds"
        raise UsageError("has fewer than two finished runs, which have no spread", where=str(path), hint=hint)
    runs = tuple(run for seed in sorted(seeds) for run in read_run(path / f"seed-{seed}").runs)
    return Side(path, runs, tuple(sorted(seeds)))


def read_run(path: Path) -> Side:
    """
    Raises:
        InputError: the folder is no run, the run has not ended, or its results are damaged.
    """
    folder = RunFolder(path)
    record = folder.read_record()
    if not folder.is_finished:
        raise UsageError("the run has not ended", where=str(path), hint=f"continue it: dongu resume {typed(path)}")
    folder.check_written("predictions/")
    run = FinishedRun(path, record, folder.read_results())
    for split in run.splits:
        for name, entry in run.results[split].items():
            numbers = [entry.get(key) for key in ("value", "low", "high")] if isinstance(entry, Mapping) else [""]
            if not all(number is None or type(number) in (int, float) for number in numbers):
                what = f"is damaged: it holds no interval of {name} on {split}"
                raise InputError(what, where=str(folder.results), hint=RESTORE)
    return Side(path, (run,))


def refuse_other_tasks(runs: Sequence[FinishedRun]) -> None:
    """Raise `UsageError` if the runs have not all the task and the labels of the first."""
    first, *others = runs
    for other in others:
        was, now = (run.record["options"]["task"] for run in (first, other))
        if was != now:
            raise UsageError(f"its task is {now}, and that of {first.path} is {was}", where=str(other.path))
        names, others_names = (run.record["label_names"] for run in (first, other))
        if was not in NUMBERS and names != others_names:
            shown = " and not ".join(", ".join(labels[:5]) for labels in (others_names, names))
            raise UsageError(f"has other labels than {first.path}: {shown}", where=str(other.path))


def choose_split(runs: Sequence[FinishedRun], asked: str | None) -> str:
    """The split that is compared.

    Raises:
        InputError: not all runs have metrics of it.
    """
    shared = [name for name in runs[0].splits if all(name in run.splits for run in runs)]
    if asked is None:
        if found := [name for name in COMPARED_SPLITS if name in shared]:
            return found[0]
        raise InputError("have no split in common that has labels", where=" and ".join(str(run.path) for run in runs))
    for run in runs:
        if asked not in run.splits:
            hint = f"it has those of {', '.join(run.splits) or 'nothing'}"
            raise UsageError(f"has no metrics of {asked}", where=str(run.path), hint=hint)
    return asked


def share_rows(sides: Sequence[Side], split: str) -> bool:
    """Whether all runs have the same rows of a split. If not, each seed has rows of its own, the same on all sides.

    Raises:
        UsageError: the sides have neither.
    """
    if len({run.fingerprint(split) for side in sides for run in side.runs}) == 1:
        return True
    first, *others = sides
    if len({run.fingerprint(split) for run in first.runs}) == 1:
        _refuse_other_rows([first.runs[0], *(run for other in others for run in other.runs)], split)
    for other in others:
        if other.seeds != first.seeds:
            what = f"each seed has {split} rows of its own, and the seeds are not those of {first.path}"
            hint = "train both with the same seeds, or compare on --split test"
            raise UsageError(what, where=str(other.path), hint=hint)
        for pair in zip(first.runs, other.runs, strict=True):
            _refuse_other_rows(pair, split)
    return False


def _refuse_other_rows(runs: Sequence[FinishedRun], split: str) -> None:
    first, *others = runs
    for other in others:
        if other.fingerprint(split) == first.fingerprint(split):
            continue
        before, after = (run.record["options"] for run in (first, other))
        place = after.get("data")
        was, now = (
            f"{run.record['options'].get('data') or 'rows in memory'}, {run.record['data'][split]['rows']:,} rows"
            for run in (first, other)
        )
        what = f"its {split} ({now}) is not that of {first.path} ({was})"
        hint = "only answers to the same rows can be compared: train both on the same DATA"
        columns, now_read = (", ".join(each["text_columns"]) for each in (before, after))
        held = [name for name in HOLDING_OUT if before.get(name) != after.get(name)]
        if columns != now_read:
            hint = f"rows are identified by their texts: it reads {now_read}, and {first.path} {columns}"
        elif place and place == before.get("data") and held:
            shown = (f"{option_flag(n)} is {_set(after.get(n))}, and {_set(before.get(n))} there" for n in held)
            what = f"its {split} has other rows of {place} than that of {first.path}: {'; '.join(shown)}"
            hint = f"give both the same {' and '.join(map(option_flag, held))}: dongu train … --out OTHER"
            if "seed" in held:
                hint += "; or train each with --seeds N, and compare the two folders"
        elif place and place == before.get("data"):
            what = f"its {split} has other rows than that of {first.path}: {place} has changed since"
            hint = "train the older one again, on the rows that are there now"
        raise UsageError(what, where=str(other.path), hint=hint)


def _set(value: Any) -> str:
    return "not set" if value is None else str(value)


def shared_metrics(runs: Sequence[FinishedRun], split: str) -> tuple[str, ...]:
    """The main metric of the first run, and all that the runs share, that one first; a run may have one more.

    Metrics of the user's own are left out: their functions are not here.
    """
    asked = runs[0].results.get("metric")
    known = [name for name in ("loss", *runs[0].record["metrics"]) if name in NAMED]
    shared = [name for name in known if all(name in run.results[split] for run in runs)]
    main = next((name for name in shared if name == asked), shared[-1])
    return (main, *(name for name in shared if name != main))


def asked_first(names: Iterable[str], records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of options, those that somebody gave in a run before those that were derived in all."""
    given = {name for record in records for name in record.get("given", ())}
    return sorted(names, key=lambda name: name not in given)


def differing(runs: Sequence[FinishedRun]) -> dict[str, list[Any]]:
    """Options, train rows, versions and hardware that are not the same for all, a value a run."""
    options = [run.record["options"] for run in runs]
    names = asked_first((name for name in RunConfig.model_fields if name not in PLACES), [run.record for run in runs])
    columns = {name.replace("_", "-"): [option.get(name) for option in options] for name in names}
    train = [(str(run.fingerprint("train"))[:8], run.record["data"]["train"].get("rows")) for run in runs]
    columns["train"] = [f"{rows} rows, sha256 {digest}" for digest, rows in train]
    for key in ("versions", "hardware"):
        parts = [run.record.get(key, {}) for run in runs]
        columns |= {name: [part.get(name) for part in parts] for name in dict.fromkeys(n for p in parts for n in p)}
    columns["processes"] = [run.record.get("processes") for run in runs]
    return {name: values for name, values in columns.items() if any(value != values[0] for value in values)}
