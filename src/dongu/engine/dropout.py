"""Dropout that a CPU draws and applies in a fraction of the time of PyTorch's, by the same law."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

LEVELS = 2**16  # of the share that dropout drops: a draw is 16 bits


def drop(hidden: Tensor, module: Any) -> Tensor:
    """What a dropout module does; on a CPU in fp32 at least, which is what a sum with the residual wants."""
    if hidden.device.type != "cpu":
        return module(hidden)  # type: ignore[no-any-return]
    dropped = levels(module)
    return Dropout.apply(hidden, dropped) if dropped else hidden  # type: ignore[no-untyped-call]


class Dropout(torch.autograd.Function):
    """Zero for a share of the values, the others scaled up."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, dropped: int) -> Tensor:
        bits = draw(hidden.numel(), hidden.device)
        ctx.save_for_backward(bits)
        ctx.dropped, ctx.dtype = dropped, hidden.dtype
        kept = keep(hidden, comparable(bits, hidden.dtype), dropped)
        return at_least_fp32(kept).mul_(scale(dropped))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (bits,) = ctx.saved_tensors
        gradient = (gradient * scale(ctx.dropped)).to(ctx.dtype)
        return keep(gradient, comparable(bits, ctx.dtype), ctx.dropped), None


def levels(module: Any) -> int:
    """How many of the 65,536 levels of a draw a dropout module drops now: its share, rounded."""
    return round(module.p * LEVELS) if isinstance(module, nn.Dropout) and module.training else 0


def scale(dropped: int) -> float:
    """What the values that stay are multiplied by, of the rounded share."""
    return LEVELS / max(1, LEVELS - dropped)


def seed_draws(device: torch.device, seed: int) -> None:
    """`torch.manual_seed` for this device and the host alone.

    That also tells every kind of device that this machine might have, and notes where it was called for each that it
    has not: a fifth of a millisecond (`benchmarks/pieces.py`).
    """
    if device.type not in ("cpu", "cuda"):
        torch.manual_seed(seed)
        return
    torch.default_generator.manual_seed(seed)  # on CUDA too: a model may drop whole layers by it
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)


def draw(count: int, device: torch.device) -> Tensor:
    """(count,) levels, int16: one call of the generator serves four."""
    bits = torch.empty((count + 3) // 4, dtype=torch.int64, device=device).random_(-(2**63), None)
    return bits.view(torch.int16)[:count]


def comparable(draws: Tensor, dtype: torch.dtype) -> Tensor:
    """Draws as `keep` wants them for values of this type; as they are where these have 16 bits too."""
    return draws if dtype.itemsize == draws.itemsize else draws.to(dtype)


def keep(values: Tensor, draws: Tensor, dropped: int) -> Tensor:
    """The values whose draw (`comparable`) is above the dropped levels, zero for the others; not scaled.

    It is the derivative of a threshold: PyTorch computes that in full vectors, and a mask of booleans is five times
    as slow to make and to multiply with.
    """
    if dropped == 0:
        return values
    # Values of 16 bits go through as whole numbers: bf16 cannot tell two neighbouring levels apart.
    bits = values.view(draws.dtype)
    kept: Tensor = torch.ops.aten.threshold_backward(bits, draws.view(values.shape), dropped - LEVELS // 2 - 1)
    return kept.view(values.dtype)


def at_least_fp32(tensor: Tensor) -> Tensor:
    """The tensor, in fp32 if its precision is lower."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
