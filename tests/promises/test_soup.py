"""`--keep soup` beside what else a run may be asked for: its metric, its task, its threshold, its temperature."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import dongu
from dongu.cli.main import run as run_command
from dongu.config import ABSTAIN_BELOW
from dongu.errors import ModelError
from dongu.files import disk
from dongu.judge.abstention import fit_threshold
from dongu.judge.calibration import NO_TEMPERATURE, fit_temperature
from dongu.run.folder import RunFolder
from dongu.soup import make_soup
from dongu.sweep import soup_lines
from dongu.use.saved import SavedModel

OPTIONS = {"max_steps": 6, "batch_size": 8, "lr": 2e-3, "threads": 1, "seeds": 2, "keep": "soup", "recipe": "original"}
FLAGS = [text for name, value in OPTIONS.items() for text in (f"--{name}", str(value))]


OWN_MODEL = """
from types import SimpleNamespace
from torch import nn


class Bag(nn.Module):
    def __init__(self, labels):
        super().__init__()
        self.words = nn.EmbeddingBag(1000, labels)

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.words(input_ids))


def model(labels, config):
    return Bag(labels)
"""


@pytest.fixture
def souped(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """`souped(label, *flags)`: what seeds.json says of the mean, whose folder stays, whatever validation says of it.

    `label(number)` is that of a row.
    """

    def make(label: Callable[[int], Any], *flags: str, own_model: bool = False) -> dict[str, Any]:
        data = Path(data_folder(40, 60, 20))
        for file in data.iterdir():
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            lines = [json.dumps({"text": row["text"], "label": label(i)}) + "\n" for i, row in enumerate(rows)]
            file.write_text("".join(lines), encoding="utf-8")
        monkeypatch.setattr("dongu.soup.disk", SimpleNamespace(write=disk.write, remove=lambda _: None))
        model = [] if own_model else ["--model", tiny_model()]
        command = ["train", str(data), *FLAGS, *model, "--out", str(tmp_path / "out"), *flags]
        assert run_command(command) == 0
        found: dict[str, Any] = json.loads((tmp_path / "out/seeds.json").read_text(encoding="utf-8"))["soup"]
        return found

    return make


def two(number: int) -> str:
    return "ab"[number % 2]


def test_a_metric_that_is_not_usual_judges_the_mean(souped: Callable[..., dict[str, Any]]) -> None:
    found = souped(two, "--metric", "matthews_correlation")
    assert "matthews_correlation" in found["validation"]


def test_a_metric_of_the_users_own_judges_the_mean(souped: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("metrics = {'first': lambda evaluation: float(evaluation.logits[0, 0])}\n", encoding="utf-8")
    found = souped(two, "--parts", str(own), "--metric", "first")
    assert {"first", "accuracy", "loss"} <= {*found["validation"]}


def test_a_model_that_is_a_class_of_the_users_own_has_no_mean(
    souped: Callable[..., dict[str, Any]], tiny_model: Callable[..., str], tmp_path: Path, capsys: Any
) -> None:
    own = tmp_path / "own.py"
    own.write_text(OWN_MODEL, encoding="utf-8")
    found = souped(two, "--parts", str(own), "--tokenizer", tiny_model(), own_model=True)
    assert found == {"kept": False, "reason": "the model is a class of your own"}
    capsys.readouterr()
    assert run_command(["predict", str(tmp_path / "out/seed-42"), "a text"]) == 2
    assert "the model is a class of your own\nin Python, make it" in capsys.readouterr().err


def test_a_mean_of_ordinal_runs(souped: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    found = souped(lambda number: number % 3 + 1, "--task", "ordinal")
    assert "quadratic_kappa" in found["validation"]
    assert found["test"]["mae"]["value"] > 0


def test_a_mean_of_several_labels_has_the_threshold_of_its_own_answers(
    souped: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    found = souped(lambda number: ["a", "b", "c"][: number % 4])
    model = dongu.load(tmp_path / "out/soup")
    run = SavedModel.open(tmp_path / "out/seed-42")
    validation = model.evaluate(run.own_examples("validation"))["validation"]
    best = model.metrics.best_threshold(validation.logits, np.asarray(validation.targets))
    assert model.threshold == found["threshold"] == best


def test_a_mean_is_calibrated_and_abstains_by_its_own_probabilities(
    souped: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As each of the runs is: all of them were asked to."""
    found = souped(two, "--calibrate", "--abstain", "0.6", "--max_steps", "25")
    soup = dongu.load(tmp_path / "out/soup")
    examples = SavedModel.open(tmp_path / "out/seed-42").own_examples("validation")
    validation = soup.evaluate(examples)["validation"]
    assert fit_temperature(validation.logits, np.asarray(validation.targets)) == pytest.approx(1, abs=1e-3)
    assert "temperature" in found
    threshold = fit_threshold(validation, 0.6)
    assert threshold is not None
    assert found[ABSTAIN_BELOW] == soup.threshold == threshold
    assert [row["split"] for row in found["abstained"]] == ["validation", "test"]
    said = "\n".join(soup_lines({**found, "kept": True}, "loss", tmp_path))
    assert f"temperature {found['temperature']:.4f} in the head of the mean" in said
    assert f"abstain    below {threshold:g}" in said
    none = " ".join(soup_lines({**found, "kept": True, "temperature": None}, "loss", tmp_path))
    assert f"calibrated no: {NO_TEMPERATURE}" in " ".join(none.split())


def test_a_damaged_model_ends_the_mean(
    souped: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reason why there is none would end the command as if all were well."""
    souped(two)
    folders = {name: RunFolder(tmp_path / "out" / name) for name in ("seed-42", "seed-43")}
    source: Any = None  # which nobody comes to read

    def damaged(*_: Any, **__: Any) -> None:
        raise ModelError("has no config.json")

    monkeypatch.setattr("dongu.soup.SavedModel.open", damaged)
    with pytest.raises(ModelError, match=r"has no config\.json"):
        make_soup(tmp_path / "out", folders, source, "loss", {})
