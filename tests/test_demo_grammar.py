"""The demonstration's dataset: true to its labels, well-formed, and not to be solved by counting words."""

import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pytest
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from dongu.demo.grammar import (
    FRAMES,
    Meaning,
    Style,
    draw_entries,
    invent,
    render,
    twist,
    write_pairs,
    write_splits,
)
from dongu.demo.lexicon import DOMAINS, HELD_OUT, Domain

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def splits() -> dict[str, Rows]:
    return write_splits()


@pytest.fixture(scope="module")
def sentences(splits: dict[str, Rows]) -> list[str]:
    return [row[name] for rows in splits.values() for row in rows for name in ("sentence1", "sentence2")]


def test_the_same_seed_writes_the_same_rows_whatever_the_hash_seed() -> None:
    program = "from dongu.demo.grammar import write_pairs; print(ascii(write_pairs(50, 3)))"
    for hash_seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        written = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)
        assert written.strip() == ascii(write_pairs(50, 3))
    assert write_pairs(50, 3) != write_pairs(50, 4)


@pytest.mark.parametrize("count", [0, 1, 7, 500])
def test_half_of_the_rows_are_paraphrases(count: int) -> None:
    labels = Counter(row["label"] for row in write_pairs(count, seed=1))
    assert sum(labels.values()) == count
    assert abs(labels["paraphrase"] - labels["different"]) <= 1


def test_sizes_labels_and_order_of_the_splits(splits: dict[str, Rows]) -> None:
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 3000, "validation": 400, "test": 600}
    for rows in splits.values():
        labels = [row["label"] for row in rows]
        assert labels.count("paraphrase") == labels.count("different")
        assert 0.4 < np.mean([a == b for a, b in pairwise(labels)]) < 0.6


def test_no_sentence_stands_twice(sentences: list[str]) -> None:
    assert len(sentences) == len(set(sentences))


def test_only_the_test_split_speaks_of_the_held_out_domains(splits: dict[str, Rows]) -> None:
    held_out = [domain for domain in DOMAINS if domain.name in HELD_OUT]
    goods = [thing for domain in held_out for thing in domain.goods.split("; ")]

    def speaks(split: str) -> bool:
        return any(thing in row["sentence1"] for row in splits[split] for thing in goods)

    assert len(held_out) == len(HELD_OUT)
    assert (speaks("train"), speaks("validation"), speaks("test")) == (False, False, True)


def test_sentences_are_well_formed(sentences: list[str]) -> None:
    for sentence in sentences:
        assert re.fullmatch(r'"?[A-Z].*[a-z0-9%]\.', sentence), sentence
        assert not re.search(r"[{}|=;:/_]|  |,,| [,.]|,\.", sentence), sentence
        assert not re.search(r"\b(a [aeiou]|an [^aeiou]|the the|(\w+) \2)\b", sentence, re.IGNORECASE), sentence
        assert sentence.count('"') in (0, 2), sentence
        assert 4 <= len(sentence.split()) <= 40, sentence


def test_variety(sentences: list[str]) -> None:
    words = {word for sentence in sentences for word in re.findall(r"[a-z]+", sentence.lower())}
    assert len(DOMAINS) >= 12
    assert len(words) >= 1300
    assert 10 <= np.mean([len(sentence.split()) for sentence in sentences]) <= 25


def draws(count: int) -> Iterator[tuple[Domain, dict[str, Sequence[str]]]]:
    rng = random.Random(1)
    for _ in range(count):
        for domain in DOMAINS:
            yield domain, draw_entries(rng, domain)


def test_each_exchange_moves_two_parts_that_both_wordings_say() -> None:
    for name, frame in FRAMES.items():
        for part in frame.exchange.split():
            assert f"{{{part}}}" in frame.plain, name
            assert f"{{{part}}}" in frame.inverted, name
            assert len({frame.parts[part] for part in frame.exchange.split()}) == 1, name


def test_no_two_entries_of_a_list_have_a_name_in_common() -> None:
    for domain, entries in draws(20):
        for source, options in entries.items():
            names = [name for option in options for name in option.split("=")]
            assert len(names) == len(set(names)), (domain.name, source)


