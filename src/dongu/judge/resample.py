"""The bootstrap over the rows of a split: samples of the rows, and what is read from a statistic of each of them.

A sample is how often each row is in it. A statistic gives its value in each of many samples, (draws,), from these
weights, (draws, rows); `metrics.statistic` has those of the metrics. What is compared is computed on the same samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from dongu.judge.answers import Evaluation

Statistic = Callable[[np.ndarray], np.ndarray]

TAIL = 0.025  # on either side: 95% are between
RESAMPLES = 2_000
LEAST_RESAMPLES = 1_000
DRAWN_NUMBERS = 20_000_000  # rows times labels of all samples, beyond which there are fewer of them
DRAWN_CELLS = 100_000  # that are drawn at a time: an array of them stays in the processor's cache


def resampled(
    statistics: Mapping[str, Statistic], evaluation: Evaluation, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """Each statistic on each of many samples of the rows, drawn with replacement, (resamples,): all see the same."""
    if not statistics:
        return {}
    rows, labels = evaluation.logits.shape
    numbers = rows * labels if evaluation.task == "multi-label" else _held(evaluation)
    parts = []
    for draws in chunks(min(RESAMPLES, max(LEAST_RESAMPLES, DRAWN_NUMBERS // numbers)), evaluation):
        drawn = random.integers(0, rows, (draws, rows), np.int32) + rows * np.arange(draws)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=draws * rows).reshape(draws, rows).astype(np.float64)
        parts.append({name: of(weights) for name, of in statistics.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in statistics}


def chunks(draws: int, evaluation: Evaluation) -> Iterator[int]:
    """How many of so many samples of the rows are drawn at a time: one at least, and no more than the cache holds."""
    size = max(1, DRAWN_CELLS // _held(evaluation))
    for start in range(0, draws, size):
        yield min(size, draws - start)


def _held(evaluation: Evaluation) -> int:
    """How many numbers a sample takes: its weights, or a confusion matrix."""
    rows, labels = evaluation.logits.shape
    return int(max(rows, labels * labels)) if evaluation.task == "single-label" else int(rows)


def sums_by(groups: np.ndarray, size: int) -> Statistic:
    """The sums of (…, rows) numbers over the rows of each group, (…, size), where `groups` (rows,) are below `size`."""
    order = np.argsort(groups, kind="stable")
    present, starts = np.unique(groups[order], return_index=True)

    def sums(numbers: np.ndarray) -> np.ndarray:
        found = np.zeros((*numbers.shape[:-1], size))
        found[..., present] = np.add.reduceat(np.take(numbers, order, axis=-1), starts, axis=-1)
        return found

    return sums


def middle(sample: np.ndarray) -> tuple[float, float]:
    """The ends of the middle 95% of a sample; NaN where all of it is."""
    if np.isnan(sample).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(sample, [TAIL, 1 - TAIL])
    return float(low), float(high)


def missed_share(rows: int) -> float:
    """The largest share of a kind that so many rows miss with a probability of 2.5%: near 3.7 / rows."""
    return float(1 - TAIL ** (1 / rows))
