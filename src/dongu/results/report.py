"""`report.html`: what a run did, on one page that asks for nothing.

The page is a function of the run folder, of the finished runs beside it and of the data: the same bytes each time. It
has no script and no address, and allows itself none: its policy forbids all but its own style sheet. Whatever comes
from data, names or paths is escaped where it is written, by the template's engine or by `charts`.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dongu.config import RunConfig, Task, make_config, option_flag
from dongu.data.examples import Examples, TextData, digest_of, read_examples
from dongu.data.sources import read_source
from dongu.doctor.finding import worst_first
from dongu.errors import DonguError
from dongu.files import write_file
from dongu.results import charts
from dongu.results.answers import Answers
from dongu.results.charts import Axis, Chart, Interval, Plot, format_number, words
from dongu.results.outcomes import class_rows, most_confused, reliability
from dongu.results.suspects import Dynamics, learnt
from dongu.results.trace import Earlier, Entries, Rows, Trace, previous_run, read_trace
from dongu.run.folder import RunFolder
from dongu.text import counted, percent

SHOWN_ROWS = 12  # of the hardest, and of those that may be mislabelled
SHOWN_CLASSES = 40  # in the table of classes, those with most rows first
MATRIX_CLASSES = 16  # above, the matrix is a list of what is confused most
MANY = 0.25  # of the rows, unlearnt: a sign of the model rather than of the labels
TEXT_LIMIT = 320  # characters of a text
BUCKETS = 80  # of the steps, of which a mean and a range are drawn
CONSTANTS: dict[Task, str] = {
    "single-label": "majority class",
    "multi-label": "label shares",
    "regression": "mean of train",
}
METRIC_NAMES = {
    "f1": "F1",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "matthews_correlation": "Matthews’ r",
    "pearson": "Pearson’s r",
    "spearman": "Spearman’s ρ",
}
PHASES = {
    "setup": "set-up: data, tokens, model",
    "steps": "steps",
    "evaluation": "evaluations",
    "checkpoint": "checkpoints",
    "judging": "judging the best model",
    "report": "this page, at each evaluation",
}
LOCAL = ("/", ".", "~")  # how the name of a place on this machine begins


def write_report(folder: RunFolder, data: TextData | None, results: Mapping[str, Any] | None = None) -> None:
    """Write the page of a run into its folder.

    Args:
        folder: the run.
        data: its rows; without them, rows are shown by their numbers.
        results: what `results.json` will hold, where that is yet to come.

    Raises:
        InputError: the folder is no run, or one of its files is damaged.
        StorageError: the page could not be written.
    """
    write_file(folder.report, make_report(folder, data, results), within=folder.path)


def make_report(folder: RunFolder, data: TextData | None, results: Mapping[str, Any] | None = None) -> bytes:
    """The page, from what `write_report` says.

    Raises:
        InputError: as `write_report`.
    """
    trace = read_trace(folder, results)
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = _environment().get_template("report.html.jinja")
    return page.render(
        style=Markup(style),  # noqa: S704 - a file of this package
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        trace=trace,
        verdict=_verdict(trace, previous_run(folder, trace)),
        facts=_facts(trace),
        curves=_curves(trace),
        answers=_answers(trace),
        hardest=_hardest(trace, data),
        suspects=_suspects(trace, data),
        no_texts=data is None,
        findings=worst_first(trace.findings),
        here=_here,
        data_charts=_data_charts(trace),
        time=_time(trace),
        origin=_origin(trace),
    ).encode("utf-8", "replace")  # a name on the disk may be no UTF-8


def read_data(folder: RunFolder) -> TextData | None:
    """The rows of a run as they are read today; None where they are gone, or are not what they were."""
    record = folder.read_record()
    options = record["options"]
    if (place := options.get("data")) is None:
        return None
    try:
        data = read_examples(read_source(place), make_config(options))
        known = {name: entry["texts"] for name, entry in record["data"].items()}
    except (DonguError, KeyError, TypeError, AttributeError):
        return None
    return data if known == {name: digest_of(examples) for name, examples in data.splits.items()} else None


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: words(value, 4000) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": format_number, "percent": percent, "counted": counted, "metric": metric_name}
    return environment


def metric_name(name: str) -> str:
    """A metric as a person writes it."""
    return METRIC_NAMES.get(name, name.replace("_", " "))


# --- the verdict


@dataclass(frozen=True)
class Verdict:
    """The main metric, held against an answer without reading and against the run before."""

    headline: str
    value: str
    sentences: Sequence[str]
    chart: Chart | None
    splits: Mapping[str, Entries]


def _verdict(trace: Trace, earlier: Earlier | None) -> Verdict | None:
    if not trace.splits:
        return _so_far(trace)
    split = _judged(trace)
    name, metric = metric_name(trace.record.metric), trace.record.metric
    entry = trace.splits[split].get(metric)
    if entry is None:
        return None
    value, low, high = entry["value"], entry["low"], entry["high"]
    rows = [Interval("this run", value, low, high)]
    rows_judged = counted(len(trace.answers[split]), "row") if split in trace.answers else "rows"
    sentences = [f"On {rows_judged} of {split}, 95% interval {format_number(low, 3)} to {format_number(high, 3)}."]
    if math.isfinite(baseline := entry.get("baseline", math.nan)):
        constant = CONSTANTS[trace.task]
        rows.append(Interval(f"without reading: {constant}", baseline, kind=2))
        sentences.append(f"{_against(metric, low, high, baseline)} {constant} ({format_number(baseline, 3)}).")
    if earlier is not None and (before := earlier.splits.get(split, {}).get(metric)) is not None:
        rows.append(Interval(f"previous run: {earlier.name}", before["value"], before["low"], before["high"], kind=1))
        change = value - before["value"]
        apart = low > before["high"] or high < before["low"]
        sentences.append(
            f"{format_number(abs(change), 3)} {'above' if change > 0 else 'below'} the previous run on these data, "
            + (f"{earlier.name}; the intervals lie apart." if apart else f"{earlier.name}; the intervals overlap.")
            if change
            else f"Equal to the previous run on these data, {earlier.name}."
        )
    if split.startswith("validation"):
        sentences.append("These rows chose the model, so the figure flatters it a little.")
    chart = charts.intervals(f"{name} on {split}", rows, f"{name} on {split}, 95% intervals")
    return Verdict(f"{name} on {split}", format_number(value, 3), sentences, chart, trace.splits)


def _against(metric: str, low: float, high: float, baseline: float) -> str:
    better, worse = (high < baseline, low > baseline) if metric == "loss" else (low > baseline, high < baseline)
    return "Clearly better than the" if better else "Clearly worse than the" if worse else "Not clearly better than the"


def _so_far(trace: Trace) -> Verdict | None:
    """Of a run that has not ended."""
    known = [line for line in trace.evaluations if math.isfinite(line.get(trace.record.metric, math.nan))]
    if not known:
        return None
    choose = min if trace.record.metric == "loss" else max
    best = choose(known, key=lambda line: line[trace.record.metric])
    sentences = [
        f"The best so far, at step {best['step']:,.0f} of {_whole(trace.record.total_steps)}.",
        "Intervals and baselines come at the end of the run.",
    ]
    name = metric_name(trace.record.metric)
    return Verdict(f"{name} on validation", format_number(best[trace.record.metric], 3), sentences, None, {})


def _judged(trace: Trace) -> str:
    """The split that the verdict is of: rows that chose nothing, where there are some with labels."""
    return next((split for split in trace.splits if split.startswith("test")), next(iter(trace.splits)))


def _facts(trace: Trace) -> list[tuple[str, str]]:
    """A few words that place the run."""
    record, options = trace.record, trace.record.options
    splits = " · ".join(f"{entry.rows:,} {name}" for name, entry in record.data.items())
    done = int(trace.steps["step"][-1]) if len(trace.steps["step"]) else 0
    epochs = f", {trace.steps['epoch'][-1]:.3g} epochs" if done else ""
    steps = f"{done:,}{epochs}" if trace.outcome else f"{done:,} of {_whole(record.total_steps)}"
    facts = [
        ("model", _place(str(options.get("model")))),
        ("data", f"{_place(str(options.get('data') or 'rows in memory'))}"),
        ("rows", splits),
        (
            "task",
            f"{trace.task}, {counted(len(trace.record.label_names), 'label')}"
            if trace.task != "regression"
            else trace.task,
        ),
        ("steps", steps),
    ]
    if trace.outcome:
        facts.append(("best model", f"step {trace.outcome.best_step:,}"))
    return facts


# --- the training


def _curves(trace: Trace) -> list[tuple[Chart, str]]:
    """Charts over the steps, each with a sentence on how to read it."""
    steps = trace.steps["step"]
    if len(steps) == 0:
        return []
    axis = Axis.between(0, float(steps[-1]), "step", exact=True, whole=True)
    evaluated = np.array([line["step"] for line in trace.evaluations])
    best = trace.outcome.best_step if trace.outcome else None
    return [
        (
            _loss_curve(trace, axis, evaluated),
            "Validation that rises while train falls is the mark of learning by heart.",
        ),
        *_metric_curve(trace, axis, evaluated, best),
        (
            Plot("Learning rate", axis, Axis.of(trace.steps["learning_rate"], "learning rate", zero=True))
            .line("learning rate", steps, trace.steps["learning_rate"], 0)
            .chart(),
            "What each update used.",
        ),
        (
            _norm_curve(trace, axis),
            "Before clipping. Single peaks are batches that surprise; a rise that stays is a warning.",
        ),
    ]


def _loss_curve(trace: Trace, axis: Axis, evaluated: np.ndarray) -> Chart:
    steps, losses = trace.steps["step"], trace.steps["loss"]
    validation = np.array([line["loss"] for line in trace.evaluations])
    places, means, lows, highs = _bucketed(steps, losses)
    plot = Plot("Loss", axis, Axis.of([*lows, *highs, *means, *validation], "loss", zero=True))
    if len(places) < len(steps):
        plot.band("9 of 10 steps", places, lows, highs)
    plot.line("train", places, means, 0)
    return plot.line("validation", evaluated, validation, 1, markers=len(evaluated) <= BUCKETS).chart()


def _metric_curve(trace: Trace, axis: Axis, evaluated: np.ndarray, best: int | None) -> Iterator[tuple[Chart, str]]:
    names = list(dict.fromkeys([trace.record.metric, *trace.record.metrics]))
    values = {
        name: np.array([line.get(name, math.nan) for line in trace.evaluations]) for name in names if name != "loss"
    }
    values = dict(list({name: each for name, each in values.items() if np.isfinite(each).any()}.items())[:3])
    if not values:
        return
    plot = Plot("Validation", axis, Axis.of(np.concatenate(list(values.values())), "metric"))
    for kind, (name, each) in enumerate(values.items()):
        plot.line(metric_name(name), evaluated, each, kind, markers=len(evaluated) <= BUCKETS)
    said = "One point an evaluation."
    if best is not None:
        plot.rule("", (best, best), (plot.y.low, plot.y.high))
        said = f"One point an evaluation. The thin upright line is step {best:,}, whose model was kept."
    yield plot.chart(), said


def _norm_curve(trace: Trace, axis: Axis) -> Chart:
    steps, norms = trace.steps["step"], trace.steps["grad_norm"]
    places, means, lows, highs = _bucketed(steps, norms)
    plot = Plot("Gradient norm", axis, Axis.of([*lows, *highs], "gradient norm", zero=True, log=True))
    if len(places) < len(steps):
        plot.band("9 of 10 steps", places, lows, highs)
    plot.line("mean", places, means, 0)
    limit = trace.record.options.get("max_grad_norm")
    if isinstance(limit, int | float) and plot.y.low <= limit <= plot.y.high:
        plot.rule("clipped above", (axis.low, axis.high), (limit, limit))
    return plot.chart()


def _bucketed(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Places, means, and the ends of the middle nine tenths of groups of steps; the steps themselves where few."""
    if len(steps) <= 2 * BUCKETS:
        return steps, values, values, values
    parts = np.array_split(np.arange(len(steps)), BUCKETS)
    lows, highs = np.array([np.quantile(values[part], [0.05, 0.95]) for part in parts]).T
    means = np.array([values[part].mean() for part in parts])
    return np.array([steps[part].mean() for part in parts]), means, lows, highs


