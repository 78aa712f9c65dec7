"""The demonstration's data: as many rows as it says, no leak, and not to be solved by counting words."""

from __future__ import annotations

import csv

import pytest
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from dongu.demo.run import BAG_OF_WORDS, SPLITS, read_csv

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


def test_the_bag_of_words_reaches_what_the_demonstration_says(splits: dict[str, Rows]) -> None:
    train = splits["train"]
    counter = CountVectorizer().fit([row[name] for row in train for name in ("sentence1", "sentence2")])

    def features(rows: Rows) -> csr_matrix:
        a, b = (counter.transform([row[name] for row in rows]) for name in ("sentence1", "sentence2"))
        return hstack([a, b, abs(a - b), a.multiply(b)]).tocsr()

    model = LogisticRegression(C=0.1, max_iter=1000)
    model.fit(features(train), [row["label"] for row in train])
    accuracy = model.score(features(splits["test"]), [row["label"] for row in splits["test"]])
    assert accuracy == pytest.approx(BAG_OF_WORDS, abs=0.004)  # two rows of 600: a solver's rounding
