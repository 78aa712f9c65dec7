"""A folder as splits: by the names of its files, in shards, by class, and as `datasets` and the Hub write it.

Nothing outside of the folder is read: what a file of the folder names is looked for in it, and by its name alone.
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

from dongu.config import RunConfig
from dongu.data.by_class import (
    ABOUT,
    SHOWN_NAMES,
    class_files,
    class_folders,
    entries_of,
    is_hidden,
    is_text,
    not_classes,
    read_class_files,
    read_class_folders,
)
from dongu.data.joined import join_tables
from dongu.data.readers import FILE_KINDS, read_file, refuse_broken_link, stem_of
from dongu.data.table import Table, data_error
from dongu.errors import DataError
from dongu.files import read_regular
from dongu.text import counted, listed

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "dev", "valid", "val", "validation_matched"),
    "test": ("test", "test_matched"),
    "validation_mismatched": ("validation_mismatched",),
    "test_mismatched": ("test_mismatched",),
}
_OWN_NAME = re.compile(r"((validation|test):)?[a-z0-9][a-z0-9_-]*", re.ASCII | re.IGNORECASE)
_NOT_SPLITS = (  # of results.json
    *("best_step", "steps", "metric", "threshold", "calibrated", "temperature", "per_class"),
    *("abstain_below", "abstained"),
)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{1,9})-of-(?P<count>\d{1,9})", re.ASCII)
_NUMBERED = re.compile(r"(\D+)\d")  # part-00000.csv
_ANY_SPLIT = "|".join(chain(*SPLIT_NAMES.values()))
_END = re.compile(rf"(?P<name>.+)[-_. ](?P<split>{_ANY_SPLIT})")
_SPLIT = re.compile(rf"(?:.*[-_. =])?(?P<split>{_ANY_SPLIT})(?:[-_. ].*)?")  # a name with that of a split in it

Group = list[Path]
Found = tuple[dict[str, Table], tuple[str, ...]]  # the splits, and the files that are none


def read_folder(path: Path, config: RunConfig, name: str = "") -> Found:
    """The splits, and the files that are none: other columns, or no name for a split.

    `name` is that of a configuration, where the README.md of the folder declares several.

    Raises:
        DataError: there is no train split, or whatever is wrong with a file.
    """
    entries = entries_of(path)
    names = {entry.name for entry in entries}
    if {"dataset_dict.json", "state.json"} & names:  # what `save_to_disk` of `datasets` writes
        return _read_saved(path, config)
    if "README.md" in names and (declared := _declared(path, name)):
        return {split: _read_group(group, path, config) for split, group in declared.items()}, ()
    if name:
        raise data_error(str(path), f"there is no configuration {name!r}", "README.md declares none: leave it out")
    folders = {entry.name: entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")}
    for folder in (path, *(folders.values() if len(folders) == 1 else [path / "data"])):
        if (groups := _groups(entries_of(folder) if folder.is_dir() else [])) and any(map(is_train, groups)):
            splits, not_read = _read_groups(groups, path, config)
            read = {folder, *chain(*groups.values())}
            return splits, (*not_read, *_beside({*entries, *entries_of(folder)} - read, path))
    if any(map(is_train, folders)):
        splits, not_read = _read_split_folders(folders, path, config)
        return splits, (*not_read, *_beside({*entries} - {*folders.values()}, path))
    if len(classes := class_folders(path)) > 1:
        _refuse_splits(classes, path)
        return {"train": read_class_folders(path, classes, config)}, not_classes(entries, classes)
    if len(files := class_files(entries)) > 1:
        _refuse_splits([file.stem for file in files], path)
        return {"train": read_class_files(path, files, config)}, not_classes(entries, [file.name for file in files])
    raise _no_train(path, [entry.name for entry in entries])


def read_files(paths: Sequence[Path], pattern: str, config: RunConfig) -> Found:
    """The files that a pattern stands for: splits where their names say so, and else all of them train."""
    groups = _groups(paths)
    if any(map(is_train, groups)):
        return _read_groups(groups, Path(pattern), config)
    named = {_split_of(path, os.path.commonpath([file.parent for file in paths])): path for path in paths}
    if len(named) > 1:
        what = f"the pattern takes {' and '.join(map(str, named.values()))}, which by their names are not one split"
        raise data_error(pattern, what, "give the folder, or a pattern for train alone")
    return {"train": _read_group(paths, Path(pattern), config)}, ()


def _beside(entries: Iterable[Path], path: Path) -> list[str]:
    """The names, from the folder at `path` on, of what is not read; without what says something of the rows."""
    shown = (entry for entry in entries if not is_hidden(entry) and entry.stem.lower() not in ABOUT)
    return sorted(str(entry.relative_to(path)) for entry in shown)


def _split_of(path: Path, folder: str) -> str:
    """The split that the name of a file says, or of a folder around it and below `folder`; nothing where none does."""
    names = [stem_of(path.name) or "", *reversed(path.parent.relative_to(folder).parts)]
    return next((found["split"] for name in names if (found := _SPLIT.fullmatch(name.lower()))), "")


def _refuse_splits(names: Iterable[str], path: Path) -> None:
    """Raise `DataError` if a class is called as a split is, or all have the name of a split in theirs."""
    found = [name for name in names if _SPLIT.fullmatch(name.lower())]
    if found and (len(found) == len([*names]) or any(is_split(name) for name in found)):
        what = f"{found[0]} would be a class, and has the name of a split; there is no train split"
        raise data_error(str(path), what, "splits are train and test, each with all classes; or rename it")


def is_split(stem: str) -> bool:
    return any(stem.lower() in aliases for aliases in SPLIT_NAMES.values())


def is_train(stem: str) -> bool:
    return stem.lower() in SPLIT_NAMES["train"]


# --- files by their names


def _groups(paths: Iterable[Path]) -> dict[str, Group]:
    """Stem, or name of a file where two have its stem, → the file, or all its shards in their order."""
    groups: dict[str, Group] = {}
    shards: dict[str, dict[int, Path]] = {}
    paths = [path for path in paths if not path.name.startswith(".")]
    for path in paths:
        if stem_of(path.name) is not None:
            refuse_broken_link(path)  # it may have been a split
    paths = [path for path in paths if path.is_file()]
    rows = {(stem_of(path.name) or "").lower() for path in paths if path.suffix.lower() != ".txt"}
    for path in paths:
        stem = stem_of(path.name)
        if stem is None or (path.suffix.lower() == ".txt" and stem.lower() in rows):  # it says something of those
            continue
        if found := _SHARD.fullmatch(stem):
            stem = found["stem"]
            place = shards.setdefault(f"{stem} {int(found['count'])}", {})
            place[int(found["number"])] = path
            groups[stem] = [place[number] for number in sorted(place)]
        else:
            groups[path.name if stem in groups else stem] = [path]
    for key, place in shards.items():
        stem, _, count = key.rpartition(" ")
        if len(place) != len(groups[stem]):
            where = str(next(iter(place.values())).parent)
            raise data_error(where, f"the shards of {stem} are of several sets", "keep those of one")
        wanted = range(int(count)) if 0 in place else range(1, int(count) + 1)
        if len(place) != int(count) or not all(number in wanted for number in place):
            first = next(number for number in wanted if number not in place)
            what = f"of {counted(int(count), 'shard')} of {stem}, number {first} is missing"
            raise data_error(str(next(iter(place.values())).parent), what, "fetch it again")
    ends = [end for stem in groups if (end := _END.fullmatch(stem.lower()))]
    if len(ends) == len(groups) and len({end["name"] for end in ends}) == 1:  # reviews_train.csv, reviews_test.csv
        return dict(zip((end["split"] for end in ends), groups.values(), strict=True))
    return groups


def choose_splits(stems: Mapping[Any, str], where: str) -> dict[str, Any]:
    """Split to the one key of `stems`, in small letters, that stands for it.

    Raises:
        DataError: two stand for one split, or there is no train split.
    """
    chosen: dict[str, Any] = {}
    for split, aliases in SPLIT_NAMES.items():
        found = [key for key, stem in stems.items() if stem in aliases]
        if len(found) > 1:
            raise data_error(where, f"{' and '.join(map(str, found))} are both the {split} split", "keep one of them")
        if found:
            chosen[split] = found[0]
    if "train" not in chosen:
        what = f"there is no train split; there is {_listed(stems)}"
        raise data_error(where, what, "one of them is called train")
    return chosen


def _listed(names: Iterable[Any]) -> str:
    return listed([str(name) for name in names], SHOWN_NAMES) or "nothing"


def is_own_name(name: Any) -> bool:
    """Whether a split can be called so, where it is none of the usual ones: files are named after it."""
    usual = {alias for aliases in SPLIT_NAMES.values() for alias in aliases}
    return bool(_OWN_NAME.fullmatch(str(name))) and str(name).lower() not in {*usual, *_NOT_SPLITS}


OWN_NAME_ADVICE = (
    f"a name is of letters, digits, _ and -, perhaps after validation:, and none of {', '.join(_NOT_SPLITS)}"
)


def _read_groups(groups: Mapping[str, Group], path: Path, config: RunConfig) -> Found:
    keys = {group[0].name if len(group) == 1 else key: key for key, group in groups.items()}  # by what is shown
    stems = {name: (stem_of(key) or key).lower() for name, key in keys.items()}
    chosen = choose_splits(stems, str(path))
    found = {split: groups[keys[name]] for split, name in chosen.items()}
    train = found["train"]
    for split, group in found.items():
        if split != "train" and len(group) == len(train) == 1 and _same_bytes(group[0], train[0]):
            what = f"holds the same bytes as {train[0].name}: a score on training rows says nothing"
            raise data_error(str(group[0]), what, "remove it, and a part of train is held out; or give other rows")
    splits = {split: _read_group(group, path, config) for split, group in found.items()}
    for split, group in found.items():
        if not (stem_of(group[0].name) or "").lower().startswith(stems[chosen[split]]):
            said = f"{split}, by the end of the name"
            splits[split] = replace(splits[split], said=(said, *splits[split].said))
    not_read = []
    for name in [name for name in keys if name not in chosen.values()]:
        key, table = keys[name], None
        if is_own_name(stems[name]) and stem_of(key) is None:
            with contextlib.suppress(DataError):
                table = _read_group(groups[key], path, config)
        # What has further columns is another file: the answers of `dongu predict`, say.
        if table is None or key in splits or splits["train"].columns.keys() != table.columns.keys():
            not_read.append(name)
        else:
            splits[key] = table
    return splits, tuple(not_read)


def _read_group(group: Sequence[Path], path: Path, config: RunConfig) -> Table:
    """One file, or several that are one split, each of which is read as the other ones are."""
    if len(group) == 1:
        return read_file(group[0], config)
    tables = (read_file(file, config) for file in group)
    return join_tables(tables, str(path), said=f"{len(group):,} files in the order of their names")


def _same_bytes(one: Path, other: Path) -> bool:
    try:
        return one.stat().st_size > 0 and filecmp.cmp(one, other, shallow=False)
    except OSError:  # reading it says what is wrong
        return False


# --- folders of splits and of classes


def _read_split_folders(folders: Mapping[str, Path], path: Path, config: RunConfig) -> Found:
    """`train/` and its like: each holds the files of the split, or a folder for each class."""
    chosen = choose_splits({name: name.lower() for name in folders}, str(path))
    splits, not_read = {}, [name for name in folders if name not in chosen.values()]
    for split, name in chosen.items():
        entries = entries_of(folders[name])
        if any(entry.name == "state.json" for entry in entries):
            splits[split] = _read_saved_split(folders[name], config)
        elif files := [entry for entry in entries if _holds_rows(entry)]:
            splits[split] = _read_group(files, folders[name], config)
            not_read += _beside({*entries} - {*files}, path)
        elif classes := class_folders(folders[name]):
            splits[split] = read_class_folders(folders[name], classes, config)
            not_read += [f"{name}/{other}" for other in not_classes(entries, classes)]
        else:
            raise _no_train(folders[name], [entry.name for entry in entries])
    return splits, tuple(not_read)


def _holds_rows(path: Path) -> bool:
    """Whether it is a file of rows, by its name; of IMDB's folders each has a .txt that holds none."""
    return stem_of(path.name) is not None and path.suffix.lower() != ".txt" and path.is_file()


