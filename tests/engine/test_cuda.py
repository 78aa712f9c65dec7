"""What only a CUDA GPU can show: the same numbers, the same bytes after a stop, and no waiting in between."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

import dongu
import encoders
from dongu.engine import recordings, replays
from dongu.engine.attention import attend
from dongu.engine.layout import Layout
from dongu.engine.packed import PaddingFree, flatten
from dongu.errors import NonFiniteError
from drivers import HANGS
from encoders import COVERED, micro_batch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")

CUDA = torch.device("cuda")
REPLAYED = tuple(family for family in COVERED if family not in ("mpnet", "modernbert"))
OPTIONS: dict[str, Any] = {"epochs": 3, "batch_size": 8, "lr": 1e-3, "device": "cuda"}


@pytest.fixture
def _all_memory_afterwards() -> Iterator[None]:
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def load(path: str) -> Any:
    return encoders.load(path).to(CUDA)


def outcome(model: Any, run: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradients of the model."""
    model.zero_grad()
    logits = run(**inputs).logits.float()
    (logits * torch.linspace(-1, 2, logits.numel(), device=CUDA).view_as(logits)).sum().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_near(got: Any, wanted: Any, tolerance: float) -> None:
    """Logits relative to the largest, gradients to their own size, or a thousandth of all together."""
    assert float((got[0] - wanted[0]).abs().max()) <= tolerance * float(wanted[0].abs().max())
    assert got[1].keys() == wanted[1].keys()
    whole = float(torch.stack([g.norm() for g in wanted[1].values()]).norm())
    for name, gradient in wanted[1].items():
        bound = 10 * tolerance * max(float(gradient.norm()), 1e-3 * whole)
        assert float((got[1][name] - gradient).norm()) <= bound, name


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("family", COVERED)
def test_logits_and_gradients(family: str, recorded: bool, tiny_model: Callable[..., str]) -> None:
    model = load(tiny_model(family)).train()
    packed = PaddingFree(model)
    if recorded:
        reason = packed.record(micro_batch(model))
        assert (reason is None) == (family in REPLAYED), reason
    for seed in range(3):  # the second and the third are other rows of the same shape
        inputs = micro_batch(model, seed=seed)
        assert_near(outcome(model, packed, flatten(inputs)), outcome(model, model, inputs), 2e-6)


@pytest.mark.parametrize("family", COVERED)
def test_half_precision(family: str, tiny_model: Callable[..., str]) -> None:
    """Flash attention. All is rounded; the model's own padded forward says by how much."""
    model = load(tiny_model(family)).train()
    inputs = micro_batch(model)
    (exact, exact_gradients), packed = outcome(model, model, inputs), PaddingFree(model)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        reason = packed.record(inputs)
        assert (reason is None) == (family in REPLAYED), reason
        padded, padded_gradients = outcome(model, model, inputs)
        got, gradients = outcome(model, packed, flatten(inputs))
    assert float((got - exact).norm()) <= 2 * float((padded - exact).norm()) + 1e-3 * float(exact.norm())
    error, usual = (
        torch.stack([(each[name] - exact_gradients[name]).norm() for name in exact_gradients]).norm()
        for each in (gradients, padded_gradients)
    )
    assert float(error) <= 2 * float(usual)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("first_only", [False, True])
def test_dropout_of_attention_keeps_the_mean(first_only: bool, dtype: torch.dtype) -> None:
    layout = Layout.of((4, 9, 1, 40), 2, fillers=0).to(CUDA)
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 54, 2, 16, device=CUDA, dtype=dtype).unbind(0)
    q = q[layout.first] if first_only else q
    wanted = attend(q, k, v, layout, nn.Dropout(0.1).eval()).float()
    draws = torch.stack([attend(q, k, v, layout, nn.Dropout(0.1)).float() for _ in range(4000)])
    deviation = draws.std(0)
    apart = (draws.mean(0) - wanted).abs() / (deviation / 4000**0.5 + 1e-2 * wanted.abs() + 1e-4)
    assert float(apart.max()) < 6
    # A weight w that is kept with probability 0.9 and divided by it has variance w² * 0.1 / 0.9.
    alone = layout.first[0]  # the row of one token: its only weight is 1
    spread = deviation[0 if first_only else alone] / v[alone].flatten().float().abs()
    assert torch.allclose(spread, torch.full_like(spread, (0.1 / 0.9) ** 0.5), rtol=0.1)


