"""Intervals hold what they say, also where nothing varies; a baseline is what answers reach that read nothing."""

from __future__ import annotations

import json
import math
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import computed
from dongu.cli.main import run
from dongu.config import Task
from dongu.judge.answers import Evaluation
from dongu.judge.intervals import baseline, constant_answer, verdict
from dongu.judge.metrics import INFLUENCES, MetricSet, metric_value
from dongu.judge.words import Yardstick, table
from dongu.model.loss import row_losses

TWO, THREE = ("no", "yes"), ("a", "b", "c")
Judged = tuple[MetricSet, Evaluation]


def evaluation_of(metrics: MetricSet, logits: np.ndarray, targets: np.ndarray) -> Evaluation:
    """As `evaluate` makes it."""
    logits = logits.astype(np.float32)
    losses = row_losses(metrics.task, logits, targets)
    found = Evaluation("validation", np.arange(len(targets)), logits, targets, losses, {}, task=metrics.task)
    return replace(found, metrics=metrics.values(found))


def noisy(labels: tuple[str, ...], rows: int, seed: int, right: float = 0.8, main: str | None = None) -> Judged:
    """A model that is right in this share of the rows, with logits of many sizes."""
    random = np.random.default_rng(seed)
    targets = random.integers(0, len(labels), rows)
    predicted = np.where(random.random(rows) < right, targets, (targets + 1) % len(labels))
    logits = np.eye(len(labels))[predicted] * random.uniform(0.5, 3, rows)[:, None]
    metrics = MetricSet.of("single-label", labels, None, main)
    return metrics, evaluation_of(metrics, logits, targets)


def scores(rows: int, seed: int) -> Judged:
    """Numbers that go with their targets by halves, many of them equal."""
    random = np.random.default_rng(seed)
    targets = np.round(random.normal(size=rows), 1).astype(np.float32)
    metrics = MetricSet.of("regression", ("score",))
    return metrics, evaluation_of(metrics, np.round(targets + random.normal(size=rows), 1)[:, None], targets)


# --- intervals


@pytest.mark.parametrize("judged", [noisy(TWO, 80, 0), noisy(THREE, 80, 0), scores(80, 0)])
def test_an_interval_holds_its_value_and_is_a_function_of_the_seed(judged: Judged) -> None:
    metrics, evaluation = judged
    entries = verdict(evaluation, metrics, None, 42)
    np.random.seed(0)
    assert verdict(evaluation, metrics, None, 42) == entries
    assert verdict(evaluation, metrics, None, 43) != entries
    assert set(evaluation.metrics) <= set(entries)
    for name, entry in entries.items():
        assert entry["low"] < entry["value"] < entry["high"], name
        assert name not in evaluation.metrics or entry["value"] == evaluation.metrics[name]
        assert name in ("loss", "mae", "rmse", "r2") or (entry["low"] >= -1 and entry["high"] <= 1)


