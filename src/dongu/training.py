"""A whole run: the loop, and the plain statements that record it, judge it and keep its best model."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dongu.config import RunConfig
from dongu.errors import DataError, InputError, UsageError
from dongu.evaluate import Evaluation
from dongu.files import replace_folder, write_file
from dongu.loop import Loop
from dongu.model.load import load_classifier, quiet_transformers
from dongu.results.card import write_card
from dongu.results.predictions import prediction_lines
from dongu.run.checkpoint import Checkpoints, RunState, restore
from dongu.run.console import Console, describe, results_table
from dongu.run.folder import RunFolder, data_fingerprint, software_versions
from dongu.run.journal import Journal


@dataclass(frozen=True)
class RunResult:
    """What a run came to. `metrics` are those of the best model on validation; `results` is `results.json`."""

    path: Path
    metrics: dict[str, float]
    results: dict[str, Any]


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
    folder = RunFolder(Path(loop.config.out or f"runs/{loop.data.name}"))
    folder.refuse_if_used()
    loop.accelerator.wait_for_everyone()  # nobody looks at the folder after the first has written to it
    if loop.accelerator.is_main_process:
        folder.write_json("run.json", describe_run(loop, folder))
    console = _console_of(loop, console)
    console.fields([*describe(loop), ("run", str(folder.path))])
    return run(loop, folder, RunState(), console, started)


def resume(path: str | Path, data: Any = None, *, console: Console | None = None) -> RunResult:
    """Go on with a run from its newest valid checkpoint, as `dongu resume` does.

    Args:
        path: the run folder.
        data: the rows again, where they were given in memory.
        console: where to print; nowhere by default.

    Raises:
        InputError: the folder is no run, or its data are not those it was started with.
        CheckpointError: checkpoints exist, and none is valid; nothing is changed.
    """
    started = time.perf_counter()
    folder = RunFolder(Path(path))
    record = folder.read_json("run.json")
    if (folder.path / "results.json").exists():
        raise UsageError("the run is finished", where=str(folder.path), hint="there is nothing to go on with")
    options = {name: value for name, value in record["options"].items() if name != "data"}
    loop = Loop(record["options"]["data"] if data is None else data, **options)
    for split, was in record["data"].items():
        now = data_fingerprint(loop.data).get(split, {})
        if now.get("sha256") != was["sha256"]:
            raise DataError(
                f"{split} is not what the run was started with ({was['rows']:,} rows then, {now.get('rows', 0):,} now)",
                where=was["origin"],
                hint="put the old file back, or start a new run",
            )
    console = _console_of(loop, console)
    for name, now_version in software_versions().items():
        if now_version != record["versions"].get(name):
            console.line(
                f"warning: {name} is {now_version}, and was {record['versions'].get(name)}: other bits may come"
            )
    if loop.accelerator.num_processes != record["processes"]:
        console.line(f"warning: {loop.accelerator.num_processes} processes, not {record['processes']}: other rounding")
    contents, damaged = Checkpoints(folder.checkpoints, loop.config.keep).newest()
    for error in damaged:
        console.line(f"WARNING: {error.where} {error.what}; an older checkpoint is used")
    state = RunState() if contents is None else restore(loop, contents)
    console.line(f"going on after step {state.step:,} of {loop.total_steps:,} in {folder.path}")
    return run(loop, folder, state, console, started)


def run(loop: Loop, folder: RunFolder, state: RunState, console: Console, started: float) -> RunResult:
    """The rest of a run: every step recorded, evaluations, checkpoints, the best model, the verdict."""
    main = loop.accelerator.is_main_process
    config, metrics = loop.config, loop.metrics
    checkpoints = Checkpoints(folder.checkpoints, config.keep)
    evaluate_every = config.eval_steps or loop.steps_per_epoch
    lengths = {"metrics_bytes": state.metrics_bytes, "timing_bytes": state.timing_bytes}
    with (
        folder.lock(enabled=main),
        Journal(folder, enabled=main, **lengths) as journal,
        console.progress(loop.total_steps, done=state.step) as progress,
    ):
        if main:
            folder.clean()
            checkpoints.retire(state)  # a kill may have come before it
        journal.phase("setup", time.perf_counter() - started, state.step)
        for step in () if _stopped_early(config, state) else loop:
            journal.step(step)
            progress.step(step)
            state.step = step.number

            evaluation_due = step.number % evaluate_every == 0 or step.number == loop.total_steps
            if evaluation_due:
                began = time.perf_counter()
                evaluation = loop.evaluate()
                journal.evaluation(step.number, evaluation)
                console.line(_evaluation_line(loop, step.number, evaluation))
                journal.phase("evaluation", time.perf_counter() - began, step.number)
                if state.better(metrics, evaluation):
                    state.best_step, state.best_metrics = step.number, evaluation.metrics
                    state.evaluations_since_best = 0
                    if main:
                        save_best(loop, folder, state)
                else:
                    state.evaluations_since_best += 1

            if main and (evaluation_due or (config.save_steps and step.number % config.save_steps == 0)):
                began = time.perf_counter()
                state.metrics_bytes, state.timing_bytes = journal.durable_bytes()
                checkpoints.save(loop, state)
                journal.phase("checkpoint", time.perf_counter() - began, step.number)
            if _stopped_early(config, state):
                break
        if _stopped_early(config, state):
            console.line(f"stopped early: no better {metrics.main} in {state.evaluations_since_best} evaluations")
        loop.accelerator.wait_for_everyone()  # the model is whole on disk before anybody reads it
        results = judge(loop, folder, state, journal)
        if main:
            folder.write_json("results.json", results)
    console.line()
    for line in results_table(results):
        console.line(line)
    console.line()
    console.line(f"best model: step {state.best_step:,}, in {folder.model}")
    return RunResult(folder.path, {name: entry["value"] for name, entry in results["validation"].items()}, results)


def judge(loop: Loop, folder: RunFolder, state: RunState, journal: Journal) -> dict[str, Any]:
    """Metrics, intervals and baselines of the best model on each labelled split; writes the predictions.

    The model is read back from the run folder first, so the numbers are those of the file that is kept.
    """
    began = time.perf_counter()
    saved, _ = load_classifier(folder.model)
    loop.plain_model.load_state_dict(saved.state_dict())
    results: dict[str, Any] = {"best_step": state.best_step, "steps": state.step, "metric": loop.metrics.main}
    train_targets = loop.splits["train"].targets
    for name in [name for name in loop.splits if name != "train"]:
        evaluation = loop.evaluate(name)
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


def save_best(loop: Loop, folder: RunFolder, state: RunState) -> None:
    """The model as it is now, with its tokenizer and card, in place of the one before."""
    tokenizer = copy.deepcopy(loop.tokenizer)
    tokenizer.model_max_length = loop.config.max_length
    # What a call to it leaves set would be saved too, and there is no call where the tokens come from the cache.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    card = write_card(
        loop.config,
        loop.metrics,
        name=loop.data.name,
        step=state.step,
        values=state.best_metrics or {},
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


def _stopped_early(config: RunConfig, state: RunState) -> bool:
    return config.patience is not None and state.evaluations_since_best >= config.patience


def _console_of(loop: Loop, console: Console | None) -> Console:
    return console if loop.accelerator.is_main_process and console is not None else Console(enabled=False)


def _evaluation_line(loop: Loop, step: int, evaluation: Evaluation) -> str:
    values = "  ".join(f"{name} {value:.4f}" for name, value in evaluation.metrics.items())
    return f"validation at step {step:,} (epoch {step / loop.steps_per_epoch:.2f}): {values}"
