"""One more layer that begins as the mean over the tokens of its input: an ordinary layer of the model's own class.

The classifiers of BERT's kind read the first token, which a pretrained encoder may have put little into: sentence
encoders were trained on the mean. The added layer hands the first token the mean, and everything after it is as
before, so that what is saved loads anywhere, and the layer learns as the others do.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from dongu.errors import ModelError

# Of the model types whose head reads the first token by a tanh: where the list of layers and that head's layer are.
LAYERS_AND_POOLER = {
    "bert": ("bert.encoder.layer", "bert.pooler.dense"),
    "camembert": ("roberta.encoder.layer", "classifier.dense"),
    "roberta": ("roberta.encoder.layer", "classifier.dense"),
    "xlm-roberta": ("roberta.encoder.layer", "classifier.dense"),
}


def why_no_mean_layer(model: Any) -> str | None:
    """Why a model cannot be given such a layer, in a few words; None where it can."""
    kind = model.config.model_type
    return None if kind in LAYERS_AND_POOLER else f"the head of `{kind}` does not read the first token by a tanh"


def give_mean_layer(model: Any) -> None:
    """Give a classifier one more layer, and a pooler that passes on what the layer found, in place.

    Raises:
        ModelError: `why_no_mean_layer`.
    """
    if reason := why_no_mean_layer(model):
        raise ModelError(f"cannot be given a layer for the mean: {reason}", where="--pooling mean")
    layers, pooler = map(model.get_submodule, LAYERS_AND_POOLER[model.config.model_type])
    add_mean_layer(model, layers, pooler)


def add_mean_layer(model: Any, layers: Any, pooler: Any) -> None:
    """Add a layer that begins as the mean over the tokens, and let the pooler pass it on; stands in ejected scripts."""
    layer = copy.deepcopy(layers[-1])  # keys and the first half of the feed-forward stay those of the layer below
    own, out, last = layer.attention.self, layer.attention.output, layer.output
    with torch.no_grad():
        # A query of zero attends to all tokens alike; the factor makes the mean outweigh the token itself, which is
        # added; tanh is nearly straight around half of a normalised vector.
        for linear, factor in ((own.query, 0), (own.value, 1), (out.dense, 10), (last.dense, 0), (pooler, 0.5)):
            linear.weight.copy_(factor * torch.eye(*linear.weight.shape))
            linear.bias.zero_()
        for norm in (out.LayerNorm, last.LayerNorm):
            norm.reset_parameters()
    layers.append(layer)
    model.config.num_hidden_layers += 1
