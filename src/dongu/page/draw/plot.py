"""A frame with two axes. No form in it needs its colour: lines differ in dashes and markers, points in shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

from dongu.page.draw.axis import Axis
from dongu.page.draw.svg import (
    CHART_WIDTH,
    HEIGHT,
    LABEL_LIMIT,
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
from dongu.text import counted

LEFT, RIGHT, TOP, BOTTOM = 50, 14, 34, 40  # what the frame of a plot leaves for numbers and names
GROUPS = 80  # of the steps, of which a mean and a range are drawn
BUCKETS = 160  # of a long line, each drawn by its lowest and its highest value
FEW_POINTS = 150  # which are drawn larger
NOTE_HEIGHT = 16  # of a bar that has room for a note
POINTS = 1500  # of a scatter that are drawn
LEGEND = {  # what stands for it, but for a line, and how far to the right and down
    "band": ('<rect class="{}" x="{:.1f}" y="{}" width="20" height="10"/>', 0, -5),
    "dots": ('<path class="{} lone" d="M{:.1f} {}h0"/>', 10, 0),
    "crosses": ('<path class="{}" d="M{:.1f} {}l6 6m0 -6l-6 6"/>', 7, -3),
    "bar": ('<rect class="{}" x="{:.1f}" y="{}" width="12" height="10"/>', 4, -5),
}


@dataclass
class Plot:
    """A frame with two axes, and what is drawn into it, from back to front."""

    title: str
    x: Axis
    y: Axis
    parts: list[Markup] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)  # the class of a mark and its name
    said: list[str] = field(default_factory=list)  # for who cannot see it

    def px(self, values: np.ndarray | float) -> np.ndarray:
        """Horizontal places."""
        return LEFT + self.x.share(values) * (CHART_WIDTH - LEFT - RIGHT)

    def py(self, values: np.ndarray | float) -> np.ndarray:
        """Vertical places."""
        return HEIGHT - BOTTOM - self.y.share(values) * (HEIGHT - TOP - BOTTOM)

    def line(self, name: str, xs: np.ndarray, ys: np.ndarray, kind: int, *, markers: bool = False) -> Plot:
        """A line through the points that are numbers."""
        known = np.isfinite(ys)
        xs, ys = (np.asarray(numbers, np.float64)[known] for numbers in (xs, ys))
        if len(xs) == 0:
            return self
        drawn_xs, drawn_ys = _decimated(xs, ys)
        self._add('<path class="line {}" d="{}"/>', LINE_KINDS[kind], _path(self.px(drawn_xs), self.py(drawn_ys)))
        markers = markers or len(xs) == 1
        if markers:
            for x, y in zip(self.px(xs), self.py(ys), strict=True):
                self._add('<path class="mark {}" d="{}"/>', LINE_KINDS[kind], marker(kind, float(x), float(y)))
        self.legend.append((f"{'marked' if markers else 'plain'} line {LINE_KINDS[kind]}", name))
        lowest, highest = int(ys.argmin()), int(ys.argmax())
        self.said.append(
            f"{name}: from {format_number(float(ys[0]))} to {format_number(float(ys[-1]))},"
            f" lowest {format_number(float(ys[lowest]))} at {xs[lowest]:,g},"
            f" highest {format_number(float(ys[highest]))} at {xs[highest]:,g}."
        )
        return self

    def band(self, name: str, xs: np.ndarray, lows: np.ndarray, highs: np.ndarray) -> Plot:
        """The range between two lines, behind the others."""
        if len(xs):
            across = np.concatenate([xs, xs[::-1]])
            edge = np.concatenate([highs, lows[::-1]])
            self._add('<path class="band" d="{}z"/>', _path(self.px(across), self.py(edge)))
            self.legend.append(("band", name))
        return self

    def points(self, name: str, xs: np.ndarray, ys: np.ndarray, kind: int = 0) -> Plot:
        """Many points: dots of the first kind, crosses of any other; every so many where there are too many."""
        every = max(1, math.ceil(len(xs) / POINTS))
        places = zip(self.px(xs[::every]), self.py(ys[::every]), strict=True)
        shape = "M{:.0f} {:.0f}h0" if kind == 0 else "M{:.0f} {:.0f}m-3 -3l6 6m0 -6l-6 6"
        drawn = dict.fromkeys(shape.format(x, y) for x, y in places)
        style = "crosses" if kind else "dots few" if len(drawn) < FEW_POINTS else "dots"
        self._add('<path class="{} {}" d="{}"/>', style, LINE_KINDS[kind], "".join(drawn))
        self.legend.append((f"{'dots' if kind == 0 else 'crosses'} {LINE_KINDS[kind]}", name))
        few = f" (one of {every} is drawn)" if every > 1 else ""
        self.said.append(f"{name}: {len(xs):,}{few}.")
        return self

    def histogram(self, edges: np.ndarray, counts: np.ndarray, unit: str, form: str, last: int = 0) -> Plot:
        """Bars of how many rows or steps (`unit`) lie between two edges, as `form` says them, the upper less `last`."""
        places = zip(edges, edges[1:] - last, counts, strict=False)
        return self.bars(edges, counts, [f"{form.format(*ends)}: {counted(int(n), unit)}" for *ends, n in places])

    def bars(self, edges: np.ndarray, heights: np.ndarray, tips: Sequence[str], notes: Sequence[str] = ()) -> Plot:
        """Bars that stand side by side between edges, (bars + 1,), perhaps each with a short note at its foot."""
        bottom = float(self.py(max(self.y.low, 0.0)))
        lefts = self.px(edges)
        for i, (top, tip) in enumerate(zip(self.py(heights), tips, strict=True)):
            if heights[i] > 0:
                width = max(0.5, float(lefts[i + 1] - lefts[i]) - 1)
                height = max(0.75, bottom - float(top))
                self._add(
                    '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>',
                    *("bar", float(lefts[i]) + 0.5, bottom - height, width, height, words(tip)),
                )
                if notes:
                    middle = float(lefts[i] + lefts[i + 1]) / 2
                    inside = height > NOTE_HEIGHT  # above the bar it would meet what else is drawn
                    place = ("mid small on", bottom - 4) if inside else ("mid small", bottom - height - 3)
                    self._add('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>', place[0], middle, place[1], notes[i])
        return self

    def rule(self, name: str, xs: tuple[float, float], ys: tuple[float, float]) -> Plot:
        """A straight, thin line from one point to another, that what is drawn may be held against."""
        self._add('<path class="rule" d="{}"/>', _path(self.px(np.array(xs)), self.py(np.array(ys))))
        if name:
            self.legend.append(("rule", name))
        return self

    def chart(self) -> Chart:
        """The drawing."""
        bottom, right = HEIGHT - BOTTOM, CHART_WIDTH - RIGHT
        frame: list[Markup] = []
        for place, number in zip(self.py(np.array(self.y.ticks)), self.y.labels(), strict=True):
            frame.append(fill('<path class="grid" d="M{} {:.1f}H{}"/>', LEFT, place, right))
            frame.append(fill('<text class="end" x="{}" y="{:.1f}">{}</text>', LEFT - 7, place + 4, number))
        for place, number in zip(self.px(np.array(self.x.ticks)), self.x.labels(), strict=True):
            frame.append(fill('<path class="tick" d="M{:.1f} {}v4"/>', place, bottom))
            frame.append(fill('<text class="mid" x="{:.1f}" y="{}">{}</text>', place, bottom + 17, number))
        frame.append(fill('<path class="axis" d="M{} {}H{}"/>', LEFT, bottom, right))
        names = [
            fill('<text class="end name" x="{}" y="{}">{}</text>', right, HEIGHT - 5, self.x.name),
            *_legend(self.legend),
        ]
        above = 0 if len(self.legend) > 1 else TOP - 12  # of the drawing that stays empty
        return drawing(self.title, self.said, HEIGHT, [*frame, *self.parts, *names], self.y.name, above)

    def _add(self, shape: str, *values: object) -> None:
        self.parts.append(fill(shape, *values))


def per_step(
    title: str,
    x: Axis,
    steps: np.ndarray,
    values: np.ndarray,
    y: str,
    name: str = "mean",
    more: Sequence[float] | np.ndarray = (),
    **axis: bool,
) -> Plot:
    """A number of each step: a line, of many steps the means of groups, and a band that has nine tenths of the steps.

    The upright axis, called `y`, holds the numbers of `more` too; `axis` is as of `Axis.of`.
    """
    places, means, lows, highs = _bucketed(steps, values)
    plot = Plot(title, x, Axis.of([*lows, *highs, *means, *more], y, **axis))
    if len(places) < len(steps):
        plot.band("9 of 10 steps", places, lows, highs)
    return plot.line(name, places, means, 0)


def _bucketed(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Places, means, and the ends of the middle nine tenths of groups of steps; the steps themselves where few."""
    if len(steps) <= 2 * GROUPS:
        return steps, values, values, values
    parts = np.array_split(np.arange(len(steps)), GROUPS)
    lows, highs = np.array([np.quantile(values[part], [0.05, 0.95]) for part in parts]).T
    means = np.array([values[part].mean() for part in parts])
    return np.array([steps[part].mean() for part in parts]), means, lows, highs


