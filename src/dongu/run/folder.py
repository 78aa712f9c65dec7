"""The run folder: which file holds what, under which name."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import platform
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dongu.errors import CheckpointError, DataError, InputError, LockedError, StorageError, UsageError
from dongu.files import (
    is_leftover,
    keep_file,
    make_folder,
    open_regular,
    read_regular,
    refuse_link,
    remove_leftovers,
    storage,
    write_file,
    write_lines,
)
from dongu.hub import split_commit
from dongu.relocation import recorded_options
from dongu.run.manifest import MANIFEST, check_file, entry_of, entry_of_file, manifest_bytes, read_manifest
from dongu.run.several import told_of_several
from dongu.text import typed

if TYPE_CHECKING:  # a folder is looked at before torch is loaded
    from dongu.loop import Loop

LOCK = ".lock"
RESOLVED = {"text_columns", "label_column", "task"}  # options that have a value in every run.json
PARTS_COPY = "parts.py"  # what the run's own parts were read from; a copy, which is never run by itself
FINDINGS = "findings.json"  # what the data doctor said; the last file before run.json, with which a run begins
DROPPED = "dropped.jsonl"  # the rows that --bad-rows left out; written before run.json too
TRACKING, TENSORBOARD = "tracking.json", "tensorboard"  # what trackers call the run; TensorBoard's files
# Process, device and inode of each lock that is held. Whoever in this process closes the file again lets go of it.
_HELD: set[tuple[int, int, int]] = set()
CALIBRATION = "calibration.json"  # in the model's folder: a calibrated model comes with it or not at all


def _identity(lock: os.stat_result) -> tuple[int, int, int]:
    return os.getpid(), lock.st_dev, lock.st_ino


class RunFolder:
    """Paths and whole-file writes of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record = path / "run.json"  # what the run is made of; with it a run begins
        self.results = path / "results.json"  # what it came to; with it a run is finished
        self.model = path / "model"  # the best one, as `from_pretrained` loads it
        self.checkpoints = path / "checkpoints"  # one folder each
        self.metrics = path / "metrics.jsonl"  # one line a step and one an evaluation; no times
        self.timing = path / "timing.jsonl"  # the clock's side of `metrics.jsonl`
        self.dynamics = path / "dynamics.bin"  # the loss of every training row at each of its uses
        self.report = path / "report.html"  # the page that shows all of it
        whole = (self.record, self.results, self.metrics, self.timing, self.dynamics, self.report)
        self.files = (*whole, self.model, self.checkpoints)  # what a run writes under a name of its own here
        self._parts = (self.model, path / "predictions", self.checkpoints, path / TENSORBOARD)  # that it writes to

    @property
    def is_finished(self) -> bool:
        return self.results.exists()

    @property
    def is_locked(self) -> bool:
        """Whether somebody writes to the folder; not of one that nobody here may write to."""
        try:
            self.refuse_if_locked()
        except LockedError:
            return True
        except StorageError:
            return False
        return False

    def refuse_if_taken(self) -> None:
        """
        Raises:
            LockedError: another process writes to the folder.
            UsageError: it holds something already, or cannot be a folder.
        """
        try:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                self.path.stat()
            self.refuse_if_locked()
            self.refuse_if_used()
        except (OSError, ValueError) as error:  # a name that is too long, a loop of links, a NUL
            what = f"cannot be looked at ({getattr(error, 'strerror', None) or error})"
            raise UsageError(what, where=f"--out {self.path}", hint="choose another --out") from error

    def refuse_if_used(self) -> None:
        """Raise `UsageError` if the folder holds something already."""
        unused = {LOCK, FINDINGS, DROPPED, PARTS_COPY, TRACKING, TENSORBOARD}  # without a lock they are the user's own
        unused = unused if (self.path / LOCK).exists() else set()
        if self.path.is_dir() and not all(path.name in unused or is_leftover(path) for path in self.path.iterdir()):
            what, hint = "is not empty", "choose another --out, or remove the folder; nothing was touched"
            if self.is_finished:
                what = "holds a finished run"
                hint = f"choose another --out ({self.path}-{{n}} is numbered), or give --overwrite; nothing was touched"
            elif self.record.exists():
                what = "holds a run that has not ended"
                hint = f"dongu resume {typed(self.path)} continues it; --overwrite starts again"
            raise UsageError(what, where=f"--out {self.path}", hint=hint)
        if self.path.is_symlink() and not self.path.exists():
            what = f"is a link to {self.path.readlink()}, which does not exist"
            raise UsageError(what, where=f"--out {self.path}", hint="remove the link, or choose another --out")
        if self.path.exists() and not self.path.is_dir():
            raise UsageError("is a file", where=f"--out {self.path}", hint="choose another --out")

    @contextlib.contextmanager
    def lock(self, *, enabled: bool = True) -> Iterator[None]:
        """Hold the folder for one writer; the system lets go of it whatever ends the process.

        Raises:
            LockedError: somebody holds it; the message says which process.
            StorageError: the folder cannot be made, or a part of it is a link.
        """
        if not enabled:
            yield
            return
        with storage(self.path):
            make_folder(self.path)
            self._refuse_if_held()
            descriptor = open_regular(self.path / LOCK, os.O_RDWR | os.O_CREAT)
        held = _identity(os.fstat(descriptor))
        try:
            self._lock(descriptor)
            _HELD.add(held)
            with storage(self.path):
                for part in (*self._parts, *(self.path / TENSORBOARD).rglob("*")):
                    refuse_link(part)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)
            yield
            os.ftruncate(descriptor, 0)
        finally:
            _HELD.discard(held)
            os.close(descriptor)

    def refuse_if_locked(self) -> None:
        """Raise `LockedError` if this process or another one writes to the folder."""
        with storage(self.path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self._refuse_if_held()
            descriptor = open_regular(self.path / LOCK, os.O_RDWR)
            try:
                self._lock(descriptor)
            finally:
                os.close(descriptor)

    def _refuse_if_held(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if _identity((self.path / LOCK).lstat()) in _HELD:
                what, hint = "this process writes to this run", "end it first, or break out of its loop"
                raise LockedError(what, where=str(self.path), hint=hint)

    def _lock(self, descriptor: int) -> None:
        for wait_seconds in (0.01, 0.02, 0.04, 0.08, None):  # it may only be another one that looks
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock: data workers would inherit it
                return
            except OSError as error:
                if wait_seconds is None:
                    holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
                    raise LockedError(
                        f"{holder} writes to this run", where=str(self.path), hint="wait for it, or stop it"
                    ) from error
            time.sleep(wait_seconds)

    def clean(self) -> None:
        """Remove what writes that were cut off have left; nothing else."""
        for folder in (self.path, *self._parts):
            remove_leftovers(folder)

    def write_json(self, name: str, content: Mapping[str, Any] | Sequence[Any]) -> None:
        """One JSON file, whole or not at all."""
        write_file(self.path / name, _file_bytes(content), within=self.path)

    def keep_json(self, name: str, content: Mapping[str, Any]) -> None:
        """The same, unless the file has it already."""
        keep_file(self.path / name, _file_bytes(content), within=self.path)

    def write_manifest(self, results: Mapping[str, Any]) -> None:
        """The digests of all that depends on the run alone, `results.json` among them, which is yet to come."""
        kept = [self.metrics, self.dynamics, *self.model.rglob("*"), *(self.path / "predictions").glob("*.jsonl")]
        files = sorted(path for path in kept if path.is_file() and not path.is_symlink())
        entries = {path.relative_to(self.path).as_posix(): entry_of_file(path) for path in files}
        entries["results.json"] = entry_of(_file_bytes(results))
        write_file(self.path / MANIFEST, manifest_bytes(entries), within=self.path)

    def written(self) -> dict[str, dict[str, Any]]:
        """The sizes and digests of a finished run's files by their names, as they were written; none without a list.

        Raises:
            InputError: the list is damaged.
        """
        if not (self.path / MANIFEST).exists():
            return {}
        with self._restoring():
            return read_manifest(self.path)

    def check_written(self, *parts: str) -> None:
        """Hold files of a finished run against its list: those whose names begin so, as `model/` or `results.json`.

        Raises:
            InputError: one is not what was written.
        """
        if self.is_finished:
            for name, entry in self.written().items():
                if name.startswith(parts):
                    with self._restoring():
                        check_file(self.path / name, entry)

    @contextlib.contextmanager
    def _restoring(self) -> Iterator[None]:
        try:
            yield
        except CheckpointError as error:
            hint = f"restore it from a copy; if the change is yours, remove {self.path / MANIFEST}"
            raise InputError(error.what, where=error.where, hint=error.hint or hint) from error

    def read_results(self) -> dict[str, Any]:
        """`results.json` of a finished run.

        Raises:
            InputError: the file is missing or damaged, or is not what was written.
        """
        self.check_written("results.json")
        return self.read_json("results.json")

    def temperature(self) -> float | None:
        """What the head of the saved model was divided by; None where it is as it was trained."""
        if not (self.model / CALIBRATION).exists():
            return None
        return float(self.read_json(f"model/{CALIBRATION}")["temperature"])

    def reopen(
        self, data: Any = None, *, parts: str | Path | None = None, takes_data: str = "", **options: Any
    ) -> Loop:
        """The loop of the run as it was set up, before its first step.

        Args:
            data: the rows, where they were given in memory or lie elsewhere now.
            parts: the file of the run's own parts; the copy in the folder is never run by itself.
            takes_data: the command that this is for, if it can be told where the data are now.
            options: those of `RunConfig` that override the run's, and parts of its own.

        Raises:
            InputError: the folder is no run, its data or model cannot be read, it has parts that are not given, or
                another recipe is asked for.
        """
        from dongu.loop import Loop

        record = self.check_parts(parts, given=options)
        if options.get("recipe", recipe := record["options"]["recipe"]) != recipe:
            what = f"the run began with {recipe}, and its settings are no longer derived"
            hint = "give the options that you want to change by name"
            raise UsageError(what, where=f"--recipe {options['recipe']}", hint=hint)
        recorded = {**record["options"], "out": str(self.path), **options}
        where_they_were = recorded.pop("data")
        if data is None and where_they_were is None:
            raise DataError("the run's data were in memory", where=str(self.path), hint="give them again")
        with self.own_data(data, takes_data, parts):
            return Loop(where_they_were if data is None else data, parts=parts, **recorded)

    @contextlib.contextmanager
    def own_data(self, given: Any, takes_data: str = "", parts: str | Path | None = None) -> Iterator[None]:
        """Say of data that cannot be read, unless others are `given`, that they are the run's, and what to do.

        `takes_data` is as in `reopen`.
        """
        try:
            yield
        except DataError as error:
            place = self.read_record()["options"]["data"]
            if given is None and error.where == place and split_commit(place)[1] is None:
                again = f"dongu {takes_data} {typed(self.path)} DATA" + (f" --parts {typed(parts)}" if parts else "")
                hint = f"put them back, or write into {self.record} (`data`) where they are now"
                error.hint = f"these are the run's data; {f'where are they now? {again}' if takes_data else hint}"
            raise

    def check_parts(self, parts: Any, given: Collection[str] = ()) -> dict[str, Any]:
        """`run.json`, if the parts that the run has of its own are given again: by their file, or some handed in.

        Raises:
            InputError: they are not, or as `read_record`.
        """
        record = self.read_record()
        own = record.get("parts")
        if isinstance(own, dict) and parts is None and not {*own["names"]} & {*given}:
            names, file = ", ".join(own["names"]), record.get("parts_file")
            where = f"give their file: --parts {typed(file)}" if file else ""
            hint = where or f"give them in Python again: {own['names'][0]}=…"
            what = f"the run has parts of its own ({names}; sha256 {own['sha256'][:12]})"
            raise UsageError(what, where=str(self.path), hint=f"{hint}; a run folder's own copy is never run by itself")
        return record

    def read_record(self) -> dict[str, Any]:
        """`run.json`: options of a run that has begun, names of its labels, its metric, digests of its data.

        Raises:
            InputError: the folder is no run, or the file is damaged.
        """
        record = self.read_json("run.json")
        try:
            record["options"] = recorded_options(record, self.path)
        except (KeyError, ValueError):  # said below
            record["options"] = None
        options, names = record["options"], record.get("label_names")
        if not (isinstance(options, dict) and "data" in options and None not in map(options.get, RESOLVED)):
            reason = "no options of a run"
        elif not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
            reason = "no names of labels"
        elif not isinstance(record.get("metric"), str):
            reason = "no metric"
        elif not isinstance(record.get("data"), dict):
            reason = "nothing about the data"
        else:
            return record
        hint = "restore it from a copy: `dongu train` wrote it"
        raise InputError(f"is damaged: it holds {reason}", where=str(self.record), hint=hint)

    def read_json(self, name: str) -> dict[str, Any]:
        """
        Raises:
            InputError: the file is missing or damaged.
        """
        path = self.path / name
        try:
            content = json.loads(read_regular(path).decode())
        except (FileNotFoundError, NotADirectoryError):
            there = "give the folder that `dongu train` wrote" if self.path.exists() else "there is no such folder"
            what, hint = told_of_several(self.path) or (f"is not a run: it has no {name}", there)
            raise InputError(what, where=str(self.path), hint=hint) from None
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or error
            hint = "give the folder that `dongu train` wrote"
            raise InputError(f"cannot be read ({reason})", where=str(path), hint=hint) from error
        if not isinstance(content, dict):
            raise InputError("holds no JSON object", where=str(path))
        return content

    def write_predictions(self, split: str, lines: Iterable[Mapping[str, Any]]) -> None:
        texts = (dump_json(line) + "\n" for line in lines)
        write_lines(self.path / "predictions" / f"{split}.jsonl", texts, within=self.path)


def dump_json(content: Any, indent: int | None = None) -> str:
    """JSON with every digit of a number; NaN and infinity, which JSON lacks, become null."""
    return json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False)


def _file_bytes(content: Any) -> bytes:
    return (dump_json(content, indent=2) + "\n").encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
