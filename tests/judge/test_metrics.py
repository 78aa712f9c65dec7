"""The metrics are those of scikit-learn and SciPy, also where they degenerate."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest

from conftest import computed
from dongu.config import Task
from dongu.errors import UsageError
from dongu.judge.answers import Evaluation, confusion_matrix
from dongu.judge.metrics import CLASS_METRICS, MetricSet, matthews_correlation
from dongu.judge.numeric import mae_of, pearson_of, r2_of, rmse_of, spearman_of
from dongu.judge.resample import Statistic

TWO, THREE = ("no", "yes"), ("a", "b", "c")
NAN = float("nan")


def logits_of(predictions: np.ndarray, labels: int) -> np.ndarray:
    """(rows, labels) logits whose largest is the prediction."""
    return np.asarray(np.eye(labels, dtype=np.float32)[predictions])


def reference(name: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """scikit-learn's function for a metric."""
    from sklearn import metrics

    functions: dict[str, Callable[..., float]] = {
        "accuracy": metrics.accuracy_score,
        "f1": lambda truth, predicted: metrics.f1_score(truth, predicted, zero_division=0),
        "macro_f1": lambda truth, predicted: metrics.f1_score(truth, predicted, average="macro", zero_division=0),
        "matthews_correlation": metrics.matthews_corrcoef,
    }
    return functions[name]