# --- the answers


@dataclass(frozen=True)
class AnswersShown:
    """What the saved model says of a split."""

    split: str
    charts: Sequence[tuple[Chart, str]]
    classes: Sequence[Any]
    more_classes: int
    confused: Sequence[Mapping[str, Any]]
    calibration: str


def _answers(trace: Trace) -> AnswersShown | None:
    if not trace.splits or (answers := trace.answers.get(split := _judged(trace))) is None:
        return None
    if trace.task == "regression":
        return AnswersShown(split, _numbers(answers), [], 0, [], "")
    names = trace.record.label_names
    rows = class_rows(answers)
    shown = rows if len(rows) <= SHOWN_CLASSES else sorted(rows, key=lambda row: -row.rows)[:SHOWN_CLASSES]
    drawn, confused, calibration = [], [], ""
    if trace.task == "single-label":
        confusion = answers.confusion
        confused = most_confused(confusion, names, SHOWN_ROWS) if len(names) > 2 else []
        if len(names) <= MATRIX_CLASSES:
            said = "Each row is a label, each column an answer; the diagonal is right. Percent are of the label’s rows."
            drawn.append((charts.matrix(f"What was confused on {split}", confusion, names), said))
        drawn.append(_reliability(trace, answers))
        calibration = _calibration(trace, split)
    return AnswersShown(split, drawn, shown, len(rows) - len(shown), confused, calibration)


