"""Which precision is the faster one here: a run says so before its first step."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dongu
from conftest import unwrapped
from dongu.run.console import Console
from dongu.run.effort import PRECISIONS, precision_seconds

SAID = {
    ("bf16", 13.0): "products in bf16 take 13 times as long as in fp32 on this processor: give --precision fp32",
    ("fp32", 0.25): "products in bf16 are 4 times as fast as in fp32 on this processor: try --precision bf16",
    ("bf16", 0.25): None,
    ("fp32", 13.0): None,
    ("bf16", 1.3): None,
    ("fp32", 0.8): None,
}


@pytest.mark.cases(test=1, ci=2)
@pytest.mark.found("bf16-speed")
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_header_names_the_faster_precision(
    precision: str,
    tiny_model: Callable[..., str],
    data_folder: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the probe answers is given here: seconds in bf16 against one in fp32. It moves no byte of the run."""
    data = data_folder()
    options: dict[str, Any] = {"model": tiny_model(dropout=0.1), "precision": precision, "device": "cpu"}
    written = set()
    for seconds in (1.0, *(bf16 for asked, bf16 in SAID if asked == precision)):
        monkeypatch.setattr("dongu.run.derived.precision_seconds", lambda _, bf16=seconds: {"fp32": 1.0, "bf16": bf16})
        out = tmp_path / str(seconds)
        capsys.readouterr()
        dongu.train(data, **options, max_steps=2, out=str(out), console=Console())
        written.add((out / "metrics.jsonl").read_bytes())
        header = unwrapped(capsys.readouterr().out.partition("\nrun ")[0])
        said = SAID.get((precision, seconds))
        assert (f"precision {said} memory" in header) if said else ("products in bf16" not in header)
    assert len(written) == 1


@pytest.mark.found("bf16-speed")
def test_the_probe_takes_milliseconds_and_leaves_no_trace(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the sizes of MiniLM and BERT-base, by the clock of this process: others may be at the machine."""
    loop = dongu.Loop(data_folder(), model=tiny_model(), device="cpu", batch_size=32)
    models, before = [torch.nn.Linear(384, 1536), torch.nn.Linear(768, 3072)], torch.get_num_threads()
    torch.set_num_threads(2)
    state = torch.get_rng_state()
    for model in models:
        monkeypatch.setattr(loop, "model", model)
        started = time.process_time()
        seconds = precision_seconds(loop)
        assert time.process_time() - started < 0.5
        assert seconds.keys() == PRECISIONS.keys()
        assert min(seconds.values()) > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
