"""How a label column is written, as its training rows tell, and the same column as the house reads it."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dongu.config import NUMBERS, Task
from dongu.data.cells import column_of, take_rows
from dongu.data.flags import HIDDEN, hides_flags, positions_of
from dongu.data.labels import (
    SEPARATOR,
    exact_number,
    label_fault,
    list_fault,
    number_fault,
    number_of,
    two_ways,
)
from dongu.data.table import BAD_ROWS_ADVICE, Cell, Number, Table, data_error, is_flag, is_word
from dongu.errors import DataError, UsageError
from dongu.text import counted, is_blank, shortened

LOOKED_AT = 1 << 16  # different cells: what more of them hold, the first ones hold too
MARKS = (",", ";")  # that may stand between the labels of a cell, although nobody said so
RARE_MARKS = ("/", "&", "+")  # that are as often a part of a name: they are warned of, and never taken
_ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|[Tt]rue|[Ff]alse)"""
_LIST = re.compile(
    rf"(?:\[\s*(?:{_ITEM}\s*(?:,\s*{_ITEM}\s*)*(?:,\s*)?)?\]|\(\s*(?:{_ITEM}\s*,\s*)+(?:{_ITEM}\s*)?\)"
    rf"|\{{\s*{_ITEM}\s*(?:,\s*{_ITEM}\s*)*\}}|set\(\))"  # a set of Python
)
_BRACKETED = re.compile(r"\s*(?:[\[(].*[\])]|\{\s*['\"].*:.*\})\s*", re.DOTALL)  # or an object as text
_WHOLE = re.compile(r"([+-]?(?:0|[1-9][0-9]*))(?:\.0+)?")
_DECIMAL = re.compile(r"\s*[+-]?[0-9]+(?:,[0-9]+)?\s*")
_THOUSANDS = re.compile(r"\s*[+-]?[1-9][0-9]{0,2},[0-9]{3}\s*")
_DIGITS = re.compile(r"\s*[+-]?[0-9][0-9.,]*\s*")
LONGEST_SCALE = 11  # from 0 to 10


@dataclass(frozen=True)
class Form:
    """How a label column is written. All but the task is for columns that are not written in the plainest way."""

    task: Task
    separator: str | None = None  # between the labels of a cell, where it is not `|`
    positions: int = 0  # how many 0 and 1 each list has, a label each
    lists_in_texts: bool = False
    whole: bool = False  # whether 1.0 is the class 1
    decimal_comma: bool = False
    said: str = ""  # the same in words; empty where there is nothing to say
    doubtful: str = ""  # what may stand between several labels, and is taken for a part of their names


def form_of(
    table: Table,
    column: str,
    task: Task | None,
    separator: str | None,
    names: Sequence[str] | None = None,
) -> Form:
    """How the label column is written.

    Args:
        task: what the label is; None where that is to be inferred.
        separator: what stands between labels, if somebody said so.
        names: the labels that a model has; then the rows are new ones, and what a run inferred is not inferred anew.

    Raises:
        UsageError: a separator is given, and the labels are not texts of several.
        DataError: the labels are shares, or numbers that may be two things, or a list cannot be read.
    """
    cells, several = table.columns[column], task in (None, "multi-label")
    listed = several and any(isinstance(cell, list) for cell in cells)
    if separator is not None and names is None and (listed or not several):
        what = "the labels are lists, or columns of 0 and 1" if listed else f"a {task} row has one label"
        raise UsageError(what, where=f"--label-separator {separator}", hint="leave it out")
    if listed:
        return _form_of_lists(table, column, names)
    if table.label_names.get(column):
        return Form(task or "single-label")
    words = _words(cells)
    if words is None:  # booleans, or what is no label at all
        return Form(task or "single-label")
    if separator is not None:
        return Form("multi-label", separator, said=_said_of_mark(separator))
    if several and words and (any(map(_LIST.fullmatch, words)) or all(map(_BRACKETED.fullmatch, words))):
        form = _form_of_lists(_with_lists(table, column, Form("multi-label", lists_in_texts=True)), column, names)
        said = "; ".join(filter(None, ["lists written as text", form.said]))
        return replace(form, lists_in_texts=True, said=said)
    if task == "ordinal":
        return Form("ordinal", whole=all(map(_WHOLE.fullmatch, words)))
    if names is not None and task in NUMBERS:
        return _form_of_numbers(words, task) or Form(task)
    if names is not None:
        return Form(task or "single-label", whole=all(map(_WHOLE.fullmatch, names)))
    if several and any(SEPARATOR in word for word in words):
        return Form("multi-label", said=_said_of_mark(SEPARATOR, () if task else cells))
    if task != "multi-label" and (numbers := _form_of_numbers(words, task)):
        return numbers
    marks = [mark for mark in MARKS if several and len(words) < LOOKED_AT and _recur(words, mark)]
    doubtful = [*marks, *(mark for mark in RARE_MARKS if several and _recur(words, mark, surely=True))]
    if sure := [mark for mark in marks if _recur(words, mark, surely=True)]:
        return Form("multi-label", sure[0], said=_said_of_mark(sure[0], () if task else cells))
    if task is None and any("," in word for word in words) and all(map(_DIGITS.fullmatch, words)):
        row = next(row for row, cell in enumerate(cells) if is_word(cell) and "," in cell)
        hint = "write it with a point and without a mark between thousands; several labels: --label-separator ,"
        raise data_error(table.where(row), f"the label `{cells[row]}` may be more than one number", hint)
    return Form(task or "single-label", doubtful="".join(doubtful[:1]))