def _numbers(answers: Answers) -> list[tuple[Chart, str]]:
    """Of a regression: answers against labels, and what is left."""
    both = Axis.of(np.concatenate([answers.targets, answers.given]), "label")
    scatter = Plot("Answer and label", both, Axis(both.low, both.high, both.ticks, "answer"))
    scatter.rule("answer = label", (both.low, both.high), (both.low, both.high))
    scatter.points("rows", answers.targets, answers.given)
    errors = answers.given - answers.targets
    reach = float(np.abs(errors).max()) or 1.0
    bins = 2 * min(max(round(math.sqrt(len(errors))), 4), 14) + 1  # one of them around 0
    counts, edges = np.histogram(errors, bins=bins, range=(-reach, reach))
    tips = [
        f"{low:.3g} to {high:.3g}: {counted(int(n), 'row')}"
        for low, high, n in zip(edges, edges[1:], counts, strict=False)
    ]
    residuals = Plot(
        "Answer minus label", Axis.of(edges, "answer − label"), Axis.of(counts, "rows", zero=True, whole=True)
    )
    residuals.bars(edges, counts, tips)
    residuals.said.append(f"mean {errors.mean():.3g}, deviation {errors.std():.3g}.")
    return [
        (scatter.chart(), "On the line the answer is the label."),
        (residuals.chart(), f"Mean {errors.mean():.3g}, deviation {errors.std():.3g}: a mean far from 0 is a bias."),
    ]


