"""Which rows become the validation part of data that come without one: seeded, and true to the labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dongu.config import Task
from dongu.errors import DataError
from dongu.text import shortened

HOLDOUT_FRACTION = 0.1
MANY_CLASSES = 100  # above which a label column is rather a name, a date or a number of something


def hold_out(targets: np.ndarray, task: Task, names: Sequence[str], *, seed: int, origin: str) -> np.ndarray:
    """A tenth of each class, of each fifth of the range for numbers, or of the rows that have a label as their rarest.

    At least one row of it, where there are two.

    Returns:
        True for the rows held out, (rows,): a function of the targets and the seed.

    Raises:
        DataError: a class has one row, or there are too few rows.
    """
    strata = _strata(targets, task)
    random = np.random.default_rng([seed, 0x5EED])
    held = np.zeros(len(targets), dtype=bool)
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        if len(rows) < 2 and task != "single-label":
            continue  # one outlier is learnt
        if len(rows) < 2:
            what = f"the label `{shortened(names[int(stratum)])}` has 1 row: it cannot be both learnt and held out"
            hint = "add rows of it, or give a folder with a validation file"
            if len(names) > MANY_CLASSES:
                what, hint = f"{what} ({len(names):,} labels in all)", "is --label-column right?"
            raise DataError(what, where=origin, hint=hint)
        held[random.permutation(rows)[: max(1, round(len(rows) * HOLDOUT_FRACTION))]] = True
    if not held.any():
        raise DataError("there are too few rows to hold some out", where=origin, hint="add rows")
    return held


def _strata(targets: np.ndarray, task: Task) -> np.ndarray:
    """The stratum of each row, (rows,)."""
    if task == "regression":
        return np.searchsorted(np.quantile(targets, [0.2, 0.4, 0.6, 0.8]), targets)
    if task == "multi-label":
        rarity = np.where(targets > 0, targets.sum(0), np.inf)  # (rows, labels)
        return np.where(targets.any(-1), rarity.argmin(-1), -1)
    return targets
