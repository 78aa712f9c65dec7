"""The mean of the weights of several runs, kept where validation says that it is no worse than the best of them.

Source: Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
increasing inference time", 2022.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dongu import launch
from dongu.best import WEIGHTS
from dongu.config import ABSTAIN_BELOW, LOWER_IS_BETTER, RunConfig
from dongu.data.examples import digest_of, read_examples
from dongu.data.sources import Source
from dongu.errors import UsageError
from dongu.files import disk, read_regular, replace_folder
from dongu.judge.intervals import verdict
from dongu.run.folder import RunFolder
from dongu.run.several import SOUP_FOLDER
from dongu.use.classifier import load
from dongu.use.saved import SavedModel

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


def make_soup(out: Path, folders: Mapping[str, RunFolder], source: Source, metric: str) -> dict[str, Any]:
    """Average the weights of the runs' best models; OUT/soup holds the model if `metric` on validation is no worse.

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
    with replace_folder(out / SOUP_FOLDER, within=out) as stage:
        for path in sorted(files[chosen].iterdir()):
            if path.is_file() and path.name not in (WEIGHTS, "README.md"):  # and not an adapter, which is of one run
                content = read_regular(path, path.stat().st_size)
                if path.name == "config.json":  # a threshold holds for the probabilities of its own model
                    settings = json.loads(content)
                    settings.pop(ABSTAIN_BELOW, None)
                    content = (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()
                disk.write(stage / path.name, content)
        save_file(weights, stage / WEIGHTS, metadata={"format": "pt"})
        run = SavedModel.open(folders[chosen].path)
        answers = load(stage, **_reading(run)).evaluate(run.own_examples(source=source))
        results = {
            name: verdict(each, run.metrics, run.constant_answer, run.config.seed) for name, each in answers.items()
        }
        value = results["validation"][metric]["value"]
        names = ", ".join(files)
        text = CARD.format(count=len(files), runs=names, metric=metric, value=value, best=values[chosen])
        disk.write(stage / "README.md", text.encode())
    kept = sign * value >= sign * values[chosen]
    if not kept:
        disk.remove(out / SOUP_FOLDER)
    return {"kept": kept, "runs": [*files], "best": values[chosen], **results}


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
