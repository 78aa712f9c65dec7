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
    found = find_spec("peft")
    if config.lora is not None and (found is None or found.origin is None):  # a folder of that name is no package
        raise UsageError("needs the package peft", where="--lora", hint='install it with: pip install "dongu[lora]"')
