"""`--folds K`: K ordinary runs, and for each row the answer of the model that has not seen it."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dongu
from conftest import WORDS, unwrapped
from dongu.cli.main import run as run_command
from dongu.files import Disk
from dongu.folds import folds_lines
from dongu.run.journal import Journal

OPTIONS: dict[str, Any] = {"max_steps": 4, "batch_size": 8, "lr": 2e-3, "threads": 1, "text_columns": ["text"]}
FLAGS = [
    text
    for name, value in OPTIONS.items()
    for text in (f"--{name}", *([*value] if name == "text_columns" else [str(value)]))
]


def write_rows(path: Path, label: Callable[[int], Any]) -> str:
    rows = ({"text": f"{WORDS[i % 7]} {WORDS[i % 5]} {i}", "label": label(i), "user": i % 11} for i in range(45))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def files(folder: Path) -> dict[str, bytes]:
    """What has no times in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("timing.jsonl", "run.json", "report.html", ".lock")
    }


def array(out: Path, name: str) -> np.ndarray:
    found: np.ndarray = np.load(out / f"predictions/{name}.npy")
    return found


def test_each_row_is_answered_by_the_model_that_has_not_seen_it(
    tiny_model: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out, model = write_rows(tmp_path / "rows.jsonl", lambda i: "abc"[i % 3]), tmp_path / "out", tiny_model()
    command = ["train", data, *FLAGS, "--model", model, "--group-column", "user", "--folds", "3", "--out"]
    assert run_command([*command, str(out)]) == 0
    shown = capsys.readouterr().out
    summary = json.loads((out / "folds.json").read_text(encoding="utf-8"))
    assert summary["folds"] == ["fold-1", "fold-2", "fold-3"]
    ids, folds, labels, sure = (array(out, name) for name in ("ids", "folds", "labels", "pred_probs"))
    assert ids.tolist() == list(range(45))
    assert sure.shape == (45, 3)
    assert np.allclose(sure.sum(-1), 1)
    assert labels.tolist() == [i % 3 for i in range(45)]
    for user in range(11):
        assert len({*folds[user::11]}) == 1, "a group is in one fold"
    for k in (1, 2, 3):
        written = (out / f"fold-{k}/predictions/validation.jsonl").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in written.splitlines()]
        assert [line["id"] for line in lines] == np.flatnonzero(folds == k).tolist()
        for line in lines:
            assert [*line["probabilities"].values()] == sure[line["id"]].tolist()
    accuracy = summary["pooled"]["accuracy"]
    assert accuracy["value"] == pytest.approx((sure.argmax(-1) == labels).mean())
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert accuracy["high"] - accuracy["low"] == pytest.approx(
        2 * 1.96 * (accuracy["value"] * (1 - accuracy["value"]) / 45) ** 0.5, rel=0.25
    ), "the rows are resampled"
    weights = np.bincount(folds)[1:]
    assert np.average(summary["validation"]["accuracy"]["values"], weights=weights) == pytest.approx(accuracy["value"])
    assert "45 rows, each answered by the model that has not seen it" in shown
    table = (out / "predictions/out_of_fold.csv").read_text(encoding="utf-8").splitlines()
    assert table[0] == "id,fold,label,prediction,probability of a,probability of b,probability of c"
    assert len(table) == 46

    single = dongu.train(data, **OPTIONS, model=model, group_column="user", fold="2/3", out=str(tmp_path / "one"))
    assert files(out / "fold-2") == files(single.path), "each is an ordinary run"
    assert run_command(["verify", str(out / "fold-2")]) == 0
    capsys.readouterr()

    whole = files(out)
    other = tmp_path / "other"
    write, made = Journal.step, []

    def step(self: Journal, one: dongu.Step) -> None:
        write(self, one)
        made.append(one)
        if len(made) == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "step", step)
        assert run_command([*command, str(other)]) == 143
    assert json.loads((other / "folds.json").read_text(encoding="utf-8"))["folds"] == ["fold-1"]
    assert not (other / "predictions").exists()
    assert run_command([*command, str(other)]) == 0
    assert files(other) == whole
    assert run_command([*command, str(other), "--seed", "1"]) == 2
    assert files(other) == whole


@pytest.mark.cases(test=1, ci=2)
@pytest.mark.parametrize("kind", ["numbers", "several"])
def test_other_tasks(kind: str, tiny_model: Callable[..., str], tmp_path: Path) -> None:
    label = (lambda i: i / 7) if kind == "numbers" else (lambda i: [name for k, name in enumerate("ab") if i % (k + 2)])
    data, out = write_rows(tmp_path / "rows.jsonl", label), tmp_path / "out"
    assert run_command(["train", data, *FLAGS, "--model", tiny_model(), "--folds", "2", "--out", str(out)]) == 0
    summary = json.loads((out / "folds.json").read_text(encoding="utf-8"))
    if kind == "numbers":
        assert array(out, "predictions").shape == array(out, "labels").shape == (45,)
        assert np.allclose(array(out, "labels"), np.arange(45) / 7)
        assert "pearson" in summary["pooled"]
    else:
        assert array(out, "pred_probs").shape == array(out, "labels").shape == (45, 2)
        assert "average_precision" in summary["pooled"]