def class_cases() -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Truth, prediction, labels: random ones, constant ones, ones where classes are absent on either side."""
    random = np.random.default_rng(0)
    cases = []
    for labels, rows in itertools.product((2, 3, 7), (1, 2, 9, 200)):
        for used in {1, 2, labels}:
            truth, noise = random.integers(0, used, rows), random.integers(0, labels, rows)
            cases.append((truth, np.where(random.random(rows) < 0.6, truth, noise), labels))
            cases.append((truth, np.full(rows, labels - 1), labels))
            cases.append((np.full(rows, labels - 1), truth, labels))
            cases.append((truth, truth, labels))
    return cases


def counts_of(confusion: np.ndarray) -> np.ndarray:
    """Rows predicted rightly, predicted, and true, of each class: (3, …, labels) of (…, truth, prediction) counts."""
    return np.stack([np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-2), confusion.sum(-1)])


@pytest.mark.parametrize("name", list(CLASS_METRICS))
def test_class_metrics_agree_with_scikit_learn(name: str) -> None:
    for truth, predicted, labels in class_cases():
        if name == "f1" and labels != 2:
            continue
        value = float(CLASS_METRICS[name](counts_of(confusion_matrix(predicted, truth, labels))))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn warns where a metric is not defined
            expected = reference(name)(truth, predicted)
        assert value == pytest.approx(expected, abs=1e-12), (truth, predicted)


def test_a_large_split_does_not_overflow() -> None:
    """The squares of 100,000 rows, multiplied, are beyond 64 bits."""
    assert float(matthews_correlation(counts_of(np.array([[40_000, 10_000], [10_000, 40_000]])))) == pytest.approx(0.6)
    many = confusion_matrix(np.arange(400_000) % 5, np.arange(400_000) % 5, 5)
    assert float(matthews_correlation(counts_of(many))) == pytest.approx(1)


@pytest.mark.parametrize("name", list(CLASS_METRICS))
def test_many_matrices_at_once(name: str) -> None:
    stack = np.random.default_rng(0).integers(0, 9, (4, 5, 2, 2))
    stack[0, 0] = 0
    values = CLASS_METRICS[name](counts_of(stack))
    assert values.shape == (4, 5)
    for place in np.ndindex(4, 5):
        assert values[place] == CLASS_METRICS[name](counts_of(stack[place]))
    assert values[0, 0] == 0


def test_the_confusion_matrix_counts_truth_by_row() -> None:
    matrix = confusion_matrix(np.array([1, 1, 2, 0]), np.array([0, 1, 1, 0]), 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


NUMBERS = ("pearson", "spearman", "mae")


def test_errors_of_numbers() -> None:
    """By hand, of rows and of a sample in which one row stands twice and one not at all."""
    values, targets = np.array([1.0, 2.0, 4.0]), np.array([2.0, 2.0, 1.0])
    once, twice = np.ones((1, 3)), np.array([[2.0, 1.0, 0.0]])
    assert mae_of(values, targets)(once)[0] == pytest.approx(4 / 3)
    assert mae_of(values, targets)(twice)[0] == pytest.approx(2 / 3)
    assert rmse_of(values, targets)(once)[0] == pytest.approx(math.sqrt(10 / 3))
    assert rmse_of(values, targets)(twice)[0] == pytest.approx(math.sqrt(2 / 3))
    assert r2_of(values, targets)(once)[0] == pytest.approx(1 - 10 / (2 / 3))
    assert np.isnan(r2_of(values, targets)(twice)[0]), "all labels are 2"
    assert r2_of(targets, targets)(once)[0] == 1
    metrics = MetricSet.of("regression", ("score",), main="mae")
    assert metrics.main == "mae"
    assert metrics.better(1.0, 2.0)
    assert not metrics.better(2.0, 1.0)
    assert MetricSet.of("regression", ("score",), main="r2").better(2.0, 1.0)


def correlation(of: Callable[..., Statistic], values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.asarray(of(values, targets)(np.ones((1, len(values))))[0])


@pytest.mark.parametrize("of", [pearson_of, spearman_of])
def test_correlations_agree_with_scipy(of: Callable[..., Statistic]) -> None:
    from scipy import stats

    random = np.random.default_rng(0)
    expected = stats.pearsonr if of is pearson_of else stats.spearmanr
    for rows in (2, 3, 10, 200):
        for _ in range(10):
            x = random.normal(size=rows)
            y = np.round(x + random.normal(size=rows), 1)  # ties
            if len(set(y)) > 1:
                assert correlation(of, x, y) == pytest.approx(expected(x, y)[0], abs=1e-12)
    assert correlation(of, np.arange(5.0), np.arange(5.0) * 3 + 1) == pytest.approx(1)
    assert correlation(of, np.arange(5.0), -np.arange(5.0)) == pytest.approx(-1)


@pytest.mark.parametrize("of", [pearson_of, spearman_of])
def test_a_correlation_with_a_constant_is_not_a_number(of: Callable[..., Statistic]) -> None:
    for constant, rows in itertools.product((0.0, 1.0, 0.1, -3.7), (1, 3, 49, 1000)):
        same = np.full(rows, constant, dtype=np.float32).astype(np.float64)  # as a run's logits and targets are
        varied = np.arange(rows, dtype=np.float64)
        assert math.isnan(correlation(of, same, varied))
        assert math.isnan(correlation(of, varied, same))


# --- the set of a task

CHOICES: list[tuple[Task, tuple[str, ...], str | None, str | None, tuple[str, ...], str]] = [
    ("single-label", TWO, None, None, ("accuracy", "f1"), "accuracy"),
    ("single-label", TWO, "glue:mrpc", None, ("accuracy", "f1"), "accuracy"),
    ("single-label", TWO, "glue:cola", None, ("matthews_correlation", "accuracy", "f1"), "matthews_correlation"),
    ("single-label", THREE, None, None, ("accuracy", "macro_f1"), "macro_f1"),
    ("single-label", THREE, "owner/name", None, ("accuracy", "macro_f1"), "macro_f1"),
    ("regression", ("score",), "glue:stsb", None, ("pearson", "spearman"), "spearman"),
    ("single-label", TWO, None, "accuracy", ("accuracy", "f1"), "accuracy"),
    ("single-label", TWO, None, "loss", ("accuracy", "f1"), "loss"),
    ("single-label", TWO, None, "macro_f1", ("macro_f1", "accuracy", "f1"), "macro_f1"),
    (
        "single-label",
        THREE,
        None,
        "matthews_correlation",
        ("matthews_correlation", "accuracy", "macro_f1"),
        "matthews_correlation",
    ),
    ("regression", ("score",), None, "pearson", NUMBERS, "pearson"),
    ("regression", ("score",), None, "loss", NUMBERS, "loss"),
]


@pytest.mark.parametrize(("task", "labels", "hub_name", "main", "names", "chosen"), CHOICES)
def test_the_set_of_a_task(
    task: Task, labels: tuple[str, ...], hub_name: str | None, main: str | None, names: tuple[str, ...], chosen: str
) -> None:
    metrics = MetricSet.of(task, labels, hub_name, main)
    assert (metrics.names, metrics.main, metrics.label_names) == (names, chosen, labels)


@pytest.mark.parametrize(
    ("task", "labels", "main"),
    [
        ("single-label", THREE, "f1"),
        ("single-label", TWO, "pearson"),
        ("single-label", THREE, "spearman"),
        ("regression", ("score",), "accuracy"),
        ("regression", ("score",), "f1"),
        ("regression", ("score",), "macro_f1"),
    ],
)
def test_a_metric_that_does_not_fit(task: Task, labels: tuple[str, ...], main: str) -> None:
    with pytest.raises(UsageError) as caught:
        MetricSet.of(task, labels, None, main)
    assert caught.value.where == f"--metric {main}"
    offered = caught.value.hint.removeprefix("this task has: ").split(", ")
    assert "loss" in offered
    assert main not in offered


def test_compute() -> None:
    logits = np.array([[2, 1], [0, 1], [0, 1], [3, 1]], np.float32)
    metrics = MetricSet.of("single-label", TWO)
    assert computed(metrics, logits, np.array([0, 1, 0, 0])) == {"accuracy": 0.75, "f1": pytest.approx(2 / 3)}
    numbers = MetricSet.of("regression", ("score",))
    values = computed(numbers, np.array([[1], [2], [4]], np.float32), np.array([1, 2, 3], np.float32))
    assert values["spearman"] == pytest.approx(1)
    assert 0.9 < values["pearson"] < 1


@pytest.mark.parametrize(
    ("main", "new", "old", "better"),
    [
        ("f1", 0.5, None, True),
        ("f1", 0.6, 0.5, True),
        ("f1", 0.5, 0.5, False),
        ("f1", 0.4, 0.5, False),
        ("loss", 0.4, 0.5, True),
        ("loss", 0.5, 0.5, False),
        ("loss", 0.6, 0.5, False),
        ("f1", NAN, None, False),
        ("f1", NAN, 0.5, False),
        ("loss", NAN, 0.5, False),
        ("f1", NAN, NAN, False),
        ("f1", -0.5, NAN, True),  # else a first evaluation without a value would be the best for ever
        ("loss", 0.5, NAN, True),
    ],
)
def test_better(main: str, new: float, old: float | None, better: bool) -> None:
    assert MetricSet.of("single-label", TWO, None, main).better(new, old) is better


# --- own metrics


def quadratic_kappa(evaluation: Evaluation) -> float:
    from sklearn.metrics import cohen_kappa_score

    return float(cohen_kappa_score(evaluation.targets, evaluation.predictions, weights="quadratic"))


def test_an_own_metric_stands_beside_the_named_ones() -> None:
    metrics = MetricSet.of("single-label", THREE, None, "kappa", own={"kappa": quadratic_kappa})
    assert (metrics.names, metrics.main) == (("accuracy", "macro_f1", "kappa"), "kappa")
    assert metrics.better(0.6, 0.5)
    assert not metrics.better(0.4, 0.5)
    truth, predicted = np.array([0, 0, 1, 2, 2, 1]), np.array([0, 1, 1, 2, 2, 0])
    values = computed(metrics, logits_of(predicted, 3), truth)
    assert values["kappa"] == pytest.approx(quadratic_kappa_by_hand(truth, predicted))
    assert values["accuracy"] == pytest.approx(4 / 6)
    assert MetricSet.of("single-label", THREE, own={"kappa": quadratic_kappa}).main == "macro_f1", "unless it is asked"
    assert metrics.why_undefined(np.zeros(3, np.int64)) is None


def quadratic_kappa_by_hand(truth: np.ndarray, predicted: np.ndarray) -> float:
    seen = float(((truth - predicted) ** 2).mean())
    return 1 - seen / float(((truth[:, None] - predicted[None]) ** 2).mean())


@pytest.mark.parametrize(
    ("task", "targets", "logits", "expected"),
    [
        ("regression", np.array([1.0, 2.0], np.float32), np.array([[1.5], [2.5]], np.float32), 0.5),
        ("multi-label", np.array([[1, 0], [0, 1]], np.float32), np.array([[9, 9], [-9, 9]], np.float32), 0.25),
    ],
)
def test_an_own_metric_of_numbers_and_of_labels(
    task: Task, targets: np.ndarray, logits: np.ndarray, expected: float
) -> None:
    labels = ("a", "b")[: logits.shape[1]]
    metrics = MetricSet.of(task, labels, own={"away": mean_distance})
    assert computed(metrics, logits, targets)["away"] == expected


@pytest.mark.parametrize("name", ["loss", "accuracy", "calibration_error", "step", "my metric"])
def test_an_own_metric_takes_no_other_name(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        MetricSet.of("single-label", TWO, own={name: quadratic_kappa})
    assert caught.value.where == f"metrics[{name!r}]"


def mean_distance(evaluation: Evaluation) -> float:
    return float(np.abs(evaluation.predictions - np.asarray(evaluation.targets)).mean())


def test_an_own_metric_is_a_function_that_gives_a_number() -> None:
    with pytest.raises(UsageError, match="no function"):
        MetricSet.of("single-label", TWO, own={"half": 0.5})  # type: ignore[dict-item]
    metrics = MetricSet.of("single-label", TWO, own={"all": lambda e: e.logits})  # type: ignore[dict-item, return-value]
    with pytest.raises(UsageError, match=r"returns an array of float32 and shape .*, not a number"):
        computed(metrics, logits_of(np.array([0, 1]), 2), np.array([0, 1]))


def test_rows_of_an_evaluation() -> None:
    targets = np.array([0, 1, 1])
    whole = Evaluation("test", np.array([4, 5, 6]), logits_of(targets, 2), targets, np.arange(3.0), {"accuracy": 1.0})
    part = whole.take(np.array([2, 0, 2]))
    assert (part.ids.tolist(), part.metrics, len(part)) == ([6, 4, 6], {}, 3)
    assert part.predictions.tolist() == [1, 0, 1]
    assert part.losses is not None
    assert part.losses.tolist() == [2.0, 0.0, 2.0]
    hidden = Evaluation("test", whole.ids, whole.logits, None, None, {}).take(np.array([1]))
    assert hidden.targets is hidden.losses is None
