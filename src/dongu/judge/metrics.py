"""The metrics of a task, computed here and offline."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dongu.config import LOWER_IS_BETTER, NUMBERS, Task
from dongu.data.glue import glue_task
from dongu.errors import UsageError
from dongu.judge import numeric
from dongu.judge import ranking as multi_label
from dongu.judge.answers import Evaluation
from dongu.judge.ranking import GroupedRanking, Ranking, best_threshold, ratio, sigmoid
from dongu.judge.resample import Statistic, sums_by
from dongu.text import kind_of_part

# Metrics of classes from their counts (3, …, labels), over any number of samples at once: what a bootstrap asks. Of
# many classes a confusion matrix would hold a hundred million numbers.
CountsMetric = Callable[[np.ndarray], np.ndarray]
# The same where a row has several labels, from the rows' order and how often each row counts, (draws, rows).
SetMetric = Callable[[Ranking | GroupedRanking, np.ndarray], np.ndarray]
# The user's own: larger is better.
OwnMetric = Callable[[Evaluation], float]


def accuracy(counts: np.ndarray) -> np.ndarray:
    """Share of the rows that are right."""
    return ratio(counts[0].sum(-1), counts[2].sum(-1))


def matthews_correlation(counts: np.ndarray) -> np.ndarray:
    """Correlation between truth and prediction; 0 where either is constant."""
    right, predicted, truth = counts.astype(np.float64)  # the fourth power of a row count overflows an integer
    rows = truth.sum(-1)
    covariance = right.sum(-1) * rows - (truth * predicted).sum(-1)
    spread = (rows**2 - (truth**2).sum(-1)) * (rows**2 - (predicted**2).sum(-1))
    return ratio(covariance, np.sqrt(spread))


CLASS_METRICS: dict[str, CountsMetric] = {
    "accuracy": accuracy,
    "f1": lambda counts: multi_label.label_f1(counts)[..., 1],  # of the second class, the positive one
    "macro_f1": multi_label.label_macro_f1,
    "matthews_correlation": matthews_correlation,
}
NUMBER_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], Statistic]] = {
    "pearson": numeric.pearson_of,
    "spearman": numeric.spearman_of,
    "mae": numeric.mae_of,
    "rmse": numeric.rmse_of,
    "r2": numeric.r2_of,
}
INFLUENCES = {"pearson": numeric.pearson_influence, "spearman": numeric.spearman_influence}
MEAN_INFLUENCES = {  # of functions of means, of which those of many rows are normal
    "mae": numeric.mae_influence,
    "rmse": numeric.rmse_influence,
    "r2": numeric.r2_influence,
    "quadratic_kappa": numeric.kappa_influence,
}
# Of an ordinal task: the answers are rounded to the nearest class.
SCALE_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], Statistic]] = {
    "quadratic_kappa": numeric.quadratic_kappa_of,
    "accuracy": lambda values, targets: numeric.mean_of(values == targets),
    "mae": numeric.mae_of,
}
CORRELATIONS = ("pearson", "spearman")  # which a constant answer has none of
SET_METRICS: dict[str, SetMetric] = {
    "average_precision": multi_label.mean_average_precision,
    "macro_f1": lambda ranking, weights: multi_label.label_macro_f1(ranking.counts(weights)),
    "micro_f1": lambda ranking, weights: multi_label.label_micro_f1(ranking.counts(weights)),
}
OF_TASK: dict[str, Mapping[str, Any]] = {
    "single-label": CLASS_METRICS,
    "multi-label": SET_METRICS,
    "regression": NUMBER_METRICS,
    "ordinal": SCALE_METRICS,
}
# What is shown, and what chooses. F1 of two classes does not: where the positive one is frequent, a model that always
# says it has a high F1. Nor does that of several labels: its threshold is chosen on the same rows, so it also rewards a
# lucky one.
USUAL: dict[str, tuple[tuple[str, ...], str]] = {
    "two classes": (("accuracy", "f1"), "accuracy"),
    "single-label": (("accuracy", "macro_f1"), "macro_f1"),
    "multi-label": ((*SET_METRICS,), "average_precision"),
    "regression": (("pearson", "spearman", "mae"), "spearman"),
    "ordinal": ((*SCALE_METRICS,), "quadratic_kappa"),
}
MOVED_GROUPS, STEP = 1_000, 1e-6  # of rows, and by which share of all rows a group is moved
NAMED = frozenset({"loss"}.union(*OF_TASK.values()))  # what is no own metric
TAKEN = NAMED | {"calibration_error", "event", "step", "split"}  # keys of the files that metrics are written to


def statistic(evaluation: Evaluation, name: str) -> Statistic:
    """A named metric, or the mean loss, of samples of the rows."""
    targets = np.asarray(evaluation.targets)
    if name == "loss":
        return numeric.mean_of(np.asarray(evaluation.losses))
    if evaluation.task == "multi-label":
        return lambda weights: SET_METRICS[name](evaluation.ranking, weights)
    if evaluation.task in NUMBERS:
        made: Statistic = OF_TASK[evaluation.task][name](evaluation.predictions, targets.astype(np.float64))
        return made
    labels, given = evaluation.logits.shape[1], evaluation.predictions
    of_truth, of_given, right = sums_by(targets, labels), sums_by(given, labels), targets == given
    return lambda weights: CLASS_METRICS[name](
        np.stack([of_truth(weights * right), of_given(weights), of_truth(weights)])  # (3, draws, labels)
    )


def influence(evaluation: Evaluation, name: str) -> np.ndarray:
    """How far each row moves a named metric, or the mean loss, times the rows, (rows,): the derivative by its weight.

    Rows of classes that answer alike move it alike. Of many rows of several labels, those of a group are moved at once.
    """
    rows = len(evaluation)
    if name == "loss":
        return np.asarray(evaluation.losses) - metric_value(evaluation, name)
    if name in INFLUENCES:
        return INFLUENCES[name](evaluation)
    places, base = np.arange(rows) % MOVED_GROUPS, np.ones(rows)
    groups = places  # of each row of `evaluation`
    if evaluation.task == "single-label":
        codes = np.asarray(evaluation.targets) * evaluation.logits.shape[1] + evaluation.predictions
        _, kinds, places = np.unique(codes, return_index=True, return_inverse=True)
        base = np.bincount(places).astype(np.float64)
        evaluation, groups = evaluation.take(kinds), np.arange(len(kinds))
    of, members = statistic(evaluation, name), np.bincount(groups)
    moved = [of((base + STEP * rows / members[i] * (groups == i))[None])[0] for i in range(len(members))]
    changes = (np.array(moved) - of(base[None])[0]) / STEP
    return np.asarray(changes[places])


def metric_value(evaluation: Evaluation, name: str) -> float:
    """A named metric of all rows, or the mean loss."""
    if name == "loss":
        return math.fsum(np.asarray(evaluation.losses)) / len(evaluation)
    if evaluation.task == "single-label":
        return float(CLASS_METRICS[name](evaluation.counts))
    return float(statistic(evaluation, name)(np.ones((1, len(evaluation))))[0])


@dataclass(frozen=True)
class MetricSet:
    """The metrics of a run, in the order in which they are shown, and the one that chooses the best model.

    `own` are the user's: functions of an evaluation, of whose numbers the larger is the better one.
    """

    task: Task
    label_names: tuple[str, ...]
    names: tuple[str, ...]
    main: str
    own: Mapping[str, OwnMetric] = field(default_factory=dict)

    @staticmethod
    def of(
        task: Task,
        label_names: Sequence[str],
        hub_name: str | None = None,
        main: str | None = None,
        own: Mapping[str, OwnMetric] | None = None,
    ) -> MetricSet:
        """The set that fits the task, and the `own` behind it; `main` overrides which of them (or `loss`) chooses.

        Raises:
            UsageError: `main` does not fit the task, or an own metric has a name that is taken or no function.
        """
        own = own or {}
        for name, metric in own.items():
            if name in TAKEN or not name.isidentifier() or not callable(metric):
                what = "is taken" if name in TAKEN else "is no name" if callable(metric) else "is no function"
                hint = "a metric of your own takes an evaluation and returns a number: metrics={'kappa': kappa}"
                raise UsageError(what, where=f"metrics[{name!r}]", hint=hint)
        glue = glue_task(hub_name)
        names, default = USUAL["two classes" if task == "single-label" and len(label_names) == 2 else task]
        if glue is not None and bool(glue.labels) == (task == "single-label"):
            names, default = glue.metrics, glue.best
        names = (*names, *own)
        known = {*OF_TASK[task], *own}
        if main is not None and main != "loss" and (main not in known or (main == "f1" and len(label_names) != 2)):
            raise UsageError(
                f"does not fit a {task} task with {len(label_names)} outputs",
                where=f"--metric {main}",
                hint=f"this task has: loss, {', '.join(names)}",
            )
        if main is not None and main != "loss" and main not in names:
            names = (main, *names)
        return MetricSet(task, tuple(label_names), names, main or default, own)

    @staticmethod
    def recorded(task: Task, label_names: Sequence[str], hub_name: str | None, main: str) -> MetricSet:
        """The set of a run that is read back, without the functions of its own metrics, which are not here."""
        return MetricSet.of(task, label_names, hub_name, main if main in NAMED else None)

    @property
    def scale(self) -> tuple[float, ...]:
        """The classes of an ordinal task as numbers; none of another."""
        return tuple(map(float, self.label_names)) if self.task == "ordinal" else ()

    def best_threshold(self, logits: np.ndarray, targets: np.ndarray) -> float:
        """The probability from which on a label is given that is best on these rows.

        Best means the highest macro F1, unless micro F1 is the main metric.
        """
        return best_threshold(sigmoid(logits), targets, "micro_f1" if self.main == "micro_f1" else "macro_f1")

    def values(self, evaluation: Evaluation) -> dict[str, float]:
        """The mean loss and each metric of labelled rows; an own metric that is not finite is undefined: NaN.

        Raises:
            UsageError: an own metric gives something else than a number.
        """
        return {
            name: self._own_value(name, evaluation) if name in self.own else metric_value(evaluation, name)
            for name in ("loss", *self.names)
        }

    def _own_value(self, name: str, evaluation: Evaluation) -> float:
        value = self.own[name](evaluation)
        try:
            return float(value) if math.isfinite(value) else math.nan
        except (TypeError, ValueError) as error:
            what = f"returns {kind_of_part(value)}, not a number"
            raise UsageError(what, where=f"metrics[{name!r}]", hint="return a float, such as value.mean()") from error

    def per_class(self, evaluation: Evaluation) -> list[dict[str, Any]]:
        """Rows, precision, recall and F1 of each class, and its average precision where a row has several."""
        if self.task in NUMBERS:
            return []
        right, predicted, true = evaluation.counts
        table = [
            {
                "class": name,
                "rows": int(true[i]),
                "precision": float(ratio(right[i], predicted[i])),
                "recall": float(ratio(right[i], true[i])),
                "f1": float(ratio(2 * right[i], predicted[i] + true[i])),
            }
            for i, name in enumerate(self.label_names)
        ]
        if self.task == "multi-label":
            [values] = evaluation.ranking.average_precisions(np.ones((1, len(evaluation))))
            for row, value in zip(table, values.tolist(), strict=True):
                row["average_precision"] = value
        return table

    def why_undefined(self, targets: np.ndarray) -> str | None:
        """Why these rows' labels, (rows,) or (rows, labels), tell no model from another by the main metric, if so."""
        if self.main == "loss" or self.main in self.own or not len(targets):
            return None if len(targets) else "has no rows"
        counted = targets.sum(0) if targets.ndim == 2 else np.unique(targets)
        if self.task in NUMBERS:
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
        return new < old if self.main in LOWER_IS_BETTER else new > old
