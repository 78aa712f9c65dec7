"""How far a number can be trusted: each metric with its interval and its baseline.

`benchmarks/coverage.py` shows that the intervals hold the truth as often as they say.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np

from dongu.config import DEFAULT_THRESHOLD, LOWER_IS_BETTER, NUMBERS, Task
from dongu.data.weights import count_classes
from dongu.judge.answers import Evaluation
from dongu.judge.calibration import BINS, binned_error, bins_of
from dongu.judge.classes import Share, f1_of
from dongu.judge.metrics import (
    CORRELATIONS,
    INFLUENCES,
    MEAN_INFLUENCES,
    SET_METRICS,
    MetricSet,
    OwnMetric,
    metric_value,
    statistic,
)
from dongu.judge.ranking import LEAST, GroupedRanking, ratio, sigmoid
from dongu.judge.resample import (
    DRAWN_NUMBERS,
    LEAST_RESAMPLES,
    LEAST_ROWS,
    RESAMPLES,
    TAIL,
    UNSEEN_RIGHT,
    UNSEEN_WRONG,
    WEIGHED_ROWS,
    WEIGHT_GROUPS,
    kinds_of,
    middle,
    resampled,
    student,
)
from dongu.waiting import Waiting

CONSTANT_ANSWERS: dict[Task, str] = {  # the name of the baseline, beside each metric
    "single-label": "majority class",
    "multi-label": "label frequencies",
    "regression": "train mean",
    "ordinal": "train mean, rounded",
}
CLASS_BASELINES = {"loss": "class frequencies", "f1": "positive class", "macro_f1": "guessing"}  # of these metrics
HEAVY_TAILS = 6.0  # the kurtosis of errors from which on intervals of their squares are too narrow
RARE = 1e-6  # the least share of a label, and the least lack of it, that a constant answer says: its loss is finite
FEWEST_RESAMPLES = 100  # of an own metric, of however many rows
UNSEEN_ROWS = 10  # of several labels, by which those that the split lacks are stood for


def baseline_name(metric: str, task: Task) -> str:
    """What the baseline of a metric is, in a word or two: `majority class`, `guessing`, `train mean`."""
    constant = CONSTANT_ANSWERS[task]
    return CLASS_BASELINES.get(metric, constant) if task == "single-label" else constant


def verdict(
    evaluation: Evaluation, metrics: MetricSet, constant: Sequence[float] | None, seed: int
) -> dict[str, dict[str, float]]:
    """What `results.json` says of a split: each metric's `value`, `low` and `high`, and its `baseline`.

    Classes have a `calibration_error` too, with what `chance` would show of it on as many rows if every probability
    were true; the loss of numbers whose errors have heavy tails has their `kurtosis`. Empty for hidden labels.
    """
    targets = evaluation.targets
    if targets is None or evaluation.losses is None:
        return {}
    with Waiting(f"intervals on {evaluation.split}"), same_draws(metrics, seed):
        entries = {
            name: {"value": evaluation.metrics[name], "low": low, "high": high}
            for name, (low, high) in _intervals(evaluation, metrics, seed).items()
        }
        if metrics.task == "regression" and (tails := _kurtosis(evaluation)) >= HEAVY_TAILS:
            entries["loss"]["kurtosis"] = tails
        if constant is not None:
            for name, value in baseline(metrics, constant, targets).items():
                entries[name]["baseline"] = value
        if metrics.task == "single-label":
            entries["calibration_error"] = _calibration_entry(evaluation, seed)
    return entries


def same_draws(metrics: MetricSet, seed: int) -> AbstractContextManager[None]:
    """Inside the block what own metrics draw is a function of the seed, whatever was drawn before."""
    if not metrics.own:
        return nullcontext()
    import torch  # as a run with metrics of its own has

    from dongu.draws import seeded

    return seeded(torch.device("cuda" if torch.cuda.is_available() else "cpu"), seed)


def _intervals(evaluation: Evaluation, metrics: MetricSet, seed: int) -> dict[str, tuple[float, float]]:
    """The ends of each metric's interval: by a formula where one holds its level, else by samples of the rows."""
    found = {}
    kinds, counts, drawn_names = evaluation, np.ones(len(evaluation)), []
    many = len(evaluation) > WEIGHED_ROWS
    for name, value in evaluation.metrics.items():
        if name == "loss":
            found[name] = mean_interval(np.asarray(evaluation.losses), _wrong_losses(evaluation))
        elif name in metrics.own:
            found[name] = _own_interval(metrics.own[name], evaluation, seed)
        elif name == "accuracy":
            found[name] = Share(int(evaluation.right.sum()), len(evaluation)).ends
        elif name == "f1":
            found[name] = f1_of(*evaluation.counts[:, 1].tolist())[1:]
        elif name in INFLUENCES:
            found[name] = correlation_interval(value, INFLUENCES[name](evaluation))
        elif name in MEAN_INFLUENCES and many:
            found[name] = _error_interval(name, value, MEAN_INFLUENCES[name](evaluation))
        else:
            drawn_names.append(name)
    if drawn_names and metrics.task == "single-label":
        (kinds,), counts = kinds_of([evaluation])
    elif drawn_names and metrics.task == "multi-label" and not many:
        kinds, counts = _with_unseen(evaluation)
    random = np.random.default_rng([seed, 0xB007])
    if drawn_names and metrics.task == "multi-label" and many:
        drawn = _grouped(evaluation, drawn_names, random)
    else:
        drawn = resampled({name: statistic(kinds, name) for name in drawn_names}, kinds, counts, random)
    found |= {name: middle(sample, len(evaluation)) for name, sample in drawn.items()}
    return {name: _around(value, *found[name]) for name, value in evaluation.metrics.items()}


