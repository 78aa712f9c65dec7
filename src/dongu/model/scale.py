"""Numbers as a model learns them, with mean 0 and deviation 1, and as it answers them, in their own unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dongu.model.head import head_of


@dataclass(frozen=True)
class Scale:
    """A label is `mean + std * answer`. A head is born with answers around 0, and AdamW moves it in steps of one size:
    prices in thousands would be out of reach, and shares of a percent lost in the first steps.
    """

    mean: float = 0.0
    std: float = 1.0

    @staticmethod
    def of(targets: np.ndarray, model: Any) -> Scale:
        """The scale of the training targets, (rows,). A head without a bias can hold no mean: then it is 0."""
        head = head_of(model)
        numbers = targets.astype(np.float64)
        mean = float(numbers.mean()) if head is not None and head[1].bias is not None else 0.0
        numbers -= mean
        std = float(np.sqrt(np.mean(np.square(numbers, out=numbers))))
        return Scale(mean, std) if head is not None and std > 0 else UNSCALED

    def apply(self, labels: Tensor) -> Tensor:
        """Labels as the model learns them."""
        return (labels - self.mean) / self.std

    def undo(self, answers: np.ndarray) -> np.ndarray:
        """Answers in the unit of the labels, fp32."""
        if self == UNSCALED:
            return answers
        values: np.ndarray = answers.astype(np.float64) * self.std + self.mean
        return values.astype(np.float32)

    def enter(self, model: Any) -> None:
        """Change a head that answers in the unit of the labels into one in training, whose answers mean the same."""
        if (head := head_of(model)) is not None:
            layer = head[1]
            with torch.no_grad():
                layer.weight.copy_(layer.weight.double() / self.std)
                if layer.bias is not None:
                    layer.bias.copy_((layer.bias.double() - self.mean) / self.std)

    def undone(self, model: Any) -> dict[str, Tensor]:
        """The weights of the same model with a head that answers in the unit of the labels, as they are saved."""
        from dongu.model.lora import plain_weights  # which imports transformers

        weights = plain_weights(model)
        if (head := head_of(model)) is not None:
            name = head[0]
            weights[f"{name}.weight"] = (weights[f"{name}.weight"].detach().double() * self.std).float()
            if f"{name}.bias" in weights:
                weights[f"{name}.bias"] = (weights[f"{name}.bias"].detach().double() * self.std + self.mean).float()
        return weights


UNSCALED = Scale()
