"""`dongu compare`: finished runs side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dongu.text import printable


def add(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        usage="dongu compare RUN RUN ... [options]",
        help="what differs between finished runs, and whether their rows can show who is better",
        description="Sets finished runs side by side, each against the first: options that differ, metrics with"
        " intervals, a paired test on the same rows, and the rows that one run has right and the other wrong."
        " Folders of --seeds are compared recipe with recipe, by the means over their seeds.",
        allow_abbrev=False,
    )
    compare.add_argument(
        "folders", metavar="RUN", type=Path, nargs="+", help="run folders, two or more; or folders of --seeds"
    )
    compare.add_argument(
        "--split", default=None, help="rows to compare on (default: test if it has labels, or else validation)"
    )
    compare.add_argument("--json", action="store_true", help="JSON on standard output")
    compare.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> None:
    from dongu.compare.recipes import compare_recipes, holds_seeds
    from dongu.compare.runs import compare
    from dongu.compare.words import as_json, recipes_as_json, report, report_recipes
    from dongu.run.folder import dump_json

    if all(map(holds_seeds, parsed.folders)):
        recipes = compare_recipes(parsed.folders, parsed.split)
        said, lines = recipes_as_json(recipes), report_recipes(recipes)
    else:
        comparison = compare(parsed.folders, parsed.split)
        said, lines = as_json(comparison), report(comparison)
    if parsed.json:
        print(dump_json(said))
        return
    for line in lines:
        print(printable(line))
