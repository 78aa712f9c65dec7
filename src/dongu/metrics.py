"""The metrics of a task, computed here and offline, each with its interval and its baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dongu import multi_label
from dongu.config import Task
from dongu.data.glue import glue_task
from dongu.errors import UsageError
from dongu.multi_label import DEFAULT_THRESHOLD, Ranking, best_threshold, sigmoid

RESAMPLES = 1000
CONFIDENCE = 0.95
BOOTSTRAP_CELLS = 10_000_000  # of confusion matrices, or of counts of rows, held at a time: 80 MB

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


def pearson(values: np.ndarray, targets: np.ndarray) -> float:
    """Linear correlation; NaN where either is constant."""
    x, y = values - values.mean(), targets - targets.mean()
    return float(_ratio((x * y).sum(), np.sqrt((x * x).sum() * (y * y).sum()), nothing=np.nan))


def spearman(values: np.ndarray, targets: np.ndarray) -> float:
    """Correlation of the ranks; NaN where either is constant."""
    from scipy.stats import rankdata  # most of a second to import, and only regression needs it

    return pearson(rankdata(values), rankdata(targets))


CLASS_METRICS: dict[str, ConfusionMetric] = {
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews_correlation": matthews_correlation,
}
NUMBER_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "pearson": pearson,
    "spearman": spearman,
}
SET_METRICS: dict[str, ConfusionMetric] = {
    "macro_f1": multi_label.macro_f1,
    "micro_f1": multi_label.micro_f1,
}
RANKED_METRIC = "average_precision"  # of several labels a row; it asks for the order of the rows, not for counts


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
            names, default = (RANKED_METRIC, *SET_METRICS), RANKED_METRIC
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
        metric = self.main if self.main in SET_METRICS else "macro_f1"
        return best_threshold(sigmoid(logits), targets, metric)

    def compute(
        self, logits: np.ndarray, targets: np.ndarray, threshold: float = DEFAULT_THRESHOLD
    ) -> dict[str, float]:
        """Each metric of (rows, labels) logits against (rows,) or (rows, labels) targets."""
        if self.task == "multi-label":
            samples = self._resampled_sets(logits, targets, threshold, np.ones((1, len(targets))))
            return {name: float(values[0]) for name, values in samples.items()}
        if self.task == "regression":
            values = logits[:, 0].astype(np.float64)
            return {name: NUMBER_METRICS[name](values, targets.astype(np.float64)) for name in self.names}
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
            ranked = [{RANKED_METRIC: float(value)} for value in ranking.average_precision(everyone)]
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

    def better(self, new: float, old: float | None) -> bool:
        """Whether a value of the main metric beats the best so far; NaN never does, an equal value does not."""
        if np.isnan(new):
            return False
        if old is None or np.isnan(old):
            return True
        return new < old if self.main == "loss" else new > old

    def intervals(
        self,
        logits: np.ndarray,
        targets: np.ndarray,
        losses: np.ndarray,
        seed: int,
        threshold: float = DEFAULT_THRESHOLD,
    ) -> dict[str, tuple[float, float]]:
        """95% bootstrap intervals over the rows, of `loss` and of each metric."""
        random = np.random.default_rng([seed, 0xB007])
        rows = len(targets)
        samples: dict[str, Any] = {}
        if self.task == "regression":
            values, numbers = logits[:, 0].astype(np.float64), targets.astype(np.float64)
            drawn = [random.integers(0, rows, rows) for _ in range(RESAMPLES)]
            for name in self.names:
                samples[name] = [NUMBER_METRICS[name](values[sample], numbers[sample]) for sample in drawn]
        elif self.task == "multi-label":
            batches = []
            for start in range(0, RESAMPLES, batch := max(1, BOOTSTRAP_CELLS // rows)):
                count = min(batch, RESAMPLES - start)
                weights = [np.bincount(random.integers(0, rows, rows), minlength=rows) for _ in range(count)]
                batches.append(self._resampled_sets(logits, targets, threshold, np.array(weights, np.float64)))
            samples = {name: np.concatenate([values[name] for values in batches]) for name in self.names}
        else:
            confusion = confusion_matrix(logits.argmax(-1), targets, len(self.label_names))
            # Drawing rows anew and counting is drawing the counts from a multinomial: same law, no row touched.
            shares = confusion.ravel() / rows
            batch = max(1, BOOTSTRAP_CELLS // confusion.size)
            drawn_metrics: dict[str, list[np.ndarray]] = {name: [] for name in self.names}
            for start in range(0, RESAMPLES, batch):
                cells = random.multinomial(rows, shares, size=min(batch, RESAMPLES - start))
                resampled = cells.reshape(-1, *confusion.shape)
                for name in self.names:
                    drawn_metrics[name].append(CLASS_METRICS[name](resampled))
            samples = {name: np.concatenate(values) for name, values in drawn_metrics.items()}
        samples["loss"] = [losses[random.integers(0, rows, rows)].mean() for _ in range(RESAMPLES)]
        tail = (1 - CONFIDENCE) / 2
        return {
            name: (float(np.nanquantile(sample, tail)), float(np.nanquantile(sample, 1 - tail)))
            if not np.isnan(sample).all()
            else (float("nan"), float("nan"))
            for name, sample in samples.items()
        }

    def baseline(self, train_targets: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """The metrics of always saying train's most frequent class; none for numbers, where they are undefined.

        Where a row has several labels: of the same answer to every row, the share of train that has each label, at
        the threshold that is best on train.
        """
        if self.task == "regression":
            return {}
        if self.task == "multi-label":
            shares = np.clip(train_targets.mean(0, dtype=np.float64), 1e-6, 1 - 1e-6)
            logits = np.log(shares / (1 - shares))
            threshold = self.best_threshold(np.tile(logits, (len(train_targets), 1)), train_targets)
            return self.compute(np.tile(logits, (len(targets), 1)), targets, threshold)
        majority = int(np.bincount(train_targets, minlength=len(self.label_names)).argmax())
        constant = np.full(len(targets), majority)
        confusion = confusion_matrix(constant, targets, len(self.label_names))
        return {name: float(CLASS_METRICS[name](confusion)) for name in self.names}

    def _resampled_sets(
        self, logits: np.ndarray, targets: np.ndarray, threshold: float, weights: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Each metric of several labels a row, (samples,), where `weights` counts each row, (samples, rows)."""
        ranking = Ranking.of(sigmoid(logits), targets, threshold)
        counts = ranking.counts(weights)
        return {
            name: SET_METRICS[name](counts)
            if name in SET_METRICS
            else np.array([multi_label.mean_average_precision(ranking, sample) for sample in weights])
            for name in self.names
        }


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
