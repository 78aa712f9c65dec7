"""A whole run in one call: begun, or gone on with."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from dongu.config import make_config
from dongu.data.examples import TextData, read_examples
from dongu.data.sources import read_source
from dongu.doctor.overview import describe_data
from dongu.errors import UsageError
from dongu.extras import require_extras
from dongu.launch import among_processes
from dongu.loop import Loop
from dongu.options import Options
from dongu.own import check_columns_read, take_own
from dongu.run.console import Console, console_for
from dongu.run.folder import RunFolder
from dongu.run.inspection import check_validation
from dongu.run.result import RunResult
from dongu.run.taken import as_begun, check_free, numbered
from dongu.running import Run
from dongu.teach.language import Language
from dongu.waiting import shown_on


def train(
    data: Any = None,
    *,
    resume: bool = False,
    allow: Sequence[str] = (),
    overwrite: bool = False,
    quiet: bool = False,
    console: Console | None = None,
    explain: Language | None = None,
    parts: str | Path | None = None,
    **options: Unpack[Options],
) -> RunResult:
    """Fine-tune and write a run folder, as `dongu train` does, with the same output.

    Args:
        data: a folder, a file, a Hub name, or rows in memory; see `Loop`.
        overwrite: whether to remove a run in the folder `out` first.
        quiet: whether to print nothing.
        console: where to print; standard output by default.
        explain: the language in which to explain the first steps as a lesson; None for no lesson.
        resume: whether `out` may hold this same run already: then it is continued, or its result is returned.
        allow: what may differ when it is continued; see `resume`.
        parts: a Python file of parts of your own; see `Loop`.
        options: those of `RunConfig` by name, and parts of your own; see `Loop`.

    Raises:
        InputError: the options, the data or the model cannot be used, the run folder is taken, or the data doctor has a
            warning and `strict` allows none; nothing is written.
        LockedError: another process writes to the run folder.
        NonFiniteError: a loss, a gradient or a weight was not finite; the update was not made.
        StorageError: a file could not be written, or there is not enough space for what the run will save.
        WorkerError: a process that prepares batches failed, or another process of the run has ended.
        StoppedError: a signal ended the run; its state is saved.
    """
    started = time.perf_counter()
    console = console or console_for(quiet=quiet)
    if resume and overwrite:
        raise UsageError("continues an existing run", where="resume", hint="give it or overwrite, not both")
    given: dict[str, Any] = {**options}
    own = take_own(given, parts)
    check_columns_read(own, given.get("columns"))
    if resume:
        given = as_begun({"data": data, **given})
        data = given.pop("data")
    elif (out := options.get("out")) is not None:
        check_free(RunFolder(Path(numbered(out))), overwrite=overwrite)  # before minutes of tokenizing
    with among_processes(), shown_on(console.shown):
        is_said = isinstance(data, TextData)  # by the caller
        if console.enabled and parts is None and not is_said:  # before torch loads a model
            data, is_said = _read(data, given), True
            if not (resume and RunFolder(Path(given["out"])).record.exists()):  # it was said when the run began
                console.fields(describe_data(data))
        loop = Loop(data, parts=own, **given)
        check_validation(loop)
        how: dict[str, Any] = {"begins": not resume, "overwrite": overwrite, "allow": allow, "started": started}
        how["data_is_said"] = is_said
        with Run(loop, console=console, explain=explain, **how) as run:
            for _ in run:
                if run.due:
                    run.evaluate()
    return run.result


def resume(
    path: str | Path,
    data: Any = None,
    *,
    allow: Sequence[str] = (),
    quiet: bool = False,
    console: Console | None = None,
    parts: str | Path | None = None,
    **options: Unpack[Options],
) -> RunResult:
    """Continue a run from its newest valid checkpoint, as `dongu resume` does.

    Args:
        path: the run folder.
        data: the rows again, if they were given in memory or have moved.
        allow: what may differ although it changes the result: names of options, `data`, `parts`, `versions`,
            `hardware`.
        quiet: whether to print nothing.
        console: see `train`.
        parts: the file of the run's own parts.
        options: those of `RunConfig` that override the run's, and the parts of your own that the run was given.

    Raises:
        InputError: the folder is no run, or something that the result depends on has changed.
        CheckpointError: checkpoints exist, and none is valid; nothing is changed.
        LockedError, NonFiniteError, StorageError, WorkerError, StoppedError: as `train`.
    """
    started = time.perf_counter()
    console = console or console_for(quiet=quiet)
    folder = RunFolder(Path(path))
    folder.read_record()
    if folder.is_finished:
        raise UsageError("the run is finished", where=str(folder.path), hint="there is nothing to continue")
    folder.refuse_if_locked()
    with among_processes(), shown_on(console.shown):
        loop = folder.reopen(data, parts=parts, takes_data="resume", **options)
        with Run(loop, folder.path, allow=allow, console=console, changed=bool(options), started=started) as run:
            for _ in run:
                if run.due:
                    run.evaluate()
    return run.result


def _read(data: Any, options: Mapping[str, Any]) -> TextData:
    """The rows as the loop will read them, beside its parts."""
    config = make_config({**options, **({"data": data} if isinstance(data, str) else {})})
    require_extras(config)
    return read_examples(read_source(config.data if data is None else data, config), config)
