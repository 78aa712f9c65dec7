"""Rows that training would refuse: all of them at once, where the reader stops at the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import compress

import numpy as np

from dongu.config import Task
from dongu.data.cells import column_of
from dongu.data.columns import Columns
from dongu.data.holdout import MANY_CLASSES
from dongu.data.labels import HIDDEN_LABEL, infer_task, read_labels
from dongu.data.sources import Source
from dongu.data.table import Table, kind_of
from dongu.doctor.finding import SHOWN_EXAMPLES, Finding, example
from dongu.text import counted, listed


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
        DataError: the label column is written in two ways.
    """
    usable = Usable(source, {name: np.arange(len(table)) for name, table in source.splits.items()}, [])
    for split in source.splits:
        for column in (*columns.texts, columns.label):
            usable = _without_empty(usable, split, column, is_label=column == columns.label)
    if not len(usable.source.splits["train"]):
        return usable
    labels = {name: read_labels(table, columns.label) for name, table in usable.source.splits.items()}
    declared = source.splits["train"].label_names.get(columns.label)
    if (task or infer_task(labels["train"], declared)) == "regression":
        return usable
    if not declared:
        for split in [name for name in labels if name != "train"]:
            if set(labels[split]) != {HIDDEN_LABEL}:
                usable = _without_unknown(usable, split, labels[split], Counter(labels["train"]))
    if "validation" not in source.splits:
        usable = _without_single(usable, labels["train"], columns.label)
    return usable


def _without_empty(usable: Usable, split: str, column: str, *, is_label: bool) -> Usable:
    table = usable.source.splits[split]
    cells = table.columns.get(column, ())
    kinds = str | bool if is_label else str
    bad = [
        row
        for row, cell in enumerate(cells)
        if not isinstance(cell, kinds) or (isinstance(cell, str) and not cell.strip())
    ]
    if not bad:
        return usable
    state = ["empty" if isinstance(cells[row], str) else kind_of(cells[row]) for row in bad]
    shown = [example([usable.where(split, row)], _rest_of(table, row, column)) for row in bad[:SHOWN_EXAMPLES]]
    noun = "label" if is_label else "text"
    finding = Finding(
        "error",
        f"{counted(len(bad), f'{split} row')} without a {noun} in `{column}`: {' or '.join(dict.fromkeys(state))}",
        "training does not start",
        "fill them in or remove the rows",
        tuple(shown),
    )
    return usable.without(split, bad, finding)


def _rest_of(table: Table, row: int, column: str) -> str:
    """The other cells of a row: what a person knows it by."""
    return ", ".join(f"{name}: {cells[row]}" for name, cells in table.columns.items() if name != column)


def _without_unknown(usable: Usable, split: str, labels: Sequence[str], known: Mapping[str, int]) -> Usable:
    bad = [row for row, label in enumerate(labels) if label not in known]
    if not bad:
        return usable
    unknown = list(dict.fromkeys(labels[row] for row in bad))
    meant = " ".join(
        f"`{name}` may mean `{close}`." for name in unknown[:SHOWN_EXAMPLES] if (close := _like(name, known))
    )
    finding = Finding(
        "error",
        f"{counted(len(bad), f'{split} row')} with a label that train does not have: {listed(_quoted(unknown))}",
        "training does not start, for such rows could only be wrong",
        f"{meant} correct them, add such rows to train, or remove these".strip(),
        tuple(example([usable.where(split, row)], labels[row]) for row in bad[:SHOWN_EXAMPLES]),
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