def make_loop(path: str, data: str, **options: Any) -> dongu.Loop:
    return dongu.Loop(data, **{**OPTIONS, "model": path, **options})


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_hundred_steps_are_those_of_the_plain_engine(
    family: str, tiny_model: Callable[..., str], data_folder: Callable[..., str]
) -> None:
    data = data_folder(train=160)
    steps = {
        engine: list(make_loop(tiny_model(family), data, engine=engine, max_steps=100, epochs=None, lr=5e-5))
        for engine in ("plain", "packed")
    }
    for plain, packed in zip(steps["plain"], steps["packed"], strict=True):
        assert packed.loss == pytest.approx(plain.loss, rel=1e-5)
        assert packed.grad_norm == pytest.approx(plain.grad_norm, rel=1e-4)


REPLAYED_OPTIONS: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "a short last update, accumulated": {"batch_size": 20, "micro_batch_size": 8},
    "clipping and decay": {"max_grad_norm": 0.3, "weight_decay": 0.2, "warmup": 2},
    "decay by layer": {"layer_decay": 0.7},
    "class weights": {"class_weights": "balanced", "label_smoothing": 0.1},
}


@pytest.mark.parametrize("options", REPLAYED_OPTIONS.values(), ids=REPLAYED_OPTIONS.keys())
def test_a_replay_is_what_python_asks_for(
    options: dict[str, Any], tiny_model: Callable[..., str], data_folder: Callable[..., str]
) -> None:
    """With dropout, to the bit: whole updates, forward and backward alone, and nothing replayed."""
    data, found = data_folder(train=48), []
    for way in ("updates", "forward and backward", "nothing"):
        loop = make_loop(tiny_model(dropout=0.1), data, **options)
        assert loop.not_recorded is None
        if way == "nothing":
            loop.accelerator.unwrap_model(loop.engine).graphs = None
        if way != "updates":
            loop.not_replayed = "for comparison"
        losses = [loss for step in loop for loss in (step.loss, step.grad_norm, *step.row_losses)]
        assert (loop.replays is not None) == (way == "updates"), loop.not_replayed
        moments = [tensor for state in loop.optimizer.state_dict()["state"].values() for tensor in state.values()]
        tensors = [*loop.model.parameters(), *moments]
        found.append((losses, torch.cat([tensor.detach().flatten() for tensor in tensors])))
    for losses, numbers in found[1:]:
        assert losses == found[0][0]
        assert torch.equal(numbers, found[0][1])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_recorded_may_change(
    precision: str, tiny_model: Callable[..., str], data_folder: Callable[..., str]
) -> None:
    data, weights = data_folder(train=48), []
    for reason in (None, "for comparison"):
        loop = make_loop(tiny_model(dropout=0.1), data, precision=precision)
        loop.not_replayed = reason
        for step in loop:
            if step.number == 3:
                loop.optimizer.param_groups[0]["weight_decay"] = 0.5
            if step.number == 6:
                loop.optimizer.load_state_dict(loop.optimizer.state_dict())
            if step.number == 9:
                loop.model.bert.embeddings.requires_grad_(False)
            if step.number == 12:
                loop.model.bert.embeddings.requires_grad_(True)
                next(loop.updates()).backward().step()
        assert (loop.replays is None) == (reason is not None), loop.not_replayed
        weights.append(torch.cat([p.detach().flatten() for p in loop.model.parameters()]))
    assert torch.equal(*weights)


def at_twice_the_rate(*tensors: Any, lr: Tensor, **options: Any) -> None:
    adamw(*tensors, lr=2 * lr, **options)


