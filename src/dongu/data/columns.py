"""Which columns are the texts and the label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from dongu.data.cells import PagedColumn, column_of
from dongu.data.holdout import MANY_CLASSES
from dongu.data.table import Cell, Table, is_word, kind_of
from dongu.errors import DataError
from dongu.text import is_blank

# In this order: the first pair, or the first single column, that the data have is taken. Their case does not count.
TEXT_COLUMNS: tuple[tuple[str, ...], ...] = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("text", "text_pair"),
    ("sentence",),
    ("text",),
    ("review",),
    ("content",),
    ("tweet",),
    ("message",),
    ("body",),
    ("title",),
)
LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "score", "similarity", "sentiment", "intent")


@dataclass(frozen=True)
class Columns:
    """The columns that a run reads. A name may join several by `+`: see `parts_of`."""

    texts: tuple[str, ...]
    label: str

    def __str__(self) -> str:
        return f"{' + '.join(self.texts)} → {self.label}"


def choose_columns(table: Table, texts: Sequence[str] | None, label: str | None) -> Columns:
    """The asked-for columns, or the usual names, or the only possible choice; by the names that the table has.

    Raises:
        DataError: a column does not exist, or which one is meant cannot be told.
    """
    available = list(table.columns)
    for joined in (*(texts or ()), *([label] if label else ())):
        if parts_of(joined, available) is None:
            name = next((part for part in joined.split("+") if parts_of(part, available) is None), joined)
            close = get_close_matches(name.strip().lower(), [item.strip().lower() for item in available], n=1)
            meant = [item for item in available if close and item.strip().lower() == close[0]]
            hint = f"did you mean `{meant[0]}`? " if meant else ""
            raise DataError(
                f"there is no column `{name}`",
                where=table.origin,
                hint=f"{hint}the columns are: {', '.join(available)}",
            )
    if texts is not None:
        texts = _as_written(texts, available)
    if label is not None:
        [label] = _as_written([label], available)
    else:
        free = [name for name in available if name not in (texts or ())]
        label = next((parts[0] for name in LABEL_COLUMNS if (parts := parts_of(name, free))), None)
    if texts is None:
        free = [name for name in available if name != label]
        texts = next((found for names in TEXT_COLUMNS if (found := _as_written(names, free))), None)
    left = [name for name in available if name not in _all_parts(texts or (), available)]
    if label is None and texts and len(left) == 1 and _repeats(table.columns[left[0]]):
        [label] = left
    if label is None:
        raise DataError(
            "which column is the label cannot be told",
            where=table.origin,
            hint=f"name it with --label-column (several of 0 and 1: a+b+c); the columns are: {', '.join(available)}",
        )
    if texts is None:
        others = [name for name in available if name != label]
        if len(others) != 1:
            raise DataError(
                "which columns are the text cannot be told",
                where=table.origin,
                hint=f"name them with --text-columns A [B]; the columns are: {', '.join(available)}",
            )
        texts = tuple(others)
    if read_twice := {*_all_parts(texts, available)} & {*_all_parts([label], available)}:
        raise DataError(f"the column `{min(read_twice)}` is both text and label", where=table.origin)
    return Columns(tuple(texts), label)


def _as_written(names: Sequence[str], available: Collection[str]) -> tuple[str, ...]:
    """The same columns by the names that are available; nothing where one is not there."""
    found = [parts_of(name, available) for name in names]
    return tuple("+".join(parts) for parts in found if parts) if all(found) else ()


def _repeats(cells: Sequence[Cell]) -> bool:
    """Whether a column can only be a label: it holds a few values, each of them again and again."""
    values: Counter[str] = Counter()
    for cell in cells:
        if not isinstance(cell, str | bool):
            return False
        values[str(cell)] += 1
        if len(values) > MANY_CLASSES:
            return False
    return len(values) > 1 and min(values.values()) > 1


def read_texts(table: Table, names: Sequence[str]) -> tuple[Sequence[str], ...]:
    """The texts of each row, each with at least one visible character.

    Columns that a name joins stand on a line each; some of them may be empty or null, but not all of them.

    Raises:
        DataError: a column is missing, or a cell is empty, null or no text.
    """
    texts: list[Sequence[str]] = []
    for name in names:
        parts = parts_of(name, table.columns)
        if parts is None:
            raise DataError(
                f"there is no column `{name}`", where=table.origin, hint=f"the columns are: {', '.join(table.columns)}"
            )
        if len(parts) > 1:
            rows = _text_cells(table, name, parts)
            texts.append(column_of("\n".join(c for c in cells if is_word(c) and not is_blank(c)) for cells in rows))
            continue
        column = table.columns[parts[0]]
        for _ in _text_cells(table, name, parts):
            pass
        texts.append(column.as_texts() if isinstance(column, PagedColumn) else [str(cell) for cell in column])
    return tuple(texts)


def parts_of(name: str, available: Collection[str]) -> tuple[str, ...] | None:
    """The columns that a name means: the one with this name, or those that it joins by `+`; None if there are none.

    Where there are none to the letter, their case does not count, if only one column can be meant.
    """
    if parts := _split_name(name, {column: column for column in available}):
        return parts
    counts = Counter(column.casefold() for column in available)
    return _split_name(name.casefold(), {c.casefold(): c for c in available if counts[c.casefold()] == 1})


def _split_name(name: str, columns: Mapping[str, str]) -> tuple[str, ...] | None:
    if name in columns:
        return (columns[name],)
    for key, column in columns.items():  # and not `split`: a column may have a + in its own name
        if name.startswith(f"{key}+") and (rest := _split_name(name[len(key) + 1 :], columns)):
            return (column, *rest)
    return None


def _all_parts(names: Iterable[str], available: Collection[str]) -> list[str]:
    return [part for name in names for part in parts_of(name, available) or ()]


def text_fault(cells: Sequence[Cell]) -> str:
    """What a row has in place of a text, such as `null` or `empty`; nothing where it has one.

    Of several columns that a name joins, some may be empty or null, but not all of them.
    """
    fault = "empty"
    for cell in cells:
        if is_word(cell):
            fault = fault if is_blank(cell) else ""
        elif cell is not None or len(cells) == 1:
            return kind_of(cell)
    return fault


def _text_cells(table: Table, name: str, parts: Sequence[str]) -> Iterator[tuple[Cell, ...]]:
    """
    Raises:
        DataError: the cells of a row are no text.
    """
    for row, cells in enumerate(zip(*(table.columns[part] for part in parts), strict=True)):
        if fault := text_fault(cells):
            if fault == "empty":
                hint = f"fill {'the text' if len(parts) == 1 else 'one'} in or remove the row"
                raise DataError(f"`{name}` is empty", where=table.where(row), hint=hint)
            part = next(part for part, cell in zip(parts, cells, strict=True) if kind_of(cell) == fault)
            raise DataError(f"`{part}` is {fault}, not a text", where=table.where(row))
        yield cells
