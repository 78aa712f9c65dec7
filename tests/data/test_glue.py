"""Each task of GLUE as the Hub has it, from `glue:NAME` to the file that is handed in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dongu
from dongu.cli.main import run
from dongu.config import make_config
from dongu.data.examples import read_examples
from dongu.data.glue import GLUE
from dongu.data.sources import read_source
from dongu.judge.metrics import MetricSet

SPLITS = {
    "mnli": ("train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched"),
}


def split_of(name: str, count: int, *, hidden: bool) -> Any:
    """Rows in the columns and with the class names of `nyu-mll/glue`; hidden labels are -1."""
    import datasets

    task = GLUE[name]
    label = datasets.ClassLabel(names=list(task.labels)) if task.labels else datasets.Value("float32")
    features = {column: datasets.Value("string") for column in task.texts}
    features = datasets.Features({**features, "label": label, "idx": datasets.Value("int32")})
    rows = []
    for i in range(count):
        value = i % len(task.labels) if task.labels else (i % 11) / 2
        texts = dict.fromkeys(task.texts, f"word{value} the film word{i % 9}")
        rows.append({**texts, "label": -1 if hidden else value, "idx": i})
    return datasets.Dataset.from_list(rows, features=features)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets.load_dataset("nyu-mll/glue", NAME)` without a network."""
    import datasets

    def load_dataset(repository: str, name: str) -> Any:
        assert repository == "nyu-mll/glue"
        names = SPLITS.get(name, ("train", "validation", "test"))
        return datasets.DatasetDict(
            {split: split_of(name, 24 if split == "train" else 12, hidden="test" in split) for split in names}
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("name", GLUE)
def test_each_task_is_read_as_its_row_says(name: str) -> None:
    task = GLUE[name]
    source = read_source(f"glue:{name}")
    data = read_examples(source, make_config({"data": f"glue:{name}"}))
    assert (data.name, data.columns.texts, data.columns.label) == (name, task.texts, "label")
    assert data.unused_columns == ("idx",)
    assert data.task == ("single-label" if task.labels else "regression")
    assert data.label_names == (task.labels or ("label",))
    for split, examples in data.splits.items():
        assert (examples.targets is None) == split.startswith("test"), split
    assert task.files.keys() == {split for split in data.splits if split.startswith("test")}
    metrics = MetricSet.of(data.task, data.label_names, source.hub_name)
    assert (metrics.names, metrics.main) == (task.metrics, task.best)


def test_the_table_is_that_of_glue() -> None:
    assert len(GLUE) == 9
    assert sum(len(task.files) for task in GLUE.values()) == 10
    assert {name for name, task in GLUE.items() if task.names_handed_in} == {"mnli", "qnli", "rte"}
    assert all(task.best in task.metrics for task in GLUE.values())


def lines(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.usefixtures("hub")
def test_mnli_from_both_validations_to_both_files(
    tiny_model: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folder = tmp_path / "run", tmp_path / "hand-in"
    result = dongu.train("glue:mnli", model=tiny_model(), epochs=4, lr=1e-2, out=str(out))
    for split in ("validation", "validation_mismatched"):
        assert set(result.results[split]) == {"loss", "accuracy", "calibration_error"}
    assert not {"test", "test_mismatched"} & result.results.keys()
    assert run(["predict", str(out), "--glue", "--out", str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} == {"MNLI-m.tsv", "MNLI-mm.tsv"}
    for split, file in GLUE["mnli"].files.items():
        rows = [json.loads(line) for line in (out / "predictions" / f"{split}.jsonl").read_text().splitlines()]
        assert lines(folder / file) == [
            ["index", "prediction"],
            *([str(i), row["prediction"]] for i, row in enumerate(rows)),
        ]
    assert len({row["prediction"] for row in rows}) > 1
    assert run(["predict", str(out), "--glue", "--out", str(folder)]) == 2, "nothing is written over"
    assert "MNLI-m.tsv" in capsys.readouterr().err
    assert run(["evaluate", str(out), "--split", "test"]) == 2
    assert "the labels are hidden" in capsys.readouterr().err


def finished(folder: Path, data: str, predictions: list[Any]) -> str:
    """What is read of a run here: where its data were, and its answers to the test split."""
    (folder / "predictions").mkdir(parents=True)
    options = {"data": data, "text_columns": ["text"], "label_column": "label", "task": "single-label"}
    record = {"options": options, "label_names": ["0", "1"], "metric": "accuracy", "data": {}}
    (folder / "run.json").write_text(json.dumps(record))
    rows = [json.dumps({"id": i, "prediction": prediction}) for i, prediction in enumerate(predictions)]
    (folder / "predictions" / "test.jsonl").write_text("\n".join(rows) + "\n")
    return str(folder)


@pytest.mark.parametrize(
    ("data", "task", "predictions", "handed_in"),
    [
        ("glue:stsb", [], [2.5, -0.25, 5.5, 3.14159], ["2.500", "0.000", "5.000", "3.142"]),
        ("glue:mrpc", [], ["equivalent", "not_equivalent"], ["1", "0"]),
        ("glue:wnli", [], ["entailment", "not_entailment"], ["1", "0"]),
        ("glue:rte", [], ["entailment", "not_entailment"], ["entailment", "not_entailment"]),
        ("/data/RTE", ["rte"], ["1", "0"], ["not_entailment", "entailment"]),
        ("/data/CoLA", ["cola"], ["1", "0"], ["1", "0"]),
    ],
)
def test_what_is_handed_in(
    tmp_path: Path, data: str, task: list[str], predictions: list[Any], handed_in: list[str]
) -> None:
    path = finished(tmp_path / "run", data, predictions)
    assert run(["predict", path, "--out", str(tmp_path / "files"), "--glue", *task]) == 0
    [file] = (tmp_path / "files").iterdir()
    assert [row[1] for row in lines(file)] == ["prediction", *handed_in]


@pytest.mark.parametrize(
    ("data", "arguments", "said"),
    [
        ("/data/RTE", ["--glue"], "is not a task of GLUE"),
        ("glue:rte", ["--glue", "stsb"], "'entailment' is not an answer"),
        ("glue:rte", ["--glue", "mnli"], "'not_entailment' is not an answer"),
        ("glue:rte", ["--glue", "cola"], "'entailment' is not an answer"),
    ],
)
def test_what_cannot_be_handed_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: str, arguments: list[str], said: str
) -> None:
    path = finished(tmp_path / "run", data, ["entailment", "not_entailment"])
    assert run(["predict", path, "--out", str(tmp_path / "files"), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "files").exists()
    assert run(["predict", path, *arguments]) == 2
    assert "--out FOLDER" in capsys.readouterr().err
    predictions = tmp_path / "run" / "predictions" / "test.jsonl"
    for damage, told in (("{", "is not JSON"), ("[]", "holds no JSON object"), ('{"id": 0}', "None is not an answer")):
        predictions.write_text(damage)
        assert run(["predict", path, "--out", str(tmp_path / "files"), "--glue", "rte"]) == 2
        assert f"test.jsonl:1: {told}" in capsys.readouterr().err
    predictions.unlink()
    assert run(["predict", path, "--out", str(tmp_path / "files"), "--glue", "rte"]) == 2
    assert "no answers for the split test" in capsys.readouterr().err
    (tmp_path / "run" / "run.json").write_text('{"options": {"data": "glue:rte"}}')
    assert run(["predict", path, "--out", str(tmp_path / "files"), "--glue"]) == 2
    assert "run.json: is damaged: it holds no options of a run" in capsys.readouterr().err


def test_a_bare_name_is_answered_with_the_whole_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "sst2"]) == 2
    assert "did you mean glue:sst2?" in capsys.readouterr().err
