"""What a run's results say, for a person: a sentence, a table, and what a temperature would mend."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dongu.config import ABSTAIN_BELOW, LOWER_IS_BETTER, NUMBERS, Task
from dongu.judge.calibration import ADVISED_ROWS, FAR
from dongu.judge.intervals import baseline_name
from dongu.judge.metrics import CORRELATIONS, MetricSet
from dongu.text import counted, decimals, fields, interval_ends, percent, wrapped

Entries = Mapping[str, Mapping[str, float]]  # metric: value, low, high, baseline
METRIC_NAMES = {
    "f1": "F1",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "matthews_correlation": "Matthews correlation",
    "quadratic_kappa": "quadratic weighted kappa",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R²",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
}
RANDOM = 0.0  # what the correlation with numbers that know nothing of the text is on the mean
NAME_COLUMNS = 22  # columns of the names of metrics
HEAVY = "A few rows are far off (heavy tails): the intervals of the loss and of the Pearson correlation are too narrow."
NOT_ABOVE = "Not shown to be better than"
FEW_STEPS = 500  # in which a new head and an encoder hardly learn a task
MORE = "try more --epochs, or --learning-rate 2e-4 with --warmup 0.1"
LEARNT = "look at the suspect rows in report.html, whose labels may be wrong; or try another --model"
UNPROVEN = "it looks better than a bag of words, but the rows are too few to show it: evaluate it on more labelled rows"
CHOSE = "The model was chosen on validation, so these figures are a little too good."


def metric_name(name: str) -> str:
    """A metric as a person writes it."""
    return METRIC_NAMES.get(name, name.replace("_", " "))


def splits_of(results: Mapping[str, Any]) -> dict[str, Entries]:
    """The metrics of each labelled split: in `results.json` whatever is an object."""
    return {name: entries for name, entries in results.items() if isinstance(entries, Mapping)}


def judged(results: Mapping[str, Any]) -> str:
    """The split that the verdict is of: rows that chose nothing, where there are some with labels."""
    splits = [*splits_of(results)]
    return next((split for split in splits if split.startswith("test")), splits[0])


@dataclass(frozen=True)
class Yardstick:
    """The main metric of a task, and the baseline that results are compared with."""

    task: Task
    metric: str
    label_names: Sequence[str]
    constant: Sequence[float] | None  # `intervals.constant_answer`

    @staticmethod
    def of(metrics: MetricSet, constant: Sequence[float] | None) -> Yardstick:
        """That of a task's metrics."""
        return Yardstick(metrics.task, metrics.main, metrics.label_names, constant)

    def without_reading(self, entry: Mapping[str, float]) -> tuple[str, float] | None:
        """The name of the baseline and its value; None where it has no value."""
        baseline = entry.get("baseline", math.nan)
        if self.metric in CORRELATIONS:  # a constant correlates with nothing
            return "answering at random", RANDOM
        if not math.isfinite(baseline) or self.constant is None:
            return None
        if self.task in NUMBERS:
            return f"always answering the mean{', rounded' if self.task == 'ordinal' else ''}", baseline
        if self.task == "multi-label" or self.metric == "loss":
            return "answering with the label frequencies of train", baseline
        if self.metric == "macro_f1":
            return "guessing by class frequencies", baseline
        answer = 1 if self.metric == "f1" else self.constant.index(max(self.constant))
        return f"always answering “{self.label_names[answer]}”", baseline

    def standing(self, entry: Mapping[str, float]) -> str:
        """`better than always answering ...`, if the interval leaves no doubt; nothing without a baseline."""
        if (other := self.without_reading(entry)) is None:
            return ""
        name, baseline = other
        sign = -1 if self.metric in LOWER_IS_BETTER else 1
        value, low, high = (sign * (entry[key] - baseline) for key in ("value", "low", "high"))
        words = "better" if min(low, high) > 0 else "worse" if max(low, high) < 0 else "not better"
        if words == "not better" and value > 0:
            words = "not clearly better"
        return f"{words} than {name}"

    def sentence(self, split: str, entry: Mapping[str, float], rows: int) -> str:
        """The main metric of a split with its interval, compared with its baseline."""
        name = metric_name(self.metric)
        what = f"{name[0].upper()}{name[1:]} on {counted(rows, 'row')} of {split} is {decimals(entry['value'])}"
        if not math.isfinite(entry["value"]):
            return f"{what}; all answers or all labels are the same."
        said = f"{what}, 95% interval {decimals(entry['low'])} to {decimals(entry['high'])}"
        if not math.isfinite(entry["low"]):
            said = f"{what}, without an interval, because the rows are too few or all alike"
        if (other := self.without_reading(entry)) is not None:
            said += f": {self.standing(entry)} ({decimals(other[1])})"
        return f"{said}. {CHOSE}" if split.startswith("validation") else f"{said}."


