"""Where the tokens of a micro-batch lie: flat, row after row, and in the dense blocks of attention on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dongu.errors import ModelError

SIZES_AN_OCTAVE = {"cpu": 16, "cuda": 8}  # of the numbers of tokens that occur, where few shall occur
REACH_STEP = 128  # tokens that a block of flash attention takes at a time
CELLS_OF_PADDING = 6000  # cost attention as much as one more block does (`benchmarks/pieces.py`)
MASKED = -1e30  # added to a score: none of its weight is left, and where a row sees nothing at all there is no NaN


@dataclass(frozen=True)
class Rows:
    """Where each row of a micro-batch lies: shorter rows first, so that rows of like lengths are neighbours.

    After them comes at least one filler, a token that no row contains and no logit depends on; on CUDA fillers are rows
    of their own. A filler is what attention reads where a row of a block has ended; no gradient comes back to it.
    """

    heads: int  # of attention
    rounded: bool  # whether sizes are rounded up, so that few different ones occur
    lengths: tuple[int, ...]  # tokens of each row, in order of length; () where nothing may depend on them
    reach: int  # tokens of the longest row, or some more
    spare: int  # a filler, or a token of the caller's last row
    source: Tensor  # (tokens,) place of each token in the caller's flat order; of fillers, the one after all
    row: Tensor  # (tokens,) the row that a token belongs to
    position: Tensor  # (tokens,) from 0 in every row
    offsets: Tensor  # (batch + 1,) where rows begin, and the end
    place: Tensor  # (batch,) where the caller's rows are in the order of length

    @staticmethod
    def of(lengths: Sequence[int], heads: int, rounded: bool = False, fillers: int | None = None) -> Rows:
        """The layout of rows with so many tokens each, on the host.

        Args:
            lengths: tokens of each row.
            heads: of the model's attention.
            rounded: whether fillers bring the number of tokens up to one of `SIZES_AN_OCTAVE`.
            fillers: their number, if it is not the least; at 0 the last row must be one that no logit depends on.
        """
        given = np.asarray(lengths, dtype=np.int64)
        order = np.argsort(given, kind="stable")
        ordered = given[order]
        row = np.repeat(np.arange(len(given)), ordered)
        offsets = np.concatenate([[0], np.cumsum(ordered)])
        position = np.arange(len(row)) - offsets[row]
        source = (np.cumsum(given) - given)[order][row] + position
        place = np.argsort(order)
        spare = int(offsets[place[-1]])
        if fillers is None:
            fillers = 1 + -(len(row) + 1) % (step_of(len(row), "cpu") if rounded else 1)
            spare = len(row) + fillers - 1
        source = np.pad(source, (0, fillers), constant_values=len(row))
        row, position = (np.pad(array, (0, fillers)) for array in (row, position))
        tensors = map(torch.from_numpy, (source, row, position, offsets, place))
        reach = min(-(-int(ordered[-1]) // REACH_STEP) * REACH_STEP, len(row))
        return Rows(heads, rounded, tuple(ordered.tolist()), reach, spare, *tensors)

    def to(self, device: torch.device) -> Rows:
        """With its tensors there."""
        tensors = (self.source, self.row, self.position, self.offsets, self.place)
        there = (tensor.to(device) for tensor in tensors)
        return Rows(self.heads, self.rounded, self.lengths, self.reach, self.spare, *there)

    @property
    def tokens(self) -> int:
        """Without fillers."""
        return sum(self.lengths)

    @property
    def first(self) -> Tensor:
        """The first token of each row, (batch,)."""
        return self.offsets[:-1]

    @cached_property
    def ends(self) -> Tensor:
        """`offsets` as a GPU's attention takes them, int32."""
        return self.offsets.int()

    @cached_property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """(rows, longest) of the neighbours that attention computes together, in the order of the rows.

        Raises:
            ModelError: nothing may depend on the lengths.
        """
        if not self.lengths:
            raise ModelError("its attention is laid out anew for each micro-batch")
        step = 16 if self.rounded else 1
        blocks: list[tuple[int, int]] = []
        spare = 0
        for length in reversed(self.lengths):
            if blocks and (padding := blocks[-1][1] ** 2 - length**2) <= spare:
                spare -= padding
                blocks[-1] = (blocks[-1][0] + 1, blocks[-1][1])
            else:
                spare = CELLS_OF_PADDING
                blocks.append((1, -(-length // step) * step))
        return tuple(reversed(blocks))

    @property
    def longest(self) -> int:
        """Tokens of the longest row as attention sees it."""
        return self.blocks[-1][1]

    @cached_property
    def cells(self) -> Cells:
        """Where attention finds the tokens."""
        return Cells.of(self)

    def mean(self, hidden: Tensor) -> Tensor:
        """The mean over each row's tokens, (tokens, hidden) → (batch, hidden)."""
        count = self.offsets.diff()[:, None]  # (batch, 1)
        place = torch.arange(len(hidden), device=hidden.device)
        inside = (place >= self.first[:, None]) & (place < self.offsets[1:, None])  # (batch, tokens)
        with torch.autocast(hidden.device.type, enabled=False):
            return (inside / count).to(hidden.dtype) @ hidden


def step_of(tokens: int, device: str) -> int:
    """From one of the sizes near this number of tokens to the next, where `SIZES_AN_OCTAVE` occur."""
    return int(2 ** max(0, tokens.bit_length() - SIZES_AN_OCTAVE[device].bit_length()))


@dataclass(frozen=True)
class Cells:
    """The tokens of a micro-batch in dense blocks, (rows, heads, longest) each, one after the other.

    Both places count a token once for each head: token * heads + head.
    """

    tokens: Tensor  # (cells,) what is in each cell; where a row has ended, the spare one
    places: Tensor  # (tokens * heads,) the cell that each is in; of fillers any
    masks: tuple[Tensor, ...]  # of each block, (rows * heads, 1, longest): MASKED where a row has ended, else 0

    @staticmethod
    def of(rows: Rows) -> Cells:
        """The blocks of these rows."""
        lengths, head = np.array(rows.lengths), np.arange(rows.heads)
        tokens, places, masks = [], [], []
        row = token = cell = 0
        for count, longest in rows.blocks:
            real = np.arange(longest) < lengths[row : row + count, None]  # (rows, longest)
            laid = np.full(real.shape, rows.spare)
            laid[real] = np.arange(token, token + real.sum())
            tokens.append((laid[:, None] * rows.heads + head[:, None]).ravel())
            first = cell + np.arange(count)[:, None] * rows.heads * longest + np.arange(longest)  # of head 0
            places.append((first[real][:, None] + head * longest).ravel())
            masks.append(np.where(real, np.float32(0), np.float32(MASKED)).repeat(rows.heads, axis=0)[:, None])
            row, token, cell = row + count, token + int(real.sum()), cell + real.size * rows.heads
        fillers = np.zeros((len(rows.row) - token) * rows.heads, dtype=np.int64)
        arrays = (np.concatenate(tokens), np.concatenate([*places, fillers]), *masks)
        on_device = [torch.from_numpy(array).to(rows.row.device, non_blocking=True) for array in arrays]
        return Cells(on_device[0], on_device[1], tuple(on_device[2:]))
