"""Attention inside each row of a micro-batch without padding: by hand on a CPU, by PyTorch's kernels on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dongu.engine.dropout import draw, drop, dropped_levels, keep, scale, to_width_of
from dongu.engine.layout import Layout, gather, masked_bias, scatter, split_blocks
from dongu.engine.tiles import Tiling, attend_in_tiles, attend_tile, band

HALF = (torch.bfloat16, torch.float16)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    dropout: Any,
    *,
    bias: Tensor | None = None,
    window: int | None = None,
    causal: bool = False,
) -> Tensor:
    """Attention inside each row.

    Args:
        query: (tokens, heads, head_dim), or (batch, heads, head_dim) where only the first token of each row is a query.
        key: (tokens, heads, head_dim).
        value: (tokens, heads, value_dim).
        layout: of the tokens.
        dropout: the module that drops attention weights.
        bias: added to the scores, (heads, longest, longest).
        window: the largest distance between a query and a key that it sees, in tokens.
        causal: whether a query sees no key after it; not with a bias, nor with one query a row.

    Returns:
        (tokens, heads * value_dim), or (batch, heads * value_dim).
    """
    if query.is_cuda and bias is None:
        dropout_p = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
        if has_flash(query, value) and (window is None or len(query) == len(key)):
            return flash_attention(query, key, value, layout, dropout_p, window, causal).flatten(1)
        if query.dtype == torch.float32 and window is None:
            return efficient_attention(query, key, value, layout, dropout_p, causal).flatten(1)
    first_only = len(query) < len(key)
    in_tiles = bias is None and not (query.is_cuda or first_only)
    if in_tiles and (tiling := Tiling.of(layout, window, causal)) is not None:
        return attend_in_tiles(query, key, value, tiling, dropout)
    bias = band_bias(layout, window, causal, 1 if first_only else None) if bias is None else bias
    with torch.autocast(query.device.type, enabled=False):
        output = Attention.apply(query, key, value, bias, layout, dropped_levels(dropout))  # type: ignore[no-untyped-call]
    return output.flatten(1)  # type: ignore[no-any-return]


def attend_beyond(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    dropout: Any,
    *,
    window: int | None,
    causal: bool,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """The same for every token of a row, with what few models have.

    Args:
        query: this and the others as for `attend`.
        softcap: the scores stay below it, by a tanh.
        sinks: a score of each head for a key that nobody has, (heads,).
    """
    if not query.is_cuda and (tiling := Tiling.of(layout, window, causal)) is not None:
        return attend_in_tiles(query, key, value, tiling, dropout, softcap=softcap, sinks=sinks)
    q, k, v = (split_blocks(gather(x, layout), layout) for x in (query, key, value))
    bias, blocks = band_bias(layout, window, causal), []
    for q_, k_, v_, mask in zip(q, k, v, layout.dense.masks, strict=True):
        block = attend_tile(q_, k_, v_, masked_bias(mask, bias, q_), lambda x: drop(x, dropout), softcap, sinks)
        blocks.append(block.flatten(0, 1))
    return scatter(torch.cat(blocks), layout).flatten(1)


def band_bias(layout: Layout, window: int | None, causal: bool, queries: int | None = None) -> Tensor | None:
    """What hides the keys outside a window, and after a query; None where there are none.

    (heads, queries, longest), or (queries, longest) where it hides the padding too, which is after every query.
    """
    bias = band(slice(0, queries or layout.longest), slice(0, layout.longest), window, causal)
    if bias is not None:
        bias = bias.to(layout.row.device)
    return bias if bias is None or causal else bias.expand(layout.heads, -1, -1)


class Attention(torch.autograd.Function):
    """Softmax attention in each row, with its backward: rows of like lengths together, as dense products.

    It is written by hand because the autograd graph of some fifteen operations a block costs as much as they do. It
    computes in the precision of its input, except for softmax, which PyTorch computes in fp32 at least.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, layout: Layout, dropped: int
    ) -> Tensor:
        first_only = len(query) < len(key)
        q = query.flatten(0, 1) if first_only else gather(query, layout)
        k, v = gather(key, layout), gather(value, layout)
        output = q.new_empty(len(q), v.shape[-1])
        counts = [n * layout.heads * (1 if first_only else longest) * longest for n, longest in layout.blocks]
        ctx.sizes = counts if dropped else [0] * len(counts)  # the number of draws of each block
        draws, kept_weights = draw(sum(ctx.sizes), query), []
        blocks = zip(*(split_blocks(x, layout) for x in (q, k, v, output)), strict=True)
        for (q_, k_, v_, out), mask, drawn in zip(
            blocks, layout.dense.masks, torch.split(draws, ctx.sizes), strict=True
        ):
            scores = torch.baddbmm(masked_bias(mask, bias, q_), q_, k_.transpose(1, 2), alpha=query.shape[-1] ** -0.5)
            weights = torch.softmax(scores, dim=-1)  # (rows * heads, queries, longest)
            kept = keep(weights, to_width_of(drawn, weights.dtype), dropped)
            torch.baddbmm(out, kept, v_, beta=0, alpha=scale(dropped), out=out)
            kept_weights.append(weights)
        ctx.save_for_backward(q, k, v, draws, *kept_weights)
        ctx.layout, ctx.dropped, ctx.first_only = layout, dropped, first_only
        ctx.bias = bias if bias is not None and ctx.needs_input_grad[3] else None
        return output.view(*query.shape[:2], -1) if first_only else scatter(output, layout)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layout, dropped = ctx.layout, ctx.dropped
        q, k, v, draws, *kept_weights = ctx.saved_tensors
        g = gradient.flatten(0, 1) if ctx.first_only else gather(gradient, layout)
        grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (q, k, v))
        grad_bias = None if ctx.bias is None else torch.zeros_like(ctx.bias)
        alpha = scale(dropped) * q.shape[-1] ** -0.5
        blocks = zip(*(split_blocks(x, layout) for x in (q, k, v, g, grad_q, grad_k, grad_v)), strict=True)
        for (q_, k_, v_, g_, grad_q_, grad_k_, grad_v_), weights, drawn in zip(
            blocks, kept_weights, draws.split(ctx.sizes), strict=True
        ):
            drawn = to_width_of(drawn, weights.dtype)
            grad_weights = keep(torch.bmm(g_, v_.transpose(1, 2)), drawn, dropped)
            grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            kept = keep(weights, drawn, dropped)
            torch.baddbmm(grad_v_, kept.transpose(1, 2), g_, beta=0, alpha=scale(dropped), out=grad_v_)
            torch.baddbmm(grad_k_, grad_scores.transpose(1, 2), q_, beta=0, alpha=alpha, out=grad_k_)
            torch.baddbmm(grad_q_, grad_scores, k_, beta=0, alpha=alpha, out=grad_q_)
            if grad_bias is not None:
                queries, longest = grad_scores.shape[1:]
                by_head = grad_scores.view(-1, layout.heads, queries, longest).sum(0, dtype=grad_bias.dtype)
                grad_bias[:, :queries, :longest].add_(by_head, alpha=scale(dropped))
        grad_query = grad_q.view(len(gradient), layout.heads, -1) if ctx.first_only else scatter(grad_q, layout)
        return grad_query, scatter(grad_k, layout), scatter(grad_v, layout), grad_bias, None, None


