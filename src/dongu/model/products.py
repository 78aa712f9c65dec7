"""Products of an evaluation in fp32, on a processor where oneDNN's kernels are faster than those of `F.linear`."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

FEWEST_TOKENS = 64  # below, the compilation for a new shape costs more than it saves


def fast_products(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """A context in which each `F.linear` without a gradient goes the faster way; nothing where none is known.

    In fp32, PyTorch's Linear calls MKL and its convolution oneDNN; they round differently in the last bits. Measured
    with AVX-512 by `benchmarks/kernels.py`. With a gradient it does not pay: each update has a new number of tokens.
    """
    onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    known = onednn and "AVX512" in torch.backends.cpu.get_cpu_capability()
    precise = not torch.is_autocast_enabled("cpu") and not torch.is_grad_enabled()
    return ByConvolution() if device.type == "cpu" and known and precise else contextlib.nullcontext()


class ByConvolution(TorchFunctionMode):
    """Computes a Linear as a convolution of one pixel, whose channels lie as the values of a token do: no copy."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """`func`, or the same by another kernel."""
        if func is F.linear and args[0].dtype == torch.float32 and args[0].dim() == 2 and len(args[0]) >= FEWEST_TOKENS:
            return convolve(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def convolve(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`, (tokens, in) → (tokens, out)."""
    pixels = tokens.contiguous().view(1, 1, *tokens.shape).permute(0, 3, 1, 2)  # (1, in, 1, tokens), channels last
    return F.conv2d(pixels, weight.view(*weight.shape, 1, 1), bias).permute(0, 2, 3, 1).flatten(0, 2)
