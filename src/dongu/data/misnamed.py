"""Files whose content is of another kind than their ending says: what they are, and what to do about it."""

from __future__ import annotations

import json
import re
import zipfile
from io import BufferedReader
from itertools import islice
from pathlib import PurePath

from dongu.config import RunConfig
from dongu.data.archives import ARCHIVES
from dongu.data.encoding import PIECE_BYTES
from dongu.data.table import data_error

_UNPACK = "rename it to NAME{0}, or unpack it with {1}"
_BINARY = [  # what a file begins with, what it is, and what to do
    (rb"\x1f\x8b", "a gzip archive", _UNPACK.format(".gz", "gunzip")),
    (rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", "a bzip2 archive", _UNPACK.format(".bz2", "bunzip2")),
    (rb"\xfd7zXZ\0", "an xz archive", _UNPACK.format(".xz", "unxz")),
    (rb"\x28\xb5\x2f\xfd", "a Zstandard archive", _UNPACK.format(".zst", "unzstd")),
    (rb"PK\x03\x04", "a zip archive", "rename it to end in .zip, or unpack it with unzip"),
    (rb"\xd0\xcf\x11\xe0", "an Excel workbook", "save it as .xlsx, or the sheet as CSV UTF-8"),
    (rb"ARROW1\0\0", "an Arrow file", "rename it to end in .arrow"),
    (rb"PAR1", "parquet", "rename it to end in .parquet"),
    (rb"%PDF-", "a PDF", "give the table that it was made from, as csv or JSON"),
    (rb"SQLite format 3\0", "an SQLite database", "write the rows of a table of it as csv"),
    (rb"(?s).{257}ustar", "a tar archive", "unpack it with tar -xf, and give the folder or one of its files"),
]
_TEXTS = [
    (
        r"<!doctype html|<html",
        "a web page (HTML)",
        "it may say why there is no file: open it in a browser, fetch again",
    ),
    (r"<\?xml", "XML", "write its rows as csv or JSON Lines"),
    (r"version https://git-lfs", "a pointer of Git LFS", "`git lfs pull` fetches the file that it stands for"),
]
BEGINS = {  # what a file of these endings begins with; Arrow's format for streams begins with a length
    ".parquet": rb"PAR1",
    ".xlsx": rb"PK",
    ".gz": rb"\x1f\x8b",
    ".bz2": rb"BZh",
    ".xz": rb"\xfd7zXZ\0",
    ".zst": rb"[\x50-\x5f]\x2a\x4d\x18|\x28\xb5\x2f\xfd",  # the first of a frame that is skipped
    ".zip": rb"PK",
    **dict.fromkeys((".arrow", ".feather"), rb"ARROW1|\xff\xff\xff\xff"),
}
_JSON = re.compile(r"(?P<array>\[\s*)?\{\s*\"(?:[^\"\\]|\\.)*\"\s*:")
_MARKS = ",;\t|"
_LOOKED_AT = 20  # lines of what may be csv


def refuse_binary(file: BufferedReader, origin: str, wanted: str = "text") -> None:
    """Of a file that has to be text, or what else is wanted, at its beginning.

    Raises:
        DataError: it is an archive, a workbook, or another kind of file that is known.
    """
    head = file.peek(512)
    found = next((kind for kind in _BINARY if re.match(kind[0], head)), None)
    if found is None or (found[1] == "parquet" and not _ends_as_parquet(file)):
        return
    _, kind, hint = found
    if head.startswith(b"PK") and _is_workbook(file):
        kind, hint = "an Excel workbook", "rename it to end in .xlsx"
    elif wanted == "xlsx" and kind == "an Excel workbook":
        kind = f"{kind} of the older kind, or one with a password"
    name = PurePath(origin).name.removesuffix("" if wanted == "text" else f".{wanted}")
    raise data_error(origin, f"the file is {kind}, not {wanted}", hint.replace("NAME", name))


def refuse_unlike(file: BufferedReader, suffix: str, origin: str) -> None:
    """Of a file that has to be an archive, a table of parquet or Arrow, or a workbook, at its beginning.

    Raises:
        DataError: it is text, or another kind of file that is known.
    """
    if re.match(BEGINS[suffix], file.peek(16)):
        return
    refuse_binary(file, origin, suffix[1:])
    head = file.peek(PIECE_BYTES)[:PIECE_BYTES]
    begin = head.decode(errors="replace").removeprefix("\ufeff").lstrip()
    if "\0" in begin or "\ufffd" in begin[:-3]:  # the last character may be cut off
        return
    _refuse_no_rows(begin, origin)
    ending, kind = _ending_of(begin)
    name = PurePath(origin)
    hint = f"rename it to end in {ending or 'that of its kind, .csv say'}"
    if suffix in ARCHIVES and PurePath(name.stem).suffix:
        hint = f"rename it to {name.stem}"
    raise data_error(origin, f"the file is {kind}, not {suffix[1:]}", hint)


def refuse_misnamed(file: BufferedReader, suffix: str, origin: str, config: RunConfig) -> None:
    """Of a text file in UTF-8, at its beginning.

    Raises:
        DataError: it is a web page, or JSON in the place of csv, or csv in the place of JSON.
    """
    head = file.read(PIECE_BYTES).decode(errors="replace").removeprefix("\ufeff")
    file.seek(0)
    begin = head.lstrip()
    _refuse_no_rows(begin, origin)
    ending, kind = _ending_of(begin)
    if suffix in (".csv", ".tsv") and config.header is None and ending.startswith(".json"):
        raise data_error(origin, f"the file is {kind}, not {suffix[1:]}", f"rename it to end in {ending}")
    if suffix in (".json", ".jsonl", ".ndjson") and ending in (".csv", ".tsv"):
        what = f"the file is not JSON: its lines are {kind.removeprefix('text: ')}"
        raise data_error(origin, what, f"rename it to end in {ending}")


def _refuse_no_rows(begin: str, origin: str) -> None:
    for pattern, kind, hint in _TEXTS:
        if re.match(pattern, begin, re.IGNORECASE):
            raise data_error(origin, f"the file is {kind}, not rows", hint)


def _ending_of(begin: str) -> tuple[str, str]:
    """The ending that a text should have, by its beginning, and what it is; no ending where that is not known."""
    if found := _JSON.match(begin):
        return ".json" if found["array"] or not is_json(begin.partition("\n")[0]) else ".jsonl", "JSON"
    if mark := _mark_of(begin):
        name, ending = ("tabs", ".tsv") if mark == "\t" else (f"`{mark}`", ".csv")
        return ending, f"text: cells with {name} between them"
    return "", "text"


def is_json(text: str | bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _mark_of(text: str) -> str:
    """What stands between the cells of lines of which none begins as JSON does; nothing where nothing does."""
    lines = [line for line in islice(text.split("\n"), _LOOKED_AT) if line.strip()]
    if len(lines) < 2 or any(line.lstrip()[0] in "{[]}" for line in lines) or is_json(lines[0]):
        return ""
    return next((mark for mark in _MARKS if mark in lines[0]), "")


def _ends_as_parquet(file: BufferedReader) -> bool:
    """Whether it ends as it begins; the first four letters alone could name a column."""
    file.seek(-4, 2)
    end = file.read()
    file.seek(0)
    return end == b"PAR1"


def _is_workbook(file: BufferedReader) -> bool:
    """Whether a zip archive is a workbook of Excel; of one that is cut off its beginning says so too."""
    head = file.read(PIECE_BYTES)
    file.seek(0)
    try:
        names = zipfile.ZipFile(file).namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        names = ["xl/"] if b"xl/" in head else []
    file.seek(0)
    return any(name.startswith("xl/") for name in names)
