"""An evaluation's rows as they are written: id, truth, prediction, probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dongu.data.labels import SEPARATOR
from dongu.errors import DataError
from dongu.files import write_lines
from dongu.metrics import MetricSet
from dongu.multi_label import sigmoid
from dongu.run.folder import dump_json
from dongu.text import shortened

if TYPE_CHECKING:  # texts are looked at before torch is loaded
    from dongu.evaluate import Evaluation


def prediction_lines(evaluation: Evaluation, metrics: MetricSet) -> Iterator[dict[str, Any]]:
    """One dict a row, in the order of the rows."""
    answers = answer_rows(evaluation.logits, metrics, evaluation.threshold)
    for i, answer in enumerate(answers):
        line: dict[str, Any] = {"id": int(evaluation.ids[i])}
        if evaluation.targets is not None:
            line["label"] = _label_of(evaluation.targets[i], metrics)
        yield {**line, **answer}


def answer_rows(logits: np.ndarray, metrics: MetricSet, threshold: float) -> Iterator[dict[str, Any]]:
    """`prediction`, and for classes the probability of each, from (rows, labels) logits.

    Where a row has several labels, the prediction is the list of those whose probability reaches the threshold.
    """
    names = metrics.label_names
    if metrics.task == "regression":
        for value in logits[:, 0]:
            yield {"prediction": float(value)}
        return
    several = metrics.task == "multi-label"
    for row in sigmoid(logits) if several else softmax(logits):
        probabilities = {name: float(value) for name, value in zip(names, row, strict=True)}
        given = [name for name, value in probabilities.items() if value >= threshold]
        yield {"prediction": given if several else names[int(row.argmax())], "probabilities": probabilities}


def _label_of(target: Any, metrics: MetricSet) -> float | str | list[str]:
    if metrics.task == "regression":
        return float(target)
    if metrics.task == "multi-label":
        return [metrics.label_names[i] for i in np.flatnonzero(target)]
    return metrics.label_names[int(target)]


def write_answers(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines for .jsonl, else a table (.tsv, .csv) whose last columns are the probabilities of the classes.

    Several labels of a row stand in one cell of a table, with a `|` between them, as they are read. The rows are
    taken one by one.

    Raises:
        StorageError: the file could not be written.
        DataError: a .tsv cannot hold a text with a tab or a line break.
    """
    write_lines(path, (dump_json(row) + "\n" for row in rows) if path.suffix == ".jsonl" else _table_lines(path, rows))


def check_cells(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """
    Raises:
        DataError: the file is a .tsv, which cannot hold a text with a tab or a line break.
    """
    if path.suffix == ".tsv":
        for row in rows:
            _tsv_line([str(cell) for cell in row.values()], str(path))


def _table_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    line_of = _tsv_line if path.suffix == ".tsv" else _csv_line
    for number, row in enumerate(map(_flat, rows)):
        if number == 0:
            yield line_of(list(row), str(path))
        yield line_of([str(cell) for cell in row.values()], str(path))


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat = {key: value for key, value in row.items() if key != "probabilities"}
    if isinstance(row["prediction"], list):
        flat["prediction"] = SEPARATOR.join(row["prediction"])
    return flat | {f"probability of {name}": value for name, value in row.get("probabilities", {}).items()}


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


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities in double precision, (rows, labels)."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))
