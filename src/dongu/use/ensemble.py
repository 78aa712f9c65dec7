"""Models that answer together, as those of the folds of a cross-validation do."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from dongu.config import NUMBERS, Task
from dongu.model.loss import logits_of


class Ensemble(nn.Module):
    """Models whose probabilities are averaged; of numbers, their answers.

    Its logits are the logarithm of the mean probability (of several labels: of its odds), so whatever reads logits
    finds the mean. Its config is the first model's; where a row may have several labels, with the mean threshold.
    """

    def __init__(self, models: Sequence[Any], task: Task) -> None:
        super().__init__()
        self.models, self.task = nn.ModuleList(models), task
        self.config = copy.deepcopy(models[0].config)
        if hasattr(self.config, "threshold"):
            self.config.threshold = fmean(model.config.threshold for model in models)

    def forward(self, **inputs: Any) -> SimpleNamespace:
        """`logits` (rows, labels) of inputs as each of the models takes them."""
        logits = torch.stack([logits_of(model(**inputs)).float() for model in self.models])
        return SimpleNamespace(logits=mean_logits(logits, self.task))


def mean_logits(logits: Tensor, task: Task) -> Tensor:
    """Logits (rows, labels) of the mean of probabilities that (models, rows, labels) give; of numbers, their mean."""
    if task in NUMBERS:
        return logits.mean(0)
    if task == "multi-label":  # the logarithm of the odds, of sums that cannot round to one
        yes, no = (nn.functional.logsigmoid(sign * logits).logsumexp(0) for sign in (1, -1))
        return yes - no
    return logits.log_softmax(-1).logsumexp(0) - torch.tensor(float(len(logits)), device=logits.device).log()
