"""What a label column means, as `forms` hands it on: classes by name, lists of them, or numbers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import starmap

import numpy as np

from dongu.config import NUMBERS, Task
from dongu.data.cells import column_of
from dongu.data.flags import HIDDEN, hides_flags
from dongu.data.table import BAD_ROWS_ADVICE, BOOLEAN, Cell, Number, Table, advice_on, is_word, kind_of, no_column
from dongu.errors import DataError
from dongu.text import listed, shortened

OTHER = "other"  # the class that rare ones are joined to
LARGEST_STEP = 1 << 24  # of a scale, whose steps are float32 to the model
_LARGEST_NUMBER = float(np.finfo(np.float32).max)  # of those that are learnt or read, which are float32 to the model
LARGEST_SPREAD = 1e18  # from the least label to the largest: the sum of squared errors is a float32 too
FEWEST_STEPS = 100  # of a float32 that are between these
_INTEGER = re.compile(r"([+-]?[0-9]+)(?:\.0*)?", re.ASCII)
_MOST_DIGITS = 400  # of a finite number, and of what Python makes an int of
SEPARATOR = "|"  # between the labels of a row, where a cell is one text and nothing else is said


def label_rows(table: Table, column: str, task: Task) -> list[list[str]]:
    """The labels of each row as text: one, or any number where a row may have several.

    Raises:
        DataError: a label is empty or no name, or the column is written in two ways.
    """
    return _read_sets(table, column) if task == "multi-label" else [[label] for label in _read_labels(table, column)]


def hides_labels(table: Table, column: str) -> bool:
    """Whether there is no label in any row, as in the test splits of benchmarks."""
    return column not in table.columns or all(
        hides_flags(cell) if isinstance(cell, list) else cell is None or cell in HIDDEN
        for cell in table.columns[column]
    )


def name_labels(table: Table, task: Task, column: str) -> tuple[str, ...]:
    """Class id → name: the order that the source declares, else numbers by size, else names by alphabet.

    Raises:
        DataError: a label cannot be read, there are fewer than two classes, or one means "hidden".
    """
    if task == "regression":
        return (column,)
    if task == "ordinal":
        return _name_scale(table, column)
    if declared := table.label_names.get(column):
        return tuple(declared)
    if task == "multi-label":
        distinct = sorted({label for labels in label_rows(table, column, task) for label in labels})
    else:
        distinct = sorted({*_read_labels(table, column)})
    if all(number_of(name) is not None for name in distinct):
        distinct.sort(key=lambda name: (exact_number(name) or 0, name))  # 2 before 10; 01 and 1 stay two names
    for reserved in (HIDDEN[0], "-100"):
        if reserved in distinct:
            rows = label_rows(table, column, task)
            raise DataError(
                f"the label {reserved} means 'hidden' or 'ignored' and cannot be a class",
                where=table.where(next(row for row, labels in enumerate(rows) if reserved in labels)),
                hint="give the class another name",
            )
    if len(distinct) < 2:
        what = f"train has one label only (`{shortened(distinct[0])}`)" if distinct else "no row of train has a label"
        raise DataError(what, where=table.origin, hint="a classifier needs two; is --label-column right?")
    return tuple(distinct)


def _name_scale(table: Table, column: str) -> tuple[str, ...]:
    """The classes of a scale by size: at least two, which are whole numbers."""
    if declared := table.label_names.get(column):
        what = f"the labels are names, not numbers: {_first_few(declared)}"
        raise DataError(what, where=table.origin, hint="--task ordinal wants whole numbers, such as stars from 1 to 5")
    known: dict[float, None] = {}
    for row, number in enumerate(_read_numbers(table, column)):
        if number not in known and number != int(number):
            hint = "--task ordinal wants whole numbers, such as stars from 1 to 5; --task regression takes any"
            raise DataError(f"the label `{number:g}` is not a whole number", where=table.where(row), hint=hint)
        if abs(number) > LARGEST_STEP:
            what = f"the label `{number:.0f}` is not a step of a scale: the largest is {LARGEST_STEP:,}"
            raise DataError(what, where=table.where(row), hint="--task single-label takes each number as a class")
        known[number] = None
    if len(known) < 2:
        what = f"train has one label only (`{next(iter(known)):.0f}`)"
        raise DataError(what, where=table.origin, hint="a scale needs two; is --label-column right?")
    return tuple(f"{number:.0f}" for number in sorted(known))


def with_names(table: Table, column: str, names: Sequence[str], *, strict: bool = True) -> Table:
    """The table whose labels are ids of these names, from 0.

    Args:
        strict: whether other labels are an error; else the table stays as it is where it has any.

    Raises:
        DataError: the source names its classes itself, or a label is no such id.
    """
    ids = {str(i) for i in range(len(names))}
    if (declared := table.label_names.get(column)) and {*declared} != {*map(str, range(len(declared)))}:
        what = f"the classes of `{column}` have names already: {_first_few(declared)}"
        raise DataError(what, where=table.origin, hint="leave --label-names out")
    for row, labels in enumerate(label_rows(table, column, "multi-label")):
        if other := [label for label in labels if label not in ids]:
            if not strict:
                return table
            what = f"the label `{shortened(other[0])}` has no name: --label-names are those of 0 to {len(names) - 1}"
            raise DataError(what, where=table.where(row), hint="give a name for each id, from 0 on")
    return replace(table, label_names={**table.label_names, column: list(names)})


def class_names(table: Table, column: str) -> list[str]:
    """The class of each row by its name."""
    declared = {str(i): name for i, name in enumerate(table.label_names.get(column, ()))}
    return [declared.get(label, label) for label in _read_labels(table, column)]


def with_other(table: Table, column: str, known: Collection[str]) -> Table:
    """The table with the class `other` in place of each class that is not known."""
    cells = column_of(name if name in known else OTHER for name in class_names(table, column))
    label_names = {name: names for name, names in table.label_names.items() if name != column}
    return replace(table, columns={**table.columns, column: cells}, label_names=label_names)


def read_targets(
    table: Table, column: str, task: Task, names: Sequence[str], *, hidden_allowed: bool, train: bool = False
) -> np.ndarray | None:
    """The target of every row; None where the labels are hidden.

    Returns:
        Class ids (int64) or numbers (float32), (rows,), or 1 for each label of a row (float32), (rows, labels).

    Raises:
        DataError: a label is empty, is no number of a float32 in a regression, or is a class that train does not have.
    """
    if hidden_allowed and hides_labels(table, column):
        return None
    if column not in table.columns:
        raise no_column(table, column)
    if task in NUMBERS:
        exact = np.fromiter(_read_numbers(table, column), np.float64, len(table))
        if train and task == "regression":
            _check_spread(exact, table)
        numbers = exact.astype(np.float32)
        if task == "ordinal" and (other := np.flatnonzero(~np.isin(numbers, [*map(float, names)]))).size:
            what = f"the label `{numbers[other[0]]:g}` does not occur in train"
            raise DataError(what, where=table.where(int(other[0])), hint=f"train has: {_first_few(names)}")
        return numbers
    declared = {str(i): name for i, name in enumerate(table.label_names.get(column, ()))}
    known = {name: i for i, name in enumerate(names)}
    # A source that declares its names (`ClassLabel`) stores positions; every other stores the names themselves.
    ids = {cell: known[name] for cell, name in declared.items() if name in known} if declared else known

    def id_of(row: int, label: str) -> int:
        if label not in ids:
            what = f"the label `{shortened(declared.get(label, label))}` does not occur in train"
            joined = f"where train has classes of fewer than N rows, --rare join=N takes others as `{OTHER}`"
            hint = f"train has: {_first_few(names)}; {joined}"
            raise DataError(what, where=table.where(row), hint=hint)
        return ids[label]

    if task == "multi-label":
        targets = np.zeros((len(table), len(names)), dtype=np.float32)
        for row, labels in enumerate(_read_sets(table, column)):
            targets[row, [id_of(row, label) for label in labels]] = 1
        return targets
    return np.fromiter(starmap(id_of, enumerate(_read_labels(table, column))), np.int64, len(table))


def _check_spread(numbers: np.ndarray, table: Table) -> None:
    """Raise `DataError` if a float32 does not hold the squared errors of these, or hardly tells them apart."""
    low, high = float(numbers.min()), float(numbers.max())
    step = float(np.spacing(np.float32(max(abs(low), abs(high)))))
    if low < high and not max(1 / LARGEST_SPREAD, FEWEST_STEPS * step) <= high - low <= LARGEST_SPREAD:
        what = f"the labels go from {low:.10g} to {high:.10g}: float32 cannot learn numbers so near or far"
        hint = "subtract the first from all of them, or write another unit; --task single-label takes them as names"
        raise DataError(what, where=table.origin, hint=hint)


def read_column(table: Table, name: str) -> np.ndarray:
    """A numeric column beside the text, (rows,) float32.

    Raises:
        DataError: it is missing, or a cell is no number that is finite as float32.
    """
    if name not in table.columns:
        raise no_column(table, name)
    numbers = np.empty(len(table), np.float32)
    for row, cell in enumerate(table.columns[name]):
        word = str(float(cell)) if isinstance(cell, bool) else cell
        if fault := number_fault(word) if is_word(word) else "is not a number":
            found = f"`{shortened(cell)}`" if isinstance(cell, str) else kind_of(cell)
            hint = "fill it in; a run without it leaves the column out of --columns"
            raise DataError(f"the column `{name}` has {found}, which {fault}", where=table.where(row), hint=hint)
        numbers[row] = float(str(word))
    return numbers


def _read_labels(table: Table, name: str) -> Iterator[str]:
    """The label column as text, one label a row."""
    first_kind, last_type = "", None
    for row, cell in enumerate(table.columns[name]):
        if type(cell) is not last_type:
            last_type, kind = type(cell), kind_of(cell)
            first_kind = first_kind or kind
            if kind != first_kind and BOOLEAN in (kind, first_kind):
                raise two_ways(table, name, row, kind, first_kind)
        yield str(cell) if last_type in (str, Number) else _label_of(cell, name, table, row)


def _read_sets(table: Table, name: str) -> list[list[str]]:
    """The label column as sets; an empty list is a row without a label."""
    sets: list[list[str]] = []
    for row, cell in enumerate(table.columns[name]):
        labels = [_label_of(item, name, table, row) for item in (cell if isinstance(cell, list) else [cell])]
        if fault := list_fault(labels):
            raise DataError(f"`{name}` {fault}", where=table.where(row), hint=BAD_ROWS_ADVICE)
        sets.append(labels)
    return sets


def _read_numbers(table: Table, column: str) -> Iterator[float]:
    for row, label in enumerate(_read_labels(table, column)):
        if fault := number_fault(label):
            hint = "write it with a point and without a mark between thousands" if "," in label else BAD_ROWS_ADVICE
            raise DataError(f"the label `{shortened(label)}` {fault}", where=table.where(row), hint=hint)
        yield float(label)


def _label_of(cell: Cell, name: str, table: Table, row: int) -> str:
    if fault := label_fault(cell):
        what = f"the label `{name}` is {fault}, not a name or a number"
        raise DataError(what, where=table.where(row), hint=advice_on(table, name, row))
    return str(cell).lower() if isinstance(cell, bool) else str(cell)


def label_fault(cell: Cell) -> str:
    """What a cell is in place of a label; nothing where it is one."""
    return "" if is_word(cell) or isinstance(cell, bool) else kind_of(cell)


def list_fault(labels: Sequence[Cell]) -> str:
    """What is wrong with the labels of a row together; nothing where they are different names."""
    names = [str(label) for label in labels]
    what = "names an empty label" if not all(names) else "names a label twice" if len({*names}) < len(names) else ""
    return what and f"{what}: {shortened(SEPARATOR.join(names))}"


def labels_cell(labels: Sequence[str], names: Iterable[str]) -> str:
    """Several labels in one cell, as a table is read: with a bar between them, or as a list where a name has one.

    Args:
        labels: those of a row.
        names: all that a row may have, so that every row is written in one way.
    """
    if any(SEPARATOR in name or name != name.strip() for name in names):
        return json.dumps(list(labels), ensure_ascii=False)
    return SEPARATOR.join(labels)


def two_ways(table: Table, name: str, row: int, kind: str, first_kind: str) -> DataError:
    what = f"the label `{name}` is {kind}, in earlier rows {first_kind}"
    return DataError(what, where=table.where(row), hint="write all labels in one way")


def number_of(label: str) -> float | None:
    """The finite number that a label writes; None where it writes none."""
    try:
        value = math.nan if "_" in label else float(label)  # Python reads 1_000
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def number_fault(label: str) -> str:
    """Why a word is no number that can be learnt or read; nothing where it is one."""
    value = number_of(label)
    if value is None:
        return "is not a number"
    return "" if abs(value) <= _LARGEST_NUMBER else "is too large: numbers end at 3.4e38 (float32)"


def words_among_numbers(names: Sequence[str]) -> list[str]:
    """The few labels that are no numbers where all others are, some with a fraction; of any others none."""
    odd = [name for name in names if number_fault(name)]
    numbers = [*map(number_of, {*names} - {*odd})]
    return odd if 10 * len(odd) <= len(names) and any(x is not None and x % 1 for x in numbers) else []


def exact_number(label: str) -> int | float | None:
    """The same, a whole number with all its digits: of two above 2^53 a float may be one."""
    value = number_of(label)
    if value is None or not value.is_integer():
        return value
    found = _INTEGER.fullmatch(label.strip())
    return int(found[1]) if found and len(found[1]) <= _MOST_DIGITS else int(value)


def _first_few(names: Sequence[str]) -> str:
    return listed([shortened(name) for name in names], 10)
