"""How often the 95% intervals hold the truth, and how often equal runs are told apart: tables of docs/confidence.md.

    python benchmarks/coverage.py            # minutes on one core: prints the tables and writes them into the docs
    python benchmarks/coverage.py --quick    # a minute: fewer samples, and nothing is written

A case draws answers of a model whose metrics are known from 1,000,000 rows. Of many splits of so many rows, the share
is counted whose interval holds them. 500 splits leave an error of 1 point in it.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from dongu.config import NUMBERS
from dongu.judge.answers import Evaluation
from dongu.judge.calibration import calibration_error
from dongu.judge.intervals import verdict
from dongu.judge.metrics import MetricSet
from dongu.judge.paired import paired_differences

DOCS = Path(__file__).resolve().parent.parent / "docs" / "confidence.md"
ROWS = (30, 100, 400, 2_000)
SPLITS, QUICK_SPLITS = {30: 500, 100: 500, 400: 500, 2_000: 250}, 100
PAIR_SPLITS, QUICK_PAIRS = {30: 300, 100: 300, 400: 200, 2_000: 80}, 60
TRUTH_ROWS = 300_000
RARE_CLASSES = (0.4, 0.3, 0.2, 0.07, 0.02, 0.01)

Drawn = tuple[np.ndarray, np.ndarray]  # logits (rows, labels) and targets
Draw = Callable[[np.random.Generator, int], Drawn]


def two_classes(positive: float, apart: float, times: float = 1.0) -> Draw:
    """Two classes as two normal distributions, by logits that are the right ones, so many times."""

    def draw(random: np.random.Generator, rows: int) -> Drawn:
        targets = (random.random(rows) < positive).astype(np.int64)
        seen = apart * (2 * targets - 1) + random.normal(size=rows)
        logit = times * (2 * apart * seen + np.log(positive / (1 - positive)))
        return np.stack([-logit / 2, logit / 2], 1).astype(np.float32), targets

    return draw


def six_classes(random: np.random.Generator, rows: int) -> Drawn:
    """Six classes, two of which are rare."""
    targets = random.choice(len(RARE_CLASSES), rows, p=RARE_CLASSES)
    logits = 3 * np.eye(len(RARE_CLASSES))[targets] + random.normal(size=(rows, len(RARE_CLASSES)))
    return logits.astype(np.float32), targets


def three_labels(random: np.random.Generator, rows: int) -> Drawn:
    """Several labels a row, one of which is rare."""
    truth = random.random((rows, 3)) < (0.5, 0.3, 0.05)
    seen = 1.2 * (2 * truth - 1) + random.normal(size=(rows, 3))
    return (2.4 * seen + np.log((1.0, 0.43, 0.053))).astype(np.float32), truth.astype(np.float32)


def numbers(correlation: float, heavy: bool = False) -> Draw:
    """Numbers that correlate so with their answers, by normal errors, or by those of Student's t with 3 degrees."""

    def draw(random: np.random.Generator, rows: int) -> Drawn:
        targets = random.normal(size=rows)
        errors = random.standard_t(3, size=rows) / np.sqrt(3) if heavy else random.normal(size=rows)
        answers = correlation * targets + np.sqrt(1 - correlation**2) * errors
        return answers.astype(np.float32)[:, None], targets.astype(np.float32)

    return draw


TWO = MetricSet.of("single-label", ("no", "yes"), main="matthews_correlation")
SIX = MetricSet.of("single-label", tuple("abcdef"), main="matthews_correlation")
SETS, SCORES = MetricSet.of("multi-label", tuple("abc")), MetricSet.of("regression", ("score",))
CASES: dict[str, tuple[MetricSet, Draw]] = {
    "two classes, 84% right": (TWO, two_classes(0.5, 1.0)),
    "two classes, 98% right, overconfident": (TWO, two_classes(0.5, 2.05, 1.5)),
    "two classes, 5% positive": (TWO, two_classes(0.05, 1.3)),
    "six classes, two rare": (SIX, six_classes),
    "three labels, one rare": (SETS, three_labels),
    "numbers, normal errors": (SCORES, numbers(0.85)),
    "numbers, heavy tails": (SCORES, numbers(0.95, heavy=True)),
}


def evaluation_of(metrics: MetricSet, drawn: Drawn) -> Evaluation:
    """As a run's: the losses in double precision."""
    logits, targets = drawn
    wide = logits.astype(np.float64)
    if metrics.task in NUMBERS:
        losses = (wide[:, 0] - targets) ** 2
    elif metrics.task == "multi-label":
        losses = np.logaddexp(0, np.where(targets > 0, -wide, wide)).mean(-1)
    else:
        losses = np.logaddexp.reduce(wide, -1) - wide[np.arange(len(wide)), targets]
    rows = np.arange(len(targets))
    found = Evaluation("test", rows, logits, targets, losses, {}, task=metrics.task, scale=metrics.scale)
    return replace(found, metrics=metrics.values(found))


def coverage(metrics: MetricSet, draw: Draw, rows: int, splits: int) -> dict[str, list[float]]:
    """The share of the intervals of each metric that hold the truth, that lie above it, and that lie below."""
    whole = evaluation_of(metrics, draw(np.random.default_rng(9), TRUTH_ROWS))
    truth = dict(whole.metrics)
    if metrics.task == "single-label":
        truth["calibration_error"] = calibration_error(whole.logits, np.asarray(whole.targets))
    random, counts = np.random.default_rng(rows), {name: np.zeros(3) for name in truth}
    for seed in range(splits):
        found = verdict(evaluation_of(metrics, draw(random, rows)), metrics, None, seed)
        for name, value in truth.items():
            low, high = found[name]["low"], found[name]["high"]
            counts[name] += (low <= value <= high, value < low, value > high)
    return {name: (each / splits).tolist() for name, each in counts.items()}


