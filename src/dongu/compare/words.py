"""What `dongu compare` says: the tables, a sentence a metric, the rows that tell the runs apart."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from dongu.compare.recipes import RecipeComparison, SeedDifference, tables
from dongu.compare.runs import Comparison, Example, Pair
from dongu.judge.paired import Difference
from dongu.text import printable, shortened

WORDS = {
    "f1": "F1",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "average_precision": "average precision",
    "matthews_correlation": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
}
SHARES = {"accuracy", "f1", "macro_f1", "micro_f1", "average_precision"}  # said in points of a hundred


def report(comparison: Comparison) -> Iterator[str]:
    """The lines for a person."""
    runs, letters = comparison.runs, [letter(i) for i in range(len(comparison.runs))]
    for name, run in zip(letters, runs, strict=True):
        yield f"{name}  {run.path}, best at step {run.results.get('best_step')} of {run.results.get('steps')}"
    yield ""
    differs = [[name, *(_shown(value) for value in values)] for name, values in comparison.differs.items()]
    if differs:
        yield from _aligned([["differs", *letters], *differs])
    else:
        yield "no option, version or train row differs"
    yield ""
    entries = [run.results[comparison.split] for run in runs]
    names = [name for name in entries[0] if all(name in entry for entry in entries)]
    head = f"{comparison.split}, {comparison.rows:,} rows"
    yield from _aligned([[head, *letters], *([name, *(_interval(entry[name]) for entry in entries)] for name in names)])
    for name, pair in zip(letters[1:], comparison.pairs, strict=True):
        yield ""
        yield from _pair_lines(comparison, pair, letters[0], name)
    if comparison.no_texts:
        yield ""
        yield f"without texts: {comparison.no_texts}"
    if len(runs) > 2:
        yield ""
        yield f"p values are corrected for {len(runs) - 1} comparisons (Holm); an interval is that of its pair alone"


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The same for a machine. A difference is that of the run minus the first one; `p` is corrected (Holm)."""
    return {
        "split": comparison.split,
        "rows": comparison.rows,
        "metric": comparison.main,
        "runs": [{"run": str(run.path), "metrics": run.results[comparison.split]} for run in comparison.runs],
        "differs": comparison.differs,
        "pairs": [
            {
                "run": str(run.path),
                "against": str(comparison.runs[0].path),
                "differences": {
                    name: {**vars(found), "p": pair.p[name], "p_alone": found.p, "shown": found.shown(pair.p[name])}
                    for name, found in pair.differences.items()
                },
                "rows": pair.tally,
                "examples": {kind: [vars(example) for example in rows] for kind, rows in pair.examples.items()},
            }
            for run, pair in zip(comparison.runs[1:], comparison.pairs, strict=True)
        ],
    }


def _pair_lines(comparison: Comparison, pair: Pair, first: str, second: str) -> Iterator[str]:
    for name in comparison.names:
        yield sentence(name, pair.differences[name], pair.p[name], comparison.rows, first, second)
    tally = {kind: f"{count:,}" for kind, count in pair.tally.items()}
    if "both" in tally:
        yield (
            f"both are right on {tally['both']}, only {first} on {tally['only_first']},"
            f" only {second} on {tally['only_second']}, neither on {tally['neither']}"
        )
    else:
        yield (
            f"{first} is nearer on {tally['first_nearer']}, {second} on {tally['second_nearer']},"
            f" as near on {tally['as_near']}"
        )
    heads = {
        "only_first": f"only {first} is right",
        "only_second": f"only {second} is right",
        "first_nearer": f"{first} is nearer",
        "second_nearer": f"{second} is nearer",
    }
    for kind, examples in pair.examples.items():
        if examples:
            yield f"{heads[kind]}, {len(examples)} of {tally[kind]} rows:"
            for example in examples:
                yield from _example_lines(example, first, second)


def sentence(name: str, difference: Difference, p: float, rows: int, first: str, second: str) -> str:
    """What the difference in a metric comes to, for a person.

    Args:
        name: the metric.
        difference: how far the second run is above the first.
        p: its p value, as it is corrected for other comparisons.
        rows: how many rows were compared.
        first, second: what the runs are called.
    """
    metric = WORDS.get(name, name)
    factor, digits, unit = (100, 1, " points") if name in SHARES else (1, 4, "")
    value, low, high = (factor * number for number in (difference.value, difference.low, difference.high))
    if math.isnan(value) or math.isnan(p):
        return f"{metric} is undefined for one of the two"
    if not difference.shown(p):
        side = "above" if value >= 0 else "below"
        return (
            f"no difference in {metric} that these {rows:,} rows can show: {second} is {abs(value):.{digits}f}{unit}"
            f" {side} {first}, 95% interval {low:.{digits}f} to {high:.{digits}f} ({_p(p)})"
        )
    better, worse = (second, first) if (value > 0) != (name == "loss") else (first, second)
    ends = sorted((low, high) if value > 0 else (-low, -high))
    return (
        f"{better} is better than {worse} by {abs(value):.{digits}f}{unit} of {metric};"
        f" 95% interval {ends[0]:.{digits}f} to {ends[1]:.{digits}f} ({_p(p)})"
    )


