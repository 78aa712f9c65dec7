"""How values, functions and imports are written in an ejected script."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from dongu.model.place import PACKAGED

LINE = 120  # characters, as ruff formats the house
_INDENT = " " * 4

Function = Callable[..., Any]
IMPORTS = (  # in ruff's order, and what shows that a script needs them
    ("argparse.", "import argparse"),
    ("ast.", "import ast"),
    ("copy.", "import copy"),
    ("json.", "import json"),
    ("math.", "import math"),
    ("re.", "import re"),
    ("zlib.", "import zlib"),
    ("namedtuple(", "from collections import namedtuple"),
    ("Path(", "from pathlib import Path"),
    ("SimpleNamespace(", "from types import SimpleNamespace"),
    ("normalize(", "from unicodedata import normalize"),
    ("", ""),
    *((f"{package}.", f"import {package}") for package in PACKAGED.values()),
    ("np.", "import numpy as np"),
    ("torch.", "import torch"),
    ("F.", "import torch.nn.functional as F"),
    ("Accelerator(", "from accelerate import Accelerator"),
    ("load_dataset(", "from datasets import load_dataset"),
    ("LoraConfig(", "from peft import LoraConfig, inject_adapter_in_model"),
    ("safe_open(", "from safetensors import safe_open"),
    ("save_file(", "from safetensors.torch import save_file"),
    ("tqdm(", "from tqdm import tqdm"),
    (
        "AutoTokenizer.",
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding,"
        " get_scheduler",
    ),
)


def literal(value: Any) -> str:
    """Python's spelling, in double quotes where that saves none."""
    words = repr(value)
    return f'"{words[1:-1]}"' if isinstance(value, str) and words[0] == "'" and '"' not in value else words


def number(value: float) -> str:
    """`3` for 3.0, `5e-5` for 5e-05."""
    return str(int(value)) if value == int(value) else re.sub("e-0", "e-", repr(value))


def literals(values: Iterable[Any], *, before: str = "") -> str:
    """A list, filled line by line where it has no room on one."""
    words = [literals(value) if isinstance(value, list) else literal(value) for value in values]
    line = f"[{', '.join(words)}]"
    if len(before + line) <= LINE:
        return line
    lines = [_INDENT]
    for word in words:
        if len(lines[-1]) + len(word) >= LINE:
            lines.append(_INDENT)
        lines[-1] += f"{word}, "
    return "\n".join(["[", *(line.rstrip() for line in lines), "]"])


def mapping(values: Mapping[str, str], *, before: str) -> str:
    """A dict, one item a line where it has no room on its own."""
    words = [f"{literal(key)}: {literal(value)}" for key, value in values.items()]
    line = f"{{{', '.join(words)}}}"
    return line if len(before + line) <= LINE else "\n".join(["{", *(f"    {word}," for word in words), "}"])


def tightened(body: str) -> Iterator[str]:
    """A script of very many options in ever fewer lines: without blank ones in a block, docstrings and headings."""
    yield body
    body = body.replace("\n\n# ---- Change here: how it learns ----\n", "\n")
    yield (body := re.sub(r"\n\n(?=    |steps_per_epoch)", "\n", body))
    yield (body := re.sub(r'\n    """.*"""(?=\n)', "", body))
    yield (body := re.sub(r"(?<!\n)\n\n(?=# ----)", "\n", body))
    yield (body := re.sub(r"\n +# .*(?=\n)", "", body))
    yield re.sub(r"\n# ---- (?!Change).*(?=\n)", "", body)


def source_of(function: Function) -> str:
    """The function as a script has it: without annotations."""
    head = f"def {function.__name__}({', '.join(inspect.signature(function).parameters)}):"
    body = inspect.getsource(function).strip().splitlines()[1:]
    return "\n".join([head, *(re.sub(r"  # type: ignore.*|(?<=optimizer): Any", "", line) for line in body)])


def imports_of(body: str) -> str:
    lines = [line for mark, line in IMPORTS if re.search(rf"(?<![\w.]){re.escape(mark)}", body) or not mark]
    imports = "\n".join(lines)
    return imports if "get_scheduler(" in body else imports.replace(", get_scheduler", "")
