"""Any transformer without padding, through the attention interface of transformers; all types: test_model_types.py."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AttentionMaskInterface, AutoModelForSequenceClassification
from transformers.masking_utils import (
    and_masks,
    bidirectional_mask_function,
    causal_mask_function,
    sliding_window_bidirectional_mask_function,
    sliding_window_causal_mask_function,
)

import dongu
import model_types
from conftest import cut_off_in_step
from dongu.engine import attention, generic
from dongu.engine.families import why_not
from dongu.engine.generic import FlatRows, band_of_rows
from dongu.engine.layout import Layout
from dongu.engine.packed import PaddingFree, flatten
from dongu.loop import Loop
from encoders import load, micro_batch


def two_layers(model_type: str, **given: Any) -> Any:
    torch.manual_seed(7)
    config = model_types.tiny_config(model_type, num_hidden_layers=2, **given)
    return AutoModelForSequenceClassification.from_config(config)


@pytest.mark.parametrize(
    ("model_type", "sizes"),
    [
        ("nomic_bert", {}),
        ("xlm-roberta-xl", {}),  # positions are counted from the padding index on
        ("qwen3", {"num_attention_heads": 4}),  # two of them share a key
        ("gemma2", {"layer_types": ["sliding_attention", "full_attention"], "attn_logit_softcapping": 2.0}),
        ("gpt_oss", {"layer_types": ["sliding_attention", "full_attention"]}),  # sinks
        ("deepseek_v3", {"v_head_dim": 4}),  # values are smaller than keys
        ("deberta", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
        ("deberta-v2", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 4}),
        ("deberta-v2", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 64}),
        *(("eurobert", {"classifier_pooling": pooling}) for pooling in ("bos", "mean", "late")),
        *(("ultrabert", {"classifier_pooling": pooling}) for pooling in ("cls", "mean")),
    ],
    ids=str,
)
def test_logits_and_gradients(model_type: str, sizes: dict[str, Any]) -> None:
    assert not model_types.apart(two_layers(model_type, **sizes))


@pytest.mark.parametrize(
    ("model_type", "last_layer", "whole"),
    [
        ("qwen3", "model.layers.1.mlp", False),
        ("xlm-roberta-xl", "roberta.encoder.layer.1.intermediate", False),
        ("albert", "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn", False),  # each layer is the same module
        ("gpt2", "transformer.h.1.mlp", True),  # which wants as many tokens back as it was given
    ],
)
def test_the_last_layer_ends_with_the_tokens_that_are_read(model_type: str, last_layer: str, whole: bool) -> None:
    packed = PaddingFree(two_layers(model_type)).eval()
    lengths = torch.tensor([5, 2, 9])
    rows = {"input_ids": torch.full((16,), 7), "lengths": lengths}
    with torch.no_grad():
        packed(**rows)
        seen: list[int] = []
        hook = lambda *given: seen.append(given[1][0].shape[-2])  # noqa: E731
        handle = packed.classifier.get_submodule(last_layer).register_forward_hook(hook)
        packed(**rows)
        handle.remove()
    assert seen[-1] == (17 if whole else 3)  # 16 tokens and one that is none


def test_a_last_layer_that_sees_a_window_is_whole_where_the_window_bites() -> None:
    model = two_layers("mistral", sliding_window=6).eval()
    packed = PaddingFree(model).eval()
    for tokens in (4, 18):  # the first rows, in which the window holds all, say that the layer can be cut
        inputs = {"input_ids": torch.randint(5, 20, (2, tokens)), "attention_mask": torch.ones(2, tokens).long()}
        with torch.no_grad():
            torch.testing.assert_close(packed(**flatten(inputs)).logits, model(**inputs).logits)
    assert packed.encoder.is_cut


def test_deberta_takes_no_distance_that_its_rows_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"relative_attention": True, "pos_att_type": ["c2p"], "position_buckets": 64}
    model = two_layers("deberta-v2", **sizes)
    packed, own, taken = PaddingFree(model), model.deberta.encoder.layer[0].attention.self, []

    def noted(self: Any, hidden: Any, *args: Any, **given: Any) -> Any:
        taken.append((hidden.shape[1], len(given["rel_embeddings"]), self.pos_ebd_size))
        return forward(self, hidden, *args, **given)

    forward = type(own).forward
    monkeypatch.setattr(type(own), "forward", noted)
    packed(**flatten(micro_batch(model)))
    assert taken
    assert {(longest, rows, span) for longest, rows, span in taken if (rows, span) != (2 * longest, longest)} == set()
    assert own.pos_ebd_size == 64


@pytest.mark.parametrize(
    ("mask", "band"),
    [
        (causal_mask_function, [1, -1]),
        (bidirectional_mask_function, [0, -1]),
        (sliding_window_causal_mask_function(4), [1, 3]),
        (sliding_window_causal_mask_function(40), [1, -1]),
        (sliding_window_bidirectional_mask_function(4), [0, 4]),
        (sliding_window_causal_mask_function(0), [-1, -1]),  # nothing is seen
        (and_masks(causal_mask_function, lambda b, h, query, key: query // 4 == key // 4), [-1, -1]),
    ],
    ids=["causal", "both", "window", "wide-window", "window-both", "no-window", "chunks"],
)
def test_a_mask_is_read_as_a_band(mask: Callable[..., Any], band: list[int]) -> None:
    token = generic._rows.set(FlatRows(Layout.of((3, 20), 2), {}))
    assert band_of_rows(mask_function=mask).flatten().tolist() == band
    generic._rows.reset(token)


def test_the_model_is_as_it_was(
    tiny_model: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its attention is called by its own name again, also after an error, and no file knows of another."""
    model = load(tiny_model("qwen3"))
    own = model.config._attn_implementation
    model.save_pretrained(tmp_path / "before")
    packed, inputs = PaddingFree(model), flatten(micro_batch(model))
    names = []
    attend = attention.attend

    def noted(*args: Any, **options: Any) -> Any:
        names.append(model.config._attn_implementation)
        return attend(*args, **options)

    monkeypatch.setattr("dongu.engine.generic.attend", noted)
    packed(**inputs)
    assert names == [generic.NAME] * 2
    assert model.config._attn_implementation == own
    model.save_pretrained(tmp_path / "after")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "before" / file).read_bytes() == (tmp_path / "after" / file).read_bytes()
    monkeypatch.setattr("dongu.engine.generic.attend", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        packed(**inputs)
    assert model.config._attn_implementation == own


def test_a_hook_is_not_passed_by(tiny_model: Callable[..., str]) -> None:
    model = load(tiny_model("qwen3"))
    assert why_not(model) is None
    model.model.layers[1].mlp.register_forward_hook(print)
    assert "`model.layers.1.mlp`" in (why_not(model) or "")
    assert "left" in (why_not(load(tiny_model("qwen3")), padding_side="left") or "")


def test_attention_that_has_a_mask_of_its_own_falls_back(
    tiny_model: Callable[..., str], make_rows: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"train": make_rows(9), "validation": make_rows(4)}
    generic.register_attention()
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, generic.NAME, lambda **_: torch.zeros(1, 1, 9, 9))
    loop = Loop(data, model=tiny_model("qwen3"), device="cpu")
    assert loop.fallback == "it cannot be computed so here (its attention mask is its own)"
    assert loop.config.engine == "plain"


@pytest.mark.cases(test=0, ci=2)
@pytest.mark.parametrize("family", ["gpt2", "deberta-v2"])
def test_resumed_it_ends_in_the_same_bytes(
    family: str, tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "model": tiny_model(family, dropout=0.1),
        "batch_size": 8,
        "micro_batch_size": 3,
        "save_steps": 2,
    }
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for out in (whole, cut):
        with cut_off_in_step(5) if out is cut else contextlib.nullcontext():
            dongu.train(data_folder(train=61), **options, device="cpu", max_steps=8, out=str(out))
    dongu.resume(cut)
    assert json.loads((cut / "run.json").read_text(encoding="utf-8"))["promises"]["padding_free"] == "yes"
    for name in ("metrics.jsonl", "results.json", "model/model.safetensors"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