def _no_train(path: Path, present: Sequence[str]) -> DataError:
    hint = f"name it train (in a folder, train.csv), or give the file itself; {FILE_KINDS}"
    numbered = [found[1] for name in present if _holds_rows(path / name) and (found := _NUMBERED.match(name))]
    most = max(numbered, key=numbered.count, default="")
    if numbered.count(most) > 1:
        pattern = f"'{path / most}*'"
        hint = f"call the shards of the training rows train-00000-of-00002 and so on, or give a pattern: {pattern}"
    elif any(name.endswith(".ann") for name in present):
        hint = "brat marks spans, but each text needs a class: a folder for each class (pos/*.txt), or a csv"
    elif folders := [path / name for name in present if (path / name).is_dir() and not name.startswith(".")]:
        hint = "folders by class hold files of text (.txt) and nothing else, in at least two classes"
        others = (file for folder in folders for file in entries_of(folder) if not (is_text(file) or is_hidden(file)))
        hint += f"; there is {other.relative_to(path)}" if (other := next(others, None)) else ""
    elif any(name.lower().endswith(".txt") for name in present):
        hint += "; files of text by class (pos.txt, neg.txt, a row a line) are read where nothing else is there"
    return data_error(str(path), f"there is no train split; there is {_listed(present)}", hint)


