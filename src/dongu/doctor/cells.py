"""Rows that training would refuse: all of them at once, where the reader stops at the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import compress

import numpy as np

from dongu.config import Task
from dongu.data.cells import column_of
from dongu.data.columns import Columns, parts_of
from dongu.data.flags import hides_flags, is_flag, join_flags
from dongu.data.holdout import MANY_CLASSES
from dongu.data.labels import SEPARATOR, hides_labels, infer_task, label_rows
from dongu.data.sources import Source
from dongu.data.table import Cell, Table, kind_of
from dongu.doctor.finding import SHOWN_EXAMPLES, Finding, example
from dongu.text import counted, is_blank, listed

# What keeps the cells of a row from being its text or its label; empty where nothing does.
Fault = Callable[[Sequence[Cell]], str]


@dataclass(frozen=True)
class Usable:
    """The rows of a source that training would take, and where they stood: row numbers by split."""

    source: Source
    ids: dict[str, np.ndarray]
    findings: list[Finding]

    def without(self, split: str, bad: Sequence[int], finding: Finding) -> Usable:
        """Without some rows of a split, and with what is wrong with them."""
        table = self.source.splits[split]
        kept = np.delete(np.arange(len(table)), bad)
        mask = np.isin(np.arange(len(table)), kept).tolist()
        columns = {name: column_of(compress(cells, mask)) for name, cells in table.columns.items()}
        lines = None if table.lines is None else list(compress(table.lines, mask))
        splits = {**self.source.splits, split: replace(table, columns=columns, lines=lines)}
        ids = {**self.ids, split: self.ids[split][kept]}
        return Usable(replace(self.source, splits=splits), ids, [*self.findings, finding])

    def where(self, split: str, row: int) -> str:
        """The place of a row that is left."""
        table = self.source.splits[split]
        return table.where(row if table.lines is not None else int(self.ids[split][row]))


def set_aside(source: Source, columns: Columns, task: Task | None) -> Usable:
    """Take out the rows without a text or a label, with labels that train lacks, and those that cannot be held out.

    Args:
        task: what the label is; inferred where it is None.

    Raises:
        DataError: the label column is written in two ways, or a row names a label twice.
    """
    usable = Usable(source, {name: np.arange(len(table)) for name, table in source.splits.items()}, [])
    train, label = source.splits["train"], columns.label
    flags = label not in train.columns  # then its name joins several
    label_fault: Fault = _label_fault
    if flags or (task or infer_task(train, label)) == "multi-label":
        label_fault = _flags_fault if flags else _labels_fault
    for split in source.splits:
        for column in columns.texts:
            usable = _without_empty(usable, split, column, "text", _text_fault)
        usable = _without_empty(usable, split, label, "label", label_fault)
    if not len(usable.source.splits["train"]):
        return usable
    tables = {name: join_flags(table, label) for name, table in usable.source.splits.items()}
    task = task or infer_task(tables["train"], label)
    if task == "regression":
        return usable
    labels = {name: label_rows(table, label, task) for name, table in tables.items() if not hides_labels(table, label)}
    known = Counter(name for names in labels.get("train", ()) for name in names)
    if not tables["train"].label_names.get(label):
        for split in [name for name in labels if name != "train"]:
            usable = _without_unknown(usable, split, labels[split], known)
    if "validation" not in source.splits and task == "single-label":
        usable = _without_single(usable, [name for [name] in labels.get("train", ())], label)
    return usable


def _text_fault(cells: Sequence[Cell]) -> str:
    """Of several columns that are joined some may be empty, but not all."""
    wrong = [cell for cell in cells if not isinstance(cell, str) and (cell is not None or len(cells) == 1)]
    if wrong:
        return kind_of(wrong[0])
    return "empty" if all(cell is None or is_blank(str(cell)) for cell in cells) else ""


def _label_fault(cells: Sequence[Cell]) -> str:
    [cell] = cells
    if not isinstance(cell, str | bool):
        return kind_of(cell)
    return "empty" if isinstance(cell, str) and is_blank(cell) else ""


def _labels_fault(cells: Sequence[Cell]) -> str:
    """An empty one is a row without a label."""
    [cell] = cells
    return "" if isinstance(cell, str | bool | list) else kind_of(cell)


def _flags_fault(cells: Sequence[Cell]) -> str:
    return "" if hides_flags(cells) or all(map(is_flag, cells)) else "neither 0 nor 1"


def _without_empty(usable: Usable, split: str, column: str, noun: str, fault: Fault) -> Usable:
    table = usable.source.splits[split]
    parts = parts_of(column, table.columns) or ()
    faults = [fault(cells) for cells in zip(*(table.columns[part] for part in parts), strict=True)]
    bad = [row for row, what in enumerate(faults) if what]
    if not bad:
        return usable
    state = [faults[row] for row in bad]
    shown = [example([usable.where(split, row)], _rest_of(table, row, parts)) for row in bad[:SHOWN_EXAMPLES]]
    finding = Finding(
        "error",
        f"{counted(len(bad), f'{split} row')} without a {noun} in `{column}`: {' or '.join(dict.fromkeys(state))}",
        "training does not start",
        "fill them in or remove the rows",
        tuple(shown),
    )
    return usable.without(split, bad, finding)


def _rest_of(table: Table, row: int, left_out: Sequence[str]) -> str:
    """The other cells of a row: what a person knows it by."""
    return ", ".join(f"{name}: {cells[row]}" for name, cells in table.columns.items() if name not in left_out)


def _without_unknown(usable: Usable, split: str, rows: Sequence[Sequence[str]], known: Mapping[str, int]) -> Usable:
    """`rows` are the labels of each row."""
    bad = [row for row, labels in enumerate(rows) if not known.keys() >= set(labels)]
    if not bad:
        return usable
    unknown = list(dict.fromkeys(label for row in bad for label in rows[row] if label not in known))
    meant = " ".join(
        f"`{name}` may mean `{close}`." for name in unknown[:SHOWN_EXAMPLES] if (close := _like(name, known))
    )
    finding = Finding(
        "error",
        f"{counted(len(bad), f'{split} row')} with a label that train does not have: {listed(_quoted(unknown))}",
        "training does not start, for such rows could only be wrong",
        f"{meant} correct them, add such rows to train, or remove these".strip(),
        tuple(example([usable.where(split, row)], SEPARATOR.join(rows[row])) for row in bad[:SHOWN_EXAMPLES]),
    )
    return usable.without(split, bad, finding)


def _without_single(usable: Usable, labels: Sequence[str], column: str) -> Usable:
    """Where validation is to be held out of train, a class of one row cannot be on both sides."""
    counts = Counter(labels)
    bad = [row for row, label in enumerate(labels) if counts[label] == 1]
    if not bad:
        return usable
    single = [labels[row] for row in bad]
    others = {name: count for name, count in counts.items() if count > 1}
    meant = " ".join(
        f"`{name}` may mean `{close}`." for name in single[:SHOWN_EXAMPLES] if (close := _like(name, others))
    )
    advice = f"{meant} correct them, add rows, or give a folder with a validation file".strip()
    if len(counts) > MANY_CLASSES:
        advice = many_classes_advice(column)
    finding = Finding(
        "error",
        f"{counted(len(bad), 'label')} with one row only: {listed(_quoted(single))}",
        "training does not start: a row cannot be both learnt and held out",
        advice,
        tuple(example([usable.where("train", row)], labels[row]) for row in bad[:SHOWN_EXAMPLES]),
    )
    return usable.without("train", bad, finding)


def many_classes_advice(column: str) -> str:
    """What to do about a label column that looks like none."""
    return (
        f"if `{column}` is not the label, name the one that is: --label-column C; "
        "if it measures something: --task regression"
    )


def _like(name: str, known: Mapping[str, int]) -> str | None:
    """The known label that reads most like it; of two that differ in case alone, the more frequent one."""
    folded = {label.strip().casefold(): label for label in sorted(known, key=lambda label: known[label])}
    close = get_close_matches(name.strip().casefold(), list(folded)[-MANY_CLASSES:], n=1, cutoff=0.8)
    return folded[close[0]] if close else None


def _quoted(names: Sequence[str]) -> list[str]:
    return [f"`{name}`" for name in names]
