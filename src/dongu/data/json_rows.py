"""Rows of JSON: one object a line, the objects of one array, or a field of one; each is read when it is asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from dongu.config import RunConfig
from dongu.data.annotation import Converter
from dongu.data.cells import Rows, table_of_objects
from dongu.data.table import BAD_ROWS_ADVICE, Number, Table, data_error
from dongu.errors import DataError
from dongu.text import counted, reason_of

WINDOW_CHARACTERS = 1 << 16  # of an array that are read together, or more where an element is longer
LONGEST_TOKEN = 16  # characters: of what is no string or number, and may be cut at the end of a window (`-Infinity`)

_BLANKS = re.compile(r"[ \t\r\n]*")
_FIRST = re.compile(r"\[[ \t\r\n]*([^ \t\r\n])")  # of a list
_WHOLE = "write [object, object, …]; was the file cut off?"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json_lines(lines: Iterable[str], origin: str, config: RunConfig) -> Table:
    """One object a line."""
    rows = _rows(origin, config)
    return _table(_json_lines(lines, rows), rows, config)


def read_json_array(pieces: Iterator[str], origin: str, config: RunConfig, *, by_row: bool) -> Table:
    """The objects of one array; the text comes in pieces of any length.

    `by_row` tells the place of an element by its number and not by its line, which is the same for all.
    """
    rows = _rows(origin, config, by_row=by_row)
    return _table(_json_array(_Window(pieces, rows)), rows, config)


def read_json_object(pieces: Iterator[str], origin: str, config: RunConfig) -> Table:
    """The rows in one object: those of a field by its path, or of its only list of rows, or its columns.

    Raises:
        DataError: there is no such field, or there are several lists of rows, or none and no columns.
    """
    found: list[str] = []
    rows, field = _rows(origin, config), config.field
    window = _Window(pieces, rows)
    objects = _rows_at(window, field.split("."), origin) if field else _rows_of_object(window, origin, found)
    table = _table(objects, rows, config)
    return replace(table, said=(*found, *table.said))


def _rows(origin: str, config: RunConfig, *, by_row: bool = False) -> Rows:
    return Rows(origin=origin, drop=config.bad_rows is not None, by_row=by_row)


def _table(objects: Iterator[tuple[int, Any]], rows: Rows, config: RunConfig) -> Table:
    converter = Converter(rows, config.format)
    table = converter.finished(table_of_objects(converter.converted(objects), rows))
    if len(table) == 1 and all(isinstance(cells[0], list | dict) for cells in table.columns.values()):
        hint = "write one object per row; a split is a file of its own (train.jsonl, validation.jsonl)"
        raise data_error(rows.origin, "the file is one object that holds whole columns or splits", hint)
    return table


def _json_lines(lines: Iterable[str], rows: Rows) -> Iterator[tuple[int, Any]]:
    blank = 0  # the first line of this kind
    for number, padded in enumerate(lines, 1):
        line = padded.strip(" \t\r\n")
        if not line:
            blank = blank or number
            continue
        if blank:
            rows.refuse(blank, "a blank line", "remove it; blank lines are allowed only at the end")
            blank = 0
        try:
            value, end = _decode(line, 0)
        except (ValueError, RecursionError) as error:
            rows.put_aside(_error(error, rows.origin, line, 0, first_line=number))
            continue
        if end < len(line):
            rows.refuse(number, "text follows the object on its line", "write one object per line")
        else:
            yield number, value


def _json_array(window: _Window) -> Iterator[tuple[int, Any]]:
    """The elements one by one, with the line at which each begins, or its number; nothing follows the last one."""
    yield from _elements(window)
    if window.next():
        what = "text follows the end of the array"
        raise data_error(f"{window.rows.origin}:{window.line()}", what, _WHOLE)


def _elements(window: _Window) -> Iterator[tuple[int, Any]]:
    window.take()  # the bracket
    mark = window.take() if window.next() == "]" else ","
    while mark == ",":
        window.next()
        window.begin_element()
        try:
            value = window.value()
        except DataError as error:
            window.skip(error)
        else:
            yield window.element, value
        mark = window.take()
    if mark != "]":
        what = "a comma or the closing ] is missing after this object"
        raise data_error(window.rows.where(window.element), what, _WHOLE)


def _fields(window: _Window, origin: str) -> Iterator[str]:
    """The names of the fields of an object, each at its value, which is to be read before the next name."""
    seen: set[str] = set()
    mark = window.take()  # the brace
    while mark != "}":
        if mark not in ("{", ","):
            what, hint = "a comma or the closing } is missing in the object", "correct it; was the file cut off?"
            raise data_error(f"{origin}:{window.line()}", what, hint)
        if not seen and window.next() == "}":
            window.take()
            break
        window.next()
        line, name = window.line(), window.value()
        if type(name) is not str or window.take() != ":":
            raise data_error(f"{origin}:{line}", "a field of the object has no name", "correct it")
        if name in seen:
            raise data_error(f"{origin}:{line}", f"the field {name!r} is given twice", "remove one of them")
        seen.add(name)
        window.next()
        yield name
        mark = window.take()


def _rows_at(window: _Window, path: list[str], origin: str) -> Iterator[tuple[int, Any]]:
    """The rows of the field at a path; what follows it is not looked at."""
    seen = []
    shown = ".".join(path)
    while path:
        if window.next() != "{":
            break
        names = _fields(window, origin)
        for name in names:
            seen.append(name)
            if name == path[0]:
                break
            window.value()
        else:
            hint = f"the fields are: {', '.join(seen) or 'none'}"
            raise data_error(origin, f"there is no field `{shown}`", f"{hint}; --field names one by its path")
        path, seen = path[1:], []
    if path or window.next() != "[":
        raise data_error(origin, f"the field `{shown}` is not a list of rows", "--field names one: --field data.rows")
    yield from _elements(window)


def _rows_of_object(window: _Window, origin: str, found: list[str]) -> Iterator[tuple[int, Any]]:
    window.next()
    first_line, rows_in = window.line(), ""
    others: dict[str, Any] = {}
    passed: list[str] = []
    for name in _fields(window, origin):
        if window.next() == "[" and window.opens("{"):
            if rows_in:
                hint = f"name one of them: --field {name}; of several splits, each in a file of its own (train.jsonl)"
                raise data_error(origin, f"there are several lists of rows: {rows_in}, {name}", hint)
            rows_in = name
            yield from _elements(window)
        elif rows_in:
            passed.append(name)
            window.value()
        else:
            others[name] = window.value()
    if window.next():
        raise data_error(f"{origin}:{window.line()}", "text follows the object", "write one object per line (.jsonl)")
    if rows_in:
        unused = f"; not used: {', '.join([*others, *passed])}" if others or passed else ""
        found.append(f"the rows of the field `{rows_in}` (--field names another){unused}")
        return
    rows = [*others.values()] if _are_rows(others) else None
    if rows:
        found.append(f"an object of {counted(len(others), 'row')}; not used: their keys")
    elif rows := _rows_of_columns(others):
        found.append(f"an object of {counted(len(others), 'column')}")
    yield from ((first_line, row) for row in rows or [others])


def _are_rows(value: dict[str, Any]) -> bool:
    """Whether an object holds rows by their keys (`orient="index"` of pandas), and not columns.

    Keys that are numbers are those of rows; where they are names on both sides, there are more rows than columns.
    """
    keys = [inner.keys() if isinstance(inner, dict) else None for inner in value.values()]
    if not keys or not keys[0] or any(inner != keys[0] for inner in keys):
        return False
    outside, inside = all(map(str.isdecimal, value)), all(map(str.isdecimal, keys[0]))
    return outside if outside != inside else len(value) > len(keys[0])


def _rows_of_columns(value: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The rows of columns: lists, or what pandas writes in their place (`orient` columns or split); None for others."""
    if value.keys() in ({"columns", "index", "data"}, {"columns", "data"}):
        names, rows = value["columns"], value["data"]
        if isinstance(rows, list) and all(isinstance(row, list) and len(row) == len(names) for row in rows):
            return [dict(zip(map(str, names), row, strict=True)) for row in rows]
    columns = [*value.values()]
    if columns and all(isinstance(column, dict) for column in columns):
        if any(column.keys() != columns[0].keys() for column in columns):
            return None
        columns = [[column[key] for key in columns[0]] for column in columns]  # each may have its own order
    if not columns or not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        return None
    return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]


