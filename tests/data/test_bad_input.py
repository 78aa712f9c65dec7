"""Every kind of bad input ends well: exit code 2, at most three lines that name the place, and nothing left behind.

One table a kind: command lines, files, folders of data, models, run folders, a run at work. What only looks bad, and is
to be taken as it is, stands in the last tables. `test_reader_properties.py` looks for what nobody thought of.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_sources import BROKEN, ids

from dongu.cli.main import run as run_command
from dongu.config import make_config
from dongu.data.examples import read_examples
from dongu.data.readers import read_file
from dongu.data.sources import read_source
from drivers import HANGS

LIMIT_SECONDS = 5  # of a command; the first one also loads torch
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
        assert run_command([*arguments, "--max-steps", "2", "--eval-steps", "2", "--device", "cpu"]) == 0
        yield folder / "run"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command says that cannot use its input; every file and folder is afterwards what it was before.

    It says nothing else, but for what was found in data that can be used: that is told before the model is looked at.
    """
    before = contents(Path.cwd())
    capsys.readouterr()
    started = time.process_time()
    assert run_command(arguments) == 2
    assert time.process_time() - started < LIMIT_SECONDS
    said = capsys.readouterr()
    assert all(
        line.startswith(("data  ", "read as  ", "columns  ", "labels  ", "    ")) for line in said.out.splitlines()
    )
    assert_well_said(said.err)
    assert contents(Path.cwd()) == before
    return said.err


def assert_well_said(message: str) -> None:
    assert "Traceback" not in message
    assert message.startswith("dongu: error: ")
    assert 1 <= len(message.splitlines()) <= 3
    assert all(line.strip() for line in message.splitlines())


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


# --- command lines, in a folder with `data.jsonl`, recipes, a `full` folder, a pipe and a link to itself

