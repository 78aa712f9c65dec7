"""The cheap model that every result stands beside: TF-IDF of words and pairs of words, with a linear model on top.

It has no random number and no product of a BLAS, whose sums may depend on its threads: the same rows give the same
bits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, hstack

from dongu.config import Task
from dongu.waiting import Waiting

# Scripts without spaces between their words give single letters, whose pairs serve as words.
WORD = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]|[^\W_]+")
SMALL_DATA = 1_000  # up to which a gram counts that stands in one row only
MOST_WEIGHTS = 4_000_000  # at most: the fit holds about a dozen arrays of them
# C of scikit-learn: what the loss of a row counts beside half the squared weights. It is not tuned: rows of length 1
# want less of a ridge than the usual 1, which numbers have.
LOSS_WEIGHT: dict[Task, float] = {"single-label": 3.0, "multi-label": 3.0, "regression": 1.0}
STEPS = 30  # of L-BFGS at most; `SMALL_GRADIENT` ends most fits before
MEMORY = 6
SMALL_GRADIENT = 1e-3

Texts = tuple[Sequence[str], ...]  # one column a text


def _grams(texts: Sequence[str], numbers: dict[str, int], *, learn: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Words and pairs of neighbours, (grams,): the row of each, and its key of 64 bits.

    They are of words that have a number; `learn` gives each new word the next one.
    """
    words = [WORD.findall(text.lower()) for text in texts]
    if learn:
        for row in words:
            for word in row:
                numbers.setdefault(word, len(numbers))
    found = np.array([numbers.get(word, -1) for row in words for word in row], np.int64)
    rows = np.repeat(np.arange(len(words)), [len(row) for row in words])
    pairs = (rows[1:] == rows[:-1]) & (found[1:] >= 0) & (found[:-1] >= 0)
    keys = ((found[:-1] + 1) << 32) + found[1:]
    known = found >= 0
    return np.concatenate([rows[known], rows[1:][pairs]]), np.concatenate([found[known], keys[pairs]])


@dataclass(frozen=True)
class Tfidf:
    """Rows of unit length over the grams of the training texts, weighed by how rare they are."""

    numbers: dict[str, int]
    keys: np.ndarray  # sorted
    rarity: np.ndarray

    @staticmethod
    def of(texts: Texts, outputs: int) -> Tfidf:
        """The grams of these texts, of all columns together: the most frequent ones where there are too many."""
        together = [text for column in texts for text in column]
        numbers: dict[str, int] = {}
        rows, grams = _grams(together, numbers, learn=True)
        keys, places = np.unique(grams, return_inverse=True)
        texts_with = np.bincount(_counts(rows, places, (len(together), len(keys))).indices, minlength=len(keys))
        kept = np.flatnonzero(texts_with >= (1 if len(together) <= SMALL_DATA else 2))
        most = MOST_WEIGHTS // (outputs * (1 if len(texts) == 1 else 3))
        kept = np.sort(kept[np.argsort(-texts_with[kept], kind="stable")[:most]])
        return Tfidf(numbers, keys[kept], np.log((1 + len(together)) / (1 + texts_with[kept])) + 1)

    def rows(self, texts: Texts) -> csr_matrix:
        """(rows, features). Of two texts: the grams that are in the first alone, in the second alone and in both, and
        the cosine of the two."""
        matrices = [self._column(column) for column in texts]
        if len(matrices) == 1:
            return matrices[0]
        one, two = matrices
        apart, shared = (one - two).tocsr(), one.minimum(two)
        cosine = csr_matrix(one.multiply(two).sum(1))
        return hstack([apart.maximum(0), (-apart).maximum(0), shared, cosine]).tocsr()

    def _column(self, texts: Sequence[str]) -> csr_matrix:
        rows, grams = _grams(texts, self.numbers)
        places = np.searchsorted(self.keys, grams)
        known = np.append(self.keys, -1)[places] == grams
        matrix = _counts(rows[known], places[known], (len(texts), len(self.keys)))
        matrix.data *= self.rarity[matrix.indices]
        row_of = np.repeat(np.arange(len(texts)), np.diff(matrix.indptr))
        matrix.data /= np.sqrt(np.bincount(row_of, matrix.data**2, len(texts)))[row_of]
        return matrix


@dataclass(frozen=True)
class BagOfWords:
    """The fitted model: logistic regression for classes, one for each label of several, ridge regression of numbers."""

    tfidf: Tfidf
    weights: np.ndarray  # (features, outputs)
    bias: np.ndarray  # (outputs,)

    @staticmethod
    def fit(texts: Texts, targets: np.ndarray, task: Task, outputs: int) -> BagOfWords:
        """Of training rows.

        Args:
            texts: one column a text, one or two.
            targets: (rows,) class ids or numbers, or (rows, labels) of 0 and 1.
            task: what the labels are.
            outputs: classes or labels; 1 for numbers.
        """
        tfidf = Tfidf.of(texts, outputs)
        mean, std = (float(targets.mean()), float(targets.std()) or 1.0) if task == "regression" else (0.0, 1.0)
        truth = np.eye(outputs)[targets] if task == "single-label" else (targets.reshape(len(targets), -1) - mean) / std
        weights, bias = fit_linear(tfidf.rows(texts), truth, task, LOSS_WEIGHT[task])
        return BagOfWords(tfidf, weights * std, bias * std + mean)

    def logits(self, texts: Texts) -> np.ndarray:
        """(rows, outputs) fp32."""
        return np.asarray(self.tfidf.rows(texts) @ self.weights + self.bias, np.float32)


