"""Which class transformers would call for the tokenizer that a model's files name: a fast tokenizer's, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

from dongu.errors import ModelError
from dongu.model.safety import read_object, shown


def check_tokenizer_class(folder: Path, where: str) -> None:
    """Look at the names in files that `check_files` has found to be plain data.

    transformers takes any of its names for a tokenizer's class, a model's or a function's too, and calls it.

    Raises:
        ModelError: with the file and the name.
    """
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).exists():
            _check(name, read_object(folder / name, where).get("tokenizer_class"), where)


def _check(name: str, value: Any, where: str) -> None:
    if value is None:
        return
    try:
        found = tokenizer_class_from_name(value) if isinstance(value, str) and value.isidentifier() else value
    except (ImportError, RuntimeError, ValueError):  # it needs a package that is not here
        found = value
    if found is None or getattr(found, "__name__", "") == "PythonBackend":
        return  # transformers loads the plain fast tokenizer instead
    if not (isinstance(found, type) and issubclass(found, PreTrainedTokenizerFast)):
        hint = "it needs a tokenizer.json"
        raise ModelError(f"has no fast tokenizer: {name} has `tokenizer_class`: {shown(value)}", where=where, hint=hint)
