"""`dongu verify`: proofs about a run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dongu import launch
from dongu.cli.parser import Parser, add_shared, define, print_answer
from dongu.text import counted, wrapped
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

    done: list[Proof] = []
    proofs = verify(parsed.folder, parsed.data, parts=parsed.parts)
    while (proof := _next(proofs)) is not None:
        done.append(proof)
        if launch.rank() == 0:
            print_answer(parsed, vars(proof), [f"{_SHOWN[proof.holds]}  {proof.name:<13} {proof.text}"])
            sys.stdout.flush()  # who waits for it has it before more is done
    if launch.rank() == 0 and not parsed.json:
        print(*wrapped(_verdict(done)), sep="\n", flush=True)
    return 1 if _named(done, False) else 0


def _verdict(done: Sequence[Proof]) -> str:
    """What all proofs together say."""
    broken, skipped, held = (_named(done, holds) for holds in (False, None, True))
    if broken:
        said = f"{counted(len(broken), 'proof')} of {len(done)} failed ({', '.join(broken)}): do not rely on this run"
    else:
        said = f"{counted(len(held), 'proof holds', 'proofs hold')}: the run is what its files say"
    return f"{said}; not looked at: {', '.join(skipped)}" if skipped else said


def _named(done: Sequence[Proof], holds: bool | None) -> list[str]:
    return [proof.name for proof in done if proof.holds is holds]


def _next(proofs: Iterator[Proof]) -> Proof | None:
    with Waiting("proving"):
        return next(proofs, None)
