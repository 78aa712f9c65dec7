"""One file becomes a table: each of `FILE_KINDS` is read strictly.

Strict means that a cell is what the file says: `null`, `NA`, `01`, `nan` and ` x ` stay as they are, nothing is
stripped or guessed, and what cannot be read is a `DataError` with its file and line.
"""

from __future__ import annotations

import codecs
import difflib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from io import BufferedReader
from pathlib import Path, PurePath
from typing import Any

from dongu.config import RunConfig, make_config
from dongu.data.annotation import with_choices
from dongu.data.archives import ARCHIVES, unpacked
from dongu.data.cells import Rows
from dongu.data.delimited import read_delimited
from dongu.data.encoding import decode_utf8, in_utf8, pieces_of_lines, text_lines
from dongu.data.excel import read_sheet
from dongu.data.fasttext import read_fasttext
from dongu.data.json_rows import read_json_array, read_json_lines, read_json_object
from dongu.data.misnamed import is_json, refuse_binary, refuse_misnamed, refuse_unlike
from dongu.data.table import Cell, Number, Table, as_cell, check_names, data_error, readable
from dongu.text import is_blank, reason_of
from dongu.waiting import Waiting

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".feather", ".xlsx", ".txt")
BATCH_ROWS = 1 << 12  # of parquet, made into cells together
FIRST_LINE_BYTES = 1 << 20  # of a .json, that are looked at for an object
READ_BYTES = 1 << 20  # of a column of parquet, read together
FILE_KINDS = (
    "a file is .csv, .tsv, .json, .jsonl, .ndjson, .parquet, .arrow, .feather, .xlsx or fastText's .txt, perhaps in"
    " .gz, .bz2, .xz, .zst or .zip"
)
AS_FOUND = make_config({})  # how a file is read where nobody says it


_OTHER_KINDS = {  # what to do with files that people have
    **dict.fromkeys((".xls", ".ods", ".xlsm", ".xlsb"), "save it as .xlsx, or the sheet as CSV UTF-8"),
    **dict.fromkeys((".tar", ".tgz", ".7z", ".rar"), "unpack it first, and give the folder or one of its files"),
}


def read_file(path: Path, config: RunConfig = AS_FOUND) -> Table:
    """Reads one file of `FILE_KINDS`; the ending, in any case, says which.

    Raises:
        DataError: the file is missing, unreadable, of another kind, empty, or not well formed.
    """
    origin = str(path)
    refuse_broken_link(path)
    kind = path_kind(path)
    if kind is None:
        raise data_error(origin, "no such file or folder", closest_name(path) or "check the path")
    if kind == "folder":
        raise data_error(origin, "this is a folder, and one file is needed", FILE_KINDS)
    if kind == "device":  # reading it might never end
        raise data_error(origin, "this is a pipe or a device, and a file is needed", "write its content to a file")
    if not is_archive(path.name):
        _check_suffix(path.name, origin)
    with readable(origin):
        size = path.stat().st_size
        with path.open("rb") as file, Waiting(f"reading {path.name}", size, "bytes", at=partial(_place, file)):
            return read_open(file, path.name, origin, config)


def _place(file: BufferedReader) -> int:
    """How far a file is read; asked of the system, as another thread reads it."""
    return os.lseek(file.fileno(), 0, os.SEEK_CUR)


def is_archive(name: str) -> bool:
    return PurePath(name).suffix.lower() in ARCHIVES


def stem_of(name: str) -> str | None:
    """The name of a file that is read, without its endings (`train.csv.gz` is `train`); None for any other file."""
    path = PurePath(name)
    inner = PurePath(path.stem) if is_archive(name) else path
    if inner.suffix.lower() in SUFFIXES:
        return inner.stem
    return inner.name if path.suffix.lower() == ".zip" else None  # whose member has its own name


def _check_suffix(name: str, origin: str) -> str:
    suffix = PurePath(name).suffix.lower()
    if suffix not in SUFFIXES:
        what = f"files ending in {suffix} are not read" if suffix else "a file without an ending is not read"
        raise data_error(origin, what, _OTHER_KINDS.get(suffix, FILE_KINDS))
    return suffix


def read_open(file: BufferedReader, name: str, origin: str, config: RunConfig) -> Table:
    """What `read_file` reads, of a file that is open; the ending of its name says which kind it is."""
    if not file.peek(1):
        raise data_error(origin, "the file is empty (0 bytes)", "write or fetch it again")
    if is_archive(name):
        refuse_unlike(file, PurePath(name).suffix.lower(), origin)
        file, name, member = unpacked(file, name, origin, config.max_expansion)
        _check_suffix(name, origin)
        table = read_open(file, name, origin, config)
        return replace(table, said=(member, *table.said)) if member else table
    suffix = _check_suffix(name, origin)
    if suffix in (".parquet", ".xlsx", ".arrow", ".feather"):
        refuse_unlike(file, suffix, origin)
    if suffix == ".parquet":
        return table_of_arrow(_parquet_batches(file), origin)
    if suffix == ".xlsx":
        return read_sheet(file, origin, config)
    if suffix in (".arrow", ".feather"):
        return table_of_arrow(_ipc_batches(file, origin), origin)
    refuse_binary(file, origin)
    file, encoding = in_utf8(file, origin, config.encoding)
    refuse_misnamed(file, suffix, origin, config)
    if suffix in (".csv", ".tsv"):
        table = read_delimited(file, origin, config, "," if suffix == ".csv" else "\t")
        if config.format in (None, "label-studio-min"):
            table = with_choices(table)
    elif suffix == ".json":
        table = _read_json(file, origin, config)
    elif suffix == ".txt":
        table = read_fasttext(file, origin)
    else:
        table = read_json_lines(text_lines(file, origin), origin, config)
    return replace(table, said=(encoding, *table.said)) if encoding else table


