"""Where the tokens of a micro-batch lie: flat, row after row, and in the dense blocks of attention on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dongu.errors import ModelError

SIZES_AN_OCTAVE = {"cpu": 16, "cuda": 8}  # different numbers of tokens between n and 2n, where sizes are rounded up
FLASH_BLOCK = 128  # tokens that one block of flash attention covers
CELLS_OF_PADDING = 6000  # padded scores that cost as much as one more block does (`benchmarks/pieces.py`)
MASKED = -1e30  # added to a masked score: its weight becomes 0, and a row where all is masked gives no NaN


@dataclass(frozen=True)
class Layout:
    """Where each row of a micro-batch lies: shorter rows first, so that rows of like lengths are neighbours.

    After the rows come fillers, at least one: tokens that belong to no row and that no logit depends on. On CUDA the
    fillers are rows of their own. Attention reads a filler in the padded cells of a block; its gradient is zero.
    """

    heads: int  # of attention
    rounded: bool  # whether sizes are rounded up, so that few different ones occur
    lengths: tuple[int, ...]  # tokens of each row, ascending; () where the computation must not depend on them
    max_seqlen: int  # tokens of the longest row, rounded up
    filler: int  # index of a filler, or of a token of the caller's last row
    source: Tensor  # (tokens,) index of each token in the caller's flat order; a filler's is one past the end
    row: Tensor  # (tokens,) the row that a token belongs to
    position_ids: Tensor  # (tokens,) from 0 in every row
    cu_seqlens: Tensor  # (batch + 1,) int64, the index at which each row begins, and the end of the last
    unsort: Tensor  # (batch,) index of each of the caller's rows in the order of length

    @staticmethod
    def of(lengths: Sequence[int], heads: int, rounded: bool = False, fillers: int | None = None) -> Layout:
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
        cu_seqlens = np.concatenate([[0], np.cumsum(ordered)])
        position_ids = np.arange(len(row)) - cu_seqlens[row]
        source = (np.cumsum(given) - given)[order][row] + position_ids
        unsort = np.argsort(order)
        filler = int(cu_seqlens[unsort[-1]])
        if fillers is None:
            fillers = 1 + -(len(row) + 1) % (size_step(len(row), "cpu") if rounded else 1)
            filler = len(row) + fillers - 1
        if fillers:
            source = np.append(source, np.full(fillers, len(row)))
            row, position_ids = (np.append(array, np.zeros(fillers, dtype=np.int64)) for array in (row, position_ids))
        tensors = map(torch.from_numpy, (source, row, position_ids, cu_seqlens, unsort))
        max_seqlen = min(-(-int(ordered[-1]) // FLASH_BLOCK) * FLASH_BLOCK, len(row))
        return Layout(heads, rounded, tuple(ordered.tolist()), max_seqlen, filler, *tensors)

    def to(self, device: torch.device) -> Layout:
        """The same layout with its tensors on the device."""
        tensors = (self.source, self.row, self.position_ids, self.cu_seqlens, self.unsort)
        moved = (tensor.to(device) for tensor in tensors)
        return Layout(self.heads, self.rounded, self.lengths, self.max_seqlen, self.filler, *moved)

    @property
    def tokens(self) -> int:
        """The number of tokens without fillers."""
        return sum(self.lengths)

    @property
    def first(self) -> Tensor:
        """Index of the first token of each row, (batch,)."""
        return self.cu_seqlens[:-1]

    @cached_property
    def cu_seqlens_int32(self) -> Tensor:
        """`cu_seqlens` in the type that a GPU's attention takes."""
        return self.cu_seqlens.int()

    @cached_property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """(rows, longest) of the neighbours that attention computes together, in the order of the rows.

        Raises:
            ModelError: the computation must not depend on the lengths.
        """
        if not self.lengths:
            raise ModelError("its attention has another layout for each micro-batch")
        step = 16 if self.rounded else 1
        blocks: list[tuple[int, int]] = []
        room = 0  # padded scores that the block at hand may still take
        for length in reversed(self.lengths):
            if blocks and (padding := blocks[-1][1] ** 2 - length**2) <= room:
                room -= padding
                blocks[-1] = (blocks[-1][0] + 1, blocks[-1][1])
            else:
                room = CELLS_OF_PADDING
                blocks.append((1, -(-length // step) * step))
        return tuple(reversed(blocks))

    @property
    def longest(self) -> int:
        """Tokens of the longest row in the blocks of attention, its padding included."""
        return self.blocks[-1][1]

    @cached_property
    def dense(self) -> DenseIndex:
        """Where the blocks of attention find the tokens."""
        return DenseIndex.of(self)

    def mean(self, hidden: Tensor) -> Tensor:
        """The mean over each row's tokens, (tokens, hidden) → (batch, hidden)."""
        count = self.cu_seqlens.diff()[:, None]  # (batch, 1)
        index = torch.arange(len(hidden), device=hidden.device)
        mask = (index >= self.first[:, None]) & (index < self.cu_seqlens[1:, None])  # (batch, tokens)
        with torch.autocast(hidden.device.type, enabled=False):
            return (mask / count).to(hidden.dtype) @ hidden


def size_step(tokens: int, device: str) -> int:
    """The difference between two neighbouring sizes near this number of tokens, where `SIZES_AN_OCTAVE` occur."""
    return int(2 ** max(0, tokens.bit_length() - SIZES_AN_OCTAVE[device].bit_length()))


@dataclass(frozen=True)
class DenseIndex:
    """The tokens of a micro-batch in dense blocks, (rows, heads, longest) each, one after the other.

    Both indices count a token once for each head: token * heads + head.
    """

    gather: Tensor  # (cells,) the token in each cell; the filler in padded cells
    scatter: Tensor  # (tokens * heads,) the cell of each token; of fillers any
    masks: tuple[Tensor, ...]  # of each block, (rows * heads, 1, longest): MASKED in padded cells, else 0

    @staticmethod
    def of(layout: Layout) -> DenseIndex:
        """The index of a layout's blocks."""
        heads, lengths, head = layout.heads, np.array(layout.lengths), np.arange(layout.heads)
        gather, scatter, masks = [], [], []
        row = token = cell = 0
        for count, longest in layout.blocks:
            real = np.arange(longest) < lengths[row : row + count, None]  # (rows, longest)
            tokens = np.full(real.shape, layout.filler)
            tokens[real] = np.arange(token, token + real.sum())
            gather.append((tokens[:, None] * heads + head[:, None]).ravel())
            cells = cell + np.arange(count)[:, None] * heads * longest + np.arange(longest)  # of head 0
            scatter.append((cells[real][:, None] + head * longest).ravel())
            masks.append(np.where(real, np.float32(0), np.float32(MASKED)).repeat(heads, axis=0)[:, None])
            row, token, cell = row + count, token + int(real.sum()), cell + real.size * heads
        fillers = np.zeros((len(layout.row) - token) * heads, dtype=np.int64)
        arrays = (np.concatenate(gather), np.concatenate([*scatter, fillers]), *masks)
        on_device = [torch.from_numpy(array).to(layout.row.device, non_blocking=True) for array in arrays]
        return DenseIndex(on_device[0], on_device[1], tuple(on_device[2:]))


def gather(flat: Tensor, layout: Layout) -> Tensor:
    """Tokens into the cells of the dense blocks, (tokens, heads, head_dim) → (cells, head_dim)."""
    return flat.flatten(0, 1).index_select(0, layout.dense.gather)


def scatter(dense: Tensor, layout: Layout) -> Tensor:
    """The reverse of `gather`; zero for fillers."""
    flat = dense.index_select(0, layout.dense.scatter).view(-1, layout.heads, dense.shape[-1])
    flat[layout.tokens :] = 0
    return flat


def split_blocks(dense: Tensor, layout: Layout) -> list[Tensor]:
    """A view of each block, (rows * heads, longest, head_dim), or (rows * heads, 1, head_dim) of one query a row."""
    first_only = len(dense) == len(layout.lengths) * layout.heads
    shapes = [(count * layout.heads, 1 if first_only else longest) for count, longest in layout.blocks]
    parts = torch.split(dense, [batch * length for batch, length in shapes])
    return [part.view(*shape, -1) for part, shape in zip(parts, shapes, strict=True)]


def masked_bias(mask: Tensor, bias: Tensor | None, query: Tensor) -> Tensor:
    """What is added to the scores of a block: its mask, and of a bias (heads, longest, longest) the part it needs."""
    if bias is not None:
        queries, longest = query.shape[1], mask.shape[-1]
        if bias.dim() == 2:  # it hides the padding too
            return bias[None, :queries, :longest].to(query.dtype)
        mask = (mask.view(-1, len(bias), 1, longest) + bias[:, :queries, :longest]).flatten(0, 1)
    return mask.to(query.dtype)
