"""What is asked of a finished run is answered row by row, and nothing that the user gave is lost."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import dongu
from dongu.cli.answer import _answer_line
from dongu.cli.main import run as command
from dongu.errors import DataError, InputError
from dongu.judge.metrics import MetricSet
from dongu.use.answer_file import beside
from dongu.use.saved import SavedModel

ONE, TWO = "word0 film", "word1 not"
PAIR = [("word0 film", "a film"), ("word1 not", "a film")]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]) -> Callable[..., Any]:
    """`classifier(pair=False)`: a tiny run of texts or of pairs, whose labels are called as an answer's keys."""
    made: dict[bool, Any] = {}

    def make(*, pair: bool = False) -> Any:
        if pair not in made:
            texts = {"sentence1": "", "sentence2": "a film"} if pair else {"text": ""}
            first = next(iter(texts))
            rows = [{**texts, first: f"word{i % 2} word{i}", "label": ("prediction", "text")[i % 2]} for i in range(24)]
            out = tmp_path_factory.mktemp("pair" if pair else "single") / "run"
            data = {"train": rows, "validation": rows[:8]}
            made[pair] = dongu.load(dongu.train(data, model=tiny_model(), out=str(out), max_steps=3, threads=1).path)
        return made[pair]

    return make


FRAMES: dict[str, Callable[[dict[str, list[Any]]], Any]] = {
    "frame": pd.DataFrame,
    "frame with an index": lambda columns: pd.DataFrame(columns, index=[7, 3]),
    "dict of lists": lambda columns: columns,
    "dict of arrays": lambda columns: {name: np.array(cells) for name, cells in columns.items()},
    "dict of series": lambda columns: {name: pd.Series(cells, index=[7, 3]) for name, cells in columns.items()},
    "data set": datasets.Dataset.from_dict,
    "Arrow": pa.table,
    "rows": lambda columns: [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
}


@pytest.mark.found("predict-frames")
@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("pair", [False, True])
def test_rows_are_answered_by_their_columns(kind: str, pair: bool, classifier: Callable[..., Any]) -> None:
    model = classifier(pair=pair)
    texts = {"sentence1": [a for a, _ in PAIR], "sentence2": [b for _, b in PAIR]} if pair else {"text": [ONE, TWO]}
    rows = FRAMES[kind]({"n": [1, 2], **dict(reversed(texts.items()))})  # whatever else there is, in any order
    assert model.predict(rows) == model.predict(PAIR if pair else [ONE, TWO])


@pytest.mark.found("predict-frames")
@pytest.mark.parametrize("texts", [ONE, (ONE,), pd.Series([ONE], index=[4]), np.array([ONE]), {"text": ONE}])
def test_one_text_has_one_answer(texts: Any, classifier: Callable[..., Any]) -> None:
    assert classifier().predict(texts) == classifier().predict([ONE])


@pytest.mark.found("predict-frames")
def test_a_pair_is_a_tuple_of_two(classifier: Callable[..., Any]) -> None:
    model = classifier(pair=True)
    whole = model.predict(PAIR)
    assert model.predict(PAIR[0]) == model.predict(PAIR[:1])
    assert model.predict([[*row] for row in PAIR]) == model.predict(np.array(PAIR)) == whole
    assert classifier().predict((ONE, TWO)) == classifier().predict([ONE, TWO]), "of two texts where none is a pair"


@pytest.mark.found("predict-frames")
@pytest.mark.parametrize(
    ("pair", "texts", "said"),
    [
        (False, pd.DataFrame({"body": [ONE]}), "there is no column `text`"),
        (False, {"train": datasets.Dataset.from_dict({"text": [ONE]})}, "there is no column `text`"),
        (False, {"text": [ONE], "n": [1, 2]}, "differ in length"),
        (False, [{"text": ONE}, {"body": TWO}], "row 2: has other keys"),
        (False, [{"text": ONE}, TWO], "row 2: has other keys"),
        (False, pd.DataFrame({"text": [ONE, None]}), "`text` is null"),
        (False, {"text": [ONE, " "]}, "`text` is empty"),
        (False, "", "is not a text, or is empty"),
        (False, b"word0", "bytes is not an ordered collection of texts"),
        (False, 3, "int is not an ordered collection of texts"),
        (False, None, "NoneType is not an ordered collection of texts"),
        (False, {ONE, TWO}, "set is not an ordered collection of texts"),
        (False, [ONE, 3], "text 2 is not a text"),
        (False, [b"x"], "text 1 is not a text"),
        (False, [{ONE}], "text 1 is not a text"),
        (False, [(ONE, TWO)], "text 1 is not a text"),
        (True, ONE, "text 1 is not a pair"),
        (True, [ONE, TWO], "text 1 is not a pair"),
        (True, "ab", "text 1 is not a pair"),
        (True, [PAIR[0], ("a", "b", "c")], "text 2 is not a pair"),
    ],
)
def test_everything_else_is_refused(pair: bool, texts: Any, said: str, classifier: Callable[..., Any]) -> None:
    with pytest.raises(DataError) as caught:
        classifier(pair=pair).predict(texts)
    assert said in str(caught.value)
    assert caught.value.hint or "differ in length" in said or "other keys" in said or "null" in said


@pytest.mark.parametrize("pair", [False, True])
def test_a_file_of_texts_is_answered_a_line_each(
    pair: bool, classifier: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As lines of standard input are. Of fastText's lines the texts are read, and a blank line is named."""
    model, file = classifier(pair=pair), tmp_path / "lines.txt"
    texts, end = ["word1 word2", "word0 word4"], "\ta film" if pair else ""
    file.write_bytes("".join(f"{text}{end}\r\n" for text in texts).encode("utf-16"))
    capsys.readouterr()
    assert command(["predict", str(model.saved.name), "--data", str(file), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    known = model.predict([(text, "a film") for text in texts] if pair else texts)
    assert [row["probabilities"] for row in rows] == [answer["probabilities"] for answer in known]
    file.write_text(f"word1{end}\n\nword2{end}\n", encoding="utf-8")
    assert command(["predict", str(model.saved.name), "--data", str(file)]) == 2
    assert f"{file}:2: is empty" in capsys.readouterr().err
    if not pair:
        file.write_text(f"__label__x {texts[0]}\n", encoding="utf-8")
        assert command(["predict", str(model.saved.name), "--data", str(file), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["text"] == texts[0]


ROW = (
    '"doc": {"id": 7, "n": [1.50, true]}, "tags": ["a"], "seen": true, "n": 1.50, "m": 12345678901234567.89, "x": null'
)


@pytest.mark.found("predict-columns-kept")
def test_answers_keep_every_value_of_their_row(
    classifier: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = str(classifier().saved.name), tmp_path / "new.jsonl"
    file.write_text(
        f'{{{ROW}, "text": "{ONE}", "prediction": "older", "dongu_prediction": "two", "probabilities": 3}}\n', "utf-8"
    )
    [answer] = classifier().predict(ONE)
    names = {"prediction": "dongu_dongu_prediction", "probabilities": "dongu_probabilities"}
    for out in (tmp_path / "answers.jsonl", None):
        options = ["--json"] if out is None else ["--out", str(out)]
        assert command(["predict", run, "--data", str(file), *options]) == 0
        said = capsys.readouterr()
        line = said.out if out is None else out.read_text("utf-8")
        assert line.startswith(f'{{"id": 0, {ROW}, "text": "{ONE}", "prediction": "older"'), "as it was written"
        row = json.loads(line)
        assert row["probabilities"] == 3
        assert {usual: row[name] for usual, name in names.items()} == answer
        for usual, name in names.items():
            assert f"the rows have a column `{usual}` of their own: the answer is in `{name}`" in said.err

    assert command(["predict", run, "--data", str(file), "--out", str(tmp_path / "answers.csv")]) == 0
    [row] = csv.DictReader((tmp_path / "answers.csv").read_text("utf-8").splitlines())
    assert (row["doc"], row["tags"], row["seen"]) == ('{"id": 7, "n": [1.50, true]}', '["a"]', "true")
    assert (row["n"], row["x"], row["prediction"], row["probabilities"]) == ("1.50", "", "older", "3")
    assert row["dongu_dongu_prediction"] == answer["prediction"]
    assert float(row["probability of text"]) == answer["probabilities"]["text"]


@pytest.mark.found("predict-columns-kept")
def test_answers_keep_the_cells_of_a_table(
    classifier: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a label has the name of a column, or a column that of a probability."""
    run, file, out = str(classifier().saved.name), tmp_path / "new.csv", tmp_path / "answers.csv"
    cells = {"id": "x7", "text": ONE, "label": "1.50", "probability of text": "True", "note": ""}
    file.write_text(",".join(cells) + "\n" + ",".join(cells.values()) + "\n", "utf-8")
    assert command(["predict", run, "--data", str(file), "--out", str(out)]) == 0
    [row] = csv.DictReader(out.read_text("utf-8").splitlines())
    assert {name: row[name] for name in cells} == cells
    [answer] = classifier().predict(ONE)
    assert row["prediction"] == answer["prediction"]
    assert float(row["dongu_probability of text"]) == answer["probabilities"]["text"]
    assert "`probability of text`" in capsys.readouterr().err
    out = tmp_path / "answers.jsonl"
    assert command(["predict", run, "--data", str(file), "--out", str(out)]) == 0
    assert json.loads(out.read_text("utf-8")) == {**cells, **answer}
    assert command(["predict", run, "--data", str(file)]) == 0
    assert capsys.readouterr().out == f"{answer['prediction']}\t{max(answer['probabilities'].values()):.4f}\t{ONE}\n"


def of_regression(labels: list[float]) -> list[dict[str, str]]:
    return [{"text": f"word{i}", "label": repr(label)} for i, label in enumerate(labels)]


@pytest.mark.found("constant-validation")
def test_a_validation_of_one_number_is_refused(tiny_model: Callable[..., str], tmp_path: Path) -> None:
    data = {"train": of_regression([0.5, 1.5, 2.5, 3.5] * 4), "validation": of_regression([2.5] * 4)}
    options: dict[str, Any] = {"model": tiny_model(), "threads": 1, "max_steps": 2, "out": str(tmp_path / "run")}
    with pytest.raises(
        InputError, match=r"validation has the label 2\.5 in every row: spearman is undefined"
    ) as caught:
        dongu.train(data, **options)
    assert caught.value.exit_code == 2
    assert "--metric loss" in caught.value.hint
    assert not (tmp_path / "run").exists()
    assert dongu.train(data, **options, metric="loss").metrics["loss"] > 0, "which is a number on any rows"


@pytest.mark.found("constant-validation")
@pytest.mark.parametrize(
    ("task", "metric", "targets", "why"),
    [
        ("regression", "pearson", [1.0, 1.0], "has the label 1 in every row"),
        ("regression", "spearman", [1.0], "has the label 1 in every row"),
        ("regression", "spearman", [1.0, 2.0], None),
        ("regression", "loss", [1.0, 1.0], None),
        ("regression", "loss", [], "has no rows"),
        ("multi-label", None, [[0, 0], [0, 0]], "has no row with a label"),
        ("multi-label", "micro_f1", [[0, 0], [0, 1]], None),
        ("single-label", "f1", [0, 0], "has no row with the label `b`"),
        ("single-label", "f1", [1, 1], None),
        ("single-label", "matthews_correlation", [1, 1], "has the label `b` in every row"),
        ("single-label", "accuracy", [1, 1], None),
        ("single-label", "accuracy", [], "has no rows"),
    ],
)
def test_what_tells_no_model_from_another(task: Any, metric: str | None, targets: list[Any], why: str | None) -> None:
    names = ("score",) if task == "regression" else ("a", "b")
    assert MetricSet.of(task, names, main=metric).why_undefined(np.array(targets)) == why


@pytest.mark.parametrize(
    ("asked", "cells", "option"),
    [
        (["predict", "--data"], {"review": ONE, "label": "text"}, "--text-columns"),
        (["evaluate"], {"review": ONE, "label": "text"}, "--text-columns"),
        (["evaluate"], {"text": ONE, "stars": "text"}, "--label-column"),
    ],
)
def test_rows_with_other_columns_are_told_the_option(
    asked: list[str],
    cells: dict[str, str],
    option: str,
    classifier: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nor is a file with labels in another column said to have none."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(cells) + "\n", encoding="utf-8")
    assert command([asked[0], str(classifier().saved.name), *asked[1:], str(path)]) == 2
    said = capsys.readouterr().err
    assert "there is no column" in said
    assert f"the columns are: {', '.join(cells)}; {option} names" in said


def test_several_labels_in_a_cell_can_be_told_apart() -> None:
    for names, cell in ((("a", "b"), "a|b"), (("a|x", "b"), '["a|x", "b"]'), (("a", " b"), '["a", " b"]')):
        answer = {"prediction": [*names], "probabilities": dict.fromkeys(names, 0.75)}
        none = {**answer, "prediction": []}
        metrics = MetricSet.of("multi-label", names)
        written = [*beside([{}, {}], [answer, none], (), metrics, table=True, say=print)]
        assert [row["prediction"] for row in written] == [cell, "[]" if cell[0] == "[" else ""]
        assert _answer_line(answer, ["text"]) == f"{cell}\t0.7500|0.7500\ttext"
        assert _answer_line(none, ["text"]) == "-\t-\ttext"


def test_rows_that_the_run_did_not_have_are_not_its_own(
    tiny_model: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that grew has other rows held out, some of which the run has learnt."""
    file, out = tmp_path / "rows.jsonl", str(tmp_path / "run")
    lines = [json.dumps({"text": f"word{i % 2} word{i}", "label": "ab"[i % 2]}) + "\n" for i in range(60)]
    file.write_text("".join(lines[:40]), "utf-8")
    dongu.train(str(file), model=tiny_model(), out=out, max_steps=2, threads=1, quiet=True)
    assert command(["evaluate", out]) == 0
    capsys.readouterr()
    file.write_text("".join(lines), "utf-8")
    assert command(["evaluate", out]) == 2
    said = capsys.readouterr()
    assert "validation has other rows than the run had (6 rows, and 4 then)" in said.err
    assert said.out == ""
    validation = SavedModel.open(out).own_examples("validation", takes_data="export")["validation"]
    assert len(validation) == 6, "two forms of a model are compared on any rows"


def test_options_may_stand_before_the_texts(classifier: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    run = str(classifier().saved.run.path)
    capsys.readouterr()  # what training said
    assert command(["predict", run, "--json", ONE, TWO]) == 0
    given = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    assert command(["predict", run, ONE, "--abstain-below", "0", TWO, "--json"]) == 0
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == given == [ONE, TWO]
