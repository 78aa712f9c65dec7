"""A split that lies in several files, as one table."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import replace

from dongu.data.cells import Rows
from dongu.data.table import BadRow, Places, Table, data_error


def join_tables(tables: Iterable[Table], origin: str, *, said: str) -> Table:
    """The rows of several files that are one split, each of which is read as the other ones are.

    Raises:
        DataError: they differ in their columns, or in the names of their classes.
    """
    first, rows, count = None, Rows([]), 0
    starts: list[int] = []
    ids: array[int] | None = None  # once a row is not the one that its index counts
    names: list[str] = []
    sentences: dict[str, None] = {said: None}
    bad: list[BadRow] = []
    for table in tables:
        if first is None:
            first, rows = replace(table, columns=dict.fromkeys(table.columns, ())), Rows(list(table.columns))
        if table.columns.keys() != first.columns.keys():
            what = f"the columns are {', '.join(table.columns)}, and those of {first.origin} {', '.join(first.columns)}"
            raise data_error(table.origin, what, "the files of one split have the same columns")
        if table.label_names != first.label_names:
            what = f"the names of the classes are others than those of {first.origin}"
            raise data_error(table.origin, what, "write the files of one split with the same classes")
        starts.append(count)
        names.append(table.origin)
        sentences |= dict.fromkeys(table.said)
        bad += table.bad
        if ids is None and (count > len(rows) or table.ids is not None):
            ids = array("q", range(len(rows)))
        if ids is not None:
            ids.extend(count + id_ for id_ in (range(len(table)) if table.ids is None else table.ids))
        rows.take(table)
        count += len(table) + table.left_out
    joined = rows.table(Places(origin, starts, names), said=sentences)
    joined = replace(joined, ids=None if ids is None else ids.tolist(), bad=tuple(bad))
    return joined if first is None else replace(joined, label_names=first.label_names)
