"""The last layer of a classifier, which a temperature can be folded into."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dongu.errors import ModelError

CLOSE = 1e-3  # of the largest logit; a layer that the logits do not come from is off by half of it


def divide_head(model: Any, divisor: float) -> None:
    """Divide weight and bias of the last layer, and so the logits.

    Raises:
        ModelError: there is no such layer.
    """
    with torch.no_grad():
        for parameter in _head_of(model).parameters():
            parameter.div_(divisor)


def check_head(model: Any, engine: Any, inputs: dict[str, Tensor]) -> None:
    """Try on a batch, in eval mode and without gradient, whether dividing the head divides the logits.

    Args:
        model: the classifier; it ends as it was, to the bit.
        engine: what computes it.
        inputs: of the engine's forward.

    Raises:
        ModelError: it does not.
    """
    whole = engine(**inputs).logits.float()
    divide_head(model, 2)  # a power of two: nothing is rounded, here or on the way back
    half = engine(**inputs).logits.float()
    divide_head(model, 0.5)
    if not bool((2 * half - whole).abs().max() <= CLOSE * whole.abs().max()):
        raise _without_head(model)


def _head_of(model: Any) -> nn.Linear:
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    heads = [layer for layer in layers if layer.out_features == model.config.num_labels]
    if not heads:
        raise _without_head(model)
    return heads[-1]


def _without_head(model: Any) -> ModelError:
    return ModelError(
        f"the logits of `{model.config.model_type}` do not come from one linear layer",
        where="--calibrate",
        hint="train without it; results.json has the temperature, by which you can divide the logits yourself",
    )
