"""Several labels a row: how they are read, learnt, judged, saved and answered."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dongu
from conftest import computed
from dongu.cli.main import run
from dongu.config import make_config
from dongu.data.examples import TextData, read_examples
from dongu.data.sources import read_source
from dongu.data.weights import label_counts
from dongu.errors import DataError, UsageError
from dongu.judge.answers import Evaluation
from dongu.judge.intervals import constant_answer, verdict
from dongu.judge.metrics import MetricSet
from dongu.judge.ranking import Ranking, best_threshold, label_macro_f1, label_micro_f1, sigmoid
from dongu.verify import verify

TOPICS = ("word0", "word1", "word2")


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Each topic's word stands in the text where the topic is a label; a fifth has none."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        labels = [topic for topic in TOPICS if chance.random() < 0.4]
        text = " ".join(["film", *labels * 2, *chance.choices(["good", "bad", "the", "a"], k=chance.randint(1, 8))])
        made.append({"text": text, "label": labels})
    return made


def read(data: Any, **options: Any) -> TextData:
    return read_examples(read_source(data), make_config(options))


def labelled(*labels: Any) -> list[dict[str, Any]]:
    return [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]


def targets(data: TextData, split: str = "train") -> list[list[float]]:
    found = data.splits[split].targets
    assert found is not None
    assert found.dtype == np.float32
    return [list(row) for row in found.tolist()]


# --- reading

FORMS: list[tuple[list[Any], tuple[str, ...]]] = [
    ([["b", "a"], [], ["a"]], ("a", "b")),
    (["b|a", "", "a"], ("a", "b")),
    (["b | a", " ", " a "], ("a", "b")),
    ([[10, 2], [], [2]], ("2", "10")),
]


@pytest.mark.parametrize(("labels", "names"), FORMS)
def test_lists_and_bars_are_the_same_sets(labels: list[Any], names: tuple[str, ...]) -> None:
    data = read({"train": labelled(*labels), "validation": labelled(*labels)})
    assert (data.task, data.label_names) == ("multi-label", names)
    assert targets(data) == targets(data, "validation") == [[1, 1], [0, 0], [1, 0]]
    assert label_counts(data.splits["train"], names) == dict(zip(names, (2, 1), strict=True))


@pytest.mark.parametrize("flags", [("0", "1"), (0, 1), (False, True), ("False", "TRUE"), (0.0, 1.0)])
def test_columns_of_flags(flags: tuple[Any, Any]) -> None:
    no, yes = flags
    table = [{"text": f"text {i}", "rude": r, "c++": c, "note": "x"} for i, (r, c) in enumerate([(yes, no), (no, no)])]
    for name in ("rude+c++", ["rude", "c++"]):  # a column may have a + in its name
        data = read({"train": table, "validation": table}, label_column=name, text_columns="text")
        assert (data.task, data.label_names) == ("multi-label", ("rude", "c++"))
        assert targets(data) == [[1, 0], [0, 0]]
        assert data.unused_columns == ("note",)


def test_declared_names_of_lists_of_classes(tmp_path: Path) -> None:
    import datasets

    names = datasets.ClassLabel(names=["joy", "anger", "none"])
    features = datasets.Features({"text": datasets.Value("string"), "labels": datasets.Sequence(names)})
    table = [{"text": "a", "labels": [1, 0]}, {"text": "b", "labels": []}]
    for name, rows_of in (("train", table), ("validation", table[::-1])):
        datasets.Dataset.from_list(rows_of, features=features).to_parquet(tmp_path / f"{name}.parquet")
    data = read(str(tmp_path))
    assert (data.task, data.label_names) == ("multi-label", ("joy", "anger", "none"))
    assert targets(data) == [[1, 1, 0], [0, 0, 0]]


def test_a_bar_can_be_part_of_a_name() -> None:
    table = labelled("Sports | Leisure", "Home", "Sports | Leisure")
    data = read({"train": table, "validation": table}, task="single-label")
    assert data.label_names == ("Home", "Sports | Leisure")


BAD: list[tuple[list[Any], int, str]] = [
    ([["a"], ["b"], "a|b"], 3, "is a text, in earlier rows a list"),
    ([["a"], ["b"], None], 3, "is null"),
    (["a|b", "a||b"], 2, "names an empty label: a||b"),
    ([["a", "b"], ["b", "b"]], 2, "names a label twice: b|b"),
    ([["a"], ["b", ["c"]]], 2, "is a list, not a name"),
    ([["a"], ["b", "-1"]], 2, "-1 means 'hidden'"),
]


@pytest.mark.parametrize(("labels", "line", "what"), BAD)
def test_sets_that_cannot_be_learnt(tmp_path: Path, labels: list[Any], line: int, what: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in labelled(*labels)))
    with pytest.raises(DataError, match=r"label|names") as caught:
        read(str(path))
    assert caught.value.where == f"{path}:{line}"
    assert what in caught.value.what


def test_flags_and_labels_that_cannot_be_read() -> None:
    table = [{"text": "a", "x": 1, "y": 0}, {"text": "b", "x": 2, "y": 1}]
    with pytest.raises(DataError, match="`x` is '2', not 0 or 1") as caught:
        read({"train": table, "validation": table}, label_column="x+y")
    assert caught.value.where == "data train, row 2"
    with pytest.raises(DataError, match="there is no column `z`"):
        read({"train": table, "validation": table}, label_column="x+z")
    with pytest.raises(DataError, match="no row of train has a label"):
        read({"train": labelled([], []), "validation": labelled([])})
    with pytest.raises(DataError, match="`c` does not occur in train"):
        read({"train": labelled(["a"], ["b"]), "validation": labelled(["c"])})


def test_hidden_flags_of_a_test_split() -> None:
    table = [{"text": "a", "x": 1, "y": 0}, {"text": "b", "x": 0, "y": 1}]
    hidden = [{"text": "a", "x": -1, "y": -1}]
    for test in (hidden, [{"text": "a"}]):
        data = read({"train": table, "validation": table, "test": test}, label_column="x+y", text_columns="text")
        assert data.splits["test"].targets is None
    with pytest.raises(DataError, match="is -1: 1 row without a gold label"):
        read({"train": table, "validation": hidden}, label_column="x+y", text_columns="text")


def test_rows_are_held_out_by_their_rarest_label() -> None:
    common, rare = [["a"]] * 60 + [[]] * 20, [["a", "b"]] * 10 + [["a", "c"]]
    data = read(labelled(*common, *rare))
    assert label_counts(data.splits["validation"], data.label_names) == {"a": 7, "b": 1, "c": 0}
    assert sum(not any(row) for row in targets(data, "validation")) == 2


# --- metrics


def answers(count: int, labels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits with ties, and truth; the last label never occurs."""
    chance = np.random.default_rng(seed)
    truth = (chance.random((count, labels)) < 0.3).astype(np.float32)
    truth[:, -1] = 0
    return np.round(truth + chance.normal(size=truth.shape), 1).astype(np.float32), truth