LINES: list[tuple[list[str], list[str]]] = [
    (["trian"], ["trian", "did you mean `dongu train`?"]),
    (["frobnicate"], ["frobnicate", "the commands are: train, "]),
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
    (["train", "data.jsonl", "--class-weights", "heavy"], ["--class-weights", "heavy"]),
    (["train", "data.jsonl", "--class-weights", "no=many"], ["--class-weights", "many"]),
    (["train", "data.jsonl", "--class-weights", "no=-1"], ["--class-weights", "-1"]),
    (["train", "data.jsonl", "--class-weights", "maybe=2"], ["--class-weights", "maybe"]),
    (["train", "data.jsonl", "--label-smoothing", "1.5"], ["--label-smoothing", "`1.5`"]),
    (["train", "data.jsonl", "--task", "regression", "--label-smoothing", "0.1"], ["--label-smoothing"]),
    (["train", "data.jsonl", "--task", "multi-label", "--calibrate"], ["--calibrate", "multi-label"]),
    (["train", "data.jsonl", "--task", "regression", "--calibrate"], ["--calibrate", "regression"]),
    (["train", "data.jsonl", "--layer-decay", "0"], ["--layer-decay", "`0`"]),
    (["train", "data.jsonl", "--seeds", "0"], ["--seeds"]),
    (["train", "data.jsonl", "--text-columns", "text+body"], ["data.jsonl", "`body`", "text, label"]),
    (["train", "data.jsonl", "--label-column", "text+label"], ["data.jsonl", "--text-columns"]),
    (["predict", "full", "--glue", "--out", "hand-in"], ["full", "is not a run"]),
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
    (["evaluate"], ["MODEL"]),
    (["evaluate", "full"], ["full", "is not a run"]),
    (["evaluate", "missing"], ["missing", "is not a run"]),
    (["evaluate", "full", "--splt", "test"], ["--splt", "did you mean --split?"]),
    (["predict", "full", "a text"], ["full", "is not a run"]),
    (["predict", "data.jsonl", "a text"], ["data.jsonl"]),
    (["predict", "full", "--batch-size", "two"], ["--batch-size", "two"]),
    (["train", "data.jsonl", "--out", "run", "--batch-size", "-1"], ["--batch-size", "`-1`"]),
    (["train", "data.jsonl", "--out", "run", "--batch-size", "1.5"], ["--batch-size", "whole number", "`1.5`"]),
    (["train", "data.jsonl", "--out", "run", "--batch-size", "9" * 30], ["--batch-size", "less than"]),
    (["train", "data.jsonl", "--out", "run", "--batch-size", "9" * 9000], ["--batch-size", "99 … 99"]),
    (["train", "data.jsonl", "--out", "run", "--lr", "-1"], ["--learning-rate", "greater than 0", "`-1`"]),
    (["train", "data.jsonl", "--out", "run", "--lr", "inf"], ["--learning-rate", "`inf`"]),
    (["train", "data.jsonl", "--out", "run", "--lr", "10"], ["--learning-rate", "less than or equal to 1", "`10`"]),
    (["train", "data.jsonl", "--out", "run", "--epochs", "0"], ["--epochs", "greater than 0", "`0`"]),
    (["train", "data.jsonl", "--out", "run", "--epochs", "1e300"], ["--epochs", "`1e300`"]),
    (["train", "data.jsonl", "--out", "run", "--max-length", "4"], ["--max-length", "equal to 8", "`4`"]),
    (["train", "data.jsonl", "--out", "run", "--max-length", "0"], ["--max-length", "equal to 8", "`0`"]),
    (["train", "data.jsonl", "--out", "run", "--max-length", "-1"], ["--max-length", "equal to 8", "`-1`"]),
    (["train", "data.jsonl", "--out", "run", "--batch-size", "abc"], ["--batch-size", "whole number", "`abc`"]),
    (["train", "data.jsonl", "--out", "run", "--lr", "nan"], ["--learning-rate", "`nan`"]),
    (["train", "spaced.csv", "--out", "run", "--label-column", "label"], ["spaced.csv", "did you mean `Label `?"]),
    (["train", "leak", "--out", "run", "--model", "TINY", "--strict"], ["1 warning", "leaks from train", "remove"]),
    (["train", "data.jsonl", "--out", "run", "--threads", "100000"], ["--threads", "1024"]),
    (["train", "data.jsonl", "--out", "run", "--workers", "9999"], ["--workers", "256"]),
    (["train", "data.jsonl", "--out", "run", "--label-column", "labels"], ["`labels`", "did you mean `label`?"]),
    (
        ["train", "data.jsonl", "--out", "run", "--config", "typo.toml"],
        ["--learning-rat", "did you mean"],
    ),
    (["train", "data.jsonl", "--out", "run", "--config", "lines.toml"], ["there is no option --a b"]),
    (["train", "data.jsonl", "--out", "run", "--config", "deep.toml"], ["--config deep.toml", "not a readable recipe"]),
    (["train", "data.jsonl", "--out", "x" * 300], ["--out", "name too long"]),
    (["train", "data.jsonl", "--out", "a\0b"], ["--out a\ufffdb", "null"]),
    (["train", "data.jsonl", "--out", "circle"], ["--out circle", "symbolic links"]),
    (["train", "data.jsonl", "--out", "run", "--model", "x" * 300], ["--model", "is not a folder"]),
    (["train", "data.jsonl", "--out", "run", "--model", "~no-such-user/model"], ["--model ~no-such-user/model"]),
    (["train", "data.jsonl", "--out", "run", "--model", "\x1b[31mred"], ["--model \ufffd[31mred"]),
    (["train", "full", "--out", "run"], ["full: there is no train split; there is notes.txt"]),
    (["train", "pipe.csv", "--out", "run"], ["pipe.csv", "a pipe or a device"]),
    (
        ["train", "https://example.org/train.csv", "--out", "run"],
        ["https://example.org", "--download fetches it", "curl"],
    ),
    (["train", "data.jsonl", "--model", "TINY", "--epochs", "1", "--eval-steps", "9"], ["--eval-steps", "run has 3"]),
    (["resume", "full"], ["full", "is not a run"]),
    (["verify", "missing"], ["missing", "is not a run"]),
    (["report", "missing"], ["missing", "is not a run"]),
    (["predict", "full", "--data", "full"], ["full", "is not a run"]),
]


