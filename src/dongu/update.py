"""One optimizer update: before it is made, `Update`; after it, `Step`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from dongu.data.collate import MicroBatches
from dongu.engine.arrival import Arrival
from dongu.engine.replays import (
    TOLERANCE_OF_UPDATE,
    TOLERANCE_OF_UPDATE_IN_HALF,
    Replays,
    Sample,
    UnreplayedError,
    check_numbers,
)
from dongu.errors import NonFiniteError, UsageError
from dongu.interrupts import interrupts_wait
from dongu.text import kind_of_part


@dataclass(frozen=True, repr=False)
class Step:
    """One optimizer update that was made. Examples are counted over all processes, tokens in this process.

    A GPU may still be computing it. Then reading the loss, the norm or the seconds waits for it, and raises
    `NonFiniteError` if they are not finite and the update was not made.
    """

    number: int  # from 1
    epoch: float  # passes over the training rows so far
    learning_rate: float  # that the update used; under --layer-decay that of the head
    examples: int
    tokens: int  # real ones
    padded_tokens: int  # what they are when each row is padded to the longest of its micro-batch
    ids: np.ndarray = field(compare=False)  # (examples,), the row number of each in the source
    rows: np.ndarray = field(compare=False)  # (examples,), its position in the training split
    arrival: Arrival = field(compare=False, repr=False)  # of the norm, the loss, those of the examples, and a flag
    recorded: dict[str, float] = field(compare=False, default_factory=dict)  # by `update.record`

    def __repr__(self) -> str:
        """One line, for which nothing waits: without the loss where a GPU is still at it."""
        loss = f"loss {float(self.arrival.numbers[1]):.4f}, " if self.arrival.is_there else ""
        size = f"{self.examples:,} examples, {self.tokens:,} tokens"
        return f"<Step {self.number:,}: epoch {self.epoch:.2f}, {loss}learning rate {self.learning_rate:.3g}, {size}>"

    @property
    def loss(self) -> float:
        """The mean over the examples of the update."""
        return float(self._numbers[1])

    @property
    def grad_norm(self) -> float:
        """Before clipping."""
        return float(self._numbers[0])

    @property
    def row_losses(self) -> np.ndarray:
        """The loss of each example, with dropout, before the update, (examples,)."""
        return self._numbers[2 : 2 + self.examples]

    @property
    def is_asked_to_end(self) -> bool:
        """Whether a process had received a signal when the losses were summed; the same in all processes."""
        return bool(self._numbers[2 + self.examples :].any())

    @property
    def seconds(self) -> float:
        """How long the device took."""
        return self.arrival.seconds

    def check(self) -> None:
        """
        Raises:
            NonFiniteError: the loss or the gradient is not finite.
        """
        norm, loss = map(float, self.arrival.numbers[:2])
        if math.isfinite(loss) and math.isfinite(norm):
            return
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient norm is {norm}"
        raise NonFiniteError(
            f"{what}; the update was not made",
            where=f"step {self.number}, train rows {', '.join(map(str, self.ids[:32].tolist()))}",
            hint="try a lower --learning-rate, some --warmup or --max-grad-norm 1, and look at these rows",
        )

    @cached_property
    def _numbers(self) -> np.ndarray:
        self.check()
        return self.arrival.numbers


def recordable(numbers: Mapping[str, float]) -> dict[str, float]:
    """Numbers of the user's own as they are logged.

    Raises:
        UsageError: a name is one of the log's own, or there is no number.
    """
    for name in {"event", "step"} & numbers.keys():
        raise UsageError(f"each line of the log has `{name}`", where="record", hint="give the number another name")
    recorded = {}
    for name, value in numbers.items():
        try:
            recorded[name] = float(value)
        except (TypeError, ValueError) as error:
            hint = "give a number, such as value.mean()"
            raise UsageError(f"`{name}` is {kind_of_part(value)}, not a number", where="record", hint=hint) from error
    return recorded


class Update:
    """One optimizer update to be made: `backward()`, then statements of your own if you like, then `step()`.

    Attributes: `number` counts from 1; `rows` (examples,) are positions in the training split, over all processes.
    """

    def __init__(self, loop: Any, batches: MicroBatches) -> None:
        self.number = loop.number + 1
        self.rows = batches.rows
        self._loop = loop
        self._batches = batches
        self._arrival = Arrival(loop.accelerator.device)
        self._losses: Tensor | None = None  # (1 + examples,) or more, of the first backward pass
        self._recorded: dict[str, float] = {}
        self._passes = 0
        self._made: Step | None = None

    def backward(self) -> Self:
        """Forward and backward of each micro-batch. The gradients are added up in `.grad`.

        A second call adds gradients at the parameters' current values, with other dropout.
        """
        losses = self._in_memory(self._loop.gradients)
        self._losses = losses if self._losses is None else self._losses
        self._passes += 1
        return self

    def step(self) -> Step:
        """Make the update: step, schedule, zero the gradients.

        Raises:
            NonFiniteError: the loss or the gradient is not finite; nothing was changed.
            UsageError: there is no gradient yet, or the update was made already.
        """
        loop = self._loop
        step = self._as_step(loop.clip_gradients())
        with loop.as_one():  # all of it or nothing, whatever interrupts
            loop.optimizer.step()
            loop.lr_scheduler.step()
            loop.number += 1
        loop.optimizer.zero_grad()
        return self._close(step)

    def make(self) -> Step:
        """`backward()`, then `step()`. On a GPU both are replayed from a recording, unless a part of them is your own.

        Raises:
            NonFiniteError, UsageError: see `step`.
        """
        replays = self._loop.replays
        if replays is not None and not self._passes:
            try:
                if not replays.is_checked:
                    self._check(replays)
                return self._replay(replays)
            except UnreplayedError as error:
                if replays.is_checked and self._loop.accelerator.num_processes > 1:  # the others wait for a replay
                    what, where = f"cannot be replayed as those before it: {error}", f"update {self.number}"
                    raise UsageError(what, where=where, hint="give --engine plain") from error
                self._loop.go_without_replays(str(error))
                self._loop.optimizer.zero_grad()
        return self.backward().step()

    def record(self, **numbers: float) -> None:
        """Numbers of your own beside those of the step, in `metrics.jsonl` and the trackers.

        Raises:
            UsageError: a name is one of the log's own, or there is no number.
        """
        self._recorded |= recordable(numbers)

    @contextlib.contextmanager
    def moved(self, parameter: Tensor, by: Tensor) -> Iterator[None]:
        """Inside the block `by` is added to a parameter; after it, the parameter has its old value, bit for bit."""
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(by)
        try:
            yield
        finally:
            with torch.no_grad():
                parameter.copy_(before)

    @property
    def made(self) -> Step:
        """The step that was made of this update.

        Raises:
            UsageError: the update was not made.
        """
        if self._made is None:
            hint = "call update.step(), or leave the loop with break: it goes on here"
            raise UsageError("was not made", where=f"update {self.number}", hint=hint)
        return self._made

    def _as_step(self, grad_norm: Tensor) -> Step:
        """What the update will be once it is made; refused where its numbers are not finite.

        Raises:
            NonFiniteError, UsageError: see `step`.
        """
        if self._losses is None:
            what = "has no gradient yet"
            raise UsageError(what, where=f"update {self.number}", hint="update.backward(), then update.step()")
        step = self._described()
        self._arrival.send(torch.cat([grad_norm.reshape(1), self._losses]))
        self._loop._pending.flag(self._losses[0] + grad_norm)
        self._loop._pending.add(step)
        return step

    def _described(self) -> Step:
        loop, batches = self._loop, self._batches
        if self._made is not None:
            what = "was made already"
            raise UsageError(what, where=f"update {self.number}", hint="update.backward(), then update.step(), once")
        if loop._has_stepped:
            hint = "leave loop.optimizer.step() out: update.step() calls it"
            raise UsageError("has stepped by itself", where=f"loop.optimizer, update {self.number}", hint=hint)
        rates = [float(group["lr"]) for group in loop.optimizer.param_groups]
        if wrong := [rate for rate in rates if not 0 <= rate < math.inf]:
            hint = "the share that lr_scheduler gives is a number from 0 on"
            raise UsageError(f"has the learning rate {wrong[0]}", where=f"update {self.number}", hint=hint)
        return Step(
            number=self.number,
            epoch=self.number / loop.steps_per_epoch,
            learning_rate=max(rates),
            examples=batches.examples,
            tokens=sum(micro_batch.tokens for micro_batch in batches.micro_batches),
            padded_tokens=sum(micro_batch.padded_tokens for micro_batch in batches.micro_batches),
            ids=loop.train_updates.split.ids[batches.rows],
            rows=batches.rows,
            arrival=self._arrival,
            recorded=self._recorded,
        )

    def _replay(self, replays: Replays) -> Step:
        """`backward()` and `step()`, as they are recorded."""
        loop = self._loop
        losses = self._in_memory(replays.gradients)
        replays.take(losses)
        recorded = replays.record_step()
        step = self._described()
        with loop.as_one():
            replays.step(recorded)
            loop._has_stepped = True  # which no hook of the optimizer says
            self._arrival.send(replays.numbers[: 1 + len(losses)])
            loop._pending.add(step)
            loop.lr_scheduler.step()
            loop.number += 1
        return self._close(step)

    def _check(self, replays: Replays) -> None:
        """Make the update by replay, compare it with one that Python launches, and leave nothing of both.

        Raises:
            UnreplayedError: they differ by more than rounding, or it cannot be recorded.
            UsageError: there is no memory for a single row.
        """
        with replays.agreed():
            if reason := self._compared(replays):
                raise UnreplayedError(f"made by replay, {reason}")
        replays.is_checked = True

    def _compared(self, replays: Replays) -> str | None:
        loop = self._loop
        losses = self._in_memory(loop.gradients)
        with replays.agreed():
            wanted = torch.cat([loop.clip_gradients().reshape(1), losses])[: 2 + self._batches.examples]
            sample = Sample(loop.optimizer, (wanted[0] + wanted[1]).isfinite().logical_not().float())
            loop.optimizer.zero_grad()
        replays.take(self._in_memory(replays.gradients))
        recorded = replays.record_step()
        tolerance = TOLERANCE_OF_UPDATE if loop.config.precision == "fp32" else TOLERANCE_OF_UPDATE_IN_HALF
        with interrupts_wait(), replays.undone():
            replays.step(recorded)
            got = replays.numbers[: len(wanted)]
            return check_numbers(got, wanted, tolerance) or sample.why_not(loop.optimizer, tolerance)

    def _over_processes(self, losses: Tensor) -> Tensor:
        """The sum, and behind it how many are asked to end: in one reduction, for which a GPU is not waited for."""
        signals = self._loop.stop_signals
        asked = losses.new_full((1,), float(signals is not None and signals.received is not None))
        return self._loop.accelerator.reduce(torch.cat([losses, asked]), "sum")  # type: ignore[no-any-return]

    def _close(self, step: Step) -> Step:
        self._made = step
        self._arrival.close()
        self._loop._pending.settle(behind=1)  # the one before has arrived, while a GPU is at this one
        return step

    def _in_memory(self, gradients: Callable[..., Tensor]) -> Tensor:
        """The losses of all processes, of halved micro-batches from here on where the device has no memory for them.

        Raises:
            UsageError: there is no memory for a single row, or nothing may be halved.
        """
        loop = self._loop
        while True:
            largest = max(len(micro_batch.rows) for micro_batch in self._batches.micro_batches)
            try:
                losses = gradients(self._batches, again=self._passes)
                return losses if loop.accelerator.num_processes == 1 else self._over_processes(losses)
            except torch.OutOfMemoryError as error:
                # Other processes already wait for this one's part, and a first pass would be lost.
                fixed = loop.accelerator.num_processes > 1 or self._passes > 0 or loop.loss.is_coupled
                if largest == 1 or fixed:
                    raise UsageError(
                        f"the device has no memory for {largest} rows at a time",
                        where=f"step {self.number}, --micro-batch-size {loop.train_updates.micro_batch_size}",
                        hint="give a smaller --micro-batch-size" if largest > 1 else "give a smaller --max-length",
                    ) from error
            loop.train_updates.micro_batch_size = largest // 2
            self._batches = loop.train_updates[loop.number]
            loop.optimizer.zero_grad()
            if loop.accelerator.device.type == "cuda":
                torch.cuda.empty_cache()
