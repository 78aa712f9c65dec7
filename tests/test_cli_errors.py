"""Bad command lines, data and models: exit code 2, at most three lines that name the place, and nothing left behind."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dongu import cli

PAIRS = [
    {"sentence1": f"good film word{i}", "sentence2": f"a film word{i % 7}", "label": ("no", "yes")[i % 2]}
    for i in range(24)
]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is written by default is written here."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]) -> Iterator[Path]:
    """A tiny run on pairs of texts, to be read only."""
    folder = tmp_path_factory.mktemp("trained")
    write_rows(folder / "pairs.jsonl", PAIRS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DONGU_CACHE", str(folder / "cache"))
        arguments = ["train", str(folder / "pairs.jsonl"), "--model", tiny_model(), "--out", str(folder / "run")]
        assert cli.run([*arguments, "--max-steps", "2", "--eval-steps", "2", "--device", "cpu"]) == 0
        yield folder / "run"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def failure(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """What a failing command says; it says it in at most three lines, of which each says something."""
    capsys.readouterr()
    assert cli.run(arguments) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    assert said.err.startswith("dongu: error: ")
    assert 1 <= len(said.err.splitlines()) <= 3
    assert all(line.strip() for line in said.err.splitlines())
    return said.err


# --- command lines, in a folder with `data.jsonl`, `bad.toml` and a `full` folder

LINES: list[tuple[list[str], list[str]]] = [
    ([], ["COMMAND", "--help"]),
    (["trian"], ["trian"]),
    (["train"], ["which data?", "dongu train DATA"]),
    (["train", "--epochs", "1"], ["which data?"]),
    (["train", "missing.csv"], ["missing.csv", "no such file"]),
    (["train", "data.json"], ["data.json", "did you mean data.jsonl?"]),
    (["train", "./missing"], ["missing"]),
    (["train", "nothing"], ["nothing", "Hub"]),
    (["train", "data.jsonl", "more.jsonl"], ["more.jsonl"]),
    (["train", "data.jsonl", "--frobnicate"], ["--frobnicate", "--help"]),
    (["train", "data.jsonl", "--bach-size", "3"], ["--bach-size", "did you mean --batch-size?"]),
    (["train", "data.jsonl", "--batch_sise=3"], ["--batch_sise", "--batch-size"]),
    (["train", "data.jsonl", "--batch", "3"], ["--batch"]),  # no abbreviations: they would change with new options
    (["train", "data.jsonl", "--batch-size"], ["--batch-size"]),
    (["train", "data.jsonl", "--batch-size", "0"], ["--batch-size", "`0`"]),
    (["train", "data.jsonl", "--epochs", "many"], ["--epochs", "`many`"]),
    (["train", "data.jsonl", "--epochs", "nan"], ["--epochs", "`nan`"]),
    (["train", "data.jsonl", "--seed", "-1", "--lr", "0"], ["--seed", "`-1`", "--learning-rate", "`0`"]),
    (["train", "data.jsonl", "--task", "multi"], ["--task", "`multi`", "single-label"]),
    (["train", "data.jsonl", "--device", "gpu"], ["--device", "`gpu`", "cuda"]),
    (["train", "data.jsonl", "--device", "cuda:99"], ["--device cuda:99"]),
    (["train", "data.jsonl", "--text-columns", "a", "b", "c"], ["--text-columns"]),
    (["train", "data.jsonl", "--text-columns", "txt"], ["data.jsonl", "`txt`", "did you mean `text`?"]),
    (["train", "data.jsonl", "--label-column", "answer"], ["data.jsonl", "`answer`", "text, label"]),
    (["train", "data.jsonl", "--text-columns", "text", "--label-column", "text"], ["--label-column", "`text`"]),
    (["train", "data.jsonl", "--task", "regression"], ["data.jsonl:1", "`no`", "number"]),
    (["train", "data.jsonl", "--config", "missing.toml"], ["--config missing.toml", "does not exist"]),
    (["train", "data.jsonl", "--config", "bad.toml"], ["--config bad.toml", "not a readable recipe"]),
    (["train", "data.jsonl", "--config", "."], ["--config ."]),
    (["train", "data.jsonl", "--per_device_train_batch_size", "4", "--batch-size", "8"], ["--batch-size"]),
    (["train", "data.jsonl", "--out", "full"], ["--out full", "not empty", "nothing was touched"]),
    (["train", "data.jsonl", "--out", "data.jsonl"], ["--out data.jsonl", "is a file"]),
    (["train", "data.jsonl", "--model", "nobody/nothing"], ["--model nobody/nothing"]),
    (["train", "data.jsonl", "--model", "./missing"], ["--model ./missing"]),
    (["train", "data.jsonl", "--model", "data.jsonl"], ["--model data.jsonl"]),
    (["train", "data.jsonl", "--model", "TINY", "--metric", "pearson"], ["--metric pearson", "loss, accuracy, f1"]),
    (["train", "data.jsonl", "--model", "TINY", "--warmup", "1000"], ["--warmup", "1000"]),
    (["train", "data.jsonl", "--model", "TINY", "--max-length", "81"], ["--max-length 81", "80 positions"]),
    (["evaluate"], ["RUN"]),
    (["evaluate", "full"], ["full", "is not a run"]),
    (["evaluate", "missing"], ["missing", "is not a run"]),
    (["evaluate", "full", "--splt", "test"], ["--splt", "did you mean --split?"]),
    (["predict", "full", "a text"], ["full", "is not a run"]),
    (["predict", "data.jsonl", "a text"], ["data.jsonl"]),
    (["predict", "full", "--batch-size", "two"], ["--batch-size", "two"]),
]


@pytest.mark.parametrize(("arguments", "said"), LINES, ids=lambda value: " ".join(value) if value else "nothing")
def test_a_bad_command_line(
    tmp_path: Path,
    tiny_model: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: list[str],
) -> None:
    write_rows(tmp_path / "data.jsonl", [{"text": f"word{i}", "label": ("no", "yes")[i % 2]} for i in range(20)])
    (tmp_path / "bad.toml").write_text("epochs = \n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    before = {str(path): path.is_dir() or path.read_text() for path in tmp_path.rglob("*")}
    message = failure(capsys, *(tiny_model() if word == "TINY" else word for word in arguments))
    for part in said:
        assert part in message
    assert {str(path): path.is_dir() or path.read_text() for path in tmp_path.rglob("*")} == before


# --- data

GOOD = "text,label\ngood film,yes\nbad film,no\nthe film,yes\na film,no\n"

DATA: list[tuple[dict[str, str], list[str]]] = [
    ({"train.csv": GOOD + ",yes\n", "validation.csv": GOOD}, ["train.csv:6", "`text` is empty"]),
    ({"train.csv": GOOD + "film,\n", "validation.csv": GOOD}, ["train.csv:6", "`label` is empty"]),
    ({"train.csv": GOOD + "a, b,yes\n", "validation.csv": GOOD}, ["train.csv:6", "3 cells"]),
    ({"train.csv": GOOD, "validation.csv": GOOD + "film,maybe\n"}, ["validation.csv:6", "`maybe`", "no, yes"]),
    ({"train.csv": GOOD, "validation.csv": "sentence,label\na,yes\n"}, ["validation.csv", "no column `text`"]),
    ({"train.csv": "text,label\na,yes\nb,yes\n"}, ["train.csv", "one label only"]),
    ({"train.csv": GOOD + "film,maybe\n"}, ["train.csv", "`maybe` has 1 row"]),
    ({"train.csv": "a,b,label\nx,y,yes\n"}, ["train.csv", "--text-columns", "a, b, label"]),
    ({"train.csv": "text,answer\nx,yes\n"}, ["train.csv", "--label-column", "text, answer"]),
    ({"train.jsonl": '{"text": "x", "label": 1}\n{"text": "y"\n'}, ["train.jsonl:2"]),
    ({"validation.csv": GOOD}, ["no train split", "validation.csv"]),
]


@pytest.mark.parametrize(("files", "said"), DATA)
def test_bad_data(tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, str], said: list[str]) -> None:
    (tmp_path / "data").mkdir()
    for name, content in files.items():
        (tmp_path / "data" / name).write_text(content)
    message = failure(capsys, "train", "data", "--out", "run", "--model", "not/asked")
    for part in said:
        assert part in message
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


# --- models


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def pickled_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def with_config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def with_more_tokens(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"new{i}" for i in range(10)])
    tokenizer.save_pretrained(folder)


def cut(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return change


def without_a_layer(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "layer.1." not in name}
    assert len(kept) < len(tensors)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


MODELS: list[tuple[Callable[[Path], None], list[str]]] = [
    (without("config.json"), ["no config.json", "save_pretrained"]),
    (without("model.safetensors"), ["no model.safetensors"]),
    (pickled_only, ["pickled", "save_pretrained"]),
    (without_tokenizer, ["no tokenizer.json"]),
    (with_config(auto_map={"AutoModel": "modeling.Own"}), ["auto_map", "no remote code"]),
    (with_config(model_type="unheard-of"), ["unheard-of"]),
    (with_more_tokens, ["82", "72", "do not belong together"]),
    (cut("config.json"), ["config.json is not JSON"]),
    (cut("model.safetensors"), ["cannot be loaded"]),
    (cut("tokenizer.json"), ["cannot be loaded"]),
    # Weights that are not in the file would be random numbers, and the run would only be a bad one.
    (without_a_layer, ["layer.1."]),
    (with_config(intermediate_size=48), ["intermediate"]),
    (with_config(num_hidden_layers=3), ["layer.2."]),
]


@pytest.mark.parametrize(
    ("spoil", "said"),
    MODELS,
    ids=[
        "no config",
        "no weights",
        "pickle",
        "no tokenizer",
        "remote code",
        "unknown kind",
        "more tokens",
        "cut config",
        "cut weights",
        "cut tokenizer",
        "missing layer",
        "other sizes",
        "more layers",
    ],
)
def test_a_bad_model(
    tmp_path: Path,
    tiny_model: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    said: list[str],
) -> None:
    shutil.copytree(tiny_model(), tmp_path / "model")
    spoil(tmp_path / "model")
    (tmp_path / "data.csv").write_text(GOOD)
    message = failure(capsys, "train", "data.csv", "--model", "./model", "--out", "run", "--max-steps", "1")
    for part in ["--model", *said]:
        assert part in message
    assert not (tmp_path / "run").exists()


def test_only_the_model_itself_limits_the_length(tiny_model: Callable[..., str]) -> None:
    """The tokenizer's 64 tokens are a default; the model has 80 positions."""
    import dongu

    loop = dongu.Loop(PAIRS, model=tiny_model(), max_length=80, max_steps=1)
    assert loop.config.max_length == 80
    assert dongu.Loop(PAIRS, model=tiny_model(), max_steps=1).config.max_length == 64