def _legend(entries: Sequence[tuple[str, str]]) -> list[Markup]:
    """Marks and their names above the frame, in one line or two; a single one is named by the chart's title."""
    widths = [25 + LETTER * min(len(name), LABEL_LIMIT) + 16 for _, name in entries]
    is_long = LEFT + sum(widths) - 16 > CHART_WIDTH
    parts, x, y = [], float(LEFT), 7 if is_long else 11
    for (style, name), width in zip(entries, widths, strict=True) if len(entries) > 1 else ():
        if x > LEFT and x + width - 16 > CHART_WIDTH:
            x, y = float(LEFT), y + 15
        first, kind = style.split()[0], style.split()[-1]
        shape, right, down = LEGEND.get(first, ('<path class="{}" d="M{:.1f} {}h20"/>', 0, 0))
        parts.append(fill(shape, style, x + right, y + down))
        if first == "marked":
            middle = marker(LINE_KINDS.index(kind), x + 10, y)
            parts.append(fill('<path class="mark {}" d="{}"/>', kind, middle))
        parts.append(fill('<text class="key" x="{:.1f}" y="{}">{}</text>', x + 25, y + 4, label(name)))
        x += width
    return parts


def _path(xs: np.ndarray, ys: np.ndarray) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(xs, ys, strict=True))


def _decimated(xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest point of each bucket, in their order: no peak is lost."""
    if len(xs) <= 2 * BUCKETS:
        return xs, ys
    kept = [0, len(xs) - 1]
    for bucket in np.array_split(np.arange(len(xs)), BUCKETS):
        kept += [int(bucket[ys[bucket].argmin()]), int(bucket[ys[bucket].argmax()])]
    chosen = np.unique(kept)
    return xs[chosen], ys[chosen]