def test_f1_and_average_precision_agree_with_scikit_learn() -> None:
    from sklearn import metrics

    for seed in range(10):
        logits, truth = answers(60, 5, seed)
        sure = sigmoid(logits)
        values = computed(MetricSet.of("multi-label", list("abcde")), logits, truth, 0.6)
        given = sure >= 0.6
        assert values["micro_f1"] == pytest.approx(metrics.f1_score(truth, given, average="micro"), abs=1e-12)
        f1 = metrics.f1_score(truth, given, average=None, zero_division=0)
        assert values["macro_f1"] == pytest.approx(f1[given.any(0) | truth.any(0)].mean(), abs=1e-12)
        expected = [metrics.average_precision_score(truth[:, i], sure[:, i]) for i in range(4)]
        assert values["average_precision"] == pytest.approx(np.mean(expected), abs=1e-12)
        evaluation = Evaluation("test", np.arange(60), logits, truth, None, {}, 0.6, "multi-label")
        table = MetricSet.of("multi-label", list("abcde")).per_class(evaluation)
        assert [row["f1"] for row in table] == pytest.approx(f1.tolist(), abs=1e-12)
        assert [row["average_precision"] for row in table][:4] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", ["macro_f1", "micro_f1"])
def test_no_other_threshold_is_better(metric: str) -> None:
    function = {"macro_f1": label_macro_f1, "micro_f1": label_micro_f1}[metric]
    for seed in range(20):
        logits, truth = answers(30, 4, seed)
        sure = sigmoid(logits)

        def value(threshold: float, sure: np.ndarray = sure, truth: np.ndarray = truth) -> float:
            return float(function(Ranking.of(sure, truth, threshold).counts(np.ones(30))))

        best = best_threshold(sure, truth, metric)
        assert value(best) == pytest.approx(max(value(t) for t in np.unique(sure)), abs=1e-12)
        assert np.abs(sure - best).min() > 1e-4, "it lies between two probabilities"