def interval_table(quick: bool, only: str) -> Iterator[str]:
    """A line a case and metric: the share of the intervals that hold the truth, by how many rows there are."""
    yield "| answers | metric | " + " | ".join(f"{rows:,} rows" for rows in ROWS) + " |"
    yield "| --- | --- |" + " --- |" * len(ROWS)
    for case, (metrics, draw) in CASES.items():
        if only not in case:
            continue
        fewer = 5 if metrics.task == "multi-label" else 1  # average precision of a sample takes its time
        splits = {rows: (QUICK_SPLITS if quick else SPLITS[rows]) // fewer for rows in ROWS}
        found = [coverage(metrics, draw, rows, splits[rows]) for rows in ROWS]
        for name in found[0]:
            yield f"| {case} | {name} | " + " | ".join(f"{100 * each[name][0]:.1f}" for each in found) + " |"


AGREE = 0.6  # the share of the noise that two runs have in common
Pairs = Callable[[np.random.Generator, int, float], tuple[Evaluation, Evaluation]]


def two_class_pair(positive: float, apart: float) -> Pairs:
    """Two models of `two_classes`, the second of which tells them apart by so much more."""

    def draw(random: np.random.Generator, rows: int, gap: float) -> tuple[Evaluation, Evaluation]:
        targets = (random.random(rows) < positive).astype(np.int64)
        common, sides = np.sqrt(AGREE) * random.normal(size=rows), []
        for mean in (apart, apart + gap):
            seen = mean * (2 * targets - 1) + common + np.sqrt(1 - AGREE) * random.normal(size=rows)
            logit = 2 * mean * seen + np.log(positive / (1 - positive))
            sides.append(evaluation_of(TWO, (np.stack([-logit / 2, logit / 2], 1), targets)))
        return sides[0], sides[1]

    return draw


def six_class_pair(random: np.random.Generator, rows: int, gap: float) -> tuple[Evaluation, Evaluation]:
    """Two models of `six_classes`."""
    shape = rows, len(RARE_CLASSES)
    targets, common = random.choice(shape[1], rows, p=RARE_CLASSES), np.sqrt(AGREE) * random.normal(size=shape)
    one, two = (
        (3 + more) * np.eye(shape[1])[targets] + common + np.sqrt(1 - AGREE) * random.normal(size=shape)
        for more in (0, gap)
    )
    return evaluation_of(SIX, (one, targets)), evaluation_of(SIX, (two, targets))


def number_pair(random: np.random.Generator, rows: int, gap: float) -> tuple[Evaluation, Evaluation]:
    """Two models of `numbers`."""
    targets, common = random.normal(size=rows), np.sqrt(AGREE) * random.normal(size=rows)
    one, two = (
        rho * targets + np.sqrt(1 - rho**2) * (common + np.sqrt(1 - AGREE) * random.normal(size=rows))
        for rho in (0.85, 0.85 + gap / 10)
    )
    return evaluation_of(SCORES, (one[:, None], targets)), evaluation_of(SCORES, (two[:, None], targets))


GAP = 0.2
PAIRS: dict[str, Pairs] = {
    "two classes, 84% right": two_class_pair(0.5, 1.0),
    "two classes, 5% positive": two_class_pair(0.05, 1.3),
    "six classes, two rare": six_class_pair,
    "numbers, normal errors": number_pair,
}


def compare_table(quick: bool, only: str) -> Iterator[str]:
    """A line a case and metric: the share of equal runs that are told apart / of runs that are `GAP` apart."""
    yield "| answers | metric | " + " | ".join(f"{rows:,} rows" for rows in ROWS) + " |"
    yield "| --- | --- |" + " --- |" * len(ROWS)
    for case, draw in PAIRS.items():
        if only not in case:
            continue
        found: list[dict[str, list[float]]] = []
        for rows in ROWS:
            pairs = QUICK_PAIRS if quick else PAIR_SPLITS[rows]
            shown: dict[str, dict[float, list[bool]]] = {}
            for gap, times in ((0.0, pairs), (GAP, pairs // 4)):
                random = np.random.default_rng(rows)
                for seed in range(times):
                    one, two = draw(random, rows, gap)
                    for name, each in paired_differences(one, two, [*one.metrics], seed).items():
                        shown.setdefault(name, {}).setdefault(gap, []).append(each.shown(each.p))
            found.append({name: [100 * float(np.mean(each[gap])) for gap in each] for name, each in shown.items()})
        for name in found[0]:
            yield f"| {case} | {name} | " + " | ".join("{:.1f} / {:.0f}".format(*each[name]) for each in found) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer samples, and nothing is written")
    parser.add_argument("--only", default="", help="the cases whose names hold this; nothing is written")
    parser.add_argument("--table", default="", help="only this one: intervals, or compare")
    options = parser.parse_args()
    for name, table in {"intervals": interval_table, "compare": compare_table}.items():
        if options.table not in ("", name):
            continue
        began, lines = time.process_time(), []
        for line in table(options.quick, options.only):
            print(line, flush=True)
            lines.append(line)
        print(f"{time.process_time() - began:.0f} processor seconds\n", flush=True)
        if options.quick or options.only:
            continue
        head, tail = f"<!-- coverage.py: {name} -->", "<!-- end -->"
        written, text = "\n".join([head, *lines, tail]), DOCS.read_text(encoding="utf-8")
        DOCS.write_text(re.sub(f"{head}.*?{tail}", written, text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
