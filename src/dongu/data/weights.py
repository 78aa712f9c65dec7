"""How many rows each class has, and how much it counts in the loss."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np

from dongu.config import RunConfig
from dongu.data.examples import Examples, TextData
from dongu.errors import UsageError

COUNTED_ROWS = 1 << 20  # at a time


def count_classes(targets: np.ndarray, classes: int) -> np.ndarray:
    """Rows of each class, (classes,); NumPy would copy targets, (rows,), that are mapped, and so cannot be written."""
    parts = (targets[start : start + COUNTED_ROWS] for start in range(0, len(targets), COUNTED_ROWS))
    return np.asarray(sum((np.bincount(part, minlength=classes) for part in parts), np.zeros(classes, np.int64)))


def label_counts(examples: Examples, names: Sequence[str]) -> dict[str, int]:
    """Rows of each class, in the order of the names."""
    if examples.targets is None:
        return dict.fromkeys(names, 0)
    several = examples.targets.ndim == 2
    counts = examples.targets.sum(0) if several else count_classes(examples.targets, len(names))
    return {name: int(count) for name, count in zip(names, counts, strict=True)}


def resolve_weights(config: RunConfig, data: TextData) -> dict[str, float] | None:
    """The weight of every class as `--class-weights` wants it, in the order of the names; None where all count alike.

    `balanced` gives each class the same part in the loss: rows / (classes × rows of the class). Where a row may have
    several labels, the rows that have one and those that do not count alike: the weight is rows without / rows with.
    A class without rows counts 1, and so does one that is not named.

    Raises:
        UsageError: no class has that name.
    """
    asked = config.class_weights
    if asked is None:
        return None
    if asked == "balanced":
        return _balanced(data)
    for name in asked:
        if name not in data.label_names:
            close = get_close_matches(name, data.label_names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"the classes are: {', '.join(data.label_names[:20])}"
            raise UsageError(f"there is no class `{name}`", where="--class-weights", hint=hint)
    return {name: asked.get(name, 1.0) for name in data.label_names}


def row_weights(weights: dict[str, float] | None, targets: np.ndarray) -> np.ndarray | None:
    """How much each row counts in the loss, (rows,), in double precision; None where all count 1.

    A row of several labels counts the mean of its cells: the weight of each label that it has, 1 for each other.
    """
    if weights is None:
        return None
    by_class = np.array(list(weights.values()))  # (labels,)
    if targets.ndim == 2:
        return np.asarray((1 + (by_class - 1) * targets).mean(-1))
    return np.asarray(by_class[targets])


def _balanced(data: TextData) -> dict[str, float]:
    train = data.splits["train"]
    counts = label_counts(train, data.label_names)
    present = sum(count > 0 for count in counts.values())

    def weight(count: int) -> float:
        if count in (0, len(train)):
            return 1.0
        return (len(train) - count) / count if data.task == "multi-label" else len(train) / (present * count)

    return {name: weight(count) for name, count in counts.items()}
