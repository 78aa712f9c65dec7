"""Memory that runs out on the device: halved micro-batches, the same step, the same update."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dongu
from dongu.errors import UsageError
from dongu.run.console import Console

OPTIONS: dict[str, Any] = {"max_steps": 6, "batch_size": 8, "lr": 1e-3, "save_steps": 2, "device": "cpu", "threads": 1}


def run_out_above(loop: dongu.Loop, rows: int, *, from_step: int) -> list[int]:
    """The device has memory for so many rows from a step on. Also gives the sizes that were tried."""
    tried: list[int] = []

    def forward(module: Any, _: Any, inputs: dict[str, Any]) -> None:
        size = len(inputs.get("lengths", inputs["input_ids"]))  # packed rows lie one after the other
        if module.training:
            tried.append(size)
            if size > rows and loop.number + 1 >= from_step:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    loop.engine.register_forward_pre_hook(forward, with_kwargs=True)
    return tried


@pytest.mark.cases(test=1, ci=3)
@pytest.mark.parametrize(("workers", "engine"), [(0, "plain"), (0, "packed"), (1, "packed")])
def test_the_same_step_is_repeated_in_halves(
    workers: int, engine: str, tiny_model: Callable[..., str], data_folder: Callable[..., str]
) -> None:
    options = {**OPTIONS, "model": tiny_model(), "workers": workers, "engine": engine}
    whole = dongu.Loop(data_folder(train=40), **options)
    expected = list(whole)
    loop = dongu.Loop(data_folder(train=40), **options)
    tried = run_out_above(loop, 3, from_step=3)
    steps = list(loop)
    assert tried == [8, 8, 8, 4, *[2] * 4 * 4], "8, then 4, then 2 of the third step, and never again larger"
    for step, wanted in zip(steps, expected, strict=True):
        assert step.loss == pytest.approx(wanted.loss, rel=1e-6)
        assert step.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-5)
    for name, tensor in loop.model.state_dict().items():
        if "key.bias" in name:
            continue  # its gradient is 0 but for rounding, of which AdamW makes whole steps
        torch.testing.assert_close(tensor, whole.model.state_dict()[name], rtol=1e-4, atol=1e-6)


def test_it_is_said_once_and_a_resumed_run_knows(
    tiny_model: Callable[..., str],
    data_folder: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from dongu.run import journal

    loops: list[dongu.Loop] = []
    init, write = dongu.Loop.__init__, journal.Journal.step

    def short_of_memory(self: dongu.Loop, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **options)
        run_out_above(self, 4, from_step=3)
        loops.append(self)

    def cut(self: journal.Journal, step: dongu.Step) -> None:
        write(self, step)
        if step.number == 5 and len(loops) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(dongu.Loop, "__init__", short_of_memory)
    options = {**OPTIONS, "model": tiny_model(dropout=0.2)}
    data = data_folder(train=40)
    dongu.train(data, out=str(tmp_path / "whole"), console=Console(), **options)
    assert capsys.readouterr().out.count("memory ran out at step 3: micro-batches of 4 from here on") == 1
    monkeypatch.setattr(journal.Journal, "step", cut)
    with pytest.raises(KeyboardInterrupt):
        dongu.train(data, out=str(tmp_path / "cut"), **options)
    state = json.loads((tmp_path / "cut/checkpoints/step-00000004/state.json").read_text(encoding="utf-8"))
    assert state["micro_batch_size"] == 4
    dongu.resume(tmp_path / "cut")
    for name in ("metrics.jsonl", "results.json", "model/model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_no_memory_for_one_row(tiny_model: Callable[..., str], data_folder: Callable[..., str]) -> None:
    loop = dongu.Loop(data_folder(train=40), **{**OPTIONS, "model": tiny_model()})
    run_out_above(loop, 0, from_step=1)
    with pytest.raises(UsageError, match="no memory for 1 rows at a time") as caught:
        list(loop)
    assert "--max-length" in caught.value.hint
