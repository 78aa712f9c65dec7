"""In which order an epoch takes its rows, and how much padding an order costs."""

from __future__ import annotations

import numpy as np

WINDOW_BLOCKS = 64  # blocks of prepared rows that are shuffled together
POOL_BATCHES = 50  # batches whose rows are sorted by length together: enough for even lengths, few enough for chance


def epoch_order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of an epoch's rows, (rows,): a function of (seed, epoch) and of nothing else."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


class BlockOrder:
    """The order of an epoch's rows that lie in blocks: a function of (seed, epoch), found at any place by itself.

    The blocks are permuted, and then the rows within each window of `WINDOW_BLOCKS` of them; so rows that are near in
    the order lie in few blocks, and no more than a window of it is ever in memory. Rows that fit into one window have
    the order of `epoch_order`.
    """

    def __init__(self, rows: int, block_rows: int, seed: int, epoch: int) -> None:
        self._rows, self._block_rows, self._key = rows, block_rows, [seed, epoch]
        blocks = -(-rows // block_rows)
        self._blocks = np.random.default_rng(self._key).permutation(blocks)
        ends = np.cumsum(np.minimum(block_rows, rows - self._blocks * block_rows))  # the last block is shorter
        self._ends = ends[[*range(WINDOW_BLOCKS - 1, blocks - 1, WINDOW_BLOCKS), blocks - 1]]  # of each window
        self._window = (-1, np.empty(0, np.int64))  # the last one asked for

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, places: slice) -> np.ndarray:
        """The rows at some places in a row, (places,) int64."""
        start, stop, _ = places.indices(self._rows)
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right")
        found = [np.empty(0, np.int64)]
        for number in range(first, last + 1):
            end = int(self._ends[number])
            window = self._rows_of(number)
            begin = end - len(window)
            found.append(window[max(0, start - begin) : max(0, stop - begin)])
        return np.concatenate(found)

    def _rows_of(self, number: int) -> np.ndarray:
        """The rows of a window in their order."""
        if self._window[0] != number:
            if len(self._ends) == 1:
                rows = epoch_order(self._rows, *self._key)
            else:
                blocks = self._blocks[number * WINDOW_BLOCKS : (number + 1) * WINDOW_BLOCKS]
                rows = (blocks[:, None] * self._block_rows + np.arange(self._block_rows)).ravel()
                rows = np.random.default_rng([*self._key, number]).permutation(rows[rows < self._rows])
            self._window = (number, rows)
        return self._window[1]


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
