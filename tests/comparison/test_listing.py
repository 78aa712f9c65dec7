"""`dongu runs`: the runs of a folder, the best first, with what tells them apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dongu.cli.main import run as command
from dongu.run.folder import RunFolder


def write_run(folder: Path, accuracy: float | None, metric: str = "accuracy", **options: Any) -> RunFolder:
    """The two files of a run that a list reads; without a value it has not ended."""
    folder.mkdir(parents=True)
    known = {"data": "rows.csv", "text_columns": ["text"], "label_column": "label", "task": "single-label"}
    record = {"options": {**known, **options}, "label_names": ["a", "b"], "metric": metric, "data": {}}
    (folder / "run.json").write_text(json.dumps(record), "utf-8")
    if accuracy is not None:
        entry = {metric: {"value": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.1}}
        results = {"steps": 30, "metric": metric, "validation": entry, "test": entry}
        (folder / "results.json").write_text(json.dumps(results), "utf-8")
    return RunFolder(folder)


def listed(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert command(["runs", *map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(("metric", "first"), [("mae", "small"), ("loss", "small"), ("rmse", "small"), ("r2", "large")])
def test_of_an_error_the_smallest_is_the_best(
    metric: str, first: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "large", 0.7, metric)
    write_run(tmp_path / "small", 0.2, metric)
    assert Path(listed(capsys, tmp_path)["runs"][0]["path"]).name == first


def test_the_best_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs/worse", 0.7, learning_rate=1e-5)
    write_run(tmp_path / "runs/sweep/seed-1", 0.8, learning_rate=2e-5, seed=1)
    write_run(tmp_path / "runs/going", None, learning_rate=1e-5)
    stopped = write_run(tmp_path / "runs/stopped", None, learning_rate=1e-5)
    events = [
        {"event": "step", "step": 7, "loss": 1.0},
        {"event": "evaluation", "step": 7, "split": "validation", "accuracy": 0.75},
        {"event": "step", "step": 8, "loss": 1.0},
    ]
    stopped.metrics.write_text("\n".join([*map(json.dumps, events), '{"event": "st']), "utf-8")
    write_run(tmp_path / "runs/worse/model", 0.9)
    (tmp_path / "runs/broken").mkdir()
    (tmp_path / "runs/broken/run.json").write_text("{}", "utf-8")
    lock = (
        "import sys; from pathlib import Path; from dongu.run.folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).lock():\n    print(flush=True)\n    sys.stdin.read()"
    )
    command_line = [sys.executable, "-c", lock, str(tmp_path / "runs/going")]
    with subprocess.Popen(command_line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        found = listed(capsys, tmp_path / "runs")
        holder.communicate(b"")
    assert found["schema"] == "dongu.runs/1"
    assert found["differs"] == ["learning_rate", "seed"]
    rows = [(Path(run["path"]).name, run["state"], run["step"]) for run in found["runs"]]
    assert rows == [
        ("seed-1", "finished", 30),
        ("stopped", "stopped", 8),
        ("worse", "finished", 30),
        ("going", "running", None),
        ("broken", "damaged", None),
    ], "what lies in a run is its own"
    assert found["runs"][0]["test"] == {"accuracy": {"value": 0.8, "low": 0.8 - 0.1, "high": 0.8 + 0.1}}
    assert found["runs"][0]["options"] == {"learning_rate": 2e-5, "seed": 1}
    assert found["runs"][1]["validation"] == {"accuracy": {"value": 0.75}}
    assert command(["runs", str(tmp_path / "runs")]) == 0
    head, best, second, *others = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "validation", "test", "metric", "state", "step", "learning-rate", "seed"]
    assert "0.8000 (0.7000 to 0.9000)" in best
    assert second.split()[-7:] == ["0.7500", "-", "accuracy", "stopped", "8", "1e-05", "-"]
    assert others[-1] == f"{tmp_path / 'runs/broken'}: is damaged: it holds no options of a run"


def test_another_metric_and_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, loss in (("b", 0.2), ("a", 0.4)):
        write_run(tmp_path / name, loss, "loss")
    write_run(tmp_path / "c", 0.99)
    assert [Path(run["path"]).name for run in listed(capsys, tmp_path)["runs"]] == ["c", "b", "a"], (
        "of a loss the least"
    )
    found = listed(capsys, tmp_path, "--metric", "loss")
    assert [Path(run["path"]).name for run in found["runs"]] == ["b", "a", "c"]
    assert found["runs"][2]["validation"].keys() == {"accuracy"}
    (tmp_path / "none").mkdir()
    assert command(["runs", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out == f"there is no run below {tmp_path / 'none'}\n"
    assert command(["runs", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: is not a folder" in capsys.readouterr().err


def test_no_torch_for_a_list(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.5)
    program = (
        "import sys; from dongu.cli.main import run; run(['runs', sys.argv[1]])\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "finished" in done.stdout


def test_on_a_terminal_no_line_is_wider(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit stands below, beside the runs again; in a pipe a run is one line."""
    monkeypatch.chdir(tmp_path)
    options = {"recipe": "auto", "head": "probe", "model": "some-model-of-a-long-name", "epochs": 5.0}
    for name, more in (("a", options), ("b", {"recipe": "original"})):
        path = write_run(tmp_path / "runs" / name, 0.8, **more).record
        path.write_text(json.dumps({**json.loads(path.read_text()), "given": ["model", "epochs"]}))
    assert command(["runs"]) == 0
    piped = capsys.readouterr().out.splitlines()
    assert piped[0].split()[-4:] == ["model", "epochs", "recipe", "head"], "what was given before what was derived"
    assert len(piped) == 3
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for columns in (40, 80, 300):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert command(["runs"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= columns
        heads = [line.split() for line in lines if line.startswith("run ")]
        assert [name for i, head in enumerate(heads) for name in head[i > 0 :]] == piped[0].split()
    assert lines == piped


def test_a_folder_that_cannot_be_listed_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's run, perhaps, which one may not look into; or a log that one may not read."""
    write_run(tmp_path / "open", 0.7)
    closed, log = tmp_path / "closed", write_run(tmp_path / "half", None).metrics
    closed.mkdir()
    log.write_text("", "utf-8")
    scan, opened = os.scandir, os.open

    def scandir(path: Any) -> Any:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(closed))
        return scan(path)

    def refuse(path: Any, *how: Any, **more: Any) -> int:
        if Path(path) in (log, closed / "run.json"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *how, **more)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(os, "open", refuse)
    found = {Path(run["path"]).name: run for run in listed(capsys, tmp_path)["runs"]}
    assert [(name, found[name]["state"]) for name in sorted(found)] == [
        ("closed", "damaged"), ("half", "damaged"), ("open", "finished"),
    ]  # fmt: skip
    assert {found[name]["problem"] for name in ("closed", "half")} == {"cannot be read (Permission denied)"}
