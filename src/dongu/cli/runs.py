"""`dongu runs`: what there is, and what it came to; its help needs no options, which take a tenth of a second."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from dongu.cli.parser import Parser, add_shared, define, print_answer


def add_runs(parser: Parser) -> None:
    define(
        parser,
        _runs,
        description="Lists the runs below a folder, the best on validation first: finished, running or stopped, the"
        " metric on validation and test with its confidence interval, and the options in which they differ.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, nargs="?", default=Path("runs"), help="folder (runs)")
    parser.add_argument("--metric", metavar="NAME", help="metric to show and to sort by (default: that of each run)")
    add_shared(parser, "--json")


def _runs(parsed: argparse.Namespace) -> None:
    from dongu.comparison.listing import list_runs, listing_json, listing_lines

    listing = list_runs(parsed.folder, parsed.metric)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print_answer(parsed, listing_json(listing), listing_lines(listing, parsed.metric, width))
