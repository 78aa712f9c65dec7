"""A whole run: the loop, and the plain statements that record it, judge it and keep its best model."""

from __future__ import annotations

import copy
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dongu.calibration import Calibration, fit_temperature
from dongu.confidence import constant_answer, verdict
from dongu.config import RunConfig
from dongu.data.batches import EvalBatches
from dongu.doctor.checkup import examine, refuse_findings
from dongu.doctor.finding import Finding
from dongu.doctor.lengths import measured
from dongu.doctor.words import warnings_before_a_run
from dongu.errors import (
    CheckpointError,
    InputError,
    NonFiniteError,
    StoppedError,
    UsageError,
    WorkerError,
)
from dongu.evaluate import Evaluation, eval_mode
from dongu.files import disk, replace_folder, write_file
from dongu.loop import CHECKED_ROWS, Loop, Step
from dongu.model.head import check_head, divide_head
from dongu.model.load import load_classifier, quiet_transformers, usual_length
from dongu.model.lora import plain_weights
from dongu.results.card import write_card
from dongu.results.predictions import prediction_lines
from dongu.results.report import write_report
from dongu.run.checkpoint import Checkpoints, RunState
from dongu.run.console import Console, calibration_line, describe, results_table
from dongu.run.effort import Effort
from dongu.run.folder import CALIBRATION, FINDINGS, RunFolder, dump_json
from dongu.run.identity import differences, identity, refuse, software_versions
from dongu.run.journal import Journal, logged_steps
from dongu.run.plan import Plan
from dongu.run.signals import EXIT_CODES, Stop, StopSignals
from dongu.run.trackers import Trackers
from dongu.teach.explain import explained
from dongu.teach.language import Language


@dataclass(frozen=True)
class RunResult:
    """What a run came to. `metrics` are those of the best model on validation; `results` is `results.json`."""

    path: Path
    metrics: dict[str, float]
    results: dict[str, Any]


def train(
    data: Any = None, *, console: Console | None = None, explain: Language | None = None, **options: Any
) -> RunResult:
    """Fine-tune and write a run folder, as `dongu train` does.

    Args:
        data: a folder, a file, a Hub name, or rows in memory; see `Loop`.
        console: where to print; nowhere by default.
        explain: the language in which the first steps are shown as a lesson, if they shall be.
        options: those of `RunConfig` by name.

    Raises:
        InputError: the options, the data or the model cannot be used, the run folder is taken, or the data doctor has a
            warning and `strict` allows none; nothing is written.
        LockedError: another process writes to the run folder.
        NonFiniteError: a loss, a gradient or a weight was not finite; the update was not made.
        StorageError: a file could not be written, or there is no room for all that the run will keep.
        WorkerError: a process that prepares batches failed.
        StoppedError: a signal ended the run; its state is saved.
    """
    started = time.perf_counter()
    if (out := options.get("out")) is not None:
        RunFolder(Path(out)).refuse_if_taken()  # before minutes of tokenizing
    loop = Loop(data, **options)
    if "validation" not in loop.splits or loop.splits["validation"].targets is None:
        raise InputError("validation has no labels", hint="a best model cannot be chosen without")
    _check_calibration(loop)
    folder = RunFolder(Path(loop.config.out or f"runs/{loop.data.name}"))
    folder.refuse_if_taken()
    loop.accelerator.wait_for_everyone()  # nobody looks at the folder after the first has written to it
    main = loop.accelerator.is_main_process
    findings = _examine(loop)
    refuse_findings(findings, loop.config.data or loop.data.name, strict=loop.config.strict)
    state = RunState(identity=identity(loop))
    Checkpoints(folder.checkpoints, loop.config.keep, _plan(loop)).check_room(loop)
    with folder.lock(enabled=main):
        if main:
            folder.refuse_if_used()  # another process may have come and gone
            folder.clean()
        console = _console_of(loop, console)
        with Trackers(loop, folder, console, step=0) as trackers:
            if main:
                folder.write_json(FINDINGS, [finding.as_json() for finding in findings])
                folder.write_json("run.json", describe_run(loop, folder, state))
            console.fields([*describe(loop), ("run", str(folder.path))])
            inspection = f"dongu inspect {loop.config.data}" if loop.config.data else str(folder.path / FINDINGS)
            for warning in warnings_before_a_run(findings, inspection):
                console.line(warning)
            steps = explained(loop, console, explain) if explain is not None and main else loop
            return run(loop, folder, state, console, trackers, started, steps)