def test_a_metric_of_ones_own_is_pooled_too(tiny_model: Callable[..., str], tmp_path: Path) -> None:
    parts, out = tmp_path / "parts.py", tmp_path / "out"
    parts.write_text("metrics = {'nearness': lambda e: -abs(e.predictions - e.targets).mean()}\n", encoding="utf-8")
    data = write_rows(tmp_path / "rows.jsonl", lambda i: i / 7)
    command = ["train", data, *FLAGS, "--model", tiny_model(), "--folds", "2", "--parts", str(parts)]
    assert run_command([*command, "--metric", "nearness", "--out", str(out)]) == 0
    pooled = json.loads((out / "folds.json").read_text(encoding="utf-8"))["pooled"]
    assert pooled["nearness"]["value"] == pytest.approx(-pooled["mae"]["value"])
    assert pooled["nearness"]["low"] < pooled["nearness"]["value"] < pooled["nearness"]["high"]


def test_labels_with_a_bar_in_their_names_stand_in_a_list(tiny_model: Callable[..., str], tmp_path: Path) -> None:
    names, out = ("a|b", "c"), tmp_path / "out"
    labels = [[name for k, name in enumerate(names) if i % (k + 2)] for i in range(45)]
    data = write_rows(tmp_path / "rows.jsonl", labels.__getitem__)
    assert run_command(["train", data, *FLAGS, "--model", tiny_model(), "--folds", "2", "--out", str(out)]) == 0
    with (out / "predictions/out_of_fold.csv").open(encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [json.loads(row["label"]) for row in rows] == labels
    assert {name for row in rows for name in json.loads(row["prediction"])} <= {*names}


def test_the_folder_says_that_it_gives_each_row_a_label() -> None:
    """The thresholds of the folds are of their own probabilities, and not of the mean that the folder answers."""
    known = {"metric": "accuracy", "label_names": ["a", "b"], "constant_answer": [0.5, 0.5]}
    pooled = {"accuracy": {"value": 0.9, "low": 0.8, "high": 0.95, "baseline": 0.5}}
    summary = {"rows": 9, "task": "single-label", "pooled": pooled, "validation": {}, "options": {}, **known}
    assert "label" not in " ".join(folds_lines(summary, Path("out")))
    said = [*folds_lines({**summary, "options": {"abstain": 0.9}}, Path("a b"))]
    assert "gives each row a label. This finds a threshold" in " ".join(said)
    assert "dongu evaluate 'a b' OTHER.csv --abstain 0.9" in said  # a line to copy


def test_what_does_not_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_rows(tmp_path / "rows.jsonl", lambda i: i % 2)
    for more in (["--seeds", "2"], ["--validation", "0.2"], ["--folds", "1"], ["--time-column", "user"]):
        assert run_command(["train", data, "--folds", "3", *more]) == 2
        assert "--fold" in capsys.readouterr().err


def test_finished_folds_are_shown_again_where_nothing_can_be_written(
    tiny_model: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, model = write_rows(tmp_path / "rows.jsonl", lambda i: "ab"[i % 2]), tiny_model()
    commands = [
        ["train", data, *FLAGS, "--model", model, *more]
        for more in (
            ["--folds", "2", "--out", str(tmp_path / "folds")],
            ["--seeds", "2", "--out", str(tmp_path / "seeds")],
            ["--resume", "--out", str(tmp_path / "run")],
        )
    ]
    for command in commands:
        assert run_command(command) == 0
    said = unwrapped(capsys.readouterr().out)
    assert re.search(r"Accuracy on 45 rows of train, each held out once, is 0\.\d+, 95% interval", said)
    assert "rows that it held out, so these figures are a little too good." in said

    def refused(_: Disk, path: Path, *_rest: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    for name in ("write", "append", "rename", "sync"):
        monkeypatch.setattr(Disk, name, refused)
    open_file = os.open

    def only_read(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if str(path).startswith(str(tmp_path)) and flags & (os.O_RDWR | os.O_WRONLY):
            refused(Disk(), path)
        return open_file(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", only_read)
    for command in commands:
        assert run_command(command) == 0
    monkeypatch.undo()
    for damaged in ("folds/predictions/ids.npy", "folds/predictions/out_of_fold.csv", "seeds/seeds.json"):
        before = (tmp_path / damaged).read_bytes()
        (tmp_path / damaged).unlink()
        for command in commands[:2]:
            assert run_command(command) == 0
        assert (tmp_path / damaged).read_bytes() == before
