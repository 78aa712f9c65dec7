"""`dongu inspect`, `report` and `compare`: what a data set or a run is like."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dongu.cli.options import add_options, add_reading, reading_of
from dongu.cli.parser import Parser, add_shared, define, elsewhere, print_answer, refuse_existing
from dongu.config import RunConfig

INSPECTED = (
    "model", "tokenizer", "text_columns", "label_column", "label_separator", "columns", "unlabelled",
    "empty", "bad_rows", "rare", "label_names", "positive", "task",
    "validation", "test", "group_column", "time_column", "fold", "split_file",
    "max_length", "long", "batch_size", "seed",
)  # fmt: skip


def add_inspect(parser: Parser) -> None:
    define(
        parser,
        _inspect,
        description="Reads a data set as `dongu train` would, and looks for what would hurt the result:"
        " duplicates, leaks between the splits, conflicting labels, rare classes, lengths.",
        epilog="The exit code is 2 if `dongu train` would refuse the data.",
    )
    parser.add_argument("data", metavar="DATA", help=RunConfig.model_fields["data"].description)
    add_options(parser, INSPECTED)
    add_reading(parser)
    add_shared(parser, "--parts")
    parser.add_argument("--strict", action="store_true", help="exit with code 2 also if there is a warning")
    add_shared(parser, "--json")


def _inspect(parsed: argparse.Namespace) -> None:
    from dongu.asked import inspect
    from dongu.doctor.checkup import inspected, refuse_findings

    options: Any = {name: getattr(parsed, name) for name in INSPECTED} | reading_of(parsed)
    checkup = inspect(parsed.data, parts=parsed.parts, **options)
    print_answer(parsed, inspected(checkup), checkup.lines(), indent=2)
    refuse_findings(checkup.findings, parsed.data, strict=parsed.strict)


def add_report(parser: Parser) -> None:
    define(
        parser,
        _report,
        description="Write the report of a run, finished or not: one HTML file without scripts or outside addresses."
        " `dongu train` writes it at each evaluation and at the end.",
    )
    add_shared(parser, "folder")
    parser.add_argument("--out", metavar="FILE", type=Path, help="where to write it (RUN/report.html)")
    add_shared(parser, "--json")


def _report(parsed: argparse.Namespace) -> None:
    from dongu.asked import write_page_of
    from dongu.run.folder import RunFolder

    refuse_existing(parsed.out)
    with elsewhere(parsed.out, "FILE"):
        place, has_texts = write_page_of(RunFolder(parsed.folder), parsed.out)
    numbered = "rows are given by their numbers: the data have moved or changed since the run"
    print_answer(parsed, {"path": str(place), "has_texts": has_texts}, [str(place), *([] if has_texts else [numbered])])


def add_compare(parser: Parser) -> None:
    define(
        parser,
        _compare,
        usage="dongu compare RUN RUN ... [options]",
        description="Compares finished runs with the first of them: options that differ, metrics with intervals, a"
        " paired test on the same rows, and the rows that only one of two runs gets right. Any other classifier"
        " is evaluated on the rows of the first run. Folders of --seeds are compared as recipes, by the means"
        " over their seeds.",
    )
    parser.add_argument(
        "folders",
        metavar="RUN",
        type=Path,
        nargs="+",
        help="two or more run folders, or one and other classifiers; or folders of --seeds",
    )
    parser.add_argument(
        "--split", default=None, help="split to compare on (default: test if it has labels, else validation)"
    )
    add_shared(parser, "--json")


def _compare(parsed: argparse.Namespace) -> None:
    from dongu.comparison.pairs import compare_folders
    from dongu.comparison.words import as_json, comparison_lines

    comparison = compare_folders(parsed.folders, parsed.split)
    print_answer(parsed, as_json(comparison), comparison_lines(comparison))
