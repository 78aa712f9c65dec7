"""The promises with parts of one's own: a run that was cut off ends in the same bytes, and what cannot hold is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dongu
from dongu.errors import UsageError


@pytest.fixture
def splits(make_rows: Callable[..., list[dict[str, str]]]) -> dict[str, list[dict[str, Any]]]:
    return {name: make_rows(count, seed=count) for name, count in {"train": 22, "validation": 12}.items()}


class Counting(torch.optim.Optimizer):
    """SGD whose state has a count, a mask and sums in double precision."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # noqa: ARG002 - as PyTorch's
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state |= {"updates": torch.zeros((), dtype=torch.int64), "sum": torch.zeros_like(p).double()}
                state["updates"] += 1
                state["sum"] += p.grad
                state["mask"] = state["sum"] > 0
                p.sub_(group["lr"] * p.grad)


class InAttributes(torch.optim.SGD):
    """What it knows lies in attributes, and in keys of its own of `state_dict`."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.1)
        self.updates, self.hidden = 0, 1.0
        self.norms: list[float] = []
        self.weights = [p for group in self.param_groups for p in group["params"]]

    def step(self, closure: Any = None) -> Any:
        self.updates += 1
        self.norms.append(float(self.weights[0].grad.norm()))
        self.__dict__["_hidden"] = self.hidden = self.hidden * 0.5
        self.param_groups[0]["lr"] *= self.hidden / self.updates + self.norms[0] / (1 + self.norms[-1])
        return super().step(closure)

    def state_dict(self) -> Any:
        return {**super().state_dict(), "hidden": self.hidden}

    def load_state_dict(self, state: Any) -> None:
        super().load_state_dict(state)
        self.hidden = state["hidden"]


def with_sgd(loop: Any) -> None:
    loop.optimizer = torch.optim.SGD(loop.model.parameters(), lr=0.1, momentum=0.9)


def frozen(loop: Any) -> None:
    loop.model.bert.requires_grad_(False)


def head_alone(loop: Any) -> None:
    frozen(loop)
    loop.optimizer = torch.optim.AdamW(loop.model.classifier.parameters(), lr=1e-3)


def thaw(loop: Any) -> None:
    loop.model.bert.requires_grad_(True)


def freeze_words(loop: Any) -> None:
    loop.model.bert.embeddings.requires_grad_(False)


def another_decay(loop: Any) -> None:
    loop.optimizer.param_groups[0]["weight_decay"] = 0.5


def without_dropout(loop: Any) -> None:
    loop.model.bert.eval()


def add_group(loop: Any) -> None:
    thaw(loop)
    loop.optimizer.add_param_group({"params": [*loop.model.bert.parameters()], "lr": 1e-4})


# Options, and what is done to the loop between its third update and its fourth.
CHANGED: dict[str, tuple[dict[str, Any], Callable[[Any], None] | None]] = {
    "an optimizer that setup assigns": ({"setup": with_sgd}, None),
    "an optimizer whose state is of other types": ({"optimizer": lambda named: Counting(named.values())}, None),
    "an optimizer that counts in attributes": ({"optimizer": lambda named: InAttributes(named.values())}, None),
    "weights that are thawed on the way": ({"setup": frozen}, thaw),
    "weights that are frozen on the way": ({}, freeze_words),
    "another weight decay on the way": ({}, another_decay),
    "a part in eval mode from there on": ({}, without_dropout),
    "a group of parameters from there on": ({"setup": head_alone}, add_group),
}  # fmt: skip


@pytest.mark.cases(test=3, ci=8)
@pytest.mark.parametrize("case", CHANGED)
def test_a_run_that_is_changed_on_the_way_goes_on_to_the_same_bytes(
    case: str, splits: Any, tiny_model: Callable[..., str], tmp_path: Path
) -> None:
    options, change = CHANGED[case]

    def script(out: Path, stop_at: int = 0) -> None:
        loop = dongu.Loop(splits, model=tiny_model("bert", 0.1), text_columns="text", epochs=2, save_steps=2, **options)
        with loop.run(out) as run:
            for step in run:
                if step.number == 3 and change is not None:
                    change(loop)
                if step.number == stop_at:
                    raise RuntimeError

    script(tmp_path / "whole")
    with pytest.raises(RuntimeError):
        script(tmp_path / "cut", stop_at=5)
    script(tmp_path / "cut")
    for file in ("metrics.jsonl", "results.json", "model/model.safetensors"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    for saved in sorted((tmp_path / "whole" / "checkpoints" / "step-00000006").iterdir()):
        again = tmp_path / "cut" / "checkpoints" / "step-00000006" / saved.name
        assert again.read_bytes() == saved.read_bytes(), saved


class Lost(torch.optim.SGD):
    """Its average lies in an attribute, or in that of another optimizer within it."""

    def __init__(self, parameters: Any, kind: str) -> None:
        super().__init__(parameters, lr=0.1)
        self.average: Any = torch.zeros(()) if kind != "inner" else None
        self.draws = np.random.default_rng(1)
        self.inner = torch.optim.Adam(self.param_groups[0]["params"])
        self.kind = kind

    def step(self, closure: Any = None) -> Any:
        if self.kind == "draws":
            self.draws.random()
        elif self.kind == "inner":
            return self.inner.step()
        elif self.kind == "in place":
            self.average.add_(1)
        else:
            self.average = self.average + 1
        return super().step(closure)


@pytest.mark.parametrize("kind", ["in place", "replaced", "inner", "draws"])
def test_what_an_optimizer_keeps_where_no_checkpoint_looks_is_named_at_once(
    kind: str, splits: Any, tiny_model: Callable[..., str], tmp_path: Path
) -> None:
    """A run that went on had lost it, in silence."""

    def script(out: str, setup: Any = None) -> None:
        told: Any = {"model": tiny_model(), "text_columns": "text", "max_steps": 3}
        optimizer = lambda named: Lost(named.values(), kind)  # noqa: E731
        dongu.train(splits, out=str(tmp_path / out), optimizer=optimizer, setup=setup, quiet=True, **told)

    what = {"inner": "Adam, which", "draws": "Generator, which"}.get(kind, "tensor in `optimizer.attributes.average`")
    with pytest.raises(UsageError, match=what):
        script("run")
    assert not (tmp_path / "run" / "checkpoints").exists() or not [*(tmp_path / "run" / "checkpoints").iterdir()]

    def held(loop: Any) -> None:
        loop.own["inner"] = loop.optimizer.inner

    if kind == "inner":
        script("held", setup=held)
