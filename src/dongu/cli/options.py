"""What several commands share: the parser, and how an option of a run becomes a flag."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, get_args

from dongu.config import ALIASES, READING, RunConfig, option_flag
from dongu.errors import UsageError
from dongu.teach.language import LANGUAGES

SEVERAL = {  # options of more than one value
    "text_columns": ("A", "B"),
    "columns": ("NAME", "..."),
    "class_weights": ("NAME=NUMBER", "..."),
    "track": ("TRACKER", "..."),
}
SET_ONCE = ("data", "out", "strict")  # options that a resumed run cannot override


class Parser(argparse.ArgumentParser):
    """argparse with errors of our kind: one tree, a suggestion, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"`{self.prog} --help` lists the options")


def add_option(parser: Any, name: str, *, default_shown: bool = True) -> None:
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
    parser.add_argument(main, *short, help=f"{field.description}{extra}{shown}", **common)
    if others := [flag for flag in others if flag not in short]:
        parser.add_argument(*others, help=argparse.SUPPRESS, **common)  # accepted, not advertised


def add_reading(parser: Any) -> None:
    group = parser.add_argument_group("how files are read, where what is found and shown is wrong")
    for name in READING:
        add_option(group, name)


def reading_of(parsed: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_reading` that are given."""
    return {name: getattr(parsed, name) for name in READING}


def add_parts(parser: Any) -> None:
    parser.add_argument(
        "--parts",
        metavar="FILE.py",
        type=Path,
        help="take parts of your own from this file, which is run: functions named model, loss, optimizer, order, …",
    )


def spellings(name: str) -> list[str]:
    """`--batch-size`, and `--batch_size` for hands that are used to it."""
    return list(dict.fromkeys([option_flag(name), f"--{name}"]))


def command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int | None], **texts: str
) -> argparse.ArgumentParser:
    """A command that calls `run` with what was parsed; `texts` are its help, description and the like."""
    parser: argparse.ArgumentParser = commands.add_parser(name, allow_abbrev=False, **texts)
    parser.set_defaults(run=run)
    return parser


def add_run_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", type=Path, help="run folder")


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="JSON on standard output")


def add_compute_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch-size", default="32", metavar="N", help="rows of a forward pass (32)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (auto)")
    add_json(parser)


def add_language(parser: Any, what: str) -> None:
    parser.add_argument("--language", choices=LANGUAGES, help=f"{what} (default: that of the locale, or en)")


def whole_number(value: str | None, name: str, default: int) -> int:
    if value is None:
        return default
    if not value.isdecimal() or int(value) < 1:
        raise UsageError(f"must be a whole number of at least 1, got `{value}`", where=f"--{name}")
    return int(value)


def refuse_existing(out: Path | None) -> None:
    """
    Raises:
        UsageError: `--out` names a file that is there.
    """
    if out is not None and out.exists():
        raise UsageError("the file exists", where=f"--out {out}", hint="remove it or choose another name")
