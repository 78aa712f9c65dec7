"""The size of a gradient, and its place in memory where several processes add it up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def total_norm(gradients: Sequence[Tensor], *, exactly_as_pytorch: bool) -> Tensor:
    """The 2-norm of all gradients together, ().

    On a CPU it is computed row by row. That takes half the time of PyTorch's function, which sums a whole tensor in one
    thread; its long sum is also off by some ten thousandths for a model of BERT-base's size (`benchmarks/pieces.py`).

    Args:
        gradients: one or more, of any shapes.
        exactly_as_pytorch: whether to use `torch.nn.utils.get_total_norm`, for the same bits.
    """
    if exactly_as_pytorch or gradients[0].device.type != "cpu":
        return torch.nn.utils.get_total_norm(gradients)
    rows = [torch.linalg.vector_norm(gradient, dim=-1).flatten() for gradient in gradients]
    return torch.linalg.vector_norm(torch.cat(rows))  # type: ignore[no-any-return]


ALIGNED = 64  # numbers that the place of a gradient in a flat one is a multiple of: kernels read several at a time


def flattened(parameters: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Zeros in the shapes of the parameters, as views of one flat tensor for each dtype: the flat ones, and the views.

    Several processes add the flat ones up in one reduction each.
    """
    flat, views = [], {}
    for dtype in dict.fromkeys(parameter.dtype for parameter in parameters):
        some = [i for i, parameter in enumerate(parameters) if parameter.dtype == dtype]
        sizes = [-(-parameters[i].numel() // ALIGNED) * ALIGNED for i in some]
        flat.append(torch.zeros(sum(sizes), dtype=dtype, device=parameters[some[0]].device))
        for i, part in zip(some, torch.split(flat[-1], sizes), strict=True):
            views[i] = part[: parameters[i].numel()].view(parameters[i].shape)
    return flat, [views[i] for i in range(len(parameters))]