def test_a_small_chunk_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many resamples are held at a time is a matter of memory."""
    for metrics, evaluation in (noisy(THREE, 80, 0), scores(80, 0)):
        whole = verdict(evaluation, metrics, None, 42)
        monkeypatch.setattr("dongu.judge.resample.DRAWN_CELLS", 7 * 80)
        assert verdict(evaluation, metrics, None, 42) == whole
        monkeypatch.undo()


def test_the_interval_of_an_accuracy_is_the_binomial_one() -> None:
    from scipy.stats import binom

    for rows, seed in ((60, 1), (400, 2), (3000, 3)):
        metrics, evaluation = noisy(TWO, rows, seed)
        entry = verdict(evaluation, metrics, None, 42)["accuracy"]
        expected = binom(rows, entry["value"]).ppf([0.025, 0.975]) / rows
        width = expected[1] - expected[0]
        assert [entry["low"], entry["high"]] == pytest.approx(expected, abs=0.07 * width + 1 / rows)


def test_intervals_are_those_of_resampled_rows() -> None:
    """The quantiles of metrics that are computed row by row, resample by resample, by the metrics themselves."""
    classes, numbers = noisy(THREE, 60, 3, main="matthews_correlation"), scores(60, 3)
    for metrics, evaluation in (classes, numbers):
        entries = verdict(evaluation, metrics, None, 42)
        targets, losses = evaluation.targets, evaluation.losses
        assert targets is not None
        assert losses is not None
        random = np.random.default_rng(0)
        drawn: dict[str, list[float]] = {name: [] for name in evaluation.metrics}
        for _ in range(3000):
            rows = random.integers(0, 60, 60)
            again = {"loss": losses[rows].mean(), **computed(metrics, evaluation.logits[rows], targets[rows])}
            for name in drawn:
                drawn[name].append(again[name])
        for name, values in drawn.items():
            expected = np.quantile(values, [0.025, 0.975])
            found = [entries[name]["low"], entries[name]["high"]]
            assert found == pytest.approx(expected, abs=0.15 * (expected[1] - expected[0])), name


def test_intervals_cover_the_truth() -> None:
    """Of 200 samples of a model that is right in 80%, about 95% have the truth in their interval."""
    held = 0
    for seed in range(200):
        metrics, evaluation = noisy(TWO, 100, seed)
        entry = verdict(evaluation, metrics, None, seed)["accuracy"]
        held += entry["low"] <= 0.8 <= entry["high"]
    assert 180 <= held <= 198


def test_an_interval_narrows_with_the_rows() -> None:
    widths = []
    for rows in (50, 5000):
        metrics, evaluation = noisy(TWO, rows, 0)
        entry = verdict(evaluation, metrics, None, 0)["accuracy"]
        widths.append(entry["high"] - entry["low"])
    assert widths[0] / widths[1] == pytest.approx(10, rel=0.3)  # the root of a hundredfold


def test_a_metric_on_which_all_resamples_agree_is_not_certain() -> None:
    """20 rows, all right: Wilson's interval begins at 20 / (20 + 1.96^2), and a bootstrap's at 1."""
    metrics = MetricSet.of("single-label", TWO, None, "matthews_correlation")
    targets = np.arange(20) % 2
    edge = 20 / (20 + 1.959964**2)
    for sign, value in ((9.0, 1.0), (-9.0, 0.0)):
        entry = verdict(evaluation_of(metrics, sign * np.eye(2)[targets], targets), metrics, None, 0)["accuracy"]
        assert entry["value"] == value
        assert sorted((entry["low"], entry["high"])) == pytest.approx(sorted((value, edge if value else 1 - edge)))
    sure = verdict(evaluation_of(metrics, 9 * np.eye(2)[targets], targets), metrics, None, 0)
    assert 0 < sure["f1"]["low"] < 0.9
    assert sure["f1"]["high"] == 1
    assert sure["matthews_correlation"]["low"] < 0.8
    one_answer = verdict(evaluation_of(metrics, np.tile([9.0, 0], (20, 1)), targets), metrics, None, 0)
    assert one_answer["f1"]["value"] == one_answer["f1"]["low"] == 0 < one_answer["f1"]["high"] < 0.5


def test_macro_f1_of_classes_with_a_row_each_is_not_sure_of_anything() -> None:
    """Samples count a part of a row more of each class, and so all lie above a model that is never right but once."""
    rows, metrics = 200, MetricSet.of("single-label", tuple(f"c{i}" for i in range(200)), None, "macro_f1")
    logits = np.eye(rows)[np.where(np.arange(rows) < 190, 0, 199)]
    constant = (1.0, *[0.0] * (rows - 1))
    entry = verdict(evaluation_of(metrics, logits, np.arange(rows)), metrics, constant, 0)["macro_f1"]
    assert entry["low"] <= entry["baseline"] < entry["value"] < entry["high"]
    assert Yardstick.of(metrics, constant).standing(entry).startswith("not clearly better")


def test_a_correlation_with_one_answer_has_no_interval() -> None:
    metrics = MetricSet.of("regression", ("score",))
    evaluation = evaluation_of(metrics, np.full((20, 1), 0.1), np.arange(20, dtype=np.float32))
    entries = verdict(evaluation, metrics, [9.5], 0)
    for name in ("pearson", "spearman"):
        assert all(math.isnan(number) for number in entries[name].values())
    assert entries["loss"]["low"] < entries["loss"]["value"] < entries["loss"]["high"]


def test_hidden_labels_have_no_verdict() -> None:
    metrics = MetricSet.of("single-label", TWO)
    assert verdict(Evaluation("test", np.arange(3), np.zeros((3, 2)), None, None, {}), metrics, [0.5, 0.5], 0) == {}


# --- baselines


def test_the_baseline_says_the_most_frequent_class_of_train() -> None:
    metrics = MetricSet.of("single-label", TWO)
    validation = np.array([0, 0, 0, 1])  # here another class is the most frequent
    often_yes, often_no = (
        constant_answer(metrics, np.array([1, 1, 1, 0])),
        constant_answer(metrics, np.array([0, 0, 1])),
    )
    assert often_yes == [0.25, 0.75]
    found = baseline(metrics, often_yes, validation)
    assert found == {
        "loss": pytest.approx(-(3 * math.log(0.25) + math.log(0.75)) / 4),
        "accuracy": 0.25,
        "f1": pytest.approx(0.4),
    }
    assert often_no is not None
    assert baseline(metrics, often_no, validation) | {"loss": 0} == {"loss": 0, "accuracy": 0.75, "f1": 0.4}
    three = MetricSet.of("single-label", THREE)
    absent = constant_answer(three, np.array([2, 2]))
    assert absent == [0, 0, 1]
    assert baseline(three, absent, np.array([0, 1])) == {"loss": math.inf, "accuracy": 0, "macro_f1": 0}
    assert baseline(three, absent, np.array([2]))["loss"] == 0
    assert constant_answer(three, None) is None


@pytest.mark.parametrize("shares", [(1 / 3, 1 / 3, 1 / 3), (0.7, 0.2, 0.1), (0.1, 0.1, 0.8)])
def test_the_baseline_of_macro_f1_is_what_guesses_reach(shares: tuple[float, ...]) -> None:
    """And a model that guesses is not said to be better, as it was than one that gives one class alone."""
    random, rows = np.random.default_rng(0), 600
    metrics = MetricSet.of("single-label", THREE)
    targets = random.choice(3, rows, p=shares)
    constant = constant_answer(metrics, targets)
    assert constant is not None
    guesses = np.eye(3)[random.choice(3, (200, rows), p=constant)]
    reached = [computed(metrics, guess, targets)["macro_f1"] for guess in guesses]
    found = baseline(metrics, constant, targets)["macro_f1"]
    assert found == pytest.approx(np.mean(reached), abs=0.005)
    alone = computed(metrics, np.tile(constant, (rows, 1)), targets)["macro_f1"]
    assert alone < found
    yardstick, said = Yardstick.of(metrics, constant), []
    for guess in guesses[:40]:
        entry = verdict(evaluation_of(metrics, guess, targets), metrics, constant, 0)["macro_f1"]
        said.append(yardstick.standing(entry))
        assert said[-1].endswith(" than guessing by class frequencies")
    assert sum(words.startswith("better") for words in said) <= 3


def test_the_baseline_of_macro_f1_may_be_one_class() -> None:
    metrics, targets = MetricSet.of("single-label", THREE), np.array([0] * 9 + [1])
    assert baseline(metrics, [0.5, 0.25, 0.25], targets)["macro_f1"] == pytest.approx(18 / 19 / 2)


def test_the_baseline_of_f1_is_always_the_positive_class() -> None:
    metrics, targets = MetricSet.of("single-label", TWO, None, "f1"), np.array([0, 0, 0, 1])
    yardstick = Yardstick.of(metrics, [0.75, 0.25])
    entry = {"value": 0.39, "low": 0.3, "high": 0.5, "baseline": baseline(metrics, [0.75, 0.25], targets)["f1"]}
    assert entry["baseline"] == pytest.approx(0.4)
    assert yardstick.standing(entry) == "not better than always answering “yes”"
    [line] = [line for line in table({"test": {"f1": entry}}, "single-label") if "f1" in line]
    assert line.endswith("0.4000 positive class")


def test_the_baseline_of_numbers_is_the_mean_of_train() -> None:
    metrics = MetricSet.of("regression", ("score",))
    mean = constant_answer(metrics, np.array([1, 2, 6], np.float32))
    assert mean == [3]
    found = baseline(metrics, mean, np.array([1, 3], np.float32))
    assert found["loss"] == 2
    assert math.isnan(found["pearson"])
    assert math.isnan(found["spearman"])


# --- own metrics


def own_accuracy(evaluation: Evaluation) -> float:
    return float((evaluation.predictions == evaluation.targets).mean())


def with_own(metric: Callable[[Evaluation], float], rows: int = 80, right: float = 0.8) -> Judged:
    _, evaluation = noisy(THREE, rows, 0, right)
    metrics = MetricSet.of("single-label", THREE, own={"own": metric})
    return metrics, replace(evaluation, metrics=metrics.values(evaluation))


def test_an_own_metric_has_the_interval_and_the_baseline_of_the_named_one() -> None:
    metrics, evaluation = with_own(own_accuracy)
    constant = constant_answer(metrics, np.array([2, 2, 1, 0]))
    entries = verdict(evaluation, metrics, constant, 42)
    assert verdict(evaluation, metrics, constant, 42) == entries
    named, own = entries["accuracy"], entries["own"]
    assert (own["value"], own["baseline"]) == (named["value"], named["baseline"])
    assert [own["low"], own["high"]] == pytest.approx([named["low"], named["high"]], abs=0.03)


def test_an_own_metric_of_rows_that_are_all_right_is_not_certain() -> None:
    metrics, evaluation = with_own(own_accuracy, rows=40, right=1.0)
    entry = verdict(evaluation, metrics, None, 0)["own"]
    assert entry["value"] == entry["high"] == 1
    assert 0.85 < entry["low"] < 0.95, "40 rows may miss about 9% of what there is"


def test_an_own_metric_that_fails_on_some_samples_has_an_interval_of_the_others() -> None:
    def fussy(evaluation: Evaluation) -> float:
        if len(set(evaluation.predictions)) < 2:
            raise ValueError("one class only")
        return own_accuracy(evaluation)

    metrics, evaluation = with_own(fussy, rows=6)
    entry = verdict(evaluation, metrics, [0.2, 0.3, 0.5], 0)["own"]
    assert math.isnan(entry["baseline"]), "a constant answer is one class"
    assert entry["low"] < entry["value"] < entry["high"]


@pytest.mark.parametrize(("numbers", "drawn"), [(80 * 1_001, 1_000), (80 * 300, 300), (80, 100)])
def test_how_often_a_metric_is_drawn_is_a_matter_of_the_rows(
    numbers: int, drawn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not of the clock: else the interval, and what `verify` says of it, would be another on each machine."""
    calls = 0

    def counting(evaluation: Evaluation) -> float:
        nonlocal calls
        calls += 1
        return own_accuracy(evaluation)

    metrics, evaluation = with_own(counting)
    monkeypatch.setattr("dongu.judge.intervals.DRAWN_NUMBERS", numbers)
    clock = iter(range(0, 10**9, 100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))  # of a slow machine
    calls = 0
    entry = verdict(evaluation, metrics, None, 0)["own"]
    assert calls == drawn
    assert entry["low"] < entry["value"] < entry["high"]


