"""The loss of a micro-batch, summed: the loop divides by what all examples of the update count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dongu.config import NUMBERS, RunConfig, Task
from dongu.data.collate import Batch
from dongu.data.examples import TextData
from dongu.data.shares import share_column
from dongu.data.weights import row_weights
from dongu.errors import UsageError
from dongu.model.scale import UNSCALED, Scale
from dongu.text import kind_of_part, one_line


@dataclass(frozen=True)
class Loss:
    """What a run minimizes: cross-entropy, its mean over the labels where a row has several, or squared error.

    `class_weights` is (labels,), on the device: how much a row of a class counts, or a row's cell of a label that it
    has. `label_smoothing` is the share of the truth that is spread evenly over all answers. `scale` is that of numbers:
    what is minimized is their squared error in units of their deviation. `shares` are the columns of soft labels, one a
    class: the truth is these, and not the class.
    """

    task: Task
    class_weights: Tensor | None = None
    label_smoothing: float = 0.0
    scale: Scale = UNSCALED
    shares: tuple[str, ...] = ()

    is_coupled = False  # whether the loss of a row depends on the other rows

    @property
    def unit(self) -> float:
        """What a loss of 1 is in the unit of the labels."""
        return self.scale.std**2

    def of(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Forward, and the loss: summed over the examples, (), and of each without gradient, (batch,)."""
        logits = logits_of(model(**batch.inputs))  # (batch, labels)
        truth = torch.stack([batch.columns[name] for name in self.shares], -1) if self.shares else batch.labels
        return self.summed(logits, truth), self.of_rows(logits.detach(), batch.labels)

    def summed(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sum over the examples, each by its weight.

        Args:
            logits: (batch, labels); for regression (batch, 1).
            labels: (batch,), int64 classes or float32 targets; (batch, labels), float32, where a row has several, or a
                share of each.

        Returns:
            A scalar, fp32.
        """
        logits = logits.float()
        if self.task in NUMBERS:
            return F.mse_loss(logits.squeeze(-1), self.scale.apply(labels), reduction="sum")
        if self.task == "multi-label":
            smooth = labels * (1 - self.label_smoothing) + self.label_smoothing / 2
            cells = F.binary_cross_entropy_with_logits(logits, smooth, pos_weight=self.class_weights, reduction="sum")
            return cells / logits.shape[-1]
        smoothing = self.label_smoothing
        return F.cross_entropy(logits, labels, self.class_weights, label_smoothing=smoothing, reduction="sum")

    def of_rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each example in the unit of the labels, (batch,) fp32: plain, as `row_losses` has it."""
        known = self.scale.apply(labels) if self.task in NUMBERS else labels
        return _of_rows(self.task, logits.float(), known) * self.unit


@dataclass(frozen=True)
class OwnLoss(Loss):
    """A loss of the user's own: `function(model, batch)` gives one number a row, so an update may be split."""

    function: Callable[[Any, Batch], Tensor] = None  # type: ignore[assignment]  # those before it have defaults

    @property
    def is_coupled(self) -> bool:  # type: ignore[override]
        """Whether it says that the loss of a row depends on the other rows."""
        return bool(getattr(self.function, "coupled", False))

    def of(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """
        Raises:
            UsageError: it gives something else than one number a row, or reads what there is with padding alone.
        """
        try:
            losses, rows = self.function(model, batch), len(batch.labels)
        except (AttributeError, KeyError, TypeError) as error:
            if "lengths" not in batch.inputs:
                raise
            hint = 'rows come without padding: engine="plain" gives inputs and the model as transformers has them'
            if isinstance(getattr(error, "obj", None), Batch):
                hint = f"it has {', '.join(field.name for field in fields(Batch))}"
            what = f"{type(error).__name__}: {one_line(str(error))}"
            raise UsageError(what, where=f"loss, step {batch.step}", hint=hint) from error
        if isinstance(losses, Tensor) and losses.shape == () and self.is_coupled:
            losses = losses.expand(rows)
        if not isinstance(losses, Tensor) or losses.shape != (rows,) or not losses.is_floating_point():
            raise UsageError(
                f"gives {kind_of_part(losses)} for {rows} rows, not a float tensor of shape ({rows},)",
                where=f"loss, step {batch.step}",
                hint='return one number for each row (reduction="none"), so that an update can be split; if the rows'
                " depend on each other, mark the loss @dongu.coupled",
            )
        return losses.float().sum(), losses.detach().float()


def logits_of(answer: Any) -> Tensor:
    """The logits in what a model's forward gives: itself, where it is a tensor.

    Raises:
        UsageError: there are none.
    """
    found = answer.get("logits") if isinstance(answer, Mapping) else getattr(answer, "logits", answer)
    if isinstance(found, Tensor):
        return found
    hint = "its forward returns the logits, or something with .logits"
    raise UsageError(f"returns a {type(answer).__name__} without logits", where="model", hint=hint)


def row_losses(task: Task, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The loss of each row in double precision, (rows,): plain, so that runs of any weights can be compared."""
    return np.asarray(_of_rows(task, torch.from_numpy(logits).double(), torch.from_numpy(labels)))


def _of_rows(task: Task, logits: Tensor, labels: Tensor) -> Tensor:
    if task in NUMBERS:
        return F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype), reduction="none")
    if task == "multi-label":
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none").mean(-1)
    return F.cross_entropy(logits, labels, reduction="none")


def make_loss(
    data: TextData, model: Any, config: RunConfig, given: Any, device: torch.device
) -> tuple[Loss, np.ndarray | None]:
    """The loss of a run, and how much each training row counts in it, where not all count alike.

    The model's head takes on the scale of numbers, unless it was trained in one. `given.loss` is the user's own loss,
    if there is one.
    """
    by_class, targets = config.class_weights, data.splits["train"].targets
    loss = Loss(data.task, label_smoothing=config.label_smoothing)
    if given.loss is not None:
        return OwnLoss(data.task, function=given.loss), None
    if data.task in NUMBERS and targets is not None and given.model is None:
        scale = Scale.of(targets, model)
        if model.new_head is None:
            scale.enter(model)
        return replace(loss, scale=scale), None
    shares = tuple(share_column(data.columns.label, name) for name in data.label_names)
    if shares[0] in data.splits["train"].columns:
        return replace(loss, shares=shares), None
    if not isinstance(by_class, dict) or targets is None:
        return loss, None
    weights = torch.tensor(list(by_class.values()), dtype=torch.float32, device=device)
    return replace(loss, class_weights=weights), row_weights(by_class, targets)
