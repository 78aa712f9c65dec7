"""The disk is full, broken or read-only at any operation of a run: exit 6, nothing lost, and then the same bytes.

As a script it trains into a small file system of its own, until that is full: `python test_disk_faults.py REQUEST`.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import dongu
from conftest import EXHAUSTIVE
from dongu.cli.main import run as run_command
from dongu.errors import StorageError
from dongu.files import _HINTS, Disk, disk, is_leftover
from dongu.page.report import write_report
from dongu.run import effort
from dongu.run.checkpoint import Checkpoint, Checkpoints, RunState, own_checkpoints
from dongu.run.journal import Journal
from drivers import HANGS

STEPS = 12
OPTIONS: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 4,
    "lr": 2e-3,
    "eval_steps": 6,
    "save_steps": 3,
    "keep": 1,
    "device": "cpu",
    "threads": 1,
}
NOT_REPEATED = ("timing.jsonl", "run.json", "report.html", ".lock")


@dataclass
class Faults:
    """Fails an operation on what is below a folder, counted from 1; or all from there on.

    An operation is what the system sees: a folder made, a file opened, a write, a flush, a rename, a removal.
    """

    below: Path
    at: int = 0
    number: int = errno.ENOSPC
    forever: bool = False
    done: list[str] = field(default_factory=list)  # the kinds, in order

    def strikes(self, kind: str, path: Path) -> bool:
        if not path.is_relative_to(self.below):
            return False
        self.done.append(kind)
        return len(self.done) == self.at or (self.forever and 0 < self.at < len(self.done))

    def strike(self, kind: str, path: Path, *, named: bool = True) -> None:
        """Raise where it is time; what the system says of an open file has no name in it."""
        if self.strikes(kind, path):
            raise OSError(self.number, os.strerror(self.number), *([str(path)] if named else []))

    @contextmanager
    def on(self) -> Iterator[None]:
        plain, fsync, rename = Disk(), os.fsync, Path.rename
        with pytest.MonkeyPatch.context() as patch:

            def make_folder(path: Path) -> None:
                self.strike("make", path)
                plain.make_folder(path)

            def write(path: Path, content: bytes) -> None:
                self.strike("open", path)
                with path.open("wb", buffering=0) as file:
                    append(file, content)
                    os.fsync(file.fileno())

            def append(file: FileIO, content: bytes) -> None:
                if self.strikes("write", Path(os.fsdecode(file.name))):
                    file.write(content[: len(content) // 2])  # the rest finds no place
                    raise OSError(self.number, os.strerror(self.number))
                plain.append(file, content)

            def flush(descriptor: int) -> None:
                path = Path(f"/proc/self/fd/{descriptor}").readlink()
                self.strike("flush", path, named=False)
                if not path.is_relative_to(self.below):
                    fsync(descriptor)

            def move(old: Path, new: Path) -> None:
                self.strike("rename", old)
                plain.rename(old, new)

            def exchange(one: Path, other: Path) -> bool:
                return not self.strikes("exchange", one) and plain.exchange(one, other)

            def aside(old: Path, new: Path) -> Path:
                self.strike("rename", old)
                return rename(old, new)

            def remove(path: Path) -> None:
                self.strike("remove", path)
                plain.remove(path)

            for function in (make_folder, write, append, exchange, remove):
                patch.setattr(disk, function.__name__, function)
            patch.setattr(disk, "rename", move)
            patch.setattr(Path, "rename", aside)
            patch.setattr(os, "fsync", flush)
            yield


@dataclass
class Job:
    """The one run of these tests, as often as it is wanted."""

    data: str
    model: str
    folder: Path  # one folder a trial goes in here

    def train(self, run: Path, **options: Any) -> None:
        dongu.train(self.data, model=self.model, out=str(run), **{**OPTIONS, **options})

    def go_on(self, run: Path, **options: Any) -> None:
        """What a user does when the disk is well again."""
        if not (run / "results.json").exists():
            if (run / "run.json").exists():
                dongu.resume(run)
            else:
                self.train(run, **options)

    def reference(self, **options: Any) -> dict[str, bytes]:
        run = self.folder / "reference"
        if not run.exists():
            self.train(run, **options)
        return result_of(run)


@pytest.fixture(scope="module")
def job(tiny_model: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Job:
    import random

    draw, folder = random.Random(5), tmp_path_factory.mktemp("faults")
    (folder / "data").mkdir()
    for name, count in {"train": 24, "validation": 6}.items():
        texts = (" ".join(draw.choices(["good", "bad", "film", "the", "not"], k=6)) for _ in range(count))
        rows = [json.dumps({"text": text, "label": f"class{i % 2}"}) for i, text in enumerate(texts)]
        (folder / "data" / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    job = Job(str(folder / "data"), tiny_model(dropout=0.2), folder)
    job.reference()  # before anything is patched
    return job


def result_of(run: Path) -> dict[str, bytes]:
    """All bytes that a repetition must have; what a write has left behind is hidden, and counts for nothing."""
    paths = (path for path in run.rglob("*") if path.is_file() and path.name not in NOT_REPEATED)
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in paths
        if not any(is_leftover(above) for above in path.parents)
    }


@pytest.fixture(scope="module")
def done(job: Job) -> list[str]:
    """What an undisturbed run asks of the disk."""
    home = job.folder / "counted"
    home.mkdir()
    faults = Faults(below=home)
    with faults.on():
        job.train(home / "run")
    assert result_of(home / "run") == job.reference()
    shutil.rmtree(home)
    return faults.done


def try_fault(job: Job, at: int, number: int = errno.ENOSPC, *, forever: bool = False) -> str:
    """One run with a fault, looked at, and gone on with; the kind of the operation that failed first."""
    home = job.folder / f"trial-{at}-{number}-{forever}"
    home.mkdir()
    run, faults, saved = home / "run", Faults(home, at, number, forever), []
    of_the_page: set[int] = set()  # operations
    save = Checkpoints.save

    def noted_save(self: Checkpoints, loop: dongu.Loop, state: RunState) -> None:
        save(self, loop, state)
        saved.append(state.step)

    def noted_report(*arguments: Any) -> None:
        first = len(faults.done) + 1
        try:
            write_report(*arguments)
        finally:
            of_the_page.update(range(first, len(faults.done) + 1))

    error = None
    with faults.on(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", noted_save)
        patch.setattr("dongu.running.write_report", noted_report)
        try:
            job.train(run)
        except StorageError as caught:
            error = caught
    kind, where = faults.done[at - 1], f"operation {at}, {faults.done[at - 1]}"
    if error is None:
        # Litter for later, a swap done in two steps, or the page, without which a run goes on.
        assert kind in ("remove", "exchange") or at in of_the_page, where
    else:
        assert error.exit_code == 6
        assert str(home) in error.where, where
        assert os.strerror(number) in error.what
        assert error.hint == _HINTS[number]
    valid = [Checkpoint.read(path).state.step for path in own_checkpoints(run / "checkpoints")]  # not one is damaged
    assert saved == [] or valid[-1] >= saved[-1], where
    assert len(valid) >= min(len(saved), OPTIONS["keep"]), where

    job.go_on(run)
    assert result_of(run) == job.reference(), where
    if error is not None:
        assert not [path for path in run.rglob("*") if is_leftover(path)] or (run / "results.json").exists(), where
    shutil.rmtree(home)
    return kind


def kinds_of(done: list[str]) -> dict[str, int]:
    """Each kind of operation, and one in the middle."""
    found = {kind: [at for at, other in enumerate(done, start=1) if other == kind] for kind in {*done} - {"exchange"}}
    return {kind: found[kind][len(found[kind]) // 2] for kind in sorted(found)}


@pytest.mark.cases(test=0, ci=1)
def test_a_fault_of_each_kind(job: Job, done: list[str]) -> None:
    """No space at one operation, or read-only from it on; the crash tests try each operation."""
    for number, (kind, at) in enumerate(kinds_of(done).items()):
        error, forever = ((errno.ENOSPC, False), (errno.EROFS, True))[number % 2]
        assert try_fault(job, at, error, forever=forever) == kind


PARTS = 4  # of a long test, so that two processes which share the tests end at nearly the same time


@pytest.mark.cases(test=0, ci=1)
@pytest.mark.crash
@pytest.mark.parametrize("part", range(PARTS))
def test_a_fault_at_every_operation(job: Job, done: list[str], part: int) -> None:
    chosen = range(1 + part, len(done) + 1, PARTS * (1 if EXHAUSTIVE else 6))
    assert [try_fault(job, at) for at in chosen] == [done[at - 1] for at in chosen]
    assert len(done) > 150
    report(f"one operation failed, part {part + 1} of {PARTS}", len(chosen))


@pytest.mark.exhaustive
@pytest.mark.crash
@pytest.mark.parametrize("part", range(PARTS // 2))
def test_everything_fails_from_some_operation_on(job: Job, done: list[str], part: int) -> None:
    """The removal of what was staged too; every second operation, or it would take minutes."""
    tried = range(1 + 2 * part, len(done) + 1, PARTS * (1 if EXHAUSTIVE else 6))
    for at in tried:
        try_fault(job, at, forever=True)
    report(f"all failed from one on, part {part + 1} of {PARTS // 2}", len(tried))


OTHERS = [errno.EROFS, errno.EIO, errno.EDQUOT, errno.EACCES]


@pytest.mark.crash
@pytest.mark.parametrize("number", OTHERS, ids=errno.errorcode.get)
def test_other_faults(job: Job, done: list[str], number: int) -> None:
    """Which number it is changes what is said, and nothing else: all at each kind of operation, or each at some."""
    kinds = [*kinds_of(done).items()]
    for kind, at in kinds if EXHAUSTIVE else kinds[OTHERS.index(number) :: len(OTHERS)]:
        assert try_fault(job, at, number, forever=number == errno.EROFS) == kind


def report(name: str, count: int) -> None:
    print(f"{name}: {count} runs, each byte-identical afterwards")
    if path := os.environ.get("DONGU_CRASH_REPORT"):
        file = Path(path)
        counts = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        counts.setdefault("disk_faults", {})[name] = count
        file.write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")


def test_short_writes(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """write(2) may take less than it is given."""
    plain = Disk()
    monkeypatch.setattr(disk, "append", lambda file, content: plain.append(Sips(file), content))
    job.train(job.folder / "sips")
    assert result_of(job.folder / "sips") == job.reference()


class Sips(FileIO):
    """A file that takes at most 1,000 bytes at a time."""

    def __init__(self, file: FileIO) -> None:
        super().__init__(file.fileno(), "wb", closefd=False)

    def write(self, content: Any) -> int:
        return super().write(memoryview(content)[:1000])


# --- a file system that is really full


@pytest.mark.exhaustive
def test_a_file_system_that_is_full(job: Job, tmp_path: Path) -> None:
    """The writers of transformers do not go through `Disk`: here they meet the real thing."""
    (tmp_path / "mount").mkdir()
    probe = ["unshare", "-Urm", "mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path / "mount")]
    if not sys.platform.startswith("linux") or shutil.which("unshare") is None:
        pytest.skip("there is no unshare(1) here, so no small file system to fill")
    if (tried := subprocess.run(probe, capture_output=True, text=True)).returncode:
        pytest.skip(f"this system lets nobody mount a file system of one's own: {tried.stderr.strip()}")
    request = {"data": job.data, "model": job.model, "mount": str(tmp_path / "mount"), "folder": str(tmp_path)}
    done = subprocess.run(
        ["unshare", "-Urm", sys.executable, __file__, json.dumps(request)],
        capture_output=True,
        text=True,
        timeout=HANGS,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    trials = json.loads(done.stdout.splitlines()[-1])
    assert len(trials) > 10
    assert {trial["exit_code"] for trial in trials} == {6}
    assert all(trial["where"].startswith(request["mount"]) for trial in trials)
    assert all("No space left on device" in trial["what"] for trial in trials)
    assert all(trial["identical"] for trial in trials)
    causes = {trial["cause"] for trial in trials}
    assert causes > {"OSError"}, "none of the writers of safetensors and tokenizers was hit"


def fill_and_train(data: str, model: str, mount: str, folder: str) -> None:
    """Train into a small file system whose room somebody takes at step 4, all but some pages of it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", mount], check=True)
    job, place = Job(data, model, Path(folder)), Path(mount)
    effort.PROBE_SECONDS, effort.PROBE_SIZES = 0.0, {"cpu": 64}
    reference, trials = job.reference(save_steps=None), []
    step = Journal.step
    for pages in (*range(2, 20, 2), *range(20, 100, 10)):

        def filling_step(self: Journal, made: dongu.Step, pages: int = pages) -> None:
            step(self, made)
            if made.number == 4:
                room = os.statvfs(place)
                with (place / "filler").open("wb") as file:
                    file.write(b"x" * (room.f_bavail - pages) * room.f_bsize)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Journal, "step", filling_step)
            try:
                job.train(place / "run", save_steps=None)
                break  # there was room enough
            except StorageError as error:
                trial = {"exit_code": error.exit_code, "what": error.what, "where": error.where}
                trial["cause"] = type(error.__cause__).__name__
        (place / "filler").unlink()
        job.go_on(place / "run", save_steps=None)
        trials.append({**trial, "pages": pages, "identical": result_of(place / "run") == reference})
        shutil.rmtree(place / "run")
    print(json.dumps(trials))


