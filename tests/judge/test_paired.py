"""Two runs on the same rows: the statistics against known values and plain resampling, and what is said of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from conftest import computed
from dongu.comparison.words import letter, sentence
from dongu.judge.answers import Evaluation
from dongu.judge.intervals import verdict
from dongu.judge.metrics import MetricSet, metric_value
from dongu.judge.paired import MetricDifference, holm, mcnemar, paired_differences
from dongu.judge.words import Yardstick, said_of


@pytest.fixture
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for what is asked, and quick."""
    monkeypatch.setattr("dongu.judge.resample.RESAMPLES", 1000)
    monkeypatch.setattr("dongu.judge.paired.DEALS", 1000)


def classes(targets: np.ndarray, given: np.ndarray, labels: int = 2) -> Evaluation:
    losses = (given != targets).astype(float)
    return Evaluation("test", np.arange(len(targets)), np.eye(labels)[given], targets, losses, {})


def numbers(targets: np.ndarray, given: np.ndarray) -> Evaluation:
    losses = (given - targets) ** 2
    return Evaluation("test", np.arange(len(targets)), given[:, None], targets, losses, {}, task="regression")


def sets(targets: np.ndarray, probabilities: np.ndarray) -> Evaluation:
    losses = -np.log(np.where(targets == 1, probabilities, 1 - probabilities)).mean(-1)
    logits = np.log(probabilities / (1 - probabilities))
    return Evaluation("test", np.arange(len(targets)), logits, targets, losses, {}, task="multi-label")


def flipped(targets: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    return np.where(random.random(len(targets)) < share, 1 - targets, targets)


@pytest.mark.parametrize(("one", "other"), [(0, 0), (1, 0), (7, 1), (5, 5), (3, 17), (40, 60), (300, 240)])
def test_mcnemar_is_the_coin_tossed_so_often(one: int, other: int) -> None:
    tosses = one + other
    fewer = min(one, other)
    tail = sum(Fraction(math.comb(tosses, k), 2**tosses) for k in range(fewer + 1))
    seen = Fraction(math.comb(tosses, fewer), 2**tosses)
    assert mcnemar(one, other) == pytest.approx(1 if one == other else float(2 * tail - seen), rel=1e-12)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    corrected = holm([0.02, math.nan, 0.03])
    assert math.isnan(corrected[1])
    assert [corrected[0], corrected[2]] == pytest.approx([0.04, 0.04])
    assert holm([0.2]) == [0.2]


def test_the_deals_of_two_answers_are_all_of_them() -> None:
    """The p value of F1 on six rows, against all 64 ways of dealing the answers."""
    targets, one, two = np.array([1, 1, 1, 0, 0, 1]), np.array([0, 1, 0, 1, 0, 1]), np.array([1, 1, 1, 0, 0, 0])

    def f1(given: np.ndarray) -> float:
        return 2 * float((given * targets).sum()) / float(given.sum() + targets.sum())

    seen, extreme = f1(two) - f1(one), 0
    for code in range(64):
        swap = np.array([code >> bit & 1 for bit in range(6)], bool)
        extreme += abs(f1(np.where(swap, one, two)) - f1(np.where(swap, two, one))) >= abs(seen) - 1e-12
    found = paired_differences(classes(targets, one), classes(targets, two), ["f1"], 0)["f1"]
    assert found.value == pytest.approx(seen)
    assert found.p == pytest.approx(extreme / 64, abs=0.02)
    assert 0.2 < extreme / 64 < 0.8, "else the test would see little"


def test_a_bootstrap_of_cells_is_one_of_rows() -> None:
    """The ends of the intervals against a plain resampling of rows, metric by metric."""
    random = np.random.default_rng(0)
    targets = random.integers(0, 3, 300)
    one, two = (np.where(random.random(300) < share, targets, random.integers(0, 3, 300)) for share in (0.6, 0.75))
    metrics = MetricSet.of("single-label", ("a", "b", "c"), None, "matthews_correlation")
    found = paired_differences(classes(targets, one, 3), classes(targets, two, 3), metrics.names, 0)
    drawn: dict[str, list[float]] = {name: [] for name in metrics.names}
    for _ in range(800):
        rows = random.integers(0, 300, 300)
        low, high = (computed(metrics, np.eye(3)[given[rows]], targets[rows]) for given in (one, two))
        for name, values in drawn.items():
            values.append(high[name] - low[name])
    for name, values in drawn.items():
        low, high = np.quantile(values, [0.025, 0.975])
        assert found[name].low == pytest.approx(low, abs=0.02)
        assert found[name].high == pytest.approx(high, abs=0.02)
        assert found[name].low < found[name].value < found[name].high


@pytest.mark.usefixtures("fewer_resamples")
@pytest.mark.parametrize("name", ["pearson", "spearman", "loss"])
def test_numbers_against_a_plain_resampling(name: str) -> None:
    from scipy.stats import pearsonr, spearmanr

    random = np.random.default_rng(1)
    targets = np.round(random.normal(size=120), 1) * 1e-4  # many equal, and small
    one, two = (np.round(targets / 1e-4 + random.normal(size=120) * noise, 1) * 1e-4 for noise in (1.2, 0.8))
    statistic: Callable[[Any, Any], float] = {
        "pearson": lambda x, y: float(pearsonr(x, y).statistic),
        "spearman": lambda x, y: float(spearmanr(x, y).statistic),
        "loss": lambda x, y: float(((x - y) ** 2).mean()),
    }[name]
    found = paired_differences(numbers(targets, one), numbers(targets, two), [name], 0)[name]
    drawn = []
    for _ in range(400):
        rows = random.integers(0, 120, 120)
        drawn.append(statistic(two[rows], targets[rows]) - statistic(one[rows], targets[rows]))
    spread = float(np.std(drawn))
    assert found.value == pytest.approx(statistic(two, targets) - statistic(one, targets))
    assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist(), abs=0.35 * spread)


