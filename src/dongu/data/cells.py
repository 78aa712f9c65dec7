"""Columns of cells that grow by rows: lists while they are short, packed page by page when they are long.

A short text is five times its size as a Python object. So once there is a page of rows, its cells become bytes, which
lie outside of memory when they are many, and are made into cells again as they are asked for.
"""

from __future__ import annotations

import gc
import json
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, compress, islice, pairwise
from typing import Any, TypeAlias, TypeVar, overload

from dongu.data.pages import Pages
from dongu.data.table import Cell, Number, Table, check_names, data_error, not_empty

PAGE_ROWS = 1 << 14  # rows that are packed together
PAGE_CHARACTERS = 1 << 24  # or fewer rows with so many characters
COUNTS_A_PAGE = 128  # how often the characters are counted
_END_BYTES = 8


@dataclass(frozen=True)
class _Packed:
    """A page of texts, or of numbers: the ends of the cells (cells + 1,) uint64, and then their UTF-8."""

    pages: Pages
    start: int
    cells: int
    size: int  # bytes, of ends and texts
    kind: type[str]

    def __len__(self) -> int:
        return self.cells

    def __getitem__(self, place: int) -> str:
        begin, end = array("Q", self.pages.read(self.start + place * _END_BYTES, 2 * _END_BYTES))
        texts = self.start + (self.cells + 1) * _END_BYTES
        return self.kind(self.pages.read(texts + begin, end - begin), "utf-8")

    def __iter__(self) -> Iterator[str]:
        content = self.pages.read(self.start, self.size)
        texts = (self.cells + 1) * _END_BYTES
        ends = array("Q", content[:texts])
        if content[texts:].isascii():  # slices of one text are quicker than many decodings
            whole = content[texts:].decode()
            return (self.kind(whole[begin:end]) for begin, end in pairwise(ends))
        return (self.kind(content[texts + begin : texts + end], "utf-8") for begin, end in pairwise(ends))


_Page: TypeAlias = "_Packed | list[Any]"  # a list where a page holds cells of several kinds

T = TypeVar("T")


@contextmanager
def uncollected() -> Iterator[None]:
    """Inside the block Python does not look for circles of objects, of which rows make none.

    It would after every few hundred cells, and now and then through all that torch has made: half the time of reading.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class PagedColumn(Sequence[Any]):
    """A long column, read a page at a time; iterating is quicker than asking for one cell after the other."""

    def __init__(self, pages: Sequence[_Page]) -> None:
        self._pages = pages
        self._starts = list(accumulate(map(len, pages), initial=0))  # the first row of each page, and the rows

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, row: int) -> Any: ...

    @overload
    def __getitem__(self, row: slice) -> list[Any]: ...

    def __getitem__(self, row: int | slice) -> Any:
        rows = range(len(self))[row]
        if isinstance(rows, range):
            return [self[row] for row in rows]
        page = bisect_right(self._starts, rows) - 1
        return self._pages[page][rows - self._starts[page]]

    def __iter__(self) -> Iterator[Any]:
        for page in self._pages:
            yield from page

    def as_texts(self) -> PagedColumn:
        """The same without a difference between texts and numbers."""
        return PagedColumn(
            [
                replace(page, kind=str) if isinstance(page, _Packed) else [str(cell) for cell in page]
                for page in self._pages
            ]
        )


class Rows:
    """Rows that become columns: `add` each, and take them as `columns` or as a `table`."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._packed: list[list[_Page]] = [[] for _ in names]
        self._pages = Pages()
        self._waiting: list[Sequence[Cell]] = []  # rows that are not packed yet
        self._counted, self._characters = 0, 0  # how many of these were looked at, and what they hold
        self._lines = array("q")

    def add(self, row: Sequence[Cell], line: int | None = None) -> None:
        """A cell for each column, and the line of the file at which the row begins, where there are lines."""
        self._waiting.append(row)
        if line is not None:
            self._lines.append(line)
        if len(self._waiting) - self._counted >= PAGE_ROWS // COUNTS_A_PAGE:
            self._count()

    def extend(self, rows: Iterable[Sequence[Cell]]) -> None:
        """Rows of a source without lines."""
        self._waiting.extend(rows)
        self._count()

    def _count(self) -> None:
        """Pack a page once there is one."""
        new = self._waiting[self._counted :]
        self._counted = len(self._waiting)
        self._characters += sum([len(cell) for row in new for cell in row if isinstance(cell, str)])
        if self._counted >= PAGE_ROWS or self._characters > PAGE_CHARACTERS:
            self._pack()

    def _pack(self) -> None:
        for pages, cells in zip(self._packed, zip(*self._waiting, strict=True), strict=True):
            pages.append(_pack(cells, self._pages))
        self._waiting, self._counted, self._characters = [], 0, 0

    def columns(self) -> list[Sequence[Cell]]:
        """The columns, each with all rows: lists, unless there were more rows than a page holds."""
        if not any(self._packed):
            return [list(cells) for cells in zip(*self._waiting, strict=True)] or [[] for _ in self.names]
        if self._waiting:
            self._pack()
        return [PagedColumn(pages) for pages in self._packed]

    def table(self, origin: str, *, said: Iterable[str] = ()) -> Table:
        """
        Args:
            origin: of the rows, for messages.
            said: how they were read; what is empty is left out.

        Raises:
            DataError: there are no rows.
        """
        columns = dict(zip(self.names, self.columns(), strict=True))
        long = any(self._packed)
        lines = (self._lines if long else self._lines.tolist()) if self._lines else None
        return not_empty(Table(origin, columns, lines, said=tuple(filter(None, said))))


