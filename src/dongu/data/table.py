"""A split as strictly read columns of cells, and what every reader does to make one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias

from dongu.errors import DataError
from dongu.text import is_blank


class Number(str):
    """A JSON or parquet number, kept as it is written (`1.50` stays `1.50`)."""

    __slots__ = ()


Cell: TypeAlias = str | Number | bool | list[Any] | dict[str, Any] | None


@dataclass(frozen=True)
class Table:
    """One split, read strictly: columns of cells in the order of the file."""

    origin: str
    """For messages: the path as the user gave it, `glue:mrpc train`, or `data`."""
    columns: Mapping[str, Sequence[Cell]]
    """Lists, or what `dongu.data.cells` makes of long columns."""
    lines: Sequence[int] | None = None
    """The line of the file at which each row begins (the first line is 1); None where there are no lines."""
    label_names: dict[str, list[str]] = field(default_factory=dict)
    """Column (of classes, or of lists of them) to class names in order, where the source declares them."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def where(self, row: int) -> str:
        """The place of a row, whose index counts from 0: `train.csv:17`, or `train.parquet, row 17`."""
        return f"{self.origin}, row {row + 1}" if self.lines is None else f"{self.origin}:{self.lines[row]}"


def data_error(where: str, what: str, hint: str = "") -> DataError:
    return DataError(what, where=where, hint=hint)


def reason_of(error: BaseException) -> str:
    """The first line of another library's message."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def as_cell(value: Any) -> Cell:
    """The cell for a Python, NumPy or pandas value; NaN, NaT and NA mark a missing value, None."""
    if value is None or isinstance(value, bool | Number):
        return value
    if isinstance(value, str):
        value.encode()  # a lone surrogate is an error here, and not after an hour of training
        return str(value)
    if isinstance(value, int):
        return Number(int(value))
    if isinstance(value, float):
        return None if value != value else Number(repr(float(value)))
    if isinstance(value, Decimal):
        return None if value.is_nan() else Number(value)
    if isinstance(value, dict):
        return {str(key): as_cell(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_cell(item) for item in value]
    if type(value).__name__ in ("NaTType", "NAType"):
        return None
    return as_cell(value.tolist()) if hasattr(value, "tolist") else str(value)  # NumPy's and torch's own


def check_names(names: list[Any], where: str) -> None:
    seen: set[str] = set()
    for position, name in enumerate(names, 1):
        if not isinstance(name, str):
            raise data_error(where, f"the column name {name!r} is not text", "name every column")
        if is_blank(name):
            hint = "name every column (pandas writes its index without a name unless index=False)"
            raise data_error(where, f"column {position} has no name", hint)
        if name in seen:
            raise data_error(where, f"two columns are named {name!r}", "rename or remove one of them")
        seen.add(name)


def not_empty(table: Table) -> Table:
    if len(table) == 0:
        raise data_error(table.origin, "there are no rows", "at least one row is needed")
    return table


BOOLEAN = "a boolean"


def kind_of(cell: Cell) -> str:
    """What a cell is, in words."""
    if cell is None:
        return "null"
    if isinstance(cell, bool):
        return BOOLEAN
    if isinstance(cell, Number):
        return "a number"
    return {str: "a text", list: "a list", dict: "an object"}[type(cell)]
