"""Where the data and the model of a run lie: from the root, and from the run, beside which they may have moved."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dongu.hub import join_commits

PLACED = ("data", "split_file", "model", "tokenizer")  # options that may be a path


def relative_places(options: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """The options that are paths from the root, as paths from a folder."""
    found = {name: options[name] for name in PLACED if isinstance(options.get(name), str)}
    return {
        name: os.path.relpath(path, folder.absolute())
        for name, path in found.items()
        if Path(path).is_absolute() and _exists(path)
    }


def found_again(record: Mapping[str, Any], folder: Path) -> Any:
    """The `options` of a record. What is not where it was, and lies as it did from the record's folder, is there:
    a project that was moved, or is seen under another path, is one.

    Raises:
        KeyError, ValueError: there are no options, or relative places that are none.
    """
    options, relative = record["options"], record.get("relative_places", {})
    if not isinstance(options, dict):
        return options
    if not (isinstance(relative, dict) and all(isinstance(path, str) for path in relative.values())):
        raise ValueError(f"`relative_places` is {relative!r}")
    places = {name: os.path.normpath(folder.absolute() / relative[name]) for name in PLACED if name in relative}
    return {**options, **{name: place for name, place in places.items() if _is_now(place, options.get(name))}}


def recorded_options(record: Mapping[str, Any], folder: Path) -> Any:
    """The options of a `run.json` in its folder, with places and commits as they are to be read now.

    Raises:
        KeyError, ValueError: as `found_again` and `join_commits`.
    """
    return join_commits({**record, "options": found_again(record, folder)})


def is_same_place(name: str, one: Any, other: Any) -> bool:
    """Whether two values of an option are equal, or two paths to one place."""
    if one != other and name in PLACED and isinstance(one, str) and isinstance(other, str):
        return _exists(one) and _exists(other) and Path(one).samefile(other)
    return bool(one == other)


def _is_now(place: str, path: Any) -> bool:
    """Whether what was at a path is at this place; with another name, somebody has edited the path, and means it."""
    return isinstance(path, str) and Path(place).name == Path(path).name and _exists(place) and not _exists(path)


def _exists(path: str) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - which is false of what can be no path, too
