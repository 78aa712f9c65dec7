"""What `dongu compare` says: the tables, a sentence a metric, the rows that tell the runs apart."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dongu.comparison.pairs import Comparison, Pair
from dongu.config import LOWER_IS_BETTER
from dongu.judge.paired import MetricDifference
from dongu.judge.words import bag_of_words, metric_name
from dongu.text import decimals, printable, shortened, with_interval, wrapped

SHARES = {"accuracy", "f1", "macro_f1", "micro_f1", "average_precision"}  # said in points of a hundred


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """The lines for a person."""
    sides, split = comparison.sides, comparison.split
    first, *others = letters = [letter(i) for i in range(len(sides))]
    for name, side in zip(letters, sides, strict=True):
        results = side.runs[0].results
        said = (
            f"best at step {results.get('best_step')} of {results.get('steps')}" if "steps" in results else "as it is"
        )
        if side.seeds is not None:
            said = f"seeds {', '.join(map(str, side.seeds))}"
        yield f"{name}  {side.path}, {said}"
    yield ""
    differs = [[name, *map(option_shown, values)] for name, values in comparison.differs.items()]
    yield from aligned([["differs", *letters], *differs]) if differs else ["no option, version or train row differs"]
    yield ""
    rows = "rows of its own for each seed" if comparison.rows is None else f"{comparison.rows:,} rows"
    if comparison.of_seeds:
        spreads = {name: [spread(side.values(split, name)) for side in sides] for name in comparison.names}
        cells = [[name, *(f"{s['mean']:.4f} ± {s['std']:.4f}" for s in found)] for name, found in spreads.items()]
    else:
        entries = [side.runs[0].results[split] for side in sides]
        names = [name for name in entries[0] if all(name in entry for entry in entries)]
        cells = [[name, *(with_interval(entry[name]) for entry in entries)] for name in names]
        if bag := _bag_of_words(comparison):
            letters = [*letters, "bag of words"]
            cells = [[*cell, decimals(bag.get(cell[0]), "")] for cell in cells]
    yield from aligned([[f"{split}, {rows}", *letters], *cells])
    for name, pair in zip(others, comparison.pairs, strict=True):
        yield ""
        if pair.is_none:
            yield from wrapped(same_answers(first, name, differ=bool(comparison.differs)))
        for metric, difference in pair.differences.items() if not pair.is_none else ():
            yield sentence(metric, difference, pair.p.get(metric), comparison.rows, first, name)
        yield from _pair_lines(pair, first, name)
    if comparison.no_texts:
        yield ""
        yield f"without texts: {comparison.no_texts}"
    if others[1:]:
        yield ""
        if comparison.of_seeds:
            yield "each interval is that of its pair alone: of many pairs, one may look different by chance"
        else:
            yield f"p values are corrected for {len(others)} comparisons (Holm); an interval is that of its pair alone"


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The same for a machine.

    A difference is that of the run minus the first one, `p` corrected (Holm); or of the means of two recipes.
    """
    (first, *others), split = comparison.sides, comparison.split
    what = "recipe" if comparison.of_seeds else "run"
    sides: list[dict[str, Any]] = [{what: str(side.path)} for side in comparison.sides]
    pairs: list[dict[str, Any]] = [{what: str(other.path), "against": str(first.path)} for other in others]
    for said, side in zip(sides, comparison.sides, strict=True):
        if side.seeds is None:
            said |= {"metrics": side.runs[0].results[split]}
        else:
            spreads = {name: spread(side.values(split, name)) for name in comparison.names}
            said |= {"seeds": side.seeds, "metrics": spreads}
    for said, pair in zip(pairs, comparison.pairs, strict=True):
        said["differences"] = {name: _entry(found, pair.p.get(name)) for name, found in pair.differences.items()}
        if not comparison.of_seeds:
            said |= {"rows": pair.tally, "examples": {k: [*map(vars, rows)] for k, rows in pair.examples.items()}}
    head: dict[str, Any] = {"split": split, "rows": comparison.rows, "metric": comparison.names[0]}
    if not comparison.of_seeds and (bag := _bag_of_words(comparison)):
        head["bag_of_words"] = bag
    return {**head, f"{what}s": sides, "differs": comparison.differs, "pairs": pairs}


def _bag_of_words(comparison: Comparison) -> dict[str, float]:
    """What a bag of words reaches by metric; nothing where that is not the same for all, as from other train rows."""
    known = [bag_of_words(run.results, comparison.split) for side in comparison.sides for run in side.runs]
    return known[0] if all(each == known[0] for each in known) else {}


def _entry(found: MetricDifference, p: float | None) -> dict[str, Any]:
    more = {"by_seed": found.by_seed} if p is None else {"p": p, "p_alone": found.p}
    return {"value": found.value, "low": found.low, "high": found.high, **more, "shown": found.shown(p)}


