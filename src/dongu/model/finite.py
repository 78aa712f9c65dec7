"""No NaN and no infinity on the way into a file or a run."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dongu.engine.shard import own_part
from dongu.errors import NonFiniteError


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """
    Raises:
        NonFiniteError: a tensor, which it names, holds a NaN or an infinity; of a sharded one, in this process's rows.
    """
    for name in tensors:  # which may be read from a file: no two of them are kept
        if not _is_finite(own_part(tensors[name])):
            tensor = own_part(tensors[name])
            wrong = int((~torch.isfinite(tensor)).sum())
            raise NonFiniteError(f"`{name}` holds {wrong:,} NaN or infinite of {tensor.numel():,} values", where=where)


def _is_finite(tensor: Tensor) -> bool:
    """By the least and the greatest element, which a NaN is: a mask of all would take as much memory again."""
    return not (tensor.is_floating_point() and tensor.numel()) or bool(torch.stack(tensor.aminmax()).isfinite().all())
