"""A whole run: the loop, and the plain statements that record it, judge it and keep its best model."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dongu.errors import InputError
from dongu.evaluate import Evaluation
from dongu.files import replace_folder, write_file
from dongu.loop import Loop
from dongu.model.load import load_classifier, quiet_transformers
from dongu.results.card import write_card
from dongu.results.predictions import prediction_lines
from dongu.run.console import Console, describe, results_table
from dongu.run.folder import RunFolder, data_fingerprint, software_versions
from dongu.run.journal import Journal


@dataclass(frozen=True)
class RunResult:
    """What a run came to. `metrics` are those of the best model on validation; `results` is `results.json`."""

    path: Path
    metrics: dict[str, float]
    results: dict[str, Any]


@dataclass
class Best:
    """The best evaluation so far and how many have passed since."""

    evaluation: Evaluation
    step: int
    since: int = 0


def train(data: Any = None, *, console: Console | None = None, **options: Any) -> RunResult:
    """Fine-tune and write a run folder, as `dongu train` does.

    Args:
        data: a folder, a file, a Hub name, or rows in memory; see `Loop`.
        console: where to print; nowhere by default.
        options: those of `RunConfig` by name.

    Raises:
        InputError: the options, the data or the model cannot be used, or the run folder is taken; nothing is written.
        NonFiniteError: a loss or a gradient was not finite; the update was not made.
        StorageError: a file could not be written.
    """
    started = time.perf_counter()
    if (out := options.get("out")) is not None:
        RunFolder(Path(out)).refuse_if_used()  # before minutes of tokenizing
    loop = Loop(data, **options)
    if "validation" not in loop.splits or loop.splits["validation"].targets is None:
        raise InputError("validation has no labels", hint="a best model cannot be chosen without")
    main = loop.accelerator.is_main_process
    folder = RunFolder(Path(loop.config.out or f"runs/{loop.data.name}"))
    folder.refuse_if_used()
    loop.accelerator.wait_for_everyone()  # nobody looks at the folder after the first has written to it
    console = console if main and console is not None else Console(enabled=False)
    console.fields([*describe(loop), ("run", str(folder.path))])
    console.line()
    if main:
        folder.write_json("run.json", describe_run(loop, folder))

    best: Best | None = None
    evaluate_every = loop.config.eval_steps or loop.steps_per_epoch
    with Journal(folder, enabled=main) as journal, console.progress(loop.total_steps) as progress:
        journal.phase("setup", time.perf_counter() - started, 0)
        for step in loop:
            journal.step(step)
            progress.step(step)
            if step.number % evaluate_every and step.number != loop.total_steps:
                continue

            began = time.perf_counter()
            evaluation = loop.evaluate()
            journal.evaluation(step.number, evaluation)
            console.line(_evaluation_line(loop, step.number, evaluation))
            journal.phase("evaluation", time.perf_counter() - began, step.number)
            if best is None or loop.metrics.better(_main(loop, evaluation), _main(loop, best.evaluation)):
                best = Best(evaluation, step.number)
                if main:
                    save_best(loop, folder, best)
            else:
                best.since += 1
            if loop.config.patience is not None and best.since >= loop.config.patience:
                console.line(f"stopped early: no better {loop.metrics.main} in {best.since} evaluations")
                break
        if best is None:
            raise InputError("the run has no steps")  # a config without steps is refused before
        loop.accelerator.wait_for_everyone()  # the model is whole on disk before anybody reads it
        results = judge(loop, folder, best, journal)
    if main:
        folder.write_json("results.json", results)
    console.line()
    for line in results_table(results):
        console.line(line)
    console.line()
    console.line(f"best model: step {best.step:,}, in {folder.model}")
    return RunResult(folder.path, best.evaluation.metrics, results)


def judge(loop: Loop, folder: RunFolder, best: Best, journal: Journal) -> dict[str, Any]:
    """Metrics, intervals and baselines of the best model on each labelled split; writes the predictions.

    The other splits are evaluated with the model as it was read back from the run folder, so the numbers are those
    of the file that is kept.
    """
    began = time.perf_counter()
    saved, _ = load_classifier(folder.model)
    loop.plain_model.load_state_dict(saved.state_dict())
    results: dict[str, Any] = {"best_step": best.step, "steps": loop.number, "metric": loop.metrics.main}
    train_targets = loop.splits["train"].targets
    for name in [name for name in loop.splits if name != "train"]:
        evaluation = best.evaluation if name == "validation" else loop.evaluate(name)
        if loop.accelerator.is_main_process:
            folder.write_predictions(name, prediction_lines(evaluation, loop.metrics))
        if evaluation.targets is None or evaluation.losses is None or train_targets is None:
            continue  # hidden labels: predictions only
        intervals = loop.metrics.intervals(evaluation.logits, evaluation.targets, evaluation.losses, loop.config.seed)
        baseline = loop.metrics.baseline(train_targets, evaluation.targets)
        results[name] = {
            metric: {"value": value, "low": intervals[metric][0], "high": intervals[metric][1]}
            | ({"baseline": baseline[metric]} if metric in baseline else {})
            for metric, value in evaluation.metrics.items()
        }
    journal.phase("judging", time.perf_counter() - began, loop.number)
    return results


def save_best(loop: Loop, folder: RunFolder, best: Best) -> None:
    """The model as it is now, with its tokenizer and card, in place of the one before."""
    tokenizer = copy.deepcopy(loop.tokenizer)
    tokenizer.model_max_length = loop.config.max_length
    card = write_card(
        loop.config,
        loop.metrics,
        name=loop.data.name,
        step=best.step,
        values=best.evaluation.metrics,
        version=software_versions()["dongu"],
    )
    with replace_folder(folder.model) as stage, quiet_transformers():
        loop.plain_model.save_pretrained(stage)
        tokenizer.save_pretrained(stage)
        write_file(stage / "README.md", card.encode())


def describe_run(loop: Loop, folder: RunFolder) -> Mapping[str, Any]:
    """`run.json`: what `dongu train --config` needs to repeat the run, and what it was made of."""
    return {
        "options": {**loop.config.model_dump(mode="json"), "out": str(folder.path)},
        "label_names": loop.data.label_names,
        "metrics": loop.metrics.names,
        "metric": loop.metrics.main,
        "data": data_fingerprint(loop.data),
        "steps_per_epoch": loop.steps_per_epoch,
        "total_steps": loop.total_steps,
        "warmup_steps": loop.warmup_steps,
        "device": str(loop.accelerator.device),
        "processes": loop.accelerator.num_processes,
        "versions": software_versions(),
    }


def _main(loop: Loop, evaluation: Evaluation) -> float:
    return evaluation.metrics[loop.metrics.main]


def _evaluation_line(loop: Loop, step: int, evaluation: Evaluation) -> str:
    values = "  ".join(f"{name} {value:.4f}" for name, value in evaluation.metrics.items())
    return f"validation at step {step:,} (epoch {step / loop.steps_per_epoch:.2f}): {values}"
