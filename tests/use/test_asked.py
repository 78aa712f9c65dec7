"""In Python as on the command line: what is shown, what is asked of a run, and where a run may be written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dongu
from dongu.cli.main import run as run_command
from dongu.cli.train import show_result
from dongu.errors import LockedError, UsageError
from dongu.judge.words import LEARNT, MORE, UNPROVEN
from dongu.run.console import Console
from dongu.run.folder import RunFolder
from dongu.run.taken import numbered


@pytest.fixture(scope="module")
def options(tiny_model: Callable[..., str]) -> dict[str, Any]:
    return {"model": tiny_model(), "max_steps": 2, "device": "cpu", "threads": 1}


@pytest.fixture(scope="module")
def data(shared_data_folder: Callable[..., str]) -> str:
    return shared_data_folder()


@pytest.fixture(scope="module")
def run(options: dict[str, Any], data: str, tmp_path_factory: pytest.TempPathFactory) -> dongu.RunResult:
    """All look at it, none changes it."""
    return dongu.train(data, quiet=True, out=tmp_path_factory.mktemp("runs") / "one", **options)


def test_training_in_python_shows_what_the_command_shows(
    options: dict[str, Any], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    assert run_command(["train", data, "--out", str(tmp_path / "run"), *given]) == 0
    command = capsys.readouterr().out.splitlines()
    shutil.rmtree(tmp_path / "run")
    dongu.train(data, out=str(tmp_path / "run"), **options)
    python = capsys.readouterr().out.splitlines()
    end = next(i for i, line in enumerate(command) if line.startswith("next "))
    measured = ("speed", "machine", "tokens", " " * 11)
    same = [[line for line in lines if not line.startswith(measured)] for lines in (command[: end - 1], python)]
    assert same[0] == same[1]
    assert python[0].startswith("data  ")  # before the model is loaded


def test_quiet_shows_nothing(run: dongu.RunResult, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with dongu.Loop(**{**json.loads((run.path / "run.json").read_text())["options"], "out": str(tmp_path / "a")}).run():
        pass
    assert "".join(capfd.readouterr()) == ""


def test_what_is_asked_prints_as_the_command_prints(
    run: dongu.RunResult, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any]
) -> None:
    shutil.copytree(run.path, tmp_path / "two")
    folders = [str(run.path), str(tmp_path / "two")]
    comparison = dongu.compare(*folders)
    assert run_command(["compare", *folders]) == 0
    assert repr(comparison) == capsys.readouterr().out.rstrip("\n")
    assert comparison.pairs[0].differences["accuracy"].value == 0.0
    checkup = dongu.inspect(data, model=options["model"])
    assert run_command(["inspect", data, "--model", options["model"]]) == 0
    assert repr(checkup) == capsys.readouterr().out.rstrip("\n")
    assert f"<pre>{repr(checkup)[:4]}" in checkup._repr_html_()
    assert dongu.inspect([{"text": "a", "label": "x"}, {"text": "a", "label": "y"}], model="not/here").findings
    assert dongu.report(run.path, tmp_path / "page.html").read_bytes().startswith(b"<!DOCTYPE html>")
    assert "<td>accuracy</td>" in run._repr_html_()


@pytest.mark.parametrize(
    ("there", "wanted"), [([], 1), (["x-1", "x-2"], 3), (["x-10", "x-9", "x-b", "y-20"], 11), (["x-2"], 3)]
)
def test_runs_are_numbered(there: list[str], wanted: int, tmp_path: Path) -> None:
    for name in there:
        (tmp_path / name).mkdir()
    assert numbered(tmp_path / "x-{n}") == str(tmp_path / f"x-{wanted}")
    assert numbered(tmp_path / "x") == str(tmp_path / "x")
    with pytest.raises(UsageError, match="only the last folder"):
        numbered(tmp_path / "{n}" / "x")


def test_a_run_makes_room(run: dongu.RunResult, options: dict[str, Any], data: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(run.path, out)
    (out / "model" / "extra").write_text("of the run before", encoding="utf-8")
    with pytest.raises(UsageError, match="holds a finished run"):
        dongu.train(data, quiet=True, out=str(out), **options)
    before = (out / "run.json").read_bytes()
    with pytest.raises(UsageError, match="seed"):  # whatever else is wrong comes first
        dongu.train(data, quiet=True, out=str(out), overwrite=True, seed=-1, **options)
    assert (out / "run.json").read_bytes() == before
    made = dongu.train(data, quiet=True, out=str(out), overwrite=True, seed=7, **options)
    assert json.loads((out / "run.json").read_text())["options"]["seed"] == 7
    assert not (out / "model" / "extra").exists()
    assert made.path == out


@pytest.mark.parametrize("what", ["foreign", "no run", "a link", "locked"])
def test_nothing_else_is_overwritten(
    what: str, run: dongu.RunResult, options: dict[str, Any], data: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(run.path, out)
    if what == "foreign":
        (out / "notes.txt").write_text("mine", encoding="utf-8")
    elif what == "no run":
        (out / "run.json").write_text('{"name": "somebody else\'s"}', encoding="utf-8")
    elif what == "a link":
        out.rename(tmp_path / "real")
        out.symlink_to(tmp_path / "real")
    files = sorted(path for path in out.rglob("*"))
    arguments: dict[str, Any] = {"quiet": True, "out": str(out), "overwrite": True, **options}
    if what == "locked":
        with pytest.MonkeyPatch.context() as patch:
            error = LockedError("process 1 writes to this run", where=str(out))
            patch.setattr(RunFolder, "refuse_if_locked", lambda self: (_ for _ in ()).throw(error))
            with pytest.raises(LockedError):
                dongu.train(data, **arguments)
    else:
        with pytest.raises(UsageError, match="is not overwritten"):
            dongu.train(data, **arguments)
    assert sorted(path for path in out.rglob("*")) == files


@pytest.mark.parametrize(
    ("advice", "said", "unsaid"),
    [
        ("", "dongu predict", "--max-steps"),
        (MORE, "--max-steps 20", "dongu predict"),
        (LEARNT, "--model OTHER", "dongu predict"),
        (UNPROVEN, "dongu evaluate", "--max-steps"),
    ],
)
def test_a_run_of_no_use_is_not_to_be_used(
    advice: str, said: str, unsaid: str, run: dongu.RunResult, capsys: pytest.CaptureFixture[str]
) -> None:
    show_result(dongu.RunResult(run.path, run.metrics, run.results, advice), Console(), as_json=False)
    shown = capsys.readouterr().out
    assert said in shown
    assert unsaid not in shown


def test_what_was_found_in_the_data_is_told_before_torch_and_a_model_are_loaded(
    run: dongu.RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a second of reading, that is: what takes seconds comes after it, and here never."""

    def late(*_: Any, **__: Any) -> Any:
        raise UsageError("too early")

    rows = "id;text;label\n" + "".join(f"{i};a film {i};{'ab'[i % 2]}\n" for i in range(30)) + "30;;a\n"
    (tmp_path / "rows.csv").write_text(rows, encoding="utf-8")
    model = json.loads((run.path / "run.json").read_text())["options"]["model"]
    monkeypatch.setattr("dongu.cli.train.loading", late)
    monkeypatch.setattr("dongu.training.Loop", late)
    assert run_command(["train", str(tmp_path / "rows.csv"), "--model", model, "--empty", "drop"]) == 2
    by_command = capsys.readouterr().out
    with pytest.raises(UsageError, match="too early"):
        dongu.train(str(tmp_path / "rows.csv"), model=model, empty="drop")
    assert by_command == capsys.readouterr().out
    words = " ".join(by_command.split())
    for part in ("train 26 · validation 4 rows", "1 row without a text", "--delimiter", "text → label", "not used: id"):
        assert part in words
