"""Runs, or recipes of several seeds, each beside the first: how far apart they are, and whether that is shown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from dongu.comparison.sides import (
    FinishedRun,
    Side,
    choose_split,
    differing,
    holds_seeds,
    read_recipe,
    read_run,
    refuse_other_tasks,
    share_rows,
    shared_metrics,
)
from dongu.config import NUMBERS, make_config
from dongu.data.examples import read_examples, told_by
from dongu.data.sources import read_source
from dongu.errors import InputError, UsageError
from dongu.judge.answers import Evaluation
from dongu.judge.classes import NORMAL_95
from dongu.judge.metrics import influence
from dongu.judge.paired import SPANS, MetricDifference, holm, paired_differences
from dongu.judge.resample import student
from dongu.run.predictions import label_of
from dongu.text import Readable, excerpt
from dongu.use.saved import run_of

SEED = 0  # of all draws: the same runs give the same numbers
EXAMPLES_SHOWN = 3  # rows that are shown of each kind


@dataclass(frozen=True)
class RowExample:
    """A row that two runs answer differently: its number, its truth, the two answers, the beginning of its texts."""

    id: int
    label: Any
    answers: tuple[Any, Any]
    texts: tuple[str, ...]  # none where the data are gone


@dataclass(frozen=True)
class Pair:
    """A run beside the first one, or a recipe.

    `p` has the p values of two runs, corrected for the number of pairs; `tally` counts their rows by who has them right
    (numbers: by who is nearer); `examples` are the rows of the two most telling kinds on which the losses are furthest
    apart.
    """

    differences: dict[str, MetricDifference]
    p: dict[str, float] = field(default_factory=dict)
    tally: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[RowExample]] = field(default_factory=dict)

    @property
    def is_none(self) -> bool:
        """Whether nothing is apart: each row has the same loss in both."""
        loss = self.differences.get("loss")
        return loss is not None and loss.low == loss.value == loss.high == 0


@dataclass(frozen=True, repr=False)
class Comparison(Readable):
    """Runs or recipes on one split; it prints as `dongu compare` does.

    `differs` has a value a side of each thing that is not the same for all.
    `rows` is None where each seed has rows of its own.
    """

    split: str
    rows: int | None
    sides: tuple[Side, ...]
    names: tuple[str, ...]  # metrics that all have, the main one first
    differs: dict[str, list[Any]]
    pairs: tuple[Pair, ...]  # of each side but the first
    no_texts: str = ""  # why the examples have no text; empty where they have

    def lines(self) -> Iterator[str]:
        from dongu.comparison.words import comparison_lines

        return comparison_lines(self)

    @property
    def of_seeds(self) -> bool:
        """Whether these are recipes."""
        return self.sides[0].seeds is not None


def compare_folders(paths: Sequence[Path], split: str | None = None) -> Comparison:
    """Read and compare finished runs, or recipes, each with the first.

    Args:
        paths: run folders, and classifiers by their names; or folders that `--seeds` wrote; two or more.
        split: which rows; by default test where all runs have metrics of it, else validation.

    Raises:
        InputError: fewer than two folders, one twice, one that has not ended or is damaged, or runs whose rows, tasks
            or labels differ.
    """
    if len(paths) < 2:
        raise UsageError("one run alone cannot be compared", where="dongu compare", hint="dongu compare RUN RUN")
    for one, two in combinations(paths, 2):
        if one.resolve() == two.resolve():
            raise UsageError("is given twice", where=str(two), hint="give different runs, or folders of --seeds")
    sides = _read_sides(paths, split)
    runs = [run for side in sides for run in side.runs]
    refuse_other_tasks(runs)
    split = choose_split(runs, split)
    alike = share_rows(sides, split)
    names = shared_metrics(runs, split)
    answers = [[run.answers(split) for run in side.runs] for side in sides]
    first = answers[0][0]
    for run, answer in zip(runs, (answer for side in answers for answer in side), strict=True):
        here, there = (np.asarray(each.targets) for each in (first, answer))
        if alike and not (np.array_equal(first.ids, answer.ids) and np.array_equal(here, there)):
            where = str(run.path / "predictions" / f"{split}.jsonl")
            raise InputError(f"has other rows or labels than that of {runs[0].path}", where=where)
    no_texts = ""
    if sides[0].seeds is None:
        pairs, no_texts = _run_pairs(runs, [side[0] for side in answers], split, names)
    else:
        moved = [{n: np.array([influence(run, n) for run in side]) for n in names if alike} for side in answers]
        pairs = [
            Pair(
                {
                    n: seed_difference(sides[0], other, split, n, (moved[0][n], found[n]) if alike else None)
                    for n in names
                }
            )
            for other, found in zip(sides[1:], moved[1:], strict=True)
        ]
    rows, differs = len(first) if alike else None, differing([side.runs[0] for side in sides])
    return Comparison(split, rows, sides, names, differs, tuple(pairs), no_texts)


def _read_sides(paths: Sequence[Path], split: str | None) -> tuple[Side, ...]:
    if all(map(holds_seeds, paths)):
        return tuple(map(read_recipe, paths))
    folders = [run_of(path) for path in paths]
    known = [None if folder is None else read_run(folder) for folder in folders]
    runs = [run for side in known if side is not None for run in side.runs]
    if not runs:
        hint = "give a run among them, to whose rows the others answer; or: dongu evaluate MODEL DATA"
        raise UsageError("none of them is a run", where="dongu compare", hint=hint)
    if len(runs) == len(known):
        return tuple(side for side in known if side is not None)
    from dongu.comparison.models import answer_rows_of

    chosen = choose_split(runs, split)
    return tuple(
        answer_rows_of(runs[0], path, chosen) if side is None else side for path, side in zip(paths, known, strict=True)
    )


def _run_pairs(
    runs: Sequence[FinishedRun], answers: Sequence[Evaluation], split: str, names: Sequence[str]
) -> tuple[list[Pair], str]:
    """Each run but the first beside it, and why there are no texts."""
    first, *others = answers
    differences = [paired_differences(first, other, names, SEED) for other in others]
    corrected = {name: holm([found[name].p for found in differences]) for name in names}
    kinds = [_kinds(first, other) for other in others]
    chosen = [_most_telling(first, other, kind) for other, kind in zip(others, kinds, strict=True)]
    texts, no_texts = _texts(runs, split, {row for rows in chosen for part in rows.values() for row in part})
    labels = runs[0].record["label_names"]
    pairs = [
        Pair(
            differences[i],
            {name: corrected[name][i] for name in names},
            {kind: int(mask.sum()) for kind, mask in kinds[i].items()},
            {kind: [_example(first, other, row, labels, texts) for row in rows] for kind, rows in chosen[i].items()},
        )
        for i, other in enumerate(others)
    ]
    return pairs, no_texts


def seed_difference(
    first: Side, second: Side, split: str, name: str, by_rows: tuple[np.ndarray, np.ndarray] | None
) -> MetricDifference:
    """How far the mean of the second recipe's runs is above that of the first's, for other seeds and other rows.

    Its interval has two parts. That of other seeds is Student's t over the differences of the seeds, or Welch's over
    the seeds of each, where they are not the same. That of other rows is what rows (their `influence` in each run,
    (seeds, rows) a recipe, is `by_rows`) change in all seeds alike: what they change in each seed otherwise is in the
    spread over the seeds. Where each seed holds out rows of its own, that spread has all of both in it.
    """
    one, two = (recipe.values(split, name) for recipe in (first, second))
    value, paired = float(two.mean() - one.mean()), first.seeds == second.seeds
    if paired:
        freedom, error = len(one) - 1.0, float((two - one).std(ddof=1)) / math.sqrt(len(one))
    else:
        parts = [values.var(ddof=1) / len(values) for values in (one, two)]
        error = math.sqrt(sum(parts))
        below = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (one, two), strict=True))
        freedom = sum(parts) ** 2 / below if below else float(len(one) + len(two) - 2)
    reach = student(freedom) * error
    if by_rows is not None:
        reach = math.hypot(reach, NORMAL_95 * _error_of_rows(*by_rows, paired))
    by_seed = dict(zip(first.seeds or (), (two - one).tolist(), strict=True)) if paired else None
    found = MetricDifference(value, value - reach, value + reach, by_seed=by_seed)
    return found.within(SPANS.get(name, math.inf))


def _error_of_rows(first: np.ndarray, second: np.ndarray, paired: bool) -> float:
    """The standard error that other rows give the difference of two means beyond what is seen between the seeds.

    `first` and `second` (seeds, rows) are how far each row moves a metric. As in an analysis of variance of rows and
    seeds, what rows do otherwise in each seed is taken out of what they do on the mean.
    """
    rows = first.shape[1]
    on_mean = (second.mean(0) - first.mean(0)).var(ddof=1) / rows
    sides = [second - first] if paired else [first, second]
    in_each = sum(float(side.var(0, ddof=1).mean()) / len(side) / rows for side in sides)
    return math.sqrt(max(0.0, float(on_mean) - in_each))


def _kinds(first: Evaluation, second: Evaluation) -> dict[str, np.ndarray]:
    """The rows of each kind, (rows,), by who has them right."""
    if first.task in NUMBERS:
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
        kind: order[mask[order]][:EXAMPLES_SHOWN].tolist()
        for kind, mask in kinds.items()
        if "_" in kind and kind != "as_near"
    }


def _texts(runs: Sequence[FinishedRun], split: str, rows: set[int]) -> tuple[dict[int, tuple[str, ...]], str]:
    """The beginning of some rows' texts, from the data of the first run that has them; or why there are none."""
    if not rows:
        return {}, ""
    reasons = []
    for run in runs:
        texts, why = _texts_of(run, split, rows)
        if texts:
            return texts, ""
        reasons.append(why)
    return {}, reasons[0]


def _texts_of(run: FinishedRun, split: str, rows: set[int]) -> tuple[dict[int, tuple[str, ...]], str]:
    options = run.record["options"]
    if options.get("data") is None:
        return {}, "the data were in memory"
    try:
        config = make_config(options)
        data = read_examples(read_source(config.data, config), config).in_order_of(run.record["label_names"])
        examples = data.splits.get(split)
    except InputError as error:
        return {}, " ".join(str(error).splitlines())
    if not data.has_texts:
        return {}, f"{config.data} has no texts"
    if examples is None or told_by(examples) != run.fingerprint(split):
        return {}, f"{config.data} holds other rows now"
    return {row: tuple(excerpt(column[row]) for column in examples.texts) for row in rows}, ""


def _example(
    first: Evaluation, second: Evaluation, row: int, names: Sequence[str], texts: Mapping[int, tuple[str, ...]]
) -> RowExample:
    cells = (np.asarray(first.targets)[row], first.predictions[row], second.predictions[row])
    label, *given = (label_of(cell, first.task, names) for cell in cells)
    return RowExample(int(first.ids[row]), label, (given[0], given[1]), texts.get(row, ()))
