"""Texts to token ids: a thousand rows at a time, truncated and counted, cached by what they are made from."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dongu.data.cells import json_of, parts_of, uncollected
from dongu.data.pages import Pages, cache_folder, mapped
from dongu.errors import DataError, StorageError
from dongu.files import write_file

CACHE_FORMAT = 2  # raise it when what a cache file holds changes
PART_ROWS = 1 << 10  # tokenized together: enough for all threads; of a long row the tokenizer makes half a megabyte
MAPPED_BYTES = 1 << 24  # a larger cache file is mapped, not read
COPIED_BYTES = 1 << 20
SUMMARY_BINS = 40
DIGEST_BYTES = 32


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
        return np.diff(self.offsets)

    def summary(self) -> dict[str, Any]:
        """How long the rows are: `counts[i]` of them have from `i * width` to `(i + 1) * width - 1` tokens."""
        lengths = self.lengths
        width = int(lengths.max()) // SUMMARY_BINS + 1
        counts = np.bincount(lengths // width).tolist()
        return {"tokens": int(lengths.sum()), "cut": int(self.truncated.sum()), "width": width, "counts": counts}


@uncollected()
def tokenize(tokenizer: Any, texts: Sequence[Sequence[str]], max_length: int, *, cache: bool = True) -> Tokens:
    """Tokenize the rows of one or two text columns; `max_length` counts the special tokens too.

    The longer text of a pair is cut first. The cache key is the digest of the tokenizer's whole definition, the
    length and every text, so a cached answer cannot be stale; a damaged cache file is made anew.
    """
    path = cache_folder() / f"{_digest(tokenizer, texts, max_length)}.tokens"
    if cache and (content := _read_cache(path)) is not None:
        return _tokens_of(content, cached=True)
    content = _tokenize(tokenizer, texts, max_length)
    if cache:
        _write_cache(path, content)
    return _tokens_of(content, cached=False)


def check_known(tokens: Tokens, tokenizer: Any, where: str) -> None:
    """
    Raises:
        DataError: to most rows the tokenizer says nothing but "unknown": they are in a script that it does not have.
    """
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
        raise DataError(
            f"{unknown:,} of {len(tokens):,} texts have no token that the tokenizer knows",
            where=where,
            hint="is --model made for the language of the data, and is --text-columns right?",
        )


def _tokenize(tokenizer: Any, texts: Sequence[Sequence[str]], max_length: int) -> memoryview:
    """What the cache holds, and `_tokens_of` reads: one array after the other, their sizes, and a SHA-256 of all.

    The ids (tokens,) int32; the lengths (rows,) int32; the types (tokens,) uint8, if any; what is truncated (rows,)
    uint8; rows, tokens and types, int64.
    """
    types_wanted = "token_type_ids" in tokenizer.model_input_names
    ids, types, lengths, truncated = Pages(), Pages(), array("i"), bytearray()
    digest = hashlib.sha256()

    def add(content: bytes) -> None:
        ids.add(content)
        digest.update(content)

    # What a call of the tokenizer asks of `tokenizers`, but for where in the text each token was, and without all that
    # Python makes of the answer.
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.enable_truncation(max_length, strategy="longest_first", direction=tokenizer.truncation_side)
    backend.encode_special_tokens = tokenizer.split_special_tokens
    for texts_of_part in zip(*(parts_of(column, PART_ROWS) for column in texts), strict=True):
        rows = list(texts_of_part[0] if len(texts_of_part) == 1 else zip(*texts_of_part, strict=True))
        encodings = backend.encode_batch_fast(rows)
        lengths.extend(map(len, encodings))
        add(np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int32).tobytes())
        if types_wanted:
            types.add(np.fromiter(chain.from_iterable(encoding.type_ids for encoding in encodings), np.uint8).tobytes())
        truncated.extend(bool(encoding.overflowing) for encoding in encodings)
    tokens = ids.size // np.dtype(np.int32).itemsize
    add(lengths.tobytes())
    for start in range(0, types.size, COPIED_BYTES):
        add(types.read(start, min(COPIED_BYTES, types.size - start)))
    add(bytes(truncated))
    add(np.array([len(lengths), tokens, types.size], np.int64).tobytes())
    ids.add(digest.digest())
    return ids.whole()


def _tokens_of(content: memoryview, *, cached: bool) -> Tokens:
    sizes = np.frombuffer(content[-DIGEST_BYTES - 24 : -DIGEST_BYTES], np.int64)
    rows, tokens, types = sizes.tolist()
    lengths = np.frombuffer(content, np.int32, rows, offset=4 * tokens)
    return Tokens(
        input_ids=np.frombuffer(content, np.int32, tokens),
        token_type_ids=np.frombuffer(content, np.uint8, types, offset=4 * (tokens + rows)) if types else None,
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        truncated=np.frombuffer(content, np.bool_, rows, offset=4 * (tokens + rows) + types),
        cached=cached,
    )


def _digest(tokenizer: Any, texts: Sequence[Sequence[str]], max_length: int) -> str:
    """Changes with anything that could change the tokens."""
    from tokenizers import __version__ as tokenizers_version

    # What an earlier call left set is no part of the tokenizer: the call below sets both anew.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    definition = [
        CACHE_FORMAT,
        tokenizers_version,
        type(tokenizer).__name__,
        tokenizer.model_input_names,
        tokenizer.truncation_side,
        tokenizer.split_special_tokens,
        max_length,
        len(texts),
        tokenizer.backend_tokenizer.to_str(),
    ]
    digest = hashlib.sha256(json.dumps(definition).encode())
    for column in texts:
        for part in json_of(column):  # JSON keeps ["a b"] and ["a", "b"] apart
            digest.update(part)
    return digest.hexdigest()


def _read_cache(path: Path) -> memoryview | None:
    """The content, if it is what was written."""
    try:
        with path.open("rb") as file:
            content = mapped(file) if path.stat().st_size > MAPPED_BYTES else memoryview(file.read())
    except OSError:
        return None
    whole = hashlib.sha256(content[:-DIGEST_BYTES]).digest() == content[-DIGEST_BYTES:]
    return content if whole else None


def _write_cache(path: Path, content: memoryview) -> None:
    try:
        write_file(path, content)  # type: ignore[arg-type]  # a view is written as bytes are, and need not be in memory
    except StorageError:
        return  # a cache that cannot be written costs seconds, not the run
