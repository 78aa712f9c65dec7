"""The data doctor finds what was planted, at its file and line, and nothing in sound data."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dongu
from conftest import DECODERS, FAMILIES, REAL_DATA, real_data, unwrapped
from dongu import Loop
from dongu.cli.main import run as run_command
from dongu.config import make_config
from dongu.data.examples import TextData, read_examples
from dongu.data.holdout import first_copies
from dongu.data.order import grouped_order, padding_share
from dongu.data.sources import Source, read_source
from dongu.data.table import Table
from dongu.doctor import lengths as lengths_module
from dongu.doctor.checkup import Checkup, check_up, examine
from dongu.doctor.finding import Finding
from dongu.doctor.lengths import load_plain_tokenizer, measure
from dongu.doctor.words import _before_a_command
from dongu.errors import DataError, ModelError
from dongu.text import visible

Row = tuple[str, str]
SUBJECTS = ("film", "cook", "train", "song", "storm", "goat", "lamp", "king")
ENOUGH = [(f"{subject} the {i}", ("no", "yes")[i % 2]) for i in range(5) for subject in SUBJECTS]
FRESH = [(f"another {subject}", ("no", "yes")[i % 2]) for i, subject in enumerate(SUBJECTS)]


def write_csv(path: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = ("text", "label")) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Checkup]:
    """`looked_at(train=rows, test=rows, **options)`: what the doctor says about files in the folder `d`."""
    monkeypatch.chdir(tmp_path)

    def look(header: Sequence[str] = ("text", "label"), model: str = "not/here", **splits: Any) -> Checkup:
        options: dict[str, Any] = {
            name: splits.pop(name)
            for name in (
                "task",
                "label_column",
                "max_length",
                "rare",
                "text_columns",
                "time_column",
                "validation_share",
            )
            if name in splits
        }
        if share := options.pop("validation_share", None):
            options["validation"] = share
        for name, rows in splits.items():
            write_csv(Path("d") / f"{name}.csv", rows, header)
        return check_up(read_source("d"), make_config({"data": "d", "model": model, **options}))

    return look


def only(checkup: Checkup, pattern: str) -> Finding:
    """The one finding whose text has the pattern."""
    [found] = [finding for finding in checkup.findings if re.search(pattern, finding.what)]
    return found


def places(finding: Finding) -> list[str]:
    return [" ".join(example.where) for example in finding.examples]


def test_sound_data(looked_at: Callable[..., Checkup]) -> None:
    checkup = looked_at(train=ENOUGH, validation=FRESH)
    assert checkup.findings == []
    assert checkup.data is not None
    assert {name: len(split) for name, split in checkup.data.splits.items()} == {"train": 40, "validation": 8}


# --- duplicates


def test_rows_of_train_in_another_split(looked_at: Callable[..., Checkup]) -> None:
    checkup = looked_at(
        train=[*ENOUGH, ("The Same", "yes"), ("ﬁne  Straße", "no")],
        validation=[*FRESH, ("The Same", "yes")],
        test=[("the\u00a0same ", "yes"), ("FINE STRASSE", "yes"), *FRESH],
    )
    found = only(checkup, "validation row of 9 .* from train")
    assert found.severity == "warning"
    assert found.what == "1 validation row of 9 (11.1%) leaks from train: 1 exact"
    assert places(found) == ["d/train.csv:42 d/validation.csv:10"]
    assert "accuracy by up to 11 points" in found.effect
    found = only(checkup, "test rows of 10 .* from train")
    assert found.what.endswith("train: 2 up to case, space and what is not seen, 1 with another label in train")
    assert places(found) == ["d/train.csv:42 d/test.csv:2", "d/train.csv:43 d/test.csv:3"]
    assert "up to 10 points" in found.effect
    assert only(checkup, "from validation").what.startswith("9 test rows of 10 (90.0%)")
    assert [finding.severity for finding in checkup.findings] == ["warning"] * 3


def test_a_pair_the_other_way_round(looked_at: Callable[..., Checkup]) -> None:
    pairs = [(text, f"{text} too", label) for text, label in ENOUGH]
    checkup = looked_at(
        header=("sentence1", "sentence2", "label"),
        train=pairs,
        validation=[("one more", "b", "no"), ("and another", "b", "yes"), ("FILM the 0 too", "film the 0", "no")],
    )
    found = only(checkup, "from train")
    assert found.what == "1 validation row of 3 (33.3%) leaks from train: 1 with the pair reversed"
    assert places(found) == ["d/train.csv:2 d/validation.csv:4"]


def test_one_text_of_a_pair_in_another_split(looked_at: Callable[..., Checkup]) -> None:
    pairs = [(text, f"{text} too", label) for text, label in ENOUGH]
    checkup = looked_at(
        header=("sentence1", "sentence2", "label"),
        train=pairs,
        validation=[("one more", "b", "no"), ("and another", "b", "yes")],  # shared among themselves alone
        test=[
            ("x", "y", "no"),
            ("another", "Film  the 0", "no"),
            ("film the 0 too", "film the 0", "no"),  # a copy, which is told as one
            ("cook the 1", "cook the 2", "yes"),  # both, of two pairs: one row
        ],
    )
    found = only(checkup, "another pair")
    assert found.severity == "note"
    assert found.what == "2 test rows of 4 (50.0%) share one text of their pair with train, in another pair"
    assert found.advice == "if the model will meet new texts, split the data by text, not by pair"
    assert places(found) == ["d/train.csv:2 d/test.csv:3", "d/train.csv:11 d/test.csv:5"]
    assert [example.text for example in found.examples] == ["Film the 0", "cook the 1"]


def test_pairs_that_holding_out_parts(tmp_path: Path) -> None:
    rows = [(f"question {i // 4}", f"answer {i}", ("no", "yes")[i % 2]) for i in range(40)]
    write_csv(tmp_path / "all.csv", rows, header=("sentence1", "sentence2", "label"))
    checkup = check_up(read_source(str(tmp_path / "all.csv")), make_config({"model": "not/here"}))
    assert "a validation part of your own" in only(checkup, "4 validation rows of 4 .* another pair").advice


def test_copies_with_other_labels_do_not_raise_a_score(looked_at: Callable[..., Checkup]) -> None:
    checkup = looked_at(train=ENOUGH, validation=[*FRESH, ("film the 0", "yes")])
    assert "too low" in only(checkup, "1 with another label").effect


def test_copies_that_holding_out_parts(tmp_path: Path) -> None:
    """Those of texts that are too few to hold one out as a whole."""
    write_csv(tmp_path / "all.csv", [row for row in ENOUGH[6:10] for _ in range(20)])
    checkup = check_up(read_source(str(tmp_path / "all.csv")), make_config({"model": "not/here"}))
    found = only(checkup, "validation rows of 8 .* leak from train")
    assert "held out" in found.advice
    places_of_first = found.examples[0].where
    first, second = ((int(place.rpartition(":")[2]) - 2) // 20 for place in places_of_first)
    assert first == second


def test_copies_that_are_held_out_together(tmp_path: Path) -> None:
    write_csv(tmp_path / "all.csv", [row for row in ENOUGH for _ in range(2)])
    checkup = check_up(read_source(str(tmp_path / "all.csv")), make_config({"model": "not/here"}))
    assert not [finding for finding in checkup.findings if "from train" in finding.what]
    assert only(checkup, "validation rows of 10 .* are duplicates")


def test_one_text_with_two_labels(looked_at: Callable[..., Checkup]) -> None:
    twice = [*ENOUGH, ("film  the 0", "yes"), ("Film the 0", "yes"), ("cook the 0", "no")]
    found = only(looked_at(train=twice, validation=FRESH), "conflicting labels")
    assert found.severity == "warning"
    assert found.what == "1 text of train with conflicting labels, in 3 rows"
    assert places(found) == ["d/train.csv:2 (no) d/train.csv:43 (yes)"]


def test_numbers_may_differ_a_little(looked_at: Callable[..., Checkup]) -> None:
    numbers = [(text, f"{i % 5}.0") for i, (text, _) in enumerate(ENOUGH)]
    rows = [*numbers, ("near", "1.5"), ("near", "1.9"), ("far", "1.5"), ("far", "2.0")]
    found = only(looked_at(train=rows, validation=[("new", "1.0")]), "conflicting labels")
    assert found.what == "1 text of train with conflicting labels more than 0.4 apart, in 2 rows"
    assert places(found) == ["d/train.csv:44 (1.5) d/train.csv:45 (2)"]


@pytest.mark.parametrize(("copies", "severity"), [(1, "note"), (3, "warning")])
def test_repeated_rows(looked_at: Callable[..., Checkup], copies: int, severity: str) -> None:
    rows = [(f"{text} {i}", label) for i in range(4) for text, label in ENOUGH]
    found = only(looked_at(train=[*rows, *[rows[7]] * copies], validation=FRESH), "duplicate")
    assert found.severity == severity
    assert found.what.startswith(f"{copies} train row")
    assert places(found) == [f"d/train.csv:9 d/train.csv:{162 + i}" for i in range(copies)]


def test_a_row_that_begins_on_a_later_line(looked_at: Callable[..., Checkup]) -> None:
    rows = [("two\nlines", "no"), *ENOUGH, ("two\nlines", "no")]
    found = only(looked_at(train=rows, validation=FRESH), "is a duplicate")
    assert places(found) == ["d/train.csv:2 d/train.csv:44"]
    assert found.examples[0].text == "two lines"


@pytest.mark.crash
def test_the_answer_does_not_hang_on_the_hashes_of_a_process(tmp_path: Path) -> None:
    write_csv(tmp_path / "all.csv", [*ENOUGH, *ENOUGH[:9], *((text.upper(), "yes") for text, _ in ENOUGH[:9])])
    said = {
        subprocess.run(
            [sys.executable, "-m", "dongu", "inspect", "all.csv", "--model", "not/here"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1
    assert "conflicting labels" in said.pop()


UNSEEN = "\u00ad\u200b\u200c\u200d\u2060\ufeff"


@pytest.mark.parametrize("mark", UNSEEN, ids=ascii)
def test_what_nobody_sees_hides_no_copy(looked_at: Callable[..., Checkup], mark: str) -> None:
    """Nor a near one; held out they may stand on both sides, by the rule that old runs have."""
    words = "one two three four five six seven eight nine ten"
    near = words.replace("six", "6").replace("o", f"o{mark}")
    train = [*ENOUGH, ("a good film", "no"), (words, "no")]
    checkup = looked_at(train=train, validation=[*FRESH, (f"a go{mark}od{mark} film", "no"), (near, "no")])
    assert only(checkup, "leak").what.endswith("from train: 1 up to case, space and what is not seen")
    assert only(checkup, "near duplicate").what.startswith("1 validation row of 10")
    assert len({*first_copies([["a good film", f"a go{mark}od film"]]).tolist()}) == 2


def test_a_joiner_of_emoji_is_seen() -> None:
    """A woman and a rocket are no astronaut; in Persian a joiner is a way of spelling."""
    for joined in ("👩\u200d🚀", "🏳️\u200d🌈", "👩🏽\u200d🚀", "❤️\u200d🔥"):
        assert visible(joined) != visible(joined.replace("\u200d", ""))
    assert visible("می\u200cخواهم") == visible("میخواهم")


@pytest.mark.parametrize(("numbers", "found"), [((2**53, 2**53 + 1), 0), ((2**53 + 1, f"{2**53 + 1}.00"), 1)])
def test_large_numbers_are_compared_by_all_digits(
    looked_at: Callable[..., Checkup], numbers: tuple[Any, Any], found: int
) -> None:
    rows = [(text, (*numbers, "third", "fourth")[i % 4]) for i, (text, _) in enumerate(ENOUGH)]
    checkup = looked_at(train=rows, validation=rows[:4], label_column="label")
    assert sum("look alike" in finding.what for finding in checkup.findings) == found


# --- classes


@pytest.mark.parametrize(
    ("names", "alike"),
    [
        (("yes", "Yes "), "`Yes ` (10 rows) and `yes` (10 rows)"),
        (("not-sure", "Not sure"), "`Not sure` (10 rows) and `not-sure` (10 rows)"),
        (("01", "1"), "`01` (10 rows) and `1` (10 rows)"),
        (("😀", "😀\ufe0f"), "`😀` (10 rows) and `😀\ufe0f` (10 rows)"),  # as another keyboard writes it
        (("neg", "ne\u200bg"), "`neg` (10 rows) and `ne\u200bg` (10 rows)"),
    ],
)
def test_labels_that_look_alike(looked_at: Callable[..., Checkup], names: tuple[str, str], alike: str) -> None:
    rows = [(text, (*names, "third", "fourth")[i % 4]) for i, (text, _) in enumerate(ENOUGH)]
    found = only(looked_at(train=rows, validation=rows[:4], label_column="label"), "look alike")
    assert alike in found.what


def test_a_misspelt_label(looked_at: Callable[..., Checkup]) -> None:
    rows = [(f"{text} {i}", label) for i in range(10) for text, label in ENOUGH]
    rows = [(text, {"no": "negative", "yes": "positive"}[label]) for text, label in rows]
    found = only(looked_at(train=[*rows, ("last", "postive")], validation=rows[:4]), "look alike")
    assert found.what == "labels that look alike: `positive` (160 rows) and `postive` (1 row)"
    assert places(found) == ["d/train.csv:402"]
    numbered = [(text, {"negative": "class 10", "positive": "class 11"}[label]) for text, label in rows]
    checkup = looked_at(train=[*numbered, ("last", "class 12")], validation=numbered[:4])
    assert not [finding for finding in checkup.findings if "alike" in finding.what]


def test_a_class_that_reads_like_a_missing_value(looked_at: Callable[..., Checkup]) -> None:
    rows = [*ENOUGH, *((f"{text} again", "NaN") for text, _ in ENOUGH[:9])]
    found = only(looked_at(train=rows, validation=FRESH), "missing value")
    assert found.what == "a label reads like a missing value: `NaN` (9 rows)"
    assert places(found) == ["d/train.csv:42"]


def test_joining_classes_is_advised_where_it_leaves_two(looked_at: Callable[..., Checkup]) -> None:
    all_rare = only(looked_at(train=ENOUGH[:12], validation=FRESH[:1]), "fewer than 8 train rows")
    assert all_rare.advice == "add rows"
    some = [*ENOUGH, ("a rose", "x"), ("a tulip", "x"), ("a lily", "y"), ("a fern", "y")]
    assert "--rare join=8" in only(looked_at(train=some, validation=FRESH), "fewer than 8 train rows").advice


def test_the_advice_to_join_counts_what_is_held_out(looked_at: Callable[..., Checkup]) -> None:
    eight = [*ENOUGH, *((f"flower {i}", label) for label in "xy" for i in range(8))]  # one of each is held out
    rare = "fewer than 8 train rows"
    assert "--rare join=9" in only(looked_at(train=eight), rare).advice
    assert not [found for found in looked_at(train=eight, rare="join=9").findings if re.search(rare, found.what)]


def test_joining_is_not_advised_where_it_takes_other_classes_too(looked_at: Callable[..., Checkup]) -> None:
    """A split by time may hold out most of a class, which then has more rows in all than one that is learnt."""
    begins = {"old": 0, "x": 8, "y": 8}
    by_time = [
        (f"{label} {time}", label, str(time)) for label, begin in begins.items() for time in range(begin, begin + 12)
    ]
    header, rare = ("text", "label", "time"), "fewer than 8 train rows"
    found = looked_at(header, train=by_time, time_column="time", validation_share="0.4")
    assert only(found, rare).advice == "add rows"


def test_a_single_row_is_not_to_be_joined_with_nothing(looked_at: Callable[..., Checkup]) -> None:
    """`--rare join=2` of one class gives `other` one row, which is refused as well."""
    one, two = ("a rose", "x"), ("a lily", "y")
    assert only(looked_at(train=[*ENOUGH, one]), "one row only").advice == "correct it, add rows, or remove it"
    several = [*ENOUGH, one, two]
    assert only(looked_at(train=several), "one row only").advice == "correct them, add rows, or --rare join=2"
    assert not [found for found in looked_at(train=several, rare="join=2").findings if found.severity == "error"]
    for rows, advised in (([*ENOUGH, one], "or remove it"), (several, "or --rare join=2")):
        write_csv(Path("rows.csv"), rows)
        with pytest.raises(DataError, match="has 1 row") as caught:
            read_examples(read_source("rows.csv"), make_config({}))
        assert caught.value.hint.endswith(advised)


def test_labels_with_a_row_each_are_no_labels(tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", [(f"the {subject}", f"said of the {subject}") for subject in SUBJECTS])
    found = only(check_up(read_source(str(tmp_path / "rows.csv")), make_config({})), "with one row only")
    assert "--label-column C" in found.advice
    assert "--rare" not in found.advice


def test_rare_and_unmeasured_classes(looked_at: Callable[..., Checkup]) -> None:
    checkup = looked_at(train=[*ENOUGH, *((f"odd {i}", "odd") for i in range(7))], validation=FRESH)
    assert only(checkup, "fewer than 8 train rows").what.endswith("`odd` 7")
    found = only(checkup, "without a validation row")
    assert (found.severity, found.what) == ("note", "1 class of train without a validation row: `odd`")
    assert looked_at(train=[*ENOUGH, *((f"odd {i}", "odd") for i in range(8))], validation=FRESH).findings == [found]


def test_a_declared_class_without_rows() -> None:
    cells: dict[str, list[Any]] = {"text": [text for text, _ in ENOUGH], "label": [str(i % 2) for i in range(40)]}
    table = Table("here", cells, None, {"label": ["no", "yes", "maybe"]})
    held = Table("there", {"text": ["a", "b"], "label": ["0", "1"]}, None, {"label": ["no", "yes", "maybe"]})
    checkup = check_up(Source("x", {"train": table, "validation": held}), make_config({"model": "not/here"}))
    found = only(checkup, "without a train row")
    assert (found.severity, found.what) == ("warning", "1 class without a train row: `maybe`")


def test_a_lopsided_set(looked_at: Callable[..., Checkup]) -> None:
    rows = [(f"{text} {i}", "no") for i in range(8) for text, _ in ENOUGH]
    found = only(looked_at(train=[*rows, *((f"odd {i}", "odd") for i in range(9))], validation=FRESH[:1]), "of train$")
    assert found.what == "`no` is 97.3% of train"
    assert "0.973" in found.effect


@pytest.mark.parametrize(("rows_a_class", "severity"), [(2, "warning"), (25, "note")])
def test_hundreds_of_classes(tmp_path: Path, rows_a_class: int, severity: str) -> None:
    rows = [(f"text {i}", f"user {i // rows_a_class}", "5") for i in range(150 * rows_a_class)]
    write_csv(tmp_path / "ids.csv", rows, ("text", "label", "stars"))
    held = [*rows[:1], *rows[-1:]]
    data = {"train": tmp_path / "ids.csv", "validation": [{"text": a, "label": b, "stars": c} for a, b, c in held]}
    checkup = check_up(read_source(data), make_config({"model": "not/here"}))
    found = only(checkup, "classes, of")
    assert (found.severity, found.what) == (severity, f"`label` has 150 classes, of {rows_a_class:.1f} train rows each")
    assert "--label-column" in found.advice
    assert "not used: stars" in found.advice


# --- what training refuses


def test_all_that_training_refuses_at_once(looked_at: Callable[..., Checkup]) -> None:
    checkup = looked_at(
        train=[*ENOUGH, ("", "yes"), ("text", " "), ENOUGH[0]],
        validation=[(" \t", "no"), *FRESH, ("new", "Yes"), ("newer", "what"), (FRESH[0][0], "no")],
    )
    errors = [finding for finding in checkup.findings if finding.severity == "error"]
    assert [(finding.what, places(finding)) for finding in errors] == [
        ("1 train row without a text in `text`: empty", ["d/train.csv:42"]),
        ("1 train row without a gold label in `label`: empty", ["d/train.csv:43"]),
        ("1 validation row without a text in `text`: empty", ["d/validation.csv:2"]),
        (
            "2 validation rows with a label that train does not have: `Yes`, `what`",
            ["d/validation.csv:11", "d/validation.csv:12"],
        ),
    ]
    assert "`Yes` may mean `yes`" in errors[-1].advice
    # The rows that are left are looked at, and keep their lines.
    assert places(only(checkup, "train row of 41 .* is a duplicate")) == ["d/train.csv:2 d/train.csv:44"]
    assert places(only(checkup, "validation row of 9 .* is a duplicate")) == ["d/validation.csv:3 d/validation.csv:13"]


def test_several_labels_a_row(looked_at: Callable[..., Checkup]) -> None:
    rows = [(f"film the {i}", ("rude", "rude|funny", "", "funny")[i % 4]) for i in range(40)]
    fresh = [(f"another {i}", ("rude|funny", "sad")[i % 2]) for i in range(8)]
    checkup = looked_at(
        train=[*rows, ("film the 0", "funny"), ("film the 1", "funny|rude")],
        validation=[*fresh, ("film the 3", "funny")],
    )
    assert places(only(checkup, "`sad`")) == ["d/validation.csv:3", "d/validation.csv:5", "d/validation.csv:7"]
    assert places(only(checkup, "leaks from train")) == ["d/train.csv:5 d/validation.csv:10"]
    assert places(only(checkup, "conflicting sets of labels")) == ["d/train.csv:2 (rude) d/train.csv:42 (funny)"]
    assert places(only(checkup, "is a duplicate of an earlier")) == ["d/train.csv:3 d/train.csv:43"]  # in another order
    assert len(checkup.findings) == 4


def test_texts_and_labels_of_several_columns(looked_at: Callable[..., Checkup]) -> None:
    rows = [(f"film {i}", "" if i == 3 else f"the {i}", i % 2, int(i % 3 == 0)) for i in range(40)]
    checkup = looked_at(
        header=("title", "body", "rude", "funny"),
        train=[*rows, ("", "", 1, 0), ("film 5", "the 5", 1, 0)],
        validation=[(f"another {i}", f"a {i}", i % 2, 1) for i in range(6)],
        text_columns=["title+body"],
        label_column="rude+funny",
    )
    assert places(only(checkup, "without a text in `title.body`")) == [
        "d/train.csv:42"
    ]  # not line 5, which has a title
    assert places(only(checkup, "is a duplicate of an earlier")) == ["d/train.csv:7 d/train.csv:43"]
    assert len(checkup.findings) == 2


def test_rows_keep_their_numbers_where_there_are_no_lines() -> None:
    rows: list[dict[str, Any]] = [{"text": text, "label": label} for text, label in ENOUGH]
    rows = [{"text": None, "label": "no"}, {"text": ["a"], "label": "no"}, *rows, rows[3]]
    checkup = check_up(read_source({"train": rows, "dev": rows[2:6]}), make_config({"model": "not/here"}))
    found = [finding for finding in checkup.findings if "without a text" in finding.what]
    assert [(finding.what, finding.advice.partition(" leaves")[0], places(finding)) for finding in found] == [
        ("1 train row without a text in `text`: null", "a run with --empty drop", ["data train, row 1"]),
        ("1 train row without a text in `text`: a list", "a run with --bad-rows drop=1%", ["data train, row 2"]),
    ]
    assert places(only(checkup, "is a duplicate")) == ["data train, row 6 data train, row 43"]
    assert places(only(checkup, "from train"))[0] == "data train, row 3 data dev, row 1"


def test_a_class_that_cannot_be_held_out(tmp_path: Path) -> None:
    write_csv(tmp_path / "all.csv", [*ENOUGH, ("last", "Yes")])
    checkup = check_up(read_source(str(tmp_path / "all.csv")), make_config({"model": "not/here"}))
    found = only(checkup, "one row only")
    assert (found.severity, found.what) == ("error", "1 label with one row only: `Yes`")
    assert "`Yes` may mean `yes`" in found.advice
    assert [example.where[0].rpartition(":")[2] for example in found.examples] == ["42"]


def test_no_row_is_left(looked_at: Callable[..., Checkup]) -> None:
    checkup = looked_at(train=[(f"text {i}", str(i)) for i in range(300)])
    assert checkup.data is None
    [found] = checkup.findings
    assert "300 labels with one row only: `0`, `1`, `2` and 297 more" in found.what
    assert "--task regression" in found.advice
    assert looked_at(train=[("", "no"), ("", "yes")]).data is None


def test_what_nobody_foresaw_is_an_error_too(looked_at: Callable[..., Checkup]) -> None:
    [found] = looked_at(train=[(text, "yes") for text, _ in ENOUGH], validation=[("new", "yes")]).findings
    assert found.severity == "error"
    assert "one label only" in found.what


# --- lengths


@pytest.mark.cases(test=5, ci=16)
@pytest.mark.parametrize("family", [*FAMILIES, *DECODERS, "xlnet"])
def test_the_limit_is_the_models(
    family: str, tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path
) -> None:
    """Read from two files of settings, where training asks the loaded model."""
    for tokenizer_limit in (64, 10**30):
        folder = tmp_path / f"{tokenizer_limit}"
        folder.mkdir()
        for path in Path(tiny_model(family)).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": tokenizer_limit}))
        assert load_plain_tokenizer(str(folder))[1] == Loop(data_folder(), model=str(folder)).config.max_length


@pytest.mark.parametrize("pair", [False, True])
def test_lengths_before_and_after_tokenizing(
    pair: bool, tiny_model: Callable[..., str], data_folder: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dongu inspect` and `dongu train` count the same, and what is cut is what the run cuts."""
    loop = Loop(data_folder(pair=pair), model=tiny_model(), max_length=16)
    tokenizer, limit = load_plain_tokenizer(tiny_model())
    for sampled_rows in (10_000, 20):
        monkeypatch.setattr(lengths_module, "TOKENIZED_ROWS", sampled_rows)
        monkeypatch.setattr(lengths_module, "CHUNK_ROWS", 7)
        for name, examples in loop.data.splits.items():
            tokens = loop.splits[name].tokens
            before = measure(tokenizer, examples, 16, limit, 42)
            after = lengths_module.measure(loop.tokenizer.backend_tokenizer, examples, 16, limit, 42, tokens)
            assert before.rows.tolist() == after.rows.tolist()
            assert len(before.rows) == min(sampled_rows, len(examples))
            assert before.tokens.tolist() == after.tokens.tolist()
            assert before.cut.tolist() == tokens.truncated[before.rows].tolist()
            assert before.cut.any()
            assert np.minimum(before.tokens, 16).tolist() == tokens.lengths[before.rows].tolist()
            kept, whole = tokens.lengths[before.rows].sum(), before.tokens.sum()
            assert before.cut_share == pytest.approx((whole - kept) / whole)


