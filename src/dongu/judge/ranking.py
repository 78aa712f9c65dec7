"""Several labels a row: how sure a model must be to give one, and how good the given ones are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

LEAST = 2.0**-53  # what the probability of a row that is wrong and very sure counts as
EQUAL_WITHIN = 1e-12  # sums in another order differ by less, and scores that differ at all by more
SEGMENTS = 64  # of the rows of a label, each with as many true ones: the precision is taken at the end of each


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """The probability of each label, in double precision and without overflow."""
    half: np.ndarray = np.tanh(logits.astype(np.float64) / 2)
    return (1 + half) / 2


def softmax(logits: np.ndarray) -> np.ndarray:
    """The probability of each class, (rows, labels) in double precision."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def ratio(numerator: Any, denominator: Any, nothing: float = 0.0) -> np.ndarray:
    """Division where 0 / 0 has a value."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    quotient: np.ndarray = np.full(np.shape(denominator), nothing)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient


def best_threshold(probabilities: np.ndarray, truth: np.ndarray, metric: str) -> float:
    """The probability from which on labels are given so that `macro_f1` or `micro_f1` is highest on these rows.

    All thresholds that give other labels are tried. The chosen one lies half-way between two probabilities, so that
    rounding on another machine gives the same labels; of equals it is the highest.

    Args:
        probabilities: (rows, labels).
        truth: (rows, labels), 1 for the labels of a row; a row that stands for many has their shares.
        metric: which F1.
    """
    labels = probabilities.shape[1]
    order = np.argsort(-probabilities, axis=None, kind="stable")  # cells, the surest first
    label, hit = order % labels, truth.ravel()[order]
    descending = probabilities.ravel()[order]
    if metric == "micro_f1":
        scores = 2 * np.cumsum(hit) / (np.arange(1, len(order) + 1) + truth.sum())
    else:
        scores = _macro_f1_by_cut(label, hit, truth.sum(0))
    distinct = np.append(descending[1:] < descending[:-1], True)  # a cut between equal probabilities is none
    scores = np.where(distinct, scores, -1.0)
    cut = int((scores >= scores.max() - EQUAL_WITHIN).argmax())
    below = float(descending[cut + 1]) if cut + 1 < len(descending) else 0.0
    return (float(descending[cut]) + below) / 2


def _macro_f1_by_cut(label: np.ndarray, hit: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Macro F1 when the first cell is given, the first two, and so on, (cells,)."""
    gains, first = np.zeros(len(label)), np.zeros(len(label))
    for i, count in enumerate(positives):
        places = np.flatnonzero(label == i)
        given = np.arange(1, len(places) + 1)
        f1 = 2 * np.cumsum(hit[places]) / (given + count)
        gains[places] = np.diff(f1, prepend=0.0)
        if count == 0 and len(places):
            first[places[0]] = 1  # from here on this label is wrong somewhere, and counts
    present = (positives > 0).sum() + np.cumsum(first)
    return np.asarray(np.cumsum(gains) / present)


@dataclass(frozen=True)
class Ranking:
    """Answers to some rows, sorted by label once, so that metrics of many resamples of the rows are quick.

    A resample is a count a row: `weights`, (rows,). Cells are counted along `order`, label after label.
    """

    given: np.ndarray  # (rows, labels), 1 where the label is given
    truth: np.ndarray  # (rows, labels), 1 where it should be
    order: np.ndarray  # (labels, rows), rows, the surest of a label first
    hits: np.ndarray  # (hits,), the cells of `order` where the label should be given
    ends: np.ndarray  # (hits,), the last cell of the same label that is as sure

    @staticmethod
    def of(probabilities: np.ndarray, truth: np.ndarray, threshold: float) -> Ranking:
        """Sort each label's rows."""
        order = np.argsort(-probabilities.T, axis=1, kind="stable")
        descending = np.take_along_axis(probabilities.T, order, 1)
        is_end = np.append(descending[:, 1:] < descending[:, :-1], np.ones((len(order), 1), bool), axis=1)
        ends = np.flatnonzero(is_end)
        hits = np.flatnonzero(np.take_along_axis(truth.T, order, 1))
        given = probabilities >= threshold
        return Ranking(
            given.astype(np.float64), truth.astype(np.float64), order, hits, ends[np.searchsorted(ends, hits)]
        )

    def counts(self, weights: np.ndarray) -> np.ndarray:
        """Given rightly, given, and true, of each label: (3, …, labels) for (…, rows) weights."""
        return np.stack([weights @ cells for cells in (self.given * self.truth, self.given, self.truth)])

    def average_precisions(self, weights: np.ndarray) -> np.ndarray:
        """Mean over the true rows of a label of the precision down to each, in each of several resamples: (draws,
        labels), all resamples of a label at once; NaN for a label without a true row."""
        labels, rows = self.order.shape
        values = np.full((len(weights), labels), np.nan)
        bounds = np.searchsorted(self.hits, np.arange(labels + 1) * rows)
        for label, (first, last) in enumerate(pairwise(bounds)):
            if first == last:
                continue
            hits, ends = self.hits[first:last] - label * rows, self.ends[first:last] - label * rows
            seen = weights[:, self.order[label]]  # (draws, rows)
            right = seen[:, hits]
            found = np.cumsum(right, 1)  # (draws, hits)
            above = found[:, np.searchsorted(hits, ends, side="right") - 1]
            precision = ratio(above, np.cumsum(seen, 1)[:, ends])
            sums = np.cumsum(right * precision, 1)[:, -1]  # in the order of the rows, as an ejected script adds up
            values[:, label] = ratio(sums, found[:, -1], nothing=np.nan)
        return values


