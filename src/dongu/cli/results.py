"""The last lines of a run: its results as JSON, or what to do with it next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dongu import launch
from dongu.text import NAMES, WIDTH

if TYPE_CHECKING:
    from dongu.run.console import Console
    from dongu.running import RunResult


def show_result(result: RunResult, console: Console, *, as_json: bool) -> None:
    if launch.rank() > 0:
        return
    if as_json:
        from dongu.run.folder import dump_json

        print(dump_json(result.results))
        return
    evaluate, compare = f"dongu evaluate {result.path} OTHER.csv", f"dongu compare {result.path} OTHER"
    console.line()
    console.line(f"{'next':<{NAMES}}dongu predict {result.path} {_example_texts(result.path)}")
    for command, what in ((evaluate, "on other labelled rows"), (compare, "which of two runs is better")):
        line = f"{'':<{NAMES}}{command:<{len(evaluate)}}   {what}"
        console.line(line if len(line) <= WIDTH else f"{'':<{NAMES}}{command}")


def _example_texts(path: Path) -> str:
    from dongu.run.folder import RunFolder

    columns = RunFolder(path).read_record()["options"]["text_columns"]
    return '"a text"' if len(columns) == 1 else '"one text" "another text"'