def _words(cells: Iterable[Cell]) -> list[str] | None:
    """The different texts and numbers of a column, of very many the first; None where it holds anything else."""
    found: dict[str, None] = {}
    for cell in cells:
        if cell is None:
            continue
        if not is_word(cell):
            return None
        if cell not in found and not is_blank(cell):
            found[str(cell)] = None
            if len(found) == LOOKED_AT:
                break
    return list(found)


def _said_of_mark(mark: str, cells: Sequence[Cell] = ()) -> str:
    """`cells` are those in which it was found, where nobody named it: one of them may have it by mistake."""
    said = f"several labels a cell, with `{mark}` between them"
    found = sum(mark in cell for cell in cells if is_word(cell))
    if not cells or 2 * found > len(cells):
        return "" if mark == SEPARATOR else said  # where most have it, it is no mistake
    return f"{said} in {found:,} of {counted(len(cells), 'row')}; --task single-label takes each cell as one name"


def _form_of_numbers(words: Sequence[str], task: Task | None) -> Form | None:
    """Numbers as they are, with a comma for the point, or whole ones that are classes; None for other words."""
    numbers = [number_of(word) for word in words]
    if all(number is not None for number in numbers):
        fractions = any(number != int(number) for number in numbers if number is not None)
        if task in NUMBERS or (task is None and fractions):
            return Form("regression")
        whole = all(map(_WHOLE.fullmatch, words))
        floats = next((word for word in words if "." in word), "") if whole else ""
        notes = [f"{floats} is the class {floats.partition('.')[0]}"] if floats else []
        if whole and task is None and _are_a_scale([int(exact_number(word) or 0) for word in words]):
            notes.append("whole numbers are classes; if their order counts, as that of stars: --task ordinal")
        return Form("single-label", whole=whole, said="; ".join(notes))
    if task == "single-label":
        return None
    commas = [word for word in words if "," in word]
    if not commas or not all(map(_DECIMAL.fullmatch, words)) or all(map(_THOUSANDS.fullmatch, commas)):
        return None
    said = f"decimal commas: {commas[0]} is {commas[0].replace(',', '.')}"
    return Form("regression", decimal_comma=True, said=said)


def _are_a_scale(numbers: Sequence[int]) -> bool:
    """Whether whole numbers may be steps of a scale: three or more that follow each other, of few digits."""
    return 3 <= len({*numbers}) <= LONGEST_SCALE and max(numbers) - min(numbers) < len({*numbers})


