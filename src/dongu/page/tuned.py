"""What a search came to: its last lines on the screen, and `tune.html`, in the style of a run's report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dongu.config import LOWER_IS_BETTER, option_flag
from dongu.files import write_file
from dongu.judge.words import metric_name
from dongu.page.draw import drawings
from dongu.page.draw.axis import Axis
from dongu.page.draw.drawings import Interval
from dongu.page.draw.plot import Plot
from dongu.page.draw.svg import Chart, format_number
from dongu.page.report import render
from dongu.text import counted, decimals, typed, wrapped

PAGE = "tune.html"
Shown = tuple[Chart, str]


def write_page(path: Path, content: Mapping[str, Any]) -> None:
    """Write the page of a search, of which `tune.json` holds the content.

    Raises:
        StorageError: the page could not be written.
    """
    page = render(
        "tuned.html.jinja",
        name=path.parent.name,
        metric=metric_name(content["metric"]),
        content=content,
        options=list(content["space"]),
        winner=_as_options(content["winner"]["options"]),
        verdict=_verdict(content),
        charts=[_history(content), *_importance(content), *_slices(content)],
        number=lambda value: format_number(math.nan if value is None else float(value), 4),
        shown=setting,
    )
    write_file(path, page, within=path.parent)


def setting(value: Any) -> str:
    """The value of an option."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _as_options(chosen: Mapping[str, Any]) -> str:
    return " ".join(f"{option_flag(name)} {setting(value)}" for name, value in chosen.items())


def gain_lines(content: Mapping[str, Any], out: Path) -> list[str]:
    """What a search came to, for a person."""
    if "winner" not in content:
        return []
    metric, winner, default = content["metric"], content["winner"], content["default"]
    is_default = winner.get("is_default", False)
    split = "test" if "test" in winner["seeds"] else "validation"
    trials, options = content["trials"], _as_options(winner["options"])
    pruned = sum(row["state"] == "pruned" for row in trials)
    lines = [
        f"{counted(len(trials), 'trial')}, {pruned} of them given up early; the best one: {options}",
        f"  its score on validation, which chose it     {decimals(winner['score'])}",
    ]
    sides = {"the usual options": default} if is_default else {"the same options": winner, "the usual options": default}
    for name, side in sides.items():
        spread = side["seeds"][split][metric]
        number = decimals(spread["mean"]) + (f" ± {decimals(spread['std'])}" if len(spread["values"]) > 1 else "")
        lines.append(f"  {name + ', new seeds, on ' + split:<44}{number}")
    if "gain" in content:
        gain = content["gain"]
        ends = f"95% interval {decimals(gain['low'])} to {decimals(gain['high'])}"
        proved = "shown" if gain["low"] > 0 or gain["high"] < 0 else "not shown: chance may explain it"
        lines.append(f"  gain over the usual options on {gain['split']}: {gain['value']:+.4f}, {ends}; {proved}")
    elif "no_gain" in content:
        lines += wrapped(f"  no interval of the gain over the usual options: {content['no_gain']}", rest="  ")
    if is_default:
        lines.append("  these are the usual options: no trial was better")
    record = typed(out / f"trial-{winner['trial']:04}" / "run.json")
    lines.append(f"train with these: dongu train --config {record} --out NEW")
    runs = out / ("default" if is_default else "winner")
    lines.append(f"the best of its seeds: {runs / winner['seeds']['best']}; all trials on one page: {out / PAGE}")
    return lines


def _verdict(content: Mapping[str, Any]) -> Shown:
    """The winner's score where it was chosen, and on rows that chose nothing, beside the usual options."""
    metric, winner, default = content["metric"], content["winner"], content["default"]
    split = "test" if "test" in winner["seeds"] else "validation"
    rows = [Interval("the winning trial, on validation", winner["score"], kind=1)]
    sides = {"the winner's options": winner, "the usual options": default}
    if winner.get("is_default"):
        del sides["the winner's options"]
    seeds = len(winner["seeds"]["seeds"])
    for name, side in sides.items():
        spread = side["seeds"][split][metric]
        if spread["mean"] is not None:
            low, high = (spread["min"], spread["max"]) if seeds > 1 else (math.nan, math.nan)
            rows.append(Interval(f"{name}, on {split}", spread["mean"], low, high))
    gain = content.get("gain")
    told = f"are means over {seeds} new seeds, with their range" if seeds > 1 else "is the figure of one new seed"
    said = f"Validation chose the winning trial, so its score there looks too good; below it {told}."
    if winner.get("is_default"):
        said += " No trial was better than the usual options."
    if gain is not None:
        ends = f"95% interval {format_number(gain['low'], 4)} to {format_number(gain['high'], 4)}"
        said += f" Gain over the usual options on {gain['split']}: {format_number(gain['value'], 4)}, {ends}."
    elif "no_gain" in content:
        said += f" There is no interval of the gain over the usual options: {content['no_gain']}."
    return drawings.intervals("What the search came to", rows, metric_name(metric)), said


def _complete(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in content["trials"] if row["state"] == "complete"]


def _history(content: Mapping[str, Any]) -> Shown:
    """Each trial's score, and the best so far."""
    rows, pruned = _complete(content), [row for row in content["trials"] if row["state"] == "pruned" and row["score"]]
    numbers, scores = (np.array([row[key] for row in rows], np.float64) for key in ("trial", "score"))
    given_up, theirs = (np.array([row[key] for row in pruned], np.float64) for key in ("trial", "score"))
    last = max(1.0, float(len(content["trials"]) - 1))
    plot = Plot(
        "Trials",
        Axis.between(0, last, "trial", exact=True, whole=True),
        Axis.of(np.concatenate([scores, theirs]), _score_name(content)),
    )
    plot.line("best so far", numbers, np.maximum.accumulate(scores), 1)
    plot.points("complete", numbers, scores)
    if len(given_up):
        plot.points("given up", given_up, theirs, kind=1)
    return plot.chart(), f"{counted(len(rows), 'trial')} to the end, {len(pruned)} given up where others were better."


def _score_name(content: Mapping[str, Any]) -> str:
    """The larger score is the better one, so that of a loss or an error is its negative."""
    metric = str(content["metric"])
    return f"negative {metric}" if metric in LOWER_IS_BETTER else metric


def _importance(content: Mapping[str, Any]) -> list[Shown]:
    if not content["importance"]:
        return []
    rows = [(name.replace("_", "-"), share, f"{share:.0%}") for name, share in content["importance"].items()]
    said = "How much of the difference between good and other trials it explains (PED-ANOVA); a hint if trials are few."
    return [(drawings.bars("Importance", rows), said)]


def _slices(content: Mapping[str, Any]) -> list[Shown]:
    """The score over the values of each option."""
    rows, shown = _complete(content), []
    scores = np.array([row["score"] for row in rows], np.float64)
    for name, values in content["space"].items():
        asked, log = [row["options"][name] for row in rows], values[-1] is True
        if isinstance(values[0], str):
            places = np.array([values.index(value) for value in asked], np.float64)
            axis = Axis.between(0, max(1, len(values) - 1), name.replace("_", "-"), exact=True, whole=True)
            said = f"0 to {len(values) - 1} stand for {', '.join(values)}."
        else:
            places = np.array(asked, np.float64)
            axis, said = Axis.of([*places, *values[:2]], name.replace("_", "-"), log=log), "One point a complete trial."
        plot = Plot(name.replace("_", "-"), axis, Axis.of(scores, _score_name(content)))
        shown.append((plot.points("trials", places, scores).chart(), said))
    return shown