@dataclass(frozen=True)
class GroupedRanking:
    """Answers to so many rows that a weight for each is too many: the rows of a group have one, (draws, groups).

    It sorts no rows: a label's are put into `SEGMENTS` by how sure they are.
    """

    probabilities: np.ndarray  # (rows, labels)
    truth: np.ndarray  # (rows, labels)
    threshold: float
    groups: np.ndarray  # (rows,), the group of each row
    size: int  # how many groups there are

    def counts(self, weights: np.ndarray) -> np.ndarray:
        """As a ranking's: (3, draws, labels)."""
        return np.stack([weights @ sums for sums in self._sums])

    @cached_property
    def _sums(self) -> tuple[np.ndarray, ...]:
        """Rows of each group given rightly, given, and true, of each label: (groups, labels) each."""
        kinds = [np.empty((self.size, self.truth.shape[1])) for _ in range(3)]
        for label, (sure, truth) in enumerate(zip(self.probabilities.T, self.truth.T, strict=True)):
            given = sure >= self.threshold
            for sums, cells in zip(kinds, (given * truth, given, truth), strict=True):
                sums[:, label] = np.bincount(self.groups, cells, self.size)
        return tuple(kinds)

    def average_precisions(self, weights: np.ndarray) -> np.ndarray:
        """As a ranking's, (draws, labels), with the precision at the end of a segment for all of its true rows."""
        found = np.full((len(weights), self.truth.shape[1]), np.nan)
        for label, (sure, truth) in enumerate(zip(self.probabilities.T, self.truth.T, strict=True)):
            true = np.flatnonzero(truth)
            if not len(true):
                continue
            ends = np.unique(np.sort(-sure[true])[np.linspace(0, len(true) - 1, SEGMENTS).astype(np.int64)])
            width = len(ends) + 1  # what is less sure than the last true row is in no precision
            cells = self.groups * width + np.searchsorted(ends, -sure)
            seen, right = (
                weights @ np.bincount(each, minlength=self.size * width).reshape(-1, width)[:, :-1].astype(np.float64)
                for each in (cells, cells[true])
            )
            above = np.cumsum(right, 1)
            found[:, label] = ratio((right * ratio(above, np.cumsum(seen, 1))).sum(1), above[:, -1], nothing=np.nan)
        return found


def label_macro_f1(counts: np.ndarray) -> np.ndarray:
    """Mean F1 over the labels that occur or are given, from (3, …, labels) counts."""
    present = (counts[1] + counts[2]) > 0
    return ratio((label_f1(counts) * present).sum(-1), present.sum(-1))


def label_micro_f1(counts: np.ndarray) -> np.ndarray:
    """F1 over all cells together."""
    right, given, true = counts.sum(-1)
    return ratio(2 * right, given + true)


def label_f1(counts: np.ndarray) -> np.ndarray:
    """F1 of each label, (…, labels); 0 for one that neither occurs nor is given."""
    return ratio(2 * counts[0], counts[1] + counts[2])


def mean_average_precision(ranking: Ranking | GroupedRanking, weights: np.ndarray) -> np.ndarray:
    """Mean average precision over the labels that occur, (samples,), for (samples, rows) weights; NaN where none do."""
    values = ranking.average_precisions(weights)  # (samples, labels)
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(-1), known.sum(-1), nothing=np.nan)
