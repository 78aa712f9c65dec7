"""The last layer of a classifier, which a temperature or a unit can be folded into."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dongu.errors import ModelError

CLOSE = 1e-3  # of the largest logit; a layer that the logits do not come from is off by half of it


def is_head(model: Any, name: str) -> bool:
    """Whether a parameter or a layer of that name is no part of the encoder: what stands behind it, and its pooler."""
    return not name.startswith(f"{model.base_model_prefix}.") or "pooler" in name


def head_of(model: Any) -> tuple[str, nn.Linear] | None:
    """The name and the layer that answers: the last linear one with as many outputs as there are labels, if any is."""
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == model.config.num_labels and ".lora_" not in name
    ]
    return found[-1] if found else None


def divide_head(model: Any, divisor: float) -> None:
    """Divide weight and bias of the last layer, and so the logits.

    Raises:
        ModelError: there is no such layer.
    """
    if (head := head_of(model)) is None:
        raise _without_head(model)
    with torch.no_grad():
        for parameter in head[1].parameters():
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


def _without_head(model: Any) -> ModelError:
    return ModelError(
        f"the logits of `{model.config.model_type}` do not come from one linear layer",
        where="--calibrate",
        hint="train without it; results.json has the temperature, by which you can divide the logits yourself",
    )
