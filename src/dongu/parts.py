"""What a run is made of: data, tokenizer, model, engine, loss, metrics, updates, optimizer, schedule.

Each may be the user's own, and each may be replaced between two updates: then the others are bound anew, or an error
names what to do.
"""

from __future__ import annotations

import gc
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from dongu import consistency
from dongu.config import RunConfig, make_config
from dongu.contract import check_loss, check_state, order_of, share_of
from dongu.data.batches import TrainUpdates
from dongu.data.collate import Collator
from dongu.data.examples import TextData, read_examples
from dongu.data.sources import read_source
from dongu.data.weights import resolve_weights
from dongu.engine.device import autocast_of, distributed, make_accelerator
from dongu.engine.families import why_not
from dongu.engine.graphs import HOOKED, has_hooks
from dongu.engine.packed import PaddingFree, inside_ddp, without_padding
from dongu.engine.pending import Pending
from dongu.engine.processes import compare_facts, facts_of
from dongu.engine.recompute import recompute_layers
from dongu.engine.shard import outline, shard
from dongu.errors import UsageError
from dongu.evaluate import MAY_DIFFER_ALONE, difference_alone
from dongu.extras import require_extras
from dongu.judge.metrics import MetricSet
from dongu.launch import first_alone
from dongu.model.base import hold_base
from dongu.model.finite import check_finite
from dongu.model.head import declared_labels, name_inputs, name_outputs
from dongu.model.layers import freeze_lowest
from dongu.model.load import (
    check_vocabulary,
    forward_parameters,
    load_model,
    load_tokenizer,
    model_columns,
    position_count,
    usual_length,
)
from dongu.model.lora import add_lora
from dongu.model.loss import make_loss
from dongu.model.mean_layer import give_mean_layer
from dongu.model.optimizer import make_optimizer
from dongu.model.place import pin_model, resolve_model
from dongu.model.recipe import begin_head, begin_recipe, fit_recipe, rows_to_fit
from dongu.model.schedule import Course, make_scheduler, total_steps, warmup_steps
from dongu.own import Own, called, module_of, take_own


