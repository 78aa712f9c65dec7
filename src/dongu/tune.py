"""A search for options: trials that validation judges, and the best of them held against the usual options on test.

Each trial is a run in a folder of its own, and the study is a file of Optuna beside them. So a search that was killed
goes on by the same command, and the same command started again beside it shares the work.
"""

from __future__ import annotations

import math
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dongu.comparison.pairs import compare_folders
from dongu.config import LOWER_IS_BETTER, make_config, option_flag
from dongu.consistency import without_meaning
from dongu.data.examples import read_examples
from dongu.data.sources import Source
from dongu.errors import InputError, LockedError, NonFiniteError, StoppedError, StorageError, UsageError
from dongu.files import make_folder
from dongu.loop import Loop
from dongu.own import Own, check_columns_read, take_own
from dongu.page.tuned import PAGE, setting, write_page
from dongu.relocation import relative_places
from dongu.run.console import Console
from dongu.run.folder import RunFolder
from dongu.run.identity import HARMLESS
from dongu.run.several import SEARCH
from dongu.running import Run
from dongu.space import Dimension, read_space
from dongu.sweep import options_in, other_options, refuse_other_rows, shared_by, train_seeds
from dongu.text import counted, decimals
from dongu.waiting import Waiting

STUDY = "study.db"
WAIT_SECONDS = 60  # for another process that writes to the study
FREE_TRIALS = 5  # drawn at random before what is known counts, and before a trial is pruned


