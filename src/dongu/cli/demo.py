"""`dongu demo`: the main job on an embedded default."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="the main job on an embedded default: no network, about two minutes",
        description="Unpacks a paraphrase data set, fine-tunes the packaged MiniLM on it, and predicts.",
        allow_abbrev=False,
    )
    demo.add_argument("--out", metavar="RUN", type=Path, default=None, help="run folder (default: runs/demo)")
    demo.add_argument("--seed", type=int, default=42, help="decides the run; the data are always the same (42)")
    demo.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> None:
    from dongu.demo.run import run_demo

    run_demo(parsed.out, parsed.seed)
