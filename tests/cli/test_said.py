"""What is said is true, and fits what the user did."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dongu
from dongu.cli.main import run as run_command
from dongu.demo.run import judged_answer
from dongu.judge.words import Yardstick, advice
from dongu.page.rows import suspects
from dongu.page.tuned import gain_lines


@pytest.mark.found("demo-answers")
def test_the_demonstration_says_whether_an_answer_is_right() -> None:
    answer = {"prediction": "paraphrase", "probabilities": {"different": 0.1581, "paraphrase": 0.8419}}
    assert judged_answer(answer, "paraphrase") == "paraphrase  0.8419   right"
    assert judged_answer(answer, "different") == "paraphrase  0.8419   wrong: its label is “different”"


@pytest.mark.found("few-passes")
@pytest.mark.parametrize(("epochs", "claims"), [(1, False), (1.3, False), (2, False), (3, True)])
def test_no_row_is_accused_after_fewer_passes_than_it_takes(
    epochs: float, claims: bool, tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path
) -> None:
    loop = dongu.Loop(data_folder(train=16, validation=8), model=tiny_model(), epochs=epochs, device="cpu")
    records = [(s.number, row, loss) for s in loop for row, loss in zip(s.ids, s.row_losses, strict=True)]
    found = suspects(_trace(records), None)
    assert found is not None
    assert ("too few to tell wrong labels" not in found["said"]) == claims
    assert (found["chart"] is not None) == claims


def _trace(records: list[tuple[int, int, float]]) -> Any:
    from types import SimpleNamespace

    from dongu.run.dynamics import RECORD

    record = SimpleNamespace(label_names=("no", "yes"))
    return SimpleNamespace(dynamics=np.array(records, RECORD), task="single-label", record=record)


@pytest.mark.found("advice")
@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["pos/1.csv", "neg/1.csv"], "folders by class hold files of text"),
        (["dataset_dict.json", "train/state.json"], "save the data set again"),
        (["x-00000-of-00002.parquet", "x-00001-of-00002.parquet"], "data-set/x-*'"),
        (["_SUCCESS", "part-00000-6c.csv", "part-00001-6c.csv"], "data-set/part-*'"),
        (["a-1.csv", "b-1.csv", "b-2.csv"], "data-set/b-*'"),
        (["reviews-2.csv", "more-1.csv"], "name it train"),
        (["data/train-00000-of-00002.parquet"], "fetch it again"),
        (["reviews.csv"], "name it train"),
    ],
)
def test_a_folder_without_train(
    names: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in names:
        path = tmp_path / "data-set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text,label\na,b\n", encoding="utf-8")
    assert run_command(["inspect", str(tmp_path / "data-set")]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.found("advice")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rows.tgz", "unpack it first"),
        ("rows.ods", "save it as .xlsx"),
        ("rows", "without an ending"),
    ],
)
def test_a_file_of_another_kind(name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_bytes(b"\x1f\x8b" * 9)
    assert run_command(["inspect", str(tmp_path / name)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.found("advice")
@pytest.mark.parametrize(("low", "high", "advised"), [(0.4, 0.8, True), (0.2, 0.4, True), (0.6, 0.8, False)])
def test_a_model_that_learnt_nothing_gets_advice(low: float, high: float, advised: bool) -> None:
    yardstick = Yardstick("single-label", "accuracy", ("no", "yes"), [0.5, 0.5])
    entry = {"value": min(0.5, high), "low": low, "high": high, "baseline": 0.5}
    said = advice({"best_step": 3, "test": {"accuracy": entry}}, yardstick)
    assert ("--epochs" in said) == advised


@pytest.mark.found("advice")
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 0, "A full training loop for transformer text classifiers."),
        (["-V"], 0, dongu.__version__),
        (["version"], 2, "dongu --version"),
    ],
)
def test_what_people_type_first(arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        ended = run_command(arguments)
    except SystemExit as end:
        ended = int(end.code or 0)
    assert ended == code
    assert said in " ".join("".join(capsys.readouterr()).split())


def test_commands_to_copy_name_a_place_with_spaces(
    tiny_model: Callable[..., str],
    data_folder: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A shell takes the path of each command that is said for one word."""
    run = tmp_path / "koşu 1" / "it's a run"
    train = ["train", data_folder(), "--model", tiny_model(), "--device", "cpu", "--out", str(run)]
    monkeypatch.setattr("dongu.running.advice", lambda *_: "")  # of a run that is of use
    assert run_command([*train, "--max-steps", "2", "--threads", "1"]) == 0
    said = capsys.readouterr().out
    monkeypatch.setattr("dongu.running.advice", lambda *_: "longer")
    assert run_command([*train, "--max-steps", "1", "--overwrite", "--threads", "1"]) == 0
    (run / "results.json").unlink()
    for command in (train, ["compare", str(run), str(tmp_path)], ["predict", str(run.parent), "a text"]):
        assert run_command(command) == 2
    said += "".join(capsys.readouterr())
    spread = {"loss": {"mean": 0.5, "std": 0.1, "values": {"a": 0.4, "b": 0.6}}}
    side = {"seeds": {"metric": "loss", "validation": spread, "best": "seed-1"}}
    tuned = {
        "metric": "loss",
        "winner": {**side, "trial": 0, "score": 0.1, "options": {}},
        "default": side,
        "trials": [],
    }
    said += "\n".join(gain_lines(tuned, run))
    commands = re.findall(r"dongu (?:predict|evaluate|compare|train|resume|runs) [^`\n]*", said)
    assert len(commands) == 8, said
    for command in commands:
        assert {str(run), str(run.parent), f"{run}-{{n}}", f"{run}/trial-0000/run.json"} & {*shlex.split(command)}, (
            command
        )
