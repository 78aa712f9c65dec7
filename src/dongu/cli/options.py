"""How an option of a run becomes a flag."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any, get_args

from dongu.config import ALIASES, READING, RunConfig, option_flag

SEVERAL = {  # options of more than one value
    "text_columns": ("A", "B"),
    "columns": ("NAME", "..."),
    "class_weights": ("NAME=NUMBER", "..."),
    "track": ("TRACKER", "..."),
}
MODEL_COLUMNS = ("text_columns", "label_column")  # which a run knows, and any other classifier does not


def add_options(parser: Any, names: Iterable[str], *, default_shown: bool = True) -> None:
    """Add options of `RunConfig`, in this order."""
    for name in names:
        _add_option(parser, name, default_shown=default_shown)


def _add_option(parser: Any, name: str, *, default_shown: bool) -> None:
    field = RunConfig.model_fields[name]
    default = field.default if default_shown else None
    if field.annotation is bool:
        flags = [spelling for flag in spellings(name) for spelling in (flag, flag.replace("--", "--no-", 1))]
        parser.add_argument(flags[0], dest=name, action="store_true", default=None, help=field.description)
        for flag in flags[1:]:
            action = "store_false" if flag.startswith("--no-") else "store_true"
            parser.add_argument(flag, dest=name, action=action, default=None, help=argparse.SUPPRESS)
        return
    shown = "" if default is None else f" ({default:g})" if isinstance(default, float) else f" ({default})"
    choices = [value for item in (field.annotation, *get_args(field.annotation)) for value in get_args(item)]
    names = [value for value in choices if isinstance(value, str)]
    extra = f": {', '.join(names)}" if len(names) > 3 else ""
    common: dict[str, Any] = {"dest": name, "default": None, "nargs": "+" if name in SEVERAL else None}
    common["metavar"] = "{" + ",".join(names) + "}" if 0 < len(names) <= 3 else name.rsplit("_", 1)[-1].upper()
    common["metavar"] = SEVERAL.get(name, common["metavar"])
    main, *others = spellings(name)
    others += [flag for alias, option in ALIASES.items() if option == name for flag in spellings(alias)]
    short = ["--lr"] if name == "learning_rate" else []
    parser.add_argument(main, *short, help=f"{field.description}{extra}{shown}".replace("%", "%%"), **common)
    if others := [flag for flag in others if flag not in short]:
        parser.add_argument(*others, help=argparse.SUPPRESS, **common)  # accepted, not advertised


def add_reading(parser: Any) -> None:
    add_options(parser.add_argument_group("how files are read, where what is found and shown is wrong"), READING)


def reading_of(parsed: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_reading` that are given."""
    return {name: getattr(parsed, name) for name in READING}


def given_columns(parsed: argparse.Namespace) -> dict[str, Any]:
    """Those of `MODEL_COLUMNS` that are given."""
    return {name: value for name in MODEL_COLUMNS if (value := getattr(parsed, name, None)) is not None}


def spellings(name: str) -> list[str]:
    """`--batch-size`, and `--batch_size` for hands that are used to it."""
    return list(dict.fromkeys([option_flag(name), f"--{name}"]))
