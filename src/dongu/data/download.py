"""Rows that come from elsewhere: standard input, and addresses, which are fetched where that is allowed.

fsspec reads `s3://…`, `gs://…`, `memory://…` and its other protocols, whole folders and patterns too.
"""

from __future__ import annotations

import codecs
import hashlib
import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import unquote, urlsplit

from dongu import launch
from dongu.config import RunConfig
from dongu.data.archives import ARCHIVES
from dongu.data.folders import Found, read_files, read_folder
from dongu.data.misnamed import BEGINS
from dongu.data.pages import file_of, in_cache_folder
from dongu.data.readers import FILE_KINDS, read_file, read_open, stem_of
from dongu.data.table import Places, Table, data_error
from dongu.errors import DataError, DonguError
from dongu.extras import is_fsspec, require_protocol
from dongu.files import storage
from dongu.text import reason_of

STANDARD_INPUT = "-"
MOST_BYTES = 1 << 35  # that are fetched
PATTERN = re.compile(r"[*?\[]")  # what a name has in it that stands for several files
_PINNED = re.compile(r"(.*)#sha256=([0-9a-f]{64})", re.DOTALL)
_LOCAL = ("memory", "file", "local")  # which nothing is fetched for
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
    head = file.peek(64)[:64]
    suffix = ".json" if head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] in (b"{", b"[") else ".csv"
    if piped := next((suffix for suffix in _PIPED if re.match(BEGINS[suffix], head)), ""):
        suffix = f".csv{piped}" if piped in ARCHIVES else piped
    return read_open(file, f"input{suffix}", "standard input", config)


def read_address(address: str, config: RunConfig) -> tuple[str, Found]:
    """The address with the digest of what lies there, and the splits of the file, the folder or the pattern.

    Where the address has a `#sha256=…`, as a run records it, it has to be the same content.

    Raises:
        UsageError: the package of its protocol is missing, or it has a secret in it.
        DataError: it may not or cannot be read, or is not what it was.
        StorageError: there is no room for it here.
    """
    require_protocol(address)
    pinned = _PINNED.fullmatch(address)
    bare, known = (pinned[1], pinned[2]) if pinned else (address, None)
    protocol = bare.partition("://")[0]
    if protocol != "https" and not is_fsspec(protocol):
        what = "only https:// addresses and fsspec's are read"
        raise data_error(address, what, "fetch the file first: curl -LO ADDRESS")
    if protocol not in _LOCAL and not config.download:
        how = "the file first: curl -LO ADDRESS" if protocol == "https" else "the files first"
        hint = f"--download fetches it; or fetch {how}"
        raise data_error(address, "an address is read only if you ask for it", hint)
    if protocol == "https" and stem_of(last := address_file(bare)) is None:
        raise data_error(address, f"the ending of {last or 'the address'} does not say what it is", FILE_KINDS)
    with in_cache_folder(lambda place: tempfile.TemporaryDirectory(prefix="fetched-", dir=place)) as name:
        folder = Path(name)
        digest, kind = _fetch(bare, folder)
        if known not in (None, digest):
            raise data_error(bare, "its contents have changed", "leave #sha256=… out to take the new one")
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        place = str(files[0]) if kind == "file" else name  # which is to be told as `shown`
        shown = bare.rpartition("/")[0] if kind == "pattern" else bare
        try:
            if kind == "folder":
                splits, not_read = read_folder(folder, config)
            elif kind == "pattern":
                splits, not_read = read_files(files, bare, config)
            else:
                splits, not_read = {"train": read_file(files[0], config)}, ()
        except DataError as error:
            what, where, hint = (text.replace(place, shown) for text in (error.what, error.where, error.hint))
            raise data_error(where, what, hint) from error
        return f"{bare}#sha256={digest}", ({split: _moved(t, place, shown) for split, t in splits.items()}, not_read)


def address_file(address: str) -> str:
    """The name that an address ends in: of a pattern, which https has not, the name of its folder."""
    if (pattern := PATTERN.search(address)) and not address.startswith("https://"):
        address = address[: pattern.start()].rpartition("/")[0]
    return PurePath(unquote(re.split("[?#]", address.partition("://")[2])[0])).name


def _fetch(bare: str, folder: Path) -> tuple[str, str]:
    """Copies what lies there into the folder; gives its digest, and whether it is a file, a folder or a pattern."""
    try:
        kind, files = _lying_at(bare)
        if not files:
            raise FileNotFoundError
        digests, left = [], MOST_BYTES
        for name, opened in files:
            digest = hashlib.sha256()
            if ".." in PurePath(name).parts or PurePath(name).is_absolute() or (folder / name).exists():
                raise ValueError(f"two files are called {name}, or one leads elsewhere")
            with closing(opened()) as source:
                with storage(folder):
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    target = (folder / name).open("wb")
                with target:
                    while part := source.read(_READ_BYTES):
                        left -= len(part)
                        if left < 0:
                            raise ValueError(f"it is larger than {MOST_BYTES:,} bytes: fetch it with another program")
                        digest.update(part)
                        with storage(folder):
                            target.write(part)
            digests.append((name, digest.hexdigest()))
    except DonguError:
        raise
    except Exception as error:  # each store raises kinds of its own: for credentials that it does not find, say
        reason = "nothing is there" if isinstance(error, FileNotFoundError) else reason_of(error)
        hint = "check the address, the network and the access to it"
        raise data_error(bare, f"cannot be read ({reason})", hint) from error
    return digests[0][1] if kind == "file" else hashlib.sha256(repr(digests).encode()).hexdigest(), kind


def _lying_at(bare: str) -> tuple[str, list[tuple[str, Callable[[], Any]]]]:
    """Whether an address is a file, a folder or a pattern; and each of its files: the name, and what opens it."""
    if bare.startswith("https://"):
        return "file", [(address_file(bare), partial(_opener().open, bare, timeout=_TIMEOUT_SECONDS))]
    from fsspec.core import url_to_fs

    system, path = url_to_fs(bare)
    kind, found, root = "file", [path], ""
    if PATTERN.search(path):
        kind, found = "pattern", [file for file in system.glob(path) if system.isfile(file)]
    elif system.isdir(path):
        kind, found, root = "folder", system.find(path), path.rstrip("/") + "/"
    names = [(file.removeprefix(root) if root else PurePath(file).name, file) for file in sorted(found)]
    return kind, [(name, partial(system.open, file, "rb")) for name, file in names]


def _moved(table: Table, old: str, new: str) -> Table:
    """The table with the address as its place, and not the folder that its copy lies in."""
    origin = table.origin.replace(old, new)
    if isinstance(table.origin, Places):
        origin = Places(origin, table.origin.starts, [each.replace(old, new) for each in table.origin.names])
    bad = tuple(replace(row, where=row.where.replace(old, new)) for row in table.bad)
    return replace(table, origin=origin, bad=bad)


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
