"""DATA, as the user names it, becomes splits of strictly read columns.

Strict means that a cell is what the file says: `null`, `NA`, `01`, `nan` and ` x ` stay as they are, nothing
is stripped or guessed, and what cannot be read is a `DataError` with its file and line. What a column means,
the modules after this one decide.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import io
import json
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

from dongu.errors import DataError


class Number(str):
    """A JSON or parquet number, kept as it is written (`1.50` stays `1.50`)."""

    __slots__ = ()


Cell: TypeAlias = str | Number | bool | list[Any] | dict[str, Any] | None


@dataclass(frozen=True)
class Table:
    """One split, read strictly: columns of cells in the order of the file."""

    origin: str
    """For messages: the path as the user gave it, `glue:mrpc train`, or `data`."""
    columns: dict[str, list[Cell]]
    lines: list[int] | None = None
    """The line of the file at which each row begins (the first line is 1); None where there are no lines."""
    label_names: dict[str, list[str]] = field(default_factory=dict)
    """Column (of classes, or of lists of them) to class names in order, where the source declares them."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def where(self, row: int) -> str:
        """The place of a row, whose index counts from 0: `train.csv:17`, or `train.parquet, row 17`."""
        return f"{self.origin}, row {row + 1}" if self.lines is None else f"{self.origin}:{self.lines[row]}"


@dataclass(frozen=True)
class Source:
    """All splits of what the user calls DATA."""

    name: str
    """A short name for the run folder: `mrpc` for `glue:mrpc`, a folder's name, a file's stem, or `data`."""
    splits: dict[str, Table]
    """In this order, where present: train, validation, test, validation_mismatched (MNLI only)."""
    hub_name: str | None = None
    """The name as given, for data from the Hub."""


GLUE_TASKS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")

_ALIASES = {
    "train": ("train",),
    "validation": ("validation", "dev", "valid", "val", "validation_matched"),
    "test": ("test", "test_matched"),
    "validation_mismatched": ("validation_mismatched",),
}
_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
_FILES = "a file is .csv, .tsv, .json, .jsonl or .parquet"
_DATA = (
    f"DATA is a folder with train.* and perhaps validation.* and test.*, or one file ({_FILES}), "
    "or a Hub name (glue:mrpc, owner/name, owner/name:config)"
)
_IN_MEMORY = "in Python also a datasets.DatasetDict or Dataset, a pandas frame, a list of dicts, a dict of splits"
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(:\w[\w.+-]*)?", re.ASCII)


def read_source(data: Any) -> Source:
    """Reads DATA: a folder, a file, a Hub name or a data set in memory. A local path wins over the Hub.

    Raises:
        DataError: whatever is wrong with it.
    """
    if isinstance(data, str | Path):
        return _read_name(str(data))
    if isinstance(data, dict):
        return Source("data", _read_splits(data, "data"))
    return Source("data", {"train": _from_memory(data, "data")})


def read_file(path: Path) -> Table:
    """Reads one csv, tsv, json, jsonl or parquet file; the ending, in any case, says which.

    Raises:
        DataError: the file is missing, unreadable, of another kind, empty, or not well formed.
    """
    origin, suffix = str(path), path.suffix.lower()
    if _kind(path) is None:
        raise _error(origin, "no such file or folder", _did_you_mean(path) or "check the path")
    if _kind(path) == "folder":
        raise _error(origin, "this is a folder, and one file is needed", _FILES)
    if suffix not in _SUFFIXES:
        raise _error(origin, f"files ending in {suffix or 'nothing'} are not read", _FILES)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _error(origin, f"cannot be read ({error.strerror})", "check the permissions") from error
    if not content:
        raise _error(origin, "the file is empty (0 bytes)", "write or fetch it again")
    if suffix == ".parquet":
        return _read_parquet(content, origin)
    text = _decode_utf8(content, origin)
    if suffix in (".json", ".jsonl"):
        return _read_json(text, origin, may_be_array=suffix == ".json")
    return _read_delimited(text, origin, "," if suffix == ".csv" else "\t")


# --- names


