"""Texts to token ids: a thousand rows at a time, truncated and counted, cached by what they are made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dongu.data.cells import json_of, parts_of, uncollected
from dongu.data.pages import Pages, cache_folder, mapped
from dongu.errors import DataError, ModelError, StorageError, no_panic
from dongu.files import open_regular, write_file
from dongu.waiting import Waiting

CACHE_FORMAT = 3  # raise it when what a cache file holds changes
PART_ROWS = 1 << 10  # tokenized together: enough for all threads; of a long row the tokenizer makes half a megabyte
MAPPED_BYTES = 1 << 24  # a larger cache file is mapped, not read
COPIED_BYTES = 1 << 20
DIGESTED_TOKENS = 1 << 20  # at a time
SUMMARY_BINS = 40
SIZES_BYTES, DIGEST_BYTES = 24, 32
WINDOW_OVERLAP = 4  # a window shares a fourth of its tokens with the one before


UNKNOWN_LIMIT = 512  # tokens a row, where neither the tokenizer nor the model names a limit


def token_limit(*limits: object) -> int:
    """Tokens a row at most where nobody says otherwise: the smallest limit of tokenizer and model that is one.

    Tokenizers without a limit give a number of thirty digits, models without one None.
    """
    known = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < 10**6]
    return min(known, default=UNKNOWN_LIMIT)


@dataclass(frozen=True)
class Tokens:
    """The token ids of one split, ragged: row i is `input_ids[offsets[i]:offsets[i + 1]]`.

    Shapes: `input_ids` (tokens,) int32; `token_type_ids` (tokens,) uint8, or None where the model has none;
    `offsets` (rows + 1,) int64; `truncated` (rows,) bool.
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray | None
    offsets: np.ndarray
    truncated: np.ndarray
    cached: bool = False

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, (rows,)."""
        return np.diff(self.offsets[:])

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(self.lengths.max())

    def spans(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each of some rows begins, and how many tokens it has, (rows,) each."""
        starts = self.offsets[rows]
        return starts, self.offsets[rows + 1] - starts

    def digest(self) -> str:
        """SHA-256 of the ids of all rows."""
        digest = hashlib.sha256(np.ascontiguousarray(self.offsets, dtype=np.int64).tobytes())
        for start in range(0, len(self.input_ids), DIGESTED_TOKENS):
            digest.update(self.input_ids[start : start + DIGESTED_TOKENS].astype(np.int64).tobytes())
        return digest.hexdigest()

    def same_as(self, other: Tokens) -> bool:
        """Whether both hold the same tokens of the same rows, whatever they were read from."""
        names = ("input_ids", "token_type_ids", "offsets", "truncated")
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    def summary(self) -> dict[str, Any]:
        """How long the rows are: `counts[i]` of them have from `i * width` to `(i + 1) * width - 1` tokens."""
        return summary_of(self.lengths, int(self.truncated.sum()))