def undefined(metrics: MetricSet, split: str, values: Mapping[str, float]) -> Iterator[str]:
    """A sentence for each metric of the user's own that has no finite value on a split."""
    for name in metrics.own:
        if not math.isfinite(values.get(name, 0.0)):  # there is none of hidden labels
            kept = "; it keeps no model" if name == metrics.main and split == "validation" else ""
            yield f"metrics[{name!r}] is not finite on {split}: it is recorded as undefined (null){kept}"


def bag_of_words(results: Mapping[str, Any], split: str) -> dict[str, float]:
    """What a bag of words reaches on a split, by metric; empty where that is not known."""
    return {row["metric"]: row["value"] for row in results.get("bag_of_words", ()) if row["split"] == split}


def over_bag_of_words(results: Mapping[str, Any], split: str, metric: str) -> str:
    """How far the main metric is above a bag of words on the same rows, in a sentence; nothing where there is none."""
    rows = results.get("bag_of_words", ())
    row = next((row for row in rows if (row["split"], row["metric"]) == (split, metric)), None)
    numbers = [] if row is None else [row[key] for key in ("margin", "low", "high")]
    if row is None or not all(number is not None and math.isfinite(number) for number in numbers):  # null for NaN
        return ""
    unit, times, digits = ("", 1, 4) if metric in LOWER_IS_BETTER else (" points", 100, 1)
    margin, low, high = (times * number for number in numbers)
    apart, interval = f"{margin:+.{digits}f}{unit}", f"95% interval {low:.{digits}f} to {high:.{digits}f}"
    value = decimals(row["value"])
    if low > 0:
        return f"{apart} over a bag of words ({value}), {interval}."
    return f"{'Worse than' if high < 0 else NOT_ABOVE} a bag of words ({value}): {apart}, {interval}."


def said_of(
    results: Mapping[str, Any], rows: Mapping[str, int], yardstick: Yardstick, *, briefly: bool = False
) -> Iterator[str]:
    """The verdict in a sentence, then, unless `briefly`, all that it rests on; `rows` counts those of each split."""
    split = judged(results)
    yield from wrapped(yardstick.sentence(split, results[split][yardstick.metric], rows[split]))
    yield from filter(None, wrapped(over_bag_of_words(results, split, yardstick.metric)))
    if "no_bag_of_words" in results:
        yield from wrapped(f"There is no bag of words to compare with: {results['no_bag_of_words']}.")
    if briefly:
        return
    yield from table(results, yardstick.task)
    if "kurtosis" in results[split]["loss"]:
        yield from wrapped(HEAVY)
    yield from calibration(results, rows)
    yield from abstention(results, split)


def abstention(results: Mapping[str, Any], split: str) -> Iterator[str]:
    """What a model that abstains does on a split; nothing where it was not asked to."""
    if ABSTAIN_BELOW not in results:
        return
    if (threshold := results[ABSTAIN_BELOW]) is None:
        said = "all rows get a label: no threshold is proved to reach the requested accuracy"
    else:
        said = f"below {threshold:g}; {abstaining(next(row for row in results['abstained'] if row['split'] == split))}"
    yield from fields([("abstain", said)])