FOLDERS: dict[str, tuple[list[str], list[str]]] = {  # what lies in a folder, and what is said of it
    "seeds": (
        ["seeds.json", "seed-9/run.json", "seed-10/run.json"],
        [
            "holds one run per seed, and is not a run itself",
            "give one of them: FOLDER/seed-10, FOLDER/seed-9; `dongu runs",
        ],
    ),
    "folds": (
        ["folds.json", *(f"fold-{k}/run.json" for k in range(1, 6))],
        ["holds one run per fold", "FOLDER/fold-1, FOLDER/fold-2, FOLDER/fold-3 and 2 more; `dongu runs FOLDER`"],
    ),
    "a search": (
        ["tune.json", "trial-0000/run.json", "default/seed-43/run.json", "winner/seed-43/run.json"],
        ["holds the runs of a search", "give one of them: FOLDER/winner/seed-43, FOLDER/def", "its page is tune.html"],
    ),
    "runs": (["a/run.json", "b/seed-1/run.json"], ["holds several runs", "FOLDER/a, FOLDER/b/seed-1; `dongu runs"]),
    "nothing": ([], ["is not a run: it has no run.json", "give the folder that `dongu train` wrote"]),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_that_is_no_run_is_told_by_what_it_holds(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files, said = FOLDERS[kind]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("{}", encoding="utf-8")
    commands = ["report", "resume", "verify", "eject"] + ([] if kind == "folds" else ["evaluate", "export"])
    for command in (*([name, str(tmp_path)] for name in commands), ["compare", str(tmp_path), "other"]):
        assert run_command(command) == 2
        told = capsys.readouterr().err
        assert [part for part in said if part.replace("FOLDER", str(tmp_path)) not in told] == [], told
    assert run_command(["report", str(tmp_path / "none")]) == 2
    assert "there is no such folder" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "said"), LINES, ids=lambda value: " ".join(value)[:60] if value else "nothing")
def test_a_bad_command_line(
    tmp_path: Path,
    tiny_model: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: list[str],
) -> None:
    write_rows(tmp_path / "data.jsonl", [{"text": f"word{i}", "label": ("no", "yes")[i % 2]} for i in range(20)])
    (tmp_path / "bad.toml").write_text("epochs = \n")
    (tmp_path / "typo.toml").write_text("learning-rat = 1e-4\n")
    (tmp_path / "lines.toml").write_text('"a\\nb" = 3\n')
    (tmp_path / "deep.toml").write_text("a = " + "[" * 100_000)
    (tmp_path / "spaced.csv").write_text("text,Label \n" + "a film,yes\nthe film,no\n" * 4)
    (tmp_path / "leak").mkdir()
    rows = [{"text": f"word{i} word{i // 9} film", "label": ("no", "yes")[i % 2]} for i in range(20)]
    write_rows(tmp_path / "leak" / "train.jsonl", rows)
    write_rows(tmp_path / "leak" / "validation.jsonl", [rows[3], {"text": "a good film", "label": "no"}])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "circle").symlink_to("circle")
    os.mkfifo(tmp_path / "pipe.csv")
    message = failure(capsys, *(tiny_model() if word == "TINY" else word for word in arguments))
    for part in said:
        assert part in message


# --- one file: all that the readers refuse


@pytest.mark.parametrize(("name", "content", "line", "what", "hint"), BROKEN, ids=ids(BROKEN))
def test_a_bad_file(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str | bytes,
    line: int | None,
    what: str,
    hint: str,
) -> None:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    first, second = failure(capsys, "train", name, "--out", "run", "--model", "not/asked").splitlines()
    assert first.startswith(f"dongu: error: {name}: " if line is None else f"dongu: error: {name}:{line}: ")
    assert what in first
    assert hint in second


