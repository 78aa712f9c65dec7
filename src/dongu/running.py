"""A run: a loop and a folder. It records the steps, evaluates, saves, keeps the best model, goes on, judges."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from dongu.best import check_calibration, judge, save_best
from dongu.consistency import check_recorded
from dongu.doctor.checkup import refuse_findings
from dongu.doctor.overview import describe_data
from dongu.doctor.words import before_a_run
from dongu.engine.processes import check_shared, compare_facts
from dongu.errors import CheckpointError, StoppedError, UsageError, WorkerError
from dongu.files import read_regular, write_file
from dongu.judge.answers import Evaluation
from dongu.judge.calibration import NO_TEMPERATURE
from dongu.judge.intervals import constant_answer
from dongu.judge.words import Yardstick, advice, said_of, splits_of, undefined
from dongu.launch import among_processes, wait_for_first
from dongu.loop import Loop
from dongu.page.report import write_report
from dongu.run.checkpoint import Checkpoints, RunState
from dongu.run.console import Console
from dongu.run.derived import describe
from dongu.run.effort import Effort
from dongu.run.folder import DROPPED, FINDINGS, PARTS_COPY, RunFolder, dump_json
from dongu.run.identity import differences, identity, refuse
from dongu.run.inspection import check_validation, findings_of, inspection
from dongu.run.journal import Journal, logged_steps
from dongu.run.need import memory_need
from dongu.run.plan import Plan
from dongu.run.record import describe_run, lies_elsewhere
from dongu.run.recorder import Recorder
from dongu.run.result import RunResult
from dongu.run.signals import EXIT_CODES, Stop, StopSignals
from dongu.run.spared import tried
from dongu.run.taken import check_free, numbered, remove_run
from dongu.run.trackers import Trackers
from dongu.teach.explain import explained
from dongu.teach.language import Language
from dongu.text import typed, wrapped
from dongu.update import Step, recordable
from dongu.waiting import Waiting


class Run:
    """A loop that writes a run folder: `with loop.run("runs/mine") as run: for step in run: …`.

    If the folder holds a run already, it is continued: the newest valid checkpoint is loaded into the loop. Each step
    is recorded before it is yielded. An evaluation that is `due` and that you did not make is made before the next
    step. When the block ends (also after `break`), the best model is evaluated and the run is finished: `result`. After
    an exception the run can be resumed.

    Args:
        loop: before its first update.
        path: the folder (default: the option `out`, or runs/NAME).
        console: where to print; nowhere by default.
        allow: see `resume`.
        explain: see `train`.
        begins: whether the run must be new: the folder may hold no run, unless `overwrite` is given too.
        changed: whether options override those of the run.
        data_is_said: whether the findings in the data were printed already.
        started: when the set-up began, by `time.perf_counter`.
    """

    result: RunResult

    def __init__(
        self,
        loop: Loop,
        path: str | Path | None = None,
        *,
        console: Console | None = None,
        allow: Sequence[str] = (),
        explain: Language | None = None,
        begins: bool = False,
        overwrite: bool = False,
        changed: bool = False,
        data_is_said: bool = False,
        started: float | None = None,
    ) -> None:
        self.loop = loop
        self.folder = RunFolder(Path(numbered(path or loop.config.out or f"runs/{loop.data.name}")))
        self.state = RunState()
        self._plan = Plan(loop.total_steps, loop.config.eval_steps or loop.steps_per_epoch, loop.config.save_steps)
        self._checkpoints = Checkpoints(self.folder.checkpoints, loop.config.keep, self._plan, loop)
        self._main = loop.accelerator.is_main_process
        self._console = console if self._main and console is not None else Console(enabled=False)
        self._allow, self._explain, self._changed, self._data_is_said = allow, explain, changed, data_is_said
        self._begins, self._overwrite = begins or overwrite, overwrite
        self._started = time.perf_counter() if started is None else started
        self._is_over = self._is_under_way = False

    def __enter__(self) -> Self:
        if not self._begins and self.folder.is_finished:
            self._take_finished()
            return self
        if self.loop.number:
            what = f"the loop has made {self.loop.number:,} updates already"
            raise UsageError(what, where="loop.run", hint="give a new Loop: a run records each of its steps")
        self.loop._look()  # what does not belong together, or holds, is said before anything is written
        with ExitStack() as held, ExitStack() as at_work:
            held.enter_context(among_processes())
            if self.loop.config.calibrate:
                check_calibration(self.loop)
            is_new = self._begins or not (self.folder.path / "run.json").exists()
            self._steps: Any = self._begin(held) if is_new else self._go_on(held)
            self._signals = self.loop.stop_signals = at_work.enter_context(StopSignals())
            journal = Journal(self.folder, enabled=self._main, step=self.state.step, mark=self.state.log)
            self._journal = at_work.enter_context(journal)
            progress = self._console.progress(self.loop.total_steps, self.state.step, self.loop.metrics.names)
            self._progress = at_work.enter_context(progress)
            if not self._console.enabled:  # of a search, say, which shows no table of each run
                name, steps = f"training {self.folder.path.name}", self.loop.total_steps
                at_work.enter_context(Waiting(name, steps, "steps", at=lambda: self.state.step))
            if self._main:
                self._checkpoints.retire(self.state)  # a kill may have come before it
            self._journal.phase("setup", time.perf_counter() - self._started, self.state.step)
            self._saved, self._effort = (self.state.step, self.state.evaluated_step), Effort()
            observers = (self._record_step, self._trackers.step, progress.step, self._effort.add)
            # What has arrived may differ between GPUs, and all have to learn of an error or a signal at the same step.
            evenly = self.loop.accelerator.num_processes > 1 and self.loop.accelerator.device.type == "cuda"
            self._recorder = Recorder(self._checkpoints.attributes.look, *observers, evenly=evenly)
            wait_for_first()  # it has rehearsed an update, started trackers, and said so
            self._held, self._at_work = held.pop_all(), at_work.pop_all()  # from here on `__exit__` lets go of them
        return self

    def _begin(self, held: ExitStack) -> Any:
        """An empty folder, and what is said before the first step."""
        loop, folder, config = self.loop, self.folder, self.loop.config
        check_validation(loop)
        check_free(folder, overwrite=self._overwrite)
        loop.accelerator.wait_for_everyone()  # nobody looks at the folder after the first has written to it
        findings = findings_of(loop)
        refuse_findings(findings, config.data or loop.data.name, strict=config.strict)
        self.state.identity = identity(loop)
        self._checkpoints.check_room(loop)
        held.enter_context(folder.lock(enabled=self._main))
        if self._main:
            if self._overwrite and folder.record.exists():
                remove_run(folder)
            folder.refuse_if_used()  # another process may have come and gone
            folder.clean()
        check_shared(folder.path, loop.accelerator)
        need = memory_need(loop)
        self._trackers = held.enter_context(closing(Trackers(loop, folder, self._console, step=0)))
        if self._main:
            folder.write_json(FINDINGS, [finding.as_json() for finding in findings])
            if loop.data.dropped:
                lines = "".join(dump_json(row.as_json()) + "\n" for row in loop.data.dropped)
                write_file(folder.path / DROPPED, lines.encode(), within=folder.path)
            self._copy_parts()
            folder.write_json("run.json", describe_run(loop, folder, self.state, need))
        data = () if self._data_is_said else describe_data(loop.data)
        self._console.fields([*data, *describe(loop, need), ("run", str(folder.path))])
        new = [finding for finding in findings if self._console.is_new(finding.what)]
        self._console.lines(before_a_run(new, inspection(loop, folder)))
        return explained(loop, self._console, self._explain) if self._explain is not None and self._main else loop

    def _go_on(self, held: ExitStack) -> Any:
        """The newest valid checkpoint, put into the loop, if the run is still what it was."""
        loop, folder = self.loop, self.folder
        record = folder.read_record()
        held.enter_context(folder.lock(enabled=self._main))
        check_shared(folder.path, loop.accelerator)
        checkpoint, damaged = self._checkpoints.newest(folder.metrics, loop)
        if checkpoint is None and logged_steps(folder.metrics) > self._plan.first_save:
            hint = "nothing was changed; put them back, or start a new run with another --out"
            raise CheckpointError("the checkpoints of the run are gone", where=str(folder.checkpoints), hint=hint)
        newest = "none" if checkpoint is None else checkpoint.path.name
        compare_facts(loop.accelerator, {"the newest checkpoint": newest})
        was, where = record, folder.path / "run.json"
        if checkpoint is not None:
            was, where = checkpoint.state.identity, checkpoint.path
        now = identity(loop)  # it reads all rows
        found = list(differences(was, now, loop, str(where)))
        refuse(found, self._allow, str(folder.path))
        for warning in (
            *(f"{error.where} {error.what}; an older checkpoint is used" for error in damaged),
            *(each.text + ("; the result will be another one" if each.name else "") for each in found),
        ):
            self._console.warn(warning)
        self.state = RunState() if checkpoint is None else checkpoint.restore(loop)
        self.state.identity = now
        self._checkpoints.check_room(loop)
        self._trackers = held.enter_context(closing(Trackers(loop, folder, self._console, step=self.state.step)))
        if self._main:
            folder.clean()
            if found or self._changed or lies_elsewhere(record, loop):
                new = [{"step": self.state.step, "changes": [each.text for each in found]}] if found else []
                changes = [*record.get("changes", ()), *new]
                self._copy_parts()
                described = describe_run(loop, folder, self.state, memory_need(loop), record)
                folder.write_json("run.json", {**described, "changes": changes})
        self._console.line(f"resuming after step {self.state.step:,} of {loop.total_steps:,} in {folder.path}")
        return loop

    def _take_finished(self) -> None:
        """The result of a run that has ended.

        Raises:
            UsageError: it is not what the loop would make.
        """
        record = self.folder.read_record()
        where = str(self.folder.path / "run.json")
        refuse(list(differences(record, identity(self.loop), self.loop, where)), self._allow, str(self.folder.path))
        self.result = RunResult.of(self.folder.path, self.folder.read_results())
        self._console.line(f"the run is finished, in {self.folder.path}")
        self._is_over = True

    def _copy_parts(self) -> None:
        if (file := self.loop.given.file) is not None:
            write_file(self.folder.path / PARTS_COPY, read_regular(file, follow=True), within=self.folder.path)

    def __iter__(self) -> Iterator[Step]:
        """The remaining steps, each recorded. Between steps the run evaluates and saves when that is due."""
        if self._is_over:
            return
        self._is_under_way = True
        if self._is_at_its_end():  # where a run that goes on stands, perhaps with its evaluation still to come
            return
        try:
            for step in self._steps:
                check_recorded(step.number - 1, self.state.step)
                self._recorder.add(step)
                self.state.step = step.number
                self._note_memory()
                at_a_mark = self._plan.evaluates(step.number) or self._plan.saves(step.number)
                read = self._recorder.catch_up(behind=0 if at_a_mark else 1)  # the same step in all processes
                yield step
                if self._is_at_its_end(read):
                    return
        except WorkerError:
            if self._signals.received is None:
                raise
            raise Stop(self._signals.received) from None  # it ended the workers too: the steps since need not be lost

    @property
    def due(self) -> bool:
        """Whether the step that was just made is one to evaluate after."""
        return self._plan.evaluates(self.state.step) and self.state.evaluated_step < self.state.step

    def evaluate(self, split: str = "validation", *, model: Any = None) -> Evaluation:
        """Evaluate and record. If the split is validation and the model is the best so far, it is saved.

        Args:
            split: one of `loop.splits`.
            model: see `Loop.evaluate`; this model is then the one that is saved.
        """
        loop, state, began = self.loop, self.state, time.perf_counter()
        self._recorder.catch_up(behind=0)
        with self._signals.at_once(enabled=loop.accelerator.num_processes == 1):
            evaluation = loop.evaluate(split, model=model)  # where it is cut off, it is made first when the run goes on
        self._console.warn_once(undefined(loop.metrics, split, evaluation.metrics))
        if split != "validation":
            self.record(**{f"{split}/{name}": value for name, value in evaluation.metrics.items()})
            return evaluation
        self._journal.evaluation(state.step, evaluation)
        self._trackers.evaluation(state.step, evaluation)
        self._journal.phase("evaluation", time.perf_counter() - began, state.step)
        best = state.record(loop.metrics, evaluation)
        self._progress.evaluation(state.step, state.step / loop.steps_per_epoch, evaluation.metrics, best=best)
        if best:
            save_best(loop, self.folder, model=model)
        if self._main:
            began = time.perf_counter()
            self._write_report()
            self._journal.phase("report", time.perf_counter() - began, state.step)
        wait_for_first()
        return evaluation

    def record(self, **numbers: float) -> None:
        """Numbers of your own at this step, in `metrics.jsonl` and the trackers."""
        self._recorder.catch_up(behind=0)
        recorded = recordable(numbers)
        self._journal.record(self.state.step, recorded)
        self._trackers.record(self.state.step, recorded)

    def _record_step(self, step: Step) -> None:
        self._journal.step(step)
        if step.recorded:
            self._journal.record(step.number, step.recorded)
            self._trackers.record(step.number, step.recorded)

    def _is_at_its_end(self, read: Step | None = None) -> bool:
        """At the boundary after a step: evaluate and save what is due; whether the run stops early here.

        `read` is the last step whose numbers all processes have.

        Raises:
            Stop: a signal asks the run to end; its state is saved when the block is left.
        """
        if self._signals.agreed(self.loop.accelerator, read):
            raise Stop(self._signals.received or signal.SIGTERM)
        if self.due:
            self.evaluate()
        if self._plan.saves(self.state.step):
            self._save()
        config, state = self.loop.config, self.state
        if config.patience is not None and state.evaluations_since_best >= config.patience:
            metric = self.loop.metrics.main
            self._console.line(f"stopped early: no better {metric} in {state.evaluations_since_best} evaluations")
            return True
        return False

    def _save(self) -> None:
        self._recorder.catch_up(behind=0)
        now = (self.state.step, self.state.evaluated_step)
        if (self._main or self.loop.is_sharded) and self._saved != now:
            began = time.perf_counter()
            self.state.log = self._journal.mark()
            self._checkpoints.save(self.loop, self.state)
            self._saved = now
            self._journal.phase("checkpoint", time.perf_counter() - began, self.state.step)
        wait_for_first()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._is_over:
            return
        with self._held, self._at_work:
            if isinstance(error, Stop):
                self._save()
                raise self._stopped() from None
            if error is not None:
                raise error  # what is left here shall see it: it may be that another process has ended
            check_recorded(self.loop.number, self.state.step)
            if self._is_under_way:
                self._finish()
        if self._is_under_way:
            self._say_results()

    def _finish(self) -> None:
        """Judge the best model; the last file of all says that the run is finished."""
        loop, folder = self.loop, self.folder
        try:
            if self.state.best_step is None and self.state.evaluated_step < self.state.step:
                self.evaluate()  # the block was left before any
            self._recorder.catch_up(behind=0)
            loop.accelerator.wait_for_everyone()  # the model is whole on disk before anybody reads it
            with self._signals.at_once(enabled=loop.accelerator.num_processes == 1):
                results = judge(loop, folder, self.state, self._journal)
        except Stop:
            self._save()
            raise self._stopped() from None
        if self._effort.steps:
            self._journal.summary(self._effort.close(loop), self.state.step)
        if self._main:
            folder.write_manifest(results)
            self._write_report(results)
            folder.write_json("results.json", results)  # the last of all: what is cut off before is done again
        self.result = RunResult.of(folder.path, results)

    def _say_results(self) -> None:
        """The verdict, what it rests on, what it took, and where it is."""
        loop, folder, console, results = self.loop, self.folder, self._console, self.result.results
        yardstick = Yardstick.of(loop.metrics, constant_answer(loop.metrics, loop.splits["train"].targets))
        rows = {name: len(split) for name, split in loop.splits.items()}
        for split, entries in splits_of(results).items():
            console.warn_once(undefined(loop.metrics, split, {name: each["value"] for name, each in entries.items()}))
        console.lines(["", *said_of(results, rows, yardstick, briefly=console.several), ""])
        self.result = replace(self.result, advice=advice(results, yardstick))
        if loop.config.calibrate and not results["calibrated"]:
            console.warn(f"--calibrate: {NO_TEMPERATURE}")
        saved = f"{folder.model} (step {results['best_step']:,}); on one page: {folder.report}"
        if not console.several:  # what they came to follows after the last of them
            advised = [("advice", self.result.advice)] if self.result.advice else []
            effort = self._effort.lines(loop) if self._effort.steps else []
            console.fields([*advised, *effort, ("saved", saved)])

    def _write_report(self, results: Mapping[str, Any] | None = None) -> None:
        """Bring the run's page up to date."""
        _, reason = tried(lambda: write_report(self.folder, self.loop.data, results))
        if reason:
            self._console.warn(f"report.html was not written ({reason}); later: dongu report {typed(self.folder.path)}")

    def _note_memory(self) -> None:
        """Say once that the device ran out of memory, and remember the size that fits: a resumed run starts with it."""
        state, size = self.state, self.loop.train_updates.micro_batch_size
        if size < (state.micro_batch_size or self.loop.config.micro_batch_size or size):
            state.micro_batch_size = size
            said = f"memory ran out at step {state.step:,}: micro-batches of {size} from here on, the same updates"
            self._console.lines(wrapped(said))

    def _stopped(self) -> StoppedError:
        received = self._signals.received or signal.SIGTERM  # another process of the run got it
        number, file = self.state.step, self.loop.given.file
        command = f"dongu resume {typed(self.folder.path)}" + (f" --parts {typed(file)}" if file else "")
        return StoppedError(
            f"{received.name} ended the run after step {number:,} of {self.loop.total_steps:,}",
            exit_code=EXIT_CODES[received],
            hint=f"{'its state is saved; continue' if number else 'nothing was done yet; start'} with: {command}",
        )
