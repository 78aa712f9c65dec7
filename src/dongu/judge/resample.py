"""The bootstrap over the rows of a split: samples of the rows, and what is read from a statistic of each of them.

A sample is a weight a row, drawn from a gamma distribution (the Bayesian bootstrap, Rubin 1981): rows that answer alike
are one kind of row whose weight is drawn at once, and a kind that the split lacks may count as a part of a row, so that
a split in which every answer is right is not certain. A statistic gives its value in each of many samples, (draws,),
from these weights, (draws, rows); `metrics.statistic` has those of the metrics. What is compared is computed on the
same samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from dongu.judge.answers import Evaluation

Statistic = Callable[[np.ndarray], np.ndarray]

TAIL = 0.025  # on either side: 95% are between
RESAMPLES = 2_000
LEAST_RESAMPLES = 1_000
LEAST_ROWS = 4  # of an interval: fewer say nothing of how much they vary
WEIGHED_ROWS = 10_000  # of several labels or of numbers, beyond which a weight a row takes too long
WEIGHT_GROUPS = 2_000  # of many rows, each with one weight: they tell an interval's width to 1 or 2%
DRAWN_NUMBERS = 20_000_000  # rows times labels of all samples, beyond which there are fewer of them
DRAWN_CELLS = 100_000  # that are drawn at a time: an array of them stays in the processor's cache
UNSEEN_RIGHT, UNSEEN_WRONG = 0.75, 0.25  # of a row, that each class counts beside the rows as right, and as wrong


def resampled(
    statistics: Mapping[str, Statistic], evaluation: Evaluation, counts: np.ndarray, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """Each statistic on each of many samples of the rows, (resamples,): all see the same.

    `counts` (rows,) has how many rows each row of `evaluation` stands for.
    """
    if not statistics:
        return {}
    numbers = evaluation.logits.size if evaluation.task == "multi-label" else _held(evaluation)
    parts = []
    for draws in chunks(min(RESAMPLES, max(LEAST_RESAMPLES, DRAWN_NUMBERS // numbers)), evaluation):
        weights = random.standard_gamma(counts, (draws, len(counts)))
        parts.append({name: of(weights) for name, of in statistics.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in statistics}


def kinds_of(evaluations: Sequence[Evaluation]) -> tuple[list[Evaluation], np.ndarray]:
    """The kinds of rows of classes by the truth and what each model answers: an evaluation a model, and their counts.

    Behind those that the rows have, each class is there once more as a part of a row that all have right, and as one
    that one of them takes for the next class.
    """
    labels, models = evaluations[0].logits.shape[1], len(evaluations)
    classes = np.arange(labels)
    unseen = [np.tile(classes, (1 + models, 1)) for _ in range(1 + models)]
    for i, kind in enumerate(unseen[1:]):
        kind[1 + i] = np.roll(classes, -1)
    seen = np.stack([np.asarray(evaluations[0].targets), *(each.predictions for each in evaluations)]).astype(np.int64)
    codes = labels ** np.arange(1 + models) @ seen  # one number a column
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    kinds = np.concatenate([seen[:, first], *unseen], axis=1)  # (1 + models, kinds)
    right = UNSEEN_RIGHT - (models - 1) * UNSEEN_WRONG
    shares = np.concatenate([counts, np.repeat([right, *[UNSEEN_WRONG] * models], labels)])
    ids = np.arange(kinds.shape[1])
    return [Evaluation("", ids, np.eye(labels, dtype=bool)[each], kinds[0], None, {}) for each in kinds[1:]], shares


def chunks(draws: int, evaluation: Evaluation) -> Iterator[int]:
    """How many of so many samples of the rows are drawn at a time: one at least, and no more than the cache holds."""
    rows, labels = evaluation.logits.shape
    size = max(1, DRAWN_CELLS // (max(rows, 3 * labels) if evaluation.task == "single-label" else rows))
    for start in range(0, draws, size):
        yield min(size, draws - start)


def _held(evaluation: Evaluation) -> int:
    """By how many numbers there are fewer samples: the rows, or the pairs of classes that may be taken for another."""
    rows, labels = evaluation.logits.shape
    return int(max(rows, labels * labels)) if evaluation.task == "single-label" else int(rows)


def sums_by(groups: np.ndarray, size: int) -> Statistic:
    """The sums of (…, rows) numbers over the rows of each group, (…, size), where `groups` (rows,) are below `size`."""
    order = np.argsort(groups, kind="stable")
    present, starts = np.unique(groups[order], return_index=True)

    def sums(numbers: np.ndarray) -> np.ndarray:
        found = np.zeros((*numbers.shape[:-1], size))
        found[..., present] = np.add.reduceat(np.take(numbers, order, axis=-1), starts, axis=-1)
        return found

    return sums


def middle(sample: np.ndarray, rows: int) -> tuple[float, float]:
    """The ends of the middle 95% of a statistic in samples of so many rows; NaN where all of it is.

    Of few rows it is a little more than that: a sample varies less than it should, and as a normal distribution where
    Student's would be right (Hesterberg 2015).
    """
    if np.isnan(sample).all() or rows < LEAST_ROWS:
        return math.nan, math.nan
    from scipy.special import ndtr  # half a second to import

    tail = float(ndtr(-student(rows - 1) * math.sqrt(rows / (rows - 1))))
    low, high = np.nanquantile(sample, [tail, 1 - tail])
    return float(low), float(high)


def student(freedom: float) -> float:
    """How many standard errors on either side hold 95% of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - TAIL))
