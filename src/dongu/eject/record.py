"""Whether `run.json` is what a run wrote: a script takes its values from it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints, ValidationError

from dongu.config import make_config
from dongu.eject import plain_metrics as plain
from dongu.errors import CheckpointError, InputError, UsageError
from dongu.judge.metrics import SCALE_METRICS
from dongu.run.checkpoint import own_checkpoints, read_state
from dongu.run.folder import RunFolder
from dongu.run.identity import option_differences
from dongu.run.predictions import RESTORE


class _Record(BaseModel):
    """What a script takes from `run.json` beside the options, which `RunConfig` checks."""

    device: Annotated[str, StringConstraints(pattern=r"^(cpu|mps|cuda)(:\d{1,3})?$")]
    processes: Annotated[int, Field(ge=1)]
    versions: dict[str, str]
    hardware: dict[str, str]


def check_record(folder: RunFolder, record: Mapping[str, Any]) -> None:
    """Raise `InputError` if `run.json` holds what no run writes, or other options than the run's checkpoints."""
    where = str(folder.path / "run.json")
    try:
        _Record.model_validate(record, strict=True)
        task = make_config(record["options"]).task or "single-label"
        known = {**plain.METRICS.get(task, {}), **(SCALE_METRICS if task == "ordinal" else {})}
        own = record.get("parts")
        unknown = {record["metric"], *record["metrics"]} - known.keys() - {"loss"}
        if isinstance(own, dict) and "metrics" in own["names"]:
            unknown = set()
    except (ValidationError, UsageError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, ValidationError):
            reason = f"{error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}"
        raise InputError(f"is damaged ({reason})", where=where, hint=RESTORE) from error
    if unknown:
        raise InputError(f"is damaged: there is no metric {min(unknown)}", where=where, hint=RESTORE)
    for path in reversed(own_checkpoints(folder.checkpoints)):
        with contextlib.suppress(CheckpointError):
            was = read_state(path).identity
            if isinstance(was.get("options"), dict) and (found := [*option_differences(was, record)]):
                what = f"is not what the run's checkpoints know: {'; '.join(each.text for each in found)}"
                raise InputError(what, where=where, hint=RESTORE)
            return
