"""The size of a gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def total_norm(gradients: Sequence[Tensor], *, exactly_as_pytorch: bool) -> Tensor:
    """The 2-norm of all gradients together, ().

    On a CPU row by row, in half the time of PyTorch's, which takes a whole tensor in one thread and one long sum,
    which is off by some ten thousandths for a model of BERT-base's size (`benchmarks/pieces.py`).

    Args:
        gradients: one or more, of any shapes.
        exactly_as_pytorch: by `torch.nn.utils.get_total_norm`, bit for bit.
    """
    if exactly_as_pytorch or gradients[0].device.type != "cpu":
        return torch.nn.utils.get_total_norm(gradients)
    rows = [torch.linalg.vector_norm(gradient, dim=-1).flatten() for gradient in gradients]
    return torch.linalg.vector_norm(torch.cat(rows))  # type: ignore[no-any-return]
