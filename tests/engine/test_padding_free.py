"""Without padding: the same logits, the same gradients, the same distribution, the same saved model."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.models.bert.modeling_bert import BertSelfOutput

from dongu import consistency
from dongu.data.collate import Collator
from dongu.data.tokenized import Split
from dongu.data.tokens import Tokens
from dongu.engine import products
from dongu.engine.attention import attend
from dongu.engine.dropout import drop, keep, to_width_of
from dongu.engine.families import FAMILIES, register, why_not
from dongu.engine.layout import CELLS_OF_PADDING, Layout
from dongu.engine.packed import TOLERANCE_IN_HALF, PaddingFree, flatten, self_check
from dongu.engine.products import fast_products, has_fast_products
from dongu.errors import ModelError
from dongu.loop import Loop
from encoders import COVERED, RAGGED, load, micro_batch

LENGTHS = {
    "ragged": RAGGED,
    "equal": (9, 9, 9, 9),
    "three tokens": (3, 3, 17),
    "one row": (11,),
}


def both(model: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Logits and gradients of the model's own forward, and of the padding-free one."""
    packed = PaddingFree(model)
    results = []
    for run, given in ((model, inputs), (packed, flatten(inputs))):
        model.zero_grad()
        logits = run(**given).logits
        weights = torch.linspace(-1, 2, logits.numel(), dtype=logits.dtype).view_as(logits)  # no two rows alike
        (logits * weights).sum().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append((logits.detach(), gradients))
    (wanted, wanted_gradients), (got, got_gradients) = results
    return wanted, got, wanted_gradients, got_gradients


def assert_same(model: Any, inputs: Mapping[str, Tensor], logits: float, gradients: float) -> None:
    """Within these relative tolerances.

    A bias sums the terms that its weight weighs, and rounds as they do: what they leave of a sum that is zero in truth,
    as the gradient of the bias of keys is, is measured by the weight.
    """
    wanted, got, wanted_gradients, got_gradients = both(model, inputs)
    assert (got - wanted).abs().max() <= logits * wanted.abs().max()
    assert got_gradients.keys() == wanted_gradients.keys()
    norms: dict[str, float] = {}  # by module
    for name, gradient in wanted_gradients.items():
        module = name.rpartition(".")[0]
        norms[module] = max(norms.get(module, 0.0), float(gradient.norm()))
    assert max(norms.values()) > 0.1, "a gradient that vanishes proves nothing"
    for name, gradient in wanted_gradients.items():
        bound = gradients * norms[name.rpartition(".")[0]]
        assert float((got_gradients[name] - gradient).norm()) <= bound, name


@pytest.mark.cases(test=24, ci=40)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("family", COVERED)
def test_logits_and_gradients(family: str, lengths: str, training: bool, tiny_model: Callable[..., str]) -> None:
    model = load(tiny_model(family)).train(training)
    inputs = micro_batch(model, LENGTHS[lengths])
    assert_same(model, inputs, logits=1e-6, gradients=1e-5)
    if family != "modernbert":  # its own forward turns positions in fp32 whatever the weights are
        assert_same(model.double(), inputs, logits=1e-13, gradients=1e-9)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("layers", [3, 4])  # the last one sees everything, or its window
def test_modernbert_windows_and_pooling(layers: int, pooling: str) -> None:
    config = AutoConfig.for_model(
        "modernbert",
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        local_attention=6,
        layer_types=["full_attention", "sliding_attention", "full_attention", "sliding_attention"][:layers],
        classifier_pooling=pooling,
        pad_token_id=0,
        initializer_range=0.2,
        num_labels=3,
    )
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    assert_same(model, micro_batch(model), logits=1e-6, gradients=1e-5)


@pytest.mark.parametrize("family", ["roberta", "mpnet"])
def test_positions_of_a_padding_token_inside_a_row(family: str, tiny_model: Callable[..., str]) -> None:
    model = load(tiny_model(family))
    inputs = micro_batch(model)
    inputs["input_ids"][1, 4:6] = model.base_model.embeddings.position_embeddings.padding_idx
    assert_same(model, inputs, logits=1e-6, gradients=1e-5)


def test_half_precision_is_near(tiny_model: Callable[..., str]) -> None:
    for family in COVERED:
        model = load(tiny_model(family)).eval()
        inputs = micro_batch(model)
        with torch.no_grad():
            wanted = model(**inputs).logits
            with torch.autocast("cpu", torch.bfloat16):
                plain, packed = model(**inputs).logits, PaddingFree(model)(**flatten(inputs)).logits
        scale = wanted.abs().max()
        assert (packed - wanted).abs().max() < 1.5 * (plain - wanted).abs().max() + 0.01 * scale, family


