"""What a value of an option must be, and what else may be given for it: checks of one value each."""

from __future__ import annotations

import codecs
import contextlib
import math
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

CODES = ("utf-7", "unicode-escape", "raw-unicode-escape", "punycode", "idna")  # of Python, and of no file of texts


def one_or_several(value: Any) -> Any:
    """One name is as good as a list of one."""
    return (value,) if isinstance(value, str) else value


def by_commas(value: Any) -> Any:
    """`negative,neutral,positive` is a list of three."""
    return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value


def joined(value: Any) -> Any:
    """Several columns of 0 and 1 are one label column whose name joins theirs."""
    return (
        "+".join(value) if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value) else value
    )


def class_weights(value: Any) -> Any:
    """`balanced`, or weights by the name of the class: a table, or `name=number` each."""
    if value in ("balanced", ["balanced"], ("balanced",)):
        return "balanced"
    if isinstance(value, list | tuple) and all(isinstance(item, str) and "=" in item for item in value):
        pairs = [item.rpartition("=") for item in value]
        value = {name: number for name, _, number in pairs}
        if len(value) < len(pairs):
            raise ValueError("names a class twice")
    if not isinstance(value, dict) or not value:
        raise ValueError("must be balanced, or name=number for some classes")
    weights = {str(name): _positive(number) for name, number in value.items()}
    if bad := [name for name, weight in weights.items() if weight is None]:
        raise ValueError(f"the weight of {bad[0]} must be a number above 0, such as 5 or 0.2")
    return weights


def _positive(value: Any) -> float | None:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
    return number if _LEAST_WEIGHT <= number <= 1 / _LEAST_WEIGHT else None


def no_bool(value: Any) -> Any:
    """`true` is no number, although Python says so."""
    if isinstance(value, bool):
        raise ValueError("a number is wanted, not true or false")
    return value


def character(value: Any) -> Any:
    r"""One character; `tab` and `\t` stand for the one that a shell does not let pass."""
    value = {"tab": "\t", r"\t": "\t"}.get(value, value)
    if not isinstance(value, str) or len(value) != 1 or value in '"\r\n\0':
        raise ValueError("must be one character, and no quote or line break")
    return value


def encoding(value: Any) -> Any:
    with contextlib.suppress(LookupError, UnicodeError, AttributeError, TypeError, ValueError):
        if "a,\n".encode(value).decode(value) == "a,\n" and codecs.lookup(value).name not in CODES:
            return value
    raise ValueError("must name an encoding that Python knows, such as cp1252, latin-1, utf-16, gb18030")


def without_detours(value: Any) -> Any:
    """`missing/../run` is `run`: made as it stands, it would leave a folder on the way."""
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    return os.path.realpath(value) if isinstance(value, str) and ".." in Path(value).parts else value


_LEAST_WEIGHT = 1e-30  # of a class: float32 holds what a row of it loses, and the sum over an update
Count = Annotated[int, BeforeValidator(no_bool), Field(ge=1, lt=2**31)]
Real = Annotated[float, BeforeValidator(no_bool), Field(allow_inf_nan=False)]
Portion = Annotated[Real, Field(gt=0, lt=1)]
