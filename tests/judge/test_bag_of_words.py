"""The bag of words: what scikit-learn's would be, the same bits each time, and beside each result without a trace."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dongu
from dongu.config import Task
from dongu.judge.bag_of_words import LOSS_WEIGHT, BagOfWords, Tfidf, fit_linear
from dongu.judge.words import UNPROVEN, Yardstick, advice, over_bag_of_words, said_of
from dongu.verify import verify

WORDS = [f"w{i}" for i in range(200)]


def texts_of(rows: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Texts of three topics, each with words that it prefers, and their topics."""
    draw = random.Random(seed)
    topics = [draw.randrange(3) for _ in range(rows)]
    words = [draw.choices(WORDS, [3 if i % 3 == topic else 1 for i in range(200)], k=12) for topic in topics]
    return [" ".join(row).capitalize() + "!" for row in words], np.array(topics)


def test_the_features_are_those_of_scikit_learn() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts, _ = texts_of(60)
    theirs = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\w+").fit(texts)
    other = texts_of(20, seed=1)[0]
    ours = Tfidf.of((texts,), 3).rows((other,))
    assert ours.shape == (20, len(theirs.vocabulary_))
    wanted = theirs.transform(other)
    np.testing.assert_allclose((ours @ ours.T).toarray(), (wanted @ wanted.T).toarray(), atol=1e-12)


@pytest.mark.parametrize("task", ["single-label", "multi-label", "regression"])
def test_the_fit_is_that_of_scikit_learn(task: Task) -> None:
    """The same objective at the end, and the same answers to rows that neither has seen."""
    from sklearn.linear_model import LogisticRegression, Ridge

    (texts, topics), (other, _) = texts_of(400), texts_of(200, seed=1)
    tfidf, weight = Tfidf.of((texts,), 3), LOSS_WEIGHT[task]
    features, unseen = tfidf.rows((texts,)), tfidf.rows((other,))
    truth = np.eye(3)[topics]
    if task == "single-label":
        them: Any = LogisticRegression(C=weight, tol=1e-8, max_iter=1000).fit(features, topics)
        theirs = them.coef_.T, them.intercept_
    elif task == "multi-label":
        truth = np.maximum(truth, np.eye(3)[np.roll(topics, 1)])
        each = [LogisticRegression(C=weight, tol=1e-8, max_iter=1000).fit(features, column) for column in truth.T]
        theirs = np.concatenate([one.coef_ for one in each]).T, np.concatenate([one.intercept_ for one in each])
    else:
        truth = truth @ np.array([[-1.0], [0.25], [1.0]])
        them = Ridge(alpha=1 / weight, tol=1e-10).fit(features, truth)
        theirs = them.coef_.reshape(1, -1).T, np.atleast_1d(them.intercept_)
    ours = fit_linear(features, truth, task, weight)

    def objective(weights: np.ndarray, bias: np.ndarray) -> float:
        scores = features @ weights + bias
        if task == "regression":
            losses = ((scores - truth) ** 2).sum() / 2
        elif task == "single-label":
            losses = (np.log(np.exp(scores).sum(1)) - (scores * truth).sum(1)).sum()
        else:
            losses = (np.logaddexp(0, scores) - scores * truth).sum()
        return float(losses + (weights**2).sum() / (2 * weight))

    assert objective(*ours) == pytest.approx(objective(*theirs), rel=1e-5)
    one, two = (unseen @ weights + bias for weights, bias in (ours, theirs))
    if task == "single-label":  # one number more for all classes is the same answer
        one, two = (scores - scores.mean(1, keepdims=True) for scores in (one, two))
    np.testing.assert_allclose(one, two, atol=0.02)


def test_which_of_two_texts_has_a_word_tells() -> None:
    draw = random.Random(0)
    pairs = [[" ".join(draw.choices(WORDS, k=5)) for _ in range(2)] for _ in range(80)]
    labels = np.array([draw.randrange(2) for _ in pairs])
    for pair, label in zip(pairs, labels, strict=True):
        pair[label] += " word"
    one, two = zip(*pairs, strict=True)
    logits = BagOfWords.fit((one[:60], two[:60]), labels[:60], "single-label", 2).logits((one[60:], two[60:]))
    assert (logits.argmax(1) == labels[60:]).mean() > 0.9


def test_that_two_texts_are_alike_tells_though_all_words_are_new() -> None:
    draw = random.Random(0)
    one = [" ".join(draw.choices(WORDS, k=8)) for _ in range(90)]
    labels = np.array([draw.randrange(2) for _ in one])
    two = [text if label else " ".join(draw.choices(WORDS, k=8)) for text, label in zip(one, labels, strict=True)]
    bag = BagOfWords.fit((one[:60], two[:60]), labels[:60], "single-label", 2)
    assert (bag.logits((one[60:], two[60:])).argmax(1) == labels[60:]).mean() > 0.9


@pytest.mark.parametrize("texts", [["", "!"], ["a", "a"]])
def test_rows_without_a_known_word_get_the_shares_of_train(texts: list[str]) -> None:
    logits = BagOfWords.fit((texts * 3,), np.array([0, 0, 1, 0, 0, 0]), "single-label", 2).logits((["new", ""],))
    assert np.isfinite(logits).all()
    assert (logits.argmax(1) == 0).all()


