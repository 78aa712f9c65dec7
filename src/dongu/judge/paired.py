"""Two runs' answers to the same rows: how far apart the runs are, and whether so many rows can tell.

Both runs see the same resamples, so what makes a row hard for both cancels out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dongu.config import NUMBERS
from dongu.judge.answers import Evaluation
from dongu.judge.classes import NORMAL_95
from dongu.judge.metrics import INFLUENCES, metric_value, statistic
from dongu.judge.ranking import EQUAL_WITHIN, LEAST
from dongu.judge.resample import RESAMPLES, Statistic, chunks, kinds_of, middle, resampled, student

DEALS = 10_000  # of the two answers to each row
DEALT_ROWS = 2_000  # beyond which rows are dealt in so many groups, each as one
SPANS = {  # how far two values of a metric can be apart, of those that have a least and a largest one
    **dict.fromkeys(("accuracy", "f1", "macro_f1", "micro_f1", "average_precision"), 1.0),
    **dict.fromkeys(("matthews_correlation", "pearson", "spearman", "quadratic_kappa"), 2.0),
}
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

    def within(self, span: float) -> MetricDifference:
        """The same where no difference is larger than `span`: of few rows an interval may reach beyond."""
        return replace(self, low=max(self.low, -span), high=min(self.high, span))  # NaN stays NaN

    def shown(self, p: float | None) -> bool:
        """Whether it is shown, given the p value of two runs as it is corrected for other comparisons."""
        return (p is None or p < P_LIMIT) and not (math.isnan(self.value) or self.low <= 0 <= self.high)


def paired_differences(
    first: Evaluation, second: Evaluation, names: Sequence[str], seed: int
) -> dict[str, MetricDifference]:
    """How far the second run is above the first in each metric (`loss` too), over the rows that both answered.

    The p value is that of a test which deals the two answers of each row to the runs at random: McNemar's for accuracy,
    from `DEALS` of them for the others, and where it does not tell the runs apart, the interval is made to hold 0. That
    of a correlation is Student's of how far each row moves the difference.
    """
    random = np.random.default_rng([seed, 0xC0DE])
    found, drawn_names = {}, []
    for name in names:
        value = metric_value(second, name) - metric_value(first, name)
        if name == "loss":
            apart = np.asarray(second.losses) - np.asarray(first.losses)
            found[name] = _by_test(value, *_student(value, apart - value)[:2], _sign_p(apart, random))
        elif name == "accuracy":
            found[name] = _accuracy_difference(first, second)
        elif name in INFLUENCES:
            influence = INFLUENCES[name](second) - INFLUENCES[name](first)
            found[name] = MetricDifference(value, *_student(value, influence))
        else:
            found[name] = MetricDifference(value, math.nan, math.nan)
            drawn_names.append(name)
    sides, counts = [first, second], np.ones(len(first))
    if first.task == "single-label" and drawn_names:
        sides, counts = kinds_of(sides)
    one, two = ({name: statistic(side, name) for name in drawn_names} for side in sides)
    apart = {name: _difference(one[name], two[name]) for name in drawn_names}
    drawn = resampled(apart, sides[0], counts, random)
    dealt = _dealt(first, second, drawn_names, random) if first.task not in NUMBERS else {}
    for name, sample in drawn.items():
        value, p = found[name].value, _two_sided(sample)
        if name in dealt:
            p = (1 + int((np.abs(dealt[name]) >= abs(value) - EQUAL_WITHIN).sum())) / (1 + len(dealt[name]))
        found[name] = _by_test(value, *middle(sample, len(first)), p)
    return {name: difference.within(SPANS.get(name, math.inf)) for name, difference in found.items()}


def _by_test(value: float, low: float, high: float, p: float) -> MetricDifference:
    """A difference whose interval holds its value, and 0 where the test does not tell the runs apart."""
    ends = [value, 0.0] if p >= P_LIMIT else [value]
    return MetricDifference(value, min(low, *ends), max(high, *ends), p)


def _student(value: float, influence: np.ndarray) -> tuple[float, float, float]:
    """The interval of a difference that rows (rows,) move so far, and its p value, by Student's t."""
    from scipy.special import stdtr  # half a second to import

    rows = len(influence)
    if rows < 2 or math.isnan(value):
        return math.nan, math.nan, math.nan
    error = math.sqrt((influence**2).sum() / rows / (rows - 1))
    reach = student(rows - 1) * error
    return value - reach, value + reach, 2 * float(stdtr(rows - 1, -abs(value) / error)) if error else 1.0


