"""The loss of a micro-batch, summed: the loop divides by the examples of the whole update."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dongu.config import Task


def summed_loss(task: Task, logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over the examples of cross-entropy, or of the squared error.

    Args:
        task: `single-label` or `regression`.
        logits: (batch, labels); for regression (batch, 1).
        labels: (batch,), int64 classes or float32 targets.

    Returns:
        A scalar, fp32.
    """
    if task == "regression":
        return F.mse_loss(logits.float().squeeze(-1), labels, reduction="sum")
    return F.cross_entropy(logits.float(), labels, reduction="sum")


def row_losses(task: Task, logits: Tensor, labels: Tensor) -> Tensor:
    """The same loss for each example, in double precision, (batch,)."""
    if task == "regression":
        return F.mse_loss(logits.double().squeeze(-1), labels.double(), reduction="none")
    return F.cross_entropy(logits.double(), labels, reduction="none").to(torch.float64)