# --- where they are shown


@pytest.mark.parametrize("task", ["single-label", "regression"])
def test_evaluate_says_what_results_json_says(
    task: Task, tiny_model: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"word{i % 9} film,{i % 9 / 2 if task == 'regression' else i % 2}" for i in range(60)]
    data = tmp_path / "data.csv"
    data.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    out = tmp_path / "run"
    options = ["--model", tiny_model(), "--epochs", "1", "--out", str(out), "--device", "cpu"]
    assert run(["train", str(data), *options]) == 0
    trained = capsys.readouterr().out
    assert run(["evaluate", str(out)]) == 0
    table = capsys.readouterr().out.partition("if only the most confident")[0].splitlines()  # which a run does not say
    constants = ["train mean"] if task == "regression" else ["class frequencies", "majority class"]
    head = next(i for i, line in enumerate(table) if line.endswith("baseline"))
    sentence = " ".join(table[:head]).strip()
    assert "95% interval" in sentence
    assert sentence in " ".join(trained.split())
    for line in table[head:]:
        assert line in trained.splitlines()
    for constant in constants:
        assert any(constant in line for line in table)
    card = (out / "model" / "README.md").read_text(encoding="utf-8")
    entries = json.loads((out / "results.json").read_text(encoding="utf-8"))["validation"]
    for name, entry in entries.items():
        row = next(line for line in card.splitlines() if line.startswith(f"| validation | {name} |"))
        if entry["value"] is not None:
            assert f"| {entry['value']:.4f} | {entry['low']:.4f} to {entry['high']:.4f} |" in row

    capsys.readouterr()
    assert run(["evaluate", str(out), "--json"]) == 0
    flat = json.loads(capsys.readouterr().out)["validation"]
    for name, entry in entries.items():
        assert flat[name] == entry["value"]
        for key in {"low", "high", "baseline", "chance"} & set(entry):
            assert flat[f"{name}_{key}"] == entry[key], (name, key)


