"""How far a number can be trusted: each metric with its interval, beside what an answer without reading reaches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from dongu.config import DEFAULT_THRESHOLD, Task
from dongu.judge.answers import Evaluation
from dongu.judge.calibration import binned_error, bins_of, confidence
from dongu.judge.metrics import (
    CLASS_METRICS,
    SET_METRICS,
    ConfusionMetric,
    MetricSet,
    SetMetric,
    confusion_matrix,
    pearson,
)
from dongu.judge.ranking import Ranking, sigmoid
from dongu.judge.resample import chunks, middle, missed_share
from dongu.model.loss import row_losses

CONSTANT_ANSWERS: dict[Task, str] = {  # what an answer without reading is called beside each metric
    "single-label": "majority class",
    "multi-label": "label shares",
    "regression": "train mean",
}
RARE = 1e-6  # the least share of a label, and the least lack of it, that a constant answer says: its loss is finite
RESAMPLES = 1000
DRAWN_CELLS = 1_000_000  # rows, or cells of confusion matrices, that are drawn at a time: 8 MB an array

# The value of a metric on each of many resamples, (draws,), from their rows' numbers, (draws, rows).
Statistic = Callable[[np.ndarray], np.ndarray]


def verdict(
    evaluation: Evaluation,
    metrics: MetricSet,
    constant: Sequence[float] | None,
    seed: int,
) -> dict[str, dict[str, float]]:
    """What `results.json` says of a split: each metric's `value`, `low` and `high`, and its `baseline`.

    Classes have a `calibration_error` too, with what `chance` would show of it on as many rows if every probability
    were true. Empty for hidden labels.
    """
    targets, losses = evaluation.targets, evaluation.losses
    if targets is None or losses is None:
        return {}
    drawn = _draw(_statistics(metrics, evaluation, targets, losses), len(targets), metrics, seed)
    entries = {}
    for name, value in evaluation.metrics.items():
        low, high = middle(drawn[name])
        if low == high and metrics.task == "single-label" and name in CLASS_METRICS:
            confusion = confusion_matrix(evaluation.logits.argmax(-1), targets, len(metrics.label_names))
            low, high = _unseen(CLASS_METRICS[name], confusion)
        if low == high and metrics.task == "multi-label" and name in SET_METRICS:
            low, high = _unseen_sets(SET_METRICS[name], sigmoid(evaluation.logits), targets, evaluation.threshold)
        entries[name] = {"value": value, "low": low, "high": high}
    if constant is not None:
        for name, value in baseline(metrics, constant, targets).items():
            entries[name]["baseline"] = value
    if metrics.task == "single-label":
        entries["calibration_error"] = _calibration_entry(evaluation.logits, targets, drawn["calibration_error"], seed)
    return entries


def constant_answer(metrics: MetricSet, train_targets: np.ndarray | None) -> list[float] | None:
    """The best to say without reading: the share of train of each class or label, or the mean of their numbers."""
    if train_targets is None:
        return None
    if metrics.task == "regression":
        return [float(train_targets.astype(np.float64).mean())]
    if metrics.task == "multi-label":
        return [float(share) for share in train_targets.mean(0, dtype=np.float64)]
    counts = np.bincount(train_targets, minlength=len(metrics.label_names))
    return [float(share) for share in counts / len(train_targets)]


def baseline(metrics: MetricSet, constant: Sequence[float], targets: np.ndarray) -> dict[str, float]:
    """The metrics of always giving the constant answer; as a class it is the most frequent one.

    Labels are given by their shares, from the share on that is best on train. The loss of classes' shares is infinite
    where a class occurs that train lacks, and a correlation with a constant is NaN.
    """
    row, threshold = np.array(constant), DEFAULT_THRESHOLD
    if metrics.task == "multi-label":
        shares = row.clip(RARE, 1 - RARE)
        row = np.log(shares / (1 - shares))
        threshold = metrics.best_threshold(row[None], np.array([constant]))
    if metrics.task == "single-label":
        with np.errstate(divide="ignore"):
            row = np.log(row)
    logits = np.tile(row, (len(targets), 1))  # (rows, labels)
    losses = row_losses(metrics.task, torch.from_numpy(logits), torch.from_numpy(targets)).numpy()
    values = metrics.compute(logits, targets, threshold)
    if metrics.task == "regression":  # by rounding, the mean of so many equal numbers may be another
        values = dict.fromkeys(values, math.nan)
    return {"loss": float(losses.mean()), **values}


def _statistics(
    metrics: MetricSet, evaluation: Evaluation, targets: np.ndarray, losses: np.ndarray
) -> dict[str, Statistic]:
    """`loss`, each metric, and for classes the calibration error."""
    logits = evaluation.logits
    found: dict[str, Statistic] = {"loss": lambda rows: losses[rows].mean(-1)}
    if metrics.task == "regression":
        return found | _number_statistics(logits[:, 0].astype(np.float64), targets.astype(np.float64))
    if metrics.task == "multi-label":
        ranking = Ranking.of(sigmoid(logits), targets, evaluation.threshold)
        return found | {name: _of_sets(SET_METRICS[name], ranking) for name in metrics.names}
    labels = len(metrics.label_names)
    cells = targets.astype(np.int64) * labels + logits.argmax(-1)  # of a confusion matrix

    def confusions(rows: np.ndarray) -> np.ndarray:
        first = labels**2 * np.arange(len(rows))[:, None]
        counts = np.bincount((cells[rows] + first).ravel(), minlength=len(rows) * labels**2)
        return counts.reshape(-1, labels, labels)

    def of_confusions(metric: ConfusionMetric) -> Statistic:
        return lambda rows: metric(confusions(rows))

    sure = confidence(logits)
    bins, gaps = bins_of(sure), sure - (logits.argmax(-1) == targets)
    found |= {name: of_confusions(CLASS_METRICS[name]) for name in metrics.names}
    return found | {"calibration_error": lambda rows: binned_error(bins[rows], gaps[rows])}


def _of_sets(metric: SetMetric, ranking: Ranking) -> Statistic:
    """A metric of labels that are sorted once: a resample only counts each row more or less often."""

    def statistic(rows: np.ndarray) -> np.ndarray:
        first = rows.shape[1] * np.arange(len(rows))[:, None]
        weights = np.bincount((rows + first).ravel(), minlength=rows.size).reshape(rows.shape)
        return metric(ranking, weights.astype(np.float64))

    return statistic


def _number_statistics(values: np.ndarray, numbers: np.ndarray) -> dict[str, Statistic]:
    # Ranks want the order of the values alone, and whole numbers are counted where values would have to be sorted.
    orders = [np.unique(column, return_inverse=True)[1] for column in (values, numbers)]
    return {
        "pearson": lambda rows: pearson(values[rows], numbers[rows]),
        "spearman": lambda rows: pearson(*(_ranks(order[rows]) for order in orders)),
    }


def _ranks(order: np.ndarray) -> np.ndarray:
    """Ranks within each row of (draws, rows) whole numbers from 0; equal ones share the mean of theirs."""
    kinds = int(order.max()) + 1
    first = kinds * np.arange(len(order))[:, None]
    counts = np.bincount((order + first).ravel(), minlength=len(order) * kinds).reshape(-1, kinds)
    middles = counts.cumsum(axis=-1) - (counts - 1) / 2
    return np.take_along_axis(middles, order, axis=-1)


def _draw(statistics: dict[str, Statistic], rows: int, metrics: MetricSet, seed: int) -> dict[str, np.ndarray]:
    """Each statistic on each resample, (RESAMPLES,): the bootstrap. All see the same resamples."""
    random = np.random.default_rng([seed, 0xB007])
    values: dict[str, list[np.ndarray]] = {name: [] for name in statistics}
    for draws in chunks(RESAMPLES, DRAWN_CELLS // max(rows, len(metrics.label_names) ** 2)):
        drawn = random.integers(0, rows, (draws, rows))
        for name, statistic in statistics.items():
            values[name].append(statistic(drawn))
    return {name: np.concatenate(parts) for name, parts in values.items()}


def _unseen(metric: ConfusionMetric, confusion: np.ndarray) -> tuple[float, float]:
    """The interval of a metric on which all resamples agree, as where every row is right.

    Rows cannot show what none of them is. So the metric is asked what it would be if as large a share of the answers
    as so many rows may well miss were right, or wrong, spread over the classes.
    """
    same = np.eye(len(confusion))
    share = missed_share(int(confusion.sum()))
    seen = (1 - share) * confusion / confusion.sum()
    ends = [float(metric(seen + share * other / other.sum())) for other in (same, 1 - same)]
    value = float(metric(confusion))
    return min(value, *ends), max(value, *ends)


def _unseen_sets(
    metric: SetMetric, probabilities: np.ndarray, truth: np.ndarray, threshold: float
) -> tuple[float, float]:
    """The same where a row has several labels: so large a share of the rows has just the labels given, or the others.

    The rows stand there twice, with their own labels and with those, and count by the shares.
    """
    rows = len(truth)
    share = missed_share(rows)
    weights = np.repeat([1 - share, share], rows)[None]
    given = (probabilities >= threshold).astype(truth.dtype)
    ends = [
        float(metric(Ranking.of(np.tile(probabilities, (2, 1)), np.concatenate([truth, other]), threshold), weights)[0])
        for other in (given, 1 - given)
    ]
    value = float(metric(Ranking.of(probabilities, truth, threshold), np.ones((1, rows)))[0])
    return min(value, *ends), max(value, *ends)


def _calibration_entry(logits: np.ndarray, targets: np.ndarray, drawn: np.ndarray, seed: int) -> dict[str, float]:
    """The calibration error with its interval, and what chance would show of it if every probability were true.

    Noise of the bins adds to the error, never takes away; a resample has that noise twice. So the interval is moved
    down by twice what resampling adds, and begins at 0 where chance alone may explain the error.
    """
    sure, right = confidence(logits), logits.argmax(-1) == targets
    bins = bins_of(sure)
    value = float(binned_error(bins, sure - right))
    random = np.random.default_rng([seed, 0xCA1B])
    sizes = chunks(RESAMPLES, DRAWN_CELLS // len(targets))
    by_chance = np.concatenate(
        [binned_error(bins, sure - (random.random((draws, len(targets))) < sure)) for draws in sizes]
    )
    low, high = (end - 2 * (float(drawn.mean()) - value) for end in middle(drawn))
    if value <= middle(by_chance)[1]:
        low = 0.0
    if right.all():
        high = max(high, missed_share(len(targets)) - value)
    return {
        "value": value,
        "low": min(max(low, 0.0), value),
        "high": max(high, value),
        "chance": float(by_chance.mean()),
    }
