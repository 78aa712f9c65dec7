"""The demonstration's data: as many rows as it says, and no leak."""

from __future__ import annotations

import csv

import pytest

from dongu.demo.run import SPLITS, read_csv

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def splits() -> dict[str, Rows]:
    return {split: list(csv.DictReader(read_csv(split).decode().splitlines())) for split in SPLITS}


def test_half_of_each_split_are_paraphrases_and_no_sentence_stands_twice(splits: dict[str, Rows]) -> None:
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 3000, "validation": 400, "test": 600}
    for rows in splits.values():
        assert [row["label"] for row in rows].count("paraphrase") == len(rows) / 2
    sentences = [row[name] for rows in splits.values() for row in rows for name in ("sentence1", "sentence2")]
    assert len(sentences) == len(set(sentences))
