"""Checkpoints: all that a run needs to go on, in a folder that is whole or counts for nothing.

A checkpoint is staged beside its place, flushed to the disk, listed in a manifest with sizes and digests, renamed,
and read back before an older one is removed. Order and dropout are functions of the step, so no generator state is in
it: weights, moments and one small `RunState`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from dongu.errors import CheckpointError, StorageError
from dongu.evaluate import Evaluation
from dongu.files import replace_folder, storage, write_file
from dongu.loop import Loop
from dongu.metrics import MetricSet

FORMAT = 1
MANIFEST = "MANIFEST.json"
CONTENTS = ("weights.safetensors", "moments.safetensors", "state.json")
NAME = re.compile(r"step-\d{8,}")


@dataclass
class RunState:
    """What a run remembers beside its tensors."""

    step: int = 0  # updates made
    best_step: int | None = None
    best_metrics: dict[str, float] | None = None
    evaluations_since_best: int = 0
    metrics_bytes: int = 0  # of metrics.jsonl and timing.jsonl at this step: what stands after them is done again
    timing_bytes: int = 0

    def better(self, metrics: MetricSet, evaluation: Evaluation) -> bool:
        """Whether this evaluation is the best so far; the first one is, whatever it says."""
        if self.best_metrics is None:
            return True
        return metrics.better(evaluation.metrics[metrics.main], self.best_metrics[metrics.main])


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, loop: Loop, state: RunState) -> None:
        """Write one, read it back, and only then remove those that are too old.

        Raises:
            StorageError: it could not be made durable; the older ones are untouched.
        """
        model = loop.plain_model
        kept = set(model.state_dict())
        named = {**dict(model.named_parameters()), **dict(model.named_buffers())}  # each shared tensor once
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items() if name in kept}
        moments = {
            f"{index}.{name}": tensor.detach().cpu().contiguous()
            for index, entry in loop.optimizer.state_dict()["state"].items()
            for name, tensor in entry.items()
        }
        contents = {
            "weights.safetensors": save(weights),
            "moments.safetensors": save(moments),
            "state.json": json.dumps({"format": FORMAT, **asdict(state)}).encode(),
        }
        target = self.folder / f"step-{state.step:08}"
        with replace_folder(target) as stage:
            for name, content in contents.items():
                write_file(stage / name, content)
            write_file(stage / MANIFEST, _manifest(contents))
        try:
            read_checkpoint(target)
        except CheckpointError as error:
            raise StorageError(f"was written and reads back differently ({error.what})", where=error.where) from error
        self.retire(state)

    def newest(self) -> tuple[dict[str, bytes] | None, list[CheckpointError]]:
        """The contents of the newest valid one, None where there is none yet, and what is wrong with newer ones.

        Raises:
            CheckpointError: there are checkpoints, and none is valid.
        """
        damaged: list[CheckpointError] = []
        for path in reversed(self._own()):
            try:
                return read_checkpoint(path), damaged
            except CheckpointError as error:
                damaged.append(error)
        if damaged:
            raise CheckpointError(
                f"no checkpoint is valid: {damaged[0].what}",
                where=damaged[0].where,
                hint="nothing was changed; restore the folder from a copy, or start anew with another --out",
            )
        return None, []

    def _own(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if NAME.fullmatch(path.name) and path.is_dir()]
        return sorted(found, key=_step_of)

    def retire(self, state: RunState) -> None:
        """Remove what is older than the last `keep` up to this state, but for the best one's.

        Newer ones are no reason to remove anything: after a resume they are damaged, until they are written again.
        """
        own = [path for path in self._own() if _step_of(path) <= state.step]
        best = f"step-{state.best_step:08}" if state.best_step is not None else ""
        for path in own[: -self.keep]:
            if path.name != best and not path.is_symlink():
                with storage(path):
                    # Out of sight first: a half removed checkpoint would look like a damaged one.
                    aside = path.with_name(f".{path.name}.0.old")
                    path.rename(aside)
                    shutil.rmtree(aside)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def restore(loop: Loop, contents: Mapping[str, bytes]) -> RunState:
    """Put the loop where the checkpoint was taken. All is parsed and compared before anything is changed.

    Raises:
        CheckpointError: the contents do not belong to this model or this version.
    """
    try:
        record = json.loads(contents["state.json"])
        weights, moments = load(contents["weights.safetensors"]), load(contents["moments.safetensors"])
        if record.pop("format") != FORMAT:
            raise CheckpointError("is of another version of dongu", where="state.json")
        state = RunState(**record)
    except (ValueError, TypeError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"cannot be read ({error})", where="checkpoint") from error
    model = loop.plain_model
    expected = {name: tensor.shape for name, tensor in model.state_dict().items() if name in weights}
    if {name: tensor.shape for name, tensor in weights.items()} != expected:
        raise CheckpointError("has the weights of another model", where="weights.safetensors")
    model.load_state_dict(weights, strict=False)
    fresh = loop.optimizer.state_dict()
    entries: dict[int, dict[str, Any]] = {}
    for key, tensor in moments.items():
        index, name = key.split(".")
        entries.setdefault(int(index), {})[name] = tensor.clone()  # own, aligned memory
    loop.optimizer.load_state_dict({"state": entries, "param_groups": fresh["param_groups"]})
    loop.go_to(state.step)
    return state


def read_checkpoint(path: Path) -> dict[str, bytes]:
    """The files of a checkpoint, each read once and compared with the manifest.

    Raises:
        CheckpointError: a file is missing, has another size or other bytes, or is no regular file.
    """
    listed = _read_manifest(path / MANIFEST)
    contents = {}
    for name in CONTENTS:
        file = path / name
        content = _read(file)
        if len(content) != listed[name]["size"]:
            raise CheckpointError(f"has {len(content):,} bytes, not {listed[name]['size']:,}", where=str(file))
        if hashlib.sha256(content).hexdigest() != listed[name]["sha256"]:
            raise CheckpointError("holds other bytes than were written", where=str(file))
        contents[name] = content
    return contents


def _manifest(contents: Mapping[str, bytes]) -> bytes:
    files = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    return _manifest_text(files)


def _manifest_text(files: Mapping[str, Any]) -> bytes:
    return (json.dumps({"format": FORMAT, "files": files}, indent=2) + "\n").encode()


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    content = _read(path)
    try:
        files = json.loads(content)["files"]
        # A manifest is written in one way only, so any other bytes are damage, even where they mean the same.
        if set(files) == set(CONTENTS) and content == _manifest_text(files):
            return dict(files)
    except (ValueError, KeyError, TypeError):
        pass
    raise CheckpointError("is no manifest of a checkpoint", where=str(path))


def _read(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise CheckpointError("is no regular file", where=str(path))
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError("is missing", where=str(path)) from None
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})", where=str(path)) from error
