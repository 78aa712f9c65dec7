"""`dongu quiz`: questions on the lessons."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from dongu.cli.options import add_language
from dongu.errors import UsageError
from dongu.teach.language import language_of
from dongu.teach.quiz import LESSONS, Quiz


def add(commands: Any) -> None:
    quiz = commands.add_parser(
        "quiz",
        help="questions and answers on the lessons in docs/",
        description="Questions on the lines of the loop, with their answers. Without a terminal, answers are read"
        " from standard input, one a line.",
        allow_abbrev=False,
    )
    quiz.add_argument("lesson", metavar="LESSON", nargs="?", choices=LESSONS, help=", ".join(LESSONS) + " (all)")
    add_language(quiz, "language of the questions")
    quiz.add_argument("--seed", metavar="N", help="another order of the questions and their answers")
    quiz.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> None:
    if parsed.seed is not None and not parsed.seed.isdecimal():
        raise UsageError(f"must be a whole number, got `{parsed.seed}`", where="--seed")
    seed = None if parsed.seed is None else int(parsed.seed)
    quiz = Quiz(parsed.language or language_of(os.environ), parsed.lesson, seed)
    lines = (line.decode("utf-8", "replace") for line in sys.stdin.buffer)
    for piece in quiz.run(lines, echo=not sys.stdin.isatty()):
        print(piece, end="", flush=True)
