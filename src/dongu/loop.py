"""THE loop: forward, backward, step, schedule, zero the gradients.

`Loop` sets a run up in the order in which it happens, and then hands out one `Step` an optimizer update. It calls
nobody back: recording, progress, evaluating and stopping are statements of whoever iterates.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dongu.config import RunConfig, make_config
from dongu.data.batches import Collator, EvalBatches, Split, TrainUpdates, Update, dropout_seed, make_dataloader
from dongu.data.examples import Examples, TextData, read_examples
from dongu.data.sources import read_source
from dongu.data.tokens import check_known, tokenize
from dongu.data.weights import resolve_weights, row_weights
from dongu.errors import NonFiniteError, UsageError
from dongu.evaluate import MAY_DIFFER_ALONE, Evaluation, difference_alone, evaluate
from dongu.extras import require_extras
from dongu.metrics import MetricSet
from dongu.model.arrival import Arrival
from dongu.model.device import make_accelerator
from dongu.model.dropout import seed_draws
from dongu.model.finite import check_finite
from dongu.model.gradients import total_norm
from dongu.model.head import declared_labels
from dongu.model.load import (
    check_vocabulary,
    load_model,
    load_tokenizer,
    model_columns,
    position_count,
    usual_length,
)
from dongu.model.lora import add_lora, load_plain_weights, merged
from dongu.model.loss import Loss
from dongu.model.optimizer import make_optimizer, skip_on_gpu
from dongu.model.padding_free import without_padding
from dongu.model.place import resolve_model
from dongu.model.processes import compare, facts_of
from dongu.model.scale import UNSCALED, Scale
from dongu.model.schedule import make_scheduler, total_steps, warmup_steps

CHECKED_ROWS = 8  # that both engines compute before the first step


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
    arrival: Arrival = field(compare=False, repr=False)  # of the norm, the loss, and the loss of each example

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


class Loop:
    """A training run in your hands.

    Args:
        data: what `DATA` is on the command line, or a `datasets.DatasetDict`, a pandas frame, a list of dicts, or a
            dict of these by split.
        options: those of `RunConfig` by name.

    Iterating yields a `Step` after each update and goes on where it stopped. Attributes are the textbook's:
    `model`, `tokenizer`, `optimizer`, `lr_scheduler`, `train_dataloader`, `accelerator`. `engine` computes the model:
    the model itself, or its padding-free form, in what mixed precision and several processes wrap around it.

    Raises:
        InputError: the options, the data or the model cannot be used; nothing was written.
    """

    def __init__(self, data: Any = None, **options: Any) -> None:
        if isinstance(data, str | TextData):
            options["data"] = data if isinstance(data, str) else data.place
        config = make_config(options)
        require_extras(config)
        self.data = (
            data
            if isinstance(data, TextData)
            else read_examples(read_source(config.data if data is None else data), config)
        )

        self.accelerator = make_accelerator(config)
        processes = self.accelerator.num_processes
        model_path = resolve_model(config.model)
        self.tokenizer = load_tokenizer(model_path)
        self.model = load_model(
            model_path,
            label_names=self.data.label_names,
            task=self.data.task,
            pad_token_id=self.tokenizer.pad_token_id,
            seed=config.seed,
        )
        self.data = self.data.in_order_of(declared_labels(self.model.config))
        check_vocabulary(self.model, self.tokenizer, config.model)
        check_finite(self.model.state_dict(), f"--model {config.model}")
        if config.lora is not None:
            add_lora(self.model, config.lora, config.seed)
        self.config = self._resolve(config)
        self.metrics = MetricSet.of(self.data.task, self.data.label_names, self.data.hub_name, self.config.metric)

        with self.accelerator.main_process_first():  # the first one fills the token cache, the others read it
            self.splits = {name: self._tokenize(name, examples) for name, examples in self.data.splits.items()}
        check_known(self.splits["train"].tokens, self.tokenizer, self.data.splits["train"].origin)
        if processes > 1:
            compare(self.accelerator, facts_of(self.config, self.data, self.splits, self.model))
        self.collate = Collator.of(self.tokenizer, model_columns(self.model))
        self.not_recorded: str | None = None  # why a GPU's steps are no replays
        self.loss, weights = self._make_loss()
        engine, self.fallback = self._choose_engine()
        self.updates = TrainUpdates(
            self.splits["train"],
            self.collate,
            seed=self.config.seed,
            batch_size=self.config.batch_size,
            micro_batch_size=self.config.micro_batch_size or self.config.batch_size,
            group_by_length=self.config.group_by_length,
            row_weights=weights,
            process=self.accelerator.process_index,
            processes=processes,
        )
        self.steps_per_epoch = self.updates.steps_per_epoch
        self.total_steps = total_steps(self.config, self.steps_per_epoch)
        self.warmup_steps = warmup_steps(self.config, self.total_steps)
        self.number = 0  # updates made

        # The model alone is prepared: Accelerate would step the schedule once a process, and deal the rows out anew.
        self.engine = self.accelerator.prepare_model(engine)
        self.alone = self._compare_alone()  # how far an answer depends on the other rows of a batch
        self.optimizer = make_optimizer(self.model, self.config)
        self.lr_scheduler = make_scheduler(self.optimizer, self.config, self.total_steps)
        self._skip = skip_on_gpu(self.optimizer, self.accelerator.device)

    @property
    def train_dataloader(self) -> Any:
        """The updates that are still to come, one item an update."""
        return make_dataloader(
            self.updates,
            range(self.number, self.total_steps),
            workers=self.config.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )

    def __iter__(self) -> Iterator[Step]:
        accelerator, before = self.accelerator, None
        for update in self.train_dataloader:
            arrival = Arrival(accelerator.device)
            if not (self.engine.training and self.model.training):  # to tell every module takes a millisecond
                self.engine.train()

            # Forward, backward.
            losses = accelerator.reduce(self._gradients_in_memory(update), "sum")
            grad_norm = self._clip_gradients()
            arrival.send(torch.cat([grad_norm.reshape(1), losses]))
            step = Step(
                number=self.number + 1,
                epoch=(self.number + 1) / self.steps_per_epoch,
                learning_rate=max(self.lr_scheduler.get_last_lr()),
                examples=update.examples,
                tokens=sum(micro_batch.tokens for micro_batch in update.micro_batches),
                padded_tokens=sum(micro_batch.padded_tokens for micro_batch in update.micro_batches),
                ids=self.splits["train"].ids[self.updates.rows(self.number)],
                arrival=arrival,
            )
            if self._skip is None:
                step.check()
            else:  # on the GPU, which is not waited for: from the first number that is not finite on
                torch.maximum(self._skip, (losses[0] + grad_norm).isfinite().logical_not(), out=self._skip)

            # Step, schedule, zero the gradients.
            self.optimizer.step()
            self.lr_scheduler.step()
            self.optimizer.zero_grad()

            self.number += 1
            arrival.close()
            self._settle(before)  # has arrived, while the GPU is at this one
            yield step
            before = step
        self._settle(before)

    def _settle(self, step: Step | None) -> None:
        """Wait for a step. Where its update was not made, be where it had not been tried, as the weights are.

        Raises:
            NonFiniteError: see `Step.check`.
        """
        if step is None:
            return
        try:
            step.check()
        except NonFiniteError:
            self.go_to(step.number - 1)
            if self._skip is not None:
                self._skip.zero_()
            raise

    def gradients(self, update: Update) -> Tensor:
        """Forward and backward of an update: adds to the gradients, and gives its losses, (1 + examples,).

        The first is this process's part of the loss of the update, which is the sum over its examples divided by their
        number, or by the sum of their weights, over all micro-batches and processes: however it is split, it is the
        same. Then comes the loss of each example by itself, 0 for those of other processes: summed over all, each is
        there once.
        """
        accelerator, engine = self.accelerator, self.engine
        losses = torch.zeros(1 + update.examples, device=accelerator.device)
        for micro_batch in update.micro_batches:
            # Dropout is a function of (seed, step, position): nothing that happens between steps can move it.
            seed_draws(accelerator.device, dropout_seed(self.config.seed, self.number + 1, micro_batch.position))
            inputs = micro_batch.to(accelerator.device)  # (batch, tokens) each
            labels = inputs.pop("labels")  # (batch,)
            last = micro_batch is update.micro_batches[-1]
            with contextlib.nullcontext() if last else accelerator.no_sync(engine):
                logits = engine(**inputs).logits  # (batch, labels)
                counts = float(micro_batch.examples > 0)  # a stand-in row counts nothing
                micro_loss = self.loss.summed(logits, labels) * counts / update.weight
                (micro_loss * accelerator.num_processes).backward()  # DDP averages; the sum is wanted
            losses[0] += micro_loss.detach() * self.loss.unit
            if micro_batch.examples:
                first = 1 + micro_batch.position
                losses[first : first + micro_batch.examples] = self.loss.of_rows(logits.detach(), labels)
        return losses

    def _gradients_in_memory(self, update: Update) -> Tensor:
        """`gradients`, of halved micro-batches from here on where the device has no memory for them.

        Raises:
            UsageError: there is no memory for a single row.
        """
        while True:
            if max(len(micro_batch.rows) for micro_batch in update.micro_batches) > self.updates.micro_batch_size:
                update = self.updates[self.number]  # it was prepared before memory ran out
            largest = max(len(micro_batch.rows) for micro_batch in update.micro_batches)
            try:
                return self.gradients(update)
            except torch.OutOfMemoryError as error:
                if largest == 1 or self.accelerator.num_processes > 1:  # the others already wait for this one's part
                    raise UsageError(
                        f"the device has no memory for {largest} rows at a time",
                        where=f"step {self.number + 1}, --micro-batch-size {self.updates.micro_batch_size}",
                        hint="give a smaller --micro-batch-size" if largest > 1 else "give a smaller --max-length",
                    ) from error
            self.updates.micro_batch_size = largest // 2
            self.optimizer.zero_grad()
            if self.accelerator.device.type == "cuda":
                torch.cuda.empty_cache()

    def go_to(self, number: int) -> None:
        """Continue after update `number`, as if the loop had come there; weights and moments are the caller's."""
        scheduler = self.lr_scheduler
        rates = [base * share(number) for base, share in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        scheduler.load_state_dict(
            {**scheduler.state_dict(), "last_epoch": number, "_step_count": number + 1, "_last_lr": rates}
        )
        self.number = number

    def evaluate(self, split: str = "validation") -> Evaluation:
        """Metrics and predictions of a split by the model as it is now, on all processes together.

        Where a row has several labels, validation sets the threshold, in the model's config, that all other splits
        are judged by.

        Raises:
            UsageError: there is no such split.
            NonFiniteError: the model has a NaN or an infinity for some row.
        """
        if split not in self.splits:
            raise UsageError(f"there is no split `{split}`", hint=f"the splits are: {', '.join(self.splits)}")
        batches = EvalBatches(self.splits[split], self.collate, self.config.eval_batch_size)
        validation, workers = split == "validation", self.config.workers
        try:
            with merged(self.model):
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

    def take_over(self, saved: Any) -> None:
        """The weights of a saved model, and what came with them: a threshold, or answers in the unit of the labels."""
        load_plain_weights(self.model, saved.state_dict())
        if self.data.task == "regression":
            self.loss = replace(self.loss, scale=UNSCALED)
            # In fp32: such answers need more digits than bf16 has.
            self.engine = self.accelerator.unwrap_model(self.engine, keep_fp32_wrapper=False)
        if self.data.task == "multi-label":
            self.model.config.threshold = saved.config.threshold

    def _choose_engine(self) -> tuple[Any, str | None]:
        """What computes a micro-batch: the padding-free form, or the model itself and why, if it was not asked for."""
        if self.config.engine == "plain":
            return self.model, None
        sample = self.collate(self.splits["train"], np.arange(min(len(self.splits["train"]), CHECKED_ROWS)))
        sample.pop("labels", None)
        device = self.accelerator.device
        inputs = {name: tensor.to(device) for name, tensor in sample.items()}
        autocast = self.accelerator.autocast() if self.config.precision == "bf16" else None
        engine, reason = without_padding(self.model.to(device), inputs, self.tokenizer.padding_side, autocast)
        if reason is None and device.type == "cuda":
            self.not_recorded = "several processes add up their gradients"  # by hooks, which a replay does not call
            if self.accelerator.num_processes == 1:
                with self.accelerator.autocast():
                    self.not_recorded = engine.record(inputs)
        self.collate = replace(self.collate, flat=reason is None)
        self.config = self.config if reason is None else self.config.model_copy(update={"engine": "plain"})
        return engine, reason

    def _compare_alone(self) -> float:
        """`difference_alone` of a model of a type that may have one; tests know of the others that they have none."""
        if self.model.config.model_type not in MAY_DIFFER_ALONE:
            return 0.0
        return difference_alone(self.model, self.collate, self.splits["train"], self.accelerator.device, self.data.task)

    def _make_loss(self) -> tuple[Loss, np.ndarray | None]:
        """The loss, and how much each training row counts in it, where not all count alike."""
        by_class, targets = self.config.class_weights, self.data.splits["train"].targets
        loss = Loss(self.data.task, label_smoothing=self.config.label_smoothing)
        if self.data.task == "regression" and targets is not None:
            scale = Scale.of(targets, self.model)
            if self.model.new_head is None:
                scale.enter(self.model)
            return replace(loss, scale=scale), None
        if not isinstance(by_class, dict) or targets is None:
            return loss, None
        weights = torch.tensor(list(by_class.values()), dtype=torch.float32, device=self.accelerator.device)
        return replace(loss, class_weights=weights), row_weights(by_class, targets)

    def _clip_gradients(self) -> Tensor:
        """The norm of the whole gradient, (), which is scaled down to `--max-grad-norm` where it is larger."""
        groups = self.optimizer.param_groups
        parameters = [p for group in groups for p in group["params"] if p.grad is not None]
        norm = total_norm([p.grad for p in parameters], exactly_as_pytorch=self.config.engine == "plain")
        if self.config.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.max_grad_norm, norm)
        return norm

    def _resolve(self, config: RunConfig) -> RunConfig:
        """Every option with the value that the run uses."""
        positions = position_count(self.model)
        if config.max_length is not None and positions is not None and config.max_length > positions:
            raise UsageError(f"the model has {positions} positions", where=f"--max-length {config.max_length}")
        return config.model_copy(
            update={
                "text_columns": self.data.columns.texts,
                "label_column": self.data.columns.label,
                "label_separator": self.data.form.separator,
                "task": self.data.task,
                "class_weights": resolve_weights(config, self.data),
                "micro_batch_size": min(config.micro_batch_size or config.batch_size, config.batch_size),
                "max_length": config.max_length or usual_length(self.model, self.tokenizer),
                "threads": torch.get_num_threads(),
            }
        )

    def _tokenize(self, name: str, examples: Examples) -> Split:
        texts: Sequence[Sequence[str]] = examples.texts
        tokens = tokenize(self.tokenizer, texts, self.config.max_length or 0)
        return Split(name, examples.ids, tokens, examples.targets)
