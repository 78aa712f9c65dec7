"""The bootstrap over the rows of a split: samples of the rows, and what is read from a statistic of each of them.

A sample is how often each row is in it. A statistic gives its value in each of many samples, (draws,), from these
weights, (draws, rows); `metrics.statistic` has those of the metrics. What is compared is computed on the same samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

Statistic = Callable[[np.ndarray], np.ndarray]

TAIL = 0.025  # on either side: 95% are between
RESAMPLES = 2_000
LEAST_RESAMPLES = 1_000
DRAWN_NUMBERS = 200_000_000  # that all samples hold together, beyond which there are fewer of them
DRAWN_CELLS = 100_000  # that are drawn at a time: an array of them stays in the processor's cache


def resamples(rows: int, cells: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Samples of the rows, drawn with replacement: how often each is there, (draws, rows), some draws at a time.

    `cells` is how many numbers the statistics of a sample hold in memory.
    """
    total = min(RESAMPLES, max(LEAST_RESAMPLES, DRAWN_NUMBERS // cells))
    for draws in chunks(total, cells):
        drawn = random.integers(0, rows, (draws, rows), np.int32) + rows * np.arange(draws)[:, None]
        yield np.bincount(drawn.ravel(), minlength=draws * rows).reshape(draws, rows).astype(np.float64)


def resampled(
    statistics: Mapping[str, Statistic], rows: int, cells: int, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """Each statistic on each of the `resamples`, (resamples,)."""
    if not statistics:
        return {}
    parts = [{name: of(weights) for name, of in statistics.items()} for weights in resamples(rows, cells, random)]
    return {name: np.concatenate([part[name] for part in parts]) for name in statistics}


def chunks(draws: int, cells: int) -> Iterator[int]:
    """How many are drawn at a time, of so many draws with so many cells each: one at least."""
    size = max(1, DRAWN_CELLS // cells)
    for start in range(0, draws, size):
        yield min(size, draws - start)


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