def test_a_closed_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Patched, for a superuser may read whatever its mode."""

    def refuse(_: Path, *_args: object, **_kwargs: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "closed.csv").write_text(GOOD)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        assert run_command(["train", "closed.csv", "--out", "run"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("dongu: error: closed.csv: cannot be read (Permission denied)")
    assert_well_said(message)


# --- folders of data

GOOD = "text,label\ngood film,yes\nbad film,no\nthe film,yes\na film,no\n"
OTHER = "text,label\na good film,yes\na bad film,no\n"
SAME_KEYS = '{"text": "a film", "label": "yes"}\n'

DATA: list[tuple[dict[str, str], list[str]]] = [
    ({"train.csv": GOOD + ",yes\n", "validation.csv": OTHER}, ["train.csv:6", "`text` is empty"]),
    ({"train.csv": GOOD + " \u00a0\t,yes\n", "validation.csv": OTHER}, ["train.csv:6", "`text` is empty"]),
    ({"train.csv": GOOD + "\u200b\x01\ufeff,yes\n", "validation.csv": OTHER}, ["train.csv:6", "`text` is empty"]),
    ({"train.csv": GOOD + "film,\n", "validation.csv": OTHER}, ["train.csv:6", "`label` is empty"]),
    ({"train.csv": GOOD + "film,\u200b\n", "validation.csv": OTHER}, ["train.csv:6", "`label` is empty"]),
    ({"train.csv": GOOD + "a, b,yes\n", "validation.csv": OTHER}, ["train.csv:6", "3 cells"]),
    ({"train.csv": GOOD, "validation.csv": OTHER + "film,maybe\n"}, ["validation.csv:4", "`maybe`", "no, yes"]),
    ({"train.csv": GOOD, "test.csv": OTHER + "film,maybe\n"}, ["test.csv:4", "`maybe`", "no, yes"]),
    ({"train.csv": GOOD, "validation.csv": "sentence,label\na,yes\n"}, ["validation.csv", "no column `text`"]),
    ({"train.csv": GOOD, "validation.csv": GOOD}, ["validation.csv", "same bytes as train.csv", "held out"]),
    ({"train.csv": GOOD, "validation.csv": OTHER, "test.csv": GOOD}, ["test.csv", "same bytes as train.csv"]),
    ({"train.csv": "text,label\na,yes\nb,yes\n"}, ["train.csv", "one label only"]),
    ({"train.csv": GOOD + "film,maybe\n"}, ["train.csv", "`maybe` has 1 row"]),
    ({"train.csv": GOOD + "film,-100\nfilm,-100\n"}, ["train.csv:6", "-100 means"]),
    ({"train.csv": GOOD + "film,-1\nfilm,-1\n"}, ["train.csv:6", "without a gold label"]),
    ({"train.csv": "a,b,label\nx,y,yes\n"}, ["train.csv", "--text-columns", "a, b, label"]),
    ({"train.csv": "text,answer\nx,yes\n"}, ["train.csv", "--label-column", "text, answer"]),
    ({"train.jsonl": '{"text": "x", "label": 1}\n{"text": "y"\n'}, ["train.jsonl:2"]),
    (
        {"train.jsonl": '{"text": "x", "label": true}\n{"text": "y", "label": 0}\n'},
        ["train.jsonl:2", "a boolean"],
    ),
    ({"train.jsonl": SAME_KEYS + '{"text": ["y"], "label": "no"}\n'}, ["train.jsonl:2", "`text` is a list"]),
    ({"train.jsonl": SAME_KEYS + '{"text": {"y": 1}, "label": "no"}\n'}, ["train.jsonl:2", "`text` is an object"]),
    ({"train.jsonl": SAME_KEYS + '{"text": null, "label": "no"}\n'}, ["train.jsonl:2", "`text` is null"]),
    ({"train.jsonl": SAME_KEYS + '{"label": "no"}\n'}, ["train.jsonl:2", "`text` is null"]),
    ({"train.jsonl": SAME_KEYS + '{"text": "y", "label": ["no"]}\n'}, ["train.jsonl:2", "`label` is a list"]),
    ({"train.parquet": "PAR1 cut off"}, ["train.parquet", "damaged, or not of this kind"]),
    ({"validation.csv": GOOD}, ["no train split", "validation.csv"]),
    ({"train.csv": GOOD, "train.jsonl": SAME_KEYS}, ["train.csv and train.jsonl are both the train split"]),
    # a whole file in one cell is shown in part
    ({"train.csv": GOOD, "validation.csv": OTHER + "film," + "x" * 10**6 + "\n"}, ["validation.csv:4", "xx … xx"]),
]


@pytest.mark.parametrize(("files", "said"), DATA)
def test_bad_data(tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, str], said: list[str]) -> None:
    (tmp_path / "data").mkdir()
    for name, content in files.items():
        (tmp_path / "data" / name).write_text(content, encoding="utf-8")
    message = failure(capsys, "train", "data", "--out", "run", "--model", "not/asked")
    assert len(message) < 5000
    for part in said:
        assert part in message


def test_texts_in_an_unknown_script(
    tmp_path: Path, tiny_model: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "data.csv", "--out", "run", "--model", tiny_model(), "--max-steps", "1", "--device", "cpu"]
    strange, known = ([f"{text},{label}\n" for label in "ab" * 6] for text in ("ドングリ", "good film"))
    (tmp_path / "data.csv").write_text("text,label\n" + "".join(strange + known[:8]), encoding="utf-8")
    message = failure(capsys, *command)
    assert re.match("dongu: error: data.csv: 1[01] of 18 texts have no token that the tokenizer knows\n", message)
    (tmp_path / "data.csv").write_text("text,label\n" + "".join(strange[:8] + known), encoding="utf-8")
    assert run_command(command) == 0  # half of them may be noise


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
    kept = {name: tensor for name, tensor in tensors.items() if "layer.0." not in name}
    assert len(kept) < len(tensors)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


MODELS: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "no config": (without("config.json"), ["no config.json", "save_pretrained"]),
    "no weights": (without("model.safetensors"), ["no model.safetensors"]),
    "pickle": (pickled_only, ["pickled", "save_pretrained"]),
    "no tokenizer": (without_tokenizer, ["no tokenizer.json"]),
    "remote code": (with_config(auto_map={"AutoModel": "modeling.Own"}), ["auto_map", "no remote code"]),
    "unknown kind": (with_config(model_type="unheard-of"), ["unheard-of"]),
    "more tokens": (with_more_tokens, ["82", "72", "do not belong together"]),
    "cut config": (cut("config.json"), ["config.json is not JSON"]),
    "cut weights": (cut("model.safetensors"), ["cannot be loaded"]),
    "cut tokenizer": (cut("tokenizer.json"), ["cannot be loaded"]),
    # Weights that are not in the file would be random numbers, and the run would only be a bad one.
    "missing layer": (without_a_layer, ["layer.0."]),
    "other sizes": (with_config(intermediate_size=48), ["intermediate"]),
    "more layers": (with_config(num_hidden_layers=2), ["layer.1."]),
}


@pytest.mark.parametrize(("spoil", "said"), MODELS.values(), ids=MODELS)
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


# --- run folders


def with_record(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def with_option(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: with_record(options={**json.loads((folder / "run.json").read_text())["options"], **changes})(
        folder
    )


def without_option(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        record = json.loads((folder / "run.json").read_text())
        del record["options"][name]
        (folder / "run.json").write_text(json.dumps(record))

    return change


def written(name: str, content: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(content)

    return change


def without_model(folder: Path) -> None:
    shutil.rmtree(folder / "model")


def flipped_weights(folder: Path) -> None:
    path = folder / "model" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


EVERY = ("predict", "evaluate", "resume", "verify", "report")
RUNS: dict[str, tuple[Callable[[Path], None], tuple[str, ...], list[str]]] = {
    "no record": (without("run.json"), EVERY, ["run: is not a run", "run.json"]),
    "empty record": (written("run.json", ""), EVERY, ["run/run.json", "cannot be read"]),
    "a list": (written("run.json", "[]"), EVERY, ["run/run.json", "no JSON object"]),
    "nested": (written("run.json", '{"a":' * 100_000), EVERY, ["run/run.json", "cannot be read"]),
    "no options": (with_record(options=None), EVERY, ["run/run.json", "no options of a run"]),
    "options gone": (with_record(options={"data": "pairs.jsonl"}), EVERY, ["run/run.json", "no options of a run"]),
    "no label names": (with_record(label_names=None), EVERY, ["run/run.json", "no names of labels"]),
    "no place of the data": (without_option("data"), EVERY, ["run/run.json", "no options of a run"]),
    "nothing about the data": (with_record(data=None), EVERY, ["run/run.json", "nothing about the data"]),
    "no metric": (with_record(metric=None), EVERY, ["run/run.json", "no metric"]),
    "other label names": (with_record(label_names=["a", "b", "c"]), ("predict",), ["2 outputs", "names 3 labels"]),
    "data of another kind": (with_record(data=[]), EVERY, ["run/run.json", "nothing about the data"]),
    "half a log": (written("metrics.jsonl", '{"event": "step"}\n'), ("report",), ["metrics.jsonl", "has 18 bytes"]),
    "a bad option": (with_option(epochs="x"), ("predict", "evaluate", "resume"), ["--epochs", "`x`"]),
    "data gone": (with_option(data="gone.jsonl"), ("evaluate",), ["gone.jsonl: no such file or folder"]),
    "no model": (without_model, ("predict", "evaluate"), ["run: the model of the run was removed"]),
    "other weights": (flipped_weights, ("predict", "evaluate"), ["model.safetensors", "restore it from a copy"]),
}


@pytest.mark.parametrize(
    ("spoil", "command", "said"),
    [(spoil, command, said) for spoil, commands, said in RUNS.values() for command in commands],
    ids=[f"{name}-{command}" for name, (_, commands, _) in RUNS.items() for command in commands],
)
def test_a_bad_run_folder(
    tmp_path: Path,
    trained: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    command: str,
    said: list[str],
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    if command == "resume":
        (tmp_path / "run" / "results.json").unlink()
    spoil(tmp_path / "run")
    message = failure(capsys, command, "run", *(["one", "two"] if command == "predict" else []))
    for part in said:
        assert part in message


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
    (["predict", "RUN", "--data", "cut.jsonl"], ["cut.jsonl:2", "cut off"]),
    (["predict", "RUN", "--data", "tabs.csv", "--out", "new.tsv"], ["new.tsv", "tab", ".csv or .jsonl"]),
    (["predict", "RUN", "--data", "."], ["no train split"]),
    (["predict", "RUN", "--data", "empty.csv"], ["empty.csv", "0 bytes"]),
    (["predict", "RUN", "one", "\u200b\x01"], ["text 1"]),
    (["report", "RUN", "--out", "old.jsonl"], ["--out old.jsonl", "exists"]),
    (["evaluate", "RUN", "--split", "tests"], ["`tests`", "train, validation"]),
    (["evaluate", "RUN", "other.csv"], ["other.csv"]),
    (["evaluate", "RUN", "holes.csv"], ["holes.csv:3", "`sentence2` is empty"]),
    (["evaluate", "RUN", "tabs.csv"], ["tabs.csv", "no column `label`", "dongu predict"]),
    (["evaluate", "RUN", "strange.csv"], ["strange.csv:3", "`maybe`", "no, yes"]),
    (["train", "pairs.jsonl", "--out", "RUN"], ["holds a finished run", "nothing was touched"]),
    (["train", "pairs.jsonl", "--out", "missing/../RUN"], ["holds a finished run", "nothing was touched"]),
    (["train", "pairs.jsonl", "--out", "missing/../old.jsonl"], ["old.jsonl: is a file"]),
]


def lay_out_work(folder: Path) -> None:
    """What the lines of `AT_WORK` speak of."""
    write_rows(folder / "pairs.jsonl", PAIRS)
    (folder / "old.jsonl").write_text("mine")
    (folder / "empty.csv").write_text("")
    (folder / "other.csv").write_text("text,label\na film,yes\n")
    (folder / "holes.csv").write_text("sentence1,sentence2\ngood,film\nbad,\n")
    (folder / "strange.csv").write_text("sentence1,sentence2,label\ngood,film,yes\nbad,film,maybe\n")
    (folder / "tabs.csv").write_text("sentence1,sentence2\ngood,film\nbad,a\tfilm\n")
    (folder / "cut.jsonl").write_text('{"sentence1": "good", "sentence2": "film"}\n{"sentence1": "bad')


@pytest.mark.parametrize(("arguments", "said"), AT_WORK, ids=lambda value: " ".join(value))
def test_a_run_at_work(
    tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: list[str]
) -> None:
    lay_out_work(tmp_path)
    message = failure(capsys, *(word.replace("RUN", os.path.relpath(trained)) for word in arguments))
    for part in said:
        assert part in message


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


@pytest.mark.parametrize(("end", "given"), [("\n", []), ("\r\n", []), ("", ["-"])])
def test_a_line_is_what_a_line_feed_ends(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, end: str, given: list[str]
) -> None:
    """Other characters that Python takes for line ends stand within texts: each line has one answer."""
    pipe(monkeypatch, f"good\u2028film\x0bhere\x85now\tfilm\nbad\tfilm{end}".encode())
    assert run_command(["predict", str(trained), *given, "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.split("\n") if line]
    assert [answer["sentence1"] for answer in answers] == ["good\u2028film\x0bhere\x85now", "bad"]
    assert answers[1]["sentence2"] == "film"


# --- what only looks bad

# name, content, the texts, the names of the labels
ACCEPTED: dict[str, tuple[str, str, list[str], list[str]]] = {
    "byte order mark": ("a.csv", "\ufeff" + GOOD, ["good film", "bad film", "the film", "a film"], ["no", "yes"]),
    "words for nothing": (
        "a.csv",
        "text,label\nnull,NA\nnan,null\nNone,NA\nNA,null\ngood film,NA\nbad film,null\na film,NA\nthe film,NA\n",
        ["null", "nan", "None", "NA", "good film", "bad film", "a film", "the film"],
        ["NA", "null"],
    ),
    "look-alike labels": (
        "a.csv",
        "text,label\n" + "".join(f"good film,{label}\n" * 2 for label in ("1", "01", "1.0", "Pos", "pos", "pos ")),
        ["good film"] * 12,
        ["01", "1", "1.0", "Pos", "pos", "pos "],
    ),
    "numbers and names": ("a.csv", "text,label\n" + "a,1\nthe,pos\n" * 2, ["a", "the"] * 2, ["1", "pos"]),
    "numbers and names in JSON": (
        "a.jsonl",
        '{"text": "a", "label": 1}\n{"text": "the", "label": "pos"}\n' * 2,
        ["a", "the"] * 2,
        ["1", "pos"],
    ),
    "numbers as texts": (
        "a.csv",
        "text,label\n007,x\n1.50,y\na,x\nthe,y\nfilm,x\nbad,y\n",
        ["007", "1.50", "a", "the", "film", "bad"],
        ["x", "y"],
    ),
    "numbers as texts in JSON": (
        "a.jsonl",
        '{"text": 1.50, "label": "x"}\n{"text": "a", "label": "y"}\n' * 2,
        ["1.50", "a"] * 2,
        ["x", "y"],
    ),
    "an array": (
        "a.json",
        '[{"text": "a", "label": "x"}, {"text": "the", "label": "y"},\n' * 1
        + '{"text": "a film", "label": "x"}, {"text": "the film", "label": "y"}]',
        ["a", "the", "a film", "the film"],
        ["x", "y"],
    ),
    "labels from 1 on": (
        "a.csv",
        "text,label\n" + "a,1\nthe,2\nfilm,3\n" * 2,
        ["a", "the", "film"] * 2,
        ["1", "2", "3"],
    ),
    "the same text with two labels": ("a.csv", "text,label\n" + "a,x\na,y\n" * 2, ["a"] * 4, ["x", "y"]),
}


@pytest.mark.parametrize(("name", "content", "texts", "labels"), ACCEPTED.values(), ids=ACCEPTED)
def test_what_is_taken_as_it_is(
    tmp_path: Path, tiny_model: Callable[..., str], name: str, content: str, texts: list[str], labels: list[str]
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_file(tmp_path / name).columns["text"] == texts
    config = make_config({"data": name})
    assert [*read_examples(read_source(name), config).label_names] == labels
    if name != "a.jsonl" and texts != ["good film"] * 12:  # the others by the command, as well
        return
    command = ["train", name, "--model", tiny_model(), "--out", "run", "--max-steps", "1", "--device", "cpu"]
    assert run_command(command) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["label_names"] == labels


def test_what_is_cut_is_counted(
    tmp_path: Path, tiny_model: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text(GOOD + "film " * 70 + ",yes\n")
    command = ["train", "a.csv", "--model", tiny_model(), "--out", "run", "--max-steps", "1", "--device", "cpu"]
    assert run_command(command) == 0
    assert "1 of all rows (20.0%) are cut at 64" in capsys.readouterr().out


@pytest.mark.crash
def test_much_at_once(trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand texts, a text of 5 MB, and none at all."""
    for content, answers in ((b"a\tfilm\n" * 10_000, 10_000), (b"film " * 10**6 + b"\tgood\n", 1), (b"", 0)):
        pipe(monkeypatch, content)
        capsys.readouterr()
        started = time.process_time()
        assert run_command(["predict", str(trained), "--json"]) == 0
        assert time.process_time() - started < 2 * LIMIT_SECONDS
        assert len(capsys.readouterr().out.splitlines()) == answers


