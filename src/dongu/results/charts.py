"""SVG for a page: few forms, drawn by hand, in the page's own type and colours.

No form needs its colours to be read: lines differ in dashes and markers, rows of bars have names, cells have numbers.
Every chart says in words what it shows (`title`, `desc`). Colours and strokes are classes of the page's style sheet, so
that light, dark and paper differ in the style sheet alone. All text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup, escape

from dongu.text import printable, shortened

WIDTH, HEIGHT = 440, 264  # units of the drawing; on a phone they are a little less than a pixel
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 34, 40  # what the frame of a plot leaves for numbers and names
TICKS = 5
BUCKETS = 160  # of a long line, each drawn by its lowest and its highest value
FEW_POINTS = 150  # which are drawn larger
POINTS = 1500  # of a scatter that are drawn
LETTER = 6.8  # mean width of a letter
SAID_LIMIT = 4000  # letters of what is said of a drawing
LABEL_LIMIT = 28  # letters of a name in a drawing; the whole of it is in its tooltip
KINDS = ("a", "b", "c")  # of lines and points: solid with discs, dashed with squares, dotted with triangles
NO_RANGE = 1e-12


def words(text: object, limit: int = 400) -> str:
    """Text from anywhere as a page may show it: short, and without what could move or hide it."""
    return printable(shortened(str(text), limit))


def format_number(value: float, digits: int = 4) -> str:
    """So many digits after the point, fewer for what is large and more for what is small; `–` for none."""
    if not math.isfinite(value):
        return "–"
    if value != 0 and (abs(value) < 10**-digits or abs(value) >= 1e7):
        return _power(value)
    return _minus(f"{value:,.{digits if abs(value) < 100 else max(0, digits - 3)}f}")


def _power(value: float) -> str:
    mantissa, exponent = f"{value:.2e}".split("e")
    return _minus(f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}")


def _minus(number: str) -> str:
    return "−" + number[1:] if number.startswith("-") else number


@dataclass(frozen=True)
class Chart:
    """A drawing and what stands above it."""

    title: str
    svg: Markup


@dataclass(frozen=True)
class Axis:
    """A range of numbers with round ticks; a logarithmic one has powers of ten."""

    low: float
    high: float
    ticks: tuple[float, ...]
    name: str = ""
    log: bool = False

    @staticmethod
    def of(
        values: Sequence[float] | np.ndarray,
        name: str = "",
        *,
        zero: bool = False,
        log: bool = False,
        whole: bool = False,
    ) -> Axis:
        """The axis that just holds these values, and 0 where it is wanted. Of counts, ticks are whole numbers."""
        known = np.asarray(values, dtype=np.float64).ravel()
        known = known[np.isfinite(known) & ((known > 0) if log else True)]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        if log and len(known) and high / low >= 30:
            powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            every = math.ceil(len(powers) / (TICKS + 1))
            ticks = tuple(10.0**power for power in powers[::every])
            return Axis(10.0 ** powers[0], 10.0 ** powers[-1], ticks, name, log=True)
        low, high = (min(low, 0.0), max(high, 0.0)) if zero else (low, high)
        if high - low <= NO_RANGE * max(abs(low), abs(high), NO_RANGE):
            spread = abs(high) / 2 or 0.5
            low, high = low - (0 if zero and low == 0 else spread), high + spread
        return Axis.between(low, high, name, whole=whole)

    @staticmethod
    def between(low: float, high: float, name: str = "", *, exact: bool = False, whole: bool = False) -> Axis:
        """An axis from one number to another, or to the next ticks around them."""
        rough = max((high - low) / TICKS, 1.0 if whole else 0.0)
        power = 10.0 ** math.floor(math.log10(rough))
        units = (power * factor for factor in (1, 2, 2.5, 5, 10) if not whole or (power * factor).is_integer())
        unit = next(unit for unit in units if unit >= rough * 0.999)
        first, last = math.floor(low / unit + 1e-9), math.ceil(high / unit - 1e-9)
        ticks = tuple(unit * number for number in range(first, last + 1))
        if exact:
            return Axis(low, high, tuple(tick for tick in ticks if low <= tick <= high), name)
        return Axis(ticks[0], ticks[-1], ticks, name)

    def share(self, values: np.ndarray | float) -> np.ndarray:
        """Where values are on the axis, from 0 to 1."""
        numbers = np.asarray(values, dtype=np.float64)
        if self.log:
            numbers = np.log10(np.maximum(numbers, self.low))
            return np.asarray((numbers - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low)))
        return np.asarray((numbers - self.low) / (self.high - self.low))

    def labels(self) -> list[str]:
        """The ticks in words, with as many digits as tell them apart."""
        if self.log:
            return [f"{tick:g}" if 0.001 <= tick <= 9999 else _power(tick) for tick in self.ticks]
        if not any(self.ticks):
            return ["0"] * len(self.ticks)
        largest = max(map(abs, self.ticks))
        if largest < 0.001 or largest >= 1e7:
            return ["0" if abs(tick) < largest / 1e6 else _power(tick) for tick in self.ticks]
        unit = min((b - a for a, b in zip(self.ticks, self.ticks[1:], strict=False)), default=largest)
        digits = max(0, -math.floor(math.log10(unit) + 1e-9))
        digits += abs(round(unit * 10**digits) - unit * 10**digits) > 1e-6
        return [_minus(f"{tick or 0.0:,.{digits}f}") for tick in self.ticks]


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
        return LEFT + self.x.share(values) * (WIDTH - LEFT - RIGHT)

    def py(self, values: np.ndarray | float) -> np.ndarray:
        """Vertical places."""
        return HEIGHT - BOTTOM - self.y.share(values) * (HEIGHT - TOP - BOTTOM)

    def line(self, name: str, xs: np.ndarray, ys: np.ndarray, kind: int, *, markers: bool = False) -> Plot:
        """A line through the points that are numbers."""
        xs, ys = _finite(xs, ys)
        if len(xs) == 0:
            return self
        drawn_xs, drawn_ys = _decimated(xs, ys)
        self._add('<path class="line {}" d="{}"/>', KINDS[kind], _path(self.px(drawn_xs), self.py(drawn_ys)))
        markers = markers or len(xs) == 1
        if markers:
            for x, y in zip(self.px(xs), self.py(ys), strict=True):
                self._add('<path class="mark {}" d="{}"/>', KINDS[kind], _marker(kind, float(x), float(y)))
        self.legend.append((f"{'marked' if markers else 'plain'} line {KINDS[kind]}", name))
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
        self._add('<path class="{} {}" d="{}"/>', style, KINDS[kind], "".join(drawn))
        self.legend.append((f"{'dots' if kind == 0 else 'crosses'} {KINDS[kind]}", name))
        few = f" (one of {every} is drawn)" if every > 1 else ""
        self.said.append(f"{name}: {len(xs):,}{few}.")
        return self

    def bars(self, edges: np.ndarray, heights: np.ndarray, tips: Sequence[str], notes: Sequence[str] = ()) -> Plot:
        """Bars that stand side by side between edges, (bars + 1,), perhaps each with a short note above it."""
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
                    self._add(
                        '<text class="mid small" x="{:.1f}" y="{:.1f}">{}</text>', middle, bottom - height - 3, notes[i]
                    )
        return self

    def rule(self, name: str, xs: tuple[float, float], ys: tuple[float, float]) -> Plot:
        """A straight, thin line from one point to another, that what is drawn may be held against."""
        self._add('<path class="rule" d="{}"/>', _path(self.px(np.array(xs)), self.py(np.array(ys))))
        if name:
            self.legend.append(("rule", name))
        return self

    def chart(self) -> Chart:
        """The drawing."""
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        frame: list[Markup] = []
        for place, label in zip(self.py(np.array(self.y.ticks)), self.y.labels(), strict=True):
            frame.append(_fill('<path class="grid" d="M{} {:.1f}H{}"/>', LEFT, place, right))
            frame.append(_fill('<text class="end" x="{}" y="{:.1f}">{}</text>', LEFT - 7, place + 4, label))
        for place, label in zip(self.px(np.array(self.x.ticks)), self.x.labels(), strict=True):
            frame.append(_fill('<path class="tick" d="M{:.1f} {}v4"/>', place, bottom))
            frame.append(_fill('<text class="mid" x="{:.1f}" y="{}">{}</text>', place, bottom + 17, label))
        frame.append(_fill('<path class="axis" d="M{} {}H{}"/>', LEFT, bottom, right))
        names = [
            _fill('<text class="end name" x="{}" y="{}">{}</text>', right, HEIGHT - 5, self.x.name),
            *_legend(self.legend),
        ]
        above = 0 if len(self.legend) > 1 else TOP - 12  # of the drawing that stays empty
        return _svg(self.title, self.said, HEIGHT, [*frame, *self.parts, *names], self.y.name, above)

    def _add(self, shape: str, *values: object) -> None:
        self.parts.append(_fill(shape, *values))


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
        return edge + float(axis.share(value)) * (WIDTH - 2 * edge)

    bottom = top + step * len(rows) + 6
    parts = []
    for tick, label in zip(axis.ticks, axis.labels(), strict=True):
        parts.append(_fill('<path class="grid" d="M{:.1f} {}V{}"/>', at(tick), top, bottom))
        anchor = "start" if at(tick) < edge + 8 else "end" if at(tick) > WIDTH - edge - 8 else "mid"
        place = at(tick) + {"start": -4, "end": 4, "mid": 0}[anchor]
        parts.append(_fill('<text class="{}" x="{:.1f}" y="{}">{}</text>', anchor, place, bottom + 15, label))
    said = []
    for i, row in enumerate(rows):
        y, kind = top + step * i + 28, KINDS[row.kind]
        number = format_number(row.value, 3)
        span = f", {format_number(row.low, 3)} to {format_number(row.high, 3)}" if math.isfinite(row.low) else ""
        said.append(f"{words(row.name, 80)}: {number}{span}.")
        parts.append(_fill('<text class="row" x="{}" y="{}">{}</text>', edge, y - 12, _label(row.name, 40)))
        shown = number + span.replace(", ", " · ", 1)
        parts.append(_fill('<text class="end row" x="{}" y="{}">{}</text>', WIDTH - edge, y - 12, shown))
        if math.isfinite(row.low) and math.isfinite(row.high):
            ends = (at(row.low), y, at(row.high))
            parts.append(_fill('<path class="span {}" d="M{:.1f} {}H{:.1f}"/>', kind, *ends))
            parts.append(_fill('<path class="cap {}" d="M{:.1f} {}m0 -5v10M{:.1f} {}m0 -5v10"/>', kind, *ends, y))
        if math.isfinite(row.value):
            parts.append(_fill('<path class="mark {}" d="{}"/>', kind, _marker(row.kind, at(row.value), y, 6)))
    parts.append(_fill('<text class="end name" x="{}" y="{}">{}</text>', WIDTH - edge, height - 3, _label(name, 60)))
    return _svg(title, said, height, parts)


def matrix(title: str, counts: np.ndarray, names: Sequence[str]) -> Chart:
    """Counts of (truth, answer), each cell with its number, the darker the larger its share of the truth's row."""
    size = len(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    longest = min(max(len(name) for name in names), 14)
    left, top = 22 + longest * LETTER + 8, 44.0
    side = (WIDTH - left - 6) / size
    tall = min(side, 64 if size < 4 else 46)
    height = top + tall * size + 6
    slanted = side < longest * LETTER + 6
    top_room = longest * LETTER * 0.75 if slanted else 0
    height += top_room
    top += top_room
    parts = [
        _fill('<text class="mid name" x="{:.1f}" y="12">the model says</text>', left + side * size / 2),
        _fill(
            '<text class="mid name" transform="translate(11 {:.1f}) rotate(-90)">the label says</text>',
            top + tall * size / 2,
        ),
    ]
    for i, name in enumerate(names):
        across = left + side * (i + 0.5)
        turn = f"translate({across:.1f} {top - 8:.1f})" + (" rotate(-45)" if slanted else "")
        anchor = "start" if slanted else "mid"
        parts.append(_fill('<text class="{}" transform="{}">{}</text>', anchor, turn, _label(name, 14)))
        down = top + tall * (i + 0.5) + 4
        parts.append(_fill('<text class="end" x="{:.1f}" y="{:.1f}">{}</text>', left - 8, down, _label(name, 14)))
    for i in range(size):
        for j in range(size):
            x, y, share = left + side * j, top + tall * i, float(shares[i, j])
            tip = f"label {words(names[i], 60)}, answer {words(names[j], 60)}: {counts[i, j]:,} rows, {share:.1%}"
            parts.append(
                _fill(
                    '<rect class="cell{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill-opacity="{:.2f}">'
                    "<title>{}</title></rect>",
                    *(" right" if i == j else "", x + 1, y + 1, side - 2, tall - 2, 0.06 + 0.8 * share, tip),
                )
            )
            ink = "on" if share > 0.55 else "off"
            small = "" if side >= 34 else " small"
            middle = y + tall / 2 + (0 if tall >= 40 else 4)
            parts.append(
                _fill(
                    '<text class="mid {}{}" x="{:.1f}" y="{:.1f}">{:,}</text>',
                    ink,
                    small,
                    x + side / 2,
                    middle,
                    int(counts[i, j]),
                )
            )
            if tall >= 40:
                parts.append(
                    _fill(
                        '<text class="mid small {}" x="{:.1f}" y="{:.1f}">{:.0%}</text>',
                        ink,
                        x + side / 2,
                        middle + 15,
                        share,
                    )
                )
    right = int(np.diagonal(counts).sum())
    said = [f"{right:,} of {int(counts.sum()):,} rows are on the diagonal, where the answer is the label."]
    return _svg(title, said, height, parts)


def bars(title: str, rows: Sequence[tuple[str, float, str]]) -> Chart:
    """A bar a row: name, length, and what is written at its end."""
    largest = max((value for _, value, _ in rows), default=0) or 1.0
    step = 38
    parts = []
    for i, (name, value, text) in enumerate(rows):
        y = 4 + step * i
        parts.append(_fill('<text class="row" x="0" y="{}">{}</text>', y + 12, _label(name, 34)))
        parts.append(_fill('<text class="end row" x="{}" y="{}">{}</text>', WIDTH, y + 12, words(text, 60)))
        parts.append(_fill('<rect class="trough" x="0" y="{}" width="{}" height="9" rx="2"/>', y + 19, WIDTH))
        width = max(1.0, WIDTH * value / largest)
        parts.append(_fill('<rect class="bar" x="0" y="{}" width="{:.1f}" height="9" rx="2"/>', y + 19, width))
    said = [f"{words(name, 60)}: {words(text, 60)}." for name, _, text in rows]
    return _svg(title, said, step * len(rows) + 4, parts)


def _svg(
    title: str, said: Sequence[str], height: float, parts: Sequence[Markup], y_name: str = "", above: int = 0
) -> Chart:
    head = _fill(
        '<svg class="chart" viewBox="0 {} {} {:.0f}" role="img"><title>{}</title><desc>{}</desc>',
        *(above, WIDTH, math.ceil(height) - above, words(title), words(" ".join(said), SAID_LIMIT)),
    )
    name = (
        _fill('<text class="name" x="0" y="{}">{}</text>', HEIGHT - 5, f"↑ {_label(y_name)}") if y_name else Markup("")
    )
    return Chart(title, head + Markup("").join(parts) + name + Markup("</svg>"))


def _legend(entries: Sequence[tuple[str, str]]) -> list[Markup]:
    """Marks and their names in a line above the frame; a single one is named by the chart's title."""
    parts, x = [], float(LEFT)
    for style, name in entries if len(entries) > 1 else ():
        kind = style.split()[-1]
        if style == "band":
            parts.append(_fill('<rect class="band" x="{:.1f}" y="6" width="20" height="10"/>', x))
        elif style.startswith("dots"):
            parts.append(_fill('<path class="{} lone" d="M{:.1f} 11h0"/>', style, x + 10))
        elif style.startswith("crosses"):
            parts.append(_fill('<path class="{}" d="M{:.1f} 8l6 6m0 -6l-6 6"/>', style, x + 7))
        elif style.startswith("bar"):
            parts.append(_fill('<rect class="{}" x="{:.1f}" y="6" width="12" height="10"/>', style, x + 4))
        else:
            parts.append(_fill('<path class="{}" d="M{:.1f} 11h20"/>', style, x))
            if style.startswith("marked"):
                shape = _marker(KINDS.index(kind), x + 10, 11)
                parts.append(_fill('<path class="mark {}" d="{}"/>', kind, shape))
        parts.append(_fill('<text class="key" x="{:.1f}" y="15">{}</text>', x + 25, _label(name)))
        x += 25 + LETTER * min(len(name), LABEL_LIMIT) + 16
    return parts


def _marker(kind: int, x: float, y: float, radius: float = 3.5) -> str:
    r = radius
    return (
        f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z",
        f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}z",
        f"M{x:.1f} {y - r * 1.2:.1f}l{r * 1.2:.1f} {r * 2.1:.1f}h{-r * 2.4:.1f}z",
    )[kind]


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


def _finite(xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = np.isfinite(ys)
    return np.asarray(xs, np.float64)[known], np.asarray(ys, np.float64)[known]


def _label(name: str, limit: int = LABEL_LIMIT) -> str:
    text = " ".join(words(name, 10 * limit).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _fill(shape: str, *values: object) -> Markup:
    """The shape with the values in it, escaped."""
    safe = (value if isinstance(value, int | float | np.number) else escape(value) for value in values)
    return Markup(shape.format(*safe))  # noqa: S704 - the shapes stand in this file
