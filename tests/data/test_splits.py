"""Parts that are held out of train: their shares, whole groups and texts, the newest rows, folds, a file of rows."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dongu
from conftest import WORDS
from dongu.cli.main import run as run_command
from dongu.config import make_config
from dongu.data.examples import TextData, read_examples
from dongu.data.holdout import dealt, newest
from dongu.data.sources import read_source
from dongu.errors import DataError, UsageError

SPLITS = ("train", "validation", "test")


def read(data: Any, **options: Any) -> TextData:
    return read_examples(read_source(data), make_config(options))


def reviews(count: int, users: int = 40, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of users who differ in how much they write and in what they think; a third are of class 1."""
    draw = random.Random(seed)
    found = []
    for i in range(count):
        user = min(draw.randrange(users), draw.randrange(users))
        label = int(draw.random() < (0.6 if user % 3 else 0.1))
        found.append(
            {
                "text": f"{WORDS[i % 7]} {WORDS[i % 5]} text {i}",
                "label": label,
                "user": f"u{user}",
                "day": f"2026-{1 + i % 12:02}-{1 + i % 28:02}",
            }
        )
    return found


def ids(data: TextData) -> dict[str, list[int]]:
    return {name: examples.ids.tolist() for name, examples in data.splits.items()}


def test_shares_of_the_rows_and_of_each_class() -> None:
    rows = reviews(600)
    data = read(rows, validation=0.2, test=0.3)
    assert data.held_out == ("validation", "test")
    assert [len(data.splits[name]) for name in SPLITS] == [300, 120, 180]
    assert sorted(chain(*ids(data).values())) == list(range(600))
    whole = sum(row["label"] for row in rows) / 600
    for examples in data.splits.values():
        assert examples.targets is not None
        assert examples.targets.mean() == pytest.approx(whole, abs=1 / len(examples))
    assert ids(data) == ids(read(rows, validation=0.2, test=0.3))
    assert ids(data) != ids(read(rows, validation=0.2, test=0.3, seed=1))
    assert ids(read(rows, validation=0.1)) == ids(read(rows)), "a tenth is the default"
    assert len(read(rows, test=0.2).splits["validation"]) == 60, "a tenth of all rows, not of those that are left"


def test_a_class_of_two_rows_is_tested_and_learnt() -> None:
    rows = [*reviews(100), *({"text": f"rare {i}", "label": 2, "user": "u0", "day": "2026-01-01"} for i in range(2))]
    data = read(rows, test=0.2)
    counts = [int(np.sum(data.splits[name].targets == 2)) for name in SPLITS]
    assert counts == [1, 0, 1]


@pytest.mark.parametrize("count", [200, 2000])
def test_no_group_is_on_two_sides_and_the_shares_are_near(count: int) -> None:
    rows = reviews(count)
    rows[5]["user"] = rows[9]["user"] = None
    data = read(rows, validation=0.2, test=0.2, group_column="user")
    users = {name: {rows[i]["user"] for i in found} - {None} for name, found in ids(data).items()}
    assert not users["train"] & users["validation"]
    assert not users["train"] & users["test"]
    assert not users["validation"] & users["test"]
    whole = sum(row["label"] for row in rows) / count
    for name, share in zip(SPLITS, (0.6, 0.2, 0.2), strict=True):
        assert len(data.splits[name]) / count == pytest.approx(share, abs=0.02)
        assert np.mean([rows[i]["label"] for i in ids(data)[name]]) == pytest.approx(whole, abs=0.05)
    assert "user" not in data.unused_columns
    assert ids(data) == ids(read(rows, validation=0.2, test=0.2, group_column="USER"))


