"""Which columns, which task, which labels: what is inferred, and what is refused with its place."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dongu.config import make_config
from dongu.data.columns import choose_columns, named_parts
from dongu.data.examples import TextData, read_examples
from dongu.data.holdout import hold_out
from dongu.data.sources import Source, read_source
from dongu.data.table import Table
from dongu.data.weights import label_counts
from dongu.errors import DataError


def table(*names: str) -> Table:
    return Table("data.csv", {name: ["x", "y"] for name in names}, [2, 3])


def rows(*labels: Any) -> list[dict[str, Any]]:
    """A row for each label, no two texts alike."""
    return [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]


def read(data: Any, **options: Any) -> TextData:
    return read_examples(read_source(data), make_config(options))


def both(*labels: Any, **options: Any) -> TextData:
    """The labels as train, and again as validation."""
    return read({"train": rows(*labels), "validation": rows(*labels)}, **options)


def targets(data: TextData, split: str = "train") -> list[float]:
    found = data.splits[split].targets
    assert found is not None
    return list(found.tolist())


def write_lines(path: Path, lines: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


# --- columns

GLUE = [
    (("sentence", "label", "idx"), ("sentence",)),
    (("sentence1", "sentence2", "label", "idx"), ("sentence1", "sentence2")),
    (("question1", "question2", "label", "idx"), ("question1", "question2")),
    (("premise", "hypothesis", "label", "idx"), ("premise", "hypothesis")),
    (("question", "sentence", "label", "idx"), ("question", "sentence")),
]


@pytest.mark.parametrize(("names", "texts"), GLUE)
def test_glue_columns_in_any_order(names: tuple[str, ...], texts: tuple[str, ...]) -> None:
    for seed in range(4):
        shuffled = random.Random(seed).sample(names, len(names))
        assert choose_columns(table(*shuffled), None, None).texts == texts
        assert choose_columns(table(*shuffled), None, None).label == "label"


def test_usual_and_named_columns() -> None:
    assert choose_columns(table("id", "text", "score"), None, None).label == "score"
    assert choose_columns(table("score", "text", "label"), None, None).label == "label"
    named = choose_columns(table("label", "text", "note", "kind"), ["note"], "kind")
    assert (named.texts, named.label) == (("note",), "kind")
    assert choose_columns(table("sentence1", "sentence2", "label"), ["sentence2"], None).texts == ("sentence2",)
    # The label is no text, whatever it is called, and a text is no label.
    assert choose_columns(table("sentence", "title"), None, "sentence").texts == ("title",)
    assert choose_columns(table("score", "class"), ["class"], None).label == "score"
    assert choose_columns(table("text", "class", "score"), ["text+class"], None).label == "score"


def test_the_only_other_column_is_the_text() -> None:
    assert choose_columns(table("label", "utterance"), None, None).texts == ("utterance",)
    with pytest.raises(DataError, match="it is unclear which columns are the text") as caught:
        choose_columns(table("label", "one", "other"), None, None)
    assert "--text-columns" in caught.value.hint
    assert "one, other" in caught.value.hint
    with pytest.raises(DataError, match="it is unclear which columns are the text"):
        choose_columns(table("label"), None, None)


def test_an_unknown_label_column_is_asked_for() -> None:
    with pytest.raises(DataError, match="it is unclear which column is the label") as caught:
        choose_columns(table("text", "answer"), None, None)
    assert "--label-column" in caught.value.hint
    assert "text, answer" in caught.value.hint


@pytest.mark.parametrize(("asked", "meant"), [("label", " label"), ("Txt", "Text")])
def test_a_missing_column_is_answered_with_the_closest(asked: str, meant: str) -> None:
    with pytest.raises(DataError) as caught:
        choose_columns(table("Text", " label", "other"), [asked], None)
    assert f"no column `{asked}`" in caught.value.what
    assert f"did you mean `{meant}`?" in caught.value.hint
    assert caught.value.where == "data.csv"


def test_a_column_that_is_like_no_other_lists_them_all() -> None:
    with pytest.raises(DataError) as caught:
        choose_columns(table("text", "label"), None, "zzzz")
    assert caught.value.hint == "the columns are: text, label"


# --- columns that a name joins


TITLES: list[dict[str, Any]] = [
    {"title": "a title", "body": "a body", "label": "x"},
    {"title": "", "body": "only a body", "label": "y"},
    {"title": "only a title", "body": None, "label": "x"},
]


def test_joined_columns_are_one_text_on_a_line_each() -> None:
    data = read({"train": TITLES, "validation": TITLES}, text_columns="title+body")
    assert data.splits["train"].texts == (["a title\na body", "only a body", "only a title"],)
    assert data.unused_columns == ()
    pair = read({"train": TITLES[:1] * 2 + TITLES[1:2], "validation": TITLES[:1]}, text_columns=["title+body", "body"])
    assert [column[0] for column in pair.splits["train"].texts] == ["a title\na body", "a body"]


def test_a_column_with_a_plus_in_its_name() -> None:
    available = ("c++", "c", "+", "title", "a+b", "a")
    assert named_parts("a+b", available) == ("a+b",)
    assert named_parts("c+++title", available) == ("c++", "title")
    assert named_parts("title+c++", available) == ("title", "c++")
    assert named_parts("c+a+b", available) == ("c", "a+b")
    for name in ("title+", "+title", "title+body", "title+a+", ""):
        assert named_parts(name, available) is None, name


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"title": " ", "body": None}, "`title+body` is empty"),
        ({"title": "a", "body": True}, "`body` is a boolean, not a text"),
        ({"title": ["a"], "body": "a"}, "`title` is a list, not a text"),
    ],
)
def test_joined_columns_that_make_no_text(tmp_path: Path, row: dict[str, Any], what: str) -> None:
    path = write_lines(tmp_path / "data.jsonl", [*TITLES, {**row, "label": "x"}])
    with pytest.raises(DataError) as caught:
        read(path, text_columns="title+body")
    assert (caught.value.what, caught.value.where) == (what, f"{path}:4")


def test_joined_columns_that_do_not_exist_or_hold_the_label() -> None:
    with pytest.raises(DataError, match="no column `bdy`") as caught:
        choose_columns(table("title", "body", "label"), ["title+bdy"], None)
    assert "did you mean `body`?" in caught.value.hint
    others = {("body",): "--label-column body", ("body", "mood"): "one of: body, mood", (): "no other column"}
    for names, hint in others.items():
        with pytest.raises(DataError, match="`label` is both text and label") as caught:
            choose_columns(table("title", "label", *names), ["title+label"], None)
        assert hint in caught.value.hint


def test_each_split_needs_the_text_columns() -> None:
    with pytest.raises(DataError, match="no column `text`"):
        read({"train": rows("a", "b"), "validation": [{"sentence": "x", "label": "a"}]})


# --- task and classes


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        ((0, 1, 1), "single-label"),
        ((1, 2, 10), "single-label"),
        (("1.0", "2.0"), "single-label"),
        ((0.5, 1), "regression"),
        (("0.5", "-1"), "regression"),
        (("0.5", "high"), "single-label"),
        (("0.5", "inf"), "single-label"),
        ((True, False), "single-label"),
    ],
)
def test_task_is_inferred(labels: tuple[Any, ...], task: str) -> None:
    assert both(*labels).task == task


def test_the_task_can_be_asked_for() -> None:
    data = both(1, 2, 4, task="regression")
    assert (data.task, data.label_names, targets(data)) == ("regression", ("label",), [1.0, 2.0, 4.0])
    assert data.splits["train"].targets is not None
    assert data.splits["train"].targets.dtype == np.float32
    assert both(0.5, 1.5, 0.5, task="single-label").label_names == ("0.5", "1.5")


def test_labels_are_names_and_names_are_not_merged() -> None:
    data = both("1", "01", "1.0", "1")
    assert set(data.label_names) == {"1", "01", "1.0"}
    assert len(set(targets(data)[:3])) == 3
    assert targets(data)[0] == targets(data)[3]


def test_whole_numbers_are_ordered_as_numbers_and_names_as_names() -> None:
    assert both(10, 2, -3, 1, 2).label_names == ("-3", "1", "2", "10")
    assert both("2", "10", "b").label_names == ("10", "2", "b")
    assert both("b", "a", "C").label_names == ("C", "a", "b")


@pytest.mark.parametrize("labels", [("①", "②"), ("--1", "1"), ("²", "3")])
def test_labels_that_only_look_like_numbers(labels: tuple[str, str]) -> None:
    assert set(both(*labels).label_names) == set(labels)


def test_a_number_and_its_text_are_one_class() -> None:
    data = read({"train": rows(1, 0, 1), "validation": rows("1", "0")})
    assert (data.label_names, targets(data, "validation")) == (("0", "1"), [1, 0])


def test_label_names_that_the_source_declares() -> None:
    splits = {
        name: Table(name, {"text": ["a", "b", "c"], "label": list(labels)}, None, {"label": ["no", "yes", "other"]})
        for name, labels in {"train": ("1", "0", "1"), "validation": ("2", "0", "1")}.items()
    }
    data = read_examples(Source("data", splits), make_config({}))
    assert data.label_names == ("no", "yes", "other")  # in the declared order, also those without a row
    assert (targets(data), targets(data, "validation")) == ([1, 0, 1], [2, 0, 1])
    assert label_counts(data.splits["train"], data.label_names) == {"no": 1, "yes": 2, "other": 0}


def test_declared_names_of_a_parquet_file(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    for name, labels in (("train", (1, 0, 1)), ("validation", (0, 1))):
        frame = datasets.Dataset.from_list(rows(*labels), features=features)
        frame.to_parquet(tmp_path / f"{name}.parquet")
    data = read(str(tmp_path))
    assert (data.task, data.label_names, targets(data)) == ("single-label", ("no", "yes"), [1, 0, 1])


def test_booleans_are_classes() -> None:
    data = both(True, False, True)
    assert (data.label_names, targets(data)) == (("false", "true"), [1, 0, 1])


# --- labels and texts that cannot be used

BAD_LABELS: list[tuple[list[Any], int, str]] = [
    (["a", None, "b"], 2, "is null"),
    (["a", "b", "  "], 3, "is empty"),
    (["a", ["b"], "a"], 2, "a list"),
    (["a", {"b": 1}], 2, "an object"),
    ([0, 1, True], 3, "a boolean"),
    ([True, False, 1], 3, "a number"),
    (["yes", True], 2, "a boolean"),
    (["a", 1, True], 3, "a boolean"),
    (["1", "0", "-1"], 3, "-1: 1 row without a gold label"),
    ([0, -100, 1], 2, "-100"),
]


@pytest.mark.parametrize(("labels", "line", "what"), BAD_LABELS)
def test_a_label_that_cannot_be_learnt_is_refused_with_its_line(
    tmp_path: Path, labels: list[Any], line: int, what: str
) -> None:
    path = write_lines(tmp_path / "data.jsonl", rows(*labels))
    with pytest.raises(DataError) as caught:
        read(path)
    assert caught.value.where == f"{path}:{line}"
    assert what in caught.value.what


def test_one_label_only() -> None:
    with pytest.raises(DataError, match="one label only \\(`a`\\)"):
        both("a", "a", "a")


def test_a_regression_wants_numbers(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "data.jsonl", rows(0.5, "high"))
    with pytest.raises(DataError, match="`high` is not a number") as caught:
        read(path, task="regression")
    assert caught.value.where == f"{path}:2"


def test_an_unseen_label_in_validation(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", rows("a", "b", "a"))
    path = write_lines(tmp_path / "validation.jsonl", rows("a", "b", "c"))
    with pytest.raises(DataError, match="`c` does not occur in train") as caught:
        read(str(tmp_path))
    assert (caught.value.where, caught.value.hint) == (
        f"{path}:3",
        "train has: a, b; where train has classes of fewer than N rows, --rare join=N takes others as `other`",
    )


@pytest.mark.parametrize("blank", ["", " \t", "\u00a0"])
def test_an_empty_text(tmp_path: Path, blank: str) -> None:
    path = write_lines(tmp_path / "data.jsonl", [*rows("a", "b"), {"text": blank, "label": "a"}])
    with pytest.raises(DataError, match="`text` is empty") as caught:
        read(path)
    assert caught.value.where == f"{path}:3"


@pytest.mark.parametrize(("cell", "kind"), [(None, "null"), (True, "a boolean"), (["x"], "a list")])
def test_a_text_that_is_none(tmp_path: Path, cell: Any, kind: str) -> None:
    path = write_lines(tmp_path / "data.jsonl", [*rows("a", "b"), {"text": cell, "label": "a"}])
    with pytest.raises(DataError, match=f"`text` is {kind}, not a text") as caught:
        read(path)
    assert caught.value.where == f"{path}:3"


# --- hidden labels


@pytest.mark.parametrize("labels", [("a", "b"), (0, 1), (0.5, 1.5)])
def test_test_labels_may_be_hidden(labels: tuple[Any, Any]) -> None:
    train = rows(*labels)
    for test in (rows(-1, -1, -1), [{"text": "x"}, {"text": "y"}]):
        data = read({"train": train, "validation": train, "test": test})
        assert data.splits["test"].targets is None
        assert len(data.splits["test"]) == len(test)


def test_half_hidden_test_labels_are_an_error() -> None:
    with pytest.raises(DataError, match="is -1: 1 row without a gold label"):
        read({"train": rows("a", "b"), "validation": rows("a"), "test": rows("a", -1)})


def test_validation_labels_may_not_be_hidden() -> None:
    with pytest.raises(DataError, match="is -1: 2 rows without a gold label") as caught:
        read({"train": rows("a", "b"), "validation": rows(-1, -1)})
    assert "validation" in caught.value.where


@pytest.mark.parametrize("labels", [("a", "b"), (0.5, 1.5)])
def test_validation_needs_the_label_column(labels: tuple[Any, Any]) -> None:
    with pytest.raises(DataError, match="no column `label`"):
        read({"train": rows(*labels), "validation": [{"text": "x"}]})


# --- hold-out


def letters(count: int) -> list[dict[str, Any]]:
    """Three classes of very different size, mixed."""
    return rows(*(("a", "b", "c")[min(2, (i * 7) % 10 // 5 + (i % 15 == 0))] for i in range(count)))


def test_held_out_rows_are_stratified_and_disjoint() -> None:
    source = letters(150)
    data = read(source)
    train, validation = data.splits["train"], data.splits["validation"]
    assert data.held_out
    assert sorted([*train.ids.tolist(), *validation.ids.tolist()]) == list(range(150))
    for split in (train, validation):  # ids are row numbers of the file, in its order
        assert split.ids.tolist() == sorted(split.ids.tolist())
        assert split.texts[0] == [source[i]["text"] for i in split.ids]
        assert split.targets is not None
        assert [data.label_names[i] for i in split.targets] == [source[i]["label"] for i in split.ids]
    held, whole = (
        label_counts(validation, data.label_names),
        label_counts(read({"train": source, "validation": source}).splits["train"], data.label_names),
    )
    assert held == {name: max(1, round(count / 10)) for name, count in whole.items()}


def test_held_out_rows_are_a_function_of_the_seed_alone() -> None:
    def held(seed: int) -> list[int]:
        np.random.seed(random.randrange(1000))
        return list(read(letters(150), seed=seed).splits["validation"].ids.tolist())

    assert held(1) == held(1)
    assert held(1) != held(2)


def test_rows_with_the_same_texts_are_held_out_together() -> None:
    draw = random.Random(3)
    words = [f"a film number {i % 40}" for i in range(120)]  # each text three times
    spelt = [
        word.upper() if i % 3 == 0 else word.replace(" ", "  ") if i % 3 == 1 else word for i, word in enumerate(words)
    ]
    data = read([{"text": text, "label": draw.choice("ab")} for text in spelt])
    held, learnt = (
        {text.casefold().replace("  ", " ") for text in data.splits[name].texts[0]} for name in ("validation", "train")
    )
    assert not held & learnt
    assert len(held) == 4
    assert len(data.splits["validation"]) == 12


def test_a_pair_the_other_way_round_is_held_out_with_it() -> None:
    pairs = [(f"one {i}", f"two {i}") for i in range(40)]
    table = [{"a": a, "b": b, "label": i % 2} for i, (a, b) in enumerate([*pairs, *((b, a) for a, b in pairs)])]
    data = read(table, text_columns=["a", "b"], label_column="label")
    sides = [{frozenset(row) for row in zip(*data.splits[name].texts, strict=True)} for name in ("validation", "train")]
    assert not sides[0] & sides[1]
    assert len(data.splits["validation"]) == 8


def hold(texts: list[str], labels: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are held out, and which of their texts stand on the other side too."""
    names = [f"class {i}" for i in range(max(labels) + 1)]
    held = hold_out([texts], np.array(labels), "single-label", names, seed=seed, origin="here")
    learnt = {text for text, out in zip(texts, held, strict=True) if not out}
    return held, np.array([out and text in learnt for text, out in zip(texts, held, strict=True)])


