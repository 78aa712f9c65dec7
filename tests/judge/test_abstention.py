"""A threshold below which no label is given holds the accuracy that it says, wherever the saved model answers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dongu
from dongu.cli.main import run as run_command
from dongu.errors import UsageError
from dongu.judge.abstention import LEVEL, THRESHOLDS, abstained, coverage, fit_threshold
from dongu.judge.answers import Evaluation
from dongu.verify import verify

OPTIONS: dict[str, Any] = {"max_steps": 12, "batch_size": 8, "lr": 5e-3, "device": "cpu", "threads": 1}


def answers(sure: np.ndarray, right: np.ndarray) -> Evaluation:
    """To rows of two classes, with the probability of the given one, and whether it is the right one."""
    logits = np.stack([np.zeros(len(sure)), np.log(sure / (1 - sure))], 1)
    return Evaluation("validation", np.arange(len(sure)), logits, right.astype(np.int64), None, {})


def drawn(random: np.random.Generator, rows: int, right: Callable[[np.ndarray], Any]) -> Evaluation:
    sure = random.uniform(0.5, 1, rows)
    return answers(sure, random.random(rows) < right(sure))


@pytest.mark.parametrize("rows", [150, 600])
def test_the_level_holds_where_no_threshold_is_good_enough(rows: int) -> None:
    """All labels are right with probability 0.9, whatever the model says of them: to find any is an error."""
    random = np.random.default_rng(rows)
    draws = [drawn(random, rows, lambda sure: np.full(len(sure), 0.9)) for _ in range(300)]
    errors = np.mean([fit_threshold(found, 0.9 + 1e-9) is not None for found in draws])
    assert errors <= 1 - LEVEL + 0.03, errors
    looks_good = [any(row["value"] > 0.9 for row in coverage(found)) for found in draws[:60]]
    assert np.mean(looks_good) > 0.5, "what comes to mind first would find one mostly"


def test_the_level_holds_for_a_model_that_is_overconfident_and_much_is_answered() -> None:
    random = np.random.default_rng(0)
    # From t on 1 - 0.6 * (1 - t) of the labels are right: 0.9 from t = 5/6, which is a third of the rows.
    found = [fit_threshold(drawn(random, 1500, lambda sure: 1 - 1.2 * (1 - sure)), 0.9) for _ in range(200)]
    assert np.mean([threshold is not None and threshold < 5 / 6 for threshold in found]) <= 1 - LEVEL + 0.03
    assert np.mean([threshold is not None for threshold in found]) > 0.7
    sure = [threshold for threshold in found if threshold is not None]
    assert np.mean(sure) < 0.93, "much of what could be answered is"


def test_the_ends() -> None:
    sure = np.linspace(0.501, 0.999, 200)
    assert fit_threshold(answers(sure, np.full(200, True)), 0.9) == 0, "all may be answered"
    assert fit_threshold(answers(sure, np.full(200, False)), 0.9) is None
    assert fit_threshold(answers(sure[:20], np.full(20, True)), 0.9) is None, "twenty rows prove nothing"
    assert list(THRESHOLDS) == sorted(THRESHOLDS, reverse=True)
    half = abstained(answers(sure, sure > 0.7), float(sure[100]))
    assert half["answered"]["value"] == 0.5
    assert half["accuracy"]["value"] == 1
    assert half["accuracy"]["low"] > 0.95
    nothing = abstained(answers(sure, sure > 0.7), 1.0)
    assert nothing["answered"]["value"] == 0
    assert math.isnan(nothing["accuracy"]["value"])


def test_coverage_against_accuracy() -> None:
    sure = np.linspace(0.501, 0.999, 200)
    rows = list(coverage(answers(sure, sure > 0.7)))
    assert [row["answered"] for row in rows] == [1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.25]
    assert [row["value"] for row in rows] == sorted(row["value"] for row in rows)
    assert rows[0]["value"] == np.mean(sure > 0.7)
    assert rows[0]["threshold"] == pytest.approx(0.501)
    assert rows[-1]["threshold"] == pytest.approx(float(sure[150]))
    few = list(coverage(answers(sure[:4], sure[:4] > 0.7)))
    assert [row["answered"] for row in few] == [1.0, 0.75, 0.5, 0.25], "no row of the table stands in it twice"
    one = list(coverage(answers(np.full(10, 0.8), np.arange(10) > 2)))
    assert {(row["answered"], row["value"]) for row in one} == {(1.0, 0.7)}, "rows that are as sure are not told apart"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Rows of which those with `maybe` have any label: a model can know which it does not know."""
    folder, random = tmp_path_factory.mktemp("unsure"), np.random.default_rng(1)
    for split, count in {"train": 160, "validation": 320, "test": 60}.items():
        rows = []
        for i in range(count):
            label, word = ("bad", "good")[i % 2], ("bad", "good")[i % 2]
            if i % 4 > 1:
                label, word = ("bad", "good")[random.integers(2)], "maybe"
            rows.append({"text": f"{word} {word} film {i % 7}", "label": label})
        content = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(content, encoding="utf-8")
    return str(folder)


