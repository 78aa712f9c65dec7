"""What saving and resuming takes beside what the run holds: a tensor at a time, however large the model."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

import dongu
from conftest import save_tiny_model
from dongu.best import save_best
from dongu.run.checkpoint import Checkpoints, RunState
from dongu.run.folder import RunFolder
from dongu.run.plan import Plan

SIZES = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 4, "num_hidden_layers": 4}
ROWS = [{"text": "good film" if i % 2 else "bad film", "label": str(i % 2)} for i in range(16)]
CONSTANT = 8_000_000  # bytes: buffers, the manifest, pages of code that is called for the first time


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("large")
    save_tiny_model("bert", 0.0, folder)
    config = AutoConfig.from_pretrained(folder)
    for name, value in {**SIZES, "vocab_size": 8000}.items():
        setattr(config, name, value)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return str(folder)


def peak_of(act: Callable[[], Any]) -> int:
    """Bytes of resident memory that it takes at most."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or it would take pages that were freed before
    Path("/proc/self/clear_refs").write_text("5")  # the highest is what is there now
    before = resident("VmHWM")
    act()
    return resident("VmHWM") - before


def resident(name: str) -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[name].split()[0]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process's memory is read from /proc")
def test_a_tensor_at_a_time(model: str, tmp_path: Path) -> None:
    loop = dongu.Loop({"train": ROWS, "validation": ROWS}, model=model, batch_size=2, max_steps=1, max_length=8)
    sizes = [tensor.nbytes for tensor in loop.model.state_dict().values()]
    weights, bound = sum(sizes), max(sizes) + CONSTANT
    assert weights > 64_000_000
    assert bound < weights / 2
    assert len(list(loop)) == 1
    loop.optimizer.zero_grad()
    run, state = RunFolder(tmp_path), RunState(step=1)
    checkpoints = Checkpoints(run.checkpoints, 2, Plan(1, 1, 1))
    peaks = {
        "a save": peak_of(lambda: checkpoints.save(loop, state)),
        "the best model": peak_of(lambda: save_best(loop, run)),
        "the list of a finished run": peak_of(lambda: run.write_manifest({})),
    }
    saved = {name: tensor.clone() for name, tensor in loop.model.state_dict().items()}
    with torch.no_grad():
        for parameter in loop.model.parameters():
            parameter.zero_()
    loop.optimizer.state.clear()

    def resume() -> None:
        checkpoint, _ = checkpoints.newest(tmp_path / "none", loop)
        assert checkpoint is not None
        checkpoint.restore(loop)

    moments = 2 * sum(parameter.nbytes for parameter in loop.model.parameters())
    peaks["resuming, beside the optimizer's state"] = peak_of(resume) - moments
    print(
        f"weights {weights / 1e6:.1f} MB, largest tensor {max(sizes) / 1e6:.1f} MB; at most, beside what the run holds:"
    )
    print("\n".join(f"- {name}: {peak / 1e6:.1f} MB" for name, peak in peaks.items()))
    assert max(peaks.values()) < bound
    assert all(torch.equal(tensor, saved[name]) for name, tensor in loop.model.state_dict().items())
