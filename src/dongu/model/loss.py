"""The loss of a micro-batch, summed: the loop divides by the examples of the whole update."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dongu.config import Task


def summed_loss(task: Task, logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over the examples of cross-entropy, of its mean over the labels where there are several, or of squared error.

    Args:
        task: `single-label`, `multi-label` or `regression`.
        logits: (batch, labels); for regression (batch, 1).
        labels: (batch,), int64 classes or float32 targets; (batch, labels), float32, where a row has several.

    Returns:
        A scalar, fp32.
    """
    if task == "regression":
        return F.mse_loss(logits.float().squeeze(-1), labels, reduction="sum")
    if task == "multi-label":
        return F.binary_cross_entropy_with_logits(logits.float(), labels, reduction="sum") / logits.shape[-1]
    return F.cross_entropy(logits.float(), labels, reduction="sum")


def row_losses(task: Task, logits: Tensor, labels: Tensor) -> Tensor:
    """The same loss for each example, in double precision, (batch,)."""
    if task == "regression":
        return F.mse_loss(logits.double().squeeze(-1), labels.double(), reduction="none")
    if task == "multi-label":
        return F.binary_cross_entropy_with_logits(logits.double(), labels.double(), reduction="none").mean(-1)
    return F.cross_entropy(logits.double(), labels, reduction="none").to(torch.float64)
