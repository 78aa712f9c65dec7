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
from itertools import accumulate, chain, compress, islice, pairwise, repeat, zip_longest
from typing import Any, TypeAlias, TypeVar, overload

from dongu.data.pages import Pages
from dongu.data.table import BAD_ROWS_ADVICE, BadRow, Cell, Number, Table, check_names, data_error, place_of
from dongu.errors import DataError

PAGE_ROWS = 1 << 14  # rows that are packed together
PAGE_CHARACTERS = 1 << 24  # or fewer rows with so many characters
MOST_KEYS = 1 << 10  # of all objects of a file together
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
        if isinstance(rows, range) and rows and rows.step == 1:  # pages are unpacked whole
            first, last = (bisect_right(self._starts, end) - 1 for end in (rows[0], rows[-1]))
            skipped = rows[0] - self._starts[first]
            return [*islice(chain.from_iterable(self._pages[first : last + 1]), skipped, skipped + len(rows))]
        if isinstance(rows, range):
            return [self[row] for row in rows]
        page = bisect_right(self._starts, rows) - 1
        return self._pages[page][rows - self._starts[page]]

    def __iter__(self) -> Iterator[Any]:
        for page in self._pages:
            yield from page

    def copied_to(self, pages: Pages) -> Iterator[_Page]:
        """Its pages, with their bytes among those."""
        for page in self._pages:
            if isinstance(page, _Packed):
                content = page.pages.read(page.start, page.size)
                yield replace(page, pages=pages, start=pages.add(content))
            else:
                yield page

    def as_texts(self) -> PagedColumn:
        """The same without a difference between texts and numbers."""
        return PagedColumn(
            [
                replace(page, kind=str) if isinstance(page, _Packed) else [str(cell) for cell in page]
                for page in self._pages
            ]
        )


