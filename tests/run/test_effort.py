"""What a run says it did: sums that add up, and operations that a formula confirms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

import dongu
from conftest import unwrapped
from dongu.engine.packed import without_padding
from dongu.run.console import Console
from dongu.run.effort import Effort, pass_flops, product_rate


@pytest.mark.parametrize(("length", "layers"), [(7, 2), (40, 3)])
def test_the_operations_of_a_forward_pass(length: int, layers: int) -> None:
    hidden, inner = 16, 64
    config = BertConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=inner,
        vocab_size=50,
        attn_implementation="eager",
    )
    a_token, attention = 2 * (4 * hidden * hidden + 2 * hidden * inner), 4 * length * hidden
    a_layer = length * (a_token + attention)
    head = 2 * (hidden * hidden + hidden * 2)  # pooler and classifier, for one token
    row = torch.ones((1, length), dtype=torch.int64)
    inputs = {"input_ids": row, "attention_mask": row}
    assert pass_flops(BertForSequenceClassification(config), inputs) == layers * a_layer + head
    config = BertConfig(**{**config.to_dict(), "attn_implementation": "sdpa"})
    model = BertForSequenceClassification(config).eval()
    assert pass_flops(model, inputs) == layers * a_layer + head
    # Without padding the last layer is computed for the first token alone, but for its keys and values.
    packed, reason = without_padding(model, {**inputs, "token_type_ids": torch.zeros_like(row)}, "right")
    assert reason is None
    flat = {"input_ids": row[0], "token_type_ids": row[0] * 0, "lengths": torch.tensor([length])}
    keys = 4 * hidden * hidden
    filler = (layers - 1) * a_token + keys  # of flat rows, one token more than there are
    last = length * keys + (a_token - keys) + attention
    assert pass_flops(packed, flat) == (layers - 1) * a_layer + last + filler + head


def test_the_operations_of_a_decoder_without_padding() -> None:
    """Its head is the model's own, with another base model in it."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = LlamaForSequenceClassification(LlamaConfig(vocab_size=50, pad_token_id=0, **sizes)).eval()
    row = torch.ones((1, 7), dtype=torch.int64)
    packed, reason = without_padding(model, {"input_ids": row, "attention_mask": row}, "right")
    assert reason is None
    flat = {"input_ids": row[0], "lengths": torch.tensor([7])}
    whole = pass_flops(model, {"input_ids": row, "attention_mask": row})
    assert whole / 2 < pass_flops(packed, flat) < whole


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_operations_of_both_passes(attention: str) -> None:
    """Those that are made: what is frozen, and all below it, has no backward pass."""
    hidden, inner, length, layers = 16, 64, 7, 3
    config = BertConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=inner,
        vocab_size=50,
        attn_implementation=attention,
    )
    model = BertForSequenceClassification(config)
    row = torch.ones((1, length), dtype=torch.int64)
    inputs = {"input_ids": row}
    a_layer = length * (2 * (4 * hidden * hidden + 2 * hidden * inner) + 4 * length * hidden)
    head = 2 * (hidden * hidden + hidden * 2)
    again = 2 * length**2 * hidden if attention == "sdpa" else 0  # its backward computes the scores once more
    whole = layers * a_layer + head
    assert pass_flops(model, inputs) == whole
    assert pass_flops(model, inputs, backward=True) == 3 * whole + layers * again
    marks = [torch.full_like(parameter, 7.0) for parameter in model.parameters()]
    for parameter, mark in zip(model.parameters(), marks, strict=True):
        parameter.grad = mark
    for frozen in (model.bert.embeddings, *model.bert.encoder.layer[:2]):
        frozen.requires_grad_(False)
    into_inputs = 2 * 3 * length * hidden * hidden  # the last layer's queries, keys and values need none of their input
    expected = whole + 2 * (a_layer + head) - into_inputs + again
    assert pass_flops(model, inputs, backward=True) == expected
    assert all(p.grad is mark for p, mark in zip(model.parameters(), marks, strict=True)), "gradients are as before"
    assert all(bool((mark == 7).all()) for mark in marks)
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_the_rate_is_that_of_the_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands still but for the products, which take 0.05, 0.02 and 0.04 seconds."""
    now, seconds = 0.0, iter([0.05, 0.02, 0.04])
    sizes = []

    def product(one: torch.Tensor, other: torch.Tensor) -> None:
        nonlocal now
        now += next(seconds)
        sizes.append((one.shape, other.shape, one.dtype))

    monkeypatch.setattr("dongu.run.effort.time.perf_counter", lambda: now)
    monkeypatch.setattr(torch, "mm", product)
    rate = product_rate(torch.device("cpu"), "bf16", 0.1)
    (rows, inner), (_, columns), dtype = sizes[0]
    assert dtype == torch.bfloat16
    assert len(sizes) == 3, "a tenth of a second, and no longer"
    assert rate == pytest.approx(2 * rows * inner * columns / 0.02)


@pytest.mark.parametrize("engine", ["packed", "plain"])
def test_a_run_says_what_it_did(
    engine: str,
    tiny_model: Callable[..., str],
    data_folder: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dongu.run.effort.PROBE_SIZES", {"cpu": 768})  # as it is outside of tests
    monkeypatch.setattr("dongu.run.effort.pass_flops", pass_flops)
    options: dict[str, Any] = {
        "model": tiny_model(),
        "max_steps": 7,
        "engine": engine,
        "device": "cpu",
        "console": Console(),
    }
    result = dongu.train(data_folder(train=41), out=str(tmp_path / "run"), **options)
    *lines, summary = map(json.loads, (result.path / "timing.jsonl").read_text(encoding="utf-8").splitlines())
    steps = [line for line in lines if line["event"] == "step"]
    assert summary["event"] == "summary"
    assert summary["steps"] == len(steps) == 7
    for name in ("tokens", "padded_tokens"):
        assert summary[name] == sum(line[name] for line in steps)
    assert summary["seconds"] == pytest.approx(sum(line["seconds"] for line in steps))
    assert summary["examples"] == 5 * 8 + 1 + 8  # the sixth update is what is left of the first epoch
    assert 0 < summary["per_second"]["model_flops"] < summary["per_second"]["product_flops"]
    assert summary["peak_memory_bytes"] > 5e7
    share = 1 - summary["tokens"] / summary["padded_tokens"]
    output = unwrapped(capsys.readouterr().out)
    assert f"{share:.1%} padding {'left out' if engine == 'packed' else 'computed'}" in output


@pytest.mark.parametrize(("rate", "said"), [(1.4, False), (3.0, True)])
def test_bf16_is_named_where_it_would_be_faster(
    rate: float, said: bool, tiny_model: Callable[..., str], data_folder: Callable[..., str]
) -> None:
    loop = dongu.Loop(data_folder(), model=tiny_model(), device="cpu", max_steps=2)
    effort = Effort()
    for step in loop:
        effort.add(step)
    effort.close(loop)
    effort.per_second["bf16_product_flops"] = rate * effort.per_second["product_flops"]
    assert ("--precision bf16" in effort.lines(loop)[1][1]) == said
