"""Forward and backward on CUDA, recorded once for each shape and replayed: two launches instead of hundreds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dongu.engine.gradients import flattened
from dongu.engine.recordings import Recordings, Shape

HOOKED = "a parameter has a hook, which a replay does not call"


@dataclass(frozen=True)
class Recording:
    """One shape's forward and backward."""

    static_input: Tensor  # overwritten by each replay, like the next two
    logits: Tensor
    grad_logits: Tensor  # the gradient of the logits, from which backward starts
    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph


class Graphs(Recordings):
    """`compute(numbers, shape)` by replay, with gradients for the parameters.

    Args:
        compute: gives logits; see `Recordings`.
        model: after backward, `grad` of its trainable parameters is static memory, which the next backward
            overwrites. Gradients that are accumulated over micro-batches are copied before that.
    """

    def __init__(self, compute: Callable[[Tensor, Shape], Tensor], model: nn.Module) -> None:
        self.used_parameters: list[nn.Parameter] = []  # the trainable ones that the logits depend on
        self.static_gradients: list[Tensor] = []  # of these
        self.flat_gradients: list[Tensor] = []  # several processes: what all of these are views of, one of each dtype
        self.grads_are_static = False  # whether `grad` of the parameters is static memory
        self.are_zero = False  # whether all static gradients are
        self.for_updates_only = False  # several processes: DDP has to see the gradients of a pass of the model alone
        self.replays = 0
        super().__init__(compute, model)
        self._autograd_anchor = torch.zeros((), device=self._device, requires_grad=True)

    def __call__(self, numbers: Tensor, shape: Shape) -> Tensor:
        """Logits of the numbers, (count,) int64, on the host or on the device.

        Raises:
            torch.OutOfMemoryError: there is not enough memory even for this recording alone.
        """
        if self.grads_are_static:
            for parameter in self.used_parameters:
                parameter.grad = None if parameter.grad is None else parameter.grad.clone()
            self.grads_are_static = False
        self.look()
        recording = self.recorded(shape, lambda: self._record(numbers, shape))
        recording.static_input.copy_(numbers, non_blocking=True)
        self.replays += 1
        return Replay.apply(self._autograd_anchor, self, recording)  # type: ignore[no-any-return, no-untyped-call]

    def _discard(self) -> None:
        super()._discard()
        self.used_parameters, self.static_gradients, self.flat_gradients, self.are_zero = [], [], [], False

    def _record(self, numbers: Tensor, shape: Shape) -> Recording:
        static_input = numbers.to(self._device)
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with self._ready(static_input, shape):
            with self._capture(forward):
                logits = self.forward(static_input, shape)
            grad_logits = torch.zeros_like(logits)
            with self._capture(backward):
                torch._foreach_zero_(self.static_gradients)
                self.backward(logits, grad_logits)
        return Recording(static_input, logits.detach(), grad_logits, forward, backward)

    def _warm_up(self, numbers: Tensor, shape: Shape) -> None:
        if not self.used_parameters:
            self._find_used_parameters(numbers, shape)

    def _find_used_parameters(self, static_input: Tensor, shape: Shape) -> None:
        trainable = [parameter for parameter in self._parameters if parameter.requires_grad]
        logits = self.forward(static_input, shape)
        found = torch.autograd.grad(logits, trainable, torch.zeros_like(logits), allow_unused=True)
        used = [p for p, gradient in zip(trainable, found, strict=True) if gradient is not None]
        if self.for_updates_only:
            self.flat_gradients, self.static_gradients = flattened(used)
        else:
            self.static_gradients = [torch.zeros_like(parameter) for parameter in used]
        self.used_parameters = used  # last: while it is empty, an interrupted call is repeated

    def backward(self, result: Tensor, gradient: Tensor | None = None) -> None:
        """Accumulate into the static gradients directly, so that there is no second copy of all gradients."""
        with self.gradients_in_place(), torch.autocast("cuda", enabled=False):
            torch.autograd.backward(result, gradient, inputs=self.used_parameters)

    @contextlib.contextmanager
    def gradients_in_place(self) -> Iterator[None]:
        """Inside the block `grad` of each used parameter is its static gradient."""
        kept = [parameter.grad for parameter in self.used_parameters]
        try:
            for parameter, gradient in zip(self.used_parameters, self.static_gradients, strict=True):
                parameter.grad = gradient
            yield
        finally:
            for parameter, former in zip(self.used_parameters, kept, strict=True):
                parameter.grad = former


def has_hooks(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether one of them has a hook on its gradient."""
    return any(each._backward_hooks or each._post_accumulate_grad_hooks for each in parameters)


class Replay(torch.autograd.Function):
    """The recorded forward and backward, as autograd sees them."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, graphs: Graphs, recording: Recording) -> Tensor:  # noqa: ARG004
        ctx.graphs, ctx.recording, ctx.replay = graphs, recording, graphs.replays
        recording.forward.replay()
        return recording.logits.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, ...]:
        graphs, recording = ctx.graphs, ctx.recording
        if graphs.replays != ctx.replay:
            raise RuntimeError("another forward has come in between and has overwritten the activations of this one")
        recording.grad_logits.copy_(gradient)
        graphs.are_zero = False
        recording.backward.replay()
        for parameter, new in zip(graphs.used_parameters, graphs.static_gradients, strict=True):
            if parameter.grad is None:
                parameter.grad, graphs.grads_are_static = new, True
            else:
                parameter.grad.add_(new)
        return None, None, None
