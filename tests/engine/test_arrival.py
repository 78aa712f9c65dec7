"""Numbers that are read late: recorded in order, none left out, and nothing waited for that need not be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import dongu
from dongu.draws import seed_draws
from dongu.engine.arrival import Arrival
from dongu.errors import NonFiniteError
from dongu.run.journal import Journal
from dongu.run.recorder import Recorder


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
    seen: list[Any] = []
    recorder = Recorder(seen.append)
    for number, ready in enumerate(there):
        recorder.add(step(number, ready))
    last = recorder.catch_up(behind=waiting)
    assert [each.number for each in seen] == taken
    assert last is (seen[-1] if seen else None)
    recorder.catch_up(behind=0)
    assert [each.number for each in seen] == list(range(len(there)))


@pytest.mark.parametrize("there", [[True, True], [False, False], [True, False]])
def test_gpus_of_one_run_read_the_same(there: list[bool]) -> None:
    seen: list[Any] = []
    recorder = Recorder(seen.append, evenly=True)
    for number, ready in enumerate(there):
        recorder.add(step(number, ready))
    recorder.catch_up(behind=1)
    assert [each.number for each in seen] == [0]


@pytest.mark.crash
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
    write = Journal.step

    def cut(self: Journal, step: dongu.Step) -> None:
        write(self, step)
        if step.number == 4:  # the checkpoint of step 3 has all that was made before it
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "step", cut)
        with pytest.raises(KeyboardInterrupt):
            dongu.train(data, out=str(tmp_path / "cut"), **options)
    dongu.resume(tmp_path / "cut")
    for name in ("metrics.jsonl", "dynamics.bin", "results.json", "model/model.safetensors"):
        for run in ("late", "cut"):
            assert (tmp_path / run / name).read_bytes() == (tmp_path / "at once" / name).read_bytes(), (run, name)
    lines = (tmp_path / "late/timing.jsonl").read_text(encoding="utf-8").splitlines()
    assert [line["step"] for line in map(json.loads, lines) if line["event"] == "step"] == list(range(1, 11))


def spoil_an_update(loop: dongu.Loop, steps: Iterator[dongu.Step]) -> None:
    """The next one is not finite, and a GPU says so one update later."""
    bias = loop.model.classifier.bias
    kept, bias.data[0] = bias.data.clone(), float("nan")
    bad = next(steps)
    bias.data.copy_(kept)
    with pytest.raises(NonFiniteError, match="the loss is nan"):
        _ = bad.loss
    with pytest.raises(NonFiniteError, match="the update was not made"):
        next(steps)


def test_where_nobody_waits_an_update_that_is_not_finite_is_not_made_either(
    tiny_model: Callable[..., str], data_folder: Callable[..., str]
) -> None:
    """The flag that a GPU's optimizer reads; a CPU's fused one reads it too."""
    loop = dongu.Loop(data_folder(train=40), model=tiny_model(), epochs=2, batch_size=8, device="cpu", threads=1)
    loop._pending._skip = loop.optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]
    steps = iter(loop)
    for _ in range(3):
        next(steps)
    good = [parameter.detach().clone() for parameter in loop.model.parameters()]
    bias = loop.model.classifier.bias
    kept = bias.detach().clone()
    spoil_an_update(loop, steps)
    assert loop.number == 3
    assert all(torch.equal(now, before) for now, before in zip(loop.model.parameters(), good, strict=True))
    assert next(iter(loop)).number == 4
    assert not torch.equal(bias, kept), "and from here on updates are made again"


def test_a_seed_is_that_of_pytorch() -> None:
    torch.manual_seed(77)
    wanted = torch.rand(5)
    seed_draws(torch.device("cpu"), 77)
    assert torch.equal(torch.rand(5), wanted)