def test_the_set_of_metrics_and_the_one_that_chooses() -> None:
    metrics = MetricSet.of("multi-label", TOPICS)
    assert (metrics.names, metrics.main) == (("average_precision", "macro_f1", "micro_f1"), "average_precision")
    assert MetricSet.of("multi-label", TOPICS, None, "micro_f1").main == "micro_f1"
    for wrong in ("accuracy", "f1", "pearson"):
        with pytest.raises(UsageError, match="multi-label task"):
            MetricSet.of("multi-label", TOPICS, None, wrong)
    with pytest.raises(UsageError, match="single-label task"):
        MetricSet.of("single-label", TOPICS, None, "average_precision")


def test_intervals_hold_their_value_and_the_baseline_is_one_answer_to_all() -> None:
    metrics = MetricSet.of("multi-label", list("abcde"))
    logits, truth = answers(80, 5, 0)
    losses = np.random.default_rng(1).exponential(size=80)
    values = {"loss": float(losses.mean()), **computed(metrics, logits, truth, 0.6)}
    evaluation = Evaluation("test", np.arange(80), logits, truth, losses, values, 0.6, "multi-label")
    constant = constant_answer(metrics, truth)
    assert constant == pytest.approx(truth.mean(0))
    entries = verdict(evaluation, metrics, constant, 42)
    assert entries == verdict(evaluation, metrics, constant, 42)
    assert entries.keys() == values.keys()
    for name, value in values.items():
        assert entries[name]["low"] < value == entries[name]["value"] < entries[name]["high"], name
    assert entries["average_precision"]["high"] - entries["average_precision"]["low"] > 0.05
    baseline = {name: entry["baseline"] for name, entry in entries.items()}
    assert baseline["average_precision"] == pytest.approx(truth[:, :4].mean())
    present = truth[:, :4]
    entropy = -(present * np.log(present.mean(0)) + (1 - present) * np.log(1 - present.mean(0))).sum(-1).mean() / 5
    assert baseline["loss"] == pytest.approx(entropy, abs=1e-6)
    shares = truth[:, :4].mean(0)  # to give all four to every row is what one answer to all can do best
    assert baseline["macro_f1"] == pytest.approx((2 * shares / (1 + shares)).mean())


def test_an_interval_of_labels_that_are_all_right_is_no_point() -> None:
    metrics = MetricSet.of("multi-label", TOPICS)
    truth = (np.random.default_rng(0).random((40, len(TOPICS))) < 0.4).astype(np.float32)
    logits = np.where(truth > 0, 5.0, -5.0)
    values = computed(metrics, logits, truth)
    assert set(values.values()) == {1.0}
    lows = []
    for rows in (10, 40):
        part = logits[:rows], truth[:rows], np.ones(rows), {"loss": 1.0, **values}
        entries = verdict(Evaluation("test", np.arange(rows), *part, task="multi-label"), metrics, None, 42)
        assert all(entries[name]["high"] == 1.0 for name in values)
        lows.append([entries[name]["low"] for name in values])
    assert all(0.2 < few < many < 0.97 for few, many in zip(*lows, strict=True))


# --- a whole run


