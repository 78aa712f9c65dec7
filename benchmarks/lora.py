"""What `--lora` saves and what it costs, on a part of SST-2 with MiniLM, and by which learning rate it learns best.

    python benchmarks/lora.py --data DATA_FOLDER    # some ten minutes of one core; cells that are done are kept
    python benchmarks/lora.py --table               # only writes the tables, with the cells that are done

DATA_FOLDER holds sst2/train.csv and sst2/validation.csv. Each cell is a process of its own with one thread. Quality is
that of validation after one epoch, for the usual learning rate times 1, 3 and 10 (what `--lora` takes without
`--learning-rate`) and for full fine-tuning at the usual one. Steps of both are timed in turns, in one process. The
numbers go to benchmarks/out/lora.json, the tables to docs/lora.md.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

from pages import put_between

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "benchmarks" / "out" / "lora.json"
DOCUMENT = ROOT / "docs" / "lora.md"
BEGIN, END = "<!-- lora: tables -->", "<!-- /lora: tables -->"
RANK = 16
FACTORS = (1, 3, 10)
SEEDS = (42, 43)
TRAIN_ROWS, VALIDATION_ROWS = 2000, 872
TIMED_STEPS = 12


def rows_of(data: Path) -> dict[str, list[dict[str, str]]]:
    """The first rows of each split, which is in random order."""
    splits = {}
    for split, count in {"train": TRAIN_ROWS, "validation": VALIDATION_ROWS}.items():
        with (data / "sst2" / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            splits[split] = list(itertools.islice(csv.DictReader(file), count))
    return splits


def options_of(factor: int, seed: int) -> dict[str, Any]:
    """Those of a run; a factor of 0 is full fine-tuning."""
    lora: dict[str, Any] = {"lora": RANK, "learning_rate": factor * 5e-5} if factor else {}
    return {"model": "minilm", "seed": seed, "epochs": 1, "threads": 1, "device": "cpu", **lora}


def quality(data: Path, factor: int, seed: int) -> dict[str, float]:
    """Metrics of validation after an epoch."""
    import dongu

    loop = dongu.Loop(rows_of(data), **options_of(factor, seed))
    for _ in loop:
        pass
    evaluation = loop.evaluate()
    return {"accuracy": evaluation["accuracy"], "loss": evaluation["loss"]}


def cost(data: Path, factor: int) -> dict[str, float]:
    """Numbers that learn, bytes of a checkpoint, and the highest memory of two steps beyond that of the libraries."""
    import dongu
    from dongu import training  # noqa: F401 - libraries that are no part of the memory
    from dongu.model.lora import count_parameters

    if factor:
        import peft  # noqa: F401 - likewise

    before = _memory_mib("VmRSS")
    loop = dongu.Loop(rows_of(data), **options_of(factor, SEEDS[0]))
    own, learning = count_parameters(loop.model)
    for step in loop:
        if step.number == TIMED_STEPS:
            break
    memory = _memory_mib("VmHWM") - before
    with tempfile.TemporaryDirectory() as folder:
        options = options_of(factor, SEEDS[0]) | {"epochs": None, "max_steps": 1, "out": f"{folder}/run"}
        few = {name: rows[:40] for name, rows in rows_of(data).items()}
        result = dongu.train(few, **{name: value for name, value in options.items() if value is not None})
        files = [path for path in (result.path / "checkpoints").rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
    return {"numbers": own, "learning": learning, "memory_mib": memory, "checkpoint_mb": size / 1e6}


def speed(data: Path) -> dict[str, float]:
    """Seconds of the processor for a step with LoRA as a share of a full one: the median of steps in turns."""
    import dongu

    rows = rows_of(data)
    loops = {factor: iter(dongu.Loop(rows, **options_of(factor, SEEDS[0]))) for factor in (0, FACTORS[-1])}
    seconds: dict[int, list[float]] = {factor: [] for factor in loops}
    for _ in range(TIMED_STEPS + 1):
        for factor, loop in loops.items():
            began = time.process_time()
            next(loop)
            seconds[factor].append(time.process_time() - began)
    full, lora = (each[1:] for each in seconds.values())  # the first one warms up
    return {"ratio": median(one / other for one, other in zip(lora, full, strict=True)), "full_seconds": median(full)}


def _memory_mib(field: str) -> float:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[field].split()[0]) / 1024


def run_all(data: Path) -> None:
    """Every cell that is not done yet."""
    cells = ["speed", "cost-0", f"cost-{FACTORS[-1]}"]
    cells += [f"quality-{factor}-{seed}" for seed in SEEDS for factor in (0, *reversed(FACTORS))]
    done = json.loads(OUTPUT.read_text(encoding="utf-8")) if OUTPUT.exists() else {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    OUTPUT.parent.mkdir(exist_ok=True)
    for cell in [cell for cell in cells if cell not in done]:
        command = [sys.executable, __file__, "--data", str(data), "--cell", cell]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise SystemExit(ended.stderr)
        done[cell] = json.loads(ended.stdout.splitlines()[-1])
        OUTPUT.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
        print(cell, done[cell], flush=True)


def run_cell(data: Path, cell: str) -> dict[str, float]:
    """One of the three kinds."""
    kind, *numbers = cell.split("-")
    kinds: dict[str, Callable[..., dict[str, float]]] = {"speed": speed, "cost": cost, "quality": quality}
    return kinds[kind](data, *map(int, numbers))


def tables(done: dict[str, dict[str, float]]) -> str:
    """Two of them, in Markdown."""
    full, lora = done["cost-0"], done[f"cost-{FACTORS[-1]}"]
    ratio = done["speed"]["ratio"]
    lines = [
        f"| | full fine-tuning | `--lora {RANK}` | share |",
        "| --- | --: | --: | --: |",
        f"| trainable parameters | {full['learning']:,} | {lora['learning']:,} |"
        f" {lora['learning'] / full['learning']:.1%} |",
        f"| a checkpoint, MB | {full['checkpoint_mb']:.1f} | {lora['checkpoint_mb']:.1f} |"
        f" {lora['checkpoint_mb'] / full['checkpoint_mb']:.1%} |",
        f"| memory at its peak beyond the libraries, MiB | {full['memory_mib']:,.0f} | {lora['memory_mib']:,.0f} |"
        f" {lora['memory_mib'] / full['memory_mib']:.1%} |",
        f"| the processor's time of a step, in turns | 1 | {ratio:.2f} | {ratio:.1%} |",
        "",
        f"| validation after {TRAIN_ROWS} rows | learning rate | "
        + " | ".join(f"accuracy, seed {seed}" for seed in SEEDS)
        + " | mean accuracy | mean loss |",
        "| --- | --: |" + " --: |" * (len(SEEDS) + 2),
    ]
    for factor in (0, *FACTORS):
        cells = [done.get(f"quality-{factor}-{seed}") for seed in SEEDS]
        known = [cell for cell in cells if cell is not None]
        name = f"`--lora {RANK}`, × {factor}" if factor else "full fine-tuning"
        means = [f"{mean(cell[key] for cell in known):.4f}" if known == cells else "–" for key in ("accuracy", "loss")]
        shown = ["–" if cell is None else f"{cell['accuracy']:.4f}" for cell in cells]
        lines.append(f"| {name} | {(factor or 1) * 5e-5:g} | {' | '.join([*shown, *means])} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, and write the tables between the markers of the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(run_cell(options.data, options.cell)))
        return
    if not options.table:
        if options.data is None:
            parser.error("--data DATA_FOLDER is needed")
        run_all(options.data)
    put_between(DOCUMENT, BEGIN, tables(json.loads(OUTPUT.read_text(encoding="utf-8"))), END)


if __name__ == "__main__":
    main()
