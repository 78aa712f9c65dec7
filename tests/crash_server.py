"""Trains in forked children and kills them: `python crash_server.py REQUEST.json`, which names runs, kills and seed.

A fork costs milliseconds where a new interpreter costs seconds, so hundreds of kills fit into a test. Each run is
started again, by `resume`, until it ends. Prints one JSON line: kills, and in which phase of the run they fell.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # otherwise each child imports it anew
from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: F401 - the same

import dongu
import dongu.training
from dongu.run.checkpoint import Checkpoints


def child(run: Path, request: dict[str, Any]) -> int:
    """Train, or go on; the exit code of the process."""
    try:
        if (run / "results.json").exists():
            return 0
        if (run / "run.json").exists():
            dongu.resume(run)
        else:
            dongu.train(request["data"], out=str(run), **request["options"])
    except BaseException:  # noqa: BLE001 - a child must never run on as its parent
        traceback.print_exc()
        return 1
    return 0


def announce(pipe: int, module: Any, name: str, letter: bytes) -> None:
    """Have a function write a letter to the pipe when it starts, so that the killer knows the phase."""
    inner = getattr(module, name)

    def announced(*arguments: Any, **options: Any) -> Any:
        os.write(pipe, letter)
        try:
            return inner(*arguments, **options)
        finally:
            os.write(pipe, b".")

    setattr(module, name, announced)


def one_life(run: Path, request: dict[str, Any], seconds: float, phases: Counter[str]) -> bool | None:
    """True when the run ended, False when it was killed, None when it failed by itself."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        announce(writer, Checkpoints, "save", b"s")
        announce(writer, dongu.Loop, "evaluate", b"e")
        announce(writer, dongu.training, "save_best", b"b")
        announce(writer, dongu.training, "judge", b"j")
        os._exit(child(run, request))
    os.close(writer)
    deadline = time.monotonic() + seconds
    status = None
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        time.sleep(0.001)
    else:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    seen = os.read(reader, 1 << 16).decode()
    os.close(reader)
    if os.WIFSIGNALED(status or 0):
        open_phases: list[str] = []
        for letter in seen:
            if letter == ".":
                open_phases.pop()
            else:
                open_phases.append(letter)
        phases["".join(open_phases[-1:]) or "-"] += 1
        return False
    return True if os.WEXITSTATUS(status or 0) == 0 else None


def main() -> None:
    """Serve one request."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    draw = random.Random(request["seed"])
    phases: Counter[str] = Counter()
    started = time.monotonic()
    whole = one_life(Path(request["reference"]), request, 600, phases)
    life = time.monotonic() - started
    if not whole:
        raise SystemExit("the uninterrupted run failed")
    for number in range(request["runs"]):
        run = Path(request["folder"]) / f"run-{number}"
        kills = 0
        while True:
            patience = draw.uniform(0.05, 0.6) * life if kills < request["kills_a_run"] else 600
            ended = one_life(run, request, patience, phases)
            if ended is None:
                raise SystemExit(f"{run} failed by itself after {kills} kills")
            if ended:
                break
            kills += 1
    print(json.dumps({"phases": phases, "life_seconds": life}))


if __name__ == "__main__":
    main()
