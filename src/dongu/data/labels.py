"""What a label column means: classes by name, or numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

from dongu.config import Task
from dongu.data.cells import column_of
from dongu.data.table import BOOLEAN, Table, kind_of
from dongu.errors import DataError
from dongu.text import is_blank, shortened

HIDDEN_LABEL = "-1"  # GLUE's test sets have this in place of every label


def infer_task(labels: Sequence[str], declared_names: Sequence[str] | None) -> Task:
    """Regression when every label is a number and some are fractions; classes otherwise."""
    if declared_names:
        return "single-label"
    fractions = False
    for label in labels:
        if (value := _number(label)) is None:
            return "single-label"
        fractions = fractions or value != int(value)
    return "regression" if fractions else "single-label"


def read_labels(table: Table, name: str) -> Sequence[str]:
    """The label column as text. A test split may lack it: then its labels are hidden."""
    return column_of(_labels(table, name)) if name in table.columns else [HIDDEN_LABEL] * len(table)


def _labels(table: Table, name: str) -> Iterator[str]:
    first_kind, last_type = "", None
    for row, cell in enumerate(table.columns[name]):
        if cell is None or (isinstance(cell, str) and is_blank(cell)):
            raise DataError(f"the label `{name}` is empty", where=table.where(row), hint="fill it in or remove the row")
        if type(cell) is not last_type:
            last_type, kind = type(cell), kind_of(cell)
            if not isinstance(cell, str | bool):
                raise DataError(f"the label `{name}` is {kind}, not a name or a number", where=table.where(row))
            first_kind = first_kind or kind
            if kind != first_kind and BOOLEAN in (kind, first_kind):
                raise DataError(
                    f"the label `{name}` is {kind}, in earlier rows {first_kind}",
                    where=table.where(row),
                    hint="write all labels in one way",
                )
        yield str(cell).lower() if last_type is bool else str(cell)


def name_labels(table: Table, labels: Sequence[str], task: Task, column: str) -> tuple[str, ...]:
    """Class id → name: the order that the source declares, else numbers by size, else names by alphabet.

    Raises:
        DataError: fewer than two classes, or a class that means "hidden".
    """
    if task == "regression":
        return (column,)
    if declared := table.label_names.get(column):
        return tuple(declared)
    distinct = sorted(set(labels))
    if all(re.fullmatch("[+-]?[0-9]+", name) for name in distinct):
        distinct.sort(key=lambda name: (int(name), name))  # 2 before 10; 01 and 1 stay two names
    if HIDDEN_LABEL in distinct or "-100" in distinct:
        row = next(row for row, label in enumerate(labels) if label in (HIDDEN_LABEL, "-100"))
        raise DataError(
            f"the label {labels[row]} means 'hidden' or 'ignored' and cannot be learnt",
            where=table.where(row),
            hint="give the class another name",
        )
    if len(distinct) < 2:
        raise DataError(
            f"train has one label only (`{shortened(distinct[0])}`)",
            where=table.origin,
            hint="a classifier needs two; is --label-column right?",
        )
    return tuple(distinct)


def read_targets(
    table: Table, column: str, task: Task, names: Sequence[str], *, hidden_allowed: bool
) -> np.ndarray | None:
    """Class ids (int64) or numbers (float32) of every row, (rows,); None where the labels are hidden.

    Raises:
        DataError: a label is empty, is no number in a regression, or is a class that train does not have.
    """
    if column not in table.columns and not hidden_allowed:
        raise DataError(
            f"there is no column `{column}`",
            where=table.origin,
            hint=f"the columns are: {', '.join(table.columns)}",
        )
    labels = read_labels(table, column)
    if hidden_allowed and set(labels) == {HIDDEN_LABEL}:
        return None
    if task == "regression":
        numbers = np.empty(len(labels), dtype=np.float32)
        for row, label in enumerate(labels):
            if (value := _number(label)) is None:
                raise DataError(f"the label `{shortened(label)}` is not a number", where=table.where(row))
            numbers[row] = value
        return numbers
    # A source that declares its names (`ClassLabel`) stores positions; every other stores the names themselves.
    declared = table.label_names.get(column)
    ids = {name: i for i, name in enumerate(names)}
    if declared:
        ids = {str(i): ids[name] for i, name in enumerate(declared) if name in ids}
    targets = np.empty(len(labels), dtype=np.int64)
    for row, label in enumerate(labels):
        if label not in ids:
            raise DataError(
                f"the label `{shortened(label)}` does not occur in train",
                where=table.where(row),
                hint=f"train has: {_first_few(names)}",
            )
        targets[row] = ids[label]
    return targets


def _number(label: str) -> float | None:
    try:
        value = math.nan if "_" in label else float(label)  # Python reads 1_000
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _first_few(names: Sequence[str]) -> str:
    return ", ".join(map(shortened, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
