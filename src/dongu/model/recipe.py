"""The settings that are not given: the original's, those that suit few rows, or those that are soon done.

`benchmarks/recipes.py` and `benchmarks/time_to_quality.py` measure them; their tables are in docs/results.md.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from dongu.config import RunConfig
from dongu.data.examples import TextData
from dongu.data.tokenized import Split
from dongu.errors import UsageError
from dongu.model.layers import layer_depths
from dongu.model.mean_layer import give_mean_layer, why_no_mean_layer
from dongu.model.probe import PROBE_ROWS, Probe, fit_head, probe
from dongu.model.scale import Scale

ENOUGH_UPDATES = 1_000  # of three epochs in batches of 8, from which on the original's settings are used
FOR_FEW_ROWS: dict[str, Any] = {"learning_rate": 1e-4, "warmup": 0.1, "head": "probe"}
# From so many rows a class on the rate falls with the root of their number, at four times as many to the original's:
# 1e-4 overfits 1,000 rows a class (SST-2, Subj), and with 13 (CLINC150) 5e-5 ended lower.
RATE_FALLS_AFTER = 250
# Which of two texts in one row are alike no encoder tells much of before it is trained for it, and a head that begins
# with the little it tells, in place of a random one, ended lower on STS-B and MRPC.
PAIRS_TOLD = 0.25  # of the variance, from which on a head begins with what is told of pairs
# Without dropout a small encoder learns sooner, and so few epochs hardly overfit thousands of rows. Larger batches at a
# higher rate take less time a row, and ended as high or higher on SST-2 and STS-B.
QUICK: dict[str, Any] = {
    "dropout": 0.0,
    "freeze": 0,
    "epochs": 1.75,
    "batch_size": 16,
    "learning_rate": 1e-4,
    "warmup": 0.1,
}
ENOUGH_QUICK_UPDATES = 500
# With fewer updates the lower third of the layers stays as it is, which leaves time for more epochs. On MRPC that ended
# a point higher than all layers, on 3,500 rows of SST-2 and STS-B about as high (one seed), and on all of theirs lower.
EPOCHS_OF_UPPER_LAYERS = 2.25


def rows_to_fit(data: TextData, fold: str | None) -> int:
    """The training rows that a recipe is for; of a fold as many as equal folds leave, so that all have one recipe."""
    if fold is None:
        return len(data.splits["train"])
    count = int(fold.partition("/")[2])
    return (len(data.splits["train"]) + len(data.splits["validation"])) * (count - 1) // count


def begin_recipe(config: RunConfig, given: Collection[str], rows: int) -> RunConfig:
    """The options with what `--recipe quick` asks of a model before it is loaded; with few rows it is `auto`.

    `given` are the names of options that stay as they are.
    """
    if config.recipe == "quick" and _usual_updates(rows) < ENOUGH_UPDATES:
        return config.model_copy(update={"recipe": "auto"})
    if config.recipe == "quick" and "dropout" not in given:
        return config.model_copy(update={"dropout": QUICK["dropout"]})
    return config


def fit_recipe(config: RunConfig, given: Collection[str], rows: int, model: Any, *, has_own_parts: bool) -> RunConfig:
    """The options with those that `--recipe auto` and `quick` derive from the number of training rows.

    `given` are the names of options that stay as they are; nothing was added to the model yet. The `recipe` of the
    config is `original` where nothing is derived.
    """
    if config.recipe == "quick":
        settings = _quick_settings(config, rows, model)
        return config.model_copy(update={name: value for name, value in settings.items() if name not in given})
    if config.recipe != "auto":
        return config
    if _usual_updates(rows) >= ENOUGH_UPDATES or model.new_head is None or has_own_parts:
        return config.model_copy(update={"recipe": "original"})
    of_each = rows / max(2, model.config.num_labels)  # a number counts as two classes
    rate = FOR_FEW_ROWS["learning_rate"] * min(1.0, max(0.5, math.sqrt(RATE_FALLS_AFTER / of_each)))
    settings = {**FOR_FEW_ROWS, "learning_rate": float(f"{rate:.1e}")}
    fitted = config.model_copy(update={name: value for name, value in settings.items() if name not in given})
    is_derived = fitted != config or fitted.head == "probe"
    return fitted if is_derived else config.model_copy(update={"recipe": "original"})


def _quick_settings(config: RunConfig, rows: int, model: Any) -> dict[str, Any]:
    """Those of a quick run of so many rows."""
    enough = QUICK["epochs"] * math.ceil(rows / QUICK["batch_size"]) >= ENOUGH_QUICK_UPDATES
    if enough or config.lora is not None or config.freeze == 0:
        return QUICK
    try:
        _, layers = layer_depths(model)
    except UsageError:  # they are one layer, or of an encoder and a decoder
        return QUICK
    return {**QUICK, "freeze": layers // 3, "epochs": EPOCHS_OF_UPPER_LAYERS} if layers >= 3 else QUICK


def _usual_updates(rows: int) -> int:
    """Those of the original's epochs and batches."""
    epochs, batch_size = (RunConfig.model_fields[name].default for name in ("epochs", "batch_size"))
    return int(epochs * math.ceil(rows / batch_size))


