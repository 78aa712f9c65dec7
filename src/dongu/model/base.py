"""The weights that LoRA leaves as they are, held in bf16: half of the memory, products in the precision of the run."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from dongu.model.lora import lora_layers


class Product(torch.autograd.Function):
    """`F.linear` of a frozen weight in bf16, in the precision of the inputs; backward keeps the bf16 weight alone."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return F.linear(inputs, weight.to(inputs.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return F.linear(gradient, weight.to(gradient.dtype).t()), None, None


def base_product(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` of a weight in bf16, (…, in) → (…, out), in autocast's precision or in that of the inputs."""
    if torch.is_autocast_enabled(inputs.device.type):
        return F.linear(inputs, weight, bias)
    if weight.requires_grad:
        return F.linear(inputs, weight.to(inputs.dtype), bias)
    return Product.apply(inputs, weight, bias)  # type: ignore[no-any-return, no-untyped-call]


class BaseLinear(nn.Linear):
    """A linear layer whose weight is held in bf16."""

    def forward(self, inputs: Tensor) -> Tensor:
        return base_product(inputs, self.weight, self.bias)


class BaseConv1D(Conv1D):  # type: ignore[misc]
    """GPT-2's linear layer, (in, out)."""

    def forward(self, inputs: Tensor) -> Tensor:
        return base_product(inputs, self.weight.t(), self.bias)


class BaseEmbedding(nn.Embedding):
    """A table that is held in bf16, and whose rows are fp32 from here on."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids).float()


HELD = {nn.Linear: BaseLinear, Conv1D: BaseConv1D, nn.Embedding: BaseEmbedding}


def hold_base_in_bf16(model: Any) -> None:
    """Hold the weights beside which LoRA stands, and those of the tokens, in bf16, and all others in fp32.

    A layer that computes in its own way stays in fp32 too.

    Args:
        model: with LoRA; of any precision.
    """
    layers = [layer.get_base_layer() for layer in lora_layers(model)]
    with suppress(NotImplementedError, AttributeError):
        layers.append(model.get_input_embeddings())
    held = set()
    for layer in layers:
        if type(layer) in HELD and not layer.weight.requires_grad:
            layer.__class__ = HELD[type(layer)]
            layer.weight.data = layer.weight.data.bfloat16()
            held.add(id(layer.weight))
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and id(tensor) not in held:
            tensor.data = tensor.data.float()
