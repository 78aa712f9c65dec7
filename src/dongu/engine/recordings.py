"""CUDA graphs by name: work that is recorded once and then replayed, one launch instead of hundreds.

The kernels of a small encoder take less time than Python needs to launch them. A replay launches all of them at once.
It reads and writes static memory: the same addresses each time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]

MOST = 128  # recordings that are kept, the most recently used ones: each takes driver memory


class Recordings:
    """Recordings of a model's `compute(numbers, shape)`.

    Args:
        compute: returns logits; may depend on the shape and the values of the numbers, but must not wait for them.
        model: everything is recorded anew when a module's mode or dropout probability changes, when a parameter is
            frozen or unfrozen, or when its data moves.
    """

    def __init__(self, compute: Callable[[Tensor, Shape], Tensor], model: nn.Module) -> None:
        self._compute = compute
        self._parameters = [*model.parameters()]
        self._modules = [*model.modules()]
        self._dropouts = [module for module in self._modules if isinstance(module, nn.Dropout)]
        self._recorded_state: list[object] = []
        self._recordings: dict[Hashable, Any] = {}  # the most recently used one is last
        self._device = self._parameters[0].device
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()  # shared: no two recordings are in use at the same time

    def look(self) -> None:
        """Discard all recordings if the model has changed since they were made."""
        state: list[object] = [*map(Tensor.data_ptr, self._parameters)]
        state += [parameter.requires_grad for parameter in self._parameters]
        state += [module.training for module in self._modules]
        state += [dropout.p for dropout in self._dropouts]
        if state != self._recorded_state:
            self._discard()
            self._recorded_state = state

    def recorded(self, name: Hashable, record: Callable[[], Any]) -> Any:
        """The recording of this name, made now if there is none.

        Raises:
            torch.OutOfMemoryError: there is not enough memory even for this one alone.
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
        """Record `work` without running it, and return a function that replays it.

        Args:
            work: must not wait for the device; reads and writes static memory.
            numbers: on the device, with their shape as for a call: the input of the warm-up, if there was none yet.
        """
        graph = torch.cuda.CUDAGraph()
        with self._ready(numbers, shape), self._capture(graph):
            work()

        def replay(_: object = work) -> None:  # the memory that it refers to is kept
            graph.replay()

        return replay

    def forward(self, static_input: Tensor, shape: Shape) -> Tensor:
        """The logits, computed as they are recorded."""
        # A cached cast of a weight would be recorded as it is now, and every replay would read the old weight.
        kind, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        with torch.autocast("cuda", dtype=dtype, enabled=kind, cache_enabled=False):
            return self._compute(static_input, shape)

    def release(self) -> None:
        """Give the memory of all recordings back."""
        self._discard()
        torch.cuda.empty_cache()

    def _discard(self) -> None:
        self._recordings.clear()
        self._pool = torch.cuda.graph_pool_handle()

    def _warm_up(self, numbers: Tensor, shape: Shape) -> None:
        """Run once without recording, if that has not happened yet: libraries set up what they need.

        Its result is not used. Every step is a replay, so a resumed run, which records later, computes the same.
        """
        raise NotImplementedError

    @contextlib.contextmanager
    def _ready(self, static_input: Tensor, shape: Shape) -> Iterator[None]:
        """Around a capture: the device is idle, and afterwards the random generator is in the state it had before."""
        rng_state = torch.cuda.get_rng_state(self._device)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        try:
            with torch.cuda.stream(self._stream):
                self._warm_up(static_input, shape)
            torch.cuda.synchronize(self._device)
            yield
        except torch.OutOfMemoryError:
            self._discard()
            raise
        finally:
            torch.cuda.set_rng_state(rng_state, self._device)

    @contextlib.contextmanager
    def _capture(self, graph: torch.cuda.CUDAGraph) -> Any:
        """Captures the block's kernels into the graph. (`torch.cuda.graph` would collect garbage first.)"""
        # DDP has made the node that adds up each gradient, on the default stream, which no capture may wait for.
        autograd, override = torch.autograd.graph, torch._C._override_stale_capture_stream()
        autograd.set_override_stale_capture_stream(True)
        autograd.set_warn_on_accumulate_grad_stream_mismatch(False)
        try:
            with self._captured(graph):
                yield
        finally:
            autograd.set_override_stale_capture_stream(override)
            autograd.set_warn_on_accumulate_grad_stream_mismatch(True)

    @contextlib.contextmanager
    def _captured(self, graph: torch.cuda.CUDAGraph) -> Iterator[None]:
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                yield
            except BaseException:
                with contextlib.suppress(RuntimeError):  # which repeats that the capture failed
                    graph.capture_end()
                raise
            graph.capture_end()
