"""How rows and labels are read: what was once taken for something else in silence, and what it is."""

from __future__ import annotations

import datetime
import enum
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dongu.cli.main import run
from dongu.config import make_config
from dongu.data.examples import TextData, read_examples
from dongu.data.labels import read_column
from dongu.data.sources import read_source
from dongu.data.table import Table
from dongu.doctor.checkup import Checkup, check_up
from dongu.doctor.overview import describe_columns, describe_rows
from dongu.eject.reading import find_reading
from dongu.errors import DataError, UsageError
from dongu.run.folder import RunFolder


class Mood(enum.Enum):
    GOOD = 1
    BAD = 0


class Tone(str, enum.Enum):  # noqa: UP042 - as many write it
    LOUD = "l"
    LOW = "s"


def rows(labels: Sequence[Any], first: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"film number {i}", "label": label} for i, label in enumerate(labels, first)]


def both(labels: Sequence[Any], **options: Any) -> TextData:
    """The labels as train, and as validation of other texts."""
    data = {"train": rows(labels), "validation": rows(labels, 1000)}
    return read_examples(read_source(data), make_config(options))


def targets(data: TextData, split: str = "train") -> list[Any]:
    found = data.splits[split].targets
    assert found is not None
    return list(found.tolist())


def looked_at(train: list[dict[str, Any]], **options: Any) -> Checkup:
    return check_up(read_source(train), make_config({"model": "not/here", **options}))


# --- what labels are read as: (labels, options, task, names, what the model shall answer, what the header says of it)

ABC = ("0", "1", "2")
POSITIONS, IDS = "0 and 1 in a list: the labels by position", "numbers in a list: the labels by their ids"
TEXTS, COMMAS = "lists written as text", "several labels a cell, with `,` between them"
BARS, OFF = COMMAS.replace(",` b", "|` b"), "; --task single-label takes each cell as one name"
READ: list[tuple[list[Any], dict[str, Any], str, tuple[str, ...], list[Any], str]] = [
    ([[1, 0, 1], [0, 0, 0]], {}, "multi-label", ABC, [[1, 0, 1], [0, 0, 0]], POSITIONS),
    ([[1.0, 0.0], [0.0, 1.0]], {}, "multi-label", ABC[:2], [[1, 0], [0, 1]], POSITIONS),
    ([[True, False], [True, True]], {}, "multi-label", ABC[:2], [[1, 0], [1, 1]], POSITIONS),
    ([np.array([1.0, 0.0]), np.array([0.0, 1.0])], {}, "multi-label", ABC[:2], [[1, 0], [0, 1]], POSITIONS),
    (["[1, 0]", "[0, 1]"], {}, "multi-label", ABC[:2], [[1, 0], [0, 1]], f"{TEXTS}; {POSITIONS}"),
    ([[2.0], [10], [2, 10]], {}, "multi-label", ("2", "10"), [[1, 0], [0, 1], [1, 1]], IDS),
    (["['b', 'a']", "[]", '["a"]'], {}, "multi-label", ("a", "b"), [[1, 1], [0, 0], [1, 0]], TEXTS),
    (["('b', 'a')", "('a',)"], {"task": "multi-label"}, "multi-label", ("a", "b"), [[1, 1], [1, 0]], TEXTS),
    (["{'b', 'a'}", "set()", '{"a"}'], {}, "multi-label", ("a", "b"), [[1, 1], [0, 0], [1, 0]], TEXTS),
    (["{b}", "{a}"], {}, "single-label", ("{a}", "{b}"), [1, 0], ""),
    ([r'["\u00e7\ud83d\ude00"]', "['a\\'b']"], {}, "multi-label", ("a'b", "ç😀"), [[0, 1], [1, 0]], TEXTS),
    (
        ["b,a", "a", "b", ""],
        {},
        "multi-label",
        ("a", "b"),
        [[1, 1], [1, 0], [0, 1], [0, 0]],
        f"{COMMAS} in 1 of 4 rows{OFF}",
    ),
    (
        ["joy", "anger, fear", "joy, fear", "fear"],
        {},
        "multi-label",
        ("anger", "fear", "joy"),
        [[0, 0, 1]],
        f"{COMMAS} in 2 of 4 rows{OFF}",
    ),
    (["b,a", "a,c"], {"label_separator": ","}, "multi-label", ("a", "b", "c"), [[1, 1, 0], [1, 0, 1]], COMMAS),
    (
        ["1,2", "2,3,1", "3", "1"],
        {},
        "multi-label",
        ("1", "2", "3"),
        [[1, 1, 0], [1, 1, 1]],
        f"{COMMAS} in 2 of 4 rows{OFF}",
    ),
    (["b|a,c", "a,c"], {}, "multi-label", ("a,c", "b"), [[1, 1], [1, 0]], f"{BARS} in 1 of 2 rows{OFF}"),
    (["b|a,c", "a,c"], {"task": "multi-label"}, "multi-label", ("a,c", "b"), [[1, 1], [1, 0]], ""),
    (["Sport, Play", "Home"], {}, "single-label", ("Home", "Sport, Play"), [1, 0], ""),
    (["a", "b", "a,b"], {"task": "single-label"}, "single-label", ("a", "a,b", "b"), [0, 2, 1], ""),
    (["['a']", "['b']"], {"task": "single-label"}, "single-label", ("['a']", "['b']"), [0, 1], ""),
    ([0.0, 10.0, 2.0], {}, "single-label", ("0", "2", "10"), [0, 2, 1], "0.0 is the class 0"),
    ([10**16, 10**16 - 1], {}, "single-label", ("9999999999999999", "10000000000000000"), [1, 0], ""),
    ([10, 2.0, 2], {}, "single-label", ("2", "10"), [1, 0, 0], "2.0 is the class 2"),
    ([2.5, 10, 2.25], {"task": "single-label"}, "single-label", ("2.25", "2.5", "10"), [1, 2, 0], ""),
    (["3,5", "4", "-0,25"], {}, "regression", ("label",), [3.5, 4, -0.25], "decimal commas: 3,5 is 3.5"),
    (["1,5", "2,5"], {"task": "regression"}, "regression", ("label",), [1.5, 2.5], "decimal commas: 1,5 is 1.5"),
    ([b"iyi", "kötü".encode()], {}, "single-label", ("iyi", "kötü"), [0, 1], ""),
    ([{"b", "a"}, frozenset({"a"})], {}, "multi-label", ("a", "b"), [[1, 1], [1, 0]], ""),
    ([Mood.GOOD, Mood.BAD], {}, "single-label", ("BAD", "GOOD"), [1, 0], ""),
    ([Tone.LOW, Tone.LOUD], {}, "single-label", ("LOUD", "LOW"), [1, 0], ""),
]