@pytest.mark.usefixtures("fewer_resamples")
def test_several_labels_against_a_plain_resampling() -> None:
    random = np.random.default_rng(2)
    targets = (random.random((80, 3)) < 0.4).astype(float)
    one, two = ((targets + random.normal(size=(80, 3)) * noise).clip(0.01, 0.99) for noise in (0.9, 0.6))
    names = ["average_precision", "macro_f1", "micro_f1", "loss"]
    found = paired_differences(sets(targets, one), sets(targets, two), names, 0)
    drawn: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(600):
        rows = random.integers(0, 80, 80)
        first, second = sets(targets[rows], one[rows]), sets(targets[rows], two[rows])
        for name in names:
            drawn[name].append(metric_value(second, name) - metric_value(first, name))
    for name, values in drawn.items():
        spread = float(np.std(values))
        expected = np.quantile(values, [0.025, 0.975]).tolist()
        assert [found[name].low, found[name].high] == pytest.approx(expected, abs=0.5 * spread), name


@pytest.mark.usefixtures("fewer_resamples")
def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """150 pairs of runs, one of them 8 points better: about 95% of the intervals hold that."""
    random = np.random.default_rng(3)
    held = shown = 0
    for seed in range(150):
        targets = random.integers(0, 2, 200)
        one, two = flipped(targets, 0.26, random), flipped(targets, 0.18, random)
        found = paired_differences(classes(targets, one), classes(targets, two), ["accuracy"], seed)["accuracy"]
        held += found.low <= 0.08 <= found.high
        shown += found.shown(found.p)
        assert found.shown(found.p) == (not found.low <= 0 <= found.high), "the test and the interval never disagree"
    assert 0.90 <= held / 150 <= 0.99
    assert 0.2 < shown / 150 < 0.8