def fit_linear(
    features: csr_matrix, truth: np.ndarray, task: Task, loss_weight: float
) -> tuple[np.ndarray, np.ndarray]:
    """The weights (features, outputs) and the bias (outputs,) that minimize the losses and half the squared weights.

    The loss is softmax cross-entropy of classes, binary cross-entropy of each label, half the squared error of numbers.
    What is minimized over are the weights in units of the curvature that each has at the start, where the model answers
    with the shares of train: rare grams and rare labels are learnt as fast as frequent ones.

    Args:
        features: (rows, features).
        truth: (rows, outputs).
        task: which loss.
        loss_weight: what the losses count beside the weights.
    """
    rows, outputs = truth.shape
    transposed = features.T.tocsr()
    share = truth.mean(0).clip(1 / (2 * rows), 1 - 1 / (2 * rows))
    start = {"single-label": np.log(share), "multi-label": np.log(share / (1 - share))}.get(task, np.zeros(outputs))
    curvature = np.ones(outputs) if task == "regression" else share * (1 - share)
    squares = np.bincount(features.indices, features.data**2, features.shape[1])
    unit = np.empty((features.shape[1] + 1, outputs))
    unit[:-1] = 1 / np.sqrt(1 / loss_weight + squares[:, None] * curvature)
    unit[-1] = 1 / np.sqrt(rows * curvature)

    def objective(scaled: np.ndarray) -> tuple[float, np.ndarray]:
        weights = scaled * unit
        losses, slope = _losses(features @ weights[:-1] + (weights[-1] + start), truth, task)
        gradient = np.empty_like(weights)
        gradient[:-1] = transposed @ slope + weights[:-1] / loss_weight
        gradient[-1] = slope.sum(0)
        return losses + float((weights[:-1] ** 2).sum()) / (2 * loss_weight), gradient * unit

    with Waiting("baseline, a bag of words", STEPS, "steps") as wait:
        weights = minimize(objective, np.zeros_like(unit), wait) * unit
    return weights[:-1], weights[-1] + start


def _losses(scores: np.ndarray, truth: np.ndarray, task: Task) -> tuple[float, np.ndarray]:
    """The summed loss of (rows, outputs) scores, and its gradient."""
    if task == "regression":
        return float(((scores - truth) ** 2).sum()) / 2, scores - truth
    if task == "single-label":
        scores = scores - scores.max(1, keepdims=True)
        shares = np.exp(scores)
        sums = shares.sum(1, keepdims=True)
        return float(np.log(sums).sum() - (scores * truth).sum()), shares / sums - truth
    small = np.exp(-np.abs(scores))
    losses = np.log1p(small) + scores.clip(0) - scores * truth
    return float(losses.sum()), np.where(scores > 0, 1, small) / (1 + small) - truth


def minimize(objective: Callable[[np.ndarray], tuple[float, np.ndarray]], x: np.ndarray, wait: Waiting) -> np.ndarray:
    """Where a convex function is least, by L-BFGS with a line search that halves (Nocedal 1980).

    That of scipy sums in a BLAS.
    """
    value, gradient = objective(x)
    known: list[tuple[np.ndarray, np.ndarray, float]] = []  # step, change of the gradient, 1 / their product
    for _ in range(STEPS):
        wait.add()
        if float(np.abs(gradient).max()) <= SMALL_GRADIENT:
            break
        direction, shares = -gradient, []
        for step, change, inverse in reversed(known):
            shares.append(inverse * float((step * direction).sum()))
            direction -= shares[-1] * change
        if known:
            direction /= known[-1][2] * float((known[-1][1] ** 2).sum())
        for step, change, inverse in known:
            direction += (shares.pop() - inverse * float((change * direction).sum())) * step
        slope, length = float((direction * gradient).sum()), 1.0
        while (found := objective(x + length * direction))[0] > value + 1e-4 * length * slope and length > 1e-6:
            length /= 2
        step, change = length * direction, found[1] - gradient
        if found[0] >= value:  # rounding: nothing is left to gain
            break
        x, (value, gradient) = x + step, found
        if (product := float((step * change).sum())) > 0:
            known = [*known, (step, change, 1 / product)][-MEMORY:]
    return x


def _counts(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> csr_matrix:
    matrix = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)  # it adds up what stands twice
    matrix.sort_indices()
    return matrix
