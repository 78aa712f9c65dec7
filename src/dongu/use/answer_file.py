"""Answers beside the rows that they were given to, as tables and JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dongu.data.labels import labels_cell
from dongu.data.table import Number
from dongu.errors import DataError
from dongu.files import write_lines
from dongu.judge.metrics import MetricSet
from dongu.run.folder import dump_json
from dongu.text import shortened


def beside(
    given: Iterable[Mapping[str, Any]],
    answers: Iterable[Mapping[str, Any]],
    columns: Sequence[str],
    metrics: MetricSet,
    *,
    table: bool,
    say: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Each row as it was given, then its answer, under names that no column of the row has.

    In a `table` each probability is a column, and several labels stand in one cell. `say` is told of each answer that
    goes by another name than it usually has, because one of the rows' own `columns` has that.
    """
    probabilities = [f"probability of {name}" for name in metrics.label_names] if table else ["probabilities"]
    beside_it = {"regression": [], "ordinal": ["number"]}.get(metrics.task, probabilities)
    usual = ["prediction", *beside_it]
    names = _free_names(usual, columns)
    for name, free in zip(usual, names, strict=True):
        if name != free:
            say(f"the rows have a column `{name}` of their own: the answer is in `{free}`")

    def rows() -> Iterator[dict[str, Any]]:
        for row, answer in zip(given, answers, strict=True):
            values = _flat(answer) if table else answer.values()
            yield {**row, **dict(zip(names, values, strict=True))}

    return rows()


def _free_names(names: Sequence[str], taken: Collection[str]) -> list[str]:
    """The names, with `dongu_` before those that are taken."""
    used, found = {*taken, *names}, []
    for name in names:
        free = name
        while free in taken or (free != name and free in used):
            free = f"dongu_{free}"
        used.add(free)
        found.append(free)
    return found


def _flat(answer: Mapping[str, Any]) -> list[Any]:
    prediction = answer["prediction"]
    cell = labels_cell(prediction, answer["probabilities"]) if isinstance(prediction, list) else prediction
    return [cell, *answer.get("probabilities", {key: answer[key] for key in ("number",) if key in answer}).values()]


def write_answers(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines for .jsonl, else a table (.tsv, .csv). The rows are taken one by one.

    In JSON lines a cell has the type that it was read with; in a table what is no text stands as JSON has it.

    Raises:
        StorageError: the file could not be written.
        DataError: a .tsv cannot hold a text with a tab or a line break.
    """
    write_lines(
        path, (json_of_row(row) + "\n" for row in rows) if path.suffix == ".jsonl" else _table_lines(path, rows)
    )


def check_cells(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Raise `DataError` if the file is a .tsv, which cannot hold a text with a tab or a line break."""
    if path.suffix == ".tsv":
        for row in rows:
            _tsv_line([_cell_text(cell) for cell in row.values()], str(path))


def _table_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    line_of = _tsv_line if path.suffix == ".tsv" else _csv_line
    for number, row in enumerate(rows):
        if number == 0:
            yield line_of(list(row), str(path))
        yield line_of([_cell_text(cell) for cell in row.values()], str(path))


def _cell_text(cell: Any) -> str:
    return "" if cell is None else str(cell) if isinstance(cell, str | float) else json_of_row(cell)


def json_of_row(value: Any) -> str:
    """JSON of a row, or of a cell, in which a number stands as it was written: `1.50`, or of any number of digits."""
    if isinstance(value, Number):
        return str(value) if value[-1:].isdigit() else "null"  # parquet has NaN and infinity
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{dump_json(str(key))}: {json_of_row(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(json_of_row, value)) + "]"
    return dump_json(value)


def _csv_line(cells: Sequence[str], _: str) -> str:
    """Python's writer leaves a lone carriage return without quotes, and then no reader knows where the row ends."""
    alone = len(cells) == 1  # an empty one would be an empty line
    quoted = ('"' + cell.replace('"', '""') + '"' if alone or set(cell) & set(',"\r\n') else cell for cell in cells)
    return ",".join(quoted) + "\n"


def _tsv_line(cells: Sequence[str], path: str) -> str:
    """As `read_file` reads it: without quotes, so that nothing in a cell may end it."""
    if broken := next((cell for cell in cells if set(cell) & set("\t\r\n")), None):
        what = f"a cell of a .tsv cannot hold a tab or a line break: {shortened(broken)!r}"
        raise DataError(what, where=path, hint="give a file that ends in .csv or .jsonl")
    return "\t".join(cells) + "\n"
