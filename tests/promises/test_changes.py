"""What is not as it was when a run goes on: listed, and refused by name where it changes the result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import BertConfig

import dongu
from conftest import EXHAUSTIVE, cut_off_in_step, unwrapped
from dongu.cli.main import run as run_command
from dongu.config import READING, RunConfig, make_config
from dongu.data.sources import read_source
from dongu.errors import CheckpointError, UsageError
from dongu.own import Own
from dongu.relocation import found_again
from dongu.run.identity import HARMLESS, option_differences, options_of, version

OPTIONS: dict[str, Any] = {"max_steps": 10, "batch_size": 8, "lr": 1e-3, "save_steps": 2, "eval_steps": 4, "threads": 1}


@pytest.fixture(scope="module")
def data(shared_data_folder: Callable[..., str]) -> str:
    return shared_data_folder(train=40)


@pytest.fixture(scope="module")
def master(data: str, tiny_model: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 10 steps that ended abruptly in its seventh."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    with cut_off_in_step(7):
        dongu.train(data, **{**OPTIONS, "model": tiny_model(dropout=0.1), "out": str(run)})
    return run


@pytest.fixture
def stopped(master: Path, tmp_path: Path) -> Path:
    """A copy of that run, to go on with."""
    return Path(shutil.copytree(master, tmp_path / "run"))


@pytest.fixture(scope="module")
def whole(data: str, tiny_model: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of the same run without an end in between."""
    run = tmp_path_factory.mktemp("whole") / "run"
    dongu.train(data, **{**OPTIONS, "model": tiny_model(dropout=0.1), "out": str(run)})
    return weights(run)


def weights(run: Path) -> bytes:
    return (run / "checkpoints/step-00000010/weights.safetensors").read_bytes()


# One other value for each option that changes the result.
CHANGES = {
    "epochs": "2",
    "max_steps": "12",
    "batch_size": "16",
    "micro_batch_size": "3",
    "eval_batch_size": "4",
    "learning_rate": "2e-3",
    "weight_decay": "0.1",
    "layer_decay": "0.8",
    "dropout": "0.3",
    "lr_scheduler": "cosine",
    "warmup": "2",
    "max_grad_norm": "0.5",
    "class_weights": "balanced",
    "label_smoothing": "0.1",
    "max_length": "16",
    "seed": "7",
    "precision": "bf16",
    "gradient_checkpointing": "",
    "threads": "2",
    "eval_steps": "5",
    "metric": "f1",
    "patience": "1",
    "calibrate": "",
    "abstain": "0.9",
    "lora": "2",
    "freeze": "1",
    "unlabelled": "drop",
    "long": "tail",
    "empty": "drop",
    "bad_rows": "drop=1%",
    "head": "probe",
    "pooling": "mean",
}
# Not changed here: another model or task cannot take the weights, the engine has one value, the base in bf16 is LoRA's,
# and rows are rows.
FIXED = {
    "model",
    "tokenizer",
    "columns",
    "text_columns",
    "label_column",
    "label_separator",
    "label_names",
    "positive",
    "rare",
    "task",
    "validation",
    "test",
    "group_column",
    "time_column",
    "fold",
    "engine",
    "base_precision",
    "group_by_length",
    "shard",
    *READING,
}


def test_every_option_is_harmless_or_looked_at() -> None:
    assert set(RunConfig.model_fields) == HARMLESS | CHANGES.keys() | FIXED


