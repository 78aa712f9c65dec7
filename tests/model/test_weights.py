"""Weights of classes and smoothed labels: PyTorch's own means, however an update is split."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import dongu
from dongu.cli.main import run
from dongu.config import make_config
from dongu.data.examples import TextData, read_examples
from dongu.data.sources import read_source
from dongu.data.weights import resolve_weights, row_weights
from dongu.errors import UsageError
from dongu.verify import verify


def rows(count: int) -> list[dict[str, Any]]:
    """A fifth are spam."""
    return [
        {"text": f"word{i % 7} the film {'good' * (i % 3)}", "label": "ham" if i % 5 else "spam"} for i in range(count)
    ]


def sets(count: int) -> list[dict[str, Any]]:
    labels: tuple[list[str], ...] = (["rude"], [], [], ["funny", "rude"], ["sad"])
    return [{"text": f"word{i % 7} the film", "label": labels[i % 5]} for i in range(count)]


def both(table: list[dict[str, Any]]) -> dict[str, Any]:
    return {"train": table, "validation": table[:10]}


def read(table: list[dict[str, Any]], **options: Any) -> TextData:
    return read_examples(read_source(both(table)), make_config(options))


def resolved(table: list[dict[str, Any]], weights: Any) -> dict[str, float] | None:
    return resolve_weights(make_config({"class_weights": weights}), read(table))


# --- what the weights are


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    import numpy as np
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([row["label"] for row in rows(43)])
    expected = compute_class_weight("balanced", classes=np.array(["ham", "spam"]), y=labels)
    weights = resolved(rows(43), "balanced")
    assert weights == pytest.approx(dict(zip(("ham", "spam"), expected, strict=True)))
    counted = row_weights(weights, (labels == "spam").astype(np.int64))
    assert counted is not None
    assert counted.sum() == pytest.approx(43)


def test_balanced_weights_of_sets_even_out_the_rows_with_and_without() -> None:
    assert resolved(sets(50), "balanced") == {"funny": 40 / 10, "rude": 30 / 20, "sad": 40 / 10}
    always = [{"text": f"a {i}", "label": ["x", *["y"] * (i % 2)]} for i in range(10)]
    assert resolved(always, "balanced") == {"x": 1.0, "y": 1.0}


def test_weights_by_name() -> None:
    assert resolved(rows(20), {"spam": 5}) == {"ham": 1.0, "spam": 5.0}
    assert resolved(rows(20), None) is None
    with pytest.raises(UsageError, match="no class `sapm`") as caught:
        resolved(rows(20), {"sapm": 5})
    assert caught.value.hint == "did you mean spam?"


# --- what they do


def updates(data: Any, model: str, micro_batch_size: int | None = None, **options: Any) -> list[float]:
    loop = dongu.Loop(
        data, model=model, batch_size=32, micro_batch_size=micro_batch_size, max_steps=2, lr=1e-3, **options
    )
    return [value for step in loop for value in (step.loss, step.grad_norm)]


def first_logits(loop: dongu.Loop) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the first update, by the model's own forward."""
    [micro_batch] = loop.train_updates[0].micro_batches
    inputs = micro_batch.to(loop.accelerator.device)
    labels = inputs.pop("labels")
    with torch.no_grad():
        return loop.model(**inputs).logits, labels


def test_numbers_have_no_classes(tiny_model: Callable[..., str]) -> None:
    numbers = [{"text": f"a {i}", "label": i / 7} for i in range(20)]
    with pytest.raises(UsageError, match="--class-weights: numbers have no classes; --label-smoothing: numbers"):
        dongu.Loop(numbers, model=tiny_model(), class_weights="balanced", label_smoothing=0.1)


OPTIONS: list[dict[str, Any]] = [
    {"class_weights": {"spam": 5.0, "rude": 5.0}},
    {"class_weights": "balanced"},
    {"label_smoothing": 0.2},
    {"label_smoothing": 0.2, "class_weights": "balanced"},
]