# --- a run at work

AT_WORK: list[tuple[list[str], list[str]]] = [
    (["predict", "RUN", "one text"], ["two texts", "1"]),
    (["predict", "RUN", "one", "two", "three"], ["two texts", "3"]),
    (["predict", "RUN", "one", ""], ["text 1"]),
    (["predict", "RUN", "one", "two", "--data", "pairs.jsonl"], ["TEXT", "--data"]),
    (["predict", "RUN", "one", "two", "--out", "old.jsonl"], ["--out old.jsonl", "exists"]),
    (["predict", "RUN", "one", "two", "--out", "new.txt"], ["--out new.txt", ".jsonl"]),
    (["predict", "RUN", "one", "two", "--batch-size", "0"], ["--batch-size", "`0`"]),
    (["predict", "RUN", "one", "two", "--device", "gpu"], ["--device", "`gpu`"]),
    (["predict", "RUN", "--data", "missing.csv"], ["missing.csv"]),
    (["predict", "RUN", "--data", "other.csv"], ["other.csv", "`sentence1`", "text, label"]),
    (["predict", "RUN", "--data", "holes.csv"], ["holes.csv:3", "`sentence2` is empty"]),
    (["evaluate", "RUN", "--split", "tests"], ["`tests`", "train, validation"]),
    (["evaluate", "RUN", "other.csv"], ["other.csv"]),
    (["evaluate", "RUN", "holes.csv"], ["holes.csv", "no labels"]),
    (["evaluate", "RUN", "strange.csv"], ["strange.csv:3", "`maybe`", "no, yes"]),
    (["train", "pairs.jsonl", "--out", "RUN"], ["holds a finished run", "nothing was touched"]),
]


