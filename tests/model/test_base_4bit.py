"""Frozen weights in 4 bits: what is computed, saved and evaluated is the model of the dequantized weights."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import dongu
from conftest import cut_off_in_step
from dongu.config import make_config
from dongu.errors import UsageError
from dongu.model import base, lora
from dongu.run.need import largest_micro_batch, rehearse

OPTIONS: dict[str, Any] = {"lora": 3, "max_steps": 3, "lr": 1e-2, "threads": 1, "device": "cpu"}
HELD: dict[str, Any] = {**OPTIONS, "base_precision": "4bit"}


@pytest.fixture
def quantizer() -> None:
    """bitsandbytes, which imports the compilers of PyTorch, and peft it: several seconds of a process."""
    if not find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import bitsandbytes  # noqa: F401


def packed(model: Any) -> dict[str, Any]:
    return {
        name: module.get_base_layer()
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and hasattr(module.get_base_layer(), "packed")
    }


@pytest.mark.usefixtures("quantizer")
@pytest.mark.cases(test=1, ci=5)
@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("bert", {}),
        ("deberta-v2", {}),
        ("gpt2", {"precision": "bf16"}),
        ("qwen3", {"precision": "bf16", "gradient_checkpointing": True}),
        ("bert", {"engine": "plain", "gradient_checkpointing": True, "micro_batch_size": 3}),
    ],
    ids=str,
)
def test_it_is_the_model_of_the_dequantized_weights(
    family: str, more: dict[str, Any], tiny_model: Callable[..., str], data_folder: Callable[..., str]
) -> None:
    """The same losses and gradient norms as plain fp32 layers, and the saved weights answer the same."""
    data, model = data_folder(train=20), tiny_model(family, 0.1)
    held = dongu.Loop(data, model=model, **HELD, **more)
    plain = dongu.Loop(data, model=model, **OPTIONS, **more)
    layers = packed(held.model)
    assert layers.keys() == {name for name, module in plain.model.named_modules() if hasattr(module, "lora_A")}
    assert held.config.engine == plain.config.engine == more.get("engine", "packed")
    with torch.no_grad():
        for name, parameter in plain.model.named_parameters():
            layer = layers.get(name.removesuffix(".base_layer.weight"))
            if layer is not None:
                assert 0 < (parameter - layer.weight).abs().max() < 0.2 * parameter.abs().max()
                parameter.copy_(layer.weight)
        table = plain.model.get_input_embeddings().weight
        table.copy_(table.bfloat16())
    assert lora.count_parameters(held.model) == lora.count_parameters(plain.model)
    need = rehearse(held, largest_micro_batch(held))
    assert need.weights == sum(x.nbytes for x in (*held.model.parameters(), *held.model.buffers()))
    for one, other in zip(held, plain, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-6)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-5)
    answers = held.evaluate().logits
    weights = lora.plain_weights(held.model)
    assert {weights[f"{name}.weight"].dtype for name in layers} == {torch.bfloat16}
    assert not [name for name in weights if name.endswith((".packed", ".scales"))]
    lora.load_plain_weights(held.model, weights)
    assert packed(held.model).keys() == layers.keys(), "they give these weights, so they stay in 4 bits"
    assert (held.evaluate().logits == answers).all(), "what is evaluated is what is saved"
    others = {name: tensor + 0.5 if tensor.dtype == torch.bfloat16 else tensor for name, tensor in weights.items()}
    lora.load_plain_weights(held.model, others)
    assert not packed(held.model), "no 4 bits give these"
    again = lora.plain_weights(held.model)
    assert all(torch.equal(again[name], others[name]) for name in again)


@pytest.mark.usefixtures("quantizer")
@pytest.mark.filterwarnings("ignore::FutureWarning:bitsandbytes", "ignore:`is_gradient:FutureWarning")
@pytest.mark.crash
def test_a_run(tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path) -> None:
    """A plain model, judged as it lies on the disk; gone on with to the same bytes; an adapter that peft takes."""
    data, options = data_folder(train=20), {**HELD, "save_steps": 1}
    run, cut = tmp_path / "run", tmp_path / "cut"
    model = tiny_model("bert", 0.1)
    result = dongu.train(data, model=model, out=str(run), **options)
    weights = load_file(run / "model" / "model.safetensors")
    assert sum(tensor.dtype == torch.bfloat16 for tensor in weights.values()) == 13
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = max((line for line in lines if line["event"] == "evaluation"), key=lambda line: line["step"])
    assert best["loss"] == result.metrics["loss"]
    record = json.loads((run / "run.json").read_text())
    assert record["promises"]["eject"].endswith("leaves in 4bit")
    checkpoint = load_file(max((run / "checkpoints").iterdir()) / "weights.safetensors")
    assert not [name for name in checkpoint if "base_layer" in name], "what is frozen is made anew"
    with cut_off_in_step(2):
        dongu.train(data, model=model, out=str(cut), **options)
    dongu.resume(cut)
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (cut / "model" / name).read_bytes() == (run / "model" / name).read_bytes()

    from peft import PeftModel

    adapter = run / "model" / "adapter"
    from transformers import BitsAndBytesConfig

    quantized = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=json.loads((adapter / "adapter_config.json").read_text())["modules_to_save"],
    )
    loaded = AutoModelForSequenceClassification.from_pretrained(
        model, quantization_config=quantized, dtype=torch.float32, num_labels=2, ignore_mismatched_sizes=True
    )
    adapted = PeftModel.from_pretrained(loaded, str(adapter)).eval()
    merged = AutoModelForSequenceClassification.from_pretrained(run / "model", dtype=torch.float32).eval()
    ids = torch.arange(5, 25).reshape(2, 10)
    with torch.no_grad():
        answers = [each(input_ids=ids, attention_mask=torch.ones_like(ids)).logits for each in (adapted, merged)]
    torch.testing.assert_close(*answers, rtol=0, atol=5e-3)  # one of the two is rounded to bf16


def test_what_it_needs(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="--base-precision: it is for the weights that --lora freezes"):
        make_config({"base_precision": "4bit"})
    with pytest.raises(UsageError, match="--base-precision 4bit: such weights cannot be sharded"):
        make_config({"base_precision": "4bit", "lora": 4, "shard": True})
    monkeypatch.setattr("dongu.extras._installed", lambda name: name != "bitsandbytes")
    with pytest.raises(UsageError, match=r"needs the package bitsandbytes[\s\S]*\[quant\]"):
        dongu.Loop(data_folder(train=20), model=tiny_model("bert"), **HELD)
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.functional", None)
    with pytest.raises(UsageError, match="bitsandbytes does not work here"):
        base.pack(torch.nn.Linear(4, 4))
