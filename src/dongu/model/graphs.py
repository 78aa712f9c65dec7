"""Forward and backward on CUDA, recorded once for each shape and replayed: two launches in place of hundreds.

A small encoder's kernels take less time than Python needs to ask for them. A recording asks once for all of them; its
input, its answer and its gradients are then the same memory at each replay.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Recording:
    """One shape's forward and backward."""

    given: Tensor  # the input, which each replay overwrites
    logits: Tensor
    to_logits: Tensor  # the gradient that backward begins with
    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph


class Graphs:
    """`compute(numbers, shape)` by replay, with gradients for the parameters.

    Args:
        compute: gives logits, and may depend on the shape and on what is in the numbers, but wait for neither.
        parameters: those that learn. Their `grad` after backward is memory of the recordings, which the next one
            overwrites; a sum over several micro-batches is moved out of its way.
    """

    def __init__(self, compute: Callable[[Tensor, Shape], Tensor], parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.gradients: list[Tensor] = []  # of the parameters that the logits depend on
        self._compute = compute
        self._recordings: dict[Shape, Recording] = {}
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()  # one for all: no two of them are in use at a time
        self._anchor = torch.zeros((), device=parameters[0].device, requires_grad=True)
        self.lent = False  # whether a `grad` is a recording's memory

    def __call__(self, numbers: Tensor, shape: Shape) -> Tensor:
        """Logits of the numbers, (count,) int64, on the host or on the device.

        Raises:
            torch.OutOfMemoryError: there is no memory for a recording; all of them are gone then.
        """
        if self.lent:
            for parameter in self.parameters:
                parameter.grad = None if parameter.grad is None else parameter.grad.clone()
            self.lent = False
        recording = self._recordings.get(shape)
        if recording is None:
            recording = self._recordings[shape] = self._record(numbers, shape)
        recording.given.copy_(numbers, non_blocking=True)
        return Replay.apply(self._anchor, self, recording)  # type: ignore[no-any-return, no-untyped-call]

    def _record(self, numbers: Tensor, shape: Shape) -> Recording:
        device = self._anchor.device
        given = numbers.to(device)
        draws = torch.cuda.get_rng_state(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        try:
            # The first once as it is, for what libraries set up at first use. All steps are replays, so that a run that
            # goes on, and records later, computes the same.
            if not self._recordings:
                with torch.cuda.stream(self._stream):
                    logits = self._forward(given, shape)
                    found = torch.autograd.grad(logits, self.parameters, torch.zeros_like(logits), allow_unused=True)
                needed = [gradient is not None for gradient in found]
                self.parameters = [p for p, depends in zip(self.parameters, needed, strict=True) if depends]
                del found
                self.gradients = self.gradients or [torch.zeros_like(p) for p in self.parameters]
            torch.cuda.synchronize(device)
            forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
            with self._recorded(forward):
                logits = self._forward(given, shape)
            to_logits = torch.zeros_like(logits)
            with self._recorded(backward):
                self._backward(logits, to_logits)
        except torch.OutOfMemoryError:
            self._recordings.clear()
            self._pool = torch.cuda.graph_pool_handle()
            raise
        finally:
            torch.cuda.set_rng_state(draws, device)
        return Recording(given, logits.detach(), to_logits, forward, backward)

    def _forward(self, given: Tensor, shape: Shape) -> Tensor:
        # Weights in lower precision that autocast has kept from before would be those of that time at each replay.
        kind, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        with torch.autocast("cuda", dtype=dtype, enabled=kind, cache_enabled=False):
            return self._compute(given, shape)

    def _backward(self, logits: Tensor, to_logits: Tensor) -> None:
        """Into `gradients`, one by one as they come, so that no second copy of all is ever there."""
        kept = [parameter.grad for parameter in self.parameters]
        try:
            for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
                parameter.grad = gradient
            torch._foreach_zero_(self.gradients)
            with torch.autocast("cuda", enabled=False):
                torch.autograd.backward(logits, to_logits, inputs=self.parameters)
        finally:
            for parameter, former in zip(self.parameters, kept, strict=True):
                parameter.grad = former

    @contextlib.contextmanager
    def _recorded(self, graph: torch.cuda.CUDAGraph) -> Any:
        """What is asked of the device inside the block goes into the graph. (`torch.cuda.graph` collects garbage.)"""
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                yield
            except BaseException:
                with contextlib.suppress(RuntimeError):  # it says again that the recording failed
                    graph.capture_end()
                raise
            graph.capture_end()


class Replay(torch.autograd.Function):
    """The recorded forward and backward, as autograd sees them."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, graphs: Graphs, recording: Recording) -> Tensor:  # noqa: ARG004
        ctx.graphs, ctx.recording = graphs, recording
        recording.forward.replay()
        return recording.logits.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, ...]:
        graphs, recording = ctx.graphs, ctx.recording
        recording.to_logits.copy_(gradient)
        recording.backward.replay()
        for parameter, new in zip(graphs.parameters, graphs.gradients, strict=True):
            if parameter.grad is None:
                parameter.grad, graphs.lent = new, True
            else:
                parameter.grad.add_(new)
        return None, None, None
