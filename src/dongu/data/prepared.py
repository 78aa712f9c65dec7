"""Prepared rows: tokenized once, in a folder whose files a run maps and does not read through.

`prepared.json` says what the rows are, and has for each block of rows how many tokens it has and their SHA-256. Beside
it lies one file an array, for each split. At its start a run reads that list, the sizes of the files and the labels; a
block is read as a whole, and held against its digest, before the first of its rows is used. Nothing in the folder is
trusted: a file of another size, an id beyond the vocabulary, a label that there is not are an error, and a model whose
tokenizer is another one is refused. The texts are not kept: what needs them is left out, or says so.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NoReturn

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from dongu.config import READING, RunConfig, Task, option_flag
from dongu.data.columns import Columns
from dongu.data.examples import Examples, TextData
from dongu.data.forms import Form
from dongu.data.labels import number_of
from dongu.data.pages import mapped
from dongu.data.sources import PREPARED
from dongu.data.table import BadRow, NotKept, readable
from dongu.data.tokenized import Split
from dongu.data.tokens import Tokens, digest_of_tokenizer
from dongu.errors import DataError, ModelError, UsageError
from dongu.files import open_regular, read_regular
from dongu.waiting import Waiting

# Options that say what the rows are, and cannot be others afterwards.
DECIDED = (
    "text_columns", "label_column", "label_separator", "columns", "unlabelled", "empty", "bad_rows", "rare",
    "label_names", "positive", "task", "validation", "test", "group_column", "time_column", "fold", "split_file",
    "max_length", "long", *READING,
)  # fmt: skip
IN_BOTH = (  # what the manifest says of the data in the same words
    "name", "hub_name", "task", "label_names", "unused_columns", "held_out", "left_out", "without_text", "joined",
)  # fmt: skip
AGAIN = "copy it again, or prepare the data again: dongu prepare DATA --model MODEL --out SHARDS"

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=0, lt=2**48)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Shard(_Strict):
    """What the manifest says of one split."""

    origin: str
    rows: Annotated[_Count, Field(ge=1)]
    targets: Literal["classes", "numbers"] | None
    columns: tuple[str, ...]  # numeric ones beside the text
    types: bool  # whether tokens have one
    longest: _Count  # tokens of a row
    lengths: dict[str, Any]  # as `Tokens.summary` has them
    blocks: tuple[tuple[_Count, _Digest], ...]  # tokens and SHA-256 of each
    told: _Digest  # by `told_by`

    @property
    def tokens(self) -> int:
        """Of all rows."""
        return sum(tokens for tokens, _ in self.blocks)

    def digest(self) -> str:
        """What all rows hold, whatever they are called and wherever they were read from."""
        return hashlib.sha256("".join([str(self.rows), *(digest for _, digest in self.blocks)]).encode()).hexdigest()


class Manifest(_Strict):
    """`prepared.json`."""

    format: Literal[1] = 1
    sha256: str = ""  # of this file without it
    model: str  # as it was named, whose tokenizer it was
    tokenizer: _Digest
    vocabulary: _Count  # ids are below
    block_rows: Annotated[int, Field(ge=2, le=2**20)]
    options: dict[str, Any]  # of `DECIDED`
    name: str
    hub_name: str | None
    texts: tuple[str, ...]
    label: str
    task: Task
    label_names: tuple[str, ...]
    form: str  # how the labels were written, in words
    separator: str | None
    unused_columns: tuple[str, ...]
    held_out: tuple[str, ...]
    left_out: _Count
    without_text: _Count
    joined: tuple[str, ...]
    dropped: tuple[tuple[str, str], ...]
    said: tuple[str, ...]
    splits: dict[Annotated[str, Field(pattern=r"^\w[\w:.-]{0,99}$")], Shard]

    def content(self) -> str:
        """The file, but for its own digest."""
        return self.model_copy(update={"sha256": ""}).model_dump_json()


class Offsets:
    """`Tokens.offsets` of rows in blocks, (rows + 1,) int64: a block is looked at before a place in it is told.

    So there is no way to the tokens of a row that was not looked at.
    """

    def __init__(self, starts: np.ndarray, block_rows: int, check: Callable[[int], None]) -> None:
        self._starts, self._block_rows, self._check = starts, block_rows, check
        self._checked = np.zeros(-(-(len(starts) - 1) // block_rows), bool)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, places: Any) -> Any:
        """Of some rows: an index, a slice or an array of indices."""
        if isinstance(places, slice):
            start, stop, _ = places.indices(len(self))
            self._look(np.arange(start // self._block_rows, -(-(stop - 1) // self._block_rows)))
        else:
            inner = np.asarray(places) % len(self)
            # The first place of a block is the last one of the block before, and tells nothing of a row by itself.
            self._look(np.unique(inner[inner % self._block_rows != 0] // self._block_rows))
        return self._starts[places]

    def _look(self, blocks: np.ndarray) -> None:
        for block in blocks[~self._checked[blocks]]:
            self._check(int(block))
            self._checked[block] = True


@dataclass(frozen=True)
class PreparedTokens(Tokens):
    """The tokens of a split, of which the manifest tells what would have to be counted."""

    shard: Shard = field(kw_only=True)

    @property
    def longest(self) -> int:
        return self.shard.longest

    def summary(self) -> dict[str, Any]:
        return self.shard.lengths

    def digest(self) -> str:
        return self.shard.digest()


class Files:
    """The mapped files of a split."""

    def __init__(self, folder: Path, name: str, shard: Shard, manifest: Manifest) -> None:
        self._where, self._name, self._shard, self._manifest = str(folder), name, shard, manifest
        self.types_below = 1 << 8  # what the model has, once it is known
        self._ends = np.cumsum([0, *(tokens for tokens, _ in shard.blocks)])  # of the tokens of each block
        counts = {"start": shard.rows + 1, "row": shard.rows, "token": shard.tokens}
        self._layout = layout(shard, len(manifest.label_names) if manifest.task == "multi-label" else 1)
        self._arrays = {
            array: _mapped(folder / f"{name}.{array}", dtype, counts[unit] * width).reshape(-1, width)
            for array, (dtype, unit, width) in self._layout.items()
        }
        if len(shard.blocks) != -(-shard.rows // manifest.block_rows):
            self._refuse(f"{name} has {shard.rows:,} rows, and {len(shard.blocks):,} blocks")
        if shard.longest > manifest.options["max_length"]:
            self._refuse(f"{name} has rows of {shard.longest:,} tokens")
        if shard.targets is not None and not _are_labels(self["targets"], manifest):
            self._refuse(f"{name}.targets has labels that there are not")

    def __getitem__(self, array: str) -> np.ndarray:
        found = self._arrays[array]
        return found[:, 0] if found.shape[1] == 1 else found

    def tokens(self) -> PreparedTokens:
        """Of all rows, each block of which is looked at first."""
        return PreparedTokens(
            input_ids=self["ids"],
            token_type_ids=self["types"] if self._shard.types else None,
            offsets=Offsets(self["starts"], self._manifest.block_rows, self._check),  # type: ignore[arg-type]
            truncated=self["cut"],
            shard=self._shard,
        )

    def examples(self) -> Examples:
        """What there is of the rows beside their tokens; labels that answers are held against lie in memory."""
        targets = None if self._shard.targets is None else self["targets"]
        return Examples(
            ids=self["rows"],
            texts=NotKept(self._where),  # type: ignore[arg-type]
            targets=targets if targets is None or self._name == "train" else targets.copy(),
            origin=self._shard.origin,
            columns={name: self[f"column-{place}"] for place, name in enumerate(self._shard.columns)},
            digest=self._shard.digest(),
            told=self._shard.told,
        )

    def _check(self, block: int) -> None:
        """Raise `DataError` if the block does not hold what was written, or nothing that a model could read."""
        size = self._manifest.block_rows
        begin, end = block * size, min((block + 1) * size, self._shard.rows)
        first, last = int(self._ends[block]), int(self._ends[block + 1])
        places = {"start": slice(begin, end + 1), "row": slice(begin, end), "token": slice(first, last)}
        parts = {name: self._arrays[name][places[unit]] for name, (_, unit, _) in self._layout.items()}
        if digest_of_block(parts) != self._shard.blocks[block][1]:
            self._refuse(f"rows {begin + 1:,} to {end:,} are not what was written")
        starts, ids = parts["starts"][:, 0], parts["ids"]
        lengths = np.diff(starts)
        if (starts[0], starts[-1]) != (first, last) or lengths.min() < 0 or lengths.max() > self._shard.longest:
            self._refuse(f"rows {begin + 1:,} to {end:,} have other lengths than they say")
        if len(ids) and not 0 <= ids.min() <= ids.max() < self._manifest.vocabulary:
            self._refuse(f"rows {begin + 1:,} to {end:,} have ids beyond the vocabulary")
        if len(ids) and self._shard.types and parts["types"].max() >= self.types_below:
            self._refuse(f"rows {begin + 1:,} to {end:,} have token types that the model has not")

    def _refuse(self, what: str) -> NoReturn:
        raise DataError(what, where=self._where, hint=AGAIN)


@dataclass(frozen=True, kw_only=True)
class PreparedData(TextData):
    """An open folder of prepared rows."""

    has_texts: ClassVar[bool] = False
    folder: Path
    manifest: Manifest
    files: Mapping[str, Files]
    tokens: Mapping[str, PreparedTokens]

    def with_options(self, config: RunConfig) -> RunConfig:
        """Raise `UsageError` if one is given, and the rows were prepared with another."""
        decided = self.manifest.options
        given = config.model_dump(mode="json")
        for name in DECIDED:
            default = RunConfig.model_fields[name].default
            if given[name] not in (default, decided[name]):
                how = "without it" if decided[name] == default else f"with {decided[name]}"
                what = f"the rows were prepared {how}"
                raise UsageError(
                    what, where=f"{option_flag(name)} {given[name]}", hint="leave it out, or prepare the data again"
                )
        return RunConfig(**given | decided)

    def check_model(self, model: Any, tokenizer: Any, name: str) -> None:
        """Raise `ModelError` if the tokens are those of another tokenizer."""
        known = self.manifest
        if (digest_of_tokenizer(tokenizer), len(tokenizer)) != (known.tokenizer, known.vocabulary):
            what = f"{self.folder} was prepared for the tokenizer of {known.model}, and this model has another one"
            hint = f"dongu prepare DATA --model {name} --out OTHER, or train --model {known.model}"
            raise ModelError(what, where=f"--model {name}", hint=hint)
        for files in self.files.values():
            files.types_below = getattr(model.config, "type_vocab_size", None) or files.types_below

    def split(self, name: str, tokenizer: Any, config: RunConfig) -> Split:  # noqa: ARG002 - of which they are
        """The tokens as they lie there."""
        rows, block_rows = self.splits[name], self.manifest.block_rows
        return Split(name, rows.ids, self.tokens[name], rows.targets, rows.columns, block_rows=block_rows)

    def look_through(self) -> str:
        """Raise `DataError` if a block does not hold what was written."""
        with Waiting("reading", sum(len(tokens) for tokens in self.tokens.values()), "rows") as wait:
            for tokens in self.tokens.values():
                for start in range(0, len(tokens), self.manifest.block_rows):
                    _ = tokens.offsets[start : start + self.manifest.block_rows]
                    wait.add(min(self.manifest.block_rows, len(tokens) - start))
        size = sum(path.stat().st_size for path in self.folder.iterdir())
        return f"{sum(len(tokens) for tokens in self.tokens.values()):,} rows, {size:,} bytes, hold what was written"


def open_prepared(folder: Path, place: str | None, config: RunConfig) -> TextData:
    """The rows of a folder that `prepare` wrote: its files are mapped, and none but those of the labels is read yet.

    Raises:
        DataError: it is damaged, or of another version.
        UsageError: an option that says what the rows are is not what it was.
    """
    manifest = _read_manifest(folder)
    files = {name: Files(folder, name, shard, manifest) for name, shard in manifest.splits.items()}
    said = f"prepared for the tokenizer of {manifest.model}; the texts are not kept, so what the data doctor, the bag"
    data = PreparedData(
        **{name: getattr(manifest, name) for name in IN_BOTH},
        place=place,
        columns=Columns(manifest.texts, manifest.label),
        splits={name: each.examples() for name, each in files.items()},
        form=Form(manifest.task, manifest.separator, said=manifest.form),
        unused_texts={},
        said=(*manifest.said, f"{said} of words and the report read in them is left out"),
        dropped=tuple(BadRow(where, what) for where, what in manifest.dropped),
        folder=folder,
        manifest=manifest,
        files=files,
        tokens={name: each.tokens() for name, each in files.items()},
    )
    data.with_options(config)
    return data


def _read_manifest(folder: Path) -> Manifest:
    path = folder / PREPARED
    with readable(str(path), AGAIN):
        content = read_regular(path)
    try:
        manifest = Manifest.model_validate_json(content)
        known = {name: RunConfig.model_fields[name].default for name in DECIDED}
        RunConfig(**known | manifest.options)
        is_whole = known.keys() == manifest.options.keys() and type(manifest.options["max_length"]) is int
    except (ValueError, RecursionError) as error:  # pydantic's is a ValueError too
        raise DataError("does not say what was prepared", where=str(path), hint=AGAIN) from error
    if not is_whole or hashlib.sha256(manifest.content().encode()).hexdigest() != manifest.sha256:
        raise DataError("is not what was written", where=str(path), hint=AGAIN)
    if "train" not in manifest.splits or not manifest.label_names or not manifest.texts:
        raise DataError("has no rows to train on", where=str(path), hint=AGAIN)
    return manifest


def layout(shard: Shard, width: int) -> dict[str, tuple[Any, str, int]]:
    """Of each array its type, what it has entries for, and how many numbers an entry is; as the digest has them.

    `width` is how many numbers a label is.
    """
    labels: Any = np.int64 if shard.targets == "classes" else np.float32
    return {
        "starts": (np.int64, "start", 1),
        "rows": (np.int64, "row", 1),
        "ids": (np.int32, "token", 1),
        **({"types": (np.uint8, "token", 1)} if shard.types else {}),
        "cut": (np.bool_, "row", 1),
        **({"targets": (labels, "row", width)} if shard.targets else {}),
        **{f"column-{place}": (np.float32, "row", 1) for place in range(len(shard.columns))},
    }


def digest_of_block(parts: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for part in parts.values():
        digest.update(np.ascontiguousarray(part).ravel().view(np.uint8).data)
    return digest.hexdigest()


def _are_labels(targets: np.ndarray, manifest: Manifest) -> bool:
    """Whether each is a class or a step of the scale that there is, a number, or of several labels 0 or 1."""
    names, low, high = manifest.label_names, float(targets.min()), float(targets.max())  # a NaN is both
    if manifest.task == "regression":
        return math.isfinite(low) and math.isfinite(high)
    if manifest.task == "ordinal":
        return (number_of(names[0]) or 0) <= low <= high <= (number_of(names[-1]) or 0)
    return 0 <= low <= high <= (1 if manifest.task == "multi-label" else len(names) - 1)


def _mapped(path: Path, dtype: Any, count: int) -> np.ndarray:
    """The numbers in a file, which has to have so many."""
    with readable(str(path), AGAIN), os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
        size, wanted = os.fstat(file.fileno()).st_size, count * np.dtype(dtype).itemsize
        if size != wanted:
            raise DataError(f"has {size:,} bytes, not {wanted:,}", where=str(path), hint=AGAIN)
        return np.frombuffer(mapped(file), dtype) if count else np.empty(0, dtype)
