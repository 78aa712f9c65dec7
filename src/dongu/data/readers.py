"""One file becomes a table: csv, tsv, json, jsonl and parquet, each read strictly.

Strict means that a cell is what the file says: `null`, `NA`, `01`, `nan` and ` x ` stay as they are, nothing is
stripped or guessed, and what cannot be read is a `DataError` with its file and line.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import difflib
import json
import stat
from collections.abc import Iterable, Iterator
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Any

from dongu.data.cells import Rows
from dongu.data.json_rows import read_json_array, read_json_lines
from dongu.data.table import Cell, Number, Table, as_cell, check_names, data_error, reason_of

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
BATCH_ROWS = 1 << 12  # of parquet, made into cells together
READ_BYTES = 1 << 20  # of a column of parquet, read together
PIECE_BYTES = 1 << 16  # of a line of a JSON array, read together
FILE_KINDS = "a file is .csv, .tsv, .json, .jsonl or .parquet"


_OTHER_KINDS = {  # what to do with files that people have
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip"), "unpack it first (gunzip, bunzip2, unxz, unzstd, unzip)"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save the sheet as csv, in UTF-8"),
    **dict.fromkeys((".arrow", ".feather"), "in Python: dongu.train(datasets.Dataset.from_file(PATH))"),
}


def read_file(path: Path) -> Table:
    """Reads one csv, tsv, json, jsonl or parquet file; the ending, in any case, says which.

    Raises:
        DataError: the file is missing, unreadable, of another kind, empty, or not well formed.
    """
    origin, suffix = str(path), path.suffix.lower()
    if path_kind(path) is None:
        raise data_error(origin, "no such file or folder", closest_name(path) or "check the path")
    if path_kind(path) == "folder":
        raise data_error(origin, "this is a folder, and one file is needed", FILE_KINDS)
    if path_kind(path) == "device":  # reading it might never end
        raise data_error(origin, "this is a pipe or a device, and a file is needed", "write its content to a file")
    if suffix not in SUFFIXES:
        what = f"files ending in {suffix} are not read" if suffix else "a file without an ending is not read"
        raise data_error(origin, what, _OTHER_KINDS.get(suffix, FILE_KINDS))
    try:
        with path.open("rb") as file:
            if not file.peek(1):
                raise data_error(origin, "the file is empty (0 bytes)", "write or fetch it again")
            if suffix == ".parquet":
                return table_of_arrow(_parquet_batches(file), origin)
            _refuse_other_formats(file, origin)
            if suffix == ".json" and _starts_an_array(file):
                return read_json_array(_decode_utf8(_pieces_of_lines(file), origin), origin)
            lines = _text_lines(file, origin)
            if suffix in (".json", ".jsonl"):
                return read_json_lines(lines, origin)
            return _read_delimited(lines, origin, "," if suffix == ".csv" else "\t")
    except OSError as error:
        raise data_error(origin, f"cannot be read ({error.strerror})", "check the permissions") from error


def path_kind(path: Path) -> str | None:
    """`folder`, `file`, `device` (a pipe too), or None where nothing is there."""
    try:
        mode = path.stat().st_mode
        return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "device"
    except PermissionError:  # something may be there; reading it says what is wrong
        return "file"
    except (OSError, ValueError):  # missing, too long, or holding a NUL: no such path
        return None


def closest_name(path: Path) -> str:
    try:
        close = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], 1)
    except (OSError, ValueError):
        return f"the folder {path.parent} does not exist or cannot be listed"
    return f"did you mean {path.parent / close[0]}?" if close else ""


# --- text


_OTHER_FORMATS = {
    b"\x1f\x8b": ("a gzip archive", "unpack it with gunzip"),
    b"PK\x03\x04": ("a zip archive or an Excel workbook", "unpack it, or save the sheet as CSV UTF-8"),
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", "save the sheet as CSV UTF-8"),
    b"\xff\xfe\x00\x00": ("UTF-32 text", "convert it: iconv -f utf-32 -t utf-8"),
    b"\x00\x00\xfe\xff": ("UTF-32 text", "convert it: iconv -f utf-32 -t utf-8"),
    b"\xff\xfe": ("UTF-16 text", "convert it: iconv -f utf-16 -t utf-8"),
    b"\xfe\xff": ("UTF-16 text", "convert it: iconv -f utf-16 -t utf-8"),
}


def _refuse_other_formats(file: BufferedReader, origin: str) -> None:
    head = file.peek(4)
    for magic, (kind, hint) in _OTHER_FORMATS.items():
        if head.startswith(magic):
            raise data_error(origin, f"the file is {kind}, not UTF-8 text", hint)
    if head.startswith(b"PAR1") and _is_parquet(file):
        raise data_error(origin, "the file is parquet, not text", "rename it to end in .parquet")


def _is_parquet(file: BufferedReader) -> bool:
    """Whether it ends as it begins; the first four letters alone could name a column."""
    file.seek(-4, 2)
    end = file.read()
    file.seek(0)
    return end == b"PAR1"


def _starts_an_array(file: BufferedReader) -> bool:
    """Whether its first character that is not blank opens an array."""
    first = b""
    while not first and (block := file.read(PIECE_BYTES)):
        first = block.removeprefix(codecs.BOM_UTF8).lstrip(b" \t\r\n")
    file.seek(0)
    return first.startswith(b"[")


def _text_lines(file: BufferedReader, origin: str) -> Iterator[str]:
    """The lines with their ends, each read when it is asked for, so that a file of any size takes a line's memory."""
    lines = _decode_utf8(file, origin)
    blank = []  # at the beginning
    for line in lines:
        blank.append(line)
        if line.strip():
            return chain(blank, lines)
    raise data_error(origin, "the file holds only blank lines", "write or fetch it again")


