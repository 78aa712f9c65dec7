"""`dongu quiz` and `dongu demo`: for those who see the loop for the first time."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path

from dongu.cli.parser import Parser, add_language, add_shared, define, print_json
from dongu.errors import UsageError
from dongu.teach.language import language_of
from dongu.teach.quiz import LESSONS, Quiz
from dongu.waiting import idle, loading


def add_quiz(parser: Parser) -> None:
    define(
        parser,
        _quiz,
        description="Questions on the lines of the loop, with their answers. Without a terminal, answers are read"
        " from standard input, one per line.",
    )
    parser.add_argument("lesson", metavar="LESSON", nargs="?", choices=LESSONS, help=", ".join(LESSONS) + " (all)")
    add_language(parser, "language of the questions")
    parser.add_argument("--seed", metavar="N", help="seed for the order of the questions and their answers")
    add_shared(parser, "--json")


def _quiz(parsed: argparse.Namespace) -> None:
    if parsed.seed is not None and not parsed.seed.isdecimal():
        raise UsageError(f"must be a whole number, got `{parsed.seed}`", where="--seed")
    seed = None if parsed.seed is None else int(parsed.seed)
    quiz = Quiz(parsed.language or language_of(os.environ), parsed.lesson, seed)
    if parsed.json:
        print_json("quiz", {"questions": [asdict(question) for question in quiz.questions]})
        return
    lines = (line.decode("utf-8", "replace") for line in sys.stdin.buffer)
    with idle():
        for piece in quiz.run(lines, echo=not sys.stdin.isatty()):
            print(piece, end="", flush=True)


def add_demo(parser: Parser) -> None:
    define(
        parser, _demo, description="Unpacks a paraphrase data set, fine-tunes the packaged MiniLM on it, and predicts."
    )
    parser.add_argument("--out", metavar="RUN", type=Path, default=None, help="run folder (default: runs/demo)")
    parser.add_argument("--seed", type=int, default=42, help="seed of the run; the data are always the same (42)")
    add_shared(parser, "--json")


def _demo(parsed: argparse.Namespace) -> None:
    with loading():
        from dongu.demo.run import run_demo
    from dongu.run.console import Console

    result = run_demo(parsed.out, parsed.seed, Console(stream=sys.stderr if parsed.json else sys.stdout))
    if parsed.json:
        print_json("train", {"path": str(result.path), **result.results})
