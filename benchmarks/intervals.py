"""Seconds that the intervals of a large split take: the table of docs/scale.md.

    python benchmarks/intervals.py                    # a million rows: a minute on one core
    python benchmarks/intervals.py 100000 1000000     # other sizes

Answers of a model are drawn, so no model runs. Each case is a process's only work: what is measured is `verdict`, which
gives each metric its interval. *Memory* is how far its peak lies above that of drawing the answers.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from multiprocessing import get_context

import numpy as np

from coverage import evaluation_of
from dongu.judge.intervals import verdict
from dongu.judge.metrics import NUMBER_METRICS, MetricSet

SIZES = (1_000_000,)
LABELS = 20
MIB = 1 << 20
HEAD = "| task | metrics | rows | seconds | memory MiB |\n| --- | --- | --: | --: | --: |"


def names(count: int) -> tuple[str, ...]:
    """So many names of classes."""
    return tuple(f"c{i}" for i in range(count))


METRICS = {
    "2 classes": MetricSet.of("single-label", names(2), main="matthews_correlation"),
    "20 classes": MetricSet.of("single-label", names(LABELS), main="matthews_correlation"),
    "5 labels": MetricSet.of("multi-label", names(5)),
    "20 labels": MetricSet.of("multi-label", names(LABELS)),
    "regression": MetricSet("regression", ("score",), (*NUMBER_METRICS,), "spearman"),
    "ordinal": MetricSet.of("ordinal", tuple("12345")),
}


def drawn(metrics: MetricSet, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits (rows, labels) and targets: a model that is mostly right."""
    random, labels = np.random.default_rng(0), len(metrics.label_names)
    if metrics.task == "single-label":
        targets = random.integers(0, labels, rows)
        logits = random.normal(size=(rows, labels)).astype(np.float32)
        logits[np.arange(rows), targets] += 2
        return logits, targets
    if metrics.task == "multi-label":
        given = random.random((rows, labels)) < 0.2
        return (2 * given - 1 + random.normal(size=given.shape)).astype(np.float32), given.astype(np.float32)
    truth = random.normal(size=rows)
    if metrics.task == "ordinal":
        truth = np.clip(np.round(truth + 3), 1, labels)
    answers = truth + random.normal(size=rows) / 2
    return answers.astype(np.float32)[:, None], truth.astype(np.float32)


def measure(case: str, rows: int) -> tuple[float, float]:
    """Seconds of the intervals, and MiB above what was there before."""
    metrics = METRICS[case]
    evaluation = evaluation_of(metrics, drawn(metrics, rows))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    verdict(evaluation, metrics, None, 42)
    seconds = time.perf_counter() - began
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def table(sizes: list[int]) -> Iterator[str]:
    """A line a case."""
    yield HEAD
    for rows in sizes:
        for case, metrics in METRICS.items():
            with get_context("spawn").Pool(1) as alone:
                seconds, memory = alone.apply(measure, (case, rows))
            yield f"| {case} | {', '.join(('loss', *metrics.names))} | {rows:,} | {seconds:.1f} | {memory:.0f} |"


if __name__ == "__main__":
    for line in table([int(each) for each in sys.argv[1:]] or list(SIZES)):
        print(line, flush=True)
