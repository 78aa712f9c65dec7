"""Cells between delimiters: csv with any of them, and tsv."""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from io import BufferedReader
from itertools import chain
from typing import Literal

from dongu.config import RunConfig
from dongu.data.cells import Rows
from dongu.data.encoding import text_lines
from dongu.data.table import REPEATED_ADVICE, REPEATED_HEADER, Table, check_names, data_error
from dongu.errors import DataError
from dongu.text import counted, is_blank, reason_of

DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
QUOTED_ROWS = 100  # that are looked at for quotes around all cells
_QUOTED = re.compile(r"\s*(?P<mark>['\"`]).*(?P=mark)\s*", re.DOTALL)
KEPT_QUOTES = 'quotes are kept as a part of the cells, though they look like those of csv: --quoting csv reads ""'
DECLARED = re.compile(r"sep=([^\"\r\n])\r?\n?")  # the first line of a csv for Excel


def read_delimited(file: BufferedReader, origin: str, config: RunConfig, usual: str) -> Table:
    """
    Args:
        file: in UTF-8, at its beginning.
        usual: the delimiter that the ending of the file stands for.

    Raises:
        DataError: the rows do not fit the header, or what is between the cells cannot be told.
    """
    with _cells_of_any_size():
        declared = DECLARED.fullmatch(next(_lines_of_cells(file, origin)))
        file.seek(0)
        if given := config.delimiter or (declared and declared[1]):
            delimiter, said = given, ""
        else:
            delimiter, said = _find(file, origin, config, usual)
        dialect = _Dialect(delimiter, config, usual, origin)
        rows = dialect.rows(_lines_of_cells(file, origin))
        if declared:
            next(rows)
        header = [*config.header] if config.header else next(rows, (1, []))[1]
        if not header:
            raise data_error(f"{origin}:1", "the first line is empty", "begin with the names of the columns")
        kept = [place for place, name in enumerate(header) if not is_blank(name)] or [0]
        names = [header[place] for place in kept]
        check_names(names, f"{origin}:1")
        table = Rows(names, origin, drop=config.bad_rows is not None)
        for line, row in _without_end(rows):
            if not row and len(header) == 1:  # in the middle of a single column, an empty line is an empty cell
                row = [""]
            if len(row) != len(header):
                what = f"the row has {counted(len(row), 'cell')}, and the header has {counted(len(header), 'column')}"
                title = (
                    "; if the first line is not a header, remove it" if len(header) == 1 and not config.header else ""
                )
                table.refuse(line, what, f"{dialect.hint}{title}")
            elif row == header and len(header) > 1:
                table.refuse(line, REPEATED_HEADER, REPEATED_ADVICE)
            else:
                table.add(row if len(kept) == len(row) else [row[place] for place in kept], line)
    nameless = [str(place + 1) for place in range(len(header)) if place not in kept]
    unnamed = f"not used, for want of a name: column {', '.join(nameless)}" if nameless else ""
    made = table.table(said=(said, unnamed))
    in_quotes = [
        name
        for name, cells in made.columns.items()
        if all(_QUOTED.fullmatch(str(cell)) for cell in cells[:QUOTED_ROWS])
    ]
    return replace(made, said=(*made.said, *filter(None, [dialect.said(in_quotes)])))


def _find(file: BufferedReader, origin: str, config: RunConfig, usual: str) -> tuple[str, str]:
    """The delimiter, and why it is another one than the usual. All rows are looked at where several may be meant."""
    first = next(_lines_of_cells(file, origin))
    file.seek(0)
    marks = [mark for mark in DELIMITERS if mark in first]
    if marks in ([], [usual]):
        return usual, ""
    fitting = [mark for mark in marks if _fits(file, origin, config, usual, mark)]
    if usual in fitting:
        return usual, ""
    if len(fitting) > 1:
        shown = " and ".join(map(DELIMITERS.__getitem__, fitting))
        raise data_error(origin, f"both {shown} may be the delimiter", "say which one is: --delimiter")
    if not fitting and usual not in marks:  # what does not fit is said of the row
        fitting = [mark for mark in marks if mark != "|"][:1]  # which may well be a part of a name
    mark = fitting[0] if fitting else usual
    return mark, f"{DELIMITERS[mark]} between the cells (--delimiter)" if mark != usual else ""


def _fits(file: BufferedReader, origin: str, config: RunConfig, usual: str, delimiter: str) -> bool:
    """Whether the header and all rows have as many cells, and more than one."""
    try:
        rows = _Dialect(delimiter, config, usual, origin).rows(_lines_of_cells(file, origin), checked=False)
        _, header = next(rows)
        return len(header) > 1 and all(len(row) == len(header) for _, row in _without_end(rows))
    except csv.Error:
        return False
    finally:
        file.seek(0)


