"""A split as the model reads it: tokens, targets, and the windows of long texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from dongu.config import RunConfig
from dongu.data.tokens import Tokens, tokenize
from dongu.errors import UsageError


class NumericColumns(dict[str, Any]):
    """Numbers beside the text, by the name of their column."""

    def __missing__(self, name: str) -> Any:
        what = f"there is no column `{name}` beside the text, of those that are read: {', '.join(self) or 'none'}"
        raise UsageError(what, hint=f"columns={[*self, name]!r}")


@dataclass(frozen=True)
class Split:
    """One tokenized split: row numbers in the source (rows,), tokens, targets (rows, …) unless hidden, and numeric
    columns beside the text, (rows,) float32 each."""

    name: str
    ids: np.ndarray
    tokens: Tokens
    targets: np.ndarray | None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    block_rows: int | None = field(default=None, kw_only=True)  # that lie together; None where all are in memory
    windows: Tokens | None = None  # under `--long windows`, of which `tokens` has each row's first

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", NumericColumns(self.columns))

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
