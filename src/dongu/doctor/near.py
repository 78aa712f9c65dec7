"""Near duplicates across splits: the same text but for a few words, letters, marks or its case.

A row is the set of its words and of its pairs of neighbouring words (its shingles). MinHash keys of all rows, 80 bytes
each, find the rows of another split that may be alike; of these all shingles are compared. Everything is a function of
the texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice

import numpy as np

from dongu.data.examples import TextData
from dongu.doctor.finding import SHOWN_EXAMPLES, Finding, example, share_of_rows
from dongu.text import visible

ALIKE_SHARE = 0.6  # of the shingles of two rows that both have: of ten words, one may be another
LEAST_WORDS = 8  # of a row that is looked at: of shorter ones, many are alike by chance
MOST_WORDS = 256  # of a row, from its beginning
BANDS, BAND_HASHES = 20, 4  # two rows that share 0.6 of their shingles agree in some band with 94%, with 0.7 in 99.6%
BUCKET_ROWS = 8  # of one band that are compared with a row
NEAREST_ROWS = 3  # those that agree in most bands
HASHED_ROWS = 1 << 12
PRIME, MIX = np.uint64(0x100000001B3), np.uint64(0x9E3779B97F4A7C15)
OWN_WORDS = ((0x0E00, 0x0E7F), (0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))  # no spaces


def check_near(data: TextData) -> Iterator[Finding]:
    """Rows of a split that are nearly those of another, which decides about the model."""
    keys = {name: band_keys(examples.texts) for name, examples in data.splits.items()}
    for new in [name for name in keys if name != "train"]:
        yield from _near(data, keys, "train", new)
    if {"validation", "test"} <= keys.keys():
        yield from _near(data, keys, "validation", "test")


def _near(data: TextData, keys: Mapping[str, np.ndarray], seen_name: str, new_name: str) -> Iterator[Finding]:
    seen, new = data.splits[seen_name], data.splits[new_name]
    pairs = near_rows(seen.texts, keys[seen_name], new.texts, keys[new_name])
    if not pairs:
        return
    yield Finding(
        "note",  # rows of one template are alike too
        f"{share_of_rows(len(pairs), new_name, len(new), 'is a near duplicate', 'are near duplicates')} of {seen_name} "
        "rows: the same text but for a few words",
        f"the model may know their labels from {seen_name}: the score on {new_name} may be too high",
        f"look at the rows; if they are copies, remove them from {seen_name}, or keep copies together by a column of "
        "their source: --group-column",
        tuple(
            example([seen.where(old), new.where(row)], *new.texts_of(row))
            for row, old in islice(pairs.items(), SHOWN_EXAMPLES)
        ),
    )


def near_rows(
    seen: Sequence[Sequence[str]], seen_keys: np.ndarray, new: Sequence[Sequence[str]], new_keys: np.ndarray
) -> dict[int, int]:
    """The rows of `new` that are nearly one of `seen`, and which one; not those that are the same text.

    Both have a column a text; keys are their `band_keys`.
    """
    votes: list[np.ndarray] = []
    for band in range(BANDS):
        order = np.argsort(seen_keys[band], kind="stable")
        ordered = seen_keys[band][order]
        asked = np.flatnonzero(new_keys[band])
        first = np.searchsorted(ordered, new_keys[band][asked])
        for step in range(BUCKET_ROWS):
            place = np.minimum(first + step, len(ordered) - 1)
            same = (first + step < len(ordered)) & (ordered[place] == new_keys[band][asked])
            asked, first, place = asked[same], first[same], place[same]
            if not len(asked):
                break
            votes.append(asked * len(order) + order[place])
    if not votes:
        return {}
    pairs, count = np.unique(np.concatenate(votes), return_counts=True)
    rows, others = np.divmod(pairs, len(seen_keys[0]))
    found: dict[int, int] = {}
    compared, last, own = 0, -1, list[set[int]]()
    for place in np.lexsort((others, -count, rows)).tolist():
        row, other = int(rows[place]), int(others[place])
        if row != last:
            last, compared, own = row, 0, [_shingle_set(column[row]) for column in new]
        if compared < NEAREST_ROWS and row not in found:
            compared += 1
            theirs = [_shingle_set(column[other]) for column in seen]
            if sorted(visible(c[row]) for c in new) == sorted(visible(c[other]) for c in seen):
                compared = NEAREST_ROWS  # a duplicate, which is said elsewhere
            elif _are_alike(own, theirs) or _are_alike(own, theirs[::-1]):
                found[row] = other
    return found


def band_keys(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """A key of each band of each row, (bands, rows) uint32: rows that are alike share some; 0 for few words."""
    rows = len(texts[0])
    keys = np.zeros((BANDS, rows), np.uint32)
    random = np.random.default_rng(0xA11CE)
    salts = random.integers(0, 1 << 32, (BANDS, BAND_HASHES), np.uint32)
    factors = random.integers(0, 1 << 31, (BANDS, BAND_HASHES), np.uint32) * 2 + 1
    for start in range(0, rows, HASHED_ROWS):
        shingles, starts, words = _shingles([column[start : start + HASHED_ROWS] for column in texts])
        enough = np.flatnonzero(words >= LEAST_WORDS)
        if not len(enough):
            continue
        for band in range(BANDS):
            key = np.zeros(len(starts), np.uint64)
            for salt, factor in zip(salts[band], factors[band], strict=True):
                least = np.minimum.reduceat((shingles ^ salt) * factor, starts)
                key = (key ^ least) * MIX
                key ^= key >> np.uint64(29)
            keys[band, start + enough] = np.maximum((key >> np.uint64(32)).astype(np.uint32), 1)[enough]
    return keys


def _shingles(texts: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The hashes of the shingles of some rows, (shingles,) uint32; where each row's begin, (rows,); its words, (rows,).

    A row without a word has one shingle of its own.
    """
    hashes, row_of = [], []
    for column in texts:
        words, rows = _words(column)
        pairs = rows[1:] == rows[:-1]
        both = (words[:-1] * MIX + words[1:])[pairs]
        hashes += [words, both * PRIME]
        row_of += [rows, rows[1:][pairs]]
    count = len(texts[0])
    total = np.sum([np.bincount(rows, minlength=count) for rows in row_of[::2]], axis=0)
    hashes.append(np.zeros(count, np.uint64))  # reduceat needs one of each
    row_of.append(np.arange(count))
    mixed, rows = np.concatenate(hashes), np.concatenate(row_of)
    mixed = (mixed ^ (mixed >> np.uint64(31))) * MIX
    order = np.argsort(rows, kind="stable")
    keep = np.concatenate([np.ones(len(rows) - count, bool), total == 0])[order]
    order = order[keep]
    return (mixed[order] >> np.uint64(32)).astype(np.uint32), np.searchsorted(rows[order], np.arange(count)), total