def abstaining(row: Mapping[str, Any]) -> str:
    """What abstention does on a split, in a part of a sentence."""
    if not row["answered"]["value"]:
        return f"on {row['split']} no row gets a label"
    shares = (row["answered"], row["accuracy"])
    answered, accuracy = (
        f"{percent(share['value'])} ({percent(share['low'])} to {percent(share['high'])})" for share in shares
    )
    return f"on {row['split']} {answered} of the rows get a label, {accuracy} of these the right one"


def coverage_table(rows: Sequence[Mapping[str, float]], split: str) -> Iterator[str]:
    """Coverage against accuracy on a split, a line a coverage; rows of `judge.abstention.coverage`."""
    if rows:
        yield f"if only the most confident rows of {split} get a label:"
        yield "labelled   from probability   accuracy   95% interval"
    for row in rows:
        told = f"{percent(row['answered']):>8}   {row['threshold']:>16.4f}   {decimals(row['value']):>8}"
        yield f"{told}   {interval_ends(row)}"


def advice(results: Mapping[str, Any], yardstick: Yardstick) -> str:
    """What to try after a training run that is not clearly better than a constant answer, or than a bag of words."""
    split = judged(results)
    standing = yardstick.standing(results[split][yardstick.metric])
    if standing.startswith(("not better", "worse")):
        return MORE
    said = over_bag_of_words(results, split, yardstick.metric)
    if not said.startswith((NOT_ABOVE, "Worse")):
        return ""
    rows = results["bag_of_words"]
    margin = next(row["margin"] for row in rows if (row["split"], row["metric"]) == (split, yardstick.metric))
    if standing.startswith("better") and margin > 0:
        return UNPROVEN
    few = results["steps"] < FEW_STEPS
    # More epochs on the same few rows did not help (docs/results.md); more rows did.
    return f"{counted(results['steps'], 'update')} are few: label more rows, or try another --model" if few else LEARNT


def table(results: Mapping[str, Any], task: Task) -> Iterator[str]:
    """A line a metric, below its split: value, interval, and what to compare it with."""
    yield f"{'':<{NAME_COLUMNS}}   value   95% interval       baseline"
    for split, metrics in splits_of(results).items():
        yield split
        for name, entry in metrics.items():
            told = f"{decimals(entry['value']):>8}   {interval_ends(entry):<16}"
            yield f"  {name:<{NAME_COLUMNS - 2}}{told}   {_beside(name, entry, task)}".rstrip()


def _beside(name: str, entry: Mapping[str, float], task: Task) -> str:
    for key, words in (("baseline", baseline_name(name, task)), ("chance", "by chance")):
        if math.isfinite(entry.get(key, math.nan)):
            return f"{decimals(entry[key])} {words}"
    return ""


def calibration(results: Mapping[str, Any], rows: Mapping[str, int]) -> Iterator[str]:
    """What the temperature mends and where it is; nothing for tasks without one, or where there is none to advise."""
    if "temperature" not in results:
        return
    temperature, split = results["temperature"], judged(results)
    before, after = (results[split]["calibration_error"][key] for key in ("before", "after"))
    change = f"error on {split} {decimals(before)} → {decimals(after)}"
    if results["calibrated"]:
        said = f"temperature {decimals(temperature)} in the saved head: {change}"
        if rows["validation"] < ADVISED_ROWS:
            said += f"; fitted on {counted(rows['validation'], 'row')} only, which is too few to trust it"
        elif not 1 / FAR <= temperature <= FAR:
            said += "; it is far from 1, which longer training would correct better"
    elif after < before:
        said = f"--calibrate (temperature {decimals(temperature)}): {change}"
    else:
        said = f"temperature {decimals(temperature)} would not help: {change}"
    yield from fields([("calibrated" if results["calibrated"] else "calibrate", said)])
