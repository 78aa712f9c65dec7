"""A loop in a notebook: what is interrupted, looked at or put in a part's place is honoured or refused, and said."""

from __future__ import annotations

import copy
import gc
import io
import json
import math
import signal
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dongu
from conftest import unwrapped
from dongu.data.tokenized import Split
from dongu.errors import DataError, NonFiniteError, UsageError
from dongu.run.console import Console

UPDATES = 6  # of 24 rows, two epochs
OPTIONS: dict[str, Any] = {
    "epochs": 2, "batch_size": 8, "micro_batch_size": 4, "lr": 1e-2, "seed": 1, "device": "cpu", "threads": 1,
}  # fmt: skip

Make = Callable[..., dongu.Loop]


@pytest.fixture
def make(tiny_model: Callable[..., str], make_rows: Callable[..., list[dict[str, str]]]) -> Make:
    """`make(dropout=0.0, **options)`: a loop over rows in memory."""
    data = {"train": make_rows(24), "validation": make_rows(8, seed=1)}

    def make(dropout: float = 0.0, **options: Any) -> dongu.Loop:
        return dongu.Loop(data, **{**OPTIONS, "model": tiny_model(dropout=dropout), **options})

    return make


def weights(loop: dongu.Loop) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in loop.model.parameters()])


def losses(loop: dongu.Loop) -> list[float]:
    return [step.loss for step in loop]


def raise_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def send_interrupt(*_: object) -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture
def _ctrl_c() -> Iterator[None]:
    """It interrupts, also where the tests run in the background."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


def in_forward(loop: dongu.Loop, stop: Callable[..., None], call: int) -> None:
    """In the second half of an update: its first half has left its gradients."""
    seen: list[int] = []

    def forward(*_: object) -> None:
        seen.append(1)
        if len(seen) == call:
            stop()

    loop.engine.register_forward_pre_hook(forward)


def in_step(loop: dongu.Loop, stop: Callable[..., None], number: int) -> None:
    """As the optimizer's step returns."""

    def stepped(*_: object) -> None:
        if loop.number == number - 1:
            stop()

    loop.optimizer.register_step_post_hook(stepped)


def in_schedule(loop: dongu.Loop, stop: Callable[..., None], number: int) -> None:
    step, stopped = loop.lr_scheduler.step, set[int]()

    def stepped() -> None:
        if loop.number == number - 1 and not stopped:
            stopped.add(1)
            stop()
        step()

    loop.lr_scheduler.step = stepped


def in_zero(loop: dongu.Loop, stop: Callable[..., None], number: int) -> None:
    """After the update, and before the next."""
    zero, stopped = loop.optimizer.zero_grad, set[int]()

    def zeroed(set_to_none: bool = True) -> None:
        if loop.number == number and not stopped:
            stopped.add(1)
            stop()
        zero(set_to_none)

    loop.optimizer.zero_grad = zeroed  # type: ignore[method-assign]


@pytest.mark.cases(test=3, ci=8)
@pytest.mark.usefixtures("_ctrl_c")
@pytest.mark.found("notebook-interrupt")
@pytest.mark.parametrize("stop", [raise_interrupt, send_interrupt])
@pytest.mark.parametrize(("place", "when"), [(in_forward, 6), (in_step, 3), (in_schedule, 3), (in_zero, 3)])
def test_an_interrupted_loop_goes_on_to_the_same_bytes(
    place: Callable[..., None], when: int, stop: Callable[..., None], make: Make
) -> None:
    whole, cut = make(dropout=0.1), make(dropout=0.1)
    rates = {step.number: step.learning_rate for step in whole}
    made: list[int] = []
    cut.optimizer.register_step_post_hook(lambda *_: made.append(cut.number))
    place(cut, stop, when)
    seen = []
    with pytest.raises(KeyboardInterrupt):
        seen += list(cut)
    assert cut.number in (2, 3)
    seen += list(cut)
    assert made == list(range(UPDATES)), "each update once"
    assert cut.number == UPDATES == cut.lr_scheduler.last_epoch
    assert {step.number: step.learning_rate for step in seen}.items() <= rates.items()
    assert torch.equal(weights(cut), weights(whole))


def frozen(loop: dongu.Loop) -> None:
    """The usual recipe: the encoder frozen, and its dropout off."""
    loop.model.bert.requires_grad_(False)
    loop.model.bert.eval()


