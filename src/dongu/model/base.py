"""The weights that LoRA leaves as they are, held in fewer bits: products in the precision of the run."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from dongu.errors import UsageError
from dongu.model.lora import lora_layers
from dongu.text import reason_of

BLOCK, VALUES = 64, "nf4"  # of bitsandbytes: numbers that share a scale, and the sixteen values that a number may have


class Product(torch.autograd.Function):
    """`F.linear` of a frozen weight that is held in fewer bits; backward keeps it as it is held."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, bias: Tensor | None, widened: Any, *held: Tensor) -> Tensor:
        ctx.widened = widened
        ctx.save_for_backward(*held)
        return F.linear(inputs, widened(inputs.dtype, *held), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        held = ctx.saved_tensors
        weight = ctx.widened(gradient.dtype, *held)
        return F.linear(gradient, weight.t()), None, None, *(None for _ in held)


def base_product(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` of a weight in bf16, (…, in) → (…, out), in autocast's precision or in that of the inputs."""
    if torch.is_autocast_enabled(inputs.device.type):
        return F.linear(inputs, weight, bias)
    if weight.requires_grad:
        return F.linear(inputs, weight.to(inputs.dtype), bias)
    return frozen_product(inputs, bias, lambda dtype, held: held.to(dtype), weight)


def frozen_product(inputs: Tensor, bias: Tensor | None, widened: Any, *held: Tensor) -> Tensor:
    """`F.linear` of the weight that `widened(dtype, *held)` is, in the precision of the inputs."""
    return Product.apply(inputs, bias, widened, *held)  # type: ignore[no-any-return, no-untyped-call]


def dequantized(shape: tuple[int, int], dtype: torch.dtype, packed: Tensor, scales: Tensor) -> Tensor:
    """The weight, (out, in), of its numbers in 4 bits, (out × in / 2,), and a scale for each block of them."""
    from bitsandbytes.functional import QuantState, dequantize_4bit

    state = QuantState(scales, shape=shape, blocksize=BLOCK, quant_type=VALUES, dtype=dtype)
    return dequantize_4bit(packed, state)  # type: ignore[no-any-return]


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


class FourBits(nn.Module):
    """A linear layer whose weight, (out, in), is held in 4 bits; whoever asks for it gets it in fp32."""

    saved_as = torch.bfloat16
    packed: Tensor
    scales: Tensor
    bias: Any
    shape: tuple[int, int]

    @property
    def weight(self) -> Tensor:
        weight = dequantized(self.shape, torch.float32, self.packed, self.scales)
        return weight.t() if isinstance(self, Conv1D) else weight

    def forward(self, inputs: Tensor) -> Tensor:
        device = inputs.device.type
        # Also under autocast, which would keep the whole weight for backward.
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else inputs.dtype
        return frozen_product(inputs.to(dtype), self.bias, partial(dequantized, self.shape), self.packed, self.scales)

    def with_weight(self, weight: Tensor, inputs: Tensor) -> Tensor:
        """What the layer would compute with another weight, in bf16."""
        return base_product(inputs, weight.t() if isinstance(self, Conv1D) else weight, self.bias)

    def unpack(self) -> None:
        """Become a layer that is held in bf16."""
        weight = nn.Parameter(self.weight.to(self.saved_as), requires_grad=False)
        self.__class__ = BaseConv1D if isinstance(self, Conv1D) else BaseLinear  # type: ignore[assignment]
        del self.packed, self.scales
        self.register_parameter("weight", weight)


class FourBitLinear(FourBits, nn.Linear):  # type: ignore[override]
    """A linear layer whose weight is held in 4 bits."""


class FourBitConv1D(FourBits, Conv1D):  # type: ignore[misc]
    """GPT-2's linear layer."""


HELD = {nn.Linear: BaseLinear, Conv1D: BaseConv1D, nn.Embedding: BaseEmbedding}
PACKED = {nn.Linear: FourBitLinear, Conv1D: FourBitConv1D}


def hold_base(model: Any, precision: Literal["bf16", "4bit"]) -> None:
    """Hold the weights beside which LoRA stands, and in bf16 those of the tokens, in fewer bits, all others in fp32.

    A layer that computes in its own way stays in fp32 too. `precision` is that of the linear layers.

    Raises:
        UsageError: bitsandbytes does not work here.
    """
    layers = [layer.get_base_layer() for layer in lora_layers(model).values()]
    linear = len(layers)
    with suppress(NotImplementedError, AttributeError):
        layers.append(model.get_input_embeddings())
    held = set()
    for number, layer in enumerate(layers):
        if type(layer) in HELD and not layer.weight.requires_grad:
            if precision == "4bit" and number < linear and not layer.weight.numel() % 2:
                pack(layer)
                continue
            layer.__class__ = HELD[type(layer)]
            layer.weight.data = layer.weight.data.bfloat16()
            held.add(id(layer.weight))
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and id(tensor) not in held:
            tensor.data = tensor.data.float()


def pack(layer: Any) -> None:
    """Hold the weight of a linear layer in 4 bits; always quantized by the processor, so the same everywhere.

    Raises:
        UsageError: bitsandbytes does not work here.
    """
    transposed = isinstance(layer, Conv1D)
    weight = (layer.weight.t() if transposed else layer.weight).detach().float().cpu().contiguous()
    try:
        from bitsandbytes.functional import quantize_4bit

        packed, state = quantize_4bit(weight, blocksize=BLOCK, quant_type=VALUES)
    except (ImportError, OSError, RuntimeError) as error:
        what = f"bitsandbytes does not work here: {reason_of(error)}"
        raise UsageError(what, where="--base-precision 4bit", hint="give --base-precision bf16") from error
    kind = PACKED[type(layer)]
    del layer.weight
    layer.__class__, layer.shape = kind, tuple(weight.shape)
    layer.packed = nn.Parameter(packed.flatten(), requires_grad=False)
    layer.scales = nn.Parameter(state.absmax, requires_grad=False)
