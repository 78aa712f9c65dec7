"""A run that is killed, stopped, raced for or robbed of its worker ends in the bytes of one that was left alone."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from conftest import EXHAUSTIVE
from dongu.cli.main import run as run_command
from dongu.run.checkpoint import Checkpoint, Checkpoints
from dongu.run.signals import StopSignals
from drivers import HANGS, Driver, Pool
from forked import fork

pytestmark = pytest.mark.crash

STEPS = 24  # 61 rows, 8 an update, 3 epochs; the last update of an epoch has 5 rows, so micro-batches of 3 and 2
STEPS_PER_EPOCH = 8
OPTIONS = {
    "--recipe": "original",
    "--epochs": "3",
    "--batch-size": "8",
    "--micro-batch-size": "3",
    "--lr": "2e-3",
    "--warmup": "0.2",
    "--save-steps": "2",
    "--eval-steps": "5",
    "--device": "cpu",
    "--threads": "1",
}
SCENARIOS: dict[str, dict[str, str]] = {
    "dropout and accumulation": {},
    "grouped by length": {"--group-by-length": ""},
    "early stopping": {"--patience": "2", "--lr": "1e-5"},  # no row changes its class, many weights change
    "clipping and cosine": {"--max-grad-norm": "0.5", "--lr-scheduler": "cosine", "--keep": "1"},
    "data workers": {"--workers": "1"},
    "regression on pairs": {"--task": "regression"},
}
EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129, signal.SIGUSR1: 143}
CHANGING = {"run.json", "timing.jsonl", "report.html", ".lock"}  # paths and changes, times twice, who wrote last
GRACE_SECONDS = 2  # after a step


@dataclass(frozen=True)
class Recipe:
    """One way to train, and the bytes that it comes to when nobody disturbs it."""

    folder: Path
    train: list[str]
    wanted: dict[str, bytes]
    seconds: float  # that it took

    def next_command(self, run: Path) -> list[str] | None:
        """What goes on with a run; None where it is finished."""
        if (run / "results.json").exists():
            return None
        return ["resume", str(run)] if (run / "run.json").exists() else [*self.train, "--out", str(run)]

    def finish(self, driver: Driver, run: Path, **request: Any) -> None:
        """Go on undisturbed, and compare."""
        if (command := self.next_command(run)) is not None:
            answer = driver.ask(arguments=command, **request)
            assert answer["code"] == 0, answer["output"]
        self.check(run)

    def check(self, run: Path) -> None:
        """The same files with the same bytes, and each step's time once."""
        got = content(run)
        assert sorted(got) == sorted(self.wanted)
        assert [name for name in got if got[name] != self.wanted[name]] == []
        timing = (run / "timing.jsonl").read_text(encoding="utf-8")
        assert timing.endswith("\n")
        lines = [json.loads(line) for line in timing.splitlines()]
        steps = json.loads(self.wanted["results.json"])["steps"]
        assert [line["step"] for line in lines if line["event"] == "step"] == list(range(1, steps + 1))


def content(run: Path) -> dict[str, bytes]:
    """Every file of a run by its path, empty where the bytes may differ; and every folder."""
    return {
        str(path.relative_to(run)): path.read_bytes() if path.is_file() and path.name not in CHANGING else b""
        for path in run.rglob("*")
    }


