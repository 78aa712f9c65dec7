"""What every bootstrap over the rows of a split shares: how many are drawn at a time, and what is read from them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

TAIL = 0.025  # on either side: 95% are between


def chunks(resamples: int, size: int) -> Iterator[int]:
    """How many resamples are drawn at a time, at most `size`, but at least one."""
    size = max(1, size)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def middle(sample: np.ndarray) -> tuple[float, float]:
    """The ends of the middle 95% of a sample; NaN where all of it is."""
    if np.isnan(sample).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(sample, [TAIL, 1 - TAIL])
    return float(low), float(high)


def missed_share(rows: int) -> float:
    """The largest share of a kind that so many rows miss with a probability of 2.5%: near 3.7 / rows."""
    return float(1 - TAIL ** (1 / rows))