@pytest.mark.found("notebook-look")
@pytest.mark.parametrize("engine", ["packed", "plain"])
def test_each_module_keeps_its_mode(engine: str, make: Make) -> None:
    fresh = make(dropout=0.3, engine=engine)
    assert fresh.model.training
    alone = make(dropout=0.3, engine=engine)
    frozen(alone)
    wanted = losses(alone)
    assert wanted != losses(fresh), "dropout is off in the encoder"

    looked = make(dropout=0.3, engine=engine)
    frozen(looked)
    got = []
    for step in looked:
        got.append(step.loss)
        looked.evaluate()
        assert looked.model.training
        assert not any(module.training for module in looked.model.bert.modules())
        if step.number % 2:
            looked.model.eval()  # a look of one's own
    assert got == wanted


@pytest.mark.found("notebook-not-finite")
def test_an_update_that_is_not_finite_leaves_nothing(make: Make) -> None:
    loop, wanted = make(), make()
    bias, steps = loop.model.classifier.bias, iter(loop)
    next(steps)
    kept, bias.data[0] = bias.data.clone(), math.nan
    with pytest.raises(NonFiniteError):
        next(steps)
    assert all(parameter.grad is None for parameter in loop.model.parameters())
    bias.data.copy_(kept)
    assert [step.number for step in loop] == list(range(2, UPDATES + 1))
    list(wanted)
    assert torch.equal(weights(loop), weights(wanted))


def layer_of(loop: dongu.Loop) -> nn.Module:
    layer: nn.Module = loop.model.bert.encoder.layer[0]
    return layer


def replace_forward(loop: dongu.Loop, called: Callable[..., None]) -> None:
    forward = loop.model.forward

    def mine(*arguments: Any, **inputs: Any) -> Any:
        called()
        return forward(*arguments, **inputs)

    loop.model.forward = mine


WATCHED: dict[str, Callable[[dongu.Loop, Callable[..., None]], Any]] = {
    "forward hook": lambda loop, called: layer_of(loop).register_forward_hook(called),
    "forward hook of the model": lambda loop, called: loop.model.register_forward_hook(called),
    "forward pre-hook": lambda loop, called: layer_of(loop).register_forward_pre_hook(called),
    "full backward hook": lambda loop, called: layer_of(loop).register_full_backward_hook(called),
    "full backward pre-hook": lambda loop, called: layer_of(loop).register_full_backward_pre_hook(called),
    "replaced forward": replace_forward,
}


@pytest.mark.found("hooks-and-forwards")
@pytest.mark.parametrize(
    ("kind", "between"), [*((kind, False) for kind in WATCHED), *((kind, True) for kind in WATCHED if "hook" in kind)]
)
def test_nobody_who_watches_is_passed_by(kind: str, between: bool, make: Make) -> None:
    loop, calls = make(), []
    steps = iter(loop)
    if between:
        next(steps)
    WATCHED[kind](loop, lambda *_: calls.append(1))
    with pytest.warns(UserWarning, match="the plain engine computes from here on: .*hook"):
        next(steps)
    assert len(calls) == 2, "once a micro-batch"
    list(steps)
    assert len(calls) == 2 * (UPDATES - between)
    assert loop.config.engine == "plain"


@pytest.mark.found("hooks-and-forwards")
def test_gradient_checkpointing_after_the_loop_was_made(make: Make) -> None:
    loop = make()
    with warnings.catch_warnings():  # one of its names will go
        warnings.simplefilter("ignore")
        loop.model.gradient_checkpointing_enable()
    with pytest.warns(UserWarning, match="gradient checkpointing"):
        got = losses(loop)
    assert got == pytest.approx(losses(make(engine="plain")), rel=1e-3)