def test_only_the_model_itself_limits_the_length(tiny_model: Callable[..., str]) -> None:
    """The tokenizer's 64 tokens are a default; the model has 80 positions."""
    import dongu

    loop = dongu.Loop(PAIRS, model=tiny_model(), max_length=80, max_steps=1)
    assert loop.config.max_length == 80
    assert dongu.Loop(PAIRS, model=tiny_model(), max_steps=1).config.max_length == 64


# --- as processes of their own, start and imports included

PROCESSES: list[tuple[list[str], str]] = [
    (["train", "missing.csv"], "missing.csv: no such file or folder"),
    (["train", "data.csv", "--batch-size", "0"], "--batch-size: must be greater than or equal to 1, got `0`"),
    (["train", "data.csv", "--out", "run"], "data.csv:4: the label `label` is empty"),
    (["predict", "missing", "a text"], "missing: is not a run: it has no run.json"),
    (["resume", "missing"], "missing: is not a run: it has no run.json"),
    (["evaluate", "missing"], "missing: is not a run: it has no run.json"),
]


def test_a_process_that_is_quick_to_refuse(tmp_path: Path) -> None:
    """What needs no torch is said before torch is loaded, in a fraction of a second."""
    (tmp_path / "data.csv").write_text("text,label\na,yes\nb,no\nc,\n")
    before = contents(tmp_path)
    program = (
        "import json, sys; from dongu.cli.main import run\n"
        "for arguments in json.loads(sys.argv[1]): assert run(arguments) == 2\n"
        "assert not {'torch', 'transformers', 'datasets', 'scipy'} & {*sys.modules}"
    )
    command = [sys.executable, "-c", program, json.dumps([arguments for arguments, _ in PROCESSES])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANGS)
    assert done.returncode == 0, done.stderr
    messages = [f"dongu: {message}" for message in done.stderr.split("dongu: ")[1:]]
    for message, (_, said) in zip(messages, PROCESSES, strict=True):
        assert message.startswith(f"dongu: error: {said}")
        assert_well_said(message)
    assert contents(tmp_path) == before
    command = [sys.executable, "-X", "importtime", "-m", "dongu", *PROCESSES[0][0]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANGS)
    assert done.returncode == 2
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "dongu.cli.main" in loaded
    assert not loaded & {"torch", "transformers", "datasets", "scipy"}


