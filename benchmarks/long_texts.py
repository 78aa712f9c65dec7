"""Accuracy of `--long head`, `tail`, `head+tail` and `windows` where the end of 2,000 words says the class.

`python benchmarks/long_texts.py [ROWS]` trains the packaged model on made-up texts: words of the demonstration's
vocabulary, and at the end a verdict of some words. Half of the rows are of each class.
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
import time
from pathlib import Path

import dongu
from dongu.demo.run import read_csv

WORDS = 2_000
VERDICTS = {"good": ["in the end it was a great success", "all of them were very happy with it at last"]}
VERDICTS["bad"] = ["in the end it was a terrible failure", "all of them were very angry about it at last"]


def rows_of(count: int, draw: random.Random) -> list[dict[str, str]]:
    """Texts and labels."""
    words = sorted(set(re.findall("[a-z]+", read_csv("train").decode().lower())))
    labels = [("good", "bad")[i % 2] for i in range(count)]
    return [
        {"text": f"{' '.join(draw.choices(words, k=WORDS))}. {draw.choice(VERDICTS[label])}.", "label": label}
        for label in labels
    ]


def main() -> None:
    """Train, print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    draw = random.Random(0)
    data = {"train": rows_of(count, draw), "validation": rows_of(100, draw)}
    for long in ("head", "tail", "head+tail", "windows"):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            run = dongu.train(
                data, model="minilm", long=long, max_length=256, epochs=6, lr=3e-4, out=str(Path(folder) / "run")
            )
            seconds = time.perf_counter() - began
        print(f"--long {long}: accuracy {run.metrics['accuracy']:.3f}, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