# --- what `datasets` and the Hub write


def _read_saved(path: Path, config: RunConfig) -> Found:
    if not (path / "dataset_dict.json").is_file():
        return {"train": _read_saved_split(path, config)}, ()
    names = _json_of(path / "dataset_dict.json").get("splits")
    if not isinstance(names, list) or not all(map(_is_plain, names)):
        raise data_error(str(path / "dataset_dict.json"), "names no splits", "save the data set again")
    chosen = _with_own_names(names, path)
    splits = {split: _read_saved_split(path / name, config) for split, name in chosen.items()}
    return splits, tuple(name for name in names if name not in chosen.values())


def _with_own_names(names: Collection[str], path: Path) -> dict[str, str]:
    """Split to its name among these: the usual ones, and those of a name of their own."""
    chosen = choose_splits({name: name.lower() for name in names}, str(path))
    return chosen | {name: name for name in names if name not in chosen.values() and is_own_name(name)}


def _read_saved_split(path: Path, config: RunConfig) -> Table:
    state = _json_of(path / "state.json")
    files = [file.get("filename") for file in state.get("_data_files") or () if isinstance(file, dict)]
    if not files or not all(map(_is_plain, files)) or state.get("_indices_files") or state.get("_indices_data_files"):
        hint = "in Python: dongu.train(datasets.load_from_disk(FOLDER))"
        raise data_error(str(path / "state.json"), "does not name the files that hold the rows", hint)
    return _read_group([path / str(name) for name in files], path, config)


