"""A whole run: the loop, and the plain statements that record it, judge it and keep its best model."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dongu.best import check_calibration, judge, save_best
from dongu.config import RunConfig, option_flag
from dongu.data.columns import LABEL_COLUMNS, TEXT_COLUMNS
from dongu.doctor.checkup import examine, refuse_findings
from dongu.doctor.finding import Finding
from dongu.doctor.lengths import measured
from dongu.doctor.words import before_a_run
from dongu.engine.processes import check_shared, compare
from dongu.errors import (
    CheckpointError,
    DataError,
    InputError,
    StoppedError,
    UsageError,
    WorkerError,
)
from dongu.hub import split_commit
from dongu.judge.calibration import NO_TEMPERATURE
from dongu.judge.intervals import constant_answer
from dongu.judge.words import Yardstick, advice, said_of
from dongu.launch import among_processes
from dongu.loop import Loop, Step
from dongu.model.load import usual_length
from dongu.page.report import write_report
from dongu.run.checkpoint import Checkpoints, RunState
from dongu.run.console import Console
from dongu.run.derived import describe
from dongu.run.effort import Effort
from dongu.run.folder import FINDINGS, RunFolder
from dongu.run.identity import differences, identity, refuse
from dongu.run.journal import Journal, logged_steps
from dongu.run.plan import Plan
from dongu.run.progress import Progress
from dongu.run.recorder import Recorder
from dongu.run.signals import EXIT_CODES, Stop, StopSignals
from dongu.run.spared import tried
from dongu.run.trackers import Trackers
from dongu.teach.explain import explained
from dongu.teach.language import Language


@dataclass(frozen=True)
class RunResult:
    """What a run came to. `metrics` are those of the best model on validation; `results` is `results.json`."""

    path: Path
    metrics: dict[str, float]
    results: dict[str, Any]


@among_processes()
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
        WorkerError: a process that prepares batches failed, or another process of the run has ended.
        StoppedError: a signal ended the run; its state is saved.
    """
    started = time.perf_counter()
    if (out := options.get("out")) is not None:
        RunFolder(Path(out)).refuse_if_taken()  # before minutes of tokenizing
    loop = Loop(data, **options)
    _check_validation(loop)
    check_calibration(loop)
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
        check_shared(folder.path, loop.accelerator)
        console = _console_of(loop, console)
        with Trackers(loop, folder, console, step=0) as trackers:
            if main:
                folder.write_json(FINDINGS, [finding.as_json() for finding in findings])
                folder.write_json("run.json", describe_run(loop, folder, state))
            console.fields([*describe(loop), ("run", str(folder.path))])
            for line in before_a_run(findings, _inspection(loop, folder)):
                console.line(line)
            steps = explained(loop, console, explain) if explain is not None and main else loop
            return run(loop, folder, state, console, trackers, started, steps)


def _check_validation(loop: Loop) -> None:
    """
    Raises:
        InputError: no best model can be chosen by the rows of validation.
    """
    validation = loop.data.splits.get("validation")
    if validation is None or validation.targets is None:
        raise InputError("validation has no labels", hint="a best model cannot be chosen without")
    if why := loop.metrics.why_undefined(validation.targets):
        raise DataError(
            f"validation {why}: {loop.metrics.main} is undefined, and no best model can be chosen",
            where=validation.origin,
            hint="give other rows for validation" + (", or --metric loss" if len(validation) else ""),
        )


def _inspection(loop: Loop, folder: RunFolder) -> str:
    """The command that shows these findings whole, or for rows in memory the file that holds them."""
    config = loop.config
    if not config.data:
        return str(folder.path / FINDINGS)
    length = None if config.max_length == usual_length(loop.model, loop.tokenizer) else config.max_length
    same = ("model", "label_separator", "unlabelled", "batch_size", "seed")
    told = {"max_length": length, **{name: getattr(config, name) for name in same}}
    told["model"] = split_commit(config.model)[0]
    if (config.text_columns or ()) not in TEXT_COLUMNS:
        told["text_columns"] = config.text_columns
    if config.label_column not in LABEL_COLUMNS:
        told["label_column"] = config.label_column
    words = ["dongu", "inspect", split_commit(config.data)[0]]
    for name, value in told.items():
        if value not in (None, RunConfig.model_fields[name].default):
            words += [option_flag(name), *(value if isinstance(value, tuple) else [str(value)])]
    return shlex.join(words)


