"""Gradient checkpointing: the same bits of a fraction of the activations, with every engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dongu
from dongu.engine.attention import attend
from dongu.engine.packed import PaddingFree, flatten
from dongu.engine.recompute import recompute_layers
from dongu.errors import UsageError
from encoders import load, micro_batch

CASES = [
    *((family, "packed") for family in ("bert", "distilbert", "modernbert", "deberta-v2", "qwen3", "gpt2")),
    *((family, "plain") for family in ("bert", "qwen3")),
]


def one_pass(model: Any, inputs: dict[str, Tensor]) -> tuple[int, list[Tensor]]:
    """Bytes that are kept for backward beside the weights, and the logits and all gradients."""
    kept = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model.train()(**inputs).logits
    bytes_kept = sum(size for pointer, size in kept.items() if pointer not in own)
    (logits * torch.arange(logits.numel()).view_as(logits)).sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return bytes_kept, [logits.detach(), *gradients]


@pytest.mark.parametrize(("family", "engine"), CASES)
def test_the_same_gradients_of_fewer_activations(family: str, engine: str, tiny_model: Callable[..., str]) -> None:
    model = load(tiny_model(family, 0.2))
    inputs = micro_batch(model, lengths=(7, 30, 3, 30, 1, 12, 29, 26, 30, 30))
    if engine == "packed":
        computing, inputs = PaddingFree(model), flatten(inputs)
    else:
        computing = model
    whole, wanted = one_pass(computing, inputs)
    recompute_layers(model)
    kept, got = one_pass(computing, inputs)
    assert len(got) == len(wanted)
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))
    assert kept < 0.5 * whole


def test_a_run_records_it_and_ends_in_the_same_bytes(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path
) -> None:
    """Also where LoRA leaves the embeddings frozen, and no input of a layer asks for a gradient."""
    options: dict[str, Any] = {"model": tiny_model("bert", 0.2), "max_steps": 3, "lora": 2, "lr": 1e-2}
    data = data_folder(train=12)
    for name, recomputed in (("whole", False), ("again", True)):
        dongu.train(data, out=str(tmp_path / name), gradient_checkpointing=recomputed, **options)
    whole, again = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "again"))
    assert whole == again
    record = json.loads((tmp_path / "again" / "run.json").read_text())
    assert record["options"]["gradient_checkpointing"] is True
    assert record["promises"]["padding_free"] == "yes"
    logs = [json.loads(line) for line in (tmp_path / "again" / "metrics.jsonl").read_text().splitlines()]
    assert sum(line["event"] == "step" for line in logs) == 3


def test_an_update_under_it_is_computed_without_padding(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    loop = dongu.Loop(data_folder(train=12), model=tiny_model("qwen3"), max_steps=1, gradient_checkpointing=True)

    def counted(*given: Any, **more: Any) -> Any:
        calls.append(1)
        return attend(*given, **more)

    monkeypatch.setattr("dongu.engine.generic.attend", counted)
    list(loop)
    assert len(calls) == 2 * 2, "two layers, each twice"


def test_a_model_that_cannot_is_refused(tiny_model: Callable[..., str], data_folder: Callable[..., str]) -> None:
    with pytest.raises(UsageError, match="gradient checkpointing"):
        dongu.Loop(data_folder(train=12), model=tiny_model("mpnet"), gradient_checkpointing=True)