def resume(
    path: str | Path,
    data: Any = None,
    *,
    allow: Sequence[str] = (),
    console: Console | None = None,
    **options: Any,
) -> RunResult:
    """Go on with a run from its newest valid checkpoint, as `dongu resume` does.

    Args:
        path: the run folder.
        data: the rows again, where they were given in memory or lie elsewhere now.
        allow: what may differ although it changes the result: names of options, `data`, `versions`, `hardware`.
        console: where to print; nowhere by default.
        options: those of `RunConfig` that shall be others from here on.

    Raises:
        InputError: the folder is no run, or what the result depends on is not what it was started with.
        CheckpointError: checkpoints exist, and none is valid; nothing is changed.
        LockedError, NonFiniteError, StorageError, WorkerError, StoppedError: as `train`.
    """
    started = time.perf_counter()
    folder = RunFolder(Path(path))
    record = folder.read_record()
    if (folder.path / "results.json").exists():
        raise UsageError("the run is finished", where=str(folder.path), hint="there is nothing to go on with")
    folder.refuse_if_locked()
    loop = folder.reopen(data, **options)
    _check_calibration(loop)
    with folder.lock(enabled=loop.accelerator.is_main_process):
        checkpoints = Checkpoints(folder.checkpoints, loop.config.keep, _plan(loop))
        checkpoint, damaged = checkpoints.newest(folder.metrics)
        if checkpoint is None and logged_steps(folder.metrics) > _plan(loop).first_save:
            raise CheckpointError(
                "the checkpoints of the run are gone",
                where=str(folder.checkpoints),
                hint="nothing was changed; put them back, or start anew with another --out",
            )
        was, where = (
            (record, folder.path / "run.json") if checkpoint is None else (checkpoint.state.identity, checkpoint.path)
        )
        now = identity(loop)  # it reads all rows
        found = list(differences(was, now, loop, str(where)))
        refuse(found, allow, str(folder.path))
        console = _console_of(loop, console)
        for error in damaged:
            console.line(f"WARNING: {error.where} {error.what}; an older checkpoint is used")
        for difference in found:
            console.line(
                f"WARNING: {difference.text}" + ("; the result will be another one" if difference.name else "")
            )
        state = RunState() if checkpoint is None else checkpoint.restore(loop)
        state.identity = now
        checkpoints.check_room(loop)
        with Trackers(loop, folder, console, step=state.step) as trackers:
            if loop.accelerator.is_main_process:
                folder.clean()
                if found or options:
                    new = [{"step": state.step, "changes": [difference.text for difference in found]}] if found else []
                    changes = [*record.get("changes", ()), *new]
                    folder.write_json("run.json", {**describe_run(loop, folder, state), "changes": changes})
            console.line(f"going on after step {state.step:,} of {loop.total_steps:,} in {folder.path}")
            return run(loop, folder, state, console, trackers, started, loop)


def run(
    loop: Loop,
    folder: RunFolder,
    state: RunState,
    console: Console,
    trackers: Trackers,
    started: float,
    steps: Iterable[Step],
) -> RunResult:
    """The rest of a run: every step recorded, evaluations, checkpoints, the best model, the verdict."""
    main, config, metrics = loop.accelerator.is_main_process, loop.config, loop.metrics
    plan = _plan(loop)
    checkpoints = Checkpoints(folder.checkpoints, config.keep, plan)
    with (
        StopSignals() as signals,
        Journal(folder, enabled=main, step=state.step, mark=state.log) as journal,
        console.progress(loop.total_steps, done=state.step) as progress,
    ):
        if main:
            checkpoints.retire(state)  # a kill may have come before it
        journal.phase("setup", time.perf_counter() - started, state.step)
        saved, effort = (state.step, state.evaluated_step), Effort()
        for step in _boundaries(steps, signals):
            if step is not None:
                journal.step(step)
                trackers.step(step)
                progress.step(step)
                effort.add(step)
                state.step = step.number
                _note_memory(loop, state, console)
            stop = signals.agreed(loop.accelerator)

            if not stop and plan.evaluates(state.step) and state.evaluated_step < state.step:
                stop = not _evaluate(loop, folder, state, journal, console, trackers, signals)

            new = saved != (state.step, state.evaluated_step)
            if main and new and (stop or plan.saves(state.step)):
                began = time.perf_counter()
                state.log = journal.mark()
                checkpoints.save(loop, state)
                saved = (state.step, state.evaluated_step)
                journal.phase("checkpoint", time.perf_counter() - began, state.step)
            if stop:
                raise _stopped(loop, folder, signals)
            if _stopped_early(config, state):
                console.line(f"stopped early: no better {metrics.main} in {state.evaluations_since_best} evaluations")
                break

        loop.accelerator.wait_for_everyone()  # the model is whole on disk before anybody reads it
        try:
            with signals.at_once(enabled=loop.accelerator.num_processes == 1):
                results = judge(loop, folder, state, journal)
        except Stop:
            raise _stopped(loop, folder, signals) from None
        if effort.steps:
            journal.summary(effort.close(loop), state.step)
        if main:
            folder.write_manifest(results)
            _write_report(loop, folder, console, results)
            folder.finish(results)  # the last of all: what is cut off before is done again
    console.line()
    for line in (*results_table(results, metrics.task), *calibration_line(results)):
        console.line(line)
    console.line()
    console.fields(effort.lines(loop) if effort.steps else ())
    console.line(f"best model: step {state.best_step:,}, in {folder.model}")
    console.line(f"all of it on one page: {folder.report}")
    return RunResult(folder.path, {name: entry["value"] for name, entry in results["validation"].items()}, results)


