"""DATA, as the user names it, becomes splits: a folder, a file, a Hub data set, or rows in memory."""

from __future__ import annotations

import contextlib
import filecmp
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dongu.config import RunConfig
from dongu.data.cells import table_of_objects, uncollected
from dongu.data.glue import GLUE
from dongu.data.readers import (
    AS_FOUND,
    BATCH_ROWS,
    FILE_KINDS,
    SUFFIXES,
    closest_name,
    path_kind,
    read_file,
    table_of_arrow,
)
from dongu.data.table import Table, as_cell, check_names, data_error, reason_of
from dongu.errors import DataError
from dongu.hub import ask_commit, asked, commit_of, out_of_reach, refusal, say_cached, split_commit, split_revision
from dongu.text import file_name


@dataclass(frozen=True)
class Source:
    """All splits of what the user calls DATA."""

    name: str
    """A short name for the run folder: `mrpc` for `glue:mrpc`, a folder's name, a file's stem, or `data`."""
    splits: dict[str, Table]
    """In this order, where present: train, validation, test, then MNLI's validation_mismatched and test_mismatched, and
    those of a name of their own."""
    hub_name: str | None = None
    """The name as given but for its revision, for data from the Hub."""
    place: str | None = None
    """DATA as given, where it is a path or a name; a Hub name with the commit that was read. None for rows in memory.
    """
    not_read: tuple[str, ...] = ()
    """Files of a folder that are no split, and splits of a Hub data set that are none of the usual ones."""

    @property
    def said(self) -> tuple[str, ...]:
        """How the files were read, where that was found out: a sentence each, with the files that it is true of."""
        files: dict[str, list[str]] = {}
        for table in self.splits.values():
            for sentence in table.said:
                files.setdefault(sentence, []).append(file_name(table.origin))
        return tuple(f"{', '.join(names)}: {sentence}" for sentence, names in files.items())


_ALIASES = {
    "train": ("train",),
    "validation": ("validation", "dev", "valid", "val", "validation_matched"),
    "test": ("test", "test_matched"),
    "validation_mismatched": ("validation_mismatched",),
    "test_mismatched": ("test_mismatched",),
}
_OWN_NAME = re.compile(r"((validation|test):)?[a-z0-9][a-z0-9_-]*", re.ASCII | re.IGNORECASE)
_NOT_SPLITS = ("best_step", "steps", "metric", "threshold", "calibrated", "temperature", "per_class")  # of results.json
_DATA = (
    f"DATA is a folder with train.* and perhaps validation.* and test.*, or one file ({FILE_KINDS}), "
    "or a Hub name (glue:mrpc, owner/name, owner/name:config, each perhaps with @revision)"
)
_IN_MEMORY = "in Python also a datasets.DatasetDict or Dataset, a pandas frame, a list of dicts, a dict of splits"
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(:\w[\w.+-]*)?(@\w[\w./-]*)?", re.ASCII)


@uncollected()
def read_source(data: Any, config: RunConfig = AS_FOUND) -> Source:
    """Reads DATA: a folder, a file, a Hub name or a data set in memory. A local path wins over the Hub.

    Args:
        data: what the user names or gives.
        config: how files are read, where that is not to be found out.

    Raises:
        DataError: whatever is wrong with it.
    """
    if isinstance(data, str | Path):
        source = _read_name(str(data), config)
        return source if source.place else replace(source, place=str(data))
    if isinstance(data, dict):
        return Source("data", _read_splits(data, "data", config, own=True)[0])
    return Source("data", {"train": _from_memory(data, "data", config)})


def _read_name(name: str, config: RunConfig) -> Source:
    path = Path(name)
    with contextlib.suppress(RuntimeError):  # the home of `~nobody`: reported as a missing path
        path = path.expanduser()
    kind = path_kind(path) if name.strip() else None
    if kind is None and "://" in name:
        raise data_error(name, "an address is not read", "fetch the file first: curl -LO ADDRESS")
    if kind == "folder":
        splits, not_read = _read_folder(path, config)
        return Source(path.resolve().name or "data", splits, not_read=not_read)
    if kind is not None or path.suffix.lower() in SUFFIXES or name.startswith((".", "/", "~")):
        return Source(path.stem, {"train": read_file(path, config)})
    if name.partition(":")[0] == "glue" or _HUB_NAME.fullmatch(name):
        return _read_hub(name)
    meant = f"did you mean glue:{name}?" if name in GLUE else closest_name(path)
    raise data_error("", f"{name!r} is no file or folder here, and no Hub name", f"{meant} {_DATA}".strip())


