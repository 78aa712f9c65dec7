"""`dongu evaluate`: metrics of a run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dongu.cli.options import add_compute_options, whole_number


def add(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="metrics of a run on its own splits or on other data",
        description="Metrics of a run's best model on its own splits, or on the rows of another file.",
        allow_abbrev=False,
    )
    evaluate.add_argument("folder", metavar="RUN", type=Path, help="run folder")
    evaluate.add_argument("data", metavar="DATA", nargs="?", help="other data (default: the run's own)")
    evaluate.add_argument("--split", default=None, help="one split only (default: all but train)")
    add_compute_options(evaluate)
    evaluate.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> None:
    from dongu.data.sources import read_source
    from dongu.run.folder import RunFolder

    batch_size = whole_number(parsed.batch_size, "batch-size", 32)
    RunFolder(parsed.folder).read_record()
    source = None if parsed.data is None else read_source(parsed.data)
    from dongu.confidence import verdict
    from dongu.results.predict import load
    from dongu.results.verdict import Yardstick, said_of
    from dongu.run.console import Console
    from dongu.run.folder import dump_json

    classifier = load(parsed.folder, device=parsed.device, batch_size=batch_size)
    evaluations = (
        classifier.evaluate_own(parsed.split) if source is None else classifier.evaluate_other(source, parsed.split)
    )
    if not classifier.accelerator.is_main_process:
        return
    results = {
        split: verdict(evaluation, classifier.metrics, classifier.constant_answer, classifier.config.seed)
        for split, evaluation in evaluations.items()
    }
    if parsed.json:
        print(dump_json({split: _flat(entries) for split, entries in results.items()}))
        return
    yardstick = Yardstick.of(classifier.metrics, classifier.constant_answer)
    console = Console()
    for line in said_of(results, {name: len(evaluation.ids) for name, evaluation in evaluations.items()}, yardstick):
        console.line(line)


def _flat(entries: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """`accuracy`, `accuracy_low`, `accuracy_high`, `accuracy_baseline`: one number a key."""
    return {
        name if key == "value" else f"{name}_{key}": number
        for name, entry in entries.items()
        for key, number in entry.items()
    }
