"""`run.json`: what `dongu train --config` needs to repeat a run, and what it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dongu.config import NUMBERS
from dongu.consistency import without_meaning
from dongu.hub import split_commit
from dongu.judge.intervals import constant_answer
from dongu.loop import Loop
from dongu.relocation import PLACED, relative_places
from dongu.run.checkpoint import RunState
from dongu.run.folder import RunFolder
from dongu.run.identity import options_of
from dongu.run.need import Need


def describe_run(
    loop: Loop,
    folder: RunFolder,
    state: RunState,
    need: Need | None = None,
    before: Mapping[str, Any] | None = None,
) -> Mapping[str, Any]:
    """`run.json`: what `dongu train --config` needs to repeat the run, of what it was made, and the memory it needs.

    `before` is what it was, of a run that goes on.
    """
    options = pinned_options(loop) | {"out": str(folder.path)}
    options["model"], model_commit = split_commit(options["model"])
    options["data"], data_commit = (None, None) if options["data"] is None else split_commit(options["data"])
    commits = {"model": model_commit, "data": data_commit}
    return {
        **state.identity,
        "options": options,
        "given": _given(loop, before or {}, options),
        "relative_places": relative_places(options, folder.path),
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


def _given(loop: Loop, before: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    """The options that somebody gave; all others are defaults, or were derived. Of a run that goes on, `before` is its
    `run.json`, whose options all are given again."""
    names = loop._options_given - without_meaning(loop.given).keys()  # which the loop counts in, for its recipe
    if before:
        names = {*before.get("given", names), *(n for n in options if options[n] != before["options"].get(n))}
    return [name for name in options if name in names and name not in ("data", "out")]


def pinned_options(loop: Loop) -> dict[str, Any]:
    """All options, with local data and a local model as paths from the root: `resume` finds them from any folder."""
    data = loop.config.data
    if data is not None and Path(data).exists():
        data = str(Path(data).absolute())
    return options_of(loop.config, loop.given) | {"data": data}


def lies_elsewhere(record: Mapping[str, Any], loop: Loop) -> bool:
    """Whether the loop found data or a model at another place than a `run.json` says; rows in memory have none."""
    options = pinned_options(loop)
    return any(options[name] not in (None, record["options"].get(name)) for name in PLACED)
