"""What stands in an ejected script word for word: it knows nothing of `dongu`, and gives the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


def judge_labels(truth: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """Mean average precision, and from which probability on macro F1 is best; of equals the highest."""
    cuts, precisions = np.append(np.unique(probabilities)[::-1], 0), np.zeros(truth.shape[1])
    f1, present = np.zeros(len(cuts) - 1), np.zeros(len(cuts) - 1)  # sums over the labels, at each cut
    for label, (true, sure) in enumerate(zip(truth.T, np.sort(probabilities, axis=0).T, strict=True)):
        hits = np.sort(probabilities[true == 1, label])
        given, right = (len(rows) - np.searchsorted(rows, cuts[:-1]) for rows in (sure, hits))
        f1, present = f1 + 2 * right / np.maximum(given + len(hits), 1), present + (given + len(hits) > 0)
        precision = (len(hits) - np.searchsorted(hits, hits)) / (len(sure) - np.searchsorted(sure, hits))
        precisions[label] = np.cumsum(precision[::-1])[-1] / len(hits) if len(hits) else 0  # the surest first
    best = (f1 / present >= (f1 / present).max() - 1e-12).argmax()
    return float(precisions.sum() / truth.any(0).sum()), float(cuts[best] + cuts[best + 1]) / 2


def judge_labels_together(truth: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """Mean average precision, and from which probability on micro F1 is best; of equals the highest."""
    cuts, precisions = np.append(np.unique(probabilities)[::-1], 0), np.zeros(truth.shape[1])
    given, right = (np.sort(sure, axis=None) for sure in (probabilities, probabilities[truth == 1]))
    given, right = (len(sure) - np.searchsorted(sure, cuts[:-1]) for sure in (given, right))
    for label in np.flatnonzero(truth.any(0)):
        sure, hits = np.sort(probabilities[:, label]), np.sort(probabilities[truth[:, label] == 1, label])
        precision = (len(hits) - np.searchsorted(hits, hits)) / (len(sure) - np.searchsorted(sure, hits))
        precisions[label] = np.cumsum(precision[::-1])[-1] / len(hits)  # the surest first
    f1 = 2 * right / (given + truth.sum())
    best = (f1 >= f1.max() - 1e-12).argmax()
    return float(precisions.sum() / truth.any(0).sum()), float(cuts[best] + cuts[best + 1]) / 2


def pearson(truth: np.ndarray, answers: np.ndarray) -> float:
    """Linear correlation; undefined where either is constant."""
    x, y = answers - answers.mean(), truth - truth.mean()
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


def ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each value from 1 on; equal ones share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[places])


@dataclass(frozen=True)
class PlainMetric:
    """How a script computes one: an expression, the lines before it, and the functions that it calls.

    `truth` and `predicted` are (rows,) classes, or `truth` and `given` (rows, labels), 1 for a label of the row, and
    the `average_precision`; or `truth` and `answers` are (rows,) numbers.
    """

    expression: str
    lines: tuple[str, ...] = ()
    functions: tuple[Callable[..., Any], ...] = ()


MACRO_F1 = PlainMetric(
    "float(f1.sum() / (total > 0).sum())",  # over the labels that occur or are given
    (
        "total = truth.sum(0) + given.sum(0)  # of each label",
        "f1 = 2 * (truth * given).sum(0) / np.maximum(total, 1)",
    ),
)
METRICS: dict[str, dict[str, PlainMetric]] = {
    "single-label": {
        "accuracy": PlainMetric("float((truth == predicted).mean())"),
        "f1": PlainMetric("float(2 * (truth * predicted).sum() / max(1, (truth + predicted).sum()))"),
        "macro_f1": PlainMetric(
            MACRO_F1.expression,
            (
                "total = true.sum(0) + given.sum(0)  # of each class",
                "f1 = 2 * (true * given).sum(0) / np.maximum(total, 1)",
            ),
        ),
        "matthews_correlation": PlainMetric(
            "float(covariance / np.sqrt(spread)) if spread else 0.0",
            (
                "covariance = len(truth) * (truth == predicted).sum() - (true.sum(0) * given.sum(0)).sum()",
                "spread = np.prod([len(truth) ** 2 - (classes.sum(0) ** 2).sum() for classes in (true, given)])",
            ),
        ),
    },
    "multi-label": {
        "average_precision": PlainMetric("average_precision"),
        "macro_f1": MACRO_F1,
        "micro_f1": PlainMetric("float(2 * (truth * given).sum() / max(1, truth.sum() + given.sum()))"),
    },
    "regression": {
        "pearson": PlainMetric("pearson(truth, answers)", functions=(pearson,)),
        "spearman": PlainMetric("pearson(ranks(truth), ranks(answers))", functions=(pearson, ranks)),
        "mae": PlainMetric("float(np.abs(truth - answers).mean())"),
        "rmse": PlainMetric("float(np.sqrt(((truth - answers) ** 2).mean()))"),
        "r2": PlainMetric("float(1 - ((truth - answers) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())"),
    },
}
ONE_HOT = "true, given = np.eye(len(LABELS))[truth], np.eye(len(LABELS))[predicted]  # (rows, labels)"


def metric_lines(task: str, names: Sequence[str]) -> list[str]:
    """What stands before the expressions of these metrics."""
    lines = [line for name in names for line in METRICS[task][name].lines]
    return [ONE_HOT, *lines] if lines and task == "single-label" else lines
