"""Whether the parts of a loop still belong together: looked at before updates are made.

Between two updates everything is the user's: a part may have been put in another's place, and a hook on a module that
the engine passes by. What a look finds is bound anew or refused, and never ignored.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.utils.hooks import RemovableHandle

from dongu import launch
from dongu.config import RunConfig, check_metric, make_config, option_flag
from dongu.data.collate import Collator, MicroBatches, collated
from dongu.engine.modes import kept_modes
from dongu.engine.packed import inside_ddp
from dongu.errors import UsageError
from dongu.model.load import check_vocabulary, model_columns
from dongu.model.loss import Loss
from dongu.own import Own, takes_config, why_no_script
from dongu.plain_parts import why_not_these, why_rows

_OWN_HOOKS = ("dongu.parts", "dongu.model.optimizer")  # whose hooks of an optimizer a replay heeds
CHECKED_ROWS = 8  # that both engines compute, a model that is put in another's place, and a loss of the user's own
CHECKED_TOKENS = 8192  # of these rows, padding included; where they are long, fewer rows are computed, two at least


def marks_of(loop: Any) -> tuple[int, ...]:
    """A few numbers, of which one is another where something was assigned to the loop or a hook was set.

    Cheap enough to be compared before each update. They do not tell that a module was put in another's place, or an
    attribute of one was set: that is seen by a look at all, which each `for step in loop` begins with.
    """
    updates = loop.train_updates
    return (
        *map(id, (loop.model, loop.engine, loop.loss, loop.optimizer, loop.lr_scheduler)),
        *map(id, (updates, loop.splits["train"], loop.config, loop.tokenizer, loop.data)),
        *(updates.version, len(getattr(loop.optimizer, "param_groups", ())), loop.total_steps),
        0 if loop.is_sharded else RemovableHandle.next_id,  # all that PyTorch has handed out; FSDP sets some each time
    )


def modules_and_weights(model: nn.Module) -> list[nn.Module | nn.Parameter]:
    """What a model is made of."""
    return [*model.modules(), *model.parameters()]


def are_same(one: list[Any], other: list[Any]) -> bool:
    """Whether they hold the same objects in the same order."""
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def check_updates(loop: Any) -> None:
    """Raise `UsageError` if `loop.train_updates` or `loop.splits` are no longer those that the run was planned with."""
    check_fixed(loop)
    updates, config = loop.train_updates, loop.config
    what = ""
    if updates.split is not loop.splits["train"]:
        what = "loop.splits['train'] is not what loop.train_updates takes its rows from"
    elif updates.seed != config.seed:
        what = f"loop.train_updates.seed is {updates.seed}, and that of dropout {config.seed}"
    elif updates.steps_per_epoch != loop.steps_per_epoch:
        planned = f"{loop.steps_per_epoch:,} updates an epoch were planned for {updates.epoch_rows:,} rows"
        what = f"loop.train_updates.batch_size is {updates.batch_size}, and {planned}"
    elif updates.row_weights is not loop.row_weights:
        what = "loop.train_updates.row_weights only says what a loss is divided by"
    if what:
        hint = "give the rows and the options to a new Loop"
        raise UsageError(what, where=f"after update {loop.number}", hint=hint)


def check_optimizer(loop: Any) -> None:
    """Raise `UsageError` if it is no optimizer, lacks something trainable, or asks for the loss itself."""
    if not isinstance(loop.optimizer, torch.optim.Optimizer):
        hint = "assign loop.optimizer = torch.optim.SGD(loop.model.parameters(), lr=0.1), say"
        raise UsageError(f"a {type(loop.optimizer).__name__} is not an optimizer", where="loop.optimizer", hint=hint)
    closure = inspect.signature(type(loop.optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        what = f"a {type(loop.optimizer).__name__} computes the loss several times in a step, and the loop once"
        raise UsageError(what, where="loop.optimizer", hint="give an optimizer whose step() takes no closure")
    known = {id(parameter) for group in loop.optimizer.param_groups for parameter in group["params"]}
    missing = [name for name, p in loop.model.named_parameters() if p.requires_grad and id(p) not in known]
    if missing:
        more = f" and {len(missing) - 1} more trainable parameters" if len(missing) > 1 else ""
        raise UsageError(
            f"loop.optimizer does not have `{missing[0]}`{more}",
            where=f"after update {loop.number}",
            hint="freeze them, give them to loop.optimizer.add_param_group, or assign"
            f" loop.optimizer = torch.optim.AdamW(loop.model.parameters(), lr={loop.config.learning_rate:g})",
        )


def assignable(loop: Any) -> dict[str, Any]:
    """What may be put in another's place; None where it is the run's own, which is made anew at times."""
    schedule, collate = loop.lr_scheduler, loop.collate
    return {
        "model": loop.model,
        "optimizer": loop.optimizer,
        "lr_scheduler": None if schedule is loop._own_scheduler else schedule,
        "order": vars(loop.train_updates).get("order"),
        "collate": None if isinstance(collate, Collator) else collate,
    }


def fixed(loop: Any) -> dict[str, Any]:
    """What a loop was made by. Of the options the engine may be chosen anew, and the data workers may be others."""
    config = loop.config
    if isinstance(config, RunConfig):
        config = config.model_copy(update={"engine": "plain", "workers": 0})
    return {"config": config, "tokenizer": loop.tokenizer, "data": loop.data}


def check_fixed(loop: Any) -> None:
    """Raise `UsageError` if something was put in the place of what the loop was made by."""
    for name, now in fixed(loop).items():
        if (was := loop._fixed[name]) is now or (name == "config" and was == now):
            continue
        options = [
            key for key in RunConfig.model_fields if name == "config" and getattr(was, key) != getattr(now, key, 0)
        ]
        what = f"was replaced ({', '.join(options[:3])})" if options else "was replaced"
        hint = "give it to a new Loop: this one has made its rows, tokens and schedule already"
        raise UsageError(what, where=f"loop.{name}", hint=hint)


def promises_of(loop: Any) -> dict[str, str]:
    """What holds of a run, each `yes` or the reason why not."""
    own, config = loop.given, loop.config
    is_coupled = getattr(own.loss, "coupled", False)
    refused = why_not_these(loop.data, config, soft=bool(loop.loss.shares))
    reasons = {
        "split": "its rows depend on each other, as the loss says" if is_coupled else why_mixed(loop),
        "replay": f"{', '.join(own.handed)} came from no file" if own.handed else None,
        "padding_free": loop.fallback or ("--engine plain" if config.engine == "plain" else None),
        "eject": why_no_script(own, config.precision, config.base_precision) or (refused and refused[0]),
    }
    if assigned := [f"loop.{name}" for name, part in assignable(loop).items() if part is not loop._made[name]]:
        reasons["replay"] = reasons["eject"] = f"{', '.join(assigned)} came from no file"
    found = {name: f"no: {why}" if why else "yes" for name, why in reasons.items()}
    if found["eject"] == "yes" and (why := why_rows(loop.data, config)):
        found["eject"] = f"yes, with --rows FOLDER: {why}"
    return found | ({"shard": loop.not_sharded or "yes"} if config.shard else {})


def why_mixed(loop: Any) -> str | None:
    """Which module of the model computes a row otherwise beside others, or after another pass; None if none does."""
    modes = loop.modes()
    for name, module in loop.model.named_modules():
        if modes.get(module, module.training):
            if isinstance(module, _BatchNorm):
                return f"`{name}` takes means over the rows of a forward pass"
            if type(module).__name__ in ("_SpectralNorm", "SpectralNorm"):
                return f"`{name}` moves at each forward pass"
    return None


def why_not_replayed(loop: Any) -> str | None:
    """What keeps a whole update from being replayed on a GPU (`engine/replays.py`); None where all of it is usual."""
    optimizer, step = loop.optimizer, vars(loop.optimizer).get("step")
    hooks = [*optimizer._optimizer_step_pre_hooks.values(), *optimizer._optimizer_step_post_hooks.values()]
    reasons = {
        "the update is your own": loop.given.update is not None,
        "the loss is your own": type(loop.loss) is not Loss,
        "labels are shares": bool(loop.loss.shares),
        "the schedule is your own": loop.lr_scheduler is not loop._own_scheduler,
        "the optimizer is another than fused AdamW": type(optimizer) is not torch.optim.AdamW
        or not all(group["fused"] and not torch.is_tensor(group["lr"]) for group in optimizer.param_groups)
        or not (step is None or getattr(step, "__wrapped__", None) is torch.optim.AdamW.step),  # around it, a schedule
        "the optimizer has a hook": any(hook.__module__ not in _OWN_HOOKS for hook in hooks)
        or bool(_global_optimizer_pre_hooks or _global_optimizer_post_hooks),
        "the engine has a hook": any(
            engine._forward_hooks or engine._forward_pre_hooks or engine._backward_hooks or engine._backward_pre_hooks
            for engine in (loop.engine, inside_ddp(loop.engine))
        ),
    }
    return loop.not_replayed or next((reason for reason, holds in reasons.items() if holds), None) or why_mixed(loop)


def check_schedule(loop: Any) -> None:
    """Raise `UsageError` if a schedule drives another optimizer, or cannot be stepped after each update."""
    scheduler = loop.lr_scheduler
    hint = "assign loop.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(loop.optimizer, lambda step: …)"
    if not isinstance(scheduler, LRScheduler) or type(scheduler).__name__ == "ReduceLROnPlateau":
        what = f"a {type(scheduler).__name__} is not a schedule that is stepped after each update"
    elif scheduler.optimizer is not loop.optimizer:
        what = "it drives another optimizer than loop.optimizer"
    elif len(getattr(scheduler, "base_lrs", loop.optimizer.param_groups)) != len(loop.optimizer.param_groups):
        what = "it does not know all parameter groups of loop.optimizer"
    else:
        return
    raise UsageError(what, where="loop.lr_scheduler", hint=hint)


def check_rows(loop: Any, update: MicroBatches) -> None:
    """Raise `UsageError` if a data worker, which has a copy of the data set, draws other rows than the loop would."""
    if loop.config.workers and not np.array_equal(update.rows, loop.train_updates.rows(loop.number)):
        what = f"update {loop.number + 1:,} came with other rows than loop.train_updates.order gives now"
        hint = "what an order depends on does not reach data workers: assign the order again, or give workers=0"
        raise UsageError(what, where=f"workers={loop.config.workers}", hint=hint)


def check_rates(loop: Any) -> None:
    """Raise `UsageError` if somebody else than the loop has stepped the run's own schedule."""
    schedule, groups = loop.lr_scheduler, loop.optimizer.param_groups
    if schedule is loop._own_scheduler and schedule.last_epoch != loop.number:
        hint = "leave lr_scheduler.step() out: the loop does so after each update"
        raise UsageError(f"was stepped {schedule.last_epoch:,} times", where=f"update {loop.number + 1:,}", hint=hint)
    if [float(group["lr"]) for group in groups] != [float(rate) for rate in schedule.get_last_lr()]:
        what = "the learning rate that was set is used for one update only: then loop.lr_scheduler sets it again"
        warnings.warn(f"{what}; assign another schedule, or set it in each update", stacklevel=4)