class Parts:
    """The parts of a run under their usual names: `model`, `tokenizer`, `optimizer`, `lr_scheduler`, `accelerator`.

    `engine` computes the model: the model itself or its padding-free form, wrapped for mixed precision and several
    processes. `splits` are the tokenized rows; `train_updates` says which rows belong to an update.

    Args and errors: see `dongu.Loop`.
    """

    def __init__(self, data: Any = None, *, parts: Any = None, **options: Any) -> None:
        self.number = 0  # updates made
        self.given: Own = parts if isinstance(parts, Own) else take_own(options, parts)
        if isinstance(data, str | TextData):
            options["data"] = data if isinstance(data, str) else data.place
        config = make_config(options)
        unknown = consistency.without_meaning(self.given).keys()  # to the user's own parts
        self._options_given = config.model_fields_set | unknown  # no recipe sets them
        consistency.check_own(self.given, config)
        require_extras(config)
        if not isinstance(data, TextData):
            data = read_examples(read_source(config.data if data is None else data, config), config)
        self.data: TextData = data
        self.accelerator = make_accelerator(config, has_own_model=self.given.model is not None)
        self.is_sharded = config.shard and self.accelerator.num_processes > 1
        self.not_sharded = None if self.is_sharded else "no: there is one process"  # or not layer by layer
        gc.collect()  # of a loop before this one, which refers to itself: its weights and gradients make room
        config = self._make_model(self.data.with_options(config))
        self.data.check_model(self.model, self.tokenizer, config.model)
        self._fit_model(config)
        self.config = self._resolve(config)
        names, own = self.data.label_names, self.given.metrics
        self.metrics = MetricSet.of(self.data.task, names, self.data.hub_name, self.config.metric, own)

        with first_alone():  # the first one fills the token cache, the others read it
            self.splits = {name: self.data.split(name, self.tokenizer, self.config) for name in self.data.splits}
        self.loss, self.row_weights = make_loss(self.data, self.model, self.config, self.given, self.accelerator.device)
        self._begin_head()
        if self.accelerator.num_processes > 1:
            compare_facts(self.accelerator, facts_of(self.config, self.data, self.splits, self.model))
        self.train_updates = self._plan_updates()
        self.steps_per_epoch = self.train_updates.steps_per_epoch
        self.total_steps = total_steps(self.config, self.steps_per_epoch)

        # The model alone is prepared: Accelerate would step the schedule once a process, and deal the rows out anew.
        self.not_recorded: str | None = None  # why a GPU's steps are no replays
        engine, self.fallback = self._choose_engine()
        self.engine = self._prepare(engine)
        self.alone = self._compare_alone()  # how far an answer depends on the other rows of a batch
        self.engine.train()
        self._modules: list[nn.Module] = []
        self._modes: list[bool] = []  # that they trained in
        self._know_model(consistency.modules_and_weights(self.model))
        self.optimizer: torch.optim.Optimizer = self._make_optimizer()
        self._usual_optimizer = None if self.given.optimizer else self.optimizer
        self.keeps_all = False  # whether checkpoints hold frozen weights too, which were not always so
        # A sharded optimizer has no flag that keeps it from stepping: its numbers are waited for.
        self._pending = Pending(torch.device("cpu") if self.is_sharded else self.accelerator.device)
        self._know_optimizer()
        self._course: Course
        self._planned: tuple[Any, ...]
        self._make_schedule()
        self.own: dict[str, Any] = {}  # state of the user's own, which checkpoints hold
        self._asked: tuple[Any, ...] = (None, None)  # loss and model that were found to keep the contract

    @property
    def collate(self) -> Any:
        """Makes tensors of rows, for training and for evaluation: `collate(split, rows)`, as `Collator` does."""
        return self.train_updates.collate

    @collate.setter
    def collate(self, collate: Any) -> None:
        self.train_updates.collate = collate

    @property
    def order(self) -> Any:
        """The positions of the rows of an epoch: `order(epoch)`."""
        return self.train_updates.order

    @order.setter
    def order(self, order: Any) -> None:
        self.train_updates.order = order  # type: ignore[method-assign]

    @property
    def promises(self) -> dict[str, str]:
        """The promises that hold for this run: each is `yes`, or the reason why it does not hold."""
        return consistency.promises_of(self)

    @property
    def has_own_optimizer(self) -> bool:
        """Whether the optimizer is one of your own."""
        return self.optimizer is not self._usual_optimizer

    def _make_model(self, config: RunConfig) -> RunConfig:
        """Model and tokenizer: loaded by their names, or as they were given."""
        own, name = self.given, config.tokenizer
        if own.model is None:
            rows, pinned = rows_to_fit(self.data, config.fold), {"model": pin_model(config.model)}
            config = begin_recipe(config, self._options_given, rows).model_copy(update=pinned)
            path = resolve_model(config.model)
            words = (name, "--tokenizer", path) if name else (path,)
            self.tokenizer = own.tokenizer or load_tokenizer(*words)
            self.model = load_model(
                path,
                label_names=self.data.outputs,
                task=self.data.task,
                pad_token_id=self.tokenizer.pad_token_id,
                seed=config.seed,
                dropout=config.dropout,
                dtype=torch.float32 if config.base_precision == "fp32" else "auto",
            )
            config = fit_recipe(config, self._options_given, rows, self.model, has_own_parts=bool(own.names))
            if config.pooling == "mean":
                give_mean_layer(self.model)
            return config
        torch.manual_seed(config.seed)  # of the weights that a function draws
        self.model = module_of(own.model, len(self.data.outputs), config)
        name = str(name or getattr(self.model, "name_or_path", ""))
        if own.tokenizer is None and not name:
            hint = 'tokenizer="minilm", or a tokenizer of transformers'
            raise UsageError("a model of your own needs a tokenizer", where="tokenizer=", hint=hint)
        self.tokenizer = own.tokenizer or load_tokenizer(name, "--tokenizer")
        name_outputs(self.model, self.data.outputs, self.data.task, self.tokenizer.pad_token_id)
        return config.model_copy(update={"model": type(self.model).__name__, "recipe": "original"})

    def _fit_model(self, config: RunConfig) -> None:
        """Have the model say what it reads and answers, and see that it can: or an error says what does not fit."""
        if config.long == "tail":
            self.tokenizer.truncation_side = self.tokenizer.init_kwargs["truncation_side"] = "left"  # as it is saved
        name_inputs(self.model.config, self.data.columns.texts)
        self.data = self.data.in_order_of(declared_labels(self.model.config))
        if config.positive not in (None, self.data.label_names[-1]):
            what = f"the model's own head has `{self.data.label_names[-1]}` as the second class, which F1 is of"
            raise UsageError(what, where=f"--positive {config.positive}", hint="leave it out, or give another --model")
        if self.data.task == "ordinal":
            self.model.config.ordinal_labels = [*self.data.label_names]
        check_vocabulary(self.model, self.tokenizer, config.model)
        check_finite(self.model.state_dict(), f"--model {config.model}")
        if config.lora is not None:
            add_lora(self.model, config.lora, config.seed)
        if config.freeze:
            freeze_lowest(self.model, config.freeze)
        if config.base_precision != "fp32":
            hold_base(self.model, config.base_precision)

    def _begin_head(self) -> None:
        """Let a new head begin as a regression, where that is wanted; see `dongu.model.recipe`."""
        model, split, collate = self.model.to(self.accelerator.device), self.splits["train"], self._usual_collator()
        begun = begin_head(model, split, collate, self.loss.scale, self.data, self.config, self._options_given)
        self.model, self.config, self.probed = begun

    def _plan_updates(self) -> TrainUpdates:
        split, own, config = self.splits["train"], self.given, self.config
        updates = TrainUpdates(
            split,
            own.collate or self._usual_collator(),
            seed=config.seed,
            batch_size=config.batch_size,
            micro_batch_size=config.micro_batch_size or config.batch_size,
            group_by_length=config.group_by_length,
            row_weights=self.row_weights,
            process=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
        )
        if own.order is not None:
            updates.order = partial(order_of, own.order, split, config.seed)  # type: ignore[method-assign]
            updates.drawn_rows = len(updates.order(0))
            updates.rows(0)  # or it is an error
        return updates

    def _usual_collator(self) -> Collator:
        accepted = forward_parameters(self.model)
        numeric = tuple(name for name in self.config.columns or () if name in accepted)
        return replace(Collator.of(self.tokenizer, model_columns(self.model)), numeric=numeric)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        own = self.given.optimizer
        if own is None:
            return make_optimizer(self.model, self.config)
        if isinstance(own, torch.optim.Optimizer):
            return own
        parameters = dict(self.model.named_parameters())
        return called(own, "optimizer", parameters=parameters, config=self.config)  # type: ignore[no-any-return]

    def _make_schedule(self) -> None:
        """The run's schedule, over the optimizer and the steps that there are now."""
        own, steps = self.given.lr_scheduler, self.total_steps
        self.warmup_steps = 0 if own else warmup_steps(self.config, steps)
        made: Any = LambdaLR(self.optimizer, partial(share_of, own, steps)) if own else None
        self.lr_scheduler = self._own_scheduler = made or make_scheduler(self.optimizer, self.config, steps)
        self._course = Course(self.lr_scheduler, 0)
        self._planned = (self.optimizer, len(self.optimizer.param_groups), self.total_steps)

    def _look(self) -> None:
        """Bind anew what was put in another part's place, or refuse it: see `dongu.consistency`.

        Raises:
            UsageError: parts of the loop do not belong together.
        """
        self._pending.settle()
        self._pending.clear()  # an interrupted update may have set it
        consistency.check_updates(self)
        self._look_at_engine()
        check_state(self)
        check_loss(self)
        consistency.check_optimizer(self)
        self._look_at_schedule()

    def _look_at_engine(self) -> None:
        """What computes is `loop.model` as it is now, and passes by nobody's hook."""
        consistency.check_fixed(self)
        is_packed, is_other = self.config.engine == "packed", self.model is not self._computed[0]
        if is_other:
            consistency.check_model(self)
            if isinstance(self.collate, Collator):
                self.collate = replace(self.collate, columns=model_columns(self.model) or self.collate.columns)
        made_of = consistency.modules_and_weights(self.model)
        is_wrong = (is_packed and not self.is_sharded) and not (
            consistency.are_same(self._computed, made_of)
            and consistency.is_flat(self)
            and why_not(self.model, self.tokenizer.padding_side) is None
        )
        if is_other or is_wrong:
            consistency.check_alone(self)
            self.accelerator.free_memory()  # it keeps what it has prepared
            engine, reason = self._choose_engine()
            self.engine, made_of = self._prepare(engine), consistency.modules_and_weights(self.model)
            if reason is not None:
                self.fallback, self.not_recorded = reason, None
                warnings.warn(f"the plain engine computes from here on: {reason}", stacklevel=5)
        self._know_model(made_of)
        consistency.check_engine(self)
        computing = inside_ddp(self.engine)
        if isinstance(computing, PaddingFree) and computing.graphs is not None and has_hooks(self.model.parameters()):
            computing.graphs, self.not_recorded = None, HOOKED

    def _know_model(self, made_of: list[nn.Module | nn.Parameter]) -> None:
        """Remember what the engine computes. A module that is new is in training mode, unless it says otherwise."""
        modes = dict(zip(self._modules, self._modes, strict=True))
        self._computed, self._modules = made_of, list(self.engine.modules())
        self._modes = [modes.get(module, True) for module in self._modules]

    def _know_optimizer(self) -> None:
        """Have the optimizer say when it has stepped, before any other hook of it, and not step where it shall not."""
        self._known_optimizer, self._has_stepped = self.optimizer, False
        hook = self.optimizer.register_step_post_hook(lambda *_: setattr(self, "_has_stepped", True))
        hooks: Any = self.optimizer._optimizer_step_post_hooks
        hooks.move_to_end(hook.id, last=False)
        self._pending.bind(self.optimizer)

    def _look_at_schedule(self) -> None:
        """The schedule drives the optimizer, and the run's is where the loop is."""
        if self.optimizer is not self._known_optimizer:
            self._know_optimizer()
        if self.lr_scheduler is not self._own_scheduler:
            consistency.check_schedule(self)
            if self.lr_scheduler is not self._course.scheduler:
                self._course = Course(self.lr_scheduler, self.number)
        elif self._planned != (self.optimizer, len(self.optimizer.param_groups), self.total_steps):
            self._make_schedule()
            self._course.go_to(self.number)
        elif self.lr_scheduler.last_epoch != self.number:
            self._course.go_to(self.number)

    def _choose_engine(self) -> tuple[Any, str | None]:
        """What computes a micro-batch: the padding-free form, or the model itself and why, if it was not asked for."""
        if self.config.gradient_checkpointing:
            recompute_layers(self.model)
        if self.config.engine == "plain":
            return self.model, None
        device = self.accelerator.device
        if self.model.config.model_type:
            inputs = consistency.sample_of(self)
            autocast = autocast_of(self.config, device) if self.config.precision == "bf16" else None
            engine, reason = without_padding(self.model.to(device), inputs, self.tokenizer.padding_side, autocast)
        else:
            engine, reason = self.model, f"a {type(self.model).__name__} is not a transformers model"
        is_own = not isinstance(self.collate, Collator)
        if is_own and not consistency.is_flat(self):
            engine, reason = self.model, "loop.collate is your own, and pads"
        if reason is None and device.type == "cuda":
            self.not_recorded = "several processes share the weights"
            if not self.is_sharded:
                with autocast_of(self.config, device):
                    self.not_recorded = engine.record(inputs, alone=self.accelerator.num_processes == 1)
        if not is_own:
            self.collate = replace(self.collate, flat=reason is None)
        self.config = self.config if reason is None else self.config.model_copy(update={"engine": "plain"})
        return engine, reason

    def _prepare(self, engine: Any) -> Any:
        """What computes, for several processes: each with all weights, or sharded, with its part of them."""
        if not self.is_sharded:
            return distributed(self.accelerator, engine)
        self.outline = outline(self.model)  # of which `dongu.run.need` tells what a layer takes while it computes
        self.not_sharded = shard(engine, self.model, self.accelerator.device, self.config.precision)
        self.train_updates.as_many_passes = True
        return engine

    def _compare_alone(self) -> float:
        """`difference_alone` of a model of a type that may have one; tests know of the others that they have none."""
        if self.model.config.model_type not in MAY_DIFFER_ALONE:
            return 0.0
        return difference_alone(self.model, self.collate, self.splits["train"], self.accelerator.device, self.data.task)

    def _resolve(self, config: RunConfig) -> RunConfig:
        """Every option with the value that the run uses."""
        positions = position_count(self.model)
        if config.max_length is not None and positions is not None and config.max_length > positions:
            raise UsageError(f"the model has {positions} positions", where=f"--max-length {config.max_length}")
        return config.model_copy(
            update={
                "data": self.data.place if config.data else None,
                "split_file": config.split_file and str(Path(config.split_file).absolute()),
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