@pytest.mark.usefixtures("fewer_resamples")
def test_equal_runs_are_seldom_told_apart() -> None:
    random = np.random.default_rng(4)
    shown = {"accuracy": 0, "f1": 0, "loss": 0}
    for seed in range(100):
        targets = random.integers(0, 2, 100)
        one, two = (classes(targets, flipped(targets, 0.2, random)) for _ in range(2))
        for name, found in paired_differences(one, two, [*shown], seed).items():
            shown[name] += found.shown(found.p)
    assert max(shown.values()) <= 11, shown


def test_the_same_answers_are_no_proof_that_the_runs_are_the_same() -> None:
    targets = np.arange(100) % 2
    same = classes(targets, targets)
    found = paired_differences(same, same, ["accuracy", "loss"], 0)
    accuracy = found["accuracy"]
    assert (accuracy.value, accuracy.p) == (0.0, 1.0)
    assert [accuracy.low, accuracy.high] == pytest.approx([-0.027, 0.027], abs=0.001)
    assert found["loss"] == MetricDifference(0.0, 0.0, 0.0, 1.0)


def test_few_rows_that_all_say_the_same_show_nothing() -> None:
    """Four rows of four for one run are 1 in 8 by chance, or 1 in 16 if that counts by half; a bootstrap is sure."""
    targets = np.arange(200) % 2
    worse = np.where(np.arange(200) < 4, 1 - targets, targets)
    found = paired_differences(classes(targets, worse), classes(targets, targets), ["accuracy", "f1"], 0)
    assert found["accuracy"].p == 0.0625
    for difference in found.values():
        assert difference.low <= 0 < difference.value
        assert not difference.shown(difference.p)


def test_no_difference_is_larger_than_the_metric_can_be() -> None:
    """Three rows that the second run alone has right: accuracy is 100 points apart, and no interval says 130."""
    targets = np.arange(3) % 2
    found = paired_differences(classes(targets, 1 - targets), classes(targets, targets), ["accuracy"], 0)["accuracy"]
    assert (found.value, found.high) == (1.0, 1.0)
    back = paired_differences(classes(targets, targets), classes(targets, 1 - targets), ["accuracy"], 0)["accuracy"]
    assert (back.value, back.low) == (-1.0, -1.0)
    turned = numbers(np.arange(3.0), np.array([0.0, 1.0, 2.1])), numbers(np.arange(3.0), np.array([2.0, 1.1, 0.0]))
    assert -2 <= paired_differences(*turned, ["pearson"], 0)["pearson"].low < -1.9
    wide = MetricDifference(0.9, math.nan, 1.3).within(1.0)
    assert math.isnan(wide.low)
    assert wide.high == 1.0


def test_a_constant_answer_has_no_correlation() -> None:
    targets = np.arange(20.0)
    found = paired_differences(numbers(targets, np.ones(20)), numbers(targets, targets), ["pearson", "spearman"], 0)
    for name, difference in found.items():
        assert math.isnan(difference.value)
        assert math.isnan(difference.p)
        assert "undefined" in sentence(name, difference, difference.p, 20, "A", "B")


@pytest.mark.usefixtures("fewer_resamples")
def test_a_seed_and_its_numbers() -> None:
    random = np.random.default_rng(5)
    targets = random.integers(0, 2, 80)
    one, two = (classes(targets, flipped(targets, share, random)) for share in (0.3, 0.2))
    names = ["accuracy", "f1", "loss"]
    assert paired_differences(one, two, names, 1) == paired_differences(one, two, names, 1)
    assert paired_differences(one, two, names, 1) != paired_differences(one, two, names, 2)
    back = paired_differences(two, one, names, 1)
    for name, found in paired_differences(one, two, names, 1).items():
        assert back[name].value == -found.value


# --- sentences


