"""`run.json`: what `dongu train --config` needs to repeat a run, and what it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dongu.config import NUMBERS
from dongu.hub import split_commit
from dongu.judge.intervals import constant_answer
from dongu.loop import Loop
from dongu.run.checkpoint import RunState
from dongu.run.folder import RunFolder
from dongu.run.identity import options_of
from dongu.run.need import Need


def describe_run(loop: Loop, folder: RunFolder, state: RunState, need: Need | None = None) -> Mapping[str, Any]:
    """`run.json`: what `dongu train --config` needs to repeat the run, of what it was made, and the memory it needs."""
    options = options_of(loop.config, loop.given)
    model, model_commit = split_commit(options["model"])
    data, data_commit = (None, None) if loop.config.data is None else split_commit(loop.config.data)
    options |= {"model": model, "data": _place(data), "out": str(folder.path)}
    commits = {"model": model_commit, "data": data_commit}
    return {
        **state.identity,
        "options": options,
        "commits": {part: commit for part, commit in commits.items() if commit},
        **({"parts_file": str(file.absolute())} if (file := loop.given.file) else {}),
        "promises": loop.promises,
        **({"memory_bytes": asdict(need)} if need else {}),
        "new_head": loop.model.new_head and loop.model.new_head.why,
        **({"scale": asdict(loop.loss.scale)} if loop.data.task in NUMBERS else {}),
        "metrics": loop.metrics.names,
        "metric": loop.metrics.main,
        "steps_per_epoch": loop.steps_per_epoch,
        "total_steps": loop.total_steps,
        "warmup_steps": loop.warmup_steps,
        "device": str(loop.accelerator.device),
        "lengths": {name: split.tokens.summary() for name, split in loop.splits.items()},
        "constant_answer": constant_answer(loop.metrics, loop.splits["train"].targets),
    }


def _place(data: str | None) -> str | None:
    """The path of local data from the root, so that `resume` finds them from any folder; a Hub name as it is."""
    return str(Path(data).absolute()) if data is not None and Path(data).exists() else data
