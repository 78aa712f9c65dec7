"""What a run is going to do, and what that was derived from: all of it, before the first step."""

from __future__ import annotations

from dongu.config import LORA_RATE, NUMBERS, RunConfig
from dongu.consistency import why_not_replayed
from dongu.data.order import epoch_order, padding_share
from dongu.doctor.overview import SHOWN_LABELS
from dongu.engine.device import describe_device, free_bytes
from dongu.engine.packed import inside_ddp
from dongu.loop import Loop
from dongu.model.head import NO_HEAD
from dongu.model.load import usual_length
from dongu.model.lora import count_beyond, count_parameters
from dongu.model.probe import Probe
from dongu.model.recipe import rows_to_fit
from dongu.run.console import FROM_CACHE
from dongu.run.effort import precision_advice, precision_seconds
from dongu.run.need import Need, said_of_memory
from dongu.run.spared import tried
from dongu.text import counted, listed, percent

LEFT_OUT = 0.01  # a share of the parameters that is worth saying


def describe(loop: Loop, need: Need | None = None) -> list[tuple[str, str]]:
    """Everything that was inferred or derived beside the data, once, before the first step."""
    config, own = loop.config, loop.given
    parameters, learning = count_parameters(loop.model)
    warmup = f"{counted(loop.warmup_steps, 'step')} of warm-up" if loop.warmup_steps else "no warm-up"
    decay = f", times {config.layer_decay:g} for each layer down from the head" if config.layer_decay < 1 else ""
    clip = f", clipped at norm {config.max_grad_norm:g}" if config.max_grad_norm else ""
    schedule = "your own schedule" if own.lr_scheduler else f"{config.lr_scheduler}, {warmup}"
    optimizer = (
        f"AdamW, learning rate {config.learning_rate:g} ({schedule}){decay}, weight decay {config.weight_decay:g}"
    )
    if own.optimizer:
        optimizer = f"{type(loop.optimizer).__name__}, your own ({schedule})"
    class_name = type(loop.model).__name__.removeprefix("FSDP")  # which sharding puts before it
    usual = "; a new head" if loop.model.new_head == NO_HEAD else ""
    dropout = f"; dropout {config.dropout:g}" if config.dropout is not None else ""
    threads = counted(config.threads or 0, "thread")
    device = f"{describe_device(loop.accelerator)}, {config.precision}, {threads}, seed {config.seed}"
    said = {
        "loss": _describe_loss(loop),
        "model": f"{config.model}: {class_name}, {_millions(parameters)} parameters{usual}{dropout}",
        "recipe": _describe_recipe(loop),
        "head": _describe_head(loop),
        "freeze": _describe_freeze(loop, parameters, learning),
        "lora": _describe_lora(loop, parameters, learning),
        "tokens": f"{_describe_tokens(loop)}{_describe_padding(loop)}",
        "steps": _describe_steps(loop),
        "optimizer": f"{optimizer}{clip}",
        "device": f"{device}; engine {_describe_engine(loop)}",
        "precision": _describe_precision(loop),
        "memory": _describe_memory(loop, need),
        "metrics": _describe_metrics(loop),
        "batches": _describe_alone(loop),
        "parts": _describe_own(loop),
    }
    return [(name, text) for name, text in said.items() if text]


def _describe_own(loop: Loop) -> str:
    """The parts of the user's own, and what they cost; nothing where there are none."""
    own = loop.given
    if not own.names:
        return ""
    broken = [f"{name.replace('_', '-')}: {text}" for name, text in loop.promises.items() if text != "yes"]
    where = f" from {own.file}" if own.file else ""
    return "; ".join([f"{', '.join(own.names)}{where} (sha256 {own.digest[:12]})", *broken])


def _describe_head(loop: Loop) -> str:
    """Whether what the model has learnt of labels goes on, or is drawn anew; nothing where it had no head."""
    new = loop.model.new_head
    if loop.given.model is not None or new == NO_HEAD:
        return ""
    kept = "in its own unit" if loop.data.task in NUMBERS else "with its labels in its own order"
    return f"the model's own, {kept}" if new is None else f"new, initialized by --seed {loop.config.seed}: {new.why}"


