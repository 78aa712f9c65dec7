"""Which columns are the texts and the label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from dongu.data.cells import PagedColumn
from dongu.data.table import Table, kind_of
from dongu.errors import DataError
from dongu.text import is_blank

# In this order: the first pair, or the first single column, that the data have is taken.
TEXT_COLUMNS: tuple[tuple[str, ...], ...] = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("sentence",),
    ("text",),
    ("review",),
    ("content",),
    ("tweet",),
    ("message",),
    ("body",),
    ("title",),
)
LABEL_COLUMNS = (
    "label",
    "labels",
    "class",
    "category",
    "target",
    "score",
    "similarity",
    "sentiment",
    "intent",
)


@dataclass(frozen=True)
class Columns:
    """The columns that a run reads."""

    texts: tuple[str, ...]
    label: str

    def __str__(self) -> str:
        return f"{' + '.join(self.texts)} → {self.label}"


def choose_columns(table: Table, texts: Sequence[str] | None, label: str | None) -> Columns:
    """The asked-for columns, or the usual names, or the only possible choice.

    Raises:
        DataError: a column does not exist, or which one is meant cannot be told.
    """
    available = list(table.columns)
    for name in (*(texts or ()), *([label] if label else ())):
        if name not in available:
            close = get_close_matches(name.strip().lower(), [item.strip().lower() for item in available], n=1)
            meant = [item for item in available if close and item.strip().lower() == close[0]]
            hint = f"did you mean `{meant[0]}`? " if meant else ""
            raise DataError(
                f"there is no column `{name}`",
                where=table.origin,
                hint=f"{hint}the columns are: {', '.join(available)}",
            )
    if label is None:
        label = next((name for name in LABEL_COLUMNS if name in available and name not in (texts or ())), None)
    if label is None:
        raise DataError(
            "which column is the label cannot be told",
            where=table.origin,
            hint=f"name it with --label-column; the columns are: {', '.join(available)}",
        )
    if texts is None:
        texts = next((names for names in TEXT_COLUMNS if set(names) <= set(available) - {label}), None)
    if texts is None:
        others = [name for name in available if name != label]
        if len(others) != 1:
            raise DataError(
                "which columns are the text cannot be told",
                where=table.origin,
                hint=f"name them with --text-columns A [B]; the columns are: {', '.join(available)}",
            )
        texts = tuple(others)
    return Columns(tuple(texts), label)


def read_texts(table: Table, names: Sequence[str]) -> tuple[Sequence[str], ...]:
    """The text columns, each cell a text with at least one visible character.

    Raises:
        DataError: a column is missing, or a cell is empty, null or no text.
    """
    texts: list[Sequence[str]] = []
    for name in names:
        if name not in table.columns:
            raise DataError(
                f"there is no column `{name}`",
                where=table.origin,
                hint=f"the columns are: {', '.join(table.columns)}",
            )
        column = table.columns[name]
        for row, cell in enumerate(column):
            if not isinstance(cell, str):
                raise DataError(f"`{name}` is {kind_of(cell)}, not a text", where=table.where(row))
            if is_blank(cell):
                raise DataError(f"`{name}` is empty", where=table.where(row), hint="fill the text in or remove the row")
        texts.append(column.as_texts() if isinstance(column, PagedColumn) else [str(cell) for cell in column])
    return tuple(texts)
