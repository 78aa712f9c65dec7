"""A run folder that is taken: the next of numbered runs, a run that makes room for another, or one that goes on."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dongu.config import RunConfig
from dongu.errors import InputError, UsageError
from dongu.files import disk, is_leftover, storage
from dongu.hub import split_commit
from dongu.run.folder import DROPPED, FINDINGS, LOCK, PARTS_COPY, TENSORBOARD, TRACKING, RunFolder
from dongu.run.manifest import MANIFEST

NUMBER = "{n}"
# All that a run, and the commands that are given one, write beside what `RunFolder` names.
OWN_NAMES = {FINDINGS, DROPPED, PARTS_COPY, TRACKING, TENSORBOARD, MANIFEST, LOCK, "predictions", "onnx"}


def numbered(out: str | Path) -> str:
    """`runs/x-{n}` with the number after the highest that is there: `runs/x-1` first.

    Raises:
        UsageError: it stands for a folder within folders.
    """
    place = os.fspath(out)
    if NUMBER not in place:
        return place
    path = Path(place)
    if NUMBER not in path.name:
        raise UsageError("only the last folder is numbered", where=f"--out {place}", hint="--out runs/x-{n}")
    pattern = re.compile(re.escape(path.name).replace(re.escape(NUMBER), r"(\d{1,9})", 1))
    there = path.parent.iterdir() if path.parent.is_dir() else ()
    numbers = [int(found[1]) for each in there if (found := pattern.fullmatch(each.name))]
    return str(path.parent / path.name.replace(NUMBER, str(max(numbers, default=0) + 1), 1))


def check_free(folder: RunFolder, *, overwrite: bool) -> None:
    """
    Raises:
        LockedError: another process writes to the folder.
        UsageError: it holds something already, and with `overwrite` what is not a run, or more than one.
    """
    try:
        folder.refuse_if_taken()
    except UsageError:
        if not overwrite or not folder.path.is_dir():
            raise
        hint = "choose another --out; nothing was touched"
        try:
            folder.read_record()
        except InputError as error:
            what = "is not overwritten: it holds no whole run"
            raise UsageError(what, where=f"--out {folder.path}", hint=hint) from error
        foreign = sorted(path.name for path in folder.path.iterdir() if not _is_own(folder, path))
        if foreign or folder.path.is_symlink():
            reason = f"it holds what no run wrote: {', '.join(foreign[:3])}" if foreign else "it is a link"
            what = f"is not overwritten: {reason}"
            raise UsageError(what, where=f"--out {folder.path}", hint=hint) from None


def as_begun(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run that may have begun: with its commits of the Hub, and as many threads, where none are given.

    Raises:
        LockedError: another process writes to its folder.
        InputError: the options name no folder, or it is damaged.
    """
    if options.get("out") is None:
        raise UsageError("which run?", where="--resume", hint="give its folder: --out RUN")
    folder, begun = RunFolder(Path(options["out"])), {**options}
    if not folder.is_finished:  # nobody writes to one that is, and it may lie on a read-only disk
        folder.refuse_if_locked()
    if folder.record.exists():
        recorded = folder.read_record()["options"]
        for name in ("model", "data"):
            given = options.get(name, RunConfig.model_fields[name].default)
            if isinstance(given, str) and given == split_commit(str(recorded[name]))[0]:
                begun[name] = recorded[name]
        begun["threads"] = options.get("threads") or recorded["threads"]
    return begun


def remove_run(folder: RunFolder) -> None:
    """Remove a run from its folder, which is locked: `run.json` last, so that what is cut off can be begun again.

    Raises:
        StorageError: something cannot be removed.
    """
    with storage(folder.path):
        found = {path for path in folder.path.iterdir() if _is_own(folder, path) and path.name != LOCK}
        ends = (folder.results, folder.record)
        for path in (ends[0], *sorted(found - {*ends}), ends[1]):
            disk.remove(path)


def _is_own(folder: RunFolder, path: Path) -> bool:
    known = {*OWN_NAMES, *(each.name for each in folder.files)}
    return path.name in known or is_leftover(path)
