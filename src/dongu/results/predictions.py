"""An evaluation's rows as they are written: id, truth, prediction, probabilities."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dongu.data.labels import SEPARATOR
from dongu.evaluate import Evaluation
from dongu.files import write_file
from dongu.metrics import MetricSet
from dongu.multi_label import sigmoid
from dongu.run.folder import dump_json


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


def write_answers(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """JSON lines for .jsonl, else a table (.tsv, .csv) whose last columns are the probabilities of the classes.

    Several labels of a row stand in one cell of a table, with a `|` between them, as they are read.

    Raises:
        StorageError: the file could not be written.
    """
    if path.suffix == ".jsonl":
        content = "".join(dump_json(row) + "\n" for row in rows)
    else:
        text = io.StringIO(newline="")
        table = csv.writer(text, delimiter="\t" if path.suffix == ".tsv" else ",", lineterminator="\n")
        for i, row in enumerate(rows):
            flat = {key: value for key, value in row.items() if key != "probabilities"}
            if isinstance(flat["prediction"], list):
                flat["prediction"] = SEPARATOR.join(flat["prediction"])
            flat |= {f"probability of {name}": value for name, value in row.get("probabilities", {}).items()}
            if i == 0:
                table.writerow(flat)
            table.writerow(flat.values())
        content = text.getvalue()
    write_file(path, content.encode())


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities in double precision, (rows, labels)."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))
