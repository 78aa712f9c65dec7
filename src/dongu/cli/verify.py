"""`dongu verify`: proofs about a run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dongu import launch
from dongu.cli.parser import Parser, add_shared, define, print_answer
from dongu.waiting import Waiting, loading

if TYPE_CHECKING:
    from dongu.verify import Proof

_SHOWN = {True: "ok  ", False: "FAIL", None: "skip"}


def add_verify(parser: Parser) -> None:
    define(
        parser,
        _run,
        description="Re-hashes the run's files, replays the steps between two checkpoints, evaluates the saved model"
        " again, and splits an update in several ways: one line per proof, exit code 1 if one fails, else 0.",
    )
    add_shared(parser, "folder", "data", "--parts")
    parser.add_argument("--json", action="store_true", help="JSON on standard output, one line per proof")


def _run(parsed: argparse.Namespace) -> int:
    from dongu.run.folder import RunFolder

    RunFolder(parsed.folder).check_parts(parsed.parts)
    with loading():
        from dongu.verify import verify

    holds = True
    proofs = verify(parsed.folder, parsed.data, parts=parsed.parts)
    while (proof := _next(proofs)) is not None:
        holds = holds and proof.holds is not False
        if launch.rank() == 0:
            print_answer(parsed, vars(proof), [f"{_SHOWN[proof.holds]}  {proof.name:<13} {proof.text}"])
    return 0 if holds else 1


def _next(proofs: Iterator[Proof]) -> Proof | None:
    with Waiting("proving"):
        return next(proofs, None)