def test_padding(tiny_model: Callable[..., str], data_folder: Callable[..., str]) -> None:
    loop = Loop(data_folder(), model=tiny_model(), max_length=16, group_by_length=True, batch_size=4, seed=3)
    tokenizer, limit = load_plain_tokenizer(tiny_model())
    found = measure(tokenizer, loop.data.splits["train"], 16, limit, 3)
    lengths = loop.splits["train"].tokens.lengths
    assert found.padding(4, 3, grouped=True) == padding_share(lengths, loop.train_updates.order(0), 4)
    assert found.padding(4, 3, grouped=True) == padding_share(lengths, grouped_order(lengths, 4, 3, 0), 4)
    assert found.padding(4, 3, grouped=False) > found.padding(4, 3, grouped=True)


def test_truncation(looked_at: Callable[..., Checkup], tiny_model: Callable[..., str]) -> None:
    rows = [*ENOUGH, ("film " * 100, "yes"), ("film " * 200, "yes")]
    checkup = looked_at(train=rows, validation=FRESH, model=tiny_model())
    found = only(checkup, "cut off")
    whole = sum(len(text.split()) + 2 for text, _ in rows)  # [CLS] and [SEP]
    assert found.what.startswith(f"{(38 + 138) / whole:.1%} of the tokens of train are cut off, of 4.8% of its rows")
    assert places(found) == ["d/train.csv:43", "d/train.csv:42"]
    assert "a model for longer ones (the longest row has 202)" in found.advice
    assert "give --max-length up to 64" in only(looked_at(model=tiny_model(), max_length=32), "cut off").advice


