"""Options that say what labels mean and which rows count: each changes nothing else, and is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dongu.cli.main import run
from dongu.config import make_config
from dongu.data.examples import TextData, read_examples, read_rows
from dongu.data.sources import Source, read_source
from dongu.data.table import Table
from dongu.doctor.checkup import check_up
from dongu.doctor.overview import describe_columns, describe_rows
from dongu.errors import DataError, UsageError


def read(labels: list[Any], texts: list[Any] | None = None, **options: Any) -> TextData:
    """The labels as train and as validation."""
    texts = [f"text {i}" for i in range(len(labels))] if texts is None else texts
    rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    return read_examples(read_source({"train": rows, "validation": rows}), make_config(options))


def targets(data: TextData, split: str = "train") -> list[Any]:
    found = data.splits[split].targets
    assert found is not None
    return list(found.tolist())


def new_rows(labels: list[Any], config: Any, names: Any) -> list[Any]:
    table = Table("new", {"text": [f"new {i}" for i in range(len(labels))], "label": labels})
    found = read_rows(table, config, names).targets
    assert found is not None
    return list(found.tolist())


def test_the_positive_class_is_the_second() -> None:
    labels = ["fraud", "legit", "legit", "fraud"]
    assert read(labels).label_names == ("fraud", "legit")
    chosen = read(labels, positive="fraud")
    assert (chosen.label_names, targets(chosen)) == (("legit", "fraud"), [1, 0, 0, 1])
    for wrong in ("fruad", "other"):
        with pytest.raises(UsageError, match=r"the classes are `fraud`, `legit`"):
            read(labels, positive=wrong)
    with pytest.raises(UsageError, match="one of two is wanted"):
        read(["a", "b", "c"], positive="a")
    with pytest.raises(UsageError, match="--positive: numbers have no classes"):
        read([0.5, 1.5], positive="a")


@pytest.mark.parametrize("labels", [[2, 0, 1, 0], ["2", "0", "1", "0"], [2.0, 0.0, 1.0, 0.0], ["2.0", "0", "1", "0"]])
def test_names_of_label_ids(labels: list[Any]) -> None:
    data = read(labels, label_names="negative,neutral,positive")
    assert (data.label_names, targets(data)) == (("negative", "neutral", "positive"), [2, 0, 1, 0])
    config = make_config({"text_columns": "text", "label_column": "label", "label_names": data.label_names})
    assert new_rows(["1.0", "2"], config, data.label_names) == [1, 2]
    assert new_rows(["positive", "neutral"], config, data.label_names) == [2, 1]


def test_names_of_labels_by_position() -> None:
    data = read([[1, 0], [1, 1], [0, 0]], label_names="rude,funny")
    assert (data.label_names, targets(data)) == (("rude", "funny"), [[1, 0], [1, 1], [0, 0]])


@pytest.mark.parametrize(
    ("labels", "names", "said"),
    [
        ([0, 1, 2], "a,b", "the label `2` has no name: --label-names are those of 0 to 1"),
        (["x", "y", "x"], "a,b", "the label `x` has no name"),
        ([0, 1, 0], "a,a", "has a name twice"),
        ([0.5, 1.5, 2.5], "a,b", "--label-names: numbers have no classes"),
    ],
)
def test_names_that_do_not_fit(labels: list[Any], names: str, said: str) -> None:
    with pytest.raises((DataError, UsageError), match=said):
        read(labels, label_names=names)


def test_rows_without_a_text_are_left_out_on_demand() -> None:
    texts = ["one", "", "two", None, " ", "three"]
    labels = ["a", "b", "a", "b", "a", "b"]
    with pytest.raises(DataError) as caught:
        read(labels, texts)
    assert "--empty drop" in caught.value.hint
    data = read(labels, texts, empty="drop")
    assert data.splits["train"].ids.tolist() == [0, 2, 5]
    assert data.splits["train"].texts == (["one", "two", "three"],)
    assert describe_rows(data).endswith("; left out: 6 rows without a text")
    both = read(["a", "b", None, "b", "a", "b"], texts, empty="drop", unlabelled="drop")
    assert "left out: 2 rows without a gold label; left out: 6 rows without a text" in describe_rows(both)
    with pytest.raises(DataError, match="`text` is a boolean"):  # which is no missing text
        read(labels, ["one", True, *texts[2:]], empty="drop")


def test_rare_classes_are_joined_on_demand() -> None:
    labels = [*"aaaaabbbbbcdd"]
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
    source = read_source(rows)
    with pytest.raises(DataError, match="has 1 row") as caught:
        read_examples(source, make_config({}))
    assert caught.value.hint.endswith("or --rare join=3")  # as 2 gives `other` the one row of d
    data = read_examples(source, make_config({"rare": "join=3"}))
    assert data.label_names == ("a", "b", "other")
    assert sum(len(split) for split in data.splits.values()) == len(labels)
    assert describe_columns(data) == "text → label (single-label; 2 rare classes are `other`: c, d)"
    config = make_config({"text_columns": "text", "label_column": "label", "rare": "join=3"})
    assert new_rows(["a", "d", "never seen"], config, data.label_names) == [0, 2, 2]
    checkup = check_up(source, make_config({"rare": "join=3", "model": "not/here"}))
    assert [finding.what for finding in checkup.findings if finding.severity == "error"] == []


def test_declared_classes_are_joined_by_their_names() -> None:
    table = Table(
        "data", {"text": ["1", "2", "3", "4", "5"], "label": [*"01122"]}, label_names={"label": ["x", "y", "z"]}
    )
    source = Source("data", {"train": table, "validation": table})
    data = read_examples(source, make_config({"rare": "join=2"}))
    assert (data.label_names, targets(data)) == (("other", "y", "z"), [0, 1, 1, 2, 2])
    named = read_examples(source, make_config({"positive": None}))
    assert named.label_names == ("x", "y", "z")
    with pytest.raises(DataError, match="have names already: x, y, z"):
        read_examples(source, make_config({"label_names": "a,b,c"}))


def test_whole_numbers_in_order_are_classes_and_said() -> None:
    stars = read([1, 2, 3, 4, 5, 5])
    assert (stars.task, stars.label_names) == ("single-label", ("1", "2", "3", "4", "5"))
    assert "--task ordinal" in stars.form.said
    for labels in ([0, 1, 0, 1], [1, 2, 40, 1], [*range(20)], ["a", "b", "c"]):
        assert "ordinal" not in read(labels).form.said
    assert "ordinal" not in read([1, 2, 3], task="single-label").form.said
    assert np.array_equal(targets(stars), [0, 1, 2, 3, 4, 4])


def test_inspect_says_it_all_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.csv"
    rows = [f"film number {i},{i % 3 + 1},a note about film {i}" for i in range(30)]
    path.write_text("\n".join(["Review Text,Stars,remark", *rows, ",1,x", "bad,1,x,y", ""]), encoding="utf-8")
    command = ["inspect", str(path), "--model", "not/here", "--json"]
    assert run([*command, "--empty", "drop", "--bad-rows", "drop=5%"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["text_columns"], said["label_column"]) == (["Review Text"], "Stars")
    assert said["unused_columns"]["remark"] > 10
    assert [each["severity"] for each in said["findings"] if "without a text" in each["what"]] == ["note"]
    assert said["dropped"] == [
        {"file": str(path), "line": 33, "reason": "the row has 4 cells, and the header has 3 columns"}
    ]
    assert any("--task ordinal" in each for each in said["said"])
    assert sum(said["rows"].values()) == 30
    assert {"severity", "what", "effect", "advice", "examples"} <= said["findings"][0].keys()
