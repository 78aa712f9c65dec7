"""`dongu inspect`: the data doctor."""

from __future__ import annotations

import argparse
from typing import Any

from dongu.cli.options import add_option
from dongu.config import RunConfig, make_config
from dongu.text import printable

INSPECTED = (
    "model",
    "text_columns",
    "label_column",
    "label_separator",
    "unlabelled",
    "task",
    "max_length",
    "batch_size",
    "seed",
)


def add(commands: Any) -> None:
    inspect = commands.add_parser(
        "inspect",
        help="what is wrong with a data set, what it does to the result, what to do",
        description="Looks at a data set as `dongu train` would read it, and at what the result would suffer from:"
        " copies, leaks between the splits, contradictions, labels, lengths.",
        epilog="Exit code 2 where `dongu train` would refuse the data.",
        allow_abbrev=False,
    )
    inspect.add_argument("data", metavar="DATA", help=RunConfig.model_fields["data"].description)
    for name in INSPECTED:
        add_option(inspect, name)
    inspect.add_argument("--strict", action="store_true", help="exit code 2 where there is a warning")
    inspect.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> None:
    config = make_config({"data": parsed.data, **{name: getattr(parsed, name) for name in INSPECTED}})
    from dongu.data.sources import read_source
    from dongu.doctor.checkup import inspect, refuse_findings
    from dongu.doctor.words import report

    checkup = inspect(read_source(parsed.data), config)
    for line in report(checkup, config):
        print(printable(line))
    refuse_findings(checkup.findings, parsed.data, strict=parsed.strict)
