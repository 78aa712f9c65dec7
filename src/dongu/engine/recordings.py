"""Work on CUDA, recorded once by name and replayed: one launch in place of hundreds.

A small encoder's kernels take less time than Python needs to launch them. A recording launches all of them at once; all
that it reads and writes is static: the same memory at each replay.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]

MOST = 128  # recordings that are kept, those that were used last: each takes memory of the driver's


class Recordings:
    """What is recorded of a model's `compute(numbers, shape)`.

    Args:
        compute: gives logits; it may depend on the shape and on the values of the numbers, but must not wait for them.
        model: all is recorded anew where a module's mode or dropout probability has changed, where a parameter has been
            frozen or unfrozen, or where its data has moved.
    """

    def __init__(self, compute: Callable[[Tensor, Shape], Tensor], model: nn.Module) -> None:
        self._compute = compute
        self._parameters = [*model.parameters()]
        self._modules = [*model.modules()]
        self._dropouts = [module for module in self._modules if isinstance(module, nn.Dropout)]
        self._recorded_state: list[object] = []
        self._recordings: dict[Hashable, Any] = {}  # the one that was used last comes last
        self._device = self._parameters[0].device
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()  # one for all: no two of them are in use at a time

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

    def forward(self, static_input: Tensor, shape: Shape) -> Tensor:
        """Logits, as they are recorded."""
        # A cached cast of a weight would be recorded as it is now, and every replay would read the old weight.
        kind, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        with torch.autocast("cuda", dtype=dtype, enabled=kind, cache_enabled=False):
            return self._compute(static_input, shape)

    def _discard(self) -> None:
        self._recordings.clear()
        self._pool = torch.cuda.graph_pool_handle()

    def _warm_up(self, numbers: Tensor, shape: Shape) -> None:
        """One pass without a recording, where there has been none: it lets libraries set up what they need.

        Its result is not used: every step is a replay, so that a resumed run, which records later, computes the same.
        """
        raise NotImplementedError

    @contextlib.contextmanager
    def _ready(self, static_input: Tensor, shape: Shape) -> Iterator[None]:
        """Around what is captured: the device is at rest, and afterwards the generator is where it was."""
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
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                yield
            except BaseException:
                with contextlib.suppress(RuntimeError):  # which repeats that the capture failed
                    graph.capture_end()
                raise
            graph.capture_end()