def report_recipes(comparison: RecipeComparison) -> Iterator[str]:
    """The lines for a person, of recipes with several seeds each."""
    letters = [letter(i) for i in range(len(comparison.recipes))]
    for name, recipe in zip(letters, comparison.recipes, strict=True):
        yield f"{name}  {recipe.path}, seeds {', '.join(map(str, recipe.runs))}"
    yield ""
    differs = [[name, *(_shown(value) for value in values)] for name, values in comparison.differs.items()]
    yield from _aligned([["differs", *letters], *differs]) if differs else ["no option, version or train row differs"]
    yield ""
    rows = "rows of its own for each seed" if comparison.rows is None else f"{comparison.rows:,} rows"
    cells = [[name, *(f"{s['mean']:.4f} ± {s['std']:.4f}" for s in found)] for name, found in tables(comparison)]
    yield from _aligned([[f"{comparison.split}, {rows}", *letters], *cells])
    for name, pair in zip(letters[1:], comparison.pairs, strict=True):
        yield ""
        for metric, difference in pair.items():
            yield _recipe_sentence(metric, difference, comparison, letters[0], name)
    if len(letters) > 2:
        yield ""
        yield "each interval is that of its pair alone: of many pairs, one may look different by chance"


def recipes_as_json(comparison: RecipeComparison) -> dict[str, Any]:
    """The same for a machine. A difference is that of the recipe's mean minus the first one's."""
    found = dict(tables(comparison))
    return {
        "split": comparison.split,
        "rows": comparison.rows,
        "metric": comparison.names[0],
        "recipes": [
            {
                "recipe": str(recipe.path),
                "seeds": [*recipe.runs],
                "metrics": {name: spreads[i] for name, spreads in found.items()},
            }
            for i, recipe in enumerate(comparison.recipes)
        ],
        "differs": comparison.differs,
        "pairs": [
            {
                "recipe": str(recipe.path),
                "against": str(comparison.recipes[0].path),
                "differences": {name: {**vars(each), "shown": each.shown} for name, each in pair.items()},
            }
            for recipe, pair in zip(comparison.recipes[1:], comparison.pairs, strict=True)
        ],
    }


def _recipe_sentence(
    name: str, difference: SeedDifference, comparison: RecipeComparison, first: str, second: str
) -> str:
    metric = WORDS.get(name, name)
    factor, digits, unit = (100, 1, " points") if name in SHARES else (1, 4, "")
    value, low, high = (factor * number for number in (difference.value, difference.low, difference.high))
    if math.isnan(value):
        return f"{metric} is undefined for some run"
    by_seed, count = difference.by_seed, ""
    if by_seed is not None:
        differences = [-d if name == "loss" else d for d in by_seed.values()]
        wins, equal = sum(d > 0 for d in differences), sum(d == 0 for d in differences)
        count = f"; {second} is better with {wins} of {len(differences)} seeds" + (
            f", equal with {equal}" if equal else ""
        )
    if not difference.shown:
        side = "above" if value >= 0 else "below"
        rows = "" if comparison.rows is None else f" and {comparison.rows:,} rows"
        return (
            f"no difference in {metric} that so many seeds{rows} can show: the mean of {second} is"
            f" {abs(value):.{digits}f}{unit} {side} that of {first}, 95% interval {low:.{digits}f} to"
            f" {high:.{digits}f}{count}"
        )
    better, worse = (second, first) if (value > 0) != (name == "loss") else (first, second)
    ends = sorted((low, high) if value > 0 else (-low, -high))
    return (
        f"{better} is better than {worse} by {abs(value):.{digits}f}{unit} of {metric} in the mean of its seeds;"
        f" 95% interval {ends[0]:.{digits}f} to {ends[1]:.{digits}f}{count}"
    )


def letter(number: int) -> str:
    """A, B, … Z, A2, B2, …"""
    return chr(ord("A") + number % 26) + (str(number // 26 + 1) if number >= 26 else "")


def _example_lines(example: Example, first: str, second: str) -> Iterator[str]:
    one, two = (_answer(answer) for answer in example.answers)
    yield f"  row {example.id}  {_answer(example.label)}; {first} says {one}, {second} says {two}"
    for text in example.texts:
        yield f"    {printable(text)}"


def _answer(answer: Any) -> str:
    if isinstance(answer, list):
        return "|".join(answer) or "-"
    return f"{answer:.4g}" if isinstance(answer, float) else str(answer)


def _interval(entry: dict[str, float | None]) -> str:
    value, low, high = ("undefined" if (n := entry[key]) is None else f"{n:.4f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _shown(value: Any) -> str:
    return "-" if value is None else shortened(value if isinstance(value, str) else json.dumps(value), 60)


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
