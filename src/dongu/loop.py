"""THE loop: forward, backward, step, schedule, zero the gradients.

`Parts` sets a run up in the order in which it happens; `Loop` hands out its updates, and knows nothing of folders. It
calls nobody back: recording, progress, evaluating and stopping are statements of whoever iterates.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from dongu.consistency import check_optimizer, check_rows, marks_of
from dongu.data.batches import Batch, EvalBatches, MicroBatch, MicroBatches, dropout_seed, make_dataloader
from dongu.engine.arrival import Arrival
from dongu.engine.dropout import seed_draws
from dongu.engine.gradients import total_norm
from dongu.errors import NonFiniteError, UsageError
from dongu.evaluate import evaluate, with_weights
from dongu.interrupts import interrupts_wait
from dongu.judge.answers import Evaluation
from dongu.model.lora import load_plain_weights, merged
from dongu.model.scale import UNSCALED
from dongu.own import called
from dongu.parts import Parts

if TYPE_CHECKING:
    import dongu

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Step:
    """One optimizer update, after it was made. Counts are over all processes, tokens over this one.

    A GPU may still be at it: then reading its loss, its norm or its seconds waits, and raises `NonFiniteError` where
    the update was not made.
    """

    number: int  # from 1
    epoch: float  # passes over the training rows so far
    learning_rate: float  # that the update used; under --layer-decay that of the head
    examples: int
    tokens: int  # real ones
    padded_tokens: int  # what they are when each row is padded to the longest of its micro-batch
    ids: np.ndarray = field(compare=False)  # (examples,), the row number of each in the source
    rows: np.ndarray = field(compare=False)  # (examples,), its position in the training split
    arrival: Arrival = field(compare=False, repr=False)  # of the norm, the loss, and the loss of each example
    recorded: dict[str, float] = field(compare=False, default_factory=dict)  # by `update.record`

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
        """(examples,), the loss of each just before the update, with dropout."""
        return self._numbers[2:]

    @property
    def seconds(self) -> float:
        """That the device was at it."""
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


class Update:
    """One optimizer update that is yet to be made: `backward()`, perhaps statements of your own, then `step()`.

    Attributes: `number` counts from 1; `rows` (examples,) are positions in the training split, over all processes.
    """

    def __init__(self, loop: Loop, batches: MicroBatches) -> None:
        self.number = loop.number + 1
        self.rows = batches.rows
        self._loop = loop
        self._batches = batches
        self._arrival = Arrival(loop.accelerator.device)
        self._losses: Tensor | None = None  # (1 + examples,), of the first backward pass
        self._recorded: dict[str, float] = {}
        self._passes = 0
        self._made: Step | None = None

    def backward(self) -> Self:
        """Forward and backward of each micro-batch: adds to the gradients, which are in `.grad` then.

        Called again it adds those of the parameters as they are by then, with other dropout.
        """
        losses = self._in_memory(self._loop.gradients)
        self._losses = losses if self._losses is None else self._losses
        self._passes += 1
        return self

    def step(self) -> Step:
        """Make the update: step, schedule, zero the gradients.

        Raises:
            NonFiniteError: the loss or the gradient is not finite; nothing was changed.
            UsageError: it has no gradient yet, or was made already.
        """
        loop = self._loop
        step = self._as_step(loop.clip_gradients())
        with loop.as_one():  # all of it or nothing, whatever interrupts
            loop.optimizer.step()
            loop.lr_scheduler.step()
            loop.number += 1
        loop.optimizer.zero_grad()
        return self._close(step)

    def record(self, **numbers: float) -> None:
        """Numbers of your own beside those of the step, in `metrics.jsonl` and the trackers."""
        self._recorded.update({name: float(value) for name, value in numbers.items()})

    @contextlib.contextmanager
    def moved(self, parameter: Tensor, by: Tensor) -> Iterator[None]:
        """Inside the block a parameter is elsewhere; after it, where it was, to the bit."""
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
        """The step that it has become.

        Raises:
            UsageError: whoever asked for the update went on without it.
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
        loop, batches = self._loop, self._batches
        if self._losses is None or self._made is not None:
            what = "has no gradient yet" if self._losses is None else "was made already"
            raise UsageError(what, where=f"update {self.number}", hint="update.backward(), then update.step(), once")
        self._arrival.send(torch.cat([grad_norm.reshape(1), self._losses]))
        step = Step(
            number=self.number,
            epoch=self.number / loop.steps_per_epoch,
            learning_rate=max(float(group["lr"]) for group in loop.optimizer.param_groups),
            examples=batches.examples,
            tokens=sum(micro_batch.tokens for micro_batch in batches.micro_batches),
            padded_tokens=sum(micro_batch.padded_tokens for micro_batch in batches.micro_batches),
            ids=loop.train_updates.split.ids[batches.rows],
            rows=batches.rows,
            arrival=self._arrival,
            recorded=self._recorded,
        )
        loop._pending.add(step, self._losses[0] + grad_norm)
        return step

    def _close(self, step: Step) -> Step:
        self._made = step
        self._arrival.close()
        self._loop._pending.settle(behind=1)  # the one before has arrived, while a GPU is at this one
        return step

    def _in_memory(self, gradients: Callable[..., Tensor]) -> Tensor:
        """The losses of all processes, of halved micro-batches from here on where the device has no memory for them.

        Args:
            gradients: `Loop.gradients`.

        Raises:
            UsageError: there is no memory for a single row, or nothing may be halved.
        """
        loop = self._loop
        while True:
            largest = max(len(micro_batch.rows) for micro_batch in self._batches.micro_batches)
            try:
                losses = gradients(self._batches, again=self._passes)
                return loop.accelerator.reduce(losses, "sum")  # type: ignore[no-any-return]
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


