"""Two runs' answers to the same rows: how far apart the runs are, and whether so many rows can tell.

Both runs see the same resamples, so what makes a row hard for both cancels out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dongu.judge.answers import Evaluation
from dongu.judge.intervals import missed
from dongu.judge.metrics import CLASS_METRICS, confusions_of, metric_value, statistic
from dongu.judge.ranking import EQUAL_WITHIN
from dongu.judge.resample import Statistic, chunks, middle, resampled

DEALS = 10_000  # of the two answers to each row
P_LIMIT = 0.05  # what a p value must be below to show a difference


@dataclass(frozen=True)
class MetricDifference:
    """How far the second run's metric is above the first's: its 95% interval, and the p value of there being none.

    Of two recipes it is how far apart their means are, and there is no p value: it is NaN. Where both have the same
    seeds, `by_seed` has the difference of each.
    """

    value: float
    low: float
    high: float
    p: float = math.nan
    by_seed: dict[int, float] | None = None

    def shown(self, p: float | None) -> bool:
        """Whether it is shown, given the p value of two runs as it is corrected for other comparisons."""
        return (p is None or p < P_LIMIT) and not (math.isnan(self.value) or self.low <= 0 <= self.high)


def paired_differences(
    first: Evaluation, second: Evaluation, names: Sequence[str], seed: int
) -> dict[str, MetricDifference]:
    """How far the second run is above the first in each metric (`loss` too), by a bootstrap over their rows.

    The p value of a metric of classes is that of a test that deals the two answers of each row to the runs at random:
    exact (McNemar's) for accuracy, from `DEALS` of them for the others. Where it does not tell
    the runs apart, the interval is made to hold 0. Elsewhere the p value is read from the resamples.
    """
    random = np.random.default_rng([seed, 0xC0DE])
    statistics = {name: _difference(statistic(first, name), statistic(second, name)) for name in names}
    drawn = resampled(statistics, first, random)
    classes = [name for name in names if name in CLASS_METRICS and first.task == "single-label"]
    dealt = _dealt(first, second, classes, random) if classes else {}
    found = {}
    for name in names:
        value = metric_value(second, name) - metric_value(first, name)
        low, high = middle(drawn[name])
        if low == high and name != "loss" and first.task != "regression":
            (wrong, right), (other_wrong, other_right) = missed(first, name), missed(second, name)
            low, high = min(value, other_wrong - right), max(value, other_right - wrong)
        p = _two_sided(drawn[name])
        if name in classes:
            p = (1 + int((np.abs(dealt[name]) >= abs(value) - EQUAL_WITHIN).sum())) / (1 + len(dealt[name]))
        if name == "accuracy":
            p = mcnemar(int((first.right & ~second.right).sum()), int((second.right & ~first.right).sum()))
        if name in classes and p >= P_LIMIT:
            low, high = min(low, 0.0), max(high, 0.0)
        found[name] = MetricDifference(value, low, high, p)
    return found


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p value of so many rows that just one of two runs has right, (only_first, only_second).

    If neither were better, each such row would be a toss of a coin (McNemar 1947, in its binomial form).
    """
    from scipy.special import bdtr  # half a second to import, and only classes need it

    return min(1.0, 2 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values of several comparisons, corrected so that one of them being below 5% by chance is below 5% (Holm 1979).

    NaN stays NaN and counts for nothing.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected, largest = list(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[i] = largest
    return corrected


def _difference(first: Statistic, second: Statistic) -> Statistic:
    return lambda weights: second(weights) - first(weights)


def _dealt(
    first: Evaluation, second: Evaluation, names: Sequence[str], random: np.random.Generator
) -> dict[str, np.ndarray]:
    """The difference of each metric of classes, (deals,), where chance says whose of two answers to a row is whose."""
    apart = np.flatnonzero(first.predictions != second.predictions)
    agreed = first.take(np.flatnonzero(first.predictions == second.predictions)).confusion
    one, two = (confusions_of(side.take(apart)) for side in (first, second))
    values: dict[str, list[np.ndarray]] = {name: [np.zeros(0)] for name in names}
    for draws in chunks(DEALS, first):
        swapped = random.integers(0, 2, (draws, len(apart))).astype(np.float64)
        sides = agreed + one(1 - swapped) + two(swapped), agreed + two(1 - swapped) + one(swapped)
        for name in names:
            values[name].append(CLASS_METRICS[name](sides[1]) - CLASS_METRICS[name](sides[0]))
    return {name: np.concatenate(parts) for name, parts in values.items()}


def _two_sided(drawn: np.ndarray) -> float:
    """How often a resample says the opposite, on both sides; NaN where none says anything."""
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return math.nan
    opposite = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (opposite + 1) / (len(known) + 1))
