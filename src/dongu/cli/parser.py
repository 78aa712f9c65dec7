"""The parser of a command, and the arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from dongu.errors import StorageError, UsageError
from dongu.teach.language import LANGUAGES
from dongu.text import printable

ALLOWED = "data, versions, hardware, or an option by its name (learning-rate)"
SHARED: dict[str, dict[str, Any]] = {  # arguments of several commands
    "folder": {"metavar": "RUN", "type": Path, "help": "run folder"},
    "data": {"metavar": "DATA", "nargs": "?", "help": "where the data are now (default: where they were)"},
    "model": {
        "metavar": "MODEL",
        "help": "run folder, its model/, the folder of any classifier, or a Hub name: owner/name, owner/name@revision",
    },
    "--config": {"metavar": "FILE", "type": Path, "help": "recipe: a TOML file, or a run's run.json"},
    "--parts": {
        "metavar": "FILE.py",
        "type": Path,
        "help": "run this file and use its functions as parts of the run: model, loss, optimizer, order, …",
    },
    "--batch-size": {"default": "32", "metavar": "N", "help": "rows per forward pass (32)"},
    "--device": {"default": "auto", "help": "auto, cpu, cuda, cuda:N or mps (auto)"},
    "--abstain-below": {
        "metavar": "P",
        "help": "give no label if the most probable one is below this; 0: always give one (default: the model's own)",
    },
    "--json": {"action": "store_true", "help": "JSON on standard output"},
}


class Parser(argparse.ArgumentParser):
    """argparse with errors of our kind: one tree, a suggestion, exit code 2."""

    _own_usage: str | None = None  # while it parses, argparse makes one where none is given

    def error(self, message: str) -> NoReturn:
        if message.startswith("the following arguments are required: "):
            missing = message.partition(": ")[2].replace(", ", " and ")
            raise UsageError(
                f"{missing} missing", where=self.prog, hint=f"{self._call()}; `{self.prog} --help` says more"
            )
        raise UsageError(message, hint=f"`{self.prog} --help` lists the options")

    def _call(self) -> str:
        """How the command is called, with its arguments by their names and no option."""
        if self._own_usage:
            return self._own_usage
        several = {"?": "[{}]", "*": "[{} ...]", "+": "{} ..."}
        places = [each for each in self._actions if not each.option_strings]
        return " ".join([self.prog, *(several.get(str(each.nargs), "{}").format(each.metavar) for each in places)])


class CommandParser(Parser):
    """That of one command, whose arguments without a name may stand before, between and behind its options.

    argparse takes an optional one for missing where an option follows: `dongu predict RUN --json TEXT` had no text.
    """

    _is_parsing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._is_parsing:
            return super().parse_known_args(args, namespace)
        self._is_parsing, self._own_usage = True, self.usage
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_parsing = False


def define(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int | None], **texts: str) -> None:
    """Let a command call `run` with what was parsed; `texts` are its description and the like."""
    vars(parser).update(texts)
    parser.set_defaults(run=run)


def add_shared(parser: Any, *names: str) -> None:
    """Add arguments of `SHARED`, in this order."""
    for name in names:
        parser.add_argument(name, **SHARED[name])


def print_json(schema: str, content: Mapping[str, Any], indent: int | None = None) -> None:
    """An answer of `--json`: what it is and its version, which docs/json.md describes, and its content."""
    from dongu.run.folder import dump_json

    print(dump_json({"schema": f"dongu.{schema}/1", **content}, indent), flush=True)


def print_answer(
    parsed: argparse.Namespace, content: Mapping[str, Any], lines: Iterable[str], indent: int | None = None
) -> None:
    """What a command came to: its content with `--json`, else the lines for a person."""
    if parsed.json:
        print_json(parsed.command, content, indent)
    else:
        for line in lines:
            print(printable(line))


def add_language(parser: Any, what: str) -> None:
    parser.add_argument("--language", choices=LANGUAGES, help=f"{what} (default: the locale's, or en)")


def probability(value: str | None) -> float | None:
    if value is None:
        return None
    return real_number(value, "--abstain-below", "a probability, from 0 to 1", lambda number: 0 <= number <= 1)


def real_number(value: str, where: str, what: str, fits: Callable[[float], bool]) -> float:
    with suppress(ValueError):
        if fits(number := float(value)):
            return number
    raise UsageError(f"must be {what}, got `{value}`", where=where)


def whole_number(value: str | None, name: str, default: int) -> int:
    if value is None:
        return default
    if not value.isdecimal() or int(value) < 1:
        raise UsageError(f"must be a whole number of at least 1, got `{value}`", where=f"--{name}")
    return int(value)


def refuse_existing(out: Path | None) -> None:
    """Raise `UsageError` if `--out` names a file that is there."""
    if out is not None and out.is_dir():
        raise UsageError("is a folder", where=f"--out {out}", hint="give the name of a file in it")
    if out is not None and out.is_symlink() and not out.exists():
        raise UsageError("is a link to nowhere", where=f"--out {out}", hint="remove it or choose another name")
    if out is not None and out.exists():
        raise UsageError("the file exists", where=f"--out {out}", hint="remove it or choose another name")


@contextmanager
def elsewhere(out: Path | None, metavar: str) -> Iterator[None]:
    """Where the folder of a run cannot be written to, name the option that writes to another place."""
    try:
        yield
    except StorageError as error:
        if out is None:
            error.hint = "; ".join(filter(None, (error.hint, f"--out {metavar} writes it elsewhere")))
        raise
