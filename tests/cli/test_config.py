"""Every option is checked before anything else happens, and every problem is told at once with its flag."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from conftest import EXHAUSTIVE
from dongu.cli.main import make_parser
from dongu.cli.train import train_options
from dongu.config import ALIASES, RunConfig, did_you_mean, make_config, option_flag
from dongu.errors import UsageError
from dongu.recipe_file import read_config

# An option more is a decision, not an accident: whoever adds one changes this list.
OPTIONS = [
    "data",
    "model",
    "tokenizer",
    "out",
    "text_columns",
    "label_column",
    "label_separator",
    "columns",
    "unlabelled",
    "empty",
    "bad_rows",
    "rare",
    "label_names",
    "positive",
    "header",
    "delimiter",
    "encoding",
    "quoting",
    "escape",
    "max_expansion",
    "field",
    "format",
    "sheet",
    "download",
    "task",
    "recipe",
    "validation",
    "test",
    "group_column",
    "time_column",
    "fold",
    "split_file",
    "epochs",
    "max_steps",
    "batch_size",
    "micro_batch_size",
    "eval_batch_size",
    "learning_rate",
    "weight_decay",
    "layer_decay",
    "dropout",
    "freeze",
    "lora",
    "pooling",
    "head",
    "lr_scheduler",
    "warmup",
    "max_grad_norm",
    "class_weights",
    "label_smoothing",
    "max_length",
    "long",
    "seed",
    "engine",
    "gradient_checkpointing",
    "base_precision",
    "precision",
    "shard",
    "timeout",
    "device",
    "threads",
    "group_by_length",
    "workers",
    "eval_steps",
    "metric",
    "calibrate",
    "abstain",
    "save_steps",
    "keep",
    "patience",
    "track",
    "strict",
]


def problem(**options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        make_config(options)
    return str(caught.value)


def options_of(*arguments: str, processes: int = 1) -> dict[str, Any]:
    """What `dongu train ARGUMENTS` asks for."""
    return train_options(make_parser("train").parse_args(["train", *arguments]), processes)


def test_the_options() -> None:
    assert list(RunConfig.model_fields) == OPTIONS


def test_the_defaults_are_those_of_the_original_job() -> None:
    config = make_config({})
    assert (config.model, config.batch_size, config.epochs) == ("bert-base-uncased", 8, 3)
    assert (config.learning_rate, config.weight_decay) == (5e-5, 0.01)
    assert (config.lr_scheduler, config.warmup, config.max_grad_norm) == ("linear", 0, None)
    assert (config.seed, config.precision, config.workers) == (42, "fp32", 0)


def test_every_option_has_a_help_and_a_flag() -> None:
    parser = make_parser("train")
    for name, field in RunConfig.model_fields.items():
        assert field.description, name
        assert not field.description.endswith("."), name
        if name != "data":
            for flag in (option_flag(name), f"--{name}"):
                assert flag == flag.lower()
                if field.annotation is bool:
                    assert vars(parser.parse_args(["train", "x", flag]))[name] is True
                    continue
                assert vars(parser.parse_args(["train", "x", flag, "7"]))[name] in ("7", ["7"])


def test_a_switch_of_a_recipe_can_be_turned_off_again(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('data = "x.csv"\ngroup-by-length = true\n', encoding="utf-8")
    assert options_of("--config", str(recipe))["group_by_length"] is True
    for flag in ("--no-group-by-length", "--no-group_by_length"):
        assert options_of("--config", str(recipe), flag)["group_by_length"] is False


def test_an_option_cannot_change_later() -> None:
    with pytest.raises(ValidationError):
        make_config({}).seed = 1


def test_all_problems_at_once() -> None:
    message = problem(
        epochs="two", batch_size=0, seed=-1, learning_rate=3, lr_scheduler="bent", device="gpu", precision="fp8"
    )
    found = [part.split(":")[0].split()[-1] for part in message.split("; ")]
    assert sorted(found) == sorted(
        ["--epochs", "--batch-size", "--seed", "--learning-rate", "--lr-scheduler", "--device", "--precision"]
    )
    assert "\n" not in message
    for value in ("`two`", "`0`", "`-1`", "`3`", "`bent`", "`gpu`", "`fp8`"):
        assert value in message


def test_all_contradictions_at_once() -> None:
    numbers: dict[str, Any] = {"task": "regression", "label_smoothing": 0.1, "class_weights": "balanced"}
    message = problem(warmup=2.5, text_columns=["a", "a"], label_column="a", **numbers)
    for flag in ("--warmup", "--text-columns", "--label-column", "--label-smoothing", "--class-weights"):
        assert message.count(flag) == 1


BAD: list[tuple[str, Any]] = [
    ("epochs", 0),
    ("epochs", -1),
    ("epochs", "nan"),
    ("epochs", float("inf")),
    ("epochs", True),
    ("max_steps", 0),
    ("max_steps", 1.5),
    ("max_steps", True),
    ("batch_size", "8.5"),
    ("batch_size", "eight"),
    ("batch_size", False),
    ("batch_size", ""),
    ("micro_batch_size", 0),
    ("eval_batch_size", -4),
    ("learning_rate", 0),
    ("learning_rate", "5"),
    ("learning_rate", "nan"),
    ("learning_rate", True),
    ("weight_decay", -0.1),
    ("dropout", 1),
    ("dropout", -0.1),
    ("layer_decay", 0),
    ("layer_decay", 1.01),
    ("layer_decay", "nan"),
    ("warmup", -1),
    ("warmup", 2.5),
    ("warmup", "nan"),
    ("warmup", True),
    ("max_grad_norm", 0),
    ("max_grad_norm", "inf"),
    ("max_length", 7),
    ("seed", 2**32),
    ("seed", "1.5"),
    ("seed", True),
    ("device", "cuda:"),
    ("device", "gpu"),
    ("device", "cpu "),
    ("threads", 0),
    ("workers", -1),
    ("workers", True),
    ("eval_steps", 0),
    ("patience", 0),
    ("task", "multi"),
    ("engine", "fast"),
    ("model", ""),
    ("out", ""),
    ("label_column", ""),
    ("label_smoothing", 1),
    ("label_smoothing", -0.1),
    ("class_weights", "some"),
    ("class_weights", []),
    ("class_weights", {}),
    ("class_weights", ["balanced", "spam=2"]),
    ("class_weights", ["spam=0"]),
    ("class_weights", ["spam=-1"]),
    ("class_weights", ["spam=inf"]),
    ("class_weights", ["spam=1e39"]),  # which float32 does not hold
    ("class_weights", ["spam=1e-40"]),
    ("class_weights", ["spam=2", "spam=3"]),
    ("class_weights", {"spam": True}),
    ("class_weights", {"spam": None}),
    ("text_columns", []),
    ("text_columns", ["a", "b", "c"]),
    ("text_columns", 3),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_named_with_its_flag(name: str, value: Any) -> None:
    message = problem(**{name: value})
    assert message.startswith(f"{option_flag(name)}: ")
    assert len(message.splitlines()) <= 2
    assert "pydantic" not in message.lower()


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("batch_size", "16", 16),
        ("learning_rate", "1e-4", 1e-4),
        ("epochs", "0.5", 0.5),
        ("warmup", 0.1, 0.1),
        ("warmup", 100, 100),
        ("seed", 0, 0),
        ("device", "cuda:1", "cuda:1"),
        ("text_columns", "text", ("text",)),
        ("text_columns", ["a", "b"], ("a", "b")),
        ("batch_size", None, 8),
        ("label_column", ["a", "b"], "a+b"),
        ("class_weights", "balanced", "balanced"),
        ("class_weights", ["balanced"], "balanced"),
        ("class_weights", ["spam=5", "a=b=0.5"], {"spam": 5.0, "a=b": 0.5}),
        ("class_weights", {"spam": 5}, {"spam": 5.0}),
    ],
)
def test_a_good_value(name: str, value: Any, read: Any) -> None:
    assert getattr(make_config({name: value}), name) == read


def test_warm_up_that_the_schedule_would_ignore() -> None:
    """`get_scheduler("constant")` takes a warm-up and makes none."""
    message = problem(lr_scheduler="constant", warmup=10)
    assert "--warmup" in message
    assert "constant_with_warmup" in message
    assert make_config({"lr_scheduler": "constant_with_warmup", "warmup": 10}).warmup == 10


# --- the model that is validated is where options are checked and derived

VALID = {
    "data": st.text(max_size=5),
    "out": st.sampled_from(["runs/a", "a/../b", "../c"]),
    "text_columns": st.sampled_from(["text", ["a", "b"], ("a+c", "b")]),
    "label_column": st.sampled_from(["label", ["rude", "sad"]]),
    "task": st.sampled_from(["single-label"]),
    "epochs": st.floats(0, 1e6, exclude_min=True),
    "max_steps": st.integers(1, 2**31 - 1),
    "learning_rate": st.floats(0, 1, exclude_min=True),
    "lora": st.integers(1, 64),
    "warmup": st.integers(0, 1000) | st.floats(0, 1, exclude_max=True),
    "max_grad_norm": st.floats(0.1, 1e300),
    "class_weights": st.sampled_from(["balanced", ["balanced"], ["spam=5", "a=b=0.5"], {"1": 2}]),
    "label_smoothing": st.floats(0, 1, exclude_max=True),
    "threads": st.integers(1, 1024),
    "metric": st.sampled_from(["loss", "f1"]),
    "patience": st.integers(1, 9),
    "track": st.sampled_from(["wandb", ["tensorboard", "mlflow"]]),
    "strict": st.booleans(),
}


@pytest.mark.found("config-identity")
@settings(max_examples=100 if EXHAUSTIVE else 30)
@given(st.fixed_dictionaries({}, optional={name: values | st.none() for name, values in VALID.items()}))
def test_a_dump_gives_the_same_config_again(options: dict[str, Any]) -> None:
    config = RunConfig.model_validate(options)
    assert config == make_config(options)
    assert RunConfig(**config.model_dump()) == config
    assert RunConfig(**json.loads(json.dumps(config.model_dump(mode="json")))) == config


@pytest.mark.found("config-identity")
def test_the_model_refuses_what_make_config_refuses() -> None:
    for options in ({"warmup": 2.5}, {"lr_scheduler": "constant", "warmup": 9}, {"track": ["wandb", "wandb"]}):
        with pytest.raises(ValidationError) as caught:
            RunConfig.model_validate(options)
        assert problem(**options) in str(caught.value)
    rate = RunConfig.model_validate({"lora": 8}).learning_rate
    assert rate == make_config({"lora": 8}).learning_rate == pytest.approx(5e-4)
    assert make_config({"lora": 8, "learning_rate": 1e-3}).learning_rate == 1e-3


# --- names


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("bach_size", "--batch-size"),
        ("batchsize", "--batch-size"),
        ("learning-rat", "--learning-rate"),
        ("epoch", "--epochs"),
        ("num_epochs", "--epochs"),
        ("max_lenght", "--max-length"),
    ],
)
def test_an_unknown_option_is_answered_with_the_closest(typed: str, meant: str) -> None:
    message = problem(**{typed: 3})
    assert f"there is no option --{typed.replace('_', '-')}" in message
    assert meant in message or any(
        option_flag(alias) in message for alias, name in ALIASES.items() if option_flag(name) == meant
    )
    assert "did you mean" in message


def test_a_name_like_no_option() -> None:
    assert "did you mean" not in did_you_mean("qqqqqq")
    assert "--help" in did_you_mean("qqqqqq")


def test_aliases() -> None:
    assert set(ALIASES.values()) <= set(OPTIONS)
    assert not set(ALIASES) & set(OPTIONS)
    config = make_config({"num_train_epochs": 2, "model_name_or_path": "m", "lr": 1e-3, "max_seq_length": 64})
    assert (config.epochs, config.model, config.learning_rate, config.max_length) == (2, "m", 1e-3, 64)


@pytest.mark.parametrize("alias", sorted(ALIASES))
def test_an_alias_is_a_flag_in_both_spellings(alias: str) -> None:
    for flag in (f"--{alias}", f"--{alias.replace('_', '-')}"):
        options = options_of("x", flag, "cpu")
        assert options[ALIASES[alias]] in ("cpu", ["cpu"])


# --- recipes


def test_a_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('data = "glue:mrpc"\nbatch-size = 16\nlearning_rate = 1e-4\ntext-columns = ["a", "b"]\n')
    options = options_of("--config", str(recipe))
    assert options == {"data": "glue:mrpc", "batch_size": 16, "learning_rate": 1e-4, "text_columns": ["a", "b"]}
    assert make_config(options).text_columns == ("a", "b")


def test_flags_override_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('data = "here"\nbatch_size = 16\nnum_train_epochs = 2\nlr = 1e-3\nseed = 7\n')
    config = make_config(
        options_of("there", "--config", str(recipe), "--batch-size", "4", "--epochs", "5", "--learning_rate", "1e-4")
    )
    assert (config.data, config.batch_size, config.epochs, config.learning_rate) == ("there", 4, 5, 1e-4)
    assert config.seed == 7


def test_an_option_twice_in_a_recipe(tmp_path: Path) -> None:
    """Two names of one option are refused: else one of them would win silently, even over the flag."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('data = "x"\nlearning_rate = 1e-3\nlr = 1e-2\n')
    with pytest.raises(UsageError, match="learning"):
        options_of("--config", str(recipe), "--lr", "1e-4")