def lines_of_text(path: Path, config: RunConfig) -> list[str]:
    """The lines of a file of text, without those at its end that are blank.

    Raises:
        DataError: it is no text, or none is in it.
        OSError: it cannot be read.
    """
    with path.open("rb") as opened:
        refuse_binary(opened, str(path))
        file, _ = in_utf8(opened, str(path), config.encoding)
        lines = [line.rstrip("\r\n") for line in text_lines(file, str(path))]
    while is_blank(lines[-1]):
        lines.pop()
    return lines


def path_kind(path: Path) -> str | None:
    """`folder`, `file`, `device` (a pipe too), or None where nothing is there."""
    try:
        mode = path.stat().st_mode
        return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "device"
    except PermissionError:  # something may be there; reading it says what is wrong
        return "file"
    except (OSError, ValueError):  # missing, too long, or holding a NUL: no such path
        return None


def refuse_broken_link(path: Path) -> None:
    """Raise `DataError` if it is a symbolic link that leads to nothing."""
    if os.path.islink(path) and path_kind(path) is None:  # noqa: PTH114 - Path's own fails on a name that is too long
        what = f"this is a link, and nothing is where it points to: {os.readlink(path)}"  # noqa: PTH115
        raise data_error(str(path), what, "correct the link, or give the file itself")


def closest_name(path: Path) -> str:
    try:
        close = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], 1)
    except (OSError, ValueError):
        return f"the folder {path.parent} does not exist or cannot be listed"
    return f"did you mean {path.parent / close[0]}?" if close else ""


# --- JSON


def _read_json(file: BufferedReader, origin: str, config: RunConfig) -> Table:
    """One array; one object, which runs over several lines or stands alone in the file; else an object a line."""
    first, follows = _first_line(file)
    pieces = decode_utf8(pieces_of_lines(file), origin)
    if config.field is None and first.startswith(b"["):
        return read_json_array(pieces, origin, config, by_row=not follows)
    if config.field or (first.startswith(b"{") and not (follows and is_json(first))):
        return read_json_object(pieces, origin, config)
    return read_json_lines(text_lines(file, origin), origin, config)


def _first_line(file: BufferedReader) -> tuple[bytes, bool]:
    """The first line that is not blank, or the beginning of a long one; and whether another such line follows it."""
    first, follows, ended = b"", False, True
    while not follows and (piece := file.readline(FIRST_LINE_BYTES)):
        follows = bool(first and ended and piece.strip())
        first = first or piece.removeprefix(codecs.BOM_UTF8).strip()
        ended = piece.endswith(b"\n")
    file.seek(0)
    return first, follows


# --- parquet and Arrow


def _parquet_batches(file: BufferedReader) -> Iterator[Any]:
    from pyarrow import parquet

    reader = parquet.ParquetFile(file, page_checksum_verification=True, pre_buffer=False, buffer_size=READ_BYTES)
    yield from reader.iter_batches(BATCH_ROWS, use_threads=False)


def _ipc_batches(file: BufferedReader, origin: str) -> Iterator[Any]:
    """Of Arrow's format for files, which Feather is, or for streams, which `datasets` writes."""
    import pyarrow as pa

    if file.peek(4).startswith(b"FEA1"):
        raise data_error(origin, "this is Feather of version 1", "write it again with pyarrow.feather.write_feather")
    if file.peek(6).startswith(b"ARROW1"):
        reader = pa.ipc.open_file(file)
        batches = map(reader.get_batch, range(reader.num_record_batches))
    else:
        batches = iter(pa.ipc.open_stream(file))
    yield from pieces_of_batches(batches)


def pieces_of_batches(batches: Iterable[Any]) -> Iterator[Any]:
    """The same rows in batches that are not large."""
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.slice(start, BATCH_ROWS)


def table_of_arrow(batches: Iterable[Any], origin: str) -> Table:
    """The table of record batches, or of tables, with the class names that `datasets` keeps in their schema."""
    import pyarrow as pa

    rows, label_names = Rows(origin=origin), {}
    try:
        for batch in batches:
            batch.validate(full=True)
            if not rows.names:
                check_names(batch.schema.names, origin)
                rows.begin(batch.schema.names)
                label_names = _label_names((batch.schema.metadata or {}).get(b"huggingface", b""))
            rows.extend(zip(*map(_arrow_cells, batch.columns), strict=True))
    except (pa.ArrowException, OSError, ValueError, OverflowError, RecursionError) as error:
        what = f"the data are damaged, or not of this kind ({reason_of(error)})"
        raise data_error(origin, what, "write or fetch it again") from error
    table = rows.table()
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