# --- levels: `benchmarks/coverage.py` has all of them, these are the ones that a percentile bootstrap misses


@pytest.mark.cases(test=1, ci=3)
@pytest.mark.parametrize(("rows", "name"), [(400, "accuracy"), (100, "loss"), (400, "loss")])
def test_intervals_of_few_errors_hold_the_truth(rows: int, name: str) -> None:
    """A model that is right in 98% and overconfident: a percentile bootstrap holds the loss of 100 rows in 72%."""
    metrics = MetricSet.of("single-label", TWO)

    def drawn(rows: int, seed: int) -> Evaluation:
        random = np.random.default_rng(seed)
        targets = random.integers(0, 2, rows)
        logit = 1.5 * 2 * 2.05 * (2.05 * (2 * targets - 1) + random.normal(size=rows))
        return evaluation_of(metrics, np.stack([-logit / 2, logit / 2], 1), targets)

    truth, held = drawn(400_000, 999).metrics[name], 0
    for seed in range(150):
        entry = verdict(drawn(rows, seed), metrics, None, seed)[name]
        held += entry["low"] <= truth <= entry["high"]
    assert 136 <= held <= 149


@pytest.mark.crash
def test_macro_f1_of_rare_classes_holds_the_truth() -> None:
    """Of 100 rows two classes have 2 and 1: a percentile bootstrap holds it in 89%, without a row of them in less."""
    metrics, shares, held = MetricSet.of("single-label", tuple("abcdef")), (0.4, 0.3, 0.2, 0.07, 0.02, 0.01), 0

    def drawn(rows: int, seed: int) -> Evaluation:
        random = np.random.default_rng(seed)
        targets = random.choice(6, rows, p=shares)
        return evaluation_of(metrics, 3 * np.eye(6)[targets] + random.normal(size=(rows, 6)), targets)

    truth = drawn(400_000, 999).metrics["macro_f1"]
    for seed in range(150):
        entry = verdict(drawn(100, seed), metrics, None, seed)["macro_f1"]
        held += entry["low"] <= truth <= entry["high"]
    assert held >= 137


