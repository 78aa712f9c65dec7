"""Soft labels: a share for each class in place of one class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dongu.data.cells import column_of, without_rows
from dongu.data.columns import joined_cells, named_parts
from dongu.data.forms import list_of
from dongu.data.labels import number_of
from dongu.data.table import BAD_ROWS_ADVICE, BadRow, Cell, Number, Table, data_error, is_word
from dongu.errors import DataError

ROUNDED = 1e-3  # by which shares that are rounded may miss 1, for each of them
SAID = "a share for each class: trained on as they are, and evaluated against the class with the largest share"


def share_column(label: str, name: str) -> str:
    """The column that has the share of a class."""
    return f"{label}: {name}"


def share_columns(table: Table, label: str) -> list[str]:
    """Those of all classes, in their order; none where the label is no soft one."""
    names = [share_column(label, name) for name in table.label_names.get(label, ())]
    return names if names and all(name in table.columns for name in names) else []


def soft_splits(
    splits: Mapping[str, Table], label: str, names: Sequence[str] | None, *, drop: bool
) -> dict[str, Table]:
    """`with_shares` of all splits: what train has, others may have without a fraction."""
    train = with_shares(splits["train"], label, names, drop=drop)
    soft = bool(share_columns(train, label))
    names = train.label_names[label] if soft else names
    others = {name: table for name, table in splits.items() if name != "train"}
    return {
        "train": train,
        **{name: with_shares(table, label, names, drop=drop, sure=soft) for name, table in others.items()},
    }


def with_shares(
    table: Table, label: str, names: Sequence[str] | None, *, drop: bool = False, sure: bool = False
) -> Table:
    """The table with the class of the largest share as its label, and a column of numbers for the share of each class.

    Any other table as it is: there are shares where the label column holds lists of numbers, or the name joins columns
    of them, and the first row with a fraction between 0 and 1 sums to one.

    Args:
        names: of the classes of lists; by default their positions.
        drop: whether rows with other numbers are bad rows, and not an error.
        sure: whether numbers without a fraction are shares too.

    Raises:
        DataError: a row has other numbers, or there are more or fewer names than shares.
    """
    parts = named_parts(label, table.columns) or ()
    if not parts or (len(parts) == 1 and not _is_list(table.columns[parts[0]])):
        return table
    of_lists = (list_of(cell) if is_word(cell) else cell for cell in table.columns[parts[0]])
    rows = [*map(_numbers, joined_cells(table, label) if len(parts) > 1 else of_lists)]
    first = next((row for row in rows if row and (sure or any(0 < share < 1 for share in row))), None)
    if first is None or not _are_shares(first):
        return table
    classes = [*parts] if len(parts) > 1 else [*names] if names else [*map(str, range(len(first)))]
    if len(classes) != len(first):
        what = f"there are {len(first)} shares a row, and {len(classes)} names"
        raise DataError(what, where="--label-names", hint="give a name for each share, in their order")
    bad = [row for row, shares in enumerate(rows) if shares is not None and not _are_shares(shares, len(first))]
    if bad and not drop:
        what = f"the shares of `{label}` are not {len(first)} numbers that sum to one"
        raise data_error(table.where(bad[0]), what, f"write one for each class; or {BAD_ROWS_ADVICE}")
    for row in bad:
        rows[row] = None  # it is left out below
    shares = [[None] * len(first) if row is None else row for row in rows]
    columns: dict[str, Sequence[Cell]] = {
        **table.columns,
        label: [None if row is None else Number(row.index(max(row))) for row in rows],
        **{
            share_column(label, name): column_of(None if x is None else Number(repr(x)) for x in column)
            for name, column in zip(classes, zip(*shares, strict=True), strict=True)
        },
    }
    made = replace(table, columns=columns, label_names={**table.label_names, label: classes})
    dropped = [BadRow(table.where(row), f"the shares are not {len(first)} numbers that sum to one") for row in bad]
    return replace(without_rows(made, bad), bad=(*made.bad, *dropped)) if bad else made


def _is_list(column: Sequence[Cell]) -> bool:
    """Whether the first cell of a column that is not null is a list, or a text that may write one."""
    first = next((cell for cell in column if cell is not None), None)
    return isinstance(first, list) or (is_word(first) and first.lstrip().startswith(("[", "(")))


def _numbers(cells: Any) -> list[float] | None:
    """The numbers of a row; None where there are none, and of what is no number a NaN."""
    if cells is None or all(cell is None or cell == "" for cell in cells):
        return None
    return [value if is_word(x) and (value := number_of(x)) is not None else float("nan") for x in cells]


def _are_shares(row: Sequence[float], count: int = 0) -> bool:
    fits = len(row) == count if count else len(row) > 1
    return fits and all(0 <= share <= 1 for share in row) and abs(sum(row) - 1) <= ROUNDED * len(row)
