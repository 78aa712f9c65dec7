"""A run can be killed at any instant and ends in the bytes it would have had."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dongu
from dongu.cli.main import run as run_command
from dongu.errors import CheckpointError, StorageError, UsageError
from dongu.run.checkpoint import CONTENTS, Checkpoint
from dongu.run.manifest import MANIFEST

OPTIONS: dict[str, Any] = {
    "max_steps": 18,
    "batch_size": 8,
    "micro_batch_size": 3,
    "lr": 2e-3,
    "warmup": 0.2,
    "save_steps": 2,
    "eval_steps": 5,
    "device": "cpu",
    "threads": 1,
}


class CutError(Exception):
    """Ends a run from inside, after a given number of steps."""


@pytest.fixture(scope="module")
def known() -> dict[str, tuple[Path, Path]]:
    """Runs that were cut off: where each was, and a copy of it."""
    return {}


@pytest.fixture
def cut_run(
    known: dict[str, tuple[Path, Path]],
    tiny_model: Callable[..., str],
    data_folder: Callable[..., str],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Path]:
    """`cut_run(steps)`: a run that ended abruptly after so many of its 18 steps; trained once, then copied."""

    def cut(steps: int, **options: Any) -> Path:
        from dongu.run.journal import Journal

        path, name, data = tmp_path / "run", f"{steps} {options}", data_folder(train=61)
        if name in known:
            was, copy = known[name]
            shutil.copytree(copy, path)
            record = (path / "run.json").read_text(encoding="utf-8")
            (path / "run.json").write_text(record.replace(str(was.parent), str(tmp_path)), encoding="utf-8")
            return path
        write = Journal.step

        def stop(self: Journal, step: dongu.Step) -> None:
            write(self, step)
            if step.number == steps:
                raise CutError

        with monkeypatch.context() as patch:
            patch.setattr(Journal, "step", stop)
            all_options = {**OPTIONS, "model": tiny_model(dropout=0.2), "out": str(path), **options}
            with pytest.raises(CutError):
                dongu.train(data, **all_options)
        known[name] = (path, Path(shutil.copytree(path, tmp_path_factory.mktemp("cut") / "run")))
        return path

    return cut


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_what_is_kept(cut_run: Callable[..., Path]) -> None:
    run = cut_run(17, keep=2)
    steps = {int(name.removeprefix("step-")) for name in names(run)}
    assert {15, 16} <= steps
    state = json.loads((run / "checkpoints" / "step-00000016" / "state.json").read_text(encoding="utf-8"))
    assert steps == {15, 16, state["best_step"]}


def test_the_command_says_how_to_go_on_and_does(
    cut_run: Callable[..., Path], capsys: pytest.CaptureFixture[str], data_folder: Callable[..., str]
) -> None:
    run = cut_run(11)
    assert run_command(["train", data_folder(train=61), "--out", str(run)]) == 2
    assert f"dongu resume {run}" in capsys.readouterr().err
    assert run_command(["resume", str(run)]) == 0
    assert "resuming after step 10 of 18" in capsys.readouterr().out
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in steps if line["event"] == "step"] == list(range(1, 19))
    with pytest.raises(UsageError, match="finished"):
        dongu.resume(run)


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "symlink":
        path.rename(path.with_name("elsewhere"))
        path.symlink_to(path.with_name("elsewhere"))
    else:
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 1
        path.write_bytes(
            {"empty": b"", "cut": content[:-1], "extended": content + b" ", "flipped": bytes(flipped)}[kind]
        )


@pytest.mark.parametrize("kind", ["missing", "empty", "cut", "extended", "flipped", "symlink"])
@pytest.mark.parametrize("name", [*CONTENTS, MANIFEST])
def test_damage_is_seen_named_and_passed_over(
    name: str, kind: str, cut_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = cut_run(13)
    newest = run / "checkpoints" / names(run)[-1]
    damage(newest / name, kind)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.read(newest)
    assert caught.value.where == str(newest / name)
    if (name, kind) != (CONTENTS[0], "flipped"):  # all damage is one from here on
        return
    assert run_command(["resume", str(run)]) == 0
    output = capsys.readouterr().out
    assert f"WARNING: {newest / name}" in output
    assert "resuming after step 10" in output


def test_none_valid_is_exit_4_and_nothing_changes(
    cut_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = cut_run(13)
    for name in names(run):
        damage(run / "checkpoints" / name / "weights.safetensors", "flipped")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert run_command(["resume", str(run)]) == 4
    assert "no checkpoint is valid" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_swapped_files_of_two_checkpoints(cut_run: Callable[..., Path]) -> None:
    run = cut_run(13)
    older, newer = (run / "checkpoints" / name for name in names(run)[-2:])
    shutil.copy(older / "moments.safetensors", newer / "moments.safetensors")
    with pytest.raises(CheckpointError, match="other bytes"):
        Checkpoint.read(newer)


def test_changed_data_are_refused(cut_run: Callable[..., Path], data_folder: Callable[..., str]) -> None:
    run = cut_run(13)
    file = Path(data_folder(train=61)) / "train.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace("film", "book", 1), encoding="utf-8")
    with pytest.raises(UsageError, match="train has other rows than before") as caught:
        dongu.resume(run)
    assert str(file) in caught.value.what
    assert "--allow data" in caught.value.hint
    assert dongu.resume(run, allow=["data"]).results["steps"] == 18


def test_a_full_disk_leaves_the_older_checkpoint(cut_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    run = cut_run(13)
    before = names(run)
    sync = os.fsync
    calls = 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError) as caught:
            dongu.resume(run)
    assert caught.value.exit_code == 6
    assert set(before) <= set(names(run))
    for name in before:
        Checkpoint.read(run / "checkpoints" / name)
    assert dongu.resume(run).results["steps"] == 18


TASKS: dict[str, tuple[Callable[[int], Any], dict[str, Any]]] = {
    "several labels, weighted": (lambda i: ["x"] * (i % 2) + ["y"] * (i % 3 == 0), {"class_weights": "balanced"}),
    "numbers of a large unit": (lambda i: repr(2000.5 + i % 7), {}),
    "smoothed classes, weighted": (lambda i: "ab"[i % 2], {"class_weights": {"b": 3}, "label_smoothing": 0.1}),
}


DEAR = ("numbers of a large unit", "smoothed classes, weighted")


@pytest.mark.cases(test=1, ci=1)
@pytest.mark.parametrize("task", [pytest.param(t, marks=[pytest.mark.crash] * (t in DEAR)) for t in TASKS])
def test_every_task_ends_in_the_bytes_it_would_have_had(
    task: str, tiny_model: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A threshold and a scale are part of what a model answers: they must come back too."""
    label, more = TASKS[task]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": f"word{i % 9} film", "label": label(i)}) + "\n" for i in range(70)))
    options = {**OPTIONS, **more, "model": tiny_model(dropout=0.2)}
    whole = dongu.train(str(data), out=str(tmp_path / "whole"), **options)

    def killed(*_: Any, **__: Any) -> None:
        raise CutError

    with monkeypatch.context() as patch:
        patch.setattr("dongu.running.save_best", killed)  # after an evaluation, before what it led to was kept
        with pytest.raises(CutError):
            dongu.train(str(data), out=str(tmp_path / "run"), **options)
    assert json.dumps(dongu.resume(tmp_path / "run").results) == json.dumps(whole.results)  # NaN is not equal to NaN
    for name in ("metrics.jsonl", "results.json", "predictions/validation.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (whole.path / name).read_bytes(), name
    for path in (whole.path / "model").iterdir():
        assert (tmp_path / "run" / "model" / path.name).read_bytes() == path.read_bytes(), path.name
