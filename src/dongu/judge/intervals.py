"""How far a number can be trusted: each metric with its interval and its baseline."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dongu.config import DEFAULT_THRESHOLD, Task
from dongu.judge.answers import Evaluation
from dongu.judge.calibration import binned_error, bins_of
from dongu.judge.metrics import CLASS_METRICS, MetricSet, OwnMetric, metric_value, statistic
from dongu.judge.resample import LEAST_RESAMPLES, Statistic, chunks, middle, missed_share, resampled

CONSTANT_ANSWERS: dict[Task, str] = {  # the name of the baseline, beside each metric
    "single-label": "majority class",
    "multi-label": "label frequencies",
    "regression": "train mean",
}
RARE = 1e-6  # the least share of a label, and the least lack of it, that a constant answer says: its loss is finite
SLOW_SECONDS = 0.05  # of one call of an own metric, above which there are fewer resamples of it
SLOW_RESAMPLES = 100


def verdict(
    evaluation: Evaluation, metrics: MetricSet, constant: Sequence[float] | None, seed: int
) -> dict[str, dict[str, float]]:
    """What `results.json` says of a split: each metric's `value`, `low` and `high`, and its `baseline`.

    Classes have a `calibration_error` too, with what `chance` would show of it on as many rows if every probability
    were true. Empty for hidden labels.
    """
    targets = evaluation.targets
    if targets is None or evaluation.losses is None:
        return {}
    random, own = np.random.default_rng([seed, 0xB007]), metrics.own
    statistics = {name: statistic(evaluation, name) for name in evaluation.metrics if name not in own}
    if metrics.task == "single-label":
        statistics["calibration_error"] = _calibration_statistic(evaluation)
    drawn = resampled(statistics, evaluation, random)
    drawn |= {name: _own_resampled(own[name], evaluation, seed) for name in evaluation.metrics if name in own}
    entries = {}
    for name, value in evaluation.metrics.items():
        low, high = middle(drawn[name])
        if low == high and name != "loss" and metrics.task != "regression":
            ends = _own_missed(own[name], evaluation) if name in own else missed(evaluation, name)
            low, high = min(value, *ends), max(value, *ends)
        entries[name] = {"value": value, "low": low, "high": high}
    if constant is not None:
        for name, value in baseline(metrics, constant, targets).items():
            entries[name]["baseline"] = value
    if metrics.task == "single-label":
        entries["calibration_error"] = _calibration_entry(evaluation, drawn["calibration_error"], seed)
    return entries


def constant_answer(metrics: MetricSet, train_targets: np.ndarray | None) -> list[float] | None:
    """The best constant answer: the frequency of each class or label in train, or the mean of its numbers."""
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
    import torch  # which a comparison of finished runs does without

    from dongu.model.loss import row_losses

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
    ids = np.arange(len(targets))
    answer = Evaluation("baseline", ids, logits, targets, losses, {}, threshold, metrics.task)
    values = {"loss": math.fsum(losses) / len(losses)}
    for name in metrics.names:
        if name in metrics.own:
            values[name] = _value(metrics.own[name], answer)
        else:  # by rounding, the mean of so many equal numbers may be another
            values[name] = math.nan if metrics.task == "regression" else metric_value(answer, name)
    return values


def missed(evaluation: Evaluation, name: str) -> tuple[float, float]:
    """What a metric of classes or labels would be if so large a share of the answers as the rows may well miss were
    wrong, and if it were right.

    It is asked where all resamples agree, as where every row is right: rows cannot show what none of them is. Wrong and
    right answers are spread evenly over the classes. Where a row has several labels, the rows stand there twice, with
    their own labels and with just those predicted, or all the others, and count by the shares.
    """
    rows, labels = evaluation.logits.shape
    share = missed_share(rows)
    if evaluation.task == "single-label":
        same, seen = np.eye(labels), (1 - share) * evaluation.confusion / rows
        metric = CLASS_METRICS[name]
        wrong, right = (float(metric(seen + share * other / other.sum())) for other in (1 - same, same))
        return wrong, right
    twice, weights = evaluation.take(np.tile(np.arange(rows), 2)), np.repeat([1 - share, share], rows)[None]
    truth, predicted = np.asarray(evaluation.targets), evaluation.predictions
    changed = (replace(twice, targets=np.concatenate([truth, other])) for other in (1 - predicted, predicted))
    wrong, right = (float(statistic(each, name)(weights)[0]) for each in changed)
    return wrong, right


def _own_missed(metric: OwnMetric, evaluation: Evaluation) -> tuple[float, float]:
    """The same of an own metric, which counts whole rows: as many of them are otherwise, evenly spread."""
    truth, predicted = np.asarray(evaluation.targets), evaluation.predictions
    wrong = 1 - predicted if evaluation.task == "multi-label" else (predicted + 1) % evaluation.logits.shape[1]
    some = np.arange(0, len(truth), max(1, int(1 / missed_share(len(truth)))))
    ends = []
    for other in (wrong, predicted):
        targets = truth.copy()
        targets[some] = other[some]
        ends.append(_value(metric, replace(evaluation, targets=targets)))
    return ends[0], ends[1]


def _value(metric: OwnMetric, evaluation: Evaluation) -> float:
    """An own metric of rows that may have none, as rows of one class alone: then it is NaN."""
    try:
        return float(metric(evaluation))
    except Exception:  # noqa: BLE001 -- each metric refuses in its own way
        return math.nan


def _own_resampled(metric: OwnMetric, evaluation: Evaluation, seed: int) -> np.ndarray:
    """An own metric of samples of the rows, (resamples,): of few of them where it is slow."""
    random, rows = np.random.default_rng([seed, 0x0123]), len(evaluation)
    began = time.perf_counter()
    values: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of samples without a class, which each metric says in its own way
        while len(values) < LEAST_RESAMPLES:
            values.append(_value(metric, evaluation.take(random.integers(0, rows, rows))))
            if len(values) == SLOW_RESAMPLES and time.perf_counter() - began > SLOW_RESAMPLES * SLOW_SECONDS:
                break
    return np.array(values)


def _calibration_statistic(evaluation: Evaluation) -> Statistic:
    """The calibration error of samples of the rows, (draws,)."""
    sure = evaluation.probabilities.max(-1)
    error, gaps = binned_error(bins_of(sure)), sure - evaluation.right
    return lambda weights: error(weights * gaps)


def _calibration_entry(evaluation: Evaluation, drawn: np.ndarray, seed: int) -> dict[str, float]:
    """The calibration error with its interval, and what chance would show of it if every probability were true.

    Noise of the bins adds to the error, never takes away; a resample has that noise twice. So the interval is moved
    down by twice what resampling adds, and begins at 0 where chance alone may explain the error.
    """
    sure, right, rows = evaluation.probabilities.max(-1), evaluation.right, len(evaluation)
    error = binned_error(bins_of(sure))
    value = float(error(sure - right))
    random = np.random.default_rng([seed, 0xCA1B])
    sizes = chunks(LEAST_RESAMPLES, evaluation)
    by_chance = np.concatenate([error(sure - (random.random((draws, rows)) < sure)) for draws in sizes])
    low, high = (end - 2 * (float(drawn.mean()) - value) for end in middle(drawn))
    if value <= middle(by_chance)[1]:
        low = 0.0
    if right.all():
        high = max(high, missed_share(rows) - value)
    return {
        "value": value,
        "low": min(max(low, 0.0), value),
        "high": max(high, value),
        "chance": float(by_chance.mean()),
    }
