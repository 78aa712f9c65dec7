"""Products in fp32 on a processor for which oneDNN has faster kernels than `F.linear`."""

from __future__ import annotations

import contextlib
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dongu.engine.device import processor_vendor

FEWEST_TOKENS = 64  # with fewer, compiling the product for a new shape costs more than it saves


@cache
def has_fast_products() -> bool:
    """Whether oneDNN computes products in fp32 faster than `F.linear` on this processor.

    In fp32 PyTorch's Linear calls MKL, which does not use AVX-512 on AMD's processors; oneDNN does, and computes
    twice as many numbers at a time (`benchmarks/pieces.py`). The two round differently in the last bits.
    """
    both = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return both and "AVX512" in torch.backends.cpu.get_cpu_capability() and processor_vendor() == "AuthenticAMD"


def fast_products(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """A context in which oneDNN computes `F.linear` and its gradients in fp32; an empty one where that is no faster."""
    precise = not torch.is_autocast_enabled("cpu")
    return ByOneDNN() if device.type == "cpu" and precise and has_fast_products() else contextlib.nullcontext()


class ByOneDNN(TorchFunctionMode):
    """Computes a Linear by oneDNN's matrix product."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """`func`, or oneDNN's product in its place."""
        if func is F.linear and args[0].dtype == torch.float32:
            tokens, *others = args
            if tokens.dim() == 2 and len(tokens) >= FEWEST_TOKENS:
                return linear(tokens, *others, **(kwargs or {}))
            if tokens.dim() == 3 and len(tokens) == 1 and tokens.shape[1] >= FEWEST_TOKENS:
                return linear(tokens[0], *others, **(kwargs or {}))[None]
        return func(*args, **(kwargs or {}))


def linear(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`, (tokens, in) → (tokens, out)."""
    return Linear.apply(tokens, weight, bias)  # type: ignore[no-any-return, no-untyped-call]


class Linear(torch.autograd.Function):
    """`F.linear` and its gradients."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(tokens, weight)
        return product(tokens, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        tokens, weight = ctx.saved_tensors
        wants_tokens, wants_weight, wants_bias = ctx.needs_input_grad
        return (
            product(gradient, weight.t()) if wants_tokens else None,
            product(gradient.t(), tokens.t()) if wants_weight else None,
            gradient.sum(0) if wants_bias else None,
        )


def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """`left @ right.t() + bias`, of any strides."""
    answer: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return answer
