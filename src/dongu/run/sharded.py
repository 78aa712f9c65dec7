"""Sharded checkpoints: each process writes its rows of the run's tensors, and reads those that are its own by then.

A file is an ordinary safetensors file, `weights-00001-of-00004.safetensors`. Rows that all processes have, and scalars,
are in the first alone. What a tensor was before it was sharded is all parts one after the other, so no further list is
needed, and another number of processes finds its rows too. Nothing is in memory but one tensor of one part.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from dongu.engine.shard import has_rows, own_part, own_rows
from dongu.errors import CheckpointError, DonguError, StorageError
from dongu.files import disk, open_regular, open_to_write, replace_folder, storage
from dongu.loop import Loop
from dongu.model.finite import check_finite
from dongu.run.manifest import MANIFEST, entry_of, manifest_bytes
from dongu.run.tensors import referenced_tensors

TENSORS = ("weights", "moments")
PART = re.compile(r"(weights|moments)-(\d{5})-of-(\d{5})\.safetensors")
AT_ONCE = 1 << 26  # bytes
HEADER_LIMIT = 1 << 26
DTYPES = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.bool: "BOOL"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8"},
}


class Together:
    """What the processes of a sharded run tell each other while they save and read; a process alone talks to nobody.

    Args:
        loop: theirs.
    """

    def __init__(self, loop: Loop | None) -> None:
        self.several = loop is not None and loop.is_sharded
        self.main = loop is None or loop.accelerator.is_main_process
        self.rank = 0 if loop is None else loop.accelerator.process_index
        self.processes = 0 if loop is None else loop.accelerator.num_processes

    def told(self, thing: Any) -> Any:
        """What the first process says."""
        return broadcast_object_list([thing])[0] if self.several else thing

    def all_of(self, thing: Any) -> list[Any]:
        """What each process says, in their order."""
        return list(gather_object([thing])) if self.several else [thing]

    def agree(self, error: DonguError | None) -> None:
        """Raise on all processes what one of them has met."""
        met = [found for found in self.all_of(error and (type(error), error.what, error.where, error.hint)) if found]
        if error is not None:
            raise error
        for kind, what, where, hint in met:
            raise kind(what, where=where, hint=hint)


def part_names(processes: int) -> list[str]:
    """The names of the files with tensors that so many processes write."""
    return [f"{kind}-{part:05}-of-{processes:05}.safetensors" for kind in TENSORS for part in range(1, processes + 1)]


def parts_in(names: Collection[str]) -> int:
    """How many processes wrote these files; 0 where the tensors are whole."""
    return max((int(found[3]) for found in map(PART.fullmatch, names) if found), default=0)


def _own_tensors_of(loop: Loop) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """What this process writes, by kind: its rows of what is sharded, and on the first the rest; not copied."""
    main = loop.accelerator.is_main_process
    for kind, tensors in zip(TENSORS, referenced_tensors(loop), strict=True):
        yield kind, {name: own_part(each) for name, each in tensors.items() if main or has_rows(each)}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """A safetensors file, flushed to the disk, and its entry for a manifest; hashed while it is written."""
    header, end = {}, 0
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))  # each is aligned
    for name, tensor in ordered:
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest, length = hashlib.sha256(), 0
    disk.write(path, b"")
    with open_to_write(path, "ab") as file:
        for content in (len(text).to_bytes(8, "little") + text, *map(_bytes_of, (tensor for _, tensor in ordered))):
            digest.update(content)
            disk.append(file, content)
            length += len(content)
    disk.sync(path)
    return {"size": length, "sha256": digest.hexdigest()}


def _bytes_of(tensor: Tensor) -> Any:
    """Its memory on the CPU, which is a copy only where it comes from another device."""
    content: Any = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return memoryview(content)


def check_file(path: Path, entry: Mapping[str, Any]) -> None:
    """Compare a file with its entry in a manifest, some of it in memory at a time.

    Raises:
        CheckpointError: it is missing, no regular file, or has another size or other bytes.
    """
    digest, length = hashlib.sha256(), 0
    try:
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            while content := file.read(AT_ONCE):
                digest.update(content)
                length += len(content)
    except OSError as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise CheckpointError(what, where=str(path)) from error
    if length != entry["size"]:
        raise CheckpointError(f"has {length:,} bytes, not {entry['size']:,}", where=str(path))
    if digest.hexdigest() != entry["sha256"]:
        raise CheckpointError("holds other bytes than were written", where=str(path))


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
                self.entries.pop("__metadata__", None)
            self._start = 8 + size
            self._dtypes = {name: _DTYPES[entry["dtype"]] for name, entry in self.entries.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"cannot be read ({str(error).splitlines()[0]})", where=str(path)) from error

    def shape(self, name: str) -> torch.Size:
        """Of a tensor."""
        return torch.Size(self.entries[name]["shape"])

    def dtype(self, name: str) -> torch.dtype:
        """Of a tensor."""
        return self._dtypes[name]

    def rows(self, name: str, rows: slice | None = None) -> Tensor:
        """Some rows of a tensor, or all of it."""
        shape, dtype = self.shape(name), self.dtype(name)
        begin, end = self.entries[name]["data_offsets"]
        if rows is not None:
            stride = math.prod(shape[1:]) * dtype.itemsize
            begin, end = begin + rows.start * stride, begin + rows.stop * stride
            shape = torch.Size((rows.stop - rows.start, *shape[1:]))
        with os.fdopen(open_regular(self.path, os.O_RDONLY), "rb") as file:
            file.seek(self._start + begin)
            content = bytearray(file.read(end - begin))
        if len(content) != end - begin:
            raise CheckpointError("has fewer bytes than its header says", where=str(self.path))
        return torch.frombuffer(content, dtype=dtype).reshape(shape) if content else torch.empty(shape, dtype=dtype)


_DTYPES = {name: dtype for dtype, name in DTYPES.items()}


def read_own_tensors(path: Path, names: Collection[str], loop: Loop) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and optimizer state of a checkpoint, as `state_tensors` names them, with this process's rows of each.

    Args:
        path: the checkpoint, sharded or whole.
        names: its files.
        loop: a sharded one; nothing of it is changed.
    """
    processes = parts_in(names)
    weights, _ = referenced_tensors(loop)
    parameters = [parameter for group in loop.optimizer.param_groups for parameter in group["params"]]
    found: list[dict[str, Tensor]] = []
    for kind in TENSORS:
        files = [f"{kind}-{part:05}-of-{processes:05}.safetensors" for part in range(1, processes + 1)]
        parts = [TensorFile(path / name) for name in files or [f"{kind}.safetensors"]]
        tensors = {}
        for name in parts[0].entries:
            index, _, of_parameter = name.partition(".")
            if kind == "weights":
                like = weights.get(name)
            else:
                known = index.isdecimal() and int(index) < len(parameters) and of_parameter != "step"
                like = parameters[int(index)] if known else None
            tensors[name] = _assembled(parts, name, like)
        found.append(tensors)
    return found[0], found[1]


