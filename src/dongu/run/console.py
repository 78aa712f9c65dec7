"""What a person sees of a run: what was derived, how far it is, what came out."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, TextIO

from tqdm import tqdm

from dongu.confidence import CONSTANT_ANSWERS
from dongu.config import LORA_RATE, RunConfig, Task
from dongu.data.order import epoch_order, padding_share
from dongu.doctor.overview import SHOWN_LABELS, describe_labels
from dongu.loop import Loop, Step
from dongu.model.device import describe_device
from dongu.model.lora import count_parameters
from dongu.text import counted, listed, printable

PLAIN_LINES = 20  # progress lines of a whole run where the output is no terminal


class Console:
    """Lines and a progress bar; on any but the main process it says nothing."""

    def __init__(self, *, enabled: bool = True, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._enabled = enabled

    def line(self, text: str = "") -> None:
        """One line, above the progress bar where there is one."""
        if self._enabled:
            tqdm.write(printable(text), file=self._stream)

    def fields(self, rows: Iterable[tuple[str, str]]) -> None:
        """Aligned `name  text` lines."""
        for name, text in rows:
            self.line(f"{name:<10} {text}")

    def progress(self, total_steps: int, done: int = 0) -> Progress:
        """The bar of a run, or plain lines where the stream is no terminal."""
        return Progress(self, self._stream, total_steps, done, enabled=self._enabled)


class Progress:
    """Loss, learning rate, examples a second and the time left."""

    def __init__(self, console: Console, stream: TextIO, total_steps: int, done: int, *, enabled: bool) -> None:
        self._console = console
        self._total_steps = total_steps
        self._every = max(1, total_steps // PLAIN_LINES)
        self._started = time.perf_counter()
        self._examples = 0
        self._first_step = done
        self._seconds = 0.0  # of steps alone: evaluations and saves would make it the speed of something else
        self._loss = 0.0
        terminal = enabled and stream.isatty()
        self._bar: Any = (
            tqdm(total=total_steps, initial=done, file=stream, unit="step", dynamic_ncols=True) if terminal else None
        )

    def step(self, step: Step) -> None:
        """Show one update. The loss is averaged over about the last 25 updates."""
        if self._examples == 0:
            self._loss = step.loss
        self._examples += step.examples
        self._seconds += step.seconds
        self._loss += (step.loss - self._loss) / min(25, step.number - self._first_step)
        elapsed = time.perf_counter() - self._started
        numbers = (
            f"mean loss {self._loss:.4f}  lr {step.learning_rate:.2e}  {self._examples / self._seconds:.1f} examples/s"
        )
        if self._bar is not None:
            self._bar.set_postfix_str(numbers, refresh=False)
            self._bar.update(step.number - self._bar.n)
        elif step.number % self._every == 0 or step.number == self._total_steps:
            left = elapsed / (step.number - self._first_step) * (self._total_steps - step.number)
            self._console.line(
                f"step {step.number:,}/{self._total_steps:,}  epoch {step.epoch:.2f}  {numbers}  {clock(left)} left"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def describe(loop: Loop) -> list[tuple[str, str]]:
    """Everything that was read, inferred or derived, once, before the first step."""
    config, data, splits = loop.config, loop.data, loop.splits
    rows = " · ".join(f"{name} {len(split):,}" for name, split in splits.items())
    held_out = " (validation held out of train)" if data.held_out else ""
    lengths = splits["train"].tokens.lengths
    cut = {name: int(split.tokens.truncated.sum()) for name, split in splits.items()}
    cut_share = sum(cut.values()) / sum(len(split) for split in splits.values())
    unused = f"; not used: {', '.join(data.unused_columns)}" if data.unused_columns else ""
    cached = ", read from the cache" if all(split.tokens.cached for split in splits.values()) else ""
    parameters, learning = count_parameters(loop.model)
    padding = _describe_padding(loop)
    processes = loop.accelerator.num_processes
    share = -(-config.batch_size // processes)
    micro = min(config.micro_batch_size or share, share)
    warmup = f"{loop.warmup_steps:,} steps of warm-up" if loop.warmup_steps else "no warm-up"
    decay = f", times {config.layer_decay:g} for each layer down from the head" if config.layer_decay < 1 else ""
    clip = f", clipped at norm {config.max_grad_norm:g}" if config.max_grad_norm else ""
    return [
        ("data", f"{rows} rows{held_out}"),
        ("columns", f"{data.columns} ({data.task}){unused}"),
        ("labels", describe_labels(data, data.splits["train"])),
        ("loss", _describe_loss(loop)),
        ("model", f"{config.model}: {type(loop.model).__name__}, {_millions(parameters)} parameters"),
        *_describe_lora(config, parameters, learning),
        (
            "tokens",
            f"{lengths.mean():.1f} a train row, {lengths.max()} at most; {sum(cut.values()):,} of all rows "
            f"({cut_share:.1%}) are cut at {config.max_length}{cached}{padding}",
        ),
        (
            "steps",
            f"{loop.total_steps:,} = {loop.steps_per_epoch:,} an epoch × {loop.total_steps / loop.steps_per_epoch:.4g};"
            f" {config.batch_size} examples each"
            + (f", in micro-batches of {micro}" if micro < share else "")
            + (f", over {processes} processes" if processes > 1 else ""),
        ),
        (
            "optimizer",
            f"AdamW, learning rate {config.learning_rate:g} ({config.lr_scheduler}, {warmup}){decay}, "
            f"weight decay {config.weight_decay:g}{clip}",
        ),
        (
            "device",
            f"{describe_device(loop.accelerator)}, {config.precision}, {counted(config.threads or 0, 'thread')},"
            f" seed {config.seed}",
        ),
        ("engine", _describe_engine(loop)),
        ("metrics", _describe_metrics(loop)),
    ]


def _describe_lora(config: RunConfig, parameters: int, learning: int) -> Iterator[tuple[str, str]]:
    """What learns where not all does, and that the learning rate is not the usual one."""
    if config.lora is None:
        return
    usual = RunConfig.model_fields["learning_rate"].default
    derived = config.learning_rate == LORA_RATE * usual
    rate = f"; {LORA_RATE} times the usual learning rate, unless --learning-rate is given" if derived else ""
    yield (
        "lora",
        f"rank {config.lora}: {_millions(learning)} parameters learn, {learning / parameters:.1%} of the model's"
        f" number{rate}",
    )


def _describe_padding(loop: Loop) -> str:
    """What grouping saves, from the order of the first epoch."""
    if not loop.config.group_by_length:
        return ""
    updates = loop.updates
    lengths, size = updates.split.tokens.lengths, min(updates.micro_batch_size, updates.batch_size)
    grouped = padding_share(lengths, updates.order(0), size)
    shuffled = padding_share(lengths, epoch_order(len(lengths), updates.seed, 0), size)
    return f"; {grouped:.1%} padding instead of {shuffled:.1%}"


def _describe_engine(loop: Loop) -> str:
    if loop.fallback:
        return f"plain: {loop.fallback}"
    return "packed: real tokens only" if loop.config.engine == "packed" else "plain: the model's own forward"


def _describe_loss(loop: Loop) -> str:
    scale = loop.loss.scale
    kinds = {
        "regression": f"squared error; learnt with mean 0 and deviation 1 for {scale.mean:.4g} and {scale.std:.4g}",
        "multi-label": "binary cross-entropy, the mean over the labels",
    }
    weights = loop.config.class_weights
    shown = [f"{name} {weight:.3g}" for name, weight in weights.items()] if isinstance(weights, dict) else []
    weighed = f"; a row counts {listed(shown, SHOWN_LABELS, ' · ')}" if shown else ""
    smooth = f", labels smoothed by {loop.config.label_smoothing:g}" if loop.config.label_smoothing else ""
    return f"{kinds.get(loop.data.task, 'cross-entropy')}{smooth}{weighed}"


def _describe_metrics(loop: Loop) -> str:
    metrics = loop.metrics
    positive = f" (of `{metrics.label_names[1]}`)" if "f1" in metrics.names else ""
    threshold = "; a label is given above a threshold that validation sets" if metrics.task == "multi-label" else ""
    return f"{', '.join(metrics.names)}{positive}; the best model is the one with the best {metrics.main}{threshold}"


def results_table(results: Mapping[str, Any], task: Task) -> list[str]:
    """One line a metric and split: value, interval, and what to compare it with."""
    lines = []
    for split, metrics in results.items():
        if not isinstance(metrics, Mapping):
            continue
        for name, entry in metrics.items():
            value, low, high = (_number(entry[key]) for key in ("value", "low", "high"))
            beside = ", ".join(f"{what} {_number(number)}" for what, number in _beside(name, entry, task).items())
            lines.append(f"{split:<11} {name:<21} {value}   95% {low} to {high}   {beside}".rstrip())
    return lines


def _beside(name: str, entry: Mapping[str, float], task: Task) -> dict[str, float]:
    classes = task == "single-label" and name == "loss"
    constant = "class shares" if classes else CONSTANT_ANSWERS[task]
    words = {"baseline": constant, "chance": "by chance", "before": "before temperature", "after": "after"}
    return {words[key]: value for key, value in entry.items() if key in words and math.isfinite(value)}


def calibration_line(results: Mapping[str, Any]) -> Iterator[str]:
    """What the temperature is and where it went; nothing for tasks without one."""
    if "temperature" not in results:
        return
    place = "is in the saved model"
    if not results["calibrated"]:
        place = "is not in the saved model; `dongu train ... --calibrate` saves one that has it"
    yield f"temperature {results['temperature']:.4f}, fitted on validation, {place}"


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "undefined"


def _millions(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e5 else f"{number:,}"


def clock(seconds: float) -> str:
    """`3:07`, or `1:02:09`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