def _recur(words: Sequence[str], mark: str, *, surely: bool = False) -> bool:
    """Whether what a mark parts in a cell stands in other cells too: as it would between labels, and not in names.

    Surely so where half of the parts stand alone somewhere, one of each cell among them, or where they are few and make
    up many cells. A cell with an empty part or the same one twice tells nothing, unless most are so.
    """
    found = [[part.strip() for part in word.split(mark)] for word in words if mark in word]
    cells = [parts for parts in found if all(parts) and len({*parts}) == len(parts)]
    if 2 * len(cells) <= len(found):
        return False
    alone = {word.strip() for word in words if mark not in word}
    counts = Counter(part for parts in cells for part in parts)
    if not surely:
        return any(count > 1 or part in alone for part, count in counts.items())
    known = len(counts.keys() & alone)
    with_known = all(not alone.isdisjoint(parts) for parts in cells)
    return (known > 1 and 2 * known >= len(counts) and with_known) or 2 * len(counts) <= len(cells)


# --- lists


def _form_of_lists(table: Table, column: str, names: Sequence[str] | None) -> Form:
    """Names, positions that the source declares, 0 and 1 for each label, or label ids: other numbers are refused."""
    if table.label_names.get(column):
        return Form("multi-label")
    lists = [(row, cell) for row, cell in enumerate(table.columns[column]) if isinstance(cell, list)]
    lengths = Counter(len(cell) for _, cell in lists)
    twice = any(len({*map(str, cell)}) < len(cell) for _, cell in lists)  # as ids never are
    flags = (len(lengths) == 1 or twice) and all(hides_flags(cell) or all(map(is_flag, cell)) for _, cell in lists)
    count = lengths.most_common(1)[0][0]
    if flags and count > 1 and (names is None or list(names) == _numbered(count)):
        return Form("multi-label", positions=count, said="0 and 1 in a list: the labels by position")
    numbers = False
    for row, cell in lists:
        values = [number_of(item) for item in cell if isinstance(item, Number)]
        numbers = numbers or bool(values)
        if any(value is None or value != int(value) for value in values):
            raise _no_labels(table, row, cell)
    if numbers:
        return Form("multi-label", whole=True, said="numbers in a list: the labels by their ids")
    return Form("multi-label")


def _numbered(count: int) -> list[str]:
    return [*map(str, range(count))]


def _no_labels(table: Table, row: int, cell: Sequence[Cell]) -> DataError:
    shown = shortened(f"[{', '.join(map(str, cell))}]")
    hint = "write 0 and 1 for each label, the names of those that a row has, or a share for each class, 1 together"
    return data_error(table.where(row), f"the list {shown} holds a number that is not a label", hint)


def list_of(text: str) -> list[Cell] | None:
    """The list that a text writes as Python or JSON does; None where it writes none."""
    if not _LIST.fullmatch(text.strip()):
        return None
    try:
        return [_item_of(item) for item in re.findall(_ITEM, text)]
    except (ValueError, SyntaxError):  # an escape that is none, or half of a character
        return None


def _item_of(text: str) -> Cell:
    if text[0] not in "'\"":
        return {"true": True, "false": False}.get(text.lower(), Number(text))
    try:
        item = json.loads(text)
    except ValueError:
        item = ast.literal_eval(text)
    item.encode()
    return str(item)


def _with_lists(table: Table, column: str, form: Form) -> Table:
    """The table with the labels of each row in a list, all written in one way; what can be none is refused later."""
    cells: list[Cell] = []
    first_kind = ""
    for row, cell in enumerate(table.columns[column]):
        if not (is_word(cell) or isinstance(cell, list | bool)):
            cells.append(cell)
            continue
        kind = "a list" if isinstance(cell, list) else "a text"
        first_kind = first_kind or kind
        if kind != first_kind:
            raise two_ways(table, column, row, kind, first_kind)
        if not is_word(cell):
            cells.append([cell] if isinstance(cell, bool) else cell)
        elif (items := _labels_of(cell, form)) is not None:
            cells.append(items)
        else:
            hint = 'write it as others, such as ["a", "b"]; a run with --task single-label takes each text as a name'
            raise data_error(
                table.where(row), f"the label `{shortened(cell)}` is not a list, as other labels are", hint
            )
    return table.with_column(column, column_of(cells))


def _labels_of(cell: str, form: Form) -> list[Cell] | None:
    """The labels that a text holds; None where it is no list, and has to be."""
    if is_blank(cell):
        return []
    return list_of(cell) if form.lists_in_texts else [p.strip() for p in cell.split(form.separator or SEPARATOR)]


