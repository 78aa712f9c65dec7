"""Functions that stand in an ejected script word for word: they know nothing of `dongu`, and are tested here."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from pyarrow import parquet

# --- rows of files, a dict each


def read_csv(path: str) -> list[dict[str, str]]:
    """The rows, a dict each: every cell a text."""
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def read_tsv(path: str) -> list[dict[str, str]]:
    """The rows, a dict each: every cell a text, and no quotes."""
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def read_jsonl(path: str) -> list[dict[str, str]]:
    """The rows, a dict each; numbers stay as they are written."""
    with Path(path).open(encoding="utf-8-sig") as file:
        return [json.loads(line, parse_int=str, parse_float=str) for line in file if line.strip()]


def read_json(path: str) -> list[dict[str, str]]:
    """The rows, a dict each; numbers stay as they are written."""
    text = Path(path).read_text(encoding="utf-8-sig")
    rows: list[dict[str, str]] = json.loads(text, parse_int=str, parse_float=str)
    return rows


def read_parquet(path: str) -> list[dict[str, str]]:
    """The rows, a dict each."""
    rows: list[dict[str, str]] = parquet.read_table(path).to_pylist()
    return rows


def joined(row: dict[str, str], columns: list[str]) -> str:
    """The columns as one text, a line each; empty ones are left out."""
    return "\n".join(row[column] for column in columns if row[column] and row[column].strip())


# --- which rows come together


def hold_out(strata: np.ndarray, seed: int) -> np.ndarray:
    """A tenth of each stratum, at least one row where there are two: True for the rows held out."""
    random = np.random.default_rng([seed, 0x5EED])
    held = np.zeros(len(strata), dtype=bool)
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        if len(rows) > 1:
            held[random.permutation(rows)[: max(1, round(len(rows) * 0.1))]] = True
    return held


def batches_by_length(lengths: list[int], room: int) -> list[list[int]]:
    """Rows of like lengths, in batches that have at most `room` tokens when they are padded."""
    batches: list[list[int]] = [[]]
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):  # the last one of a batch is its longest
        if batches[-1] and (len(batches[-1]) + 1) * lengths[row] > room:
            batches.append([])
        batches[-1].append(row)
    return batches


# --- metrics of one label a row: (rows,) classes


def f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """F1 of the second class, the positive one."""
    right = ((truth == 1) & (predicted == 1)).sum()
    return float(2 * right / max(1, (truth == 1).sum() + (predicted == 1).sum()))


def matthews_correlation(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Correlation between truth and prediction; 0 where either is constant."""
    rows = float(len(truth))
    labels = max(truth.max(), predicted.max()) + 1
    true, given = (np.bincount(classes, minlength=labels).astype(float) for classes in (truth, predicted))
    covariance = (truth == predicted).sum() * rows - (true * given).sum()
    spread = (rows**2 - (true**2).sum()) * (rows**2 - (given**2).sum())
    return float(covariance / np.sqrt(spread)) if spread else 0.0


# --- metrics of sets of labels: (rows, labels), 1 for a label of the row


def macro_f1(truth: np.ndarray, given: np.ndarray) -> float:
    """The mean F1 of the labels that occur or are given; (rows, labels) each, 1 for a label of the row."""
    total = truth.sum(0) + given.sum(0)
    scores = 2 * (truth * given).sum(0) / np.maximum(total, 1)
    return float(scores.sum() / (total > 0).sum())


def micro_f1(truth: np.ndarray, given: np.ndarray) -> float:
    """F1 over all cells together; (rows, labels) each, 1 for a label of the row."""
    return float(2 * (truth * given).sum() / max(1, truth.sum() + given.sum()))


def average_precision(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """The mean over the labels that occur of the mean precision down to each row that has the label."""
    scores = np.zeros(truth.shape[1])
    for label in np.flatnonzero(truth.any(0)):
        sure = np.sort(probabilities[:, label])
        hits = np.sort(probabilities[truth[:, label] == 1, label])
        precision = (len(hits) - np.searchsorted(hits, hits)) / (len(sure) - np.searchsorted(sure, hits))
        scores[label] = np.cumsum(precision[::-1])[-1] / len(hits)  # the surest first
    return float(scores.sum() / truth.any(0).sum())


def best_macro_threshold(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """The probability from which on labels are given that has the best macro F1; of equals the highest."""
    cuts = np.append(np.unique(probabilities)[::-1], 0)
    scores, present = np.zeros(len(cuts) - 1), np.zeros(len(cuts) - 1)
    for true, sure in zip(truth.T, probabilities.T, strict=True):
        total = true.sum() + len(sure) - np.searchsorted(np.sort(sure), cuts[:-1])
        right = true.sum() - np.searchsorted(np.sort(sure[true == 1]), cuts[:-1])
        scores += 2 * right / np.maximum(total, 1)
        present += total > 0
    best = (scores / present >= (scores / present).max() - 1e-12).argmax()
    return float(cuts[best] + cuts[best + 1]) / 2


def best_micro_threshold(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """The probability from which on labels are given that has the best micro F1; of equals the highest."""
    cuts = np.append(np.unique(probabilities)[::-1], 0)
    total = truth.sum() + probabilities.size - np.searchsorted(np.sort(probabilities, axis=None), cuts[:-1])
    right = truth.sum() - np.searchsorted(np.sort(probabilities[truth == 1]), cuts[:-1])
    scores = 2 * right / total
    best = (scores >= scores.max() - 1e-12).argmax()
    return float(cuts[best] + cuts[best + 1]) / 2


# --- metrics of numbers: (rows,) each


def pearson(truth: np.ndarray, answers: np.ndarray) -> float:
    """Linear correlation; undefined where either is constant."""
    x, y = answers - answers.mean(), truth - truth.mean()
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


def ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each value from 1 on; equal ones share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    shared: np.ndarray = np.cumsum(counts) - (counts - 1) / 2
    return shared[places]


def spearman(truth: np.ndarray, answers: np.ndarray) -> float:
    """Correlation of the ranks; undefined where either is constant."""
    return pearson(ranks(truth), ranks(answers))