class Rows:
    """Rows that become columns: `add` each, or leave it out, and take them as `columns` or as a `table`.

    Args:
        names: of the columns.
        origin: what they are read from, as messages call it.
        drop: whether rows that cannot be read are left out, as `--bad-rows` wants it.
        by_row: whether places are told by the number of the row, and not by its line.
    """

    def __init__(
        self, names: Sequence[str] = (), origin: str = "", *, drop: bool = False, by_row: bool = False
    ) -> None:
        self.origin, self.by_row, self._drop = origin, by_row, drop
        self.bad: list[BadRow] = []
        self.left_out = 0  # rows of the source, bad ones and others
        self._ids: array[int] | None = None  # the row of the source that each is, once one was left out
        self._rows = 0  # that are packed
        self._pages = Pages()
        self._waiting: list[Sequence[Cell]] = []  # rows that are not packed yet
        self._counted, self._characters = 0, 0  # how many of these were looked at, and what they hold
        self._lines = array("q")
        self._are_ragged = False  # whether rows that wait may lack the last columns
        self.begin(names)

    def begin(self, names: Sequence[str]) -> None:
        """With these columns, before the first row."""
        self.names = names
        self._packed: list[list[_Page]] = [[] for _ in names]

    def __len__(self) -> int:
        return self._rows + len(self._waiting)

    def where(self, number: int) -> str:
        """The place of a row by its line, or by its number, from 1."""
        return place_of(self.origin, number - 1, 0 if self.by_row else number)

    def add(self, row: Sequence[Cell], line: int | None = None) -> None:
        """A cell for each column, and the line of the file at which the row begins, where there are lines."""
        if self._ids is not None:
            self._ids.append(len(self) + self.left_out)
        self._waiting.append(row)
        if line is not None:
            self._lines.append(line)
        if len(self._waiting) - self._counted >= PAGE_ROWS // COUNTS_A_PAGE:
            self._count()

    def skip(self) -> None:
        """Leave the next row of the source out: the others keep their numbers."""
        self._keep_ids()
        self.left_out += 1

    def _keep_ids(self) -> None:
        if self._ids is None:
            self._ids = array("q", range(len(self)))

    def put_aside(self, error: DataError) -> None:
        """Leave a row out that cannot be read.

        Raises:
            DataError: no row may be bad.
        """
        if not self._drop:
            raise error
        self.bad.append(BadRow(error.where, error.what))
        self.skip()

    def refuse(self, number: int, what: str, hint: str) -> None:
        """`put_aside` the row of this line or number."""
        self.put_aside(data_error(self.where(number), what, f"{hint}; or {BAD_ROWS_ADVICE}"))

    def extend(self, rows: Iterable[Sequence[Cell]]) -> None:
        """Rows of a source without lines."""
        for part in parts_of(rows, max(1, PAGE_ROWS // COUNTS_A_PAGE)):
            self._waiting.extend(part)
            self._count()

    def take(self, table: Table) -> None:
        """All rows of a table with the same columns, their lines and numbers; pages stay as they are."""
        if table.ids is not None:
            self._keep_ids()
        if self._ids is not None:
            start = len(self) + self.left_out
            self._ids.extend(start + id_ for id_ in (range(len(table)) if table.ids is None else table.ids))
        self.left_out += table.left_out
        self.bad += table.bad
        columns = [table.columns[name] for name in self.names]
        if all(isinstance(column, PagedColumn) for column in columns):
            if self._waiting:
                self._pack()
            for pages, column in zip(self._packed, columns, strict=True):
                pages.extend(column.copied_to(self._pages))  # type: ignore[attr-defined]
            self._rows += len(table)
        else:
            self.extend(zip(*columns, strict=True))
        if table.lines or self._lines:  # none where no file has lines
            self._lines.extend(repeat(0, len(self) - len(table) - len(self._lines)))
            self._lines.extend(table.lines or repeat(0, len(table)))

    def add_columns(self, names: Sequence[str]) -> None:
        """Further columns, of which the rows so far have nothing."""
        self._packed += [[[None] * len(page) for page in self._packed[0]] for _ in names]
        self._are_ragged = True  # to fill up each row that waits, for each new column, would take the square of them
        self.names = [*self.names, *names]

    def _count(self) -> None:
        """Pack a page once there is one."""
        new = self._waiting[self._counted :]
        self._counted = len(self._waiting)
        self._characters += sum([len(cell) for row in new for cell in row if isinstance(cell, str)])
        if self._counted >= PAGE_ROWS or self._characters > PAGE_CHARACTERS:
            self._pack()

    def _pack(self) -> None:
        for pages, cells in zip(self._packed, self._transposed(), strict=True):
            pages.append(_pack(cells, self._pages))
        self._rows += len(self._waiting)
        self._waiting, self._counted, self._characters = [], 0, 0

    def _transposed(self) -> Iterator[tuple[Cell, ...]]:
        """The columns of the rows that wait."""
        return zip_longest(*self._waiting) if self._are_ragged else zip(*self._waiting, strict=True)

    def columns(self) -> list[Sequence[Cell]]:
        """The columns, each with all rows: lists, unless there were more rows than a page holds."""
        if not any(self._packed):
            return [list(cells) for cells in self._transposed()] or [[] for _ in self.names]
        if self._waiting:
            self._pack()
        return [PagedColumn(pages) for pages in self._packed]

    def table(self, *, said: Iterable[str] = ()) -> Table:
        """`said` is how they were read; what is empty is left out.

        Raises:
            DataError: there are no rows.
        """
        columns = dict(zip(self.names, self.columns(), strict=True))
        lines = (self._lines if any(self._packed) else self._lines.tolist()) if any(self._lines) else None
        ids = None if self._ids is None else self._ids.tolist()
        said, bad = tuple(filter(None, said)), tuple(self.bad)
        table = Table(self.origin, columns, lines, ids=ids, said=said, bad=bad, left_out=self.left_out)
        if not len(table):
            as_read = f"; read as: {'; '.join(said)}" if said else ""  # another sheet may have them
            raise data_error(self.origin, "there are no rows", f"at least one row is needed{as_read}")
        return table


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


def without_rows(table: Table, left_out: Iterable[int]) -> Table:
    """The other rows of a table, each with the place that it had."""
    gone = {*left_out}
    return take_rows(table, [row not in gone for row in range(len(table))])


def with_fields(table: Table, names: Iterable[str]) -> Table:
    """The table with a column for each name that is the path of a field within the objects of a column: `a.b`."""
    found: dict[str, Sequence[Cell]] = {}
    for name in names:
        column, _, path = name.partition(".")
        if name in table.columns or not path or column not in table.columns:
            continue
        cells = column_of(_at(cell, path.split(".")) for cell in table.columns[column])
        if any(cell is not None for cell in cells):
            found[name] = cells
    return replace(table, columns={**table.columns, **found}) if found else table


def _at(cell: Any, path: Sequence[str]) -> Any:
    """What lies at a path of keys, and of places in lists; None where nothing does."""
    for key in path:
        if isinstance(cell, dict):
            cell = cell.get(key)
        elif isinstance(cell, list) and key.isdecimal() and int(key) < len(cell):
            cell = cell[int(key)]
        else:
            return None
    return cell


def column_of(cells: Iterable[Cell]) -> Sequence[Any]:
    rows = Rows([""])
    rows.extend(zip(cells, strict=True))
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


def table_of_objects(objects: Iterable[tuple[int, Any]], rows: Rows) -> Table:
    """The table of (line, or row number, and object); where an object lacks a key of another one, the cell is null.

    What is no object becomes a bad row, where there may be any. `rows` are those so far: none.
    """
    keys: dict[str, Any] = {}
    present: dict[str, int] = {}  # rows that have a key, of those that not all have
    for number, value in objects:
        if not isinstance(value, dict) or not value:
            hint = 'every row is an object, such as {"text": "…", "label": "…"}'
            rows.refuse(number, "this row is not an object with a key for each column", hint)
            continue
        if not keys:
            check_names(list(value), rows.where(number))
            keys = dict.fromkeys(value)
            rows.begin([*keys])
        if value.keys() != keys.keys():
            if new := [key for key in value if key not in keys]:
                if len(keys) + len(new) > MOST_KEYS:
                    what = f"there are more than {MOST_KEYS:,} different keys by this row"
                    hint = "a key is the name of a column: give every object the same ones"
                    raise data_error(rows.where(number), what, hint)
                check_names([*keys, *new], rows.where(number))
                keys |= dict.fromkeys(new)
                present |= dict.fromkeys(new, 0)
                rows.add_columns(new)
            for key in [key for key in keys if key not in value]:
                present.setdefault(key, len(rows))
            for key in present.keys() & value.keys():
                present[key] += 1
        elif present:
            present = {key: there + 1 for key, there in present.items()}
        rows.add([value.get(name) for name in rows.names], None if rows.by_row else number)
    count = len(rows)
    said = [
        f"`{key}` is null in {count - there:,} of {count:,} rows, which do not have it"
        for key, there in present.items()
    ]
    return rows.table(said=said)
