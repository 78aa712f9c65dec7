"""The run folder: which file holds what, under which name."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from dongu.data.examples import TextData
from dongu.errors import InputError, UsageError
from dongu.files import write_file

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
        if self.path.is_dir() and any(self.path.iterdir()):
            what = "holds a run already" if (self.path / "run.json").exists() else "is not empty"
            raise UsageError(
                what,
                where=f"--out {self.path}",
                hint="choose another --out, or remove the folder; nothing was touched",
            )
        if self.path.exists() and not self.path.is_dir():
            raise UsageError("is a file", where=f"--out {self.path}", hint="choose another --out")

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