def test_no_run_is_lost_to_a_wrong_recording(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, weights = data_folder(train=48), []
    for is_wrong in (False, True):
        loop = make_loop(tiny_model(dropout=0.1), data)
        if is_wrong:
            monkeypatch.setattr(replays, "adamw", at_twice_the_rate)
            with pytest.warns(UserWarning, match="updates are not replayed from here on: made by replay, what it does"):
                next(iter(loop))
        list(loop)
        assert (loop.replays is None) == is_wrong
        weights.append(torch.cat([p.detach().flatten() for p in loop.model.parameters()]))
    assert torch.equal(*weights)


def test_memory_of_many_shapes_is_bounded(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, weights = data_folder(train=48), []
    for most in (recordings.MOST, 1):
        monkeypatch.setattr(recordings, "MOST", most)
        loop = make_loop(tiny_model(dropout=0.1), data, batch_size=7)
        list(loop)
        assert loop.replays is not None
        weights.append(torch.cat([p.detach().flatten() for p in loop.model.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_step_waits_for_the_gpu(
    precision: str, tiny_model: Callable[..., str], data_folder: Callable[..., str]
) -> None:
    data = data_folder(train=48)
    loop = make_loop(tiny_model(dropout=0.1), data, precision=precision, max_grad_norm=1.0, batch_size=48, epochs=20)
    try:
        for step in loop:
            assert loop.replays is not None
            if step.number == 2:  # all updates have the same shape, which is recorded
                torch.cuda.set_sync_debug_mode("error")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.isfinite([step.loss, step.grad_norm, step.seconds]).all()
    assert step.number == 20


UNWAITED = """\
import torch

def update(loop, update):
    if update.number == 3:  # DDP has built its buckets anew
        torch.cuda.set_sync_debug_mode("error")
    update.backward()
    update.step()
    if update.number == loop.total_steps:
        torch.cuda.set_sync_debug_mode("default")
"""


@pytest.mark.crash
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two CUDA GPUs")
def test_no_step_of_several_gpus_waits(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path
) -> None:
    parts = tmp_path / "unwaited.py"
    parts.write_text(UNWAITED, encoding="utf-8")
    train = ["train", data_folder(train=48), "--model", tiny_model(dropout=0.1), "--epochs", "1", "--parts", str(parts)]
    command = ["torch.distributed.run", "--nproc-per-node", "2", "-m", "dongu", *train, "--out", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False, timeout=HANGS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_updates_are_replayed_where_ddp_has_seen_the_weights(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path
) -> None:
    """It keeps the nodes that add up gradients; they are of the default stream, for which no capture may wait."""
    torch.distributed.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        loop = dongu.Loop(data_folder(train=24), model=tiny_model(), device="cuda", epochs=1)
        loop.engine.graphs.for_updates_only = True
        within = torch.nn.parallel.DistributedDataParallel(loop.engine)
        within.device_ids = None
        batch = loop._on_device(loop.train_updates[0].micro_batches[0])
        loss: Any = loop.loss.of(within, batch)[0]
        loss.backward()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            list(loop)
        assert loop.replays is not None
        assert loop.replays.is_checked
    finally:
        torch.distributed.destroy_process_group()


UNREPLAYED = """\
import warnings

def setup(loop):
    warnings.simplefilter("error")  # where replays are given up
    loop.not_replayed = {reason!r}
"""


@pytest.mark.crash
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two CUDA GPUs")
def test_updates_of_several_gpus_are_replayed(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path
) -> None:
    train, losses = ["train", data_folder(train=41), "--model", tiny_model(), "--micro-batch-size", "3"], []
    for reason in (None, "for comparison"):
        run, parts = tmp_path / str(reason), tmp_path / f"{reason}.py"
        parts.write_text(UNREPLAYED.format(reason=reason), encoding="utf-8")
        command = ["torch.distributed.run", "--nproc-per-node", "2", "-m", "dongu", *train]
        command += ["--parts", str(parts), "--out", str(run)]
        done = subprocess.run(
            [sys.executable, "-m", *command], capture_output=True, text=True, check=False, timeout=HANGS
        )
        assert done.returncode == 0, done.stdout + done.stderr
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses.append([line["loss"] for line in map(json.loads, lines) if line["event"] == "step"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_that_went_on_has_the_bytes_of_one_that_never_stopped(
    precision: str, tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path, monkeypatch: Any
) -> None:
    from dongu.run.journal import Journal

    options = {**OPTIONS, "model": tiny_model(dropout=0.1), "precision": precision, "save_steps": 4}
    data = data_folder(train=48)
    dongu.train(data, out=str(tmp_path / "whole"), **options)
    write = Journal.step

    def cut(self: Journal, step: dongu.Step) -> None:
        write(self, step)
        if step.number == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "step", cut)
        with pytest.raises(KeyboardInterrupt):
            dongu.train(data, out=str(tmp_path / "cut"), **options)
    dongu.resume(tmp_path / "cut")
    for name in ("metrics.jsonl", "results.json", "model/model.safetensors", "dynamics.bin"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    lines = (tmp_path / "whole/timing.jsonl").read_text(encoding="utf-8").splitlines()
    assert [line["step"] for line in map(json.loads, lines) if line["event"] == "step"] == list(range(1, 19))


def test_an_update_that_is_not_finite_is_not_made(
    tiny_model: Callable[..., str], data_folder: Callable[..., str]
) -> None:
    loop = make_loop(tiny_model(), data_folder(train=48))
    steps = iter(loop)
    assert [next(steps).number for _ in range(3)] == [1, 2, 3]
    assert loop.replays is not None
    good = [p.detach().clone() for p in loop.model.parameters()]
    bias = loop.model.classifier.bias
    with torch.no_grad():
        kept = bias.clone()
        bias[0] = float("nan")
    step = next(steps)  # it is asked for, and not waited for
    with torch.no_grad():
        bias.copy_(kept)
    with pytest.raises(NonFiniteError, match="the loss is nan") as caught:
        _ = step.loss
    assert caught.value.where.startswith("step 4, train rows ")
    with pytest.raises(NonFiniteError):
        next(steps)
    assert loop.number == 3
    assert all(torch.equal(p, before) for p, before in zip(loop.model.parameters(), good, strict=True))


@pytest.mark.parametrize("size", [3, 1])
def test_a_split_update_has_the_same_gradient(
    size: int, tiny_model: Callable[..., str], data_folder: Callable[..., str]
) -> None:
    whole, split = (
        list(make_loop(tiny_model(), data_folder(train=48), micro_batch_size=rows, lr=1e-4)) for rows in (8, size)
    )
    for one, other in zip(whole, split, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)


@pytest.mark.usefixtures("_all_memory_afterwards")
def test_memory_that_runs_out_halves_the_micro_batches(
    tiny_model: Callable[..., str], make_rows: Callable[..., Any]
) -> None:
    rows, few = make_rows(4096), make_rows(8)
    options = {**OPTIONS, "model": tiny_model(), "batch_size": 4096, "max_steps": 3, "epochs": None, "lr": 1e-4}
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    wanted = list(dongu.Loop({"train": rows, "validation": few}, **options))
    needed = torch.cuda.max_memory_reserved()
    gc.collect()
    torch.cuda.empty_cache()
    left = torch.cuda.memory_reserved()
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((left + (needed - left) / 2) / whole)
    loop = dongu.Loop({"train": rows, "validation": few}, **options)
    got = list(loop)
    assert loop.train_updates.micro_batch_size < 4096
    for one, other in zip(got, wanted, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_an_evaluation_is_that_of_the_plain_engine(
    family: str, tiny_model: Callable[..., str], data_folder: Callable[..., str]
) -> None:
    data = data_folder(train=48)
    plain, packed = (make_loop(tiny_model(family), data, engine=engine).evaluate() for engine in ("plain", "packed"))
    assert packed.logits == pytest.approx(plain.logits, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"lora": 2}], ids=["fp32", "bf16", "LoRA"])
def test_an_evaluation_by_replay_has_the_same_bits(
    options: dict[str, Any], tiny_model: Callable[..., str], data_folder: Callable[..., str]
) -> None:
    """Launched, then recorded, then replayed; after each some steps, which change the weights."""
    if "lora" in options:
        pytest.importorskip("peft", reason="peft is not installed")
    data, found = data_folder(train=48), list[list[Any]]()
    for replayed in (False, True):
        loop = make_loop(tiny_model(), data, **options)
        engine = loop.accelerator.unwrap_model(loop.engine)
        if not replayed:
            engine.replay_answers = lambda: None
        found.append([])
        for _ in range(4):
            found[-1].append(loop.evaluate().logits.tolist())
            next(iter(loop))
        assert (engine.answers is not None) == replayed
    assert found[0] == found[1]
    assert engine.answers.not_recorded is None
    assert engine.answers._recordings


def test_lora_and_layer_decay(tiny_model: Callable[..., str], data_folder: Callable[..., str]) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    data = data_folder(train=48)
    for more in ({"lora": 2}, {"layer_decay": 0.8}):
        plain, packed = (
            list(make_loop(tiny_model(), data, engine=engine, lr=1e-4, **more)) for engine in ("plain", "packed")
        )
        for one, other in zip(plain, packed, strict=True):
            assert other.loss == pytest.approx(one.loss, rel=1e-5)


def test_verify_finds_nothing_wrong(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dongu.cli.main import run

    dongu.train(data_folder(train=48), out=str(tmp_path / "run"), **{**OPTIONS, "model": tiny_model(dropout=0.1)})
    assert run(["verify", str(tmp_path / "run")]) == 0
    assert "FAIL" not in capsys.readouterr().out
