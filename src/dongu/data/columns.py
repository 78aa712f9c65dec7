"""Which columns are the texts and the label."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from dongu.data.cells import PagedColumn, column_of, take_rows
from dongu.data.names import (
    LABELS,
    OFTEN_LABELS,
    TEXTS,
    by_words,
    is_half,
    names_a_label,
    names_a_text,
    pair_of,
    to_read,
)
from dongu.data.table import MANY_CLASSES, Cell, Table, advice_on, inner_names, is_flag, is_word, kind_of, no_column
from dongu.errors import DataError
from dongu.text import is_blank

SAMPLED_ROWS = 1000  # of a column that is looked at for texts
FEW_LETTERS = 12  # a row, which are no text: a name, a place or a date
_NUMBER = re.compile(r"-?[0-9]+([.,][0-9]+)?")
LONGEST_NAME = 6  # words of a column
FEWEST_FLAGS = 3  # columns of 0 and 1 that together are taken for the labels that a row may have


@dataclass(frozen=True)
class Columns:
    """The columns that a run reads. A name may join several by `+`: see `named_parts`."""

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
        if named_parts(joined, available) is None:
            name = next((part for part in joined.split("+") if named_parts(part, available) is None), joined)
            close = get_close_matches(name.strip().lower(), [item.strip().lower() for item in available], n=1)
            meant = [item for item in available if close and item.strip().lower() == close[0]]
            hint = f"did you mean `{meant[0]}`? " if meant else ""
            raise no_column(table, name, hint)
    if texts is not None:
        texts = _as_written(texts, available)
    if label is not None:
        [label] = _as_written([label], available)
    asked = label
    if label is None:
        label = _usual_label(table, _others(available, texts or ()), texts)
        # One that is joined to a text, where there is no other, is refused below.
        label = label or _usual_label(table, [name for name in available if name not in (texts or ())], texts)
    if texts is None:
        texts = _usual_texts(table, _others(available, [label or ""]))
    if label is None and texts:
        label = _left_label(table, _others(available, texts))
    if asked is None and label is not None and _is_a_cell(label, table):
        what = f"the first line may be a row: `{label}` is the name of the column of the labels, and like a label in it"
        hint = f"without a header line, --header A,B,… names the columns; if it is one: --label-column {label}"
        raise DataError(what, where=table.origin, hint=hint)
    if label is None or texts is None:
        what, how = ("columns are the text", "them with --text-columns A [B]")
        if label is None:
            what, how = ("column is the label", "it with --label-column (of 0 and 1, or of shares: a+b+c)")
        read_as = f"; read as: {'; '.join(table.said)}" if table.said else ""  # which may be why its columns are none
        hint = f"name {how}{_headless(table)}; the columns are: {inner_names(table)}{read_as}"
        raise DataError(f"it is unclear which {what}", where=table.origin, hint=hint)
    if read_twice := _all_parts(texts, available) & _all_parts([label], available):
        left = to_read(_others(available, texts))
        name = left[0] if len(left) == 1 else f"C, one of: {', '.join(left)}"
        hint = f"if another column is the label: --label-column {name}" if left else "no other column can be the label"
        raise DataError(f"the column `{min(read_twice)}` is both text and label", where=table.origin, hint=hint)
    return Columns(tuple(texts), label)


def _is_a_cell(label: str, table: Table) -> bool:
    """Whether the name of a column stands in it too, and is no usual one: a column `label` may have a class `label`.

    So does a number that names a column of numbers.
    """
    cells = table.columns.get(label, ())
    if _NUMBER.fullmatch(label) and all(is_word(cell) and _NUMBER.fullmatch(cell) for cell in cells):
        return True
    return by_words([label]).keys().isdisjoint(LABELS) and label in cells


def _headless(table: Table) -> str:
    """What to do where a name looks like a cell: a number, a sentence, or one that stands in the column too."""
    like_cells = any(
        _NUMBER.fullmatch(name) or len(name.split()) > LONGEST_NAME or name in column
        for name, column in table.columns.items()
    )
    return ", or if the first line is a row, all columns with --header A,B,…" if like_cells else ""


def usual_texts(table: Table) -> tuple[str, ...]:
    """The columns of the texts of rows that need no label: by their names, or the only one that can be a text.

    Raises:
        DataError: they cannot be told.
    """
    available = list(table.columns)
    label = _usual_label(table, available, None) or ""
    if found := _usual_texts(table, _others(available, [label])):
        return found
    hint = f"name them with --text-columns A [B]; the columns are: {', '.join(available)}"
    raise DataError("it is unclear which columns are the text", where=table.origin, hint=hint)


def _usual_label(table: Table, free: Sequence[str], texts: Sequence[str] | None) -> str | None:
    """The label by its name, by the names of its classes that the source declares, or as columns of 0 and 1."""
    known = by_words(free)
    if found := [known[words] for words in LABELS if words in known]:
        return found[0]
    if len(declared := [name for name in free if name in table.label_names]) == 1:
        return declared[0]
    if flags := _flags(table, free, texts):
        return flags
    for line in OFTEN_LABELS:
        if found := [known[words] for words in line if words in known]:
            return found[0] if len(found) == 1 else None
    found = [name for name in to_read(free) if names_a_label(name)]
    return found[0] if len(found) == 1 else None


def _usual_texts(table: Table, free: Sequence[str]) -> tuple[str, ...] | None:
    """The texts by their names, or the only column that can be one."""
    if pair := pair_of(free):
        return pair
    known = by_words(free)
    if words := next((words for words in TEXTS if words in known), None):
        return None if is_half(words, free) else (known[words],)
    left = to_read(free)
    named = [name for name in left if names_a_text(name)]
    for some in (named, [name for name in left if length_of_texts(table.columns[name])], left):
        if len(some) == 1:
            return (some[0],)
    return None


def _left_label(table: Table, left: Sequence[str]) -> str | None:
    """The label where one column is left beside the texts, and its cells may be labels."""
    read = to_read(left)
    for some in ([name for name in read if by_words([name]).keys().isdisjoint(TEXTS)], read, left):
        if len(some) == 1 and _may_be_labels(table.columns[some[0]]):
            return some[0]
    return None


def _flags(table: Table, free: Sequence[str], texts: Sequence[str] | None) -> str | None:
    """The columns of 0 and 1, joined, where all that can be a label are such columns, and they are many."""
    texts = texts or _usual_texts(table, free)
    left = [name for name in to_read(free) if by_words([name]).keys().isdisjoint(TEXTS)]
    if texts and len(left) >= FEWEST_FLAGS and all(all(map(is_flag, table.columns[name])) for name in left):
        return "+".join(left)
    return None


def _as_written(names: Sequence[str], available: Collection[str]) -> tuple[str, ...]:
    """The same columns by the names that are available; nothing where one is not there."""
    found = [named_parts(name, available) for name in names]
    return tuple("+".join(parts) for parts in found if parts) if all(found) else ()


def _may_be_labels(cells: Sequence[Cell]) -> bool:
    """Whether cells can be labels: a few values again and again, or numbers, half of them with a fraction."""
    words = [str(cell) for cell in cells if isinstance(cell, bool) or is_word(cell)]
    values = {*words}
    if len(words) < len(cells) or len(values) < 2:
        return False
    numbers = [_NUMBER.fullmatch(value) for value in values]
    fractions = all(numbers) and 2 * sum(number is not None and bool(number[1]) for number in numbers) >= len(values)
    return fractions or (2 * len(values) <= len(words) and len(values) <= MANY_CLASSES)


def length_of_texts(column: Sequence[Cell]) -> float:
    """The mean characters of a column that holds texts of some words, most of them different; 0 for any other."""
    rows = range(0, len(column), max(1, len(column) // SAMPLED_ROWS))
    texts = [cell for cell in (column[row] for row in rows) if is_word(cell)]
    letters = sum(sum(map(str.isalpha, text)) for text in texts)
    words = sum(not cell.isascii() or len(cell.split()) > 1 for cell in texts)  # not every script parts its words
    found = letters >= FEW_LETTERS * len(rows) and 2 * words > len(rows) and 2 * len({*texts}) > len(rows)
    return sum(map(len, texts)) / len(rows) if found else 0.0


def read_texts(table: Table, names: Sequence[str]) -> tuple[Sequence[str], ...]:
    """The texts of each row, each with at least one visible character.

    Columns that a name joins stand on a line each; some of them may be empty or null, but not all of them.

    Raises:
        DataError: a column is missing, or a cell is empty, null or no text.
    """
    texts: list[Sequence[str]] = []
    for name in names:
        parts = named_parts(name, table.columns)
        if parts is None:
            raise no_column(table, name)
        if len(parts) > 1:
            rows = _text_cells(table, name)
            texts.append(column_of("\n".join(c for c in cells if is_word(c) and not is_blank(c)) for cells in rows))
            continue
        column = table.columns[parts[0]]
        for _ in _text_cells(table, name):
            pass
        texts.append(column.as_texts() if isinstance(column, PagedColumn) else [str(cell) for cell in column])
    return tuple(texts)


def named_parts(name: str, available: Collection[str]) -> tuple[str, ...] | None:
    """The columns that a name means: the one with this name, or those that it joins by `+`; None if there are none.

    Where there are none to the letter, their case does not count, if only one column can be meant.
    """
    if parts := _split_name(name, {column: column for column in available}):
        return parts
    counts = Counter(column.casefold() for column in available)
    return _split_name(name.casefold(), {c.casefold(): c for c in available if counts[c.casefold()] == 1})


def joined_cells(table: Table, name: str) -> Iterator[tuple[Cell, ...]]:
    """By row, the cells of the columns that a name means; no row where it means none."""
    return zip(*(table.columns[part] for part in named_parts(name, table.columns) or ()), strict=True)


def _split_name(name: str, columns: Mapping[str, str]) -> tuple[str, ...] | None:
    if name in columns:
        return (columns[name],)
    for key, column in columns.items():  # and not `split`: a column may have a + in its own name
        if name.startswith(f"{key}+") and (rest := _split_name(name[len(key) + 1 :], columns)):
            return (column, *rest)
    return None


def _all_parts(names: Iterable[str], available: Collection[str]) -> set[str]:
    return {part for name in names for part in named_parts(name, available) or ()}


def _others(available: Collection[str], names: Iterable[str]) -> list[str]:
    """The columns that none of the names means."""
    meant = _all_parts(names, available)
    return [name for name in available if name not in meant]


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


MISSING_TEXTS = ("empty", kind_of(None))  # the faults of a row that has nothing in place of a text


def text_faults(table: Table, names: Sequence[str], *, missing: bool = False) -> list[str]:
    """By row, what stands in place of a text: something that is none, or where texts are `missing`, nothing."""
    faults = [""] * len(table)
    for name in names:
        for row, cells in enumerate(joined_cells(table, name)):
            if (fault := text_fault(cells)) and (fault in MISSING_TEXTS) == missing:
                faults[row] = f"`{name}` is {fault}, not a text"
    return faults


EMPTY_ADVICE = "a run with --empty drop leaves rows without a text out"


def with_texts(table: Table, names: Sequence[str]) -> Table:
    """The rows that have all texts: those with an empty or a missing one are left out, unless no row would be left."""
    kept = [not fault for fault in text_faults(table, names, missing=True)]
    return table if all(kept) or not any(kept) else take_rows(table, kept)


def _text_cells(table: Table, name: str) -> Iterator[tuple[Cell, ...]]:
    """The cells of each row, which are refused where they are no text."""
    for row, cells in enumerate(joined_cells(table, name)):
        if fault := text_fault(cells):
            if fault == "empty":
                hint = f"{EMPTY_ADVICE}; or fill {'the text' if len(cells) == 1 else 'one'} in"
                raise DataError(f"`{name}` is empty", where=table.where(row), hint=hint)
            parts = named_parts(name, table.columns) or ()
            part = next(part for part, cell in zip(parts, cells, strict=True) if kind_of(cell) == fault)
            hint = EMPTY_ADVICE if fault == kind_of(None) else advice_on(table, part, row)
            raise DataError(f"`{part}` is {fault}, not a text", where=table.where(row), hint=hint)
        yield cells
