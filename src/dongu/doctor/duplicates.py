"""The same text again: a leak between splits, conflicting labels, a text of another pair, or a mere duplicate.

Rows are compared by 64-bit hashes of their texts, so a split costs 24 bytes a row, 40 where they are pairs. Among a
million rows two different texts have the same hash in one of thirty million data sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dongu.config import NUMBERS
from dongu.data.examples import Examples, TextData
from dongu.data.labels import SEPARATOR
from dongu.doctor.finding import SHOWN_EXAMPLES, Example, Finding, example, share_of_rows
from dongu.text import counted, visible

MANY_DUPLICATES = 0.01  # of a split's rows, from which they change the result
SPREAD = 0.1  # of the range of the numbers, from which the numbers of two duplicates are in conflict


@dataclass(frozen=True)
class Hashed:
    """The rows of a split as numbers, (rows,) int64 each, which are equal where the texts are.

    `exact` compares every letter, `near` ignores case, space and what is not seen, `either_way` also
    the order of a pair.
    `sides`, (texts a row, rows), is `near` of each text of a pair for itself; (0, rows) where there are no pairs.
    `answers`, (rows,), are the targets, and a number a set where a row has several labels; None where they are hidden.
    """

    examples: Examples
    answers: np.ndarray | None
    exact: np.ndarray
    near: np.ndarray
    either_way: np.ndarray
    sides: np.ndarray

    @staticmethod
    def of(examples: Examples, sets: dict[bytes, int]) -> Hashed:
        """Hashes for this process: Python salts them anew in the next. `sets` has the numbers of sets seen so far."""
        pair = len(examples.texts) == 2
        hashes = np.empty((5 if pair else 3, len(examples)), dtype=np.int64)
        for row, texts in enumerate(zip(*examples.texts, strict=True)):
            words = tuple(map(visible, texts))
            sides = map(hash, words) if pair else ()
            hashes[:, row] = hash(texts), hash(words), hash(tuple(sorted(words))), *sides
        answers = examples.targets
        if answers is not None and answers.ndim == 2:
            answers = np.array([sets.setdefault(row.tobytes(), len(sets)) for row in answers])
        exact, near, either_way = hashes[:3]
        return Hashed(examples, answers, exact, near, either_way, hashes[3:])


def check_duplicates(data: TextData) -> Iterator[Finding]:
    """Leaks between the splits, conflicting labels and duplicates within each."""
    sets: dict[bytes, int] = {}
    hashed = {name: Hashed.of(examples, sets) for name, examples in data.splits.items()}
    for new in [name for name in hashed if name != "train"]:
        yield from _leak(data, hashed, "train", new)
    if "test" in hashed:
        yield from _leak(data, hashed, "validation", "test")
    for name, rows in hashed.items():
        yield from _conflicts(data, rows, name)
    for name, rows in hashed.items():
        yield from _duplicates(rows, name)
    for new in [name for name in hashed if name != "train"]:
        yield from _other_partners(data, hashed["train"], hashed[new], new)


def _leak(data: TextData, hashed: Mapping[str, Hashed], seen_name: str, new_name: str) -> Iterator[Finding]:
    """Rows of one split that stand in another, which decides about the model."""
    seen, new = hashed[seen_name], hashed[new_name]
    order = np.argsort(seen.either_way, kind="stable")
    places = np.searchsorted(seen.either_way, new.either_way, sorter=order)
    first = order[np.minimum(places, len(order) - 1)]  # (rows of new,) the first row of `seen` that may be the same
    found = np.flatnonzero(seen.either_way[first] == new.either_way)
    if not found.size:
        return
    exact, near = (int(np.isin(b[found], a).sum()) for a, b in ((seen.exact, new.exact), (seen.near, new.near)))
    counts = {
        "exact": exact,
        "up to case, space and what is not seen": near - exact,
        "with the pair reversed": len(found) - near,
    }
    ways = [f"{count:,} {way}" for way, count in counts.items() if count]
    differ = 0
    if seen.answers is not None and new.answers is not None:
        apart = np.abs(seen.answers[first[found]] - new.answers[found])
        differ = int((apart > _tolerance(data)).sum())
    if differ:
        ways.append(f"{differ:,} with another label in {seen_name}")
    yield Finding(
        "warning",
        f"{share_of_rows(len(found), new_name, len(new.exact), 'leaks', 'leak')} from {seen_name}: {', '.join(ways)}",
        _effect(data, seen_name, new_name, (len(found) - differ) / len(new.exact)),
        "remove the duplicates from the file: of some texts, one row was held out and another was not"
        if new_name in data.held_out
        else f"remove them from {seen_name}",
        tuple(
            example([seen.examples.where(int(first[row])), new.examples.where(int(row))], *new.examples.texts_of(row))
            for row in found[:SHOWN_EXAMPLES]
        ),
    )


def _other_partners(data: TextData, train: Hashed, new: Hashed, new_name: str) -> Iterator[Finding]:
    """Pairs of a split of which train has one text, in another pair."""
    known = np.isin(new.sides, train.sides)  # (2, rows); (0, rows) where there are no pairs
    found = np.flatnonzero(known.any(axis=0) & ~np.isin(new.either_way, train.either_way))
    if not found.size:
        return
    examples = []
    for row in found[:SHOWN_EXAMPLES]:
        side = int(np.flatnonzero(known[:, row])[0])
        first = int(np.flatnonzero((train.sides == new.sides[side, row]).any(axis=0))[0])
        text = new.examples.texts_of(row)[side]
        examples.append(example([train.examples.where(first), new.examples.where(int(row))], text))
    yield Finding(
        "note",
        share_of_rows(len(found), new_name, known.shape[1], "shares", "share")
        + " one text of their pair with train, in another pair",
        f"the score on {new_name} is measured in part on texts of train, and says less about new texts",
        "if the model will meet new texts, "
        + (
            "give a validation part of your own, without texts of train"
            if new_name in data.held_out
            else "split the data by text, not by pair"
        ),
        tuple(examples),
    )


def _effect(data: TextData, seen_name: str, new_name: str, memorized_share: float) -> str:
    if seen_name != "train":
        return f"the best model is chosen on rows of {new_name}: the score on {new_name} is too high"
    if not memorized_share:
        return f"the model learns other labels for them: the score on {new_name} is too low"
    shown = "100" if memorized_share > 0.99 else f"{100 * memorized_share:.2g}"
    points = f", accuracy by up to {shown} points" if data.task == "single-label" else ""
    return f"the model can memorize their labels: the score on {new_name} is too high{points}"


def _conflicts(data: TextData, rows: Hashed, name: str) -> Iterator[Finding]:
    """Texts of a split that have two labels."""
    targets, answers, tolerance = rows.examples.targets, rows.answers, _tolerance(data)
    if targets is None or answers is None:
        return
    order = np.lexsort((answers, rows.near))  # within a text by label, then in the order of the file
    starts = np.flatnonzero(np.append(True, np.diff(rows.near[order]) != 0))
    ends = np.append(starts[1:], len(order))
    lowest, highest = order[starts], order[ends - 1]  # a row of each text, (texts,)
    found = np.flatnonzero(answers[highest] - answers[lowest] > tolerance)
    if not found.size:
        return
    examples: list[Example] = []
    for text in found[np.argsort(np.minimum(lowest, highest)[found])][:SHOWN_EXAMPLES]:
        pair = sorted([int(lowest[text]), int(highest[text])])
        where = [f"{rows.examples.where(row)} ({_label(data, targets[row])})" for row in pair]
        examples.append(example(where, *rows.examples.texts_of(pair[0])))
    labels = "sets of labels" if data.task == "multi-label" else "labels"
    far = f" more than {tolerance:.2g} apart" if tolerance else ""
    yield Finding(
        "warning",
        f"{counted(len(found), 'text')} of {name} with conflicting {labels}{far}, "
        f"in {int((ends - starts)[found].sum()):,} rows",
        "the model cannot fit both labels" if name == "train" else f"no model can get all of {name} right",
        "decide which label is right, or remove the rows",
        tuple(examples),
    )


def _duplicates(rows: Hashed, name: str) -> Iterator[Finding]:
    """Rows of a split that repeat an earlier one, with its label."""
    answers = np.zeros(len(rows.near)) if rows.answers is None else rows.answers
    order = np.lexsort((answers, rows.near))
    new = np.append(True, (np.diff(rows.near[order]) != 0) | (np.diff(answers[order]) != 0))
    again = np.flatnonzero(~new)
    if not again.size:
        return
    first = order[np.flatnonzero(new)[np.cumsum(new)[again] - 1]]  # the row that each of them repeats
    shown = np.argsort(order[again])[:SHOWN_EXAMPLES]
    yield Finding(
        "warning" if len(again) / len(order) >= MANY_DUPLICATES else "note",
        share_of_rows(len(again), name, len(order), "is a duplicate", "are duplicates") + " of an earlier row",
        f"each counts again in the {'loss' if name == 'train' else 'score'}",
        "remove them, unless they are as frequent where the model will be used",
        tuple(
            example(map(rows.examples.where, (int(first[i]), int(order[again[i]]))), *rows.examples.texts_of(first[i]))
            for i in shown
        ),
    )


def _tolerance(data: TextData) -> float:
    """The largest difference between two labels of a text that is no conflict: 0 for classes, `SPREAD` for numbers."""
    targets = data.splits["train"].targets
    return SPREAD * float(np.ptp(targets)) if data.task in NUMBERS and targets is not None else 0.0


def _label(data: TextData, target: Any) -> str:
    if data.task == "multi-label":
        return SEPARATOR.join(data.label_names[i] for i in np.flatnonzero(target)) or "no label"
    return f"{target:g}" if data.task in NUMBERS else data.label_names[int(target)]
