"""`dongu report`: a run on one page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dongu.cli.options import refuse_existing


def add(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="write report.html, the page that shows what a run did",
        description="Write the page of a run, finished or not: one file without a script or an outside address."
        " `dongu train` writes it at each evaluation and at the end.",
        allow_abbrev=False,
    )
    report.add_argument("folder", metavar="RUN", type=Path, help="run folder")
    report.add_argument("--out", metavar="FILE", type=Path, help="where to write it (RUN/report.html)")
    report.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> None:
    from dongu.files import write_file
    from dongu.page.report import make_report, read_data
    from dongu.run.folder import RunFolder

    folder = RunFolder(parsed.folder)
    folder.read_record()
    refuse_existing(parsed.out)
    data = read_data(folder)
    page = make_report(folder, data)
    write_file(parsed.out or folder.report, page, within=folder.path if parsed.out is None else None)
    print(parsed.out or folder.report)
    if data is None:
        print("rows are named by their numbers: the data are not here as the run saw them")
