"""Bytes that may be too many for memory: from some size on they lie in a file without a name.

Whatever ends the process, nothing is left behind: the system takes a file back that has no name and no reader.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterable
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import IO, Any, TypeVar

from dongu.files import disk, storage

_T = TypeVar("_T")
MEMORY_BYTES = 1 << 24  # what stays in memory; with one byte more, all goes to the file
WRITTEN_BYTES = 1 << 20  # of small parts, written together


class Pages:
    """Bytes one after the other: added at the end, read anywhere.

    Raises:
        StorageError: there is no room for the file.
    """

    def __init__(self) -> None:
        self.size = 0
        self._memory = bytearray()
        self._file: IO[bytes] | None = None

    def add(self, content: bytes | bytearray | memoryview) -> int:
        """Append; gives the place at which it begins."""
        start = self.size
        self.size += len(content)
        if self._file is None and self.size > MEMORY_BYTES:
            self._file = _unnamed_file()
            self._write(self._memory)
            self._memory = bytearray()
        if self._file is None:
            self._memory += content
        else:
            self._write(content)
        return start

    def read(self, start: int, size: int) -> bytes:
        """A copy of so many bytes."""
        if self._file is None:
            return bytes(memoryview(self._memory)[start : start + size])
        return os.pread(self._file.fileno(), size, start)  # moves no position: processes may share the file

    def whole(self) -> memoryview:
        """All of it, to be read only, without a copy; what is in the file is mapped. Nothing can be added after it."""
        if self._file is None:
            return memoryview(self._memory).toreadonly()
        return mapped(self._file)

    def reader(self) -> BufferedReader:
        """All of it as a file, at its beginning. Nothing can be added after it."""
        if self._file is None:
            return BufferedReader(BytesIO(self._memory))
        file = os.fdopen(os.dup(self._file.fileno()), "rb")  # which lives on where these pages do not
        file.seek(0)
        return file

    def _write(self, content: Any) -> None:
        with storage(cache_folder()):
            disk.append(self._file, content)  # type: ignore[arg-type]  # an unbuffered file is a FileIO

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()


def file_of(parts: Iterable[bytes]) -> BufferedReader:
    """A file that holds these parts, at its beginning.

    Raises:
        StorageError: there is no room for it.
    """
    pages, waiting = Pages(), bytearray()
    for part in parts:
        waiting += part
        if len(waiting) >= WRITTEN_BYTES:
            pages.add(waiting)
            waiting = bytearray()
    pages.add(waiting)
    return pages.reader()


def mapped(file: IO[bytes]) -> memoryview:
    """The content of a file as memory that the system reads when it is looked at, and may take back at any time."""
    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def cache_folder() -> Path:
    """`$DONGU_CACHE`, or `dongu` in the user's cache folder; of a user without a home none that can be made."""
    if folder := os.environ.get("DONGU_CACHE"):
        return Path(folder)
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a container gives a number to a process, and no name
        caches = Path(os.devnull)
    return caches / "dongu" / "tokens"


def in_cache_folder(make: Callable[[Path | None], _T]) -> _T:
    """What `make(folder)` makes in the cache folder, whose disk has room for large data; in the system's folder
    where that cannot be used.

    Raises:
        StorageError: neither can be.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return make(folder)
    except OSError:
        with storage(folder):
            return make(None)


def _unnamed_file() -> IO[bytes]:
    return in_cache_folder(lambda folder: tempfile.TemporaryFile(dir=folder, buffering=0))