def _kurtosis(evaluation: Evaluation) -> float:
    """That of the errors of numbers: 3 for normal ones."""
    errors = evaluation.predictions - np.asarray(evaluation.targets, np.float64)
    errors = errors - errors.mean()
    return float(ratio((errors**4).mean(), (errors**2).mean() ** 2))


def _around(value: float, low: float, high: float) -> tuple[float, float]:
    """The ends of an interval that has the value in it, to the last digit.

    Samples of many classes with a row or two each lie on one side of the value. They say nothing of the other side,
    which then reaches as far as theirs, to 0 or 1 at most.
    """
    if value < low:
        low = max(2 * value - high, min(value, 0.0))
    elif value > high:
        high = min(2 * value - low, max(value, 1.0))
    return low, high


def mean_interval(losses: np.ndarray, wrong: np.ndarray | None) -> tuple[float, float]:
    """The 95% interval of a mean of losses, (rows,): Student's of its logarithm, as a few large ones make most of it.

    Half a row more counts in it, whose answer is wrong: `wrong` (rows,) are the losses if each row's were. For if few
    answers of very sure ones are wrong, the rows may well have missed most of them.
    """
    rows = len(losses)
    if rows < LEAST_ROWS:
        return math.nan, math.nan
    half = 0.0 if wrong is None else 0.5
    wrong = losses if wrong is None else wrong
    mean = (losses.sum() + half * wrong.mean()) / (rows + half)
    squares = ((losses - mean) ** 2).sum() + half * ((wrong - mean) ** 2).mean()
    error = math.sqrt(squares / (rows + half) / (rows + half - 1))
    reach = math.exp(student(rows - 1) * error / mean) if mean > 0 else 1.0
    return float(mean / reach), float(mean * reach)


