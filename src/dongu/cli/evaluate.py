"""`dongu evaluate`: metrics of a run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dongu.cli.options import add_compute_options, whole_number
from dongu.errors import DataError
from dongu.text import wrapped


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
    from dongu.use.saved import SavedRun

    batch_size = whole_number(parsed.batch_size, "batch-size", 32)
    saved = SavedRun.open(parsed.folder, device=parsed.device, batch_size=batch_size)
    if parsed.data is None:
        examples = saved.own_examples(parsed.split)
    else:
        examples = saved.other_examples(read_source(parsed.data), parsed.split)
    if all(split.targets is None for split in examples.values()):
        where = next(iter(examples.values())).origin
        raise DataError("the labels are hidden", where=where, hint="`dongu predict` answers rows without labels")
    from dongu.judge.intervals import verdict
    from dongu.judge.words import Yardstick, said_of
    from dongu.run.console import Console
    from dongu.run.folder import dump_json
    from dongu.use.classifier import Classifier

    classifier = Classifier(saved)
    evaluations = classifier.evaluate(examples)
    if not classifier.accelerator.is_main_process:
        return
    results = {
        split: verdict(evaluation, saved.metrics, saved.constant_answer, saved.config.seed)
        for split, evaluation in evaluations.items()
    }
    if parsed.json:
        print(dump_json({split: _flat(entries) for split, entries in results.items()}))
        return
    yardstick = Yardstick.of(saved.metrics, saved.constant_answer)
    console = Console()
    if parsed.data is not None and saved.learnt_from(parsed.data):
        for line in wrapped(f"the run was trained on rows of {parsed.data}: these figures are too good", "WARNING: "):
            console.line(line)
    for line in said_of(results, {name: len(evaluation.ids) for name, evaluation in evaluations.items()}, yardstick):
        console.line(line)


def _flat(entries: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """`accuracy`, `accuracy_low`, `accuracy_high`, `accuracy_baseline`: one number a key."""
    return {
        name if key == "value" else f"{name}_{key}": number
        for name, entry in entries.items()
        for key, number in entry.items()
    }
