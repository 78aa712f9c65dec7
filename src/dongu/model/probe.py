"""A new head that begins as a linear probe: a regression on what the frozen encoder says of the training rows.

A head that is drawn at random sends noise into the encoder until it has learnt; with few rows that is most of the
run. Source: Kumar et al., "Fine-tuning can distort pretrained features", 2022 (linear probing, then fine-tuning).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dongu.config import NUMBERS, Task
from dongu.engine.modes import kept_modes
from dongu.model.head import head_of

PROBE_ROWS = 64  # of a forward pass, of like lengths
RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # beside the mean squared error of a row, for standardised features
_CLOSE = 1e-3  # of the largest logit: the head answers what it is thought to read
_LOGISTIC = 0.25  # the curvature of a logistic loss where it is largest, and of a squared one is 1


@dataclass(frozen=True)
class Probe:
    """What a model's last layer reads of the training rows, (rows, hidden) double, and how well it tells their targets.

    Each row is left out once of a ridge regression: `errors` are the squared errors of these answers, (rows,) double,
    `base` those of the mean of the other rows. `ridge` is the largest of `RIDGES` that is as good as the best of them,
    within a standard error.
    """

    features: Tensor
    errors: Tensor
    base: Tensor
    ridge: float

    @property
    def explained(self) -> float:
        """The share of the targets' variance."""
        return float(1 - self.errors.sum() / self.base.sum().clamp_min(1e-12))

    @property
    def tells_something(self) -> bool:
        """Whether it is better than the mean of the other rows, by two standard errors over the rows."""
        return _by_standard_errors((self.base - self.errors).mean(), self.base - self.errors) > 2

    def is_better_than(self, other: Probe) -> bool:
        """The same of two probes of the same rows."""
        return _by_standard_errors((other.errors - self.errors).mean(), other.errors - self.errors) > 2

    def ridge_for(self, task: Task) -> float:
        """That of the loss which a head of such a task is fitted by: a logistic one is less curved."""
        return self.ridge if task in NUMBERS else _LOGISTIC * self.ridge


def _by_standard_errors(value: Tensor, of_rows: Tensor) -> float:
    return float(value * math.sqrt(len(of_rows)) / of_rows.std().clamp_min(1e-12))


def probe(model: Any, batches: Iterable[Mapping[str, Tensor]], targets: Tensor) -> Probe | str:
    """Look at what the encoder says of padded rows, in eval mode; the modes of its modules stay.

    `targets` of the rows, (rows, outputs) double, are as a regression takes them.

    Returns:
        The probe, or why the head cannot begin as one, in a few words.
    """
    if (found := head_of(model)) is None:
        return "its logits come from no single linear layer"
    head, read, features = found[1], [], []
    hook = head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    try:
        with kept_modes(model), torch.no_grad():
            model.eval()
            for inputs in batches:
                read.clear()
                logits = model(**inputs).logits
                rows = _rows_read(read[0], inputs.get("attention_mask"))
                if rows.dim() != 2 or not bool((head(rows) - logits).abs().max() <= _CLOSE * logits.abs().max()):
                    return "its last layer reads more than one vector a row"
                features.append(rows.double().cpu())
    finally:
        hook.remove()
    return _leave_one_out(torch.cat(features), targets)


def _rows_read(read: Tensor, mask: Tensor | None) -> Tensor:
    """(batch, hidden) of what a head was given: of a decoder's, which answers for each token, the last of each row.

    What is neither a vector a row nor one a token is given back as it is.
    """
    if mask is None or read.shape[:-1] != mask.shape:
        return read
    return read[torch.arange(len(read)), mask.sum(1) - 1]


def _leave_one_out(features: Tensor, targets: Tensor) -> Probe:
    """The residuals of rows left out, in closed form."""
    rows = len(features)
    x = (features - features.mean(0)) / features.std(0, correction=0).clamp_min(1e-6)
    y = targets - targets.mean(0)
    u, singular, _ = torch.linalg.svd(x, full_matrices=False)
    in_u, square = u.T @ y, singular.square()
    found = []  # (rows,) of each ridge
    for ridge in RIDGES:
        shrunk = square / (square + rows * ridge)
        leverage = (u.square() @ shrunk + 1 / rows).clamp_max(1 - 1e-6)
        residuals = (y - u @ (shrunk[:, None] * in_u)) / (1 - leverage)[:, None]
        found.append(residuals.square().sum(1))
    best = min(found, key=lambda errors: float(errors.sum()))
    near = [i for i, errors in enumerate(found) if _by_standard_errors((errors - best).mean(), best) <= 1]
    base = (y * rows / max(1, rows - 1)).square().sum(1)
    return Probe(features, found[near[-1]], base, RIDGES[near[-1]])


def fit_head(model: Any, found: Probe, targets: Tensor, task: Task) -> None:
    """Put the regression on a probe's features into the model's last layer: a logistic one where targets are labels."""
    head: Any = head_of(model)
    loss = probe_loss(task, head[1].out_features)
    fit_probe(head[1], found.features, targets, loss, found.ridge_for(task))


def probe_loss(task: Task, labels: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean over the rows of what a probe of such targets makes small."""
    if task in NUMBERS:
        return lambda logits, numbers: F.mse_loss(logits.squeeze(-1), numbers)
    if task == "multi-label":
        return lambda logits, flags: labels * F.binary_cross_entropy_with_logits(logits, flags)
    return F.cross_entropy


def fit_probe(head: Any, features: Any, targets: Any, loss: Any, ridge: Any) -> None:
    """Put a regression with a ridge on standardised features into the head; stands in ejected scripts."""
    centre = features.mean(0) * (head.bias is not None)  # which only a bias can make up for
    scale = features.std(0, correction=0).clamp_min(1e-6)
    weight = torch.zeros(head.weight.shape, dtype=torch.double, requires_grad=True)
    bias = torch.zeros(len(weight), dtype=torch.double, requires_grad=True)
    learnt = [weight, bias][: 1 + (head.bias is not None)]
    optimizer: Any = torch.optim.LBFGS(learnt, max_iter=100, line_search_fn="strong_wolfe")

    def closure():  # type: ignore[no-untyped-def]
        optimizer.zero_grad()
        total = loss(F.linear((features - centre) / scale, weight, bias), targets) + ridge * weight.square().sum()
        total.backward()
        return total

    optimizer.step(closure)
    with torch.no_grad():
        head.weight.copy_(weight / scale)
        if head.bias is not None:
            head.bias.copy_(bias - weight @ (centre / scale))