def _reliability(trace: Trace, answers: Answers) -> tuple[Chart, str]:
    saved = reliability(answers)
    edges = np.linspace(0, 1, len(saved.rows) + 1)
    plot = Plot(
        "Reliability",
        Axis.between(0, 1, "probability of the answer"),
        Axis.between(0, 1.05, "share that is right", exact=True),
    )
    tips = [
        f"{low:.0%} to {high:.0%} sure: {right:.1%} of {counted(int(rows), 'row')} right"
        for low, high, right, rows in zip(edges, edges[1:], saved.right, saved.rows, strict=False)
    ]
    plot.bars(edges, np.nan_to_num(saved.right), tips, [f"{rows:,}" for rows in saved.rows])
    plot.legend.append(("bar", "as saved"))
    plot.rule("ideal", (0, 1), (0, 1))
    outcome = trace.outcome
    if outcome and outcome.temperature and not outcome.calibrated:
        other = reliability(answers, outcome.temperature)
        plot.line("with temperature", other.sure, other.right, 1, markers=True)
    plot.said.append("; ".join(tip for tip, rows in zip(tips, saved.rows, strict=True) if rows))
    return plot.chart(), "Below the diagonal the model is surer than it is right. The small numbers are rows."


def _calibration(trace: Trace, split: str) -> str:
    entry, outcome = trace.splits[split].get("calibration_error"), trace.outcome
    if entry is None or outcome is None:
        return ""
    text = (
        f"Expected calibration error {format_number(entry['value'], 3)} (95% interval"
        f" {format_number(entry['low'], 3)} to "
        f"{format_number(entry['high'], 3)}; chance alone would show {format_number(entry['chance'], 3)})"
    )
    if "before" in entry and outcome.temperature is not None:
        text += (
            f". Temperature {format_number(outcome.temperature, 3)}: "
            f"{format_number(entry['before'], 3)} before it, {format_number(entry['after'], 3)} after"
        )
        text += ", and the saved model has it" if outcome.calibrated else "; --calibrate would save it"
    return text + "."