class Wrapped(nn.Module):
    """As `torch.compile` wraps a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod, self.calls = model, 0

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "_orig_mod" else getattr(self._orig_mod, name)

    def forward(self, *arguments: Any, **inputs: Any) -> Any:
        self.calls += 1
        return self._orig_mod(*arguments, **inputs)


def own_optimizer(loop: dongu.Loop, **options: Any) -> None:
    loop.optimizer = torch.optim.SGD(loop.model.parameters(), **{"lr": 0.1, **options})


def in_the_middle(change: Callable[[dongu.Loop], Any], loop: dongu.Loop, after: int) -> list[dongu.Step]:
    steps = []
    if after == 0:
        change(loop)
    for step in loop:
        steps.append(step)
        if step.number == after:
            change(loop)
    return steps


@pytest.mark.found("replaced-parts")
@pytest.mark.found("log-is-what-was-done")
@pytest.mark.parametrize("after", [0, 2])
def test_another_optimizer(after: int, make: Make) -> None:
    """The schedule drives it, and what is reported is what it used."""
    loop = make()
    used: list[float] = []

    def change(loop: dongu.Loop) -> None:
        own_optimizer(loop)
        loop.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps = in_the_middle(change, loop, after)
    assert used == [step.learning_rate for step in steps[after:]]
    assert used == pytest.approx([0.1 * (1 - number / UPDATES) for number in range(after, UPDATES)])
    loop.go_to(1)
    assert loop.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 5 / 6)


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "one cycle": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=UPDATES),
    "steps": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5),
    "lambda": lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "two": lambda optimizer: torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [torch.optim.lr_scheduler.ConstantLR(optimizer), torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)],
        [3],
    ),
}


@pytest.mark.found("replaced-parts")
@pytest.mark.parametrize("kind", SCHEDULES)
def test_another_schedule(kind: str, make: Make) -> None:
    """It can be gone back in as the loop's own."""
    loop = make()
    loop.lr_scheduler = SCHEDULES[kind](loop.optimizer)
    rates = [step.learning_rate for step in loop]
    assert len(set(rates)) > 1
    if kind == "lambda":
        assert rates == pytest.approx([0.01 / (1 + number) for number in range(UPDATES)])
    loop.go_to(2)
    assert [step.learning_rate for step in loop] == rates[2:]


@pytest.mark.found("replaced-parts")
def test_another_model(make: Make) -> None:
    loop = make()
    before = loop.evaluate()["loss"]
    other = make(seed=3).model
    loop.model = other
    assert loop.evaluate()["loss"] != before, "it is what is evaluated"
    with pytest.raises(UsageError, match="optimizer does not have"):
        next(iter(loop))
    loop.optimizer = torch.optim.AdamW(loop.model.parameters(), lr=1e-2)
    was = weights(loop)
    assert len(losses(loop)) == UPDATES
    assert not torch.equal(weights(loop), was)
    assert loop.config.engine == "packed"

    loop = make()
    loop.model = wrapped = Wrapped(loop.model)
    with pytest.warns(UserWarning, match="it is a Wrapped"):
        assert len(losses(loop)) == UPDATES
    assert wrapped.calls > 2 * UPDATES


@pytest.mark.found("replaced-parts")
@pytest.mark.parametrize("engine", ["packed", "plain"])
@pytest.mark.parametrize("after", [0, 2])
def test_another_head(engine: str, after: int, make: Make) -> None:
    def change(loop: dongu.Loop) -> None:
        torch.manual_seed(0)
        loop.model.classifier = nn.Linear(16, 2)

    loop = make(engine=engine)
    with pytest.raises(UsageError, match=r"does not have `classifier\.weight` and 1 more"):
        in_the_middle(change, loop, after)
    assert loop.number == after
    loop.optimizer.add_param_group({"params": loop.model.classifier.parameters()})
    was = loop.model.classifier.weight.detach().clone()
    rates = [step.learning_rate for step in loop]
    assert rates == pytest.approx([0.01 * (1 - number / UPDATES) for number in range(after, UPDATES)])
    assert not torch.equal(loop.model.classifier.weight, was)
    assert {group["lr"] for group in loop.optimizer.param_groups} == {0.0}, "the schedule drives both groups"


@pytest.mark.found("replaced-parts")
def test_another_layer_is_what_computes(make: Make) -> None:
    loop, plain = make(), make(engine="plain")
    for each in (loop, plain):
        torch.manual_seed(3)
        each.model.bert.encoder.layer[0] = type(layer_of(each))(each.model.config)
        own_optimizer(each)
    assert losses(loop) == pytest.approx(losses(plain), rel=1e-4)
    assert (loop.config.engine, plain.config.engine) == ("packed", "plain")


@pytest.mark.found("log-is-what-was-done")
def test_the_rate_is_what_was_used(make: Make) -> None:
    def change(loop: dongu.Loop) -> None:
        loop.optimizer.param_groups[0]["lr"] = 1e-4

    with pytest.warns(UserWarning, match="is used for one update only"):
        rates = [step.learning_rate for step in in_the_middle(change, make(), 2)]
    assert rates == pytest.approx([0.01, 0.01 * 5 / 6, 1e-4, 0.005, 0.01 * 2 / 6, 0.01 / 6])


