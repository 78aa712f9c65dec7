"""Numbers that are read late: recorded in order, none left out, and nothing waited for that need not be."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import dongu
from dongu.model.arrival import Arrival
from dongu.model.dropout import seed_draws
from dongu.training import _arrived


def step(number: int, there: bool) -> Any:
    return SimpleNamespace(number=number, arrival=SimpleNamespace(is_there=there))


@pytest.mark.parametrize(
    ("there", "waiting", "taken"),
    [
        ([True], 1, [0]),
        ([False], 1, []),
        ([False], 0, [0]),
        ([False, False], 1, [0]),
        ([True, False], 1, [0]),
        ([False, True], 1, [0, 1]),  # of one stream: the first is there as well by then
        ([False, False, False], 0, [0, 1, 2]),
        ([], 0, []),
    ],
)
def test_what_is_read_and_what_is_left(there: list[bool], waiting: int, taken: list[int]) -> None:
    made = deque(step(number, ready) for number, ready in enumerate(there))
    assert [each.number for each in _arrived(made, waiting=waiting)] == taken
    assert [each.number for each in made] == [number for number in range(len(there)) if number not in taken]


def test_a_run_whose_numbers_come_late_writes_the_same(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU that is always a step behind: every file has the bytes of a run that read at once."""
    options: dict[str, Any] = {
        "model": tiny_model(dropout=0.1), "epochs": 2, "batch_size": 8, "save_steps": 3, "device": "cpu", "threads": 1
    }  # fmt: skip
    data = data_folder(train=40)
    dongu.train(data, out=str(tmp_path / "at once"), **options)
    monkeypatch.setattr(Arrival, "is_there", property(lambda _: False))
    dongu.train(data, out=str(tmp_path / "late"), **options)
    for name in ("metrics.jsonl", "dynamics.bin", "results.json", "model/model.safetensors"):
        assert (tmp_path / "late" / name).read_bytes() == (tmp_path / "at once" / name).read_bytes(), name
    lines = (tmp_path / "late/timing.jsonl").read_text(encoding="utf-8").splitlines()
    assert [line["step"] for line in map(json.loads, lines) if line["event"] == "step"] == list(range(1, 11))


def test_a_seed_is_that_of_pytorch() -> None:
    torch.manual_seed(77)
    wanted = torch.rand(5)
    seed_draws(torch.device("cpu"), 77)
    assert torch.equal(torch.rand(5), wanted)