# --- rows


@dataclass(frozen=True)
class RowShown:
    """One row: where it stands, its texts, its label, and what was made of it."""

    where: str
    texts: Sequence[str]
    label: str
    answer: str
    number: str
    history: str = ""


def _hardest(trace: Trace, data: TextData | None) -> list[RowShown]:
    """The rows of validation with the highest loss: not of test, on which nothing should be tuned."""
    answers = trace.answers.get("validation")
    if answers is None:
        return []
    names = trace.record.label_names
    order = np.argsort(-answers.losses, kind="stable")[:SHOWN_ROWS]
    rows = []
    for place in (int(each) for each in order):
        truth, given = answers.targets[place], answers.given[place]
        if trace.task == "regression":
            label, answer, number = f"{truth:.4g}", f"{given:.4g}", f"{given - truth:+.3g}"
        elif trace.task == "multi-label":
            label, answer = (_set_of(flags, names) for flags in (truth, given))
            number = format_number(float(answers.losses[place]), 3)
        else:
            label, answer = names[int(truth)], names[int(given)]
            number = f"{answers.probabilities[place, int(truth)]:.1%}"
        rows.append(RowShown(*_row(data, "validation", int(answers.ids[place])), label, answer, number))
    return rows


@dataclass(frozen=True)
class SuspectsShown:
    """The rows of train that were not learnt, the map of all rows, and what to make of them."""

    said: str
    rows: Sequence[RowShown]
    chart: Chart | None


def _suspects(trace: Trace, data: TextData | None) -> SuspectsShown | None:
    found = learnt(trace.dynamics, trace.task, len(trace.record.label_names))
    if found is None:
        return None
    count, all_rows, numbers = int(found.suspect.sum()), len(found.ids), trace.task == "regression"
    share = count / all_rows
    rule = (
        f"the model’s error stayed above {format_number(found.limit, 3)}, three times the usual one"
        if numbers
        else f"the model gave their own label less than {found.limit:.0%}, what guessing gives"
    )
    sentences = [
        f"{count:,} of {counted(all_rows, 'row')} of train ({percent(share)}) stayed unlearnt."
        if count
        else f"None of {counted(all_rows, 'row')} of train stayed unlearnt.",
        f"Unlearnt are rows for which {rule}, on the mean of their passes after the first.",
        "A wrong label looks like this, and so does one that is only hard.",
    ]
    if len(found.values) == all_rows:
        sentences.append("There was one pass only: a second would tell hard from wrong.")
    if share > MANY:
        sentences.append("With so many the model has learnt little yet, and the list says little.")
    rows = []
    for place in (int(each) for each in found.worst(SHOWN_ROWS)):
        where, texts = _row(data, "train", row := int(found.ids[place]))
        shown = (f"{value:.3g}" if numbers else f"{value:.0%}" for value in found.history(place)[-6:])
        label = _label_of(data, row, trace)
        rows.append(RowShown(where, texts, label, "", _score(float(found.score[place]), numbers), " → ".join(shown)))
    return SuspectsShown(" ".join(sentences), rows, None if numbers else _data_map(found))


def _score(score: float, numbers: bool) -> str:
    return f"{score:.3g}" if numbers else f"{score:.1%}"


