"""The data of a run: lengths, padding, labels."""

from __future__ import annotations

import numpy as np

from dongu.config import NUMBERS
from dongu.page.draw import drawings
from dongu.page.draw.axis import Axis
from dongu.page.draw.plot import Plot
from dongu.page.draw.svg import Chart
from dongu.page.trace import Trace
from dongu.text import counted, percent

DRAWN_LABELS = 16  # those with most rows


def data_charts(trace: Trace) -> list[tuple[Chart, str]]:
    shown = []
    if (lengths := trace.record.lengths.get("train")) is not None:
        counts, width = np.array(lengths.counts), lengths.width
        edges = np.arange(len(counts) + 1) * width
        plot = Plot(
            "Length of the training rows",
            Axis.of(edges, "tokens", zero=True, whole=True),
            Axis.of(counts, "rows", zero=True, whole=True),
        )
        plot.histogram(edges, counts, "row", "{:,} to {:,} tokens", last=1)
        mean, cut = lengths.tokens / counts.sum(), lengths.cut
        plot.said.append(f"mean {mean:.1f} tokens.")
        limit = trace.record.options.get("max_length")
        how = "more than one window of" if trace.record.options.get("long") == "windows" else "cut at"
        said = f"Mean {mean:.1f} tokens. {counted(cut, 'row')} of {counts.sum():,} {how} {limit}."
        shown.append((plot.chart(), said))
    tokens, padded = trace.timed["tokens"], trace.timed["padded_tokens"]
    if len(tokens):
        shares = 1 - tokens / padded
        counts, edges = np.histogram(shares, bins=20, range=(0, max(0.05, float(shares.max()))))
        plot = Plot(
            "Padding in each step",
            Axis.of(edges, "share of padding", zero=True),
            Axis.of(counts, "steps", zero=True, whole=True),
        )
        left_out = trace.record.options.get("engine") == "packed"
        padding = percent(1 - float(tokens.sum() / padded.sum()))
        said = f"{padding} of all tokens if each row is padded to the longest of its batch"
        plot.histogram(edges, counts, "step", "{:.0%} to {:.0%}").said.append(said)
        shown.append(
            (plot.chart(), f"{said}; " + ("the packed engine leaves it out." if left_out else "it was computed."))
        )
    names, answer = trace.record.label_names, trace.record.constant_answer
    if answer and trace.task not in NUMBERS and len(answer) == len(names):
        ranked = sorted(zip(names, answer, strict=True), key=lambda pair: -pair[1])[:DRAWN_LABELS]
        rows = [(name, float(share), percent(float(share))) for name, share in ranked]
        more = len(answer) - len(rows)
        shown.append(
            (drawings.bars("Labels of train", rows), f"Share of the rows of train{f'; {more} more' if more else ''}.")
        )
    return shown
