"""Packages that only some runs need, and how to get them."""

from __future__ import annotations

from importlib.util import find_spec

from dongu.config import RunConfig
from dongu.errors import UsageError


def require_extras(config: RunConfig) -> None:
    """
    Raises:
        UsageError: an option needs a package that is not installed.
    """
    if config.lora is not None and find_spec("peft") is None:
        raise UsageError("needs the package peft", where="--lora", hint='install it with: pip install "dongu[lora]"')