def _error(where: str, what: str, hint: str = "") -> DataError:
    return DataError(what, where=where, hint=hint)


def _reason(error: BaseException) -> str:
    """The first line of another library's message."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _kind(path: Path) -> str | None:
    """`folder`, `file`, or None where nothing is there."""
    try:
        return "folder" if stat.S_ISDIR(path.stat().st_mode) else "file"
    except PermissionError:  # something may be there; reading it says what is wrong
        return "file"
    except (OSError, ValueError):  # missing, too long, or holding a NUL: no such path
        return None


def _did_you_mean(path: Path) -> str:
    try:
        close = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], 1)
    except (OSError, ValueError):
        return f"the folder {path.parent} does not exist or cannot be listed"
    return f"did you mean {path.parent / close[0]}?" if close else ""


def _read_name(name: str) -> Source:
    path = Path(name)
    with contextlib.suppress(RuntimeError):  # the home of `~nobody`: reported as a missing path
        path = path.expanduser()
    kind = _kind(path) if name.strip() else None
    if kind == "folder":
        return Source(path.resolve().name or "data", _read_folder(path))
    if kind == "file" or path.suffix.lower() in _SUFFIXES or name.startswith((".", "/", "~")):
        return Source(path.stem, {"train": read_file(path)})
    if name.partition(":")[0] == "glue" or _HUB_NAME.fullmatch(name):
        return _read_hub(name)
    raise _error("", f"{name!r} is no file or folder here, and no Hub name", f"{_did_you_mean(path)} {_DATA}".strip())


def _read_folder(path: Path) -> dict[str, Table]:
    try:
        entries = sorted(path.iterdir())
        stems = {e.name: e.stem.lower() for e in entries if e.suffix.lower() in _SUFFIXES and e.is_file()}
    except OSError as error:
        raise _error(str(path), f"cannot be read ({error.strerror})", "check the permissions") from error
    chosen = _choose_splits(stems, str(path), [entry.name for entry in entries])
    return {split: read_file(path / name) for split, name in chosen.items()}


def _choose_splits(stems: dict[Any, str], where: str, present: Iterable[Any]) -> dict[str, Any]:
    """Split to the one key of `stems` that stands for it."""
    chosen: dict[str, Any] = {}
    for split, aliases in _ALIASES.items():
        found = [key for key, stem in stems.items() if stem in aliases]
        if len(found) > 1:
            raise _error(where, f"{' and '.join(map(str, found))} are both the {split} split", "keep one of them")
        if found:
            chosen[split] = found[0]
    if "train" not in chosen:
        names = [str(name) for name in present]
        listing = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        hint = f"name it train (in a folder, train.csv); {_FILES}"
        raise _error(where, f"there is no train split; there is {listing or 'nothing'}", hint)
    return chosen


# --- the Hub and data in memory


def _read_hub(name: str) -> Source:
    repository, _, config = name.partition(":")
    short = "-".join(filter(None, [repository.rpartition("/")[2], config]))
    if repository == "glue":
        if config not in GLUE_TASKS:
            raise _error(name, f"GLUE has no task {config!r}", f"its tasks are {', '.join(GLUE_TASKS)}")
        repository, short = "nyu-mll/glue", config
    try:
        import datasets

        loaded = datasets.load_dataset(repository, config or None)
    except Exception as error:  # failures of the network, the cache and the format share no other base
        what = f"the data set cannot be loaded from the Hub ({type(error).__name__}: {_reason(error)})"
        hint = "check the name and the network; a local folder or file works offline"
        raise _error(name, what, hint) from error
    return Source(short, _read_splits(loaded if isinstance(loaded, dict) else {"train": loaded}, name), name)


def _read_splits(data: dict[Any, Any], origin: str) -> dict[str, Table]:
    chosen = _choose_splits({key: str(key).lower() for key in data}, origin, data)
    return {split: _from_memory(data[key], f"{origin} {key}") for split, key in chosen.items()}


def _from_memory(data: Any, origin: str) -> Table:
    if isinstance(data, str | Path):
        return read_file(Path(data))
    if _is_a(data, "datasets", "Dataset"):
        return _from_arrow(lambda: data.with_format("arrow")[:], origin)
    if _is_a(data, "pandas", "DataFrame"):
        _check_names(list(data.columns), origin)
        data = data.to_dict("records")
    if isinstance(data, list | tuple):
        return _from_objects(_memory_rows(data, origin), f"{origin}, row ", Table(origin, {}))
    raise _error(origin, f"{type(data).__name__} is not a data set", f"{_DATA}; {_IN_MEMORY}")


def _is_a(data: Any, module: str, name: str) -> bool:
    """isinstance without the import: an object of a library exists only where the library is loaded."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(data, kind)


