"""The power fails at every operation of a sequence of saves: what was promised is there, what is torn is refused.

A machine of our own stands below `Disk`. It knows what has been flushed, and after each operation, and in the middle of
each write, it takes pictures of what a disk may hold when the power fails there. A picture is of the disk alone:
nothing that the process does later, in a `finally` say, can tidy it up.
"""

from __future__ import annotations

import errno
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from io import FileIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import dongu.run.checkpoint
from conftest import EXHAUSTIVE
from dongu.engine.arrival import Arrival
from dongu.errors import CheckpointError, StorageError
from dongu.files import Disk, disk, is_leftover, replace_folder, write_file
from dongu.judge.answers import Evaluation
from dongu.own import Own
from dongu.run.checkpoint import Checkpoint, Checkpoints, RunState, own_checkpoints
from dongu.run.folder import RunFolder
from dongu.run.journal import Journal, check_log
from dongu.run.plan import Plan
from dongu.run.tensors import referenced_tensors
from dongu.update import Step

SAVES = 4
KEEP = 2
SEEDS = 20
ALL = pytest.mark.crash  # what it marks is tried more thoroughly; beside it stands a part, which is quick
SPARED = 1 if EXHAUSTIVE else 6  # one place, or picture, of so many
IDENTITY: dict[str, Any] = {"options": {"seed": 3}, "data": {}, "versions": {}, "hardware": {}, "processes": 1}
OPERATIONS = ("make_folder", "write", "append", "sync", "rename", "exchange", "remove")

Picture = dict[str, bytes | None]  # path below the root: content, None for a folder


class KilledError(BaseException):
    """The process is gone: whatever it still tries, a `finally` too, raises this."""


# --- the machine


class Node:
    """A file or a folder, whatever its names are: as the process sees it, and as it was last flushed."""

    def __init__(self) -> None:
        self.content = b""
        self.flushed_content = b""
        self.names: dict[str, Node] = {}
        self.flushed_names: dict[str, Node] = {}
        self.pending: list[dict[str, Node | None]] = []  # changes of names that were not flushed, each one atomic
        self.is_folder = False

    def flush(self) -> None:
        self.flushed_content = self.content
        self.flushed_names, self.pending = dict(self.names), []

    def names_after_loss(self, draw: random.Random) -> dict[str, Node]:
        """What was not flushed is there or not, each change for itself."""
        names: dict[str, Node | None] = dict(self.flushed_names)
        for change in self.pending:
            if draw.random() < 0.5:
                names |= change
        return {name: node for name, node in names.items() if node is not None}

    def content_after_loss(self, draw: random.Random) -> bytes:
        """What was not flushed is kept, gone, cut, zeroed, has a flipped bit, or is anything; the rest stays."""
        if self.content == self.flushed_content:
            return self.content
        kept = self.flushed_content if self.content.startswith(self.flushed_content) else b""
        rest = bytearray(self.content[len(kept) :])
        match draw.choice(("kept", "gone", "cut", "zeroed", "flipped", "garbage")):
            case "gone":
                return self.flushed_content
            case "cut":
                del rest[draw.randrange(len(rest) + 1) :]
            case "zeroed":
                rest = bytearray(len(rest))
            case "flipped" if rest:
                rest[draw.randrange(len(rest))] ^= 1 << draw.randrange(8)
            case "garbage":
                rest = bytearray(draw.randbytes(len(rest)))
        return kept + bytes(rest)


