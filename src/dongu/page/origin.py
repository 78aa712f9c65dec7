"""What a run was made of: command, options, versions, data."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from typing import Any

from dongu.config import RunConfig, option_flag
from dongu.page.trace import Trace

LOCAL = ("/", ".", "~")  # how the name of a place on this machine begins


def origin(trace: Trace) -> dict[str, Any]:
    """The command that made the run, and the one that repeats it; its options, its machine, and its changes."""
    record, folder = trace.record, place(str(trace.record.options.get("out") or trace.name)).rstrip("/")
    if folder.rsplit("/", 1)[-1] != trace.name:  # it was moved since
        folder = trace.name
    options = [(option_flag(name), _shown(name, value)) for name, value in record.options.items() if value is not None]
    return {
        "command": _command(record.options, record.given),
        "again": shlex.join(["dongu", "train", "--config", f"{folder}/run.json", "--out", f"{folder}-again"]),
        "options": options,
        "machine": {**record.versions, **record.hardware, "processes": str(record.processes)},
        "changes": [f"step {change.step:,}: {text}" for change in record.changes for text in change.changes],
    }


def _command(options: Mapping[str, Any], given: Collection[str] | None) -> str:
    """The options that were given and are not the defaults, as typed; places of this machine by their last name."""
    words_ = ["dongu train", shlex.quote(place(str(options.get("data") or "DATA")))]
    fields = RunConfig.model_fields
    derived = {"data", "out", "threads", "task", "device"} | (
        {"micro_batch_size"} if options.get("micro_batch_size") == options.get("batch_size") else set()
    )
    for name, value in options.items():
        if (
            name in derived
            or (given is not None and name not in given)
            or name not in fields
            or value is None
            or value == fields[name].default
        ):
            continue
        if isinstance(value, Mapping):
            parts = [f"{key}={_shown('', number)}" for key, number in value.items()]
        elif isinstance(value, list | tuple):
            parts = [str(item) for item in value]
        else:
            parts = [] if value is True else [_shown(name, value)]
        words_ += [option_flag(name), *(shlex.quote(part) for part in parts)]
    return " ".join(words_)


def _shown(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return place(str(value)) if name in ("data", "model", "out") else str(value)


def place(name: str) -> str:
    """A Hub name whole; of a place on this machine the last name alone, which says nothing of the machine."""
    return name.rstrip("/").rsplit("/", 1)[-1] if name.startswith(LOCAL) else name