def _memory_rows(data: Iterable[Any], origin: str) -> Iterator[tuple[int, Any]]:
    for number, row in enumerate(data, 1):
        try:
            cells = {key: _as_cell(cell) for key, cell in row.items()} if isinstance(row, dict) else row
        except (ValueError, RecursionError) as error:  # a lone surrogate, 5,000 digits, a list within itself
            raise _error(f"{origin}, row {number}", f"a cell cannot be read ({_reason(error)})") from error
        yield number, cells


def _as_cell(value: Any) -> Cell:
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
        return {str(key): _as_cell(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_cell(item) for item in value]
    if type(value).__name__ in ("NaTType", "NAType"):
        return None
    return _as_cell(value.tolist()) if hasattr(value, "tolist") else str(value)  # NumPy's and torch's own


# --- checks that all formats share


def _check_names(names: list[Any], where: str) -> None:
    seen: set[str] = set()
    for position, name in enumerate(names, 1):
        if not isinstance(name, str):
            raise _error(where, f"the column name {name!r} is not text", "name every column")
        if not name.strip():
            hint = "name every column (pandas writes its index without a name unless index=False)"
            raise _error(where, f"column {position} has no name", hint)
        if name in seen:
            raise _error(where, f"two columns are named {name!r}", "rename or remove one of them")
        seen.add(name)


def _not_empty(table: Table) -> Table:
    if len(table) == 0:
        raise _error(table.origin, "there are no rows", "at least one row is needed")
    return table


def _from_objects(objects: Iterable[tuple[int, Any]], prefix: str, table: Table) -> Table:
    """Fills an empty table from (line or row number, object); all objects must have the same keys."""
    columns = table.columns
    for count, (number, value) in enumerate(objects):
        where = f"{prefix}{number}"
        if not isinstance(value, dict) or not value:
            hint = 'every row is an object, such as {"text": "…", "label": "…"}'
            raise _error(where, "this row is not an object with a key for each column", hint)
        if count == 0:
            _check_names(list(value), where)
            columns.update({name: [] for name in value})
        if value.keys() != columns.keys():
            key = next(key for key in [*columns, *value] if key not in value or key not in columns)
            state = "is missing here" if key in columns else "is not in the first row"
            hint = "give every object the same keys, with null where there is no value"
            raise _error(where, f"the key {key!r} {state}", hint)
        for key, cell in value.items():
            columns[key].append(cell)
        if table.lines is not None:
            table.lines.append(number)
    return _not_empty(table)


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


def _decode_utf8(content: bytes, origin: str) -> str:
    for magic, (kind, hint) in _OTHER_FORMATS.items():
        if content.startswith(magic):
            raise _error(origin, f"the file is {kind}, not UTF-8 text", hint)
    if content.startswith(b"PAR1") and content.endswith(b"PAR1"):  # the first alone could name a column
        raise _error(origin, "the file is parquet, not text", "rename it to end in .parquet")
    nul = content.find(0)
    if nul >= 0:
        where = f"{origin}:{content.count(10, 0, nul) + 1}"
        raise _error(where, "there is a NUL character", "remove it, or if it is UTF-16: iconv -f utf-16 -t utf-8")
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        where = f"{origin}:{content.count(10, 0, error.start) + 1}"
        hint = "save the file as UTF-8, for example: iconv -f cp1252 -t utf-8"
        raise _error(where, f"byte 0x{content[error.start]:02X} is not UTF-8", hint) from error
    if not text.strip():
        raise _error(origin, "the file holds only blank lines", "write or fetch it again")
    return text


_CELL_HINTS = {
    ",": 'put a cell that holds a comma or a line break in double quotes, and write "" for a quote in it',
    "\t": "a cell of a .tsv cannot hold a tab or a line break; a .csv can, in double quotes",
}


def _read_delimited(text: str, origin: str, delimiter: str) -> Table:
    if "\r" in text and "\n" not in text:
        raise _error(origin, "the lines end in a lone carriage return", "save it with LF or CRLF line ends")
    rows = _csv_rows(text, origin) if delimiter == "," else _tsv_rows(text)
    while not rows[-1][1]:  # an empty line at the end; a row of one empty cell is [""], not []
        rows.pop()
    header = rows.pop(0)[1]
    _check_header(header, f"{origin}:1", delimiter)
    if len(header) == 1:  # in the middle of a single column, an empty line is an empty cell
        rows = [(line, row or [""]) for line, row in rows]
    for line, row in rows:
        if len(row) != len(header):
            what = f"the row has {len(row)} cells, and the header has {len(header)} columns"
            raise _error(f"{origin}:{line}", what, _CELL_HINTS[delimiter])
    columns: dict[str, list[Cell]] = {name: [row[i] for _, row in rows] for i, name in enumerate(header)}
    return _not_empty(Table(origin, columns, [line for line, _ in rows]))


def _check_header(header: list[str], where: str, delimiter: str) -> None:
    if not header:
        raise _error(where, "the first line is empty", "begin with the names of the columns")
    _check_names(header, where)
    hints = {";": "", "\t": ", or name it .tsv"} if delimiter == "," else {";": "", ",": ", or name it .csv"}
    for mark, hint in hints.items():
        if len(header) == 1 and mark in header[0]:
            wanted = "commas" if delimiter == "," else "tabs"
            raise _error(where, f"the header is one column that holds {mark!r}", f"save it with {wanted}{hint}")


def _csv_rows(text: str, origin: str) -> list[tuple[int, list[str]]]:
    """Each row with the line at which it begins; an empty line is an empty list."""
    rows: list[tuple[int, list[str]]] = []
    reader = csv.reader(io.StringIO(text, newline="\n"), strict=True)
    line = 1
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))  # a setting of the whole process
    try:
        for row in reader:
            rows.append((line, row))
            line = reader.line_num + 1
    except csv.Error as error:
        what, hint = f"not well-formed csv ({_reason(error)})", _CELL_HINTS[","]
        if "end of data" in str(error):
            what, hint = "a quoted cell opens in this row and never closes", "close it with a double quote"
        elif "expected after" in str(error):
            inside = "" if reader.line_num == line else f", which runs on to line {reader.line_num}"
            what = f"text follows the closing quote of a cell in this row{inside}"
            hint = 'write a quote inside a quoted cell as ""; check that each quoted cell is closed'
        raise _error(f"{origin}:{line}", what, hint) from error
    finally:
        csv.field_size_limit(limit)
    return rows


