"""Findings about the labels: classes without rows, look-alike names, too many classes, an imbalance."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

from dongu.config import NUMBERS
from dongu.data.examples import Examples, TextData
from dongu.data.labels import exact_number
from dongu.data.table import FEW_ROWS, MANY_CLASSES
from dongu.data.weights import label_counts
from dongu.doctor.cells import many_classes_advice, read_alike
from dongu.doctor.finding import SHOWN_EXAMPLES, Example, Finding, example
from dongu.text import counted, listed

MANY_ROWS = 20  # of a class, on average: with so many, hundreds of classes are no mistake
MAJORITY_SHARE = 0.9  # of one class, above which accuracy says little
COMPARED_CLASSES = 300  # whose names are compared letter by letter: pairs grow with the square
TYPO_RATIO = 0.85  # of like letters
TYPO_SHARE = 0.05  # of the other's rows that a misspelt name has at most
# What programs write in place of a missing value, pandas, R and Excel among them; `None` is often a class.
MISSING = frozenset(("NaN", "nan", "NULL", "null", "NA", "N/A", "#N/A", "<NA>", "NaT"))
_NO_WIDTH = re.compile(r"[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]")  # nobody sees it


def check_classes(data: TextData) -> Iterator[Finding]:
    """Findings about the classes of a classification, or about the labels that a row may have; none for numbers."""
    train = data.splits["train"]
    if data.task in NUMBERS or train.targets is None:
        return
    names = data.label_names
    counts = np.array([*label_counts(train, names).values()])
    yield from _look_alikes(train, names, counts)
    yield from _missing(train, names, counts)
    yield from _absent(data, counts)
    if len(names) > MANY_CLASSES:
        few_rows = counts.mean() < MANY_ROWS
        others = f"; not used: {', '.join(data.unused_columns)}" if data.unused_columns else ""
        yield Finding(
            "warning" if few_rows else "note",
            f"`{data.columns.label}` has {len(names):,} classes, of {counts.mean():.1f} train rows each",
            f"{'' if few_rows else 'fine for topics or intents; '}a model cannot learn an id, a date or a measure",
            many_classes_advice(data.columns.label) + others,
            _rows_of(train, names, counts.argsort(kind="stable")[:SHOWN_EXAMPLES]),
        )
    elif (few := np.flatnonzero((counts > 0) & (counts < FEW_ROWS))).size:
        shown = listed([f"`{names[i]}` {counts[i]}" for i in few])
        enough = _enough_to_join(data, counts, few)
        yield Finding(
            "warning",
            f"{counted(len(few), 'class', 'classes')} with fewer than {FEW_ROWS} train rows: {shown}",
            "the model hardly learns them, and the score of each depends on a row or two",
            f"add rows, or --rare join={enough} makes them one class" if enough else "add rows",
            _rows_of(train, names, few[:SHOWN_EXAMPLES]),
        )
    if counts.max() > MAJORITY_SHARE * len(train):
        share = counts.max() / len(train)
        frequent, several = f"`{names[counts.argmax()]}`", data.task == "multi-label"
        yield Finding(
            "warning",
            f"{frequent} {'is a label of' if several else 'is'} {share:.1%} of train",
            "always to predict it is right as often"
            if several
            else f"the majority baseline has an accuracy of about {share:.3f}",
            f"{'' if several else 'choose the model by --metric macro_f1, and '}compare each score with the baseline",
        )


def _enough_to_join(data: TextData, counts: np.ndarray, few: np.ndarray) -> int:
    """What `--rare join` takes to join these classes, which it counts before any rows are held out.

    0 where nothing does: they are one, or others would be joined with them, or all.
    """
    if data.task != "single-label" or len(few) < 2 or not data.has_texts:  # what is prepared cannot be joined any more
        return 0
    parts = [data.splits[name] for name in ("train", *data.held_out)]
    whole = np.sum([[*label_counts(part, data.label_names).values()] for part in parts], axis=0)
    enough = max(FEW_ROWS, 1 + int(whole[few].max()))
    others = np.setdiff1d(np.flatnonzero(counts), few)
    return enough if len(others) and whole[others].min() >= enough else 0


def _look_alikes(train: Examples, names: Sequence[str], counts: np.ndarray) -> Iterator[Finding]:
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        groups.setdefault(_plain(name), []).append(i)
    alike = [group for group in groups.values() if len(group) > 1]
    if len(names) <= COMPARED_CLASSES:
        alike += _misspelt(names, counts)
    if alike:
        groups_shown = [
            " and ".join(f"`{names[i]}` ({counted(int(counts[i]), 'row')})" for i in group) for group in alike
        ]
        rarest = np.array([min(group, key=lambda i: counts[i]) for group in alike[:SHOWN_EXAMPLES]])
        yield Finding(
            "warning",
            f"labels that look alike: {listed(groups_shown, joint='; ')}",
            "to the model they are different classes, and one is a wrong answer where the other is the label",
            "write each class in one way",
            _rows_of(train, names, rarest),
        )


def _missing(train: Examples, names: Sequence[str], counts: np.ndarray) -> Iterator[Finding]:
    """Classes that are called as a missing value is."""
    if found := [i for i, name in enumerate(names) if name in MISSING]:
        shown = " and ".join(f"`{names[i]}` ({counted(int(counts[i]), 'row')})" for i in found)
        yield Finding(
            "warning",
            f"{'a label reads' if len(found) == 1 else 'labels read'} like a missing value: {shown}",
            "it is a class like any other, which the model learns to answer",
            "if these rows have no label, make their cells empty, and --unlabelled drop leaves them out",
            _rows_of(train, names, np.array(found[:SHOWN_EXAMPLES])),
        )


def _plain(name: str) -> str:
    """A label without case, spaces, hyphens, accents' ways of writing and what has no width; `01` and `1.0` are 1."""
    name = _NO_WIDTH.sub("", name)
    if (number := exact_number(name)) is not None:
        return repr(number)
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name).casefold()).strip(" .")