def test_a_correlation_moves_by_each_row_as_its_influence_says() -> None:
    """Against the correlation without that row; many numbers are equal."""
    _, evaluation = scores(60, 4)
    for name, of in INFLUENCES.items():
        without = [evaluation.take(np.delete(np.arange(60), i)) for i in range(60)]
        moved = [59 * (evaluation.metrics[name] - metric_value(each, name)) for each in without]
        assert of(evaluation) == pytest.approx(moved, abs=0.05, rel=0.15), name


def sets(rows: int, seed: int) -> Judged:
    """Three labels, one of which a row in a thousand has."""
    random = np.random.default_rng(seed)
    truth = (random.random((rows, 3)) < (0.3, 0.2, 0.001)).astype(np.float32)
    metrics = MetricSet.of("multi-label", THREE)
    return metrics, evaluation_of(metrics, 3 * truth - 1.5 + random.normal(size=truth.shape), truth)


def numbers_of(task: Task, rows: int, seed: int) -> Judged:
    """Numbers, or the classes of a scale, with every metric that they may have."""
    random = np.random.default_rng(seed)
    targets = random.normal(3, 1, rows).round() if task == "ordinal" else random.normal(3, 1, rows)
    targets = targets.clip(1, 5).astype(np.float32)
    metrics = MetricSet.of(task, tuple("12345"))
    if task == "regression":
        metrics = replace(metrics, label_names=("score",), names=("mae", "rmse", "r2"))
    logits = (targets + 0.6 * random.normal(size=rows)).astype(np.float32)[:, None]
    found = Evaluation("test", np.arange(rows), logits, targets, (logits[:, 0] - targets) ** 2, {}, task=task)
    found = replace(found, scale=metrics.scale)
    return metrics, replace(found, metrics=metrics.values(found))