def _is_plain(name: Any) -> bool:
    """Whether it is a name alone: a file that names others may come from anybody."""
    return isinstance(name, str) and name not in ("", ".", "..") and "\0" not in name and PurePath(name).name == name


def _json_of(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_regular(path, follow=True))
    except (OSError, ValueError, RecursionError) as error:
        what = f"cannot be read ({getattr(error, 'strerror', None) or error})"
        raise data_error(str(path), what, "save the data set again") from error
    return content if isinstance(content, dict) else {}


def _declared(path: Path, name: str) -> dict[str, Group]:
    """Split → its files, as the README.md of a data set of the Hub declares them; nothing where it declares none.

    Raises:
        DataError: it declares several configurations, and none by this name; or files that are not there.
    """
    where = str(path / "README.md")
    try:
        text = read_regular(path / "README.md", follow=True)
    except OSError:
        return {}
    if not text.startswith(b"---") or b"configs:" not in text:
        return {}
    from huggingface_hub import metadata_load

    try:
        configs: Any = (metadata_load(where) or {}).get("configs")
        files = {str(config["config_name"]): config["data_files"] for config in configs if "data_files" in config}
    except Exception as error:  # of its YAML, or of a list that is none
        raise data_error(where, "its `configs` cannot be read", "correct or remove it") from error
    if not files:
        return {}
    name = name or ("default" if "default" in files else next(iter(files)) if len(files) == 1 else "")
    if name not in files:
        hint = f"name one of them: {path}:{next(iter(files))}"
        raise data_error(where, f"there are the configurations {_listed(files)}", hint)
    return _declared_files(files[name], path)


def _declared_files(given: Any, path: Path) -> dict[str, Group]:
    found: dict[str, Group] = {}
    entries = (
        given if isinstance(given, list) and all(isinstance(entry, dict) for entry in given) else [{"path": given}]
    )
    for entry in entries:
        patterns = entry.get("path")
        group: Group = []
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            parts = PurePath(str(pattern)).parts
            if not isinstance(pattern, str) or not pattern or ".." in parts or PurePath(pattern).is_absolute():
                raise data_error(str(path / "README.md"), f"{pattern!r} is not a path in the folder", "correct it")
            group += sorted(file for file in path.glob(pattern) if file.is_file())
        if not group:
            raise data_error(str(path / "README.md"), f"there is no file {patterns!r}", "fetch the data set again")
        found[str(entry.get("split", "train"))] = group
    return {split: found[name] for split, name in _with_own_names(found, path).items()}
