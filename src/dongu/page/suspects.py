"""Training rows whose label the model would not learn: the first to look at when some labels may be wrong.

A right label is learnt in the end, and mostly early, from the many rows that are like it; a wrong one goes against them
(Swayamdipta et al. 2020, "Dataset Cartography": low confidence in the row's own label, over the epochs). How low is low
depends on how much was learnt: a row is suspect where the model is as sure of other answers as it usually is of the
label (Northcutt et al. 2021, "Confident Learning"), on the mean of its uses and at the last one: what was learnt late
was learnt. A row's first use does not count where there is another: the model knew nothing then. A row with fewer uses
than `PASSES` is never suspect.

`benchmarks/suspects.py` measures how many of such rows are wrong, over three passes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dongu.config import NUMBERS, Task

PASSES = 3  # of a row, from which on its label can be called suspect: what the benchmark was made with
OUTLIER = 3.0  # typical errors, from which on a number is far off


@dataclass(frozen=True)
class Dynamics:
    """How the rows of train were learnt: one entry a row that was used, (rows,) each.

    `ids` are row numbers in the source. `score` is the mean over the row's uses of the probability of its own label
    (several labels: of the mean label; numbers: of the error), and `spread` the deviation over the uses.
    """

    ids: np.ndarray
    score: np.ndarray
    spread: np.ndarray
    judged: np.ndarray  # whether the row had `PASSES` uses
    suspect: np.ndarray  # whether the label may well be wrong; no row that is not judged
    limit: float  # of the score, where suspicion begins
    values: np.ndarray  # (uses,) the score at each use, row after row
    ends: np.ndarray  # (rows + 1,) where the uses of a row begin and end

    def history(self, place: int) -> list[float]:
        """The score of a row at each of its uses."""
        values: list[float] = self.values[self.ends[place] : self.ends[place + 1]].tolist()
        return values

    def worst(self, count: int) -> np.ndarray:
        """Places of the most suspect rows, the worst first."""
        found = np.flatnonzero(self.suspect)
        far = np.abs(self.score[found] - self.limit)
        return np.asarray(found[np.argsort(-far, kind="stable")][:count])


def learnt(records: np.ndarray, task: Task, labels: int) -> Dynamics | None:
    """What the records of `dynamics.bin` say of each row; None where there are none."""
    if len(records) == 0:
        return None
    order = np.argsort(records["row"], kind="stable")  # uses of a row stay in the order in which they were
    ids, starts = np.unique(records["row"][order], return_index=True)
    losses = np.maximum(records["loss"][order].astype(np.float64), 0.0)
    values = np.sqrt(losses) if task in NUMBERS else np.exp(-losses)
    ends = np.append(starts[1:], len(values))
    first = starts + (ends - starts > 1)  # the uses that count
    uses = ends - first
    sums, squares = (np.append(0.0, np.cumsum(each)) for each in (values, values**2))
    score = (sums[ends] - sums[first]) / uses
    spread = np.sqrt(np.maximum((squares[ends] - squares[first]) / uses - score**2, 0.0))
    last, judged = values[ends - 1], ends - starts >= PASSES
    if task in NUMBERS:
        limit = OUTLIER * math.sqrt(float((score**2).mean()))
        suspect = (score > limit) & (last > limit)
    else:
        guessing = 1 / labels if task == "single-label" else 0.5
        limit = min(guessing, 1 - float(score.mean()))
        suspect = (score < limit) & (last < limit)
    starts = np.append(starts, len(values))
    return Dynamics(ids.astype(np.int64), score, spread, judged, judged & suspect, limit, values, starts)
