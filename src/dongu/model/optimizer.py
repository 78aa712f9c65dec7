"""AdamW, as PyTorch has it."""

from __future__ import annotations

from typing import Any

import torch

from dongu.config import RunConfig


def make_optimizer(model: Any, config: RunConfig) -> torch.optim.AdamW:
    """AdamW over all parameters that learn, one decay for all, as in the original."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
