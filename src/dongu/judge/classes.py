"""What answers come to: each class with its intervals, what was confused, how far probabilities are to be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dongu.judge.answers import LEAST, Answers
from dongu.judge.calibration import BINS

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


@dataclass(frozen=True)
class ClassRow:
    """How well one class, or one label, is told: each a value with the ends of its interval."""

    name: str
    rows: int
    precision: tuple[float, float, float]
    recall: tuple[float, float, float]
    f1: tuple[float, float, float]


def class_rows(answers: Answers) -> list[ClassRow]:
    """A row a class or label.

    F1 is 2J / (1 + J) of the share J of right ones among the rows that have the label, are given it, or both; its
    interval is that of J, carried over.
    """
    names = answers.label_names
    if answers.task == "multi-label":
        truth, given = answers.targets, answers.given
    else:
        truth, given = (np.eye(len(names), dtype=np.int64)[ids] for ids in (answers.targets, answers.given))
    right, said, true = (truth * given).sum(0), given.sum(0), truth.sum(0)
    rows = []
    for i, name in enumerate(names):
        hit, all_said, all_true = float(right[i]), float(said[i]), float(true[i])
        joint = _numbers(Share(hit, all_said + all_true - hit))
        low, value, high = (2 * number / (1 + number) for number in (joint[1], joint[0], joint[2]))
        rows.append(
            ClassRow(
                name,
                int(true[i]),
                _numbers(Share(hit, all_said)),
                _numbers(Share(hit, all_true)),
                (value, low, high),
            )
        )
    return rows


def _numbers(share: Share) -> tuple[float, float, float]:
    return share.value, *share.ends


@dataclass(frozen=True)
class Reliability:
    """Answers by how sure they are, in `BINS` bins: rows, mean probability and share of right ones, (BINS,) each."""

    rows: np.ndarray
    sure: np.ndarray
    right: np.ndarray


def reliability(answers: Answers, temperature: float = 1.0) -> Reliability:
    """Of classes, with every logit divided by the temperature."""
    logits = np.log(np.maximum(answers.probabilities, LEAST)) / temperature
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    sure = weights.max(-1) / weights.sum(-1)
    bins = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    rows = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        means = [
            np.bincount(bins, weights=each, minlength=BINS) / rows
            for each in (sure, (answers.given == answers.targets).astype(np.float64))
        ]
    return Reliability(rows, *means)


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