WITHOUT_TORCH = (
    "no config", "no weights", "pickle", "no tokenizer", "remote code", "unknown kind", "cut config", "cut weights",
)  # fmt: skip


def test_a_bad_model_is_told_before_torch_is_loaded(tmp_path: Path, tiny_model: Callable[..., str]) -> None:
    """All in one process, which has not loaded torch at its end: neither to look at the model nor for the data."""
    for name in WITHOUT_TORCH:
        shutil.copytree(tiny_model(), tmp_path / name)
        MODELS[name][0](tmp_path / name)
    (tmp_path / "data.csv").write_text(GOOD)
    before = contents(tmp_path)
    program = (
        "import sys; from dongu.cli.main import run\n"
        "for name in sys.argv[1:]: assert run(['train', 'data.csv', '--model', f'./{name}', '--out', 'run']) == 2\n"
        "assert not {'torch', 'transformers'} & {*sys.modules}"
    )
    command = [sys.executable, "-c", program, *WITHOUT_TORCH]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANGS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    messages = done.stderr.split("dongu: ")[1:]
    for name, message in zip(WITHOUT_TORCH, messages, strict=True):
        assert_well_said(f"dongu: {message}")
        for part in [f"--model {name}: ", *MODELS[name][1]]:
            assert part in message
    assert contents(tmp_path) == before


