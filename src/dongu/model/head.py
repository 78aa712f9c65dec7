"""The last layer of a classifier, which a temperature or a unit can be folded into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dongu.config import PROBLEM_TYPES, Task
from dongu.errors import ModelError, UsageError
from dongu.text import listed, shortened

CLOSE = 1e-3  # of the largest logit; a layer that the logits do not come from is off by half of it


@dataclass(frozen=True)
class NewHead:
    """That the last layer of a model was drawn anew, and why. `replaced`: one of the same size was in the file."""

    why: str
    replaced: bool


NO_HEAD = NewHead("the model has none", replaced=False)


def declared_labels(config: Any) -> tuple[str, ...]:
    """The names of the labels that a model answers, in the order of its outputs."""
    return tuple(str(config.id2label[i]) for i in sorted(config.id2label))


def name_inputs(settings: Any, texts: Sequence[str]) -> None:
    """Have a model's config name the columns of a pair, for whoever loads it without its run. Of one text nothing is
    said, unless the model that was trained on says otherwise."""
    if len(texts) == 2 or hasattr(settings, "text_columns"):
        settings.text_columns = [*texts] if len(texts) == 2 else []


def name_outputs(model: Any, names: Sequence[str], task: Task, pad_token_id: int | None) -> None:
    """See to it that a model of the user's own says what the others say of themselves in their config.

    Raises:
        UsageError: it has another number of labels.
    """
    from transformers import PreTrainedConfig, PreTrainedModel  # seconds, which a saved model may do without

    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    config = getattr(model, "config", None)
    if not isinstance(config, PreTrainedConfig):
        model.config = PreTrainedConfig(**labels)
    elif config.num_labels != len(names):
        hint = f"load it with num_labels={len(names)}"
        raise UsageError(f"has {config.num_labels} labels, and the data {len(names)}", where="model=", hint=hint)
    elif sorted(declared_labels(config)) != sorted(names):
        config.update(labels)
    if isinstance(model, PreTrainedModel) and getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = pad_token_id
    model.config.problem_type = PROBLEM_TYPES[task]
    model.new_head = None


def why_other(config: Any, label_names: Sequence[str], task: Task) -> str | None:
    """Why the head that a model's config.json describes is not for these labels; None where it is.

    It is where its labels have the same names, in any order, and its task is the same.
    """
    own = declared_labels(config)
    if sorted(own) != sorted(label_names):
        return f"the model's own is for other labels ({listed([shortened(name, 40) for name in own])})"
    usual = "regression" if len(own) == 1 else PROBLEM_TYPES["single-label"]  # as transformers infers it
    if (declared := config.problem_type or usual) != PROBLEM_TYPES[task]:
        return f"the model's own is for another task ({declared})"
    return None


def draw_head(model: Any, seed: int) -> None:
    """Draw the last layer anew, by `seed` alone.

    Raises:
        ModelError: there is no such layer.
    """
    if (head := head_of(model)) is None:
        lacks = f"`{model.config.model_type}` has no last layer that could be initialized again"
        what, hint = f"has a head for other labels, and {lacks}", "start from the model without its head"
        raise ModelError(what, where=f"--model {model.name_or_path}", hint=hint)
    torch.manual_seed(seed)
    nn.init.normal_(head[1].weight, std=initial_std(model))
    if head[1].bias is not None:
        nn.init.zeros_(head[1].bias)


def initial_std(model: Any) -> float:
    """The deviation of the weights that the model's kind begins with."""
    return float(getattr(model.config.get_text_config(), "initializer_range", None) or 0.02)


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
    """Try on a batch, in eval mode and without gradient, whether dividing the head divides the logits of the engine.

    The model ends as it was, to the bit.

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
