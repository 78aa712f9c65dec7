"""No NaN and no infinity on the way into a file or a run."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dongu.errors import NonFiniteError


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """
    Raises:
        NonFiniteError: a tensor, which it names, holds a NaN or an infinity.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            wrong = int((~torch.isfinite(tensor)).sum())
            raise NonFiniteError(f"`{name}` holds {wrong:,} NaN or infinite of {tensor.numel():,} values", where=where)
