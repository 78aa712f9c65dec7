"""Recipes side by side, each trained with several seeds: is one better, or were its seeds luckier?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dongu.compare.runs import (
    SEED,
    SEEDS,
    FinishedRun,
    choose_split,
    differing,
    read_run,
    refuse_other_rows,
    refuse_other_tasks,
    shared_metrics,
)
from dongu.errors import InputError, UsageError
from dongu.judge.answers import Evaluation
from dongu.judge.intervals import held_cells
from dongu.judge.metrics import statistic
from dongu.judge.resample import TAIL, middle, resampled
from dongu.run.folder import RunFolder
from dongu.run.predictions import read_answers


@dataclass(frozen=True)
class Recipe:
    """The finished runs of a folder that `--seeds` wrote, by their seeds."""

    path: Path
    runs: dict[int, FinishedRun]

    def values(self, split: str, name: str) -> np.ndarray:
        """A metric of each run, (seeds,); NaN where it is undefined."""
        found = [run.results[split][name]["value"] for run in self.runs.values()]
        return np.array([math.nan if value is None else value for value in found])


@dataclass(frozen=True)
class SeedDifference:
    """How far the mean over the seeds of a recipe is above that of the first one, with its 95% interval.

    `by_seed` has the difference of each seed where both recipes have the same ones.
    """

    value: float
    low: float
    high: float
    by_seed: dict[int, float] | None

    @property
    def shown(self) -> bool:
        """Whether so many seeds and rows show it."""
        return not (math.isnan(self.value) or self.low <= 0 <= self.high)


@dataclass(frozen=True)
class RecipeComparison:
    """Recipes on one split: each but the first beside the first. `rows` is None where each seed has rows of its own."""

    split: str
    rows: int | None
    recipes: tuple[Recipe, ...]
    names: tuple[str, ...]  # metrics that all have, the main one first
    differs: dict[str, list[Any]]
    pairs: tuple[dict[str, SeedDifference], ...]


def compare_recipes(paths: Sequence[Path], split: str | None = None) -> RecipeComparison:
    """Read and compare folders of several seeds, each with the first.

    Two things make a difference of means uncertain, and its interval has both: other seeds (Student's t over the
    differences of the seeds, or Welch's over the seeds of each, where they are not the same), and other rows (a
    bootstrap in which all runs are judged on the same draw). Where each seed holds out rows of its own, the spread over
    the seeds has both in it.

    Raises:
        InputError: a folder has fewer than two finished runs, or the runs' rows, tasks or labels differ.
    """
    if len(paths) < 2 or len({path.resolve() for path in paths}) < len(paths):
        raise UsageError("a recipe is compared with another one", where="dongu compare", hint="give two folders")
    recipes = tuple(map(_read, paths))
    runs = [run for recipe in recipes for run in recipe.runs.values()]
    refuse_other_tasks(runs)
    split = choose_split(runs, split)
    alike = len({run.fingerprint(split) for run in runs}) == 1
    first, *others = recipes
    if not alike:
        for other in others:
            _refuse_other_held_out(first, other, split)
    names = shared_metrics(runs, split)
    answers = {id(run): read_answers(RunFolder(run.path), split, run.record, run.results) for run in runs}
    pairs = []
    for other in others:
        by_rows = {}
        if alike:
            sides = [[answers[id(run)] for run in recipe.runs.values()] for recipe in (first, other)]
            by_rows = _by_rows(sides[0], sides[1], names)
        pairs.append({name: seed_difference(first, other, split, name, by_rows.get(name)) for name in names})
    rows = len(answers[id(runs[0])]) if alike else None
    return RecipeComparison(
        split, rows, recipes, names, differing([_first(recipe) for recipe in recipes]), tuple(pairs)
    )


def holds_seeds(path: Path) -> bool:
    """Whether a folder is one that `--seeds` wrote."""
    return (path / SEEDS).exists() and not (path / "run.json").exists()


def _read(path: Path) -> Recipe:
    if not holds_seeds(path):
        what = "is no folder of several seeds, as the others are"
        raise UsageError(what, where=str(path), hint="compare runs with runs, or folders of --seeds with their like")
    seeds = RunFolder(path).read_json(SEEDS).get("seeds")
    if not (isinstance(seeds, list) and all(isinstance(seed, int) for seed in seeds)):
        raise InputError("names no seeds", where=str(path / SEEDS), hint="the command that trained them mends it")
    if len(seeds) < 2:
        hint = "train more of them: the same command with a larger --seeds"
        raise UsageError("has fewer than two finished runs, which have no spread", where=str(path), hint=hint)
    return Recipe(path, {seed: read_run(path / f"seed-{seed}") for seed in sorted(seeds)})


def _first(recipe: Recipe) -> FinishedRun:
    return next(iter(recipe.runs.values()))


def _refuse_other_held_out(first: Recipe, other: Recipe, split: str) -> None:
    """
    Raises:
        UsageError: where each seed has rows of its own, those of the two recipes are not the same.
    """
    if len({run.fingerprint(split) for run in first.runs.values()}) == 1:
        refuse_other_rows([_first(first), *other.runs.values()], split)
    if [*first.runs] != [*other.runs]:
        what = f"each seed has {split} rows of its own, and the seeds are not those of {first.path}"
        raise UsageError(what, where=str(other.path), hint="train both with the same seeds, or compare on --split test")
    for seed, run in first.runs.items():
        refuse_other_rows([run, other.runs[seed]], split)


def seed_difference(
    first: Recipe, second: Recipe, split: str, name: str, by_rows: tuple[float, float] | None
) -> SeedDifference:
    """How far the second recipe's mean is above the first's; `by_rows` is the interval that other rows give."""
    from scipy.special import stdtrit  # half a second to import

    one, two = (recipe.values(split, name) for recipe in (first, second))
    value = float(two.mean() - one.mean())
    if paired := list(first.runs) == list(second.runs):
        freedom, error = len(one) - 1.0, float((two - one).std(ddof=1)) / math.sqrt(len(one))
    else:
        parts = [values.var(ddof=1) / len(values) for values in (one, two)]
        error = math.sqrt(sum(parts))
        below = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (one, two), strict=True))
        freedom = sum(parts) ** 2 / below if below else float(len(one) + len(two) - 2)
    reach = float(stdtrit(freedom, 1 - TAIL)) * error
    low, high = by_rows or (value, value)
    # Two independent parts of an error: their reaches add up as the sides of a right angle do.
    ends = value - math.hypot(reach, value - low), value + math.hypot(reach, high - value)
    return SeedDifference(
        value, *ends, {seed: float(d) for seed, d in zip(first.runs, two - one, strict=True)} if paired else None
    )


def _by_rows(
    first: Sequence[Evaluation], second: Sequence[Evaluation], names: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """The middle 95% of the difference of the means over resamples of the rows, on each of which all are judged."""
    statistics = {name: [[statistic(each, name) for each in side] for side in (first, second)] for name in names}

    def difference(name: str, weights: np.ndarray) -> np.ndarray:
        one, two = (np.mean([of(weights) for of in side], axis=0) for side in statistics[name])
        return np.asarray(two - one)

    differences = {name: partial(difference, name) for name in names}
    random = np.random.default_rng([SEED, 0xC0DE])
    drawn = resampled(differences, len(first[0]), held_cells(first[0]), random)
    return {name: middle(sample) for name, sample in drawn.items()}


def spread(values: np.ndarray) -> Mapping[str, float]:
    """Mean and standard deviation (of a sample)."""
    return {"mean": float(values.mean()), "std": float(values.std(ddof=1))}


def tables(comparison: RecipeComparison) -> Iterator[tuple[str, list[Mapping[str, float]]]]:
    """Each metric, and its spread in each recipe."""
    for name in comparison.names:
        yield name, [spread(recipe.values(comparison.split, name)) for recipe in comparison.recipes]
