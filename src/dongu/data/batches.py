"""Which rows an update sees, in which order, and how they become tensors.

Both data sets below are functions of their index: update k of a run is the same whatever ran before it, on however
many processes, however it is split. So a run can go on from any update, and nothing needs to be remembered.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dongu.config import RunConfig
from dongu.data.order import epoch_order, grouped_order
from dongu.data.tokens import Tokens, tokenize
from dongu.errors import UsageError, WorkerError

USUAL_TOKENS = 128  # a row in evaluation: the room that `--eval-batch-size` counts in
WORKER_TIMEOUT_SECONDS = 8  # a batch takes milliseconds
FLAT = ("input_ids", "token_type_ids", "lengths")  # what the padding-free form takes from the host


@dataclass(frozen=True)
class Split:
    """One tokenized split: row numbers in the source (rows,), tokens, targets (rows, …) unless hidden, and numeric
    columns beside the text, (rows,) float32 each."""

    name: str
    ids: np.ndarray
    tokens: Tokens
    targets: np.ndarray | None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    windows: Tokens | None = None  # under `--long windows`, of which `tokens` has each row's first

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def pieces(self) -> Split:
        """What a forward pass takes rows of: this split, or its windows, each with the target of its row."""
        if self.windows is None:
            return self
        row_of = np.repeat(np.arange(len(self)), np.diff(self._starts))
        targets = None if self.targets is None else self.targets[row_of]
        columns = {name: numbers[row_of] for name, numbers in self.columns.items()}
        return Split(self.name, self.ids[row_of], self.windows, targets, columns)

    @cached_property
    def _starts(self) -> np.ndarray:
        """The first window of each row, and the number of all, (rows + 1,)."""
        flags = np.empty(0, bool) if self.windows is None else self.windows.truncated
        return np.append(np.flatnonzero(~flags), len(flags))

    def drawn(self, rows: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """The piece that each of some rows is trained on in an epoch, (rows,): a function of (seed, epoch, row).

        From a window that the seed draws, each epoch takes the next one, so all come equally often.
        """
        if self.windows is None:
            return rows
        first, counts = self._starts[rows], np.diff(self._starts)[rows]
        mixed = (rows.astype(np.uint64) + np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        begun = (mixed >> np.uint64(33)).astype(np.int64)
        drawn: np.ndarray = first + (begun + epoch) % counts
        return drawn

    def pooled(self, logits: np.ndarray) -> np.ndarray:
        """The mean of the logits of each row's pieces, (rows, labels) fp32."""
        if self.windows is None:
            return logits
        sums = np.add.reduceat(logits.astype(np.float64), self._starts[:-1], axis=0)
        return (sums / np.diff(self._starts)[:, None]).astype(np.float32)


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass gets.

    `tensors` are the model's own inputs, (batch, tokens) each, and `labels` (batch, …) where they are known:
    `model(**tensors)` is the textbook's call. Flat ones are (tokens,) each, with `lengths` (batch,). `rows` are
    positions in the split, (batch,). `position` counts the examples of the update that come before, over all
    processes. `examples` is 0 for the stand-in row of a process that has no row of its own in a short update.
    """

    tensors: dict[str, Tensor]
    rows: np.ndarray
    position: int
    examples: int
    tokens: int
    padded_tokens: int  # when each row is padded to the longest

    def to(self, device: torch.device) -> dict[str, Tensor]:
        """The tensors on the device; the copy overlaps with computing where the memory is pinned.

        Of flat ones the labels alone: the padding-free form lays the others out on the host, and sends them itself.
        """
        return {
            name: tensor.to(device, non_blocking=True) if self._travels(name) else tensor
            for name, tensor in self.tensors.items()
        }

    def pin_memory(self) -> MicroBatch:
        """For `DataLoader(pin_memory=True)`."""
        pinned = {name: tensor.pin_memory() if self._travels(name) else tensor for name, tensor in self.tensors.items()}
        return replace(self, tensors=pinned)

    def _travels(self, name: str) -> bool:
        return name not in FLAT or "lengths" not in self.tensors


@dataclass(frozen=True)
class MicroBatches:
    """The micro-batches of one optimizer update that fall to this process.

    `rows` are those of all processes, (examples,), and `weight` is what they count in the loss: their number, or the
    sum of their weights.
    """

    micro_batches: list[MicroBatch]
    rows: np.ndarray
    weight: float

    @property
    def examples(self) -> int:
        """Of all processes."""
        return len(self.rows)

    def pin_memory(self) -> MicroBatches:
        """For `DataLoader(pin_memory=True)`."""
        return replace(self, micro_batches=[micro_batch.pin_memory() for micro_batch in self.micro_batches])


@dataclass(frozen=True)
class Collator:
    """Pads rows to the longest of their batch, on the tokenizer's side, with the model's columns only.

    A flat one does not pad: it lays the rows one after the other.
    """

    columns: tuple[str, ...]
    pad_token_id: int
    pad_token_type_id: int
    padding_side: str
    flat: bool = False
    numeric: tuple[str, ...] = ()  # columns beside the text that the model's forward takes

    @staticmethod
    def of(tokenizer: Any, columns: tuple[str, ...]) -> Collator:
        """The collator that pads as this tokenizer would."""
        return Collator(columns, tokenizer.pad_token_id, tokenizer.pad_token_type_id, tokenizer.padding_side)

    def __call__(self, split: Split, rows: np.ndarray) -> dict[str, Tensor]:
        """Tensors of shape (batch, longest), int64, and `labels` (batch, …)."""
        arrays = self._lay_flat(split, rows) if self.flat else self._pad(split, rows)
        columns = (*self.columns, "lengths")
        tensors = {name: torch.from_numpy(arrays[name].astype(np.int64)) for name in columns if name in arrays}
        tensors |= {name: torch.from_numpy(split.columns[name][rows]) for name in self.numeric}
        if split.targets is not None:
            tensors["labels"] = torch.from_numpy(split.targets[rows])
        return tensors

    def _lay_flat(self, split: Split, rows: np.ndarray) -> dict[str, np.ndarray]:
        """(tokens,) each, and `lengths` (batch,)."""
        starts = split.tokens.offsets[rows]
        lengths = split.tokens.offsets[rows + 1] - starts
        shifts = starts - (np.cumsum(lengths) - lengths)  # from a place in the batch to one in the split
        source = np.arange(lengths.sum()) + np.repeat(shifts, lengths)
        arrays = {"input_ids": split.tokens.input_ids[source], "lengths": lengths}
        if split.tokens.token_type_ids is not None:
            arrays["token_type_ids"] = split.tokens.token_type_ids[source]
        return arrays

    def _pad(self, split: Split, rows: np.ndarray) -> dict[str, np.ndarray]:
        """(batch, longest) each."""
        starts = split.tokens.offsets[rows]
        lengths = split.tokens.offsets[rows + 1] - starts
        places = np.arange(lengths.max())[None, :]  # (1, longest)
        if self.padding_side == "left":
            places = places - (lengths.max() - lengths)[:, None]  # (batch, longest), negative on padding
        real = (places >= 0) & (places < lengths[:, None])  # (batch, longest)
        source = np.where(real, starts[:, None] + places, 0)
        arrays = {
            "input_ids": np.where(real, split.tokens.input_ids[source], self.pad_token_id),
            "attention_mask": real,
        }
        if split.tokens.token_type_ids is not None:
            types = split.tokens.token_type_ids[source]
            arrays["token_type_ids"] = np.where(real, types, self.pad_token_type_id)
        return arrays


@dataclass(frozen=True)
class Batch:
    """What a loss of your own gets beside the model: one micro-batch, on the device.

    `inputs` are what the model takes, `model(**batch.inputs)`; `labels` (rows, …) in their own unit; `rows` (rows,)
    int64, positions in the training split; `columns` (rows,) fp32 each, by name; `step` counts updates from 1.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    rows: Tensor
    columns: dict[str, Tensor]
    step: int


