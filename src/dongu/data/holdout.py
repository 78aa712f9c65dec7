"""Which rows become the validation part of data that come without one: seeded, and true to the labels."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from dongu.config import Task
from dongu.errors import DataError
from dongu.text import plain, shortened

HOLDOUT_FRACTION = 0.1
MANY_CLASSES = 100  # above which a label column is rather a name, a date or a number of something


def hold_out(
    texts: Sequence[Sequence[str]], targets: np.ndarray, task: Task, names: Sequence[str], *, seed: int, origin: str
) -> np.ndarray:
    """A tenth of each class, of each fifth of the range for numbers, or of the rows that have a label as their rarest.

    Rows with the same texts stay together: a model that has learnt one of them knows the others, and a validation that
    asks it says too much. Texts are drawn at random, and one is held out, with all its rows, where that brings its
    class nearer to a tenth. So where all texts differ it is a tenth of the rows, and at least one; and a text that has
    more than a fifth of them is learnt. A class of which nothing, or everything, would be held out in this way has too
    few texts for it, and is parted row by row: the doctor says which texts stand on both sides then.

    Returns:
        True for the rows held out, (rows,): a function of the texts, the targets and the seed.

    Raises:
        DataError: a class has one row, or there are too few rows.
    """
    strata = _strata(targets, task)
    kinds, counts = np.unique(strata, return_counts=True)
    if task == "single-label" and counts.min() < 2:
        name = names[int(kinds[counts < 2][0])]
        what = f"the label `{shortened(name)}` has 1 row: it cannot be both learnt and held out"
        hint = "add rows of it, or give a folder with a validation file"
        if len(names) > MANY_CLASSES:
            what, hint = f"{what} ({len(names):,} labels in all)", "is --label-column right?"
        raise DataError(what, where=origin, hint=hint)
    first, random = first_copies(texts), np.random.default_rng([seed, 0x5EED])
    copies = np.bincount(first)
    parts = [random.permutation(np.flatnonzero(strata == kind)) for kind in kinds]
    tenths = [max(1, round(len(part) * HOLDOUT_FRACTION)) if len(part) > 1 else 0 for part in parts]  # an outlier: none
    held: np.ndarray = np.zeros(len(targets), dtype=bool)
    for part, left in zip(parts, tenths, strict=True):
        heads = part[first[part] == part]  # a row of each text, which counts where its first one does
        for row, rows in zip(heads.tolist(), copies[heads].tolist(), strict=True):
            if rows <= 2 * left:
                held[row] = True
                left -= rows
    held = held[first]
    for part, tenth in zip(parts, tenths, strict=True):
        if tenth and held[part].all() == held[part].any():
            held[part] = np.arange(len(part)) < tenth
    if not held.any():
        raise DataError("there are too few rows to hold some out", where=origin, hint="add rows")
    return held


def first_copies(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """The first row that has the same texts but for case and space, pairs in either order, of each row, (rows,)."""
    words = [map(plain, column) for column in texts]
    keys: Iterable[Hashable] = words[0] if len(words) == 1 else (tuple(sorted(row)) for row in zip(*words, strict=True))
    hashes = np.fromiter(map(hash, keys), np.int64, len(texts[0]))
    _, first, place = np.unique(hashes, return_index=True, return_inverse=True)
    return first[place]


def _strata(targets: np.ndarray, task: Task) -> np.ndarray:
    """The stratum of each row, (rows,)."""
    if task == "regression":
        return np.searchsorted(np.quantile(targets, [0.2, 0.4, 0.6, 0.8]), targets)
    if task == "multi-label":
        rarity = np.where(targets > 0, targets.sum(0), np.inf)  # (rows, labels)
        return np.where(targets.any(-1), rarity.argmin(-1), -1)
    return targets