@pytest.mark.crash
def test_an_option_that_changes_the_result_is_refused_by_name(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one run, which each of them leaves as it is; a third of them unless all are asked for."""
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    for name, value in [*CHANGES.items()][:: 1 if EXHAUSTIVE else 3]:
        flag = "--" + name.replace("_", "-")
        assert run_command(["resume", str(stopped), flag, *value.split()]) == 2, flag
        error = capsys.readouterr().err
        assert f"{flag} is" in error
        assert f"--allow {name.replace('_', '-')}" in error
        assert {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()} == before, flag


def test_what_is_allowed_is_done_said_and_recorded(
    stopped: Path, whole: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["resume", str(stopped), "--learning-rate", "2e-3", "--seed", "7"]
    assert run_command([*arguments, "--allow", "seed"]) == 2, "one of two is not both"
    assert run_command([*arguments, "--allow", "seed", "learning-rate"]) == 0
    output = capsys.readouterr().out
    assert "--learning-rate is 0.002, and was 0.001" in output
    assert "--seed is 7, and was 42" in output
    record = json.loads((stopped / "run.json").read_text(encoding="utf-8"))
    assert record["options"]["learning_rate"] == 2e-3
    assert record["changes"] == [
        {"step": 6, "changes": ["--learning-rate is 0.002, and was 0.001", "--seed is 7, and was 42"]}
    ]
    assert weights(stopped) != whole


@pytest.mark.parametrize(("name", "value"), [("freeze", "1"), ("lora", "2"), ("pooling", "mean")])
def test_another_model_is_none_to_go_on_with(
    name: str, value: str, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["resume", str(stopped), f"--{name}", value, "--allow", name, "learning-rate", "model"]) == 4
    assert "a run continues with its own model" in unwrapped(capsys.readouterr().err)


@pytest.mark.cases(test=2, ci=4)
@pytest.mark.parametrize("option", [["--workers", "1"], ["--keep", "1"], ["--save-steps", "3"], ["--device", "cpu"]])
def test_what_changes_nothing_needs_no_leave(option: list[str], stopped: Path, whole: bytes) -> None:
    assert run_command(["resume", str(stopped), *option]) == 0
    assert weights(stopped) == whole


def test_a_name_that_nothing_has(stopped: Path) -> None:
    with pytest.raises(UsageError, match="is not a name that can be allowed") as caught:
        dongu.resume(stopped, allow=["learnin-rate"])
    assert caught.value.hint == "did you mean learning-rate?"


def test_from_another_folder(
    stopped: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch, data_folder: Callable[..., str], tmp_path: Path
) -> None:
    """Data and a model that were given by a relative path are found from anywhere."""
    monkeypatch.chdir(tmp_path)
    place = json.loads((stopped / "run.json").read_text(encoding="utf-8"))["options"]["model"]
    model = Path(shutil.copytree(place, tmp_path / "model")).name
    data = Path(data_folder(train=40)).name

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dongu.running.judge", killed)
        with pytest.raises(KeyboardInterrupt):
            dongu.train(data, **{**OPTIONS, "model": model, "tokenizer": model, "out": "relative"})
    monkeypatch.chdir(tmp_path.parent)
    dongu.resume(tmp_path / "relative")
    assert weights(tmp_path / "relative") == whole


def test_where_a_model_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path of an older run.json is the same place; your own class is no such folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Net").mkdir()
    config, place = make_config({"model": "Net", "tokenizer": "Net"}), str(tmp_path / "Net")
    options = options_of(config, Own())
    assert (options["model"], options["tokenizer"]) == (place, place)
    now = {"options": options, "weights": "w", "architecture": "a"}
    assert [*option_differences({"options": {"model": "Net", "tokenizer": "Net"}}, now)] == []
    other = {"options": {"model": "Nest", "tokenizer": "Net"}, "weights": "w", "architecture": "a"}
    assert [*option_differences(other, now)] == [], "the same model in another folder"
    for unlike in ({"weights": "v"}, {"architecture": "b"}, {"weights": None}):
        assert [each.name for each in option_differences({**other, **unlike}, now)] == ["model"]
    [found] = option_differences({"options": other["options"]}, {"options": options})
    assert found.name == "model", "neither says what the weights were"
    options = options_of(config, Own(model=object()))
    assert (options["model"], options["tokenizer"]) == ("Net", place)


def test_a_project_that_was_moved(
    tmp_path: Path, whole: bytes, tiny_model: Callable[..., str], data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its runs find their data and their model where these lie now, and are what they were."""
    project, moved = tmp_path / "project", tmp_path / "elsewhere" / "project"
    shutil.copytree(data, project / "data")
    shutil.copytree(tiny_model(dropout=0.1), project / "model")
    options = {**OPTIONS, "model": str(project / "model")}
    with cut_off_in_step(7):
        dongu.train(str(project / "data"), **options, out=str(project / "runs/a"))
    train_seeds(project)
    before = (project / "runs/seeds/seeds.json").read_bytes()
    moved.parent.mkdir()
    project.rename(moved)
    run = moved / "runs/a"
    assert dongu.resume(run).results["steps"] == 10
    assert weights(run) == whole
    assert run_command(["verify", str(run)]) == 0
    assert run_command(["evaluate", str(run)]) == 0
    assert "changes" not in json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert run_command(["eject", str(run)]) == 0
    assert str(moved / "model") in capsys.readouterr().out
    assert run_command(["train", "--config", str(run / "run.json"), "--out", str(tmp_path / "again")]) == 0
    assert weights(tmp_path / "again") == whole
    train_seeds(moved)
    assert (moved / "runs/seeds/seeds.json").read_bytes() != before, "it names the places of now"


def train_seeds(project: Path) -> None:
    options = ["--model", str(project / "data/../model"), "--seeds", "2", "--max-steps", "1", "--threads", "1"]
    assert run_command(["train", str(project / "data"), *options, "--out", str(project / "runs/seeds")]) == 0


def test_data_around_a_run_that_was_moved(tmp_path: Path) -> None:
    """As of `dongu train .`, whose run is in the folder of the data."""
    (tmp_path / "data/runs/a").mkdir(parents=True)
    options = {"data": "/gone/data", "model": None}
    for relative, found in (("../..", str(tmp_path / "data")), ("..", "/gone/data"), ("", "/gone/data")):
        record = {"options": options, "relative_places": {"data": relative}}
        assert found_again(record, tmp_path / "data/runs/a") == {"data": found, "model": None}


def test_the_same_model_in_another_folder(stopped: Path, whole: bytes, tmp_path: Path) -> None:
    place = json.loads((stopped / "run.json").read_text(encoding="utf-8"))["options"]["model"]
    copied, changed = (Path(shutil.copytree(place, tmp_path / name)) for name in ("copied", "changed"))
    config = json.loads((changed / "config.json").read_text(encoding="utf-8"))
    (changed / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}), encoding="utf-8")
    with pytest.raises(UsageError, match=r"the config\.json of --model .*/changed has changed since") as caught:
        dongu.resume(stopped, model=str(changed))
    assert caught.value.hint.endswith("--allow model")
    assert dongu.resume(stopped, model=str(copied)).results["steps"] == 10
    assert weights(stopped) == whole
    assert json.loads((stopped / "run.json").read_text(encoding="utf-8"))["options"]["model"] == str(copied)