def _wrong_losses(evaluation: Evaluation) -> np.ndarray | None:
    """What each row would lose with another label, on the mean of those, (rows,): with another one of several."""
    if evaluation.task in NUMBERS:
        return None
    sure, truth = evaluation.probabilities, np.asarray(evaluation.targets)
    if evaluation.task == "multi-label":
        other = np.where(truth > 0, 1 - sure, sure).clip(LEAST)
        more = np.log((1 - other).clip(LEAST) / other).mean(-1) / sure.shape[1]
        return np.asarray(np.asarray(evaluation.losses) + more)
    lost = -np.log(sure.clip(LEAST))
    own = np.take_along_axis(lost, truth[:, None].astype(np.int64), 1)[:, 0]
    return np.asarray((lost.sum(-1) - own) / max(1, sure.shape[1] - 1))


def correlation_interval(value: float, influence: np.ndarray) -> tuple[float, float]:
    """The 95% interval of a correlation: Student's of its Fisher transform, by how far each row (rows,) moves it."""
    rows = len(influence)
    if rows < LEAST_ROWS or not abs(value) < 1:
        return math.nan, math.nan
    error = math.sqrt((influence**2).sum() / (rows - 2) / (rows - 3)) / (1 - value**2)
    middle_of, reach = math.atanh(value), student(rows - 2) * error
    return math.tanh(middle_of - reach), math.tanh(middle_of + reach)


def _error_interval(name: str, value: float, influence: np.ndarray) -> tuple[float, float]:
    """The 95% interval of an error of many rows, or of what it leaves of 1, by how far each row (rows,) moves it.

    It is Student's of the error's logarithm, as that of a mean of losses.
    """
    rows, whole = len(influence), 0.0 if name in LOWER_IS_BETTER else 1.0
    error = abs(whole - value)
    deviation = math.sqrt((influence**2).sum() / rows / (rows - 1))
    reach = math.exp(student(rows - 1) * deviation / error) if error > 0 else 1.0
    low, high = error / reach, error * reach
    return (low, high) if whole == 0 else (whole - high, whole - low)


def _grouped(evaluation: Evaluation, names: Sequence[str], random: np.random.Generator) -> dict[str, np.ndarray]:
    """Metrics of several labels in samples of many rows, (resamples,): those of a group of rows have one weight.

    The groups are chance's, so a sum over a group varies as those of its rows do. What the segments of a ranking make
    of a value, which is alike in all samples, is taken out.
    """
    kinds, counts = _with_unseen(evaluation)
    rows, shares = len(evaluation), counts[len(evaluation) :]
    groups = np.concatenate([random.permutation(rows) % WEIGHT_GROUPS, WEIGHT_GROUPS + np.arange(len(shares))])
    size = WEIGHT_GROUPS + len(shares)
    sure = np.concatenate([evaluation.probabilities, sigmoid(kinds.logits[rows:])])
    ranking = GroupedRanking(sure, np.asarray(kinds.targets), evaluation.threshold, groups, size)
    weights = random.standard_gamma(np.concatenate([np.ones(WEIGHT_GROUPS), shares]), (LEAST_RESAMPLES, size))
    weights = np.concatenate([weights, [np.arange(size) < WEIGHT_GROUPS]])  # the last sample is the rows themselves
    drawn = {name: SET_METRICS[name](ranking, weights) for name in names}
    return {name: each[:-1] + evaluation.metrics[name] - each[-1] for name, each in drawn.items()}


def _with_unseen(evaluation: Evaluation) -> tuple[Evaluation, np.ndarray]:
    """Rows of several labels, and behind them parts of a row that the split may lack, with what each counts.

    These are a few rows of the split, once a label and kind: that label is rightly given, missed, or wrongly given, as
    surely as the model is of that row. The other labels stay as they are.
    """
    rows, labels = evaluation.logits.shape
    some = np.linspace(0, rows - 1, min(rows, UNSEEN_ROWS)).astype(np.int64)
    logits, targets = [evaluation.logits], [np.asarray(evaluation.targets)]
    border = math.log(evaluation.threshold / (1 - evaluation.threshold))
    kinds = [(label, *kind) for label in range(labels) for kind in ((1, 1), (0, 1), (1, 0))]
    for label, is_given, is_true in kinds:
        logits.append(evaluation.logits[some])
        targets.append(targets[0][some])
        logits[-1][:, label] = border + (1 if is_given else -1) * np.abs(logits[-1][:, label] - border)
        targets[-1][:, label] = is_true
    shares = [UNSEEN_RIGHT if is_given == is_true else UNSEEN_WRONG for _, is_given, is_true in kinds]
    counts = np.concatenate([np.ones(rows), np.repeat(shares, len(some)) / len(some)])
    ids, both = np.arange(len(counts)), (np.concatenate(logits), np.concatenate(targets))
    return Evaluation("", ids, *both, None, {}, evaluation.threshold, evaluation.task), counts


