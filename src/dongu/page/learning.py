"""Training: charts over the steps."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from dongu.judge.words import metric_name
from dongu.page.draw.axis import Axis
from dongu.page.draw.plot import GROUPS, Plot, per_step
from dongu.page.draw.svg import Chart
from dongu.page.trace import Trace


def curves(trace: Trace) -> list[tuple[Chart, str]]:
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
            "A validation loss that rises while the train loss falls is a sign of overfitting.",
        ),
        *_metric_curve(trace, axis, evaluated, best),
        (
            Plot("Learning rate", axis, Axis.of(trace.steps["learning_rate"], "learning rate", zero=True))
            .line("learning rate", steps, trace.steps["learning_rate"], 0)
            .chart(),
            "The learning rate of each update.",
        ),
        (
            _norm_curve(trace, axis),
            "Before clipping. It may rise while the loss falls; where both rise, try a lower learning rate.",
        ),
    ]


def _loss_curve(trace: Trace, axis: Axis, evaluated: np.ndarray) -> Chart:
    validation = np.array([line["loss"] for line in trace.evaluations])
    steps, losses = trace.steps["step"], trace.steps["loss"]
    plot = per_step("Loss", axis, steps, losses, "loss", "train", validation, zero=True)
    return plot.line("validation", evaluated, validation, 1, markers=len(evaluated) <= GROUPS).chart()


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
        plot.line(metric_name(name), evaluated, each, kind, markers=len(evaluated) <= GROUPS)
    said = "One point an evaluation."
    if best is not None:
        plot.rule("", (best, best), (plot.y.low, plot.y.high))
        said = f"One point for each evaluation. The thin vertical line is step {best:,}, whose model was kept."
    yield plot.chart(), said


def _norm_curve(trace: Trace, axis: Axis) -> Chart:
    steps, norms = trace.steps["step"], trace.steps["grad_norm"]
    plot = per_step("Gradient norm", axis, steps, norms, "gradient norm", zero=True, log=True)
    limit = trace.record.options.get("max_grad_norm")
    if isinstance(limit, int | float) and plot.y.low <= limit <= plot.y.high:
        plot.rule("clipped above", (axis.low, axis.high), (limit, limit))
    return plot.chart()
