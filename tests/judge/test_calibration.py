"""A temperature makes probabilities honest, and it stands in the saved model, whatever interrupts its way there."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import dongu
from conftest import DECODERS, FAMILIES
from dongu.cli.main import run as run_command
from dongu.data.batches import EvalBatches
from dongu.errors import ModelError, UsageError
from dongu.evaluate import eval_mode, predict_logits
from dongu.judge.answers import Evaluation
from dongu.judge.calibration import (
    ADVISED_ROWS,
    NO_TEMPERATURE,
    Calibration,
    calibration_error,
    fit_temperature,
    is_advised,
)
from dongu.judge.intervals import verdict
from dongu.judge.metrics import MetricSet
from dongu.judge.ranking import softmax
from dongu.model.head import check_head, divide_head
from dongu.run.console import Console
from dongu.run.folder import RunFolder
from dongu.verify import verify


def drawn(rows: int, labels: int, temperature: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are true probabilities when divided by the temperature, and targets drawn from these."""
    random = np.random.default_rng(seed)
    honest = 2 * random.normal(size=(rows, labels))
    cumulated = softmax(honest).cumsum(-1)
    targets = (random.random((rows, 1)) > cumulated).sum(-1).clip(max=labels - 1)
    return (temperature * honest).astype(np.float32), targets


def mean_loss(logits: np.ndarray, targets: np.ndarray) -> float:
    return float(-np.log(softmax(logits)[np.arange(len(targets)), targets]).mean())


# --- the temperature


@pytest.mark.parametrize("labels", [2, 3, 20])
@pytest.mark.parametrize("temperature", [0.4, 1, 3])
def test_the_temperature_is_found(labels: int, temperature: float) -> None:
    logits, targets = drawn(20_000, labels, temperature, seed=labels)
    found = fit_temperature(logits, targets)
    assert found is not None
    assert found == pytest.approx(temperature, rel=0.05)
    least = mean_loss(logits / found, targets)
    for factor in (0.99, 1.01):
        assert mean_loss(logits / (found * factor), targets) > least
    assert fit_temperature(logits / found, targets) == pytest.approx(1, rel=1e-5)


def test_a_temperature_that_rows_cannot_tell() -> None:
    targets = np.arange(12) % 3
    right = np.eye(3, dtype=np.float32)[targets]
    found = fit_temperature(right, targets)  # without a wrong row, surer would always be better
    assert found is not None
    assert softmax(right / found).max(-1) == pytest.approx(13 / 14)
    assert fit_temperature(50 * right, targets) == pytest.approx(50 * found)
    nearly = right.copy()
    nearly[0] = [0, 0.001, 0]
    found = fit_temperature(nearly, targets)
    assert found is not None
    assert 0 < found < 1
    for scale in (1e-3, 1e6):
        assert fit_temperature(scale * nearly, targets) == pytest.approx(scale * found, rel=1e-4)