class Loop(Parts):
    """A training run in your hands.

    Args:
        data: what `DATA` is on the command line, or a `datasets.DatasetDict`, a pandas frame, a list of dicts, or a
            dict of these by split.
        parts: a Python file that defines parts of your own under the names below.
        options: those of `RunConfig` by name, and parts of your own: `model` (a module, or a function that makes one),
            `tokenizer`, `loss(model, batch)` with one number a row, `optimizer(parameters)`,
            `lr_scheduler(step, total_steps)`, `order(split, epoch, seed)`, `collate(split, rows)`, `metrics` by name,
            `setup(loop)`, `update(loop, update)`, `eval_model(loop)`.

    Iterating yields a `Step` after each update and goes on where it stopped. Attributes are the textbook's:
    `model`, `tokenizer`, `optimizer`, `lr_scheduler`, `train_dataloader`, `accelerator`. `own` holds state of your own
    (anything with `state_dict`) that checkpoints shall hold.

    Raises:
        InputError: the options, the data, the model or a part cannot be used; nothing was written.
    """

    def __init__(self, data: Any = None, *, parts: str | Path | None = None, **options: Any) -> None:
        super().__init__(data, parts=parts, **options)
        self.number = 0  # updates made
        self._pending.undo = lambda number: None if self.number == number else self._be_at(number)
        self._with_gradient = 0  # parameters, in the last update
        if self.given.setup is not None:
            called(self.given.setup, "setup", self)

    def __iter__(self) -> Iterator[Step]:
        for update in self.updates():
            if self.given.update is None:
                update.backward()
                update.step()
            else:  # statements of your own
                self.given.update(self, update)
            yield update.made

    def updates(self) -> Iterator[Update]:
        """The updates that are still to come, each with no gradient yet: `backward()` and `step()` make it.

        Before the first, and whenever a part is another, the parts are looked at: see `dongu.consistency`.

        Raises:
            NonFiniteError: a loss or a gradient is not finite; that update was not made.
            UsageError: parts of the loop do not belong together, or an update was asked for and not made.
        """
        while self.number < self.total_steps:
            self._look()
            marks, first = marks_of(self), self.number
            for made, batches in enumerate(self.train_dataloader, 1):
                check_rows(self, batches)
                self._keep_modes()
                self.optimizer.zero_grad()  # of what an interrupted update, or you, have left
                update = Update(self, batches)
                yield update
                _ = update.made  # or it is an error
                if self.number != first + made or marks_of(self) != marks:
                    break
        self._pending.settle()

    def run(self, path: str | Path | None = None, **how: Any) -> dongu.Run:
        """A run folder for this loop, a new one or one to go on with: `with loop.run("runs/mine") as run`.

        Args:
            path: the folder (default: the option `out`, or runs/NAME).
            how: see `dongu.training.Run`.
        """
        import dongu  # a run stands above the loop, which knows it by its public name alone

        return dongu.Run(self, path, **how)

    @property
    def train_dataloader(self) -> Any:
        """The updates that are still to come, one item an update."""
        return make_dataloader(
            self.train_updates,
            range(self.number, self.total_steps),
            workers=self.config.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )

    def gradients(self, batches: MicroBatches, *, again: int = 0) -> Tensor:
        """Forward and backward of an update: adds to the gradients, and gives its losses, (1 + examples,).

        The first is this process's part of the loss of the update, which is the sum over its examples divided by their
        number, or by the sum of their weights, over all micro-batches and processes: however it is split, it is the
        same. Then comes the loss of each example by itself, 0 for those of other processes: summed over all, each is
        there once.

        Args:
            batches: what falls to this process.
            again: passes of this update before this one, for other dropout.
        """
        losses = torch.zeros(1 + batches.examples, device=self.accelerator.device)
        for micro_batch in batches.micro_batches:
            with self._as_planned(batches, micro_batch, again):  # its dropout; processes add up at the last one
                loss, of_rows = self.loss.of(self.engine, self._on_device(micro_batch))  # forward
                loss = loss * (micro_batch.examples > 0) / batches.weight  # a stand-in row counts nothing
                (loss * self.accelerator.num_processes).backward()  # DDP averages; the sum is wanted
            losses[0] += loss.detach() * self.loss.unit
            if micro_batch.examples:
                first = 1 + micro_batch.position
                losses[first : first + micro_batch.examples] = of_rows
        return losses

    @contextlib.contextmanager
    def _as_planned(self, batches: MicroBatches, micro_batch: MicroBatch, again: int) -> Iterator[None]:
        """Dropout is a function of (seed, step, position): nothing that happens between steps can move it."""
        seed = dropout_seed(self.config.seed, self.number + 1, micro_batch.position, again)
        seed_draws(self.accelerator.device, seed)
        last = micro_batch is batches.micro_batches[-1]
        with contextlib.nullcontext() if last else self.accelerator.no_sync(self.engine):
            yield

    def _on_device(self, micro_batch: MicroBatch) -> Batch:
        device, columns = self.accelerator.device, self.train_updates.split.columns
        inputs = micro_batch.to(device)  # (batch, tokens) each
        labels = inputs.pop("labels")  # (batch,)
        dtype = next(self.model.parameters()).dtype
        numbers = {
            name: torch.from_numpy(column[micro_batch.rows]).to(device, dtype) for name, column in columns.items()
        }
        inputs |= {name: numbers[name] for name in numbers if name in inputs}
        return Batch(inputs, labels, torch.from_numpy(micro_batch.rows).to(device), numbers, self.number + 1)

    def clip_gradients(self) -> Tensor:
        """The norm of the whole gradient, (), which is scaled down to `--max-grad-norm` where it is larger."""
        groups = self.optimizer.param_groups
        parameters = [p for group in groups for p in group["params"] if p.grad is not None]
        if len(parameters) != self._with_gradient:  # frozen or not, or no longer in the model
            check_optimizer(self)
            self._with_gradient = len(parameters)
        if not parameters:
            return torch.zeros((), device=self.accelerator.device)
        norm = total_norm([p.grad for p in parameters], exactly_as_pytorch=self.config.engine == "plain")
        if self.config.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.max_grad_norm, norm)
        return norm

    @contextlib.contextmanager
    def as_one(self) -> Iterator[None]:
        """Weights, schedule and count move inside the block: all of them or none, whatever interrupts."""
        number, self._has_stepped = self.number, False
        with interrupts_wait():
            try:
                yield
            except BaseException:  # of a hook of the optimizer, say
                if self._has_stepped:
                    self._be_at(number + 1)
                raise

    def _keep_modes(self) -> None:
        """Each module trains in the mode that it is in, unless somebody has put the whole model in eval mode.

        That is how one looks at a model; then the modes are those of the update before, or of a loop just made.
        """
        if self.model.training:
            self._modes = [module.training for module in self._modules]
        else:
            for module, training in zip(self._modules, self._modes, strict=True):
                module.training = training

    def go_to(self, number: int) -> None:
        """Continue after update `number`, as if the loop had come there; weights and moments are the caller's.

        Raises:
            NonFiniteError: an update that is still under way was not made.
            UsageError: a schedule of your own was given later than that.
        """
        self._pending.settle()
        self._look_at_schedule()
        self._be_at(number)

    def _be_at(self, number: int) -> None:
        """Count and schedule as they are after update `number`."""
        self.number = number
        self._course.go_to(number)

    def evaluate(self, split: str = "validation", *, model: nn.Module | None = None) -> Evaluation:
        """Metrics and predictions of a split by the model as it is now, on all processes together.

        Where a row has several labels, validation sets the threshold, in the model's config, that all other splits
        are judged by.

        Args:
            split: one of `loop.splits`.
            model: another one of the same weights' names, an average of them say, whose weights are taken for this.

        Raises:
            UsageError: there is no such split.
            NonFiniteError: the model has a NaN or an infinity for some row.
        """
        if split not in self.splits:
            not_read = f"; not used: {', '.join(self.data.not_read)}" if self.data.not_read else ""
            raise UsageError(f"there is no split `{split}`", hint=f"the splits are: {', '.join(self.splits)}{not_read}")
        self._look_at_engine()
        batches = EvalBatches(self.splits[split], self.collate, self.config.eval_batch_size)
        validation, workers = split == "validation", self.config.workers
        try:
            with with_weights(self.model, model or self.evaluated_model()), merged(self.model):
                evaluation = evaluate(
                    self.engine,
                    batches,
                    self.accelerator,
                    self.metrics,
                    scale=self.loss.scale,
                    choose_threshold=validation,
                    workers=workers,
                )
        except NonFiniteError as error:
            raise NonFiniteError(error.what, where=f"after step {self.number}, {error.where}") from error
        if validation and self.data.task == "multi-label":
            self.model.config.threshold = evaluation.threshold
        return evaluation

    def evaluated_model(self) -> nn.Module | None:
        """The module whose weights are evaluated and kept, by the part `eval_model`; None for `model` itself."""
        own = self.given.eval_model
        return None if own is None else called(own, "eval_model", self)

    def take_over(self, saved: Any) -> None:
        """The weights of a saved model, and what came with them: a threshold, or answers in the unit of the labels."""
        load_plain_weights(self.model, saved.state_dict())
        if self.data.task == "regression" and self.loss.scale != UNSCALED:
            self.loss = replace(self.loss, scale=UNSCALED)
            # In fp32: such answers need more digits than bf16 has.
            self.engine = self.accelerator.unwrap_model(self.engine, keep_fp32_wrapper=False)
        if self.data.task == "multi-label":
            self.model.config.threshold = saved.config.threshold
