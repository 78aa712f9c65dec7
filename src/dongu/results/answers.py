"""What a run answered to the rows of a split, read back without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dongu.config import Task
from dongu.errors import InputError
from dongu.files import LOG_LIMIT, read_regular
from dongu.metrics import CLASS_METRICS, NUMBER_METRICS, SET_METRICS, MetricSet, confusion_matrix
from dongu.multi_label import DEFAULT_THRESHOLD, Ranking, sigmoid
from dongu.run.folder import RunFolder

if TYPE_CHECKING:  # answers of files are read without torch
    from dongu.evaluate import Evaluation

TOLERANCE = 1e-6  # of a metric that is computed again
LOSS_TOLERANCE = 1e-2  # a row that is wrong and very sure has a probability with few digits left, or none
LEAST = 2.0**-53  # what such a row's probability counts as
RESTORE = "restore the run from a copy, or train it again"


@dataclass(frozen=True)
class Answers:
    """Truth and answers of a split, in the order of its rows.

    `targets` and `given` are (rows,) class ids, (rows,) numbers, or (rows, labels) of 0 and 1 where a row has several;
    `ranking` has these sorted by probability; `losses` is (rows,); `probabilities` is (rows, labels), without labels
    for numbers.
    """

    task: Task
    label_names: tuple[str, ...]
    ids: np.ndarray
    targets: np.ndarray
    given: np.ndarray
    losses: np.ndarray
    probabilities: np.ndarray
    ranking: Ranking | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def right(self) -> np.ndarray:
        """Whether each row is answered just as it should be, (rows,); seldom so for numbers."""
        same = self.given == self.targets
        return np.asarray(same.all(-1) if same.ndim == 2 else same)

    @property
    def confusion(self) -> np.ndarray:
        """Counts of (truth, answer) of classes, (labels, labels)."""
        return confusion_matrix(self.given, self.targets, len(self.label_names))

    def metric(self, name: str) -> float:
        """A metric by its name, or the loss."""
        if name == "loss":
            return math.fsum(self.losses) / len(self)
        if self.ranking is not None:
            return float(SET_METRICS[name](self.ranking, np.ones((1, len(self))))[0])
        if self.task == "regression":
            return float(NUMBER_METRICS[name](self.given, self.targets))
        return float(CLASS_METRICS[name](self.confusion))


def answers_of(evaluation: Evaluation, metrics: MetricSet) -> Answers:
    """The answers of a model that was just evaluated on labelled rows; their probabilities are left out."""
    logits, truth = evaluation.logits, np.asarray(evaluation.targets)
    ranking, given = None, logits.argmax(-1)
    if metrics.task == "regression":
        given, truth = logits[:, 0].astype(np.float64), truth.astype(np.float64)
    if metrics.task == "multi-label":
        ranking = Ranking.of(sigmoid(logits), truth, evaluation.threshold)
        given = ranking.given
    losses, unknown = np.asarray(evaluation.losses), np.empty((len(truth), 0))
    return Answers(metrics.task, metrics.label_names, evaluation.ids, truth, given, losses, unknown, ranking)


def read_answers(folder: RunFolder, split: str, record: Mapping[str, Any], results: Mapping[str, Any]) -> Answers:
    """The answers of a finished run to one of its labelled splits, held against its results.

    Args:
        folder: the run.
        split: one that `results.json` has metrics of.
        record: its `run.json`.
        results: its `results.json`.

    Raises:
        InputError: the file of predictions is missing or damaged, or its metrics are not those of `results.json`.
    """
    path = folder.path / "predictions" / f"{split}.jsonl"
    names, task = tuple(record["label_names"]), record["options"]["task"]
    try:
        rows = record["data"][split]["rows"]
        written = {name: results[split][name]["value"] for name in ("loss", *record["metrics"])}
    except (KeyError, TypeError) as error:
        what = f"says nothing of {split} that could be compared ({error})"
        raise InputError(what, where=str(folder.path), hint=RESTORE) from error
    answers = read_rows(path, task, names, results.get("threshold", DEFAULT_THRESHOLD))
    if len(answers) != rows:
        raise InputError(f"has {len(answers):,} rows, and run.json says {rows:,}", where=str(path), hint=RESTORE)
    for name, value in written.items():
        found, tolerance = answers.metric(name), LOSS_TOLERANCE if name == "loss" else TOLERANCE
        if not (
            math.isnan(found) if value is None else math.isclose(found, value, rel_tol=tolerance, abs_tol=tolerance)
        ):
            what = f"does not belong to results.json: its {name} is {found:.6f}, and not {value}"
            raise InputError(what, where=str(path), hint=RESTORE)
    return answers


def read_rows(path: Path, task: Task, names: tuple[str, ...], threshold: float = DEFAULT_THRESHOLD) -> Answers:
    """The rows of a file of predictions with labels.

    Raises:
        InputError: it is missing or damaged.
    """
    lines = list(_lines(path))
    try:
        return _answers(lines, task, names, threshold)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"holds no predictions of a {task} task ({error})", where=str(path), hint=RESTORE) from error


def _lines(path: Path) -> Iterator[dict[str, Any]]:
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
            raise InputError(f"is no JSON ({error})", where=f"{path}:{number}", hint=RESTORE) from error
        if not isinstance(content, dict):
            raise InputError("holds no JSON object", where=f"{path}:{number}", hint=RESTORE)
        yield content


def _answers(lines: list[dict[str, Any]], task: Task, names: tuple[str, ...], threshold: float) -> Answers:
    """
    Raises:
        KeyError, TypeError, ValueError, OverflowError: a line is not what such a run writes.
    """
    ids = np.array([line["id"] for line in lines], np.int64)
    targets: np.ndarray
    given: np.ndarray
    if task == "regression":
        targets, given = (np.array([line[key] for line in lines], np.float64) for key in ("label", "prediction"))
        return Answers(task, names, ids, targets, given, (given - targets) ** 2, np.empty((len(lines), 0)))
    place = {name: i for i, name in enumerate(names)}
    probabilities = np.array([[line["probabilities"][name] for name in names] for line in lines], np.float64)
    if task == "multi-label":
        targets, given = np.zeros(probabilities.shape), np.zeros(probabilities.shape)
        for row, line in enumerate(lines):
            targets[row, [place[name] for name in line["label"]]] = 1
            given[row, [place[name] for name in line["prediction"]]] = 1
        likely = np.where(targets == 1, probabilities, 1 - probabilities)  # of each label being as it is
        losses = -np.log(likely.clip(LEAST)).mean(-1)
        ranking = Ranking.of(probabilities, targets, threshold)
        return Answers(task, names, ids, targets, given, losses, probabilities, ranking)
    targets, given = (np.array([place[line[key]] for line in lines], np.int64) for key in ("label", "prediction"))
    losses = -np.log(probabilities[np.arange(len(lines)), targets].clip(LEAST))
    return Answers(task, names, ids, targets, given, losses, probabilities)
