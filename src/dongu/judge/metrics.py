"""The metrics of a task, computed here and offline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dongu.config import DEFAULT_THRESHOLD, Task
from dongu.data.glue import glue_task
from dongu.errors import UsageError
from dongu.judge import ranking as multi_label
from dongu.judge.ranking import Ranking, best_threshold, sigmoid

# Metrics of a confusion matrix (…, truth, prediction), over any number of matrices at once: what a bootstrap asks.
ConfusionMetric = Callable[[np.ndarray], np.ndarray]
# The same where a row has several labels, from the rows' order and how often each row counts, (samples, rows).
SetMetric = Callable[[Ranking, np.ndarray], np.ndarray]


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
SET_METRICS: dict[str, SetMetric] = {
    "average_precision": multi_label.mean_average_precision,
    "macro_f1": lambda ranking, weights: multi_label.macro_f1(ranking.counts(weights)),
    "micro_f1": lambda ranking, weights: multi_label.micro_f1(ranking.counts(weights)),
}


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
        glue = glue_task(hub_name)
        if glue is not None and bool(glue.labels) == (task == "single-label"):
            names, default = glue.metrics, glue.best
        elif task == "regression":
            names, default = ("pearson", "spearman"), "spearman"
        elif task == "multi-label":
            # Not an F1: its threshold is chosen on the same rows, so it also rewards a lucky one.
            names, default = (*SET_METRICS,), "average_precision"
        elif len(label_names) == 2:
            # Not F1: where the positive class is the frequent one, a model that always says it has a high F1.
            names, default = ("accuracy", "f1"), "accuracy"
        else:
            names, default = ("accuracy", "macro_f1"), "macro_f1"
        known = {"regression": {*NUMBER_METRICS}, "multi-label": {*names}}.get(task, {*CLASS_METRICS})
        if main is not None and main != "loss" and (main not in known or (main == "f1" and len(label_names) != 2)):
            raise UsageError(
                f"does not fit a {task} task with {len(label_names)} outputs",
                where=f"--metric {main}",
                hint=f"this task has: loss, {', '.join(names)}",
            )
        if main is not None and main != "loss" and main not in names:
            names = (main, *names)
        return MetricSet(task, tuple(label_names), names, main or default)

    def best_threshold(self, logits: np.ndarray, targets: np.ndarray) -> float:
        """The probability from which on a label is given that is best on these rows.

        Best means the highest macro F1, unless micro F1 is the main metric.
        """
        return best_threshold(sigmoid(logits), targets, "micro_f1" if self.main == "micro_f1" else "macro_f1")

    def compute(
        self, logits: np.ndarray, targets: np.ndarray, threshold: float = DEFAULT_THRESHOLD
    ) -> dict[str, float]:
        """Each metric of (rows, labels) logits against (rows,) or (rows, labels) targets."""
        if self.task == "multi-label":
            ranking = Ranking.of(sigmoid(logits), targets, threshold)
            return {name: float(SET_METRICS[name](ranking, np.ones((1, len(targets))))[0]) for name in self.names}
        if self.task == "regression":
            values = logits[:, 0].astype(np.float64)
            return {name: float(NUMBER_METRICS[name](values, targets.astype(np.float64))) for name in self.names}
        confusion = confusion_matrix(logits.argmax(-1), targets, len(self.label_names))
        return {name: float(CLASS_METRICS[name](confusion)) for name in self.names}

    def per_class(
        self, logits: np.ndarray, targets: np.ndarray, threshold: float = DEFAULT_THRESHOLD
    ) -> list[dict[str, Any]]:
        """Rows, precision, recall and F1 of each class, and its average precision where a row has several."""
        if self.task == "regression":
            return []
        ranked = []
        if self.task == "multi-label":
            ranking = Ranking.of(sigmoid(logits), targets, threshold)
            everyone = np.ones(len(targets))
            right, given, true = ranking.counts(everyone)
            ranked = [{"average_precision": float(value)} for value in ranking.average_precision(everyone)]
        else:
            confusion = confusion_matrix(logits.argmax(-1), targets, len(self.label_names))
            right, given, true = _diagonal(confusion), confusion.sum(-2), confusion.sum(-1)
        return [
            {
                "class": name,
                "rows": int(true[i]),
                "precision": float(_ratio(right[i], given[i])),
                "recall": float(_ratio(right[i], true[i])),
                "f1": float(_ratio(2 * right[i], given[i] + true[i])),
                **(ranked[i] if ranked else {}),
            }
            for i, name in enumerate(self.label_names)
        ]

    def why_undefined(self, targets: np.ndarray) -> str | None:
        """Why these rows' labels, (rows,) or (rows, labels), tell no model from another by the main metric, if so."""
        if self.main == "loss" or not len(targets):
            return None if len(targets) else "has no rows"
        counted = targets.sum(0) if targets.ndim == 2 else np.unique(targets)
        if self.task == "regression":
            return f"has the label {targets[0]:g} in every row" if len(counted) < 2 else None
        if self.task == "multi-label":
            return "has no row with a label" if not counted.any() else None
        if self.main == "f1" and 1 not in counted:
            return f"has no row with the label `{self.label_names[1]}`"
        if self.main == "matthews_correlation" and len(counted) < 2:
            return f"has the label `{self.label_names[int(counted[0])]}` in every row"
        return None

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