@pytest.fixture(scope="module")
def finished(tiny_model: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> dongu.RunResult:
    """To be read only; the data lie beside it."""
    folder = tmp_path_factory.mktemp("finished")
    for seed, (name, count) in enumerate({"train": 96, "validation": 40, "test": 30}.items()):
        lines = [json.dumps(row) for row in rows(count, seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return dongu.train(
        str(folder), model=tiny_model(dropout=0.1), epochs=12, lr=1e-2, out=str(folder / "run"), threads=1
    )


def test_a_run_learns_and_records_its_threshold(
    finished: dongu.RunResult, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification, pipeline

    results, folder = finished.results, finished.path / "model"
    assert list(finished.metrics) == ["loss", "average_precision", "macro_f1", "micro_f1"]
    assert finished.metrics["average_precision"] > 0.95
    assert results["validation"]["average_precision"]["baseline"] < 0.6
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.problem_type == "multi_label_classification"
    assert model.config.threshold == results["threshold"] != 0.5
    assert f"at least {results['threshold']:.4g}" in (folder / "README.md").read_text(encoding="utf-8")
    assert [(row["split"], row["class"]) for row in results["per_class"]] == [
        (split, topic) for split in ("validation", "test") for topic in TOPICS
    ]
    mean = np.mean([row["f1"] for row in results["per_class"] if row["split"] == "test"])
    assert results["test"]["macro_f1"]["value"] == pytest.approx(mean)

    texts = ["film word0 word0 a", "film word1 word2 word1 word2", "film good bad"]
    found = dongu.load(finished.path, device="cpu").predict(texts)
    assert [answer["prediction"] for answer in found] == [["word0"], ["word1", "word2"], []]
    for text, answer in zip(texts, found, strict=True):
        plain = pipeline("text-classification", model=str(folder), top_k=None, device="cpu")([text])[0]
        assert {item["label"]: item["score"] for item in plain} == pytest.approx(answer["probabilities"], abs=1e-6)

    lines = [json.loads(line) for line in (finished.path / "predictions" / "test.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines] == [row["label"] for row in rows(30, 2)]
    for line in lines:
        reached = [name for name, value in line["probabilities"].items() if value >= results["threshold"]]
        assert line["prediction"] == reached

    path, out, data = str(finished.path), tmp_path / "answers.csv", str(finished.path.parent / "test.jsonl")
    assert run(["predict", path, *texts]) == 0
    shown = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in shown] == ["word0", "word1|word2", "-"]
    assert run(["predict", path, "--data", data, "--out", str(out)]) == 0
    table = [line.split(",") for line in out.read_text().splitlines()]
    assert table[0][3:] == ["prediction", *(f"probability of {topic}" for topic in TOPICS)]
    assert [row.split("|") if row else [] for row in (line[-4] for line in table[1:])] == [
        line["prediction"] for line in lines
    ]
    capsys.readouterr()
    assert run(["evaluate", path, "--json"]) == 0
    own = json.loads(capsys.readouterr().out)
    assert run(["evaluate", path, data, "--json"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert (  # a bag of words is of the run's own train rows, and says nothing of others
        {key: value for key, value in own["test"].items() if not key.endswith("bag_of_words")}
        == other["test"]
        == {
            name if key == "value" else f"{name}_{key}": number
            for name, entry in results["test"].items()
            for key, number in entry.items()
        }
    )


@pytest.mark.crash
def test_a_threshold_is_no_part_of_what_a_run_began_with(tiny_model: Callable[..., str], tmp_path: Path) -> None:
    """An evaluation before the run sets it, in the model's config."""
    data = {"train": rows(24), "validation": rows(12, seed=1)}
    loop = dongu.Loop(data, model=tiny_model(), max_steps=2, threads=1)
    loop.evaluate()
    with contextlib.suppress(KeyboardInterrupt), loop.run(tmp_path / "run") as run:
        for _ in run:
            raise KeyboardInterrupt
    assert dongu.resume(tmp_path / "run", data).results["steps"] == 2


def test_a_run_is_proved(finished: dongu.RunResult, tmp_path: Path) -> None:
    proofs = list(verify(finished.path))
    assert [proof.name for proof in proofs if not proof.holds] == []
    run = Path(shutil.copytree(finished.path, tmp_path / "run"))
    config = run / "model" / "config.json"
    config.write_text(config.read_text().replace('"threshold": 0.', '"threshold": 0.9'))
    assert {"files", "results"} <= {proof.name for proof in verify(run) if not proof.holds}


def test_any_split_gives_the_same_update_and_it_is_the_mean_over_rows_and_labels(
    tiny_model: Callable[..., str],
) -> None:
    data: Any = {"train": rows(45), "validation": rows(9)}
    options: dict[str, Any] = {"model": tiny_model(), "batch_size": 32, "max_steps": 2, "lr": 1e-3}
    whole = [value for step in dongu.Loop(data, **options) for value in (step.loss, step.grad_norm)]
    for size in (16, 7, 1):
        loop = dongu.Loop(data, micro_batch_size=size, **options)
        assert [value for step in loop for value in (step.loss, step.grad_norm)] == pytest.approx(whole, rel=1e-6)
    loop = dongu.Loop(data, engine="plain", **options)
    [batch] = loop.train_updates[0].micro_batches
    with torch.no_grad():
        theirs = loop.model(**batch.to(torch.device("cpu"))).loss
    assert float(theirs) == pytest.approx(whole[0], rel=1e-6)
