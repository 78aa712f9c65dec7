"""Seconds until the command answers: `python benchmarks/startup.py [RUNS]`.

Whole processes, in turns, with a bare interpreter beside them; the median and the range of each.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import dongu": ["-c", "import dongu"],
    "dongu --help": ["-m", "dongu", "--help"],
    "dongu train --help": ["-m", "dongu", "train", "--help"],
    "dongu predict --help": ["-m", "dongu", "predict", "--help"],
    "an unknown option": ["-m", "dongu", "train", "data.csv", "--learning-rat", "1"],
}


def main() -> None:
    """Measure and print."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs + 1):
        for name, arguments in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
            seconds[name].append(time.perf_counter() - started)
    for name, values in seconds.items():
        counted = values[1:]  # the first run fills the disk cache
        print(f"{name:<22} median {statistics.median(counted):.3f} s   {min(counted):.3f} to {max(counted):.3f}")


if __name__ == "__main__":
    main()