class Machine(Disk):
    """A disk whose power may fail.

    After each operation the folder is looked at, so what goes around `Disk` (the writers of transformers, a plain
    rename) is seen too, and counts as not flushed.

    Args:
        root: what is here now is on the disk.
        shot: called when something has changed.
        flushes_files, flushes_folders: what fsync does on this machine.
    """

    def __init__(
        self,
        root: Path,
        shot: Callable[[Machine], None],
        *,
        flushes_files: bool = True,
        flushes_folders: bool = True,
        exchanges: bool = True,
    ) -> None:
        self.root = root
        self.shot = shot
        self.flushes_files = flushes_files
        self.flushes_folders = flushes_folders
        self.exchanges = exchanges
        self.top = Node()
        self.nodes: dict[int, Node] = {root.stat().st_ino: self.top}
        self.operations = 0
        self.dies_at: int | None = None  # the process, at this operation
        self.flush_fails_at: int | None = None  # EIO, and nothing was flushed
        self.flushes = 0
        self._look(root, self.top, self.nodes)
        for node in self.nodes.values():
            node.flush()

    def begin(self) -> None:
        if self.dies_at is not None and self.operations >= self.dies_at:
            raise KilledError

    def make_folder(self, path: Path) -> None:
        self.begin()
        super().make_folder(path)
        self.look()

    def append(self, file: FileIO, content: bytes) -> None:
        half = len(content) // 2
        for part in (content[:half], content[half:]):
            self.begin()
            super().append(file, part)
            self.look()

    def rename(self, old: Path, new: Path) -> None:
        self.begin()
        super().rename(old, new)
        self.look()

    def exchange(self, one: Path, other: Path) -> bool:
        self.begin()
        done = self.exchanges and super().exchange(one, other)
        self.look()
        return done

    def remove(self, path: Path) -> None:
        for inner in sorted(path.rglob("*"), reverse=True) if path.is_dir() else ():
            self.begin()
            super().remove(inner)
            self.look()
        self.begin()
        super().remove(path)
        self.look()

    def fsync(self, descriptor: int) -> None:
        """os.fsync, so that what flushes without `Disk.sync` is seen."""
        self.begin()
        self.look()
        self.flushes += 1
        if self.flushes == self.flush_fails_at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        node = self.nodes[os.fstat(descriptor).st_ino]
        if self.flushes_folders if node.is_folder else self.flushes_files:
            node.flush()
        self.operations += 1
        self.shot(self)

    def look(self) -> None:
        """Note what has changed since the last look."""
        seen: dict[int, Node] = {self.root.stat().st_ino: self.top}
        self._look(self.root, self.top, seen)
        self.nodes = seen
        self.operations += 1
        self.shot(self)

    def _look(self, path: Path, node: Node, seen: dict[int, Node]) -> None:
        names: dict[str, Node] = {}
        node.is_folder = True
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            child = seen[entry.inode()] = names[entry.name] = self.nodes.get(entry.inode()) or Node()
            if entry.is_dir():
                self._look(Path(entry.path), child, seen)
            else:
                child.content = Path(entry.path).read_bytes()
        node.pending += changes(node.names, names)
        node.names = names

    def picture(self, draw: random.Random) -> Picture:
        """What the disk may hold after a loss of power now."""
        return dict(
            walk(self.top, lambda node: node.names_after_loss(draw), lambda node: node.content_after_loss(draw))
        )

    def extremes(self) -> Iterator[Picture]:
        """All is there, as when only the process dies; and nothing is that was not flushed."""
        yield dict(walk(self.top, lambda node: node.names, lambda node: node.content))
        yield dict(walk(self.top, lambda node: node.flushed_names, lambda node: node.flushed_content))


def changes(old: Mapping[str, Node], new: Mapping[str, Node]) -> list[dict[str, Node | None]]:
    """The names that differ; those that share a node (a rename, an exchange) in one change, which is atomic."""
    groups: list[dict[str, Node | None]] = []
    for name in sorted({*old, *new}):
        if old.get(name) is new.get(name):
            continue
        mine = {id(names[name]) for names in (old, new) if name in names}
        change: dict[str, Node | None] = {name: new.get(name)}
        for group in groups.copy():
            if mine & {id(names[other]) for names in (old, new) for other in group if other in names}:
                groups.remove(group)
                change |= group
        groups.append(change)
    return groups


def walk(
    node: Node, names: Callable[[Node], Mapping[str, Node]], content: Callable[[Node], bytes], above: str = ""
) -> Iterator[tuple[str, bytes | None]]:
    for name, child in names(node).items():
        yield above + name, None if child.is_folder else content(child)
        if child.is_folder:
            yield from walk(child, names, content, f"{above}{name}/")


