"""Numbers of any size are learnt alike, and every answer is in their own unit."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dongu
from conftest import FAMILIES
from dongu.model.loss import Loss
from dongu.model.scale import Scale
from dongu.verify import verify


def rows(count: int, mean: float, std: float) -> list[dict[str, str]]:
    """The number counts the good words of the text."""
    return [{"text": "film " + "good " * (i % 7), "label": repr(mean + std * (i % 7 - 3) / 2)} for i in range(count)]


def both(mean: float, std: float) -> dict[str, Any]:
    return {"train": rows(70, mean, std), "validation": rows(21, mean, std)}


OPTIONS: dict[str, Any] = {"task": "regression", "lr": 5e-3, "epochs": 6, "threads": 1}


@pytest.mark.crash
def test_the_unit_of_the_labels_does_not_matter(tiny_model: Callable[..., str]) -> None:
    """Prices in cents and shares of a percent: the same steps, and losses in squares of the unit."""
    losses = {}
    for mean, std in ((0.0, 1.0), (2000.0, 5.0), (-3e6, 4e5), (0.004, 0.0005)):
        loop = dongu.Loop(both(mean, std), model=tiny_model(), **OPTIONS)
        losses[mean] = [step.loss / std**2 for step in loop]
        evaluation = loop.evaluate()
        assert evaluation["loss"] < 0.2 * std**2
        assert evaluation["spearman"] > 0.9
        assert evaluation.logits[:, 0].mean() == pytest.approx(mean, abs=0.5 * std)
    for mean, values in losses.items():
        assert values == pytest.approx(losses[0.0], rel=0.01), mean


@pytest.mark.parametrize("family", FAMILIES)
def test_the_saved_head_answers_in_the_unit(family: str, tiny_model: Callable[..., str]) -> None:
    loop = dongu.Loop(both(2000.0, 5.0), model=tiny_model(family), **OPTIONS)
    scale = loop.loss.scale
    learnt, before = loop.evaluate().logits, copy.deepcopy(loop.model.state_dict())
    weights = scale.undone(loop.model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in loop.model.state_dict().items()), "it only looks"
    loop.model.load_state_dict(weights)
    loop.loss = Loss("regression")
    assert loop.evaluate().logits == pytest.approx(learnt, abs=2e-3)
    assert np.ptp(learnt) > 0.1


@pytest.mark.crash
def test_a_run_of_numbers_is_proved_and_answers_like_the_pipeline(
    tiny_model: Callable[..., str], tmp_path: Path
) -> None:
    from transformers import pipeline

    for split, table in both(2000.0, 5.0).items():
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    out = tmp_path / "run"
    result = dongu.train(str(tmp_path), model=tiny_model(dropout=0.1), out=str(out), eval_steps=54, **OPTIONS)
    assert [(proof.name, proof.text) for proof in verify(out) if not proof.holds] == []
    record = json.loads((out / "run.json").read_text())
    assert record["scale"]["mean"] == pytest.approx(2000.0)
    texts = ["film good", "film good good good good good good"]
    answers = [answer["prediction"] for answer in dongu.load(out, device="cpu").predict(texts)]
    assert answers == pytest.approx([1995.0, 2007.5], abs=4)
    plain = pipeline("text-classification", model=str(out / "model"), device="cpu")(texts)
    assert [item["score"] for item in plain] == pytest.approx(answers, abs=2e-3)
    own = dongu.load(out, device="cpu").evaluate_own()["validation"].metrics
    assert own == result.metrics
    lines = [json.loads(line) for line in (out / "predictions" / "validation.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines[:3]] == [1992.5, 1995.0, 1997.5]
    assert np.mean([line["prediction"] for line in lines]) == pytest.approx(2000, abs=2.5)


def test_bf16_answers_have_the_digits_of_fp32(tiny_model: Callable[..., str], tmp_path: Path) -> None:
    """Between 1024 and 2048, bf16 knows multiples of 8 only."""
    out = tmp_path / "run"
    result = dongu.train(both(2000.0, 5.0), model=tiny_model(), out=str(out), precision="bf16", seed=1, **OPTIONS)
    assert result.metrics["loss"] < 5.0
    found = [answer["prediction"] for answer in dongu.load(out).predict(["film good", "film good good"])]
    assert all(value % 8 for value in found)


def test_a_head_without_a_bias_and_labels_without_spread() -> None:
    config = type("Config", (), {"num_labels": 1})
    with_bias, without = torch.nn.Sequential(torch.nn.Linear(3, 1)), torch.nn.Sequential(torch.nn.Linear(3, 1, False))
    for model in (with_bias, without):
        model.config = config  # type: ignore[assignment]
    targets = np.array([3.0, 5.0], np.float32)
    assert Scale.of(targets, with_bias) == Scale(4.0, 1.0)
    scale = Scale.of(targets, without)
    assert scale.mean == 0
    assert scale.std == pytest.approx(np.sqrt(17))
    assert Scale.of(np.ones(3, np.float32), with_bias) == Scale()
    answers = without(torch.ones(1, 3)).item() * scale.std
    without.load_state_dict(scale.undone(without))
    assert without(torch.ones(1, 3)).item() == pytest.approx(answers)
