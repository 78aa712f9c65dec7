"""Every option of a run, once: its name, default, unit, help and check."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError, model_validator

from dongu import values
from dongu.errors import UsageError
from dongu.text import shortened
from dongu.values import Count, Portion, Real

# Long Hugging Face spellings, so that a command typed from memory works. `--per_device_train_batch_size` and
# `--gradient_accumulation_steps` are not here: together they make a batch size, in `cli/train.py`.
ALIASES = {
    "model_name_or_path": "model",
    "output_dir": "out",
    "num_train_epochs": "epochs",
    "max_train_steps": "max_steps",
    "per_device_eval_batch_size": "eval_batch_size",
    "lr": "learning_rate",
    "lr_scheduler_type": "lr_scheduler",
    "num_warmup_steps": "warmup",
    "warmup_steps": "warmup",
    "warmup_ratio": "warmup",
    "max_seq_length": "max_length",
    "early_stopping_patience": "patience",
    "metric_for_best_model": "metric",
    "dataloader_num_workers": "workers",
    "label_column_name": "label_column",
    "text_column_names": "text_columns",
}

Scheduler = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
]
Task = Literal["single-label", "multi-label", "regression", "ordinal"]
NUMBERS: tuple[Task, ...] = ("regression", "ordinal")  # whose models answer a number
PROBLEM_TYPES: dict[Task, str] = {  # what a model's config.json calls them
    "single-label": "single_label_classification",
    "multi-label": "multi_label_classification",
    "regression": "regression",
    "ordinal": "regression",  # with the classes of its scale beside it: `config.ordinal_labels`
}
LOWER_IS_BETTER = ("loss", "mae", "rmse")  # of the metrics
Metric = Literal[
    "loss", "accuracy", "f1", "macro_f1", "micro_f1", "average_precision", "matthews_correlation", "pearson",
    "spearman", "mae", "rmse", "r2", "quadratic_kappa",
]  # fmt: skip
Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]
READING = (  # options of how files are read
    "header", "delimiter", "encoding", "quoting", "escape", "max_expansion",
    "field", "format", "sheet", "download",
)  # fmt: skip
SET_ONCE = ("data", "out", "strict")  # options that a run that goes on has already
ABSTAIN_BELOW = "abstain_below"  # key of a model's config.json: the probability below which it gives no label
DEFAULT_THRESHOLD = 0.5  # the probability from which on a label is given, before any validation
LORA_RATE = 10  # times the default learning rate, where --lora is given and no rate: few parameters have far to go


class RunConfig(BaseModel):
    """The options of one run. Frozen: a run's options do not change while it runs.

    `None` means "not given". `RunConfig(**config.model_dump())` is `config`, also through JSON.
    """

    # Built at the first validation: a help needs none.
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), defer_build=True)

    data: str | None = Field(None, description="folder of split files, one file, or a Hub data set")
    model: str = Field(
        "bert-base-uncased",
        min_length=1,
        description="model to start from: a Hub name (owner/name@revision), a local folder, or `minilm` (packaged)",
    )
    tokenizer: str | None = Field(
        None, min_length=1, description="tokenizer for a model of your own: a Hub name, a folder, or `minilm`"
    )
    out: Annotated[str | None, BeforeValidator(values.without_detours)] = Field(
        None, min_length=1, description="run folder to write (default: runs/NAME)"
    )
    text_columns: Annotated[tuple[str, ...] | None, BeforeValidator(values.one_or_several)] = Field(
        None,
        min_length=1,
        max_length=2,
        description="text column, or the two columns of a pair; title+body joins two columns into one text",
    )
    label_column: Annotated[str | None, BeforeValidator(values.joined)] = Field(
        None, min_length=1, description="label column, or columns of 0 and 1, one per label: rude+funny+sad"
    )
    label_separator: str | None = Field(
        None, min_length=1, description="separator between the labels in a cell (default: |, or inferred and shown)"
    )
    columns: Annotated[tuple[str, ...] | None, BeforeValidator(values.one_or_several)] = Field(
        None, min_length=1, description="numeric columns beside the text, for a model or a loss of your own"
    )
    unlabelled: Literal["refuse", "drop"] = Field(
        "refuse", description="rows without a gold label (-1, null, empty): do not start, or leave them out"
    )
    empty: Literal["refuse", "drop"] = Field("refuse", description="rows without text: do not start, or leave them out")
    bad_rows: Annotated[str, Field(pattern=r"^drop=(100|[0-9]{1,2}(\.[0-9]{1,6})?)%$")] | None = Field(
        None,
        description="drop=1%: leave out rows that cannot be read or whose label is malformed, up to this share, and"
        " write them to dropped.jsonl (default: do not start)",
    )
    rare: Annotated[str, Field(pattern=r"^join=[1-9][0-9]{0,8}$")] | None = Field(
        None, description="join=5: merge classes with fewer than 5 train rows into one class, `other`"
    )
    label_names: Annotated[tuple[str, ...] | None, BeforeValidator(values.by_commas)] = Field(
        None, min_length=2, description="names of the label ids 0, 1, …: negative,neutral,positive"
    )
    positive: str | None = Field(None, description="of two classes, the positive one, for F1 (default: the second)")
    header: Annotated[tuple[str, ...] | None, BeforeValidator(values.by_commas)] = Field(
        None, min_length=1, description="column names of a csv or a sheet that has no header: label,text"
    )
    delimiter: Annotated[str, BeforeValidator(values.character)] | None = Field(
        None, description="delimiter of a csv: a character, or tab (default: the one that fits all rows)"
    )
    encoding: Annotated[str, BeforeValidator(values.encoding)] | None = Field(
        None, description="encoding of text files, such as cp1252 (default: utf-8, or what a byte-order mark says)"
    )
    quoting: Literal["csv", "none"] | None = Field(
        None, description="whether double quotes enclose cells (default: csv, and none in a .tsv)"
    )
    escape: Annotated[str, BeforeValidator(values.character)] | None = Field(
        None, description="escape character, such as the backslash of Spark and MySQL"
    )
    max_expansion: Count = Field(
        100, description="how many times its own size an archive may expand to, above 256 MiB; more is refused"
    )
    field: str | None = Field(
        None, min_length=1, description="path of the rows in a .json, such as data or result.rows (default: detected)"
    )
    format: (
        Literal["plain", "label-studio", "label-studio-min", "doccano", "prodigy", "argilla", "chat", "spacy"] | None
    ) = Field(None, description="annotation tool that wrote the rows; plain takes them as they are (default: detected)")
    sheet: str | None = Field(None, min_length=1, description="sheet of an Excel workbook (default: the first)")
    download: bool = Field(False, description="allow DATA to be an https:// address, and download it")
    task: Task | None = Field(None, description="task that the model learns (default: inferred and shown)")
    recipe: Literal["auto", "original", "quick"] = Field(
        "auto",
        description="settings for options not given: original, auto (adapted to few rows) or quick (fewer epochs)",
    )
    validation: Portion | None = Field(
        None, description="share of the rows to hold out as validation, if the data have none (default: 0.1)"
    )
    test: Portion | None = Field(None, description="share of the rows to hold out as test, if there is none")
    group_column: str | None = Field(
        None, min_length=1, description="column of groups, such as users: whole groups are held out"
    )
    time_column: str | None = Field(
        None, min_length=1, description="column of dates or numbers: the newest rows are test, then validation"
    )
    fold: str | None = Field(
        None,
        pattern=r"^\d{1,4}/\d{1,4}$",
        description="one run of k-fold cross-validation: 2/5 holds out the second fold",
    )
    split_file: str | None = Field(
        None, min_length=1, description="file that assigns each row to a split: columns id and split"
    )
    epochs: Annotated[Real, Field(gt=0, le=1e6)] = Field(3.0, description="passes over the training rows")
    max_steps: Count | None = Field(None, description="optimizer updates, instead of --epochs")
    batch_size: Count = Field(8, description="examples per update, over all processes")
    micro_batch_size: Count | None = Field(
        None, description="examples per forward pass on one process (default: as many as the batch has)"
    )
    eval_batch_size: Count = Field(32, description="size of a forward pass in evaluation, in rows of 128 tokens")
    learning_rate: Annotated[Real, Field(gt=0, le=1)] = Field(5e-5, description="peak learning rate of AdamW")
    weight_decay: Annotated[Real, Field(ge=0, le=1)] = Field(0.01, description="weight decay, on all parameters")
    layer_decay: Annotated[Real, Field(gt=0, le=1)] = Field(
        1.0, description="learning rate of a layer as a share of that of the layer above; the head has the full rate"
    )
    dropout: Annotated[Real, Field(ge=0, lt=1)] | None = Field(None, description="dropout (default: the model's own)")
    freeze: Annotated[int, BeforeValidator(values.no_bool), Field(ge=0, lt=2**31)] | None = Field(
        None, description="number of lowest layers to freeze, together with the embeddings; 0 trains all"
    )
    lora: Count | None = Field(
        None,
        description="LoRA rank: train low-rank matrices in the encoder's layers, and the head (default: all weights)",
    )
    pooling: Literal["model", "mean"] = Field(
        "model", description="input of the head: the model's own, or one more layer that begins as mean pooling"
    )
    head: Literal["random", "probe"] = Field(
        "random", description="start of a new head: at random, or as a regression on the frozen encoder's features"
    )
    lr_scheduler: Scheduler = Field("linear", description="learning-rate schedule")
    warmup: Annotated[Real, Field(ge=0, lt=2**31)] = Field(
        0.0, description="warm-up: a whole number is steps, a fraction below 1 a share of the run"
    )
    max_grad_norm: Annotated[Real, Field(gt=0)] | None = Field(
        None, description="clip the gradient to this norm (default: no clipping)"
    )
    class_weights: Annotated[dict[str, float] | Literal["balanced"] | None, PlainValidator(values.class_weights)] = (
        Field(None, description="weight of each class in the training loss: balanced, or spam=5 ham=1")
    )
    label_smoothing: Annotated[Real, Field(ge=0, lt=1)] = Field(
        0.0, description="share of each target that training spreads evenly over all classes"
    )
    max_length: Annotated[int, BeforeValidator(values.no_bool), Field(ge=8, lt=2**31)] | None = Field(
        None, description="maximum tokens per row; longer rows are cut (default: the model's limit)"
    )
    long: Literal["head", "tail", "head+tail", "windows"] = Field(
        "head", description="what the model reads of a longer text: its beginning, its end, half of each, or all of it"
    )
    seed: Annotated[int, BeforeValidator(values.no_bool), Field(ge=0, lt=2**32)] = Field(
        42, description="seed of the new head, the order of the rows, the dropout, and the choice of held-out rows"
    )
    engine: Literal["packed", "plain"] = Field(
        "packed", description="how a batch is computed: without padding if the model allows it, or by its own forward"
    )
    gradient_checkpointing: bool = Field(
        False, description="keep only each layer's input, and compute the layer twice: less memory, more time"
    )
    base_precision: Literal["fp32", "bf16", "4bit"] = Field(
        "fp32", description="precision in memory of the weights that --lora freezes; 4bit is saved as bf16"
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="precision of the matrix products")
    shard: bool = Field(
        False, description="under torchrun: each process holds only its part of weights, gradients and optimizer state"
    )
    timeout: Count | None = Field(
        None, description="seconds to wait for another process in a step (default: PyTorch's: 1800, on GPUs 600)"
    )
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="where to compute: auto, cpu, cuda, cuda:N or mps"
    )
    threads: Annotated[Count, Field(le=1024)] | None = Field(
        None, description="CPU threads per process (default: PyTorch's choice)"
    )
    group_by_length: bool = Field(False, description="batches of similar lengths, for less padding")
    workers: Annotated[int, BeforeValidator(values.no_bool), Field(ge=0, le=256)] = Field(
        0, description="processes that prepare batches in advance"
    )
    eval_steps: Count | None = Field(None, description="evaluate every N updates (default: after each epoch)")
    metric: Metric | str | None = Field(None, description="metric that chooses the best model (default: the task's)")
    calibrate: bool = Field(
        False, description="calibrate the probabilities: divide the saved model's head by a fitted temperature"
    )
    abstain: Portion | None = Field(
        None, description="give no label if the model is unsure, so that this share of the given labels is right"
    )
    save_steps: Count | None = Field(None, description="checkpoint every N updates, and at each evaluation")
    keep: Count = Field(2, description="checkpoints to keep, in addition to the best one")
    patience: Count | None = Field(None, description="stop after N evaluations without improvement (default: never)")
    track: Annotated[tuple[Tracker, ...] | None, BeforeValidator(values.one_or_several)] = Field(
        None,
        min_length=1,
        description="also log the numbers to tensorboard (in the run folder), wandb, mlflow or trackio",
    )
    strict: bool = Field(False, description="do not start if `dongu inspect` has a warning about the data")

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, options: Any) -> Any:
        if not isinstance(options, dict):
            return options
        given = {name: value for name, value in options.items() if value is not None}
        if "lora" in given:
            given.setdefault("learning_rate", LORA_RATE * cls.model_fields["learning_rate"].default)
        return given

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if problems := list(_contradictions(self)):
            raise ValueError("; ".join(problems))
        return self


def option_flag(name: str) -> str:
    """`batch_size` → `--batch-size`; DATA is the one that is no flag."""
    return "DATA" if name == "data" else "--" + name.replace("_", "-")


def make_config(options: Mapping[str, Any]) -> RunConfig:
    """Check all options together and report every problem at once.

    Names may be those of `RunConfig` or any of `ALIASES`; `None` means "not given".

    Raises:
        UsageError: an unknown name, a value outside its range, or options that contradict each other.
    """
    given: dict[str, Any] = {}
    for name, value in options.items():
        option = ALIASES.get(name, name)
        if option not in RunConfig.model_fields:
            raise UsageError(f"there is no option {option_flag(name)}", hint=did_you_mean(name))
        if value is not None:  # an alias that is not given hides nothing
            given[option] = value
    try:
        return RunConfig(**given)
    except ValidationError as error:
        raise UsageError("; ".join(_problem(item) for item in error.errors())) from None


def check_metric(name: str | None, own: Collection[str] = ()) -> None:
    """Raise `UsageError` if there is no such metric to choose the best model by, and the user has none of this name."""
    known = (*get_args(Metric), *own)
    if name is not None and name not in known:
        raise UsageError(f"must be one of {', '.join(known)}, got `{shortened(name)}`", where="--metric")


def did_you_mean(name: str) -> str:
    """A hint with the closest option, or where to find them all."""
    close = get_close_matches(name.replace("-", "_"), [*RunConfig.model_fields, *ALIASES], n=1, cutoff=0.6)
    return f"did you mean {option_flag(close[0])}?" if close else "`dongu train --help` lists the options"


def _problem(item: Any) -> str:
    message = str(item["msg"]).removeprefix("Value error, ")
    if not item["loc"]:
        return message  # of several options, which it names
    name = str(item["loc"][0])
    message = message.replace("Input should be", "must be").replace("valid integer", "whole number")
    message = message.replace("String should have at least 1 character", "must not be empty")
    message = message.split(", unable to parse")[0].split(", got a number with")[0]
    if name == "device":
        message = "must be auto, cpu, cuda, cuda:N or mps"
    return f"{option_flag(name)}: {message}, got `{shortened(str(item['input']))}`"


def _contradictions(config: RunConfig) -> list[str]:
    problems = []
    if config.warmup >= 1 and config.warmup != int(config.warmup):
        problems.append(f"--warmup: must be whole steps or a fraction below 1, got `{config.warmup}`")
    if config.lr_scheduler == "constant" and config.warmup:
        problems.append("--warmup: `constant` has none; use --lr-scheduler constant_with_warmup")
    if config.base_precision != "fp32" and config.lora is None:
        problems.append("--base-precision: it is for the weights that --lora freezes; give --lora RANK too")
    if config.base_precision == "4bit" and config.shard:
        problems.append("--base-precision 4bit: such weights cannot be sharded; give bf16 with --shard")
    if config.lora is not None and config.pooling == "mean":
        problems.append("--pooling mean: --model has no such layer, and the adapter of --lora is put on it; give one")
    if config.text_columns and config.label_column in config.text_columns:
        problems.append(f"--label-column: `{config.label_column}` is a text column too")
    if config.text_columns and len(set(config.text_columns)) != len(config.text_columns):
        problems.append(f"--text-columns: `{config.text_columns[0]}` is named twice")
    if (names := config.label_names) and not (all(names) and len({*names}) == len(names)):
        problems.append(f"--label-names: {','.join(names)} has a name twice, or an empty one")
    if config.track and len(set(config.track)) != len(config.track):
        problems.append(f"--track: {', '.join(config.track)} has one twice")
    if config.task is not None:
        problems += task_problems(config, config.task)
    return problems + _split_contradictions(config)


def _split_contradictions(config: RunConfig) -> list[str]:
    problems = []
    if (config.validation or 0) + (config.test or 0) >= 1:
        problems.append("--validation and --test: nothing would be left to train on")
    given = [
        name for name in ("split_file", "time_column", "fold", "group_column") if getattr(config, name) is not None
    ]
    if len(given) > 1 and given != ["fold", "group_column"]:
        problems.append(f"{option_flag(given[0])} and {option_flag(given[1])}: give one of the two")
    if config.split_file and (config.validation or config.test):
        problems.append("--split-file: the file sets the splits; give no --validation and no --test")
    if config.fold is not None:
        number, count = map(int, config.fold.split("/"))
        if not (1 <= number <= count and count > 1):
            problems.append(f"--fold: must be 1/K to K/K, with K of at least 2, got `{config.fold}`")
        if config.validation:
            problems.append("--fold: the fold is the validation split; give no --validation")
    return problems


def task_problems(config: RunConfig, task: Task) -> list[str]:
    """Options that ask for what the labels of such a task do not have."""
    weighed = {"class_weights": config.class_weights is not None, "label_smoothing": config.label_smoothing > 0}
    weighed |= {name: getattr(config, name) is not None for name in ("rare", "label_names", "positive")}
    problems = [
        f"{option_flag(name)}: numbers have no classes" for name, asked in weighed.items() if asked and task in NUMBERS
    ]
    if task == "multi-label":
        several = "a row has several labels, and no single class"
        problems += [f"{option_flag(name)}: {several}" for name in ("rare", "positive") if getattr(config, name)]
    if task != "single-label":
        asked = [name for name in ("calibrate", "abstain") if getattr(config, name)]
        problems += [f"{option_flag(name)}: the task {task} has no class probabilities" for name in asked]
    return problems
