"""Drawings without a frame: intervals on one axis, a matrix of counts, bars with their names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dongu.page.draw.axis import Axis
from dongu.page.draw.svg import (
    CHART_WIDTH,
    LETTER,
    LINE_KINDS,
    Chart,
    drawing,
    fill,
    format_number,
    label,
    marker,
    words,
)


@dataclass(frozen=True)
class Interval:
    """A number with the ends of its interval, where it has one, on a line of its own. `kind` as of lines."""

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan
    kind: int = 0


def intervals(title: str, rows: Sequence[Interval], name: str) -> Chart:
    """Numbers with their intervals, one below the other on one axis: what overlaps is seen."""
    known = [number for row in rows for number in (row.value, row.low, row.high) if math.isfinite(number)]
    axis = Axis.of(known)
    step, top, edge = 42, 6, 10
    height = top + step * len(rows) + 40

    def at(value: float) -> float:
        return edge + float(axis.share(value)) * (CHART_WIDTH - 2 * edge)

    bottom = top + step * len(rows) + 6
    parts = []
    for tick, number in zip(axis.ticks, axis.labels(), strict=True):
        parts.append(fill('<path class="grid" d="M{:.1f} {}V{}"/>', at(tick), top, bottom))
        anchor = "start" if at(tick) < edge + 8 else "end" if at(tick) > CHART_WIDTH - edge - 8 else "mid"
        place = at(tick) + {"start": -4, "end": 4, "mid": 0}[anchor]
        parts.append(fill('<text class="{}" x="{:.1f}" y="{}">{}</text>', anchor, place, bottom + 15, number))
    said = []
    for i, row in enumerate(rows):
        y, kind = top + step * i + 28, LINE_KINDS[row.kind]
        number = format_number(row.value)
        span = f", {format_number(row.low)} to {format_number(row.high)}" if math.isfinite(row.low) else ""
        said.append(f"{words(row.name, 80)}: {number}{span}.")
        parts.append(fill('<text class="row" x="{}" y="{}">{}</text>', edge, y - 12, label(row.name, 40)))
        shown = number + span.replace(", ", " · ", 1)
        parts.append(fill('<text class="end row" x="{}" y="{}">{}</text>', CHART_WIDTH - edge, y - 12, shown))
        if math.isfinite(row.low) and math.isfinite(row.high):
            ends = (at(row.low), y, at(row.high))
            parts.append(fill('<path class="span {}" d="M{:.1f} {}H{:.1f}"/>', kind, *ends))
            parts.append(fill('<path class="cap {}" d="M{:.1f} {}m0 -5v10M{:.1f} {}m0 -5v10"/>', kind, *ends, y))
        if math.isfinite(row.value):
            parts.append(fill('<path class="mark {}" d="{}"/>', kind, marker(row.kind, at(row.value), y, 6)))
    parts.append(
        fill('<text class="end name" x="{}" y="{}">{}</text>', CHART_WIDTH - edge, height - 3, label(name, 60))
    )
    return drawing(title, said, height, parts)


def matrix(title: str, counts: np.ndarray, names: Sequence[str]) -> Chart:
    """Counts of (truth, answer), each cell with its number, the darker the larger its share of the truth's row."""
    size = len(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    longest = min(max(len(name) for name in names), 14)
    left, top = 22 + longest * LETTER + 8, 44.0
    side = (CHART_WIDTH - left - 6) / size
    tall = min(side, 64 if size < 4 else 46)
    height = top + tall * size + 6
    slanted = side < longest * LETTER + 6
    top_room = longest * LETTER * 0.75 if slanted else 0
    height += top_room
    top += top_room
    parts = [
        fill('<text class="mid name" x="{:.1f}" y="12">the model says</text>', left + side * size / 2),
        fill(
            '<text class="mid name" transform="translate(11 {:.1f}) rotate(-90)">the label says</text>',
            top + tall * size / 2,
        ),
    ]
    for i, name in enumerate(names):
        across = left + side * (i + 0.5)
        turn = f"translate({across:.1f} {top - 8:.1f})" + (" rotate(-45)" if slanted else "")
        anchor = "start" if slanted else "mid"
        parts.append(fill('<text class="{}" transform="{}">{}</text>', anchor, turn, label(name, 14)))
        down = top + tall * (i + 0.5) + 4
        parts.append(fill('<text class="end" x="{:.1f}" y="{:.1f}">{}</text>', left - 8, down, label(name, 14)))
    for i in range(size):
        for j in range(size):
            x, y, share = left + side * j, top + tall * i, float(shares[i, j])
            tip = f"label {words(names[i], 60)}, answer {words(names[j], 60)}: {counts[i, j]:,} rows, {share:.1%}"
            parts.append(
                fill(
                    '<rect class="cell{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill-opacity="{:.2f}">'
                    "<title>{}</title></rect>",
                    *(" right" if i == j else "", x + 1, y + 1, side - 2, tall - 2, 0.06 + 0.8 * share, tip),
                )
            )
            ink = "on" if share > 0.55 else "off"
            small = "" if side >= 34 else " small"
            middle = y + tall / 2 + (0 if tall >= 40 else 4)
            text, centre = '<text class="mid {}{}" x="{:.1f}" y="{:.1f}">{}</text>', x + side / 2
            parts.append(fill(text, ink, small, centre, middle, f"{counts[i, j]:,}"))
            if tall >= 40:
                parts.append(fill(text, "small ", ink, centre, middle + 15, f"{share:.0%}"))
    right = int(np.diagonal(counts).sum())
    said = [f"{right:,} of {int(counts.sum()):,} rows are on the diagonal, where the answer is the label."]
    return drawing(title, said, height, parts)


def bars(title: str, rows: Sequence[tuple[str, float, str]]) -> Chart:
    """A bar a row: name, length, and what is written at its end."""
    largest = max((value for _, value, _ in rows), default=0) or 1.0
    step = 38
    parts = []
    for i, (name, value, text) in enumerate(rows):
        y = 4 + step * i
        parts.append(fill('<text class="row" x="0" y="{}">{}</text>', y + 12, label(name, 34)))
        parts.append(fill('<text class="end row" x="{}" y="{}">{}</text>', CHART_WIDTH, y + 12, words(text, 60)))
        width = max(1.0, CHART_WIDTH * value / largest)
        parts.append(fill('<rect class="bar" x="0" y="{}" width="{:.1f}" height="9" rx="2"/>', y + 19, width))
    said = [f"{words(name, 60)}: {words(text, 60)}." for name, _, text in rows]
    return drawing(title, said, step * len(rows) + 4, parts)
