"""The learning rate at every step, against the formula on paper; the arithmetic of steps."""

from __future__ import annotations

import itertools
import math
from typing import Any, get_args

import pytest
import torch

from dongu.config import Scheduler, make_config
from dongu.errors import UsageError
from dongu.model.optimizer import make_optimizer
from dongu.model.schedule import make_scheduler, total_steps, warmup_steps

RATE = 3e-4


def rates(steps: int, **options: Any) -> list[float]:
    """The learning rate that each update of a run uses."""
    config = make_config({"learning_rate": RATE, **options})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    scheduler = make_scheduler(optimizer, config, steps)
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def linear(step: int, steps: int, warmup: int) -> float:
    """Update `step`, from 0: up over `warmup` updates, then down, so that the update after the last would have 0."""
    return step / warmup if step < warmup else (steps - step) / (steps - warmup)


@pytest.mark.parametrize("steps", [5, 7, 100])
@pytest.mark.parametrize(
    "warmup", [0, 1, 5, 0.1, 0.5, 0.999], ids=["none", "one step", "five steps", "a tenth", "half", "nearly all"]
)
def test_linear_at_every_step(steps: int, warmup: float) -> None:
    count = math.ceil(warmup * steps) if warmup < 1 else int(warmup)
    assert rates(steps, warmup=warmup) == pytest.approx([RATE * linear(i, steps, count) for i in range(steps)])


def test_linear_of_the_shortest_runs() -> None:
    assert rates(1) == [RATE]
    assert rates(1, warmup=1) == [0]
    assert rates(2, warmup=0.5) == [0, RATE]


def test_the_default_run_begins_at_the_peak_and_ends_above_zero() -> None:
    found = rates(1377)  # MRPC: 3 epochs of 459
    assert found[0] == RATE
    assert found[-1] == pytest.approx(RATE / 1377)
    assert all(later < earlier for earlier, later in itertools.pairwise(found))


@pytest.mark.parametrize("name", get_args(Scheduler))
def test_every_schedule(name: str) -> None:
    found = rates(40, lr_scheduler=name, warmup=0 if name == "constant" else 10)
    assert all(0 <= rate <= RATE * (1 + 1e-9) for rate in found)
    assert found[10] == pytest.approx(RATE)  # the peak, after the warm-up
    if name != "constant":
        assert found[:10] == pytest.approx([RATE * i / 10 for i in range(10)])
    if "constant" in name:
        assert found[10:] == [RATE] * 30
    else:
        assert found[-1] < RATE / 1.5


def test_cosine() -> None:
    found = rates(40, lr_scheduler="cosine", warmup=10)
    assert found[10:] == pytest.approx([RATE * (1 + math.cos(math.pi * i / 30)) / 2 for i in range(30)])


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 1377),
        ({"epochs": 1}, 459),
        ({"epochs": 0.5}, 230),
        ({"epochs": 1e-9}, 1),
        ({"epochs": 2.5}, 1148),
        ({"max_steps": 10}, 10),
        ({"max_steps": 5000}, 5000),
        ({"max_steps": 10, "epochs": 100}, 10),
    ],
)
def test_steps_of_a_run(options: dict[str, Any], steps: int) -> None:
    assert total_steps(make_config(options), 459) == steps


@pytest.mark.parametrize(
    ("warmup", "steps", "count"),
    [(0, 10, 0), (0.1, 10, 1), (0.1, 11, 2), (0.999, 10, 10), (1, 10, 1), (10, 10, 10), (1e-9, 10, 1)],
)
def test_warm_up_in_steps(warmup: float, steps: int, count: int) -> None:
    assert warmup_steps(make_config({"warmup": warmup}), steps) == count


def test_more_warm_up_than_steps() -> None:
    with pytest.raises(UsageError) as caught:
        warmup_steps(make_config({"warmup": 11}), 10)
    assert caught.value.where == "--warmup"
    assert "11" in caught.value.what
    assert "10" in caught.value.what


def test_the_optimizer_is_adamw_with_one_decay_on_all_that_learns() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    model[0].bias.requires_grad_(False)
    optimizer = make_optimizer(model, make_config({"learning_rate": RATE, "weight_decay": 0.2}))
    (group,) = optimizer.param_groups
    assert type(optimizer) is torch.optim.AdamW
    assert (group["lr"], group["weight_decay"], group["betas"], group["eps"]) == (RATE, 0.2, (0.9, 0.999), 1e-8)
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters() if p.requires_grad]
