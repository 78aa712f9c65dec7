"""Attention of long rows on a CPU, in tiles: some queries of a row, and the keys that they see.

Backward computes the weights of a tile again, so memory grows with a row and not with its square. Where keys are seen
through a window, so does the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dongu.engine.dropout import Dropout, dropped_levels
from dongu.engine.layout import MASKED, Layout, gather, scatter, split_blocks

QUERIES_A_TILE = 128
LONG = 1024  # tokens; the weights of longer rows are not kept for backward, even where every query sees all keys


@dataclass(frozen=True)
class Tiling:
    """The blocks of a layout, cut into tiles: of each the block, its queries and its keys."""

    layout: Layout
    window: int | None
    causal: bool
    tiles: tuple[tuple[int, slice, slice], ...]

    @staticmethod
    def of(layout: Layout, window: int | None, causal: bool) -> Tiling | None:
        """The tiling of a layout; None where no row is long and tiles have not half of the scores of whole blocks."""
        tiles, scores, scores_of_blocks = [], 0, 0
        for block, (rows, longest) in enumerate(layout.blocks):
            for first in range(0, longest, QUERIES_A_TILE):
                end = min(first + QUERIES_A_TILE, longest)
                start = 0 if window is None else max(0, first - window)
                stop = end if causal else longest if window is None else min(longest, end + window)
                tiles.append((block, slice(first, end), slice(start, stop)))
                scores += rows * (end - first) * (stop - start)
            scores_of_blocks += rows * longest**2
        pays = layout.longest > LONG or 2 * scores <= scores_of_blocks
        return Tiling(layout, window, causal, tuple(tiles)) if pays else None

    def bias(self, block: int, queries: slice, keys: slice) -> Tensor:
        """What hides padding and what a query does not see, (rows * heads or 1, queries or 1, keys)."""
        hidden = band(queries, keys, self.window, self.causal)
        if hidden is not None and self.causal:  # padding is after every query
            return hidden[None]
        mask = self.layout.dense.masks[block][..., keys]
        return mask if hidden is None else mask + hidden


def band(queries: slice, keys: slice, window: int | None, causal: bool) -> Tensor | None:
    """(queries, keys), MASKED outside a window and after a query, else 0; None where all keys are seen."""
    farthest = max(keys.stop - queries.start, queries.stop - keys.start) - 1
    window = farthest if window is None else window
    if not causal and farthest <= window:
        return None
    distance = torch.arange(queries.start, queries.stop)[:, None] - torch.arange(keys.start, keys.stop)
    outside = (distance > window) | (distance < (0 if causal else -window))
    return torch.zeros(outside.shape).masked_fill(outside, MASKED)


def attend_tile(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    drop: Callable[[Tensor], Tensor],
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """(rows * heads, queries, value_dim) of some queries and the keys that they see.

    Args:
        query: (rows * heads, queries, head_dim).
        key: (rows * heads, keys, head_dim).
        value: (rows * heads, keys, value_dim).
        bias: added to the scores.
        drop: dropout of the weights.
        softcap: this and the next as for `attend_beyond`.
        sinks: (heads,).
    """
    scale = query.shape[-1] ** -0.5
    if softcap is None:
        scores = torch.baddbmm(bias.to(query.dtype), query, key.transpose(1, 2), alpha=scale)
    else:
        scores = torch.tanh(torch.bmm(query, key.transpose(1, 2)).float() * (scale / softcap)) * softcap + bias
    if sinks is not None:
        sink = sinks.repeat(len(scores) // len(sinks))[:, None, None].expand(*scores.shape[:2], 1)
        scores = torch.cat([scores.float(), sink.float()], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., : key.shape[1]]
    return torch.bmm(drop(weights).to(value.dtype), value)


class TiledAttention(torch.autograd.Function):
    """`attend_tile` over all tiles, the same draws of dropout in forward and backward."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sinks: Tensor | None,
        tiling: Tiling,
        drop: Callable[[Tensor], Tensor],
        softcap: float | None,
    ) -> Tensor:
        ctx.generator = torch.default_generator.get_state()
        q, k, v = (gather(x, tiling.layout) for x in (query, key, value))
        output = q.new_empty(len(q), v.shape[-1])
        of_blocks = list(zip(*(split_blocks(x, tiling.layout) for x in (q, k, v, output)), strict=True))
        for block, queries, keys in tiling.tiles:
            q_, k_, v_, out = of_blocks[block]
            bias = tiling.bias(block, queries, keys)
            out[:, queries] = attend_tile(q_[:, queries], k_[:, keys], v_[:, keys], bias, drop, softcap, sinks)
        ctx.save_for_backward(q, k, v, sinks)
        ctx.tiling, ctx.drop, ctx.softcap = tiling, drop, softcap
        return scatter(output, tiling.layout)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        tiling: Tiling = ctx.tiling
        q, k, v, sinks = ctx.saved_tensors
        sinks = None if sinks is None else sinks.detach().requires_grad_()
        grads = [torch.zeros_like(x) for x in (q, k, v)]
        grad_sinks = None if sinks is None else torch.zeros_like(sinks)
        g = gather(gradient, tiling.layout)
        of_blocks = list(zip(*(split_blocks(x, tiling.layout) for x in (q, k, v, g, *grads)), strict=True))
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.default_generator.set_state(ctx.generator)
            for block, queries, keys in tiling.tiles:
                q_, k_, v_, g_, *grads_ = of_blocks[block]
                places = (queries, keys, keys)
                given = [x[:, at].detach().requires_grad_() for x, at in zip((q_, k_, v_), places, strict=True)]
                bias = tiling.bias(block, queries, keys)
                out = attend_tile(given[0], given[1], given[2], bias, ctx.drop, ctx.softcap, sinks)
                wanted = given if sinks is None else [*given, sinks]
                *found, last = torch.autograd.grad(out, wanted, g_[:, queries])
                if grad_sinks is None:
                    found.append(last)
                else:
                    grad_sinks += last
                for grad, at, part in zip(grads_, places, found, strict=True):
                    grad[:, at] += part
        return (*(scatter(grad, tiling.layout) for grad in grads), grad_sinks, None, None, None)


def attend_in_tiles(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tiling: Tiling,
    dropout: Any,
    *,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """(tokens, heads * value_dim), by the tiles; the arguments are those of `attend_beyond`."""
    dropped = dropped_levels(dropout)

    def drop(weights: Tensor) -> Tensor:
        return Dropout.apply(weights, dropped) if dropped else weights  # type: ignore[no-untyped-call]

    with torch.autocast("cpu", enabled=False):
        output = TiledAttention.apply(query, key, value, sinks, tiling, drop, softcap)  # type: ignore[no-untyped-call]
    return output.flatten(1)  # type: ignore[no-any-return]
