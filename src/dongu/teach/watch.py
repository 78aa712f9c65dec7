"""What an update does, read while it is made. The loop knows nothing of it, and no bit of the run changes."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from dongu.loop import Loop
from dongu.model.head import head_of

SAMPLED_WEIGHTS = 1_000_000  # whose movement is measured: a copy of all could be more than the device has left


@dataclass(frozen=True)
class Gradients:
    """The gradients of an update as the optimizer gets them.

    `shares` are the parts' shares of the squared norm, by the names of `_parts_of`. `silent` is the share of the
    weights, of a sample, whose gradient is exactly 0.
    """

    count: int
    size_bytes: int
    shares: dict[str, float]
    silent: float


@dataclass(frozen=True)
class Moved:
    """How far the weights moved that had a gradient, the median of a sample, and as a share of the weight itself."""

    distance: float
    relative: float


@dataclass(frozen=True)
class Weight:
    """One weight and what AdamW made of it: `before * (1 - rate * decay) - rate * direction` is `after`.

    `direction` is the corrected first moment, divided by the root of the corrected second one.
    """

    name: str
    index: tuple[int, ...]
    gradient: float
    before: float
    after: float
    rate: float
    decay: float
    direction: float


class Watch:
    """Looks on while one update is made on this process: `with Watch(loop) as seen: step = next(steps)`.

    `logits` are (batch, labels), fp32, of each forward pass; `weight` is that of the head with the largest gradient.
    """

    gradients: Gradients
    moved: Moved
    weight: Weight

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.logits: list[Tensor] = []

    def __enter__(self) -> Self:
        optimizer = self._loop.optimizer
        self._handles = [
            self._loop.engine.register_forward_hook(self._after_forward),
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _after_forward(self, module: Any, inputs: Any, output: Any) -> None:  # noqa: ARG002
        self.logits.append(output.logits.detach().float().cpu())

    def _before_step(self, *_: Any) -> None:
        model = self._loop.model
        weights = {name: parameter for name, parameter in model.named_parameters() if parameter.grad is not None}
        gradients: dict[str, Any] = {name: parameter.grad for name, parameter in weights.items()}
        parts, squares = _parts_of(model), {name: float(grad.square().sum()) for name, grad in gradients.items()}
        shares = dict.fromkeys((parts[name] for name in gradients), 0.0)
        whole = max(sum(squares.values()), sys.float_info.min)  # a loss may be flat
        for name, square in squares.items():
            shares[parts[name]] += square / whole
        self._sampled = weights
        self._weights_before = _sample(weights)
        self._spoke = _sample(gradients) != 0
        self.gradients = Gradients(
            count=sum(map(torch.numel, gradients.values())),
            size_bytes=sum(gradient.nbytes for gradient in gradients.values()),
            shares=shares,
            silent=1 - float(self._spoke.float().mean()),
        )

        head = head_of(model)
        name = f"{head[0]}.weight" if head is not None and f"{head[0]}.weight" in weights else list(weights)[-1]
        place = torch.unravel_index(gradients[name].abs().argmax(), gradients[name].shape)
        index = tuple(map(int, place))
        self._chosen = name, index, float(gradients[name][index]), float(weights[name].detach()[index])

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        before = self._weights_before[self._spoke]
        distances = (_sample(self._sampled)[self._spoke] - before).abs()
        relative = distances[before != 0] / before[before != 0].abs()
        self.moved = Moved(float(distances.median()), float(relative.median()))

        name, index, gradient, was = self._chosen
        weight = self._sampled[name]
        group = next(group for group in optimizer.param_groups if any(weight is other for other in group["params"]))
        state, (first, second) = optimizer.state[weight], group["betas"]
        steps = max(1.0, float(state["step"]))  # 0 where the update was not made, which the step says when it is read
        mean = float(state["exp_avg"][index]) / (1 - first**steps)
        square = float(state["exp_avg_sq"][index]) / (1 - second**steps)
        self.weight = Weight(
            name=name,
            index=index,
            gradient=gradient,
            before=was,
            after=float(weight.detach()[index]),
            rate=group["lr"],
            decay=group["weight_decay"],
            direction=mean / (square**0.5 + group["eps"]),
        )


def _parts_of(model: Any) -> dict[str, str]:
    """The part of the model that each parameter belongs to, in the model's order.

    `embeddings` is all before the first layer, `1` is that layer; `after` comes after the last one, and `head` is what
    the encoder does not have.
    """
    parts: dict[str, str] = {}
    part = "embeddings"
    for name, _ in model.named_parameters():
        if not name.startswith(f"{model.base_model_prefix}."):
            part = "head"
        elif layer := re.search(r"\.(\d+)\.", name):
            part = str(int(layer[1]) + 1)
        elif part != "embeddings":
            part = "after"
        parts[name] = part
    return parts


def _sample(tensors: Mapping[str, Tensor]) -> Tensor:
    """The same evenly spaced values of them each time, (values,)."""
    stride = max(1, sum(map(torch.numel, tensors.values())) // SAMPLED_WEIGHTS)
    return torch.cat([tensor.detach().flatten()[::stride] for tensor in tensors.values()])