def _boundaries(steps: Iterable[Step], signals: StopSignals) -> Iterator[Step | None]:
    """Where the run stands now, perhaps with its evaluation still to come; then each step that follows."""
    yield None
    try:
        yield from steps
    except WorkerError:
        if signals.received is None:
            raise
        yield None  # a signal to all processes ended the workers too: no reason to lose the steps since the last save


def _evaluate(
    loop: Loop,
    folder: RunFolder,
    state: RunState,
    journal: Journal,
    console: Console,
    trackers: Trackers,
    signals: StopSignals,
) -> bool:
    """Evaluate, record, keep the model if it is the best; False where a signal cut it off, and nothing was recorded."""
    began = time.perf_counter()
    try:
        with signals.at_once(enabled=loop.accelerator.num_processes == 1):
            evaluation = loop.evaluate()
    except Stop:
        return False  # it is the first thing that `resume` does
    journal.evaluation(state.step, evaluation)
    trackers.evaluation(state.step, evaluation)
    console.line(_evaluation_line(loop, state.step, evaluation))
    journal.phase("evaluation", time.perf_counter() - began, state.step)
    best = state.record(loop.metrics, evaluation)
    if loop.accelerator.is_main_process:
        if best:
            save_best(loop, folder)
        began = time.perf_counter()
        _write_report(loop, folder, console)
        journal.phase("report", time.perf_counter() - began, state.step)
    return True


def _write_report(loop: Loop, folder: RunFolder, console: Console, results: Mapping[str, Any] | None = None) -> None:
    """Bring the run's page up to date. Whatever may be wrong with it, the run is worth more."""
    try:
        write_report(folder, loop.data, results)
    except Exception as error:  # noqa: BLE001 - see above
        reason = " ".join(str(error).split()) or type(error).__name__
        console.line(f"WARNING: report.html was not written ({reason}); later: dongu report {folder.path}")


def _plan(loop: Loop) -> Plan:
    return Plan(loop.total_steps, loop.config.eval_steps or loop.steps_per_epoch, loop.config.save_steps)


def _note_memory(loop: Loop, state: RunState, console: Console) -> None:
    """Say once that the device ran out of memory, and remember the size that fits: a resumed run starts with it."""
    size = loop.updates.micro_batch_size
    if size < (state.micro_batch_size or loop.config.micro_batch_size or size):
        state.micro_batch_size = size
        console.line(f"memory ran out at step {state.step:,}: micro-batches of {size} from here on, the same updates")


def _stopped(loop: Loop, folder: RunFolder, signals: StopSignals) -> StoppedError:
    received = signals.received or signal.SIGTERM  # another process of the run got it
    hint = f"its state is saved; go on with: dongu resume {folder.path}"
    return StoppedError(
        f"{received.name} ended the run after step {loop.number:,} of {loop.total_steps:,}",
        exit_code=EXIT_CODES[received],
        hint=hint if loop.number else f"nothing was done yet; start with: dongu resume {folder.path}",
    )