def _assembled(parts: Sequence[TensorFile], name: str, like: Tensor | None) -> Tensor:
    """One tensor: sharded as `like` is, if it fits; else as it was written by the first process."""
    holding = [part for part in parts if name in part.entries]
    rows = sum(part.shape(name)[0] if part.shape(name) else 0 for part in holding)
    shape = (rows, *holding[0].shape(name)[1:])
    if like is None or not has_rows(like) or shape != like.shape or holding[0].dtype(name) != like.dtype:
        return holding[0].rows(name)
    tensor = torch.zeros_like(like.detach())
    mine, first, place = own_rows(rows), 0, 0
    for part in holding:
        count = part.shape(name)[0]
        wanted = slice(max(mine.start - first, 0), min(mine.stop - first, count))
        if wanted.start < wanted.stop:
            more = wanted.stop - wanted.start
            own_part(tensor)[place : place + more].copy_(part.rows(name, wanted))
            place += more
        first += count
    return tensor


def side_by_side(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Whole tensors of the parts of all processes; what only the first has is whole already."""
    several = {name for part in parts[1:] for name in part}
    return {
        name: torch.cat([part[name] for part in parts]) if name in several else tensor
        for name, tensor in parts[0].items()
    }


def write_parts(target: Path, loop: Loop, others: Callable[[], Mapping[str, bytes]], where: str) -> None:
    """A checkpoint by all processes together, each of which writes its rows and reads them back.

    Args:
        target: its folder.
        loop: a sharded one.
        others: gives the files beside the tensors; the first process asks.
        where: when it is.

    Raises:
        NonFiniteError, StorageError: as `Checkpoints.save`; what one process meets, all raise.
    """
    together, error = Together(loop), None
    names, mine = part_names(together.processes), part_names(together.processes)[together.rank :: together.processes]
    tensors = dict(_own_tensors_of(loop))
    for kind in tensors.values():
        error = error or met_by(partial(check_finite, kind, where))
    together.agree(error)
    with contextlib.ExitStack() as stack:
        stage, entries = target, {}

        def begin() -> None:
            nonlocal stage
            stage = stack.enter_context(replace_folder(target, within=target.parent.parent))

        def write() -> None:
            for name, kind in zip(mine, TENSORS, strict=True):
                entries[name] = write_tensors(stage / name, tensors[kind])

        def end() -> None:
            listed = {name: everyones[name] for name in names}
            for name, content in others().items():
                disk.write(stage / name, content)
                listed[name] = entry_of(content)
            disk.write(stage / MANIFEST, manifest_bytes(listed))
            stack.close()  # here it gets its name

        together.agree(met_by(begin) if together.main else None)
        stage = Path(together.told(str(stage)))
        together.agree(met_by(write, target))
        everyones = {name: entry for part in together.all_of(entries) for name, entry in part.items()}
        together.agree(met_by(end, target) if together.main else None)
    try:
        for name in mine:
            check_file(target / name, entries[name])
    except CheckpointError as met:
        error = StorageError(f"was written and reads back differently ({met.what})", where=met.where)
    together.agree(error)


def met_by(act: Callable[[], None], path: Path | None = None) -> DonguError | None:
    """The error that it raises, to be told to the other processes."""
    try:
        with contextlib.nullcontext() if path is None else storage(path):
            act()
    except DonguError as error:
        return error
    return None