def test_of_different_texts_a_tenth_of_each_class_is_held_out() -> None:
    """Row by row, as the seed draws them: what a run without copies is judged on does not move."""
    for seed in range(20):
        draw = random.Random(seed)
        labels = [*range(3), *range(3), *draw.choices(range(3), weights=[1, 5, 20], k=draw.randint(0, 200))]
        generator, expected = np.random.default_rng([seed, 0x5EED]), []
        for label in range(3):
            drawn = generator.permutation(np.flatnonzero(np.array(labels) == label))
            expected += drawn[: max(1, round(len(drawn) / 10))].tolist()
        held, parted = hold([f"text {i}" for i in range(len(labels))], labels, seed)
        assert np.flatnonzero(held).tolist() == sorted(expected)
        assert not parted.any()


@pytest.mark.parametrize("texts", [1, 2, 3, 4, 8])
def test_too_few_texts_are_parted_row_by_row(texts: int) -> None:
    """Two classes of 40 rows, of texts with ten rows or more: a tenth of each all the same."""
    for seed in range(20):
        held, parted = hold([f"text {i % texts}" for i in range(80)], [i % 2 for i in range(80)], seed)
        assert (held[::2].sum(), held[1::2].sum()) == (4, 4)
        assert parted.sum() == 8


def test_a_text_of_half_the_class_is_learnt() -> None:
    for seed in range(20):
        texts = ["ok"] * 100 + [f"text {i}" for i in range(100)]
        held, parted = hold(texts, [0] * 200, seed)
        assert held.sum() == 20
        assert not held[:100].any()
        assert not parted.any()


