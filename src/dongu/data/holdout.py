"""Which rows are held out: seeded, true to the labels, by whole texts and groups, or by time."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from dongu.config import NUMBERS, Task
from dongu.data.labels import words_among_numbers
from dongu.data.table import FEW_ROWS, MANY_CLASSES
from dongu.errors import DataError
from dongu.text import plain, shortened

HOLDOUT_FRACTION = 0.1
SALTS = {"validation": 0x5EED, "test": 0x7E57, "fold": 0xF01D}  # so that each draw is one of its own
ALONE = -1  # the group of a row that names none, and is one by itself


def hold_out(
    texts: Sequence[Sequence[str]],
    targets: np.ndarray,
    task: Task,
    names: Sequence[str],
    *,
    seed: int,
    origin: str,
    share: float = HOLDOUT_FRACTION,
    salt: int = SALTS["validation"],
    strict: bool = True,
) -> np.ndarray:
    """A share of each class, of each fifth of the range for numbers, or of the rows that have a label as their rarest.

    Rows with the same texts stay together: a model that has learnt one of them knows the others, and a validation that
    asks it says too much. Texts are drawn at random, and one is held out, with all its rows, where that brings its
    class nearer to the share. So where all texts differ it is that share of the rows, and at least one; and a text
    that has more than twice the share of them is learnt. A class of which nothing, or everything, would be held out in
    this way has too few texts for it, and is parted row by row: the doctor says which texts stand on both sides then.

    `texts` are a column each, `targets` (rows,) or (rows, labels). A class of one row is simply learnt where that is
    not `strict`ly an error.

    Returns:
        True for the rows held out, (rows,): a function of the texts, the targets and the seed.

    Raises:
        DataError: a class has one row, or there are too few rows.
    """
    strata = strata_of(targets, task)
    kinds, counts = np.unique(strata, return_counts=True)
    if strict and task == "single-label" and counts.min() < 2:
        raise _of_one_row(names[int(kinds[counts < 2][0])], names, origin, joined_by(counts.tolist()))
    random = np.random.default_rng([seed, salt])
    parts = [random.permutation(np.flatnonzero(strata == kind)) for kind in kinds]
    wanted = [min(max(1, round(len(part) * share)), len(part) - 1) for part in parts]  # of an outlier: none
    held = _drawn(first_copies(texts), parts, wanted)
    if not held.any():
        raise DataError("there are too few rows to hold some out", where=origin, hint="add rows, or a validation file")
    return held


def joined_by(counts: Iterable[int]) -> str:
    """What to do with a class of one row, of classes of so many: to join it with the next one, if that is rare too."""
    ascending = sorted(counts)
    enough = ascending[:2][-1] + 1  # so that two are joined
    return f"--rare join={enough}" if enough <= min(FEW_ROWS, ascending[-1]) else "remove it"


def _of_one_row(name: str, names: Sequence[str], origin: str, joined: str) -> DataError:
    """Of the labels one that has a single row; `joined` is that of `joined_by`."""
    what = f"the label `{shortened(name)}` has 1 row: it cannot be both trained on and held out"
    hint = f"add rows of it, give a folder with a validation file, or {joined}"
    if odd := words_among_numbers(names):
        what = f"the label `{shortened(odd[0])}` is not a number, as the others are"
        hint = "correct it, or leave such rows out: --task regression --bad-rows drop=10%"
    elif len(names) > MANY_CLASSES:
        what, hint = f"{what} ({len(names):,} labels in all)", "is --label-column right?"
    return DataError(what, where=origin, hint=hint)


def _drawn(first: np.ndarray, parts: Sequence[np.ndarray], wanted: Sequence[int]) -> np.ndarray:
    """True for the rows held out, (rows,): whole texts of each part, or where it has too few of them single rows.

    `first` is that of `first_copies`; `parts` are the rows of each stratum in the order of the draw, of which so many
    are `wanted`.
    """
    copies = np.bincount(first)
    held: np.ndarray = np.zeros(len(first), dtype=bool)
    for part, left in zip(parts, wanted, strict=True):
        heads = part[first[part] == part]  # a row of each text, which counts where its first one does
        for row, rows in zip(heads.tolist(), copies[heads].tolist(), strict=True):
            if rows <= 2 * left:
                held[row] = True
                left -= rows
    held = held[first]
    for part, number in zip(parts, wanted, strict=True):
        if number and held[part].all() == held[part].any():
            held[part] = np.arange(len(part)) < number
    return held


def first_copies(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """The first row that has the same texts but for case and space, pairs in either order, of each row, (rows,)."""
    words = [map(plain, column) for column in texts]
    keys: Iterable[Hashable] = words[0] if len(words) == 1 else (tuple(sorted(row)) for row in zip(*words, strict=True))
    hashes = np.fromiter(map(hash, keys), np.int64, len(texts[0]))
    _, first, place = np.unique(hashes, return_index=True, return_inverse=True)
    return first[place]


def dealt(
    units: np.ndarray,
    strata: np.ndarray,
    shares: Sequence[float],
    random: np.random.Generator,
    *,
    what: str = "groups",
    where: str = "",
) -> np.ndarray:
    """Deal the rows into parts, whole units each, as near to the shares of all rows and of each stratum as they allow.

    The largest unit comes first, those of a size in a random order, and each goes to the part that lacks most of what
    it holds.

    Returns:
        The part of each row, (rows,), a place in `shares`; no part is empty.

    Raises:
        DataError: there are fewer units than parts.
    """
    units = np.unique(units, return_inverse=True)[1]
    kinds = np.unique(strata, return_inverse=True)[1]
    sizes, of_kind, width = np.bincount(units), np.bincount(kinds), int(kinds.max()) + 1
    if len(sizes) < len(shares):
        hint = "give fewer parts, or rows of more of them"
        raise DataError(f"{len(sizes)} {what} do not make {len(shares)} parts", where=where, hint=hint)
    cells, counts = np.unique(units * width + kinds, return_counts=True)
    starts = np.searchsorted(cells, np.arange(len(sizes) + 1) * width)
    held, counted = (cells % width).tolist(), counts.tolist()
    totals = [*of_kind.tolist(), len(units)]
    lacks = [[share] * (width + 1) for share in shares]  # of each stratum, and of all rows at last
    empty, part_of = {*range(len(shares))}, np.empty(len(sizes), np.int64)
    order = np.lexsort((random.permutation(len(sizes)), -sizes)).tolist()
    for place, unit in enumerate(order):
        here = range(int(starts[unit]), int(starts[unit + 1]))
        size = int(sizes[unit])
        among: Iterable[int] = sorted(empty) if len(order) - place <= len(empty) else range(len(shares))
        part = max(
            among, key=lambda part: size * lacks[part][width] + sum(counted[i] * lacks[part][held[i]] for i in here)
        )
        for i in here:
            lacks[part][held[i]] -= counted[i] / totals[held[i]]
        lacks[part][width] -= size / totals[width]
        part_of[unit] = part
        empty.discard(part)
    return part_of[units]


def units_of(texts: Sequence[Sequence[str]], groups: np.ndarray | None) -> np.ndarray:
    """What stays on one side, (rows,): the rows of a text; of a group; of groups that share a text.

    Where shared texts join more than half of the rows to one unit, they part groups no more: groups alone count.
    """
    first = first_copies(texts)
    if groups is None:
        return first
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    groups = np.where(groups == ALONE, groups.max() + 1 + np.arange(len(groups)), groups)
    groups = np.unique(groups, return_inverse=True)[1]
    rows, count = len(first), int(groups.max()) + 1
    links = coo_array((np.ones(rows, np.int8), (groups, count + first)), shape=(count + rows, count + rows))
    joined: np.ndarray = connected_components(links, directed=False)[1][groups]
    largest = np.bincount(joined).max()
    return groups if largest > rows / 2 and largest > np.bincount(groups).max() else joined


def newest(times: np.ndarray, share: float, *, where: str) -> np.ndarray:
    """The newest rows, (rows,) bool: as near to the share as rows of one time, which stay together, allow.

    Raises:
        DataError: all rows have one time.
    """
    ordered = np.sort(times)
    borders = np.flatnonzero(np.diff(ordered)) + 1  # rows that are older than the cut, if it is here
    if not len(borders):
        raise DataError("all rows have the same time", where=where, hint="hold rows out without it")
    older = borders[np.abs(borders - len(times) * (1 - share)).argmin()]
    return np.asarray(times >= ordered[older])


def strata_of(targets: np.ndarray, task: Task) -> np.ndarray:
    """The stratum of each row, (rows,)."""
    if task in NUMBERS:
        return np.searchsorted(np.quantile(targets, [0.2, 0.4, 0.6, 0.8]), targets)
    if task == "multi-label":
        rarity = np.where(targets > 0, targets.sum(0), np.inf)  # (rows, labels)
        return np.where(targets.any(-1), rarity.argmin(-1), -1)
    return targets