def _data_map(found: Dynamics) -> Chart:
    plot = Plot(
        "Map of the training rows",
        Axis.of(np.append(found.spread, 0.1), "spread over the passes", zero=True),
        Axis.between(0, 1, "probability of its label"),
    )
    plot.points("learnt", found.spread[~found.suspect], found.score[~found.suspect])
    plot.points("not learnt", found.spread[found.suspect], found.score[found.suspect], 1)
    return plot.rule("guessing", (plot.x.low, plot.x.high), (found.limit, found.limit)).chart()


def _row(data: TextData | None, split: str, row: int) -> tuple[str, list[str]]:
    """Where a row stands, and its texts, if they are here."""
    if data is None or (place := _find(data.splits[split], row)) is None:
        return f"{split}, row {row + 1:,}", []
    examples = data.splits[split]
    return _here(examples.where(place)), [
        words(" ".join(column[place].split()), TEXT_LIMIT) for column in examples.texts
    ]


def _label_of(data: TextData | None, row: int, trace: Trace) -> str:
    """The label of a training row, if it is here."""
    if data is None or (targets := data.splits["train"].targets) is None:
        return ""
    if (place := _find(data.splits["train"], row)) is None:
        return ""
    if trace.task == "regression":
        return f"{float(targets[place]):.4g}"
    return (
        _set_of(targets[place], trace.record.label_names)
        if trace.task == "multi-label"
        else trace.record.label_names[targets[place]]
    )


def _find(examples: Examples, row: int) -> int | None:
    """The place in a split of a row by its number in the source."""
    place = int(np.searchsorted(examples.ids, row))
    return place if place < len(examples.ids) and examples.ids[place] == row else None


def _set_of(flags: np.ndarray, names: Sequence[str]) -> str:
    return ", ".join(names[int(i)] for i in np.flatnonzero(flags)) or "none"


# --- the data, the time, the origin


def _data_charts(trace: Trace) -> list[tuple[Chart, str]]:
    shown = []
    if (lengths := trace.record.lengths.get("train")) is not None:
        counts, width = np.array(lengths.counts), lengths.width
        edges = np.arange(len(counts) + 1) * width
        plot = Plot(
            "Length of the training rows",
            Axis.of(edges, "tokens", zero=True, whole=True),
            Axis.of(counts, "rows", zero=True, whole=True),
        )
        last = edges + width - 1
        tips = [
            f"{low:,} to {high:,} tokens: {counted(int(n), 'row')}"
            for low, high, n in zip(edges, last, counts, strict=False)
        ]
        plot.bars(edges, counts, tips)
        mean, cut = lengths.tokens / counts.sum(), lengths.cut
        plot.said.append(f"mean {mean:.1f} tokens.")
        limit = trace.record.options.get("max_length")
        said = f"Mean {mean:.1f} tokens. {counted(cut, 'row')} of {counts.sum():,} cut at {limit}."
        shown.append((plot.chart(), said))
    tokens, padded = trace.timed["tokens"], trace.timed["padded_tokens"]
    if len(tokens):
        shares = 1 - tokens / padded
        counts, edges = np.histogram(shares, bins=20, range=(0, max(0.05, float(shares.max()))))
        plot = Plot(
            "Padding of the steps",
            Axis.of(edges, "share of padding", zero=True),
            Axis.of(counts, "steps", zero=True, whole=True),
        )
        tips = [
            f"{low:.0%} to {high:.0%}: {counted(int(n), 'step')}"
            for low, high, n in zip(edges, edges[1:], counts, strict=False)
        ]
        left_out = trace.record.options.get("engine") == "packed"
        padding = percent(1 - float(tokens.sum() / padded.sum()))
        said = f"{padding} of all tokens if each row is padded to the longest of its batch"
        plot.bars(edges, counts, tips).said.append(said)
        shown.append(
            (plot.chart(), f"{said}; " + ("the packed engine leaves it out." if left_out else "it was computed."))
        )
    names, answer = trace.record.label_names, trace.record.constant_answer
    if answer and trace.task != "regression" and len(answer) == len(names):
        ranked = sorted(zip(names, answer, strict=True), key=lambda pair: -pair[1])[:MATRIX_CLASSES]
        rows = [(name, float(share), percent(float(share))) for name, share in ranked]
        more = len(answer) - len(rows)
        shown.append(
            (charts.bars("Labels of train", rows), f"Share of the rows of train{f'; {more} more' if more else ''}.")
        )
    return shown


