"""Attention of long rows in tiles: the same answer as of whole rows, in memory and time that grow with the row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_generic import two_layers
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

import model_types
from dongu.engine import tiles
from dongu.engine.attention import attend, attend_beyond
from dongu.engine.layout import Layout
from dongu.engine.tiles import Tiling

LENGTHS = (3, 21, 20, 50)
BANDS = [(None, False), (None, True), (0, False), (2, False), (2, True), (30, False), (30, True), (70, True)]


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 8 queries, for rows of any length."""
    monkeypatch.setattr(tiles, "QUERIES_A_TILE", 8)
    monkeypatch.setattr(tiles, "LONG", 0)


def heads_of(layout: Layout, *widths: int) -> list[Tensor]:
    torch.manual_seed(0)
    shape = len(layout.source), layout.heads
    return [torch.randn(*shape, width, dtype=torch.float64, requires_grad=True) for width in widths]


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("beyond", [False, True], ids=["usual", "softcap-sinks"])
@pytest.mark.parametrize(("window", "causal"), BANDS)
def test_the_same_as_of_whole_rows(
    window: int | None, causal: bool, beyond: bool, rounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout.of(LENGTHS, 2, rounded=rounded)
    sinks = torch.randn(2, dtype=torch.float32, requires_grad=True)
    given = [*heads_of(layout, 4, 4, 3), *([sinks] if beyond else [])]
    weights = torch.randn(layout.tokens, 6, dtype=torch.float64)

    def answer() -> list[Tensor]:
        q, k, v = given[:3]
        rules: dict[str, Any] = {"window": window, "causal": causal}
        if beyond:
            out = attend_beyond(q, k, v, layout, nn.Identity(), softcap=1.5, sinks=sinks, **rules)
        else:
            out = attend(q, k, v, layout, nn.Identity(), **rules)
        out = out[: layout.tokens]  # fillers are no row's
        return [out.detach(), *torch.autograd.grad((out * weights).sum(), given)]

    in_tiles = answer()
    monkeypatch.setattr(Tiling, "of", staticmethod(lambda *_: None))
    for found, wanted in zip(in_tiles, answer(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6 if beyond else 1e-12)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("window", [None, 5])
def test_backward_draws_as_forward_did(window: int | None) -> None:
    layout = Layout.of((5, 20), 2)
    assert Tiling.of(layout, window, False) is not None

    def answer(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        torch.manual_seed(1)  # the same draws each time
        output = attend(query, key, value, layout, nn.Dropout(0.4), window=window)[: layout.tokens]
        torch.rand(3)  # others draw between forward and backward
        return output

    assert torch.autograd.gradcheck(answer, heads_of(layout, 3, 3, 3), fast_mode=True)
    torch.manual_seed(1)
    q, k, v = heads_of(layout, 3, 3, 3)
    output = attend(q, k, v, layout, nn.Dropout(0.4), window=window)
    after = torch.default_generator.get_state()
    torch.autograd.backward(output.sum())
    assert torch.equal(torch.default_generator.get_state(), after), "backward leaves the generator as it was"


@pytest.mark.parametrize(("window", "causal"), [(None, False), (None, True), (64, False), (64, True)])
def test_memory_grows_with_the_row_and_scores_with_the_window(window: int | None, causal: bool) -> None:
    def cost(length: int) -> tuple[int, int]:
        layout = Layout.of((length,), 1)
        tiling = Tiling.of(layout, window, causal)
        assert tiling is not None
        scores = sum((q.stop - q.start) * (k.stop - k.start) for _, q, k in tiling.tiles)
        kept: dict[int, int] = {}
        q, k, v = heads_of(layout, 4, 4, 4)

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            attend(q, k, v, layout, nn.Dropout(0.1), window=window, causal=causal)
        return sum(kept.values()), scores

    (memory, scores), (memory_of_four, scores_of_four) = cost(1280), cost(5120)
    assert memory_of_four < 4.1 * memory
    assert memory_of_four < 10 * 5120 * 4 * 8, "ten times the queries; the weights are more than a thousand times"
    assert scores_of_four < (16.1 if window is None else 4.2) * scores
    if causal or window:
        assert scores_of_four < 0.52 * 5120**2


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    ("model_type", "sizes"),
    [
        ("bert", {}),
        ("modernbert", {"local_attention": 6}),
        ("qwen3", {"num_attention_heads": 4}),
        ("gemma2", {"layer_types": ["sliding_attention", "full_attention"], "attn_logit_softcapping": 2.0}),
        ("gpt_oss", {"layer_types": ["sliding_attention", "full_attention"]}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_models_whose_rows_are_in_tiles(model_type: str, sizes: dict[str, Any]) -> None:
    logits, gradients = model_types.difference(two_layers(model_type, **sizes))
    assert logits < model_types.EXACT
    assert gradients < model_types.EXACT_GRADIENTS


def test_short_rows_are_whole() -> None:
    """Tiles cost a second forward: rows that are short, or whose keys are all seen, are computed whole."""
    assert Tiling.of(Layout.of((1024, 1024), 2), None, False) is None
    assert Tiling.of(Layout.of((128, 128), 2), 64, False) is None
    assert Tiling.of(Layout.of((128, 128), 2), None, True) is None
    assert Tiling.of(Layout.of((1025,), 2), None, False) is not None
    assert Tiling.of(Layout.of((1024,), 2), 64, False) is not None
