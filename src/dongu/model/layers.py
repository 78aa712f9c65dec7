"""Which layer of a model a parameter belongs to, and which parameters learn."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from torch import nn

from dongu.errors import UsageError


def layer_depths(model: Any, where: str = "--layer-decay") -> tuple[dict[str, int], int]:
    """Depth of each parameter by name, and the number of layers.

    1 is the first layer. 0 is what comes before it, and embeddings wherever they stand (those of relative positions
    come after the layers). What comes after the last layer, pooler and head among them, has the last one's depth.

    Raises:
        UsageError: the model has no one list of its layers: it shares one, or has an encoder and a decoder.
    """
    layers = _layers_of(model, where)
    layer_of = {id(parameter): i for i, layer in enumerate(layers, start=1) for parameter in layer.parameters()}
    before = takewhile(lambda parameter: id(parameter) not in layer_of, model.base_model.parameters())
    embeddings = [module for module in model.base_model.modules() if isinstance(module, nn.Embedding)]
    lowest = {*map(id, before), *(id(module.weight) for module in embeddings)}
    depths = {
        name: layer_of.get(id(parameter), 0 if id(parameter) in lowest else len(layers))
        for name, parameter in model.named_parameters()
    }
    return depths, len(layers)


def freeze_lowest(model: Any, count: int) -> None:
    """Let the embeddings and so many of the lowest layers stay as they are, in place.

    No gradient is computed for them, nor for anything below the first layer that learns.

    Raises:
        UsageError: the model has no more layers than that, or see `layer_depths`.
    """
    where = f"--freeze {count}"
    depths, layers = layer_depths(model, where)
    if count >= layers:
        raise UsageError(f"the model has {layers} layers", where=where, hint="give fewer: the highest learns")
    for name, parameter in model.named_parameters():
        parameter.requires_grad &= depths[name] > count


def _layers_of(model: Any, where: str) -> nn.ModuleList:
    count = getattr(model.config, "num_hidden_layers", None)
    found = {
        name: module
        for name, module in model.base_model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    }
    outer = [module for name, module in found.items() if not any(name.startswith(f"{other}.") for other in found)]
    if len(outer) != 1:
        what = f"the layers of `{model.config.model_type}` cannot be told apart"
        raise UsageError(what, where=where, hint="train without it")
    return outer[0]