def begin_head(
    model: Any, split: Split, collate: Any, scale: Scale, data: TextData, config: RunConfig, given: Collection[str]
) -> tuple[Any, RunConfig, dict[str, Probe | str]]:
    """Begin a new head as a probe of the training rows, of what the encoder tells most by.

    The model is on its device, and has its layer already under `--pooling mean`; `split` are the training rows, and
    `collate(split, rows)` makes padded inputs of them. `pooling` and `head` are decided here, unless they are `given`.

    Returns:
        The model, which may have one more layer, the config that says so, and the probes by `pooling`. The config is
        the original's where the frozen encoder tells nothing about the targets, or of pairs less than `PAIRS_TOLD`:
        then there is nothing to begin with.
        Of several labels a row it tells how rare each is, which a head at random needs hundreds of updates to learn.
    """
    if config.head == "random" or model.new_head is None or split.targets is None:
        return model, config, {}
    task, order = data.task, np.argsort(split.tokens.lengths, kind="stable")
    targets = torch.from_numpy(split.targets[order])
    if task != "single-label":
        targets = (targets.double() - scale.mean) / scale.std  # which is 0 and 1 for flags
    columns = F.one_hot(targets).double() if task == "single-label" else targets.reshape(len(order), -1)

    def look_at(classifier: Any) -> Probe | str:
        rooms = np.array_split(order, -(-len(order) // PROBE_ROWS))
        inputs = ({k: x.to(model.device) for k, x in collate(split, rows).items() if k != "labels"} for rows in rooms)
        return probe(classifier, inputs, columns)

    original, chosen = (model, config), look_at(model)
    found: dict[str, Probe | str] = {config.pooling: chosen}
    may_have_layer = config.recipe == "auto" and "pooling" not in given and config.lora is None
    if may_have_layer and isinstance(chosen, Probe) and why_no_mean_layer(model) is None:
        other = copy.deepcopy(model)
        give_mean_layer(other)
        found["mean"] = mean = look_at(other)
        if isinstance(mean, Probe) and mean.tells_something and mean.is_better_than(chosen):
            model, config, chosen = other, config.model_copy(update={"pooling": "mean"}), mean
    least = PAIRS_TOLD if len(data.columns.texts) == 2 else 0.0
    tells_enough = isinstance(chosen, Probe) and (
        task == "multi-label" or (chosen.tells_something and chosen.explained >= least)
    )
    if config.recipe == "auto" and "head" not in given and not tells_enough:
        usual = {name: RunConfig.model_fields[name].default for name in FOR_FEW_ROWS if name not in given}
        model, config = original
        return model, config.model_copy(update={**usual, "recipe": "original"}), found
    if isinstance(chosen, Probe):
        fit_head(model, chosen, targets, task)
    return model, config, found
