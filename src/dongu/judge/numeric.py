"""Metrics of numbers: of a regression, and of an ordinal task, whose answers are rounded to the nearest class."""

from __future__ import annotations

import numpy as np

from dongu.judge.answers import Evaluation
from dongu.judge.ranking import ratio
from dongu.judge.resample import Statistic, sums_by


def pearson(values: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Linear correlation over the last axis, each row as often as `weights` says; NaN where either is constant."""
    rows = weights.sum(-1, keepdims=True)
    x, y = (numbers - (weights * numbers).sum(-1, keepdims=True) / rows for numbers in (values, targets))
    spread = (weights * x * x).sum(-1) * (weights * y * y).sum(-1)
    return ratio((weights * x * y).sum(-1), np.sqrt(spread), nothing=np.nan)


def pearson_of(values: np.ndarray, targets: np.ndarray) -> Statistic:
    """The linear correlation in samples of the rows."""
    return lambda weights: pearson(values, targets, weights)


def spearman_of(values: np.ndarray, targets: np.ndarray) -> Statistic:
    """The correlation of the ranks in samples of the rows, in each of which the ranks are others; NaN of a constant."""
    one, two = _ranks_of(values), _ranks_of(targets)
    return lambda weights: pearson(one(weights), two(weights), weights)


def pearson_influence(evaluation: Evaluation) -> np.ndarray:
    """How far each row moves the linear correlation, times the rows, (rows,)."""
    one, two = _standard(evaluation.predictions), _standard(np.asarray(evaluation.targets, np.float64))
    return np.asarray(one * two - (one * two).mean() / 2 * (one**2 + two**2))


def spearman_influence(evaluation: Evaluation) -> np.ndarray:
    """How far each row moves the correlation of the ranks: its own, and by its place those of the others, (rows,)."""
    sides = [evaluation.predictions, np.asarray(evaluation.targets, np.float64)]
    ranks = [_ranks_of(side)(np.ones((1, len(side))))[0] for side in sides]
    one, two = map(_standard, ranks)
    value = (one * two).mean()
    moved = one * two - value / 2 * (one**2 + two**2)
    for side, rank, own, other in zip(sides, ranks, (one, two), (two, one), strict=True):
        kinds, places = np.unique(side, return_inverse=True)
        slopes = np.bincount(places, (other - value * own) / (rank.std() or 1.0), len(kinds))
        above = np.cumsum(slopes[::-1])[::-1] - slopes / 2  # a row lifts all above it by 1, and its equals by a half
        moved += above[places] - above[places].mean()
    return np.asarray(moved)


def mae_influence(evaluation: Evaluation) -> np.ndarray:
    """How far each row moves the mean absolute error, times the rows, (rows,)."""
    errors = np.abs(_errors(evaluation))
    return np.asarray(errors - errors.mean())


def rmse_influence(evaluation: Evaluation) -> np.ndarray:
    """How far each row moves the root of the mean squared error, times the rows, (rows,)."""
    squares = _errors(evaluation) ** 2
    return np.asarray((squares - squares.mean()) / (2 * np.sqrt(squares.mean()) or 1.0))


def r2_influence(evaluation: Evaluation) -> np.ndarray:
    """How far each row moves the share of the variance that is explained, times the rows, (rows,)."""
    targets = np.asarray(evaluation.targets, np.float64)
    return _quotient_influence(_errors(evaluation) ** 2, (targets - targets.mean()) ** 2)


def kappa_influence(evaluation: Evaluation) -> np.ndarray:
    """How far each row moves the kappa with quadratic weights, times the rows, (rows,)."""
    values, targets = evaluation.predictions, np.asarray(evaluation.targets, np.float64)
    middle = values.mean(), targets.mean()
    dealt = (values - middle[1]) ** 2 + (targets - middle[0]) ** 2 - (middle[0] - middle[1]) ** 2
    return _quotient_influence(_errors(evaluation) ** 2, dealt)


def _errors(evaluation: Evaluation) -> np.ndarray:
    return np.asarray(evaluation.predictions - np.asarray(evaluation.targets, np.float64))


def _quotient_influence(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """That on 1 less a quotient of two means, (rows,)."""
    return np.asarray(ratio(above.mean(), below.mean()) * below - above) / (below.mean() or 1.0)


def _standard(numbers: np.ndarray) -> np.ndarray:
    """Numbers in units of their deviation, from their mean."""
    return np.asarray((numbers - numbers.mean()) / (numbers.std() or 1.0))


def mean_of(numbers: np.ndarray) -> Statistic:
    """The mean of numbers of the rows, (rows,), in samples of these."""
    return lambda weights: (weights * numbers).sum(-1) / weights.sum(-1)


def mae_of(values: np.ndarray, targets: np.ndarray) -> Statistic:
    """The mean absolute error in samples of the rows."""
    return mean_of(np.abs(values - targets))


def rmse_of(values: np.ndarray, targets: np.ndarray) -> Statistic:
    """The root of the mean squared error in samples of the rows."""
    mean = mean_of((values - targets) ** 2)
    return lambda weights: np.sqrt(mean(weights))


def r2_of(values: np.ndarray, targets: np.ndarray) -> Statistic:
    """The share of the labels' variance that the answers explain, in samples of the rows; NaN where they are equal."""
    squares = (values - targets) ** 2

    def r2(weights: np.ndarray) -> np.ndarray:
        mean = (weights * targets).sum(-1, keepdims=True) / weights.sum(-1, keepdims=True)
        return 1 - ratio((weights * squares).sum(-1), (weights * (targets - mean) ** 2).sum(-1), nothing=np.nan)

    return r2


def quadratic_kappa_of(values: np.ndarray, targets: np.ndarray) -> Statistic:
    """Cohen's kappa with quadratic weights in samples of the rows; NaN where all answers and labels are the same.

    It is 1 less the mean squared difference of answer and label, divided by what that would be if the same answers
    were dealt to the rows at random.
    """

    def kappa(weights: np.ndarray) -> np.ndarray:
        parts = (values, targets, values**2, targets**2, (values - targets) ** 2)
        one, two, square, other, apart = (mean_of(part)(weights) for part in parts)
        return 1 - ratio(apart, square + other - 2 * one * two, nothing=np.nan)

    return kappa


def _ranks_of(numbers: np.ndarray) -> Statistic:
    """The ranks, from 1 on, in samples of the rows: (draws, rows). Equal numbers share the mean of theirs."""
    kinds, places = np.unique(numbers, return_inverse=True)
    counts = sums_by(places, len(kinds))

    def ranks(weights: np.ndarray) -> np.ndarray:
        there = counts(weights)
        return np.take(np.cumsum(there, -1) - (there - 1) / 2, places, axis=-1)

    return ranks