def summary_of(lengths: np.ndarray, cut: int) -> dict[str, Any]:
    """`Tokens.summary` of rows of these lengths, (rows,), of which so many were cut."""
    width = int(lengths.max()) // SUMMARY_BINS + 1
    counts = np.bincount(lengths // width).tolist()
    return {"tokens": int(lengths.sum()), "cut": cut, "width": width, "counts": counts}


@uncollected()
def tokenize(
    tokenizer: Any, texts: Sequence[Sequence[str]], max_length: int, *, long: str = "head", cache: bool = True
) -> Tokens:
    """Tokenize the rows of one or two text columns; `max_length` counts the special tokens too.

    The longer text of a pair is cut first. `long` is `head`, which cuts on the tokenizer's side; `tail`, which cuts on
    the left; `head+tail`, which keeps both ends of a single text; or `windows`. Then what it gives is no row but a
    window, with the special tokens of a row, and `truncated` marks those that go on with the row of the one before.

    The cache key is the digest of the tokenizer's whole definition, the length and every text, and the digest that
    closes a file is one of its key too: a file that is damaged, or that was made of other texts, is made anew.
    """
    if not cache:  # nor a key, for which all of the tokenizer is written out: hundredths of a second
        return tokens_of(pack_tokens(tokenizer, texts, max_length, long))
    with Waiting("looking for tokens in the cache"):
        key = _digest(tokenizer, texts, max_length, long)
    path = cache_folder() / f"{key}.tokens"
    if (content := _read_cache(path, key)) is not None:
        return tokens_of(content, cached=True)
    content = pack_tokens(tokenizer, texts, max_length, long, key)
    with contextlib.suppress(StorageError):  # a cache that cannot be written costs seconds, not the run
        write_file(path, content)  # type: ignore[arg-type]  # a view is written as bytes are, and need not be in memory
    return tokens_of(content)


def check_known(tokens: Tokens, tokenizer: Any, where: str) -> None:
    """Raise `DataError` if the tokenizer knows no token of most rows: they are in a script that it does not have."""
    if tokenizer.unk_token_id is None:
        return
    empty = list({tokenizer.unk_token_id, *tokenizer.all_special_ids})
    unknown = 0
    for start in range(0, len(tokens), PART_ROWS):
        offsets = tokens.offsets[start : start + PART_ROWS + 1]
        said = ~np.isin(tokens.input_ids[offsets[0] : offsets[-1]], empty)
        known = np.concatenate([[0], np.cumsum(said)])[offsets - offsets[0]]  # before each row
        unknown += int((np.diff(known) == 0).sum())
    if unknown > len(tokens) / 2:
        what = f"{unknown:,} of {len(tokens):,} texts have no token that the tokenizer knows"
        hint = "is --model made for the language of the data, and is --text-columns right?"
        raise DataError(what, where=where, hint=hint)


def pack_tokens(
    tokenizer: Any, texts: Sequence[Sequence[str]], max_length: int, long: str = "head", key: str = ""
) -> memoryview:
    """What the cache holds, and `tokens_of` reads: one array after the other, their sizes, a SHA-256 of key and all.

    The ids (tokens,) int32; the lengths (rows,) int32; the types (tokens,) uint8, if any; what is truncated (rows,)
    uint8; rows, tokens and types, int64.
    """
    types_wanted = "token_type_ids" in tokenizer.model_input_names
    ids, types, lengths, truncated = Pages(), Pages(), array("i"), bytearray()
    digest = hashlib.sha256(key.encode())

    half = max_length // 2

    def add(content: bytes) -> None:
        ids.add(content)
        digest.update(content)

    def kept(row: list[int]) -> list[int]:
        """Half of each end of a row that the tokenizer did not cut."""
        return row if len(row) <= max_length else row[:half] + row[half - max_length :]

    # What a call of the tokenizer asks of `tokenizers`, but for where in the text each token was, and without all that
    # Python makes of the answer.
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    side, stride = {"head": tokenizer.truncation_side, "tail": "left"}.get(long, "right"), 0
    if long == "windows":
        stride = (max_length - tokenizer.num_special_tokens_to_add()) // WINDOW_OVERLAP
    backend.enable_truncation(max_length, stride=stride, strategy="longest_first", direction=side)
    if long == "head+tail":
        backend.no_truncation()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    with Waiting("tokenizing", len(texts[0]), "rows") as wait:
        for texts_of_part in zip(*(parts_of(column, PART_ROWS) for column in texts), strict=True):
            rows = list(texts_of_part[0] if len(texts_of_part) == 1 else zip(*texts_of_part, strict=True))
            encodings = encode(backend, rows, f"--model {tokenizer.name_or_path}")
            flags = [len(encoding) > max_length or bool(encoding.overflowing) for encoding in encodings]
            if long == "windows":
                flags = [place > 0 for encoding in encodings for place in range(1 + len(encoding.overflowing))]
                encodings = [window for encoding in encodings for window in (encoding, *encoding.overflowing)]
            lengths.extend(min(len(encoding), max_length) for encoding in encodings)
            add(np.fromiter(chain.from_iterable(kept(each.ids) for each in encodings), np.int32).tobytes())
            if types_wanted:
                of_tokens = chain.from_iterable(kept(each.type_ids) for each in encodings)
                types.add(np.fromiter(of_tokens, np.uint8).tobytes())
            truncated.extend(flags)
            wait.add(len(rows))
    tokens = ids.size // np.dtype(np.int32).itemsize
    add(lengths.tobytes())
    for start in range(0, types.size, COPIED_BYTES):
        add(types.read(start, min(COPIED_BYTES, types.size - start)))
    add(bytes(truncated))
    add(np.array([len(lengths), tokens, types.size], np.int64).tobytes())
    ids.add(digest.digest())
    return ids.whole()


def encode(backend: Any, rows: Sequence[Any], where: str) -> Sequence[Any]:
    """What a `tokenizers.Tokenizer` makes of rows: the one place in which it is asked about texts.

    Raises:
        ModelError: it cannot, or gives up: its expressions may backtrack without end.
    """
    try:
        with no_panic():
            return list(backend.encode_batch_fast(rows))
    except Exception as error:  # tokenizers raises Exception itself
        hint = "the cause is in its tokenizer.json: use another --model, or fix it"
        raise ModelError(f"its tokenizer fails on a text ({error})", where=where, hint=hint) from error


def _sizes(content: memoryview) -> tuple[int, int, int]:
    """Rows, tokens and types, as the file says."""
    rows, tokens, types = np.frombuffer(content[-DIGEST_BYTES - SIZES_BYTES : -DIGEST_BYTES], np.int64).tolist()
    return rows, tokens, types


def tokens_of(content: memoryview, *, cached: bool = False) -> Tokens:
    """What `pack_tokens` has made, without a copy."""
    rows, tokens, types = _sizes(content)
    lengths = np.frombuffer(content, np.int32, rows, offset=4 * tokens)
    return Tokens(
        input_ids=np.frombuffer(content, np.int32, tokens),
        token_type_ids=np.frombuffer(content, np.uint8, types, offset=4 * (tokens + rows)) if types else None,
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        truncated=np.frombuffer(content, np.bool_, rows, offset=4 * (tokens + rows) + types),
        cached=cached,
    )


def _digest(tokenizer: Any, texts: Sequence[Sequence[str]], max_length: int, long: str) -> str:
    """Changes with anything that could change the tokens."""
    from tokenizers import __version__ as tokenizers_version

    definition = [CACHE_FORMAT, tokenizers_version, max_length, len(texts), long, *_definition(tokenizer)]
    digest = hashlib.sha256(json.dumps(definition).encode())
    for column in texts:
        for part in json_of(column):  # JSON keeps ["a b"] and ["a", "b"] apart
            digest.update(part)
    return digest.hexdigest()


def _definition(tokenizer: Any) -> list[Any]:
    """All that decides which tokens a tokenizer makes."""
    # What an earlier call left set is no part of the tokenizer: each call sets both anew.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return [
        type(tokenizer).__name__,
        tokenizer.model_input_names,
        tokenizer.truncation_side,
        tokenizer.split_special_tokens,
        tokenizer.backend_tokenizer.to_str(),
    ]


def digest_of_tokenizer(tokenizer: Any) -> str:
    """Changes with anything that could change the tokens, but for the version of `tokenizers`."""
    return hashlib.sha256(json.dumps(_definition(tokenizer)).encode()).hexdigest()


def _read_cache(path: Path, key: str) -> memoryview | None:
    """The content, if it is what was written for this key."""
    try:
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            large = os.fstat(file.fileno()).st_size > MAPPED_BYTES
            content = mapped(file) if large else memoryview(file.read())
    except OSError:
        return None
    if len(content) < SIZES_BYTES + DIGEST_BYTES:
        return None
    rows, tokens, types = _sizes(content)
    if len(content) != 4 * (tokens + rows) + types + rows + SIZES_BYTES + DIGEST_BYTES:
        return None  # before gigabytes are looked at
    digest = hashlib.sha256(key.encode())
    digest.update(content[:-DIGEST_BYTES])
    return content if digest.digest() == content[-DIGEST_BYTES:] else None