def constant_answer(metrics: MetricSet, train_targets: np.ndarray | None) -> list[float] | None:
    """The best constant answer: the frequency of each class or label in train, or the mean of its numbers."""
    if train_targets is None:
        return None
    if metrics.task in NUMBERS:
        return [float(train_targets.astype(np.float64).mean())]
    if metrics.task == "multi-label":
        return [float(share) for share in train_targets.mean(0, dtype=np.float64)]
    counts = count_classes(train_targets, len(metrics.label_names))
    return [float(share) for share in counts / len(train_targets)]


def baseline(metrics: MetricSet, constant: Sequence[float], targets: np.ndarray) -> dict[str, float]:
    """The metrics of always giving the constant answer; as a class it is the most frequent one, for F1 see `guessed`.

    Labels are given by their shares, from the share on that is best on train. The loss of classes' shares is infinite
    where a class occurs that train lacks, and a correlation with a constant is NaN.
    """
    from dongu.model.loss import row_losses  # which loads torch: a comparison of finished runs does without

    row, threshold = np.array(constant), DEFAULT_THRESHOLD
    if metrics.task == "multi-label":
        shares = row.clip(RARE, 1 - RARE)
        row = np.log(shares / (1 - shares))
        threshold = metrics.best_threshold(row[None], np.array([constant]))
    if metrics.task == "single-label":
        with np.errstate(divide="ignore"):
            row = np.log(row)
    logits = np.tile(row, (len(targets), 1))  # (rows, labels)
    losses = row_losses(metrics.task, logits, targets)
    ids = np.arange(len(targets))
    answer = Evaluation("baseline", ids, logits, targets, losses, {}, threshold, metrics.task, metrics.scale)
    values = {"loss": math.fsum(losses) / len(losses)}
    for name in metrics.names:
        if name in metrics.own:
            values[name] = _value(metrics.own[name], answer)
        elif metrics.task == "single-label" and name in CLASS_BASELINES:
            values[name] = guessed(name, constant, targets)
        else:  # by rounding, the mean of so many equal numbers may be another
            values[name] = math.nan if name in CORRELATIONS else metric_value(answer, name)
    return values


def guessed(name: str, shares: Sequence[float], targets: np.ndarray) -> float:
    """F1, or macro F1, of the best answers that know nothing of the text, where `targets` (rows,) is the truth.

    For F1 of the positive class that is this class, always. For macro F1 it is a class drawn for each row by its share
    in train, with the counts that are expected; or the most frequent class, where the rows have other shares.
    """
    classes, rows = np.arange(len(shares)), np.bincount(targets, minlength=len(shares))
    answers = [classes == 1] if name == "f1" else [np.array(shares), classes == np.argmax(shares)]  # shares of the rows
    found = []
    for answer in answers:
        counted = rows + len(targets) * answer  # of each class: how often it occurs and is given
        each = ratio(2 * rows * answer, counted)
        found.append(float(each[1] if name == "f1" else each.sum() / np.count_nonzero(counted)))
    return max(found)


def _value(metric: OwnMetric, evaluation: Evaluation) -> float:
    """An own metric; NaN where it is not finite, or rows have none, as rows of one class alone."""
    try:
        value = float(metric(evaluation))
        return value if math.isfinite(value) else math.nan
    except Exception:  # noqa: BLE001 -- each metric refuses in its own way
        return math.nan


