"""`dongu completion`: what a shell needs to complete commands and options, as a script of its own."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from dongu.cli.parser import Parser, add_shared, define, print_answer

SHELLS = {  # where the script goes
    "bash": "dongu completion bash > ~/.local/share/bash-completion/completions/dongu",
    "zsh": "dongu completion zsh >> ~/.zshrc",
    "fish": "dongu completion fish > ~/.config/fish/completions/dongu.fish",
}


def add_completion(parser: Parser) -> None:
    define(
        parser,
        _completion,
        description="Prints a script that completes commands, options and file names, without starting Python.",
        epilog="\n".join(SHELLS.values()),
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")
    add_shared(parser, "--json")


def _completion(parsed: argparse.Namespace) -> None:
    from dongu.cli.main import COMMANDS, make_parser

    [subparsers] = (
        action for action in make_parser(*COMMANDS)._actions if isinstance(action, argparse._SubParsersAction)
    )
    flags = {name: list(_flags(parser)) for name, parser in subparsers.choices.items()}
    scripts = {
        "bash": _bash(flags),
        "zsh": ["autoload -U +X bashcompinit && bashcompinit", *_bash(flags)],
        "fish": _fish({name: what for name, (_, what) in COMMANDS.items()}, flags),
    }
    print_answer(parsed, {"commands": {name: dict(found) for name, found in flags.items()}}, scripts[parsed.shell])


def _flags(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """The long options that are shown, and what each is."""
    for action in parser._actions:
        if action.help != argparse.SUPPRESS:
            for flag in action.option_strings:
                if flag.startswith("--"):
                    yield flag, (action.help or "").replace("%%", "%")


def _bash(flags: dict[str, list[tuple[str, str]]]) -> Iterator[str]:
    yield "_dongu() {"
    yield "  local flags='' current=${COMP_WORDS[COMP_CWORD]}"
    yield "  case ${COMP_WORDS[1]} in"
    for name, known in flags.items():
        yield f"    {name}) flags='{' '.join(flag for flag, _ in known)}' ;;"
    yield "  esac"
    yield f"  [ \"$COMP_CWORD\" -eq 1 ] && flags='{' '.join(flags)} --help --version'"
    yield '  if [ "$COMP_CWORD" -eq 1 ] || [[ $current == -* ]]; then'
    yield '    COMPREPLY=($(compgen -W "$flags" -- "$current"))'
    yield "  fi"
    yield "}"
    yield "complete -o default -F _dongu dongu"


def _fish(commands: dict[str, str], flags: dict[str, list[tuple[str, str]]]) -> Iterator[str]:
    for name, what in commands.items():
        yield f"complete -c dongu -f -n __fish_use_subcommand -a {name} -d {_quoted(what)}"
    for name, known in flags.items():
        for flag, what in known:
            condition = f"'__fish_seen_subcommand_from {name}'"
            yield f"complete -c dongu -n {condition} -l {flag.removeprefix('--')} -d {_quoted(what)}"


def _quoted(text: str) -> str:
    """A text in the quotes of fish."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