def judge(loop: Loop, folder: RunFolder, state: RunState, journal: Journal) -> dict[str, Any]:
    """Metrics, intervals and baselines of the best model on each labelled split; writes the predictions and the card.

    The model is read back from the run folder first, so the numbers are those of the file that is kept.

    Raises:
        NonFiniteError: there is no best model.
    """
    if state.best_step is None:
        raise NonFiniteError(
            f"{loop.metrics.main} was undefined at every evaluation, so no model is the best",
            where=str(folder.path),
            hint="does the model give one answer to every row? try another --learning-rate or --metric loss",
        )
    began = time.perf_counter()
    main = loop.accelerator.is_main_process
    saved, _ = load_classifier(folder.model)
    loop.take_over(saved)
    applied = folder.temperature()  # of a run that was killed after it had calibrated the model
    results: dict[str, Any] = {"best_step": state.best_step, "steps": state.step, "metric": loop.metrics.main}
    if loop.data.task == "multi-label":
        results["threshold"] = saved.config.threshold
    validation, calibration = loop.evaluate(), None
    if loop.metrics.task == "single-label" and validation.targets is not None:
        temperature = applied or fit_temperature(validation.logits, validation.targets)
        if loop.config.calibrate and applied is None:
            divide_head(loop.model, temperature)
            if main:
                save_best(loop, folder, temperature)
            validation, applied = loop.evaluate(), temperature
        calibration = Calibration(temperature, applied is not None)
        results |= {"temperature": calibration.temperature, "calibrated": calibration.applied}
    constant = constant_answer(loop.metrics, loop.splits["train"].targets)
    per_class: list[dict[str, Any]] = []
    for name in [name for name in loop.splits if name != "train"]:
        evaluation = validation if name == "validation" else loop.evaluate(name)
        if main:
            folder.write_predictions(name, prediction_lines(evaluation, loop.metrics))
        if entries := verdict(evaluation, loop.metrics, constant, loop.config.seed, calibration):
            results[name] = entries  # hidden labels: predictions only
        if evaluation.targets is not None:
            table = loop.metrics.per_class(evaluation.logits, evaluation.targets, evaluation.threshold)
            per_class += [{"split": name, **row} for row in table]
    if per_class:
        results["per_class"] = per_class  # a table: each value of results that is an object is a split
    if main:
        card = write_card(loop, results, software_versions()["dongu"])
        write_file(folder.model / "README.md", card.encode(), within=folder.path)
    journal.phase("judging", time.perf_counter() - began, loop.number)
    return results


def save_best(loop: Loop, folder: RunFolder, temperature: float | None = None) -> None:
    """The model as it is now, with its tokenizer and what its head is divided by, in place of the one before."""
    tokenizer = copy.deepcopy(loop.tokenizer)
    tokenizer.model_max_length = loop.config.max_length
    # What a call to it leaves set would be saved too, and there is no call where the tokens come from the cache.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    numbers = loop.data.task == "regression"
    with replace_folder(folder.model, within=folder.path) as stage, quiet_transformers():
        weights = loop.loss.scale.undone(loop.model) if numbers else plain_weights(loop.model)
        loop.model.save_pretrained(stage, state_dict=weights)
        tokenizer.save_pretrained(stage)
        if temperature is not None:
            disk.write(stage / CALIBRATION, dump_json({"temperature": temperature}).encode())


def describe_run(loop: Loop, folder: RunFolder, state: RunState) -> Mapping[str, Any]:
    """`run.json`: what `dongu train --config` needs to repeat the run, and what it was made of."""
    return {
        **state.identity,
        "options": {**loop.config.model_dump(mode="json"), "data": _place(loop.config.data), "out": str(folder.path)},
        "label_names": loop.data.label_names,
        **({"scale": asdict(loop.loss.scale)} if loop.data.task == "regression" else {}),
        "metrics": loop.metrics.names,
        "metric": loop.metrics.main,
        "steps_per_epoch": loop.steps_per_epoch,
        "total_steps": loop.total_steps,
        "warmup_steps": loop.warmup_steps,
        "device": str(loop.accelerator.device),
        "lengths": {name: split.tokens.summary() for name, split in loop.splits.items()},
        "constant_answer": constant_answer(loop.metrics, loop.splits["train"].targets),
    }


def _examine(loop: Loop) -> list[Finding]:
    """What the data doctor says about the rows of a loop, which are tokenized already."""
    tokenizer, limit = loop.tokenizer.backend_tokenizer, usual_length(loop.model, loop.tokenizer)
    lengths = {
        name: measured(loop.splits[name].tokens, tokenizer, examples, loop.config.max_length, limit, loop.config.seed)
        for name, examples in loop.data.splits.items()
    }
    return examine(loop.data, lengths)


def _check_calibration(loop: Loop) -> None:
    """
    Raises:
        ModelError: --calibrate, and the model has no last layer to fold a temperature into.
    """
    if not loop.config.calibrate:
        return
    inputs = EvalBatches(loop.splits["validation"], loop.collate, CHECKED_ROWS)[0].to(loop.accelerator.device)
    inputs.pop("labels", None)
    with eval_mode(loop.engine):
        check_head(loop.model, loop.accelerator.unwrap_model(loop.engine), inputs)


def _place(data: str | None) -> str | None:
    """The path of local data from the root, so that `resume` finds them from any folder; a Hub name as it is."""
    return str(Path(data).absolute()) if data is not None and Path(data).exists() else data


def _stopped_early(config: RunConfig, state: RunState) -> bool:
    return config.patience is not None and state.evaluations_since_best >= config.patience


def _console_of(loop: Loop, console: Console | None) -> Console:
    return console if loop.accelerator.is_main_process and console is not None else Console(enabled=False)


def _evaluation_line(loop: Loop, step: int, evaluation: Evaluation) -> str:
    values = "  ".join(f"{name} {value:.4f}" for name, value in evaluation.metrics.items())
    return f"validation at step {step:,} (epoch {step / loop.steps_per_epoch:.2f}): {values}"
