"""K-fold cross-validation: a run a fold, and for every row the answer of the model that has not seen it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dongu.config import NUMBERS, RunConfig, make_config
from dongu.data.labels import labels_cell
from dongu.data.sources import Source
from dongu.files import keep_file
from dongu.judge.answers import Evaluation
from dongu.judge.intervals import constant_answer, same_draws, verdict
from dongu.judge.metrics import MetricSet, OwnMetric
from dongu.judge.words import Yardstick, table
from dongu.own import take_own
from dongu.run.console import Console
from dongu.run.folder import RunFolder
from dongu.run.predictions import label_of, read_answers
from dongu.run.several import FOLDS
from dongu.sweep import spread_of, train_runs
from dongu.text import counted, typed, wrapped
from dongu.use.answer_file import write_answers

CHOSEN = "Each model was chosen on the rows that it held out, so these figures are a little too good."


def train_folds(
    source: Source, count: int, options: Mapping[str, Any], console: Console, *, parts: Path | None = None
) -> tuple[Path, dict[str, Any]]:
    """Train a run for each of `count` folds, in OUT/fold-1 and so on, and pool their answers to the rows held out.

    What an earlier call has finished is kept, what was cut off goes on.

    Returns:
        OUT, and what folds.json holds.

    Raises:
        UsageError: OUT holds something else, or runs with other options or of other rows; nothing was changed.
        InputError, LockedError, NonFiniteError, StorageError, WorkerError, StoppedError: as `train`.
    """
    options = dict(options)
    own = take_own(options, parts)  # the plain values among them are options
    runs = {f"fold-{k}": make_config({**options, "fold": f"{k}/{count}"}) for k in range(1, count + 1)}
    out = Path(next(iter(runs.values())).out or f"runs/{source.name}")
    pool = partial(summarize_folds, out, count, own.metrics)
    return train_runs(source, "fold", runs, options, console, parts=parts, summary=FOLDS, summarize=pool)


def summarize_folds(
    out: Path, count: int, own: Mapping[str, OwnMetric], folders: Mapping[str, RunFolder], config: RunConfig
) -> dict[str, Any]:
    """Each metric of each finished fold, and once all are finished the metrics of the pooled answers, the `own` too.

    The interval of a pooled metric comes from resampling its rows: it says how far the figure would move with other
    rows of the same kind, given these models. It does not say how far it would with other training rows.
    """
    summary: dict[str, Any] = {"folds": [*folders]}
    if not folders:
        return summary
    results = {name: folder.read_results() for name, folder in folders.items()}
    first = next(iter(folders.values())).read_record()
    task, names = first["options"]["task"], tuple(first["label_names"])
    summary |= {"task": task, "metric": first["metric"], "label_names": names}
    splits = [name for name in ("validation", "test") if name in next(iter(results.values()))]
    for split in splits:
        metrics = next(iter(results.values()))[split]
        summary[split] = {
            name: spread_of([result[split][name]["value"] for result in results.values()]) for name in metrics
        }
    if len(folders) < count:
        return summary
    answers, fold_of = _pooled(folders, results)
    known = MetricSet.of(task, names, config.data, first["metric"], own)
    if answers.targets is None:
        return summary
    if task == "multi-label":
        answers = replace(answers, threshold=known.best_threshold(answers.logits, answers.targets))
    with same_draws(known, config.seed):
        answers = replace(answers, metrics=known.values(answers))
    constant = constant_answer(known, answers.targets)
    _write(out, answers, fold_of, names)
    pooled = verdict(answers, known, constant, config.seed)
    return {**summary, "rows": len(answers), "constant_answer": constant, "pooled": pooled}


def _pooled(folders: Mapping[str, RunFolder], results: Mapping[str, Any]) -> tuple[Evaluation, np.ndarray]:
    """The answers of all folds in the order of the rows, and the fold of each, from 1, (rows,)."""
    parts = [
        read_answers(folder, "validation", folder.read_record(), results[name]) for name, folder in folders.items()
    ]

    def of_all(name: str) -> Any:
        arrays = [getattr(part, name) for part in parts]
        return None if arrays[0] is None else np.concatenate(arrays)

    fields = ("ids", "logits", "targets", "losses", "read_back")
    whole = replace(parts[0], split="out_of_fold", metrics={}, **{name: of_all(name) for name in fields})
    order = np.argsort(whole.ids, kind="stable")
    fold_of = np.repeat(np.arange(1, len(parts) + 1), [len(part) for part in parts])
    return whole.take(order), fold_of[order]


def _write(out: Path, answers: Evaluation, fold_of: np.ndarray, names: tuple[str, ...]) -> None:
    """`predictions/` of the folder: arrays as cleanlab takes them, and a table for people."""
    numbers = answers.task in NUMBERS
    said = {"predictions": answers.predictions} if numbers else {"pred_probs": answers.probabilities}
    is_new, table_file = False, out / "predictions" / "out_of_fold.csv"
    arrays = {**said, "labels": np.asarray(answers.targets), "ids": answers.ids, "folds": fold_of}
    for name, array in arrays.items():
        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        is_new |= keep_file(out / "predictions" / f"{name}.npy", content.getvalue(), within=out)
    if is_new or not table_file.exists():
        write_answers(table_file, _rows(answers, fold_of, names))


def _rows(answers: Evaluation, fold_of: np.ndarray, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    targets, shown = np.asarray(answers.targets), answers.predictions
    for i, (row, fold) in enumerate(zip(answers.ids.tolist(), fold_of.tolist(), strict=True)):
        label, prediction = (label_of(each[i], answers.task, names) for each in (targets, shown))
        cells = {"id": str(row), "fold": str(fold), "label": label, "prediction": prediction}
        sure = dict(zip([f"probability of {name}" for name in names], answers.probabilities[i].tolist(), strict=False))
        flat = {name: labels_cell(cell, names) if isinstance(cell, list) else cell for name, cell in cells.items()}
        yield {**flat, **sure}


def folds_lines(summary: Mapping[str, Any], out: Path) -> Iterator[str]:
    """The pooled metrics, and how far the folds lie apart, for a person."""
    if "pooled" not in summary:
        return
    yield f"{counted(summary['rows'], 'row')}, each answered by the model that has not seen it"
    yield from table({"out of fold": summary["pooled"]}, summary["task"])
    for name, spread in summary["validation"].items():
        if spread["mean"] is not None:
            low, high = (f"{spread[key]:.4f}" for key in ("min", "max"))
            yield f"folds  {name:<22} mean {spread['mean']:.4f}, {low} to {high}"
    if (accuracy := summary.get("options", {}).get("abstain")) is not None:
        what = "each fold abstains by a threshold of its own; the folder, whose models answer together, gives each row"
        yield from wrapped(f"{what} a label. This finds a threshold for them:")
        yield f"dongu evaluate {typed(out)} OTHER.csv --abstain {accuracy:g}"
    yield f"probabilities of each row in {out}/predictions; all figures in {out}/{FOLDS}"
    yardstick = Yardstick(summary["task"], summary["metric"], summary["label_names"], summary["constant_answer"])
    said = yardstick.sentence("train, each held out once,", summary["pooled"][yardstick.metric], summary["rows"])
    yield from wrapped(f"{said} {CHOSEN}")
