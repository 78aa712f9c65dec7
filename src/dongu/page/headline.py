"""What stands at the head of a page: the verdict, and a few words that place the run."""

from __future__ import annotations

import math
from typing import Any

from dongu.config import LOWER_IS_BETTER, NUMBERS
from dongu.judge.words import CHOSE, Yardstick, judged, metric_name, over_bag_of_words
from dongu.page.draw import drawings
from dongu.page.draw.drawings import Interval
from dongu.page.draw.svg import format_number
from dongu.page.origin import place
from dongu.page.trace import Earlier, Trace
from dongu.text import counted


def headline(trace: Trace, earlier: Earlier | None) -> dict[str, Any] | None:
    """The main metric, compared with its baseline, a bag of words and the previous run; None without a value of it."""
    if not trace.splits:
        return _so_far(trace)
    split = judged(trace.splits)
    name, metric = metric_name(trace.record.metric), trace.record.metric
    entry = trace.splits[split].get(metric)
    if entry is None:
        return None
    value, low, high = entry["value"], entry["low"], entry["high"]
    rows = [Interval("this run", value, low, high)]
    rows_judged = counted(len(trace.answers[split]), "row") if split in trace.answers else "rows"
    interval = f"95% interval {format_number(low)} to {format_number(high)}"
    interval = interval if math.isfinite(low) else "without an interval, as the rows are too few or all alike"
    sentences = [f"On {rows_judged} of {split}, {interval}."]
    yardstick = Yardstick(trace.task, metric, trace.record.label_names, trace.record.constant_answer)
    if (other := yardstick.without_reading(entry)) is not None:
        rows.append(Interval(other[0], other[1], kind=2))
        standing = yardstick.standing(entry)
        sentences.append(f"{standing[0].upper()}{standing[1:]} ({format_number(other[1])}).")
    results = {} if trace.outcome is None else trace.outcome.model_dump()
    bag = {
        (row["split"], row["metric"]): float("nan" if row["value"] is None else row["value"])
        for row in results.get("bag_of_words", ())
    }
    if said := over_bag_of_words(results, split, metric):
        rows.append(Interval("a bag of words", bag[split, metric], kind=2))
        sentences.append(said)
    if earlier is not None and (before := earlier.splits.get(split, {}).get(metric)) is not None:
        rows.append(Interval(f"previous run: {earlier.name}", before["value"], before["low"], before["high"], kind=1))
        change = value - before["value"]
        apart = low > before["high"] or high < before["low"]
        sentences.append(
            f"{format_number(abs(change))} {'above' if change > 0 else 'below'} the previous run on these data, "
            + (f"{earlier.name}; the intervals lie apart." if apart else f"{earlier.name}; the intervals overlap.")
            if change
            else f"Equal to the previous run on these data, {earlier.name}."
        )
    if split.startswith("validation"):
        sentences.append(CHOSE)
    chart = drawings.intervals(f"{name} on {split}", rows, f"{name} on {split}, 95% intervals")
    shown: dict[str, Any] = {"headline": f"{name} on {split}", "value": format_number(value), "sentences": sentences}
    return shown | {"chart": chart, "bag_of_words": bag}


def _so_far(trace: Trace) -> dict[str, Any] | None:
    """Of a run that has not ended."""
    known = [line for line in trace.evaluations if math.isfinite(line.get(trace.record.metric, math.nan))]
    if not known:
        return None
    choose = min if trace.record.metric in LOWER_IS_BETTER else max
    best = choose(known, key=lambda line: line[trace.record.metric])
    sentences = [
        f"The best so far, at step {best['step']:,.0f} of {_whole(trace.record.total_steps)}.",
        "Intervals and baselines come at the end of the run.",
    ]
    value = format_number(best[trace.record.metric])
    shown: dict[str, Any] = {"headline": f"{metric_name(trace.record.metric)} on validation", "value": value}
    return shown | {"sentences": sentences, "chart": None, "bag_of_words": {}}


def facts(trace: Trace) -> list[tuple[str, str]]:
    """A few words that place the run."""
    record, options = trace.record, trace.record.options
    splits = " · ".join(f"{entry.rows:,} {name}" for name, entry in record.data.items())
    done = int(trace.steps["step"][-1]) if len(trace.steps["step"]) else 0
    number = f"{trace.steps['epoch'][-1]:.3g}" if done else ""
    epochs = f", {number} {'epoch' if number == '1' else 'epochs'}" if done else ""
    steps = f"{done:,}{epochs}" if trace.outcome else f"{done:,} of {_whole(record.total_steps)}"
    facts = [
        ("model", place(str(options.get("model")))),
        ("data", place(str(options.get("data") or "rows in memory"))),
        ("rows", splits),
        ("task", trace.task + ("" if trace.task in NUMBERS else f", {counted(len(record.label_names), 'label')}")),
        ("steps", steps),
    ]
    if trace.outcome:
        facts.append(("best model", f"step {trace.outcome.best_step:,}"))
    return facts


def _whole(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"