def _own_interval(metric: OwnMetric, evaluation: Evaluation, seed: int) -> tuple[float, float]:
    """Of an own metric, whose rows are drawn with replacement.

    Where all samples agree, as where every row is right, the ends are what it would be if so many of the answers as the
    rows may well miss were wrong, and if right. These answers are evenly spread.
    """
    low, high = middle(_own_resampled(metric, evaluation, seed), len(evaluation))
    if low != high or evaluation.task in NUMBERS:
        return low, high
    truth, predicted = np.asarray(evaluation.targets), evaluation.predictions
    wrong = 1 - predicted if evaluation.task == "multi-label" else (predicted + 1) % evaluation.logits.shape[1]
    missed = 1 - TAIL ** (1 / len(truth))  # the largest share that so many rows miss with a probability of 2.5%
    some, ends = np.arange(0, len(truth), max(1, int(1 / missed))), []
    for other in (wrong, predicted):
        targets = truth.copy()
        targets[some] = other[some]
        ends.append(_value(metric, replace(evaluation, targets=targets)))
    return min(ends), max(ends)


def _own_resampled(metric: OwnMetric, evaluation: Evaluation, seed: int) -> np.ndarray:
    """An own metric of samples of the rows, (resamples,): of so many rows as many on any machine."""
    random, rows = np.random.default_rng([seed, 0x0123]), len(evaluation)
    draws = min(LEAST_RESAMPLES, max(FEWEST_RESAMPLES, DRAWN_NUMBERS // rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of samples without a class, which each metric says in its own way
        return np.array([_value(metric, evaluation.take(random.integers(0, rows, rows))) for _ in range(draws)])


def _calibration_entry(evaluation: Evaluation, seed: int) -> dict[str, float]:
    """The calibration error with its interval, and what chance would show of it if every probability were true.

    Noise of the bins adds to the error, never takes away; a sample of the rows has that noise twice. So the ends of the
    samples are moved down by what drawing added, and the lower one once more, by what such noise adds to gaps of which
    it is taken out. It is 0 where chance alone may explain the error. Each bin counts a row more than it has, which is
    right as often as the bin says.
    """
    sure, right, rows = evaluation.probabilities.max(-1), evaluation.right, len(evaluation)
    bins = bins_of(sure)
    value = float(binned_error(bins)(sure - right))
    counts, sums, hits = (np.bincount(bins, each, BINS) for each in (np.ones(rows), sure, right))
    counts, sums, hits = (each[counts > 0] for each in (counts, sums, hits))
    said = np.minimum(sums / counts, 1.0)
    random = np.random.default_rng([seed, 0xCA1B])
    draws = (RESAMPLES, len(counts))
    by_chance = np.abs(sums - random.binomial(counts.astype(np.int64), said, draws)).sum(-1) / rows
    well, ill = (random.standard_gamma(each, draws) for each in (hits + said, counts - hits + 1 - said))
    drawn = (well * (said - 1) + ill * said) / (well + ill).sum(-1, keepdims=True)  # the gap of each bin
    noise, gaps = drawn - drawn.mean(0), (sums - hits) / rows
    less = np.sign(gaps) * np.sqrt((gaps**2 - noise.var(0)).clip(0))  # the gaps without the noise in their squares
    added = np.abs(drawn).sum(-1).mean() - value
    hidden = np.abs(less + noise).sum(-1).mean() - np.abs(less).sum()
    low, high = (end - added for end in middle(np.abs(drawn).sum(-1), rows))
    low = 0.0 if value <= np.quantile(by_chance, 1 - TAIL) else max(low - hidden, 0.0)
    low, high = _around(value, float(low), float(high))
    return {"value": value, "low": low, "high": high, "chance": float(by_chance.mean())}
