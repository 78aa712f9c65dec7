"""An update on CUDA as replays: forward, loss and backward of each micro-batch; then norm, clipping and AdamW.

Launched from Python, the loss, the norm and the optimizer take longer than a small encoder computes. Here they are
recorded too: one replay for each micro-batch, one for the update. The schedule, the counts and the seeds of random
draws stay on the host. What the device needs (token ids, labels, the update's weight, the learning rates) is copied to
it before a replay. Several processes add up their gradients between the two: DDP, which does so by hooks in backward,
sees nothing of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.adamw import AdamW, adamw

from dongu.data.collate import MicroBatch, MicroBatches
from dongu.engine.device import autocast_of
from dongu.engine.packed import UNCOMPUTED, inside_ddp
from dongu.errors import UsageError
from dongu.text import reason_of

SAMPLED_NUMBERS = 1_000_000  # parameters in which the first update is compared
TOLERANCE_OF_UPDATE = 1e-3  # of losses and gradient norm, in fp32; of moments ten times as much
TOLERANCE_OF_UPDATE_IN_HALF = 2e-2  # in bf16
# Of the change of the parameters: where a gradient is only rounding (a key's bias), so is the direction of AdamW.
TOLERANCE_OF_MOVES = 0.2


class UnreplayedError(Exception):
    """Why an update cannot be replayed, in a few words."""


@dataclass(frozen=True)
class _MicroBatchRecording:
    """The static memory that each replay reads, and the gradients that it adds to."""

    numbers: Tensor
    labels: Tensor
    gradients: list[Tensor]
    replay: Callable[[], None]


@dataclass(frozen=True)
class StepRecording:
    """The optimizer's step; valid as long as its settings and the addresses of its tensors stay the same."""

    settings: list[object]
    gradients: list[Tensor]
    rates: Tensor  # (groups,), fp32, as CUDA's AdamW reads them
    replay: Callable[[], None]


