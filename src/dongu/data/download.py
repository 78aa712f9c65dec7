"""Rows that come from elsewhere: standard input, and an address, which is fetched where that is allowed."""

from __future__ import annotations

import codecs
import hashlib
import re
import sys
from collections.abc import Iterator
from io import BufferedReader
from pathlib import PurePath
from typing import Any
from urllib.parse import unquote, urlsplit

from dongu import launch
from dongu.config import RunConfig
from dongu.data.archives import ARCHIVES
from dongu.data.misnamed import BEGINS
from dongu.data.pages import file_of
from dongu.data.readers import FILE_KINDS, read_open, stem_of
from dongu.data.table import Table, data_error
from dongu.extras import require_protocol
from dongu.text import reason_of

STANDARD_INPUT = "-"
_DIGEST = re.compile(r"sha256=([0-9a-f]{64})")
MOST_BYTES = 1 << 35  # that are fetched
_PIPED = (".parquet", ".arrow", ".gz", ".bz2", ".xz", ".zst")  # that are told by how they begin; others are text
_READ_BYTES = 1 << 20
_TIMEOUT_SECONDS = 60


def read_standard_input(config: RunConfig) -> Table:
    """Rows from a pipe: parquet, Arrow or a compressed file by how it begins, else JSON Lines, an array, or csv.

    Raises:
        DataError: there are none, or several processes would read them.
    """
    if launch.processes() > 1:
        raise data_error(STANDARD_INPUT, "each process would have to read standard input", "write it to a file")
    if sys.stdin is None or sys.stdin.isatty():
        raise data_error(STANDARD_INPUT, "nothing is piped to standard input", "CAT | dongu train -, or name a file")
    file = file_of(iter(lambda: sys.stdin.buffer.read(_READ_BYTES), b""))
    return read_open(file, f"input{_suffix_of(file)}", "standard input", config)


def _suffix_of(file: BufferedReader) -> str:
    head = file.peek(64)[:64]
    if suffix := next((suffix for suffix in _PIPED if re.match(BEGINS[suffix], head)), ""):
        return f".csv{suffix}" if suffix in ARCHIVES else suffix
    return ".json" if head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] in (b"{", b"[") else ".csv"


def read_address(address: str, config: RunConfig) -> tuple[str, Table]:
    """The address with the digest of what lies there, and its rows.

    Where the address has a `#sha256=…`, as a run records it, it has to be the same content.

    Raises:
        UsageError: it has a secret in it.
        DataError: it may not, cannot be fetched, or is not what it was.
    """
    require_protocol(address)
    bare, _, fragment = address.partition("#")
    if urlsplit(bare).scheme != "https":
        what = "only https:// addresses and fsspec's are read"
        raise data_error(address, what, "fetch the file first: curl -LO ADDRESS")
    if not config.download:
        hint = "--download fetches it; or fetch the file first: curl -LO ADDRESS"
        raise data_error(address, "an address is read only if you ask for it", hint)
    name = address_file(bare)
    if stem_of(name) is None:
        raise data_error(address, f"the ending of {name or 'the address'} does not say what it is", FILE_KINDS)
    from http.client import HTTPException  # of what the other commands would load for nothing

    digest = hashlib.sha256()
    try:
        with _opener().open(bare, timeout=_TIMEOUT_SECONDS) as answer:
            file = file_of(digested(answer, digest))
    except (OSError, HTTPException, ValueError) as error:  # an OSError is what urllib raises
        what = f"cannot be fetched ({reason_of(error)})"
        raise data_error(address, what, "check the address and the network") from error
    if (known := _DIGEST.fullmatch(fragment)) and known[1] != digest.hexdigest():
        raise data_error(bare, "its contents have changed", f"leave #{fragment} out to take the new one")
    return f"{bare}#sha256={digest.hexdigest()}", read_open(file, name, bare, config)


def address_file(address: str) -> str:
    """The name of the file that an address ends in."""
    return PurePath(unquote(urlsplit(address).path)).name


def digested(file: Any, digest: Any, limit: int = MOST_BYTES) -> Iterator[bytes]:
    """The parts of an open file, each of which its digest has taken in.

    Raises:
        ValueError: it is larger than `limit`.
    """
    while part := file.read(_READ_BYTES):
        limit -= len(part)
        if limit < 0:
            raise ValueError(f"it is larger than {MOST_BYTES:,} bytes: fetch it with another program")
        digest.update(part)
        yield part


def _opener() -> Any:
    """What opens addresses and follows redirects to https alone: nothing goes where it can be read on the way."""
    import urllib.request

    class SafeRedirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *given: Any) -> urllib.request.Request | None:
            if urlsplit(given[-1]).scheme != "https":
                raise ValueError(f"it leads to {given[-1]}, which is not https")
            return super().redirect_request(*given)

    opener = urllib.request.build_opener(SafeRedirects)
    opener.addheaders = [("User-Agent", "dongu")]
    return opener