def checkpoint_steps(run: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*"))


def logged(run: Path) -> list[int]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines() if run.is_dir() else []
    return [line["step"] for line in map(json.loads, lines) if line["event"] == "step"]


def report(name: str, counts: Mapping[str, Any]) -> None:
    """Print what was reached, and add it to the file that `DONGU_CRASH_REPORT` names."""
    print(f"\n{name}: {json.dumps(counts, sort_keys=True)}")
    if path := os.environ.get("DONGU_CRASH_REPORT"):
        file = Path(path)
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        file.write_text(json.dumps({**known, name: counts}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def undisturbed(
    tiny_model: Callable[..., str],
    shared_data_folder: Callable[..., str],
    make_rows: Callable[..., list[dict[str, str]]],
    server: Callable[[], Driver],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[tuple[tuple[str, str], ...]], Recipe]:
    """The recipe of some changed options, whose undisturbed run all tests share."""

    @functools.cache
    def make(options: tuple[tuple[str, str], ...]) -> Recipe:
        folder, sizes = tmp_path_factory.mktemp("recipe"), {"train": 61, "validation": 13, "test": 7}
        data = Path(shared_data_folder(**sizes))
        if ("--task", "regression") in options:
            data, draw = folder / "data", random.Random(5)
            data.mkdir()
            for name, rows in sizes.items():
                lines = [{**row, "label": draw.uniform(0, 5)} for row in make_rows(rows, pair=True, seed=rows)]
                (data / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        flags = [part for item in (OPTIONS | dict(options)).items() for part in item if part]
        train = ["train", str(data), "--model", tiny_model(dropout=0.2), *flags]
        answer = server().ask(arguments=[*train, "--out", str(folder / "undisturbed")])
        assert answer["code"] == 0, answer["output"]
        return Recipe(folder, train, content(folder / "undisturbed"), answer["seconds"])

    return make


@pytest.fixture
def make_recipe(undisturbed: Callable[[tuple[tuple[str, str], ...]], Recipe], tmp_path: Path) -> Callable[..., Recipe]:
    """`make_recipe(**changed_options)`, with the undisturbed run made, and a folder for others."""

    def make(options: Mapping[str, str] = OPTIONS) -> Recipe:
        return replace(undisturbed(tuple(sorted(options.items() - OPTIONS.items()))), folder=tmp_path)

    return make


def soon(draw: random.Random) -> float:
    """Just after a phase has begun, or somewhere in a save."""
    return draw.uniform(0, 0.003 if draw.random() < 0.5 else 0.012)


def kill_plan(number: int, draw: random.Random, life_seconds: float) -> list[dict[str, Any]]:
    """When to kill the lives of run `number`."""
    if number == 0:  # in a row, so that the run hardly gets on between them
        return [{"phase": "save", "occurrence": 1, "delay": soon(draw)} for _ in range(6)]
    aims: list[dict[str, Any]] = [{"delay": draw.uniform(0, life_seconds)} for _ in range(2)]
    for phase in ("save", "evaluation", "export"):
        aims.append({"phase": phase, "occurrence": draw.choice([1, 1, 2]), "delay": soon(draw)})
    aims.append(
        {"phase": "retention", "occurrence": 3, "delay": draw.uniform(0, 0.0005)}
    )  # the first has nothing to do
    draw.shuffle(aims)
    return [*aims, {"phase": "judging", "delay": draw.uniform(0, 0.04)}]


def test_a_child_killed_as_it_prints_holds_up_no_other(tmp_path: Path) -> None:
    def killed() -> int:
        tqdm.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    def prints() -> int:
        signal.alarm(5)
        tqdm.write("a line")
        return 0

    tqdm.get_lock()  # as in a process that has shown a bar
    with (tmp_path / "output").open("wb") as output:
        codes = [os.waitstatus_to_exitcode(os.waitpid(fork(work, output.fileno()), 0)[1]) for work in (killed, prints)]
    assert codes == [-signal.SIGKILL, 0]


@pytest.mark.parametrize(
    "scenario",
    [next(iter(SCENARIOS)), *(pytest.param(name, marks=pytest.mark.exhaustive) for name in [*SCENARIOS][1:])],
)
def test_a_run_killed_anywhere_ends_in_the_same_bytes(
    scenario: str, make_recipe: Callable[..., Recipe], make_pool: Callable[..., Pool]
) -> None:
    recipe = make_recipe(SCENARIOS[scenario])
    steps = json.loads(recipe.wanted["results.json"])["steps"]
    assert (steps < STEPS) == (scenario == "early stopping")
    pool = make_pool()
    places: Counter[str] = Counter()
    in_one_epoch = 0

    def one_run(driver: Driver, number: int) -> None:
        nonlocal in_one_epoch
        run, draw = recipe.folder / f"run-{number}", random.Random(f"{scenario} {number}")
        epochs: Counter[int] = Counter()
        for aim in kill_plan(number, draw, recipe.seconds):
            if (command := recipe.next_command(run)) is None:
                break
            answer = driver.ask(arguments=command, signals=[signal.SIGKILL], **aim)
            assert answer["code"] in (0, -signal.SIGKILL), answer["output"]
            if answer["code"] != 0:
                inside = answer["phases"]
                places["judging" if "judging" in inside else inside[-1] if inside else "set-up"] += 1
                if "steps" in inside:
                    epochs[max(checkpoint_steps(run), default=0) // STEPS_PER_EPOCH] += 1
        recipe.finish(driver, run)
        in_one_epoch = max(in_one_epoch, *epochs.values(), 0)

    runs = 7 if EXHAUSTIVE else 2
    pool.map(one_run, range(runs))
    while not enough(places) and runs < 14:
        pool.map(one_run, range(runs, runs + pool.size))
        runs += pool.size
    report(f"kills: {scenario}", {**places, "all": places.total(), "runs": runs, "in one epoch": in_one_epoch})
    assert enough(places), places
    assert in_one_epoch >= (5 if EXHAUSTIVE else 2)


def enough(places: Counter[str]) -> bool:
    """A sixth of 200 kills, 30 of them in a save, 10 in an evaluation, 10 while the best model is kept or judged."""
    least = (34, 6, 2, 2) if EXHAUSTIVE else (9, 2, 1, 1)
    saving, keeping = places["save"] + places["retention"], places["export"] + places["judging"]
    found = (places.total(), saving, places["evaluation"], keeping)
    return all(count >= wanted for count, wanted in zip(found, least, strict=True))


def check_stopped(run: Path, answer: Mapping[str, Any], number: int) -> None:
    """The command ended by itself, soon, at a step boundary, and said what is to do."""
    assert answer["code"] == EXIT_CODES[signal.Signals(number)], answer["output"]
    assert answer["seconds"] < GRACE_SECONDS, answer
    if found := re.search(r"ended the run after step (\d+) of 24\n(.*)", answer["output"]):
        assert f"dongu resume {run}" in found[2]
        if step := int(found[1]):
            state = Checkpoint.read(run / "checkpoints" / f"step-{step:08}").state
            assert state.step == step
            assert logged(run) == list(range(1, step + 1))
    else:
        assert "dongu: stopped by" in answer["output"]
        assert "steps" not in answer["at"], "the run had begun, and does not know of the signal"


def test_a_signal_ends_a_run_at_a_step_boundary(
    make_recipe: Callable[..., Recipe], make_pool: Callable[..., Pool]
) -> None:
    recipe = make_recipe()
    pool = make_pool()
    places: Counter[str] = Counter()

    def one_run(driver: Driver, number: int) -> None:
        run, draw = recipe.folder / f"run-{number}", random.Random(f"signals {number}")
        aims: list[dict[str, Any]] = [
            {"phase": "set-up", "delay": draw.uniform(0, recipe.seconds)},
            {"phase": "evaluation", "occurrence": draw.choice([1, 2]), "delay": draw.uniform(0, 0.003)},
            {"phase": draw.choice(["save", "export", "steps", "judging"]), "delay": draw.uniform(0, 0.03)},
        ]
        for aim in aims:
            if (command := recipe.next_command(run)) is None:
                break
            chosen = draw.choice(list(EXIT_CODES))
            answer = driver.ask(arguments=command, signals=[chosen], **aim)
            if answer["sent"] == 0 or answer["code"] == 0:
                assert (run / "results.json").exists(), answer["output"]
                break  # it was finished, or as good as that
            if (run / "results.json").exists():
                break  # it was printing the results
            check_stopped(run, answer, chosen)
            inside = answer["at"]
            places["judging" if "judging" in inside else inside[-1]] += 1
        recipe.finish(driver, run)

    runs, least, evaluations = (17, 50, 10) if EXHAUSTIVE else (4, 8, 2)
    pool.map(one_run, range(runs))
    while (places.total() < least or places["evaluation"] < evaluations) and runs < 40:
        pool.map(one_run, range(runs, runs + pool.size))
        runs += pool.size
    report("signals", {**places, "all": places.total(), "runs": runs})
    assert places.total() >= least
    assert places["evaluation"] >= evaluations


def test_a_second_signal_ends_it_at_once_and_harms_nothing(
    make_recipe: Callable[..., Recipe], make_pool: Callable[..., Pool]
) -> None:
    recipe = make_recipe()
    pool = make_pool()
    hit: Counter[str] = Counter()

    def one_run(driver: Driver, number: int) -> None:
        run, draw = recipe.folder / f"run-{number}", random.Random(f"second signal {number}")
        phase = ["save", "evaluation", "export", "steps", "judging"][number % 5]
        first, second = draw.choice(list(EXIT_CODES)), draw.choice(list(EXIT_CODES))
        answer = driver.ask(
            arguments=recipe.next_command(run),
            phase=phase,
            delay=draw.uniform(0, 0.01 if phase == "steps" else 0.003),
            signals=[first, second],
            gap=draw.uniform(0, 0.003),
        )
        assert answer["code"] in {EXIT_CODES[first], EXIT_CODES[second]}, answer["output"]
        assert answer["seconds"] < GRACE_SECONDS
        hit["at once" if "steps" in answer["phases"] else "first was enough"] += 1
        recipe.finish(driver, run)

    least, runs = (10, 15) if EXHAUSTIVE else (3, 5)
    pool.map(one_run, range(runs))
    while hit["at once"] < least and runs < 40:  # how many come in time is the machine's to say
        pool.map(one_run, range(runs, runs + pool.size))
        runs += pool.size
    report("second signals", hit)
    assert hit["at once"] >= least


def test_a_signal_before_the_first_step_costs_nothing(
    make_recipe: Callable[..., Recipe], make_pool: Callable[..., Pool]
) -> None:
    recipe = make_recipe()
    pool = make_pool()
    before_the_run = 0

    def one_run(driver: Driver, number: int) -> None:
        nonlocal before_the_run
        run, draw = recipe.folder / f"run-{number}", random.Random(f"early signal {number}")
        environment = {"DONGU_CACHE": str(recipe.folder / f"cache-{number}")}  # or there would be no tokenizing
        chosen = list(EXIT_CODES)[number % len(EXIT_CODES)]
        aim = {"phase": "set-up", "delay": draw.uniform(0, 0.2), "signals": [chosen]}
        answer = driver.ask(arguments=recipe.next_command(run), environment=environment, **aim)
        check_stopped(run, answer, chosen)
        before_the_run += "steps" not in answer["phases"]
        recipe.finish(driver, run, environment=environment)

    pool.map(one_run, range(8 if EXHAUSTIVE else 4))
    report("signals before the first step", {"all": before_the_run})
    assert before_the_run >= (6 if EXHAUSTIVE else 2)


def test_a_signal_as_a_run_begins_is_the_runs(
    tiny_model: Callable[..., str],
    data_folder: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It says how to go on, as after any step."""
    run = tmp_path / "run"
    monkeypatch.setattr(Checkpoints, "retire", lambda *_: signal.raise_signal(signal.SIGTERM))  # what a run does first
    train = ["train", data_folder(), "--model", tiny_model(), "--device", "cpu", "--threads", "1", "--out", str(run)]
    assert run_command(train) == 143
    output = capsys.readouterr().err
    assert "ended the run after step 0 of" in output
    assert f"start with: dongu resume {run}" in output


def test_a_signal_whose_exception_is_swallowed_is_not_lost() -> None:
    with StopSignals() as command, command.at_once():
        with contextlib.suppress(BaseException):  # as Python does in a `__del__` or a weak reference's callback
            signal.raise_signal(signal.SIGTERM)
        with StopSignals() as run:
            assert run.received == signal.SIGTERM


def test_a_signal_too_late_for_a_run_ends_the_next_of_several() -> None:
    with StopSignals() as command, command.at_once():
        with StopSignals():
            signal.raise_signal(signal.SIGTERM)
        with StopSignals() as following:
            assert following.received == signal.SIGTERM


@pytest.mark.exhaustive
def test_a_run_that_is_held_for_a_while_goes_on(
    make_recipe: Callable[..., Recipe], make_pool: Callable[..., Pool]
) -> None:
    recipe = make_recipe()

    def held(driver: Driver, options: list[str]) -> None:
        run = recipe.folder / f"held-{len(options)}"
        arguments = [*recipe.train, *options, "--out", str(run)]
        signals = [signal.SIGSTOP, signal.SIGCONT]
        answer = driver.ask(arguments=arguments, phase="steps", delay=0.1, signals=signals, gap=0.5)
        assert (answer["sent"], answer["code"]) == (2, 0), answer["output"]
        recipe.check(run)

    make_pool().map(held, [[], ["--workers", "1"]])


def test_of_many_only_one_writes(make_recipe: Callable[..., Recipe], make_pool: Callable[..., Pool]) -> None:
    recipe = make_recipe({"--epochs": "6"})  # long enough that the last one finds it running
    pool = make_pool(8)
    for number in range(3 if EXHAUSTIVE else 1):
        run = recipe.folder / f"run-{number}"
        request = {"arguments": [*recipe.train, "--out", str(run)], "start": time.monotonic() + 0.3}
        answers = pool.map(lambda driver, asked: driver.ask(**asked), [request] * 8)
        codes = sorted(answer["code"] for answer in answers)
        assert codes == [0, *[7] * 7], [answer["output"] for answer in answers if answer["code"] not in (0, 7)]
        (writer,) = (answer["pid"] for answer in answers if answer["code"] == 0)
        for answer in answers:
            if answer["code"] == 7:
                assert f"{run}: process {writer} on {platform.node()} writes to this run" in answer["output"]
        recipe.check(run)


@pytest.mark.cases(test=0, ci=1)
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_killed_writer_leaves_no_lock(
    workers: str, make_recipe: Callable[..., Recipe], make_pool: Callable[..., Pool]
) -> None:
    recipe = make_recipe({"--workers": workers})
    pool = make_pool()

    def one_run(driver: Driver, number: int) -> None:
        run = recipe.folder / f"run-{number}"
        train = [*recipe.train, "--out", str(run)]
        answer = driver.ask(arguments=train, phase="steps", delay=0.1 * number, signals=[signal.SIGKILL])
        assert answer["code"] == -signal.SIGKILL
        answer = driver.ask(arguments=train)
        assert answer["code"] == 2, answer["output"]
        assert f"dongu resume {run}" in answer["output"]
        recipe.finish(driver, run)

    pool.map(one_run, range(4) if EXHAUSTIVE else [1, 3])


@pytest.mark.exhaustive
def test_a_signal_to_the_workers_too_ends_a_run_at_a_step_boundary(
    make_recipe: Callable[..., Recipe], make_pool: Callable[..., Pool]
) -> None:
    recipe = make_recipe()

    def one_run(driver: Driver, number: int) -> None:
        run, draw = recipe.folder / f"run-{number}", random.Random(f"all processes {number}")
        chosen = [signal.SIGTERM, signal.SIGINT][number % 2]
        phase = ["steps", "save", "evaluation"][number % 3]
        arguments = [*recipe.train, "--workers", "1", "--out", str(run)]
        delay = draw.uniform(0.03, 0.2) if phase == "steps" else soon(draw)
        answer = driver.ask(arguments=arguments, to="all", phase=phase, delay=delay, signals=[chosen])
        check_stopped(run, answer, chosen)
        recipe.finish(driver, run)

    make_pool().map(one_run, range(9 if EXHAUSTIVE else 3))


FAULTS = [
    {"in": "training", "kind": "dies", "index": 9},
    {"in": "training", "kind": "raises", "index": 9},
    {"in": "training", "kind": "hangs", "index": 9},
    {"in": "training", "kind": "dies", "index": 0},
    {"in": "evaluation", "kind": "dies", "index": 0},
    {"in": "evaluation", "kind": "raises", "index": 0},
    {"in": "evaluation", "kind": "hangs", "index": 0},
]


@pytest.mark.exhaustive
def test_a_worker_that_fails_is_an_error_and_costs_no_byte(
    make_recipe: Callable[..., Recipe], make_pool: Callable[..., Pool]
) -> None:
    recipe = make_recipe()

    def one_run(driver: Driver, number: int) -> None:
        run = recipe.folder / f"run-{number}"
        arguments = [*recipe.train, "--workers", "1", "--out", str(run)]
        answer = driver.ask(arguments=arguments, fault=FAULTS[number])
        assert answer["code"] == 8, (FAULTS[number], answer["output"])
        assert driver.ask(orphans=0.5)["orphans"] == 0, "the error ends all workers"
        assert "dongu resume RUN --workers 0" in answer["output"]
        answer = driver.ask(arguments=["resume", str(run), "--workers", "0"])
        assert answer["code"] == 0, answer["output"]
        recipe.check(run)

    make_pool(4).map(one_run, range(len(FAULTS)))


@pytest.mark.exhaustive
def test_a_worker_whose_run_was_killed_while_it_started_does_not_live_on(
    make_recipe: Callable[..., Recipe], make_pool: Callable[..., Pool]
) -> None:
    recipe = make_recipe()

    def one_run(driver: Driver, run: Path) -> None:
        arguments = [*recipe.train, "--workers", "1", "--out", str(run)]
        answer = driver.ask(arguments=arguments, fault={"in": "training", "kind": "survives", "index": 0})
        assert answer["code"] == -signal.SIGKILL, answer["output"]
        recipe.finish(driver, run)

    make_pool(1).map(one_run, [recipe.folder / "run"])  # and the pool sees that nothing lives on


def test_a_worker_killed_at_any_time_is_an_error_and_costs_no_byte(
    make_recipe: Callable[..., Recipe], make_pool: Callable[..., Pool]
) -> None:
    recipe = make_recipe()
    killed: Counter[str] = Counter()

    def one_run(driver: Driver, number: int) -> None:
        run, draw = recipe.folder / f"run-{number}", random.Random(f"worker {number}")
        phase = ["steps", "save", "evaluation", "export"][number % 4]
        delay = draw.uniform(0.03, 0.3) if phase == "steps" else soon(draw)
        arguments = [*recipe.train, "--workers", "1", "--out", str(run)]
        answer = driver.ask(arguments=arguments, to="worker", phase=phase, delay=delay, signals=[signal.SIGKILL])
        if answer["sent"] and answer["code"] != 0:
            assert answer["code"] == 8, answer["output"]
            assert answer["seconds"] < 10
            assert driver.ask(orphans=0.5)["orphans"] == 0
            killed[phase] += 1
        recipe.finish(driver, run)

    make_pool().map(one_run, range(12 if EXHAUSTIVE else 4))
    report("killed workers", {**killed, "all": killed.total()})
    assert killed.total() >= (8 if EXHAUSTIVE else 2)


@pytest.fixture(scope="module")
def undisturbed_two(
    tiny_model: Callable[..., str],
    shared_data_folder: Callable[..., str],
    server: Callable[[], Driver],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[float], Recipe]:
    """The recipe of two processes with this much dropout."""

    @functools.cache
    def make(dropout: float) -> Recipe:
        folder, options = tmp_path_factory.mktemp("two"), {**OPTIONS, "--epochs": "2"}
        data, pool = shared_data_folder(train=61, validation=13, test=7), Pool(server, 2)
        train = ["train", data, "--model", tiny_model(dropout=dropout), *chain(*options.items())]
        answers = pool.ranks([*train, "--out", str(folder / "undisturbed")])
        assert [answer["code"] for answer in answers] == [0, 0], answers[0]["output"]
        return Recipe(folder, train, content(folder / "undisturbed"), answers[0]["seconds"])

    return make


@pytest.fixture(params=[0.2])
def two_processes(
    request: pytest.FixtureRequest,
    undisturbed_two: Callable[[float], Recipe],
    make_pool: Callable[..., Pool],
    tmp_path: Path,
) -> tuple[Recipe, Pool]:
    """The same with a folder of its own, and a pair of drivers."""
    return replace(undisturbed_two(request.param), folder=tmp_path), make_pool(2)


def test_two_processes_end_together_at_a_step_boundary(two_processes: tuple[Recipe, Pool]) -> None:
    recipe, pool = two_processes
    cases = [("steps", (1,)), ("save", (0,)), ("evaluation", (0, 1))]
    if EXHAUSTIVE:
        cases += [("steps", (0, 1)), ("evaluation", (0,)), ("evaluation", (1,))]
    for number, (phase, signalled) in enumerate(cases):
        run, draw = recipe.folder / f"run-{number}", random.Random(f"ranks {number}")
        aim = {"phase": phase, "delay": draw.uniform(0.05, 0.2) if phase == "steps" else draw.uniform(0, 0.003)}
        requests = [{**aim, "signals": [signal.SIGTERM]} if rank in signalled else {} for rank in (0, 1)]
        answers = pool.ranks([*recipe.train, "--out", str(run)], *requests)
        assert [answer["code"] for answer in answers] == [143, 143], (phase, signalled, answers[0]["output"])
        (step,) = re.findall(r"ended the run after step (\d+) of 16", answers[0]["output"])
        assert Checkpoint.read(run / "checkpoints" / f"step-{int(step):08}").state.step == int(step)
        assert logged(run) == list(range(1, int(step) + 1))
        answers = pool.ranks(["resume", str(run)])
        assert [answer["code"] for answer in answers] == [0, 0], answers[0]["output"]
        recipe.check(run)


def test_two_killed_processes_go_on_to_the_same_bytes(two_processes: tuple[Recipe, Pool]) -> None:
    recipe, pool = two_processes
    run = recipe.folder / "run"
    kill = {"signals": [signal.SIGKILL]}
    for phase, delay in (("steps", 0.2), ("evaluation", 0.002), ("judging", 0.01)):
        command = recipe.next_command(run)
        assert command is not None
        answers = pool.ranks(command, *[{**kill, "phase": phase, "delay": delay}] * 2)
        assert [answer["code"] for answer in answers] == [-9, -9], answers[0]["output"]
    answers = pool.ranks(["resume", str(run)])
    assert [answer["code"] for answer in answers] == [0, 0], answers[0]["output"]
    recipe.check(run)


@pytest.mark.parametrize("two_processes", [0.0], indirect=True)  # micro-batches, and so dropout, fall otherwise
def test_one_process_goes_on_for_two_and_says_so(two_processes: tuple[Recipe, Pool], server: Any) -> None:
    recipe, pool = two_processes
    run = recipe.folder / "run"
    stop = {"phase": "save", "occurrence": 2, "signals": [signal.SIGTERM]}
    pool.ranks([*recipe.train, "--out", str(run)], stop, {})
    answer = server().ask(arguments=["resume", str(run)])
    assert answer["code"] == 0, answer["output"]
    assert "WARNING: the run has 1 process, and had 2" in answer["output"]
    pairs = zip(lines_of((run / "metrics.jsonl").read_bytes()), lines_of(recipe.wanted["metrics.jsonl"]), strict=True)
    for got, wanted in pairs:
        assert got == {
            name: pytest.approx(value, rel=1e-5) if name in ("loss", "grad_norm") else value
            for name, value in wanted.items()
        }


def lines_of(log: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines()]


def start(*command: str, **environment: str) -> subprocess.Popen[str]:
    """A real process, with its two outputs as one."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**variables, **environment}
    )


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + HANGS
    while not (run / "metrics.jsonl").exists() or max(logged(run), default=0) < step:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_real_command_ends_with_its_code(make_recipe: Callable[..., Recipe], server: Callable[[], Driver]) -> None:
    recipe = make_recipe()
    run = recipe.folder / "run"
    with start(sys.executable, "-m", "dongu", *recipe.train, "--out", str(run)) as process:
        wait_for_step(run, 3)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 143
    assert "SIGTERM: ending after this step" in output
    assert "dongu: SIGTERM ended the run after step" in output
    assert "Traceback" not in output
    recipe.finish(server(), run)


@pytest.mark.exhaustive
def test_an_ignored_signal_stays_ignored(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe()
    run = recipe.folder / "run"
    with start("nohup", sys.executable, "-m", "dongu", *recipe.train, "--out", str(run)) as process:
        wait_for_step(run, 3)
        process.send_signal(signal.SIGHUP)
        output, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 0, output
    recipe.check(run)


@pytest.mark.exhaustive
def test_a_launcher_that_is_told_to_end_saves(two_processes: tuple[Recipe, Pool]) -> None:
    recipe, pool = two_processes
    run = recipe.folder / "run"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "dongu"]
    with start(sys.executable, *launcher, *recipe.train, "--out", str(run)) as process:
        wait_for_step(run, 3)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=HANGS)
    assert process.returncode != 0
    (step,) = re.findall(r"SIGTERM ended the run after step (\d+) of 24", output)
    assert Checkpoint.read(run / "checkpoints" / f"step-{int(step):08}").state.step == int(step)
    answers = pool.ranks(["resume", str(run)])
    assert [answer["code"] for answer in answers] == [0, 0], answers[0]["output"]
    recipe.check(run)