def put(picture: Picture, folder: Path) -> None:
    folder.mkdir()
    for name, content in picture.items():
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)


@contextmanager
def running_on(machine: Machine) -> Iterator[None]:
    """Every module's `disk` is this machine."""
    plain_rename = Path.rename

    def rename(path: Path, target: Path) -> Path:
        machine.begin()
        moved = plain_rename(path, target)
        machine.look()
        return moved

    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(disk, name, getattr(machine, name))
        patch.setattr(os, "fsync", machine.fsync)
        patch.setattr(Path, "rename", rename)
        yield


# --- what the run does, and what it was promised


@dataclass(frozen=True)
class Promise:
    """What has returned by now, and what may be there although it has not."""

    saved: int = 0
    best: int = 0
    written: int = 0
    doing: int = 0


@dataclass
class Truth:
    """What each save held."""

    states: dict[int, dict[str, Any]] = field(default_factory=dict)
    tensors: dict[int, tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]] = field(default_factory=dict)
    logs: dict[int, bytes] = field(default_factory=dict)


@dataclass
class Story:
    """A run of a few saves, and the losses of power in it."""

    losses: Counter[tuple[tuple[tuple[str, bytes | None], ...], Promise]] = field(default_factory=Counter)
    truth: Truth = field(default_factory=Truth)
    promise: Promise = field(default_factory=Promise)
    operations: int = 0

    def note(self, picture: Picture) -> None:
        self.losses[tuple(sorted(picture.items())), self.promise] += 1


def small_loop() -> Any:
    """Weights, a buffer and moments: all of a loop that a checkpoint looks at."""
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(model.parameters())
    return SimpleNamespace(is_sharded=False, model=model, given=Own(), own={}, keeps_all=False, optimizer=optimizer)


def model_files(version: int) -> dict[str, bytes]:
    return {
        name: f"{name} of {version} ".encode() * 9
        for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md")
    }


def results_of(step: int) -> bytes:
    return json.dumps({"steps": step}).encode()


def make_checkpoints(run: RunFolder) -> Checkpoints:
    return Checkpoints(run.checkpoints, KEEP, Plan(total_steps=2 * SAVES, eval_steps=2, save_steps=None))


def update(loop: Any) -> None:
    loop.model(torch.ones(4, 3) * torch.arange(4.0)[:, None]).square().sum().backward()
    loop.optimizer.step()
    loop.optimizer.zero_grad()


def log_line(step: int) -> Step:
    rows = np.arange(8)
    arrival = Arrival(torch.device("cpu"))
    arrival.send(torch.tensor([0.1, 1 / step, *(rows / step)]))
    arrival.close()
    return Step(step, step / 2, 1e-3, 8, 100, 120, rows, rows, arrival)


def tell(story: Story, run: RunFolder, loop: Any) -> None:
    """Save after every second step; each save but the third has a new best model before it."""
    checkpoints, state, nothing = make_checkpoints(run), RunState(identity=IDENTITY), np.zeros(0)
    with Journal(run, enabled=True) as journal:
        for number in range(1, SAVES + 1):
            state.step = state.evaluated_step = 2 * number
            story.promise = replace(story.promise, doing=number)
            for step in (state.step - 1, state.step):
                update(loop)
                journal.step(log_line(step))
            journal.evaluation(state.step, Evaluation("validation", nothing, nothing, None, None, {"f1": number / 10}))
            if number != 3:
                state.best_step = state.step
                with replace_folder(run.model) as stage:
                    for name, content in model_files(number).items():
                        (stage / name).write_bytes(content)  # as transformers writes: not flushed
                story.promise = replace(story.promise, best=number)
            state.log = journal.mark()
            weights, moments = referenced_tensors(loop)
            story.truth.states[state.step] = asdict(state)
            story.truth.tensors[state.step] = tuple(  # type: ignore[assignment]
                {name: tensor.clone() for name, tensor in part.items()} for part in (weights, moments)
            )
            story.truth.logs[state.step] = run.metrics.read_bytes()
            checkpoints.save(loop, state)
            story.promise = replace(story.promise, saved=number)
            write_file(run.path / "results.json", results_of(number))
            story.promise = replace(story.promise, written=number)


