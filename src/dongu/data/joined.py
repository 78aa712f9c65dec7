"""A split that lies in several files, as one table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from dongu.data.cells import Rows
from dongu.data.table import Places, Table, data_error


def join_tables(tables: Iterable[Table], origin: str, *, said: str) -> Table:
    """The rows of several files that are one split, each of which is read as the other ones are.

    Raises:
        DataError: they differ in their columns, or in the names of their classes.
    """
    first = None
    starts: list[int] = []
    names: list[str] = []
    rows, sentences = Rows(origin=Places(origin, starts, names)), {said: None}
    for table in tables:
        if first is None:
            first = replace(table, columns=dict.fromkeys(table.columns, ()))
            rows.begin([*table.columns])
        if table.columns.keys() != first.columns.keys():
            what = f"the columns are {', '.join(table.columns)}, and those of {first.origin} {', '.join(first.columns)}"
            raise data_error(table.origin, what, "the files of one split have the same columns")
        if table.label_names != first.label_names:
            what = f"the names of the classes are others than those of {first.origin}"
            raise data_error(table.origin, what, "write the files of one split with the same classes")
        starts.append(len(rows) + rows.left_out)
        names.append(table.origin)
        sentences |= dict.fromkeys(table.said)
        rows.take(table)
    joined = rows.table(said=sentences)
    return joined if first is None else replace(joined, label_names=first.label_names)
