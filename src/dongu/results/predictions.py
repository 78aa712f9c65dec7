"""An evaluation's rows as they are written: id, truth, prediction, probabilities."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dongu.evaluate import Evaluation
from dongu.files import write_file
from dongu.metrics import MetricSet
from dongu.run.folder import dump_json


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
    """
    if path.suffix == ".jsonl":
        content = "".join(dump_json(row) + "\n" for row in rows)
    else:
        text = io.StringIO(newline="")
        table = csv.writer(text, delimiter="\t" if path.suffix == ".tsv" else ",", lineterminator="\n")
        for i, row in enumerate(rows):
            flat = {key: value for key, value in row.items() if key != "probabilities"}
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
