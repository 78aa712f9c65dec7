"""THE loop: forward, backward, step, schedule, zero the gradients.

`Parts` sets a run up in the order in which it happens; `Loop` hands out its updates, and knows nothing of folders. It
calls nobody back: recording, progress, evaluating and stopping are statements of whoever iterates.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from dongu import consistency
from dongu.config import NUMBERS
from dongu.contract import check_inputs, collated_rows
from dongu.data.batches import EvalBatches
from dongu.data.collate import Batch, Collator, MicroBatch, MicroBatches
from dongu.data.loader import make_dataloader
from dongu.data.tokenized import NumericColumns
from dongu.draws import DRAWING, dropout_seed, seed_draws, seed_python, seeded
from dongu.engine.device import keep_threads
from dongu.engine.gradients import total_norm
from dongu.engine.packed import inside_ddp
from dongu.engine.replays import Replays, recorded_parts
from dongu.engine.shard import clip, over_processes, own_part
from dongu.errors import NonFiniteError, UsageError
from dongu.evaluate import evaluate, with_weights
from dongu.interrupts import interrupts_wait
from dongu.judge.answers import Evaluation
from dongu.model.lora import load_plain_weights, merged
from dongu.model.scale import UNSCALED
from dongu.options import Options
from dongu.own import Own, called
from dongu.parts import Parts
from dongu.update import Step, Update

if TYPE_CHECKING:
    import dongu

_BEFORE = -1  # the position of what an update draws before its first pass


class Loop(Parts):
    """A training run in your hands.

    Args:
        data: what `DATA` is on the command line, or a `datasets.DatasetDict`, a pandas frame, a list of dicts, or a
            dict of these by split.
        parts: a Python file that defines parts of your own under the names below.
        options: those of `RunConfig` by name, and parts of your own: `model` (a module, or a function that makes one),
            `tokenizer`, `loss(model, batch)` that gives one number for each row, `optimizer(parameters)`,
            `lr_scheduler(step, total_steps)`, `order(split, epoch, seed)`, `collate(split, rows)`, `metrics` by name,
            `setup(loop)`, `update(loop, update)`, `eval_model(loop)`.

    Iterating yields a `Step` after each update, and continues where it stopped. The attributes have the usual names:
    `model`, `tokenizer`, `optimizer`, `lr_scheduler`, `train_dataloader`, `accelerator`. Put state of your own that
    belongs into checkpoints (anything with `state_dict`) into `own`.

    Raises:
        InputError: the options, the data, the model or a part cannot be used; nothing was written.
    """

    def __init__(self, data: Any = None, *, parts: str | Path | Own | None = None, **options: Unpack[Options]) -> None:
        with DRAWING:  # of a loop in another thread, which draws its head, or tries its engine, meanwhile
            super().__init__(data, parts=parts, **options)
        self._pending.undo = lambda number: None if self.number == number else self._be_at(number)
        self._with_gradient = 0  # parameters, in the last update
        self._fixed = consistency.fixed(self)
        self.stop_signals: Any = None  # of the run; several processes tell each other with their losses
        self.replays: Replays | None = None  # that make a GPU's updates
        self.not_replayed: str | None = None  # why they do not, found while it trains
        if self.given.setup is not None:
            called(self.given.setup, "setup", loop=self)
        self._made = consistency.assignable(self)

    def __repr__(self) -> str:
        return f"<Loop {self.config.model} on {self.data.name}: step {self.number} of {self.total_steps}>"

    def __iter__(self) -> Iterator[Step]:
        for update in self.updates():
            if self.given.update is None:
                update.make()  # backward(), step()
            else:  # statements of your own
                self.given.update(self, update)
            yield update.made

    def updates(self) -> Iterator[Update]:
        """The remaining updates, none computed yet: call `backward()` and then `step()` on each.

        The parts are checked before the first update, and again whenever one was replaced: see `dongu.consistency`.

        Raises:
            NonFiniteError: a loss or a gradient is not finite; that update was not made.
            UsageError: the parts do not belong together, or the previous update was not made.
        """
        while self.number < self.total_steps:
            self._look()
            keep_threads(self.config)  # another loop of the process may have others
            self._look_at_replays()
            marks, first = consistency.marks_of(self), self.number
            for made, batches in enumerate(self.train_dataloader, 1):
                consistency.check_rows(self, batches)
                consistency.check_rates(self)
                self._keep_modes()
                if self._has_gradient():  # which an interrupted update, or you, have left
                    self.optimizer.zero_grad()
                self._seed(_BEFORE)
                update = Update(self, batches)
                yield update
                _ = update.made  # or it is an error
                if self.number != first + made or consistency.marks_of(self) != marks:
                    break
        self._pending.settle()

    def run(self, path: str | Path | None = None, **how: Any) -> dongu.Run:
        """A run folder for this loop, new or to be continued: `with loop.run("runs/mine") as run`.

        Args:
            path: the folder (default: the option `out`, or runs/NAME).
            how: see `dongu.Run`.
        """
        import dongu  # a run stands above the loop, which knows it by its public name alone

        return dongu.Run(self, path, **how)

    @property
    def train_dataloader(self) -> Any:
        """The remaining updates, one item for each."""
        return make_dataloader(
            self.train_updates,
            range(self.number, self.total_steps),
            workers=self.config.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )

    def gradients(self, batches: MicroBatches, *, again: int = 0) -> Tensor:
        """Forward and backward of an update: adds to the gradients and returns the losses, (1 + examples,).

        The first is this process's share of the update's loss: the sum over its examples, divided by the number of
        examples (or the sum of their weights) of the whole update, over all micro-batches and processes. So the loss
        is the same however the update is split. Then follows the loss of each example, 0 for those of other processes.

        Args:
            batches: this process's share of the update.
            again: how many passes of this update came before; each draws other dropout.
        """
        losses = torch.zeros(1 + batches.examples, device=self.accelerator.device)
        # On the device, since CUDA divides by a number of the host's otherwise, and a replay has none.
        weight = torch.full((), batches.weight, device=losses.device)
        for micro_batch in batches.micro_batches:
            with self._as_planned(batches, micro_batch, again):  # its dropout; processes add up at the last one
                loss, of_rows = self.loss.of(self.engine, self._on_device(micro_batch))  # forward
                loss = loss * (micro_batch.examples > 0) / weight  # a stand-in row counts nothing
                (loss * self.accelerator.num_processes).backward()  # DDP averages; the sum is wanted
            losses[0] += loss.detach() * self.loss.unit
            if micro_batch.examples:
                first = 1 + micro_batch.position
                losses[first : first + micro_batch.examples] = of_rows
        return losses

    @contextlib.contextmanager
    def _as_planned(self, batches: MicroBatches, micro_batch: MicroBatch, again: int) -> Iterator[None]:
        last = micro_batch is batches.micro_batches[-1]
        with DRAWING, contextlib.nullcontext() if last else self.accelerator.no_sync(self.engine):
            self._seed(micro_batch.position, again)
            yield

    def _seed(self, position: int, again: int = 0) -> None:
        """What is drawn is a function of (seed, step, position): nothing that happens between steps can move it."""
        seed = dropout_seed(self.config.seed, self.number + 1, position, again)
        seed_draws(self.accelerator.device, seed)
        if self.given.names:
            seed_python(seed)

    def _on_device(self, micro_batch: MicroBatch) -> Batch:
        device, columns = self.accelerator.device, self.train_updates.split.columns
        check_inputs(self, micro_batch.tensors)
        inputs = micro_batch.to(device)  # (batch, tokens) each
        labels = inputs.pop("labels")  # (batch,)
        dtype = next(self.model.parameters()).dtype if self.config.base_precision == "fp32" else torch.float32
        numbers = NumericColumns(
            (name, torch.from_numpy(column[micro_batch.rows]).to(device, dtype)) for name, column in columns.items()
        )
        inputs |= {name: numbers[name] for name in numbers if name in inputs}
        return Batch(inputs, labels, torch.from_numpy(micro_batch.rows).to(device), numbers, self.number + 1)

    def clip_gradients(self) -> Tensor:
        """Scale the gradient down to `--max-grad-norm` if it is larger, and return its norm before that, ()."""
        groups = self.optimizer.param_groups
        parameters = [p for group in groups for p in group["params"] if p.grad is not None]
        if len(parameters) != self._with_gradient:  # frozen or not, or no longer in the model
            consistency.check_optimizer(self)
            self._with_gradient = len(parameters)
        if not parameters:
            return torch.zeros((), device=self.accelerator.device)
        gradients = [own_part(p.grad) for p in parameters]
        norm = total_norm(gradients, exactly_as_pytorch=self.config.engine == "plain")
        limit = self.config.max_grad_norm
        if self.is_sharded:
            norm = over_processes(norm)
            if limit is not None:
                clip(gradients, limit, norm)
        elif limit is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        return norm

    @contextlib.contextmanager
    def as_one(self) -> Iterator[None]:
        """Inside the block weights, schedule and step count change together, or not at all if interrupted."""
        number = self.number
        with interrupts_wait():
            try:
                yield
            except BaseException:  # of a hook of the optimizer, say
                if self._has_stepped:
                    self._be_at(number + 1)
                raise
            finally:
                self._has_stepped = False

    def _look_at_replays(self) -> None:
        """Updates are made by replay where that is the same: see `dongu.engine.replays`."""
        if getattr(inside_ddp(self.engine), "graphs", None) is None or consistency.why_not_replayed(self):
            self._leave_replays()
        elif self.replays is None or not consistency.are_same(self.replays.parts, recorded_parts(self)):
            self.replays = Replays(self)

    def _leave_replays(self) -> None:
        if self.replays is not None:
            self.replays.leave()
        self.replays = None

    def _has_gradient(self) -> bool:
        return any(p.grad is not None for group in self.optimizer.param_groups for p in group["params"])

    def go_without_replays(self, reason: str) -> None:
        """Launch the following updates from Python. Forward and backward of the model may still be replayed."""
        self.not_replayed = reason
        self._leave_replays()
        warnings.warn(f"updates are not replayed from here on: {reason}", stacklevel=4)

    def _keep_modes(self) -> None:
        """Each module trains in the mode that it is in, unless somebody has put the whole model in eval mode.

        That is how one looks at a model; then the modes are those of the update before, or of a loop just made.
        """
        if not self.model.training:
            for module, training in self.modes().items():
                module.training = training
        self._modes = [module.training for module in self._modules]

    def modes(self) -> dict[nn.Module, bool]:
        """Whether each module is in training mode in the next update."""
        modes = [module.training for module in self._modules] if self.model.training else self._modes
        return dict(zip(self._modules, modes, strict=True))

    def go_to(self, number: int) -> None:
        """Continue after update `number`. The caller restores weights and optimizer state.

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
        """Metrics and predictions of the current model on a split; all processes share the rows.

        For multi-label data, validation sets the threshold (in the model's config) that the other splits use.

        Args:
            split: one of `loop.splits`.
            model: a model with parameters of the same names, such as an average of weights, to be evaluated instead.

        Raises:
            UsageError: there is no such split.
            NonFiniteError: the model gives NaN or infinity for a row.
        """
        if split not in self.splits:
            not_read = f"; not used: {', '.join(self.data.not_read)}" if self.data.not_read else ""
            raise UsageError(f"there is no split `{split}`", hint=f"the splits are: {', '.join(self.splits)}{not_read}")
        self._look_at_engine()
        keep_threads(self.config)
        collate: Any = self.collate if isinstance(self.collate, Collator) else partial(collated_rows, self)
        batches = EvalBatches(self.splits[split], collate, self.config.eval_batch_size)
        validation, workers = split == "validation", self.config.workers
        try:
            draws = seeded(self.accelerator.device, dropout_seed(self.config.seed, 0, 0))  # the same in each evaluation
            with draws, with_weights(self.model, model or self.evaluated_model()), merged(self.model):
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
        """The module that the part `eval_model` has evaluated and saved in place of `model`; None without that part."""
        own = self.given.eval_model
        return None if own is None else called(own, "eval_model", loop=self)

    def take_over(self, weights: Mapping[str, Tensor], threshold: float | None = None) -> None:
        """Load the weights of a saved model, and its threshold or the scale of its numbers.

        If the model is sharded, only the first process has read them; it sends the others their shards.
        """
        load_plain_weights(self.model, weights)
        if self.data.task in NUMBERS and self.loss.scale != UNSCALED:
            self.loss = replace(self.loss, scale=UNSCALED)
            # In fp32: such answers need more digits than bf16 has.
            self.engine = self.accelerator.unwrap_model(self.engine, keep_fp32_wrapper=False)
        if self.data.task == "multi-label":
            found = [threshold]
            self.model.config.threshold = (broadcast_object_list(found) if self.is_sharded else found)[0]
