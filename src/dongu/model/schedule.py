"""The learning rate as a function of the optimizer step, and the arithmetic of steps."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import get_scheduler

from dongu.config import RunConfig
from dongu.errors import UsageError


def total_steps(config: RunConfig, steps_per_epoch: int) -> int:
    """Optimizer updates of the whole run.

    Raises:
        UsageError: it has fewer of them than there shall be between two evaluations.
    """
    steps = config.max_steps or math.ceil(config.epochs * steps_per_epoch)
    if config.eval_steps is not None and config.eval_steps > steps:
        raise UsageError(
            f"an evaluation every {config.eval_steps:,} steps, but the run has {steps:,}",
            where="--eval-steps",
            hint="give fewer, or leave it out: then each epoch ends with one",
        )
    return steps


def warmup_steps(config: RunConfig, steps: int) -> int:
    """`--warmup` in steps: a fraction below 1 is a share of the run, rounded up.

    Raises:
        UsageError: more warm-up than the run has steps.
    """
    count = math.ceil(config.warmup * steps) if config.warmup < 1 else int(config.warmup)
    if count > steps:
        raise UsageError(
            f"{count} steps of warm-up, but the run has {steps}",
            where="--warmup",
            hint="give fewer, or a fraction below 1",
        )
    return count


def make_scheduler(optimizer: torch.optim.Optimizer, config: RunConfig, steps: int) -> Any:
    """The named schedule of `transformers.get_scheduler`.

    It is stepped once an optimizer update and never handed to Accelerate, which would step it once a process.
    """
    return get_scheduler(
        config.lr_scheduler,
        optimizer=optimizer,
        num_warmup_steps=warmup_steps(config, steps),
        num_training_steps=steps,
    )
