"""Seconds a token of a training step: the sources here beside other ones, in turns.

    git worktree add ../before COMMIT
    python benchmarks/versions.py ../before/src DATA      # needs an idle machine and the packaged model

Each turn is a process of its own; ratios are taken inside a round, and the median is printed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent / "src"
ROUNDS = 6
PROGRAM = """
import sys, time, dongu
loop = dongu.Loop(sys.argv[1], model="minilm", batch_size=8, max_steps=60)
tokens = 0
for step in loop:
    if step.number == 15:
        began = time.perf_counter()
    elif step.number > 15:
        tokens += step.tokens
print((time.perf_counter() - began) / tokens)
"""


def seconds_a_token(sources: Path, data: str) -> float:
    """Of 45 updates after 15 others."""
    environment = {**os.environ, "PYTHONPATH": str(sources)}
    command = [sys.executable, "-c", PROGRAM, data]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def main(before: Path, data: str) -> None:
    ratios = []
    for number in range(ROUNDS):
        pair = [seconds_a_token(sources, data) for sources in ((before, HERE) if number % 2 else (HERE, before))]
        if number % 2 == 0:
            pair.reverse()
        old, new = pair
        ratios.append(old / new)
        times = f"{old * 1e6:.1f} µs a token before, {new * 1e6:.1f} now"
        print(f"round {number + 1}: {times}, {old / new:.3f} times as fast")
    print(f"median: {statistics.median(ratios):.3f} times as fast ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), str(Path(sys.argv[2]).resolve()))
