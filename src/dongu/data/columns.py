"""Which columns are the texts and the label, what the label means, and which rows are held out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

import numpy as np

from dongu.config import RunConfig, Task
from dongu.data.sources import Cell, Number, Source, Table
from dongu.errors import DataError

# In this order: the first pair, or the first single column, that the data have is taken.
TEXT_COLUMNS: tuple[tuple[str, ...], ...] = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("sentence",),
    ("text",),
    ("review",),
    ("content",),
    ("tweet",),
    ("message",),
    ("body",),
    ("title",),
)
LABEL_COLUMNS = (
    "label",
    "labels",
    "class",
    "category",
    "target",
    "score",
    "similarity",
    "sentiment",
    "intent",
)
HOLDOUT_FRACTION = 0.1
HIDDEN_LABEL = "-1"  # GLUE's test sets have this in place of every label


@dataclass(frozen=True)
class Columns:
    """The columns that a run reads."""

    texts: tuple[str, ...]
    label: str

    def __str__(self) -> str:
        return f"{' + '.join(self.texts)} → {self.label}"


@dataclass(frozen=True)
class Examples:
    """The rows of one split.

    `ids` are row numbers in the source, from 0; `texts` holds one list a text column; `targets` are class ids
    (int64) or numbers (float32), (rows,), and None where the source hides them.
    """

    ids: np.ndarray
    texts: tuple[list[str], ...]
    targets: np.ndarray | None
    origin: str

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class TextData:
    """A data set ready to be tokenized: its columns, its task, its label names and its splits."""

    name: str
    columns: Columns
    task: Task
    label_names: tuple[str, ...]  # class id → name; for regression the label column alone
    splits: dict[str, Examples]
    held_out: bool  # whether validation was cut from train


def read_examples(source: Source, config: RunConfig) -> TextData:
    """Choose the columns and the task, check every row that will be used, hold rows out if there is no validation.

    Raises:
        DataError: a column is missing, a text or a label is empty or of the wrong kind, a label of another split
            does not occur in train, or the data cannot be split.
    """
    train = source.splits["train"]
    columns = choose_columns(train, config.text_columns, config.label_column)
    labels = _labels(train, columns.label)
    task = config.task or infer_task(labels, train.label_names.get(columns.label))
    names = _label_names(train, labels, task, columns.label)
    splits = {
        name: Examples(
            ids=np.arange(len(table)),
            texts=read_texts(table, columns.texts),
            targets=read_targets(table, columns.label, task, names, hidden_allowed=name == "test"),
            origin=table.origin,
        )
        for name, table in source.splits.items()
    }
    held_out = "validation" not in splits
    if held_out:
        splits = {**_hold_out(splits["train"], task, names, config.seed), **_without(splits, "train")}
    return TextData(source.name, columns, task, names, splits, held_out)


def choose_columns(table: Table, texts: Sequence[str] | None, label: str | None) -> Columns:
    """The asked-for columns, or the usual names, or the only possible choice.

    Raises:
        DataError: a column does not exist, or which one is meant cannot be told.
    """
    available = list(table.columns)
    for name in (*(texts or ()), *([label] if label else ())):
        if name not in available:
            close = get_close_matches(name.strip().lower(), [item.strip().lower() for item in available], n=1)
            meant = [item for item in available if close and item.strip().lower() == close[0]]
            hint = f"did you mean `{meant[0]}`? " if meant else ""
            raise DataError(
                f"there is no column `{name}`",
                where=table.origin,
                hint=f"{hint}the columns are: {', '.join(available)}",
            )
    if label is None:
        label = next((name for name in LABEL_COLUMNS if name in available and name not in (texts or ())), None)
    if label is None:
        raise DataError(
            "which column is the label cannot be told",
            where=table.origin,
            hint=f"name it with --label-column; the columns are: {', '.join(available)}",
        )
    if texts is None:
        texts = next((names for names in TEXT_COLUMNS if set(names) <= set(available) - {label}), None)
    if texts is None:
        others = [name for name in available if name != label]
        if len(others) != 1:
            raise DataError(
                "which columns are the text cannot be told",
                where=table.origin,
                hint=f"name them with --text-columns A [B]; the columns are: {', '.join(available)}",
            )
        texts = tuple(others)
    return Columns(tuple(texts), label)


def read_texts(table: Table, names: Sequence[str]) -> tuple[list[str], ...]:
    """The text columns, each cell a text with at least one visible character.

    Raises:
        DataError: a column is missing, or a cell is empty, null or no text.
    """
    texts = []
    for name in names:
        if name not in table.columns:
            raise DataError(
                f"there is no column `{name}`",
                where=table.origin,
                hint=f"the columns are: {', '.join(table.columns)}",
            )
        column = table.columns[name]
        for row, cell in enumerate(column):
            if not isinstance(cell, str):
                raise DataError(f"`{name}` is {_kind(cell)}, not a text", where=table.where(row))
            if not cell.strip():
                raise DataError(f"`{name}` is empty", where=table.where(row), hint="fill the text in or remove the row")
        texts.append([str(cell) for cell in column])
    return tuple(texts)


def infer_task(labels: Sequence[str], declared_names: Sequence[str] | None) -> Task:
    """Regression when every label is a number and some are fractions; classes otherwise."""
    if declared_names:
        return "single-label"
    values = [_number(label) for label in labels]
    if all(value is not None for value in values) and any(value != int(value) for value in values if value is not None):
        return "regression"
    return "single-label"


def _labels(table: Table, name: str) -> list[str]:
    """The label column as text. A test split may lack it: then its labels are hidden."""
    if name not in table.columns:
        return [HIDDEN_LABEL] * len(table)
    kinds: dict[str, int] = {}
    labels = []
    for row, cell in enumerate(table.columns[name]):
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            raise DataError(f"the label `{name}` is empty", where=table.where(row), hint="fill it in or remove the row")
        if not isinstance(cell, str | bool):
            raise DataError(f"the label `{name}` is {_kind(cell)}, not a name or a number", where=table.where(row))
        kinds.setdefault(_kind(cell), row)
        if len(kinds) > 1 and "a boolean" in kinds:
            first, second = kinds
            raise DataError(
                f"the label `{name}` is {second}, in earlier rows {first}",
                where=table.where(row),
                hint="write all labels in one way",
            )
        labels.append(str(cell).lower() if isinstance(cell, bool) else str(cell))
    return labels


def _label_names(table: Table, labels: Sequence[str], task: Task, column: str) -> tuple[str, ...]:
    if task == "regression":
        return (column,)
    if declared := table.label_names.get(column):
        return tuple(declared)
    distinct = sorted(set(labels))
    if all(name.lstrip("+-").isdigit() for name in distinct):
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
            f"train has one label only (`{distinct[0]}`)",
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
    labels = _labels(table, column)
    if hidden_allowed and set(labels) == {HIDDEN_LABEL}:
        return None
    if task == "regression":
        values = [_number(label) for label in labels]
        for row, value in enumerate(values):
            if value is None:
                raise DataError(f"the label `{labels[row]}` is not a number", where=table.where(row))
        return np.array(values, dtype=np.float32)
    # A source that declares its names (`ClassLabel`) stores positions; every other stores the names themselves.
    declared = table.label_names.get(column)
    ids = {name: i for i, name in enumerate(names)}
    if declared:
        ids = {str(i): ids[name] for i, name in enumerate(declared) if name in ids}
    for row, label in enumerate(labels):
        if label not in ids:
            raise DataError(
                f"the label `{label}` does not occur in train",
                where=table.where(row),
                hint=f"train has: {_first_few(names)}",
            )
    return np.array([ids[label] for label in labels], dtype=np.int64)


def _hold_out(examples: Examples, task: Task, names: Sequence[str], seed: int) -> dict[str, Examples]:
    """Validation gets a tenth of each class (of each fifth of the range, for numbers), at least one row of it."""
    targets = examples.targets
    if targets is None:
        raise DataError("the training rows have no labels", where=examples.origin)
    if task == "regression":
        strata = np.searchsorted(np.quantile(targets, [0.2, 0.4, 0.6, 0.8]), targets)
    else:
        strata = targets
    random = np.random.default_rng([seed, 0x5EED])
    held: list[int] = []
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        if len(rows) < 2:
            name = names[int(stratum)] if task == "single-label" else "this range"
            raise DataError(
                f"the label `{name}` has 1 row: it cannot be both learnt and held out",
                where=examples.origin,
                hint="add rows of it, or give a folder with a validation file",
            )
        count = max(1, round(len(rows) * HOLDOUT_FRACTION))
        held.extend(random.permutation(rows)[:count].tolist())
    chosen = np.zeros(len(examples), dtype=bool)
    chosen[held] = True
    return {"train": _take(examples, ~chosen), "validation": _take(examples, chosen)}


def _take(examples: Examples, mask: np.ndarray) -> Examples:
    rows = np.flatnonzero(mask)
    return replace(
        examples,
        ids=examples.ids[rows],
        texts=tuple([column[row] for row in rows] for column in examples.texts),
        targets=None if examples.targets is None else examples.targets[rows],
    )


def _without(splits: dict[str, Examples], name: str) -> dict[str, Examples]:
    return {key: value for key, value in splits.items() if key != name}


def label_counts(examples: Examples, names: Sequence[str]) -> dict[str, int]:
    """Rows of each class, in the order of the names."""
    counts = Counter(() if examples.targets is None else examples.targets.tolist())
    return {name: counts[i] for i, name in enumerate(names)}


def _number(label: str) -> float | None:
    try:
        value = float(label)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _kind(cell: Cell) -> str:
    if cell is None:
        return "null"
    if isinstance(cell, bool):
        return "a boolean"
    if isinstance(cell, Number):
        return "a number"
    return {str: "a text", list: "a list", dict: "an object"}[type(cell)]


def _first_few(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
