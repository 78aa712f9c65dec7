"""A learning rate for each layer: by the family's own names, at every step, and after a resume."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

import dongu
from conftest import FAMILIES, cut_off_in_step
from dongu.cli.main import run as run_command
from dongu.config import make_config
from dongu.errors import UsageError
from dongu.model.layers import layer_depths
from dongu.model.optimizer import make_optimizer
from dongu.run.derived import describe

RATE, DECAY = 1e-3, 0.5
TINY = {"vocab_size": 50, "pad_token_id": 0, "num_labels": 2}
DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 3, "n_embd": 16, "n_head": 2, "n_positions": 32},
    "llama": {"num_hidden_layers": 3, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32},
    "qwen2": {
        "num_hidden_layers": 3,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 32,
    },
}
OPTIONS: dict[str, Any] = {
    "max_steps": 9,
    "batch_size": 8,
    "lr": 2e-3,
    "layer_decay": 0.7,
    "warmup": 0.3,
    "save_steps": 2,
    "eval_steps": 4,
    "threads": 1,
}


def make_model(family: str, tiny_model: Callable[..., str]) -> Any:
    if family in DECODERS:
        config = AutoConfig.for_model(family, **TINY, **DECODERS[family])
        return AutoModelForSequenceClassification.from_config(config)
    return AutoModelForSequenceClassification.from_pretrained(tiny_model(family))


def expected_depth(name: str, layers: int) -> int:
    """By what the families call their parts."""
    if numbered := re.search(r"\.(?:layers?|h)\.(\d+)\.", name):
        return int(numbered[1]) + 1
    lowest = ("embeddings", "embed_tokens", "wte", "wpe", "relative_attention_bias")
    return 0 if any(part in name for part in lowest) else layers


@pytest.mark.parametrize("family", [*(name for name in FAMILIES if name != "albert"), *DECODERS])
def test_the_rate_of_each_parameter(family: str, tiny_model: Callable[..., str]) -> None:
    model = make_model(family, tiny_model)
    layers = model.config.num_hidden_layers
    optimizer = make_optimizer(model, make_config({"learning_rate": RATE, "layer_decay": DECAY}))
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    named = dict(model.named_parameters())
    assert {name: rates[id(parameter)] for name, parameter in named.items()} == {
        name: RATE * DECAY ** (layers - expected_depth(name, layers)) for name in named
    }
    assert set(rates.values()) == {RATE * DECAY**i for i in range(layers + 1)}
    assert max(rates.values()) == RATE == rates[id(list(named.values())[-1])], "the head's is the rate as given"
    order = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert order == [id(parameter) for parameter in model.parameters()], "checkpoints number them in this order"


@pytest.mark.parametrize("family", ["albert", "bart"])
def test_layers_that_cannot_be_told(family: str, tiny_model: Callable[..., str]) -> None:
    if family == "albert":
        model: Any = make_model(family, tiny_model)
    else:
        sizes = {"encoder_layers": 2, "decoder_layers": 2, "d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(family, **TINY, **sizes, **heads))
    with pytest.raises(UsageError, match=f"layers of `{family}` cannot be told apart") as caught:
        layer_depths(model)
    assert caught.value.where == "--layer-decay"


def test_the_command_refuses_and_leaves_nothing(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    arguments = ["train", data_folder(), "--model", tiny_model("albert"), "--out", str(run), "--layer-decay", "0.9"]
    assert run_command(arguments) == 2
    assert "--layer-decay: the layers of `albert`" in capsys.readouterr().err
    assert not run.exists()


def test_every_layer_follows_the_schedule(tiny_model: Callable[..., str], data_folder: Callable[..., str]) -> None:
    """One update by the loop is AdamW's with the rates on paper; the step tells that of the head."""
    loop = dongu.Loop(data_folder(), model=tiny_model(), max_steps=4, lr=RATE, layer_decay=DECAY, engine="plain")
    assert [step.learning_rate for step in loop] == pytest.approx([RATE, RATE * 3 / 4, RATE / 2, RATE / 4])
    loop.go_to(2)
    assert {group["lr"] for group in loop.optimizer.param_groups} == {RATE / 2, RATE / 4, RATE / 8}

    moved = dongu.Loop(data_folder(), model=tiny_model(), max_steps=4, lr=RATE, layer_decay=DECAY, weight_decay=0)
    before = {name: tensor.detach().clone() for name, tensor in moved.model.named_parameters()}
    next(iter(moved))
    # AdamW's first update moves a weight with a gradient by the learning rate itself.
    for name, tensor in moved.model.named_parameters():
        farthest = float((tensor.detach() - before[name]).abs().max())
        rate = RATE * DECAY ** (2 - expected_depth(name, 2))
        # That of a key's bias is rounding alone: it adds the same to all scores of a query.
        assert farthest == 0 or farthest == pytest.approx(rate, rel=1e-2) or "key.bias" in name, name
    assert not torch.equal(before["classifier.weight"], moved.model.classifier.weight)


@pytest.mark.crash
def test_resumed_and_proved(
    tiny_model: Callable[..., str],
    data_folder: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Cut off in the seventh step and resumed, the run ends in the bytes of one that was not, and verify agrees."""
    options = {**OPTIONS, "model": tiny_model(dropout=0.1)}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    dongu.train(data_folder(), **options, out=str(whole))
    with cut_off_in_step(7):
        dongu.train(data_folder(), **options, out=str(cut))
    dongu.resume(cut)
    for name in ("metrics.jsonl", "results.json", "model/model.safetensors"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    capsys.readouterr()
    assert run_command(["verify", str(cut), "--json"]) == 0
    proofs = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "replay" in [proof["name"] for proof in proofs if proof["holds"]]


def test_frozen_layers_stay_as_they_are(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path
) -> None:
    loop = dongu.Loop(data_folder(), model=tiny_model(), max_steps=2, lr=RATE, freeze=1)
    before = {name: tensor.detach().clone() for name, tensor in loop.model.named_parameters()}
    learning = {id(parameter) for group in loop.optimizer.param_groups for parameter in group["params"]}
    for _ in loop:
        pass
    for name, tensor in loop.model.named_parameters():
        stays = expected_depth(name, 2) <= 1
        assert torch.equal(tensor, before[name]) == stays, name
        assert (id(tensor) in learning) != stays, name
    result = dongu.train(data_folder(), model=tiny_model(), max_steps=2, freeze=1, out=str(tmp_path / "run"))
    saved = AutoModelForSequenceClassification.from_pretrained(result.path / "model")
    assert len(saved.state_dict()) == len(loop.model.state_dict()), "all of the model is saved"
    with pytest.raises(UsageError, match="has 2 layers"):
        dongu.Loop(data_folder(), model=tiny_model(), freeze=2)
    whole = dongu.Loop(data_folder(), model=tiny_model(), freeze=0)
    assert all(parameter.requires_grad for parameter in whole.model.parameters())
    assert "freeze" not in dict(describe(whole))