# --- the column as it is read


def as_read(table: Table, column: str, form: Form, *, drop: bool) -> Table:
    """The table with its label column in the plainest way: names, numbers, or lists of names or of positions.

    Args:
        drop: leave the rows out that have no gold label.

    Raises:
        DataError: a label is written in another way than those of train, or rows have no gold label.
    """
    if column not in table.columns:
        return table
    if form.task == "multi-label":
        table = _with_lists(table, column, form)
    if form.positions:
        table = _with_positions(table, column, form.positions)
    elif form.decimal_comma or (form.whole and any(map(_may_have_fraction, table.columns[column]))):
        plainest = _point_for_comma if form.decimal_comma else _without_fraction
        table = table.with_column(column, column_of(map(plainest, table.columns[column])))
    return _labelled(table, column, form.task, drop=drop)


def _with_positions(table: Table, column: str, count: int) -> Table:
    cells: list[Cell] = []
    for row, cell in enumerate(table.columns[column]):
        if isinstance(cell, list):
            if len(cell) != count:
                what = f"the list of `{column}` has {len(cell)} numbers, and those of train have {count}"
                raise data_error(table.where(row), what, f"write 0 or 1 for each label; or {BAD_ROWS_ADVICE}")
            cell = positions_of(cell, [column] * count, table, row)
        cells.append(cell)
    return table.with_column(column, column_of(cells), _numbered(count))


def _may_have_fraction(cell: Cell) -> bool:
    return "." in cell if isinstance(cell, str) else isinstance(cell, list)


def _without_fraction(cell: Cell) -> Cell:
    if isinstance(cell, list):
        return [_without_fraction(item) for item in cell]
    if is_word(cell) and "." in cell and (found := _WHOLE.fullmatch(cell)):
        return type(cell)(found[1])
    return cell


def _point_for_comma(cell: Cell) -> Cell:
    return Number(cell.replace(",", ".")) if is_word(cell) and _DECIMAL.fullmatch(cell) else cell


def malformed(cell: Cell, form: Form) -> str:
    """What is wrong with the label of a cell, as it is read; empty where nothing is, or where there is no label."""
    if lacking(cell, form.task):
        return ""
    if form.task == "multi-label" and is_word(cell):
        if (items := _labels_of(cell, form)) is None:
            return f"the label `{shortened(cell)}` is not a list, as other labels are"
        cell = items
    if isinstance(cell, list) and form.positions:
        wrong = len(cell) != form.positions or not (hides_flags(cell) or all(map(is_flag, cell)))
        return f"the list is not of {form.positions} numbers 0 and 1" if wrong else ""
    if isinstance(cell, list) and form.task == "multi-label":
        return next((f"a label is {fault}" for fault in map(label_fault, cell) if fault), "") or list_fault(cell)
    if fault := label_fault(cell):
        return f"the label is {fault}, not a name or a number"
    word = str(_point_for_comma(cell) if form.decimal_comma else cell)
    fault = number_fault(word) if form.task in NUMBERS else ""
    return fault and f"the label `{shortened(word)}` {fault}"


def lacking(cell: Cell, task: Task) -> str:
    """What stands in a cell, as it is read, in place of a gold label; empty where one does."""
    if cell is None:
        return "null"
    if is_word(cell) and is_blank(cell):
        return "empty"
    if task not in NUMBERS and (cell in HIDDEN or cell in [[hidden] for hidden in HIDDEN]):
        return HIDDEN[0]
    return ""


def _labelled(table: Table, column: str, task: Task, *, drop: bool) -> Table:
    states = [lacking(cell, task) for cell in table.columns[column]]
    if not any(states):
        return table
    kept = [not state for state in states]
    if drop and any(kept):
        return take_rows(table, kept)
    row = kept.index(False)
    raise data_error(
        table.where(row),
        f"the label `{column}` is {states[row]}: {counted(kept.count(False), 'row')} without a gold label",
        "add the labels" if drop else WITHOUT_LABEL_ADVICE,
    )


WITHOUT_LABEL_ADVICE = "a run with --unlabelled drop leaves such rows out; or label them (any name but -1 will do)"
