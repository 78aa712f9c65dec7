"""Dropout with the same distribution as PyTorch's, in a fraction of its time on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

LEVELS = 2**16  # the probability of dropout is rounded to a multiple of 1 / LEVELS: a draw is 16 bits


def drop(hidden: Tensor, module: Any) -> Tensor:
    """Apply a dropout module. On a CPU the result is at least fp32, since the residual is added to it."""
    if hidden.device.type != "cpu":
        return module(hidden)  # type: ignore[no-any-return]
    dropped = dropped_levels(module)
    return Dropout.apply(hidden, dropped) if dropped else hidden  # type: ignore[no-untyped-call]


class Dropout(torch.autograd.Function):
    """Sets a share of the values to zero and scales the others up."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, dropped: int) -> Tensor:
        bits = draw(hidden.numel(), hidden)
        ctx.save_for_backward(bits)
        ctx.dropped, ctx.dtype = dropped, hidden.dtype
        kept = keep(hidden, to_width_of(bits, hidden.dtype), dropped)
        return kept.to(torch.promote_types(kept.dtype, torch.float32)).mul_(scale(dropped))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (bits,) = ctx.saved_tensors
        gradient = (gradient * scale(ctx.dropped)).to(ctx.dtype)
        return keep(gradient, to_width_of(bits, ctx.dtype), ctx.dropped), None


def dropped_levels(module: Any) -> int:
    """How many of the 65,536 levels of a draw a dropout module drops: its `p` rounded, or 0 in eval mode."""
    return round(module.p * LEVELS) if isinstance(module, nn.Dropout) and module.training else 0


def scale(dropped: int) -> float:
    """The factor for the values that are kept, 1 / (1 - p) with the rounded p."""
    return LEVELS / max(1, LEVELS - dropped)


def draw(count: int, like: Tensor) -> Tensor:
    """(count,) random draws, int16, on the device of `like`; each number of the generator gives four."""
    bits = like.new_empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return bits.view(torch.int16)[:count]


def to_width_of(draws: Tensor, dtype: torch.dtype) -> Tensor:
    """The draws in the width of the values, for `keep`. Values of 16 bits need no conversion."""
    return draws if dtype.itemsize == draws.itemsize else draws.to(dtype)


def keep(values: Tensor, draws: Tensor, dropped: int) -> Tensor:
    """The values whose draw is above the dropped levels, and zero for the others; not scaled.

    Draws have the width of the values (`to_width_of`).

    PyTorch's derivative of a threshold does this in a vectorized loop. A boolean mask and a product with it take five
    times as long.
    """
    if dropped == 0:
        return values
    # Values of 16 bits are passed on as integers: bf16 cannot tell two neighbouring levels apart.
    bits = values.view(draws.dtype)
    kept: Tensor = torch.ops.aten.threshold_backward(bits, draws.view(values.shape), dropped - LEVELS // 2 - 1)
    return kept.view(values.dtype)