def trained_rows(loop: dongu.Loop, seen: list[list[int]]) -> None:
    """Note the rows of each update that is computed."""
    compute = loop.gradients

    def gradients(update: Any, **more: Any) -> Tensor:
        seen.append(np.concatenate([micro_batch.rows for micro_batch in update.micro_batches]).tolist())
        return compute(update, **more)

    noted: Any = gradients
    loop.gradients = noted  # type: ignore[method-assign]


def hard_rows(loop: dongu.Loop) -> None:
    loop.train_updates.order = lambda epoch: np.arange(24)[::-1] + 0 * epoch  # type: ignore[method-assign]


@pytest.mark.found("log-is-what-was-done")
@pytest.mark.parametrize("workers", [0, 1])
def test_the_rows_are_those_that_were_used(workers: int, make: Make) -> None:
    trained: list[list[int]] = []
    loop = make(workers=workers)
    trained_rows(loop, trained)
    steps = in_the_middle(hard_rows, loop, 2)
    assert [step.ids.tolist() for step in steps] == trained
    assert trained[2:5] == [list(range(7, -1, -1)), list(range(23, 15, -1)), list(range(15, 7, -1))]


@pytest.mark.found("log-is-what-was-done")
def test_a_worker_with_an_order_of_its_own(make: Make) -> None:
    loop, order = make(workers=1), np.arange(24)
    loop.train_updates.order = lambda epoch: np.roll(order, epoch)  # type: ignore[method-assign]
    steps = iter(loop)
    for _ in range(2):
        next(steps)
    order[:] = order[::-1].copy()  # not seen by the worker; and from the next epoch on, here
    with pytest.raises(UsageError, match="came with other rows than"):
        list(steps)


@pytest.mark.cases(test=1, ci=2)
@pytest.mark.found("log-is-what-was-done")
@pytest.mark.parametrize("workers", [0, 1])
def test_two_iterators_and_a_jump(workers: int, make: Make) -> None:
    wanted = make(dropout=0.1)
    list(wanted)
    trained: list[list[int]] = []
    loop = make(dropout=0.1, workers=workers)
    trained_rows(loop, trained)
    one, other = iter(loop), iter(loop)
    steps = [next(one), next(other), next(other), next(one), *other]
    assert [step.number for step in steps] == list(range(1, UPDATES + 1))
    assert [step.ids.tolist() for step in steps] == trained
    assert torch.equal(weights(loop), weights(wanted))
    assert list(one) == []

    loop, jumped = make(), []
    for step in loop:
        jumped.append((step.number, step.ids.tolist()))
        if len(jumped) == 3:
            loop.go_to(1)
    rows = [wanted.train_updates.rows(index).tolist() for index in (0, 1, 2, 1, 2, 3, 4, 5)]
    assert jumped == list(zip((1, 2, 3, 2, 3, 4, 5, 6), rows, strict=True))


class Padded:
    """An own collator, which pads."""

    def __init__(self, loop: dongu.Loop) -> None:
        self._pad, self.calls = make_padding(loop), 0

    def __call__(self, split: Split, rows: np.ndarray) -> dict[str, Tensor]:
        self.calls += 1
        padded: dict[str, Tensor] = self._pad(split, rows)
        return padded


def make_padding(loop: dongu.Loop) -> Any:
    from dataclasses import replace

    return replace(loop.collate, flat=False)


@pytest.mark.found("half-taken")
def test_a_collator_is_for_training_and_evaluation(make: Make) -> None:
    loop = make()
    loop.collate = mine = Padded(loop)
    with pytest.warns(UserWarning, match="loop.collate is your own, and pads"):
        list(loop)
    assert mine.calls >= 2 * UPDATES
    calls = mine.calls
    loop.evaluate()
    assert mine.calls > calls
    assert loop.train_updates.collate is mine

    flat = make()
    inner = flat.collate
    flat.train_updates.collate = lambda split, rows: inner(split, rows)
    assert losses(flat) == losses(make()), "one that lays rows flat stays with the engine for them"
    flat.number = 0
    layer_of(flat).register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match="the plain"), pytest.raises(UsageError, match="rows come without padding"):
        next(iter(flat))