def _lines_of_cells(file: BufferedReader, origin: str) -> Iterator[str]:
    lines = text_lines(file, origin)
    first = next(lines)
    if "\r" in first and not first.endswith("\n"):  # it is the only line
        raise data_error(origin, "the lines end in a lone carriage return", "save it with LF or CRLF line ends")
    return chain([first], lines)


@contextlib.contextmanager
def _cells_of_any_size() -> Iterator[None]:
    """Python's csv has a limit, which is a setting of the whole process."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _without_end(rows: Iterable[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    """All but the empty lines at the end; a row of one empty cell is [""], not []."""
    empty: list[int] = []
    for line, row in rows:
        if not row:
            empty.append(line)
            continue
        if empty:
            yield from ((earlier, []) for earlier in empty)
            empty = []
        yield line, row


class _Dialect:
    """How the lines of a file are cells."""

    def __init__(self, delimiter: str, config: RunConfig, usual: str, origin: str) -> None:
        self._delimiter, self._escape, self._origin = delimiter, config.escape, origin
        self._quoted = (config.quoting or ("none" if usual == delimiter == "\t" else "csv")) == "csv"
        self._doubled, self._bare, self._last, self._asked = False, False, "", config.quoting is not None
        name = DELIMITERS.get(delimiter, repr(delimiter))
        self.hint = f'put a cell that holds {name} or a line break in double quotes, and write "" for a quote in it'
        if not self._quoted:
            self.hint = f"no cell can hold {name} or a line break here; in double quotes it can: --quoting csv"

    def said(self, in_quotes: Sequence[str]) -> str:
        """What is odd about the rows that were read, of which these columns have quotes around all cells."""
        if self._asked or not (in_quotes or (self._doubled and not self._bare)):
            return ""
        if not self._quoted:
            return KEPT_QUOTES
        return f"quotes are kept around the cells of {', '.join(in_quotes)}: csv has double ones, and no space before"

    def rows(self, lines: Iterable[str], *, checked: bool = True) -> Iterator[tuple[int, list[str]]]:
        """Each row with the line at which it begins; an empty line is an empty list.

        Raises:
            DataError: it is no csv; a csv.Error in its place if it is not `checked`.
        """
        if not self._quoted and self._escape is None:
            return self._plain_rows(lines)
        return self._csv_rows(lines, checked=checked)

    def _csv_rows(self, lines: Iterable[str], *, checked: bool) -> Iterator[tuple[int, list[str]]]:
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self._quoted else csv.QUOTE_NONE
        reader = csv.reader(
            self._remembered(lines), delimiter=self._delimiter, strict=True, quoting=quoting, escapechar=self._escape
        )
        line = 1
        try:
            for row in reader:
                yield line, row
                line = reader.line_num + 1
        except csv.Error as error:
            if checked:
                raise self._error(error, line, reader.line_num) from error
            raise

    def _remembered(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            self._last = line
            yield line

    def _error(self, error: csv.Error, line: int, last_line: int) -> DataError:
        what, hint = f"not well-formed csv ({reason_of(error)})", self.hint
        if "end of data" in str(error):
            what, hint = "a quoted cell opens in this row and never closes", "close it with a double quote"
            hint += ", or if quotes are a part of the texts: --quoting none"
        elif "expected after" in str(error):
            inside = "" if last_line == line else f", which runs on to line {last_line}"
            what = f"text follows the closing quote of a cell in this row{inside}"
            hint = 'write a quote inside a quoted cell as ""; if quotes are a part of the texts: --quoting none'
            if '\\"' in self._last:
                hint = "if \\\" stands for a quote: --escape '\\'"
        return data_error(f"{self._origin}:{line}", what, hint)

    def _plain_rows(self, lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
        """text/tab-separated-values knows no quotes, so each line is a row."""
        for number, padded in enumerate(lines, 1):
            line = padded.removesuffix("\n").removesuffix("\r")
            cells = line.split(self._delimiter) if line else []
            if '"' in line and not self._bare:
                self._look_at_quotes(cells)
            yield number, cells

    def _look_at_quotes(self, cells: Iterable[str]) -> None:
        """Whether each quote is one of csv: around a cell, or doubled inside of such a one."""
        for cell in cells:
            if '"' in cell:
                inside = cell[1:-1]
                self._bare |= len(cell) < 2 or not cell[0] == cell[-1] == '"' or '"' in inside.replace('""', "")
                self._doubled |= '""' in inside
