"""In what encoding a text file is written, and its text in UTF-8."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from functools import partial
from io import BufferedReader
from itertools import chain

from dongu.data.pages import file_of
from dongu.data.table import data_error

PIECE_BYTES = 1 << 16  # of a line of a JSON array, read together
BYTE_ORDER_MARKS = {  # those of UTF-32 first: one of UTF-16 begins it
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def mark_of(head: bytes) -> str:
    """The encoding that a byte-order mark at the beginning of a file names; nothing where there is none."""
    return next((name for mark, name in BYTE_ORDER_MARKS.items() if head.startswith(mark)), "")


def in_utf8(file: BufferedReader, origin: str, given: str | None) -> tuple[BufferedReader, str]:
    """The file in UTF-8, and what there is to say of its encoding. A file in UTF-8 is itself, and is not looked at.

    Raises:
        DataError: the text is not in the encoding that the byte-order mark or the option names.
        StorageError: there is no room for the text.
    """
    marked = mark_of(file.peek(4))
    if given and marked and not codecs.lookup(given).name.replace("_", "-").startswith(marked):
        what = f"the file begins with the byte-order mark of {marked}"
        raise data_error(origin, what, f"leave --encoding {given} out: the mark says how the file is read")
    encoding = marked or codecs.lookup(given or "utf-8").name
    if encoding.startswith("utf-8"):
        return file, ""
    return file_of(_decoded(file, origin, encoding)), f"{encoding} by its byte-order mark" if marked else ""


def _decoded(file: BufferedReader, origin: str, encoding: str) -> Iterator[bytes]:
    line = 1
    try:
        for text in codecs.iterdecode(iter(partial(file.readline, PIECE_BYTES), b""), encoding):
            yield text.encode()
            line += text.count("\n")
    except UnicodeError as error:
        what = f"the text is not in {encoding} ({error.reason if isinstance(error, UnicodeDecodeError) else error})"
        raise data_error(f"{origin}:{line}", what, "give the encoding that it is in: --encoding") from error


def text_lines(file: BufferedReader, origin: str) -> Iterator[str]:
    """The lines with their ends, each read when it is asked for, so that a file of any size takes a line's memory."""
    lines = decode_utf8(file, origin)
    blank = []  # at the beginning
    for line in lines:
        blank.append(line)
        if line.strip():
            return chain(blank, lines)
    raise data_error(origin, "the file holds only blank lines", "write or fetch it again")


def pieces_of_lines(file: BufferedReader) -> Iterator[bytes]:
    """Lines, and of long ones pieces that end between two characters: an array may be written on one line."""
    while piece := file.readline(PIECE_BYTES):
        for _ in range(3):  # a character has up to three bytes after its first
            if not piece.endswith(b"\n") and (more := file.peek(1)[:1]) and 0x80 <= more[0] < 0xC0:
                piece += file.read(1)
        yield piece


def decode_utf8(pieces: Iterable[bytes], origin: str) -> Iterator[str]:
    """The texts of lines, or of pieces of lines."""
    number, mark = 1, "\ufeff"
    for content in pieces:
        if 0 in content:
            hint = "remove it, or if it is UTF-16: --encoding utf-16-le (or utf-16-be)"
            raise data_error(f"{origin}:{number}", "there is a NUL character", hint)
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            hint = "say what the text is in: --encoding cp1252 (Western Europe), cp1254 (Turkish), gb18030, …"
            raise data_error(f"{origin}:{number}", f"byte 0x{content[error.start]:02X} is not UTF-8", hint) from error
        yield text.removeprefix(mark)
        mark = ""  # only the first one of a file is no text
        number += content.endswith(b"\n")
