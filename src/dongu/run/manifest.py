"""A list of files with their sizes and digests, and the reading that believes nothing else."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dongu.errors import CheckpointError
from dongu.files import JSON_LIMIT, open_regular, read_regular

FORMAT = 2
MANIFEST = "MANIFEST.json"


def entry_of(content: bytes) -> dict[str, Any]:
    """What a manifest says of one file."""
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def entry_of_file(path: Path, limit: float = math.inf) -> dict[str, Any]:
    """The same of a file as it lies on the disk, little of it in memory at a time.

    Raises:
        OSError: it cannot be read, is not a regular file, or has more than `limit` bytes.
    """
    with os.fdopen(open_regular(path, os.O_RDONLY), "rb", buffering=0) as file:
        if (size := os.fstat(file.fileno()).st_size) > limit:
            raise OSError(errno.EFBIG, f"has {size:,} bytes, not at most {limit:,}", str(path))
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": file.tell(), "sha256": digest}


def manifest_bytes(entries: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The one way in which a manifest is written."""
    return (json.dumps({"format": FORMAT, "files": entries}, indent=2) + "\n").encode()


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """The entries by file name.

    Raises:
        CheckpointError: it is missing, or was not written by `manifest_bytes` of this version.
    """
    path = folder / MANIFEST
    content = _read(path, JSON_LIMIT)
    try:
        entries = json.loads(content)["files"]
        # Any other bytes are damage, even where they mean the same.
        if content == manifest_bytes(entries) and all(map(_is_entry, entries.values())):
            return dict(entries)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise CheckpointError("is not a manifest of this version of dongu", where=str(path))


def _is_entry(entry: Any) -> bool:
    return set(entry) == {"size", "sha256"} and type(entry["size"]) is int and isinstance(entry["sha256"], str)


def read_listed(path: Path, entry: Mapping[str, Any]) -> bytes:
    """The content of a file, read once and compared with its entry.

    Raises:
        CheckpointError: as `check_file`.
    """
    content = _read(path, entry["size"])
    _compare(path, entry_of(content), entry)
    return content


def check_file(path: Path, entry: Mapping[str, Any]) -> None:
    """Compare a file with its entry, little of it in memory at a time.

    Raises:
        CheckpointError: it is missing, no regular file, or has another size or other bytes.
    """
    with _reading(path):
        found = entry_of_file(path, entry["size"])
    _compare(path, found, entry)


def _compare(path: Path, found: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
    if found["size"] != entry["size"]:
        raise CheckpointError(f"has {found['size']:,} bytes, not {entry['size']:,}", where=str(path))
    if found != entry:
        raise CheckpointError("holds other bytes than were written", where=str(path))


def _read(path: Path, limit: int) -> bytes:
    with _reading(path):
        return read_regular(path, limit)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError("is missing", where=str(path)) from None
    except PermissionError as error:
        hint = "you may not read it; its owner can change that: chmod -R a+rX"
        raise CheckpointError(f"cannot be read ({error.strerror})", where=str(path), hint=hint) from error
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        if error.errno in (errno.ELOOP, errno.EFBIG):
            what = str(error.strerror)
        raise CheckpointError(what, where=str(path)) from error