@pytest.mark.crash
def test_a_run_that_abstains(
    data: str, tiny_model: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import pipeline

    options = {**OPTIONS, "model": tiny_model(), "max_steps": 60}
    plain = dongu.train(data, **options, out=str(tmp_path / "plain"))
    result = dongu.train(data, **options, out=str(tmp_path / "run"), abstain=0.9, calibrate=True)
    threshold = result.results["abstain_below"]
    assert 0.5 < threshold < 1
    assert json.loads((result.path / "model" / "config.json").read_text())["abstain_below"] == threshold
    assert "abstain_below" not in json.loads((plain.path / "model" / "config.json").read_text())
    told = {row["split"]: row for row in result.results["abstained"]}
    assert list(told) == ["validation", "test"]
    assert 0.3 < told["test"]["answered"]["value"] < 0.7
    assert told["test"]["accuracy"]["value"] > 0.9
    for name in ("accuracy", "f1"):
        assert result.results["test"][name] == plain.results["test"][name], "metrics are of all rows"
    lines = (result.path / "predictions" / "test.jsonl").read_text().splitlines()
    assert all(json.loads(line)["prediction"] for line in lines), "and so are the predictions of the run"
    assert all(proof.holds for proof in verify(result.path)), list(verify(result.path))

    texts = ["good good film 1", "maybe maybe film 2"]
    model = dongu.load(result.path, device="cpu")
    assert model.threshold == threshold
    assert [answer["prediction"] for answer in model.predict(texts)] == ["good", None]
    asked = ["predict", str(result.path), *texts, "--device", "cpu"]
    capsys.readouterr()
    assert run_command(asked) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("good\t")
    assert second.startswith("-\t0.")
    assert run_command([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[1])["prediction"] is None
    table = tmp_path / "answers.csv"
    assert run_command([*asked, "--out", str(table)]) == 0
    assert table.read_text().splitlines()[2].startswith("1,maybe maybe film 2,,0.")
    assert run_command([*asked, "--abstain-below", "0"]) == 0
    assert not capsys.readouterr().out.splitlines()[1].startswith("-")
    ours = pipeline("text-classification", model=str(result.path / "model"), device="cpu")(texts)
    assert [answer["score"] >= threshold for answer in ours] == [True, False], "transformers loads it, and answers all"

    capsys.readouterr()
    assert run_command(["evaluate", str(result.path), "--device", "cpu"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"abstain below {threshold:g}; on test" in said
    assert "if only the most confident rows of test get a label" in said
    assert "a bag of words (" in said
    assert run_command(["evaluate", str(result.path), "--device", "cpu", "--json", "--abstain", "0.8"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["test"]["abstain_below"] <= threshold
    assert found["test"]["coverage"][0]["value"] == found["test"]["accuracy"]
    bag = {(row["split"], row["metric"]): row["value"] for row in result.results["bag_of_words"]}
    assert found["test"]["accuracy_bag_of_words"] == bag["test", "accuracy"]

    # A run that starts from a model that abstains has a threshold of its own, or none.
    options |= {"model": str(result.path / "model"), "max_steps": 1}
    again = dongu.train(data, **options, out=str(tmp_path / "again"))
    assert "abstain_below" not in json.loads((again.path / "model" / "config.json").read_text())
    assert dongu.load(again.path, device="cpu").threshold == 0

    # Whoever changes the threshold is found out, and one that is none is refused.
    config = json.loads((result.path / "model" / "config.json").read_text())
    (result.path / "model" / "config.json").write_text(json.dumps({**config, "abstain_below": 0.55}))
    assert not all(proof.holds for proof in verify(result.path))


def test_what_is_not_proved_is_said(data: str, tiny_model: Callable[..., str], tmp_path: Path) -> None:
    result = dongu.train(data, model=tiny_model(), **OPTIONS, out=str(tmp_path / "run"), abstain=0.999)
    assert result.results["abstain_below"] is None
    assert result.results["abstained"] == []
    assert "the rows of validation prove that of no threshold" in (result.path / "model" / "README.md").read_text()
    model = dongu.load(result.path, device="cpu")
    assert model.predict("good film")[0]["prediction"] in ("bad", "good")


def test_numbers_have_nothing_to_abstain_by(tiny_model: Callable[..., str], tmp_path: Path) -> None:
    rows = [{"text": f"word{i}", "label": i / 2} for i in range(12)]
    with pytest.raises(UsageError, match="--abstain: the task regression has no class probabilities"):
        dongu.train(rows, model=tiny_model(), max_steps=1, out=str(tmp_path / "run"), device="cpu", abstain=0.9)