@pytest.mark.found("labels-numbers-in-lists")
@pytest.mark.found("labels-list-as-text")
@pytest.mark.found("labels-separator")
@pytest.mark.found("labels-whole-floats")
@pytest.mark.found("labels-decimal-comma")
@pytest.mark.found("objects-as-text")
@pytest.mark.parametrize(("labels", "options", "task", "names", "answers", "said"), READ)
def test_what_labels_are(
    labels: list[Any], options: dict[str, Any], task: str, names: tuple[str, ...], answers: list[Any], said: str
) -> None:
    data = both(labels, **options)
    assert (data.task, data.label_names) == (task, names)
    assert targets(data)[: len(answers)] == targets(data, "validation")[: len(answers)] == answers
    assert data.form.said == said
    assert f"({task}; {said})" in describe_columns(data) if said else f"({task})" in describe_columns(data)


def test_a_number_beside_the_text_that_float32_does_not_hold() -> None:
    table = Table("data", {"age": ["3.4e38", "-1e39"]})
    with pytest.raises(DataError, match="the column `age` has `-1e39`, which is too large") as caught:
        read_column(table, "age")
    assert caught.value.where == "data, row 2"


@pytest.mark.parametrize("word", ["n/a", "inf"])
def test_a_word_among_numbers_is_named(word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are classes then, almost all of one row, which nobody meant; as numbers the row can be left out."""
    lines = [f"text number {i},{word if i == 7 else i / 8}" for i in range(40)]
    (path := tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    told = f"`{word}` is not a number, as the others are"
    with pytest.raises(DataError, match=told) as caught:
        read_examples(read_source(str(path)), make_config({}))
    assert "--task regression --bad-rows drop=10%" in str(caught.value)
    assert run(["inspect", str(path)]) == 2
    assert f"{told}: correct it" in " ".join(capsys.readouterr().out.split())
    config = make_config({"task": "regression", "bad_rows": "drop=10%"})
    data = read_examples(read_source(str(path), config), config)
    assert (data.task, sum(map(len, data.splits.values()))) == ("regression", 39)


WRONG = bytes([0xFF, 0xFE])
REFUSED: list[tuple[list[Any], dict[str, Any], int, str, str]] = [
    (
        [[0, 1], [0.9, 0.3]],
        {},
        2,
        r"the list \[0.9, 0.3\] holds a number that is not a label",
        "a share for each class",
    ),
    ([[0.9, 0.1], [0.5, 0.6]], {}, 2, "are not 2 numbers that sum to one", "--bad-rows"),
    (["[0.5, 0.6]"], {}, 1, "holds a number that is not a label", "a share for each class"),
    ([[0.5, 3]], {}, 1, r"the list \[0.5, 3\] holds a number that is not a label", "0 and 1 for each label"),
    ([[3, 1], [3, 3]], {}, 2, "names a label twice", ""),
    (["['a']", "['b'"], {}, 2, r"the label `\['b'` is not a list", "--task single-label"),
    (["['a']", "b"], {"task": "multi-label"}, 2, "the label `b` is not a list", "--task single-label"),
    (["['a']", "['a' 'b']"], {}, 2, "is not a list", "--task single-label"),  # NumPy's, which Python reads as `ab`
    (["[a, b]", "[b]"], {}, 1, "is not a list", "--task single-label"),
    (["1,234", "2,500"], {}, 1, "`1,234` may be more than one number", "--label-separator"),
    (["7", "1,234,567"], {}, 2, "may be more than one number", "with a point"),
    (["1,5", "2.5"], {}, 1, "may be more than one number", "with a point"),
    (["1.5", "2,5"], {"task": "regression"}, 2, "`2,5` is not a number", "with a point"),
    ([0.5, 1e39], {}, 2, r"`1e\+39` is too large: numbers end at 3.4e38", "--bad-rows"),
    (["0.5", "-4e38"], {}, 2, "`-4e38` is too large", "--bad-rows"),
    ([datetime.date(2020, 1, 2)], {}, 1, "the label `label` is a value of the type date", ""),
    ([np.datetime64("2020-01-02")], {}, 1, "the label `label` is a value of the type datetime64", ""),
    (["a", "b", 1j], {}, 3, "the label `label` is a value of the type complex", ""),
    (["a", {"b": 1}], {}, 2, "the label `label` is an object", ""),
    (["a", "b", WRONG], {}, 3, "the label `label` is bytes that are not UTF-8", ""),
    ([["a"], [datetime.date(2020, 1, 2)]], {}, 2, "the label `label` is a value of the type date", ""),
    (["a", -1, -1], {}, 2, "the label `label` is -1: 2 rows without a gold label", "--unlabelled drop"),
    (["0", "1", -1.0], {}, 3, "is -1: 1 row without a gold label", "--unlabelled drop"),
    ([0.5, None], {}, 2, "is null: 1 row without a gold label", "--unlabelled drop"),
    ([[1, 0], [-1, -1]], {}, 2, "is -1: 1 row without a gold label", "--unlabelled drop"),
]


@pytest.mark.found("labels-numbers-in-lists")
@pytest.mark.found("labels-soft")
@pytest.mark.found("labels-list-as-text")
@pytest.mark.found("labels-decimal-comma")
@pytest.mark.found("labels-unlabelled")
@pytest.mark.found("objects-as-text")
@pytest.mark.parametrize(("labels", "options", "row", "what", "hint"), REFUSED)
def test_labels_that_are_refused_with_their_row(
    labels: list[Any], options: dict[str, Any], row: int, what: str, hint: str
) -> None:
    with pytest.raises(DataError, match=what) as caught:
        both(labels, **options)
    assert caught.value.where == f"data train, row {row}"
    assert hint in caught.value.hint


@pytest.mark.found("objects-as-text")
@pytest.mark.parametrize("value", [datetime.datetime(2020, 1, 2), WRONG, {"a": 1}, {"a", "b"}, object()])
def test_a_text_that_is_an_object_is_refused_and_one_beside_it_is_not(value: Any) -> None:
    table = [{"text": "a", "label": "x"}, {"text": value, "label": "y"}]
    with pytest.raises(DataError, match=r"`text` is .*, not a text") as caught:
        read_examples(read_source(table), make_config({}))
    assert caught.value.where == "data, row 2"
    beside = [{**row, "when": value} for row in rows(["x", "y"] * 10)]
    assert read_examples(read_source(beside), make_config({})).unused_columns == ("when",)
    assert (
        looked_at([*rows(["x", "y"] * 4), *table]).findings[0].what.startswith("1 train row without a text in `text`")
    )


@pytest.mark.found("objects-as-text")
def test_bytes_and_dates_of_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    texts, labels = [f"çok güzel {i}".encode() for i in range(20)], [b"iyi", "kötü".encode()] * 10
    when = pa.array([datetime.date(2020, 1, 2)] * 20)
    parquet.write_table(pa.table({"text": texts, "label": labels, "when": when}), tmp_path / "a.parquet")
    data = read_examples(read_source(tmp_path / "a.parquet"), make_config({}))
    assert data.label_names == ("iyi", "kötü")
    assert "çok güzel 0" in [*data.splits["train"].texts[0], *data.splits["validation"].texts[0]]
    with pytest.raises(DataError, match="is a value of the type date") as caught:
        read_examples(read_source(tmp_path / "a.parquet"), make_config({"label_column": "when"}))
    assert caught.value.where.endswith("a.parquet, row 1")


# --- between splits


@pytest.mark.found("labels-whole-floats")
@pytest.mark.parametrize("floats_first", [True, False])
def test_whole_floats_in_one_file_are_the_numbers_of_the_other(tmp_path: Path, floats_first: bool) -> None:
    forms: list[Callable[[int], str]] = [lambda i: f"{i % 12}.0", lambda i: f"{i % 12}"]
    for name, form in zip(("train", "validation"), forms if floats_first else forms[::-1], strict=True):
        lines = [f"{name} number {i},{form(i)}\n" for i in range(24)]
        (tmp_path / f"{name}.csv").write_text("".join(["text,label\n", *lines]))
    data = read_examples(read_source(tmp_path), make_config({}))
    assert data.label_names == tuple(map(str, range(12)))
    assert targets(data) == targets(data, "validation") == [i % 12 for i in range(24)]


def test_each_split_is_read_as_train_is_or_refused() -> None:
    def read(train: list[Any], validation: list[Any]) -> TextData:
        return read_examples(read_source({"train": rows(train), "dev": rows(validation, 99)}), make_config({}))

    with pytest.raises(DataError, match="the list of `label` has 2 numbers, and those of train have 3") as caught:
        read([[1, 0, 1], [0, 1, 0]], [[1, 0, 0], [1, 0]])
    assert caught.value.where == "data dev, row 2"
    assert targets(read(["a", "b", "a,b"], [["a"], ["a", "b"]]), "validation") == [[1, 0], [1, 1]]
    assert targets(read([0.5, 1.25], ["1.5"]), "validation") == [1.5]


# --- rows without a gold label


@pytest.mark.found("labels-unlabelled")
def test_rows_without_a_gold_label_are_left_out_on_demand() -> None:
    import datasets

    labels: list[Any] = [0, 1, -1, 2] * 10
    plain = read_source({"train": rows(labels), "validation": rows(labels, 99), "test": rows([-1, -1], 999)})
    names = datasets.ClassLabel(names=["a", "b", "c"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    declared = {name: datasets.Dataset.from_list(rows(labels), features=features) for name in ("train", "validation")}
    for source in (plain, read_source(declared)):
        with pytest.raises(DataError, match="is -1: 10 rows without a gold label") as caught:
            read_examples(source, make_config({}))
        assert "--unlabelled drop" in caught.value.hint
        data = read_examples(source, make_config({"unlabelled": "drop"}))
        assert data.splits["train"].ids.tolist() == [i for i in range(40) if i % 4 != 2]
        assert data.splits["train"].where(2).endswith("row 4")
        assert set(targets(data)) == set(targets(data, "validation")) == {0, 1, 2}
        assert describe_rows(data).endswith("30 rows; left out: 20 rows without a gold label") or "test 2" in (
            describe_rows(data)
        )
    checkup = check_up(plain, make_config({"model": "not/here"}))
    assert [finding.what for finding in checkup.findings if finding.severity == "error"] == [
        "10 train rows without a gold label in `label`: -1",
        "10 validation rows without a gold label in `label`: -1",
    ]
    assert checkup.findings[0].examples[0].where == ("data train, row 3",)
    checkup = check_up(plain, make_config({"model": "not/here", "unlabelled": "drop"}))
    assert {finding.severity for finding in checkup.findings} == {"note"}


@pytest.mark.found("labels-unlabelled")
@pytest.mark.parametrize(
    ("labels", "options", "left"),
    [
        ([0.5, None, -1.0, 2.5], {}, [0, 2, 3]),  # -1 is a number as others are
        (["a", "", "b", " ", "a"], {}, [0, 2, 4]),
        (["a|b", "", None, "b"], {}, [0, 1, 3]),  # an empty one is a row that has none of the labels
        ([[1, 0], [-1, -1], [0, 1]], {}, [0, 2]),
    ],
)
def test_what_has_no_gold_label(labels: list[Any], options: dict[str, Any], left: list[int]) -> None:
    assert both(labels, unlabelled="drop", **options).splits["train"].ids.tolist() == left


def test_all_rows_without_a_gold_label_are_no_data() -> None:
    data = {"train": rows(["a", "b"]), "validation": rows([-1, -1])}
    with pytest.raises(DataError, match="is -1: 2 rows without a gold label"):
        read_examples(read_source(data), make_config({"unlabelled": "drop"}))


# --- the separator


@pytest.mark.found("labels-separator")
def test_labels_that_may_be_several_are_a_finding() -> None:
    labels = ["Sport, Play", "Sport, Home", "Garden"] * 8
    [finding] = [finding for finding in looked_at(rows(labels)).findings if "`,`" in finding.what]
    assert finding.severity == "warning"
    assert finding.what == "2 classes with `,` in the name: `Sport, Home`, `Sport, Play`"
    assert '--label-separator ","' in finding.advice
    for options in ({"task": "single-label"}, {"label_separator": ","}):
        assert not [f for f in looked_at(rows(labels), **options).findings if "`,`" in f.what]
    assert not [f for f in looked_at(rows(["Sport, Play", "Home"] * 8)).findings if "`,`" in f.what]


@pytest.mark.found("labels-separator")
def test_a_separator_that_parts_nothing_is_refused() -> None:
    for labels, options in (
        ([["a"], ["b"]], {}),
        (["a", "b"], {"task": "single-label"}),
        ([0.5, 1.5], {"task": "regression"}),
    ):
        with pytest.raises(UsageError, match="--label-separator ,"):
            both(labels, label_separator=",", **options)


@pytest.mark.found("labels-list-as-text")
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("angry, refund, bug", None),
        ("angry, refnud", "angry, refund"),
        ("angri", "angry"),
    ],
)
def test_a_set_of_labels_is_no_misspelt_set(name: str, meant: str | None) -> None:
    labels = [*["angry, refund", "angry", "billing, refund, bug"] * 4, name]
    checkup = looked_at(rows(labels), task="single-label")
    [finding] = [finding for finding in checkup.findings if "one row only" in finding.what]
    assert (f"may mean `{meant}`" in finding.advice) if meant else ("may mean" not in finding.advice)


# --- columns


@pytest.mark.found("text-not-used")
def test_a_text_that_is_not_used_is_a_finding() -> None:
    words = "a much longer story about the film and all that is in it"
    table = [
        {"label": i % 2, "text": f"good film {i}", "description": f"{words} {i}", "id": f"c0ffee{i}", "city": "Izmir"}
        for i in range(40)
    ]
    [finding] = [finding for finding in looked_at(table).findings if "not used" in finding.what]
    assert finding.severity == "warning"
    assert finding.what.startswith("`description` is not used, and holds 5 times as much text as `text`: 59 char")
    assert "--text-columns text+description" in finding.advice
    for chosen in ("text", "text+description"):
        assert not [f for f in looked_at(table, text_columns=chosen).findings if "not used" in f.what]
    tickets = [{"title": f"the printer is broken {i}", "body": f"{words} {i}", "label": i % 2} for i in range(40)]
    [finding] = [finding for finding in looked_at(tickets).findings if "not used" in finding.what]
    assert "--text-columns body+title" in finding.advice


@pytest.mark.parametrize(
    ("names", "options", "chosen"),
    [
        (("Text", "Label"), {}, "Text → Label"),
        (("TEXT", "Sentiment"), {}, "TEXT → Sentiment"),
        (("Text", "Label"), {"text_columns": "text", "label_column": "label"}, "Text → Label"),
        (("text", "Stars"), {}, "text → Stars"),  # the only column that is left, and it is one
        (("text", "Text"), {"label_column": "Text"}, "text → Text"),
    ],
)
def test_columns_by_their_names_in_any_case(names: tuple[str, str], options: dict[str, Any], chosen: str) -> None:
    table = [{names[0]: f"film {i}", names[1]: i % 5} for i in range(40)]
    other = [{names[0].lower(): f"the {i}", names[1].lower(): i % 5} for i in range(10)] if options == {} else table
    data = read_examples(read_source({"train": table, "validation": other}), make_config(options))
    assert str(data.columns) == chosen
    assert targets(data, "validation")[:5] == [0, 1, 2, 3, 4]


def test_the_last_column_is_the_label_where_there_is_no_doubt() -> None:
    for values in (range(40), [0.5, *range(39)], ["x"] * 40):
        table = [{"text": f"film {i}", "note": value} for i, value in enumerate(values)]
        with pytest.raises(DataError, match="it is unclear which column is the label"):
            read_examples(read_source(table), make_config({}))


def test_a_pair_by_the_names_of_the_hub() -> None:
    table = [{"text": f"film {i}", "text_pair": f"the {i}", "label": i % 2} for i in range(20)]
    assert str(read_examples(read_source(table), make_config({})).columns) == "text + text_pair → label"


# --- the whole way


@pytest.mark.cases(test=1, ci=3)
@pytest.mark.found("labels-numbers-in-lists")
@pytest.mark.found("labels-separator")
@pytest.mark.parametrize(
    ("labels", "new", "separator"),
    [
        ([[1, 0, 1], [0, 1, 0]], [1, 0, 0], None),
        (["joy", "fear", "joy,fear"], "joy,fear", ","),
        (["['joy']", "['fear', 'joy']", "['fear']"], "['fear', 'joy']", None),
    ],
)
def test_a_run_answers_and_judges_rows_of_its_kind(
    tmp_path: Path,
    tiny_model: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    labels: list[Any],
    new: Any,
    separator: str | None,
) -> None:
    train, other = tmp_path / "train.jsonl", tmp_path / "other.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows(labels * 8)))
    other.write_text("".join(json.dumps(row) + "\n" for row in rows([new] * 3, 500)))
    out = str(tmp_path / "run")
    assert run(["train", str(train), "--model", tiny_model(), "--max-steps", "2", "--out", out, "--device", "cpu"]) == 0
    options = RunFolder(Path(out)).read_record()["options"]
    assert (options["task"], options["label_separator"]) == ("multi-label", separator)
    assert options["unlabelled"] == "refuse"
    capsys.readouterr()
    assert run(["evaluate", out, str(other), "--device", "cpu", "--json"]) == 0
    assert "average_precision" in json.loads(capsys.readouterr().out)["other"]
    assert run(["predict", out, "--data", str(other), "--device", "cpu", "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.found("labels-numbers-in-lists")
def test_a_plain_script_reads_lists_of_0_and_1_and_refuses_what_it_cannot(tmp_path: Path) -> None:
    def reading(labels: list[Any], **options: Any) -> str:
        path = tmp_path / "data.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows(labels * 10)))
        config = make_config(options)
        return find_reading(read_examples(read_source(path, config), config), config).label_of

    assert reading([[1, 0, 1], [0, 1, 0]]) == "[[*map(float, label)] for label in rows[LABEL]]"
    assert 'label.split(",")' in reading(["joy", "fear", "joy,fear"])
    assert "map(ast.literal_eval" in reading(["['joy']", "['fear', 'joy']", "['fear']"])
    with pytest.raises(DataError, match="other labels than the run did"):
        reading([[{"name": "joy"}], [{"name": "fear"}]], label_column="label.0.name")
    with pytest.raises(DataError, match="the run left some out"):
        reading([0, 1, -1], unlabelled="drop")
