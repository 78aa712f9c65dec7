"""A thousand lives of a folder of checkpoints: the valid ones stay, and what is not ours is not touched."""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dongu.errors import CheckpointError, StorageError
from dongu.files import Disk, disk, remove_leftovers
from dongu.own import Own
from dongu.run.checkpoint import CONTENTS, Checkpoint, Checkpoints, RunState, _looks_whole, own_checkpoints, step_of
from dongu.run.manifest import MANIFEST
from dongu.run.plan import Plan

PLAN = Plan(total_steps=1000, eval_steps=4, save_steps=2)  # an odd step is one that a signal saved
ACTIONS = {"save": 8, "signal": 2, "crash": 4, "damage": 2, "clock": 2, "resume": 1}
OURS = re.compile(r"step-\d{8}|\.step-\d{8}\.\d+\.(tmp|old)")
LOOP: Any = SimpleNamespace(
    is_sharded=False,
    given=Own(),
    own={},
    keeps_all=False,
    model=torch.nn.Linear(2, 1),
    optimizer=torch.optim.AdamW(torch.nn.Linear(2, 1).parameters()),
)


class KilledError(BaseException):
    """Raised by every operation after the last one."""


@dataclass
class Life:
    """One folder, and what happens to it."""

    home: Path
    draw: random.Random
    left: int | None = None  # operations until the process is killed
    state: RunState = field(default_factory=RunState)
    damaged: set[int] = field(default_factory=set)  # so that `retire` can see it: a size
    flipped: set[int] = field(default_factory=set)  # so that it cannot
    saved: set[int] = field(default_factory=set)  # planned ones whose save returned
    seen: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.folder = self.home / "checkpoints"
        self.folder.mkdir()
        self.keep = self.draw.randint(1, 3)
        self.checkpoints = Checkpoints(self.folder, self.keep, PLAN)
        self.metrics = self.home / "metrics.jsonl"

    def live(self, actions: int) -> None:
        plant(self.home)
        canaries = others(self.home)
        for action in ["save", *self.draw.choices(list(ACTIONS), list(ACTIONS.values()), k=actions)]:
            self.seen[action] += 1
            getattr(self, action)()
            assert others(self.home) == canaries, action

    def valid(self) -> list[int]:
        found = []
        for path in own_checkpoints(self.folder):
            try:
                assert Checkpoint.read(path).state.step == step_of(path)
                found.append(step_of(path))
            except CheckpointError:
                continue
        return found

    def planned_and_whole(self) -> set[int]:
        names = {step_of(path) for path in own_checkpoints(self.folder)}
        return {step for step in names - self.damaged if PLAN.saves(step)}

    def unseen(self) -> int:
        """Checkpoints with a flipped bit: a save looks at the sizes of older ones, so each still counts for it."""
        return len({step_of(path) for path in own_checkpoints(self.folder)} & (self.flipped - self.damaged))

    def save(self, step: int | None = None) -> None:
        """The next planned step, perhaps a better one than all before; then all promises are looked at."""
        before, whole_before = self.valid(), self.planned_and_whole()
        self.advance(step or self.state.step + 2 - self.state.step % 2)
        self.checkpoints.save(LOOP, self.state)
        now, step = self.valid(), self.state.step
        self.saved |= {step} if PLAN.saves(step) else set()
        self.damaged.discard(step)
        self.flipped.discard(step)
        assert now[-1] == step
        assert len(now) + self.unseen() >= min(len(before), self.keep)
        best = self.state.best_step
        assert best is None or best in now or best in self.damaged | self.flipped
        names = {step_of(path) for path in own_checkpoints(self.folder)}
        assert best is None or best in names
        whole = self.planned_and_whole()
        assert len(whole) >= min(self.keep, len(whole_before | ({step} & self.saved)))
        if not self.seen["damage"]:
            assert len(whole) >= min(self.keep, len(self.saved))
        assert {step for step in names if step % 2} <= {step}, "only the newest may be one that a signal made"

    def signal(self) -> None:
        """The run ends at a step without a checkpoint in its plan, and goes on."""
        if self.state.step % 2 == 0:
            self.save(self.state.step + 1)
        self.resume()

    def crash(self) -> None:
        """At any operation of a save or of a retirement."""
        self.left = self.draw.randrange(28)
        before = self.state.step
        try:
            self.advance(before + 2 - before % 2)
            self.checkpoints.save(LOOP, self.state)
        except KilledError:
            self.seen["killed"] += 1
        self.left = None
        self.resume()
        assert self.state.step >= before

    def resume(self) -> None:
        before = self.valid()
        found, _ = self.checkpoints.newest(self.metrics)
        remove_leftovers(self.folder)
        assert found is not None
        self.state = found.state
        self.checkpoints.retire(self.state)
        now = self.valid()
        assert now[-1] == before[-1] == self.state.step
        # The save that was killed may have been whole, and then takes the place of one that a signal made.
        assert len(now) + self.unseen() >= min(sum(PLAN.saves(step) for step in before), self.keep)
        if PLAN.saves(self.state.step):
            self.saved.add(self.state.step)  # a kill may have come after it was whole

    def damage(self) -> None:
        """Of one that is not the newest."""
        older = own_checkpoints(self.folder)[:-1]
        older = [path for path in older if step_of(path) < self.state.step]
        if not older:
            return
        path = self.draw.choice(older)
        file = path / self.draw.choice((*CONTENTS, MANIFEST))
        if not file.exists():
            return
        content = bytearray(file.read_bytes())
        kind = self.draw.choice(["missing", "cut", "flipped"])
        if kind == "missing":
            file.unlink()
        elif kind == "cut":
            file.write_bytes(content[: self.draw.randrange(len(content))] if content else b"")
        elif content:
            content[self.draw.randrange(len(content))] ^= 1
            file.write_bytes(content)
        # What is flipped in a manifest may be seen without a look into the files.
        (self.flipped if kind == "flipped" and _looks_whole(path) else self.damaged).add(step_of(path))

    def clock(self) -> None:
        """Times say nothing: they jump, or are all the same."""
        for path in self.folder.rglob("*"):
            if not path.is_symlink():
                seconds = self.draw.choice([0, self.draw.randrange(2**31)])
                os.utime(path, (seconds, seconds))

    def advance(self, step: int) -> None:
        self.state.step = step
        if PLAN.evaluates(step) and self.draw.random() < 0.4:
            self.state.best_step = step

    def begin(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KilledError


def plant(home: Path) -> None:
    """What others may have put beside the checkpoints."""
    folder = home / "checkpoints"
    (home / "elsewhere").mkdir()
    (home / "elsewhere" / "weights.safetensors").write_text("not ours")
    (folder / "step-00000099").symlink_to(home / "elsewhere")
    (folder / "step-00000098").symlink_to("step-00000098")  # to itself
    (folder / ".step-00000002.7.tmp").symlink_to(home / "elsewhere")
    for name in ("step-abc", "step-1", "step-00000002-copy", ".git", "step-00000002.tmp"):
        (folder / name).mkdir()
        (folder / name / "state.json").write_text(name)
    for name in (".DS_Store", "notes.txt", ".notes.txt.swp", "..tmp"):
        (folder / name).write_text(name)


def others(home: Path) -> dict[str, bytes]:
    """The content of all that is not ours, and where links point to."""
    found = {}
    for folder, folders, files in os.walk(home):
        # A checkpoint, or what a cut off write has left of one.
        is_ours = Path(folder).parent == home / "checkpoints" and OURS.fullmatch(Path(folder).name)
        for path in [Path(folder, name) for name in (*folders, *files)]:
            if path.is_symlink():
                found[str(path)] = os.fsencode(path.readlink())
            elif not is_ours and path.name in files:
                found[str(path)] = path.read_bytes()
    return found


@pytest.mark.parametrize("sequences", [30, pytest.param(1000, marks=pytest.mark.exhaustive)])
def test_many_lives(sequences: int, in_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()
    lives: list[Life] = []

    def guarded(name: str) -> Callable[..., Any]:
        plain = getattr(Disk(), name)

        def operation(*arguments: Any) -> Any:
            lives[-1].begin()
            return plain(*arguments)

        return operation

    for name in ("make_folder", "write", "append", "sync", "rename", "exchange", "remove"):
        monkeypatch.setattr(disk, name, guarded(name))
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for seed in range(sequences):
        home = in_memory / str(seed)
        home.mkdir()
        lives.append(Life(home, random.Random(seed)))
        try:
            lives[-1].live(actions=lives[-1].draw.randint(2, 8))
        except AssertionError as error:
            raise AssertionError(f"sequence {seed}: {error}") from error
        seen += lives[-1].seen
        Disk().remove(home)
    print(dict(seen))
    assert seen["save"] > 2 * sequences
    assert seen["killed"] > sequences // 4
    assert min(seen[action] for action in ACTIONS) > sequences // 10


def test_a_damaged_newer_checkpoint_is_no_reason_to_remove_an_older_one(in_memory: Path) -> None:
    """After a resume from step 4 the damaged 6 is still there; 2 and 4 stay until 6 is written again."""
    checkpoints = Checkpoints(in_memory, 2, PLAN)
    for step in (2, 4, 6):
        checkpoints.save(LOOP, RunState(step=step))
    assert [step_of(path) for path in own_checkpoints(in_memory)] == [4, 6]
    (in_memory / "step-00000006" / "state.json").unlink()
    found, damaged = checkpoints.newest(in_memory / "none")
    assert found is not None
    assert (found.state.step, len(damaged)) == (4, 1)
    checkpoints.save(LOOP, RunState(step=5))  # a signal, before 6
    assert [step_of(path) for path in own_checkpoints(in_memory)] == [4, 5, 6]
    checkpoints.save(LOOP, RunState(step=6))
    assert [step_of(path) for path in own_checkpoints(in_memory)] == [4, 6]
    assert Checkpoint.read(in_memory / "step-00000006").state.step == 6


def test_a_save_that_reads_back_differently_removes_nothing(in_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk says that all is well, and holds other bytes: the older ones are not retired for that."""
    checkpoints = Checkpoints(in_memory, 1, PLAN)
    checkpoints.save(LOOP, RunState(step=2))
    plain = Disk()

    def append_wrongly(file: FileIO, content: bytes) -> None:
        of_moments = Path(os.fsdecode(file.name)).name == "moments.safetensors"
        plain.append(file, bytes(content).replace(b"\0", b"\1") if of_moments else content)

    monkeypatch.setattr(disk, "append", append_wrongly)
    with pytest.raises(StorageError, match="reads back differently") as caught:
        checkpoints.save(LOOP, RunState(step=4))
    assert caught.value.where == str(in_memory / "step-00000004" / "moments.safetensors")
    monkeypatch.undo()
    found, damaged = checkpoints.newest(in_memory / "none")
    assert found is not None
    assert (found.state.step, len(damaged)) == (2, 1)
    checkpoints.save(LOOP, RunState(step=4))
    assert [step_of(path) for path in own_checkpoints(in_memory)] == [4]


def test_a_foreign_folder_with_the_name_of_a_late_step(in_memory: Path) -> None:
    """It is said, passed over, and never removed."""
    checkpoints = Checkpoints(in_memory, 1, PLAN)
    foreign = in_memory / "step-9999999999"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("keep me")
    for step in (2, 4, 6):
        checkpoints.save(LOOP, RunState(step=step))
        found, damaged = checkpoints.newest(in_memory / "none")
        assert found is not None
        assert found.state.step == step
        assert [error.where for error in damaged] == [str(foreign / MANIFEST)]
    assert [step_of(path) for path in own_checkpoints(in_memory)] == [6, 9999999999]
    assert (foreign / "thesis.txt").read_text() == "keep me"
