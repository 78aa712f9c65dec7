"""Updates by replay, on a CPU: a stand-in does anew what a CUDA graph would replay. On a GPU: test_cuda.py."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_arrival import spoil_an_update
from test_graphs import Recomputed
from torch import Tensor
from torch.optim.adamw import adamw

import dongu
from dongu.consistency import why_not_replayed
from dongu.engine import pending, replays
from dongu.engine.arrival import Arrival
from dongu.engine.packed import PaddingFree, inside_ddp
from dongu.engine.pending import Pending
from dongu.engine.replays import Replays, Sample
from dongu.model.optimizer import skip_flag
from dongu.run.derived import _describe_engine
from dongu.update import Update
from drivers import Pool, forked, read_lines

Make = Callable[..., dongu.Loop]


class Redone(Recomputed):
    """What would be replayed is done again."""

    def replayable(self, work: Callable[[], None], numbers: Tensor, shape: tuple[int, ...]) -> Callable[[], None]:
        with torch.random.fork_rng([]):
            if not self.used_parameters:
                self._find_used_parameters(numbers, shape)
        if self.out_of_memory:
            self.out_of_memory -= 1
            self._discard()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.enable_grad()(work)


def compute(self: PaddingFree, numbers: Tensor, shape: tuple[int, ...], _: object = None) -> Tensor:
    """With the lengths, which attention on a CPU is laid out by."""
    rows = shape[1] + shape[2]
    starts, unsort = numbers[5 * shape[0] : -rows], numbers[-rows:]
    known: Any = SimpleNamespace(lengths=tuple(starts.diff().tolist()), filler=int(starts[unsort[-1]]))
    return usual_compute(self, numbers, shape, known)


usual_compute = PaddingFree._compute


def logits_on_gpu(self: PaddingFree, ids: Tensor, lengths: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
    return self._on_gpu(ids, lengths, token_type_ids)


def take_for_a_gpu(replace_by: Callable[[Any, str, Any], None]) -> None:
    for name in ("Stream", "graph_pool_handle", "empty_cache"):
        replace_by(torch.cuda, name, lambda: None)
    replace_by(Tensor, "pin_memory", lambda self: self)
    replace_by(PaddingFree, "logits", logits_on_gpu)
    replace_by(PaddingFree, "_compute", compute)
    replace_by(pending, "skip_on_gpu", skip_flag)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[..., str], data_folder: Callable[..., str]) -> Make:
    """`make(replayed=True, **options)`: a loop that takes this machine for a GPU."""
    take_for_a_gpu(monkeypatch.setattr)
    data = data_folder(train=20)

    def made(replayed: bool = True, **options: Any) -> dongu.Loop:
        usual: dict[str, Any] = {"epochs": 2, "batch_size": 8, "lr": 1e-3, "device": "cpu", "threads": 1}
        loop = dongu.Loop(data, **{**usual, "model": tiny_model(dropout=0.1), **options})
        if loop.config.engine == "packed":
            loop.engine.graphs = Redone(loop.engine._compute, loop.engine.classifier)
        if not replayed:
            loop.not_replayed = "for comparison"
        return loop

    return made


def state_of(loop: dongu.Loop) -> dict[str, Any]:
    """All that a checkpoint would hold."""
    state = loop.optimizer.state_dict()
    tensors = {f"{key} {name}": value for key, part in state["state"].items() for name, value in part.items()}
    return {"groups": state["param_groups"], "number": loop.number, **loop.model.state_dict(), **tensors}


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = torch.equal(value, other[name]) if isinstance(value, Tensor) else value == other[name]
        assert same, name


OPTIONS: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "accumulation": {"micro_batch_size": 3},
    "clipping and decay": {"max_grad_norm": 0.3, "weight_decay": 0.2, "lr_scheduler": "cosine", "warmup": 2},
    "decay by layer": {"layer_decay": 0.7, "micro_batch_size": 5},
    "label smoothing and class weights": {"label_smoothing": 0.1, "class_weights": "balanced"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_the_bits_are_those_of_the_statements(make: Make, options: dict[str, Any]) -> None:
    wanted, got = make(replayed=False, **options), make(**options)
    for usual, replayed in zip(wanted, got, strict=True):
        assert (replayed.loss, replayed.grad_norm) == (usual.loss, usual.grad_norm)
        assert replayed.row_losses.tolist() == usual.row_losses.tolist()
        assert replayed == usual
    assert got.replays is not None
    assert got.replays.is_checked
    assert wanted.replays is None
    assert_same(state_of(got), state_of(wanted))


def test_what_is_recorded_may_change(make: Make) -> None:
    def change(loop: dongu.Loop, number: int) -> None:
        if number == 1:
            loop.optimizer.param_groups[0]["weight_decay"] = 0.5
        if number == 2:
            loop.optimizer.load_state_dict(loop.optimizer.state_dict())  # other tensors of the same numbers
        if number == 3:
            loop.model.bert.embeddings.requires_grad_(False)
        if number == 4:
            loop.model.bert.embeddings.requires_grad_(True)
            loop.model.classifier.weight.data = loop.model.classifier.weight.data * 2
        if number == 5:
            next(loop.updates()).backward().step()  # in statements

    loops = make(replayed=False, epochs=3), make(epochs=3)
    for loop in loops:
        for step in loop:
            change(loop, step.number)
    assert loops[1].number == 9
    assert loops[1].replays is not None
    assert_same(*map(state_of, loops))


def test_a_run_that_goes_on_has_the_same_bits(make: Make) -> None:
    whole, first, second = (make(max_grad_norm=0.3) for _ in range(3))
    list(whole)
    for step in first:
        if step.number == 4:
            break
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.go_to(4)
    list(second)
    assert second.replays is not None
    assert_same(state_of(second), state_of(whole))


def test_an_update_that_is_not_finite_is_not_made(make: Make) -> None:
    loop = make()
    steps = iter(loop)
    for _ in range(3):
        next(steps)
    before: dict[str, Any] = {
        name: value.clone() if isinstance(value, Tensor) else value for name, value in state_of(loop).items()
    }
    spoil_an_update(loop, steps)
    before["groups"][0]["lr"] = loop.optimizer.param_groups[0]["lr"]
    assert loop.number == 3
    assert_same(state_of(loop), before)
    list(loop)
    undisturbed = make()
    list(undisturbed)
    assert_same(state_of(loop), state_of(undisturbed))


def forget_a_gradient(patch: pytest.MonkeyPatch) -> None:
    record = Replays._record

    def wrong(self: Replays, *given: Any) -> Any:
        recording = record(self, *given)

        def replay() -> None:
            recording.replay()
            self._graphs.static_gradients[0].zero_()

        return replace(recording, replay=replay)

    patch.setattr(Replays, "_record", wrong)


def take_another_rate(patch: pytest.MonkeyPatch) -> None:
    right: Any = adamw
    patch.setattr(replays, "adamw", lambda *tensors, lr, **options: right(*tensors, lr=2 * lr, **options))


def keep_old_moments(patch: pytest.MonkeyPatch) -> None:
    right: Any = adamw
    patch.setattr(replays, "adamw", lambda *t, **options: right(*t[:2], [m.clone() for m in t[2]], *t[3:], **options))


def fail_to_record(patch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    patch.setattr(Redone, "replayable", refuse)


def have_no_memory_for_the_step(patch: pytest.MonkeyPatch) -> None:
    def refuse(self: Replays) -> None:
        self._graphs._discard()
        raise torch.OutOfMemoryError("CUDA out of memory")

    patch.setattr(Replays, "_record_step", refuse)


WRONG = {
    forget_a_gradient: "made by replay, its norm and losses differ by .* of their size",
    take_another_rate: "made by replay, what it does to the weights differs by 1 of its size",
    keep_old_moments: "made by replay, its moments differ by 1 of their size",
    fail_to_record: r"it cannot be recorded \(operation not permitted when stream is capturing\)",
    have_no_memory_for_the_step: r"it cannot be recorded \(CUDA out of memory\)",
}


@pytest.mark.parametrize(("break_it", "reason"), WRONG.items())
def test_no_run_is_lost_to_a_wrong_recording(
    make: Make, monkeypatch: pytest.MonkeyPatch, break_it: Callable[[pytest.MonkeyPatch], None], reason: str
) -> None:
    wanted, got = make(replayed=False, max_steps=3, epochs=None), make(max_steps=3, epochs=None)
    list(wanted)
    break_it(monkeypatch)
    with pytest.warns(UserWarning, match=f"updates are not replayed from here on: {reason}"):
        next(iter(got))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(got)
    assert got.replays is None
    assert_same(state_of(got), state_of(wanted))


@pytest.mark.parametrize("times", [1, 2])
def test_memory_that_runs_out(make: Make, times: int) -> None:
    loops = make(replayed=False), make()
    for loop in loops:
        next(iter(loop))
    loops[1].model.bert.embeddings.requires_grad_(False)  # all is recorded anew
    loops[0].model.bert.embeddings.requires_grad_(False)
    loops[1].engine.graphs.out_of_memory = times
    steps = [list(loop) for loop in loops]
    assert loops[1].replays is not None
    assert loops[1].train_updates.micro_batch_size == (8 if times == 1 else 4)
    for usual, replayed in zip(*steps, strict=True):
        assert replayed.loss == pytest.approx(usual.loss, rel=1e-6 if times == 1 else 0.2)  # of other dropout


PLACES = [
    (Redone, "look"),
    (Redone, "replayable"),
    (Replays, "_recording"),
    (Replays, "_add_up"),
    (Replays, "record_step"),
    (Replays, "step"),
    (Sample, "why_not"),
    (Update, "_described"),
    (Arrival, "send"),
    (Pending, "add"),
    (Pending, "settle"),
]


def test_an_interrupted_update_is_made_or_not(
    make: Make, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    whole, cut = make(micro_batch_size=5, epochs=6), make(micro_batch_size=5, epochs=6)
    list(whole)
    former = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's jobs in the background ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, former))
    for owner, name in PLACES:
        usual = getattr(owner, name)

        def interrupted(*given: Any, usual: Any = usual, owner: Any = owner, name: str = name, **more: Any) -> Any:
            monkeypatch.setattr(owner, name, usual)
            answer = usual(*given, **more)
            signal.raise_signal(signal.SIGINT)
            return answer

        if name in ("replayable", "why_not"):
            cut.replays = None  # the next update is recorded and compared again
            cut.engine.graphs._discard()
        monkeypatch.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(iter(cut))
        assert cut.lr_scheduler.last_epoch == cut.number
    list(cut)
    assert_same(state_of(cut), state_of(whole))


def test_where_something_is_your_own_it_is_not_replayed(make: Make) -> None:
    loop = make()
    optimizer, schedule = loop.optimizer, loop.lr_scheduler
    assert why_not_replayed(loop) is None
    for handle, reason in (
        (optimizer.register_step_pre_hook(lambda *_: None), "the optimizer has a hook"),
        (loop.engine.register_forward_hook(lambda *_: None), "the engine has a hook"),
    ):
        next(iter(loop))
        assert (loop.replays, why_not_replayed(loop)) == (None, reason)
        assert _describe_engine(loop).endswith(f"; the optimizer is not replayed: {reason}")
        handle.remove()
    step = optimizer.step
    vars(optimizer)["step"] = lambda: step()
    assert "fused AdamW" in (why_not_replayed(loop) or "")
    vars(optimizer)["step"] = step
    optimizer.param_groups[0]["fused"] = None
    assert "fused AdamW" in (why_not_replayed(loop) or "")
    optimizer.param_groups[0]["fused"] = True
    loop.optimizer = torch.optim.SGD(loop.model.parameters(), lr=0.1)
    assert "fused AdamW" in (why_not_replayed(loop) or "")
    loop.optimizer, loop.lr_scheduler = optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer)
    assert why_not_replayed(loop) == "the schedule is your own"
    loop.lr_scheduler = schedule
    loop.go_to(loop.number)  # at its learning rate
    next(iter(loop))
    assert loop.replays is not None
    assert "replayed" not in _describe_engine(loop)
    own = make(
        update=lambda loop, update: update.backward().step(),
        loss=lambda model, batch: model(**batch.inputs).logits[:, 0],
    )
    assert why_not_replayed(own) == "the update is your own"
    own.given = replace(own.given, update=None)
    assert why_not_replayed(own) == "the loss is your own"


def set_up(loop: dongu.Loop, case: str, counts: Path) -> None:
    """Of one of two processes that take their machine for two GPUs."""
    engine, right = inside_ddp(loop.engine), Replays.step
    engine.graphs = Redone(engine._compute, engine.classifier)
    engine.graphs.for_updates_only = True
    loop.not_replayed = "for comparison" if case == "statements" else None
    is_second = loop.accelerator.process_index == 1

    def step(self: Replays, recorded: Any) -> None:
        with counts.open("a", encoding="utf-8") as file:
            file.write("1" if is_second else "0")
        right(self, recorded)
        if case == "the second is wrong" and is_second:
            loop.model.bert.embeddings.word_embeddings.weight.data += 1
        if case == "something is frozen" and self.is_checked:
            loop.model.bert.embeddings.requires_grad_(False)

    def refuse(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    Replays.step = step  # type: ignore[method-assign]
    if case == "the second cannot record" and is_second:
        engine.graphs.replayable = refuse


PARTS = """\
from pathlib import Path
from test_replays import set_up, take_for_a_gpu

