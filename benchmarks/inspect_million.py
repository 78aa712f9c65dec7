"""Seconds and memory of `dongu inspect` on a million rows: `python benchmarks/inspect_million.py [ROWS]`.

Writes a csv file of English words in sentences of 5 to 30, where one row in a thousand is the row before again, with
the other label, and looks at it with the command, in a process of its own, as a user would.
"""

from __future__ import annotations

import csv
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dongu.demo.run import read_csv

ROWS = 1_000_000
ROWS_A_COPY = 1_000


def write_rows(path: Path, rows: int) -> None:
    """A table of `text` and `label`, the same for the same number of rows."""
    words = sorted(set(re.findall("[a-z]+", read_csv("train").decode().lower())))
    draw = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        text = ""
        for row in range(rows):
            if row % ROWS_A_COPY or not row:
                text = " ".join(draw.choices(words, k=draw.randint(5, 30)))
            table.writerow([text, ("bad", "good")[row % 2]])


def main() -> None:
    """Write, look, print."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        write_rows(path, rows)
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "dongu", "inspect", str(path), "--model", "minilm"], check=True)
        seconds = time.perf_counter() - started
        size_mb = path.stat().st_size / 1e6
    memory_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"\n{rows:,} rows, {size_mb:.0f} MB: {seconds:.1f} s, {memory_mb:,.0f} MB of memory, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