@dataclass(frozen=True)
class TimeShown:
    """Where the time went, and how fast the steps were."""

    facts: Sequence[tuple[str, str]]
    charts: Sequence[tuple[Chart, str]]


def _time(trace: Trace) -> TimeShown | None:
    if not trace.phases:
        return None
    total = math.fsum(trace.phases.values())
    rows = [
        (PHASES.get(name, name), seconds, f"{_duration(seconds)}, {seconds / total:.1%}")
        for name, seconds in sorted(trace.phases.items(), key=lambda item: -item[1])
    ]
    shown = [(charts.bars("Where the time went", rows), f"{_duration(total)} in all.")]
    steps, seconds, tokens = (trace.timed[name] for name in ("step", "seconds", "tokens"))
    if len(steps):
        places, means, lows, highs = _bucketed(steps, tokens / np.maximum(seconds, 1e-9))
        axis = Axis.between(0, float(steps[-1]), "step", exact=True, whole=True)
        plot = Plot("Tokens a second", axis, Axis.of([*lows, *highs], "tokens/s", zero=True))
        if len(places) < len(steps):
            plot.band("9 of 10 steps", places, lows, highs)
        shown.append((plot.line("mean", places, means, 0).chart(), "Real tokens of one process, padding not counted."))
    return TimeShown(_speed(trace), shown)


def _speed(trace: Trace) -> list[tuple[str, str]]:
    if trace.summary is None:
        return []
    rates = trace.summary.per_second
    return [
        ("examples a second", f"{rates.examples:,.1f}"),
        ("tokens a second", f"{rates.tokens:,.0f}"),
        (
            "of the machine",
            f"{rates.model_flops / rates.product_flops:.0%} of {rates.product_flops / 1e9:,.0f} GFLOP/s",
        ),
        ("memory at most", f"{trace.summary.peak_memory_bytes / 1e6:,.0f} MB"),
    ]


@dataclass(frozen=True)
class Origin:
    """What the run was made of."""

    command: str
    again: str
    options: Sequence[tuple[str, str]]
    machine: Mapping[str, str]  # versions and hardware
    data: Mapping[str, Rows]
    changes: Sequence[str]


def _origin(trace: Trace) -> Origin:
    record = trace.record
    return Origin(
        command=_command(record.options),
        again=shlex.join(["dongu", "train", "--config", f"{trace.name}/run.json", "--out", f"{trace.name}-again"]),
        options=[
            (option_flag(name), _shown(name, value)) for name, value in record.options.items() if value is not None
        ],
        machine={**record.versions, **record.hardware, "processes": str(record.processes)},
        data=record.data,
        changes=[f"step {change.step:,}: {text}" for change in record.changes for text in change.changes],
    )


def _command(options: Mapping[str, Any]) -> str:
    """The options that are not the defaults, as one would type them; places of this machine by their last name."""
    words_ = ["dongu train", shlex.quote(_place(str(options.get("data") or "DATA")))]
    fields = RunConfig.model_fields
    derived = {"data", "out", "threads", "task", "device"} | (
        {"micro_batch_size"} if options.get("micro_batch_size") == options.get("batch_size") else set()
    )
    for name, value in options.items():
        if name in derived or name not in fields or value is None or value == fields[name].default:
            continue
        if isinstance(value, Mapping):
            parts = [f"{key}={_shown('', number)}" for key, number in value.items()]
        elif isinstance(value, list | tuple):
            parts = [str(item) for item in value]
        else:
            parts = [] if value is True else [_shown(name, value)]
        words_ += [option_flag(name), *(shlex.quote(part) for part in parts)]
    return " ".join(words_)


def _shown(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return _place(str(value)) if name in ("data", "model", "out") else str(value)


def _place(name: str) -> str:
    """A Hub name whole; of a place on this machine the last name alone, which says nothing of the machine."""
    return name.rstrip("/").rsplit("/", 1)[-1] if name.startswith(LOCAL) else name


def _here(where: str) -> str:
    """The place of a row without the folders above its file."""
    return where.rsplit("/", 1)[-1]


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours} h {minute:02} min" if hours else f"{minute} min {second:02} s"


def _whole(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"