take_for_a_gpu(setattr)

def setup(loop):
    set_up(loop, {case!r}, Path({counts!r}))
"""
# How often each of two processes replays a step; the first is for comparison.
REPLAYED = {"replays": 1 + 12, "the second cannot record": 0, "the second is wrong": 1}


@pytest.mark.crash
def test_two_processes_add_up_their_gradients(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], make_pool: Callable[..., Pool], tmp_path: Path
) -> None:
    """41 rows at 8 an update, in micro-batches of 3: the last one of an epoch has one row, and one process none."""
    train = ["train", data_folder(train=41), "--model", tiny_model(dropout=0.1), "--epochs", "2", "--lr", "1e-3"]
    train += ["--micro-batch-size", "3", "--max-grad-norm", "0.3", "--class-weights", "balanced", "--threads", "1"]
    content: dict[str, Any] = {}
    for case in ("statements", *REPLAYED):
        run, parts, counts = (tmp_path / f"{case}{end}" for end in ("", ".py", ".txt"))
        counts.touch()
        parts.write_text(PARTS.format(case=case, counts=str(counts)), encoding="utf-8")
        forked(make_pool(), *train, "--parts", str(parts), "--out", str(run))
        count = REPLAYED.get(case, 0)
        assert sorted(counts.read_text(encoding="utf-8")) == ["0"] * count + ["1"] * count
        content[case] = [read_lines(run), (run / "model" / "model.safetensors").read_bytes()]
    assert len(content["statements"][0]) == 14
    for case in REPLAYED:
        assert content[case] == content["statements"], case
    parts.write_text(PARTS.format(case="something is frozen", counts=str(counts)), encoding="utf-8")
    for answer in make_pool().ranks([*train, "--parts", str(parts), "--out", str(tmp_path / "frozen")]):
        assert answer["code"] == 2, answer["output"]
    lines = read_lines(tmp_path / "frozen")
    assert [line["step"] for line in lines] == [1]
