"""The options of a run as a type checker and an editor know them: `**options: Unpack[Options]`.

`RunConfig` is where each is defined, checked and explained; tests/cli/test_options.py holds the two together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Literal

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from dongu.config import Scheduler, Task, Tracker


class FitOptions(TypedDict, total=False):
    """What `dongu.TextClassifier` takes: the options of a run whose data are given to `fit`."""

    model: str | Path | nn.Module | Callable[..., nn.Module]
    tokenizer: Any
    out: str | Path | None
    text_columns: str | Sequence[str] | None
    unlabelled: Literal["refuse", "drop"]
    empty: Literal["refuse", "drop"]
    bad_rows: str | None
    positive: str | None
    delimiter: str | None
    encoding: str | None
    quoting: Literal["csv", "none"] | None
    escape: str | None
    header: str | Sequence[str] | None
    max_expansion: int
    field: str | None
    format: (
        Literal["plain", "label-studio", "label-studio-min", "doccano", "prodigy", "argilla", "chat", "spacy"] | None
    )
    sheet: str | None
    download: bool
    recipe: Literal["auto", "original", "quick"]
    validation: float | None
    test: float | None
    group_column: str | None
    time_column: str | None
    epochs: float
    max_steps: int | None
    batch_size: int
    micro_batch_size: int | None
    eval_batch_size: int
    learning_rate: float
    lr: float  # the same
    weight_decay: float
    layer_decay: float
    dropout: float | None
    freeze: int | None
    lora: int | None
    pooling: Literal["model", "mean"]
    head: Literal["random", "probe"]
    lr_scheduler: Scheduler | Callable[[int, int], float]
    warmup: float
    max_grad_norm: float | None
    class_weights: Mapping[str, float] | Literal["balanced"] | None
    label_smoothing: float
    max_length: int | None
    long: Literal["head", "tail", "head+tail", "windows"]
    seed: int
    engine: Literal["packed", "plain"]
    precision: Literal["fp32", "bf16"]
    base_precision: Literal["fp32", "bf16", "4bit"]
    shard: bool
    timeout: int | None
    device: str
    threads: int | None
    group_by_length: bool
    gradient_checkpointing: bool
    workers: int
    eval_steps: int | None
    metric: str | None
    calibrate: bool
    save_steps: int | None
    keep: int
    patience: int | None
    track: Tracker | Sequence[Tracker] | None
    strict: bool


class Options(FitOptions, total=False):
    """What `dongu.train`, `dongu.resume` and `dongu.Loop` take: options of a run, and parts of your own."""

    label_column: str | Sequence[str] | None
    label_separator: str | None
    task: Task | None
    columns: str | Sequence[str] | None
    fold: str | None
    split_file: str | None
    label_names: str | Sequence[str] | None
    rare: str | None
    abstain: float | None
    loss: Callable[..., Tensor] | None
    optimizer: Optimizer | Callable[..., Optimizer] | None
    order: Callable[..., Any] | None
    collate: Callable[..., Any] | None
    metrics: Mapping[str, Callable[[Any], float]] | None
    setup: Callable[..., Any] | None
    update: Callable[..., Any] | None
    eval_model: Callable[..., nn.Module] | None


class LoadOptions(TypedDict, total=False):
    """What `dongu.load` takes beside its own arguments: overrides of the options of the run."""

    text_columns: str | Sequence[str] | None
    label_column: str | Sequence[str] | None
    label_separator: str | None
    max_length: int | None
    long: Literal["head", "tail", "head+tail", "windows"]
    engine: Literal["packed", "plain"]
    precision: Literal["fp32", "bf16"]
    threads: int | None