class Replays:
    """Makes the updates of a loop by replay.

    Args:
        loop: its engine is a `PaddingFree` with graphs, its optimizer fused AdamW; see `why_not_replayed`.
    """

    def __init__(self, loop: Any) -> None:
        self.parts = recorded_parts(loop)
        self.is_checked = False  # whether an update was compared with one launched from Python
        self._is_alone = loop.accelerator.num_processes == 1
        # Norm, then losses; and how many processes are asked to end, where there are several.
        self.numbers = torch.zeros(3 + loop.config.batch_size, device=loop.accelerator.device)
        self._loop = loop
        self._engine = inside_ddp(loop.engine)
        self._graphs = self._engine.graphs
        self._graphs._discard()  # what was recorded before, with another loss or optimizer
        self._trained = [parameter.requires_grad for parameter in loop.model.parameters()]
        self._weight = torch.ones((), device=loop.accelerator.device)
        self._position = torch.zeros((), dtype=torch.int64, device=loop.accelerator.device)
        self._step: StepRecording | None = None

    def gradients(self, batches: MicroBatches, *, again: int = 0) -> Tensor:
        """Forward and backward of an update, like `Loop.gradients`; the gradients are in static memory, summed over the
        processes.

        Raises:
            UnreplayedError: a micro-batch cannot be recorded.
            torch.OutOfMemoryError: there is not enough memory.
        """
        if self._is_alone:
            self._add_up_twice(batches, again)
            return self.numbers[1 : 2 + batches.examples]
        if self.is_checked:  # what fails now ends the run: the other processes wait for this one's part
            if self._trained != [parameter.requires_grad for parameter in self._loop.model.parameters()]:
                what, hint = "weights were frozen or unfrozen, which DDP is not told of", "use --freeze, or one process"
                raise UsageError(what, where=f"update {self._loop.number + 1:,}", hint=hint)
            self._add_up_twice(batches, again)
        else:
            with self.agreed():
                self._add_up_twice(batches, again)
            sizes = self._loop.accelerator.gather(torch.tensor([self._size()], device=self.numbers.device))
            if len(sizes.unique()) > 1:
                raise UnreplayedError("the processes train different weights")
        for flat in self._graphs.flat_gradients:
            torch.distributed.all_reduce(flat)
        return self.numbers[1 : 2 + batches.examples]

    def _size(self) -> int:
        return sum(gradient.numel() for gradient in self._graphs.static_gradients)

    def leave(self) -> None:
        """Give the memory of the recordings back where nothing else can use them: DDP's passes are no replays."""
        if not self._is_alone:
            self._graphs.release()

    def take(self, losses: Tensor) -> None:
        """Have the losses of all processes, and who is asked to end, in the place of this process's losses."""
        if not self._is_alone:
            self.numbers[1 : 1 + len(losses)].copy_(losses)

    @contextlib.contextmanager
    def agreed(self) -> Iterator[None]:
        """The block is left without an error if no process had one in it.

        Raises:
            UnreplayedError: a process cannot record or replay it.
        """
        reason = ""
        try:
            yield
        except torch.OutOfMemoryError:
            reason = "there is no memory to compare it"
        except UnreplayedError as error:
            reason = str(error)
        failed = torch.tensor(float(bool(reason)), device=self.numbers.device)
        if self._loop.accelerator.reduce(failed, "sum"):
            raise UnreplayedError(reason or "another process cannot do so")

    def _add_up_twice(self, batches: MicroBatches, again: int) -> None:
        self._graphs.look()
        if not (self._add_up(batches, again) or self._add_up(batches, again)):
            what = "the recordings of the micro-batches of an update take more memory than there is"
            raise torch.OutOfMemoryError(what)

    def _add_up(self, batches: MicroBatches, again: int) -> bool:
        """Add up the gradients; False if a new recording has replaced the static memory on the way."""
        graphs, gradients = self._graphs, None
        self.numbers.zero_()
        self._weight.fill_(batches.weight)
        for micro_batch in batches.micro_batches:
            recording = self._recording(micro_batch)
            if gradients is None:
                gradients = graphs.static_gradients
                if not graphs.are_zero:  # an update was interrupted, or something else has used them
                    torch._foreach_zero_(gradients)
                graphs.are_zero = False
            elif gradients is not graphs.static_gradients:
                return False
            if not micro_batch.examples:  # a stand-in, which is there for DDP to have a forward
                continue
            self._position.fill_(micro_batch.position)
            self._loop._seed(micro_batch.position, again)
            recording.replay()
        return True

    def _recording(self, micro_batch: MicroBatch) -> _MicroBatchRecording:
        """The recording for a micro-batch, with its numbers and labels copied to static memory."""
        ids, labels = micro_batch.tensors["input_ids"], micro_batch.tensors["labels"]
        types = micro_batch.tensors.get("token_type_ids")
        types = torch.zeros_like(ids) if types is None else types
        numbers, shape, _ = self._engine.as_one_tensor(ids, types, micro_batch.tensors["lengths"])
        name = ("micro-batch", shape, labels.shape, labels.dtype)
        try:
            recording = self._graphs.recorded(name, lambda: self._record(numbers, shape, labels))
        except torch.OutOfMemoryError:
            raise
        except UNCOMPUTED as error:
            raise UnreplayedError(f"it cannot be recorded ({reason_of(error)})") from error
        recording.numbers.copy_(numbers, non_blocking=True)
        recording.labels.copy_(labels, non_blocking=True)
        return recording  # type: ignore[no-any-return]

    def _record(self, numbers: Tensor, shape: tuple[int, ...], labels: Tensor) -> _MicroBatchRecording:
        loop, graphs, device = self._loop, self._graphs, self.numbers.device
        static_numbers, static_labels = numbers.to(device, copy=True), labels.to(device, copy=True)
        losses, rows = self.numbers[1:], torch.arange(1, 1 + len(labels), device=device)

        def work() -> None:
            logits = graphs.forward(static_numbers, shape)
            with torch.autocast("cuda", enabled=False):
                loss = loop.loss.summed(logits, static_labels) / self._weight
                graphs.backward(loss)
                losses[0] += loss.detach() * loop.loss.unit
                losses.index_copy_(0, rows + self._position, loop.loss.of_rows(logits.detach(), static_labels))

        with autocast_of(loop.config, device):
            replay = graphs.replayable(work, static_numbers, shape)
        return _MicroBatchRecording(static_numbers, static_labels, graphs.static_gradients, replay)

    def record_step(self) -> StepRecording:
        """The recording of the optimizer's step with its current settings and state.

        Raises:
            UnreplayedError: it cannot be recorded.
        """
        settings = self._settings()
        known = self._step
        if known is not None and known.gradients is self._graphs.static_gradients and known.settings == settings:
            return known
        try:
            self._step = self._record_step()
            return self._step
        except UNCOMPUTED as error:
            raise UnreplayedError(f"it cannot be recorded ({reason_of(error)})") from error

    def _settings(self) -> list[object]:
        """All that a recording of the step depends on: the addresses of tensors, and numbers on the host."""
        optimizer = self._loop.optimizer
        state = [*map(Tensor.data_ptr, chain.from_iterable(map(dict.values, optimizer.state.values())))]
        groups = [
            [[*map(id, value)] if name == "params" else value for name, value in group.items() if name != "lr"]
            for group in optimizer.param_groups
        ]
        return [state, groups, self._loop.config.max_grad_norm, id(optimizer.found_inf)]

    def _record_step(self) -> StepRecording:
        loop, graphs, optimizer = self._loop, self._graphs, self._loop.optimizer
        rates = torch.zeros(len(optimizer.param_groups), device=self.numbers.device)
        groups: list[Any] = []
        with graphs.gradients_in_place():
            for group in optimizer.param_groups:
                if not group["fused"] or group["differentiable"]:
                    raise UnreplayedError("the optimizer's step is not the fused one")
                tensors: Any = ([], [], [], [], [], [])
                optimizer._init_group(group, *tensors)  # creates its moments if there are none
                options = {name: group[name] for name in ("amsgrad", "weight_decay", "eps", "maximize")}
                options |= {"beta1": group["betas"][0], "beta2": group["betas"][1], "fused": True}
                groups.append((tensors, {**options, "found_inf": optimizer.found_inf}))

        @torch.no_grad()
        def work() -> None:
            with graphs.gradients_in_place():
                self.numbers[0].copy_(loop.clip_gradients())
            loop._pending.flag(self.numbers[1] + self.numbers[0])
            for rate, (tensors, options) in zip(rates, groups, strict=True):
                adamw(*tensors, lr=rate, **options)
            torch._foreach_zero_(graphs.static_gradients)

        replay = graphs.replayable(work, self.numbers, ())
        return StepRecording(self._settings(), graphs.static_gradients, rates, replay)

    def step(self, recorded: StepRecording) -> None:
        """Norm, clipping and the optimizer's step at the current learning rates; then zero the gradients."""
        optimizer = self._loop.optimizer
        rates = np.array([group["lr"] for group in optimizer.param_groups], dtype=np.float32)
        recorded.rates.copy_(torch.from_numpy(rates).pin_memory(), non_blocking=True)
        recorded.replay()
        self._graphs.are_zero = True
        optimizer._opt_called = True  # else a schedule warns at its first step

    @contextlib.contextmanager
    def undone(self) -> Iterator[None]:
        """After the block, parameters and optimizer state are what they were, bit for bit (kept on the host)."""
        optimizer = self._loop.optimizer
        tensors: list[Tensor] = [optimizer.found_inf]
        for parameter in self._graphs.used_parameters:
            tensors += [parameter.detach(), *optimizer.state[parameter].values()]
        kept = [tensor.to("cpu", copy=True) for tensor in tensors]
        try:
            yield
        finally:
            for tensor, before in zip(tensors, kept, strict=True):
                tensor.copy_(before)