@pytest.mark.parametrize(
    ("name", "difference", "said"),
    [
        (
            "f1",
            MetricDifference(0.012, 0.001, 0.023, 0.03),
            "B is better than A by 1.2 points of F1; 95% interval 0.1 to 2.3",
        ),
        (
            "f1",
            MetricDifference(-0.012, -0.023, -0.001, 0.03),
            "A is better than B by 1.2 points of F1; 95% interval 0.1 to",
        ),
        (
            "loss",
            MetricDifference(-0.5, -0.75, -0.25, 0.0001),
            "B is better than A by 0.5000 of loss; 95% interval 0.2500 to",
        ),
        (
            "loss",
            MetricDifference(0.5, 0.25, 0.75, 0.0001),
            "A is better than B by 0.5000 of loss; 95% interval 0.2500 to 0.7",
        ),
        (
            "accuracy",
            MetricDifference(-0.005, -0.016, 0.006, 0.4),
            "no difference in accuracy that these 408 rows can show: B is 0.5 points below A, 95% interval -1.6 to 0.6",
        ),
    ],
)
def test_a_sentence(name: str, difference: MetricDifference, said: str) -> None:
    assert sentence(name, difference, difference.p, 408, "A", "B").startswith(said)


def test_a_corrected_p_value_takes_the_verdict_back() -> None:
    difference = MetricDifference(0.012, 0.001, 0.023, 0.03)
    assert sentence("f1", difference, 0.06, 408, "A", "B").startswith("no difference in F1")


def test_letters() -> None:
    assert [letter(i) for i in (0, 1, 25, 26)] == ["A", "B", "Z", "A2"]


@pytest.mark.crash
@pytest.mark.parametrize("rows", [60, pytest.param(100, marks=pytest.mark.crash)])
def test_equal_runs_with_few_large_losses_are_told_apart_as_seldom_as_it_says(rows: int) -> None:
    """5% of the rows are positive and make most of the loss: p values of resamples are below 5% in 10%."""
    random, shown, below = np.random.default_rng(6), 0, 0
    for seed in range(200):
        targets = (random.random(rows) < 0.05).astype(int)
        common = random.normal(size=rows)
        sides = []
        for _ in range(2):
            noise = 0.77 * common + 0.63 * random.normal(size=rows)
            logit = 2.6 * (1.3 * (2 * targets - 1) + noise) - 2.94
            losses = np.logaddexp(0, np.where(targets == 1, -logit, logit))
            sides.append(replace(classes(targets, (logit > 0).astype(int)), losses=losses))
        found = paired_differences(sides[0], sides[1], ["loss"], seed)["loss"]
        shown, below = shown + found.shown(found.p), below + (found.p < 0.05)
    assert shown <= 15
    assert 3 <= below <= 18


def test_heavy_tails_are_said() -> None:
    random = np.random.default_rng(7)
    metrics = MetricSet.of("regression", ("score",))
    for tails, errors in ((False, random.normal(size=400)), (True, random.standard_t(2, size=400))):
        targets = random.normal(size=400)
        found = numbers(targets, targets + errors)
        entries = verdict(replace(found, metrics=metrics.values(found)), metrics, None, 0)
        assert ("kurtosis" in entries["loss"]) == tails
        lines = list(said_of({"test": entries}, {"test": 400}, Yardstick.of(metrics, None)))
        assert any("heavy tails" in line for line in lines) == tails


def test_equal_runs_are_called_equal() -> None:
    nothing = MetricDifference(0.0, -0.01, 0.01, 1.0)
    said = "no difference in accuracy that these 408 rows can show: B equals A, 95% interval -1.0 to 1.0 (p 1.000)"
    assert sentence("accuracy", nothing, 1.0, 408, "A", "B") == said
    little = MetricDifference(0.0002, -0.01, 0.01, 1.0)
    assert ": B is less than 0.1 points above A," in sentence("accuracy", little, 1.0, 408, "A", "B")
    assert "the mean of B equals that of A" in sentence("accuracy", nothing, None, 408, "A", "B")
