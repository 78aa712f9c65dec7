"""THE loop: forward, backward, step, schedule, zero the gradients.

`Loop` sets a run up in the order in which it happens, and then hands out one `Step` an optimizer update. It calls
nobody back: recording, progress, evaluating and stopping are statements of whoever iterates.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dongu.config import RunConfig, make_config
from dongu.consistency import (
    are_same,
    check_alone,
    check_engine,
    check_model,
    check_optimizer,
    check_rows,
    check_schedule,
    check_updates,
    is_flat,
    marks_of,
    modules_and_weights,
    sample_of,
)
from dongu.data.batches import Collator, EvalBatches, Split, TrainUpdates, Update, dropout_seed, make_dataloader
from dongu.data.examples import Examples, TextData, read_examples
from dongu.data.sources import read_source
from dongu.data.tokens import check_known, tokenize
from dongu.data.weights import resolve_weights, row_weights
from dongu.engine.arrival import Arrival
from dongu.engine.device import make_accelerator
from dongu.engine.dropout import seed_draws
from dongu.engine.families import why_not
from dongu.engine.gradients import total_norm
from dongu.engine.graphs import HOOKED, has_hooks
from dongu.engine.packed import PaddingFree, without_padding
from dongu.engine.processes import compare, facts_of
from dongu.errors import NonFiniteError, UsageError
from dongu.evaluate import MAY_DIFFER_ALONE, difference_alone, evaluate
from dongu.extras import require_extras
from dongu.interrupts import interrupts_wait
from dongu.judge.answers import Evaluation
from dongu.judge.metrics import MetricSet
from dongu.model.finite import check_finite
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
from dongu.model.place import pin_model, resolve_model
from dongu.model.scale import UNSCALED, Scale
from dongu.model.schedule import Course, make_scheduler, total_steps, warmup_steps


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
        config = config.model_copy(update={"model": pin_model(config.model)})
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
        if self.accelerator.num_processes > 1:
            compare(self.accelerator, facts_of(self.config, self.data, self.splits, self.model))
        self.loss, self.row_weights = self._make_loss()
        self.updates = TrainUpdates(
            self.splits["train"],
            Collator.of(self.tokenizer, model_columns(self.model)),
            seed=self.config.seed,
            batch_size=self.config.batch_size,
            micro_batch_size=self.config.micro_batch_size or self.config.batch_size,
            group_by_length=self.config.group_by_length,
            row_weights=self.row_weights,
            process=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
        )
        self.total_steps = total_steps(self.config, self.steps_per_epoch)
        self.number = 0  # updates made

        # The model alone is prepared: Accelerate would step the schedule once a process, and deal the rows out anew.
        self.not_recorded: str | None = None  # why a GPU's steps are no replays
        engine, self.fallback = self._choose_engine()
        self.engine = self.accelerator.prepare_model(engine)
        self.alone = self._compare_alone()  # how far an answer depends on the other rows of a batch
        self.engine.train()
        self._modules: list[nn.Module] = []
        self._modes: list[bool] = []  # that they trained in
        self._know_model()
        self.optimizer: torch.optim.Optimizer = make_optimizer(self.model, self.config)
        self._know_optimizer()
        self._course: Course
        self._planned: tuple[Any, ...]
        self._make_schedule()
        self._under_way: list[Step] = []  # on a GPU one, which may still turn out not to be made
        self._with_gradient = 0  # parameters, in the last update

    @property
    def steps_per_epoch(self) -> int:
        """Updates that see each training row once."""
        return self.updates.steps_per_epoch

    @property
    def collate(self) -> Any:
        """Makes tensors of rows, for training and for evaluation: `collate(split, rows)`, as `Collator` does."""
        return self.updates.collate

    @collate.setter
    def collate(self, collate: Any) -> None:
        self.updates.collate = collate

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
        accelerator = self.accelerator
        for update in self._to_come():
            arrival = Arrival(accelerator.device)
            self._keep_modes()
            self.optimizer.zero_grad()  # of what an interrupted update, or you, have left

            # Forward, backward.
            losses = accelerator.reduce(self._gradients_in_memory(update), "sum")
            grad_norm = self._clip_gradients()
            arrival.send(torch.cat([grad_norm.reshape(1), losses]))
            step = Step(
                number=self.number + 1,
                epoch=(self.number + 1) / self.steps_per_epoch,
                learning_rate=max(float(group["lr"]) for group in self.optimizer.param_groups),
                examples=update.examples,
                tokens=sum(micro_batch.tokens for micro_batch in update.micro_batches),
                padded_tokens=sum(micro_batch.padded_tokens for micro_batch in update.micro_batches),
                ids=self.updates.split.ids[update.rows],
                arrival=arrival,
            )
            self._under_way.append(step)
            if self._skip is None:
                self._settle()
            else:  # on the GPU, which is not waited for: from the first number that is not finite on
                torch.maximum(self._skip, (losses[0] + grad_norm).isfinite().logical_not(), out=self._skip)

            # Step, schedule, zero the gradients.
            with self._as_one():
                self.optimizer.step()
                self.lr_scheduler.step()
                self.number += 1
            self.optimizer.zero_grad()

            arrival.close()
            self._settle(behind=1)  # the one before has arrived, while the GPU is at this one
            yield step
        self._settle()

    def _to_come(self) -> Iterator[Update]:
        """The updates that are still to come, after a look at who is who; looked at again where a part is another."""
        while self.number < self.total_steps:
            self._look()
            marks, first = marks_of(self), self.number
            for made, update in enumerate(self.train_dataloader, 1):
                check_rows(self, update)
                yield update
                if self.number != first + made or marks_of(self) != marks:
                    break

    def _look(self) -> None:
        """Bind anew what was put in another part's place, or refuse it: see `dongu.consistency`.

        Raises:
            UsageError: parts of the loop do not belong together.
        """
        self._settle()
        if self._skip is not None:
            self._skip.zero_()  # an interrupted update may have set it
        check_updates(self)
        self._look_at_engine()
        check_optimizer(self)
        self._look_at_schedule()

    def _look_at_engine(self) -> None:
        """What computes is `loop.model` as it is now, and passes by nobody's hook."""
        is_packed, is_other = self.config.engine == "packed", self.model is not self._computed[0]
        if is_other:
            check_model(self)
            if isinstance(self.collate, Collator):
                self.collate = replace(self.collate, columns=model_columns(self.model) or self.collate.columns)
        is_wrong = is_packed and (
            not are_same(self._computed, modules_and_weights(self.model))
            or not is_flat(self)
            or why_not(self.model, self.tokenizer.padding_side) is not None
        )
        if is_other or is_wrong:
            check_alone(self)
            self.accelerator.free_memory()  # it keeps what it has prepared
            engine, reason = self._choose_engine()
            self.engine = self.accelerator.prepare_model(engine)
            if reason is not None:
                self.fallback, self.not_recorded = reason, None
                warnings.warn(f"the plain engine computes from here on: {reason}", stacklevel=5)
        self._know_model()
        check_engine(self)
        computing = self.accelerator.unwrap_model(self.engine)
        if isinstance(computing, PaddingFree) and computing.graphs is not None and has_hooks(self.model.parameters()):
            computing.graphs, self.not_recorded = None, HOOKED

    def _know_model(self) -> None:
        """Remember what the engine computes. A module that is new is in training mode, unless it says otherwise."""
        modes = dict(zip(self._modules, self._modes, strict=True))
        self._computed = modules_and_weights(self.model)
        self._modules = list(self.engine.modules())
        self._modes = [modes.get(module, True) for module in self._modules]

    def _look_at_schedule(self) -> None:
        """The schedule drives the optimizer, and the loop's own is where the loop is."""
        if self.optimizer is not self._known_optimizer:
            self._know_optimizer()
        if self.lr_scheduler is not self._own_scheduler:
            check_schedule(self)
            if self.lr_scheduler is not self._course.scheduler:
                self._course = Course(self.lr_scheduler, self.number)
        elif self._planned != (self.optimizer, len(self.optimizer.param_groups), self.total_steps):
            self._make_schedule()
            self._course.go_to(self.number)
        elif self.lr_scheduler.last_epoch != self.number:
            self._course.go_to(self.number)

    def _make_schedule(self) -> None:
        """The loop's own schedule, over the optimizer and the steps that there are now."""
        self.warmup_steps = warmup_steps(self.config, self.total_steps)
        self.lr_scheduler = self._own_scheduler = make_scheduler(self.optimizer, self.config, self.total_steps)
        self._course = Course(self.lr_scheduler, 0)
        self._planned = (self.optimizer, len(self.optimizer.param_groups), self.total_steps)

    def _settle(self, behind: int = 0) -> None:
        """Wait for all steps but the last few. Where an update was not made, be where it had not been tried.

        Raises:
            NonFiniteError: see `Step.check`.
        """
        while len(self._under_way) > behind:
            step = self._under_way[0]
            try:
                step.check()
            except NonFiniteError:
                self._under_way.clear()
                self.optimizer.zero_grad()
                if self._skip is not None:
                    self._skip.zero_()
                if self.number != step.number - 1:
                    self._be_at(step.number - 1)
                raise
            self._under_way.pop(0)

    @contextlib.contextmanager
    def _as_one(self) -> Iterator[None]:
        """Weights, schedule and count move inside the block: all of them or none, whatever interrupts."""
        number, self._has_stepped = self.number, False
        with interrupts_wait():
            try:
                yield
            except BaseException:  # of a hook of the optimizer, say
                if self._has_stepped:
                    self._be_at(number + 1)
                raise

    def _know_optimizer(self) -> None:
        """Have the optimizer say when it has stepped, before any other hook of it, and not step where it shall not."""
        self._known_optimizer = self.optimizer
        hook = self.optimizer.register_step_post_hook(lambda *_: setattr(self, "_has_stepped", True))
        hooks: Any = self.optimizer._optimizer_step_post_hooks
        hooks.move_to_end(hook.id, last=False)
        self._skip = skip_on_gpu(self.optimizer, self.accelerator.device)

    def _keep_modes(self) -> None:
        """Each module trains in the mode that it is in, unless somebody has put the whole model in eval mode.

        That is how one looks at a model; then the modes are those of the update before, or of a loop just made.
        """
        if self.model.training:
            self._modes = [module.training for module in self._modules]
        else:
            for module, training in zip(self._modules, self._modes, strict=True):
                module.training = training

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
            update = self.updates[self.number]
            self.optimizer.zero_grad()
            if self.accelerator.device.type == "cuda":
                torch.cuda.empty_cache()

    def go_to(self, number: int) -> None:
        """Continue after update `number`, as if the loop had come there; weights and moments are the caller's.

        Raises:
            NonFiniteError: an update that is still under way was not made.
            UsageError: a schedule of your own was given later than that.
        """
        self._settle()
        self._look_at_schedule()
        self._be_at(number)

    def _be_at(self, number: int) -> None:
        """Count and schedule as they are after update `number`."""
        self.number = number
        self._course.go_to(number)

    def evaluate(self, split: str = "validation") -> Evaluation:
        """Metrics and predictions of a split by the model as it is now, on all processes together.

        Where a row has several labels, validation sets the threshold, in the model's config, that all other splits
        are judged by.

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
        device, inputs = self.accelerator.device, sample_of(self)
        autocast = self.accelerator.autocast() if self.config.precision == "bf16" else None
        engine, reason = without_padding(self.model.to(device), inputs, self.tokenizer.padding_side, autocast)
        is_own = not isinstance(self.collate, Collator)
        if is_own and not is_flat(self):
            engine, reason = self.model, "loop.collate is your own, and pads"
        if reason is None and device.type == "cuda":
            self.not_recorded = "several processes add up their gradients"  # by hooks, which a replay does not call
            if self.accelerator.num_processes == 1:
                with self.accelerator.autocast():
                    self.not_recorded = engine.record(inputs)
        if not is_own:
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
        if len(parameters) != self._with_gradient:  # frozen or not, or no longer in the model
            check_optimizer(self)
            self._with_gradient = len(parameters)
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
                "data": self.data.place if config.data else None,
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