def _describe_recipe(loop: Loop) -> str:
    """What the options or few rows have changed about the model, and how its head begins; nothing in the original."""
    config, said = loop.config, []
    told = {name: percent(max(0.0, x.explained)) for name, x in loop.probed.items() if isinstance(x, Probe)}
    if config.recipe == "auto":
        rows = rows_to_fit(loop.data, config.fold)
        said.append(f"settings for few rows ({rows:,}), not the textbook's (--recipe original)")
    if config.recipe == "quick":
        epochs = "" if config.max_steps else f"{config.epochs:g} epochs, "
        said.append(f"{epochs}dropout {config.dropout:g}: faster than the textbook's settings (--recipe auto)")
    if config.pooling == "mean":
        said.append("one more layer, which begins as mean pooling (--pooling)")
    if isinstance(reason := loop.probed.get(config.pooling), str):
        said.append(f"the head is initialized at random: {reason}")
    elif loop.probed and config.head == "probe":
        without = f", and {told['model']} without that layer" if len(told) > 1 and config.pooling == "mean" else ""
        explained = f"it explains {told[config.pooling]} of the variance, leave-one-out{without}"
        said.append(f"the head begins as a regression on the frozen encoder (--head): {explained}")
    elif loop.probed:
        most = percent(max(0.0, *(x.explained for x in loop.probed.values() if isinstance(x, Probe))))
        explains = f"a regression on the frozen encoder explains {most} of the variance, leave-one-out"
        why = "which may be chance" if len(loop.data.columns.texts) == 1 else "too little to begin with"
        said.append(f"the textbook's settings, although rows are few: {explains}, {why}")
    return "; ".join(said)


def _describe_freeze(loop: Loop, parameters: int, learning: int) -> str:
    """How much of the model stays as it is under --freeze."""
    count = loop.config.freeze
    layers = "layer" if count == 1 else f"{count} layers"
    share = f"{_millions(learning)} of {_millions(parameters)} parameters learn"
    return f"the embeddings and the lowest {layers} are frozen: {share}" if count else ""


def _describe_lora(loop: Loop, parameters: int, learning: int) -> str:
    """How many parameters are trainable under --lora, and whether the learning rate is the one that it implies."""
    config = loop.config
    if config.lora is None:
        return ""
    usual = RunConfig.model_fields["learning_rate"].default
    derived = config.learning_rate == LORA_RATE * usual
    rate = f"; {LORA_RATE} times the default learning rate, unless --learning-rate is given" if derived else ""
    share = count_beyond(loop.model) / parameters
    left = f"; {share:.0%} of the model are in no linear layer (experts, say) and are frozen"
    left = left if share >= LEFT_OUT else ""
    held = "" if config.base_precision == "fp32" else f"; the others are in memory as {config.base_precision}"
    trainable = f"{_millions(learning)} trainable parameters, {learning / parameters:.1%} of the model's number"
    return f"rank {config.lora}: {trainable}{rate}{left}{held}"


def _describe_alone(loop: Loop) -> str:
    """That a row's answer depends on its batch, where it does."""
    if not loop.alone:
        return ""
    apart = f"{loop.alone:.1g}{'' if loop.data.task in NUMBERS else ' in probability'}"
    return (
        f"`{loop.model.config.model_type}` predicts a row differently alone than in a batch, here by {apart} before"
        " training; so --eval-batch-size changes the metrics, and --micro-batch-size the updates"
    )


def _describe_tokens(loop: Loop) -> str:
    splits, limit = loop.splits.values(), loop.config.max_length
    tokens = loop.splits["train"].tokens
    lengths, cut = tokens.summary(), sum(split.tokens.summary()["cut"] for split in splits)
    which = "" if limit == usual_length(loop.model, loop.tokenizer) else ", --max-length"
    cached = FROM_CACHE if all(split.tokens.cached for split in splits) else ""
    if loop.config.long == "windows":
        windows = sum(len(split.pieces.tokens) for split in splits)
        rows = sum(map(len, splits))
        return f"{windows:,} windows of at most {limit} from {rows:,} rows; one per row in each epoch{cached}"
    how_many = f"{cut:,} of all rows ({percent(cut / sum(map(len, splits)))}) are" if cut else "none is"
    mean = lengths["tokens"] / len(tokens)
    return f"{mean:.1f} per train row, {tokens.longest} at most; {how_many} cut at {limit}{which}{cached}"


