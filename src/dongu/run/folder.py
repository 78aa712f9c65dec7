"""The run folder: which file holds what, under which name."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from dongu.data.examples import TextData
from dongu.errors import InputError, LockedError, UsageError
from dongu.files import is_leftover, remove_leftovers, write_file

RECORDED_VERSIONS = ("dongu", "torch", "transformers", "tokenizers", "accelerate", "datasets", "numpy")


@dataclass(frozen=True)
class RunFolder:
    """Paths and whole-file writes of one run."""

    path: Path

    @property
    def model(self) -> Path:
        """The best model, as `from_pretrained` loads it."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """One folder a checkpoint."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One line a step and one an evaluation; no times."""
        return self.path / "metrics.jsonl"

    @property
    def timing(self) -> Path:
        """The clock's side of `metrics.jsonl`."""
        return self.path / "timing.jsonl"

    def refuse_if_used(self) -> None:
        """
        Raises:
            UsageError: the folder holds something already.
        """
        if self.path.is_dir() and not all(map(is_leftover, self.path.iterdir())):
            what, hint = "is not empty", "choose another --out, or remove the folder; nothing was touched"
            if (self.path / "results.json").exists():
                what = "holds a finished run"
            elif (self.path / "run.json").exists():
                what, hint = "holds a run that has not ended", f"go on with it: dongu resume {self.path}"
            raise UsageError(what, where=f"--out {self.path}", hint=hint)
        if self.path.exists() and not self.path.is_dir():
            raise UsageError("is a file", where=f"--out {self.path}", hint="choose another --out")

    @contextlib.contextmanager
    def lock(self, *, enabled: bool = True) -> Iterator[None]:
        """Hold the folder for one writer; the system lets go of it whatever ends the process.

        Raises:
            LockedError: another process holds it.
        """
        if not enabled:
            yield
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise LockedError(
                    "another process writes to this run", where=str(self.path), hint="wait for it, or stop it"
                ) from error
            yield
        finally:
            os.close(descriptor)

    def clean(self) -> None:
        """Remove what writes that were cut off have left; nothing else."""
        for folder in (self.path, self.path / "predictions", self.checkpoints):
            remove_leftovers(folder)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """One JSON file, whole or not at all."""
        write_file(self.path / name, (dump_json(content, indent=2) + "\n").encode())

    def read_json(self, name: str) -> dict[str, Any]:
        """
        Raises:
            InputError: the file is missing or damaged.
        """
        path = self.path / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(
                f"is not a run: it has no {name}",
                where=str(self.path),
                hint="give the folder that `dongu train` wrote",
            ) from None
        except (OSError, ValueError) as error:
            raise InputError(f"cannot be read ({error})", where=str(path)) from error
        if not isinstance(content, dict):
            raise InputError("holds no JSON object", where=str(path))
        return content

    def write_predictions(self, split: str, lines: Iterable[Mapping[str, Any]]) -> None:
        """One row an evaluation example."""
        content = "".join(dump_json(line) + "\n" for line in lines)
        write_file(self.path / "predictions" / f"{split}.jsonl", content.encode())


def dump_json(content: Any, indent: int | None = None) -> str:
    """JSON with every digit of a number; NaN and infinity, which JSON lacks, become null."""
    return json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def data_fingerprint(data: TextData) -> dict[str, Any]:
    """Rows and digest of each split as it was read: texts, targets and row numbers."""
    fingerprint = {}
    for name, examples in data.splits.items():
        digest = hashlib.sha256(json.dumps(examples.texts).encode())
        digest.update(np.ascontiguousarray(examples.ids, dtype=np.int64).tobytes())
        if examples.targets is not None:
            digest.update(examples.targets.tobytes())
        fingerprint[name] = {"origin": examples.origin, "rows": len(examples), "sha256": digest.hexdigest()}
    return fingerprint


def software_versions() -> dict[str, str]:
    """The packages whose version may change a result."""
    return {"python": platform.python_version(), **{name: version(name) for name in RECORDED_VERSIONS}}