# --- before the first step


def too_little(_: Any) -> Any:
    return shutil._ntuple_diskusage(10**9, 10**9 - 1234, 1234)


def test_too_little_room_is_said_before_the_first_step(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", too_little)
    out = tmp_path / "runs" / "here"
    assert run_command(["train", job.data, "--model", job.model, "--out", str(out), "--device", "cpu"]) == 6
    message = capsys.readouterr().err
    assert str(out) in message
    assert "1,234 are free" in message
    weights = sum(tensor.nbytes for tensor in load_file(job.folder / "reference/model/model.safetensors").values())
    # Two checkpoints, the best one's, the one that is written; weights and two moments each. Two models.
    assert f"will take {(4 * 3 + 2) * weights:,} bytes" in message
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_to_go_on(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    full = Faults(tmp_path, at=90)
    with full.on(), pytest.raises(StorageError):
        job.train(run)
    assert own_checkpoints(run / "checkpoints")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    monkeypatch.setattr(shutil, "disk_usage", too_little)
    with pytest.raises(StorageError, match="1,234 are free"):
        dongu.resume(run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"} == before
    monkeypatch.undo()
    job.go_on(run)
    assert result_of(run) == job.reference()


# --- the run folder goes while it is written to


def after(number: int, name: str, what: Callable[[], Any]) -> Callable[..., Any]:
    """A function of `dongu.Loop` or of `Journal` that does something after its call of this number."""
    plain = getattr(Journal if name == "step" else dongu.Loop, name)
    calls = 0

    def function(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        result = plain(*arguments, **options)
        calls += 1
        if calls == number:
            what()
        return result

    return function


GONE = [("step", 2), ("step", 5), ("step", 11), ("evaluate", 2), ("evaluate", 3)]
MOMENTS = ["before a save", "before the first best model", "before the last evaluation", "after it", "while judging"]


@pytest.mark.parametrize(("name", "number"), GONE, ids=MOMENTS)
def test_the_run_folder_is_removed(
    job: Job, tmp_path: Path, name: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    owner = Journal if name == "step" else dongu.Loop
    monkeypatch.setattr(owner, name, after(number, name, lambda: shutil.rmtree(run)))
    with pytest.raises(StorageError) as caught:
        job.train(run)
    assert str(run) in caught.value.where
    assert list(tmp_path.iterdir()) == []  # nothing that looks like a run is there again


@pytest.mark.cases(test=2, ci=5)
@pytest.mark.parametrize(("name", "number"), GONE, ids=MOMENTS)
def test_the_run_folder_is_renamed(
    job: Job, tmp_path: Path, name: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    owner = Journal if name == "step" else dongu.Loop
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, after(number, name, lambda: run.rename(moved)))
        with pytest.raises(StorageError):
            job.train(run)
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]
    job.go_on(moved)
    assert result_of(moved) == job.reference()


if __name__ == "__main__":
    fill_and_train(**json.loads(sys.argv[1]))