def test_what_is_wrong_with_a_run_or_its_rows_is_told_before_torch_is_loaded(tmp_path: Path, trained: Path) -> None:
    """`predict` and `evaluate` of every damaged run folder, and with every bad argument: in one process, as above."""
    commands: list[list[str]] = []
    expected: list[list[str]] = []
    for name, (spoil, which, said) in RUNS.items():
        for command in {"predict", "evaluate"} & {*which}:
            folder = tmp_path / name
            if not folder.exists():
                shutil.copytree(trained, folder)
                spoil(folder)
            commands.append([command, name, *(["one", "two"] if command == "predict" else [])])
            expected.append([part.replace("run/", f"{name}/").replace("run:", f"{name}:") for part in said])
    lay_out_work(tmp_path)
    for arguments, said in AT_WORK:
        if arguments[0] in ("predict", "evaluate"):
            commands.append([word.replace("RUN", str(trained)) for word in arguments])
            expected.append([*said])
    before = contents(tmp_path)
    program = (
        "import json, sys; from dongu.cli.main import run\n"
        "for arguments in json.loads(sys.argv[1]):\n    assert run(arguments) == 2, arguments\n"
        "    assert not {'torch', 'transformers'} & {*sys.modules}, arguments"
    )
    python = [sys.executable, "-c", program, json.dumps(commands)]
    done = subprocess.run(python, capture_output=True, text=True, check=False, timeout=HANGS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    messages = done.stderr.split("dongu: ")[1:]
    assert len(messages) == len(commands) > 40
    for said_here, parts in zip(messages, expected, strict=True):
        assert_well_said(f"dongu: {said_here}")
        for part in parts:
            assert part in said_here
    assert contents(tmp_path) == before
