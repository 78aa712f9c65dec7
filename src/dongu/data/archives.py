"""Compressed files: what is in them as a file of its own, and no more of it than their size makes likely."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import PurePath
from typing import Any

from dongu.data.pages import file_of
from dongu.data.table import data_error
from dongu.text import reason_of

ARCHIVES = (".gz", ".bz2", ".xz", ".zst", ".zip")
FREE_BYTES = 1 << 28  # that any archive may unpack to, however small it is
_READ_BYTES = 1 << 20
_MACOS = "__MACOSX/"  # a folder that macOS adds to an archive


def unpacked(file: BufferedReader, name: str, origin: str, expansion: int) -> tuple[BufferedReader, str, str]:
    """What is in an archive, unpacked; the name of it; and what there is to say of it. Its ending says its kind.

    Of what is more than 256 MiB, no more than `expansion` times the size of the archive may come out of it.

    Raises:
        DataError: it is damaged, holds several files, or more than it may.
        StorageError: there is no room for its content.
    """
    limit = bound_of(file, expansion)
    path = PurePath(name)
    inner, said = path.stem, ""
    try:
        stream: Any
        match path.suffix.lower():
            case ".gz":
                stream = gzip.GzipFile(fileobj=file)
            case ".bz2":
                stream = bz2.BZ2File(file)
            case ".xz":
                stream = lzma.LZMAFile(file)  # noqa: SIM115 - closed with the file that it reads
            case ".zst":
                import pyarrow as pa

                stream = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")
            case _:
                archive = zipfile.ZipFile(file)
                inner = _member(archive, origin)
                stream, said = archive.open(inner), f"the file {inner} in it"
        return file_of(_bounded(stream, limit, origin)), PurePath(inner).name, said
    except OSError as error:
        if error.errno is not None:  # of the disk, and not of the format
            raise
        raise _damaged(error, origin) from error
    except (EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError) as error:
        raise _damaged(error, origin) from error
    except RuntimeError as error:  # of zipfile
        raise data_error(origin, f"the archive cannot be read ({reason_of(error)})", "unpack it first") from error


def bound_of(file: BufferedReader, expansion: int) -> int:
    """The bytes that may come out of a compressed file."""
    limit = max(FREE_BYTES, expansion * file.seek(0, 2))
    file.seek(0)
    return limit


def _damaged(error: Exception, origin: str) -> Exception:
    return data_error(origin, f"the archive is damaged ({reason_of(error)})", "write or fetch it again")


def _bounded(stream: Any, limit: int, origin: str) -> Iterator[bytes]:
    size = 0
    while part := stream.read(_READ_BYTES):
        size += len(part)
        if size > limit:
            what = f"the archive holds more than {limit:,} bytes, far more than its own size makes likely"
            raise data_error(origin, what, "if that is right: --max-expansion N allows N times its size")
        yield part


def _member(archive: zipfile.ZipFile, origin: str) -> str:
    """The one file of an archive. Its name is only ever looked at: nothing is written under it."""
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    names = [name for name in names if not name.startswith(_MACOS) and not PurePath(name).name.startswith(".")]
    if len(names) != 1:
        shown = ", ".join(names[:4]) + (" …" if len(names) > 4 else "")
        what = f"the archive holds {len(names):,} files ({shown})" if names else "the archive holds no file"
        raise data_error(origin, what, "unpack it first, and give the folder or one of its files")
    return names[0]
