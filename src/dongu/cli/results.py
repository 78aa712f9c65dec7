"""The last lines of a run: its results as JSON, or what to do with it next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dongu import launch
from dongu.cli.parser import print_json
from dongu.text import NAMES, WIDTH, typed

if TYPE_CHECKING:
    from dongu.run.console import Console
    from dongu.run.result import RunResult


def show_result(result: RunResult, console: Console, *, as_json: bool) -> None:
    if launch.rank() > 0:
        return
    if as_json:
        print_json("train", {"path": str(result.path), **result.results})
        return
    from dongu.judge.words import UNPROVEN
    from dongu.run.folder import RunFolder

    record = RunFolder(result.path).read_record()
    commands = [*(_to_use if result.advice in ("", UNPROVEN) else _to_try)(result, record)]
    wide = max(len(command) for command, what in commands if what)
    console.line()
    for i, (command, what) in enumerate(commands):
        name = f"{'' if i else 'next':<{NAMES}}"
        line = f"{name}{command:<{wide}}   {what}"
        console.line(line if what and len(line) <= WIDTH else f"{name}{command}")


def _to_use(result: RunResult, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Commands, and what each is for."""
    texts = '"a text"' if len(record["options"]["text_columns"]) == 1 else '"one text" "another text"'
    yield f"dongu predict {typed(result.path)} {texts}", ""
    yield f"dongu evaluate {typed(result.path)} OTHER.csv", "on other labelled rows"
    yield f"dongu compare {typed(result.path)} OTHER", "which of two runs is better"


def _to_try(result: RunResult, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The same for a run that is no better than a baseline: what to train instead."""
    from dongu.judge.words import LEARNT, MORE

    options, parts = record["options"], f" --parts {typed(file)}" if (file := record.get("parts_file")) else ""
    longer = f"--epochs {3 * options['epochs']:g}"
    if options["max_steps"]:
        longer = f"--max-steps {10 * options['max_steps']}"
    is_short = result.advice == MORE or (options["max_steps"] and result.advice != LEARNT)
    changes = longer if is_short else "--model OTHER"
    again = typed(result.path / "run.json")
    yield f"dongu train --config {again} --out {typed(result.path)}-{{n}} {changes}{parts}", ""
    yield f"{result.path}/report.html", "its hardest rows"
