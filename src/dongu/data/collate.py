"""Rows of a split as the tensors of a forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dongu.data.tokenized import Split
from dongu.errors import UsageError
from dongu.text import kind_of_part

BY_TOKEN = ("input_ids", "attention_mask", "token_type_ids")  # what a padded row has a cell a token of
EACH_ROW = "one row of each tensor and one label for each of `rows`, in their order: split.targets[rows]"
FLAT = ("input_ids", "token_type_ids", "lengths")  # what the padding-free form takes from the host


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
        starts, lengths = split.tokens.spans(rows)
        shifts = starts - (np.cumsum(lengths) - lengths)  # from a place in the batch to one in the split
        source = np.arange(lengths.sum()) + np.repeat(shifts, lengths)
        arrays = {"input_ids": split.tokens.input_ids[source], "lengths": lengths}
        if split.tokens.token_type_ids is not None:
            arrays["token_type_ids"] = split.tokens.token_type_ids[source]
        return arrays

    def _pad(self, split: Split, rows: np.ndarray) -> dict[str, np.ndarray]:
        """(batch, longest) each."""
        starts, lengths = split.tokens.spans(rows)
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


def make_micro_batch(
    split: Split, collate: Any, rows: np.ndarray, position: int, examples: int | None = None
) -> MicroBatch:
    """Gather, pad and count the rows.

    Raises:
        UsageError: what a collate of the user's own gives has other rows, or the same in another order.
    """
    tensors = collated(collate, split, rows)
    if not isinstance(collate, Collator) and split.targets is not None:
        _check_labels(tensors, split.targets[rows])
    _, lengths = split.tokens.spans(rows)
    return MicroBatch(
        tensors=tensors,
        rows=rows,
        position=position,
        examples=len(rows) if examples is None else examples,
        tokens=int(lengths.sum()),
        padded_tokens=int(lengths.max()) * len(rows),
    )


def collated(collate: Any, split: Split, rows: np.ndarray) -> dict[str, Tensor]:
    """What a collate makes of rows of a split.

    Raises:
        UsageError: one of the user's own gives no tensors by name, ids that are no integers, or other rows.
    """
    tensors: dict[str, Tensor] = collate(split, rows)
    if not isinstance(collate, Collator) and (what := next(_faults(tensors, len(rows)), None)):
        raise UsageError(f"gives {what}", where="collate", hint=EACH_ROW)
    return tensors


def _faults(tensors: Any, rows: int) -> Iterator[str]:
    """What is wrong with the tensors of a collate of the user's own, after `gives`."""
    if not isinstance(tensors, Mapping):
        yield f"{kind_of_part(tensors)}, not a dict of tensors by name"
        return
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            yield f"{kind_of_part(tensor)} as `{name}`, not a tensor"
        elif name == "input_ids" and tensor.is_floating_point():
            yield f"{kind_of_part(tensor)} as `{name}`, not token ids of int64"
        elif name in BY_TOKEN and "lengths" not in tensors and (tensor.dim() < 2 or len(tensor) != rows):
            yield f"{kind_of_part(tensor)} as `{name}`, not of shape ({rows}, tokens)"
        elif name in BY_TOKEN and tensor.shape != getattr(tensors.get("input_ids"), "shape", tensor.shape):
            yield f"{kind_of_part(tensor)} as `{name}`, and `input_ids` of shape {tuple(tensors['input_ids'].shape)}"


def _check_labels(tensors: dict[str, Tensor], targets: np.ndarray) -> None:
    labels = tensors["labels"].cpu().numpy() if "labels" in tensors else np.empty(0)
    if len(labels) != len(targets):
        what = f"gives {len(labels)} labels for {len(targets)} rows"
    elif labels.shape == targets.shape and np.array_equal(np.sort(labels, 0), np.sort(targets, 0)):
        if np.array_equal(labels, targets):
            return
        what = "gives the rows in another order"
    else:
        return  # labels of the user's own making
    raise UsageError(what, where="collate", hint=EACH_ROW)