def _describe_steps(loop: Loop) -> str:
    config, epoch, processes = loop.config, loop.steps_per_epoch, loop.accelerator.num_processes
    share = -(-config.batch_size // processes)
    micro = min(config.micro_batch_size or share, share)
    every = config.eval_steps or epoch
    evaluated = "after each epoch" if every == epoch else f"every {every:,}"
    count = f"{config.epochs:g} {'epoch' if config.epochs == 1 else 'epochs'} of {epoch:,}"
    if config.max_steps is not None:
        count = f"--max-steps; {epoch:,} an epoch"
    return (
        f"{loop.total_steps:,} ({count}), {counted(config.batch_size, 'example')} each"
        + (f", in micro-batches of {micro}" if micro < share else "")
        + (f", over {processes} processes" if processes > 1 else "")
        + f"; evaluated {evaluated if every < loop.total_steps else 'at the end'}"
    )


def _describe_padding(loop: Loop) -> str:
    """What grouping saves, from the order of the first epoch."""
    if not loop.config.group_by_length:
        return ""
    updates = loop.train_updates
    lengths, size = updates.split.tokens.lengths, min(updates.micro_batch_size, updates.batch_size)
    grouped = padding_share(lengths, updates.order(0), size)
    shuffled = padding_share(lengths, epoch_order(len(lengths), updates.seed, 0), size)
    return f"; {grouped:.1%} padding instead of {shuffled:.1%}"


def _describe_engine(loop: Loop) -> str:
    if loop.fallback:
        return f"plain: {loop.fallback}"
    if loop.config.engine == "plain":
        return "plain: the model's own forward"
    if loop.not_recorded:
        return f"packed: real tokens only; not replayed: {loop.not_recorded}"
    graphs = getattr(inside_ddp(loop.engine), "graphs", None)
    reason = why_not_replayed(loop) if graphs is not None else None
    what = "" if graphs is not None and graphs.for_updates_only else "the optimizer is "
    return "packed: real tokens only" + (f"; {what}not replayed: {reason}" if reason else "")


def _describe_loss(loop: Loop) -> str:
    if loop.given.loss is not None:
        return "your own" + (", for rows that depend on each other" if loop.loss.is_coupled else "")
    scale = loop.loss.scale
    kinds = {
        "regression": f"squared error; labels standardized, mean {scale.mean:.4g} and deviation {scale.std:.4g}",
        "multi-label": "binary cross-entropy, averaged over the labels",
    }
    kinds["ordinal"] = f"{kinds['regression']}; predictions are rounded to a class"
    weights = loop.config.class_weights
    shown = [f"{name} {weight:.3g}" for name, weight in weights.items()] if isinstance(weights, dict) else []
    weighed = f"; class weights {listed(shown, SHOWN_LABELS, ' · ')}" if shown else ""
    smooth = f", labels smoothed by {loop.config.label_smoothing:g}" if loop.config.label_smoothing else ""
    return f"{kinds.get(loop.data.task, 'cross-entropy')}{smooth}{weighed}"


def _describe_precision(loop: Loop) -> str:
    """Nothing on a GPU, where bf16 is known to be the faster one."""
    accelerator = loop.accelerator
    if accelerator.device.type != "cpu" or not accelerator.is_main_process:
        return ""
    seconds, _ = tried(lambda: precision_seconds(loop))
    return precision_advice(loop.config.precision, seconds) if seconds else ""


def _describe_memory(loop: Loop, need: Need | None) -> str:
    """Nothing where it is not known; of a small need too, for what is free may be taken by others meanwhile."""
    if need is None:
        return ""
    return tried(lambda: said_of_memory(loop, need, free_bytes(loop.accelerator.device)))[0] or ""


def _describe_metrics(loop: Loop) -> str:
    metrics = loop.metrics
    positive = f" (--positive {metrics.label_names[1]})" if "f1" in metrics.names else ""
    threshold = ", with a threshold set there" if metrics.task == "multi-label" else ""
    return f"{', '.join(metrics.names)}{positive}; the best {metrics.main} is kept{threshold}"


def _millions(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e5 else f"{number:,}"
