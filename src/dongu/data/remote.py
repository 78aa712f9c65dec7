"""Files and folders that fsspec reads: `s3://…`, `gs://…`, `memory://…` and its other protocols."""

from __future__ import annotations

import hashlib
import re
import tempfile
from dataclasses import replace
from pathlib import Path, PurePosixPath

from dongu.config import RunConfig
from dongu.data.download import MOST_BYTES, digested
from dongu.data.folders import Found, read_files, read_folder
from dongu.data.pages import cache_folder
from dongu.data.readers import read_file
from dongu.data.table import Places, Table, data_error
from dongu.errors import DataError, DonguError
from dongu.extras import require_protocol
from dongu.files import storage
from dongu.text import reason_of

_PINNED = re.compile(r"(.*)#sha256=([0-9a-f]{64})", re.DOTALL)
PATTERN = re.compile(r"[*?\[]")  # what a name has in it that stands for several files
_LOCAL = ("memory", "file", "local")  # which nothing is fetched for


def read_remote(address: str, config: RunConfig) -> tuple[str, Found]:
    """The address with the digest of what lies there, and the splits of the file, the folder or the pattern.

    Where the address has a `#sha256=…`, as a run records it, it has to be the same content.

    Raises:
        UsageError: the package of its protocol is missing, or it has a secret in it.
        DataError: it cannot be read, or is not what it was.
        StorageError: there is no room for it here.
    """
    require_protocol(address)
    pinned = _PINNED.fullmatch(address)
    bare, known = (pinned[1], pinned[2]) if pinned else (address, None)
    if bare.partition("://")[0] not in _LOCAL and not config.download:
        hint = "--download fetches it; or fetch the files first"
        raise data_error(address, "an address is read only if you ask for it", hint)
    with storage(cache_folder()):
        cache_folder().mkdir(parents=True, exist_ok=True)
        here = tempfile.TemporaryDirectory(prefix="fetched-", dir=cache_folder())
    with here as name:
        folder = Path(name)
        digest, kind = _fetch(bare, folder)
        if known not in (None, digest):
            raise data_error(bare, "its contents have changed", "leave #sha256=… out to take the new one")
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        root = bare if kind == "folder" else bare.rpartition("/")[0]
        try:
            if kind == "folder":
                splits, not_read = read_folder(folder, config)
            elif kind == "pattern":
                splits, not_read = read_files(files, bare, config)
            else:
                splits, not_read = {"train": read_file(files[0], config)}, ()
        except DataError as error:  # where it lies for the moment says nothing
            what, where, hint = (text.replace(name, root) for text in (error.what, error.where, error.hint))
            raise data_error(where, what, hint) from error
        return f"{bare}#sha256={digest}", ({split: _moved(t, name, root) for split, t in splits.items()}, not_read)


def _fetch(bare: str, folder: Path) -> tuple[str, str]:
    """Copies what lies there into the folder; gives its digest, and whether it is a file, a folder or a pattern."""
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(bare)
        is_pattern = bool(PATTERN.search(path))
        if is_pattern:
            found, root = [file for file in system.glob(path) if system.isfile(file)], ""
        elif system.isdir(path):
            found, root = system.find(path), path.rstrip("/") + "/"
        else:
            found, root = [path], ""
        if not found:
            raise FileNotFoundError
        digests, left = [], MOST_BYTES
        for file in sorted(found):
            name = file.removeprefix(root) if root else PurePosixPath(file).name
            if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute() or (folder / name).exists():
                raise ValueError(f"two files are called {name}, or one leads elsewhere")
            digest = hashlib.sha256()
            with system.open(file, "rb") as source:
                with storage(cache_folder()):
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    target = (folder / name).open("wb")
                with target:
                    for part in digested(source, digest, left):
                        left -= len(part)
                        with storage(cache_folder()):
                            target.write(part)
            digests.append((name, digest.hexdigest()))
    except DonguError:
        raise
    except Exception as error:  # each store raises kinds of its own: for credentials that it does not find, say
        reason = "nothing is there" if isinstance(error, FileNotFoundError) else reason_of(error)
        raise data_error(bare, f"cannot be read ({reason})", "check the address and the access to it") from error
    if not root and not is_pattern:
        return digests[0][1], "file"
    return hashlib.sha256(repr(digests).encode()).hexdigest(), "pattern" if is_pattern else "folder"


def _moved(table: Table, old: str, new: str) -> Table:
    """The table with the address as its place, and not the folder that its copy lies in."""
    origin = table.origin.replace(old, new)
    if isinstance(table.origin, Places):
        origin = Places(origin, table.origin.starts, [each.replace(old, new) for each in table.origin.names])
    bad = tuple(replace(row, where=row.where.replace(old, new)) for row in table.bad)
    return replace(table, origin=origin, bad=bad)
