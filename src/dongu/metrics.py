"""The metrics of a task, computed here and offline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dongu.config import Task
from dongu.errors import UsageError

# Metrics of a confusion matrix (…, truth, prediction), over any number of matrices at once: what a bootstrap asks.
ConfusionMetric = Callable[[np.ndarray], np.ndarray]


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of the rows that are right."""
    return _ratio(_diagonal(confusion).sum(-1), confusion.sum((-2, -1)))


def class_f1(confusion: np.ndarray) -> np.ndarray:
    """F1 of each class, (…, labels); 0 for a class that neither occurs nor is predicted."""
    return _ratio(2 * _diagonal(confusion), confusion.sum(-1) + confusion.sum(-2))


def f1(confusion: np.ndarray) -> np.ndarray:
    """F1 of the second class, the positive one of two."""
    return np.asarray(class_f1(confusion)[..., 1])


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Mean F1 over the classes that occur or are predicted."""
    present = (confusion.sum(-1) + confusion.sum(-2)) > 0
    return _ratio((class_f1(confusion) * present).sum(-1), present.sum(-1))


def matthews_correlation(confusion: np.ndarray) -> np.ndarray:
    """Correlation between truth and prediction; 0 where either is constant."""
    confusion = confusion.astype(np.float64)  # the fourth power of a row count overflows an integer
    truth, predicted, rows = confusion.sum(-1), confusion.sum(-2), confusion.sum((-2, -1))
    covariance = _diagonal(confusion).sum(-1) * rows - (truth * predicted).sum(-1)
    spread = (rows**2 - (truth**2).sum(-1)) * (rows**2 - (predicted**2).sum(-1))
    return _ratio(covariance, np.sqrt(spread))


def pearson(values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Linear correlation over the last axis; NaN where either is constant."""
    x, y = (numbers - numbers.mean(-1, keepdims=True) for numbers in (values, targets))
    return _ratio((x * y).sum(-1), np.sqrt((x * x).sum(-1) * (y * y).sum(-1)), nothing=np.nan)


def spearman(values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Correlation of the ranks; NaN where either is constant."""
    from scipy.stats import rankdata  # most of a second to import, and only regression needs it

    return pearson(rankdata(values), rankdata(targets))


CLASS_METRICS: dict[str, ConfusionMetric] = {
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews_correlation": matthews_correlation,
}
NUMBER_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "pearson": pearson,
    "spearman": spearman,
}

# GLUE tasks whose set differs from what their labels alone suggest.
GLUE_METRICS: dict[str, tuple[str, ...]] = {"glue:cola": ("matthews_correlation", "accuracy", "f1")}


@dataclass(frozen=True)
class MetricSet:
    """The metrics of a run, in the order in which they are shown, and the one that chooses the best model."""

    task: Task
    label_names: tuple[str, ...]
    names: tuple[str, ...]
    main: str

    @staticmethod
    def of(task: Task, label_names: Sequence[str], hub_name: str | None = None, main: str | None = None) -> MetricSet:
        """The set that fits the task; `main` overrides which of them (or `loss`) chooses.

        Raises:
            UsageError: `main` does not fit the task.
        """
        names: tuple[str, ...]
        if task == "regression":
            names, default = ("pearson", "spearman"), "spearman"
        elif hub_name in GLUE_METRICS:
            names = GLUE_METRICS[hub_name]
            default = names[0]
        elif len(label_names) == 2:
            # Not F1: where the positive class is the frequent one, a model that always says it has a high F1.
            names, default = ("accuracy", "f1"), "accuracy"
        else:
            names, default = ("accuracy", "macro_f1"), "macro_f1"
        known = {*NUMBER_METRICS} if task == "regression" else {*CLASS_METRICS}
        if main is not None and main != "loss" and (main not in known or (main == "f1" and len(label_names) != 2)):
            raise UsageError(
                f"does not fit a {task} task with {len(label_names)} outputs",
                where=f"--metric {main}",
                hint=f"this task has: loss, {', '.join(names)}",
            )
        if main is not None and main != "loss" and main not in names:
            names = (main, *names)
        return MetricSet(task, tuple(label_names), names, main or default)

    def compute(self, logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Each metric of (rows, labels) logits against (rows,) targets."""
        if self.task == "regression":
            values = logits[:, 0].astype(np.float64)
            return {name: float(NUMBER_METRICS[name](values, targets.astype(np.float64))) for name in self.names}
        confusion = confusion_matrix(logits.argmax(-1), targets, len(self.label_names))
        return {name: float(CLASS_METRICS[name](confusion)) for name in self.names}

    def better(self, new: float, old: float | None) -> bool:
        """Whether a value of the main metric beats the best so far; NaN never does, an equal value does not."""
        if np.isnan(new):
            return False
        if old is None or np.isnan(old):
            return True
        return new < old if self.main == "loss" else new > old


def confusion_matrix(predictions: np.ndarray, targets: np.ndarray, labels: int) -> np.ndarray:
    """Counts of (truth, prediction), (labels, labels) int64."""
    cells = np.bincount(targets.astype(np.int64) * labels + predictions, minlength=labels * labels)
    counts: np.ndarray = cells.reshape(labels, labels).astype(np.int64)
    return counts


def _diagonal(confusion: np.ndarray) -> np.ndarray:
    diagonal: np.ndarray = np.diagonal(confusion, axis1=-2, axis2=-1)
    return diagonal


def _ratio(numerator: Any, denominator: Any, nothing: float = 0.0) -> np.ndarray:
    """Division where 0 / 0 has a value."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    quotient: np.ndarray = np.full(np.shape(denominator), nothing)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient
