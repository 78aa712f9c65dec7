"""How many of the rows that a page calls possibly mislabelled are: SST-2 with 5% of the labels flipped on purpose.

    python benchmarks/suspects.py --data DATA_FOLDER      # minutes on two cores; runs that are done are kept

DATA_FOLDER holds sst2/. Three draws of 700 rows with 35 flipped labels, three epochs of MiniLM each. A line a draw, and
one for all: the rows that are suspect, how many of them are flipped, and what the old rule found: every row whose own
label is given less than guessing would, on the mean of the passes after the first.
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "out" / "suspects"
SEEDS = (1, 2, 3)
ROWS, FLIPPED, JUDGED = 700, 35, 150  # of train, of these, of validation


def draw(data: Path, seed: int) -> tuple[dict[str, list[dict[str, object]]], list[int]]:
    """Train and validation, and which rows of train have the other label."""
    chosen = random.Random(seed)
    train, validation = (
        chosen.sample(list(csv.DictReader((data / "sst2" / f"{name}.csv").open(newline="", encoding="utf-8"))), count)
        for name, count in (("train", ROWS), ("validation", JUDGED))
    )
    flipped = sorted(set(chosen.sample(range(ROWS), FLIPPED)))
    labels = [int(row["label"]) ^ (i in flipped) for i, row in enumerate(train)]
    return {
        "train": [{"text": row["sentence"], "label": label} for row, label in zip(train, labels, strict=True)],
        "validation": [{"text": row["sentence"], "label": int(row["label"])} for row in validation],
    }, flipped


def measure(data: Path, seed: int) -> np.ndarray:
    """Suspect and flipped, suspect, flipped and below guessing, below guessing."""
    import dongu
    from dongu.page.suspects import learnt
    from dongu.run.dynamics import read_dynamics

    rows, flipped = draw(data, seed)
    run = OUT / f"seed-{seed}"
    if not (run / "results.json").exists():
        dongu.train(rows, model="minilm", epochs=3, seed=seed, threads=1, out=str(run))
    found = learnt(read_dynamics(run / "dynamics.bin"), "single-label", 2)
    if found is None:
        raise SystemExit(f"{run} has no dynamics")
    wrong, below = np.isin(found.ids, flipped), found.score < 1 / 2
    masks = (found.suspect & wrong, found.suspect, below & wrong, below)
    return np.array([mask.sum() for mask in masks])


def say(name: str, counts: np.ndarray, flipped: int) -> None:
    right, suspect, right_below, below = counts
    print(
        f"{name}: {suspect} rows suspect, {right} of them flipped ({right / suspect:.0%}), of {flipped} flipped;"
        f" below guessing {below} rows, {right_below} of them flipped ({right_below / below:.0%})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    counts = [measure(data, seed) for seed in SEEDS]
    for seed, found in zip(SEEDS, counts, strict=True):
        say(f"draw {seed}", found, FLIPPED)
    say("all", np.sum(counts, axis=0), FLIPPED * len(SEEDS))


if __name__ == "__main__":
    main()
