"""A whole run and what it leaves: the folder, the best model, its answers."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import dongu
from dongu import files
from dongu.best import save_best, saved_weights
from dongu.cli.main import run
from dongu.data.readers import read_file
from dongu.errors import ModelError, NonFiniteError
from dongu.evaluate import eval_mode
from dongu.model.load import load_saved
from dongu.run import predictions
from dongu.run.folder import RunFolder
from dongu.use import classifier as predict

FILES = {
    ".lock",
    "MANIFEST.json",
    "run.json",
    "findings.json",
    "metrics.jsonl",
    "timing.jsonl",
    "dynamics.bin",
    "report.html",
    "results.json",
    "predictions/validation.jsonl",
    "predictions/test.jsonl",
    "model/README.md",
    "model/config.json",
    "model/model.safetensors",
    "model/tokenizer.json",
    "model/tokenizer_config.json",
}


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def finished(
    tiny_model: Callable[..., str], shared_data_folder: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> dongu.RunResult:
    """A run that learns: the label stands in the text. All look at it, none changes it."""
    data = shared_data_folder(train=96, validation=24, test=20)
    options: dict[str, Any] = {"model": tiny_model(dropout=0.1), "epochs": 4, "batch_size": 8, "lr": 5e-3}
    return dongu.train(data, **options, out=str(tmp_path_factory.mktemp("finished") / "run"), device="cpu")


def test_the_run_folder_is_the_contract(finished: dongu.RunResult) -> None:
    path = finished.path
    files = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert {name for name in files if not name.startswith("checkpoints/")} == FILES
    last = "checkpoints/step-00000048"
    names = ("weights.safetensors", "moments.safetensors", "state.json", "MANIFEST.json")
    assert {f"{last}/{name}" for name in names} <= files
    lines = read_lines(path / "metrics.jsonl")
    steps = [line for line in lines if line["event"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, 49))
    assert steps[0]["epoch"] == 1 / 12
    assert steps[0]["learning_rate"] == 5e-3
    assert all(line["examples"] == 8 and line["grad_norm"] > 0 for line in steps)
    evaluations = [line for line in lines if line["event"] == "evaluation"]
    assert [line["step"] for line in evaluations] == [12, 24, 36, 48]
    assert all({"split", "loss", "accuracy", "f1"} <= line.keys() for line in evaluations)
    assert not any("second" in key for line in lines for key in line), "times stand in timing.jsonl alone"
    timing = read_lines(path / "timing.jsonl")
    assert sum(line["event"] == "step" for line in timing) == 48
    assert {"setup", "evaluation", "judging"} <= {line.get("phase") for line in timing}


def test_results_hold_values_intervals_and_baselines(finished: dongu.RunResult) -> None:
    results = json.loads((finished.path / "results.json").read_text(encoding="utf-8"))
    evaluations = [line for line in read_lines(finished.path / "metrics.jsonl") if line["event"] == "evaluation"]
    assert results["steps"] == 48
    best = max(evaluations, key=lambda line: (line["accuracy"], -line["step"]))
    assert results["best_step"] == best["step"]
    assert results["validation"]["accuracy"]["value"] == best["accuracy"] > 0.9
    assert results["validation"]["accuracy"]["baseline"] == 0.5
    for split in ("validation", "test"):
        for entry in results[split].values():
            assert entry["low"] <= entry["value"] <= entry["high"]
    lines = read_lines(finished.path / "predictions" / "test.jsonl")
    right = np.mean([line["label"] == line["prediction"] for line in lines])
    assert results["test"]["accuracy"]["value"] == pytest.approx(right)


def test_the_saved_model_is_plain_hugging_face(finished: dongu.RunResult) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    folder = str(finished.path / "model")
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.id2label == {0: "class0", 1: "class1"}
    assert model.config.label2id == {"class0": 0, "class1": 1}
    assert model.config.problem_type == "single_label_classification"
    assert tokenizer.model_max_length == 64
    texts = ["word0 word0 the film", "a bad word1 film", "word5"]
    classifier = dongu.load(finished.path, device="cpu")
    answers = classifier.predict(texts)
    for text, answer in zip(texts, answers, strict=True):
        ours = pipeline("text-classification", model=folder, top_k=None, device="cpu")([text])[0]
        assert {item["label"]: item["score"] for item in ours} == pytest.approx(answer["probabilities"], abs=1e-6)


@pytest.mark.parametrize("family", ["bert", "albert", "modernbert", "qwen3"])
def test_the_saved_weights_are_read_as_transformers_would(
    family: str, tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path
) -> None:
    """By their names, without a second model; where these do not fit, transformers says what is missing."""
    loop, folder = dongu.Loop(data_folder(), model=tiny_model(family), device="cpu"), RunFolder(tmp_path / "run")
    folder.path.mkdir()
    save_best(loop, folder)
    loaded = load_saved(folder.model).state_dict()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dongu.best.load_saved", None)
        weights, threshold = saved_weights(loop, folder.model)
    assert threshold is None
    assert weights.keys() == loaded.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in loaded.items())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dongu.run.tensor_file._DTYPES", {})  # a kind of number that our own reader does not know
        assert saved_weights(loop, folder.model)[0].keys() == loaded.keys()
    save_file(dict([*weights.items()][1:]), folder.model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks weights"):
        saved_weights(loop, folder.model)


def test_the_plain_engine_answers_with_the_bits_of_the_model(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from dongu.judge.ranking import softmax

    texts = ["word0 word0 the film", "a bad word1 film", "word5"]
    options: dict[str, Any] = {"model": tiny_model(), "max_steps": 3, "device": "cpu"}
    engines: dict[Any, float] = {"plain": 0.0, "packed": 1e-6}
    for engine, largest in engines.items():
        run = dongu.train(data_folder(), out=str(tmp_path / engine), engine=engine, **options)
        folder = run.path / "model"
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            wanted = softmax(model(**batch).logits.numpy())
        answers = dongu.load(run.path, device="cpu").predict(texts)
        rows = np.array([list(answer["probabilities"].values()) for answer in answers])
        assert np.abs(rows - wanted).max() <= largest, engine
    configs = [(tmp_path / engine / "model" / "config.json").read_bytes() for engine in ("plain", "packed")]
    assert configs[0] == configs[1]


@pytest.mark.cases(test=1, ci=2)
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_both_engines_learn_the_same(
    family: str, tiny_model: Callable[..., str], data_folder: Callable[..., str]
) -> None:
    """20 updates without dropout, ragged micro-batches, then every row of the validation split."""
    options: dict[str, Any] = {"model": tiny_model(family), "max_steps": 20, "micro_batch_size": 3, "device": "cpu"}
    loops = [dongu.Loop(data_folder(pair=True), engine=engine, **options) for engine in ("plain", "packed")]
    steps = [list(loop) for loop in loops]
    assert [loop.config.engine for loop in loops] == ["plain", "packed"]
    plain, packed = ([step.loss for step in run] for run in steps)
    assert packed == pytest.approx(plain, rel=1e-6)
    assert np.ptp(plain) > 1e-3, "a loss that does not move proves nothing"
    assert [step.grad_norm for step in steps[1]] == pytest.approx([step.grad_norm for step in steps[0]], rel=1e-4)
    assert sum(step.padded_tokens - step.tokens for step in steps[0]) > 0
    assert [step.padded_tokens for step in steps[0]] == [step.padded_tokens for step in steps[1]]
    logits = [loop.evaluate().logits for loop in loops]
    assert np.abs(logits[1] - logits[0]).max() <= 1e-5 * np.abs(logits[0]).max()


def test_a_model_that_needs_padding_falls_back_and_says_so(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(["train", data_folder(), "--model", tiny_model("xlnet"), "--max-steps", "2", "--out", str(out)]) == 0
    assert "plain: `xlnet` has no padding-free form here" in " ".join(capsys.readouterr().out.split())
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["options"]["engine"] == "plain"


def test_the_same_run_twice_is_the_same_bytes_and_its_recipe_repeats_it(
    finished: dongu.RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again"
    assert run(["train", "--config", str(finished.path / "run.json"), "--out", str(again), "--json"]) == 0
    said = {"schema": "dongu.train/1", "path": str(again), **finished.results}
    assert json.loads(capsys.readouterr().out) == said
    for name in FILES - {"run.json", "timing.jsonl", "report.html"}:
        assert (again / name).read_bytes() == (finished.path / name).read_bytes(), name


def test_early_stopping_counts_evaluations_without_a_better_one(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path
) -> None:
    data = data_folder(train=16, validation=8, test=0)
    options: dict[str, Any] = {"model": tiny_model(), "epochs": 30, "lr": 1e-12, "device": "cpu"}
    result = dongu.train(data, patience=2, out=str(tmp_path / "patient"), **options)
    assert result.results["best_step"] == 2  # nothing is learnt: an equal value is no better one
    assert result.results["steps"] == 6


def test_evaluate_and_predict_on_the_command_line(
    finished: dongu.RunResult,
    shared_data_folder: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = str(finished.path)
    assert run(["evaluate", path, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    for split in ("validation", "test"):
        for name, entry in finished.results[split].items():
            assert numbers[split][name] == entry["value"]
            assert (numbers[split][f"{name}_low"], numbers[split][f"{name}_high"]) == (entry["low"], entry["high"])

    data = Path(shared_data_folder(train=96, validation=24, test=20))
    assert run(["evaluate", path, str(data / "train.jsonl")]) == 0
    assert "the run was trained on rows of" in capsys.readouterr().out
    assert run(["evaluate", path, str(data / "validation.jsonl")]) == 0
    assert "trained on" not in capsys.readouterr().out

    texts = [f"word{i % 2} word{i % 2} word{i}" for i in range(40)]
    assert run(["predict", path, *texts, "--json"]) == 0
    typed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in typed] == texts
    assert [line["id"] for line in typed] == list(range(40))

    for encoding in ("utf-8", "utf-8-sig"):  # as Windows pipes it
        piped = io.TextIOWrapper(io.BytesIO("\n".join(texts).encode(encoding)))
        monkeypatch.setattr("sys.stdin", piped)
        assert run(["predict", path, "--json"]) == 0
        assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == typed

    file = tmp_path / "new.csv"
    file.write_text("text,note\n" + "".join(f'"{text}",x\n' for text in texts), encoding="utf-8")
    out = tmp_path / "answers.csv"
    assert run(["predict", path, "--data", str(file), "--out", str(out)]) == 0
    lines = out.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "id,text,note,prediction,probability of class0,probability of class1"
    assert [line.split(",")[3] for line in lines[1:]] == [line["prediction"] for line in typed]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_answers_are_written_as_they_are_made(
    finished: dongu.RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """A few lines at a time, in the order of the rows, and the file is there when all of them are."""
    texts = [f"word{i % 3} " * (1 + 37 * i % 11) + str(i) for i in range(50)]
    data, whole, parts = tmp_path / "new.jsonl", tmp_path / f"whole.{suffix}", tmp_path / f"parts.{suffix}"
    data.write_text("".join(json.dumps({"n": i, "text": text}) + "\n" for i, text in enumerate(texts)))
    assert run(["predict", str(finished.path), "--data", str(data), "--out", str(whole)]) == 0
    made, written = [], []

    def answer_rows(*arguments: Any) -> Any:
        for answer in predictions.answer_rows(*arguments):
            made.append(answer)
            yield answer

    def append(disk: files.Disk, file: Any, content: bytes) -> None:
        written.append(len(made))
        assert not parts.exists()
        plain_append(disk, file, content)

    plain_append = files.Disk.append
    monkeypatch.setattr(files, "LINES_A_WRITE", 7)
    monkeypatch.setattr(predict, "ANSWERED_ROWS", 3)
    monkeypatch.setattr(predict, "answer_rows", answer_rows)
    monkeypatch.setattr(files.Disk, "append", append)
    assert run(["predict", str(finished.path), "--data", str(data), "--out", str(parts)]) == 0
    assert parts.read_bytes() == whole.read_bytes()
    header = suffix != "jsonl"
    assert written == [0, *range(7 - header, 50, 7), 50]
    assert read_file(parts).columns["n"] == list(map(str, range(50)))
    assert read_file(parts).columns["text"] == texts


def test_pairs_are_typed_two_by_two(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "pairs")
    data = data_folder(train=16, validation=8, test=0, pair=True)
    dongu.train(data, model=tiny_model(), epochs=1, out=out, device="cpu", quiet=True)
    assert run(["predict", out, "a film", "the film", "good", "bad"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_regression_runs_end_to_end(tiny_model: Callable[..., str], tmp_path: Path) -> None:
    rows = [{"text": " ".join(["good"] * (i % 7 + 1)), "score": str((i % 7) / 2)} for i in range(140)]
    result = dongu.train(rows, model=tiny_model(), epochs=8, lr=5e-3, out=str(tmp_path / "run"), device="cpu")
    assert set(result.metrics) == {"loss", "pearson", "spearman", "mae"}
    assert result.metrics["spearman"] > 0.9
    [answer] = dongu.load(result.path, device="cpu").predict(["good good"])
    assert set(answer) == {"prediction"}


def test_a_nan_stops_before_the_update(tiny_model: Callable[..., str], data_folder: Callable[..., str]) -> None:
    loop = dongu.Loop(data_folder(), model=tiny_model(), device="cpu")
    steps = iter(loop)
    next(steps)
    with torch.no_grad():
        loop.model.classifier.bias[0] = math.nan
    before = loop.model.classifier.weight.clone()
    with pytest.raises(NonFiniteError) as caught:
        next(steps)
    assert caught.value.exit_code == 5
    rows = loop.splits["train"].ids[loop.train_updates.rows(1)].tolist()
    assert caught.value.where == f"step 2, train rows {', '.join(map(str, rows))}"
    assert torch.equal(loop.model.classifier.weight, before)


def test_eval_mode_restores_the_mode_even_after_an_error(tiny_model: Callable[..., str]) -> None:
    model = torch.nn.Dropout()

    def fail() -> None:
        with eval_mode(model):
            assert not model.training
            assert not torch.is_grad_enabled()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert model.training
    assert torch.is_grad_enabled()


def test_bf16_trains_and_keeps_fp32_weights(tiny_model: Callable[..., str], data_folder: Callable[..., str]) -> None:
    data = data_folder(train=48)
    losses = {}
    for precision in ("fp32", "bf16"):
        loop = dongu.Loop(data, model=tiny_model(), precision=precision, lr=1e-3, max_steps=6, device="cpu")
        losses[precision] = [step.loss for step in loop]
        assert {p.dtype for p in loop.model.parameters()} == {torch.float32}
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_a_hub_data_set_with_hidden_test_labels(
    tiny_model: Callable[..., str],
    make_rows: Callable[..., list[dict[str, str]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """GLUE's MRPC as the Hub gives it: class names in the features, -1 for every test label, an idx column."""
    import datasets

    names = ["not_equivalent", "equivalent"]
    features = datasets.Features(
        {
            "sentence1": datasets.Value("string"),
            "sentence2": datasets.Value("string"),
            "label": datasets.ClassLabel(names=names),
            "idx": datasets.Value("int32"),
        }
    )

    def split(count: int, hidden: bool = False) -> datasets.Dataset:
        rows = [
            {**row, "label": -1 if hidden else i % 2, "idx": i} for i, row in enumerate(make_rows(count, pair=True))
        ]
        return datasets.Dataset.from_list(rows, features=features)

    asked: list[tuple[Any, ...]] = []

    def load_dataset(*arguments: Any, **_: Any) -> datasets.DatasetDict:
        asked.append(arguments)
        return datasets.DatasetDict(train=split(24), validation=split(10), test=split(8, hidden=True))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    result = dongu.train("glue:mrpc", model=tiny_model(), epochs=1, out=str(tmp_path / "run"), device="cpu")
    assert asked == [("nyu-mll/glue", "mrpc")]
    config = json.loads((result.path / "model" / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "not_equivalent", "1": "equivalent"}
    assert "test" not in result.results, "hidden labels have no metrics"
    lines = read_lines(result.path / "predictions" / "test.jsonl")
    assert len(lines) == 8
    assert all("label" not in line and line["prediction"] in names for line in lines)


def test_the_model_card_is_valid(finished: dongu.RunResult) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(finished.path / "model" / "README.md")
    assert card.data.pipeline_tag == "text-classification"
    values = {(result.dataset_split, result.metric_type): result.metric_value for result in card.data.eval_results}
    for split in ("validation", "test"):
        entries = finished.results[split]
        assert {name: values[split, name] for name in entries} == {name: e["value"] for name, e in entries.items()}
    assert len(values) == 2 * len(finished.metrics)


def test_what_a_newcomer_types(
    finished: dongu.RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in place of a text, rows with an id of their own, metrics of one other file."""
    file = tmp_path / "other.csv"
    file.write_text("id,text,label\nT-7,word0 word0,class0\nT-9,word1 word1,class1\n", encoding="utf-8")
    assert run(["predict", str(finished.path), str(file)]) == 2
    assert f"--data {file}" in capsys.readouterr().err
    assert run(["predict", str(finished.path), "--data", str(file), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["id"] for row in rows] == ["T-7", "T-9"]
    assert run(["evaluate", str(finished.path), str(file), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"schema", "other"}
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a text\n\nanother\n")))
    assert run(["predict", str(finished.path)]) == 2
    assert "standard input:2: is empty" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", None)  # `<&-`
    assert run(["predict", str(finished.path)]) == 0
    assert (*capsys.readouterr(), sys.stdin) == ("", "", None)
    assert run(["predict", str(finished.path), "a text", "--out", str(tmp_path)]) == 2
    assert f"--out {tmp_path}: is a folder\n" in capsys.readouterr().err


def test_a_title_joined_to_its_body(
    tiny_model: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "".join(f"the film,word{i % 2} word{i % 2},x{i % 2}\n" for i in range(40))
    data, out = tmp_path / "data.csv", str(tmp_path / "run")
    data.write_text("title,body,label\n" + lines, encoding="utf-8")
    options = ["--model", tiny_model(), "--epochs", "1", "--out", out]
    assert run(["train", str(data), "--text-columns", "title+body", *options]) == 0
    assert "columns    title+body → label (single-label)" in capsys.readouterr().out
    assert run(["predict", out, "--data", str(data)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[2] for line in shown[:2]] == ["the film word0 word0", "the film word1 word1"]
    assert run(["predict", out, "--data", str(data), "--json"]) == 0
    [of_columns, *_] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (of_columns["title"], of_columns["body"]) == ("the film", "word0 word0")
    [typed] = dongu.load(out).predict(["the film\nword0 word0"])
    assert typed["probabilities"] == pytest.approx(of_columns["probabilities"], abs=1e-6)


def test_columns_left_out_are_said(tiny_model: Callable[..., str], tmp_path: Path) -> None:
    from dongu.run.console import Console

    rows = [{"title": "a", "body": f"word{i % 2}", "label": str(i % 2), "id": str(i)} for i in range(40)]
    stream = io.StringIO()
    options: dict[str, Any] = {"max_steps": 1, "out": str(tmp_path / "run"), "device": "cpu"}
    dongu.train(rows, model=tiny_model(), console=Console(stream=stream), **options)
    assert "columns    body → label (single-label); not used: title, id" in stream.getvalue()
