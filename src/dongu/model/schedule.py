"""The learning rate as a function of the optimizer step, and the arithmetic of steps."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from dongu.config import RunConfig
from dongu.errors import UsageError

DRIVEN = ("lr", "momentum", "betas")  # what a schedule may set in a parameter group


def total_steps(config: RunConfig, steps_per_epoch: int) -> int:
    """Optimizer updates of the whole run.

    Raises:
        UsageError: it has fewer of them than there shall be between two evaluations.
    """
    steps = config.max_steps or math.ceil(config.epochs * steps_per_epoch)
    if config.eval_steps is not None and config.eval_steps > steps:
        what = f"an evaluation every {config.eval_steps:,} steps, but the run has {steps:,}"
        raise UsageError(what, where="--eval-steps", hint="give fewer, or leave it out: then each epoch ends with one")
    return steps


def warmup_steps(config: RunConfig, steps: int) -> int:
    """`--warmup` in steps: a fraction below 1 is a share of the run, rounded up.

    Raises:
        UsageError: more warm-up than the run has steps.
    """
    count = math.ceil(config.warmup * steps) if config.warmup < 1 else int(config.warmup)
    if count > steps:
        what = f"{count} steps of warm-up, but the run has {steps}"
        raise UsageError(what, where="--warmup", hint="give fewer, or a fraction below 1")
    return count


def make_scheduler(optimizer: torch.optim.Optimizer, config: RunConfig, steps: int) -> Any:
    """The named schedule of `transformers.get_scheduler`.

    It is stepped once an optimizer update and never handed to Accelerate, which would step it once a process.
    """
    return get_scheduler(
        config.lr_scheduler, optimizer=optimizer, num_warmup_steps=warmup_steps(config, steps), num_training_steps=steps
    )


class Course:
    """A schedule, and where it was at an update: from there it can be brought to any later one.

    Args:
        scheduler: of the loop or of the user, with the optimizer that it drives.
        number: updates that were made before it was given.
    """

    def __init__(self, scheduler: Any, number: int) -> None:
        self.scheduler = scheduler
        self._begin = number
        self._is_closed = isinstance(scheduler, LambdaLR)  # a function of the step, and of nothing else
        self._offset = scheduler.last_epoch - number if self._is_closed else 0
        self._state = {} if self._is_closed else copy.deepcopy(scheduler.state_dict())
        self._driven = [
            {name: group[name] for name in DRIVEN if name in group} for group in scheduler.optimizer.param_groups
        ]

    def go_to(self, number: int) -> None:
        """As if the schedule had been stepped after each update up to this one.

        Raises:
            UsageError: it was given later than that.
        """
        scheduler = self.scheduler
        if number + self._offset < 0 or (number < self._begin and not self._is_closed):
            raise UsageError(
                f"{type(scheduler).__name__} was given after update {self._begin:,}, and cannot go back to {number:,}",
                where="loop.lr_scheduler",
                hint=f"weights, optimizer and count are those of update {number:,}; give a new schedule for them",
            )
        groups = scheduler.optimizer.param_groups
        if self._is_closed:
            place = number + self._offset
            rates = [base * share(place) for base, share in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
            scheduler.load_state_dict(
                {**scheduler.state_dict(), "last_epoch": place, "_step_count": place + 1, "_last_lr": rates}
            )
            return
        for group, driven in zip(groups, self._driven, strict=True):
            group.update(driven)
        scheduler.load_state_dict(copy.deepcopy(self._state))
        with warnings.catch_warnings():  # that no update was made in between
            warnings.simplefilter("ignore")
            for _ in range(number - self._begin):
                scheduler.step()