@pytest.mark.cases(test=1, ci=3)
@pytest.mark.parametrize(
    "judged", [sets(12_000, 5), numbers_of("regression", 12_000, 5), numbers_of("ordinal", 12_000, 5)]
)
def test_many_rows_have_the_intervals_of_the_bootstrap(judged: Judged, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of as many rows as both can do: ends are a tenth of a width apart, as those of two bootstraps may be."""
    metrics, evaluation = judged
    quick = verdict(evaluation, metrics, None, 42)
    monkeypatch.setattr("dongu.judge.intervals.WEIGHED_ROWS", len(evaluation))
    slow = verdict(evaluation, metrics, None, 42)
    assert slow["loss"] == quick["loss"]
    for name in evaluation.metrics:
        ends = [slow[name][end] for end in ("low", "high")]
        assert [quick[name][end] for end in ("low", "high")] == pytest.approx(ends, abs=0.12 * (ends[1] - ends[0])), (
            name
        )
        assert name in ("loss", "accuracy") or quick[name] != slow[name]


def test_a_hundred_thousand_rows_take_a_second() -> None:
    for metrics, evaluation in (sets(100_000, 6), numbers_of("regression", 100_000, 6)):
        began = time.process_time()
        entries = verdict(evaluation, metrics, None, 42)
        assert time.process_time() - began < 2  # the row bootstrap: 20 and 3 on the same machine
        assert all(entries[name]["low"] < value < entries[name]["high"] for name, value in evaluation.metrics.items())


def test_few_rows_have_no_interval_and_a_million_take_seconds() -> None:
    metrics, evaluation = noisy(TWO, 3, 0)
    entries = verdict(evaluation, metrics, None, 0)
    assert math.isnan(entries["loss"]["low"])
    assert entries["accuracy"]["low"] < entries["accuracy"]["high"]
    metrics, evaluation = noisy(THREE, 1_000_000, 0)
    began = time.process_time()
    entry = verdict(evaluation, metrics, None, 0)["macro_f1"]
    assert time.process_time() - began < 10
    assert 0.001 < entry["high"] - entry["low"] < 0.002


def test_many_classes_take_no_square_of_their_number() -> None:
    """A run of 10,000 classes hung at its end, in a thousand confusion matrices of a hundred million numbers each."""
    classes = tuple(map(str, range(3_000)))
    metrics, evaluation = noisy(classes, 20, 0)
    tracemalloc.start()
    try:
        entries = verdict(evaluation, metrics, None, 42)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(classes) ** 2, "one matrix of sums"
    assert entries["macro_f1"]["low"] <= entries["macro_f1"]["value"] <= entries["macro_f1"]["high"]
