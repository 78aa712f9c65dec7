"""Finished runs side by side on the same rows: what differs, and whether so many rows can show who is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from dongu.config import RunConfig, make_config
from dongu.data.examples import digest_of, read_examples
from dongu.data.sources import read_source
from dongu.errors import InputError, UsageError
from dongu.judge.answers import Evaluation
from dongu.judge.metrics import NAMED
from dongu.judge.paired import Difference, holm, paired_differences
from dongu.run.folder import RunFolder
from dongu.run.predictions import RESTORE, label_of, read_answers
from dongu.text import excerpt

SEEDS = "seeds.json"  # what the folder of several seeds has in place of a run.json
PLACES = ("data", "out")  # options that say where things lie, and nothing of what they are
SEED = 0  # of all draws: the same runs give the same numbers
EXAMPLES = 3  # rows that are shown of each kind
SPLITS = ("test", "validation")  # the first that all runs have metrics of is compared


@dataclass(frozen=True)
class FinishedRun:
    """A run as it is compared."""

    path: Path
    record: dict[str, Any]  # run.json
    results: dict[str, Any]  # results.json

    @property
    def splits(self) -> list[str]:
        """Those with metrics."""
        return [name for name, entry in self.results.items() if isinstance(entry, Mapping)]

    def fingerprint(self, split: str) -> Any:
        """The digest of the split's texts, truth and row numbers.

        Raises:
            InputError: run.json has none.
        """
        try:
            return self.record["data"][split]["texts"]
        except (KeyError, TypeError) as error:
            what, hint = f"has no digest of {split}", "a run of this version has one: train it again"
            raise InputError(what, where=str(self.path / "run.json"), hint=hint) from error


@dataclass(frozen=True)
class Example:
    """A row that two runs answer differently: its number, its truth, the two answers, the beginning of its texts."""

    id: int
    label: Any
    answers: tuple[Any, Any]
    texts: tuple[str, ...]  # none where the data are gone


@dataclass(frozen=True)
class Pair:
    """A run beside the first one.

    `tally` counts the rows by who has them right (numbers: by who is nearer); `examples` are the rows of the two most
    telling kinds on which the losses are furthest apart; `p` has the p values, corrected for the number of pairs.
    """

    differences: dict[str, Difference]
    p: dict[str, float]
    tally: dict[str, int]
    examples: dict[str, list[Example]]


@dataclass(frozen=True)
class Comparison:
    """Runs on the same rows of a split. `differs` has a value a run of each thing that is not the same for all."""

    split: str
    rows: int
    runs: tuple[FinishedRun, ...]
    main: str  # the metric that chose the first run's best model
    names: tuple[str, ...]  # metrics that all have, the main one first
    differs: dict[str, list[Any]]
    pairs: tuple[Pair, ...]  # of each run but the first
    no_texts: str  # why the examples have no text; empty where they have


def compare(paths: Sequence[Path], split: str | None = None) -> Comparison:
    """Read and compare finished runs, each with the first.

    Args:
        paths: run folders, two or more.
        split: which rows; by default test where all runs have metrics of it, else validation.

    Raises:
        InputError: fewer than two runs, one twice, one that has not ended or is damaged, or runs whose rows, tasks or
            labels differ.
    """
    if len(paths) < 2:
        raise UsageError("one run alone cannot be compared", where="dongu compare", hint="dongu compare RUN RUN")
    for one, two in combinations(paths, 2):
        if one.resolve() == two.resolve():
            raise UsageError("is given twice", where=str(two), hint="give two different runs")
    runs = tuple(read_run(path) for path in paths)
    refuse_other_tasks(runs)
    split = choose_split(runs, split)
    refuse_other_rows(runs, split)
    answers = [read_answers(RunFolder(run.path), split, run.record, run.results) for run in runs]
    first, *others = answers
    for run, answer in zip(runs, answers, strict=True):
        if not (
            np.array_equal(first.ids, answer.ids)
            and np.array_equal(np.asarray(first.targets), np.asarray(answer.targets))
        ):
            where = str(run.path / "predictions" / f"{split}.jsonl")
            raise InputError(f"has other rows or labels than that of {runs[0].path}", where=where)
    names, labels = shared_metrics(runs, split), runs[0].record["label_names"]
    differences = [paired_differences(first, other, names, SEED) for other in others]
    corrected = {name: holm([found[name].p for found in differences]) for name in names}
    kinds = [_kinds(first, other) for other in others]
    chosen = [_most_telling(first, other, kind) for other, kind in zip(others, kinds, strict=True)]
    texts, no_texts = _texts(runs, split, {row for rows in chosen for part in rows.values() for row in part})
    pairs = tuple(
        Pair(
            differences[i],
            {name: corrected[name][i] for name in names},
            {kind: int(mask.sum()) for kind, mask in kinds[i].items()},
            {kind: [_example(first, other, row, labels, texts) for row in rows] for kind, rows in chosen[i].items()},
        )
        for i, other in enumerate(others)
    )
    return Comparison(split, len(first), runs, names[0], names, differing(runs), pairs, no_texts)


def read_run(path: Path) -> FinishedRun:
    """
    Raises:
        InputError: the folder is no run, the run has not ended, or its results are damaged.
    """
    folder = RunFolder(path)
    if (path / SEEDS).exists() and not (path / "run.json").exists():
        inside = sorted(str(run.parent) for run in path.glob("seed-*/results.json"))
        hint = f"give one of them: {', '.join(inside) or 'none'}; or compare it with another folder of --seeds"
        raise UsageError("holds a run a seed", where=str(path), hint=hint)
    record = folder.read_record()
    if not (path / "results.json").exists():
        raise UsageError("the run has not ended", where=str(path), hint=f"go on with it: dongu resume {path}")
    folder.check_written("predictions/")
    run = FinishedRun(path, record, folder.read_results())
    for split in run.splits:
        for name, entry in run.results[split].items():
            if not (isinstance(entry, Mapping) and all(_is_number(entry.get(key)) for key in ("value", "low", "high"))):
                what = f"is damaged: it holds no interval of {name} on {split}"
                raise InputError(what, where=str(path / "results.json"), hint=RESTORE)
    return run


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def refuse_other_tasks(runs: Sequence[FinishedRun]) -> None:
    """
    Raises:
        UsageError: the runs have not all the task and the labels of the first.
    """
    first, *others = runs
    for other in others:
        was, now = (run.record["options"]["task"] for run in (first, other))
        if was != now:
            raise UsageError(f"is a {now} task, and {first.path} a {was} one", where=str(other.path))
        names, others_names = (run.record["label_names"] for run in (first, other))
        if was != "regression" and names != others_names:
            shown = " and not ".join(", ".join(labels[:5]) for labels in (others_names, names))
            raise UsageError(f"has other labels than {first.path}: {shown}", where=str(other.path))


def choose_split(runs: Sequence[FinishedRun], asked: str | None) -> str:
    """The split that is compared.

    Raises:
        InputError: not all runs have metrics of it.
    """
    shared = [name for name in runs[0].splits if all(name in run.splits for run in runs)]
    if asked is None:
        if found := [name for name in SPLITS if name in shared]:
            return found[0]
        raise InputError("have no split in common that has labels", where=" and ".join(str(run.path) for run in runs))
    for run in runs:
        if asked not in run.splits:
            hint = f"it has those of {', '.join(run.splits) or 'nothing'}"
            raise UsageError(f"has no metrics of {asked}", where=str(run.path), hint=hint)
    return asked


def refuse_other_rows(runs: Sequence[FinishedRun], split: str) -> None:
    """
    Raises:
        UsageError: the runs have not all the rows of the first.
    """
    first, *others = runs
    for other in others:
        if other.fingerprint(split) == first.fingerprint(split):
            continue
        was, now = (
            f"{run.record['options'].get('data') or 'rows in memory'}, {run.record['data'][split]['rows']:,} rows"
            for run in (first, other)
        )
        hint = "only answers to the same rows can be compared: train both on the same DATA"
        if split == "validation" and was == now:
            hint += "; where it has no validation part, each --seed holds out rows of its own"
        raise UsageError(f"its {split} ({now}) is not that of {first.path} ({was})", where=str(other.path), hint=hint)


def shared_metrics(runs: Sequence[FinishedRun], split: str) -> tuple[str, ...]:
    """The main metric of the first run, and all that the runs share, that one first; a run may have one more.

    Metrics of the user's own are left out: their functions are not here.
    """
    asked = runs[0].results.get("metric")
    known = [name for name in ("loss", *runs[0].record["metrics"]) if name in NAMED]
    shared = [name for name in known if all(name in run.results[split] for run in runs)]
    main = next((name for name in shared if name == asked), shared[-1])
    return (main, *(name for name in shared if name != main))


def differing(runs: Sequence[FinishedRun]) -> dict[str, list[Any]]:
    """Options, train rows, versions and hardware that are not the same for all, a value a run."""
    options = [run.record["options"] for run in runs]
    names = [name for name in RunConfig.model_fields if name not in PLACES]
    columns = {name.replace("_", "-"): [option.get(name) for option in options] for name in names}
    train = [(str(run.fingerprint("train"))[:8], run.record["data"]["train"].get("rows")) for run in runs]
    columns["train"] = [f"{rows} rows, sha256 {digest}" for digest, rows in train]
    for key in ("versions", "hardware"):
        parts = [run.record.get(key, {}) for run in runs]
        columns |= {name: [part.get(name) for part in parts] for name in dict.fromkeys(n for p in parts for n in p)}
    columns["processes"] = [run.record.get("processes") for run in runs]
    return {name: values for name, values in columns.items() if any(value != values[0] for value in values)}


def _kinds(first: Evaluation, second: Evaluation) -> dict[str, np.ndarray]:
    """The rows of each kind, (rows,), by who has them right."""
    if first.task == "regression":
        nearer = _losses_apart(first, second)
        return {"first_nearer": nearer < 0, "second_nearer": nearer > 0, "as_near": nearer == 0}
    return {
        "only_first": first.right & ~second.right,
        "only_second": second.right & ~first.right,
        "both": first.right & second.right,
        "neither": ~first.right & ~second.right,
    }


def _losses_apart(first: Evaluation, second: Evaluation) -> np.ndarray:
    apart: np.ndarray = np.asarray(first.losses) - np.asarray(second.losses)
    return apart


def _most_telling(first: Evaluation, second: Evaluation, kinds: Mapping[str, np.ndarray]) -> dict[str, list[int]]:
    """Of the kinds that tell the runs apart, the rows on which their losses are furthest apart."""
    order = np.argsort(-np.abs(_losses_apart(first, second)), kind="stable")
    return {
        kind: order[mask[order]][:EXAMPLES].tolist()
        for kind, mask in kinds.items()
        if "_" in kind and kind != "as_near"
    }


def _texts(runs: Sequence[FinishedRun], split: str, rows: set[int]) -> tuple[dict[int, tuple[str, ...]], str]:
    """The beginning of some rows' texts, from the data of the first run; or why there are none."""
    if not rows:
        return {}, ""
    options = runs[0].record["options"]
    if options.get("data") is None:
        return {}, "the data were in memory"
    try:
        config = make_config(options)
        data = read_examples(read_source(config.data), config).in_order_of(runs[0].record["label_names"])
        examples = data.splits.get(split)
    except InputError as error:
        return {}, " ".join(str(error).splitlines())
    if examples is None or digest_of(examples) != runs[0].fingerprint(split):
        return {}, f"{config.data} holds other rows now"
    return {row: tuple(excerpt(column[row]) for column in examples.texts) for row in rows}, ""


def _example(
    first: Evaluation, second: Evaluation, row: int, names: Sequence[str], texts: Mapping[int, tuple[str, ...]]
) -> Example:
    cells = (np.asarray(first.targets)[row], first.predictions[row], second.predictions[row])
    label, *given = (label_of(cell, first.task, names) for cell in cells)
    return Example(int(first.ids[row]), label, (given[0], given[1]), texts.get(row, ()))
