"""How train becomes train, validation and test: by shares, groups, time, folds, or a file that says it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dongu.config import RunConfig, Task, option_flag
from dongu.data.columns import named_parts
from dongu.data.holdout import ALONE, HOLDOUT_FRACTION, SALTS, dealt, hold_out, newest, strata_of, units_of
from dongu.data.readers import read_file
from dongu.data.table import Cell, Table, is_word, kind_of, no_column
from dongu.errors import DataError, UsageError
from dongu.files import read_regular
from dongu.text import is_blank, shortened

if TYPE_CHECKING:
    from dongu.data.examples import Examples

CUT_SPLITS = ("train", "validation", "test")
_DOTTED = re.compile(r"^([0-9]{2})\.([0-9]{2})\.([0-9]{4})(?![0-9])")
_AS_TIMES = "write numbers, or dates as 2026-11-28, 28.11.2026 or 2026-11-28T23:10 (all with a time zone or none)"
_BEYOND = re.compile(r"[.,][0-9]{6}([0-9]+)")  # the microseconds of a time
GROUP_COLUMNS = {  # that a split by rows may part, in lower case
    "user", "user_id", "userid", "author", "author_id", "customer", "customer_id", "patient", "patient_id", "speaker",
    "speaker_id", "subject_id", "session_id", "conversation_id", "thread_id", "document_id", "doc_id", "group",
    "group_id",
}  # fmt: skip


def shares_of(config: RunConfig, present: Iterable[str]) -> dict[str, float]:
    """The parts that are held out of train, test first, and their shares of its rows; `present` are the data's own.

    Raises:
        UsageError: an option asks for a split that the data have, or for nothing.
    """
    there = {*present}
    for name in ("validation", "test"):
        asked = [option for option in (name, "fold", "split_file") if getattr(config, option) is not None]
        if name in there and asked and (asked[0] == name or name == "validation" or config.split_file):
            hint = f"leave the option out, or give the file of train alone, without {name}"
            raise UsageError(f"the data have a {name} split already", where=option_flag(asked[0]), hint=hint)
    shares = {"test": config.test} if config.test is not None else {}
    if "validation" not in there:
        shares["validation"] = config.validation or HOLDOUT_FRACTION
    if config.time_column is not None and not shares:
        what = "nothing is held out: the data have a validation split"
        raise UsageError(what, where="--time-column", hint="leave it out, or give --test")
    return shares


def cut(
    whole: Examples, table: Table, config: RunConfig, task: Task, names: Sequence[str], shares: dict[str, float]
) -> dict[str, Examples]:
    """Train as it was read, parted by `shares_of`.

    Returns:
        Train, and each part of `shares`: a function of the rows and the seed.

    Raises:
        DataError: the rows cannot be parted so.
    """
    if config.split_file is not None:
        part = _read_split_file(Path(config.split_file), whole.ids)
        return {name: whole.take(part == i) for i, name in enumerate(CUT_SPLITS) if (part == i).any()}
    times = None if config.time_column is None else _times(table, config.time_column)
    rest, left = whole, 1.0
    parts: dict[str, Examples] = {}
    for name, share in shares.items():
        fold = config.fold if name == "validation" else None
        groups = None if config.group_column is None else rest.groups[config.group_column]
        if rest.targets is None:
            raise DataError("the training rows have no labels", where=whole.origin)
        if times is not None:
            held = newest(times, share / left, where=f"{rest.origin}, --time-column {config.time_column}")
        elif groups is None and fold is None:
            held = hold_out(
                rest.texts, rest.targets, task, names, seed=config.seed, origin=rest.origin,
                share=share / left, salt=SALTS[name], strict=not parts,
            )  # fmt: skip
        else:
            number, count = map(int, fold.split("/")) if fold else (2, 2)
            wanted = [1 / count] * count if fold else [1 - share / left, share / left]
            random = np.random.default_rng([config.seed, SALTS["fold" if fold else name]])
            what = "texts" if groups is None else f"groups of `{config.group_column}`"
            units = units_of(rest.texts, groups)
            held = (
                dealt(units, strata_of(rest.targets, task), wanted, random, what=what, where=rest.origin) == number - 1
            )
        parts[name] = rest.take(held)
        rest = rest.take(~held)
        times = None if times is None else times[~held]
        left -= share
    return {"train": rest, **{name: parts[name] for name in CUT_SPLITS if name in parts}}


def column_of_name(table: Table, name: str) -> str:
    """The column, as the table writes its name.

    Raises:
        DataError: there is none.
    """
    if len(parts := named_parts(name, table.columns) or ()) == 1:
        return parts[0]
    raise no_column(table, name)


def groups_of(tables: Mapping[str, Table], asked: str | None) -> dict[str, dict[str, np.ndarray]]:
    """By column, the group of each row of each split: of the column that was asked for, or of one that looks like it.

    Raises:
        DataError: train has no such column.
    """
    train = tables["train"]
    names = [asked] if asked else [name for name in train.columns if name.casefold() in GROUP_COLUMNS]
    found = {}
    for name in names:
        codes: dict[str, int] = {}
        column = column_of_name(train, name)
        found[name] = {
            split: group_codes(table.columns.get(column, [None] * len(table)), codes) for split, table in tables.items()
        }
    return found


def group_codes(cells: Sequence[Cell], codes: dict[str, int]) -> np.ndarray:
    """A number for each value of a column, (rows,), -1 where a row has none. `codes` has those of the splits before."""
    words = (str(cell) if is_word(cell) or isinstance(cell, bool) else "" for cell in cells)
    return np.fromiter(
        (codes.setdefault(word, len(codes)) if not is_blank(word) else ALONE for word in words), np.int64, len(cells)
    )


def _times(table: Table, column: str) -> np.ndarray:
    """Whole numbers in the order of a column's cells, (rows,), which have to be all dates or all numbers."""
    cells = table.columns[column_of_name(table, column)]
    read: Callable[[Cell], tuple[Any, ...] | None] = _date_of if _exact(cells[0]) is None else _exact
    found: list[Any] = [read(cell) for cell in cells]
    for row, time in enumerate(found):
        if time is None or time[0] != found[0][0]:  # of another kind, or with a time zone
            said = f"`{shortened(str(cells[row]))}`" if isinstance(cells[row], str) else kind_of(cells[row])
            what = f"`{column}` is {said}: it cannot be ordered with the other rows"
            raise DataError(what, where=table.where(row), hint=_AS_TIMES)
    places = {time: place for place, time in enumerate(sorted({*found}))}
    return np.array([places[time] for time in found])


