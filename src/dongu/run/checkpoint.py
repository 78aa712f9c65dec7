"""Checkpoints: all that a run needs to go on, in a folder that is whole or counts for nothing.

A checkpoint is staged beside its place, flushed to the disk, listed in a manifest with sizes and digests, renamed,
and read back before an older one is removed. Order and dropout are functions of the step, so no generator state is in
it: weights, moments and one small `RunState`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import ConfigDict, Field, TypeAdapter
from torch import Tensor

from dongu.engine.shard import own_part
from dongu.errors import CheckpointError, NonFiniteError, StorageError, UsageError
from dongu.files import disk, replace_folder, storage
from dongu.judge.answers import Evaluation
from dongu.judge.metrics import MetricSet
from dongu.loop import Loop
from dongu.model.finite import check_finite
from dongu.model.lora import saved_bytes
from dongu.run.journal import LogMark, check_log
from dongu.run.manifest import FORMAT, MANIFEST, check_file, entry_of, manifest_bytes, read_listed, read_manifest
from dongu.run.plan import Plan
from dongu.run.sharded import Together, part_names, parts_in, stored_tensors, write_parts
from dongu.run.tensor_file import Stored, TensorFile, write_tensors
from dongu.run.tensors import (
    Attributes,
    optimizer_numbers,
    own_tensors,
    put_together,
    referenced_tensors,
    settings_of,
    take_own_state,
    take_settings,
)
from dongu.text import reason_of

_Count = Annotated[int, Field(ge=0)]
MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # AdamW's
CONTENTS = ("weights.safetensors", "moments.safetensors", "state.json")
OWN = "own.safetensors"  # beside them, where there is state of the user's own
OTHER_MODEL_ADVICE = "a run continues with its own model; for another model start a new run with another --out"
_NAME = re.compile(r"step-\d{8,}")


@dataclass
class RunState:
    """What a run remembers beside its tensors."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    step: _Count = 0  # updates made
    evaluated_step: _Count = 0  # the last evaluation; a signal may end a run between an update and its evaluation
    best_step: _Count | None = None
    best_metrics: dict[str, float] | None = None
    evaluations_since_best: _Count = 0
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None  # once memory ran out, what was left of it
    log: LogMark = field(default_factory=LogMark)  # of metrics.jsonl: what stands after it is done again
    identity: dict[str, Any] = field(default_factory=dict)  # what the bytes of the result depend on
    optimizer: dict[str, Any] | None = None  # what an optimizer knows beside tensors, unless it is as the run made it
    settings: dict[str, Any] | None = None  # of model and optimizer, where they were changed since the run was set up
    own: dict[str, Any] | None = None  # state of the user's own, by its names

    def as_json(self) -> dict[str, Any]:
        """Its fields, without those that only parts of the user's own have."""
        return {name: value for name, value in asdict(self).items() if name not in OPTIONAL or value is not None}

    def record(self, metrics: MetricSet, evaluation: Evaluation) -> bool:
        """Remember an evaluation; whether it is the best so far. One whose main metric is undefined never is."""
        self.evaluated_step = self.step
        best = None if self.best_metrics is None else self.best_metrics[metrics.main]
        if not metrics.better(evaluation.metrics[metrics.main], best):
            self.evaluations_since_best += 1
            return False
        self.best_step, self.best_metrics = self.step, evaluation.metrics
        self.evaluations_since_best = 0
        return True