def dropout_seed(seed: int, step: int, position: int, again: int = 0) -> int:
    """The seed of one micro-batch's dropout: a function of where it stands in the run, 32 bits.

    Args:
        seed: of the run.
        step: the update, from 1.
        position: examples of the update that come before.
        again: backward passes of the same update that came before.
    """
    return zlib.crc32(f"{seed}/{step}/{position}{f'/{again}' if again else ''}".encode())


class TrainUpdates(Dataset[MicroBatches]):
    """Item k is the k-th update of the run (from 0) as this process sees it.

    An update takes the next `batch_size` rows of its epoch's order; the last one of an epoch takes what is left.
    The rows are dealt to the processes in runs of near equal length, and cut into micro-batches there. `row_weights`,
    (rows,), says how much each row of the split counts in the loss, where it is not 1. What is assigned to an attribute
    holds from the next item on, also in data workers, if the loop is asked for it: `version` counts the assignments.
    """

    version = 0

    def __init__(
        self,
        split: Split,
        collate: Collator,
        *,
        seed: int,
        batch_size: int,
        micro_batch_size: int,
        group_by_length: bool = False,
        row_weights: np.ndarray | None = None,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.split = split
        self.collate: Any = collate
        self.seed = seed
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self.group_by_length = group_by_length
        self.row_weights = row_weights
        self.process = process
        self.processes = processes
        self.drawn_rows: int | None = None  # of an epoch, where an order of the user's own decides

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name not in ("_order", "version"):
            self._order = (-1, np.empty(0, dtype=np.int64))  # the last epoch asked for, so that it is drawn once
            self.version += 1

    @property
    def epoch_rows(self) -> int:
        """Rows of an epoch."""
        return len(self.split) if self.drawn_rows is None else self.drawn_rows

    @property
    def steps_per_epoch(self) -> int:
        """Updates that see the rows of an epoch once."""
        return math.ceil(self.epoch_rows / self.batch_size)

    def rows(self, index: int) -> np.ndarray:
        """The rows of update `index` over all processes, (examples,)."""
        epoch, place = divmod(index, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, self._checked(self.order(epoch), epoch))
        return self._order[1][place * self.batch_size : (place + 1) * self.batch_size]

    def _checked(self, order: Any, epoch: int) -> np.ndarray:
        rows = np.asarray(order)
        if rows.shape != (self.epoch_rows,) or rows.dtype.kind not in "iu":
            what = f"epoch {epoch} has {rows.dtype} of shape {rows.shape}, not {self.epoch_rows:,} positions of rows"
        elif len(rows) and not 0 <= rows.min() <= rows.max() < len(self.split):
            what = f"epoch {epoch} has rows {rows.min()} to {rows.max()}, of {len(self.split):,}"
        else:
            return rows
        raise UsageError(what, where="order", hint="each epoch has as many rows as the first, from 0")

    def order(self, epoch: int) -> np.ndarray:
        """The rows of an epoch, (rows,)."""
        if self.group_by_length:
            return grouped_order(self.split.tokens.lengths, self.batch_size, self.seed, epoch)
        return epoch_order(len(self.split), self.seed, epoch)

    def __getitem__(self, index: int) -> MicroBatches:
        rows = self.rows(index)
        shares = np.array_split(rows, self.processes)
        own = shares[self.process]
        weight = float(len(rows) if self.row_weights is None else self.row_weights[rows].sum())
        epoch = index // self.steps_per_epoch
        position = sum(len(share) for share in shares[: self.process])
        if len(own) == 0:  # every process takes part in every update: DDP waits for all
            return MicroBatches([self._micro_batch(rows[:1], epoch, position, examples=0)], rows, weight)
        micro_batches = [
            self._micro_batch(own[start : start + self.micro_batch_size], epoch, position + start)
            for start in range(0, len(own), self.micro_batch_size)
        ]
        return MicroBatches(micro_batches, rows, weight)

    def _micro_batch(self, rows: np.ndarray, epoch: int, position: int, examples: int | None = None) -> MicroBatch:
        pieces = self.split.drawn(rows, self.seed, epoch)
        return replace(make_micro_batch(self.split.pieces, self.collate, pieces, position, examples), rows=rows)


class EvalBatches(Dataset[MicroBatch]):
    """Item k is the k-th batch of a split, in the order of the rows' lengths, so that little is padded.

    A batch takes as many rows as make `batch_size` rows of `USUAL_TOKENS`: many short ones, few long ones. It is
    computed whole by one process, so its bits do not depend on how many there are. Answers are put back by `rows`,
    which are positions in `pieces`: those of the split, or windows of its rows.
    """

    def __init__(self, split: Split, collate: Collator, batch_size: int) -> None:
        self.split, self.pieces = split, split.pieces
        self.collate = collate
        self._order = np.argsort(self.pieces.tokens.lengths, kind="stable")
        self._starts = [0] if len(split) else []
        for place, longest in enumerate(self.pieces.tokens.lengths[self._order]):  # the last row so far is the longest
            if (place + 1 - self._starts[-1]) * int(longest) > batch_size * USUAL_TOKENS and place > self._starts[-1]:
                self._starts.append(place)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> MicroBatch:
        start, *more = self._starts[index : index + 2]
        return make_micro_batch(self.pieces, self.collate, self._order[start : more[0] if more else None], start)


def tokenized(
    tokenizer: Any,
    texts: Sequence[Sequence[str]],
    config: RunConfig,
    name: str,
    ids: np.ndarray,
    targets: np.ndarray | None = None,
    columns: Mapping[str, np.ndarray] | None = None,
    *,
    cache: bool = True,
) -> Split:
    """Rows as the model reads them: what `--long` says of those that are longer than `--max-length`.

    Raises:
        UsageError: pairs have no windows, and are cut at one end.
    """
    length, long = config.max_length or 0, config.long
    if len(texts) == 2 and long in ("head+tail", "windows"):
        raise UsageError("pairs of texts are cut at one end", where=f"--long {long}", hint="give head or tail")
    tokens = tokenize(tokenizer, texts, length, long="head" if long == "windows" else long, cache=cache)
    windows = tokenize(tokenizer, texts, length, long=long, cache=cache) if long == "windows" else None
    return Split(name, ids, tokens, targets, columns or {}, windows)


def make_micro_batch(
    split: Split, collate: Collator, rows: np.ndarray, position: int, examples: int | None = None
) -> MicroBatch:
    """Gather, pad and count the rows."""
    lengths = split.tokens.offsets[rows + 1] - split.tokens.offsets[rows]
    return MicroBatch(
        tensors=collate(split, rows),
        rows=rows,
        position=position,
        examples=len(rows) if examples is None else examples,
        tokens=int(lengths.sum()),
        padded_tokens=int(lengths.max()) * len(rows),
    )


class BatchLoader(DataLoader[Any]):
    """A DataLoader whose workers, when they die, fail or hang, end the iteration with a `WorkerError`."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator is all that a loop needs
        former = signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL  # None: it was not set from Python
        iterator = super().__iter__()
        if self.num_workers == 0:
            yield from iterator
            return
        workers = iterator._workers  # type: ignore[attr-defined]
        if in_main_thread := threading.current_thread() is threading.main_thread():
            # PyTorch's handler raises where it comes when a worker dies: in the middle of an update, or of a save.
            signal.signal(signal.SIGCHLD, former)
        try:
            for _ in range(len(self)):
                with _death_noticed(workers) if in_main_thread else contextlib.nullcontext():
                    batch = next(iterator)
                yield batch
        except Exception as error:
            for worker in workers:
                worker.kill()  # PyTorch would give each that hangs five more seconds
            raise WorkerError(
                f"a data worker failed: {(str(error).strip() or type(error).__name__).splitlines()[-1]}",
                where=f"--workers {self.num_workers}",
                hint="`dongu resume RUN --workers 0` goes on without workers",
            ) from error


@contextlib.contextmanager
def _death_noticed(workers: Sequence[Any]) -> Iterator[None]:
    """Inside the block the death of a worker is an error at once, not after the time-out."""

    def look(*_: object) -> None:
        for worker in workers:
            if not worker.is_alive():
                raise RuntimeError(f"process {worker.pid} ended with {worker.exitcode}")

    former = signal.signal(signal.SIGCHLD, look) or signal.SIG_DFL
    try:
        look()
        yield
    finally:
        signal.signal(signal.SIGCHLD, former)


def make_dataloader(dataset: Dataset[Any], indices: Sequence[int], *, workers: int, pin_memory: bool) -> BatchLoader:
    """A DataLoader that yields `dataset[i]` for the indices in their order; batches are made by the data set."""
    return BatchLoader(
        dataset,
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        pin_memory=pin_memory,
        collate_fn=_as_it_is,
        timeout=WORKER_TIMEOUT_SECONDS if workers else 0,
        worker_init_fn=_belong_to_the_run,
    )


def _belong_to_the_run(_: int) -> None:
    """A worker waits until the run, which gets the same signals, has come to the end of its step; it ends with it."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_run, daemon=True).start()


def _end_with_the_run() -> None:
    """PyTorch's worker asks only after its start who its parent is: had that been killed before, it would wait on."""
    if (run := multiprocessing.parent_process()) is not None:
        run.join()
        os._exit(1)


def _as_it_is(item: Any) -> Any:
    return item
