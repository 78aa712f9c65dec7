"""AdamW, as PyTorch has it."""

from __future__ import annotations

from typing import Any

import torch

from dongu.config import RunConfig


def make_optimizer(model: Any, config: RunConfig) -> torch.optim.AdamW:
    """AdamW over all parameters that learn, one decay for all, as in the original.

    Fused, it is the same formula in one pass over memory, and rounds differently: the plain engine keeps PyTorch's
    default, so that its bits are those of the textbook's loop.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = True if config.engine == "packed" else None
    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused)