class _Window:
    """A place in a text that is read as the place moves on: what lies behind is forgotten."""

    def __init__(self, pieces: Iterator[str], rows: Rows) -> None:
        self._pieces, self.rows = pieces, rows
        self.element = 0  # the line or the number of the last one
        self._text, self._place = "", 0
        self._first_line, self._first_column = 1, 0  # of the text at hand, in the file
        self._line, self._counted = 1, 0  # the line of a place in the text up to which line ends were counted

    def next(self) -> str:
        """Go to the next character that is not blank; nothing at the end."""
        while True:
            found = _BLANKS.match(self._text, self._place)
            self._place = self._place if found is None else found.end()
            if self._place < len(self._text) or not self._read_on():
                return self._text[self._place : self._place + 1]

    def take(self) -> str:
        """The same, and pass it."""
        mark = self.next()
        self._place += len(mark)
        return mark

    def opens(self, mark: str) -> bool:
        """Whether the list at this place begins with a value that begins so."""
        while not (found := _FIRST.match(self._text, self._place)):
            if not self._read_on():
                return False
        return found[1] == mark

    def line(self) -> int:
        """The line of the file at this place."""
        self._line += self._text.count("\n", self._counted, self._place)
        self._counted = self._place
        return self._line

    def begin_element(self) -> None:
        """Whose value is at this place."""
        self.element = self.element + 1 if self.rows.by_row else self.line()

    def value(self) -> Any:
        """The value at this place, which is passed."""
        try:
            return self._passed(_decode)
        except (ValueError, RecursionError) as error:
            raise self._error(error) from error

    def skip(self, error: DataError) -> None:
        """Pass a value that `value` refuses, which becomes a bad row.

        Raises:
            DataError: there may be none, or the value has no end.
        """
        self.rows.put_aside(error)
        try:
            self._passed(_ANY_JSON.raw_decode)
        except (ValueError, RecursionError):
            raise error from None

    def _passed(self, decode: Callable[[str, int], tuple[Any, int]]) -> Any:
        while True:
            try:
                value, end = decode(self._text, self._place)
                if end < len(self._text) or not self._read_on():  # the digits of a number may go on
                    self._place = end
                    return value
            except (ValueError, RecursionError) as error:
                may_be_cut = isinstance(error, json.JSONDecodeError) and (
                    error.msg.startswith("Unterminated") or error.pos > len(self._text) - LONGEST_TOKEN
                )
                if not (may_be_cut and self._read_on()):
                    raise

    def _read_on(self) -> bool:
        """Forget what was passed, and at least double the rest: then a long value is not begun anew too often."""
        rest = self._text[self._place :]
        parts, characters = [rest], 0
        while characters < max(len(rest), WINDOW_CHARACTERS) and (piece := next(self._pieces, "")):
            parts.append(piece)
            characters += len(piece)
        if not characters:
            return False
        self._first_line = self.line()
        line_end = self._text.rfind("\n", 0, self._place)
        self._first_column = self._place - line_end - 1 + (self._first_column if line_end < 0 else 0)
        self._text, self._place, self._counted = "".join(parts), 0, 0
        return True

    def _error(self, error: Exception) -> DataError:
        origin = self.rows.origin
        found = _error(
            error, origin, self._text, self._place, first_line=self._first_line, first_column=self._first_column
        )
        return data_error(self.rows.where(self.element), found.what, found.hint) if self.rows.by_row else found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise ValueError(f"the key {key!r} is given twice")
        value[key] = item
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON value")


