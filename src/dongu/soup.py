"""The mean of the weights of several runs, kept where validation says that it is no worse than the best of them.

Source: Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
increasing inference time", 2022.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dongu import launch
from dongu.best import WEIGHTS
from dongu.config import ABSTAIN_BELOW, LOWER_IS_BETTER, RunConfig
from dongu.data.examples import digest_of, read_examples
from dongu.data.sources import Source
from dongu.errors import ModelError, UsageError
from dongu.files import disk, read_regular, replace_folder
from dongu.judge.abstention import abstained, fit_threshold
from dongu.judge.answers import Evaluation
from dongu.judge.calibration import fit_temperature
from dongu.judge.intervals import same_draws, verdict
from dongu.judge.metrics import MetricSet, OwnMetric
from dongu.model.head import head_of
from dongu.model.load import load_saved
from dongu.run.folder import CALIBRATION, RunFolder, dump_json
from dongu.run.several import SOUP_FOLDER
from dongu.use.classifier import Classifier
from dongu.use.saved import OWN_CLASS, SavedModel

CARD = """\
# The mean of {count} models

The weights are the mean of those of {runs}, which differ in their seed alone. On the validation split, {metric} is \
{value:.4f}; the best of them reaches {best:.4f}. Their figures, and those of the mean, are in `seeds.json` of the \
folder that this one was written into.
"""


def check_soup(source: Source, configs: Sequence[RunConfig]) -> None:
    """
    Raises:
        UsageError: the runs hold out other rows each, so no row is left that none of them has learnt from; or several
            processes would make the mean.
    """
    if launch.processes() > 1:
        hint = "give --keep soup afterwards, on one process: finished runs are kept"
        raise UsageError("the mean of the weights is made by one process", where="--keep soup", hint=hint)
    held = {digest_of(read_examples(source, config).splits["validation"]) for config in configs[:2]}
    if len(held) > 1:
        what = "each seed holds out other rows, so the mean was trained on all of them"
        raise UsageError(what, where="--keep soup", hint="give DATA a split `validation`, or --split-file")


def make_soup(
    out: Path, folders: Mapping[str, RunFolder], source: Source, metric: str, own: Mapping[str, OwnMetric]
) -> dict[str, Any]:
    """Average the weights of the runs' best models; OUT/soup holds the model if `metric` on validation is no worse.

    What the runs learn from validation after training, the mean learns too: `--calibrate`, `--abstain` and the
    threshold of several labels hold for the probabilities of one model. `own` are the user's metrics.

    Returns:
        `kept`, `best` of the runs on validation, and the metrics of the mean on each labelled split, with intervals;
        or `reason`, where the weights have no mean.
    """
    files = {name: folder.model for name, folder in folders.items()}
    weights = mean_weights([load_file(path / WEIGHTS) for path in files.values()])
    if weights is None:
        return {"kept": False, "reason": "the models have other weights each, so they have no mean"}
    values = {name: folder.read_results()["validation"][metric]["value"] for name, folder in folders.items()}
    sign = -1 if metric in LOWER_IS_BETTER else 1
    chosen = max(values, key=lambda name: sign * values[name])
    try:
        run = SavedModel.open(folders[chosen].path)
    except ModelError as error:
        if error.what != OWN_CLASS:
            raise
        return {"kept": False, "reason": error.what}
    metrics = MetricSet.of(run.metrics.task, run.label_names, run.config.data, metric, own)
    with replace_folder(out / SOUP_FOLDER, within=out) as stage:
        for path in sorted(files[chosen].iterdir()):
            # Not an adapter, a temperature, or a card, which are of one run.
            if path.is_file() and path.name not in (WEIGHTS, CALIBRATION, "README.md"):
                disk.write(stage / path.name, read_regular(path, path.stat().st_size))
        results = _judge(stage, weights, run, source, metrics)
        value = results["validation"][metric]["value"]
        names = ", ".join(files)
        text = CARD.format(count=len(files), runs=names, metric=metric, value=value, best=values[chosen])
        disk.write(stage / "README.md", text.encode())
    kept = sign * value >= sign * values[chosen]
    if not kept:
        disk.remove(out / SOUP_FOLDER)
    return {"kept": kept, "runs": [*files], "best": values[chosen], **results}


def _judge(
    stage: Path, weights: dict[str, Tensor], run: SavedModel, source: Source, metrics: MetricSet
) -> dict[str, Any]:
    """Put the mean into a folder that has the files of a run's model, and see what it reaches.

    Returns:
        What `results.json` says of a model: its splits, and what was learnt from validation.
    """
    settings = json.loads(read_regular(stage / "config.json"))
    settings.pop(ABSTAIN_BELOW, None)
    examples = run.own_examples(source=source)
    learnt: dict[str, Any] = {}

    def write_config() -> None:
        disk.write(stage / "config.json", (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode())

    def answers() -> dict[str, Evaluation]:
        save_file(weights, stage / WEIGHTS, metadata={"format": "pt"})
        write_config()
        saved = SavedModel.open(stage, **_reading(run))
        with same_draws(metrics, run.config.seed):
            return Classifier(replace(saved, metrics=metrics)).evaluate(examples)

    found = answers()
    logits, truth = found["validation"].logits, np.asarray(found["validation"].targets)
    if metrics.task == "multi-label":
        settings["threshold"] = learnt["threshold"] = metrics.best_threshold(logits, truth)
        found = answers()
    if run.config.calibrate:
        learnt["temperature"] = fit_temperature(logits, truth)
    if (temperature := learnt.get("temperature")) is not None:
        head, _ = head_of(load_saved(stage)) or ("", None)
        weights |= {name: tensor / temperature for name, tensor in weights.items() if name.startswith(f"{head}.")}
        disk.write(stage / CALIBRATION, dump_json({"temperature": temperature}).encode())
        found = answers()
    if (accuracy := run.config.abstain) is not None:
        learnt[ABSTAIN_BELOW] = threshold = fit_threshold(found["validation"], accuracy)
        learnt["abstained"] = [] if threshold is None else [abstained(each, threshold) for each in found.values()]
        if threshold is not None:
            settings[ABSTAIN_BELOW] = threshold
            write_config()
    splits = {name: verdict(each, metrics, run.constant_answer, run.config.seed) for name, each in found.items()}
    return {**splits, **learnt}


def mean_weights(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor] | None:
    """The mean of each tensor, in double precision and then its own; None where names or shapes differ."""
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    if any(each != shapes[0] for each in shapes):
        return None
    means = {}
    for name, first in states[0].items():
        if not first.is_floating_point():
            means[name] = first
            continue
        total = torch.zeros_like(first, dtype=torch.float64)
        for state in states:
            total += state[name]
        means[name] = (total / len(states)).to(first.dtype)
    return means


def _reading(run: SavedModel) -> dict[str, Any]:
    names = ("text_columns", "label_column", "max_length", "long", "task", "precision", "threads")
    return {name: getattr(run.config, name) for name in names}
