"""Attention inside each row of a micro-batch without padding: by hand on a CPU, by PyTorch's kernels on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dongu.engine.dropout import comparable, draw, keep, levels, scale
from dongu.engine.layout import MASKED, Rows

HALF = (torch.bfloat16, torch.float16)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Rows,
    dropout: Any,
    *,
    bias: Tensor | None = None,
    window: int | None = None,
) -> Tensor:
    """Attention inside each row.

    Args:
        query: (tokens, heads, head_dim), or (batch, heads, head_dim) where only the first token of each row asks.
        key: (tokens, heads, head_dim), like value.
        value: what is averaged.
        rows: the layout.
        dropout: the module that drops weights.
        bias: added to the scores, (heads, longest, longest).
        window: how many tokens away a token still sees.

    Returns:
        (tokens, heads * head_dim), or (batch, heads * head_dim).
    """
    if query.is_cuda and bias is None:
        share = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
        if has_flash(query) and (window is None or len(query) == len(key)):
            return flash_attention(query, key, value, rows, share, window).flatten(1)
        if query.dtype == torch.float32 and window is None:
            return efficient_attention(query, key, value, rows, share).flatten(1)
    if window is not None and window < rows.longest - 1:
        place = torch.arange(rows.longest, device=query.device)
        far = (place[:, None] - place).abs() > window
        bias = torch.zeros(rows.heads, *far.shape, device=query.device).masked_fill(far, MASKED)
    with torch.autocast(query.device.type, enabled=False):
        answer = Attention.apply(query, key, value, bias, rows, levels(dropout))  # type: ignore[no-untyped-call]
    return answer.flatten(1)  # type: ignore[no-any-return]


class Attention(torch.autograd.Function):
    """Softmax attention in each row, with its backward: rows of like lengths together, as dense products.

    By hand, because the graph of some fifteen operations for each block costs as much as they. In the precision of
    its input, but for softmax, which PyTorch computes in fp32 at least.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, rows: Rows, dropped: int
    ) -> Tensor:
        first_only = len(query) < len(key)
        q, k, v = query.flatten(0, 1) if first_only else lay(query, rows), lay(key, rows), lay(value, rows)
        answer = torch.empty_like(q)
        counts = [n * rows.heads * (1 if first_only else longest) * longest for n, longest in rows.blocks]
        ctx.sizes = counts if dropped else [0] * len(counts)  # of each block's draws
        ctx.draws, ctx.weights = draw(sum(ctx.sizes), query.device), []
        blocks = zip(*(by_block(x, rows) for x in (q, k, v, answer)), strict=True)
        for (q_, k_, v_, target), mask, drawn in zip(blocks, rows.cells.masks, ctx.draws.split(ctx.sizes), strict=True):
            scores = torch.baddbmm(added(mask, bias, q_), q_, k_.transpose(1, 2), alpha=query.shape[-1] ** -0.5)
            weights = torch.softmax(scores, dim=-1)  # (rows * heads, asking, longest)
            kept = keep(weights, comparable(drawn, weights.dtype), dropped)
            torch.baddbmm(target, kept, v_, beta=0, alpha=scale(dropped), out=target)
            ctx.weights.append(weights)
        ctx.save_for_backward(q, k, v)
        ctx.rows, ctx.dropped, ctx.first_only = rows, dropped, first_only
        ctx.bias = bias if bias is not None and ctx.needs_input_grad[3] else None
        return answer.view(query.shape) if first_only else take_up(answer, rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, dropped = ctx.rows, ctx.dropped
        q, k, v = ctx.saved_tensors
        g = gradient.flatten(0, 1) if ctx.first_only else lay(gradient, rows)
        to_q, to_k, to_v = (torch.empty_like(x) for x in (q, k, v))
        to_bias = None if ctx.bias is None else torch.zeros_like(ctx.bias)
        share = scale(dropped) * q.shape[-1] ** -0.5
        blocks = zip(*(by_block(x, rows) for x in (q, k, v, g, to_q, to_k, to_v)), strict=True)
        for (q_, k_, v_, g_, *wanted), weights, drawn in zip(
            blocks, ctx.weights, ctx.draws.split(ctx.sizes), strict=True
        ):
            to_q_, to_k_, to_v_ = wanted
            drawn = comparable(drawn, weights.dtype)
            to_weights = keep(torch.bmm(g_, v_.transpose(1, 2)), drawn, dropped)
            to_scores = torch.ops.aten._softmax_backward_data(to_weights, weights, -1, weights.dtype)
            kept = keep(weights, drawn, dropped)
            torch.baddbmm(to_v_, kept.transpose(1, 2), g_, beta=0, alpha=scale(dropped), out=to_v_)
            torch.baddbmm(to_k_, to_scores.transpose(1, 2), q_, beta=0, alpha=share, out=to_k_)
            torch.baddbmm(to_q_, to_scores, k_, beta=0, alpha=share, out=to_q_)
            if to_bias is not None:
                asking, longest = to_scores.shape[1:]
                by_head = to_scores.view(-1, rows.heads, asking, longest).sum(0, dtype=to_bias.dtype)
                to_bias[:, :asking, :longest].add_(by_head, alpha=scale(dropped))
        to_query = to_q.view(gradient.shape) if ctx.first_only else take_up(to_q, rows)
        return to_query, take_up(to_k, rows), take_up(to_v, rows), to_bias, None, None


def lay(flat: Tensor, rows: Rows) -> Tensor:
    """Into the cells of the blocks, (tokens, heads, head_dim) → (cells, head_dim)."""
    return flat.flatten(0, 1).index_select(0, rows.cells.tokens)


def take_up(laid: Tensor, rows: Rows) -> Tensor:
    """The reverse of `lay`; zero for fillers."""
    flat = laid.index_select(0, rows.cells.places).view(-1, rows.heads, laid.shape[-1])
    flat[rows.tokens :] = 0
    return flat


def by_block(laid: Tensor, rows: Rows) -> list[Tensor]:
    """A view for each block, (rows * heads, longest, head_dim), or with one token a row where no others ask."""
    each = len(laid) == len(rows.lengths) * rows.heads
    shapes = [(count * rows.heads, 1 if each else longest) for count, longest in rows.blocks]
    parts = torch.split(laid, [batch * length for batch, length in shapes])
    return [part.view(*shape, -1) for part, shape in zip(parts, shapes, strict=True)]


def added(mask: Tensor, bias: Tensor | None, query: Tensor) -> Tensor:
    """What the scores of a block begin with: its mask, and a bias of (heads, longest, longest)."""
    if bias is not None:
        asking, longest = query.shape[1], mask.shape[-1]
        mask = (mask.view(-1, len(bias), 1, longest) + bias[:, :asking, :longest]).flatten(0, 1)
    return mask.to(query.dtype)


def has_flash(query: Tensor) -> bool:
    """Whether flash attention takes such queries on this GPU."""
    modern = torch.cuda.get_device_capability(query.device) >= (8, 0)
    return modern and query.dtype in HALF and query.shape[-1] % 8 == 0 and query.shape[-1] <= 256


def flash_attention(query: Tensor, key: Tensor, value: Tensor, rows: Rows, share: float, window: int | None) -> Tensor:
    """PyTorch's flash attention over rows of any length; `varlen_attn` is the same without dropout."""
    first_only = len(query) < len(key)
    answer, *_ = torch.ops.aten._flash_attention_forward(
        query, key, value, _asked(rows, first_only), rows.ends, 1 if first_only else rows.reach, rows.reach, share,
        False, False, window_size_left=window, window_size_right=window,
    )  # fmt: skip
    return answer  # type: ignore[no-any-return]


def efficient_attention(query: Tensor, key: Tensor, value: Tensor, rows: Rows, share: float) -> Tensor:
    """PyTorch's memory-efficient attention over rows of any length, which has fp32."""
    first_only = len(query) < len(key)
    answer, *_ = torch.ops.aten._efficient_attention_forward(
        query[None], key[None], value[None], None, _asked(rows, first_only), rows.ends,
        1 if first_only else rows.reach, rows.reach, share, 0, True,
    )  # fmt: skip
    return answer[0]  # type: ignore[no-any-return]


def _asked(rows: Rows, first_only: bool) -> Tensor:
    """Where the queries of each row begin, and the end, int32."""
    return torch.arange(len(rows.ends), dtype=torch.int32, device=rows.ends.device) if first_only else rows.ends
