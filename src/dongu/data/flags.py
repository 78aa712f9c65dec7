"""Columns of 0 and 1, one a label, as the one column of lists that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dongu.data.columns import parts_of
from dongu.data.table import Cell, Number, Table, data_error

HIDDEN_FLAG = "-1"
_FLAGS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


def join_flags(table: Table, name: str) -> Table:
    """The table with a column more where `name` joins several: lists of positions, and the names that they stand for.

    That is how `datasets` keeps lists of classes, so nobody further on needs to know where they come from.

    Raises:
        DataError: a cell is neither 0 nor 1.
    """
    parts = parts_of(name, table.columns)
    if parts is None or len(parts) == 1:
        return table
    rows = list(zip(*(table.columns[part] for part in parts), strict=True))
    if all(map(hides_flags, rows)):
        cells: list[Cell] = [Number(HIDDEN_FLAG)] * len(rows)
    else:
        cells = [
            [
                Number(i)
                for i, (part, cell) in enumerate(zip(parts, flags, strict=True))
                if _flag(cell, part, table, row)
            ]
            for row, flags in enumerate(rows)
        ]
    return replace(table, columns={**table.columns, name: cells}, label_names={**table.label_names, name: list(parts)})


def hides_flags(cells: Sequence[Cell]) -> bool:
    """Whether a row says of no label that it has it or lacks it."""
    return all(str(cell) == HIDDEN_FLAG for cell in cells)


def is_flag(cell: Cell) -> bool:
    """Whether a cell is 0 or 1, however written."""
    return str(cell).lower() in _FLAGS


def _flag(cell: Cell, column: str, table: Table, row: int) -> bool:
    flag = _FLAGS.get(str(cell).lower())
    if flag is None:
        raise data_error(table.where(row), f"`{column}` is {str(cell)!r}, not 0 or 1", "each such column is a label")
    return flag