def _read_folder(path: Path, config: RunConfig) -> tuple[dict[str, Table], tuple[str, ...]]:
    """The splits, and the files that are none: other columns, or no name for a split."""
    try:
        entries = sorted(path.iterdir())
        stems = {e.name: e.stem.lower() for e in entries if e.suffix.lower() in SUFFIXES and e.is_file()}
    except OSError as error:
        raise data_error(str(path), f"cannot be read ({error.strerror})", "check the permissions") from error
    chosen = _choose_splits(stems, str(path), [entry.name for entry in entries], _folder_hint(entries))
    for split, name in chosen.items():
        if split != "train" and _same_bytes(path / name, path / chosen["train"]):
            what = f"holds the same bytes as {chosen['train']}: to measure on what was learnt says nothing"
            raise data_error(str(path / name), what, "remove it, and a part of train is held out; or give other rows")
    splits = {split: read_file(path / name, config) for split, name in chosen.items()}
    not_read = []
    for name in (name for name in stems if name not in chosen.values()):
        table = _read_other(path / name, config) if _is_own_name(Path(name).stem) else None
        # What has further columns is another file: the answers of `dongu predict`, say.
        if table is None or Path(name).stem in splits or splits["train"].columns.keys() != table.columns.keys():
            not_read.append(name)
        else:
            splits[Path(name).stem] = table
    return splits, tuple(not_read)


def _read_other(path: Path, config: RunConfig) -> Table | None:
    with contextlib.suppress(DataError):
        return read_file(path, config)
    return None


def _is_own_name(name: Any) -> bool:
    """Whether a split can be called so, where it is none of the usual ones: files are named after it."""
    usual = {alias for aliases in _ALIASES.values() for alias in aliases}
    return bool(_OWN_NAME.fullmatch(str(name))) and str(name).lower() not in {*usual, *_NOT_SPLITS}


def _same_bytes(one: Path, other: Path) -> bool:
    try:
        return one.stat().st_size > 0 and filecmp.cmp(one, other, shallow=False)
    except OSError:  # reading it says what is wrong
        return False


def _folder_hint(entries: list[Path]) -> str:
    """What to do with a folder that has no train split, by what it has."""
    names = {entry.name for entry in entries}
    if names & {"dataset_info.json", "dataset_dict.json"}:  # what `save_to_disk` writes
        return "in Python: dongu.train(datasets.load_from_disk(FOLDER))"
    if any(re.fullmatch(r"(?i).*-\d+-of-\d+\..+", name) for name in names) or "data" in names:
        return "shards are not read: join those of a split to one file, train.parquet, or give the Hub's name"
    if entries and all(entry.is_dir() for entry in entries):
        return "folders by class are not read: write one csv with the columns text and label"
    return f"name it train (in a folder, train.csv); {FILE_KINDS}"


def _choose_splits(stems: dict[Any, str], where: str, present: Iterable[Any], hint: str) -> dict[str, Any]:
    """Split to the one key of `stems` that stands for it."""
    chosen: dict[str, Any] = {}
    for split, aliases in _ALIASES.items():
        found = [key for key, stem in stems.items() if stem in aliases]
        if len(found) > 1:
            raise data_error(where, f"{' and '.join(map(str, found))} are both the {split} split", "keep one of them")
        if found:
            chosen[split] = found[0]
    if "train" not in chosen:
        names = [str(name) for name in present]
        listing = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        raise data_error(where, f"there is no train split; there is {listing or 'nothing'}", hint)
    return chosen


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
    """A data set of the Hub and its commit; what the cache has of it where the Hub is out of reach.

    Raises:
        Exception: whatever `datasets` and the Hub have against it.
    """
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
    chosen = _choose_splits({key: str(key).lower() for key in data}, origin, data, "one of them is called train")
    others = [key for key in data if key not in chosen.values()]
    if own and (wrong := [key for key in others if not _is_own_name(key)]):
        hint = f"a name is of letters, digits, _ and -, perhaps after validation:, and none of {', '.join(_NOT_SPLITS)}"
        raise data_error(origin, f"a split cannot be called {wrong[0]!r}", hint)
    chosen |= {str(key): key for key in others} if own else {}
    tables = {split: _from_memory(data[key], f"{origin} {key}", config) for split, key in chosen.items()}
    return tables, () if own else tuple(map(str, others))


def _from_memory(data: Any, origin: str, config: RunConfig) -> Table:
    if isinstance(data, str | Path):
        return read_file(Path(data), config)
    if _is_a(data, "datasets", "Dataset"):
        return table_of_arrow(data.with_format("arrow").iter(BATCH_ROWS), origin)
    if _is_a(data, "pandas", "DataFrame"):
        check_names(list(data.columns), origin)
        return table_of_objects(_memory_rows(_records(data), origin), origin, lines=False)
    if isinstance(data, list | tuple):
        return table_of_objects(_memory_rows(data, origin), origin, lines=False)
    raise data_error(origin, f"{type(data).__name__} is not a data set", f"{_DATA}; {_IN_MEMORY}")


def _records(frame: Any) -> Iterator[dict[str, Any]]:
    """The rows of a pandas frame."""
    for start in range(0, len(frame), BATCH_ROWS):
        yield from frame.iloc[start : start + BATCH_ROWS].to_dict("records")


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
