"""The `dongu` command: which commands there are, and how each may end."""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from dongu import __version__, launch
from dongu.cli.output import Output, standard_streams, told_before
from dongu.cli.parser import CommandParser, Parser
from dongu.errors import DonguError, InputError, StoppedError, UsageError, no_panic
from dongu.run.signals import EXIT_CODES, Stop, StopSignals
from dongu.text import wrapped
from dongu.waiting import Waiting, about_to_write, shown_on

# In the order of --help: what adds the arguments, in a module that is loaded for its command alone; what it is for.
COMMANDS = {
    "train": ("train:add_train", "fine-tune a model and write a run folder"),
    "resume": ("train:add_resume", "continue a run that was stopped"),
    "evaluate": ("answer:add_evaluate", "compute the metrics of a model, on the splits of its run or on other data"),
    "predict": ("answer:add_predict", "predict labels and probabilities for texts, in their order"),
    "report": ("show:add_report", "write report.html, the page that shows what a run did"),
    "compare": ("show:add_compare", "compare finished runs: options, metrics, and whether one is better"),
    "tune": ("tune:add_tune", "search for better options, and measure what they gain on test"),
    "runs": ("runs:add_runs", "list the runs in a folder: their state, their metric, the options that differ"),
    "prepare": ("prepare:add_prepare", "tokenize a large data set once, for runs that start in seconds"),
    "inspect": ("show:add_inspect", "find what is wrong with a data set, and what to do about it"),
    "verify": ("verify:add_verify", "prove on this machine that a run's files and numbers are right"),
    "eject": ("share:add_eject", "write a run as one plain script that does not need dongu"),
    "export": ("share:add_export", "write a model as an ONNX graph, and check its predictions"),
    "serve": ("serve:add_serve", "serve a model over HTTP: a page to try it, and POST /predict for programs"),
    "push": ("share:add_push", "upload the best model and its card to the Hub"),
    "quiz": ("learn:add_quiz", "ask questions about the lessons in docs/"),
    "completion": ("completion:add_completion", "print a completion script for bash, zsh or fish"),
    "demo": ("learn:add_demo", "train on a packaged data set: no network, a few minutes"),
}
RUNS = ("train", "resume", "tune", "demo", "serve")  # their results are files, and what they print is commentary
# Run by all processes of a launcher; the others by the first alone.
TOGETHER = ("train", "resume", "evaluate", "predict", "verify")
NOT_YOURS = "you may not: ask its owner, or give another place"
BEGAN = time.monotonic()  # since when nothing is on the screen


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; what went wrong goes to standard error."""
    debug = "--debug" in arguments
    with standard_streams() as output:
        try:
            return _run([item for item in arguments if item != "--debug"], output)
        except DonguError as error:
            return _fail(error, error.exit_code, debug=debug)
        except KeyboardInterrupt as stop:
            received = stop.number if isinstance(stop, Stop) else signal.SIGINT
            more = " during the set-up; nothing was lost" if {"train", "resume"} & {*arguments[:2]} else ""
            if launch.rank() == 0:
                print(f"dongu: stopped by {received.name}{more}", file=sys.stderr)
            return EXIT_CODES[received]
        except (Exception, SystemExit) as error:
            from dongu.part_sources import raised_by_own  # which imports what a command that ends well may not need

            if own := raised_by_own(error):
                return _fail(own, own.exit_code, debug=debug)
            if isinstance(error, SystemExit):  # after --help
                raise
            if isinstance(error, PermissionError) and error.filename is not None:  # wherever it was met
                where, what = str(error.filename), f"cannot be read or written ({error.strerror})"
                return _fail(InputError(what, where=where, hint=NOT_YOURS), InputError.exit_code, debug=debug)
            # The last resort: a bug, said as one.
            what = f"internal error: {type(error).__name__}: {error}"
            hint = "run it again with --debug for the traceback, and please report it"
            return _fail(DonguError(what, hint=hint), 70, debug=debug)


def _run(arguments: Sequence[str], output: Output | None) -> int:
    with no_panic(), StopSignals() as signals, signals.at_once():  # a run that has begun waits for the end of its step
        try:
            parsed = _parse(arguments)
        except SystemExit:  # after --help
            sys.stdout.flush()
            raise
        if sys.flags.optimize > 1:  # transformers makes classes by their docstrings
            hint = "run it without -OO, and without PYTHONOPTIMIZE=2"
            raise UsageError("removes docstrings, which transformers needs", where="python -OO", hint=hint)
        if output is not None:  # a run's results are in its folder, whether or not its output can be read
            output.needed = parsed.command not in RUNS or getattr(parsed, "json", False)
        if parsed.command not in TOGETHER and not launch.alone():
            return 0
        command: Callable[[argparse.Namespace], int | None] = parsed.run
        with (
            shown_on(sys.stderr if launch.rank() == 0 else None, BEGAN) as screen,
            told_before(about_to_write if screen is None else screen.clear),
            Waiting(f"dongu {parsed.command}", in_files=False),  # what has no name of its own
        ):
            code = command(parsed) or 0
    sys.stdout.flush()
    _leave_group()
    return code


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    _check_command(arguments)
    parser = make_parser(*COMMANDS.keys() & {*arguments})
    parsed, unknown = parser.parse_known_args(arguments or ["--help"])
    flags = [item for item in unknown if item.startswith("-")]
    if flags:
        hint = _suggest(parsed.parser, parsed.command, flags[0])
        raise UsageError(f"there is no option {flags[0]}", hint=hint)
    if unknown:
        kind = "path" if Path(unknown[0]).exists() else "argument"
        hint = f"`dongu {parsed.command} --help` shows what it takes"
        if kind == "path" and hasattr(parsed, "data"):
            hint = "DATA is one file, or one folder with train.*, validation.* and test.*; the shell expands * to many"
        raise UsageError(f"there is an extra {kind}", where=f"dongu {parsed.command} … {unknown[0]}", hint=hint)
    return parsed


def _check_command(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["version"]:
        raise UsageError("there is no command version", hint="dongu --version")
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        close = get_close_matches(arguments[0], COMMANDS, n=1)
        hint = f"did you mean `dongu {close[0]}`?" if close else f"the commands are: {', '.join(COMMANDS)}"
        raise UsageError(f"there is no command {arguments[0]}", hint=hint)


def _leave_group() -> None:
    """Close the process group: a process that ends without this may abort while the group's threads communicate."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def make_parser(*called: str) -> Parser:
    """All commands, and the arguments of those that may be called: only their modules are loaded."""
    parser = Parser(
        prog="dongu",
        description="A full training loop for transformer text classifiers.",
        epilog="`dongu COMMAND --help` shows the options of a command. --debug shows the traceback of an error.",
    )
    parser.add_argument("--version", "-V", action="version", version=f"dongu {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=CommandParser)
    add_commands(commands, called)
    return parser


def add_commands(commands: Any, called: Collection[str]) -> None:
    """Add all commands to a parser's subparsers, and to those that may be called their arguments."""
    for name, (home, what) in COMMANDS.items():
        command = commands.add_parser(name, help=what, allow_abbrev=False)
        command.set_defaults(parser=command)
        if name in called:
            module, add = home.split(":")
            getattr(import_module(f"dongu.cli.{module}"), add)(command)


def _suggest(parser: Parser, command: str, flag: str) -> str:
    if command == "train":
        from dongu.config import did_you_mean

        return did_you_mean(flag.lstrip("-").split("=")[0])
    name = flag.lstrip("-").split("=")[0].replace("-", "_")
    if action := next((each for each in parser._actions if each.dest == name and not each.option_strings), None):
        return f"{action.metavar} is given without a name before it: `dongu {command} --help`"
    close = get_close_matches(flag, parser._option_string_actions, n=1)
    return f"did you mean {close[0]}?" if close else f"`dongu {command} --help` lists the options"


def _fail(error: DonguError, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    kind = "" if isinstance(error, StoppedError) else "error: "
    lines = f"dongu: {kind}{error}".splitlines()
    if sys.stderr.isatty():  # in a file each error stays on one line, so that it can be searched
        lines = [part for line in lines for part in wrapped(line, "", "  ")]
    rank = launch.rank()
    if rank == 0:
        print(*lines, sep="\n", file=sys.stderr, flush=True)
    if launch.tell(str(error)):  # an error that all processes have is printed by the first one
        print(*(f"[rank {rank}] {line}" for line in lines), sep="\n", file=sys.stderr, flush=True)
    return code