def _pieces_of_lines(file: BufferedReader) -> Iterator[bytes]:
    """Lines, and of long ones pieces that end between two characters: an array may be written on one line."""
    while piece := file.readline(PIECE_BYTES):
        for _ in range(3):  # a character has up to three bytes after its first
            if not piece.endswith(b"\n") and (more := file.peek(1)[:1]) and 0x80 <= more[0] < 0xC0:
                piece += file.read(1)
        yield piece


def _decode_utf8(pieces: Iterable[bytes], origin: str) -> Iterator[str]:
    """The texts of lines, or of pieces of lines."""
    number, mark = 1, "\ufeff"
    for content in pieces:
        if 0 in content:
            hint = "remove it, or if it is UTF-16: iconv -f utf-16 -t utf-8"
            raise data_error(f"{origin}:{number}", "there is a NUL character", hint)
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            hint = "save the file as UTF-8, for example: iconv -f cp1252 -t utf-8"
            raise data_error(f"{origin}:{number}", f"byte 0x{content[error.start]:02X} is not UTF-8", hint) from error
        yield text.removeprefix(mark)
        mark = ""  # only the first one of a file is no text
        number += content.endswith(b"\n")


_CELL_HINTS = {
    ",": 'put a cell that holds a comma or a line break in double quotes, and write "" for a quote in it',
    "\t": "a cell of a .tsv cannot hold a tab or a line break; a .csv can, in double quotes",
}


def _read_delimited(lines: Iterator[str], origin: str, delimiter: str) -> Table:
    first = next(lines)
    if "\r" in first and not first.endswith("\n"):  # it is the only line
        raise data_error(origin, "the lines end in a lone carriage return", "save it with LF or CRLF line ends")
    lines = chain([first], lines)
    with _cells_of_any_size():
        rows = _csv_rows(lines, origin) if delimiter == "," else _tsv_rows(lines)
        _, header = next(rows)
        _check_header(header, f"{origin}:1", delimiter)
        table = Rows(header)
        for line, row in _without_end(rows):
            if not row and len(header) == 1:  # in the middle of a single column, an empty line is an empty cell
                row = [""]
            if len(row) != len(header):
                what = f"the row has {len(row)} cells, and the header has {len(header)} columns"
                raise data_error(f"{origin}:{line}", what, _CELL_HINTS[delimiter])
            table.add(row, line)
    return table.table(origin)


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