def has_flash(query: Tensor, value: Tensor) -> bool:
    """Whether flash attention takes such queries and values on this GPU."""
    modern, size = torch.cuda.get_device_capability(query.device) >= (8, 0), query.shape[-1]
    return modern and query.dtype in HALF and size % 8 == 0 and size <= 256 and size == value.shape[-1]


def flash_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, dropout_p: float, window: int | None, causal: bool
) -> Tensor:
    """PyTorch's flash attention over rows of any length; its public `varlen_attn` is the same without dropout."""
    cu_seqlens_q, max_seqlen_q = query_seqlens(query, key, layout)
    output, *_ = torch.ops.aten._flash_attention_forward(
        query, key, value, cu_seqlens_q, layout.cu_seqlens_int32, max_seqlen_q, layout.max_seqlen, dropout_p,
        causal, False, window_size_left=window, window_size_right=0 if causal else window,
    )  # fmt: skip
    return output  # type: ignore[no-any-return]


def efficient_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, dropout_p: float, causal: bool
) -> Tensor:
    """PyTorch's memory-efficient attention over rows of any length, which has fp32."""
    cu_seqlens_q, max_seqlen_q = query_seqlens(query, key, layout)
    output, *_ = torch.ops.aten._efficient_attention_forward(
        query[None], key[None], value[None], None, cu_seqlens_q, layout.cu_seqlens_int32,
        max_seqlen_q, layout.max_seqlen, dropout_p, int(causal), True,
    )  # fmt: skip
    return output[0]  # type: ignore[no-any-return]


def query_seqlens(query: Tensor, key: Tensor, layout: Layout) -> tuple[Tensor, int]:
    """`cu_seqlens` (int32) and `max_seqlen` of the queries: those of the rows, or one query a row."""
    cu_seqlens = layout.cu_seqlens_int32
    if len(query) == len(key):
        return cu_seqlens, layout.max_seqlen
    return torch.arange(len(cu_seqlens), dtype=torch.int32, device=cu_seqlens.device), 1
