"""The model types that are computed without padding, and what keeps a model from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dongu.engine.encoders import (
    ModernBertEncoder,
    PostNormEncoder,
    PostNormLayer,
    bert_layer,
    distilbert_layer,
    mpnet_layer,
)


@dataclass(frozen=True)
class Family:
    """How the models of one `model_type` are computed without padding.

    Attributes:
        name: the class in transformers that is meant; a subclass keeps its own forward.
        encoder: takes the base model and gives `encode(input_ids, token_type_ids, layout)`: (tokens,) each (the second
            may be None) to what the head reads, (batch, hidden). It raises AttributeError where a layer is missing.
        head: takes the model and (batch, hidden), and gives the logits, (batch, labels).
    """

    name: str
    encoder: Callable[[Any], Any]
    head: Callable[[Any, Tensor], Any]

    @staticmethod
    def like_roberta(name: str, make_layer: Callable[[Any, int], PostNormLayer] = bert_layer) -> Family:
        """A head of one module, which takes the first of (batch, tokens, hidden)."""
        return Family(
            f"{name}ForSequenceClassification",
            lambda base: PostNormEncoder(base, base.encoder.layer, make_layer),
            lambda model, pooled: model.classifier(pooled[:, None]),
        )


FAMILIES = {
    "bert": Family(
        "BertForSequenceClassification",
        lambda base: PostNormEncoder(base, base.encoder.layer, bert_layer),
        lambda model, pooled: model.classifier(model.dropout(model.base_model.pooler(pooled[:, None]))),
    ),
    "distilbert": Family(
        "DistilBertForSequenceClassification",
        lambda base: PostNormEncoder(base, base.transformer.layer, distilbert_layer),
        lambda model, pooled: model.classifier(model.dropout(F.relu(model.pre_classifier(pooled)))),
    ),
    "modernbert": Family(
        "ModernBertForSequenceClassification",
        ModernBertEncoder,
        lambda model, pooled: model.classifier(model.drop(model.head(pooled))),
    ),
    "camembert": Family.like_roberta("Camembert"),
    "electra": Family.like_roberta("Electra"),
    "mpnet": Family.like_roberta("MPNet", mpnet_layer),
    "roberta": Family.like_roberta("Roberta"),
    "xlm-roberta": Family.like_roberta("XLMRoberta"),
}


def register(model_type: str, family: Family) -> None:
    """Have the models of another type computed without padding, if they agree with their own forward in the self-check.

    Args:
        model_type: as in the model's config.
        family: how to compute them.

    Raises:
        ValueError: the type has a family already.
    """
    if model_type in FAMILIES:
        raise ValueError(f"`{model_type}` has a family already: {FAMILIES[model_type].name}")
    FAMILIES[model_type] = family


def why_not(model: Any, padding_side: str = "right") -> str | None:
    """What keeps this model from being computed without padding, in a few words; None where nothing does."""
    config = model.config
    if config.model_type not in FAMILIES:
        return f"`{config.model_type}` has no padding-free form here"
    family = FAMILIES[config.model_type]
    if type(model).__name__ != family.name or not type(model).__module__.startswith("transformers.models."):
        return f"it is a {type(model).__name__}, not transformers' {family.name}"
    if padding_side != "right":
        return "its tokenizer pads on the left, where positions and the first token depend on the padding"
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        return "it is a decoder, whose tokens do not see each other"
    if getattr(config, "classifier_pooling", "cls") not in ("cls", "mean"):
        return f"its head pools by `{config.classifier_pooling}`"
    if config.model_type == "bert" and model.base_model.pooler is None:
        return "it has no pooler"
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        return "it recomputes activations (gradient checkpointing)"
    if torch.nn.modules.module._has_any_global_hook():  # type: ignore[no-untyped-call]
        return "somebody watches all modules (a global hook)"
    for path, module in model.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        if any(hooks) or "forward" in vars(module):
            return f"somebody watches or replaces the forward or the backward of `{path or family.name}`"
    try:
        family.encoder(model.base_model)
    except AttributeError as error:
        return f"its layers are not those of {config.model_type} ({error})"
    return None
