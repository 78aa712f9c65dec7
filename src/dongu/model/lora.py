"""LoRA: beside each linear layer of the encoder a product of two thin matrices, which learns in its place.

peft puts the matrices there. What a run evaluates and saves is the model without them: they are added to the weights
that they stand beside, so that a file has the names and the numbers of a plain model. Every function here takes a
model without LoRA too, and then does nothing more than transformers and PyTorch do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from dongu.engine.shard import gathered, hand_out, is_sharded, own_part
from dongu.errors import UsageError
from dongu.model.head import is_head

_NAME = "default"  # peft's, of the one set of matrices
PEFT_PREFIX = "base_model.model."  # of the names in a file of peft's
PACKED_NAMES = (".base_layer.packed", ".base_layer.scales")  # a weight that is held in 4 bits; see `dongu.model.base`
ALPHA = 2  # times the rank: the product of the two matrices counts this much, whatever the rank


def add_lora(model: Any, rank: int, seed: int) -> None:
    """Freeze the model but for its head, and put matrices of this rank beside every linear layer of the encoder.

    One of the two is drawn by `seed` alone, the other is 0: until the first update the model answers as it did.

    Raises:
        UsageError: the encoder has no linear layer, or none that is as large as the rank, or two with one weight.
    """
    from peft import LoraConfig, inject_adapter_in_model

    linear = {
        name: module for name, module in model.named_modules() if _is_linear(module) and not is_head(model, f"{name}.")
    }
    shared = [id(module.weight) for module in linear.values()]
    kind, where, without = f"`{model.config.model_type}`", f"--lora {rank}", "train without it"
    if len({*shared}) < len(shared):
        what = f"layers of {kind} share a weight, which cannot take in what each of them learns"
        raise UsageError(what, where=where, hint=without)
    if not linear:
        raise UsageError(f"the encoder of {kind} has no linear layers", where=where, hint=without)
    if rank > (largest := max(min(module.weight.shape) for module in linear.values())):
        raise UsageError(f"the largest weight of {kind} has rank {largest}", where=where)
    torch.manual_seed(seed)
    transposed = any(isinstance(module, Conv1D) for module in linear.values())  # GPT-2 has (in, out)
    # In a module without a config: for a mixture of experts peft would take the names of its linear layers for those of
    # the experts, which are no layers but parameters of three dimensions.
    inject_adapter_in_model(
        LoraConfig(
            r=rank,
            lora_alpha=ALPHA * rank,
            lora_dropout=0.0,
            target_modules=[f"model.{name}" for name in linear],
            fan_in_fan_out=transposed,
        ),
        nn.ModuleDict({"model": model}),
    )
    for name, parameter in model.named_parameters():
        if is_head(model, name):
            parameter.requires_grad = True


@contextmanager
def merged(model: Any) -> Iterator[None]:
    """Inside the block the model computes what the saved one does, LoRA in the weights: of one layer at a time."""
    layers = [*lora_layers(model).values()]
    if is_sharded(model):
        with _merged_in_place(layers):
            yield
        return
    try:
        for layer in layers:
            layer.forward = partial(_forward_merged, layer)
        yield
    finally:
        for layer in layers:
            del layer.forward  # the instance's; its class has its own again


def _forward_merged(layer: Any, *inputs: Tensor) -> Tensor:
    base = layer.get_base_layer()
    if _is_packed(layer):
        return base.with_weight(merged_weight(layer), *inputs)  # type: ignore[no-any-return]
    kept = base.weight.data
    try:
        base.weight.data = merged_weight(layer)
        return base(*inputs)  # type: ignore[no-any-return]
    finally:
        base.weight.data = kept


@torch.no_grad()
def merged_weight(layer: Any) -> Tensor:
    """The weight of a layer with LoRA in it, in the precision that the weight is held in, or saved in if in 4 bits."""
    base = layer.get_base_layer()
    weight: Tensor = base.weight.data
    with torch.autocast(weight.device.type, enabled=False):  # what LoRA adds is as exact as when it is saved
        added: Tensor = layer.get_delta_weight(_NAME)
        return (weight + added).to(getattr(base, "saved_as", weight.dtype))


@contextmanager
def _merged_in_place(layers: Sequence[Any]) -> Iterator[None]:
    """The same for sharded weights, whose memory is FSDP's."""
    kept = [own_part(layer.get_base_layer().weight).clone() for layer in layers]
    try:
        with torch.no_grad():
            for layer in layers:
                layer.get_base_layer().weight.add_(layer.get_delta_weight(_NAME))
                layer.merged_adapters.append(_NAME)
        yield
    finally:
        with torch.no_grad():
            for layer, weight in zip(layers, kept, strict=True):
                own_part(layer.get_base_layer().weight).copy_(weight)
                layer.merged_adapters.clear()


def plain_weights(model: Any) -> dict[str, Tensor]:
    """The weights of the model with LoRA merged into them, by the names of a model without; merged ones on the host.

    Of a sharded model all processes have to ask, and the first has them.
    """
    if is_sharded(model):
        with merged(model):
            return gathered((_plain(n), tensor) for n, tensor in model.state_dict().items() if not _is_added(n))
    own = {name: tensor for name, tensor in model.state_dict().items() if not _is_added(name)}
    weights = {_plain(name): tensor for name, tensor in own.items() if not name.endswith(PACKED_NAMES)}
    return weights | {f"{name}.weight": merged_weight(layer).cpu() for name, layer in lora_layers(model).items()}


def added_weights(model: Any) -> dict[str, Tensor]:
    """LoRA's matrices by their names in the model; of a sharded one all processes ask, and the first has them."""
    added = {name: tensor for name, tensor in model.state_dict().items() if _is_added(name)}
    return gathered(added.items()) if is_sharded(model) else added


