"""Near duplicates across splits and leaks by group: what was planted is found with its rows, and nothing else."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dongu.cli.main import run as run_command
from dongu.config import make_config
from dongu.data.sources import read_source
from dongu.doctor.checkup import check_up
from dongu.doctor.finding import Finding
from dongu.doctor.near import band_keys, near_rows

WORDS = [
    f"{a}{b}{c}" for a in ("ka", "lo", "mi", "ru", "te") for b in ("ba", "di", "fo", "gu") for c in ("n", "r", "s")
]


KEYS = [2173554348, 1200920603, 175156973]


def sentence(draw: random.Random, words: int = 12) -> str:
    return " ".join(draw.choices(WORDS, k=words))


def edited(draw: random.Random, text: str) -> str:
    """Another word, a slip of a finger, a word more, or other marks and case."""
    words, kind, place = text.split(), draw.randrange(4), draw.randrange(len(text.split()))
    if kind == 3:
        return f"{', '.join(words)}!".upper()
    changed = [f"{draw.choice(WORDS)}x", f"{words[place][:2]}q{words[place][3:]}", f"{words[place]} often"][kind]
    return " ".join([*words[:place], changed, *words[place + 1 :]])


def found(one: list[str], other: list[str]) -> dict[int, int]:
    return near_rows([one], band_keys([one]), [other], band_keys([other]))


def test_edited_copies_are_found_and_nothing_else() -> None:
    draw = random.Random(0)
    seen = [sentence(draw, draw.randint(8, 30)) for _ in range(2000)]
    origin = draw.sample(range(2000), 100)
    new = [*(edited(draw, seen[row]) for row in origin), *(sentence(draw) for _ in range(300)), *seen[:20]]
    pairs = found(seen, new)
    right = {row: old for row, old in pairs.items() if row < 100 and origin[row] == old}
    assert len(right) >= 97
    assert len(pairs) == len(right), "neither other texts nor exact duplicates"
    assert found(seen, new) == pairs


def test_short_rows_and_rows_without_words_are_not_looked_at() -> None:
    assert (
        found(["one two three four five six seven", "...", "!!"], ["one two three four five six eight", "...", "??"])
        == {}
    )
    assert found(["."], ["one two three four five six seven eight"]) == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("今日は天気がいいから散歩しましょう", "今日は天気がいいので散歩しましょう"),  # no spaces between words
        ("Çok güzel bir filmdi, HERKES görmeli bence de", "çok güzel bir filmdi herkes görmeli bence sen de"),
        ("a 😀 film that all of you have to see", "a film that all of you have to see 😀😀 now"),
    ],
)
def test_other_scripts_and_marks(one: str, other: str) -> None:
    assert found([one, "unlike all of the others in here"], ["quite another text that is not alike", other]) == {1: 0}


def findings(folder: Path, *what: str) -> list[Finding]:
    checkup = check_up(read_source(str(folder)), make_config({"model": "not/here", "text_columns": ["text"]}))
    return [finding for finding in checkup.findings if any(word in finding.what for word in what)]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_a_finding_names_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(1)
    rows = [{"text": sentence(draw), "label": "ab"[i % 2]} for i in range(400)]
    test = [{"text": sentence(draw), "label": "ab"[i % 2]} for i in range(100)]
    test[7]["text"], test[50]["text"] = edited(draw, rows[33]["text"]), edited(draw, rows[2]["text"])
    write(tmp_path / "train.jsonl", rows[:300])
    write(tmp_path / "validation.jsonl", rows[300:])
    write(tmp_path / "test.jsonl", test)
    [finding] = findings(tmp_path, "near duplicate")
    assert finding.what.startswith("2 test rows of 100 (2.0%) are near duplicates of train rows")
    assert finding.severity == "note"
    places = [tuple(Path(place).name for place in each.where) for each in finding.examples]
    assert places == [("train.jsonl:34", "test.jsonl:8"), ("train.jsonl:3", "test.jsonl:51")]
    assert run_command(["inspect", str(tmp_path), "--model", "not/here", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["rows"] == {"train": 300, "validation": 100, "test": 100}
    assert finding.what in [each["what"] for each in said["findings"]]


def test_a_group_on_two_sides(tmp_path: Path) -> None:
    draw = random.Random(2)
    rows: list[dict[str, Any]] = [
        {"text": sentence(draw), "label": "ab"[i % 2], "author": f"a{i % 40}", "city": f"c{i % 3}"} for i in range(200)
    ]
    write(tmp_path / "train.jsonl", rows)
    [finding] = findings(tmp_path, "by group")
    assert finding.severity == "note", "nobody said that it is a group"
    assert "20 validation rows of 20 (100.0%) leak by group: train has their `author` too" in finding.what
    assert "--group-column author" in finding.advice
    config = make_config({"model": "not/here", "text_columns": ["text"], "group_column": "author"})
    checkup = check_up(read_source(str(tmp_path)), config)
    assert not [each for each in checkup.findings if "by group" in each.what]
    for row in rows:
        row["author"] = draw.random()
    write(tmp_path / "train.jsonl", rows)
    assert not findings(tmp_path, "by group"), "each row has its own"
    write(tmp_path / "validation.jsonl", [{**row, "text": sentence(draw)} for row in rows[:10]])
    config = make_config({"model": "not/here", "text_columns": ["text"], "group_column": "author"})
    [finding] = [each for each in check_up(read_source(str(tmp_path)), config).findings if "by group" in each.what]
    assert finding.severity == "warning"


def test_keys_are_those_of_each_process() -> None:
    draw = random.Random(3)
    texts = [sentence(draw) for _ in range(5000)]
    keys = band_keys([texts])
    assert (keys == np.hstack([band_keys([texts[:4200]]), band_keys([texts[4200:]])])).all(), "whatever is beside a row"
    assert keys[:3, 0].tolist() == KEYS