def _tsv_rows(text: str) -> list[tuple[int, list[str]]]:
    """As `_csv_rows`; text/tab-separated-values knows no quotes, so each line is a row."""
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return [(number, line.split("\t") if line else []) for number, line in enumerate(lines, 1)]


# --- JSON


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


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


def _read_json(text: str, origin: str, *, may_be_array: bool) -> Table:
    """JSON Lines; a .json file may instead be one array of objects, told by its first character."""
    is_array = may_be_array and text.lstrip().startswith("[")
    rows = _json_array(text, origin) if is_array else _json_lines(text, origin)
    table = _from_objects(rows, f"{origin}:", Table(origin, {}, []))
    if len(table) == 1 and all(isinstance(cells[0], list | dict) for cells in table.columns.values()):
        hint = "write one object a row; a split is a file of its own (train.jsonl, validation.jsonl)"
        raise _error(origin, "the file is one object that holds whole columns or splits", hint)
    return table


def _json_lines(text: str, origin: str) -> Iterator[tuple[int, Any]]:
    for number, padded in enumerate(text.rstrip(" \t\r\n").split("\n"), 1):
        line, where = padded.strip(" \t\r"), f"{origin}:{number}"
        if not line:
            raise _error(where, "a blank line", "remove it; blank lines are allowed only at the end")
        value, end = _parse_json(line, 0, origin, number)
        if end < len(line):
            raise _error(where, "text follows the object on its line", "write one object a line")
        yield number, value


