"""Whether the processes of a run are of one run: the same options, rows and software, and one run folder."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object

from dongu.config import RunConfig, option_flag
from dongu.data.examples import TextData, digest_of
from dongu.data.tokenized import Split
from dongu.errors import UsageError
from dongu.extras import RECORDED_VERSIONS
from dongu.files import disk, storage
from dongu.launch import wait_for_first

# Options that may differ between processes: they do not change the result.
OWN_TO_A_PROCESS = {"data", "out", "workers", "device", "threads"}
SEEN_SECONDS = 20.0  # in which a network file system shows what another machine has written
_SHOWN = 3  # differences


def facts_of(config: RunConfig, data: TextData, splits: Mapping[str, Split], model: Any) -> dict[str, str]:
    """What all processes have to agree on, a short text each: options, rows, labels, tokens, model, versions."""
    facts = {
        option_flag(name): json.dumps(value, ensure_ascii=False)
        for name, value in config.model_dump(mode="json").items()
        if name not in OWN_TO_A_PROCESS
    }
    for name, examples in data.splits.items():
        facts[name] = f"{len(examples):,} rows (sha256 {digest_of(examples)[:12]})"
        facts[f"the tokens of {name}"] = f"sha256 {splits[name].tokens.digest()[:12]}"
    facts["the labels"] = ", ".join(data.label_names)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    facts["the model"] = f"a {type(model).__name__} of {parameters:,} parameters"
    return facts | {name: metadata.version(name) for name in RECORDED_VERSIONS}


def compare_facts(accelerator: Any, facts: Mapping[str, str]) -> None:
    """Compare the facts of all processes before they compute anything together; all of them raise, or none.

    Raises:
        UsageError: some process has other facts than the first.
    """
    if accelerator.num_processes == 1:
        return
    first, *others = gather_object([dict(facts)])
    found = [
        f"{name} is {other.get(name, 'missing')} on rank {rank}, and {first.get(name, 'missing')} on rank 0"
        for rank, other in enumerate(others, start=1)
        for name in first | other
        if other.get(name) != first.get(name)
    ]
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        hint = "start all processes with one command, the same data and the same versions"
        raise UsageError(f"the processes do not belong to one run: {'; '.join(found[:_SHOWN])}{more}", hint=hint)


def check_shared(folder: Path, accelerator: Any) -> None:
    """Compare the run folders of all processes: what the first one writes, the others see.

    Raises:
        UsageError: some process has another folder of this name.
        StorageError: the first one cannot write to it.
    """
    if accelerator.num_processes == 1:
        return
    wait_for_first()  # it may have removed a run
    # It ends as a leftover's name does, which is removed if the run is killed here.
    name = [f".seen-{uuid.uuid4().hex}.{os.getpid()}.tmp"]
    if accelerator.is_main_process:
        with storage(folder):
            disk.write(folder / name[0], b"")
    broadcast_object_list(name)
    deadline = time.monotonic() + SEEN_SECONDS
    while not (seen := (folder / name[0]).exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
        with contextlib.suppress(OSError):
            any(folder.iterdir())  # makes a network file system ask its server
    blind = [str(rank) for rank, sees in enumerate(gather_object([seen])) if not sees]
    if accelerator.is_main_process:
        with storage(folder):
            disk.remove(folder / name[0])
    if blind:
        what = f"is not one folder for all processes: rank {', '.join(blind)} does not see what rank 0 writes"
        raise UsageError(what, where=str(folder), hint="put the run (--out) on a disk that all machines share")
