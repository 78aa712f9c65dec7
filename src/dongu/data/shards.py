"""Rows are tokenized once, by several processes, and written as `dongu.data.prepared` reads them."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from dongu.config import RunConfig
from dongu.data.examples import Examples, TextData, told_by
from dongu.data.prepared import DECIDED, IN_BOTH, Files, Manifest, Shard, digest_of_block
from dongu.data.sources import PREPARED
from dongu.data.tokens import Tokens, check_known, digest_of_tokenizer, pack_tokens, summary_of, tokens_of
from dongu.errors import DonguError, ModelError, UsageError, WorkerError
from dongu.files import disk, open_to_write, replace_folder, storage
from dongu.interrupts import belong_to_parent, forks_in_peace
from dongu.waiting import Waiting

BLOCK_ROWS = 1 << 12  # with one digest
DEALT_BLOCKS = 4  # to a process at a time: a page of texts, which is unpacked once


def prepare(
    data: TextData, tokenizer: Any, config: RunConfig, out: Path, *, processes: int = 1, block_rows: int = BLOCK_ROWS
) -> Manifest:
    """Tokenize rows once, and write them into a new folder; all of it is there, or nothing.

    The configuration has a `max_length`, whatever it comes from. The files are the same for any number of processes.

    Raises:
        UsageError: the rows are prepared already, or `--long windows` makes several rows of one.
        DataError: the tokenizer knows no token of most rows.
        StorageError: there is no room.
        WorkerError: one of the processes has ended.
    """
    if not data.has_texts:
        raise UsageError("is prepared already", where=str(data.place), hint="give the data that it was prepared from")
    if config.long == "windows":
        raise UsageError("has several windows a row", where="--long windows", hint="give another, or train on DATA")
    manifest = _described(data, tokenizer, config, block_rows)
    with replace_folder(out) as folder:
        splits = {}
        for name, examples in data.splits.items():
            tokens = _tokenized(tokenizer, examples, config, block_rows, processes)
            with Waiting(f"tokenizing {name}", len(examples), "rows") as wait:
                splits[name] = write_shard(folder, name, examples, tokens, wait)
            if name == "train":
                written = Files(folder, name, splits[name], manifest).tokens()
                check_known(written, tokenizer, examples.origin)
        manifest = manifest.model_copy(update={"splits": splits})
        digest = hashlib.sha256(manifest.content().encode()).hexdigest()
        manifest = manifest.model_copy(update={"sha256": digest})
        disk.write(folder / PREPARED, manifest.model_dump_json().encode() + b"\n")
    return manifest


def _described(data: TextData, tokenizer: Any, config: RunConfig, block_rows: int) -> Manifest:
    """What the rows are, before any is written."""
    named = {name: option for name, option in config.model_dump(mode="json").items() if name in DECIDED}
    options = named | {"text_columns": [*data.columns.texts], "label_column": data.columns.label, "task": data.task}
    return Manifest(
        model=config.tokenizer or config.model,
        tokenizer=digest_of_tokenizer(tokenizer),
        vocabulary=len(tokenizer),
        block_rows=block_rows,
        options=options | {"label_separator": data.form.separator},
        **{name: getattr(data, name) for name in IN_BOTH},
        texts=data.columns.texts,
        label=data.columns.label,
        form=data.form.said,
        separator=data.form.separator,
        dropped=tuple((row.where, row.what) for row in data.dropped),
        said=data.said,
        splits={},
    )


def write_shard(folder: Path, name: str, examples: Examples, blocks: Iterable[Tokens], wait: Waiting) -> Shard:
    """Write one split, whose tokens come block by block.

    Raises:
        StorageError: there is no room.
    """
    targets, columns = examples.targets, tuple(examples.columns)
    known: list[tuple[int, str]] = []
    lengths, cut, row, token = [], 0, 0, 0
    with ExitStack() as held, storage(folder):
        files: dict[str, Any] = {}
        for tokens in blocks:
            end = row + len(tokens)
            parts = {
                "starts": token + tokens.offsets,
                "rows": np.asarray(examples.ids[row:end], np.int64),
                "ids": tokens.input_ids,
                **({} if tokens.token_type_ids is None else {"types": tokens.token_type_ids}),
                "cut": tokens.truncated,
                **({} if targets is None else {"targets": np.ascontiguousarray(targets[row:end])}),
                **{f"column-{place}": examples.columns[column][row:end] for place, column in enumerate(columns)},
            }
            known.append((int(tokens.offsets[-1]), digest_of_block(parts)))
            for array, part in parts.items():
                if array not in files:
                    files[array] = held.enter_context(open_to_write(folder / f"{name}.{array}", "wb"))
                disk.append(files[array], part[1 if row and array == "starts" else 0 :].tobytes())
            lengths.append(tokens.lengths.astype(np.int32))
            cut += int(tokens.truncated.sum())
            row, token = end, token + int(tokens.offsets[-1])
            wait.add(len(tokens))
    kind: Any = None if targets is None else "classes" if targets.dtype == np.int64 else "numbers"
    all_lengths = np.concatenate(lengths)
    return Shard(
        origin=examples.origin,
        rows=row,
        targets=kind,
        columns=columns,
        types="types" in files,
        longest=int(all_lengths.max()),
        lengths=summary_of(all_lengths, cut),
        blocks=tuple(known),
        told=told_by(examples),
    )


def _tokenized(
    tokenizer: Any, examples: Examples, config: RunConfig, block_rows: int, processes: int
) -> Iterator[Tokens]:
    """The tokens of each block, in order, from so many processes."""
    if processes == 1:
        for content in _packed(tokenizer, examples, config, block_rows, 0, 1):
            yield tokens_of(content)
        return
    context: Any = multiprocessing.get_context("fork")  # which need not copy the rows, nor read them again
    with ExitStack() as held:
        pipes = []
        for process in range(processes):
            receiver, sender = context.Pipe(duplex=False)
            work = (sender, tokenizer, examples, config, block_rows, process, processes)
            child = context.Process(target=_work, args=work, daemon=True)
            with forks_in_peace():
                child.start()
            held.callback(child.terminate)
            sender.close()  # so that the child alone has it, and its end is seen
            pipes.append(held.enter_context(receiver))
        for block in range(-(-len(examples) // block_rows)):
            yield tokens_of(_received(pipes[block // DEALT_BLOCKS % processes]))


def _received(pipe: Any) -> memoryview:
    """What a process sends; a `WorkerError` if it has ended, or the error that it has ended with."""
    try:
        content = pipe.recv_bytes()
        if content:
            return memoryview(content)
        kind, what, where, hint = json.loads(pipe.recv_bytes())
    except EOFError:
        what = "a process that tokenizes has ended"
        raise WorkerError(what, where="--processes", hint="give a smaller number") from None
    raise (ModelError if kind == "ModelError" else DonguError)(what, where=where, hint=hint)


def _work(pipe: Any, tokenizer: Any, examples: Examples, config: RunConfig, size: int, first: int, of: int) -> None:
    """What a process does: every block that falls to it, in order."""
    belong_to_parent()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # as on macOS
    threads = max(1, cores // of)
    os.environ |= {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": str(threads > 1).lower()}
    try:
        for content in _packed(tokenizer, examples, config, size, first, of):
            pipe.send_bytes(content)
    except DonguError as error:
        pipe.send_bytes(b"")
        pipe.send_bytes(json.dumps([type(error).__name__, error.what, error.where, error.hint]).encode())
    except OSError:  # nobody reads from it any more
        return


def _packed(
    tokenizer: Any, examples: Examples, config: RunConfig, block_rows: int, first: int, of: int
) -> Iterator[memoryview]:
    """The tokens of every block that is dealt to one of so many processes."""
    dealt = block_rows * DEALT_BLOCKS
    for start in range(first * dealt, len(examples), of * dealt):
        texts = [column[start : start + dealt] for column in examples.texts]
        for begin in range(0, len(texts[0]), block_rows):
            rows = [column[begin : begin + block_rows] for column in texts]
            yield pack_tokens(tokenizer, rows, config.max_length or 0, config.long)
