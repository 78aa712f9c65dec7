"""In which order an epoch takes its rows, and how much padding an order costs."""

from __future__ import annotations

import numpy as np

POOL_BATCHES = 50  # batches whose rows are sorted by length together: enough for even lengths, few enough for chance


def epoch_order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of an epoch's rows, (rows,): a function of (seed, epoch) and of nothing else."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


def grouped_order(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """An epoch's rows in batches of like lengths, (rows,): a function of (seed, epoch) too.

    The permutation is cut into pools of `POOL_BATCHES` batches, each sorted by length, and the batches are shuffled;
    what does not fill a batch stays last.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    pool = POOL_BATCHES * batch_size
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        order[start : start + pool] = rows[np.argsort(lengths[rows], kind="stable")]
    full = len(order) // batch_size
    batches = order[: full * batch_size].reshape(full, batch_size)
    return np.concatenate([batches[random.permutation(full)].ravel(), order[full * batch_size :]])


def padding_share(lengths: np.ndarray, order: np.ndarray, batch_size: int) -> float:
    """The share of padding among the tokens of an epoch that is cut into batches in this order."""
    padded = sum(
        int(lengths[rows].max()) * len(rows)
        for start in range(0, len(order), batch_size)
        if len(rows := order[start : start + batch_size])
    )
    return 1 - int(lengths.sum()) / padded
