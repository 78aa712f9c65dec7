"""`dongu resume`: the end of a run that was stopped."""

from __future__ import annotations

import argparse
import sys

from dongu.cli.options import add_option
from dongu.cli.parser import ALLOWED, Parser, add_json, add_parts, add_run_and_data, define
from dongu.cli.results import show_result
from dongu.config import SET_ONCE, RunConfig, make_config
from dongu.extras import require_extras
from dongu.waiting import loading


def add_resume(parser: Parser) -> None:
    define(parser, _run, description="Continue from the newest valid checkpoint, to the bytes of an uninterrupted run.")
    add_run_and_data(parser)
    parser.add_argument(
        "--allow", metavar="NAME", nargs="+", default=(), help="accept differences that change the result: " + ALLOWED
    )
    add_parts(parser)
    options = parser.add_argument_group("options of `dongu train` to override from here on")
    for name in RunConfig.model_fields:
        if name not in SET_ONCE:
            add_option(options, name, default_shown=False)
    add_json(parser)


def _run(parsed: argparse.Namespace) -> None:
    from dongu.model.place import resolve_model
    from dongu.run.folder import RunFolder

    options = {name: getattr(parsed, name) for name in RunConfig.model_fields if name not in SET_ONCE}
    given = {name: value for name, value in options.items() if value is not None}
    config = make_config({**RunFolder(parsed.folder).read_record()["options"], **given})
    require_extras(config)
    if parsed.parts is None:
        RunFolder(parsed.folder).check_parts(parsed.parts)
        resolve_model(config.model)
    from dongu.run.console import Console

    with loading():
        from dongu.training import resume

    console = Console(stream=sys.stderr if parsed.json else sys.stdout)
    result = resume(parsed.folder, parsed.data, allow=parsed.allow, console=console, parts=parsed.parts, **given)
    show_result(result, console, as_json=parsed.json)
