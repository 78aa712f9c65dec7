"""Two processes write sharded checkpoints together, and the power fails at every operation of either.

The processes are threads here, of which one runs at a time. Before each operation of the disk, and where one waits for
the other, a seed draws who goes on: so their writes mingle in many ways, and each way can be had again. The disk, what
was promised, and how a picture is judged are those of `test_power_loss.py`.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_power_loss import (
    ALL,
    BROKEN,
    IDENTITY,
    KilledError,
    Machine,
    Promise,
    Story,
    in_place,
    judge,
    log_line,
    make_checkpoints,
    photographer,
    put,
    recover,
    report,
    running_on,
    update,
)

import dongu.run.checkpoint
import dongu.run.sharded
from conftest import EXHAUSTIVE
from dongu.errors import StorageError
from dongu.files import disk
from dongu.own import Own
from dongu.run.checkpoint import RunState
from dongu.run.folder import RunFolder
from dongu.run.journal import Journal
from dongu.run.sharded import Together
from dongu.run.tensors import referenced_tensors

RANKS = (0, 1)
SAVES = 3


class Turns:
    """Threads of which one runs, as a seed draws it; they exchange things where all have come."""

    def __init__(self, seed: int) -> None:
        self._draw, self._baton, self._rank = random.Random(seed), threading.Condition(), threading.local()
        self._ready, self._things = {*RANKS}, dict[int, Any]()
        self._turn: int | None = None

    def run(self, tell: Callable[[int], None]) -> list[BaseException | None]:
        """Have each rank tell its part; how each has ended."""
        ends: list[BaseException | None] = [None, None]

        def thread(rank: int) -> None:
            self._rank.number = rank
            try:
                with self._baton:
                    self._wait()
                tell(rank)
            except BaseException as error:  # noqa: BLE001 - the test looks at it
                ends[rank] = error
            with self._baton:
                self._ready.discard(rank)
                self._go_on()

        threads = [threading.Thread(target=thread, args=(rank,)) for rank in RANKS]
        for each in threads:
            each.start()
        with self._baton:
            self._go_on()
        for each in threads:
            each.join(60)
            assert not each.is_alive()
        return ends

    def pass_on(self) -> None:
        """Whoever is drawn goes on."""
        with self._baton:
            self._go_on()
            self._wait()

    def all_of(self, thing: Any) -> list[Any]:
        """What each rank brings here."""
        with self._baton:
            things = self._things
            things[self._rank.number] = thing
            self._ready.discard(self._rank.number)
            if len(things) == len(RANKS):
                self._ready, self._things = {*RANKS}, {}
            self._go_on()
            self._wait()
        return [things[rank] for rank in RANKS]

    def _go_on(self) -> None:
        self._turn = self._draw.choice(sorted(self._ready)) if self._ready else None
        self._baton.notify_all()

    def _wait(self) -> None:
        mine = self._rank.number
        self._baton.wait_for(lambda: self._turn == mine or not self._ready)
        if self._turn != mine:
            raise KilledError  # all others have ended, and what this one waits for never comes


class SharedMachine(Machine):
    """One disk, on which both ranks write."""

    turns: Turns

    def begin(self) -> None:
        self.turns.pass_on()
        super().begin()


class Rows:
    """As a DTensor: a rank's rows of a whole tensor."""

    def __init__(self, whole: torch.Tensor, rank: int) -> None:
        self.whole, self.rank = whole, rank

    def full_tensor(self) -> torch.Tensor:
        return self.whole

    def to_local(self) -> torch.Tensor:
        size = -(-len(self.whole) // len(RANKS))
        return self.whole[self.rank * size : (self.rank + 1) * size]


def loop_of(rank: int) -> Any:
    """All of a sharded loop that a checkpoint looks at. The ranks compute the same numbers, each its own copy."""
    torch.manual_seed(3)
    model = torch.nn.Linear(3, 2)
    model.register_buffer("positions", torch.arange(4))
    loop = SimpleNamespace(is_sharded=True, model=model, given=Own(), own={}, keeps_all=False)
    loop.optimizer = torch.optim.AdamW(model.parameters())
    loop.accelerator = SimpleNamespace(is_main_process=rank == 0, process_index=rank, num_processes=len(RANKS))
    return loop


def as_sharded(loop: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Its tensors, of which parameters and what belongs to their elements are shared out, and nothing else is."""
    learns, rank = {name for name, _ in loop.model.named_parameters()}, loop.accelerator.process_index
    weights, moments = referenced_tensors(loop)
    return (
        {name: Rows(each.detach(), rank) if name in learns else each for name, each in weights.items()},
        {name: Rows(each, rank) if each.ndim else each for name, each in moments.items()},
    )


@contextmanager
def two_ranks(turns: Turns) -> Iterator[None]:
    """What processes tell each other goes through the threads' turns."""

    class OfThreads(Together):
        def all_of(self, thing: Any) -> list[Any]:
            return turns.all_of(thing) if self.several else [thing]

        def told(self, thing: Any) -> Any:
            return self.all_of(thing)[0]

    with pytest.MonkeyPatch.context() as patch:
        for module in (dongu.run.sharded, dongu.run.checkpoint):
            patch.setattr(module, "Together", OfThreads)
        patch.setattr(dongu.run.sharded, "referenced_tensors", as_sharded)
        yield


def save(run: RunFolder, journal: Journal, loop: Any, state: RunState) -> None:
    """An update and a checkpoint."""
    state.step += 2
    update(loop)
    journal.step(log_line(state.step))
    state.evaluated_step, state.log = state.step, journal.mark()
    make_checkpoints(run).save(loop, state)


def tell(story: Story, run: RunFolder, turns: Turns, rank: int) -> None:
    """Three saves as one rank makes them; the first one keeps the log, and says what was promised."""
    loop, state, truth = loop_of(rank), RunState(identity=IDENTITY), story.truth
    with Journal(run, enabled=rank == 0) as journal:
        for number in range(1, SAVES + 1):
            save(run, journal, loop, state)
            if rank == 0:
                story.promise = Promise(saved=number)
                truth.states[state.step], truth.logs[state.step] = asdict(state), run.metrics.read_bytes()
                weights, moments = (
                    {name: each.clone() for name, each in part.items()} for part in referenced_tensors(loop)
                )
                truth.tensors[state.step] = (weights, moments)
            turns.all_of(None)


def run_and_lose_power(
    folder: Path, seed: int, pictures: int, story: Story, flush_fails_at: int = 0, **how: bool
) -> tuple[list[BaseException | None], SharedMachine]:
    """Tell the story with pictures of the disk at each operation; how the ranks have ended, and the machine."""
    turns, shot = Turns(seed), photographer(story, pictures)
    folder.mkdir()
    machine = SharedMachine(folder, lambda each: shot(each) if each.flushes >= flush_fails_at else None, **how)
    machine.turns, machine.flush_fails_at = turns, flush_fails_at or None
    with two_ranks(turns), running_on(machine):
        ends = turns.run(partial(tell, story, RunFolder(folder), turns))
    story.operations += machine.operations
    return ends, machine


@pytest.mark.parametrize(("seeds", "pictures"), [(1, 1), pytest.param(3, 3, marks=ALL)])
def test_no_loss_of_power_breaks_a_promise(in_memory: Path, seeds: int, pictures: int) -> None:
    """The former checkpoint or the new one is whole, with the parts of both; and one process reads it."""
    story = Story()
    for seed in range(seeds):
        story.promise = Promise()
        ends, _ = run_and_lose_power(in_memory / f"run-{seed}", seed, pictures, story, exchanges=seed % 2 == 0)
        assert ends == [None, None]
    verdict = judge(story, in_memory / "after")
    report("two processes", verdict)
    assert verdict.examples == {}
    assert verdict.wrong == 0
    assert verdict.operations > 150 * seeds
    assert verdict.losses >= (2 + pictures) * verdict.operations


@pytest.mark.cases(test=1, ci=3)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_protocol_is_caught(name: str, in_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "writing in place":
        monkeypatch.setattr(dongu.run.sharded, "replace_folder", in_place)
    story = Story()
    ends, _ = run_and_lose_power(in_memory / "run", 0, 1, story, **BROKEN[name])
    assert ends == [None, None]
    verdict = judge(story, in_memory / "after", until_broken=not EXHAUSTIVE)
    report(f"two processes, {name}", verdict)
    assert verdict.corrupt + verdict.lost > 0


@pytest.mark.parametrize("every", [8, pytest.param(3, marks=ALL)])
def test_a_flush_that_failed_on_either_is_not_believed(in_memory: Path, every: int) -> None:
    """The disk reports an error to one of them once, both end with it, and then the power fails."""
    whole, again = Story(), Story()
    _, machine = run_and_lose_power(in_memory / "whole", 0, 0, whole)
    failed = [0, 0]
    for number in range(1, machine.flushes + 1, every):
        again.promise = Promise()
        ends, _ = run_and_lose_power(in_memory / str(number), number, 2, again, flush_fails_at=number)
        kinds = [type(end) for end in ends]
        assert set(kinds) in ({StorageError}, {StorageError, KilledError}), "what the first does alone ends it alone"
        failed[len({*kinds}) - 1] += 1
        disk.remove(in_memory / str(number))
    again.truth = whole.truth
    verdict = judge(again, in_memory / "after")
    report("two processes, a flush that failed", verdict)
    assert min(failed) > 0
    assert verdict.examples == {}
    assert verdict.wrong == 0


def test_a_run_goes_on_after_a_loss_of_power(in_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is left over, the next save of both finds its place."""
    story = Story()
    run_and_lose_power(in_memory / "run", 1, 1, story)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    steps = set()
    for number, (picture, _) in enumerate([*story.losses][::9]):
        run, turns = RunFolder(in_memory / str(number)), Turns(number)
        put(dict(picture), run.path)
        checkpoint = recover(run)
        was = RunState(identity=IDENTITY) if checkpoint is None else checkpoint.state
        states = [replace(was) for _ in RANKS]

        def go_on(rank: int, run: RunFolder = run, states: list[RunState] = states) -> None:
            with Journal(run, enabled=rank == 0, step=states[rank].step, mark=states[rank].log) as journal:
                save(run, journal, loop_of(rank), states[rank])

        with two_ranks(turns):
            assert turns.run(go_on) == [None, None]
        found, damaged = make_checkpoints(run).newest(run.metrics)
        assert found is not None
        assert (found.state, damaged) == (states[0], [])
        steps.add(found.state.step)
    assert steps == {2, 4, 6, 8}
