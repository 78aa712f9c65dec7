"""The files `predictions/SPLIT.jsonl` of a run: written and read back, without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dongu.config import DEFAULT_THRESHOLD, NUMBERS, Task
from dongu.errors import InputError
from dongu.files import LOG_LIMIT, read_regular
from dongu.judge.answers import Evaluation, nearest
from dongu.judge.metrics import NAMED, MetricSet, metric_value
from dongu.judge.ranking import LEAST, sigmoid, softmax
from dongu.run.folder import RunFolder

METRIC_TOLERANCE = 1e-6  # of a metric that is computed again
LOSS_TOLERANCE = 1e-2  # a row that is wrong and very sure has a probability with few digits left, or none
RESTORE = "restore the run from a copy, or train it again"


def prediction_lines(evaluation: Evaluation, metrics: MetricSet) -> Iterator[dict[str, Any]]:
    """One dict a row, in the order of the rows."""
    threshold = 0.0 if metrics.task == "single-label" else evaluation.threshold  # abstention comes after metrics
    answers = answer_rows(evaluation.logits, metrics, threshold)
    for i, answer in enumerate(answers):
        line: dict[str, Any] = {"id": int(evaluation.ids[i])}
        if evaluation.targets is not None:
            line["label"] = label_of(evaluation.targets[i], metrics.task, metrics.label_names)
        yield {**line, **answer}


def answer_rows(logits: np.ndarray, metrics: MetricSet, threshold: float) -> Iterator[dict[str, Any]]:
    """`prediction`, and for classes the probability of each, from (rows, labels) logits.

    Where a row has several labels, the prediction is the list of those whose probability reaches the threshold; where
    it has one and its probability does not, the prediction is None.
    """
    names = metrics.label_names
    if metrics.task == "ordinal":
        for value, step in zip(logits[:, 0], nearest(metrics.scale, logits[:, 0]), strict=True):
            yield {"prediction": f"{step:g}", "number": float(value)}
        return
    if metrics.task in NUMBERS:
        for value in logits[:, 0]:
            yield {"prediction": float(value)}
        return
    several = metrics.task == "multi-label"
    for row in sigmoid(logits) if several else softmax(logits):
        probabilities = {name: float(value) for name, value in zip(names, row, strict=True)}
        given = [name for name, value in probabilities.items() if value >= threshold]
        one = names[int(row.argmax())] if row.max() >= threshold else None
        yield {"prediction": given if several else one, "probabilities": probabilities}


def label_of(target: Any, task: Task, names: Sequence[str]) -> float | str | list[str]:
    """What a row's target, or its prediction, is called."""
    if task == "ordinal":
        return f"{target:g}"
    if task in NUMBERS:
        return float(target)
    if task == "multi-label":
        return [names[i] for i in np.flatnonzero(target).tolist()]
    return names[int(target)]


def read_answers(folder: RunFolder, split: str, record: Mapping[str, Any], results: Mapping[str, Any]) -> Evaluation:
    """The answers of a finished run to one of its labelled splits, held against its `run.json` and `results.json`.

    Raises:
        InputError: the file of predictions is missing or damaged, or its metrics are not those of `results.json`.
    """
    path = folder.path / "predictions" / f"{split}.jsonl"
    names, task = tuple(record["label_names"]), record["options"]["task"]
    try:
        rows = record["data"][split]["rows"]
        named = [name for name in ("loss", *record["metrics"]) if name in NAMED]  # whoever reads has no own metric
        written = {name: results[split][name]["value"] for name in named}
    except (KeyError, TypeError) as error:
        what = f"says nothing of {split} that could be compared ({error})"
        raise InputError(what, where=str(folder.path), hint=RESTORE) from error
    answers = read_predictions(path, task, names, results.get("threshold", DEFAULT_THRESHOLD))
    if len(answers) != rows:
        raise InputError(f"has {len(answers):,} rows, and run.json says {rows:,}", where=str(path), hint=RESTORE)
    for name, value in written.items():
        found, apart = metric_value(answers, name), LOSS_TOLERANCE if name == "loss" else METRIC_TOLERANCE
        if not (math.isnan(found) if value is None else math.isclose(found, value, rel_tol=apart, abs_tol=apart)):
            what = f"does not belong to results.json: its {name} is {found:.6f}, and not {value}"
            raise InputError(what, where=str(path), hint=RESTORE)
    return answers


def read_predictions(path: Path, task: Task, names: Sequence[str], threshold: float = DEFAULT_THRESHOLD) -> Evaluation:
    """The rows of a file of predictions with labels; their logits are the logarithms of the probabilities.

    Raises:
        InputError: it is missing or damaged.
    """
    lines = list(saved_lines(path))
    try:
        return _evaluation(path.stem, lines, task, names, threshold)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"holds no predictions of a {task} task ({error})", where=str(path), hint=RESTORE) from error


def saved_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of predictions.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        lines = read_regular(path, LOG_LIMIT).splitlines()
    except FileNotFoundError:
        raise InputError("is missing", where=str(path), hint=RESTORE) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path), hint=RESTORE) from error
    for number, line in enumerate(lines, start=1):
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"is not JSON ({error})", where=f"{path}:{number}", hint=RESTORE) from error
        if not isinstance(content, dict):
            raise InputError("holds no JSON object", where=f"{path}:{number}", hint=RESTORE)
        yield content


def _evaluation(
    split: str, lines: list[dict[str, Any]], task: Task, names: Sequence[str], threshold: float
) -> Evaluation:
    ids = np.array([line["id"] for line in lines], np.int64)
    targets: np.ndarray
    if task in NUMBERS:
        key, scale = ("number", tuple(map(float, names))) if task == "ordinal" else ("prediction", ())
        targets, given = (np.array([float(line[name]) for line in lines], np.float64) for name in ("label", key))
        return Evaluation(split, ids, given[:, None], targets, (given - targets) ** 2, {}, threshold, task, scale)
    place = {name: i for i, name in enumerate(names)}
    sure = np.array([[line["probabilities"][name] for name in names] for line in lines], np.float64)
    if task == "multi-label":
        targets = np.zeros(sure.shape)
        for row, line in enumerate(lines):
            targets[row, [place[name] for name in line["label"]]] = 1
        likely = np.where(targets == 1, sure, 1 - sure)  # of each label being as it is
        losses = -np.log(likely.clip(LEAST)).mean(-1)
    else:
        targets = np.array([place[line["label"]] for line in lines], np.int64)
        losses = -np.log(sure[np.arange(len(lines)), targets].clip(LEAST))
    logits = np.log(sure.clip(LEAST)) - (np.log((1 - sure).clip(LEAST)) if task == "multi-label" else 0)
    found = Evaluation(split, ids, logits, targets, losses, {}, threshold, task, read_back=sure)
    for line, prediction in zip(lines, found.predictions, strict=True):
        if line["prediction"] != label_of(prediction, task, names):
            raise ValueError(f"row {line['id']}: the prediction is not that of the probabilities")
    return found