def _check_header(header: list[str], where: str, delimiter: str) -> None:
    if not header:
        raise data_error(where, "the first line is empty", "begin with the names of the columns")
    check_names(header, where)
    hints = {";": "", "\t": ", or name it .tsv"} if delimiter == "," else {";": "", ",": ", or name it .csv"}
    for mark, hint in hints.items():
        if len(header) == 1 and mark in header[0]:
            wanted = "commas" if delimiter == "," else "tabs"
            raise data_error(where, f"the header is one column that holds {mark!r}", f"save it with {wanted}{hint}")


def _csv_rows(lines: Iterable[str], origin: str) -> Iterator[tuple[int, list[str]]]:
    """Each row with the line at which it begins; an empty line is an empty list."""
    reader = csv.reader(lines, strict=True)
    line = 1
    try:
        for row in reader:
            yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        what, hint = f"not well-formed csv ({reason_of(error)})", _CELL_HINTS[","]
        if "end of data" in str(error):
            what, hint = "a quoted cell opens in this row and never closes", "close it with a double quote"
        elif "expected after" in str(error):
            inside = "" if reader.line_num == line else f", which runs on to line {reader.line_num}"
            what = f"text follows the closing quote of a cell in this row{inside}"
            hint = 'write a quote inside a quoted cell as ""; check that each quoted cell is closed'
        raise data_error(f"{origin}:{line}", what, hint) from error


def _tsv_rows(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """As `_csv_rows`; text/tab-separated-values knows no quotes, so each line is a row."""
    for number, padded in enumerate(lines, 1):
        line = padded.removesuffix("\n").removesuffix("\r")
        yield number, line.split("\t") if line else []


# --- parquet and Arrow


def _parquet_batches(file: BufferedReader) -> Iterator[Any]:
    from pyarrow import parquet

    reader = parquet.ParquetFile(file, page_checksum_verification=True, pre_buffer=False, buffer_size=READ_BYTES)
    yield from reader.iter_batches(BATCH_ROWS, use_threads=False)


def table_of_arrow(batches: Iterable[Any], origin: str) -> Table:
    """The table of record batches, or of tables, with the class names that `datasets` keeps in their schema."""
    import pyarrow as pa

    rows, label_names = Rows([]), {}
    try:
        for batch in batches:
            batch.validate(full=True)
            if not rows.names:
                check_names(batch.schema.names, origin)
                rows = Rows(batch.schema.names)
                label_names = _label_names((batch.schema.metadata or {}).get(b"huggingface", b""))
            rows.extend(zip(*map(_arrow_cells, batch.columns), strict=True))
    except (pa.ArrowException, OSError, ValueError, OverflowError, RecursionError) as error:
        what = f"the data are damaged, or not parquet ({reason_of(error)})"
        raise data_error(origin, what, "write or fetch it again") from error
    table = rows.table(origin)
    for name in label_names:  # an editor may have kept the declaration of a column that now holds text
        if not any(type(cell) is str for cell in table.columns.get(name, [""])):
            table.label_names[name] = label_names[name]
    return table


def _arrow_cells(column: Any) -> list[Cell]:
    import pyarrow as pa

    values = column.to_pylist()
    if pa.types.is_floating(column.type):  # here NaN is a value of the file, and null is the missing one
        return [None if value is None else Number(repr(float(value))) for value in values]
    return [as_cell(value) for value in values]


def _label_names(metadata: bytes) -> dict[str, list[str]]:
    """Class names from the schema metadata of `datasets`, of a column of classes or of lists of classes."""
    try:
        return {
            column: [str(name) for name in kind["names"]]
            for column, feature in json.loads(metadata)["info"]["features"].items()
            for kind in (feature, feature.get("feature"))
            if isinstance(kind, dict) and kind.get("_type") == "ClassLabel"
        }
    except (ValueError, LookupError, TypeError, AttributeError):  # another writer's key: nothing is declared
        return {}
