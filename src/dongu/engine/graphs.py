"""Forward and backward on CUDA, recorded once for each shape and replayed: two launches in place of hundreds.

A small encoder's kernels take less time than Python needs to ask for them. A recording asks once for all of them; its
input, its answer and its gradients are then the same memory at each replay.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]

HOOKED = "a parameter has a hook, which a replay does not call"


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
        parameters: of the model. The `grad` of those that learn is, after backward, memory of the recordings, which the
            next one overwrites; a sum over several micro-batches is moved out of its way.
        modules: of the model. Where one is in another mode than before or drops another share, where other parameters
            learn, or one lies elsewhere, all is recorded anew.
    """

    def __init__(
        self,
        compute: Callable[[Tensor, Shape], Tensor],
        parameters: Sequence[nn.Parameter],
        modules: Sequence[nn.Module] = (),
    ) -> None:
        self.needed: list[nn.Parameter] = []  # that learn, and that the logits depend on
        self.gradients: list[Tensor] = []  # of these
        self.lent = False  # whether a `grad` is memory of the recordings
        self.turn = 0
        self._compute = compute
        self._parameters = parameters
        self._modules = modules
        self._dropouts = [module for module in modules if isinstance(module, nn.Dropout)]
        self._known: list[object] = []
        self._recordings: dict[Shape, Recording] = {}
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()  # one for all: no two of them are in use at a time
        self._anchor = torch.zeros((), device=parameters[0].device, requires_grad=True)

    def __call__(self, numbers: Tensor, shape: Shape) -> Tensor:
        """Logits of the numbers, (count,) int64, on the host or on the device.

        Raises:
            torch.OutOfMemoryError: there is no memory for this recording alone.
        """
        if self.lent:
            for parameter in self.needed:
                parameter.grad = None if parameter.grad is None else parameter.grad.clone()
            self.lent = False
        now: list[object] = [(each.data_ptr(), each.requires_grad) for each in self._parameters]
        now += [module.training for module in self._modules]
        now += [dropout.p for dropout in self._dropouts]
        if now != self._known:
            self._forget()
            self._known = now
        if shape not in self._recordings:
            recording = self._try_to_record(numbers, shape)
            if recording is None:  # what others hold may be enough
                self._forget()
                torch.cuda.empty_cache()
                recording = self._record(numbers, shape)
            self._recordings[shape] = recording
        recording = self._recordings[shape]
        recording.given.copy_(numbers, non_blocking=True)
        self.turn += 1
        return Replay.apply(self._anchor, self, recording)  # type: ignore[no-any-return, no-untyped-call]

    def _forget(self) -> None:
        self._recordings.clear()
        self.needed, self.gradients = [], []
        self._pool = torch.cuda.graph_pool_handle()

    def _try_to_record(self, numbers: Tensor, shape: Shape) -> Recording | None:
        try:
            return self._record(numbers, shape)
        except torch.OutOfMemoryError:
            return None

    def _record(self, numbers: Tensor, shape: Shape) -> Recording:
        device = self._anchor.device
        given = numbers.to(device)
        draws = torch.cuda.get_rng_state(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        try:
            # The first once as it is, for what libraries set up at first use. All steps are replays, so that a run that
            # goes on, and records later, computes the same.
            if not self.needed:
                with torch.cuda.stream(self._stream):
                    self._find_needed(given, shape)
            torch.cuda.synchronize(device)
            forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
            with self._recorded(forward):
                logits = self._forward(given, shape)
            to_logits = torch.zeros_like(logits)
            with self._recorded(backward):
                self._backward(logits, to_logits)
        except torch.OutOfMemoryError:
            self._forget()
            raise
        finally:
            torch.cuda.set_rng_state(draws, device)
        return Recording(given, logits.detach(), to_logits, forward, backward)

    def _find_needed(self, given: Tensor, shape: Shape) -> None:
        learning = [parameter for parameter in self._parameters if parameter.requires_grad]
        logits = self._forward(given, shape)
        found = torch.autograd.grad(logits, learning, torch.zeros_like(logits), allow_unused=True)
        needed = [p for p, gradient in zip(learning, found, strict=True) if gradient is not None]
        self.gradients = [torch.zeros_like(parameter) for parameter in needed]
        self.needed = needed  # last: while it is empty, an interrupted call is made again

    def _forward(self, given: Tensor, shape: Shape) -> Tensor:
        # Weights in lower precision that autocast has kept from before would be those of that time at each replay.
        kind, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        with torch.autocast("cuda", dtype=dtype, enabled=kind, cache_enabled=False):
            return self._compute(given, shape)

    def _backward(self, logits: Tensor, to_logits: Tensor) -> None:
        """Into `gradients`, one by one as they come, so that no second copy of all is ever there."""
        kept = [parameter.grad for parameter in self.needed]
        try:
            for parameter, gradient in zip(self.needed, self.gradients, strict=True):
                parameter.grad = gradient
            torch._foreach_zero_(self.gradients)
            with torch.autocast("cuda", enabled=False):
                torch.autograd.backward(logits, to_logits, inputs=self.needed)
        finally:
            for parameter, former in zip(self.needed, kept, strict=True):
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


def has_hooks(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether one of them has a hook on its gradient."""
    return any(each._backward_hooks or each._post_accumulate_grad_hooks for each in parameters)


class Replay(torch.autograd.Function):
    """The recorded forward and backward, as autograd sees them."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, graphs: Graphs, recording: Recording) -> Tensor:  # noqa: ARG004
        ctx.graphs, ctx.recording, ctx.turn = graphs, recording, graphs.turn
        recording.forward.replay()
        return recording.logits.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, ...]:
        graphs, recording = ctx.graphs, ctx.recording
        if graphs.turn != ctx.turn:
            raise RuntimeError("another forward has come in between, and its values lie where those of this one did")
        recording.to_logits.copy_(gradient)
        recording.backward.replay()
        for parameter, new in zip(graphs.needed, graphs.gradients, strict=True):
            if parameter.grad is None:
                parameter.grad, graphs.lent = new, True
            else:
                parameter.grad.add_(new)
        return None, None, None