def test_each_meaning_has_a_part_that_can_be_replaced() -> None:
    rng = random.Random(1)
    for domain in DOMAINS:
        for frame in FRAMES:
            for meaning in (invent(rng, domain, frame) for _ in range(10)):
                for name, rivals in meaning.rivals.items():
                    assert meaning.parts[name] in rivals
                    assert set(rivals) - set(meaning.parts.values()), (domain.name, frame, name)


def test_one_meaning_in_many_styles() -> None:
    parts = {
        "a": "the judge",
        "v": "praise=commend",
        "b": "the lawyer=the attorney",
        "when": "on 3 May=on the third of May",
    }
    deed = Meaning("deed", parts, {})
    assert render(deed, Style()) == "The judge praised the lawyer on 3 May."
    assert render(deed, Style(inverted=True)) == "The lawyer was praised by the judge on 3 May."
    assert render(deed, Style(fronted=True)) == "On 3 May, the judge praised the lawyer."
    assert render(deed, Style(others=frozenset("vb"))) == "The judge commended the attorney on 3 May."
    assert render(deed, Style(others=frozenset({"when"}))) == "The judge praised the lawyer on the third of May."


def test_clauses_traits_verbs_and_a_numeral_at_the_beginning() -> None:
    parts = {"a": "the vet", "v": "carry=take away", "n": "12=twelve", "x": "ewes", "m": "30=thirty", "y": "lambs"}
    totals = Meaning("totals", parts | {"trait": "shy", "link": "because=since", "fact": "the well was dry"}, {})
    assert render(totals, Style()) == "The shy vet carried 12 ewes and 30 lambs because the well was dry."
    assert render(totals, Style(inverted=True)) == (
        "Twelve ewes and 30 lambs were carried by the shy vet because the well was dry."
    )
    assert render(totals, Style(fronted=True, others=frozenset({"v", "link"}))) == (
        "Since the well was dry, the shy vet took away 12 ewes and 30 lambs."
    )


def test_a_changed_meaning_differs_in_a_part_that_is_worded_anew_or_in_two_exchanged_parts() -> None:
    rng = random.Random(2)
    for _ in range(500):
        meaning = invent(rng, rng.choice(DOMAINS), rng.choice(list(FRAMES)))
        worded = sorted(meaning.rivals)[:2]
        if worded:
            changed = twist(meaning, worded, rng)
            differing = [name for name, part in meaning.parts.items() if changed.parts[name] != part]
            assert differing
            assert set(differing) <= set(worded) or differing == FRAMES[meaning.frame].exchange.split()


def word_set(sentence: str) -> set[str]:
    return set(re.findall(r"\w+", sentence.lower()))


def test_no_threshold_on_word_overlap_does_much_better_than_chance(splits: dict[str, Rows]) -> None:
    pairs = [(word_set(row["sentence1"]), word_set(row["sentence2"])) for row in splits["test"]]
    overlap = np.array([len(a & b) / len(a | b) for a, b in pairs])
    paraphrase = np.array([row["label"] == "paraphrase" for row in splits["test"]])
    accuracies = [np.mean((overlap >= threshold) == paraphrase) for threshold in np.unique(overlap)]
    best = max(*accuracies, 1 - min(accuracies))
    print(f"best threshold on the word overlap: {best:.3f}")
    assert best <= 0.60


def test_a_bag_of_words_does_not_do_much_better_than_chance(splits: dict[str, Rows]) -> None:
    train = splits["train"]
    counter = CountVectorizer().fit([row[name] for row in train for name in ("sentence1", "sentence2")])

    def features(rows: Rows) -> csr_matrix:
        a, b = (counter.transform([row[name] for row in rows]) for name in ("sentence1", "sentence2"))
        return hstack([a, b, abs(a - b), a.multiply(b)]).tocsr()

    for strength in (0.01, 0.1, 1.0):
        model = LogisticRegression(C=strength, max_iter=5000)
        model.fit(features(train), [row["label"] for row in train])
        accuracy = model.score(features(splits["test"]), [row["label"] for row in splits["test"]])
        print(f"bag of words, C={strength}: {accuracy:.3f}")
        assert accuracy <= 0.65