def check_recorded(made: int, recorded: int) -> None:
    """Raise `UsageError` if a loop has made updates that its run did not see."""
    if made != recorded:
        what = f"the loop has made {made:,} updates, and the run has recorded {recorded:,}"
        hint = "iterate over the run: `for step in run`; statements of your own within an update are the part `update`"
        raise UsageError(what, where="loop.run", hint=hint)


def is_flat(loop: Any) -> bool:
    """Whether rows are collated without padding."""
    collate, split = loop.collate, loop.train_updates.split
    return collate.flat if isinstance(collate, Collator) else "lengths" in collated(collate, split, np.arange(1))


def sample_of(loop: Any) -> dict[str, Tensor]:
    """The first training rows as the model itself takes them, padded, (rows, tokens) each, on the device."""
    columns = model_columns(loop.model) or loop.collate.columns
    rows = np.arange(min(len(loop.train_updates.split), CHECKED_ROWS))
    sample = Collator.of(loop.tokenizer, columns)(loop.train_updates.split, rows)
    sample.pop("labels", None)
    few = max(2, CHECKED_TOKENS // sample["input_ids"].shape[1])
    return {name: tensor[:few].to(loop.accelerator.device) for name, tensor in sample.items()}


def check_model(loop: Any) -> None:
    """
    Raises:
        UsageError: what was put in the model's place does not answer as a classifier of these labels does.
        ModelError: it has not as many embeddings as the tokenizer has ids.
    """
    model, labels = loop.model, len(loop.data.outputs)
    hint = f"it is called as model(**inputs) and answers with .logits, (rows, {labels}); its config has num_labels"
    if isinstance(model, nn.Module) and loop.given.model is not None:
        return  # what computes it is the user's own loss, perhaps
    if not isinstance(model, nn.Module) or getattr(getattr(model, "config", None), "num_labels", None) != labels:
        raise UsageError(
            f"a {type(model).__name__} is not a classifier of {labels} labels", where="loop.model", hint=hint
        )
    check_vocabulary(model, loop.tokenizer, type(model).__name__)
    inputs = sample_of(loop)
    model.to(loop.accelerator.device)
    with kept_modes(model), torch.no_grad():
        model.eval()
        answer = getattr(model(**inputs), "logits", None)
    if not isinstance(answer, Tensor) or answer.shape != (len(inputs["input_ids"]), labels):
        raise UsageError(f"a {type(model).__name__} does not answer as a classifier", where="loop.model", hint=hint)


def check_engine(loop: Any) -> None:
    """Raise `UsageError` if the engine computes another model, or does not take rows as they are collated."""
    if not any(module is loop.model for module in loop.engine.modules()):
        raise UsageError("it does not compute loop.model", where="loop.engine", hint="assign loop.model instead")
    if is_flat(loop) != (loop.config.engine == "packed"):
        what = f"rows come without padding, and the plain engine computes ({loop.fallback or '--engine plain'})"
        raise UsageError(what, where="loop.collate", hint="give one that pads, as the collator of a tokenizer does")


def without_meaning(own: Own) -> dict[str, str]:
    """The options that a part of the user's own does not know, and which part that is."""
    options = {
        "loss": ("class_weights", "label_smoothing"),
        "optimizer": ("weight_decay", "layer_decay", *(() if takes_config(own.optimizer) else ("learning_rate",))),
        "lr_scheduler": ("lr_scheduler", "warmup"),
        "model": ("dropout", "freeze", "lora", "pooling", "head", "layer_decay"),
        "order": ("group_by_length",),
    }
    return {name: part for part, names in options.items() if getattr(own, part) is not None for name in names}


def check_own(own: Own, config: RunConfig) -> None:
    """Raise `UsageError` if an option has no meaning beside a part of the user's own."""
    check_metric(config.metric, own.metrics)
    for name in {*(config.columns or ())} & {"input_ids", "attention_mask", "token_type_ids", "lengths", "labels"}:
        what, hint = "a model's own input has this name", "give the column another name"
        raise UsageError(what, where=f"--columns {name}", hint=hint)
    usual = make_config({"lora": config.lora}).learning_rate  # that --lora implies, where none is given
    for name, part in without_meaning(own).items():
        if getattr(config, name) != (usual if name == "learning_rate" else RunConfig.model_fields[name].default):
            what = f"the {part} is your own, and does not know it"
            raise UsageError(what, where=option_flag(name), hint=f"leave it out, or heed it in your {part}")
    if config.recipe == "quick" and own.model is not None:
        what, hint = "the model is your own, with dropout of its own", "give the epochs that you want"
        raise UsageError(what, where="--recipe quick", hint=hint)
    unsharded = [part for part in ("model", "optimizer", "setup", "update", "eval_model") if getattr(own, part)]
    if config.shard and unsharded:
        what = f"the {unsharded[0]} is your own, and has not been tried with parts of weights"
        raise UsageError(what, where="--shard", hint="leave it out, or train with the run's own")
    if getattr(own.loss, "coupled", False):
        size = config.micro_batch_size or config.batch_size
        if size < config.batch_size or launch.processes() > 1:
            where = "--micro-batch-size" if size < config.batch_size else f"{launch.processes()} processes"
            what = "an update cannot be split: the rows of its loss depend on each other"
            raise UsageError(what, where=where, hint="compute each update whole, on one process")


def check_alone(loop: Any) -> None:
    """Raise `UsageError` if several processes would change their engine: each has its part in a sum of gradients."""
    if (count := loop.accelerator.num_processes) > 1:
        what = "the model was changed, or a hook was set on it, after the loop was made"
        hint = "train on one process, or with engine='plain' where only hooks are wanted"
        raise UsageError(what, where=f"{count} processes", hint=hint)
