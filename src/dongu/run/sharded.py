"""Sharded checkpoints: each process writes its rows of the run's tensors, and reads those that are its own by then.

A file is an ordinary safetensors file, `weights-00001-of-00004.safetensors`. Rows that all processes have, and scalars,
are in the first alone. What a tensor was before it was sharded is all parts one after the other, so no further list is
needed, and another number of processes finds its rows too. Nothing is in memory but one tensor of one part.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from dongu.engine.shard import has_rows, own_part
from dongu.errors import CheckpointError, DonguError, StorageError
from dongu.files import disk, replace_folder, storage
from dongu.loop import Loop
from dongu.model.finite import check_finite
from dongu.run.manifest import MANIFEST, check_file, manifest_bytes
from dongu.run.tensor_file import Stored, TensorFile, write_tensors
from dongu.run.tensors import referenced_tensors

TENSORS = ("weights", "moments")
PART = re.compile(r"(weights|moments)-(\d{5})-of-(\d{5})\.safetensors")


class Together:
    """What the processes of a sharded run tell each other while they save and read; a process alone talks to nobody."""

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


def stored_tensors(path: Path, names: Collection[str], loop: Loop | None) -> tuple[Stored, Stored]:
    """Weights and optimizer state of a checkpoint with these files, as `referenced_tensors` names them.

    One process wrote it, or several. Of what is sharded in the loop, this process's rows are given.
    """
    weights: Mapping[str, Tensor] = {} if loop is None else referenced_tensors(loop)[0]
    groups = [] if loop is None else loop.optimizer.param_groups
    parameters = {str(index): each for index, each in enumerate(each for group in groups for each in group["params"])}

    def parameter_of(name: str) -> Tensor | None:
        index, _, of_parameter = name.partition(".")
        return None if of_parameter == "step" else parameters.get(index)

    def files(kind: str) -> list[TensorFile]:
        return [TensorFile(path / name) for name in sorted(names) if name.startswith(kind)]

    return Stored(files("weights"), weights.get), Stored(files("moments"), parameter_of)


def write_parts(target: Path, loop: Loop, others: Callable[[Path], Mapping[str, Any]], where: str) -> None:
    """A checkpoint by all processes together, each of which writes its rows and reads them back.

    `others` writes the files beside the tensors, and gives their entries: the first process calls it.

    Raises:
        NonFiniteError, StorageError: as `Checkpoints.save`; what one process meets, all raise.
    """
    together, error = Together(loop), None
    names, mine = part_names(together.processes), part_names(together.processes)[together.rank :: together.processes]
    tensors = {  # what this process writes: its rows of what is sharded, and on the first the rest; not copied
        kind: {name: own_part(each) for name, each in every.items() if together.main or has_rows(each)}
        for kind, every in zip(TENSORS, referenced_tensors(loop), strict=True)
    }
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
            disk.write(stage / MANIFEST, manifest_bytes({**listed, **others(stage)}))
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
