"""An evaluation's rows as they are written: id, truth, prediction, probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dongu.errors import DataError
from dongu.evaluate import Evaluation
from dongu.files import write_file
from dongu.metrics import MetricSet
from dongu.run.folder import dump_json
from dongu.text import shortened


def prediction_lines(evaluation: Evaluation, metrics: MetricSet) -> Iterator[dict[str, Any]]:
    """One dict a row, in the order of the rows."""
    answers = answer_rows(evaluation.logits, metrics.label_names, regression=metrics.task == "regression")
    for i, answer in enumerate(answers):
        line: dict[str, Any] = {"id": int(evaluation.ids[i])}
        if evaluation.targets is not None:
            target = evaluation.targets[i]
            line["label"] = float(target) if metrics.task == "regression" else metrics.label_names[int(target)]
        yield {**line, **answer}


def answer_rows(logits: np.ndarray, label_names: Sequence[str], *, regression: bool) -> Iterator[dict[str, Any]]:
    """`prediction`, and for classes the probability of each, from (rows, labels) logits."""
    if regression:
        for value in logits[:, 0]:
            yield {"prediction": float(value)}
        return
    for row in softmax(logits):
        probabilities = {name: float(value) for name, value in zip(label_names, row, strict=True)}
        yield {"prediction": label_names[int(row.argmax())], "probabilities": probabilities}


def write_answers(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """JSON lines for .jsonl, else a table (.tsv, .csv) whose last columns are the probabilities of the classes.

    Raises:
        StorageError: the file could not be written.
        DataError: a .tsv cannot hold a text with a tab or a line break.
    """
    if path.suffix == ".jsonl":
        content = "".join(dump_json(row) + "\n" for row in rows)
    else:
        flat = [_flat(row) for row in rows]
        lines = [list(flat[0]), *(row.values() for row in flat)] if flat else []
        line_of = _tsv_line if path.suffix == ".tsv" else _csv_line
        content = "".join(line_of([str(cell) for cell in line], str(path)) for line in lines)
    write_file(path, content.encode())


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat = {key: value for key, value in row.items() if key != "probabilities"}
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
