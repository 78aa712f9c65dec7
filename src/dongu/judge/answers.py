"""What a model said to the rows of a split, and the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dongu.config import DEFAULT_THRESHOLD, NUMBERS, Task
from dongu.judge.ranking import Ranking, sigmoid, softmax
from dongu.text import counted


@dataclass(frozen=True, repr=False)
class Evaluation:
    """What the model says of a split, in the order of its rows.

    `ids` (rows,) are row numbers in the source, `logits` (rows, labels) fp32, `targets` (rows,) class ids or numbers,
    or (rows, labels) of 0 and 1 where a row has several, or None where they are hidden, `losses` (rows,) in double
    precision. `threshold` is the probability from which on a label is predicted, where a row has several.
    `evaluation["accuracy"]` reads a metric.
    """

    split: str
    ids: np.ndarray
    logits: np.ndarray
    targets: np.ndarray | None
    losses: np.ndarray | None
    metrics: dict[str, float]
    threshold: float = DEFAULT_THRESHOLD
    task: Task = "single-label"
    scale: tuple[float, ...] = ()  # the classes of an ordinal task, of which the nearest to a number is the answer
    read_back: np.ndarray | None = None  # the probabilities as a file of predictions has them: it has no logits

    def __repr__(self) -> str:
        metrics = [f"{name} {value:.4f}" for name, value in self.metrics.items()]
        return f"<Evaluation {self.split}: {', '.join([counted(len(self), 'row'), *metrics])}>"

    def __getitem__(self, name: str) -> float:
        return self.metrics[name]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """The probability of each class or label, (rows, labels) in double precision; of a regression (rows, 0)."""
        if self.read_back is not None:
            return self.read_back
        if self.task in NUMBERS:
            return np.empty((len(self), 0))
        return sigmoid(self.logits) if self.task == "multi-label" else softmax(self.logits)

    @cached_property
    def predictions(self) -> np.ndarray:
        """Class ids, (rows,), or numbers, (rows,) in double precision; (rows, labels) of 0 and 1 for several labels."""
        if self.task == "ordinal":
            return nearest(self.scale, self.logits[:, 0])
        if self.task in NUMBERS:
            return np.asarray(self.logits[:, 0], np.float64)
        if self.task == "multi-label":
            return (self.probabilities >= self.threshold).astype(np.float64)
        return np.asarray(self.logits.argmax(-1))

    @property
    def right(self) -> np.ndarray:
        """Whether each row is answered just as it should be, (rows,); seldom so for numbers."""
        same = self.predictions == self.targets
        return np.asarray(same.all(-1) if same.ndim == 2 else same)

    @cached_property
    def confusion(self) -> np.ndarray:
        """Counts of (truth, prediction) of classes, (labels, labels) int64."""
        return confusion_matrix(self.predictions, np.asarray(self.targets), self.logits.shape[1])

    @cached_property
    def ranking(self) -> Ranking:
        """The rows sorted by the probability of each label, where a row has several."""
        return Ranking.of(self.probabilities, np.asarray(self.targets), self.threshold)

    @property
    def counts(self) -> np.ndarray:
        """Rows predicted rightly, predicted, and true, of each class or label: (3, labels)."""
        if self.task == "multi-label":
            return self.ranking.counts(np.ones(len(self)))
        labels, truth, given = self.logits.shape[1], np.asarray(self.targets), self.predictions
        return np.stack([np.bincount(each, minlength=labels) for each in (truth[truth == given], given, truth)])

    def take(self, rows: np.ndarray) -> Evaluation:
        """These rows, in this order, some of them perhaps more than once; without metrics, which would be others."""
        some = (self.targets, self.losses, self.read_back)
        targets, losses, read_back = (None if array is None else array[rows] for array in some)
        ids, logits = self.ids[rows], self.logits[rows]
        return replace(self, ids=ids, logits=logits, targets=targets, losses=losses, read_back=read_back, metrics={})


def nearest(scale: Sequence[float], numbers: np.ndarray) -> np.ndarray:
    """The class of a scale that is nearest to each number, (rows,) double; of two that are as near, the higher one."""
    steps = np.array(scale)
    return np.asarray(steps[np.searchsorted((steps[:-1] + steps[1:]) / 2, numbers.astype(np.float64), side="right")])


def confusion_matrix(predictions: np.ndarray, targets: np.ndarray, labels: int) -> np.ndarray:
    """Counts of (truth, prediction), (labels, labels) int64."""
    cells = np.bincount(targets.astype(np.int64) * labels + predictions, minlength=labels * labels)
    return cells.reshape(labels, labels).astype(np.int64)