def test_no_script_of_another_model(stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An edited `run.json` names it; that the run says what its own was like changes nothing about it."""
    record = json.loads((stopped / "run.json").read_text(encoding="utf-8"))
    other = Path(shutil.copytree(record["options"]["model"], tmp_path / "other"))
    tensors = load_file(other / "model.safetensors")
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, other / "model.safetensors", {"format": "pt"})
    record["options"]["model"] = str(other)
    (stopped / "run.json").write_text(json.dumps(record), encoding="utf-8")
    assert run_command(["eject", str(stopped)]) == 2
    assert f"the weights of --model {other} have changed since the start" in unwrapped(capsys.readouterr().err)


@pytest.mark.parametrize(("name", "value"), [("dropout", "0.3"), ("long", "tail")])
def test_what_is_written_into_the_config_needs_one_leave(name: str, value: str, stopped: Path) -> None:
    assert run_command(["resume", str(stopped), f"--{name}", value, "--allow", name]) == 0


def test_another_library_has_other_defaults(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is no other config.json."""
    to_dict = BertConfig.to_dict
    monkeypatch.setattr("dongu.run.identity.version", lambda name: "99" if name == "transformers" else version(name))
    monkeypatch.setattr(BertConfig, "to_dict", lambda self: {**to_dict(self), "new_default": True})
    assert dongu.resume(stopped, allow=["versions"]).results["steps"] == 10


def test_rows_from_memory_are_those_of_the_file(stopped: Path, whole: bytes, data: str) -> None:
    """Where the run found its data, it finds them again."""
    before = (stopped / "run.json").read_bytes()
    dongu.resume(stopped, {split: dict(table.columns) for split, table in read_source(data).splits.items()})
    assert weights(stopped) == whole
    assert (stopped / "run.json").read_bytes() == before


def test_an_edited_run_json_is_seen(stopped: Path) -> None:
    path = stopped / "run.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"weight_decay": 0.01', '"weight_decay": 0.02'))
    with pytest.raises(UsageError, match=r"--weight-decay is 0\.02, and was 0\.01"):
        dongu.resume(stopped)


def test_data_that_lie_elsewhere_now(
    stopped: Path, whole: bytes, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = Path(data).rename(tmp_path / "moved")
    try:
        assert run_command(["resume", str(stopped)]) == 2
        assert f"where are they now? dongu resume {stopped} DATA" in capsys.readouterr().err
        assert run_command(["resume", str(stopped), str(moved)]) == 0
    finally:
        moved.rename(data)
    assert weights(stopped) == whole


@pytest.mark.cases(test=2, ci=4)
@pytest.mark.parametrize(
    ("patched", "value", "name", "text"),
    [
        ("dongu.run.identity.version", lambda _: "9.9", "versions", "torch is 9.9, and was"),
        ("torch.backends.cpu.get_cpu_capability", lambda: "NONE", "hardware", "the cpu is NONE"),
        ("dongu.engine.device.processor_vendor", lambda: "Nobody", "hardware", "Nobody, and was"),
        (
            "dongu.data.tokens.Tokens.digest",
            lambda _: "x",
            "data",
            "the tokenizer gives other tokens for train",
        ),
    ],
)
def test_surroundings_that_change_the_result(
    patched: str, value: Any, name: str, text: str, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patched, value)
    with pytest.raises(UsageError) as caught:
        dongu.resume(stopped)
    assert text in caught.value.what
    assert caught.value.hint.endswith(f"--allow {name}")
    assert dongu.resume(stopped, allow=[name]).results["steps"] == 10


def test_another_python_is_said_and_allowed(
    stopped: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.99.0")
    assert run_command(["resume", str(stopped)]) == 0
    assert "WARNING: python is 3.99.0, and was" in capsys.readouterr().out
    assert weights(stopped) == whole


def test_checkpoints_that_are_gone_are_no_fresh_start(stopped: Path) -> None:
    (stopped / "checkpoints").rename(stopped.with_name("aside"))
    log = (stopped / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match="checkpoints of the run are gone"):
        dongu.resume(stopped)
    assert (stopped / "metrics.jsonl").read_bytes() == log


def test_a_run_killed_before_its_first_checkpoint_starts_anew(
    stopped: Path, whole: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (stopped / "checkpoints").rename(stopped.with_name("aside"))
    log = (stopped / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (stopped / "metrics.jsonl").write_bytes(b"".join(log[:2]))
    assert run_command(["resume", str(stopped)]) == 0
    assert "resuming after step 0 of 10" in capsys.readouterr().out
    assert weights(stopped) == whole
