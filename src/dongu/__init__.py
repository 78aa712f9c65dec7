"""dongu: a full training loop for transformer text classifiers.

Importing it costs nothing: what needs torch is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dongu.config import RunConfig
    from dongu.errors import DonguError
    from dongu.loop import Loop
    from dongu.own import Array, coupled
    from dongu.parts import Parts
    from dongu.running import Run, RunResult
    from dongu.training import resume, train
    from dongu.update import Step, Update
    from dongu.use.classifier import Classifier, load

__version__ = "0.1.0"

_HOMES = {
    "Array": "dongu.own",
    "Classifier": "dongu.use.classifier",
    "DonguError": "dongu.errors",
    "Loop": "dongu.loop",
    "Parts": "dongu.parts",
    "Run": "dongu.running",
    "RunConfig": "dongu.config",
    "RunResult": "dongu.running",
    "Step": "dongu.update",
    "Update": "dongu.update",
    "coupled": "dongu.own",
    "load": "dongu.use.classifier",
    "resume": "dongu.training",
    "train": "dongu.training",
}

__all__ = [
    "Array",
    "Classifier",
    "DonguError",
    "Loop",
    "Parts",
    "Run",
    "RunConfig",
    "RunResult",
    "Step",
    "Update",
    "__version__",
    "coupled",
    "load",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dongu' has no attribute {name!r}")
