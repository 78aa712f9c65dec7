"""A whole run in one call: begun, or gone on with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dongu.data.examples import TextData
from dongu.doctor.overview import describe_reading
from dongu.errors import UsageError
from dongu.launch import among_processes
from dongu.loop import Loop
from dongu.run.console import Console
from dongu.run.folder import RunFolder, as_begun
from dongu.run.inspection import check_validation
from dongu.running import Run, RunResult
from dongu.teach.language import Language


def train(
    data: Any = None,
    *,
    console: Console | None = None,
    explain: Language | None = None,
    resume: bool = False,
    allow: Sequence[str] = (),
    **options: Any,
) -> RunResult:
    """Fine-tune and write a run folder, as `dongu train` does.

    Args:
        data: a folder, a file, a Hub name, or rows in memory; see `Loop`.
        console: where to print; nowhere by default.
        explain: the language in which the first steps are shown as a lesson, if they shall be.
        resume: whether the folder `out` may hold this very run: then it goes on, or gives what it came to.
        allow: what may differ then; see `resume`.
        options: those of `RunConfig` by name, and parts of your own; see `Loop`.

    Raises:
        InputError: the options, the data or the model cannot be used, the run folder is taken, or the data doctor has a
            warning and `strict` allows none; nothing is written.
        LockedError: another process writes to the run folder.
        NonFiniteError: a loss, a gradient or a weight was not finite; the update was not made.
        StorageError: a file could not be written, or there is no room for all that the run will keep.
        WorkerError: a process that prepares batches failed, or another process of the run has ended.
        StoppedError: a signal ended the run; its state is saved.
    """
    started = time.perf_counter()
    out = options.get("out")
    if resume:
        options = as_begun({"data": data, **options})
        data = options.pop("data")
    elif out is not None:
        RunFolder(Path(out)).refuse_if_taken()  # before minutes of tokenizing
    with among_processes():
        loop = Loop(data, **options)
        if console is not None and loop.accelerator.is_main_process and not isinstance(data, TextData):
            console.fields(describe_reading(loop.data))
        check_validation(loop)
        how: dict[str, Any] = {"begins": not resume, "allow": allow, "started": started}
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
    console: Console | None = None,
    parts: str | Path | None = None,
    **options: Any,
) -> RunResult:
    """Go on with a run from its newest valid checkpoint, as `dongu resume` does.

    Args:
        path: the run folder.
        data: the rows again, where they were given in memory or lie elsewhere now.
        allow: what may differ although it changes the result: names of options, `data`, `parts`, `versions`,
            `hardware`.
        console: where to print; nowhere by default.
        parts: the file of the run's own parts.
        options: those of `RunConfig` that override the run's, and parts of its own that were handed in.

    Raises:
        InputError: the folder is no run, or what the result depends on is not what it was started with.
        CheckpointError: checkpoints exist, and none is valid; nothing is changed.
        LockedError, NonFiniteError, StorageError, WorkerError, StoppedError: as `train`.
    """
    started = time.perf_counter()
    folder = RunFolder(Path(path))
    folder.read_record()
    if (folder.path / "results.json").exists():
        raise UsageError("the run is finished", where=str(folder.path), hint="there is nothing to go on with")
    folder.refuse_if_locked()
    with among_processes():
        loop = folder.reopen(data, parts=parts, **options)
        with Run(loop, folder.path, allow=allow, console=console, changed=bool(options), started=started) as run:
            for _ in run:
                if run.due:
                    run.evaluate()
    return run.result
