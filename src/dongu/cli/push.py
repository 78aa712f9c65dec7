"""`dongu push`: the best model of a run to the Hub."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dongu.text import printable


def add(commands: Any) -> None:
    push = commands.add_parser(
        "push",
        help="upload the best model and its card to the Hub",
        description="Uploads the model folder of a finished run, with its card, to the Hub.",
        allow_abbrev=False,
    )
    push.add_argument("folder", metavar="RUN", type=Path, help="run folder")
    push.add_argument("name", metavar="OWNER/NAME", help="what it shall be called there")
    push.add_argument("--public", action="store_true", help="a new repository is for everybody (default: private)")
    push.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> None:
    from dongu.export.hub import check_access, push
    from dongu.run.folder import RunFolder

    RunFolder(parsed.folder).read_record()
    check_access(parsed.name)
    print(printable(f"pushed to {push(parsed.folder, parsed.name, public=parsed.public)}"))
