"""SVG for a page: text made safe, numbers made short, shapes filled in.

Colours and strokes are classes of the page's style sheet, so that light, dark and paper differ there alone. Every chart
says in words what it shows (`title`, `desc`). All text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from dongu.text import printable, shortened

CHART_WIDTH, HEIGHT = 440, 264  # units of the drawing; on a phone they are a little less than a pixel
LETTER = 6.8  # mean width of a letter
SAID_LIMIT = 4000  # letters of what is said of a drawing
ZERO_BELOW = 1e-12  # what is nearer to 0 is what rounding left of it
LABEL_LIMIT = 28  # letters of a name in a drawing; the whole of it is in its tooltip
LINE_KINDS = ("a", "b", "c")  # of lines and points: solid with discs, dashed with squares, dotted with triangles


def words(text: object, limit: int = 400) -> str:
    """Text from anywhere as a page may show it: short, and without what could move or hide it."""
    return printable(shortened(str(text), limit))


def format_number(value: float, digits: int = 4) -> str:
    """So many digits after the point, fewer for what is large and more for what is small; `–` for none."""
    if not math.isfinite(value):
        return "–"
    if abs(value) < ZERO_BELOW:
        value = 0.0
    if value != 0 and (abs(value) < 10**-digits or abs(value) >= 1e7):
        return power(value)
    return minus(f"{value:,.{digits if abs(value) < 100 else max(0, digits - 3)}f}")


def power(value: float) -> str:
    mantissa, exponent = f"{value:.2e}".split("e")
    return minus(f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}")


def minus(number: str) -> str:
    return "−" + number[1:] if number.startswith("-") else number


@dataclass(frozen=True)
class Chart:
    """A drawing and what stands above it."""

    title: str
    svg: Markup


def drawing(
    title: str, said: Sequence[str], height: float, parts: Sequence[Markup], y_name: str = "", above: int = 0
) -> Chart:
    head = fill(
        '<svg class="chart" viewBox="0 {} {} {:.0f}" role="img"><title>{}</title><desc>{}</desc>',
        *(above, CHART_WIDTH, math.ceil(height) - above, words(title), words(" ".join(said), SAID_LIMIT)),
    )
    name = fill('<text class="name" x="0" y="{}">{}</text>', HEIGHT - 5, f"↑ {label(y_name)}") if y_name else Markup("")
    return Chart(title, head + Markup("").join(parts) + name + Markup("</svg>"))


def marker(kind: int, x: float, y: float, radius: float = 3.5) -> str:
    r = radius
    return (
        f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z",
        f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}z",
        f"M{x:.1f} {y - r * 1.2:.1f}l{r * 1.2:.1f} {r * 2.1:.1f}h{-r * 2.4:.1f}z",
    )[kind]


def label(name: str, limit: int = LABEL_LIMIT) -> str:
    text = " ".join(words(name, 10 * limit).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def fill(shape: str, *values: object) -> Markup:
    """The shape with the values in it, escaped."""
    safe = (value if isinstance(value, int | float | np.number) else escape(value) for value in values)
    return Markup(shape.format(*safe))  # noqa: S704 - the shapes stand in this file