@pytest.mark.found("half-taken")
def test_more_steps_than_were_planned(make: Make) -> None:
    loop = make()
    list(loop)
    loop.total_steps += 6
    was, rates = weights(loop), [step.learning_rate for step in loop]
    assert rates == pytest.approx([0.01 * (1 - number / 12) for number in range(6, 12)])
    assert not torch.equal(weights(loop), was)


def other_rows(loop: dongu.Loop) -> None:
    loop.splits["train"] = loop.splits["validation"]


REFUSED: dict[str, tuple[Callable[[dongu.Loop], Any], str]] = {
    "rows": (other_rows, r"loop.splits\['train'\] is not what"),
    "a smaller batch": (lambda loop: setattr(loop.train_updates, "batch_size", 4), "is 4, and 3 updates an epoch"),
    "a larger batch": (lambda loop: setattr(loop.train_updates, "batch_size", 16), "batch_size is 16"),
    "row weights": (lambda loop: setattr(loop.train_updates, "row_weights", np.ones(24)), "row_weights only says"),
    "a schedule of another optimizer": (
        lambda loop: setattr(loop, "lr_scheduler", SCHEDULES["steps"](torch.optim.SGD([torch.ones(1)], lr=1.0))),
        "it drives another optimizer",
    ),
    "a schedule that wants a metric": (
        lambda loop: setattr(
            loop, "lr_scheduler", torch.optim.lr_scheduler.ReduceLROnPlateau(loop.optimizer)
        ),
        "ReduceLROnPlateau is not a schedule that is stepped after each update",
    ),
    "part of an optimizer": (
        lambda loop: setattr(loop, "optimizer", torch.optim.SGD(loop.model.classifier.parameters(), lr=1.0)),
        "loop.optimizer does not have `bert",
    ),
    "a model of other labels": (lambda loop: setattr(loop, "model", nn.Linear(2, 2)), "not a classifier of 2 labels"),
    "another option": (
        lambda loop: setattr(loop, "config", loop.config.model_copy(update={"learning_rate": 1.0, "max_steps": 9})),
        r"loop.config: was replaced \(max_steps, learning_rate\)",
    ),
    "no options": (lambda loop: setattr(loop, "config", {}), r"loop.config: was replaced \(data, model, tokenizer"),
    "another tokenizer": (
        lambda loop: setattr(loop, "tokenizer", copy.deepcopy(loop.tokenizer)), "loop.tokenizer: was replaced"
    ),
    "other data": (lambda loop: setattr(loop, "data", copy.copy(loop.data)), "loop.data: was replaced"),
    "another's engine": (lambda loop: setattr(loop, "engine", nn.Linear(2, 2)), "does not compute loop.model"),
}  # fmt: skip


@pytest.mark.found("half-taken")
@pytest.mark.found("replaced-parts")
@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(what: str, after: int, make: Make) -> None:
    change, message = REFUSED[what]
    loop = make()
    with pytest.raises(UsageError, match=message) as caught:
        in_the_middle(change, loop, after)
    assert loop.number == after
    assert len(str(caught.value).splitlines()) == 2
    if what in ("another option", "no options", "another tokenizer", "other data"):
        with pytest.raises(UsageError, match=message):
            loop.evaluate()


def test_an_option_that_setup_assigns_is_refused_and_data_workers_may_change(make: Make) -> None:
    def setup(loop: dongu.Loop) -> None:
        loop.config = loop.config.model_copy(update={"epochs": 9.0})

    with pytest.raises(UsageError, match=r"loop.config: was replaced \(epochs"):
        list(make(setup=setup))
    loop = make()
    loop.config = loop.config.model_copy(update={"workers": 1})
    list(loop)


@pytest.mark.found("replaced-parts")
def test_a_schedule_cannot_go_back_to_before_it_was_given(make: Make) -> None:
    loop = make()

    def change(loop: dongu.Loop) -> None:
        loop.lr_scheduler = SCHEDULES["one cycle"](loop.optimizer)

    in_the_middle(change, loop, 2)
    with pytest.raises(UsageError, match="was given after update 2, and cannot go back to 1"):
        loop.go_to(1)