def _pack(cells: Sequence[Cell], pages: Pages) -> _Page:
    kinds = set(map(type, cells))
    if kinds not in ({str}, {Number}):
        return list(cells)
    encoded = [cell.encode() for cell in cells if isinstance(cell, str)]
    content = array("Q", accumulate(map(len, encoded), initial=0)).tobytes() + b"".join(encoded)
    return _Packed(pages, pages.add(content), len(encoded), len(content), *kinds)


def take_rows(table: Table, kept: Sequence[bool]) -> Table:
    """The rows of a table that are kept, each with the place that it had."""
    ids = range(len(table)) if table.ids is None else table.ids
    return replace(
        table,
        columns={name: column_of(compress(cells, kept)) for name, cells in table.columns.items()},
        lines=None if table.lines is None else list(compress(table.lines, kept)),
        ids=list(compress(ids, kept)),
    )


def column_of(cells: Iterable[Cell]) -> Sequence[Any]:
    """A column of these."""
    rows = Rows([""])
    for part in parts_of(cells, max(1, PAGE_ROWS // COUNTS_A_PAGE)):
        rows.extend(zip(part, strict=True))
    return rows.columns()[0]


def parts_of(column: Iterable[T], size: int) -> Iterator[list[T]]:
    """A column in lists of so many cells, the last one shorter."""
    cells = iter(column)
    while part := list(islice(cells, size)):
        yield part


def json_of(column: Iterable[str]) -> Iterator[bytes]:
    """A column as `json.dumps` writes a list, in parts."""
    begin = "["
    for part in parts_of(column, PAGE_ROWS):
        yield (begin + json.dumps(part)[1:-1]).encode()
        begin = ", "
    yield b"]" if begin == ", " else b"[]"


def table_of_objects(objects: Iterable[tuple[int, Any]], origin: str, *, lines: bool) -> Table:
    """The table of (line, or row number, and object); all objects must have the same keys."""
    rows = Rows([])
    keys: dict[str, Any] = {}
    for number, value in objects:
        where = f"{origin}:{number}" if lines else f"{origin}, row {number}"
        if not isinstance(value, dict) or not value:
            hint = 'every row is an object, such as {"text": "…", "label": "…"}'
            raise data_error(where, "this row is not an object with a key for each column", hint)
        if not keys:
            check_names(list(value), where)
            keys, rows = value, Rows(list(value))
        if value.keys() != keys.keys():
            key = next(key for key in [*keys, *value] if key not in value or key not in keys)
            state = "is missing here" if key in keys else "is not in the first row"
            hint = "give every object the same keys, with null where there is no value"
            raise data_error(where, f"the key {key!r} {state}", hint)
        rows.add([value[name] for name in rows.names], number if lines else None)
    return rows.table(origin)