def test_groups_that_share_a_text_stay_together_unless_nothing_could_be_parted() -> None:
    rows: list[dict[str, Any]] = [
        {"text": f"text {i // 2}", "label": i % 2, "user": f"u{i}"} for i in range(80)
    ]  # two users a text
    data = read(rows, group_column="user")
    texts = [{rows[i]["text"] for i in ids(data)[name]} for name in ("train", "validation")]
    assert not texts[0] & texts[1]
    for row in rows[::4]:
        row["text"] = "thanks"
    for row in rows:
        row["user"] = f"u{int(row['user'][1:]) // 4}"  # each user has said it once
    data = read(rows, group_column="user")
    assert len(data.splits["validation"]) == 8
    assert not np.isin(data.splits["validation"].groups["user"], data.splits["train"].groups["user"]).any()


def test_too_few_groups() -> None:
    rows = [{"text": f"text {i}", "label": i % 2, "user": "a"} for i in range(20)]
    with pytest.raises(DataError, match="1 groups of `user` do not make 2 parts"):
        read(rows, group_column="user")
    with pytest.raises(DataError, match="there is no column `users`"):
        read(rows, group_column="users")


def test_no_classifier_is_trained_on_the_class_that_was_not_held_out() -> None:
    rows = [{"text": f"text {i}", "label": "ab"[i // 10], "user": "ab"[i // 10], "at": i // 10} for i in range(20)]
    for options in ({"group_column": "user"}, {"time_column": "at", "validation": 0.5}):
        with pytest.raises(DataError, match=r"all rows of train have the label `[ab]`"):
            read(rows, **options)
    assert len(read(rows).label_names) == 2


@pytest.mark.parametrize(
    "write",
    [lambda i: f"2026-03-{1 + i // 10:02}", lambda i: 5 * (i // 10), lambda i: f"2026-03-01T0{i // 10 % 10}:00Z"],
)
def test_the_newest_rows_are_test_then_validation(write: Callable[[int], Any]) -> None:
    rows = [{"text": f"text {i}", "label": i % 2, "date": write(i)} for i in range(100)]
    random.Random(1).shuffle(rows)
    data = read(rows, validation=0.1, test=0.3, time_column="date")
    dates: list[list[Any]] = [[rows[i]["date"] for i in ids(data)[name]] for name in SPLITS]
    assert [len(part) for part in dates] == [60, 10, 30]
    assert max(dates[0]) < min(dates[1])
    assert max(dates[1]) < min(dates[2])


CLOSE: dict[
    str, Callable[[int], Any]
] = {  # times that a float, a text or a microsecond takes for one, or in another order
    "nanoseconds": lambda i: 1_764_371_400_123_456_000 + i,
    "nanoseconds as text": lambda i: f"{1_764_371_400_123_456_000 + i}",
    "a fraction": lambda i: f"1764371400.{i:018}",
    "parts of a microsecond": lambda i: f"2026-11-28T23:10:00.123456{i:03}+02:00",
    "other zones": lambda i: f"2026-11-28T{12 + i % 12:02}:{i:02}:00+{i % 12:02}:00",
}


@pytest.mark.parametrize("kind", CLOSE)
def test_times_are_compared_exactly(kind: str) -> None:
    places = random.Random(2).sample(range(60), 60)
    rows = [{"text": f"text {i}", "label": i % 2, "date": CLOSE[kind](place)} for i, place in enumerate(places)]
    found = ids(read(rows, validation=0.1, test=0.3, time_column="date"))
    assert sorted(places[i] for i in found["test"]) == [*range(42, 60)]
    assert sorted(places[i] for i in found["validation"]) == [*range(36, 42)]


def test_one_time_is_one_however_it_is_written() -> None:
    ways = ["2026-11-28T12:00+02:00", "2026-11-28T10:00Z", "2026-11-28T05:00:00.000000000-05:00"]
    rows = [{"text": f"text {i}", "label": i % 2, "date": ways[i % 3]} for i in range(30)]
    with pytest.raises(DataError, match="all rows have the same time"):
        read(rows, time_column="date")
    numbers = [{**row, "date": ("1", "1.0", "1e0")[i % 3]} for i, row in enumerate(rows)]
    with pytest.raises(DataError, match="all rows have the same time"):
        read(numbers, time_column="date")


@pytest.mark.parametrize("time", ["", " 13:05", "T13:05:30+01:00"])
def test_dates_with_dots_have_the_day_first(time: str) -> None:
    days = [(i % 28 + 1, i % 12 + 1, 2024 + i % 3) for i in range(100)]
    plain, dotted = (
        [{"text": f"text {i}", "label": i % 2, "date": form.format(*day) + time} for i, day in enumerate(days)]
        for form in ("{2}-{1:02}-{0:02}", "{0:02}.{1:02}.{2}")
    )
    told: dict[str, Any] = {"validation": 0.2, "test": 0.2, "time_column": "date"}
    assert [*map(list, ids(read(dotted, **told)).values())] == [*map(list, ids(read(plain, **told)).values())]


def test_rows_of_one_time_stay_together() -> None:
    times = np.array([1.0, 1, 1, 1, 1, 1, 2, 2, 2, 3])
    assert newest(times, 0.1, where="").sum() == 1
    assert newest(times, 0.2, where="").sum() in (1, 4)
    assert newest(times, 0.35, where="").sum() == 4
    with pytest.raises(DataError, match="all rows have the same time"):
        newest(np.zeros(5), 0.2, where="here")


@pytest.mark.parametrize(
    "bad",
    [
        *("03/04/2026", "2026-03-04T10:00Z", "7", None, "nan"),
        *("04.03.26", "4.3.2026", "03.14.2026", "04.03.20261", "04.03.2026T10:00Z", "2026.03.04"),
    ],
)
def test_a_time_that_cannot_be_ordered_is_refused_with_its_row(bad: Any) -> None:
    rows = [{"text": f"text {i}", "label": i % 2, "date": "2026-03-04"} for i in range(20)]
    rows[7]["date"] = bad
    with pytest.raises(DataError, match="cannot be ordered with the other rows") as caught:
        read(rows, time_column="date")
    assert "row 8" in caught.value.where


def test_folds_part_the_rows_and_keep_classes_groups_and_texts() -> None:
    rows = reviews(500)
    rows[3]["text"] = rows[4]["text"] = rows[200]["text"]
    choices: list[dict[str, Any]] = [{}, {"group_column": "user"}, {"test": 0.2}]
    for options in choices:
        parts = [read(rows, fold=f"{k}/5", **options) for k in range(1, 6)]
        held = [part.splits["validation"].ids.tolist() for part in parts]
        tested = ids(parts[0]).get("test", [])
        assert sorted(chain(*held)) == sorted({*range(500)} - {*tested})
        assert max(map(len, held)) - min(map(len, held)) <= (25 if "group_column" in options else 3)
        means = [np.mean([rows[i]["label"] for i in fold]) for fold in held]
        assert max(means) - min(means) < (0.1 if "group_column" in options else 0.03)
        for part in parts:
            assert ids(part).get("test", []) == tested
            for key in ("text", *(["user"] if "group_column" in options else [])):
                sides = [{rows[i][key] for i in ids(part)[name]} for name in ("train", "validation")]
                assert not sides[0] & sides[1], key


def test_dealt_leaves_no_part_empty() -> None:
    units = np.repeat(np.arange(6), [50, 3, 1, 1, 1, 1])
    parts = dealt(units, np.zeros(len(units)), [0.2] * 5, np.random.default_rng(0))
    assert len(np.unique(parts)) == 5


def test_a_file_says_which_row_is_where(tmp_path: Path) -> None:
    rows = reviews(10)
    said = {"train": [0, 2, 4, 6, 8], "validation": [9, 1, 3], "test": [5, 7]}
    (tmp_path / "ids.json").write_text(json.dumps(said), encoding="utf-8")
    lines = [f"{row},{name}\n" for name, found in said.items() for row in found]
    (tmp_path / "ids.csv").write_text("".join(["id,split\n", *lines]), encoding="utf-8")
    for name in ("ids.json", "ids.csv"):
        found = ids(read(rows, split_file=str(tmp_path / name)))
        assert found == {name: sorted(numbers) for name, numbers in said.items()}
    bad = {
        "lacks 1 of the 10 rows, row 7 first": {**said, "test": [5]},
        "names row 5 twice": {**said, "test": [5, 5, 7]},
        "has no row of validation": {"train": list(range(10))},
        "nor one of train, validation, test": {**said, "spare": [11]},
    }
    for message, content in bad.items():
        (tmp_path / "bad.json").write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(DataError, match=message):
            read(rows, split_file=str(tmp_path / "bad.json"))


def test_what_is_there_already_is_not_cut() -> None:
    parts = {"train": reviews(50), "validation": reviews(20, seed=1)}
    for options in ({"validation": 0.2}, {"fold": "1/5"}, {"split_file": "ids.json"}):
        with pytest.raises(UsageError, match="the data have a validation split already"):
            read(parts, **options)
    with pytest.raises(UsageError, match="nothing is held out"):
        read(parts, time_column="day")
    assert [*ids(read(parts, test=0.2))] == [*SPLITS]


@pytest.mark.parametrize(
    "options",
    [
        {"validation": 0.5, "test": 0.5},
        {"validation": 1.0},
        {"fold": "6/5"},
        {"fold": "1/1"},
        {"fold": "2"},
        {"fold": "1/5", "validation": 0.2},
        {"group_column": "user", "time_column": "day"},
        {"split_file": "ids.csv", "test": 0.1},
    ],
)
def test_contradictions(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        make_config(options)


@pytest.mark.crash
def test_a_run_comes_again_by_its_own_record(tiny_model: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in reviews(60)), encoding="utf-8")
    rows = {"train": [*range(0, 60, 2)], "validation": [*range(1, 60, 4)], "test": [*range(3, 60, 4)]}
    (tmp_path / "ids.json").write_text(json.dumps(rows), encoding="utf-8")
    choices: list[dict[str, Any]] = [
        {"validation": 0.2, "test": 0.2, "group_column": "user"},
        {"test": 0.2, "time_column": "day"},
        {"fold": "2/3"},
        {"split_file": str(tmp_path / "ids.json")},
    ]
    for number, options in enumerate(choices):
        out = tmp_path / f"run-{number}"
        dongu.train(str(path), model=tiny_model(), max_steps=2, text_columns=["text"], out=str(out), **options)
        again = tmp_path / f"again-{number}"
        assert run_command(["train", "--config", str(out / "run.json"), "--out", str(again)]) == 0
        assert (again / "model/model.safetensors").read_bytes() == (out / "model/model.safetensors").read_bytes()
        names = sorted(file.name for file in (out / "predictions").iterdir())
        assert names == (["validation.jsonl"] if "fold" in options else ["test.jsonl", "validation.jsonl"])
        for name in names:
            assert (again / "predictions" / name).read_bytes() == (out / "predictions" / name).read_bytes()
        if number in (0, 3):
            assert run_command(["verify", str(out)]) == 0
            assert run_command(["eject", str(out), str(tmp_path / "script.py")]) == 2


def test_groups_and_times_may_be_fields_of_a_column() -> None:
    metas = [{"user": i // 3, "day": i} for i in range(60)]
    whole = [{"text": f"film {i}", "label": "ab"[i % 2], **meta} for i, meta in enumerate(metas)]
    nested = [
        {"text": row["text"], "label": row["label"], "meta": meta} for row, meta in zip(whole, metas, strict=True)
    ]
    for option, field in (("group_column", "user"), ("time_column", "day")):
        found = []
        for rows, name in ((nested, f"meta.{field}"), (whole, field)):
            config = make_config({option: name})
            found.append(read_examples(read_source(rows, config), config).splits["validation"].ids.tolist())
        assert found[0] == found[1] != []
