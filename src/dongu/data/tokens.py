"""Texts to token ids: in batches, truncated and counted, cached by what they are made from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save

from dongu.errors import DataError, StorageError
from dongu.files import write_file

CACHE_FORMAT = 1  # raise it when what a cache file holds changes


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


def tokenize(tokenizer: Any, texts: Sequence[Sequence[str]], max_length: int, *, cache: bool = True) -> Tokens:
    """Tokenize the rows of one or two text columns; `max_length` counts the special tokens too.

    The longer text of a pair is cut first. The cache key is the digest of the tokenizer's whole definition, the
    length and every text, so a cached answer cannot be stale; a damaged cache file is made anew.
    """
    path = cache_folder() / f"{_digest(tokenizer, texts, max_length)}.safetensors"
    if cache and (tokens := _read_cache(path)) is not None:
        return tokens
    tokens = _tokenize(tokenizer, texts, max_length)
    if cache:
        _write_cache(path, tokens)
    return tokens


def check_known(tokens: Tokens, tokenizer: Any, where: str) -> None:
    """
    Raises:
        DataError: to most rows the tokenizer says nothing but "unknown": they are in a script that it does not have.
    """
    if tokenizer.unk_token_id is None:
        return
    empty = list({tokenizer.unk_token_id, *tokenizer.all_special_ids})
    known = np.concatenate([[0], np.cumsum(~np.isin(tokens.input_ids, empty))])[tokens.offsets]  # before each row
    unknown = int((np.diff(known) == 0).sum())
    if unknown > len(tokens) / 2:
        raise DataError(
            f"{unknown:,} of {len(tokens):,} texts have no token that the tokenizer knows",
            where=where,
            hint="is --model made for the language of the data, and is --text-columns right?",
        )


def cache_folder() -> Path:
    """`$DONGU_CACHE`, or `dongu` in the user's cache folder."""
    if folder := os.environ.get("DONGU_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dongu" / "tokens"


def _tokenize(tokenizer: Any, texts: Sequence[Sequence[str]], max_length: int) -> Tokens:
    types_wanted = "token_type_ids" in tokenizer.model_input_names
    encoded = tokenizer(
        *(list(column) for column in texts),
        truncation=True,
        max_length=max_length,
        padding=False,
        return_attention_mask=False,  # all ones before padding
        return_token_type_ids=types_wanted,
    )
    rows: list[list[int]] = encoded["input_ids"]
    types = np.fromiter((t for row in encoded["token_type_ids"] for t in row), np.uint8) if types_wanted else None
    return Tokens(
        input_ids=np.fromiter((token for row in rows for token in row), np.int32),
        token_type_ids=types,
        offsets=np.cumsum([0, *map(len, rows)], dtype=np.int64),
        truncated=np.array([bool(encoding.overflowing) for encoding in encoded.encodings], dtype=bool),
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
        digest.update(json.dumps(list(column)).encode())  # JSON keeps ["a b"] and ["a", "b"] apart
    return digest.hexdigest()


def _read_cache(path: Path) -> Tokens | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    try:
        body, expected = content[:-32], content[-32:]
        if hashlib.sha256(body).digest() != expected:
            return None
        from safetensors.numpy import load

        arrays = load(body)
        return Tokens(
            arrays["input_ids"],
            arrays.get("token_type_ids"),
            arrays["offsets"],
            arrays["truncated"].astype(bool),
            cached=True,
        )
    except (SafetensorError, KeyError):
        return None


def _write_cache(path: Path, tokens: Tokens) -> None:
    arrays = {
        "input_ids": tokens.input_ids,
        "offsets": tokens.offsets,
        "truncated": tokens.truncated.astype(np.uint8),
    }
    if tokens.token_type_ids is not None:
        arrays["token_type_ids"] = tokens.token_type_ids
    body = save(arrays)
    try:
        write_file(path, body + hashlib.sha256(body).digest())
    except StorageError:
        return  # a cache that cannot be written costs seconds, not the run
