"""A split as strictly read columns of cells, and what every reader does to make one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import Enum
from typing import Any, NoReturn, TypeAlias, TypeGuard

from dongu.errors import DataError
from dongu.text import is_blank

MANY_CLASSES = 100  # above which a label column is rather a name, a date or a number of something
FEW_ROWS = 8  # of a class: with fewer the model learns little about it


class Number(str):
    """A JSON or parquet number, kept as it is written (`1.50` stays `1.50`)."""

    __slots__ = ()


class Other(str):
    """What is neither a text nor a number, such as a date, in words: it is kept, and is no text and no label."""

    __slots__ = ("kind",)
    kind: str

    @staticmethod
    def of(value: Any, kind: str = "") -> Other:
        """A value by its `str`. `kind` is what it is for a message; by default a value of its type."""
        other = Other(value)
        other.encode()  # as of any text
        other.kind = kind or f"a value of the type {type(value).__name__}"
        return other


Cell: TypeAlias = str | Number | Other | bool | list[Any] | dict[str, Any] | None


class Places(str):
    """The origin of rows that come from several files: the folder, or the pattern, that stands for all."""

    __slots__ = ("names", "starts")
    names: Sequence[str]
    starts: Sequence[int]

    def __new__(cls, origin: str, starts: Sequence[int], names: Sequence[str]) -> Places:
        """
        Args:
            origin: what stands for all of them.
            starts: the first row of each file, from 0, in order.
            names: of the files.
        """
        made = super().__new__(cls, origin)
        made.names, made.starts = names, starts
        return made


def place_of(origin: str, row: int, line: int) -> str:
    """The place of a row of the source, counted from 0, or of its line, if that is not 0: `a.csv:17`, or `a.parquet,
    row 17`."""
    if isinstance(origin, Places):
        file = bisect_right(origin.starts, row) - 1
        row, origin = row - origin.starts[file], origin.names[file]
    return f"{origin}:{line}" if line else f"{origin}, row {row + 1}"


@dataclass(frozen=True)
class BadRow:
    """A row that was left out, since it cannot be read or its label is malformed: its place, and what is wrong."""

    where: str
    what: str

    def as_json(self) -> dict[str, Any]:
        """For `dropped.jsonl`: the file, the line where there is one, and the reason."""
        file, _, line = self.where.rpartition(":")
        place = {"file": file, "line": int(line)} if line.isdecimal() else {"file": self.where, "line": None}
        return {**place, "reason": self.what}


@dataclass(frozen=True)
class Table:
    """One split, read strictly: columns of cells in the order of the file."""

    origin: str  # for messages: the path as the user gave it, `glue:mrpc train`, or `data`
    columns: Mapping[str, Sequence[Cell]]  # lists, or what `dongu.data.cells` makes of long columns
    lines: Sequence[int] | None = None  # at which each row begins, from 1; 0 in a file without, None if all are so
    # Column (of classes, or of lists of them) to class names in order, where the source declares them.
    label_names: dict[str, list[str]] = field(default_factory=dict)
    ids: Sequence[int] | None = None  # the row of the source that each is, from 0; None where all of them are there
    said: tuple[str, ...] = ()  # how the file was read, where that might be wrong: each with the option that undoes it
    bad: tuple[BadRow, ...] = ()  # rows of the file that were left out on demand
    left_out: int = 0  # how many rows of the file are not here: bad ones, and those without an annotation

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def with_column(self, name: str, cells: Sequence[Cell], label_names: Sequence[str] | None = None) -> Table:
        """The table with another column of this name, of classes with these names if some are given."""
        names = self.label_names if label_names is None else {**self.label_names, name: [*label_names]}
        return replace(self, columns={**self.columns, name: cells}, label_names=names)

    def where(self, row: int) -> str:
        """The place of a row, whose index counts from 0: see `place_of`."""
        id_ = row if self.ids is None else self.ids[row]
        return place_of(self.origin, id_, 0 if self.lines is None else self.lines[row])


SHOWN_ITEMS = 3  # of a list of objects, whose fields are named in a message
BAD_ROWS_ADVICE = "a run with --bad-rows drop=1% leaves such rows out"
REPEATED_HEADER = "the row is the header once more"
REPEATED_ADVICE = "remove it; if the first line is a row, --header A,B,… names the columns"


class NotKept:
    """In the place of texts, and of the cells of a table: whoever needs them is told that there are none."""

    def __init__(self, where: str) -> None:
        self._where = where

    def _refuse(self, *_: Any) -> NoReturn:
        raise DataError("has tokens, and no texts", where=self._where, hint="give the data that it was prepared from")

    __iter__ = __len__ = __getitem__ = __contains__ = items = keys = values = get = _refuse


def data_error(where: str, what: str, hint: str = "") -> DataError:
    return DataError(what, where=where, hint=hint)


@contextmanager
def readable(origin: str, hint: str = "check the permissions") -> Iterator[None]:
    """Turn what the system refuses in the block into a `DataError`."""
    try:
        yield
    except OSError as error:
        raise data_error(origin, f"cannot be read ({error.strerror})", hint) from error


def no_column(table: Table, name: str, before: str = "", behind: str = "") -> DataError:
    """That a table lacks a column; the hint names those that it has, between what else there is to say."""
    return data_error(
        table.origin, f"there is no column `{name}`", f"{before}the columns are: {inner_names(table)}{behind}"
    )


def as_cell(value: Any) -> Cell:
    """The cell for a Python, NumPy or pandas value; NaN, NaT and NA mark a missing value, None.

    A member of an enum is its name, bytes are the text that they are in UTF-8, and a set is the list of its members in
    an order that is the same in each process. What has no such meaning is an `Other`.
    """
    if value is None or isinstance(value, bool | Number):
        return value
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bytes | bytearray | memoryview):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            return Other.of(value, "bytes that are not UTF-8")
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
    if isinstance(value, set | frozenset):
        return sorted(map(as_cell, value), key=str)
    kind = type(value).__name__
    if kind in ("NaTType", "NAType"):
        return None
    if kind in ("datetime64", "timedelta64"):  # NumPy's times, whose `tolist` may be a bare number
        return None if str(value) == "NaT" else Other.of(value)
    return as_cell(value.tolist()) if hasattr(value, "tolist") else Other.of(value)  # NumPy's and torch's own


def is_word(cell: Cell) -> TypeGuard[str]:
    """Whether a cell is a text or a number."""
    return isinstance(cell, str) and not isinstance(cell, Other)


FLAGS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


def is_flag(cell: Cell) -> bool:
    """Whether a cell is 0 or 1, however written."""
    return str(cell).lower() in FLAGS


def inner_names(table: Table) -> str:
    """The names of the columns, and of those that hold objects the paths of their fields, as options take them."""
    paths = (path for name, cells in table.columns.items() for path in _paths(name, next(iter(cells), None)))
    return ", ".join(dict.fromkeys(paths))  # a field that an option names is a column beside its object


def _paths(name: str, cell: Cell) -> list[str]:
    fields: Any = cell.items() if isinstance(cell, dict) else ()
    if isinstance(cell, list) and any(isinstance(item, dict) for item in cell):
        fields = enumerate(cell[:SHOWN_ITEMS])
    return [path for key, inner in fields for path in _paths(f"{name}.{key}", inner)] or [name]


def advice_on(table: Table, name: str, row: int) -> str:
    """What to do with a cell that is neither a text nor a label: where it holds fields, one of them may be meant."""
    paths = _paths(name, table.columns[name][row])
    return BAD_ROWS_ADVICE if paths == [name] else f"name a field of it: {', '.join(paths)}; or {BAD_ROWS_ADVICE}"


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


BOOLEAN = "a boolean"


def kind_of(cell: Cell) -> str:
    """What a cell is, in words."""
    if cell is None:
        return "null"
    if isinstance(cell, bool):
        return BOOLEAN
    if isinstance(cell, Number):
        return "a number"
    if isinstance(cell, Other):
        return cell.kind
    return {str: "a text", list: "a list", dict: "an object"}[type(cell)]
