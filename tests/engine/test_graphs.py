"""What surrounds a CUDA graph, on a CPU: a stand-in computes anew where a graph would be replayed.

The graphs themselves, and that they give the same, are in test_cuda.py, which wants a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dongu.engine.graphs import Graphs, Recording
from dongu.engine.packed import PaddingFree
from encoders import COVERED, RAGGED, load


class Recomputed(Graphs):
    """Each replay computes what the graph would."""

    out_of_memory = 0  # how often from here on
    records = 0

    def _record(self, numbers: Tensor, shape: tuple[int, ...]) -> Recording:
        if self.out_of_memory:
            self.out_of_memory -= 1
            self._discard()
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.records += 1
        given = numbers.clone()
        with torch.random.fork_rng([]):
            if not self.used_parameters:
                self._find_used_parameters(given, shape)
            logits = self._compute(given, shape).detach()
        grad_logits = torch.zeros_like(logits)

        def forward() -> None:
            with torch.enable_grad():  # a graph asks no autograd
                self.last = self._compute(given, shape)
            logits.copy_(self.last.detach())

        def backward() -> None:
            torch._foreach_zero_(self.static_gradients)
            self.backward(self.last, grad_logits)

        graphs: Any = [SimpleNamespace(replay=replay) for replay in (forward, backward)]
        return Recording(given, logits, grad_logits, *graphs)


class Model(nn.Module):
    """Two layers, and one that nothing depends on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head, self.unused = nn.Embedding(9, 4), nn.Linear(4, 2), nn.Linear(4, 4)

    def forward(self, numbers: Tensor, _: tuple[int, ...] = ()) -> Tensor:
        answer: Tensor = self.head(torch.tanh(self.words(numbers)))
        return answer


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[[nn.Module], Recomputed]:
    for name in ("Stream", "graph_pool_handle", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    return lambda model: Recomputed(model, model)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def add_up(
    model: nn.Module, run: Callable[[Tensor, tuple[int, ...]], Tensor], *batches: list[int]
) -> dict[str, Tensor]:
    model.zero_grad()
    for batch in batches:
        run(torch.tensor(batch), (len(batch),)).square().sum().backward()  # type: ignore[no-untyped-call]
    return gradients(model)


@pytest.mark.parametrize("batches", [[[1, 2, 3]], [[1, 2, 3], [4, 5]], [[1, 2], [3, 4], [8, 8]]])
def test_gradients_add_up(make: Callable[[nn.Module], Recomputed], batches: list[list[int]]) -> None:
    model = Model()
    wanted, graphs = add_up(model, model, *batches), make(model)
    for _ in range(2):  # the second time nothing is recorded any more
        got = add_up(model, graphs, *batches)
        assert got.keys() == wanted.keys() == {"words.weight", "head.weight", "head.bias"}
        assert all(torch.allclose(got[name], wanted[name]) for name in wanted)
    assert graphs.records == len({len(batch) for batch in batches})


def test_few_recordings_are_kept(make: Callable[[nn.Module], Recomputed], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were used last."""
    monkeypatch.setattr("dongu.engine.recordings.MOST", 2)
    model = Model()
    graphs = make(model)
    for batch in ([1], [1, 2], [3], [1, 2, 3], [4]):
        got = add_up(model, graphs, batch)
        wanted = add_up(model, model, batch)
        assert all(torch.allclose(got[name], wanted[name]) for name in wanted)
    assert [*graphs._recordings] == [(3,), (1,)]
    assert graphs.records == 3


def test_what_learns_may_change(make: Callable[[nn.Module], Recomputed]) -> None:
    model = Model()
    graphs = make(model)
    add_up(model, graphs, [1, 2])
    model.words.requires_grad_(False)
    assert add_up(model, graphs, [1, 2]).keys() == {"head.weight", "head.bias"}
    model.words.requires_grad_(True)
    model.head.weight.data = model.head.weight.data * 2  # lies elsewhere
    wanted = add_up(model, model, [1, 2])
    got = add_up(model, graphs, [1, 2])
    assert all(torch.allclose(got[name], wanted[name]) for name in wanted)
    assert graphs.records == 3


def test_two_forwards_before_a_backward(make: Callable[[nn.Module], Recomputed]) -> None:
    graphs = make(Model())
    first = graphs(torch.tensor([1, 2]), (2,))
    graphs(torch.tensor([3, 4]), (2,))
    with pytest.raises(RuntimeError, match="another forward"):
        first.sum().backward()  # type: ignore[no-untyped-call]


def test_memory_is_asked_for_twice(make: Callable[[nn.Module], Recomputed]) -> None:
    model = Model()
    wanted, graphs = add_up(model, model, [1, 2, 3]), make(model)
    add_up(model, graphs, [1, 2])
    graphs.out_of_memory = 1
    got = add_up(model, graphs, [1, 2, 3])
    assert all(torch.allclose(got[name], wanted[name]) for name in wanted)
    graphs.out_of_memory = 2
    with pytest.raises(torch.OutOfMemoryError):
        graphs(torch.tensor([1] * 4), (4,))
    assert add_up(model, graphs, [1, 2, 3]).keys() == wanted.keys(), "and smaller ones are recorded anew"


@pytest.mark.parametrize("family", COVERED)
def test_fillers_that_are_rows(family: str, tiny_model: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout that a GPU gets, with a CPU's attention."""
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    model = load(tiny_model(family)).train()
    packed, generator = PaddingFree(model), torch.Generator().manual_seed(1)
    ids = torch.randint(4, 60, (sum(RAGGED),), generator=generator)
    types, lengths = torch.zeros_like(ids), torch.tensor(RAGGED)
    results = []
    for compute in (
        lambda: packed(ids, lengths, types).logits,
        lambda: packed._compute(*packed.as_one_tensor(ids, types, lengths)),
    ):
        model.zero_grad()
        logits = compute()
        (logits * torch.linspace(-1, 2, logits.numel()).view_as(logits)).sum().backward()
        results.append((logits.detach(), gradients(model)))
    (wanted, wanted_gradients), (got, got_gradients) = results
    assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-6)
    whole = float(torch.stack([gradient.norm() for gradient in wanted_gradients.values()]).norm())
    for name, gradient in wanted_gradients.items():
        assert float((got_gradients[name] - gradient).norm()) <= 1e-5 * max(float(gradient.norm()), 1e-3 * whole), name
    numbers, shape, layout = packed.as_one_tensor(ids, types, lengths)
    assert shape[0] % 8 == 0
    assert len(numbers) == 5 * shape[0] + 2 * len(layout.unsort) + 1
    assert int(layout.position_ids[layout.row >= 0].max()) >= max(RAGGED) - 1