_JSON = json.JSONDecoder(object_pairs_hook=_object, parse_int=Number, parse_float=Number, parse_constant=_refuse)

_ANY_JSON = json.JSONDecoder()


def _decode(text: str, start: int) -> tuple[Any, int]:
    """The JSON value at `start` and its end.

    Raises:
        ValueError, RecursionError: there is none that can be used.
    """
    value, end = _JSON.raw_decode(text, start)
    if _SURROGATE.search(text, start, end):
        json.dumps(value, ensure_ascii=False).encode()
    return value, end


def _error(
    error: Exception, origin: str, text: str, start: int, *, first_line: int, first_column: int = 0
) -> DataError:
    """What `_decode` says, for a person.

    Args:
        first_line: the line of the file at which `text` begins.
        first_column: characters of that line before it.
    """
    if isinstance(error, json.JSONDecodeError):
        where = f"{origin}:{first_line + error.lineno - 1}"
        column = error.colno + (first_column if error.lineno == 1 else 0)
        what, hint = f"not JSON ({error.msg}, column {column})", "correct this line"
        if error.pos >= len(text) or error.msg.startswith("Unterminated"):
            what = "the JSON ends in the middle of a value"
            hint = "the file was cut off, or an object runs over several lines of a JSON Lines file"
        return data_error(where, what, f"{hint}; {BAD_ROWS_ADVICE} of a .jsonl")
    what = reason_of(error)
    if isinstance(error, UnicodeEncodeError):
        what = "a lone surrogate is not a character"
    elif isinstance(error, RecursionError):
        what = "the JSON is nested too deeply"
    where = f"{origin}:{first_line + text.count(chr(10), 0, start)}"
    return data_error(where, what, f"no such value can be trained on: remove or replace it; or {BAD_ROWS_ADVICE}")