@pytest.mark.found("third-split")
def test_every_split_that_is_given_is_there(
    tiny_model: Callable[..., str], make_rows: Callable[..., list[dict[str, str]]], tmp_path: Path
) -> None:
    model, rows = tiny_model(), {name: make_rows(8, seed=seed) for seed, name in enumerate(("train", "dev", "hard"))}
    loop = dongu.Loop({**rows, "by-domain_2": make_rows(6, seed=4)}, **{**OPTIONS, "model": model})
    assert {name: len(split) for name, split in loop.splits.items()} == {
        "train": 8, "validation": 8, "hard": 8, "by-domain_2": 6,
    }  # fmt: skip
    assert len(loop.evaluate("hard").logits) == 8
    assert loop.evaluate("hard")["loss"] != loop.evaluate()["loss"]
    for name in ("hard:validation", "a/b", "steps", "Dev", ""):
        with pytest.raises(DataError, match=f"a split cannot be called '{name}'|are both the validation split"):
            dongu.Loop({**rows, name: rows["hard"]}, **{**OPTIONS, "model": model})
    with pytest.raises(DataError, match="data hard"):
        dongu.Loop({**rows, "hard": [{"text": "no label"}]}, **{**OPTIONS, "model": model})

    folder = tmp_path / "data"
    folder.mkdir()
    for name, split in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in split), encoding="utf-8")
    (folder / "sample_submission.csv").write_text("id,label\n1,class0\n", encoding="utf-8")
    (folder / "broken.jsonl").write_text("{", encoding="utf-8")
    shown = io.StringIO()
    options = {**OPTIONS, "model": model, "out": str(tmp_path / "run")}
    result = dongu.train(str(folder), **options, console=Console(stream=shown))
    assert "train 8 · validation 8 · hard 8 rows; not used: broken.jsonl, sample_submission.csv" in unwrapped(
        shown.getvalue()
    )
    assert result.results["hard"].keys() == result.results["validation"].keys()
    assert len((result.path / "predictions/hard.jsonl").read_text(encoding="utf-8").splitlines()) == 8


def test_an_ordinary_run_is_looked_at_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    look = dongu.Loop._look

    def counted(loop: dongu.Loop) -> None:
        looks.append(loop.number)
        look(loop)

    monkeypatch.setattr(dongu.Loop, "_look", counted)
    for step in make():
        assert step.number <= UPDATES
    assert looks == [0]


def test_a_loop_makes_room_for_the_next(tiny_model: Callable[..., str]) -> None:
    rows = [{"text": f"word{i} film", "label": i % 2} for i in range(8)]
    options: dict[str, Any] = {"model": tiny_model(), "device": "cpu", "max_steps": 1}
    gc.disable()  # which would come to it at some time, perhaps after the device is full
    try:
        loop = dongu.Loop({"train": rows, "validation": rows}, **options)
        for _ in loop:
            pass
        former = weakref.ref(loop.model)
        del loop
        second = dongu.Loop({"train": rows, "validation": rows}, **options)
        assert second.model is not None
        assert former() is None
    finally:
        gc.enable()


def test_loops_of_one_process_leave_each_other_alone(
    tiny_model: Callable[..., str], make_rows: Callable[..., list[dict[str, str]]], tmp_path: Path
) -> None:
    """Whatever is made beside a loop, also in another thread: device, precision, threads and dropout are its own."""
    data = {"train": make_rows(40), "validation": make_rows(12, seed=1)}
    options: dict[str, Any] = {"model": tiny_model(dropout=0.2), "max_steps": 12, "lr": 1e-3, "threads": 1}

    def losses(seed: int) -> list[float]:
        return [step.loss for step in dongu.Loop(data, **options, seed=seed)]

    alone = {seed: losses(seed) for seed in (1, 2, 3)}
    run = dongu.train(data, **options, out=str(tmp_path / "run"), quiet=True)
    loop, state = dongu.Loop(data, **options, seed=1), []
    state.append(vars(loop.accelerator.state).copy())
    dongu.Loop(data, **{**options, "threads": 2}, precision="bf16")
    assert torch.get_num_threads() == 2
    assert loop.accelerator.mixed_precision == "no"
    assert vars(loop.accelerator.state) == state[0]
    assert [step.loss for step in loop] == alone[1]
    assert torch.get_num_threads() == 1

    found: dict[int, list[float]] = {}
    threads = [threading.Thread(target=lambda seed=seed: found.update({seed: losses(seed)})) for seed in alone]
    for thread in threads:
        thread.start()
    answers = [dongu.load(run.path).predict("word1 film") for _ in range(3)]  # an app asks while it trains
    for thread in threads:
        thread.join()
    assert found == alone
    assert answers == answers[:1] * 3