# --- beside a run


def trained(out: Path, data: str, model: str) -> dict[str, Any]:
    dongu.train(data, model=model, epochs=1, batch_size=8, device="cpu", out=str(out))
    found: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return found


def test_it_stands_beside_each_metric_of_each_split_and_changes_nothing(
    tiny_model: Callable[..., str],
    shared_data_folder: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, model = shared_data_folder(train=96, validation=24, test=20), tiny_model()
    results = trained(tmp_path / "with", data, model)
    rows = results.pop("bag_of_words")
    wanted = {(split, metric) for split in ("validation", "test") for metric in ("loss", "accuracy", "f1")}
    assert {(row["split"], row["metric"]) for row in rows} == wanted
    for row in rows:
        if row["metric"] == "accuracy":
            assert row["value"] == 1.0, "the label stands in each text"
            value = results[row["split"]]["accuracy"]["value"]
            assert row["margin"] == pytest.approx(value - row["value"])
            assert row["low"] <= row["margin"] <= row["high"]
        else:
            assert "margin" not in row
    page = (tmp_path / "with" / "report.html").read_text(encoding="utf-8")
    assert over_bag_of_words({"bag_of_words": rows}, "test", "accuracy") in page
    assert [proof.name for proof in verify(tmp_path / "with") if proof.holds is False] == []

    monkeypatch.setattr("dongu.baseline.MOST_ROWS", 95)
    without = trained(tmp_path / "without", data, model)
    assert without.pop("no_bag_of_words") == "there are more than 95 training rows"
    assert without == results
    for name in ("metrics.jsonl", "dynamics.bin", "model/model.safetensors", "predictions/test.jsonl"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes(), name
    assert "bag of words" not in (tmp_path / "without" / "report.html").read_text(encoding="utf-8").replace(
        "the bag of words beside it", ""
    )


def test_verify_holds_it_against_the_record(
    tiny_model: Callable[..., str], shared_data_folder: Callable[..., str], tmp_path: Path
) -> None:
    results = trained(tmp_path / "run", shared_data_folder(), tiny_model())
    results["bag_of_words"][0]["value"] += 1e-9
    (tmp_path / "run" / "results.json").write_text(json.dumps(results), encoding="utf-8")
    broken = {proof.name: proof.text for proof in verify(tmp_path / "run") if proof.holds is False}
    assert "bag of words" in broken["results"]


@pytest.mark.parametrize(
    ("metric", "row", "said"),
    [
        (
            "accuracy",
            {"value": 0.744, "margin": 0.0912, "low": 0.06, "high": 0.1234},
            "+9.1 points over a bag of words (0.7440), 95% interval 6.0 to 12.3.",
        ),
        (
            "accuracy",
            {"value": 0.81, "margin": -0.012, "low": -0.03, "high": 0.006},
            "Not shown to be better than a bag of words (0.8100): -1.2 points, 95% interval -3.0 to 0.6.",
        ),
        (
            "accuracy",
            {"value": 0.81, "margin": -0.28, "low": -0.45, "high": -0.08},
            "Worse than a bag of words (0.8100): -28.0 points, 95% interval -45.0 to -8.0.",
        ),
        (
            "loss",
            {"value": 0.9, "margin": 0.25, "low": 0.125, "high": 0.5},
            "+0.2500 over a bag of words (0.9000), 95% interval 0.1250 to 0.5000.",
        ),
        ("accuracy", {"value": 0.9, "margin": None, "low": None, "high": None}, ""),
    ],
)
def test_the_sentence(metric: str, row: dict[str, Any], said: str) -> None:
    results = {"bag_of_words": [{"split": "test", "metric": metric, **row}]}
    assert over_bag_of_words(results, "test", metric) == said
    assert over_bag_of_words(results, "validation", metric) == ""


@pytest.mark.parametrize(("steps", "said"), [(12, "12 updates are few"), (5000, "suspect rows")])
def test_a_run_that_does_not_beat_it_says_what_to_try(steps: int, said: str) -> None:
    entry = {"value": 0.8, "low": 0.75, "high": 0.85, "baseline": 0.5}
    row = {"split": "test", "metric": "accuracy", "value": 0.81, "margin": -0.01, "low": -0.03, "high": 0.01}
    results = {"steps": steps, "test": {"loss": entry, "accuracy": entry}, "bag_of_words": [row]}
    yardstick = Yardstick("single-label", "accuracy", ("no", "yes"), [0.5, 0.5])
    assert said in advice(results, yardstick)
    assert "Not shown to be better" in " ".join(said_of(results, {"test": 20}, yardstick))
    row |= {"margin": 0.2, "high": 0.4}  # the interval is wide, so more updates are no help
    assert advice(results, yardstick) == UNPROVEN
    entry["low"] = 0.4  # nor is it clearly better than the majority class
    assert said in advice(results, yardstick)
    entry["low"], row["low"] = 0.75, 0.001
    assert advice(results, yardstick) == ""
