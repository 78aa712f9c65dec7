"""Every durable write: a reader sees the old content or the new one, never a part of it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from dongu.errors import StorageError

_LEFTOVER = re.compile(r"\..+\.\d+\.(tmp|old)")


@contextlib.contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into a `StorageError` that names the path and the cause."""
    try:
        yield
    except OSError as error:
        hint = "free some space and run the same command again" if error.errno == errno.ENOSPC else ""
        raise StorageError(
            f"cannot write ({error.strerror or error})", where=str(error.filename or path), hint=hint
        ) from error


def write_file(path: Path, content: bytes) -> None:
    """Write beside the target, flush to the disk, rename over it, flush the folder.

    Raises:
        StorageError: the content could not be made durable; the old file, if any, is untouched.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with staged.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)
        sync_folder(path.parent)


@contextlib.contextmanager
def replace_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; when the block ends well, it takes the target's place.

    The old folder is moved aside, and removed only after the new one stands.

    Raises:
        StorageError: a write failed; the old folder, if any, is in its place.
    """
    staged = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    retired = target.with_name(f".{target.name}.{os.getpid()}.old")
    with storage(target):
        try:
            shutil.rmtree(staged, ignore_errors=True)
            staged.mkdir(parents=True)
            yield staged
            for path in sorted(staged.rglob("*")):
                if path.is_file():
                    _sync(path)
            sync_folder(staged)
            if target.exists():
                target.rename(retired)
            try:
                staged.rename(target)
            except OSError:
                if retired.exists():
                    retired.rename(target)
                raise
            sync_folder(target.parent)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
            if target.exists():
                shutil.rmtree(retired, ignore_errors=True)


def is_leftover(path: Path) -> bool:
    """Whether this is what one of the writes above leaves when it is cut off."""
    return _LEFTOVER.fullmatch(path.name) is not None and not path.is_symlink()


def remove_leftovers(folder: Path) -> None:
    """Remove from a folder what writes that were cut off have left, and nothing else."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if is_leftover(path):
            with storage(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; a rename is not, until then."""
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
