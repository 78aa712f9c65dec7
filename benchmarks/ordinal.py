"""`--task ordinal` beside classes on SST-5, whose five stars have an order: the same rows, 3 seeds each.

    python benchmarks/ordinal.py [ROWS] [SECONDS]

trains MiniLM on so many rows of train (600) and asks it about the whole test split. `DONGU_DATA` names the folder that
holds sst5/. A cell is one task and one seed; no cell is begun after so many seconds (480), and what is done is kept
in benchmarks/out/ordinal.json, so that the same command goes on. At the end it prints the table of docs/metrics.md.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import dongu
from dongu.config import Task

OUTPUT = Path(__file__).resolve().parent / "out" / "ordinal.json"
TASKS: dict[Task, str] = {"single-label": "classes", "ordinal": "`--task ordinal`"}
SEEDS = (1, 2, 3)


def rows_of(split: str) -> list[dict[str, Any]]:
    """Text and stars."""
    path = Path(os.environ["DONGU_DATA"]) / "sst5" / f"{split}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def measure(task: Task, seed: int, rows: int) -> dict[str, float]:
    """Accuracy, mean absolute error and quadratic kappa on test, of answers that are classes."""
    draw = random.Random(seed)
    data = {"train": draw.sample(rows_of("train"), rows), "validation": draw.sample(rows_of("validation"), 200)}
    test = rows_of("test")
    with tempfile.TemporaryDirectory() as folder:
        dongu.train(data, model="minilm", task=task, seed=seed, threads=1, out=f"{folder}/run", batch_size=16)
        answers = dongu.load(f"{folder}/run").predict([row["text"] for row in test])
    found = np.array([int(float(answer["prediction"])) for answer in answers])
    truth = np.array([row["stars"] for row in test])
    chance = np.mean((found[:, None] - truth[None, :]) ** 2)
    return {
        "accuracy": float((found == truth).mean()),
        "mae": float(np.abs(found - truth).mean()),
        "quadratic_kappa": float(1 - ((found - truth) ** 2).mean() / chance),
    }


def main() -> None:
    """Measure what is not yet measured, print."""
    rows, seconds = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((1, 600), (2, 480)))
    done: dict[str, dict[str, float]] = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
    began = time.perf_counter()
    for seed in SEEDS:
        for task in TASKS:
            if (cell := f"{rows} {task} {seed}") not in done and time.perf_counter() - began < seconds:
                done[cell] = measure(task, seed, rows)
                print(cell, done[cell], flush=True)
                OUTPUT.parent.mkdir(exist_ok=True)
                OUTPUT.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
    print("| learnt as | accuracy | MAE | quadratic kappa |\n| --- | --: | --: | --: |")
    for task, name in TASKS.items():
        cells = [done[cell] for seed in SEEDS if (cell := f"{rows} {task} {seed}") in done]
        values = [[cell[metric] for cell in cells] for metric in ("accuracy", "mae", "quadratic_kappa")]
        print(f"| {name} | " + " | ".join(f"{np.mean(each):.3f} ± {np.std(each):.3f}" for each in values) + " |")


if __name__ == "__main__":
    main()