@pytest.mark.found("few-rows-temperature")
def test_few_rows_fit_any_temperature() -> None:
    """The number of rows from which one is advised: nine in ten are within a fifth of the truth, and not of fewer."""
    off = {}
    for rows in (ADVISED_ROWS // 10, ADVISED_ROWS):
        found = [fit_temperature(*drawn(rows, 2, 1, seed)) or math.inf for seed in range(200)]
        off[rows] = float(np.quantile(np.abs(np.log(found)), 0.9))
    assert off[ADVISED_ROWS] < math.log(1.22)
    assert off[ADVISED_ROWS // 10] > math.log(1.6)
    cases = ((299, 0.1, 1.5), (300, 0.1, 1.5), (300, 0.0, 1.5))
    assert [is_advised(rows, {"low": low}, temperature) for rows, low, temperature in cases] == [False, True, False]


def test_a_model_that_has_hardly_begun_is_advised_none() -> None:
    """After three updates the likeliest temperature was 0.05: logits twenty times too small."""
    given = [is_advised(1000, {"low": 0.1}, temperature) for temperature in (0.05, 0.2, 5.0, 20.0)]
    assert given == [False, True, True, False]


@pytest.mark.found("few-rows-temperature")
def test_a_run_of_few_rows_is_advised_none(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path
) -> None:
    options = {**OPTIONS, "model": tiny_model(), "max_steps": 2}
    result = dongu.train(data_folder(train=24, validation=30), **options, out=str(tmp_path / "run"))
    assert "temperature" not in result.results
    assert not {"before", "after"} & result.results["validation"]["calibration_error"].keys()
    for name in ("report.html", "model/README.md"):
        assert "emperature" not in (result.path / name).read_text(encoding="utf-8")


def test_no_better_than_guessing_has_no_temperature() -> None:
    """The bound of the search is not one: the likeliest would be any that is hot enough."""
    targets = np.arange(12) % 3
    right = np.eye(3, dtype=np.float32)[targets]
    assert fit_temperature(-right, targets) is None
    assert fit_temperature(np.ones((12, 3), np.float32), targets) is None
    hardly = np.random.default_rng(0).normal(size=(3000, 3)).astype(np.float32)
    targets = np.where(np.arange(3000) < 120, hardly.argmax(-1), np.arange(3000) % 3)  # a few more right than by chance
    found = fit_temperature(hardly, targets)
    assert found is not None
    assert found > 10
    assert mean_loss(hardly / found, targets) < math.log(3)


# --- the error


def test_the_calibration_error_by_hand() -> None:
    """0.9 twice, right once; 0.6 three times, right twice: (2 × 0.4 + 3 × 0.0667) / 5."""
    sure = np.array([0.9, 0.9, 0.6, 0.6, 0.6])
    logits = np.stack([np.log(sure / (1 - sure)), np.zeros(5)], axis=1)
    assert calibration_error(logits, np.array([0, 1, 0, 0, 1])) == pytest.approx((2 * 0.4 + 3 * (2 / 3 - 0.6)) / 5)
    assert calibration_error(np.array([[100.0, 0]]), np.array([0])) == 0
    assert calibration_error(np.array([[100.0, 0]]), np.array([1])) == 1


def test_the_temperature_mends_the_error_of_other_rows() -> None:
    logits, targets = drawn(6000, 3, 2.5, seed=0)
    temperature = fit_temperature(logits[:3000], targets[:3000])
    assert temperature is not None
    fitted = Calibration(temperature, applied=False)
    errors = fitted.errors(logits[3000:], targets[3000:])
    before, after = errors.values()
    assert before > 0.1
    assert after < 0.03
    applied = Calibration(fitted.temperature, applied=True)
    assert applied.errors(logits[3000:] / fitted.temperature, targets[3000:]) == pytest.approx(errors)


@pytest.mark.parametrize(("temperature", "most"), [(1, 100), (3, 99)])
def test_the_interval_of_the_error_covers_the_truth(temperature: float, most: int) -> None:
    """In 100 samples of 300 rows. The error itself is above the truth in nearly all: noise can only add to it."""
    truth = calibration_error(*drawn(400_000, 2, temperature, seed=99))
    metrics, held, values = MetricSet.of("single-label", ("no", "yes")), 0, []
    for seed in range(100):
        logits, targets = drawn(300, 2, temperature, seed)
        evaluation = Evaluation("x", np.arange(300), logits, targets, np.zeros(300), {})
        entry = verdict(evaluation, metrics, None, seed)["calibration_error"]
        held += entry["low"] <= truth <= entry["high"]
        values.append(entry["value"])
        assert 0 <= entry["low"] <= entry["value"] <= entry["high"]
    assert 88 <= held <= most
    if temperature == 1:
        assert np.mean(values) == pytest.approx(entry["chance"], rel=0.2)
        assert truth < 0.1 * entry["chance"]


# --- the head


@pytest.mark.cases(test=6, ci=15)
@pytest.mark.parametrize("family", [*FAMILIES, *DECODERS])
def test_dividing_the_head_divides_the_logits(
    family: str, tiny_model: Callable[..., str], data_folder: Callable[..., str]
) -> None:
    loop = dongu.Loop(data_folder(labels=3), model=tiny_model(family), device="cpu", calibrate=True)
    before = {name: tensor.clone() for name, tensor in loop.model.state_dict().items()}
    batches = EvalBatches(loop.splits["validation"], loop.collate, 32)
    inputs = batches[0].to(torch.device("cpu"))
    inputs.pop("labels")
    with eval_mode(loop.engine):
        check_head(loop.model, loop.engine, inputs)
    assert all(torch.equal(tensor, before[name]) for name, tensor in loop.model.state_dict().items())
    whole = predict_logits(loop.engine, batches, loop.accelerator)
    divide_head(loop.model, 1.7)
    assert predict_logits(loop.engine, batches, loop.accelerator) == pytest.approx(whole / 1.7, rel=1e-4, abs=1e-6)


class Squashed(torch.nn.Module):
    """Its logits do not come from its last layer alone."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_labels=2, model_type="squashed")
        self.classifier = torch.nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return SimpleNamespace(logits=torch.tanh(self.classifier(x)))


def test_a_head_that_is_not_the_last_layer_is_refused() -> None:
    model, inputs = Squashed(), {"x": torch.ones(4, 3)}
    with torch.no_grad(), pytest.raises(ModelError, match="do not come from one linear layer") as caught:
        check_head(model, model, inputs)
    assert caught.value.where == "--calibrate"
    assert caught.value.exit_code == 2
    model.config.num_labels = 5
    with pytest.raises(ModelError):  # no layer has five outputs
        divide_head(model, 2)


# --- a run

OPTIONS: dict[str, Any] = {"max_steps": 12, "batch_size": 8, "lr": 5e-3, "save_steps": 5, "device": "cpu", "threads": 1}


@pytest.fixture(scope="module")
def unclear(tmp_path_factory: pytest.TempPathFactory, make_rows: Callable[..., list[dict[str, str]]]) -> str:
    """Rows of which a part has the label of another class: no model is right in all."""
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, count) in enumerate({"train": 48, "validation": 320, "test": 50}.items()):
        rows = make_rows(count, labels=3, seed=seed)
        for i in range(0, count, 7):
            rows[i]["label"] = rows[i - 1]["label"]
        content = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(content, encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def calibrated(unclear: str, tiny_model: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The result of a calibrated run, to be read only."""
    out = tmp_path_factory.mktemp("calibrated") / "run"
    return dongu.train(unclear, **OPTIONS, model=tiny_model(dropout=0.1), out=str(out), calibrate=True)


def contents(run: Path) -> dict[str, bytes]:
    """What a run may be compared in."""
    changing = ("timing.jsonl", "run.json", "report.html", ".lock")
    kept = [path for path in run.rglob("*") if path.is_file() and path.name not in changing]
    return {str(path.relative_to(run)): path.read_bytes() for path in kept}


def test_a_calibrated_run(
    unclear: str, calibrated: Any, tiny_model: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file
    from transformers import pipeline

    options = {**OPTIONS, "model": tiny_model(dropout=0.1)}
    plain = dongu.train(unclear, **options, out=str(tmp_path / "plain"))
    result = calibrated
    temperature = result.results["temperature"]
    assert temperature == plain.results["temperature"]
    assert abs(math.log(temperature)) > 0.05, "a temperature of 1 proves nothing"
    assert (plain.results["calibrated"], result.results["calibrated"]) == (False, True)
    assert json.loads((result.path / "model" / "calibration.json").read_text()) == {"temperature": temperature}
    assert not (plain.path / "model" / "calibration.json").exists()

    weights = [load_file(one.path / "model" / "model.safetensors") for one in (plain, result)]
    changed = {name for name, tensor in weights[0].items() if not torch.equal(tensor, weights[1][name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    for name in changed:
        assert torch.equal(weights[1][name], weights[0][name] / temperature)

    for split in ("validation", "test"):
        was, entries = plain.results[split], result.results[split]
        for name in ("accuracy", "macro_f1"):
            assert entries[name] == was[name], "the answers are the same"
        errors = entries["calibration_error"]
        assert was["calibration_error"]["value"] == was["calibration_error"]["before"]
        assert errors["value"] == errors["after"]
        for key in ("before", "after"):
            assert errors[key] == pytest.approx(was["calibration_error"][key], abs=1e-6)
        lines = [
            [json.loads(line) for line in (one.path / "predictions" / f"{split}.jsonl").read_text().splitlines()]
            for one in (plain, result)
        ]
        old, new = (np.array([list(line["probabilities"].values()) for line in side]) for side in lines)
        assert new == pytest.approx(softmax(np.log(old) / temperature), abs=1e-6)
        sure, right = new.max(-1), [line["label"] == line["prediction"] for line in lines[1]]
        logits = np.log(new)
        names = list(lines[1][0]["probabilities"])
        targets = np.array([names.index(line["label"]) for line in lines[1]])
        assert errors["value"] == pytest.approx(calibration_error(logits, targets), abs=1e-9)
        assert np.mean(right) == entries["accuracy"]["value"]
        assert np.mean(sure) < 1
    assert result.results["validation"]["loss"]["value"] < plain.results["validation"]["loss"]["value"]

    texts = ["word0 word0 the film", "a bad word1 film", "word2"]
    answers = dongu.load(result.path, device="cpu").predict(texts)
    for text, answer in zip(texts, answers, strict=True):
        ours = pipeline("text-classification", model=str(result.path / "model"), top_k=None, device="cpu")([text])[0]
        assert {item["label"]: item["score"] for item in ours} == pytest.approx(answer["probabilities"], abs=1e-6)

    assert all(proof.holds for proof in verify(result.path)), list(verify(result.path))
    capsys.readouterr()
    assert run_command(["evaluate", str(result.path), "--json"]) == 0
    flat = json.loads(capsys.readouterr().out)
    for split in ("validation", "test"):
        for name, entry in result.results[split].items():
            assert flat[split][name] == entry["value"]
    card = (result.path / "model" / "README.md").read_text(encoding="utf-8")
    assert f"The probabilities are calibrated: the head is divided by the temperature {temperature:.4f}" in card

    # A run that starts from a calibrated model is not calibrated for that.
    again = dongu.train(
        unclear, **{**options, "model": str(result.path / "model"), "max_steps": 1}, out=str(tmp_path / "again")
    )
    assert not (again.path / "model" / "calibration.json").exists()


def test_a_model_that_only_guesses_is_not_calibrated(
    tiny_model: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Validation has the opposite labels: the more the model has learnt, the less likely are they."""
    for name, labels in {"train": ("no", "yes"), "validation": ("yes", "no")}.items():
        rows = [
            {"text": f"{('bad', 'good')[i % 2]} film word{i % 9} {name}", "label": labels[i % 2]} for i in range(40)
        ]
        content = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(content, encoding="utf-8")
    out, options = tmp_path / "run", {**OPTIONS, "max_steps": 40, "calibrate": True}
    result = dongu.train(str(tmp_path), **options, model=tiny_model(), out=str(out), console=Console())
    assert result.results["validation"]["accuracy"]["value"] <= 0.5
    assert result.results["calibrated"] is False
    assert "temperature" not in result.results
    assert not {"before", "after"} & result.results["validation"]["calibration_error"].keys()
    assert not (out / "model" / "calibration.json").exists()
    assert NO_TEMPERATURE in " ".join(capsys.readouterr().out.split())
    assert "are not calibrated." in (out / "model" / "README.md").read_text(encoding="utf-8")
    assert all(proof.holds for proof in verify(out)), list(verify(out))


@pytest.mark.crash
@pytest.mark.parametrize("place", ["write_predictions", "write_json"])
def test_killed_after_the_model_was_calibrated(
    place: str,
    unclear: str,
    calibrated: Any,
    tiny_model: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {**OPTIONS, "model": tiny_model(dropout=0.1), "calibrate": True}
    usual = getattr(RunFolder, place)

    def killed(folder: RunFolder, name: str, *given: Any) -> Any:
        if place == "write_json" and name != "results.json":
            return usual(folder, name, *given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, place, killed)
        with pytest.raises(KeyboardInterrupt):
            dongu.train(unclear, **options, out=str(tmp_path / "run"))
    assert (tmp_path / "run" / "model" / "calibration.json").exists()
    dongu.resume(tmp_path / "run")
    assert contents(tmp_path / "run") == contents(calibrated.path)


def test_calibrated_when_the_run_goes_on(
    unclear: str, calibrated: Any, tiny_model: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its best model was saved before anybody asked for it."""
    options = {**OPTIONS, "model": tiny_model(dropout=0.1)}

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dongu.running.judge", killed)
        with pytest.raises(KeyboardInterrupt):
            dongu.train(unclear, **options, out=str(tmp_path / "run"))
    result = dongu.resume(tmp_path / "run", calibrate=True, allow=["calibrate"])
    assert result.results == calibrated.results
    name = Path("model") / "model.safetensors"
    assert (result.path / name).read_bytes() == (calibrated.path / name).read_bytes()


def test_verify_finds_a_model_that_is_calibrated_otherwise(calibrated: Any, tmp_path: Path) -> None:
    run = Path(shutil.copytree(calibrated.path, tmp_path / "run"))
    (run / "model" / "calibration.json").unlink()
    found = {proof.name: proof.text for proof in verify(run) if not proof.holds}
    assert found.keys() == {"files", "results"}
    assert "divided by None" in found["results"]


def test_numbers_cannot_be_calibrated(tiny_model: Callable[..., str], tmp_path: Path) -> None:
    rows = [{"text": f"word{i}", "label": str(i / 7)} for i in range(40)]
    out = tmp_path / "run"
    with pytest.raises(UsageError, match="no class probabilities") as caught:
        dongu.train(rows, model=tiny_model(), max_steps=1, out=str(out), device="cpu", calibrate=True)
    assert caught.value.what.startswith("--calibrate: ")
    assert not out.exists()
