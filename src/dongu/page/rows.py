"""Rows to look at: the hardest of validation, and those of train whose label was not learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dongu.config import NUMBERS
from dongu.data.examples import Examples, TextData
from dongu.page.draw.axis import Axis
from dongu.page.draw.plot import Plot
from dongu.page.draw.svg import Chart, format_number, words
from dongu.page.suspects import PASSES, Dynamics, learnt
from dongu.page.trace import Trace
from dongu.run.predictions import label_of
from dongu.text import counted, file_name, percent

LISTED_ROWS = 12  # of the hardest, and of those that may be mislabelled
MANY = 0.25  # of the rows, unlearnt: a sign of the model rather than of the labels
TEXT_LIMIT = 320  # characters of a text


@dataclass(frozen=True)
class RowShown:
    """One row: where it stands, its texts, its label, and what was made of it."""

    where: str
    texts: Sequence[str]
    label: str
    answer: str
    number: str
    history: str = ""


def hardest(trace: Trace, data: TextData | None) -> list[RowShown]:
    """The rows of validation with the highest loss: not of test, on which nothing should be tuned."""
    answers = trace.answers.get("validation")
    if answers is None:
        return []
    targets, given, losses = np.asarray(answers.targets), answers.predictions, np.asarray(answers.losses)
    rows = []
    for place in np.argsort(-losses, kind="stable")[:LISTED_ROWS].tolist():
        label, answer = (_label(cells[place], trace) for cells in (targets, given))
        if trace.task in NUMBERS:
            number = f"{given[place] - targets[place]:+.3g}"
        elif trace.task == "multi-label":
            number = format_number(float(losses[place]), 3)
        else:
            number = f"{answers.probabilities[place, targets[place]]:.1%}"
        rows.append(RowShown(*_row(data, "validation", int(answers.ids[place])), label, answer, number))
    return rows


def suspects(trace: Trace, data: TextData | None) -> dict[str, Any] | None:
    """The rows of train that were not learnt, the map of all rows, and what to make of them."""
    found = learnt(trace.dynamics, trace.task, len(trace.record.label_names))
    if found is None:
        return None
    count, all_rows, numbers = int(found.suspect.sum()), len(found.ids), trace.task in NUMBERS
    share = count / all_rows
    rule = (
        f"the model’s error stayed above {format_number(found.limit, 3)}, three times the usual one"
        if numbers
        else f"the model gave their own label less than {percent(found.limit)}, and so preferred another answer as"
        " clearly as it usually prefers the label"
    )
    if 2 * int(found.judged.sum()) < all_rows:
        few = f"Most rows were used fewer than {PASSES} times, too few to tell wrong labels from hard ones."
        return {"said": few, "rows": [], "chart": None}
    sentences = [
        f"The model did not learn the label of {count:,} of {counted(all_rows, 'row')} of train ({percent(share)}): on"
        f" average over the passes after the first, and in the last pass, {rule}."
        if count
        else f"None of the {counted(all_rows, 'row')} of train looks mislabelled.",
        "A wrong label looks like this, and so does a hard row: read them before you correct them."
        if count and share <= MANY
        else "",
        "With so many, the model has learnt too little to tell wrong labels, so they are not listed."
        if share > MANY
        else "",
    ]
    shown = LISTED_ROWS if share <= MANY else 0
    rows = []
    for place in found.worst(shown).tolist():
        where, texts = _row(data, "train", row := int(found.ids[place]))
        passes = (f"{value:.3g}" if numbers else f"{value:.0%}" for value in found.history(place)[-6:])
        score = f"{found.score[place]:.3g}" if numbers else f"{found.score[place]:.1%}"
        label = _label_of(data, row, trace)
        rows.append(RowShown(where, texts, label, "", score, " → ".join(passes)))
    chart = None if numbers else _data_map(found)
    return {"said": " ".join(filter(None, sentences)), "rows": rows, "chart": chart}


def _data_map(found: Dynamics) -> Chart:
    plot = Plot(
        "Map of the training rows",
        Axis.of(np.append(found.spread, 0.1), "standard deviation over the passes", zero=True),
        Axis.between(0, 1, "mean probability of its label"),
    )
    plot.points("not suspect", found.spread[~found.suspect], found.score[~found.suspect])
    plot.points("suspect", found.spread[found.suspect], found.score[found.suspect], 1)
    return plot.rule("limit", (plot.x.low, plot.x.high), (found.limit, found.limit)).chart()


def _row(data: TextData | None, split: str, row: int) -> tuple[str, list[str]]:
    """Where a row stands, and its texts, if they are here."""
    if data is None or (place := _find(data.splits[split], row)) is None:
        return f"{split}, row {row + 1:,}", []
    examples = data.splits[split]
    return file_name(examples.where(place)), [
        words(" ".join(column[place].split()), TEXT_LIMIT) for column in examples.texts
    ]


def _label_of(data: TextData | None, row: int, trace: Trace) -> str:
    """The label of a training row, if it is here."""
    if data is None or (targets := data.splits["train"].targets) is None:
        return ""
    place = _find(data.splits["train"], row)
    return "" if place is None else _label(targets[place], trace)


def _label(target: Any, trace: Trace) -> str:
    label = label_of(target, trace.task, trace.record.label_names)
    return (
        f"{label:.4g}" if isinstance(label, float) else label if isinstance(label, str) else ", ".join(label) or "none"
    )


def _find(examples: Examples, row: int) -> int | None:
    """The place in a split of a row by its number in the source."""
    place = int(np.searchsorted(examples.ids, row))
    return place if place < len(examples.ids) and examples.ids[place] == row else None
