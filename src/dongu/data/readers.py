"""One file becomes a table: csv, tsv, json, jsonl and parquet, each read strictly.

Strict means that a cell is what the file says: `null`, `NA`, `01`, `nan` and ` x ` stay as they are, nothing is
stripped or guessed, and what cannot be read is a `DataError` with its file and line.
"""

from __future__ import annotations

import codecs
import difflib
import json
import stat
from collections.abc import Iterable, Iterator
from dataclasses import replace
from io import BufferedReader
from pathlib import Path
from typing import Any

from dongu.config import RunConfig, make_config
from dongu.data.cells import Rows
from dongu.data.delimited import read_delimited
from dongu.data.encoding import PIECE_BYTES, decode_utf8, in_utf8, pieces_of_lines, text_lines
from dongu.data.json_rows import read_json_array, read_json_lines
from dongu.data.table import Cell, Number, Table, as_cell, check_names, data_error, reason_of

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
BATCH_ROWS = 1 << 12  # of parquet, made into cells together
READ_BYTES = 1 << 20  # of a column of parquet, read together
FILE_KINDS = "a file is .csv, .tsv, .json, .jsonl or .parquet"
AS_FOUND = make_config({})  # how a file is read where nobody says it


_OTHER_KINDS = {  # what to do with files that people have
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip"), "unpack it first (gunzip, bunzip2, unxz, unzstd, unzip)"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save the sheet as csv, in UTF-8"),
    **dict.fromkeys((".arrow", ".feather"), "in Python: dongu.train(datasets.Dataset.from_file(PATH))"),
}


def read_file(path: Path, config: RunConfig = AS_FOUND) -> Table:
    """Reads one csv, tsv, json, jsonl or parquet file; the ending, in any case, says which.

    Args:
        path: the file.
        config: how it is read, where that is not to be found out.

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
            return _read_open(file, suffix, origin, config)
    except OSError as error:
        raise data_error(origin, f"cannot be read ({error.strerror})", "check the permissions") from error


def _read_open(file: BufferedReader, suffix: str, origin: str, config: RunConfig) -> Table:
    if not file.peek(1):
        raise data_error(origin, "the file is empty (0 bytes)", "write or fetch it again")
    if suffix == ".parquet":
        return table_of_arrow(_parquet_batches(file), origin)
    _refuse_other_formats(file, origin)
    file, encoding = in_utf8(file, origin, config.encoding)
    if suffix in (".csv", ".tsv"):
        table = read_delimited(file, origin, config, "," if suffix == ".csv" else "\t")
    elif suffix == ".json" and _starts_an_array(file):
        table = read_json_array(decode_utf8(pieces_of_lines(file), origin), origin)
    else:
        table = read_json_lines(text_lines(file, origin), origin)
    return replace(table, said=(encoding, *table.said)) if encoding else table


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
}


def _refuse_other_formats(file: BufferedReader, origin: str) -> None:
    head = file.peek(4)
    for magic, (kind, hint) in _OTHER_FORMATS.items():
        if head.startswith(magic):
            raise data_error(origin, f"the file is {kind}, not text", hint)
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