@pytest.mark.cases(test=2, ci=5)
@pytest.mark.parametrize(
    "family", ["bert", "distilbert", "mpnet", "modernbert", "electra", "albert", "gpt2", "deberta-v2"]
)
def test_dropout_has_the_same_distribution(family: str, tiny_model: Callable[..., str]) -> None:
    model = load(tiny_model(family, dropout=0.3)).train()
    one = micro_batch(model, (5, 3, 9))
    inputs = {name: tensor.repeat(320, 1) for name, tensor in one.items()}
    packed = PaddingFree(model)
    draws = []
    torch.manual_seed(11)
    with torch.no_grad():
        for run, given in ((model, inputs), (packed, flatten(inputs))):
            draws.append(torch.cat([run(**given).logits.view(320, 3, 3) for _ in range(12)]).double())
    plain, ours = draws  # (draws, rows, labels) each
    error = ((plain.var(0) + ours.var(0)) / len(plain)).sqrt()
    assert ((plain.mean(0) - ours.mean(0)) / error).abs().max() < 4
    assert (ours.var(0) / plain.var(0)).log().abs().max() < 0.15
    assert plain.var(0).min() > 1e-3, "dropout that does nothing proves nothing"


def test_drop_keeps_the_right_share_and_the_mean() -> None:
    torch.manual_seed(3)
    ones, module = torch.ones(1000, 999), nn.Dropout(0.1)
    dropped = drop(ones, module)
    assert torch.unique(dropped).tolist() == pytest.approx([0.0, 1 / 0.9], rel=1e-4)
    sigma = math.sqrt(0.1 * 0.9 / ones.numel())
    assert float((dropped == 0).double().mean()) == pytest.approx(0.1, abs=4 * sigma + 1e-5)
    lanes = (dropped.flatten()[: 4 * (ones.numel() // 4)] == 0).double().view(-1, 4)
    assert (lanes.mean(0) - 0.1).abs().max() < 8 * sigma
    assert (torch.corrcoef(lanes.T) - torch.eye(4)).abs().max() < 0.01
    assert drop(ones, module.eval()) is ones
    assert drop(ones, nn.Identity()) is ones
    assert float(drop(ones, nn.Dropout(1.0)).sum()) == 0


def test_dropout_is_a_function_of_the_seed(tiny_model: Callable[..., str]) -> None:
    packed = PaddingFree(load(tiny_model(dropout=0.2)).train())
    inputs = flatten(micro_batch(packed.classifier))

    def logits(seed: int) -> Tensor:
        torch.manual_seed(seed)
        answer: Tensor = packed(**inputs).logits
        return answer

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))


def test_the_saved_model_is_the_same_to_the_byte(tiny_model: Callable[..., str], tmp_path: Path) -> None:
    for family in COVERED:
        model = load(tiny_model(family))
        model.save_pretrained(tmp_path / family / "plain")
        packed = PaddingFree(model)
        packed(**flatten(micro_batch(model))).logits.sum().backward()
        packed.classifier.save_pretrained(tmp_path / family / "packed")
        plain, ours = (
            {file.name: file.read_bytes() for file in (tmp_path / family / name).iterdir()}
            for name in ("plain", "packed")
        )
        assert {"config.json", "model.safetensors"} <= plain.keys()
        assert ours == plain
        assert "attn" not in json.dumps([key for key in json.loads(plain["config.json"]) if "implementation" in key])
        assert [id(p) for p in packed.parameters()] == [id(p) for p in model.parameters()]


def test_self_check_sees_and_leaves_no_trace(tiny_model: Callable[..., str]) -> None:
    packed = PaddingFree(load(tiny_model(dropout=0.2)).train())
    inputs = micro_batch(packed.classifier)
    state = torch.get_rng_state()
    assert 0 < self_check(packed, inputs) < 1e-6
    assert torch.equal(torch.get_rng_state(), state)
    assert packed.training
    assert packed.classifier.base_model.training
    packed.encoder.layers[1], packed.encoder.layers[0] = packed.encoder.layers  # a model that it was not made for
    assert self_check(packed, inputs) > 1e-3


def test_of_long_rows_two_are_compared(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop(data_folder(train=20), model=tiny_model())
    rows, longest = consistency.sample_of(loop)["input_ids"].shape
    assert rows == consistency.CHECKED_ROWS
    monkeypatch.setattr(consistency, "CHECKED_TOKENS", 3 * longest)
    assert consistency.sample_of(loop)["attention_mask"].shape == (3, longest)
    monkeypatch.setattr(consistency, "CHECKED_TOKENS", 1)
    assert len(consistency.sample_of(loop)["input_ids"]) == 2


@pytest.mark.parametrize("family", ["xlnet"])
def test_other_models_are_refused_by_name(family: str, tiny_model: Callable[..., str]) -> None:
    model = load(tiny_model(family))
    assert family in (why_not(model) or "")
    with pytest.raises(ModelError, match="without padding.*" + family):
        PaddingFree(model)


@mock.patch.dict(FAMILIES)
def test_a_family_of_ones_own() -> None:
    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model("ernie", **sizes, intermediate_size=32, num_labels=3, initializer_range=0.2)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    del FAMILIES["ernie"]
    assert "`ernie` has no" in (why_not(model) or "")
    register("ernie", replace(FAMILIES["bert"], name="ErnieForSequenceClassification"))
    assert why_not(model) is None
    assert_same(model, micro_batch(model), logits=1e-6, gradients=1e-5)
    with pytest.raises(ValueError, match="ErnieForSequenceClassification"):
        register("ernie", FAMILIES["bert"])


def test_what_the_gate_looks_at(tiny_model: Callable[..., str]) -> None:
    class Own(type(load(tiny_model()))):  # type: ignore[misc]
        pass

    def changed(change: Callable[[Any], Any], family: str = "bert") -> str:
        model = load(tiny_model(family))
        assert why_not(model) is None
        change(model)
        return why_not(model) or ""

    assert "left" in (why_not(load(tiny_model()), padding_side="left") or "")
    assert "decoder" in changed(lambda m: setattr(m.config, "is_decoder", True))
    assert "pooler" in changed(lambda m: setattr(m.bert, "pooler", None))
    assert "`max`" in changed(lambda m: vars(m.config).update(classifier_pooling="max"), "modernbert")
    assert "checkpointing" in changed(lambda m: setattr(m.bert.encoder, "gradient_checkpointing", True))
    assert "`bert.encoder.layer.1`" in changed(lambda m: m.bert.encoder.layer[1].register_forward_hook(print))
    assert "replaced" in changed(lambda m: setattr(m.bert.pooler, "forward", print))
    assert "query" in changed(lambda m: delattr(m.bert.encoder.layer[0].attention.self, "query"))
    assert "Wqkv" in changed(lambda m: delattr(m.model.layers[0].attn, "Wqkv"), "modernbert")
    assert "Own" in changed(lambda m: setattr(m, "__class__", Own))


def test_padding_elsewhere_is_refused(tiny_model: Callable[..., str]) -> None:
    for mask in ([[1, 0, 1]], [[0, 1, 1]], [[0, 0, 0]]):
        inputs = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.tensor(mask)}
        with pytest.raises(ValueError, match="right"):
            flatten(inputs)


@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_backward_by_hand_is_the_derivative(
    share: float, first_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dongu.engine.layout.CELLS_OF_PADDING", 13)
    layout = Layout.of((4, 2, 4, 1), 2)
    assert layout.blocks == ((1, 1), (3, 4))  # the second is padded
    tokens = len(layout.source)
    assert tokens == layout.tokens + 1
    queries = 4 if first_only else tokens
    torch.manual_seed(0)
    shapes = ((queries, 2, 3), (tokens, 2, 3), (tokens, 2, 3), (2, 4, 4))
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    real = 4 if first_only else layout.tokens

    def answer(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        torch.manual_seed(1)  # the same draws each time
        return drop(attend(query, key, value, layout, nn.Dropout(share), bias=bias), nn.Dropout(share))[:real]

    assert torch.autograd.gradcheck(answer, inputs, fast_mode=not (share and first_only))  # the others: by projections


def test_blocks_of_like_lengths() -> None:
    """Few blocks, of little padding, whatever the lengths are; of few sizes where that is asked for."""

    def blocks(*lengths: int, rounded: bool = False) -> tuple[tuple[int, int], ...]:
        return Layout.of(lengths, 2, rounded).blocks

    assert blocks(5, 9, 7) == ((3, 9),)
    assert blocks(300, 20, 299, 21) == ((2, 21), (2, 300))
    assert blocks(300, 20, 299, 21, rounded=True) == ((2, 32), (2, 304))
    random = np.random.default_rng(3)
    for _ in range(20):
        lengths = random.integers(1, 513, random.integers(1, 60)).tolist()
        found = blocks(*lengths)
        assert sum(count for count, _ in found) == len(lengths)
        padding = sum(count * longest**2 for count, longest in found) - sum(length**2 for length in lengths)
        assert padding <= CELLS_OF_PADDING * len(found)


def test_a_row_sees_no_other_and_a_window_no_nan() -> None:
    """A block's padded cells see nothing in their window: no NaN comes of it."""
    layout = Layout.of((3, 40), 2)
    assert layout.blocks == ((2, 40),)
    torch.manual_seed(0)
    q, k, v = (torch.randn(len(layout.source), 2, 8, requires_grad=True) for _ in range(3))
    answer = attend(q, k, v, layout, nn.Identity(), window=2)
    torch.autograd.backward(answer[:3].sum())
    for tensor in (q, k, v):
        assert tensor.grad is not None
        assert bool(tensor.grad.isfinite().all())
        assert float(tensor.grad[3:].abs().max()) == 0
    assert v.grad is not None
    assert float(v.grad[:3].abs().min()) > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_draws_are_told_apart_in_every_precision(dtype: torch.dtype) -> None:
    levels = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    for dropped in (1, 6554, 40_000):
        kept = keep(torch.full((2**16,), -3.5, dtype=dtype), to_width_of(levels, dtype), dropped)
        assert torch.unique(kept).tolist() == [-3.5, 0.0]
        assert int((kept == 0).sum()) == dropped


def test_fillers_change_nothing(tiny_model: Callable[..., str]) -> None:
    layout = Layout.of((40, 30), 2, rounded=True)
    assert len(layout.source) == len(layout.position_ids) == len(layout.row) == 72
    assert layout.cu_seqlens.tolist() == [0, 30, 70]
    sizes = {len(Layout.of((count,), 2, rounded=True).source) for count in range(256, 512)}
    assert sizes == set(range(272, 513, 16))
    of = Layout.of
    for family in ("roberta", "modernbert"):
        model = load(tiny_model(family))
        inputs, results = flatten(micro_batch(model, (40, 30))), []
        for rounded in (False, True):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    Layout,
                    "of",
                    staticmethod(lambda lengths, heads, _, rounded=rounded: of(lengths, heads, rounded)),
                )
                model.zero_grad()
                logits = PaddingFree(model)(**inputs).logits
            (logits * torch.tensor([1.0, -2.0, 3.0])).sum().backward()
            gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
            results.append(torch.cat([logits.detach().flatten(), *gradients]))
        assert float((results[1] - results[0]).norm() / results[0].norm()) < 1e-6


@pytest.fixture
def amd(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A processor of AMD's with AVX-512, as far as anybody asks."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(products, "processor_vendor", lambda: "AuthenticAMD")
    has_fast_products.cache_clear()
    yield
    has_fast_products.cache_clear()


@pytest.mark.usefixtures("amd")
def test_products_by_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers and gradients, and only in fp32, with enough tokens, on a processor that gains."""
    done: list[tuple[int, ...]] = []
    own = products.linear

    def noted(tokens: Tensor, *others: Any) -> Tensor:
        done.append(tuple(tokens.shape))
        return own(tokens, *others)

    monkeypatch.setattr(products, "linear", noted)
    layers, cpu = nn.Sequential(nn.Linear(48, 80), nn.Linear(80, 24, bias=False)), torch.device("cpu")
    tokens = torch.randn(200, 60, requires_grad=True)
    results = []
    for context in (contextlib.nullcontext(), fast_products(cpu)):
        layers.zero_grad()
        tokens.grad = None
        with context:
            logits = layers(tokens[:, 6:54])  # not contiguous
        (logits * torch.linspace(-1, 2, logits.numel()).view_as(logits)).sum().backward()
        results.append([logits.detach(), tokens.grad, *(parameter.grad for parameter in layers.parameters())])
    for got, wanted in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))
    assert done == [(200, 48), (200, 80)]
    with fast_products(cpu):
        torch.testing.assert_close(layers(tokens[None, :, 6:54])[0], results[1][0])
        assert done[2:] == done[:2]
        done.clear()
        layers(tokens[:20, :48])
        layers(tokens.view(2, 100, 60)[..., :48])
        layers.double()(tokens[:, :48].double())
    with torch.autocast("cpu", torch.bfloat16), fast_products(cpu):
        layers.float()(tokens[:, :48])
    for name, other in (("processor_vendor", "GenuineIntel"), ("processor_vendor", "")):
        has_fast_products.cache_clear()
        monkeypatch.setattr(products, name, lambda other=other: other)
        with fast_products(cpu):
            layers(tokens[:, :48])
    assert not done


@pytest.mark.usefixtures("amd")
def test_logits_and_gradients_by_onednn(tiny_model: Callable[..., str]) -> None:
    """As above, with sizes rounded up and the other kernel."""
    for family in COVERED:
        assert_same(load(tiny_model(family)), micro_batch(load(tiny_model(family))), logits=1e-6, gradients=1e-5)


def test_a_flat_collator_lays_down_what_a_padding_one_surrounds() -> None:
    lengths = np.array([4, 1, 6, 2])
    random = np.random.default_rng(0)
    tokens = Tokens(
        input_ids=random.integers(5, 60, lengths.sum()).astype(np.int32),
        token_type_ids=random.integers(0, 2, lengths.sum()).astype(np.uint8),
        offsets=np.cumsum([0, *lengths], dtype=np.int64),
        truncated=np.zeros(4, dtype=bool),
    )
    split, rows = Split("train", np.arange(4), tokens, np.array([7, 8, 9, 10])), np.array([2, 0, 1])
    padding = Collator(("input_ids", "attention_mask", "token_type_ids"), 0, 0, "right")
    flat = replace(padding, flat=True)(split, rows)
    assert flat.pop("labels").tolist() == [9, 7, 8]
    wanted = flatten(padding(split, rows))
    assert flat.keys() == wanted.keys()
    assert all(torch.equal(flat[name], wanted[name]) for name in wanted)
    assert "token_type_ids" not in replace(padding, columns=("input_ids",), flat=True)(split, rows)


def test_a_model_that_computes_something_else_goes_on_as_it_is(
    tiny_model: Callable[..., str], make_rows: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"train": make_rows(9), "validation": make_rows(4)}
    assert Loop(data, model=tiny_model(), device="cpu").fallback is None
    # A transformers release that changes what BERT computes, and keeps its names.
    changed = lambda self, hidden, given: self.LayerNorm(self.dense(hidden) - given)  # noqa: E731
    monkeypatch.setattr(BertSelfOutput, "forward", changed)
    loop = Loop(data, model=tiny_model(), device="cpu")
    assert "differ" in (loop.fallback or "")
    assert loop.config.engine == "plain"
    assert loop.engine is loop.model
    assert "attention_mask" in loop.train_updates[0].micro_batches[0].tensors
    assert Loop(data, model=tiny_model(), device="cpu", engine="plain").fallback is None


def test_a_kernel_that_is_wrong_in_bf16_alone(
    tiny_model: Callable[..., str], make_rows: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"train": make_rows(9), "validation": make_rows(4)}
    right = attend

    def wrong(query: Tensor, *given: Any, **options: Any) -> Tensor:
        answer = right(query, *given, **options)
        return answer.flip(0) if answer.dtype == torch.bfloat16 else answer

    monkeypatch.setattr("dongu.engine.encoders.attend", wrong)
    assert Loop(data, model=tiny_model(), device="cpu").fallback is None
    loop = Loop(data, model=tiny_model(), device="cpu", precision="bf16")
    assert "differ" in (loop.fallback or "")
    assert loop.engine is not None
    assert loop.config.engine == "plain"


def test_a_device_without_the_kernel(
    tiny_model: Callable[..., str], make_rows: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("no kernel image is available\nfor execution")

    monkeypatch.setattr("dongu.engine.encoders.attend", missing)
    loop = Loop({"train": make_rows(9), "validation": make_rows(4)}, model=tiny_model(), device="cpu")
    assert loop.fallback == "it cannot be computed so here (no kernel image is available)"
    assert loop.config.engine == "plain"


@pytest.mark.parametrize("family", COVERED)
def test_rounding_is_far_from_the_self_check_in_bf16(family: str, tiny_model: Callable[..., str]) -> None:
    model = load(tiny_model(family))
    with torch.autocast("cpu", torch.bfloat16):
        assert self_check(PaddingFree(model), micro_batch(model)) < TOLERANCE_IN_HALF / 4


def test_rows_lie_in_order_of_length() -> None:
    layout = Layout.of((4, 2, 4, 1), 2)
    assert layout.lengths == (1, 2, 4, 4)
    assert layout.tokens == 11
    assert layout.source.tolist()[:11] == [10, 4, 5, 0, 1, 2, 3, 6, 7, 8, 9]
    assert layout.row.tolist()[:11] == [0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    assert layout.position_ids.tolist()[:11] == [0, 0, 1, 0, 1, 2, 3, 0, 1, 2, 3]
    assert len(layout.source) == len(layout.row) == len(layout.position_ids) == 12  # a filler
    assert layout.first.tolist() == [0, 1, 3, 7]
    assert layout.unsort.tolist() == [2, 1, 3, 0]
