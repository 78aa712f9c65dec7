"""A model of which each process holds some rows of every weight, by PyTorch's FSDP2 (`fully_shard`).

The weights become DTensors in place, under their names: each process has its rows of dimension 0, and so of gradients
and optimizer state. A layer is whole on a device only while it computes. What is said here of all processes is
collective: each of them has to call it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, distributed, nn

from dongu.engine.generic import GenericEncoder, layers_of
from dongu.engine.packed import PaddingFree
from dongu.errors import UsageError

IN_ONE_PIECE = "the weights are whole on each device while it computes: this engine does not call the model's layers"


def shard(engine: Any, model: Any, device: torch.device, precision: str) -> str | None:
    """Give each process its part of the model that an engine computes; layer by layer, or else why not.

    Args:
        engine: the model itself, or its padding-free form.
        model: a classifier of transformers.
        device: of this process.
        precision: `bf16` computes, and gathers weights, in bf16; they are kept, and gradients summed, in fp32.

    Raises:
        UsageError: a weight of it has no rows.
    """
    from torch.distributed.device_mesh import init_device_mesh  # two seconds, of sharded runs alone
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if scalars := [name for name, parameter in model.named_parameters() if not parameter.ndim]:
        what = f"`{scalars[0]}` is a single number, which cannot be divided"
        raise UsageError(what, where="--shard", hint="train this model without it")
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    half = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if precision == "bf16" else MixedPrecisionPolicy()
    by_layer = not isinstance(engine, PaddingFree) or isinstance(engine.encoder, GenericEncoder)
    model.to(device)
    # What is gathered for a forward pass is let go after it, also at the root: else an evaluation would keep it.
    for module in layers_of(model) if by_layer else ():
        fully_shard(module, mesh=mesh, mp_policy=half, reshard_after_forward=True)
    fully_shard(engine, mesh=mesh, mp_policy=replace(half, output_dtype=torch.float32), reshard_after_forward=True)
    return None if by_layer else IN_ONE_PIECE


def outline(model: Any) -> Any:
    """A copy of the model whose tensors have shapes and no numbers, on PyTorch's device `meta`."""
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        bare = tensor.detach().to("meta")
        learns = isinstance(tensor, nn.Parameter) and tensor.requires_grad
        memo[id(tensor)] = nn.Parameter(bare, learns) if isinstance(tensor, nn.Parameter) else bare
    return copy.deepcopy(model, memo)


def is_sharded(model: nn.Module) -> bool:
    """Whether its weights are."""
    several = distributed.is_available() and distributed.is_initialized()
    return several and any(has_rows(parameter) for parameter in model.parameters())


def has_rows(tensor: Tensor) -> bool:
    """Whether it is a DTensor, of which this process has some rows."""
    return hasattr(tensor, "full_tensor")


def own_part(tensor: Any) -> Tensor:
    """The rows of this process, in the tensor's own memory; all of a tensor that is not sharded."""
    return tensor.to_local() if has_rows(tensor) else tensor  # type: ignore[no-any-return]


def whole(tensor: Any) -> Tensor:
    """All rows, of all processes."""
    return tensor.full_tensor() if has_rows(tensor) else tensor  # type: ignore[no-any-return]


def own_rows(rows: int) -> slice:
    """Which of so many rows are this process's."""
    size = -(-rows // distributed.get_world_size())
    first = min(distributed.get_rank() * size, rows)
    return slice(first, min(first + size, rows))


def hand_out(tensor: Tensor, source: Tensor | None) -> None:
    """Take over all rows that the first process has, of all processes.

    Args:
        tensor: of the model.
        source: (rows, …), on the first process.
    """
    rows = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    if source is not None:
        rows.copy_(source)
    distributed.broadcast(rows, 0)
    own_part(tensor).copy_(rows[own_rows(len(rows))] if has_rows(tensor) else rows)


def over_processes(norm: Tensor) -> Tensor:
    """The 2-norm of a gradient, (), of which each process has the norm of its rows, of all processes."""
    squares = norm.double().square()
    distributed.all_reduce(squares)
    return squares.sqrt().to(norm.dtype)


def clip(gradients: Sequence[Tensor], limit: float, norm: Tensor) -> None:
    """Scale a gradient down to this norm, as `torch.nn.utils.clip_grads_with_norm_` does; it is of one kind here."""
    for gradient in gradients:
        gradient.mul_((limit / (norm + 1e-6)).clamp(max=1.0))


def gathered(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Whole tensors on the CPU of the first process, gathered one at a time; of all processes, empty on the others."""
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors:
        rows = whole(tensor.detach())
        kept[name] = rows.cpu() if distributed.get_rank() == 0 else rows.new_empty(0, device="cpu")
    return kept
