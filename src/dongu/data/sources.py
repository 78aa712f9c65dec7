"""DATA, as the user names it, becomes splits: a folder, a file, a Hub data set, or rows in memory."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dongu.config import RunConfig
from dongu.data.cells import Rows, table_of_objects, uncollected, with_fields
from dongu.data.download import PATTERN, STANDARD_INPUT, address_file, read_address, read_standard_input
from dongu.data.folders import OWN_NAME_ADVICE, choose_splits, is_own_name, is_train, read_files, read_folder
from dongu.data.glue import GLUE
from dongu.data.readers import (
    AS_FOUND,
    BATCH_ROWS,
    FILE_KINDS,
    closest_name,
    path_kind,
    pieces_of_batches,
    read_file,
    refuse_broken_link,
    stem_of,
    table_of_arrow,
)
from dongu.data.table import NotKept, Table, as_cell, check_names, data_error
from dongu.errors import DataError
from dongu.hub import ask_commit, asked, commit_of, out_of_reach, refusal, say_cached, split_commit, split_revision
from dongu.text import file_name, reason_of


@dataclass(frozen=True)
class Source:
    """All splits of what the user calls DATA."""

    name: str  # for the run folder: `mrpc` for `glue:mrpc`, a folder's name, a file's stem, or `data`
    # In this order, where present: train, validation, test, MNLI's mismatched ones, those of a name of their own.
    splits: dict[str, Table]
    hub_name: str | None = None  # as given but for its revision, for data from the Hub
    place: str | None = None  # DATA as given, of the Hub with the commit that was read; None for rows in memory
    not_read: tuple[str, ...] = ()  # files of a folder that are no split, and such splits of a Hub data set
    prepared: Path | None = None  # the folder of rows that are tokenized already; then there are no tables

    @property
    def said(self) -> tuple[str, ...]:
        """How the files were read, where that was found out: a sentence each, with the files that it is true of."""
        files: dict[str, list[str]] = {}
        for table in self.splits.values():
            for sentence in table.said:
                files.setdefault(sentence, []).append(file_name(table.origin))
        return tuple(f"{', '.join(names)}: {sentence}" for sentence, names in files.items())


PREPARED = "prepared.json"  # with which a folder holds rows that are tokenized already
_DATA = (
    f"DATA is a folder with train.* and perhaps validation.* and test.*, or one file ({FILE_KINDS}), "
    "or a Hub name (glue:mrpc, owner/name, owner/name:config, each perhaps with @revision)"
)
_IN_MEMORY = (
    "in Python also a datasets.DatasetDict or Dataset, a pandas or polars frame, an Arrow table, a list of dicts, "
    "a dict of columns (lists or arrays) or of splits"
)
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(:\w[\w.+-]*)?(@\w[\w./-]*)?", re.ASCII)


@uncollected()
def read_source(data: Any, config: RunConfig = AS_FOUND) -> Source:
    """Reads DATA: a folder, a file, a Hub name or a data set in memory. A local path wins over the Hub.

    Raises:
        DataError: whatever is wrong with it.
    """
    if isinstance(data, str | Path):
        source = _read_name(str(data), config)
        source = source if source.place or data == STANDARD_INPUT else replace(source, place=str(data))
        if source.prepared is not None:
            return source
        return _with_fields(source, config)
    if isinstance(data, dict):  # arrays, series and tensors may be columns too
        indexes = [cells.index for cells in data.values() if _is_a(cells, "pandas", "Series")]
        if any(not index.equals(indexes[0]) for index in indexes):
            what = "the columns are series of pandas with other indexes, so their rows do not belong together"
            raise data_error("data", what, "pandas.DataFrame(data) joins them by their index")
        data = {name: cells.tolist() if hasattr(cells, "tolist") else cells for name, cells in data.items()}
    if isinstance(data, dict) and not _are_columns(data):
        source = Source("data", _read_splits(data, "data", config, own=True)[0])
    else:
        source = Source("data", {"train": _from_memory(data, "data", config)})
    return _with_fields(source, config)


def _with_fields(source: Source, config: RunConfig) -> Source:
    one_each = (config.label_column, config.group_column, config.time_column)
    named = (*(config.text_columns or ()), *(config.columns or ()), *filter(None, one_each))
    fields = [part for name in named for part in name.split("+")]
    return replace(source, splits={name: with_fields(table, fields) for name, table in source.splits.items()})


def _are_columns(data: dict[Any, Any]) -> bool:
    """Whether a dict holds columns, which have to be of one length, and not splits: lists, and none of rows."""
    if not data or any(map(is_train, map(str, data))):
        return False
    if not all(
        isinstance(cells, list | tuple) and not isinstance(next(iter(cells), None), dict) for cells in data.values()
    ):
        return False
    lengths = {str(name): len(cells) for name, cells in data.items()}
    if len({*lengths.values()}) > 1:
        shown = ", ".join(f"`{name}` has {length:,}" for name, length in lengths.items())
        raise data_error("data", f"the columns are not of one length: {shown}", "give each column one cell per row")
    return True


def _read_name(name: str, config: RunConfig) -> Source:
    path = Path(name)
    with contextlib.suppress(RuntimeError):  # the home of `~nobody`: reported as a missing path
        path = path.expanduser()
    kind = path_kind(path) if name.strip() else None
    refuse_broken_link(path)
    if name == STANDARD_INPUT and kind is None:
        return Source("data", {"train": read_standard_input(config)})
    if kind is None and "://" in name:
        address, (splits, not_read) = read_address(name, config)
        last = address_file(address)
        return Source(stem_of(last) or re.sub(r"\W+", "-", last).strip("-") or "data", splits, None, address, not_read)
    if kind == "folder" and (path / PREPARED).exists():
        refused: Any = NotKept(name)
        return Source(path.resolve().name or "data", refused, prepared=path)
    if kind == "folder":
        splits, not_read = read_folder(path, config)
        return Source(path.resolve().name or "data", splits, not_read=not_read)
    if kind is None and PATTERN.search(name) and (files := _matching(path)):
        splits, not_read = read_files(files, str(path), config)
        return Source(path.parent.resolve().name or "data", splits, not_read=not_read)
    folder, _, part = str(path).rpartition(":")
    if kind is None and folder and path_kind(Path(folder) / "README.md") == "file":
        splits, not_read = read_folder(Path(folder), config, part)
        return Source(f"{Path(folder).resolve().name}-{part}", splits, not_read=not_read)
    if kind is not None or stem_of(path.name) is not None or name.startswith((".", "/", "~")):
        return Source(stem_of(path.name) or path.stem, {"train": read_file(path, config)})
    if name.partition(":")[0] == "glue" or _HUB_NAME.fullmatch(name):
        return _read_hub(name)
    meant = f"did you mean glue:{name}?" if name in GLUE else closest_name(path)
    raise data_error("", f"{name!r} is not a file or folder here, nor a Hub name", f"{meant} {_DATA}".strip())


def _matching(path: Path) -> list[Path]:
    """The files that a pattern such as `shards/*.parquet` stands for, by their names."""
    pattern = str(path.relative_to(path.anchor))
    return sorted(file for file in Path(path.anchor).glob(pattern) if path_kind(file) == "file")


def hub_parts(name: str) -> tuple[str, str | None]:
    """Repository and configuration of a Hub data set: `glue:mrpc` → `nyu-mll/glue` and `mrpc`."""
    repository, _, config = name.partition(":")
    return "nyu-mll/glue" if repository == "glue" else repository, config or None


def _read_hub(given: str) -> Source:
    name, revision = split_revision(given)
    repository, config = hub_parts(name)
    short = "-".join(filter(None, [repository.rpartition("/")[2], config]))
    if name.partition(":")[0] == "glue":
        if config not in GLUE:
            raise data_error(name, f"GLUE has no task {config or ''!r}", f"its tasks are {', '.join(GLUE)}")
        short = config
    try:
        loaded, commit = _load_commit(repository, config, revision)
    except Exception as error:  # failures of the network, the cache and the format share no other base
        place = f"{repository}@{revision}" if revision else repository
        what, hint = refusal(error, place, "dataset") or (
            f"the data set cannot be loaded from the Hub ({type(error).__name__}: {reason_of(error)})",
            "check the name and the network; a local folder or file works offline",
        )
        raise data_error(given, what, hint) from error
    splits, not_read = _read_splits(
        loaded if isinstance(loaded, dict) else {"train": loaded}, name, AS_FOUND, own=False
    )
    return Source(short, splits, name, f"{name}@{commit}" if commit else given, not_read)


def _load_commit(repository: str, config: str | None, revision: str | None) -> tuple[Any, str | None]:
    """A data set of the Hub and its commit; what the cache has of it where the Hub is out of reach."""
    import datasets
    from huggingface_hub import is_offline_mode

    if is_offline_mode() and revision is None:
        loaded = datasets.load_dataset(repository, config)
        return loaded, _commit_of(loaded)
    place = f"{repository}@{revision}" if revision else repository
    try:
        commit = commit_of(place, "dataset") if revision else ask_commit(place, "dataset")
    except Exception as error:
        if revision or not out_of_reach(error):
            raise
        try:
            loaded = _prepared(repository, config, "auto", "auto")  # `datasets` itself would ask again and again
        except (ValueError, OSError):
            raise error from None
        say_cached(repository, error)
        return loaded, _commit_of(loaded)
    try:
        return _prepared(repository, config, "0.0.0", commit), commit
    except (ValueError, OSError):  # it was not loaded yet
        loaded = asked(lambda: datasets.load_dataset(repository, config, revision=commit))
    if (found := _commit_of(loaded) or commit) != commit:  # of the cache, where `datasets` did not reach the Hub
        raise FileNotFoundError(f"commit {commit} is not to be had, and the cache has {found}")
    return loaded, commit


def _prepared(repository: str, config: str | None, version: str, commit: str) -> Any:
    """A data set that `datasets` has loaded before, without a request.

    Raises:
        ValueError, OSError: it has not, or not under this name.
    """
    from datasets.packaged_modules.cache.cache import Cache

    name = repository.rpartition("/")[2]
    builder = Cache(repo_id=repository, dataset_name=name, config_name=config, version=version, hash=commit)
    builder.download_and_prepare()
    return builder.as_dataset()


def _commit_of(loaded: Any) -> str | None:
    """The commit of a data set that `datasets` has prepared, which names the folder after it."""
    part = next(iter(loaded.values()), None) if isinstance(loaded, dict) else loaded
    files = getattr(part, "cache_files", None) or [{"filename": ""}]
    return split_commit(f"@{Path(files[0]['filename']).parent.name}")[1]


def _read_splits(
    data: dict[Any, Any], origin: str, config: RunConfig, *, own: bool
) -> tuple[dict[str, Table], tuple[str, ...]]:
    """The splits, those of a name of their own among them if these are wanted, and the names that are left out."""
    chosen = choose_splits({key: str(key).lower() for key in data}, origin)
    others = [key for key in data if key not in chosen.values()]
    if own and (wrong := [key for key in others if not is_own_name(key)]):
        raise data_error(origin, f"a split cannot be called {wrong[0]!r}", OWN_NAME_ADVICE)
    chosen |= {str(key): key for key in others} if own else {}
    tables = {split: _from_memory(data[key], f"{origin} {key}", config) for split, key in chosen.items()}
    return tables, () if own else tuple(map(str, others))


def _from_memory(data: Any, origin: str, config: RunConfig) -> Table:
    if isinstance(data, str | Path):
        return read_file(Path(data), config)
    if _is_a(data, "datasets", "Dataset"):
        if data.format["type"] == "custom":
            hint = "dataset.map(...) writes its rows; without it: dataset.reset_format()"
            raise data_error(origin, "the data set has a transform, which training would not apply", hint)
        return table_of_arrow(data.with_format("arrow").iter(BATCH_ROWS), origin)
    if _is_a(data, "datasets", "IterableDataset"):
        table = _table_of_rows(data, origin, config)
        kinds = {name: getattr(kind, "feature", kind) for name, kind in (data.features or {}).items()}  # of lists too
        return replace(table, label_names={name: kind.names for name, kind in kinds.items() if hasattr(kind, "names")})
    if _is_a(data, "pandas", "DataFrame"):
        check_names(list(data.columns), origin)
        parts = (data.iloc[start : start + BATCH_ROWS] for start in range(0, len(data), BATCH_ROWS))
        return _table_of_rows((row for part in parts for row in part.to_dict("records")), origin, config)
    if isinstance(data, list | tuple):
        return _table_of_rows(data, origin, config)
    if isinstance(data, dict):
        rows = (dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True))
        return _table_of_rows(rows, origin, config)
    if hasattr(data, "__arrow_c_stream__"):  # of polars, Arrow, DuckDB and others
        import pyarrow as pa

        try:
            reader = pa.RecordBatchReader.from_stream(data)
        except pa.ArrowInvalid as error:  # a single column, such as a series
            raise _no_data_set(data, origin) from error
        return table_of_arrow(pieces_of_batches(reader), origin)
    raise _no_data_set(data, origin)


def _no_data_set(data: Any, origin: str) -> DataError:
    return data_error(origin, f"{type(data).__name__} is not a data set", f"{_DATA}; {_IN_MEMORY}")


def _table_of_rows(rows: Iterable[Any], origin: str, config: RunConfig) -> Table:
    made = Rows(origin=origin, drop=config.bad_rows is not None, by_row=True)
    return table_of_objects(_memory_rows(rows, origin), made)


def _is_a(data: Any, module: str, name: str) -> bool:
    """isinstance without the import: an object of a library exists only where the library is loaded."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(data, kind)


def _memory_rows(data: Iterable[Any], origin: str) -> Iterator[tuple[int, Any]]:
    for number, row in enumerate(data, 1):
        try:
            cells = {key: as_cell(cell) for key, cell in row.items()} if isinstance(row, dict) else row
        except (ValueError, RecursionError) as error:  # a lone surrogate, 5,000 digits, a list within itself
            raise data_error(f"{origin}, row {number}", f"a cell cannot be read ({reason_of(error)})") from error
        yield number, cells
