"""The last lines of a run: its results as JSON, or what to do with it next."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dongu.run.console import Console
    from dongu.training import RunResult


def show_result(result: RunResult, console: Console, *, as_json: bool) -> None:
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        from dongu.run.folder import dump_json

        print(dump_json(result.results))
        return
    console.line()
    console.line(f"next:  dongu predict {result.path} {_example_texts(result.path)}")
    console.line(f"       dongu evaluate {result.path} OTHER.csv   (its metrics on other labelled rows)")
    console.line(f"       dongu compare {result.path} OTHER        (which of two runs is better)")


def _example_texts(path: Path) -> str:
    columns = json.loads((path / "run.json").read_text(encoding="utf-8"))["options"]["text_columns"]
    return '"a text"' if len(columns) == 1 else '"one text" "another text"'
