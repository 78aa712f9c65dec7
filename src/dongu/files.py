"""Every durable write: a reader sees the old content or the new one, never a part of it.

Stage beside the target, flush each file, rename, flush the folder. What reaches the disk goes through `Disk`, so a test
can put another in its place that fails, or loses power, at any operation.

A folder may come from somebody else. So all of its files are opened by `open_regular`: where a link, a pipe or a device
stands in the place of a file, nothing is written through it, and nobody waits for its end.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Literal

from dongu.errors import StorageError, UsageError

LINES_A_WRITE = 1 << 12
JSON_LIMIT = 1 << 26  # bytes of a file that holds one JSON object
LOG_LIMIT = 1 << 32  # bytes of a file that grows with each step or row
DENSE_BYTES = 1 << 26  # a larger log is looked at for holes
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # how the system says it
_LEFTOVER = re.compile(r"\.(?P<target>.+)\.(?P<process>\d{1,9})\.(?P<kind>tmp|old)")
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")  # how safetensors and tokenizers report the system's errors
_HINTS = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "your quota is used up: free some space and run the same command again",
    errno.EROFS: "the file system is read-only: choose a folder on another one",
    errno.EACCES: "the permissions of the folder do not allow it",
    errno.EIO: "the disk reports an error: look at it before you trust it again",
    errno.ELOOP: "dongu writes neither through links nor into pipes and devices: move it out of the way",
}


class Disk:
    """The operations of the file system that durable writes are made of."""

    def make_folder(self, path: Path) -> None:
        path.mkdir()

    def write(self, path: Path, content: bytes) -> None:
        """A file with this content, flushed to the disk; its name is not, before the folder is."""
        with open_to_write(path, "wb") as file:
            self.append(file, content)
            os.fsync(file.fileno())

    def append(self, file: FileIO, content: bytes) -> None:
        """More content for an open, unbuffered file, not flushed to the disk."""
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]

    def sync(self, path: Path) -> None:
        """Flush a file's content, or the names in a folder, to the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Another name, in place of a file that has it."""
        old.replace(new)

    def exchange(self, one: Path, other: Path) -> bool:
        """Swap two names in one step; False where the system cannot (renameat2(2) is Linux's)."""
        renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
        here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        return renameat2 is not None and renameat2(here, os.fsencode(one), here, os.fsencode(other), swap) == 0

    def remove(self, path: Path) -> None:
        """A file, or a folder and all in it; never what a link points at."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


disk = Disk()


def open_regular(path: Path, flags: int, *, follow: bool = False) -> int:
    """The descriptor of a regular file, with the mode that the umask gives where it is a new one.

    With `follow` it may be a link to one, as in the Hub's cache.

    Raises:
        OSError: it cannot be opened, or something else has its name: a link, a pipe, a device, a folder.
    """
    try:
        safely = os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)  # a pipe would wait for its other end
        descriptor = os.open(path, flags | safely, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise _irregular(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _irregular(path)
    return descriptor


def _irregular(path: Path) -> OSError:
    return OSError(errno.ELOOP, "is not a regular file", str(path))


def open_to_write(path: Path, mode: Literal["wb", "ab"]) -> FileIO:
    """A regular file, unbuffered: emptied or made (`wb`), or to be added to (`ab`).

    Raises:
        OSError: as `open_regular`.
    """
    return open(path, mode, buffering=0, opener=lambda _, flags: open_regular(path, flags))


def read_regular(path: Path, limit: int = JSON_LIMIT, *, follow: bool = False) -> bytes:
    """The content of a regular file: read, not mapped, so that nobody can pull it away.

    Raises:
        OSError: as `open_regular`, or it has more than `limit` bytes.
    """
    with os.fdopen(open_regular(path, os.O_RDONLY, follow=follow), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"has {size:,} bytes, not at most {limit:,}", str(path))
        if limit == LOG_LIMIT and size > DENSE_BYTES and os.lseek(file.fileno(), 0, os.SEEK_HOLE) < size:
            raise OSError(errno.EFBIG, f"has {size:,} bytes, and holes among them, which no log has", str(path))
        file.seek(0)
        return file.read(size)


def read_log(path: Path) -> bytes:
    """The content of a file that a run adds to; nothing where there is none.

    Raises:
        OSError: as `read_regular`.
    """
    with contextlib.suppress(FileNotFoundError):
        return read_regular(path, LOG_LIMIT)
    return b""


@contextlib.contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turn what the system refuses in the block into a `StorageError` that names the path and the cause."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError):
            number, reason, where = error.errno or 0, error.strerror or str(error), error.filename or path
        elif found := _RUST_ERROR.search(str(error)):
            number, reason, where = int(found[1]), os.strerror(int(found[1])), path
        else:
            raise
        what, hint = f"cannot write ({reason})", _HINTS.get(number, "")
        raise StorageError(what, where=_as_replaced(Path(str(where))), hint=hint) from error


def _as_replaced(path: Path) -> str:
    """A path as it is once what is written beside its target has taken its place."""
    names = (_LEFTOVER.fullmatch(part) for part in path.parts)
    return str(Path(*(name["target"] if name else part for name, part in zip(names, path.parts, strict=True))))


def write_file(path: Path, content: bytes, *, within: Path | None = None) -> None:
    """Write beside the target, flush to the disk, rename over it, flush the folder.

    Folders on the way are made; `within`, if given, is not, nor what is above it.

    Raises:
        StorageError: the content could not be made durable; the old file, if any, is untouched.
    """
    with _replacing(path, within) as staged:
        disk.write(staged, content)


def keep_file(path: Path, content: bytes, *, within: Path | None = None) -> bool:
    """Write a file unless it has this content already, and say whether: what is there may lie on a read-only disk.

    Raises:
        StorageError: as `write_file`.
    """
    with contextlib.suppress(OSError):
        if read_regular(path) == content:
            return False
    write_file(path, content, within=within)
    return True


def write_lines(path: Path, lines: Iterable[str], *, within: Path | None = None) -> None:
    """The same for lines with their ends, of which only a few thousand are in memory."""
    lines = iter(lines)
    with _replacing(path, within) as staged:
        disk.write(staged, b"")
        with open_to_write(staged, "ab") as file:
            while part := "".join(islice(lines, LINES_A_WRITE)):
                disk.append(file, part.encode())
        disk.sync(staged)


@contextlib.contextmanager
def _replacing(path: Path, within: Path | None) -> Iterator[Path]:
    """Yield a name to write to; when the block ends well, the file takes the target's place."""
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage(path):
        make_folder(path.parent, within)
        _remove_abandoned(path, within)
        try:
            yield staged
            disk.rename(staged, path)
        finally:
            disk.remove(staged)
        disk.sync(path.parent)


