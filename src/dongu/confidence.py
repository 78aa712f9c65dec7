"""How far a number can be trusted: each metric with its interval, beside what an answer without reading reaches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from dongu.calibration import Calibration, binned_error, bins_of, confidence
from dongu.evaluate import Evaluation
from dongu.metrics import CLASS_METRICS, ConfusionMetric, MetricSet, confusion_matrix, pearson
from dongu.model.loss import row_losses

RESAMPLES = 1000
TAIL = 0.025  # on either side: 95% are between
DRAWN_CELLS = 1_000_000  # rows, or cells of confusion matrices, that are drawn at a time: 8 MB an array

# The value of a metric on each of many resamples, (draws,), from their rows' numbers, (draws, rows).
Statistic = Callable[[np.ndarray], np.ndarray]


def verdict(
    evaluation: Evaluation,
    metrics: MetricSet,
    constant: Sequence[float] | None,
    seed: int,
    calibration: Calibration | None = None,
) -> dict[str, dict[str, float]]:
    """What `results.json` says of a split: each metric's `value`, `low` and `high`, and its `baseline`.

    Classes have a `calibration_error` too, with what `chance` would show of it on as many rows if every probability
    were true, and, given the calibration, the error `before` and `after` the temperature. Empty for hidden labels.
    """
    targets, losses = evaluation.targets, evaluation.losses
    if targets is None or losses is None:
        return {}
    drawn = _draw(_statistics(metrics, evaluation.logits, targets, losses), len(targets), metrics, seed)
    entries = {}
    for name, value in evaluation.metrics.items():
        low, high = _middle(drawn[name])
        if low == high and name in CLASS_METRICS:
            confusion = confusion_matrix(evaluation.logits.argmax(-1), targets, len(metrics.label_names))
            low, high = _unseen(CLASS_METRICS[name], confusion)
        entries[name] = {"value": value, "low": low, "high": high}
    if constant is not None:
        for name, value in baseline(metrics, constant, targets).items():
            entries[name]["baseline"] = value
    if metrics.task == "single-label":
        entry = _calibration_entry(evaluation.logits, targets, drawn["calibration_error"], seed)
        if calibration is not None:
            entry["before"], entry["after"] = calibration.errors(evaluation.logits, targets)
        entries["calibration_error"] = entry
    return entries


def constant_answer(metrics: MetricSet, train_targets: np.ndarray | None) -> list[float] | None:
    """The best to say without reading: the classes' shares of the train rows, or the mean of their numbers."""
    if train_targets is None:
        return None
    if metrics.task == "regression":
        return [float(train_targets.astype(np.float64).mean())]
    counts = np.bincount(train_targets, minlength=len(metrics.label_names))
    return [float(share) for share in counts / len(train_targets)]


def baseline(metrics: MetricSet, constant: Sequence[float], targets: np.ndarray) -> dict[str, float]:
    """The metrics of always giving the constant answer; as a class it is the most frequent one.

    The loss of shares is infinite where a class occurs that train lacks, and a correlation with a constant is NaN.
    """
    row = np.array(constant)
    if metrics.task != "regression":
        with np.errstate(divide="ignore"):
            row = np.log(row)
    logits = np.tile(row, (len(targets), 1))  # (rows, labels)
    losses = row_losses(metrics.task, torch.from_numpy(logits), torch.from_numpy(targets)).numpy()
    return {"loss": float(losses.mean()), **metrics.compute(logits, targets)}


def _statistics(
    metrics: MetricSet, logits: np.ndarray, targets: np.ndarray, losses: np.ndarray
) -> dict[str, Statistic]:
    """`loss`, each metric, and for classes the calibration error."""
    found: dict[str, Statistic] = {"loss": lambda rows: losses[rows].mean(-1)}
    if metrics.task == "regression":
        return found | _number_statistics(logits[:, 0].astype(np.float64), targets.astype(np.float64))
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
    for draws in _chunks(max(rows, len(metrics.label_names) ** 2)):
        drawn = random.integers(0, rows, (draws, rows))
        for name, statistic in statistics.items():
            values[name].append(statistic(drawn))
    return {name: np.concatenate(parts) for name, parts in values.items()}


def _chunks(cells: int) -> Iterator[int]:
    """How many resamples of so many cells are drawn at a time."""
    size = max(1, DRAWN_CELLS // cells)
    for start in range(0, RESAMPLES, size):
        yield min(size, RESAMPLES - start)


def _middle(sample: np.ndarray) -> tuple[float, float]:
    """The ends of the middle 95% of a sample; NaN where all of it is."""
    if np.isnan(sample).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(sample, [TAIL, 1 - TAIL])
    return float(low), float(high)


def _unseen(metric: ConfusionMetric, confusion: np.ndarray) -> tuple[float, float]:
    """The interval of a metric on which all resamples agree, as where every row is right.

    Rows cannot show what none of them is. So the metric is asked what it would be if as large a share of the answers
    as so many rows may well miss were right, or wrong, spread over the classes.
    """
    same = np.eye(len(confusion))
    share = _missed_share(int(confusion.sum()))
    seen = (1 - share) * confusion / confusion.sum()
    ends = [float(metric(seen + share * other / other.sum())) for other in (same, 1 - same)]
    value = float(metric(confusion))
    return min(value, *ends), max(value, *ends)


def _missed_share(rows: int) -> float:
    """The largest share of a kind that so many rows miss with a probability of 2.5%: near 3.7 / rows."""
    return float(1 - TAIL ** (1 / rows))


def _calibration_entry(logits: np.ndarray, targets: np.ndarray, drawn: np.ndarray, seed: int) -> dict[str, float]:
    """The calibration error with its interval, and what chance would show of it if every probability were true.

    Noise of the bins adds to the error, never takes away; a resample has that noise twice. So the interval is moved
    down by twice what resampling adds, and begins at 0 where chance alone may explain the error.
    """
    sure, right = confidence(logits), logits.argmax(-1) == targets
    bins = bins_of(sure)
    value = float(binned_error(bins, sure - right))
    random = np.random.default_rng([seed, 0xCA1B])
    by_chance = np.concatenate(
        [binned_error(bins, sure - (random.random((draws, len(targets))) < sure)) for draws in _chunks(len(targets))]
    )
    low, high = (end - 2 * (float(drawn.mean()) - value) for end in _middle(drawn))
    if value <= _middle(by_chance)[1]:
        low = 0.0
    if right.all():
        high = max(high, _missed_share(len(targets)) - value)
    return {
        "value": value,
        "low": min(max(low, 0.0), value),
        "high": max(high, value),
        "chance": float(by_chance.mean()),
    }
