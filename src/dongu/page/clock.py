"""Where the time of a run went, and how fast its steps were."""

from __future__ import annotations

import math

import numpy as np

from dongu.page.draw import drawings
from dongu.page.draw.axis import Axis
from dongu.page.draw.plot import per_step
from dongu.page.draw.svg import Chart
from dongu.page.trace import Trace

PHASES = {
    "setup": "set-up: data, tokens, model",
    "steps": "steps",
    "evaluation": "evaluations",
    "checkpoint": "checkpoints",
    "judging": "evaluating the best model",
    "baseline": "the bag of words beside it",
    "report": "writing this page",
}


def time_charts(trace: Trace) -> list[tuple[Chart, str]]:
    """The seconds of each phase, and the tokens a second; none where nothing was timed."""
    if not trace.phases:
        return []
    total = math.fsum(trace.phases.values())
    rows = [
        (PHASES.get(name, name), seconds, f"{_duration(seconds)}, {seconds / total:.1%}")
        for name, seconds in sorted(trace.phases.items(), key=lambda item: -item[1])
    ]
    shown = [(drawings.bars("Where the time went", rows), f"{_duration(total)} in all.")]
    steps, seconds, tokens = (trace.timed[name] for name in ("step", "seconds", "tokens"))
    if len(steps):
        axis = Axis.between(0, float(steps[-1]), "step", exact=True, whole=True)
        plot = per_step("Tokens a second", axis, steps, tokens / np.maximum(seconds, 1e-9), "tokens/s", zero=True)
        shown.append((plot.chart(), "Real tokens of one process, padding not counted."))
    return shown


def speed(trace: Trace) -> list[tuple[str, str]]:
    """How fast the steps were, in words."""
    if trace.summary is None:
        return []
    rates, memory = trace.summary.per_second, trace.summary.peak_memory_bytes
    each = " of one process" if trace.record.processes > 1 else ""  # examples are counted over all
    shown = [("examples a second", f"{rates.examples:,.1f}"), (f"tokens a second{each}", f"{rates.tokens:,.0f}")]
    if rates.model_flops is not None and rates.product_flops:
        share = rates.model_flops / rates.product_flops
        probed = f"{rates.product_flops / 1e9:,.0f} GFLOP/s of matrix products"
        use = f"{share:.0%} of {probed}" if share <= 1 else f"more than {probed}: other load disturbed the probe"
        shown.append(("share of the machine's speed", use))
    if memory is not None:
        shown.append(("peak memory", f"{memory / 1e6:,.0f} MB"))
    return shown


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours} h {minute:02} min" if hours else f"{minute} min {second:02} s"