def test_two_rows_with_one_text_are_parted_where_a_class_has_no_others() -> None:
    for seed in range(20):
        held, parted = hold([*(f"text {i}" for i in range(40)), "one", "one"], [0] * 40 + [1] * 2, seed)
        assert (held[:40].sum(), held[40:].sum()) == (4, 1)
        assert parted.sum() == 1


def test_a_part_of_each_class_is_held_out_and_the_rest_learnt_whatever_the_texts() -> None:
    """Also where the rows of a class all have texts of other classes."""
    for seed in range(300):
        draw = random.Random(seed)
        count, classes = draw.randint(12, 300), draw.randint(1, 5)
        labels = [*range(classes), *range(classes), *draw.choices(range(classes), k=count)]
        numbers = draw.choices(range(draw.choice([1, 3, 10, 100])), k=len(labels))
        texts = [f"text {n}" for n in numbers]
        held, _ = hold(texts, labels, seed)
        for label in range(classes):
            assert 0 < held[np.array(labels) == label].sum() < labels.count(label), (seed, label)


def test_where_texts_stand_up_to_three_times_the_share_is_near_a_tenth() -> None:
    for seed in range(100):
        draw = random.Random(seed)
        copies = [draw.randint(1, 3) for _ in range(draw.randint(60, 200))]
        rows_of_texts = [(f"text {i}", i % 2) for i, times in enumerate(copies) for _ in range(times)]
        texts, labels = map(list, zip(*draw.sample(rows_of_texts, len(rows_of_texts)), strict=True))
        held, parted = hold(texts, labels, seed)
        assert not parted.any()
        for label in range(2):
            own = np.array(labels) == label
            assert abs(held[own].sum() - round(own.sum() / 10)) <= 1


