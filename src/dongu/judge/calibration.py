"""Whether probabilities mean what they say: the calibration error, and the temperature that mends most of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dongu.judge.ranking import softmax
from dongu.judge.resample import Statistic, sums_by

BINS = 15  # of the answer's probability, of equal width from 0 to 1
ADVISED_ROWS = 300  # of validation: with fewer a temperature is off by more than a fifth in one case of ten
FAR = 10.0  # a temperature beyond it, or below its inverse, is none to advise
NO_TEMPERATURE = "no temperature helps: on validation the predictions say nothing about the labels"


@dataclass(frozen=True)
class Calibration:
    """The temperature that fits validation best, and whether the saved model's head is divided by it already."""

    temperature: float
    applied: bool

    def errors(self, logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """The calibration error `before` the temperature and `after`, from the saved model's (rows, labels) logits."""
        other = logits * self.temperature if self.applied else logits / self.temperature
        pair = calibration_error(logits, targets), calibration_error(other, targets)
        return dict(zip(("before", "after"), pair[::-1] if self.applied else pair, strict=True))


def is_advised(rows: int, error: Mapping[str, float], temperature: float) -> bool:
    """Whether a temperature is worth advising, from `intervals.verdict`'s calibration error of validation.

    Few rows fit any temperature (six of them 0.13, thirty 0.05), and an error that chance alone would show, whose
    interval begins at 0, is nothing to mend. Nor are logits that are wrong by more than `FAR` times: such a model has
    hardly begun to learn, or its rows have labels at random, and its probabilities are the least of it.
    """
    return rows >= ADVISED_ROWS and error["low"] > 0 and 1 / FAR <= temperature <= FAR


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float | None:
    """The T for which softmax(logits / T) makes the true classes most likely.

    The mean negative log-likelihood is convex in 1/T, so the zero of its slope is the one minimum. Where all n rows are
    right there is none, for surer would always be better: then each counts as right by (n + 1) / (n + 2) only, which
    is what so many right answers say of the next one.

    None where the rows are likeliest the hotter it is, as they are when the model does no better than guessing: then a
    temperature could only take the answers away.
    """
    from scipy.optimize import brentq  # a part of a second to import, and a report needs none of it

    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    truth = np.take_along_axis(shifted, targets[:, None].astype(np.int64), axis=-1)[:, 0]
    if not truth.any():
        others = shifted.sum(-1) / (logits.shape[-1] - 1)  # the mean of the wrong ones
        truth = others / (len(targets) + 2)

    def slope(sharpness: float) -> float:
        weights = np.exp(sharpness * shifted)  # (rows, labels)
        expected = (weights * shifted).sum(-1) / weights.sum(-1)
        return float((expected - truth).mean())

    if slope(0) >= 0:
        return None
    above = 1.0
    while slope(above) < 0:
        above *= 2
    return float(1 / brentq(slope, 0, above, xtol=1e-12, rtol=1e-12))


def calibration_error(logits: np.ndarray, targets: np.ndarray) -> float:
    """The expected calibration error of the answers: the mean over the rows of how far a bin's mean probability is
    from its share of right answers, in `BINS` bins."""
    sure = softmax(logits).max(-1)
    return float(binned_error(bins_of(sure))(sure - (logits.argmax(-1) == targets)))


def bins_of(sure: np.ndarray) -> np.ndarray:
    """The bin of each probability."""
    return np.minimum((sure * BINS).astype(np.int64), BINS - 1)


def binned_error(bins: np.ndarray) -> Statistic:
    """The calibration error, (…), of (…, rows) gaps: a row's probability minus 1 for a right answer, 0 for a wrong one.

    Rows that count several times have a gap so many times as large.
    """
    sums = sums_by(bins, BINS)
    return lambda gaps: np.abs(sums(gaps)).sum(-1) / len(bins)