def _exact(cell: Cell) -> tuple[str, Decimal] | None:
    """A number with all its digits: of two nanoseconds of our days a float may be one. None where it is none."""
    try:
        number = Decimal(cell.strip() if isinstance(cell, str) else "")
    except ArithmeticError:
        return None
    return ("a number", number) if number.is_finite() else None


def _date_of(cell: Cell) -> tuple[bool, datetime, Decimal] | None:
    """Whether a date says its time zone, and the date; None where it is none.

    It is one as ISO 8601 has it, or with dots, where the day stands first; with a time behind it or without. Last is
    what its seconds have beyond the microseconds that Python knows.
    """
    try:
        text = re.sub(_DOTTED, r"\3-\2-\1", cell.strip() if isinstance(cell, str) else "")
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    beyond = _BEYOND.search(text)
    return time.tzinfo is not None, time.replace(tzinfo=time.tzinfo or UTC), Decimal(f"0.{beyond[1]}" if beyond else 0)


def _read_split_file(path: Path, ids: np.ndarray) -> np.ndarray:
    """The place in `CUT_SPLITS` of each row, (rows,), by a file of its number in the source, from 0, and its split.

    Raises:
        DataError: it names a row twice, or another split, or leaves out a row, or all of train or validation.
    """
    where = f"--split-file {path}"
    hint = 'columns id (the row, from 0) and split, or JSON {"train": [0, 2], "validation": [1]}'
    try:
        content = json.loads(read_regular(path, follow=True)) if path.suffix.lower() == ".json" else None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read ({error})", where=where, hint=hint) from error
    if isinstance(content, dict):
        pairs = [(row, name) for name, rows in content.items() if isinstance(rows, list) for row in rows]
    else:
        table = read_file(path)
        if not {"id", "split"} <= table.columns.keys():
            raise DataError(f"has the columns {', '.join(table.columns)}", where=where, hint=hint)
        pairs = list(zip(table.columns["id"], table.columns["split"], strict=True))
    try:
        numbers = [int(str(row)) for row, _ in pairs]
        places = [CUT_SPLITS.index(str(name).strip().lower()) for _, name in pairs]
    except ValueError as error:
        what = f"holds something that is neither a row number nor one of {', '.join(CUT_SPLITS)} ({error})"
        raise DataError(what, where=where, hint=hint) from error
    part = dict(zip(numbers, places, strict=True))
    if len(part) < len(numbers):
        raise DataError(f"names row {Counter(numbers).most_common(1)[0][0]} twice", where=where, hint=hint)
    if missing := [row for row in ids.tolist() if row not in part]:
        what = f"lacks {len(missing):,} of the {len(ids):,} rows, row {missing[0]} first"
        raise DataError(what, where=where, hint=hint)
    found = np.array([part[row] for row in ids.tolist()])
    if lacking := [name for i, name in enumerate(CUT_SPLITS[:2]) if not (found == i).any()]:
        raise DataError(f"has no row of {lacking[0]}", where=where, hint=hint)
    return found
