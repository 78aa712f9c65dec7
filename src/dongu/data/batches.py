"""Which rows an update sees, and in which order; which rows a batch of evaluation has.

Both data sets below are functions of their index: update k of a run is the same whatever ran before it, on however
many processes, however it is split. So a run can go on from any update, and nothing needs to be remembered.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from dongu.data.collate import Collator, MicroBatch, MicroBatches, make_micro_batch
from dongu.data.order import BlockOrder, epoch_order, grouped_order
from dongu.data.tokenized import Split
from dongu.draws import dropout_seed, seed_draws, seed_python
from dongu.errors import UsageError

USUAL_TOKENS = 128  # a row in evaluation: the room that `--eval-batch-size` counts in
# Of like lengths are rows of at most so many times the tokens of the shortest, once a batch has so many rows: in one
# batch a graph would compute 64 sentences padded to the longest (the table of docs/serve.md).
_ALIKE, _ENOUGH = 1.5, 8


def _seed_collate(collate: Any, seed: int, index: int) -> None:
    """What a collate of the user's own draws is a function of (seed, index), also in data workers."""
    if not isinstance(collate, Collator):
        number = dropout_seed(seed, index + 1, 0)
        seed_python(number)
        seed_draws(torch.device("cpu"), number)


@dataclass(eq=False, repr=False)
class TrainUpdates(Dataset[MicroBatches]):
    """Item k is the k-th update of the run (from 0) as this process sees it.

    An update takes the next `batch_size` rows of its epoch's order; the last one of an epoch takes what is left.
    The rows are dealt to the processes in runs of near equal length, and cut into micro-batches there. `row_weights`,
    (rows,), says how much each row of the split counts in the loss, where it is not 1. What is assigned to an attribute
    holds from the next item on, also in data workers, if the loop is asked for it: `version` counts the assignments.
    """

    split: Split
    collate: Any
    _: KW_ONLY
    seed: int
    batch_size: int
    micro_batch_size: int
    group_by_length: bool = False
    row_weights: np.ndarray | None = None
    process: int = 0
    processes: int = 1
    as_many_passes: bool = False  # on every process, where forward passes are collective
    drawn_rows: int | None = None  # of an epoch, where an order of the user's own decides
    version = 0

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name not in ("_order", "version"):
            self._order: tuple[int, Any] = (-1, None)  # the last epoch asked for, so that it is drawn once
            self.version += 1

    @property
    def epoch_rows(self) -> int:
        return len(self.split) if self.drawn_rows is None else self.drawn_rows

    @property
    def steps_per_epoch(self) -> int:
        """Updates that see the rows of an epoch once."""
        return math.ceil(self.epoch_rows / self.batch_size)

    def rows(self, index: int) -> np.ndarray:
        """The rows of update `index` over all processes, (examples,)."""
        epoch, place = divmod(index, self.steps_per_epoch)
        if self._order[0] != epoch:
            order = self.order(epoch)
            self._order = (epoch, order if isinstance(order, BlockOrder) else self._checked(order, epoch))
        rows: np.ndarray = self._order[1][place * self.batch_size : (place + 1) * self.batch_size]
        return rows

    def _checked(self, order: Any, epoch: int) -> np.ndarray:
        rows = np.asarray(order)
        if rows.shape != (self.epoch_rows,) or rows.dtype.kind not in "iu":
            what = f"epoch {epoch} has {rows.dtype} of shape {rows.shape}, not {self.epoch_rows:,} positions of rows"
        elif len(rows) and not 0 <= rows.min() <= rows.max() < len(self.split):
            what = f"epoch {epoch} has rows {rows.min()} to {rows.max()}, of {len(self.split):,}"
        elif "order" in vars(self) and not np.array_equal(rows, self.order(epoch)):
            hint = "draw by seed and epoch: np.random.default_rng([seed, epoch]).permutation(rows)"
            raise UsageError("gives other rows each time that it is asked", where="order", hint=hint)
        else:
            return rows
        raise UsageError(what, where="order", hint="whole numbers from 0; each epoch has as many as the first")

    def order(self, epoch: int) -> Any:
        """The rows of an epoch, (rows,): an array, or a `BlockOrder` of prepared rows."""
        if self.split.block_rows is not None and not self.group_by_length:
            return BlockOrder(len(self.split), self.split.block_rows, self.seed, epoch)
        if self.group_by_length:
            return grouped_order(self.split.tokens.lengths, self.batch_size, self.seed, epoch)
        return epoch_order(len(self.split), self.seed, epoch)

    def __getitem__(self, index: int) -> MicroBatches:
        _seed_collate(self.collate, self.seed, index)
        rows = self.rows(index)
        shares = np.array_split(rows, self.processes) if self.processes > 1 else [rows]
        own = shares[self.process]
        weight = float(len(rows) if self.row_weights is None else self.row_weights[rows].sum())
        epoch = index // self.steps_per_epoch
        position = sum(len(share) for share in shares[: self.process])
        micro_batches = [
            self.micro_batch(own[start : start + self.micro_batch_size], epoch, position + start)
            for start in range(0, len(own), self.micro_batch_size)
        ]
        # Every process takes part in every update: DDP waits for all, and FSDP at each pass.
        passes = math.ceil(len(shares[0]) / self.micro_batch_size) if self.as_many_passes else 1
        while len(micro_batches) < passes:
            micro_batches.append(self.micro_batch(rows[:1], epoch, position, examples=0))
        return MicroBatches(micro_batches, rows, weight)

    def micro_batch(self, rows: np.ndarray, epoch: int, position: int, examples: int | None = None) -> MicroBatch:
        """These rows as a forward pass takes them; the arguments are those of a `MicroBatch`."""
        pieces = self.split.drawn(rows, self.seed, epoch)
        return replace(make_micro_batch(self.split.pieces, self.collate, pieces, position, examples), rows=rows)


class EvalBatches(Dataset[MicroBatch]):
    """Item k is the k-th batch of a split, in the order of the rows' lengths, so that little is padded.

    A batch takes as many rows as make `batch_size` rows of `USUAL_TOKENS`: many short ones, few long ones. It is
    computed whole by one process, so its bits do not depend on how many there are. Answers are put back by `rows`,
    which are positions in `pieces`: those of the split, or windows of its rows.
    Where that is wanted (`alike`), the rows of a batch have like lengths, also where that makes more batches.
    """

    def __init__(self, split: Split, collate: Collator, batch_size: int, *, alike: bool = False) -> None:
        self.split, self.pieces = split, split.pieces
        self.collate = collate
        self._order = np.argsort(self.pieces.tokens.lengths, kind="stable")
        self._starts = [0] if len(split) else []
        shortest = math.inf
        for place, longest in enumerate(self.pieces.tokens.lengths[self._order].tolist()):  # the longest so far
            rows = place - self._starts[-1]
            shortest = shortest if rows else longest
            full = rows and (rows + 1) * longest > batch_size * USUAL_TOKENS
            if full or (alike and rows >= _ENOUGH and longest > _ALIKE * shortest):
                self._starts.append(place)
                shortest = longest

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> MicroBatch:
        _seed_collate(self.collate, 0, index)
        start, *more = self._starts[index : index + 2]
        return make_micro_batch(self.pieces, self.collate, self._order[start : more[0] if more else None], start)
