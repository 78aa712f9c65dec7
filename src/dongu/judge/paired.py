"""Two runs' answers to the same rows: how far apart the runs are, and whether so many rows can tell.

Both runs see the same resamples, so what makes a row hard for both cancels out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dongu.judge.answers import Answers
from dongu.judge.metrics import CLASS_METRICS, SET_METRICS, ConfusionMetric, SetMetric
from dongu.judge.ranking import Ranking
from dongu.judge.resample import chunks, middle, missed_share

RESAMPLES = 10_000
LEAST_RESAMPLES = 1_000
DRAWN_NUMBERS = 200_000_000  # rows times outputs that all resamples have, unless there are so many rows that these
# would be fewer than the least
ALPHA = 0.05  # what a p value must be below to show a difference
DRAWN_CELLS = 100_000  # that are drawn at a time: an array of them stays in the processor's cache
ROUNDING = 1e-12  # differences of a metric that are nearer are the same

# Something of many resamples, (draws, ...), from how often each row is in them, (draws, rows).
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Difference:
    """How far the second run's metric is above the first's: its 95% interval, and the p value of there being none."""

    value: float
    low: float
    high: float
    p: float

    def shown(self, p: float) -> bool:
        """Whether these rows show it, given the p value as it is corrected for other comparisons."""
        return p < ALPHA and not self.low <= 0 <= self.high


def paired_differences(first: Answers, second: Answers, names: Sequence[str], seed: int) -> dict[str, Difference]:
    """How far the second run is above the first in each metric (`loss` too), by a bootstrap over their rows.

    The p value of a metric of classes is that of a test that deals the two answers of each row to the runs at random:
    exact (McNemar's) for accuracy, from as many deals as there are resamples for the others. Where it does not tell
    the runs apart, the interval is made to hold 0. Elsewhere the p value is read from the resamples.
    """
    random = np.random.default_rng([seed, 0xC0DE])
    values = {name: second.metric(name) - first.metric(name) for name in names}
    classes = [name for name in names if name in CLASS_METRICS and first.task == "single-label"]
    others = _statistics(first, second, [name for name in names if name not in classes])
    found = {}
    if classes:
        found = _class_differences(first, second, {name: values[name] for name in classes}, random)
    for name, drawn in _draw(others, first, random).items():
        found[name] = Difference(values[name], *middle(drawn), _two_sided(drawn))
    return {name: found[name] for name in names}


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


# --- classes: rows with the same truth and the same two answers are one cell, and a resample is a draw of cells


@dataclass(frozen=True)
class _Cells:
    """The kinds of rows that there are: truth, the two answers, and how many, each (cells,)."""

    labels: int
    truth: np.ndarray
    first: np.ndarray
    second: np.ndarray
    counts: np.ndarray

    @staticmethod
    def of(first: Answers, second: Answers) -> _Cells:
        labels = len(first.label_names)
        coded = (first.targets * labels + first.given) * labels + second.given
        kinds, counts = np.unique(coded, return_counts=True)
        return _Cells(labels, kinds // labels**2, kinds // labels % labels, kinds % labels, counts)

    def confusions(self, answers: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """(draws, labels, labels) from (draws, cells) counts of rows with these answers, (cells,)."""
        size = self.labels**2
        place = self.truth * self.labels + answers + size * np.arange(len(counts))[:, None]
        drawn = np.bincount(place.ravel(), counts.ravel(), minlength=len(counts) * size)
        return drawn.reshape(-1, self.labels, self.labels)


def _class_differences(
    first: Answers, second: Answers, values: dict[str, float], random: np.random.Generator
) -> dict[str, Difference]:
    cells = _Cells.of(first, second)
    rows = len(first)
    resampled: dict[str, list[np.ndarray]] = {name: [] for name in values}
    dealt: dict[str, list[np.ndarray]] = {name: [] for name in values}
    for draws in chunks(RESAMPLES, DRAWN_CELLS // max(len(cells.counts), cells.labels**2)):
        counts = random.multinomial(rows, cells.counts / rows, size=draws)
        swapped = random.binomial(cells.counts, 0.5, (draws, len(cells.counts)))
        kept = cells.counts - swapped
        pairs = [cells.confusions(answers, counts) for answers in (cells.first, cells.second)]
        deals = [
            cells.confusions(one, kept) + cells.confusions(other, swapped)
            for one, other in ((cells.first, cells.second), (cells.second, cells.first))
        ]
        for name in values:
            metric = CLASS_METRICS[name]
            resampled[name].append(metric(pairs[1]) - metric(pairs[0]))
            dealt[name].append(metric(deals[1]) - metric(deals[0]))
    found = {}
    for name, value in values.items():
        low, high = middle(np.concatenate(resampled[name]))
        if low == high:
            low, high = _unseen(CLASS_METRICS[name], cells, value)
        by_chance = np.abs(np.concatenate(dealt[name])) >= abs(value) - ROUNDING
        p = (1 + int(by_chance.sum())) / (1 + RESAMPLES)
        if name == "accuracy":
            p = mcnemar(int((first.right & ~second.right).sum()), int((second.right & ~first.right).sum()))
        if p >= ALPHA:
            low, high = min(low, 0.0), max(high, 0.0)
        found[name] = Difference(value, low, high, p)
    return found


def _unseen(metric: ConfusionMetric, cells: _Cells, value: float) -> tuple[float, float]:
    """The interval where all resamples agree, as where the two runs give the same answers.

    Rows cannot show what none of them is: as many as they may well miss could be right in one run alone.
    """
    rows, same = cells.counts.sum(), np.eye(cells.labels)
    share = missed_share(int(rows))
    right, wrong = share * same / same.sum(), share * (1 - same) / (1 - same).sum()
    first, second = (
        (1 - share) * cells.confusions(answers, cells.counts[None])[0] / rows for answers in (cells.first, cells.second)
    )
    ends = [
        float(metric(second + wrong) - metric(first + right)),
        float(metric(second + right) - metric(first + wrong)),
    ]
    return min(value, *ends), max(value, *ends)


# --- the loss, numbers, and several labels a row: a resample is how often each row is there


def _draw(statistics: dict[str, Statistic], answers: Answers, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Each statistic on each resample of the rows; all see the same ones."""
    if not statistics:
        return {}
    rows, outputs = len(answers), answers.targets.size // len(answers)
    resamples = min(RESAMPLES, max(LEAST_RESAMPLES, DRAWN_NUMBERS // (rows * outputs)))
    values: dict[str, list[np.ndarray]] = {name: [] for name in statistics}
    for draws in chunks(resamples, DRAWN_CELLS // (rows * outputs)):
        drawn = random.integers(0, rows, (draws, rows), np.int32) + rows * np.arange(draws)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=draws * rows).reshape(draws, rows).astype(np.float64)
        for name, statistic in statistics.items():
            values[name].append(statistic(weights))
    return {name: np.concatenate(parts) for name, parts in values.items()}


def _statistics(first: Answers, second: Answers, names: Sequence[str]) -> dict[str, Statistic]:
    found: dict[str, Statistic] = {}
    for name in names:
        if name == "loss":
            found[name] = _of_means(second.losses - first.losses)
        elif first.ranking is not None and second.ranking is not None:
            found[name] = _of_sets(SET_METRICS[name], first.ranking, second.ranking)
        else:
            found[name] = (_of_rank_correlations if name == "spearman" else _of_correlations)(first, second)
    return found


def _of_means(differences: np.ndarray) -> Statistic:
    return lambda weights: weights @ differences / len(differences)


def _of_sets(metric: SetMetric, first: Ranking, second: Ranking) -> Statistic:
    return lambda weights: metric(second, weights) - metric(first, weights)


def _of_correlations(first: Answers, second: Answers) -> Statistic:
    """The difference of the two linear correlations with the targets: of sums over the rows, which are quick."""
    one, two, truth = (_standard(column) for column in (first.given, second.given, first.targets))
    terms = [np.stack(_terms(column, truth), axis=-1) for column in (one, two)]  # (rows, terms)

    def statistic(weights: np.ndarray) -> np.ndarray:
        of_first, of_second = (_correlation((weights @ parts).T / len(truth)) for parts in terms)
        return np.asarray(of_second - of_first)

    return statistic


def _of_rank_correlations(first: Answers, second: Answers) -> Statistic:
    """The same of the ranks, which are others in each resample."""
    columns = [_ranks_of(column) for column in (first.given, second.given, first.targets)]

    def statistic(weights: np.ndarray) -> np.ndarray:
        one, two, truth = (column(weights) for column in columns)
        shares = weights / weights.shape[1]
        of_first, of_second = (
            _correlation(np.stack([np.einsum("dr,dr->d", shares, term) for term in _terms(column, truth)]))
            for column in (one, two)
        )
        return np.asarray(of_second - of_first)

    return statistic


def _standard(numbers: np.ndarray) -> np.ndarray:
    """With mean 0 and deviation 1, so that no sum loses its digits."""
    centred = numbers - numbers.mean()
    return np.asarray(centred / (centred.std() or 1.0))


def _ranks_of(numbers: np.ndarray) -> Statistic:
    """(draws, rows) ranks between -1/2 and 1/2 in samples where each row is there (draws, rows) times.

    Equal numbers share the mean of their ranks.
    """
    kinds, places = np.unique(numbers, return_inverse=True)
    order = np.argsort(places, kind="stable")
    ends = np.searchsorted(places[order], np.arange(len(kinds)), side="right") - 1

    def ranks(weights: np.ndarray) -> np.ndarray:
        upto = np.take(np.cumsum(np.take(weights, order, axis=1), axis=1), ends, axis=1)  # (draws, kinds), rows
        middles = (upto + np.pad(upto[:, :-1], ((0, 0), (1, 0)))) / (2 * len(numbers)) - 0.5
        return np.take(middles, places, axis=1)

    return ranks


def _terms(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """What a correlation wants the means of."""
    return [x, y, x * x, y * y, x * y]


def _correlation(means: np.ndarray) -> np.ndarray:
    """Pearson's, (draws,), from the (terms, draws) means; NaN where one side is constant."""
    x, y, xx, yy, xy = means
    spread = (xx - x**2) * (yy - y**2)
    found: np.ndarray = np.full(len(x), np.nan)
    np.divide(xy - x * y, np.sqrt(spread.clip(0)), out=found, where=spread > ROUNDING)
    return found


def _two_sided(drawn: np.ndarray) -> float:
    """How often a resample says the opposite, on both sides; NaN where none says anything."""
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return math.nan
    opposite = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (opposite + 1) / (len(known) + 1))
