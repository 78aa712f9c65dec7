"""Forward and backward on CUDA, recorded once for each shape and replayed: two launches in place of hundreds.

A small encoder's kernels take less time than Python needs to launch them. A recording launches all of them at once; its
input, its logits and its gradients are static: the same memory at each replay.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]

HOOKED = "a parameter has a hook, which a replay does not call"
MOST = 128  # recordings that are kept, those that were used last: each takes memory of the driver's


@dataclass(frozen=True)
class Recording:
    """One shape's forward and backward."""

    static_input: Tensor  # which each replay overwrites, as it does the next two
    logits: Tensor
    grad_logits: Tensor  # the gradient that backward begins with
    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph


class Graphs:
    """`compute(numbers, shape)` by replay, with gradients for the parameters.

    Args:
        compute: gives logits; it may depend on the shape and on the values of the numbers, but must not wait for them.
        parameters: of the model. After backward the `grad` of the trainable ones is static memory, which the next
            backward overwrites; before that, gradients that are accumulated over micro-batches are copied.
        modules: of the model. All is recorded anew where a module's mode or dropout probability has changed, where a
            parameter has been frozen or unfrozen, or where its data has moved.
    """

    def __init__(
        self,
        compute: Callable[[Tensor, Shape], Tensor],
        parameters: Sequence[nn.Parameter],
        modules: Sequence[nn.Module] = (),
    ) -> None:
        self.used_parameters: list[nn.Parameter] = []  # the trainable ones that the logits depend on
        self.static_gradients: list[Tensor] = []  # of these
        self.grads_are_static = False  # whether a `grad` is one of the static gradients
        self.are_zero = False  # whether all static gradients are
        self.replays = 0
        self._compute = compute
        self._parameters = parameters
        self._modules = modules
        self._dropouts = [module for module in modules if isinstance(module, nn.Dropout)]
        self._recorded_state: list[object] = []
        self._recordings: dict[Hashable, Any] = {}  # the one that was used last comes last
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()  # one for all: no two of them are in use at a time
        self._autograd_anchor = torch.zeros((), device=parameters[0].device, requires_grad=True)

    def __call__(self, numbers: Tensor, shape: Shape) -> Tensor:
        """Logits of the numbers, (count,) int64, on the host or on the device.

        Raises:
            torch.OutOfMemoryError: there is no memory even for this recording alone.
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

    def look(self) -> None:
        """Forget all recordings where the model is another than they were made of."""
        state: list[object] = [*map(Tensor.data_ptr, self._parameters)]
        state += [parameter.requires_grad for parameter in self._parameters]
        state += [module.training for module in self._modules]
        state += [dropout.p for dropout in self._dropouts]
        if state != self._recorded_state:
            self._discard()
            self._recorded_state = state

    def recorded(self, name: Hashable, record: Callable[[], Any]) -> Any:
        """The recording of this name, made now where there is none.

        Raises:
            torch.OutOfMemoryError: there is no memory even for this one alone.
        """
        recording = self._recordings.pop(name, None)
        if recording is None:
            try:
                recording = record()
            except torch.OutOfMemoryError:  # the memory of the other recordings may be enough
                self._discard()
        if recording is None:
            torch.cuda.empty_cache()
            recording = record()
        self._recordings[name] = recording
        if len(self._recordings) > MOST:
            del self._recordings[next(iter(self._recordings))]
        return recording

    def replayable(self, work: Callable[[], None], numbers: Tensor, shape: Shape) -> Callable[[], None]:
        """What launches all of `work` at once; not one kernel of it has run yet.

        Args:
            work: must not wait for the device, and reads and writes static memory.
            numbers: on the device, with their shape as for a call: of a first pass, where there has been none.
        """
        graph = torch.cuda.CUDAGraph()
        with self._ready(numbers, shape), self._capture(graph):
            work()

        def replay(_: object = work) -> None:  # the memory that it refers to is kept
            graph.replay()

        return replay

    def _discard(self) -> None:
        self._recordings.clear()
        self.used_parameters, self.static_gradients, self.are_zero = [], [], False
        self._pool = torch.cuda.graph_pool_handle()

    def _record(self, numbers: Tensor, shape: Shape) -> Recording:
        static_input = numbers.to(self._autograd_anchor.device)
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with self._ready(static_input, shape):
            with self._capture(forward):
                logits = self.forward(static_input, shape)
            grad_logits = torch.zeros_like(logits)
            with self._capture(backward):
                torch._foreach_zero_(self.static_gradients)
                self.backward(logits, grad_logits)
        return Recording(static_input, logits.detach(), grad_logits, forward, backward)

    @contextlib.contextmanager
    def _ready(self, static_input: Tensor, shape: Shape) -> Iterator[None]:
        """Around what is captured: the device is at rest, and afterwards the generator is where it was."""
        device = self._autograd_anchor.device
        rng_state = torch.cuda.get_rng_state(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        try:
            # One pass without a recording lets libraries set up what they need. Its result is not used: every step is a
            # replay, so that a resumed run, which records later, computes the same.
            if not self.used_parameters:
                with torch.cuda.stream(self._stream):
                    self._find_used_parameters(static_input, shape)
            torch.cuda.synchronize(device)
            yield
        except torch.OutOfMemoryError:
            self._discard()
            raise
        finally:
            torch.cuda.set_rng_state(rng_state, device)

    def _find_used_parameters(self, static_input: Tensor, shape: Shape) -> None:
        trainable = [parameter for parameter in self._parameters if parameter.requires_grad]
        logits = self.forward(static_input, shape)
        found = torch.autograd.grad(logits, trainable, torch.zeros_like(logits), allow_unused=True)
        used = [p for p, gradient in zip(trainable, found, strict=True) if gradient is not None]
        self.static_gradients = [torch.zeros_like(parameter) for parameter in used]
        self.used_parameters = used  # last: while it is empty, an interrupted call is repeated

    def forward(self, static_input: Tensor, shape: Shape) -> Tensor:
        """Logits, as they are recorded."""
        # A cached cast of a weight would be recorded as it is now, and every replay would read the old weight.
        kind, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        with torch.autocast("cuda", dtype=dtype, enabled=kind, cache_enabled=False):
            return self._compute(static_input, shape)

    def backward(self, result: Tensor, gradient: Tensor | None = None) -> None:
        """Accumulates into the static gradients themselves, so that no second copy of all gradients exists."""
        with self.gradients_in_place(), torch.autocast("cuda", enabled=False):
            torch.autograd.backward(result, gradient, inputs=self.used_parameters)

    @contextlib.contextmanager
    def gradients_in_place(self) -> Iterator[None]:
        """Inside the block the `grad` of each parameter that is used is the static one."""
        kept = [parameter.grad for parameter in self.used_parameters]
        try:
            for parameter, gradient in zip(self.used_parameters, self.static_gradients, strict=True):
                parameter.grad = gradient
            yield
        finally:
            for parameter, former in zip(self.used_parameters, kept, strict=True):
                parameter.grad = former

    @contextlib.contextmanager
    def _capture(self, graph: torch.cuda.CUDAGraph) -> Any:
        """Captures the block's kernels into the graph. (`torch.cuda.graph` would collect garbage first.)"""
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                yield
            except BaseException:
                with contextlib.suppress(RuntimeError):  # which repeats that the capture failed
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