@pytest.mark.parametrize(("arguments", "said"), AT_WORK, ids=lambda value: " ".join(value))
def test_a_run_at_work(
    tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: list[str]
) -> None:
    write_rows(tmp_path / "pairs.jsonl", PAIRS)
    (tmp_path / "old.jsonl").write_text("mine")
    (tmp_path / "other.csv").write_text("text,label\na film,yes\n")
    (tmp_path / "holes.csv").write_text("sentence1,sentence2\ngood,film\nbad,\n")
    (tmp_path / "strange.csv").write_text("sentence1,sentence2,label\ngood,film,yes\nbad,film,maybe\n")
    before = {path.name for path in tmp_path.iterdir()}
    message = failure(capsys, *(str(trained) if word == "RUN" else word for word in arguments))
    for part in said:
        assert part in message
    assert {path.name for path in tmp_path.iterdir()} == before
    assert (tmp_path / "old.jsonl").read_text() == "mine"


def pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"good\tfilm\nbad\n", ["standard input:2", "tab"]),
        (b"good\tfilm\n\nbad\tfilm\n", ["standard input:2"]),
        (b"good\t\n", ["standard input:1"]),
        (b"a\tb\tc\n", ["standard input:1"]),
        (b"caf\xe9\tfilm\n", ["standard input", "not UTF-8"]),
    ],
)
def test_bad_lines_of_standard_input(
    trained: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    said: list[str],
) -> None:
    pipe(monkeypatch, content)
    message = failure(capsys, "predict", str(trained))
    for part in said:
        assert part in message


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_a_line_is_what_a_line_feed_ends(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Other characters that Python takes for line ends stand within texts: each line has one answer."""
    pipe(monkeypatch, f"good\u2028film\x0bhere\x85now\tfilm\nbad\tfilm{end}".encode())
    assert cli.run(["predict", str(trained), "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.split("\n") if line]
    assert [answer["sentence1"] for answer in answers] == ["good\u2028film\x0bhere\x85now", "bad"]
    assert answers[1]["sentence2"] == "film"


# --- the frame around every command


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", "missing.csv", "--debug"]) == 2
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert "dongu: error: missing.csv: no such file or folder" in said


def test_a_bug_is_said_as_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(_: Any) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(cli, "_train", bug)
    message = failure(capsys, "train", "data", code=70)
    assert "internal error: ZeroDivisionError: division by zero" in message
    assert "--debug" in message


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGUSR1", 143)])
def test_a_signal_outside_of_the_steps(
    name: str, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: Any) -> None:
        os.kill(os.getpid(), signal.Signals[name])
        time.sleep(5)

    before = signal.getsignal(signal.Signals[name])
    monkeypatch.setattr(cli, "_train", interrupt)
    assert cli.run(["train", "data"]) == code
    assert capsys.readouterr().err == f"dongu: stopped by {name} during the set-up; nothing was lost\n"
    monkeypatch.setattr(cli, "_predict", interrupt)
    assert cli.run(["predict", "run", "text"]) == code
    assert capsys.readouterr().err == f"dongu: stopped by {name}\n"
    assert signal.getsignal(signal.Signals[name]) == before


def test_one_of_many_processes_speaks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert cli.run(["train"]) == 2
    assert capsys.readouterr().err == ""


LIGHT = """
import sys
import time
import dongu
from dongu.__main__ import main
sys.argv = ["dongu", *{arguments!r}]
code = 0
try:
    if sys.argv[1:]:
        main()
except SystemExit as stop:
    code = stop.code
heavy = {{name.partition(".")[0] for name in sys.modules}} & {{"torch", "transformers", "datasets", "sklearn", "scipy"}}
print("heavy:", sorted(heavy))
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 0, ""),
        (["--version"], 0, "dongu "),
        (["--help"], 0, "COMMAND"),
        (["train", "--help"], 0, "--batch-size"),
        (["evaluate", "--help"], 0, "--split"),
        (["predict", "--help"], 0, "--data"),
        (["demo", "--help"], 0, "--seed"),
        (["train", "x", "--batch-size", "0"], 2, ""),
    ],
)
def test_help_and_usage_errors_need_no_torch(arguments: list[str], code: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(arguments=arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert done.stdout.endswith("heavy: []\n")
    assert said in done.stdout
