"""`--task ordinal`: learnt as numbers, answered as classes of the scale, through every command that knows tasks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification

import dongu
from conftest import computed
from dongu.cli.main import run
from dongu.config import make_config
from dongu.data.examples import read_examples
from dongu.data.sources import read_source
from dongu.errors import DataError
from dongu.judge.answers import nearest
from dongu.judge.metrics import MetricSet
from dongu.judge.numeric import quadratic_kappa_of

SCALE = (1.0, 2.0, 3.0, 5.0)


def stars(count: int) -> list[dict[str, str]]:
    return [{"text": " ".join(["good"] * (i % 4 + 1)), "stars": f"{SCALE[i % 4]:g}"} for i in range(count)]


@pytest.fixture(scope="module")
def finished(tiny_model: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ordinal")
    for name, count in (("train", 96), ("validation", 24)):
        lines = "".join(json.dumps(row) + "\n" for row in stars(count))
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    options: dict[str, Any] = {"model": tiny_model(), "epochs": 8, "lr": 5e-3, "device": "cpu"}
    dongu.train(str(folder), task="ordinal", out=str(folder / "run"), **options)
    return folder / "run"


@pytest.mark.cases(test=1, ci=2)
def test_the_answers_are_classes_of_the_scale(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    record = json.loads((finished / "run.json").read_text(encoding="utf-8"))
    assert results["metric"] == "quadratic_kappa"
    assert {"quadratic_kappa", "accuracy", "mae", "loss"} == set(results["validation"])
    entry = results["validation"]["quadratic_kappa"]
    assert entry["low"] <= entry["value"] <= entry["high"]
    assert entry["value"] > 0.8
    assert entry["baseline"] == 0, "a constant answer agrees by chance alone"
    assert (record["options"]["task"], record["label_names"]) == ("ordinal", ["1", "2", "3", "5"])
    [answer] = dongu.load(finished, device="cpu").predict(["good good"])
    assert set(answer) == {"prediction", "number"}
    assert answer["prediction"] == f"{nearest(SCALE, np.array([answer['number']]))[0]:g}"
    lines = (finished / "predictions" / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row["label"] for row in rows} == {"1", "2", "3", "5"}
    assert np.mean([row["label"] == row["prediction"] for row in rows]) == results["validation"]["accuracy"]["value"]
    errors = [abs(float(row["label"]) - float(row["prediction"])) for row in rows]
    assert np.mean(errors) == pytest.approx(results["validation"]["mae"]["value"])


def test_the_saved_model_is_a_regression_that_knows_its_scale(finished: Path) -> None:
    model: Any = AutoModelForSequenceClassification.from_pretrained(finished / "model")
    assert (model.config.problem_type, model.config.num_labels) == ("regression", 1)
    assert model.config.ordinal_labels == ["1", "2", "3", "5"]


def test_the_commands_take_it(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", str(finished), "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert json.dumps(results["validation"]["mae"]["value"]) in json.dumps(evaluated)
    answers = tmp_path / "answers.csv"
    data = str(finished.parent / "validation.jsonl")
    assert run(["predict", str(finished), "--data", data, "--out", str(answers)]) == 0
    assert answers.read_text(encoding="utf-8").splitlines()[0] == "id,text,stars,prediction,number"
    assert run(["predict", str(finished), "good\ngood"]) == 0
    assert re.fullmatch(r"[1-5]\t-?[0-9]\.[0-9]{4}\tgood good\n", capsys.readouterr().out)
    assert run(["report", str(finished)]) == 0
    assert run(["compare", str(finished), str(finished)]) in (0, 2)
    capsys.readouterr()
    for command in ("eject", "export"):
        assert run([command, str(finished)]) == 2
        assert "an ordinal task" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["1", "2.5", "3"], "`2.5` is not a whole number"),
        (["good", "bad", "good"], "`good` is not a number"),
        (["1", "1", "1"], "one label only"),
        (["1", "20260101", "20260102"], "`20260101` is not a step of a scale: the largest is 16,777,216"),
    ],
)
def test_what_is_no_scale(labels: list[str], said: str) -> None:
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
    with pytest.raises(DataError, match=said):
        read_examples(read_source({"train": rows, "validation": rows}), make_config({"task": "ordinal"}))


def test_steps_of_many_digits_are_told_apart() -> None:
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(["1234567", "1234568", "1000000"])]
    data = read_examples(read_source({"train": rows, "validation": rows}), make_config({"task": "ordinal"}))
    assert data.label_names == ("1000000", "1234567", "1234568")


def test_a_class_that_train_lacks() -> None:
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(["-1", "0", "1.0"])]
    data = read_examples(read_source({"train": rows, "validation": rows}), make_config({"task": "ordinal"}))
    assert data.label_names == ("-1", "0", "1"), "of a scale -1 is a number"
    other = {"train": rows, "validation": [*rows, {"text": "new", "label": "2"}]}
    with pytest.raises(DataError, match="`2` does not occur in train"):
        read_examples(read_source(other), make_config({"task": "ordinal"}))


def test_answers_are_rounded_to_the_nearest_class() -> None:
    assert nearest(SCALE, np.array([-7.0, 1.49, 1.5, 2.6, 3.9, 4.0, 80.0])).tolist() == [1, 1, 2, 3, 3, 5, 5]


def test_quadratic_kappa() -> None:
    """Against its definition by two tables, of rows and of a sample of them."""
    answers, truth = np.array([1.0, 2, 2, 3, 5, 1]), np.array([1.0, 2, 3, 3, 2, 5])
    for weights in (np.ones(6), np.array([2.0, 0, 1, 3, 0, 1])):
        seen, dealt = 0.0, 0.0
        for i in range(6):
            seen += weights[i] * (answers[i] - truth[i]) ** 2
            dealt += sum(weights[i] * weights[j] * (answers[i] - truth[j]) ** 2 for j in range(6)) / weights.sum()
        assert quadratic_kappa_of(answers, truth)(weights[None])[0] == pytest.approx(1 - seen / dealt)
    assert np.isnan(quadratic_kappa_of(np.ones(3), np.ones(3))(np.ones((1, 3)))[0])
    metrics = MetricSet.of("ordinal", ("1", "2", "3", "5"))
    values = computed(metrics, np.array([[1.2], [2.4], [9.0]]), np.array([1.0, 3.0, 5.0]))
    assert values == pytest.approx({"quadratic_kappa": 1 - 1 / 17, "accuracy": 2 / 3, "mae": 1 / 3})
