"""`dongu eject`: a run as one plain script."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dongu.cli.options import refuse_existing


def add(commands: Any) -> None:
    eject = commands.add_parser(
        "eject",
        help="one plain script that reproduces a run, without dongu",
        description="Prints one plain script, with the run's own values and without dongu, that does what the run did:"
        " with the plain engine every loss and every metric to the last digit. Its head says what to expect.",
        allow_abbrev=False,
    )
    eject.add_argument("folder", metavar="RUN", type=Path, help="run folder")
    eject.add_argument("--out", metavar="FILE", type=Path, help="file to write (default: standard output)")
    eject.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> None:
    from dongu.run.folder import RunFolder

    refuse_existing(parsed.out)
    RunFolder(parsed.folder).read_record()
    from dongu.eject.script import eject
    from dongu.files import write_file

    if parsed.out is None:
        print(eject(parsed.folder), end="")
    else:
        write_file(parsed.out, eject(parsed.folder, parsed.out.name).encode())