@pytest.mark.parametrize("broken", ["tokenizer.json", "config.json", "tokenizer_config.json"])
def test_a_damaged_model_is_no_reason_to_fail(
    broken: str, tiny_model: Callable[..., str], tmp_path: Path, looked_at: Callable[..., Checkup]
) -> None:
    for path in Path(tiny_model()).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / broken).write_text("{")
    with pytest.raises(ModelError):
        load_plain_tokenizer(str(tmp_path))
    checkup = looked_at(train=ENOUGH, validation=FRESH, model=str(tmp_path))
    assert (checkup.lengths, checkup.findings) == ({}, [])
    assert checkup.no_lengths is not None


# --- the commands


@pytest.fixture
def flawed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with five warnings: a leak into each split, one between them, conflicting labels, and duplicates."""
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "flawed" / "train.csv", [*ENOUGH, ENOUGH[0], ("FILM the 0", "yes")])
    write_csv(tmp_path / "flawed" / "validation.csv", [*FRESH, ENOUGH[1]])
    write_csv(tmp_path / "flawed" / "test.csv", [("one more", "yes"), ENOUGH[1]])
    return tmp_path


def test_inspect(flawed: Path, tiny_model: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(flawed.rglob("*"))
    assert run_command(["inspect", "flawed", "--model", tiny_model(), "--batch-size", "4"]) == 0
    said = capsys.readouterr().out
    assert "data       train 42 · validation 9 · test 2 rows\n" in said
    assert " 0.5556 on validation, 0.5000 on test\n" in said
    assert re.search(r"^tokens +train +median 5, .* 5; none cut at 64$", said, re.MULTILINE)
    assert "of a batch of 4, 0.0% with --group-by-length" in " ".join(said.split())
    assert "  rows   train.csv:3 and test.csv:3  cook the 0\n" in said
    assert max(map(len, said.splitlines())) <= 80
    assert said.endswith("Found: 5 warnings.\n")
    assert said.count("\nWARNING  ") == 5
    assert run_command(["inspect", "flawed", "--model", tiny_model(), "--strict"]) == 2
    strict = capsys.readouterr()
    assert strict.out.endswith("Found: 5 warnings.\n")
    assert strict.err.startswith("dongu: error: flawed: 5 warnings where --strict allows none: 1 validation row")
    assert sorted(flawed.rglob("*")) == before


def test_inspect_says_what_it_could_not_look_at(flawed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["inspect", "flawed", "--model", "minlm"]) == 0
    said = capsys.readouterr().out
    assert "Not looked at: lengths, truncation and padding, for --model minlm is not in the cache" in unwrapped(said)
    assert "did you mean `minilm`?" in said
    assert "tokens  " not in said
    assert said.endswith("Found: 5 warnings.\n")


def test_inspect_of_what_training_refuses(flawed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(flawed / "flawed" / "test.csv", [("", "no"), ("\x1b[31mred", "what"), ("fine", "yes")])
    assert run_command(["inspect", "flawed", "--model", "not/here"]) == 2
    said = capsys.readouterr()
    assert said.out.index("ERROR") < said.out.index("WARNING")
    assert "\x1b" not in said.out
    assert said.err == "dongu: error: flawed: 2 errors: training would not start\n"


def test_inspect_leaves_torch_alone(flawed: Path, tiny_model: Callable[..., str]) -> None:
    program = (
        "import sys; from dongu.cli.main import run; run(sys.argv[1:]); "
        "sys.exit(len({'torch', 'transformers', 'scipy'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, "inspect", "flawed", "--model", tiny_model()]
    done = subprocess.run(command, cwd=flawed, capture_output=True, text=True, check=True)
    assert "Found: 5 warnings." in done.stdout


def test_the_command_that_a_run_names_looks_as_it_did(
    flawed: Path, tiny_model: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """With columns of other names, another length and seed: it finds what the run has found."""
    file = flawed / "named.csv"
    file.write_text("head,queue\n" + "good film film film,yes\nbad film film film,no\n" * 9, encoding="utf-8")
    train = ["train", "named.csv", "--model", tiny_model(), "--text-columns", "head", "--label-column", "queue"]
    train += ["--max-length", "8", "--seed", "7", "--max-steps", "1", "--out", "named", "--device", "cpu", "--download"]
    assert run_command(train) == 0
    command = capsys.readouterr().out.partition("dongu inspect")[2].partition("\n\n")[0].replace("\\\n", "")
    words = shlex.split(command)
    assert set(words) >= {
        "named.csv",
        "--text-columns",
        "head",
        "--label-column",
        "queue",
        "--max-length",
        "8",
        "--seed",
        "--download",
    }
    assert run_command(["inspect", *words]) == 0
    found = json.loads((flawed / "named" / "findings.json").read_text(encoding="utf-8"))
    said = unwrapped(capsys.readouterr().out)
    assert found
    assert all(unwrapped(finding["what"]) in said for finding in found)


@pytest.mark.parametrize("name", ["the reviews of all our shops in the north.csv", "what it's like in each shop.csv"])
def test_a_command_over_several_lines_keeps_a_name_with_spaces(name: str) -> None:
    for folder in ("a", "a folder of some length", "a folder of some more length for the data"):
        words = [
            "dongu",
            "inspect",
            f"{folder}/{name}",
            "--model",
            "minilm",
            "--text-columns",
            "the head",
            "--seed",
            "7",
        ]
        said, *lines = _before_a_command("and 2 warnings more:", shlex.join(words))
        assert said == "and 2 warnings more:"
        assert len(lines) > 1
        assert shlex.split("\n".join(lines).replace("\\\n", "")) == words


def test_train_warns_and_records(
    flawed: Path, tiny_model: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "flawed", "--model", tiny_model(), "--max-steps", "1", "--out", "run", "--device", "cpu"]
    assert run_command(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    warnings = [line for line in lines if line.startswith("WARNING: ")]
    assert len(warnings) == 3
    assert "leaks from train: 1 exact: the model can memorize their labels" in " ".join(" ".join(lines).split())
    command = "\n".join(lines).partition("and 2 warnings more:")[2].partition("\n\n")[0].replace("\\\n", "")
    assert shlex.split(command) == ["dongu", "inspect", "flawed", "--model", arguments[3]]
    assert not [line for line in lines if len(line) > 80]
    recorded = json.loads((flawed / "run" / "findings.json").read_text(encoding="utf-8"))
    data = read_examples(read_source("flawed"), make_config({}))
    assert recorded == json.loads(json.dumps([finding.as_json() for finding in examine(data, {})]))
    assert [set(finding) for finding in recorded] == [{"severity", "what", "effect", "advice", "examples"}] * 5


def test_a_strict_run_does_not_start(
    flawed: Path, tiny_model: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "flawed", "--model", tiny_model(), "--max-steps", "1", "--out", "run", "--strict"]
    capsys.readouterr()  # to make the model may have drawn a bar
    assert run_command(arguments) == 2
    said = capsys.readouterr()
    assert [line.split()[0] for line in said.out.splitlines()] == ["data", "columns", "labels"]
    assert "5 warnings where --strict allows none" in said.err
    assert len(said.err.splitlines()) <= 3
    assert not (flawed / "run").exists()
    write_csv(flawed / "flawed" / "train.csv", ENOUGH)
    write_csv(flawed / "flawed" / "validation.csv", FRESH)
    write_csv(flawed / "flawed" / "test.csv", [("one more", "no")])
    assert run_command(arguments) == 0
    findings = json.loads((flawed / "run" / "findings.json").read_text())
    assert [finding["severity"] for finding in findings] == ["note"]  # test has no row of one class


def test_a_label_column_of_ids_is_asked_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(tmp_path / "ids.csv", [(f"text {i}", str(i)) for i in range(300)])
    assert run_command(["train", str(tmp_path / "ids.csv"), "--model", "not/asked"]) == 2
    assert "(300 labels in all)\nis --label-column right?" in capsys.readouterr().err


def test_a_misspelt_packaged_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(tmp_path / "all.csv", ENOUGH)
    for name, meant in (("minlm", True), ("mini-lm", True), ("MiniLM", True), ("bert", False)):
        assert run_command(["train", str(tmp_path / "all.csv"), "--model", name]) == 2
        assert ("did you mean `minilm`?" in capsys.readouterr().err) == meant


@real_data
@pytest.mark.parametrize(
    ("name", "what"),
    [
        (
            "mrpc",
            [
                *("55 validation rows of 408 (13.5%) share one text", "249 test rows of 1,725 (14.4%) share one text"),
                *("24 validation rows of 408 (5.9%) are near", "107 test rows of 1,725 (6.2%) are near"),
                "4 test rows of 1,725 (0.2%) are near duplicates of validation rows",
            ],
        ),
        (
            "sst2",
            [
                *("2 test rows of 1,821 (0.1%) leak from train: 2 exact", "9 train rows of 6,920"),
                "2 test rows of 1,821 (0.1%) are near duplicates of train rows",
            ],
        ),
    ],
)
def test_real_data(name: str, what: list[str]) -> None:
    data = read_examples(read_source(str(REAL_DATA / name)), make_config({}))
    assert isinstance(data, TextData)
    found = [finding.what for finding in examine(data, {})]
    assert len(found) == len(what)
    assert all(text.startswith(start) for text, start in zip(found, what, strict=True))


def test_findings_alone_are_no_run(
    flawed: Path, tiny_model: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A kill may come between `findings.json` and `run.json`; a file of that name without a lock is somebody's own."""
    arguments = ["train", "flawed", "--model", tiny_model(), "--max-steps", "1", "--out", "run", "--device", "cpu"]
    (flawed / "run").mkdir()
    (flawed / "run" / "findings.json").write_text("mine")
    assert run_command(arguments) == 2
    assert "is not empty" in capsys.readouterr().err
    assert (flawed / "run" / "findings.json").read_text() == "mine"
    (flawed / "run" / ".lock").touch()
    assert run_command(arguments) == 0
    assert len(json.loads((flawed / "run" / "findings.json").read_text())) == 5


def test_without_a_model_the_hub_is_not_asked(
    data_folder: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In Python as on the command line; a model that was named is asked for."""
    asked: list[str] = []
    monkeypatch.setattr(lengths_module, "ask_commit", lambda name, _: asked.append(name))
    data = data_folder()
    said = str(dongu.inspect(data))
    assert not asked
    assert "on this machine (--model NAME says whose tokenizer counts)" in unwrapped(said)
    assert "Found: " in said
    assert run_command(["inspect", data]) == 0
    assert unwrapped(capsys.readouterr().out) == unwrapped(said)
    dongu.inspect(data, model="bert-base-uncased")
    assert asked == ["bert-base-uncased"]