_STATE = TypeAdapter(RunState)
OPTIONAL = {"optimizer", "settings", "own"}


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint: verified, parsed, not yet applied. Its tensors are read as they are asked for."""

    path: Path
    state: RunState
    weights: Stored
    moments: Stored
    own: Mapping[str, Tensor]

    @classmethod
    def read(cls, path: Path, loop: Loop | None = None) -> Self:
        """A folder, read for a loop. A sharded one gets the rows of this process, and all processes have to ask; each
        file is compared with the manifest by one of them.

        Raises:
            CheckpointError: a file is missing, damaged, or not what a checkpoint holds.
        """
        together, error = Together(loop), None
        try:
            entries = _entries(path)
            for number, (name, entry) in enumerate(entries.items()):
                if not together.several or number % together.processes == together.rank:
                    check_file(path / name, entry)
        except CheckpointError as damage:
            error = damage
        together.agree(error)
        try:
            state = _parse_state(read_listed(path / "state.json", entries["state.json"]), path)
            weights, moments = stored_tensors(path, entries, loop)
            own = Stored([TensorFile(path / OWN)]) if OWN in entries else {}
            for tensors in (weights, moments):
                check_finite(tensors, str(path))
            checkpoint = cls(path, state, weights, moments, own)
        except (CheckpointError, NonFiniteError) as damage:
            error = CheckpointError(damage.what, where=damage.where)
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OSError) as damage:
            error = CheckpointError(f"cannot be read ({reason_of(damage)})", where=str(path))
        together.agree(error)
        return checkpoint

    def _of_another_model(self) -> CheckpointError:
        what, where = "has the moments of another model", str(self.path / "moments.safetensors")
        return CheckpointError(what, where=where, hint=OTHER_MODEL_ADVICE)

    def restore(self, loop: Loop) -> RunState:
        """Put the loop where the checkpoint was taken. All is compared before a tensor is changed.

        Raises:
            CheckpointError: it does not belong to this model.
        """
        if self.state.settings is not None:
            try:
                take_settings(loop, self.state.settings)
            except (KeyError, TypeError, AttributeError) as error:
                raise self._of_another_model() from error
        weights, _ = referenced_tensors(loop)
        if self.weights.shapes() != {name: (each.shape, each.dtype) for name, each in weights.items()}:
            what, where = "has the weights of another model", str(self.path / "weights.safetensors")
            raise CheckpointError(what, where=where, hint=OTHER_MODEL_ADVICE)
        if (best := self.state.best_metrics) is not None and loop.metrics.main not in best:
            raise CheckpointError("has the metrics of another run", where=str(self.path / "state.json"))
        self._check_own(loop)
        entries: dict[int, dict[str, Any]] = {}
        parameters = [parameter for group in loop.optimizer.param_groups for parameter in group["params"]]
        is_own, groups = loop.has_own_optimizer, loop.optimizer.state_dict()["param_groups"]
        for key, found in self.moments.shapes().items():
            index, _, name = key.partition(".")
            if not index.isdecimal() or int(index) >= len(parameters):
                raise self._of_another_model()
            like = torch.zeros(()) if name == "step" else parameters[int(index)]
            if not is_own and found != (like.shape, like.dtype):
                raise self._of_another_model()
            entries.setdefault(int(index), {})[name] = None  # known to fit, and not read yet
        wrong = any(set(entry) != MOMENTS for entry in entries.values()) or bool(entries) != bool(self.state.step)
        if not is_own and wrong:
            raise self._of_another_model()
        if is_own or self.state.optimizer is not None:
            groups = self._own_optimizer(entries, groups)
        with torch.no_grad():
            for name, tensor in weights.items():
                own_part(tensor).copy_(own_part(self.weights[name]))
        for key in self.moments:
            index, _, name = key.partition(".")
            moment, device = self.moments[key], parameters[int(index)].device
            entries[int(index)][name] = moment if is_own or name == "step" else moment.to(device)
        take_own_state(loop, self.state.own or {}, self.own)
        beside = put_together(self.state.optimizer, {}) if self.state.optimizer else {}
        loop.optimizer.load_state_dict({"state": entries, "param_groups": groups, **beside.get("more", {})})
        vars(loop.optimizer).update(beside.get("attributes", {}))
        for place, entry in entries.items() if is_own else ():
            held = loop.optimizer.state[parameters[place]]
            for name, value in entry.items():
                if isinstance(value, Tensor):  # PyTorch has given it the type of the parameter
                    held[name] = value.to(held[name].device)
        loop.train_updates.micro_batch_size = self.state.micro_batch_size or loop.train_updates.micro_batch_size
        loop.go_to(self.state.step)
        return self.state

    def _check_own(self, loop: Loop) -> None:
        known = set(self.state.own or ())
        if other := sorted(known ^ set(loop.own)):
            has, hint = ("the checkpoint has", "put") if other[0] in known else ("the checkpoint lacks", "leave out")
            hint = f"{hint} loop.own[{other[0]!r}] at the start"
            raise UsageError(f"{has} the state `{other[0]}`", where=str(self.path), hint=hint)

    def _own_optimizer(self, entries: dict[int, dict[str, Any]], groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Complete the entries with what is no tensor; the groups as they were."""
        try:
            known = put_together(self.state.optimizer, {})
            for index, numbers in known["state"].items():
                entries.setdefault(int(index), {}).update(numbers)
            return [{**group, **was} for group, was in zip(groups, known["groups"], strict=True)]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._of_another_model() from error


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they are.
        keep: how many to keep, besides the best one's.
        plan: which steps have one. One that a signal made is removed when it is no longer the newest, so that a run
            that was stopped ends with the files of one that was not.
        loop: as it was set up: what is still so needs no place in a checkpoint.
    """

    def __init__(self, folder: Path, keep: int, plan: Plan, loop: Loop | None = None) -> None:
        self.folder = folder
        self.keep = keep
        self.plan = plan
        self.begun = None if loop is None else settings_of(loop)
        self.attributes = Attributes(loop)

    def save(self, loop: Loop, state: RunState) -> None:
        """Write one, read it back, and only then remove those that are too old.

        Raises:
            NonFiniteError: a weight or a moment is NaN or infinite; nothing was written.
            StorageError: it could not be made durable; the older ones are untouched.
        """
        target = self.folder / f"step-{state.step:08}"
        if self.begun is not None:
            loop.keeps_all |= (now := settings_of(loop)) != self.begun
            state.settings = now if loop.keeps_all else None
            is_other = loop.has_own_optimizer or state.settings
            state.optimizer = optimizer_numbers(loop, self.attributes.changed()) if is_other else None
        if loop.is_sharded:
            write_parts(target, loop, lambda stage: _write_beside(stage, loop, state), f"after step {state.step}")
            if loop.accelerator.is_main_process:
                self.retire(state)
            return
        found = referenced_tensors(loop)
        for tensors in found:
            check_finite(tensors, f"after step {state.step}")
        with replace_folder(target, within=self.folder.parent) as stage:
            entries = {name: write_tensors(stage / name, each) for name, each in zip(CONTENTS[:2], found, strict=True)}
            entries |= _write_beside(stage, loop, state)
            disk.write(stage / MANIFEST, manifest_bytes(entries))
        try:
            for name, entry in entries.items():
                check_file(target / name, entry)
        except CheckpointError as error:
            raise StorageError(f"was written and reads back differently ({error.what})", where=error.where) from error
        self.retire(state)

    def newest(self, metrics: Path, loop: Loop | None = None) -> tuple[Checkpoint | None, list[CheckpointError]]:
        """The newest valid one, None where there is none yet, and what is wrong with newer ones.

        A checkpoint knows the beginning of the log, `metrics`. The loop is as `Checkpoint.read` takes it.

        Raises:
            CheckpointError: there are checkpoints, and none is valid.
        """
        damaged: list[CheckpointError] = []
        together = Together(loop)
        for path in reversed(together.told(own_checkpoints(self.folder))):
            try:
                checkpoint = Checkpoint.read(path, loop)
                check_log(metrics, checkpoint.state.log)
                return checkpoint, damaged
            except CheckpointError as error:
                damaged.append(error)
        if damaged:
            hint = "nothing was changed; restore the folder from a copy, or start again with another --out"
            raise CheckpointError(f"no checkpoint is valid: {damaged[0].what}", where=damaged[0].where, hint=hint)
        return None, []

    def retire(self, state: RunState) -> None:
        """Remove what is not among the last `keep` up to this state, and neither the newest nor the best one's.

        Newer ones are no reason to remove anything: after a resume they are damaged, until they are written again. Nor
        is one whose files are gone or have other sizes by now.
        """
        own = [path for path in own_checkpoints(self.folder) if step_of(path) <= state.step]
        whole = [path for path in own if _looks_whole(path)]
        kept = {*[path for path in whole if self.plan.saves(step_of(path))][-self.keep :], *whole[-1:]}
        retired = [path for path in own if path not in kept and step_of(path) != state.best_step]
        if retired:
            with storage(self.folder):
                disk.sync(self.folder)  # a kill may have come before the newest one's name was on the disk
        for path in retired:
            with storage(path):
                # Out of sight first: a half removed checkpoint would look like a damaged one.
                aside = path.with_name(f".{path.name}.0.tmp")
                disk.rename(path, aside)
                disk.remove(aside)

    def check_room(self, loop: Loop) -> None:
        """Room for all that the run keeps at a time, and for what is written before the older one is removed.

        Raises:
            StorageError: there is less.
        """
        weights = sum(tensor.nbytes for tensor in referenced_tensors(loop)[0].values())
        model = saved_bytes(loop.model)
        checkpoints = min(self.keep + 2, self.plan.saves_in_all)
        needed = checkpoints * 3 * weights + 2 * model  # two moments a weight; the best model and its successor
        run = self.folder.parent.absolute()
        held = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
        free = shutil.disk_usage(next(path for path in (run, *run.parents) if path.is_dir())).free
        if needed > held + free:
            what = f"checkpoints and model will take {needed - held:,} bytes, and {free:,} are free"
            hint = "free some space, choose another --out, or keep fewer checkpoints (--keep 1)"
            raise StorageError(what, where=str(self.folder.parent), hint=hint)


def _write_beside(stage: Path, loop: Loop, state: RunState) -> dict[str, dict[str, Any]]:
    """The files of a checkpoint beside weights and optimizer state, and their entries."""
    entries = {}
    if loop.own:
        state.own, tensors = own_tensors(loop)
        entries[OWN] = write_tensors(stage / OWN, tensors)
    content = json.dumps({"format": FORMAT, **state.as_json()}).encode()
    disk.write(stage / "state.json", content)
    return entries | {"state.json": entry_of(content)}


def own_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first; what has another name, or is a link, is not ours."""
    if not folder.is_dir() or folder.is_symlink():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted((path for path in found if not path.is_symlink()), key=step_of)