def test_the_record_of_a_run_is_a_recipe(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    written = make_config({"data": "x", "text_columns": ["a", "b"], "warmup": 0.1, "max_steps": 5, "metric": "f1"})
    record.write_text(json.dumps({"options": written.model_dump(mode="json"), "total_steps": 5}))
    assert make_config(read_config(record)) == written


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("recipe.toml", "epochs = \n", "not a readable recipe"),
        ("recipe.toml", b"model = '\xff'\n", "not a readable recipe"),
        ("run.json", "{", "not a readable recipe"),
        ("run.json", "[]", "not a readable recipe"),
        ("run.json", '{"epochs": 3}', "not a readable recipe"),
        ("run.json", '{"options": [1]}', "no table"),
        ("folder", None, "not a readable recipe"),
        ("missing.toml", None, "does not exist"),
    ],
)
def test_a_recipe_that_cannot_be_read(tmp_path: Path, name: str, content: str | bytes | None, what: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    elif name == "folder":
        path.mkdir()
    with pytest.raises(UsageError) as caught:
        read_config(path)
    assert caught.value.where == f"--config {path}"
    assert what in caught.value.what


def test_a_recipe_with_unknown_options(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('data = "x"\n[training]\nepochs = 3\n')
    with pytest.raises(UsageError, match="there is no option --training"):
        make_config(options_of("--config", str(recipe)))


# --- per-device batches

BATCHES = [
    (["--per_device_train_batch_size", "4"], 1, 4, 4),
    (["--per-device-train-batch-size", "4"], 2, 8, 4),
    (["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "3"], 2, 24, 4),
    (["--gradient_accumulation_steps", "2"], 1, 16, 8),
    (["--gradient-accumulation-steps", "2"], 3, 48, 8),
    (["--per_device_train_batch_size", "6", "--micro-batch-size", "2"], 1, 6, 2),
]


@pytest.mark.parametrize(("arguments", "processes", "batch_size", "micro"), BATCHES)
def test_a_batch_a_device_becomes_the_whole_batch(
    arguments: list[str], processes: int, batch_size: int, micro: int
) -> None:
    config = make_config(options_of("x", *arguments, processes=processes))
    assert (config.batch_size, config.micro_batch_size) == (batch_size, micro)


def test_the_whole_batch_needs_no_processes() -> None:
    assert make_config(options_of("x", "--batch-size", "32", processes=4)).batch_size == 32
    assert "batch_size" not in options_of("x", processes=4)


@pytest.mark.parametrize("flag", ["--per_device_train_batch_size", "--gradient_accumulation_steps"])
def test_two_batch_sizes_contradict(flag: str) -> None:
    with pytest.raises(UsageError, match="--batch-size is the whole batch already"):
        options_of("x", "--batch-size", "32", flag, "2")
    for value in ("0", "-1", "2.5", "two", ""):
        with pytest.raises(UsageError) as caught:
            options_of("x", f"{flag}={value}")
        assert caught.value.where == flag


def test_data_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="which data"):
        options_of("--epochs", "1")