def _misspelt(names: Sequence[str], counts: np.ndarray) -> list[list[int]]:
    """Pairs of a frequent class and a rare one with nearly the same letters; digits tell classes apart on purpose."""
    words = [i for i, name in enumerate(names) if len(name) > 4 and not re.search(r"\d", name)]
    return [
        [i, j]
        for j in words
        for i in words
        if 0 < counts[j] <= TYPO_SHARE * counts[i]
        and _plain(names[i]) != _plain(names[j])
        and read_alike(_plain(names[i]), _plain(names[j]), TYPO_RATIO)
    ]


def _absent(data: TextData, counts: np.ndarray) -> Iterator[Finding]:
    """Classes that one split has and another lacks."""
    names = data.label_names
    if missing := [f"`{name}`" for name, count in zip(names, counts, strict=True) if count == 0]:
        yield Finding(
            "warning",
            f"{counted(len(missing), 'class', 'classes')} without a train row: {listed(missing)}",
            "no model learns such a class: its rows in other splits can only be wrong",
            "add rows of it to train",
        )
    for split, examples in data.splits.items():
        if split == "train" or examples.targets is None:
            continue
        here = np.array([*label_counts(examples, names).values()])
        if missing := [f"`{names[i]}`" for i in np.flatnonzero((here == 0) & (counts > 0))]:
            yield Finding(
                "note",
                f"{counted(len(missing), 'class', 'classes')} of train without a {split} row: {listed(missing)}",
                f"the score on {split} says nothing about such a class",
                f"add rows of it to {split} if it matters",
            )


def _rows_of(examples: Examples, names: Sequence[str], classes: np.ndarray) -> tuple[Example, ...]:
    """The first row of each of these classes."""
    targets = examples.targets
    if targets is None:
        return ()
    members = [(i, targets[:, i] > 0 if targets.ndim == 2 else targets == i) for i in classes.tolist()]
    rows = [(i, int(np.argmax(has))) for i, has in members if has.any()]
    if examples.digest is not None:  # the texts are not kept
        return tuple(example([examples.where(row)], names[i]) for i, row in rows)
    return tuple(example([examples.where(row)], f"{names[i]}: {' | '.join(examples.texts_of(row))}") for i, row in rows)