def read_state(path: Path) -> RunState:
    """What a checkpoint says beside its tensors, which are not read.

    Raises:
        CheckpointError: the manifest or the file is missing or damaged.
    """
    content = read_listed(path / "state.json", _entries(path)["state.json"])
    try:
        return _parse_state(content, path)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"cannot be read ({reason_of(error)})", where=str(path)) from error


def _parse_state(content: bytes, path: Path) -> RunState:
    """
    Raises:
        CheckpointError, ValueError, TypeError, KeyError, AttributeError, RecursionError: it is none.
    """
    record = json.loads(content)
    if record.pop("format") != FORMAT:
        raise CheckpointError("is of another version of dongu", where=str(path / "state.json"))
    if {*record, *OPTIONAL} != {item.name for item in fields(RunState)} or set(record["log"]) != {"bytes", "sha256"}:
        raise CheckpointError("is not the state of a run", where=str(path / "state.json"))
    state = _STATE.validate_json(json.dumps(record), strict=True)
    if state.step != step_of(path) or max(state.evaluated_step, state.best_step or 0) > state.step:
        raise CheckpointError("is the state of another step", where=str(path / "state.json"))
    return state


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    entries = read_manifest(path)
    files = (*part_names(processes), "state.json") if (processes := parts_in(entries)) else CONTENTS
    if {*entries, OWN} != {*files, OWN}:
        raise CheckpointError("is not the manifest of a checkpoint", where=str(path / MANIFEST))
    return entries


def _looks_whole(path: Path) -> bool:
    """Whether the files have the sizes of the manifest: a look at each save, where hashing would take too long."""
    try:
        return all((path / name).lstat().st_size == entry["size"] for name, entry in _entries(path).items())
    except (CheckpointError, OSError):
        return False
