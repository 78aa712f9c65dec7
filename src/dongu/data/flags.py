"""Columns of 0 and 1, one a label, as the one column of lists that they stand for."""

from __future__ import annotations

from collections.abc import Sequence

from dongu.data.columns import joined_cells, named_parts
from dongu.data.table import BAD_ROWS_ADVICE, FLAGS, Cell, Number, Table, data_error, is_flag

HIDDEN = ("-1", "-1.0")  # GLUE's test sets have the first in place of every label, and of every number the second


def join_flags(table: Table, name: str) -> Table:
    """The table with a column more where `name` joins several: lists of positions, and the names that they stand for.

    That is how `datasets` keeps lists of classes, so nobody further on needs to know where they come from. A column
    whose name is written in other letters, such as `Label`, is there by this name too.

    Raises:
        DataError: a cell is neither 0 nor 1.
    """
    parts = named_parts(name, table.columns)
    if parts is None or parts == (name,):
        return table
    if len(parts) == 1:
        return table.with_column(name, table.columns[parts[0]], table.label_names.get(parts[0]))
    cells = [positions_of(flags, parts, table, row) for row, flags in enumerate(joined_cells(table, name))]
    return table.with_column(name, cells, parts)


def flag_faults(table: Table, name: str) -> list[str]:
    """By row, what is wrong with the flags of the columns that a name joins; nothing where it joins none."""
    parts = named_parts(name, table.columns) or ()
    rows = joined_cells(table, name) if len(parts) > 1 else ()
    return ["" if hides_flags(flags) else next(filter(None, map(_fault, flags, parts)), "") for flags in rows]


def positions_of(flags: Sequence[Cell], names: Sequence[str], table: Table, row: int) -> Cell:
    """Where a 1 stands among a row's flags; -1 where they hide the labels.

    Raises:
        DataError: a flag is neither 0 nor 1.
    """
    if hides_flags(flags):
        return Number(HIDDEN[0])
    for fault in filter(None, map(_fault, flags, names)):
        raise data_error(table.where(row), fault, f"each such column is a label; {BAD_ROWS_ADVICE}")
    return [Number(i) for i, cell in enumerate(flags) if FLAGS[str(cell).lower()]]


def hides_flags(cells: Sequence[Cell]) -> bool:
    """Whether all flags of a row are -1, which hides its labels."""
    return len(cells) > 0 and all(str(cell) in HIDDEN for cell in cells)


def _fault(cell: Cell, column: str) -> str:
    return "" if is_flag(cell) else f"`{column}` is {str(cell)!r}, not 0 or 1"
