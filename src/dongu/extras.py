"""Packages that only some runs need, and how to get them."""

from __future__ import annotations

from importlib.util import find_spec

from dongu.config import RunConfig
from dongu.errors import UsageError, install_hint

RECORDED_VERSIONS = ("dongu", "torch", "transformers", "tokenizers", "accelerate", "datasets", "numpy")  # of each run


def require_extras(config: RunConfig) -> None:
    """
    Raises:
        UsageError: an option needs a package that is not installed.
    """
    if config.lora is not None and not _installed("peft"):
        raise UsageError("needs the package peft", where="--lora", hint=install_hint("lora"))
    for name in config.track or ():
        if not _installed(name):
            raise UsageError("its package is not installed", where=f"--track {name}", hint=f"pip install {name}")


def require_optuna() -> None:
    """
    Raises:
        UsageError: it is not installed.
    """
    if not _installed("optuna"):
        raise UsageError("needs the package optuna", where="dongu tune", hint=install_hint("tune"))


def _installed(package: str) -> bool:
    found = find_spec(package)
    return found is not None and found.origin is not None  # a folder of that name, as wandb leaves one, is no package
