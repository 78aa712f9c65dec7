"""What the saved model answers on a split: the classes, what it confuses, how sure it is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dongu.config import NUMBERS
from dongu.judge.answers import Evaluation
from dongu.judge.classes import class_rows, most_confused, reliability
from dongu.judge.words import abstaining, judged
from dongu.page.draw import drawings
from dongu.page.draw.axis import Axis
from dongu.page.draw.plot import Plot
from dongu.page.draw.svg import Chart, format_number
from dongu.page.trace import Trace
from dongu.text import counted

SHOWN_CLASSES = 40  # in the table of classes, those with most rows first
MATRIX_CLASSES = 16  # above, the matrix is a list of what is confused most
MOST_CONFUSED = 12  # cells


def answers_shown(trace: Trace) -> dict[str, Any] | None:
    """Charts of the saved model's answers to a split; of classes also a row each, and what is confused most."""
    if not trace.splits or (answers := trace.answers.get(split := judged(trace.splits))) is None:
        return None
    shown: dict[str, Any] = {"split": split, "classes": [], "more_classes": 0, "confused": [], "calibration": ""}
    if trace.task in NUMBERS:
        return shown | {"charts": _numbers(answers)}
    names, drawn = trace.record.label_names, []
    rows = class_rows(answers, names)
    shown["classes"] = (
        rows if len(rows) <= SHOWN_CLASSES else sorted(rows, key=lambda row: -row["rows"])[:SHOWN_CLASSES]
    )
    shown["more_classes"] = len(rows) - len(shown["classes"])
    if trace.task == "single-label":
        confusion = answers.confusion
        shown["confused"] = most_confused(confusion, names, MOST_CONFUSED) if len(names) > 2 else []
        if len(names) <= MATRIX_CLASSES:
            said = "Each row is a label, each column an answer. Percentages are shares of the rows of the label."
            drawn.append((drawings.matrix(f"Confusion matrix of {split}", confusion, names), said))
        drawn.append(_reliability(trace, answers))
        shown["calibration"] = " ".join(filter(None, (_calibration(trace, split), _abstention(trace, split))))
    return shown | {"charts": drawn}


def _numbers(answers: Evaluation) -> list[tuple[Chart, str]]:
    """Of a regression: answers against labels, and what is left."""
    targets, predictions = np.asarray(answers.targets), answers.predictions
    both = Axis.of(np.concatenate([targets, predictions]), "label")
    scatter = Plot("Answer and label", both, Axis(both.low, both.high, both.ticks, "answer"))
    scatter.rule("answer = label", (both.low, both.high), (both.low, both.high))
    scatter.points("rows", targets, predictions)
    errors = predictions - targets
    reach = float(np.abs(errors).max()) or 1.0
    bins = 2 * min(max(round(math.sqrt(len(errors))), 4), 14) + 1  # one of them around 0
    counts, edges = np.histogram(errors, bins=bins, range=(-reach, reach))
    residuals = Plot(
        "Answer minus label", Axis.of(edges, "answer − label"), Axis.of(counts, "rows", zero=True, whole=True)
    )
    residuals.histogram(edges, counts, "row", "{:.3g} to {:.3g}").said.append(
        f"mean {errors.mean():.3g}, deviation {errors.std():.3g}."
    )
    return [
        (scatter.chart(), "On the line the answer equals the label."),
        (residuals.chart(), f"Mean {errors.mean():.3g}, deviation {errors.std():.3g}: a mean far from 0 is a bias."),
    ]


def _reliability(trace: Trace, answers: Evaluation) -> tuple[Chart, str]:
    counts, _, shares = reliability(answers)
    edges = np.linspace(0, 1, len(counts) + 1)
    plot = Plot(
        "Reliability",
        Axis.between(0, 1, "probability of the answer"),
        Axis.between(0, 1.05, "share that is correct", exact=True),
    )
    tips = [
        f"{low:.0%} to {high:.0%}: {right:.1%} of {counted(int(rows), 'row')} right"
        for low, high, right, rows in zip(edges, edges[1:], shares, counts, strict=False)
    ]
    plot.bars(edges, np.nan_to_num(shares), tips, [f"{rows:,}" for rows in counts])
    plot.legend.append(("bar", "as saved"))
    plot.rule("ideal", (0, 1), (0, 1))
    outcome = trace.outcome
    if outcome and outcome.temperature and not outcome.calibrated:
        _, sure, right = reliability(answers, outcome.temperature)
        plot.line("with temperature", sure, right, 1, markers=True)
    plot.said.append("; ".join(tip for tip, rows in zip(tips, counts, strict=True) if rows))
    return plot.chart(), "Below the diagonal the model is overconfident. The small numbers count the rows."


def _calibration(trace: Trace, split: str) -> str:
    entry, outcome = trace.splits[split].get("calibration_error"), trace.outcome
    if entry is None or outcome is None:
        return ""
    value, low, high, chance = (format_number(entry[key]) for key in ("value", "low", "high", "chance"))
    text = f"Expected calibration error {value} (95% interval {low} to {high}; chance alone would show {chance})"
    if outcome.temperature is None:
        return f"{text}."
    change = f"{format_number(entry['before'])} before it, {format_number(entry['after'])} after"
    better = "and --calibrate would save it" if entry["after"] < entry["before"] else "so it would not help"
    place = "and the saved model has it" if outcome.calibrated else better
    return f"{text}. Temperature {format_number(outcome.temperature)}: {change}, {place}."


def _abstention(trace: Trace, split: str) -> str:
    """What `--abstain` came to; nothing where it was not given."""
    if trace.outcome is None or trace.outcome.abstained is None:
        return ""
    row = next((row for row in trace.outcome.abstained if row["split"] == split), None)
    if trace.outcome.abstain_below is None or row is None:
        return "Each row gets a label: no threshold is proved to reach the accuracy that --abstain asks for."
    return (
        f"With a probability below {format_number(trace.outcome.abstain_below)} the model abstains: {abstaining(row)}."
    )