def adapter_tensors(model: Any, added: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LoRA's matrices, `added`, under peft's names, and the layers of the head, which peft keeps whole.

    The head's are taken of `weights`, those of the plain model.
    """
    head = {name: tensor for name, tensor in weights.items() if is_head(model, name)}
    named = {name.replace(f".{_NAME}.", "."): tensor for name, tensor in added.items()} | head
    return {f"{PEFT_PREFIX}{name}": tensor.detach().clone().contiguous() for name, tensor in named.items()}


def adapter_config(model: Any, rank: int, base: str) -> dict[str, Any]:
    """`adapter_config.json`, as peft reads it; `base` is the name of the model that was trained."""
    from peft import LoraConfig

    plain = {_plain(name) for name in model.state_dict() if not _is_added(name)}
    layers = lora_layers(model)
    config = LoraConfig(
        r=rank,
        lora_alpha=ALPHA * rank,
        lora_dropout=0.0,
        target_modules=sorted(layers),
        modules_to_save=sorted({_whole_head(model, name, plain) for name in plain if is_head(model, name)}),
        fan_in_fan_out=any(isinstance(layer.get_base_layer(), Conv1D) for layer in layers.values()),
        task_type="SEQ_CLS",
        base_model_name_or_path=base,
        inference_mode=True,
    )
    return {
        name: sorted(value) if isinstance(value, set) else value
        for name, value in sorted(config.to_dict().items())
        if value is not None
    }


def _whole_head(model: Any, name: str, names: set[str]) -> str:
    """The largest module around a parameter of the head that holds nothing else."""
    parts = name.split(".")[:-1]
    for count in range(1, len(parts) + 1):
        module = ".".join(parts[:count])
        if all(is_head(model, other) for other in names if other.startswith(f"{module}.")):
            return module
    return ".".join(parts)


def load_plain_weights(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Take over the weights of a plain model, to which LoRA adds nothing from here on.

    Of a sharded model all processes have to ask, and the first alone has the weights.
    """
    if is_sharded(model):
        for name, tensor in model.state_dict().items():
            if _is_added(name):
                own_part(tensor).zero_()
            else:
                hand_out(tensor, weights.get(_plain(name)))
        return
    kept = tuple(_still_packed(model, weights))
    model.load_state_dict(
        {
            name: tensor
            if name.startswith(kept) and (_is_added(name) or name.endswith(PACKED_NAMES))
            else torch.zeros_like(tensor)
            if _is_added(name)
            else weights[_plain(name)]
            for name, tensor in model.state_dict().items()
        }
    )


def take_adapter(model: Any, saved: Mapping[str, Tensor]) -> None:
    """Put LoRA's matrices into the model as a file has them, under peft's names."""
    with torch.no_grad():
        for name, tensor in added_weights(model).items():
            tensor.copy_(saved[PEFT_PREFIX + name.replace(f".{_NAME}.", ".")])


def _still_packed(model: Any, weights: Mapping[str, Tensor]) -> Iterator[str]:
    """Layers in 4 bits, by the beginning of their names, that give this weight to the bit; others become bf16."""
    for name, layer in lora_layers(model).items():
        if _is_packed(layer):
            if torch.equal(merged_weight(layer).to(weights[f"{name}.weight"]), weights[f"{name}.weight"]):
                yield f"{name}."
            else:
                layer.get_base_layer().unpack()


def count_parameters(model: Any) -> tuple[int, int]:
    """Those of the model without LoRA, and those that learn, LoRA's among them."""
    named = list(model.named_parameters())
    own = sum(parameter.numel() for name, parameter in named if not _is_added(name) and not name.endswith(PACKED_NAMES))
    own += sum(math.prod(base.shape) for base in _packed_bases(model))
    return own, sum(parameter.numel() for _, parameter in named if parameter.requires_grad)


def count_beyond(model: Any) -> int:
    """Parameters of matrices that no linear layer holds, as those of experts: they have no LoRA beside them."""
    return sum(
        parameter.numel()
        for module in model.modules()
        if not isinstance(module, nn.modules.conv._ConvNd)
        for parameter in module.parameters(recurse=False)
        if parameter.ndim == 3
    )


def _is_linear(module: nn.Module) -> bool:
    """Whether it is a linear layer to its neighbours too: a router of experts may be one that answers with several."""
    if not isinstance(module, nn.Linear) or type(module).forward is nn.Linear.forward:
        return isinstance(module, nn.Linear | Conv1D)
    with torch.no_grad():
        return isinstance(module(module.weight.new_zeros(1, module.in_features)), Tensor)


def lora_layers(model: Any) -> dict[str, Any]:
    """The layers beside which LoRA stands, as peft wraps them, by their names."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def saved_bytes(model: Any) -> int:
    """Of the weights of the model and LoRA's own, as they are saved."""
    size = sum(int(tensor.nbytes) for name, tensor in model.state_dict().items() if not name.endswith(PACKED_NAMES))
    return size + sum(int(math.prod(base.shape) * base.saved_as.itemsize) for base in _packed_bases(model))


def _packed_bases(model: Any) -> list[Any]:
    return [layer.get_base_layer() for layer in lora_layers(model).values() if _is_packed(layer)]


def _is_packed(layer: Any) -> bool:
    return hasattr(layer.get_base_layer(), "packed")


def _is_added(name: str) -> bool:
    return ".lora_" in name


def _plain(name: str) -> str:
    """peft moves a layer to `base_layer` of the one that it puts in its place."""
    return name.replace(".base_layer.", ".")