def _words(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of the words of some texts, (words,) uint64, and the text of each, (words,): at most `MOST_WORDS`."""
    codes = np.frombuffer("\n".join(map(visible, texts)).encode("utf-32-le"), np.uint32)
    kinds = _kinds()[codes]  # 0 between words, 1 in a word, 2 a word by itself
    line = np.concatenate([[0], np.cumsum(codes == 10)])[: len(codes)]  # `visible` leaves no other line break
    before = np.concatenate([[np.uint8(0)], kinds[:-1]])
    starts = np.flatnonzero((kinds == 2) | ((kinds == 1) & (before != 1)))
    after = np.concatenate([kinds[1:], [np.uint8(0)]])
    ends = np.flatnonzero((kinds == 2) | ((kinds == 1) & (after != 1))) + 1
    # A polynomial in a prime, of the letters of all texts: a word's is the difference of two sums, moved to its start.
    powers = np.cumprod(np.full(len(codes) + 1, PRIME), dtype=np.uint64)
    sums = np.concatenate([[np.uint64(0)], np.cumsum(codes * powers[:-1], dtype=np.uint64)])
    back = np.cumprod(np.full(len(codes) + 1, np.uint64(pow(int(PRIME), -1, 1 << 64))), dtype=np.uint64)
    hashes, rows = (sums[ends] - sums[starts]) * back[starts], line[starts]
    number = np.arange(len(rows)) - np.searchsorted(rows, rows)  # of the word in its text
    few = number < MOST_WORDS
    return hashes[few], rows[few]


@cache
def _kinds() -> np.ndarray:
    """By code point: 0 between words, 1 in a word, 2 a word by itself, as where a script has no spaces.

    Behind the first 65,536 are emoji and more of the same scripts.
    """
    kinds = np.zeros(0x110000, np.uint8)
    kinds[:0x10000] = np.fromiter((chr(code).isalnum() for code in range(0x10000)), np.uint8, 0x10000)
    for low, high in OWN_WORDS:
        kinds[low : high + 1] = 2
    return kinds


def _are_alike(one: Sequence[set[int]], other: Sequence[set[int]]) -> bool:
    """Whether each text of a row shares enough shingles with the other row's."""
    return all(len(a & b) >= ALIKE_SHARE * len(a | b) for a, b in zip(one, other, strict=True))


def _shingle_set(text: str) -> set[int]:
    """The shingles of one text by their hashes."""
    return {*_shingles([[text]])[0].tolist()}
