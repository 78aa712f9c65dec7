"""The model types that are computed without padding, and what keeps a model from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from dongu.engine.bare import BareClassifier
from dongu.engine.encoders import (
    DebertaEncoder,
    ModernBertEncoder,
    PostNormEncoder,
    PostNormLayer,
    bert_layer,
    distilbert_layer,
    mpnet_layer,
)
from dongu.engine.generic import GenericEncoder, Reads, own_head
from dongu.engine.recompute import recomputes
from dongu.model.safety import classifiers


@dataclass(frozen=True)
class Family:
    """How the models of one `model_type` are computed without padding.

    Attributes:
        name: the class in transformers that is meant; a subclass keeps its own forward.
        encoder: takes the base model and gives `encode(input_ids, token_type_ids, layout)`: (tokens,) each (the second
            may be None) to what the head reads, (batch, hidden) for instance. It raises AttributeError where a layer
            is missing.
        head: takes the model and what the encoder gives, and gives the logits, (batch, labels).
    """

    name: str
    encoder: Callable[[Any], Any]
    head: Callable[[Any, Any], Any]

    @staticmethod
    def generic(name: str, reads: Reads = "first") -> Family:
        """Whatever attends through transformers' interface; of a row its head reads the first token, the last, or all.

        The last is the last one that is no padding token.
        """
        return Family(name, lambda base: GenericEncoder(base, reads), own_head)

    @staticmethod
    def like_deberta(name: str) -> Family:
        """DeBERTa and DeBERTa-v2, which is v3 too."""
        return Family(
            f"{name}ForSequenceClassification",
            DebertaEncoder,
            lambda model, pooled: model.classifier(model.dropout(model.pooler(pooled[:, None]))),
        )

    @staticmethod
    def like_roberta(name: str, make_layer: Callable[[Any, int], PostNormLayer] = bert_layer) -> Family:
        """A head of one module, which takes the first of (batch, tokens, hidden)."""
        return Family(
            f"{name}ForSequenceClassification",
            lambda base: PostNormEncoder(base, base.encoder.layer, make_layer),
            lambda model, pooled: model.classifier(pooled[:, None]),
        )


# The types that are computed through transformers' attention interface, by the tokens of a row that their heads read.
GENERIC: dict[Reads, tuple[str, ...]] = {
    "first": (
        "albert", "data2vec-text", "ernie", "esm", "esmc", "gte", "jina_embeddings_v3", "layoutlm", "markuplm",
        "nomic_bert", "roberta-prelayernorm", "roc_bert", "xlm-roberta-xl", "xmod",
    ),
    "last": (
        "arcee", "axk1", "biogpt", "cohere_compass_text", "ctrl", "deepseek_v2", "deepseek_v3", "diffllama", "exaone4",
        "gemma", "gemma2", "gemma3", "gemma3_text", "glm", "glm4", "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neox",
        "gpt_oss", "helium", "hunyuan_v1_dense", "hunyuan_v1_moe", "jetmoe", "llama", "minicpm3", "ministral",
        "ministral3", "mistral", "mistral4", "mixtral", "modernbert-decoder", "nemotron", "olmo", "olmo2", "olmo3",
        "opt", "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "smollm3",
        "stablelm", "starcoder2",
    ),
    "all": ("eurobert", "modernvbert", "ultrabert", "ultravbert"),
}  # fmt: skip
# By recurrence, convolution or a transform: what is beside a token in a row would be that of another row.
MIXES_BESIDE = frozenset((
    "convbert", "fnet", "jamba", "minimax", "mobilebert", "qwen3_5", "qwen3_5_text", "qwen3_next", "zamba", "zamba2",
))  # fmt: skip
CLASSES = classifiers()

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
    "deberta": Family.like_deberta("Deberta"),
    "deberta-v2": Family.like_deberta("DebertaV2"),
    "camembert": Family.like_roberta("Camembert"),
    "electra": Family.like_roberta("Electra"),
    "mpnet": Family.like_roberta("MPNet", mpnet_layer),
    "roberta": Family.like_roberta("Roberta"),
    "xlm-roberta": Family.like_roberta("XLMRoberta"),
    **{
        name: Family.generic(CLASSES[name], reads)
        for reads, names in GENERIC.items()
        for name in names
        if name in CLASSES
    },
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


def _why_no_form(model: Any) -> str:
    """What keeps a type without a family from having one."""
    if model.config.is_encoder_decoder:
        return "it is an encoder-decoder"
    if model.config.model_type in MIXES_BESIDE:
        return "it mixes tokens beside attention"
    return "its attention does not go through transformers' interface alone"


def why_not(model: Any, padding_side: str = "right") -> str | None:
    """What keeps this model from being computed without padding, in a few words; None where nothing does."""
    config = model.config
    if config.model_type not in FAMILIES:
        return f"`{config.model_type}` has no padding-free form here: {_why_no_form(model)}"
    family = FAMILIES[config.model_type]
    own = type(model).__name__ == family.name and type(model).__module__.startswith("transformers.models.")
    if not own and not isinstance(model, BareClassifier):
        return f"it is a {type(model).__name__}, not transformers' {family.name}"
    if padding_side != "right":
        return "its tokenizer pads on the left, where positions and the first token depend on the padding"
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        return "it is a decoder, whose tokens do not see each other"
    if config.model_type == "modernbert" and config.classifier_pooling not in ("cls", "mean"):
        return f"its head pools by `{config.classifier_pooling}`"
    if config.model_type == "bert" and model.base_model.pooler is None:
        return "it has no pooler"
    if recomputes(model, otherwise=True):
        return "gradient checkpointing was switched on without the option of that name"
    if torch.nn.modules.module._has_any_global_hook():  # type: ignore[no-untyped-call]
        return "a global hook is set on all modules"
    for path, module in model.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        if any(hooks) or "forward" in vars(module):
            return f"`{path or family.name}` has a hook or a replaced forward"
    try:
        family.encoder(model.base_model)
    except AttributeError as error:
        return f"its layers are not those of {config.model_type} ({error})"
    return None
