"""What answers come to: each class with its intervals, what was confused, how far probabilities are to be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dongu.judge.answers import Evaluation
from dongu.judge.calibration import BINS, bins_of
from dongu.judge.ranking import LEAST, softmax

NORMAL_95 = 1.959963984540054  # standard deviations on either side that hold 95% of a normal distribution


@dataclass(frozen=True)
class Share:
    """A part of a whole number of rows, and the 95% interval of what it would be for any number of rows (Wilson's)."""

    part: float
    whole: float

    @property
    def value(self) -> float:
        """The share; NaN of nothing."""
        return self.part / self.whole if self.whole else math.nan

    @property
    def ends(self) -> tuple[float, float]:
        """Where the interval begins and ends."""
        if not self.whole:
            return math.nan, math.nan
        square = NORMAL_95**2
        middle = (self.part + square / 2) / (self.whole + square)
        inside = self.part * (self.whole - self.part) / self.whole + square / 4
        reach = NORMAL_95 * math.sqrt(inside) / (self.whole + square)
        return max(0.0, middle - reach), min(1.0, middle + reach)

    @property
    def numbers(self) -> tuple[float, float, float]:
        """The share, and the ends of its interval."""
        return self.value, *self.ends


def class_rows(answers: Evaluation, names: Sequence[str]) -> list[dict[str, Any]]:
    """How well each class, or label, is told: `precision`, `recall` and `f1`, each with the ends of its interval."""
    return [
        {
            "name": name,
            "rows": int(true),
            "precision": Share(right, predicted).numbers,
            "recall": Share(right, true).numbers,
            "f1": f1_of(right, predicted, true),
        }
        for name, right, predicted, true in zip(names, *answers.counts.tolist(), strict=True)
    ]


def f1_of(right: float, predicted: float, true: float) -> tuple[float, float, float]:
    """The F1 of a class and the ends of its interval, from the rows that are right, predicted, and of the class.

    F1 is 2J / (1 + J) of the share J of right ones among the rows that have the label, are given it, or both; its
    interval is that of J, carried over.
    """
    value, low, high = (2 * number / (1 + number) for number in Share(right, predicted + true - right).numbers)
    return value, low, high


def reliability(answers: Evaluation, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answers by how sure they are, with every logit divided by the temperature, in `BINS` bins: rows, mean probability
    and share of right ones, (BINS,) each."""
    sure = softmax(np.log(np.maximum(answers.probabilities, LEAST)) / temperature).max(-1)
    bins = bins_of(sure)
    rows = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        means, right = (np.bincount(bins, weights=each, minlength=BINS) / rows for each in (sure, answers.right))
    return rows, means, right


def most_confused(confusion: np.ndarray, names: Sequence[str], limit: int) -> list[dict[str, Any]]:
    """The cells off the diagonal with most rows."""
    wrong = confusion * (1 - np.eye(len(confusion), dtype=confusion.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    places = [divmod(int(cell), len(confusion)) for cell in order]
    return [
        {"truth": names[i], "answer": names[j], "rows": int(wrong[i, j]), "share": wrong[i, j] / confusion[i].sum()}
        for i, j in places
        if wrong[i, j] > 0
    ]