def _json_array(text: str, origin: str) -> Iterator[tuple[int, Any]]:
    """The elements one by one, for the line at which each begins."""
    line, counted, mark = 1, 0, ","
    position = _skip_blanks(text, text.index("[") + 1)
    if text[position : position + 1] == "]":
        mark, position = "]", _skip_blanks(text, position + 1)
    while mark == ",":
        line, counted = line + text.count("\n", counted, position), position
        value, end = _parse_json(text, position, origin, 1)
        yield line, value
        end = _skip_blanks(text, end)
        mark, position = text[end : end + 1], _skip_blanks(text, end + 1)
    if mark != "]" or position < len(text):
        what = "a comma or the closing ] is missing after this object"
        what = "text follows the end of the array" if mark == "]" else what
        raise _error(f"{origin}:{line}", what, "write [object, object, …]; was the file cut off?")


def _skip_blanks(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\t", "\r", "\n"):
        position += 1
    return position


def _parse_json(text: str, start: int, origin: str, first_line: int) -> tuple[Any, int]:
    """The JSON value at `start` and its end; `first_line` is the line of the file at which `text` begins."""
    try:
        value, end = _JSON.raw_decode(text, start)
        if _SURROGATE.search(text, start, end):
            json.dumps(value, ensure_ascii=False).encode()
        return value, end
    except json.JSONDecodeError as error:
        where = f"{origin}:{first_line + error.lineno - 1}"
        what, hint = f"not JSON ({error.msg}, column {error.colno})", "correct this line"
        if error.pos >= len(text) or error.msg.startswith("Unterminated"):
            what = "the JSON ends in the middle of a value"
            hint = "the file was cut off, or an object runs over several lines of a JSON Lines file"
        raise _error(where, what, hint) from error
    except (ValueError, RecursionError) as error:
        where, what = f"{origin}:{first_line + text.count(chr(10), 0, start)}", _reason(error)
        if isinstance(error, UnicodeEncodeError):
            what = "a lone surrogate is not a character"
        elif isinstance(error, RecursionError):
            what = "the JSON is nested too deeply"
        raise _error(where, what, "no such value can be trained on: remove or replace it") from error


# --- parquet and Arrow


def _read_parquet(content: bytes, origin: str) -> Table:
    import pyarrow as pa
    from pyarrow import parquet

    source = pa.BufferReader(content)
    return _from_arrow(
        lambda: parquet.ParquetFile(source, page_checksum_verification=True).read(use_threads=False), origin
    )


def _from_arrow(read: Callable[[], Any], origin: str) -> Table:
    """The table that `read` gives, with the class names that `datasets` keeps in its schema."""
    import pyarrow as pa

    try:
        table = read()
        table.validate(full=True)
        _check_names(table.column_names, origin)
        columns = {name: _arrow_cells(table.column(i)) for i, name in enumerate(table.column_names)}
        label_names = _label_names((table.schema.metadata or {}).get(b"huggingface", b""))
    except (pa.ArrowException, OSError, ValueError, OverflowError, RecursionError) as error:
        what = f"the data are damaged, or not parquet ({_reason(error)})"
        raise _error(origin, what, "write or fetch it again") from error
    for name in [*label_names]:  # an editor may have kept the declaration of a column that now holds text
        if any(type(cell) is str for cell in columns.get(name, [""])):
            del label_names[name]
    return _not_empty(Table(origin, columns, None, label_names))


def _arrow_cells(column: Any) -> list[Cell]:
    import pyarrow as pa

    values = column.to_pylist()
    if pa.types.is_floating(column.type):  # here NaN is a value of the file, and null is the missing one
        return [None if value is None else Number(repr(float(value))) for value in values]
    return [_as_cell(value) for value in values]


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