def _accuracy_difference(first: Evaluation, second: Evaluation) -> MetricDifference:
    """The interval counts one row more that only the first has right, and one that only the second (Bonett, Price)."""
    only = int((first.right & ~second.right).sum()), int((second.right & ~first.right).sum())
    rows = len(first) + 2
    one, two = ((count + 1) / rows for count in only)
    reach = NORMAL_95 * math.sqrt((one + two - (two - one) ** 2) / rows)
    return _by_test((only[1] - only[0]) / len(first), two - one - reach, two - one + reach, mcnemar(*only))


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided mid-p value of so many rows that just one of two runs has right, (only_first, only_second).

    If neither were better, each such row would be a toss of a coin (McNemar 1947, in its binomial form). What is seen
    counts by half: the exact p value is below 5% in far less than 5% of the equal runs (Fagerland 2013).
    """
    from scipy.special import bdtr  # half a second to import, and only classes need it

    tosses, fewer = only_first + only_second, min(only_first, only_second)
    if only_first == only_second:
        return 1.0
    return float(bdtr(fewer, tosses, 0.5) + (bdtr(fewer - 1, tosses, 0.5) if fewer else 0))


def _sign_p(apart: np.ndarray, random: np.random.Generator) -> float:
    """The p value of a mean of differences, (rows,), each of which has its other sign as likely."""
    groups = np.arange(len(apart)) % DEALT_ROWS
    sums = np.bincount(groups, apart)
    dealt = np.concatenate(
        [random.choice([-1.0, 1.0], (draws, len(sums))) @ sums for draws in [1_000] * (DEALS // 1_000)]
    )
    limit = abs(sums.sum()) - EQUAL_WITHIN * np.abs(sums).sum()
    return (1 + int((np.abs(dealt) >= limit).sum())) / (1 + len(dealt))


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
    """The difference of each metric, (deals,), where chance says whose of two answers to a row is whose.

    Of rows of the same kind it says of how many.
    """
    sides, counts, deals = [first, second], np.ones(len(first), np.int64), RESAMPLES
    if first.task == "single-label":
        sides, shares = kinds_of(sides)
        counts, deals = np.floor(shares).astype(np.int64), DEALS  # without the parts of rows
    both = _joined(sides)
    of = {name: statistic(both, name) for name in names}
    values: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for draws in chunks(deals, both):
        swapped = random.binomial(counts, 0.5, (draws, len(counts))).astype(np.float64)
        one, two = (np.concatenate(each, axis=1) for each in ((counts - swapped, swapped), (swapped, counts - swapped)))
        for name in names:
            values[name].append(of[name](two) - of[name](one))
    return {name: np.concatenate(parts) for name, parts in values.items()}


def _joined(sides: Sequence[Evaluation]) -> Evaluation:
    """All sides' answers as one, a side behind the other; each label's threshold is 0.5 then."""
    logits = [side.logits for side in sides]
    if sides[0].task == "multi-label":
        sure = [side.probabilities.clip(LEAST, 1 - LEAST) for side in sides]
        logits = [np.log(p / (1 - p) / (s.threshold / (1 - s.threshold))) for p, s in zip(sure, sides, strict=True)]
    targets = np.concatenate([np.asarray(side.targets) for side in sides])
    first, ids, logits_of_all = sides[0], np.arange(len(targets)), np.concatenate(logits)
    return Evaluation(first.split, ids, logits_of_all, targets, None, {}, 0.5, first.task)


def _two_sided(drawn: np.ndarray) -> float:
    """How often a resample says the opposite, on both sides; NaN where none says anything."""
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return math.nan
    opposite = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (opposite + 1) / (len(known) + 1))
