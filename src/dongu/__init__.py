"""dongu: a full training loop for transformer text classifiers.

Importing it costs nothing: what needs torch is imported when it is first used.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dongu.asked import compare, inspect, report
    from dongu.config import RunConfig
    from dongu.errors import DonguError
    from dongu.estimator import TextClassifier
    from dongu.loop import Loop
    from dongu.own import Array, coupled
    from dongu.parts import Parts
    from dongu.run.result import RunResult
    from dongu.running import Run
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
    "RunResult": "dongu.run.result",
    "Step": "dongu.update",
    "TextClassifier": "dongu.estimator",
    "Update": "dongu.update",
    "compare": "dongu.asked",
    "coupled": "dongu.own",
    "inspect": "dongu.asked",
    "load": "dongu.use.classifier",
    "report": "dongu.asked",
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
    "TextClassifier",
    "Update",
    "__version__",
    "compare",
    "coupled",
    "inspect",
    "load",
    "report",
    "resume",
    "train",
]


def __dir__() -> list[str]:
    return [*__all__, "__doc__", "__file__", "__name__", "__path__", "__spec__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        if "ipykernel" in sys.modules:  # a notebook need not have the widgets of tqdm: a run has a bar of its own
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="IProgress not found")
                import_module("tqdm.auto")
        try:
            return getattr(import_module(_HOMES[name]), name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "sklearn":
                raise
            from dongu.errors import install_hint

            what = f"dongu.TextClassifier needs scikit-learn: {install_hint('sklearn')}"
            raise ModuleNotFoundError(what, name=error.name) from error
    raise AttributeError(f"module 'dongu' has no attribute {name!r}")