def recorded_parts(loop: Any) -> list[object]:
    """The objects that recordings depend on; recordings are valid as long as these are the same."""
    return [getattr(inside_ddp(loop.engine), "graphs", None), loop.engine, loop.loss, loop.optimizer]


class Sample:
    """Some elements of each parameter that has a gradient, and the result of AdamW for them, launched from Python.

    Args:
        optimizer: AdamW; it is not changed.
        skip: its flag, (), fp32: 1 if the update must not be made.
    """

    def __init__(self, optimizer: Any, skip: Tensor) -> None:
        groups = [[p for p in group["params"] if p.grad is not None] for group in optimizer.param_groups]
        self._parameters = [parameter for group in groups for parameter in group]
        self._few = max(1, SAMPLED_NUMBERS // max(1, len(self._parameters)))
        self._before = [self._some(parameter) for parameter in self._parameters]
        copies = {parameter: self._some(parameter) for parameter in self._parameters}
        given = zip(optimizer.param_groups, groups, strict=True)
        adamw = AdamW([{**group, "params": [copies[parameter] for parameter in some]} for group, some in given])
        for group in adamw.param_groups:
            group["lr"] = float(np.float32(group["lr"]))
        adamw.found_inf = skip  # type: ignore[attr-defined]
        for parameter, copy in copies.items():
            copy.grad = self._some(parameter.grad)
            if state := optimizer.state.get(parameter):
                adamw.state[copy] = {name: self._some(tensor) for name, tensor in state.items()}
        adamw.step()
        self._after = [[copy, adamw.state[copy]["exp_avg"]] for copy in copies.values()]

    def why_not(self, optimizer: Any, tolerance: float) -> str | None:
        """How parameters or moments now differ from the sample by more than rounding; None if they do not."""
        moved = wrong = moments = differ = 0.0
        for parameter, before, (after, moment) in zip(self._parameters, self._before, self._after, strict=True):
            moved += _square(after - before) + 1e-12 * _square(before)
            wrong += _square(self._some(parameter) - after)
            moments += _square(moment)
            differ += _square(self._some(optimizer.state[parameter]["exp_avg"]) - moment)
        if not differ <= (10 * tolerance) ** 2 * moments:
            return f"its moments differ by {(differ / (moments or 1)) ** 0.5:.1g} of their size"
        if not wrong <= TOLERANCE_OF_MOVES**2 * moved:
            return f"what it does to the weights differs by {(wrong / (moved or 1)) ** 0.5:.1g} of its size"
        return None

    def _some(self, tensor: Tensor) -> Tensor:
        return tensor.detach().flatten()[: self._few].clone() if tensor.ndim else tensor.detach().clone()


def check_numbers(got: Tensor, wanted: Tensor, tolerance: float) -> str | None:
    """How norm and losses of two updates, (numbers,), differ by more than rounding; None if they do not."""
    apart, size = _square(got.nan_to_num() - wanted.nan_to_num()), _square(wanted.nan_to_num())
    same = bool((got.isfinite() == wanted.isfinite()).all()) and apart <= tolerance**2 * size
    return None if same else f"its norm and losses differ by {(apart / (size or 1)) ** 0.5:.1g} of their size"


def _square(tensor: Tensor) -> float:
    return float(tensor.double().square().sum())