def test_each_class_is_on_both_sides() -> None:
    for seed in range(20):
        data = read(rows(*"aabbbbbcc"), seed=seed)
        for split in ("train", "validation"):
            assert set(targets(data, split)) == {0, 1, 2}


def test_a_class_with_one_row_cannot_be_held_out() -> None:
    with pytest.raises(DataError, match="`c` has 1 row"):
        read(rows(*"abababc"))


def test_held_out_numbers_cover_the_range() -> None:
    values = [i / 7 for i in range(100)]
    data = read(rows(*random.Random(0).sample(values, 100)))
    held = sorted(targets(data, "validation"))
    assert [int(value * 7 // 20) for value in held] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]  # two of each fifth


def test_a_lone_number_hinders_no_hold_out() -> None:
    """A rare value is no class: it is learnt or held out, and nothing is wrong with it."""
    data = read(rows(*[1.0] * 40, 2.5))
    assert len(data.splits["validation"]) >= 4
    assert len(data.splits["train"]) + len(data.splits["validation"]) == 41


def test_a_given_test_part_stays_whole() -> None:
    data = read({"train": rows(*"abababab"), "test": rows("a", "b")})
    assert data.held_out
    assert data.splits["test"].ids.tolist() == [0, 1]
    assert list(data.splits) == ["train", "validation", "test"]
