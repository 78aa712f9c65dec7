"""A run says before its first step what memory it will need, and what would fit: held against what it takes."""

from __future__ import annotations

import gc
import json
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import AutoConfig, AutoModelForSequenceClassification

import dongu
from conftest import save_tiny_model
from dongu.engine.device import free_bytes
from dongu.run.need import Need, largest_micro_batch, rehearse, said_of_memory, smaller
from forked import fork

SIZES = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "vocab_size": 8000}
LONG = [{"text": " ".join(["good film"] * (20 + i % 8)), "label": str(i % 2)} for i in range(40)]
CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("bert", {}),
    "lora": ("bert", {"lora": 8}),
    "lora on bf16": ("bert", {"lora": 8, "base_precision": "bf16"}),
    "checkpointing": ("bert", {"gradient_checkpointing": True}),
    "decoder": ("qwen3", {}),
    "plain micro-batches": ("bert", {"engine": "plain", "micro_batch_size": 4}),
    "bf16": ("bert", {"precision": "bf16"}),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    def model(family: str) -> str:
        folder: Path = tmp_path_factory.getbasetemp() / f"need-{family}"
        if not folder.exists():
            folder.mkdir()
            save_tiny_model(family, 0.1, folder)
            config = AutoConfig.from_pretrained(folder)
            for name, value in {**SIZES, "head_dim": 32, "num_key_value_heads": 2}.items():
                if hasattr(config, name):
                    setattr(config, name, value)
            AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        return str(folder)

    return model


def make_loop(model: str, **options: Any) -> Any:
    data = {"train": LONG[:32], "validation": LONG[32:]}
    return dongu.Loop(data, **{"model": model, "batch_size": 16, "max_steps": 2, "max_length": 64, **options})


def measured_peak(loop: Any) -> int:
    """Bytes that PyTorch's allocator has handed out at most in an update, with the optimizer's state: the least of all.

    The profiler sees each allocation, so this is exact, and the same each time and on every processor; the resident
    memory of a process has libraries, caches and freed pages in it, of a size like that of a small model. What was
    made inside is freed inside, or the allocator would take it for alive in the next measurement.
    """
    steps, made = iter(loop), 0
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        while made < loop.total_steps:
            with record_function("an update"):
                made = next(steps).number
        assert [*steps] == []
        loop.optimizer.state.clear()
        gc.collect()
    nodes: list[Any] = list(profiled.profiler.kineto_results.experimental_event_tree())
    events: list[tuple[int, int, int]] = []
    updates: list[tuple[int, int]] = []
    while nodes:
        node = nodes.pop()
        nodes += node.children
        if node.tag == _EventType.Allocation:
            events.append((node.start_time_ns, node.extra_fields.alloc_size, node.extra_fields.total_allocated))
        elif node.name == "an update":
            updates.append((node.start_time_ns, node.end_time_ns))
    first, (_, *others) = min(events), sorted(updates)
    peaks = [max(total for at, _, total in events if begin <= at <= end) for begin, end in others]
    return int(min(peaks) - (first[2] - first[1]))


@pytest.mark.cases(test=1, ci=4)
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_need_is_what_is_taken(name: str, models: Callable[[str], str]) -> None:
    family, options = CONFIGURATIONS[name]
    loop = make_loop(models(family), **options)
    need = rehearse(loop, largest_micro_batch(loop))
    assert need.weights == sum(x.nbytes for x in (*loop.model.parameters(), *loop.model.buffers()))
    peak = measured_peak(loop) + need.weights  # which were there before
    assert need.peak == pytest.approx(peak, rel=0.15)
    assert peak > 1.3 * need.weights


SHARDED: dict[str, tuple[str, dict[str, Any]]] = {
    "layer by layer": ("qwen3", {"gradient_checkpointing": True}),
    "in one piece": ("bert", {}),
    "lora": ("bert", {"lora": 8, "engine": "plain"}),
}


def of_one_process(rank: int, port: int, models: Callable[[str], str], out: Path) -> int:
    """The need and the measured peak of one of two processes, in each case.

    Of several updates: for an exchange, a thread of gloo's own takes a buffer of the size of all that is gathered or
    reduced, and frees it when it is scheduled; where that is late, as others are at the machine, a peak has it in it.
    """
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank)}
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    found = {}
    for name, (family, options) in SHARDED.items():
        loop = make_loop(models(family), shard=True, device="cpu", threads=1, max_steps=6, **options)
        need = rehearse(loop, largest_micro_batch(loop))
        found[name] = [need.weights, need.peak, measured_peak(loop) + need.weights]
    (out / f"{rank}.json").write_text(json.dumps(found))
    return 0


@pytest.mark.crash
def test_the_need_of_one_of_two_processes(models: Callable[[str], str], tmp_path: Path) -> None:
    for family in ("bert", "qwen3"):
        models(family)
    with socket.socket() as free, (tmp_path / "output").open("w") as output:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        children = [fork(partial(of_one_process, rank, port, models, tmp_path), output.fileno()) for rank in range(2)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0, 0], (tmp_path / "output").read_text()
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for name in SHARDED:
        for weights, said, peak in (each[name] for each in found):
            assert said == pytest.approx(peak, rel=0.25), (name, found)
            assert peak > 2 * weights


def test_a_rehearsal_moves_nothing(models: Callable[[str], str]) -> None:
    loop = make_loop(models("bert"), gradient_checkpointing=True)
    before, weights = torch.get_rng_state(), {k: v.clone() for k, v in loop.model.state_dict().items()}
    needs = [rehearse(loop, largest_micro_batch(loop)) for _ in range(2)]
    assert needs[0] == needs[1], "run.json has it, and has the same bytes each time"
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(weights[k], v) for k, v in loop.model.state_dict().items())
    assert all(type(p) is torch.nn.Parameter and p.grad is None for p in loop.model.parameters())


@pytest.mark.crash
def test_it_says_what_would_fit(models: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dongu.run.need.rehearse", rehearse)
    loop = make_loop(models("bert"), batch_size=32)
    need: Need = rehearse(loop, largest_micro_batch(loop))
    assert "free" not in said_of_memory(loop, need, need.peak)
    tight = said_of_memory(loop, need, need.peak - need.weights - (need.activations or 0) // 4)
    assert "more than is free" in tight
    for option in ("--micro-batch-size", "--lora 16 (", "--base-precision bf16"):
        assert option in tight.partition("would fit")[2]
    size = int(tight.partition("--micro-batch-size ")[2].split()[0])
    assert 1 <= size < 32
    assert dict(smaller(loop, need, need.peak))["--gradient-checkpointing"] < need.peak  # two layers: little less
    assert "give several of" in said_of_memory(loop, need, 1000)


def test_what_is_free_is_known_here() -> None:
    assert (free_bytes(torch.device("cpu")) or 0) > 1e6
