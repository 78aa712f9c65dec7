"""Options that stand in a file: a recipe in TOML, or the record of a run."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from dongu.config import ALIASES, option_flag
from dongu.errors import UsageError
from dongu.files import read_regular
from dongu.relocation import recorded_options
from dongu.text import typed


def read_config(path: Path, *, with_parts: bool = False) -> dict[str, Any]:
    """Options from a recipe (`.toml`) or from a run's own `run.json`.

    `with_parts` says whether parts of one's own are given beside it.

    Raises:
        UsageError: the file is missing, is not TOML or JSON, or holds no options.
    """
    try:
        text = read_regular(path, follow=True).decode()
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        recipe = recorded_options(content, path.parent) if path.suffix == ".json" else content
    except FileNotFoundError:
        raise UsageError("the file does not exist", where=f"--config {path}") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"not a readable recipe ({getattr(error, 'strerror', None) or error})",
            where=f"--config {path}",
            hint="give a TOML file of options (epochs = 3), or the run.json of a run",
        ) from error
    if path.suffix == ".json" and isinstance(parts := content.get("parts"), dict) and not with_parts:
        names, file = ", ".join(parts.get("names", ())), content.get("parts_file") or "FILE.py"
        what = f"is of a run with parts of its own ({names}), which are not given"
        raise UsageError(what, where=f"--config {path}", hint=f"give their file too: --parts {typed(file)}")
    if not isinstance(recipe, dict):
        raise UsageError("holds no table of options", where=f"--config {path}")
    if path.suffix == ".json" and "parts" not in content:
        recipe.pop("columns", None)  # those of prepared rows, which nothing in that run read
    options: dict[str, Any] = {}
    for name, value in recipe.items():
        option = ALIASES.get(name.replace("-", "_"), name.replace("-", "_"))
        if option in options:
            raise UsageError(f"sets {option_flag(option)} twice", where=f"--config {path}")
        options[option] = value
    return options