def spread(values: np.ndarray) -> dict[str, float]:
    """Mean and standard deviation (of a sample)."""
    return {"mean": float(values.mean()), "std": float(values.std(ddof=1))}


def _pair_lines(pair: Pair, first: str, second: str) -> Iterator[str]:
    """Of two runs: how many rows who has right, and some of them."""
    tally = {kind: f"{count:,}" for kind, count in pair.tally.items()}
    if "both" in tally:
        yield (
            f"both are right on {tally['both']}, only {first} on {tally['only_first']},"
            f" only {second} on {tally['only_second']}, neither on {tally['neither']}"
        )
    elif tally:
        yield (
            f"{first} is nearer on {tally['first_nearer']}, {second} on {tally['second_nearer']},"
            f" as near on {tally['as_near']}"
        )
    for kind, examples in pair.examples.items():
        if examples:
            who = first if "first" in kind else second
            head = f"only {who} is right" if "only" in kind else f"{who} is nearer"
            yield f"{head}, {len(examples)} of {tally[kind]} rows:"
            for example in examples:
                label, one, two = map(_answer, (example.label, *example.answers))
                yield f"  row {example.id}  {label}; {first} says {one}, {second} says {two}"
                yield from (f"    {printable(text)}" for text in example.texts)


def sentence(
    name: str, difference: MetricDifference, p: float | None, rows: int | None, first: str, second: str
) -> str:
    """What the difference in a metric comes to, for a person.

    Args:
        name: the metric.
        difference: how far the second run is above the first, or the mean of the second recipe.
        p: its p value, as it is corrected for other comparisons; None for recipes, which have none.
        rows: how many rows were compared; None where each seed has its own.
        first, second: what the runs are called.
    """
    metric = metric_name(name)
    factor, digits, unit = (100, 1, " points") if name in SHARES else (1, 4, "")
    value, low, high = (factor * number for number in (difference.value, difference.low, difference.high))
    if math.isnan(value) or (p is not None and math.isnan(p)):
        return f"{metric} is undefined for one of the runs"
    behind = _wins(name, difference, second) if p is None else " (p < 0.001)" if p < 0.001 else f" (p {p:.3f})"
    if not difference.shown(p):
        judges = "" if rows is None else f"{rows:,} rows"
        judges = f"these {judges}" if p is not None else f"so many seeds{judges and f' and {judges}'}"
        one, two = (first, second) if p is not None else (f"that of {first}", f"the mean of {second}")
        far = f"{abs(value):.{digits}f}" if round(abs(value), digits) else f"less than {10**-digits:g}"
        apart = f"is {far}{unit} {'above' if value > 0 else 'below'}" if value else "equals"
        return (
            f"no difference in {metric} that {judges} can show: {two} {apart} {one},"
            f" 95% interval {low:.{digits}f} to {high:.{digits}f}{behind}"
        )
    better, worse = (second, first) if (value > 0) != (name in LOWER_IS_BETTER) else (first, second)
    ends = sorted((low, high) if value > 0 else (-low, -high))
    return (
        f"{better} is better than {worse} by {abs(value):.{digits}f}{unit} of {metric}"
        f"{' in the mean of its seeds' if p is None else ''};"
        f" 95% interval {ends[0]:.{digits}f} to {ends[1]:.{digits}f}{behind}"
    )


def same_answers(first: str, second: str, *, differ: bool) -> str:
    """What two runs are that have the same loss on each row."""
    why = "what differs between them changes nothing: keep either" if differ else "they are one run twice"
    return f"{first} and {second} answer every row alike, to the last digit; {why}"


def _wins(name: str, difference: MetricDifference, second: str) -> str:
    """With how many of the seeds that both recipes have the second one is better."""
    if difference.by_seed is None:
        return ""
    gains = [-gain if name in LOWER_IS_BETTER else gain for gain in difference.by_seed.values()]
    wins, equal = sum(gain > 0 for gain in gains), sum(gain == 0 for gain in gains)
    return f"; {second} is better with {wins} of {len(gains)} seeds{f', equal with {equal}' if equal else ''}"


def letter(number: int) -> str:
    """A, B, … Z, A2, B2, …"""
    return chr(ord("A") + number % 26) + (str(number // 26 + 1) if number >= 26 else "")


def _answer(answer: Any) -> str:
    if isinstance(answer, list):
        return "|".join(answer) or "-"
    return f"{answer:.4g}" if isinstance(answer, float) else str(answer)


def option_shown(value: Any) -> str:
    """An option's value in a cell."""
    return "-" if value is None else shortened(value if isinstance(value, str) else json.dumps(value), 60)


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table whose columns stand below each other."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