@pytest.mark.cases(test=3, ci=8)
@pytest.mark.parametrize("make", [rows, sets])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_any_split_gives_the_same_update(
    tiny_model: Callable[..., str], make: Callable[[int], list[dict[str, Any]]], options: dict[str, Any]
) -> None:
    """Micro-batches hold other shares of the classes, so a mean of weighted means would be another number."""
    if isinstance(weights := options.get("class_weights"), dict):
        names = {"spam"} if make is rows else {"rude"}
        options = {**options, "class_weights": {name: weights[name] for name in names}}
    whole = updates(both(make(45)), tiny_model(), **options)
    assert whole != pytest.approx(updates(both(make(45)), tiny_model()), rel=1e-3)
    for size in (7, 1) if options == OPTIONS[-1] else (7,):
        assert updates(both(make(45)), tiny_model(), size, **options) == pytest.approx(whole, rel=1e-6), size


def test_the_loss_is_the_weighted_mean_of_pytorch(tiny_model: Callable[..., str]) -> None:
    options: dict[str, Any] = {"class_weights": {"spam": 5}, "engine": "plain", "batch_size": 32}
    loop = dongu.Loop(both(rows(45)), model=tiny_model(), label_smoothing=0.1, **options)
    logits, labels = first_logits(loop)
    expected = F.cross_entropy(logits, labels, torch.tensor([1.0, 5.0]), label_smoothing=0.1)
    assert next(iter(loop)).loss == pytest.approx(float(expected), rel=1e-6)


def test_an_evaluation_has_the_plain_loss(tiny_model: Callable[..., str]) -> None:
    cases: list[dict[str, Any]] = [{}, {"class_weights": {"spam": 5}, "label_smoothing": 0.3}]
    losses = [dongu.Loop(both(rows(45)), model=tiny_model(), **options).evaluate()["loss"] for options in cases]
    assert losses[0] == losses[1]


def test_smoothed_sets(tiny_model: Callable[..., str]) -> None:
    loop = dongu.Loop(both(sets(45)), model=tiny_model(), engine="plain", batch_size=32, label_smoothing=0.2)
    logits, labels = first_logits(loop)
    expected = F.binary_cross_entropy_with_logits(logits, labels * 0.8 + 0.1)
    assert next(iter(loop)).loss == pytest.approx(float(expected), rel=1e-6)


def test_the_loss_of_sets_is_the_weighted_mean_over_the_cells(tiny_model: Callable[..., str]) -> None:
    options: dict[str, Any] = {"class_weights": {"rude": 5}, "engine": "plain", "batch_size": 32}
    loop = dongu.Loop(both(sets(45)), model=tiny_model(), **options)
    logits, labels = first_logits(loop)
    weights = 1 + labels * torch.tensor([0.0, 4.0, 0.0])
    cells = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    assert next(iter(loop)).loss == pytest.approx(float((cells * weights).sum() / weights.sum()), rel=1e-6)


@pytest.mark.crash
def test_a_weighted_run_is_proved_and_its_recipe_repeats_it(tiny_model: Callable[..., str], tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(50)))
    out = tmp_path / "run"
    arguments = ["--model", tiny_model(dropout=0.1), "--epochs", "1", "--micro-batch-size", "3", "--threads", "1"]
    weighted = ["--class-weights", "spam=5", "ham=0.5"]
    assert run(["train", str(data), *arguments, "--out", str(out), *weighted]) == 0
    assert json.loads((out / "run.json").read_text())["options"]["class_weights"] == {"ham": 0.5, "spam": 5.0}
    assert [proof.name for proof in verify(out) if not proof.holds] == []
    again = tmp_path / "again"
    assert run(["train", "--config", str(out / "run.json"), "--out", str(again)]) == 0
    assert (again / "metrics.jsonl").read_bytes() == (out / "metrics.jsonl").read_bytes()
    assert run(["train", str(data), *arguments, "--class-weights", "spam"]) == 2
