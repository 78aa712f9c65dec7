"""The settings that suit how much there is to learn from: the original's, or those for few rows.

`benchmarks/recipes.py` measures both; its tables are in docs/results.md.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from dongu.config import RunConfig, Task
from dongu.model.mean_layer import give_mean_layer, why_no_mean_layer
from dongu.model.probe import Probe, fit_head, probe

ENOUGH_UPDATES = 1_000  # of three epochs in batches of 8, from which on the original's settings are used
FOR_FEW_ROWS: dict[str, Any] = {"learning_rate": 1e-4, "warmup": 0.1, "head": "probe"}

Batches = Callable[[], Iterable[Mapping[str, Tensor]]]


def fit_recipe(config: RunConfig, rows: int, model: Any, *, has_own_parts: bool = False) -> RunConfig:
    """The options with those that `--recipe auto` derives; what was given stays as it is.

    Args:
        config: as the user gave it.
        rows: of the training split.
        model: the classifier, before anything was added to it.
        has_own_parts: whether something of the run is the user's own.

    Returns:
        The config; its `recipe` is `original` where nothing is derived.
    """
    epochs, batch_size = (RunConfig.model_fields[name].default for name in ("epochs", "batch_size"))
    are_few = epochs * math.ceil(rows / batch_size) < ENOUGH_UPDATES
    if config.recipe == "original" or not are_few or model.new_head is None or has_own_parts:
        return config.model_copy(update={"recipe": "original"})
    given = config.model_fields_set
    return config.model_copy(update={name: value for name, value in FOR_FEW_ROWS.items() if name not in given})


def begin_head(
    model: Any, batches: Batches, targets: Tensor, task: Task, config: RunConfig
) -> tuple[Any, RunConfig, dict[str, Probe | str]]:
    """Begin a new head as a probe of the training rows, of what the encoder tells most by.

    Args:
        model: on its device; `--pooling mean` has its layer already.
        batches: makes padded inputs of all training rows.
        targets: of their rows in that order, as the model learns them: (rows,) or (rows, labels).
        task: what the targets are.
        config: whose `pooling` is decided here, unless it is given.

    Returns:
        The model, which may have one more layer, the config that says so, and the probes by `pooling`.
    """
    columns = torch.nn.functional.one_hot(targets) if task == "single-label" else targets.reshape(len(targets), -1)
    found: dict[str, Probe | str] = {config.pooling: probe(model, batches(), columns.double())}
    if config.recipe == "auto" and "pooling" not in config.model_fields_set and config.lora is None:
        own = found[config.pooling]
        if why_no_mean_layer(model) is None and isinstance(own, Probe):
            other = copy.deepcopy(model)
            give_mean_layer(other)
            found["mean"] = mean = probe(other, batches(), columns.double())
            if isinstance(mean, Probe) and mean.is_better_than(own):
                model, config = other, config.model_copy(update={"pooling": "mean"})
    if isinstance(chosen := found[config.pooling], Probe):
        fit_head(model, chosen, targets, task)
    return model, config, found
