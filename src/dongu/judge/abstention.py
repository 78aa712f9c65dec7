"""When a classifier should rather give no label: the probability below which it abstains, and what that leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dongu.judge.answers import Evaluation
from dongu.judge.classes import Share

LEVEL = 0.95  # of the runs, in which the wanted accuracy holds on rows without end
STARTS = (1 / 8, 1 / 4, 1 / 2)  # shares of the rows at which a sequence of tests begins
# The thresholds that are tried, the strictest first: a quarter apart in the logarithm of the odds, and at last none.
# They do not depend on the rows, as a test needs it.
THRESHOLDS = (*(round(1 / (1 + float(np.exp(-odds / 4))), 7) for odds in range(56, -29, -1)), 0.0)
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.25)  # shares of the rows in the table of `coverage`


def fit_threshold(answers: Evaluation, accuracy: float) -> float | None:
    """The lowest threshold of which the rows prove that answers at or above it are right in so large a share.

    Learn-then-Test by sequences: the hypothesis of each threshold is that the share is smaller, its p-value the
    binomial tail of the rows that are answered. From the strictest threshold that answers an eighth (a quarter, half)
    of the rows on, each one is tested after the other, until one fails. Each beginning has a third of the error that
    is allowed, and hands it on with each success. So the choice among them all costs no more than `1 - LEVEL`, if a
    stricter threshold is never less often right.

    Args:
        answers: to rows with labels, a class each.
        accuracy: the share that is wanted.

    Returns:
        The threshold; 0 where all answers may be given, None where nothing is proved.
    """
    from scipy.special import betainc  # a tenth of a second to import, which an answer does not need

    sure = answers.probabilities.max(-1)
    order = np.argsort(-sure)
    counts = np.searchsorted(-sure[order], -np.array(THRESHOLDS), side="right")  # rows that are answered
    hits = np.concatenate([[0], np.cumsum(answers.right[order])])[counts]
    # The chance of so many hits, or more, if each row were right by `accuracy` alone.
    chances = np.where(hits > 0, betainc(np.maximum(hits, 1), counts - hits + 1, accuracy), 1.0)
    starts = [max(1.0, share * len(answers)) for share in STARTS]
    found, error = None, 0.0
    for threshold, count, chance in zip(THRESHOLDS, counts.tolist(), chances.tolist(), strict=True):
        while starts and count >= starts[0]:
            starts.pop(0)
            error += (1 - LEVEL) / len(STARTS)
        if chance <= error:
            found = threshold
        else:
            error = 0.0
    return found


def abstained(answers: Evaluation, threshold: float) -> dict[str, Any]:
    """What a threshold does on a split: the share that is `answered`, and the `accuracy` of that, with intervals."""
    kept = answers.probabilities.max(-1) >= threshold
    shares = {
        "answered": Share(int(kept.sum()), len(answers)),
        "accuracy": Share(int(answers.right[kept].sum()), int(kept.sum())),
    }
    return {"split": answers.split, **{name: _entry(share) for name, share in shares.items()}}


def coverage(answers: Evaluation) -> Iterator[dict[str, float]]:
    """Coverage against accuracy: of the surest rows, so many, the least probability and the accuracy."""
    sure, right = answers.probabilities.max(-1), answers.right
    order = np.argsort(-sure, kind="stable")
    counts = [max(1, round(share * len(answers))) for share in COVERAGES]
    for least in dict.fromkeys(float(sure[order[count - 1]]) for count in counts):  # few rows have few of them
        kept = sure >= least
        entry = _entry(Share(int(right[kept].sum()), int(kept.sum())))
        yield {"answered": float(kept.mean()), "threshold": least, **entry}


def _entry(share: Share) -> dict[str, float]:
    return dict(zip(("value", "low", "high"), share.numbers, strict=True))
