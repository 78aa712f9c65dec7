"""What a model said to the rows of a split, and the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dongu.config import DEFAULT_THRESHOLD, Task
from dongu.judge.metrics import CLASS_METRICS, NUMBER_METRICS, SET_METRICS, MetricSet, confusion_matrix
from dongu.judge.ranking import Ranking, sigmoid

LEAST = 2.0**-53  # what the probability of a row that is wrong and very sure counts as


@dataclass(frozen=True)
class Evaluation:
    """What the model says of a split, in the order of its rows.

    `ids` (rows,) are row numbers in the source, `logits` (rows, labels) fp32, `targets` (rows,), or (rows, labels)
    where a row has several, or None where they are hidden, `losses` (rows,) in double precision. `threshold` is the
    probability from which on a label is given, where a row has several. `evaluation["accuracy"]` reads a metric.
    """

    split: str
    ids: np.ndarray
    logits: np.ndarray
    targets: np.ndarray | None
    losses: np.ndarray | None
    metrics: dict[str, float]
    threshold: float = DEFAULT_THRESHOLD

    def __getitem__(self, name: str) -> float:
        return self.metrics[name]


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