@among_processes()
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
    check_calibration(loop)
    with folder.lock(enabled=loop.accelerator.is_main_process):
        check_shared(folder.path, loop.accelerator)
        checkpoints = Checkpoints(folder.checkpoints, loop.config.keep, _plan(loop))
        checkpoint, damaged = checkpoints.newest(folder.metrics)
        if checkpoint is None and logged_steps(folder.metrics) > _plan(loop).first_save:
            raise CheckpointError(
                "the checkpoints of the run are gone",
                where=str(folder.checkpoints),
                hint="nothing was changed; put them back, or start anew with another --out",
            )
        compare(loop.accelerator, {"the newest checkpoint": "none" if checkpoint is None else checkpoint.path.name})
        was, where = (
            (record, folder.path / "run.json") if checkpoint is None else (checkpoint.state.identity, checkpoint.path)
        )
        now = identity(loop)  # it reads all rows
        found = list(differences(was, now, loop, str(where)))
        refuse(found, allow, str(folder.path))
        console = _console_of(loop, console)
        for warning in (
            *(f"{error.where} {error.what}; an older checkpoint is used" for error in damaged),
            *(each.text + ("; the result will be another one" if each.name else "") for each in found),
        ):
            console.warn(warning)
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
        console.progress(loop.total_steps, state.step, metrics.names) as progress,
    ):
        if main:
            checkpoints.retire(state)  # a kill may have come before it
        journal.phase("setup", time.perf_counter() - started, state.step)
        saved, effort = (state.step, state.evaluated_step), Effort()
        recorder = Recorder(journal.step, trackers.step, progress.step, effort.add)
        # What has arrived may differ between GPUs, and all processes have to learn of an error at the same place.
        all_as_one = loop.accelerator.num_processes == 1 or loop.accelerator.device.type != "cuda"
        for step in _boundaries(steps, signals):
            if step is not None:
                recorder.add(step)
                state.step = step.number
                _note_memory(loop, state, console)
            if all_as_one:
                recorder.catch_up(behind=1)
            stop = signals.agreed(loop.accelerator)
            if not all_as_one or stop or plan.evaluates(state.step) or plan.saves(state.step):
                recorder.catch_up(behind=0)

            if not stop and plan.evaluates(state.step) and state.evaluated_step < state.step:
                stop = not _evaluate(loop, folder, state, journal, progress, trackers, signals)

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

        recorder.catch_up(behind=0)
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
    _say_results(loop, folder, results, effort, console)
    return RunResult(folder.path, {name: entry["value"] for name, entry in results["validation"].items()}, results)


def _say_results(loop: Loop, folder: RunFolder, results: Mapping[str, Any], effort: Effort, console: Console) -> None:
    """The verdict, what it rests on, what it took, and where it is."""
    yardstick = Yardstick.of(loop.metrics, constant_answer(loop.metrics, loop.splits["train"].targets))
    for line in ("", *said_of(results, {name: len(split) for name, split in loop.splits.items()}, yardstick), ""):
        console.line(line)
    for line in advice(results, yardstick):
        console.line(line)
    if loop.config.calibrate and not results["calibrated"]:
        console.warn(f"--calibrate: {NO_TEMPERATURE}")
    saved = f"{folder.model} (step {results['best_step']:,}); on one page: {folder.report}"
    console.fields([*(effort.lines(loop) if effort.steps else ()), ("saved", saved)])


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
    progress: Progress,
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
    journal.phase("evaluation", time.perf_counter() - began, state.step)
    best = state.record(loop.metrics, evaluation)
    progress.evaluation(state.step, state.step / loop.steps_per_epoch, evaluation.metrics, best=best)
    if loop.accelerator.is_main_process:
        if best:
            save_best(loop, folder)
        began = time.perf_counter()
        _write_report(loop, folder, progress.console)
        journal.phase("report", time.perf_counter() - began, state.step)
    return True


def _write_report(loop: Loop, folder: RunFolder, console: Console, results: Mapping[str, Any] | None = None) -> None:
    """Bring the run's page up to date."""
    _, reason = tried(lambda: write_report(folder, loop.data, results))
    if reason:
        console.warn(f"report.html was not written ({reason}); later: dongu report {folder.path}")


def _plan(loop: Loop) -> Plan:
    return Plan(loop.total_steps, loop.config.eval_steps or loop.steps_per_epoch, loop.config.save_steps)


def _note_memory(loop: Loop, state: RunState, console: Console) -> None:
    """Say once that the device ran out of memory, and remember the size that fits: a resumed run starts with it."""
    size = loop.updates.micro_batch_size
    if size < (state.micro_batch_size or loop.config.micro_batch_size or size):
        state.micro_batch_size = size
        console.wrapped(
            f"memory ran out at step {state.step:,}: micro-batches of {size} from here on, the same updates"
        )


def _stopped(loop: Loop, folder: RunFolder, signals: StopSignals) -> StoppedError:
    received = signals.received or signal.SIGTERM  # another process of the run got it
    hint = f"its state is saved; go on with: dongu resume {folder.path}"
    return StoppedError(
        f"{received.name} ended the run after step {loop.number:,} of {loop.total_steps:,}",
        exit_code=EXIT_CODES[received],
        hint=hint if loop.number else f"nothing was done yet; start with: dongu resume {folder.path}",
    )


def describe_run(loop: Loop, folder: RunFolder, state: RunState) -> Mapping[str, Any]:
    """`run.json`: what `dongu train --config` needs to repeat the run, and what it was made of."""
    model, model_commit = split_commit(loop.config.model)
    data, data_commit = (None, None) if loop.config.data is None else split_commit(loop.config.data)
    options = {**loop.config.model_dump(mode="json"), "model": model, "data": _place(data), "out": str(folder.path)}
    commits = {"model": model_commit, "data": data_commit}
    return {
        **state.identity,
        "options": options,
        "commits": {part: commit for part, commit in commits.items() if commit},
        "new_head": loop.model.new_head and loop.model.new_head.why,
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


def _place(data: str | None) -> str | None:
    """The path of local data from the root, so that `resume` finds them from any folder; a Hub name as it is."""
    return str(Path(data).absolute()) if data is not None and Path(data).exists() else data


def _stopped_early(config: RunConfig, state: RunState) -> bool:
    return config.patience is not None and state.evaluations_since_best >= config.patience


def _console_of(loop: Loop, console: Console | None) -> Console:
    return console if loop.accelerator.is_main_process and console is not None else Console(enabled=False)