def photographer(story: Story, seeds: int) -> Callable[[Machine], None]:
    def shot(machine: Machine) -> None:
        for picture in machine.extremes():
            story.note(picture)
        for seed in range(seeds):
            story.note(machine.picture(random.Random(f"{machine.operations} {seed}")))

    return shot


def run_and_lose_power(folder: Path, seeds: int, **machine: bool) -> Story:
    """Tell the story once, with pictures of the disk at each of its operations."""
    story = Story()
    folder.mkdir()
    on = Machine(folder, photographer(story, seeds), **machine)
    with running_on(on):
        tell(story, RunFolder(folder), small_loop())
    story.operations = on.operations
    return story


# --- what comes back


def same_tensors(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def recover(run: RunFolder) -> Checkpoint | None:
    """As `dongu resume` does before its first step."""
    checkpoints = make_checkpoints(run)
    checkpoint, _ = checkpoints.newest(run.metrics)
    run.clean()
    checkpoints.retire(RunState() if checkpoint is None else checkpoint.state)
    return checkpoint


def look_at(run: RunFolder, promise: Promise, truth: Truth) -> Iterator[str]:
    """What is wrong with a run after a loss of power: `corrupt` or `lost`, and what."""
    try:
        checkpoint = recover(run)
    except CheckpointError as error:
        yield f"lost: {error}"
        return
    step = 0 if checkpoint is None else checkpoint.state.step
    if checkpoint is not None:
        weights, moments = truth.tensors[step]
        if asdict(checkpoint.state) != truth.states[step]:
            yield "corrupt: the state"
        if not (same_tensors(checkpoint.weights, weights) and same_tensors(checkpoint.moments, moments)):
            yield "corrupt: the tensors"
        if not run.metrics.read_bytes().startswith(truth.logs[step]):
            yield "corrupt: the log"
    if step < 2 * promise.saved:
        yield f"lost: checkpoint {2 * promise.saved}, {step} is left"
    if len(valid_ones(run)) < min(KEEP, promise.saved):
        yield "lost: an older checkpoint that is still kept"

    found = {path.name: path.read_bytes() for path in run.model.iterdir()} if run.model.exists() else {}
    if found not in (model_files(promise.best) if promise.best else {}, model_files(promise.doing)):
        yield f"{'corrupt' if found else 'lost'}: the best model"
    results = run.path / "results.json"
    content = results.read_bytes() if results.exists() else b""
    if content not in (results_of(promise.written) if promise.written else b"", results_of(promise.doing)):
        yield f"{'corrupt' if content else 'lost'}: results.json"
    if any(is_leftover(path) for path in run.path.rglob("*")):
        yield "littered"


def valid_ones(run: RunFolder) -> list[Path]:
    def valid(path: Path) -> bool:
        try:
            check_log(run.metrics, Checkpoint.read(path).state.log)
        except CheckpointError:
            return False
        return True

    return [path for path in own_checkpoints(run.checkpoints) if valid(path)]


@dataclass
class Verdict:
    """How many losses of power there were, and how many broke a promise."""

    operations: int
    losses: int
    corrupt: int = 0
    lost: int = 0
    littered: int = 0
    examples: dict[str, Promise] = field(default_factory=dict)

    @property
    def wrong(self) -> int:
        return self.corrupt + self.lost + self.littered


def judge(story: Story, folder: Path, *, until_broken: bool = False) -> Verdict:
    """Recover from every picture, or until a promise is broken. Equal ones are looked at once and counted often."""
    verdict = Verdict(story.operations, story.losses.total())
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # these disks are not in danger
        for number, ((picture, promise), count) in enumerate(story.losses.items()):
            run = RunFolder(folder / str(number))
            put(dict(picture), run.path)
            problems = list(look_at(run, promise, story.truth))
            for problem in problems:
                verdict.examples.setdefault(problem, promise)
            kinds = {problem.partition(":")[0] for problem in problems}
            verdict.corrupt += count * ("corrupt" in kinds)
            verdict.lost += count * ("lost" in kinds)
            verdict.littered += count * ("littered" in kinds)
            disk.remove(run.path)
            if until_broken and verdict.corrupt + verdict.lost:
                break
    return verdict


def report(name: str, verdict: Verdict) -> None:
    print(
        f"{name}: {verdict.operations} operations, {verdict.losses} losses of power, "
        f"{verdict.corrupt} corrupt, {verdict.lost} lost"
    )
    if path := os.environ.get("DONGU_CRASH_REPORT"):
        file = Path(path)
        counts = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        mine = {"operations": verdict.operations, "losses": verdict.losses}
        mine |= {"corrupt": verdict.corrupt, "lost": verdict.lost}
        known = counts.setdefault("power_loss", {})
        if mine["losses"] >= known.get(name, mine)["losses"]:  # a part of the same test tells less
            known[name] = mine
        file.write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")


# --- the tests


@pytest.mark.cases(test=0, ci=1)
@pytest.mark.parametrize(
    ("exchanges", "seeds"),
    [
        (True, 1),
        pytest.param(False, 1, marks=ALL),
        pytest.param(True, SEEDS // SPARED, marks=ALL),
        pytest.param(False, 5, marks=ALL),
    ],
)
def test_no_loss_of_power_breaks_a_promise(in_memory: Path, exchanges: bool, seeds: int) -> None:
    """With and without a file system that can swap two folders."""
    story = run_and_lose_power(in_memory / "run", seeds, exchanges=exchanges)
    verdict = judge(story, in_memory / "after")
    report("as it is" if exchanges else "as it is, without an exchange of names", verdict)
    assert verdict.examples == {}
    assert (verdict.corrupt, verdict.lost, verdict.littered) == (0, 0, 0)
    assert verdict.operations > 200
    assert verdict.losses >= seeds * verdict.operations


@contextmanager
def in_place(target: Path, within: Path | None = None) -> Iterator[Path]:
    """What `replace_folder` must not be: all is flushed, and nothing is staged."""
    disk.remove(target)
    target.mkdir(parents=True)
    disk.sync(target.parent)
    yield target
    for path in sorted(target.rglob("*")):
        disk.sync(path)
    disk.sync(target)


BROKEN: dict[str, dict[str, bool]] = {
    "writing in place": {},
    "no fsync of files": {"flushes_files": False},
    "no fsync of folders": {"flushes_folders": False},
}


@pytest.mark.cases(test=0, ci=1)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_protocol_is_caught(name: str, in_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "writing in place":
        monkeypatch.setattr(dongu.run.checkpoint, "replace_folder", in_place)
        monkeypatch.setitem(globals(), "replace_folder", in_place)
    story = run_and_lose_power(in_memory / "run", 2, **BROKEN[name])  # a few are enough to see it
    verdict = judge(story, in_memory / "after", until_broken=not EXHAUSTIVE)
    report(name, verdict)
    assert verdict.corrupt + verdict.lost > 0


@pytest.mark.cases(test=1, ci=1)
@pytest.mark.parametrize("every", [8, pytest.param(2, marks=ALL)])
def test_the_power_fails_again_while_the_run_recovers(in_memory: Path, every: int) -> None:
    """Pictures of the recovery from a picture: the same promises, whenever the run is looked at."""
    story = run_and_lose_power(in_memory / "run", 1, exchanges=False)
    again = Story(truth=story.truth)
    unfinished = [loss for loss in story.losses if any(".tmp" in name or ".old" in name for name, _ in loss[0])]
    for number, (picture, promise) in enumerate(unfinished[::every]):
        run = RunFolder(in_memory / str(number))
        put(dict(picture), run.path)
        again.promise = promise
        machine = Machine(run.path, photographer(again, 3))
        with running_on(machine):
            recover(run)
        again.operations += machine.operations
        disk.remove(run.path)
    verdict = judge(again, in_memory / "after")
    report("a second loss, in the recovery", verdict)
    assert verdict.examples == {}
    assert verdict.wrong == 0
    assert verdict.losses > 500


@pytest.mark.cases(test=1, ci=1)
@pytest.mark.parametrize(
    ("exchanges", "every"),
    [(True, 25), (False, 25), pytest.param(True, SPARED, marks=ALL), pytest.param(False, 2 * SPARED, marks=ALL)],
)
def test_the_process_dies_first_and_the_power_fails_while_the_run_recovers(
    in_memory: Path, exchanges: bool, every: int
) -> None:
    """What the first process did is seen by the second one, and need not be on the disk yet."""
    story = run_and_lose_power(in_memory / "run", 0, exchanges=exchanges)
    again = Story()
    for dies_at in range(story.operations // 4, story.operations * 3 // 4, every):
        run, before = RunFolder(in_memory / str(dies_at)), Story()
        run.path.mkdir()
        machine = Machine(run.path, lambda _: None, exchanges=exchanges)
        machine.dies_at = dies_at
        with running_on(machine):
            with pytest.raises(KilledError):
                tell(before, run, small_loop())
            machine.dies_at, machine.shot = None, photographer(again, 1)
            again.promise = before.promise
            recover(run)
        again.operations += machine.operations - dies_at
        disk.remove(run.path)
    again.truth = story.truth
    verdict = judge(again, in_memory / "after")
    report(f"a kill, and a loss in the recovery{'' if exchanges else ', without an exchange'}", verdict)
    assert verdict.examples == {}
    assert verdict.wrong == 0


@pytest.mark.cases(test=1, ci=1)
@pytest.mark.parametrize("every", [11, pytest.param(SPARED, marks=ALL)])
def test_a_flush_that_failed_is_not_believed(in_memory: Path, every: int) -> None:
    """The disk reports an error once, the run ends with it, and then the power fails: nothing was torn down."""
    whole = Machine(in_memory, lambda _: None)
    (in_memory / "whole").mkdir()
    story = Story()
    with running_on(whole):
        tell(story, RunFolder(in_memory / "whole"), small_loop())
    again = Story(truth=story.truth)
    for number in range(1, whole.flushes + 1, every):
        run, before = RunFolder(in_memory / str(number)), Story()
        run.path.mkdir()

        def shot(machine: Machine, before: Story = before) -> None:
            again.promise = before.promise
            if machine.flushes >= (machine.flush_fails_at or 0):
                photographer(again, 3)(machine)

        machine = Machine(run.path, shot)
        machine.flush_fails_at = number
        with running_on(machine), pytest.raises(StorageError):
            tell(before, run, small_loop())
        again.operations += 1
        disk.remove(run.path)
    verdict = judge(again, in_memory / "after")
    report("a flush that failed", verdict)
    assert verdict.examples == {}
    assert verdict.wrong == 0


def test_a_run_goes_on_after_a_loss_of_power(in_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is left over, the next save and the next best model find their place."""
    story = run_and_lose_power(in_memory / "run", 1)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for number, (picture, _) in enumerate(list(story.losses)[::5]):
        run, loop = RunFolder(in_memory / str(number)), small_loop()
        put(dict(picture), run.path)
        checkpoint = recover(run)
        state = RunState() if checkpoint is None else checkpoint.state
        with Journal(run, enabled=True, step=state.step, mark=state.log) as journal:
            state.step += 2
            update(loop)
            journal.step(log_line(state.step))
            with replace_folder(run.model) as stage:
                (stage / "config.json").write_bytes(b"{}")
            state.log = journal.mark()
            make_checkpoints(run).save(loop, state)
        found, damaged = make_checkpoints(run).newest(run.metrics)
        assert found is not None
        assert (found.state, damaged) == (state, [])
        assert [path.name for path in run.model.iterdir()] == ["config.json"]
