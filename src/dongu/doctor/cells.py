"""Rows that training would refuse: all of them at once, where the reader stops at the first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher, get_close_matches

from dongu.config import NUMBERS, RunConfig
from dongu.data.cells import without_rows
from dongu.data.columns import EMPTY_ADVICE, MISSING_TEXTS, Columns, joined_cells, named_parts, text_fault
from dongu.data.flags import HIDDEN, hides_flags, join_flags
from dongu.data.forms import MARKS, WITHOUT_LABEL_ADVICE, Form, as_read, form_of, lacking, malformed
from dongu.data.holdout import joined_by
from dongu.data.labels import SEPARATOR, hides_labels, label_fault, label_rows, words_among_numbers
from dongu.data.shares import soft_splits
from dongu.data.sources import Source
from dongu.data.table import BAD_ROWS_ADVICE, MANY_CLASSES, BadRow, Cell, Table, is_flag, is_word
from dongu.doctor.finding import SHOWN_EXAMPLES, Finding, example
from dongu.text import counted, is_blank, listed
from dongu.waiting import Waiting

# What a row has in place of a text or a label; empty where it has one.
Fault = Callable[[Sequence[Cell]], str]
GOLD = "gold label"
ALIKE = 0.8  # of the letters of two names: from there on one may be a misspelling of the other


@dataclass
class Usable:
    """The rows of each split that training would take, and what is wrong with the others."""

    splits: dict[str, Table]
    findings: list[Finding] = field(default_factory=list)

    def take_out(self, split: str, bad: Sequence[int], shown: Callable[[int], str], finding: Finding) -> None:
        """Rows of a split, for what is found; `shown` is what a person knows a row by."""
        table = self.splits[split]
        examples = tuple(example([table.where(row)], shown(row)) for row in bad[:SHOWN_EXAMPLES])
        self.findings.append(replace(finding, examples=examples))
        self.splits[split] = without_rows(table, bad)

    def look(self, split: str, column: str, noun: str, fault: Fault, advice: str, *, drop: bool) -> None:
        """For rows that have the fault. `advice` names the option that drops them in a run, `drop` if it is on."""
        table = self.splits[split]
        faults = _faults(table, column, fault)
        bad = [row for row, what in enumerate(faults) if what]
        if not bad:
            return
        parts = named_parts(column, table.columns) or ()
        rest = {name: cells for name, cells in table.columns.items() if name not in parts}
        mend = "label them" if noun == GOLD else "fill them in"
        state = " or ".join(dict.fromkeys(faults[row] for row in bad))
        finding = Finding(
            "note" if drop else "error",
            f"{counted(len(bad), f'{split} row')} without a {noun} in `{column}`: {state}",
            "they are left out" if drop else "training does not start",
            f"{mend} if they matter" if drop else advice if noun == GOLD else f"{advice}; or {mend}",
        )
        self.take_out(
            split, bad, lambda row: ", ".join(f"{name}: {cells[row]}" for name, cells in rest.items()), finding
        )
        if drop and advice == BAD_ROWS_ADVICE:  # they count in its share of all rows
            dropped = [BadRow(table.where(row), f"`{column}` is {faults[row]}, not a {noun}") for row in bad]
            self.splits[split] = replace(self.splits[split], bad=(*table.bad, *dropped))

    def look_for_unknown(self, split: str, rows: Sequence[Sequence[str]], known: Mapping[str, int]) -> None:
        """`rows` are the labels of each row."""
        bad = [row for row, labels in enumerate(rows) if not known.keys() >= set(labels)]
        if not bad:
            return
        unknown = list(dict.fromkeys(label for row in bad for label in rows[row] if label not in known))
        finding = Finding(
            "error",
            f"{counted(len(bad), f'{split} row')} with a label that train does not have: {listed(_quoted(unknown))}",
            "training does not start: the model could never predict such a label",
            f"{_meant(unknown, known)} correct them, add such rows to train, or remove these".strip(),
        )
        self.take_out(split, bad, lambda row: SEPARATOR.join(rows[row]), finding)

    def look_for_single(self, labels: Sequence[str], column: str) -> None:
        """Where validation is to be held out of train, a class of one row cannot be on both sides."""
        counts = Counter(labels)
        bad = [row for row, label in enumerate(labels) if counts[label] == 1]
        if not bad:
            return
        single = [labels[row] for row in bad]
        others = {name: count for name, count in counts.items() if count > 1}
        them = "it" if len(single) == 1 else "them"
        advice = f"{_meant(single, others)} correct {them}, add rows, or {joined_by(counts.values())}".strip()
        if len(counts) > MANY_CLASSES or not others:
            advice = many_classes_advice(column)
        if odd := words_among_numbers([*counts]):
            are = "is not a number" if len(odd) == 1 else "are not numbers"
            mend = "correct it, or leave such rows out: --task regression --bad-rows drop=10%"
            advice = f"{listed(_quoted(odd))} {are}, as the others are: {mend}"
        finding = Finding(
            "error",
            f"{counted(len(bad), 'label')} with one row only: {listed(_quoted(single))}",
            "training does not start: one row cannot be in both train and validation",
            advice,
        )
        self.take_out("train", bad, labels.__getitem__, finding)


@Waiting("looking for rows that cannot be used")
def set_aside(source: Source, columns: Columns, config: RunConfig) -> Usable:
    """Take out the rows without a text or a label, with labels that train lacks, and those that cannot be held out.

    Raises:
        DataError: the label column is written in two ways, or a row names a label twice.
    """
    label, usable = columns.label, Usable(dict(source.splits))
    if config.task in (None, "single-label"):
        usable.splits = soft_splits(source.splits, label, config.label_names, drop=config.bad_rows is not None)
    train = usable.splits["train"]
    flags = len(named_parts(label, train.columns) or ()) > 1
    form = Form("multi-label") if flags else form_of(train, label, config.task, config.label_separator)

    def name_fault(cells: Sequence[Cell]) -> str:
        if flags:
            return "" if hides_flags(cells) or all(map(is_flag, cells)) else "neither 0 nor 1"
        return malformed(cells[0], form) if form.task == "multi-label" else label_fault(cells[0])

    def gold_fault(cells: Sequence[Cell]) -> str:
        if len(cells) > 1:
            return HIDDEN[0] if hides_flags(cells) else ""
        several = form.task == "multi-label" and is_word(cells[0]) and is_blank(cells[0])  # such a row has none of them
        return "" if several else lacking(cells[0], form.task)

    empty, unlabelled, bad = config.empty == "drop", config.unlabelled == "drop", config.bad_rows is not None
    for split, table in [*usable.splits.items()]:
        for text in columns.texts:
            usable.look(split, text, "text", missing_text, EMPTY_ADVICE, drop=empty)
            usable.look(split, text, "text", text_fault, BAD_ROWS_ADVICE, drop=bad)
        if not (split.startswith("test") and all(_faults(table, label, gold_fault))):
            usable.look(split, label, GOLD, gold_fault, WITHOUT_LABEL_ADVICE, drop=unlabelled)
            usable.look(split, label, "label", name_fault, BAD_ROWS_ADVICE, drop=bad)
    if not len(usable.splits["train"]) or form.task in NUMBERS or config.rare is not None:
        return usable
    tables = {name: join_flags(table, label) for name, table in usable.splits.items()}
    labels = {
        name: label_rows(as_read(table, label, form, drop=True), label, form.task)
        for name, table in tables.items()
        if not hides_labels(table, label)
    }
    known = Counter(name for names in labels.get("train", ()) for name in names)
    if not tables["train"].label_names.get(label):
        for split in [name for name in labels if name != "train"]:
            usable.look_for_unknown(split, labels[split], known)
    by_class = not any((config.group_column, config.time_column, config.fold, config.split_file))
    if "validation" not in source.splits and form.task == "single-label" and by_class:
        usable.look_for_single([name for [name] in labels.get("train", ())], label)
    return usable


def _faults(table: Table, column: str, fault: Fault) -> list[str]:
    return [*map(fault, joined_cells(table, column))]


def missing_text(cells: Sequence[Cell]) -> str:
    """What `--empty drop` leaves out; every other fault of a text is one of `--bad-rows`."""
    return fault if (fault := text_fault(cells)) in MISSING_TEXTS else ""


def many_classes_advice(column: str) -> str:
    """What to do about a label column that looks like none."""
    return (
        f"if `{column}` is not the label, name the one that is: --label-column C; "
        "if it measures something: --task regression"
    )


def _meant(names: Sequence[str], known: Mapping[str, int]) -> str:
    return " ".join(f"`{name}` may mean `{close}`." for name in names[:SHOWN_EXAMPLES] if (close := _like(name, known)))


def _like(name: str, known: Mapping[str, int]) -> str | None:
    """The known label that reads most like it; of two that differ in case alone, the more frequent one."""
    folded = {label.strip().casefold(): label for label in sorted(known, key=lambda label: known[label])}
    close = get_close_matches(name.strip().casefold(), list(folded)[-MANY_CLASSES:], n=1, cutoff=ALIKE)
    return folded[close[0]] if close and read_alike(name.strip().casefold(), close[0], ALIKE) else None


def read_alike(one: str, other: str, ratio: float) -> bool:
    """Whether two names have so many like letters; of names that are several words with marks between them, each.

    Sets that share most of their labels, such as `a, b, c` and `a, b`, are no misspelt names.
    """
    parts = [re.split(f"[{SEPARATOR}{''.join(MARKS)}]", name) for name in (one, other)]
    return len(parts[0]) == len(parts[1]) and all(
        SequenceMatcher(None, *pair).ratio() >= ratio for pair in zip(*parts, strict=True)
    )


def _quoted(names: Sequence[str]) -> list[str]:
    return [f"`{name}`" for name in names]