def make_folder(path: Path, within: Path | None = None) -> None:
    """The folder and those above it, each with its name on the disk; between it and `within` there is no link.

    Raises:
        OSError: one could not be made, or is a link.
    """
    if within is not None and path != within:
        refuse_link(path)
        make_folder(path.parent, within)
    if not path.is_dir():
        if path == within:  # it was there, and somebody took it away
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        make_folder(path.parent, within)
        with contextlib.suppress(FileExistsError):  # another process was faster
            disk.make_folder(path)
        disk.sync(path.parent)


def _remove_abandoned(target: Path, within: Path | None) -> None:
    """What writes to the target have left whose process was killed; in a run folder `remove_leftovers` does it."""
    if within is not None:
        return
    for path in target.parent.iterdir():
        if (name := _leftover(path)) and (name["target"], name["kind"]) == (target.name, "tmp"):
            try:
                os.kill(int(name["process"]), 0)  # only asks
            except ProcessLookupError:
                disk.remove(path)
            except OSError:
                continue


def refuse_link(path: Path) -> None:
    """Raise `OSError` if it is a link, through which files elsewhere would be written or removed."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, "is a link", str(path))


@contextlib.contextmanager
def replace_folder(target: Path, *, within: Path | None = None) -> Iterator[Path]:
    """Yield an empty folder to fill; when the block ends well, it takes the target's place.

    Where the system can swap two names, the target is there at every instant; elsewhere the old folder is moved aside
    for the moment of a rename, and `remove_leftovers` puts it back if that moment was the last.

    Raises:
        StorageError: a write failed; the old folder, if any, is in its place.
    """
    staged = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    retired = target.with_name(f".{target.name}.{os.getpid()}.old")
    with storage(target):
        spare: tuple[Path, ...] = (staged,)
        try:
            disk.remove(staged)
            make_folder(target.parent, within)
            _remove_abandoned(target, within)
            disk.make_folder(staged)
            yield staged
            mode = staged.stat().st_mode & 0o666  # what the umask left; safetensors hides its files from all others
            for path in sorted(staged.rglob("*")):
                if path.is_file():
                    path.chmod(mode)
                disk.sync(path)
            disk.sync(staged)
            if not target.exists():
                disk.rename(staged, target)
            elif not disk.exchange(staged, target):
                target.rename(retired)
                try:
                    staged.rename(target)
                except OSError:
                    retired.rename(target)
                    raise
            spare = ()  # until the new names are on the disk, what has another name now may be all that is left
            disk.sync(target.parent)
            spare = (staged, retired)
        finally:
            for path in spare:
                with contextlib.suppress(OSError):  # what cannot be removed now is a leftover for later
                    disk.remove(path)


def refuse_if_taken(folder: Path) -> None:
    """Raise `UsageError` if something is there already, or a folder of this name cannot be."""
    what = "is not empty"
    try:
        if not any(folder.iterdir()):
            return
    except FileNotFoundError:
        return
    except NotADirectoryError:
        what = "is a file, or would lie in one"
    except (OSError, ValueError) as error:  # a name that is too long, a loop of links, a NUL
        what = f"cannot be looked at ({getattr(error, 'strerror', None) or error})"
    raise UsageError(what, where=f"--out {folder}", hint="choose another --out; nothing was touched")


def is_leftover(path: Path) -> bool:
    """Whether this is what one of the writes above leaves when it is cut off."""
    return _leftover(path) is not None


def _leftover(path: Path) -> re.Match[str] | None:
    """What its name says of it."""
    return None if path.is_symlink() else _LEFTOVER.fullmatch(path.name)


def remove_leftovers(folder: Path) -> None:
    """Remove from a folder what writes that were cut off have left, and nothing else.

    Raises:
        StorageError: one could not be removed.
    """
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    found = {path: name for path in paths if (name := _leftover(path))}
    if found:
        with storage(folder):
            disk.sync(folder)  # a swap that is not on the disk yet may be undone, and then they are no leftovers
    for path, name in found.items():
        with storage(path):
            if name["kind"] == "old" and not (folder / name["target"]).exists():
                disk.rename(path, folder / name["target"])
            else:
                disk.remove(path)
