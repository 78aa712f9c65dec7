"""AdamW, as PyTorch has it."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import torch

from dongu.config import RunConfig
from dongu.model.layers import layer_depths


def make_optimizer(model: Any, config: RunConfig) -> torch.optim.AdamW:
    """AdamW over all parameters that learn, one decay for all, as in the original.

    Fused, it is the same formula in one pass over memory, and rounds differently: the plain engine keeps PyTorch's
    default, so that its bits are those of the textbook's loop.

    Raises:
        UsageError: --layer-decay, and the model's layers cannot be told apart.
    """
    fused = True if config.engine == "packed" else None
    return torch.optim.AdamW(
        _parameter_groups(model, config), lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused
    )


def skip_on_gpu(optimizer: torch.optim.Optimizer, device: torch.device) -> torch.Tensor | None:
    """A flag on the GPU, (), fp32: while it is 1, the optimizer's steps change nothing, which no host has to know.

    It is what a gradient scaler tells the fused optimizer. None where steps are not fused, or not on CUDA.
    """
    if device.type != "cuda" or not getattr(optimizer, "_step_supports_amp_scaling", False):
        return None
    return skip_flag(optimizer, device)


def skip_flag(optimizer: torch.optim.Optimizer, device: torch.device) -> torch.Tensor:
    """The flag; from here on AdamW's steps round their learning rates to fp32, as `engine/replays.py` reads them."""
    if type(optimizer) is torch.optim.AdamW and not hasattr(optimizer, "found_inf"):
        rates: list[Any] = []

        def round_rates(optimizer: Any, *_: object) -> None:
            rates[:] = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                if not torch.is_tensor(group["lr"]):
                    group["lr"] = float(np.float32(group["lr"]))

        def restore_rates(optimizer: Any, *_: object) -> None:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

        optimizer.register_step_pre_hook(round_rates)
        optimizer.register_step_post_hook(restore_rates)
    optimizer.found_inf = torch.zeros((), device=device)  # type: ignore[attr-defined]
    return optimizer.found_inf  # type: ignore[attr-defined, no-any-return]


def _parameter_groups(model: Any, config: RunConfig) -> list[dict[str, Any]]:
    """One group, or with --layer-decay one for each run of parameters of one depth.

    The parameters keep the model's order over all groups, by which checkpoints number them, so that another decay on
    the way does not mix their moments up.
    """
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if config.layer_decay == 1:
        return [{"params": list(learning.values())}]
    depths, layers = layer_depths(model)
    return [
        {
            "params": [learning[name] for name in names],
            "lr": config.learning_rate * config.layer_decay ** (layers - depth),
        }
        for depth, names in groupby(learning, key=depths.__getitem__)
    ]
