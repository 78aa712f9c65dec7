"""Frozen weights in bf16: what is computed, saved and evaluated is the model of the rounded weights."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import dongu
from conftest import cut_off_in_step
from dongu.config import make_config
from dongu.eject.script import eject
from dongu.errors import UsageError
from dongu.model import lora
from dongu.model.base import HELD

OPTIONS: dict[str, Any] = {"lora": 3, "max_steps": 3, "lr": 1e-2, "threads": 1, "device": "cpu"}


def held(model: Any) -> dict[str, Any]:
    return {name: p for name, p in model.named_parameters() if p.dtype == torch.bfloat16}


@pytest.mark.cases(test=1, ci=5)
@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("bert", {}),
        ("deberta-v2", {}),
        ("gpt2", {"precision": "bf16"}),
        ("qwen3", {"precision": "bf16", "gradient_checkpointing": True}),
        ("bert", {"engine": "plain"}),
    ],
    ids=str,
)
def test_it_is_the_model_of_the_rounded_weights(
    family: str, more: dict[str, Any], tiny_model: Callable[..., str], data_folder: Callable[..., str]
) -> None:
    """The same losses and gradient norms, the same answers, and a file that has them again."""
    data = data_folder(train=20)
    options = {**OPTIONS, "model": tiny_model(family, 0.1), **more}
    halved, rounded = dongu.Loop(data, base_precision="bf16", **options), dongu.Loop(data, **options)
    names = held(halved.model)
    linear = [name for name, module in rounded.model.named_modules() if hasattr(module, "lora_A")]
    assert names.keys() >= {f"{name}.base_layer.weight" for name in linear}
    assert len(names) == len(linear) + 1, "and the table of the tokens"
    assert halved.config.engine == rounded.config.engine == more.get("engine", "packed")
    with torch.no_grad():
        for name, parameter in rounded.model.named_parameters():
            if name in names:
                parameter.copy_(parameter.bfloat16())
    for one, other in zip(halved, rounded, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-6)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-5)
    learnt = [p for p in halved.model.parameters() if p.requires_grad]
    assert {p.dtype for p in learnt} == {torch.float32}
    assert {t.dtype for state in halved.optimizer.state.values() for t in state.values()} == {torch.float32}
    answers = halved.evaluate().logits
    plain = lora.plain_weights(halved.model)
    assert {name for name, tensor in plain.items() if tensor.dtype == torch.bfloat16} == {
        name.replace(".base_layer", "") for name in names
    }
    lora.load_plain_weights(halved.model, plain)
    assert (halved.evaluate().logits == answers).all(), "what is evaluated is what is saved"


def test_an_evaluation_holds_one_merged_weight_at_a_time(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = dongu.Loop(data_folder(train=12), model=tiny_model("bert"), **OPTIONS)
    made: list[Any] = []
    most = 0

    def watched(layer: Any) -> torch.Tensor:
        nonlocal most
        weight = merged_weight(layer)
        made.append(weakref.ref(weight))
        most = max(most, sum(each() is not None for each in made))
        return weight

    merged_weight = lora.merged_weight
    monkeypatch.setattr(lora, "merged_weight", watched)
    pointers = [p.data_ptr() for p in loop.model.parameters()]
    loop.evaluate()
    assert len(made) >= len(lora.lora_layers(loop.model)) > 4
    assert most <= 2
    assert [p.data_ptr() for p in loop.model.parameters()] == pointers
    assert not any("forward" in vars(layer) for layer in lora.lora_layers(loop.model).values())


@pytest.mark.crash
def test_a_run(tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path) -> None:
    """Saved in bf16, judged as it lies on the disk, gone on with to the same bytes, and no plain script."""
    data, options = data_folder(train=20), {**OPTIONS, "base_precision": "bf16", "save_steps": 1}
    run, cut = tmp_path / "run", tmp_path / "cut"
    model = tiny_model("bert", 0.1)
    result = dongu.train(data, model=model, out=str(run), **options)
    weights = load_file(run / "model" / "model.safetensors")
    assert sum(tensor.dtype == torch.bfloat16 for tensor in weights.values()) == 13
    assert {weights[f"classifier.{name}"].dtype for name in ("weight", "bias")} == {torch.float32}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line for line in lines if line["event"] == "evaluation"]
    assert evaluated[-1]["loss"] == result.metrics["loss"]
    assert json.loads((run / "run.json").read_text())["promises"]["eject"].startswith("no: a plain script holds")
    with pytest.raises(UsageError, match="holds all weights in fp32"):
        eject(run)
    with cut_off_in_step(2):
        dongu.train(data, model=model, out=str(cut), **options)
    dongu.resume(cut)
    assert (cut / "model" / "model.safetensors").read_bytes() == (run / "model" / "model.safetensors").read_bytes()


def test_of_what_there_is_nothing() -> None:
    with pytest.raises(UsageError, match="--base-precision: it is for the weights that --lora freezes"):
        make_config({"base_precision": "bf16"})
    assert make_config({"base_precision": "bf16", "lora": 4}).precision == "fp32"
    assert len(HELD) == 3
