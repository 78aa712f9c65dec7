"""Safetensors files that are written, hashed and read a tensor at a time.

safetensors' own `save_file` does not copy the tensors of a CPU either. But it moves all those of another device to the
host first, and has no digest of what it wrote, which a manifest needs. Its `load_file` maps the file, which somebody
may cut meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dongu.engine.shard import has_rows, own_part, own_rows
from dongu.errors import CheckpointError
from dongu.files import disk, open_regular, open_to_write
from dongu.text import reason_of

HEADER_LIMIT = 1 << 26
AT_ONCE = 1 << 20  # bytes that are joined before they are written
# In the order in which safetensors has the tensors of a file, last to first, so that each is aligned.
DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.complex64: "C64",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint64: "U64",
}
_DTYPES = {name: dtype for dtype, name in DTYPES.items()}
_RANKS = {dtype: rank for rank, dtype in enumerate(DTYPES)}


def entry_of_tensors(tensors: Mapping[str, Tensor], write: Callable[[Any], None] = lambda _: None) -> dict[str, Any]:
    """What a manifest says of the file that `safetensors.torch.save` makes of the tensors, on any device.

    `write` gets its bytes, one tensor after the other.
    """
    digest, size = hashlib.sha256(), 0
    for content in _contents(tensors):
        digest.update(content)
        write(content)
        size += len(content)
        del content
    return {"size": size, "sha256": digest.hexdigest()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """That file, flushed to the disk, and its entry, of what was to be written."""
    disk.write(path, b"")
    with open_to_write(path, "ab") as file:
        entry = entry_of_tensors(tensors, lambda content: disk.append(file, content))
    disk.sync(path)
    return entry


def _contents(tensors: Mapping[str, Tensor]) -> Iterator[Any]:
    """The header and small tensors joined, and each large tensor's memory, not copied on the CPU unless it has gaps."""
    ordered = sorted(tensors.items(), key=lambda item: (-_RANKS[item[1].dtype], item[0]))
    header, end = {}, 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    joined = bytearray(len(text).to_bytes(8, "little") + text)
    for _, tensor in ordered:
        content = _memory(tensor.detach().cpu().contiguous())
        if len(content) < AT_ONCE:
            joined += content
        if len(joined) >= AT_ONCE or len(content) >= AT_ONCE:
            yield joined
            joined = bytearray()
        if len(content) >= AT_ONCE:
            yield content
        del content  # before the next one comes from its device
    yield joined


def _memory(tensor: Tensor) -> Any:
    """The bytes of a contiguous tensor on the CPU."""
    content: Any = tensor.flatten().view(torch.uint8).numpy()
    return memoryview(content)


class TensorFile:
    """A safetensors file, of which rows are read as they are asked for.

    Raises:
        CheckpointError: it is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
                size = int.from_bytes(file.read(8), "little")
                self.entries = json.loads(file.read(min(size, HEADER_LIMIT)))
                self._start, length = 8 + size, os.fstat(file.fileno()).st_size
            self.entries.pop("__metadata__", None)
            self._dtypes = {name: _DTYPES[entry["dtype"]] for name, entry in self.entries.items()}
            end = 0
            for name in sorted(self.entries, key=lambda name: self.entries[name]["data_offsets"]):
                begin, end = end, end + math.prod(self.shape(name)) * self.dtype(name).itemsize
                if self.entries[name]["data_offsets"] != [begin, end] or min(self.shape(name), default=0) < 0:
                    raise ValueError(f"`{name}` lies elsewhere than its shape says")
            if length != self._start + end:
                raise ValueError("there are bytes that belong to no tensor")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
            raise CheckpointError(f"cannot be read ({reason_of(error)})", where=str(path)) from error

    def shape(self, name: str) -> torch.Size:
        return torch.Size(self.entries[name]["shape"])

    def dtype(self, name: str) -> torch.dtype:
        return self._dtypes[name]

    def rows(self, name: str, rows: slice | None = None) -> Tensor:
        """Some rows of a tensor, or all of it, in memory of its own."""
        shape = self.shape(name)
        place = self._start + self.entries[name]["data_offsets"][0]
        if rows is not None:
            place += rows.start * math.prod(shape[1:]) * self.dtype(name).itemsize
            shape = torch.Size((rows.stop - rows.start, *shape[1:]))
        tensor = torch.empty(shape, dtype=self.dtype(name))
        content = _memory(tensor)
        with os.fdopen(open_regular(self.path, os.O_RDONLY), "rb") as file:
            file.seek(place)
            if file.readinto(content) != len(content):
                raise CheckpointError("has fewer bytes than its header says", where=str(self.path))
        return tensor


class Stored(Mapping[str, Tensor]):
    """The tensors of one or several such files by name, each read when it is asked for.

    Args:
        files: of the parts of all tensors, one below the other.
        like: the tensor of a loop that is to take one; where it is sharded, this process's rows are read.
    """

    def __init__(self, files: Sequence[TensorFile], like: Callable[[str], Tensor | None] = lambda _: None) -> None:
        self.files = files
        self._like = like

    def __iter__(self) -> Iterator[str]:
        return iter(self.files[0].entries)

    def __len__(self) -> int:
        return len(self.files[0].entries)

    def shapes(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """Of the whole tensors; nothing is read for it."""
        return {name: (self._shape(name), self.files[0].dtype(name)) for name in self}

    def _shape(self, name: str) -> torch.Size:
        first, *others = (file.shape(name) for file in self.files if name in file.entries)
        return torch.Size((sum(shape[0] for shape in (first, *others)), *first[1:])) if others else first

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.files[0].entries:
            raise KeyError(name)
        shape, dtype, like = self._shape(name), self.files[0].dtype(name), self._like(name)
        holding = [file for file in self.files if name in file.entries]
        if like is not None and has_rows(like) and (like.shape, like.dtype) == (shape, dtype):
            tensor, mine = torch.zeros_like(like.detach()), own_rows(shape[0])
        elif len(holding) == 1:
            return holding[0].rows(name)
        else:
            tensor, mine = torch.empty(shape, dtype=dtype), slice(0, shape[0])
        first = place = 0
        for file in holding:
            count = file.shape(name)[0]
            wanted = slice(max(mine.start - first, 0), min(mine.stop - first, count))
            if wanted.start < wanted.stop:
                more = wanted.stop - wanted.start
                own_part(tensor)[place : place + more].copy_(file.rows(name, wanted))
                place += more
            first += count
        return tensor