def tune(
    source: Source,
    options: Mapping[str, Any],
    console: Console,
    *,
    trials: int = 20,
    minutes: float = math.inf,
    space: Sequence[str] = (),
    seeds: int = 3,
    parts: Path | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Search, train the best options and the usual ones with several seeds, and write OUT/tune.json and OUT/tune.html.

    The `options` are what all trials share, with `out`; `space` is as of `read_space`. There are so many `trials` in
    the end, of all processes together, and none begins after so many `minutes`. The best options and the usual ones
    are trained with so many `seeds`.

    Returns:
        OUT, and what tune.json holds; without `winner` where another process is to train it.

    Raises:
        UsageError: the space cannot be used, or OUT holds something else.
        InputError, LockedError, NonFiniteError, StorageError, WorkerError, StoppedError: as `train`.
    """
    began, options = time.monotonic(), dict(options)
    own = take_own(options, parts)  # the plain values among them are options
    check_columns_read(own, options.get("columns"))
    dimensions = read_space(space, options, without_meaning(own))
    out = Path(options.pop("out", None) or f"runs/{source.name}-tune")
    shared = _identity(options, dimensions, own, out)
    with _stored(out):
        study = _open(out, shared)
        search = _Search(study, source, options, dimensions, out, console, parts)
        search.begin()
        while (trial := search.next(trials, began + 60 * minutes)) is not None:
            search.run(trial)
        content: dict[str, Any] = {**shared, "trials": search.table()}
        done = [row for row in content["trials"] if row["state"] == "complete"]
        if not done:
            raise UsageError(
                "no trial came to an end", where=str(out), hint="give more --minutes, or a smaller --space"
            )
        try:
            with RunFolder(out / "locks" / "winner").lock():
                if any(row["state"] == "running" for row in content["trials"]):
                    console.line("other processes are still at their trials: the last of them trains the winner")
                    return out, content
                content |= _final(search, max(done, key=lambda row: row["score"]), seeds)
                RunFolder(out).write_json(SEARCH, content)
                write_page(out / PAGE, content)
        except LockedError:
            console.line("another process trains the winner")
    return out, content


@contextmanager
def _stored(out: Path) -> Iterator[None]:
    """
    Raises:
        StorageError: the file of the study cannot be read or written.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DatabaseError

    try:
        yield
    except (DatabaseError, StorageInternalError) as error:
        reason = getattr(error.__cause__, "orig", None) or error.__cause__ or error
        hint = "free some space, if there is none: the same command continues the search"
        raise StorageError(f"cannot be read or written ({reason})", where=str(out / STUDY), hint=hint) from error


@Waiting("opening the study")
def _open(out: Path, now: Mapping[str, Any]) -> Any:
    """The study in the folder, begun or gone on with.

    Raises:
        UsageError: the folder holds something else.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not (out / SEARCH).exists():
        try:
            RunFolder(out).refuse_if_taken()
            make_folder(out)
            RunFolder(out).write_json(SEARCH, now)
        except UsageError:
            if not (out / SEARCH).exists():  # else another process has begun the search just now
                raise
    other = ["options"] if other_options(now["options"], options_in(out, SEARCH)) else []
    other += ["space"] if RunFolder(out).read_json(SEARCH).get("space") != now["space"] else []
    if other:
        hint = "give what it was started with, or choose another --out"
        raise UsageError(f"holds a search with other {' and '.join(other)}", where=f"--out {out}", hint=hint)
    with _turn(out):  # Optuna makes its tables once
        return _study(out)


@contextmanager
def _turn(out: Path) -> Iterator[None]:
    """Wait for whoever has the lock of the study.

    Raises:
        LockedError: it has it for longer than anybody needs.
    """
    ending = time.monotonic() + WAIT_SECONDS
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(RunFolder(out / "locks" / "study").lock())
                break
            except LockedError:
                if time.monotonic() > ending:
                    raise
                time.sleep(0.1)
        yield


def _study(out: Path) -> Any:
    import optuna

    storage = optuna.storages.RDBStorage(
        f"sqlite:///{(out / STUDY).absolute()}", engine_kwargs={"connect_args": {"timeout": WAIT_SECONDS}}
    )
    pruner = optuna.pruners.MedianPruner(n_startup_trials=FREE_TRIALS)
    return optuna.create_study(
        storage=storage, study_name="dongu", direction="maximize", pruner=pruner, load_if_exists=True
    )


def _identity(options: Mapping[str, Any], space: Mapping[str, Dimension], own: Own, out: Path) -> dict[str, Any]:
    """What the trials of a folder have in common, as JSON has it."""
    shared = shared_by(make_config(options), space, own)
    ranges: dict[str, list[Any]] = {
        name: [*each.choices] if each.choices else [each.low, each.high, each.log] for name, each in space.items()
    }
    return {"options": shared, "relative_places": relative_places(shared, out), "space": ranges}


@dataclass
class _Search:
    """The study, and what its trials are made of."""

    study: Any
    source: Source
    options: Mapping[str, Any]
    space: Mapping[str, Dimension]
    out: Path
    console: Console
    parts: Path | None
    metric: str = ""
    sign: int = 1

    def folder(self, number: int) -> RunFolder:
        return RunFolder(self.out / f"trial-{number:04}")

    def next(self, most: int, deadline: float) -> Any:
        """A trial that nobody is at: one that was cut off, or a new one; None where there is nothing left to do."""
        import optuna

        with _turn(self.out):  # else two would both begin the last
            known = self.study.get_trials(deepcopy=False)
            for frozen in known:
                if frozen.state == optuna.trial.TrialState.RUNNING and not self._claim(frozen.number).is_locked:
                    return optuna.trial.Trial(self.study, frozen._trial_id)
            begun = [frozen for frozen in known if frozen.state != optuna.trial.TrialState.WAITING]
            if len(begun) >= most or time.monotonic() >= deadline:
                return None
            return self.study.ask()

    def _claim(self, number: int) -> RunFolder:
        return RunFolder(self.out / "locks" / f"trial-{number:04}")

    def begin(self) -> None:
        """Let a new study begin with what `dongu train` does, whose recipe knows the rows and the model.

        Raises:
            UsageError: its first trial was trained on other rows than these.
        """
        if self.study.get_trials(deepcopy=False):
            if (first := self.folder(0)).record.exists():
                refuse_other_rows(first, self.source, make_config(first.read_record()["options"]))
            return
        usual = self._loop().config
        begun = {name: dimension.place(getattr(usual, name)) for name, dimension in self.space.items()}
        if None not in begun.values():
            with _turn(self.out):
                self.study.enqueue_trial(begun, skip_if_exists=True)

    def _loop(self, **chosen: Any) -> Loop:
        data = read_examples(self.source, make_config({**self.options, **chosen}))
        given = {name: value for name, value in self.options.items() if name != "data"}  # which is read already
        return Loop(data, parts=self.parts, **{**given, **chosen})

    def run(self, trial: Any) -> None:
        """One trial, from where it stands; its result is in the study and in its folder."""
        import optuna

        with suppress(LockedError), self._claim(trial.number).lock():
            if self.study.get_trials(deepcopy=False)[trial.number].state != optuna.trial.TrialState.RUNNING:
                return  # another process came first, and has finished it
            seed = make_config(self.options).seed
            # By the trial's number, so that a search that was killed proposes what it would have proposed.
            self.study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=FREE_TRIALS, seed=(seed + 7919 * trial.number) % 2**32
            )
            chosen = {name: dimension.suggest(trial) for name, dimension in self.space.items()}
            said = ", ".join(f"{option_flag(name)} {setting(value)}" for name, value in chosen.items())
            self.console.line(f"trial {trial.number}: {said}")
            try:
                score, pruned = self._train(trial, chosen)
            except NonFiniteError as error:
                self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
                self.console.line(f"  {error.what}")
                return
            except StoppedError as error:
                error.hint = "its state is saved; the same command continues the search"
                raise
            state = optuna.trial.TrialState
            if pruned or math.isnan(score):
                self.study.tell(trial, state=state.PRUNED)
            else:
                self.study.tell(trial, score)
            self._tidy()
            scores = [row["score"] for row in self.table() if row["state"] == "complete"]
            best = decimals(self.sign * max(scores, default=math.nan))
            end = "given up: others were better at this point" if pruned else f"best so far {best}"
            self.console.line(f"  {self.metric} on validation {decimals(self.sign * score)}; {end}")

    def _train(self, trial: Any, chosen: Mapping[str, Any]) -> tuple[float, bool]:
        """The best score on validation, larger is better, and whether the trial was given up."""
        folder = self.folder(trial.number)
        loop = self._loop(**chosen, out=str(folder.path))
        self.metric = loop.metrics.main
        sign = self.sign = -1 if self.metric in LOWER_IS_BETTER else 1
        told = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values  # before it was cut off
        with Run(loop, folder.path) as run:
            for _ in run:
                if not run.due:
                    continue
                value = sign * run.evaluate()[self.metric]
                # Which evaluation it is: the last one may come sooner than the others.
                step = math.ceil(run.state.step / (loop.config.eval_steps or loop.steps_per_epoch))
                if not math.isnan(value) and step not in told:
                    trial.report(value, step)
                if run.state.step < loop.total_steps and trial.should_prune():
                    break
        # Asked of the study, not remembered: the trial may have been killed between its end and here.
        pruned = run.result.results["steps"] < loop.total_steps and trial.should_prune()
        return sign * run.result.metrics[self.metric], pruned

    def _tidy(self) -> None:
        """Take the models and checkpoints of all finished trials but the best one: their records stay."""
        with suppress(ValueError):  # there is no best one yet
            best = self.study.best_trial.number
            for frozen in self.study.get_trials(deepcopy=False):
                folder = self.folder(frozen.number)
                if frozen.number != best and frozen.state.is_finished():
                    for path in (folder.model, folder.checkpoints):
                        if path.is_dir() and not path.is_symlink():
                            shutil.rmtree(path, ignore_errors=True)

    def table(self) -> list[dict[str, Any]]:
        """A row a trial, in their order."""
        return [
            {
                "trial": frozen.number,
                "state": frozen.state.name.lower(),
                "score": frozen.value if frozen.state.name == "COMPLETE" else _last(frozen.intermediate_values),
                "evaluations": [value for _, value in sorted(frozen.intermediate_values.items())],
                "options": frozen.params,
            }
            for frozen in self.study.get_trials(deepcopy=False)
            if frozen.state.name != "WAITING"
        ]

    @Waiting("weighing the options")
    def importance(self) -> dict[str, float]:
        """The share of each option in how far apart the trials are; empty where there are too few of them."""
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

        with suppress(ValueError, RuntimeError, UserWarning), warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # that the trials are too few
            return dict(get_param_importances(self.study, evaluator=PedAnovaImportanceEvaluator()))
        return {}


def _final(search: _Search, best: Mapping[str, Any], seeds: int) -> dict[str, Any]:
    """Train the winner and the usual options with the same seeds; how far apart they are on the rows of test."""
    out, console, options = search.out, search.console, search.options
    chosen = best["options"]
    console.line()
    console.line(
        f"the winner is trial {best['trial']}; it and the usual options are trained with {counted(seeds, 'seed')}"
    )
    sides: dict[str, dict[str, Any]] = {}
    fresh = make_config(options).seed + 1  # the trials' own seed is part of what the winner was chosen by
    for name, own in (("default", {}), ("winner", chosen)):
        if sides and _recipe(out / "default" / f"seed-{fresh}") == _recipe(search.folder(best["trial"]).path):
            sides[name] = sides["default"]  # the same runs again would be the same bytes
            continue
        recipe = {**options, **own, "seed": fresh, "out": str(out / name)}
        sides[name] = train_seeds(search.source, seeds, recipe, Console(enabled=False), parts=search.parts)[1]
    metric, is_default = sides["winner"]["metric"], sides["winner"] is sides["default"]
    sign = -1 if metric in LOWER_IS_BETTER else 1
    content: dict[str, Any] = {
        "metric": metric,
        "importance": search.importance(),
        "winner": {
            "trial": best["trial"],
            "options": chosen,
            "is_default": is_default,
            "score": sign * best["score"],
            "seeds": sides["winner"],
        },
        "default": {"seeds": sides["default"]},
    }
    if is_default:
        return content
    if seeds == 1:
        return {**content, "no_gain": "one seed has no spread; the same command with --seeds 3 measures it"}
    try:
        comparison = compare_folders([out / "default", out / "winner"])
    except InputError as error:
        return {**content, "no_gain": error.what}
    difference = comparison.pairs[0].differences.get(metric)
    if difference is None:
        return {**content, "no_gain": f"{metric} is a metric of your own"}
    ends = {"value": difference.value, "low": difference.low, "high": difference.high}
    return {**content, "gain": {"split": comparison.split, **ends}}


def _recipe(run: Path) -> dict[str, Any]:
    """The options of a run that its result depends on, but for the seed."""
    options = RunFolder(run).read_record()["options"]
    return {name: value for name, value in options.items() if name not in {*HARMLESS, "seed"}}


def _last(values: Mapping[int, float]) -> float | None:
    return values[max(values)] if values else None
