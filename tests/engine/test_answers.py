"""Evaluations by replay, on a CPU: a stand-in does anew what a CUDA graph would replay. On a GPU: test_cuda.py."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_replays import Make, make
from torch import Tensor

import dongu
from dongu.engine.answers import Answers

__all__ = ["make"]


class Redone(Answers):
    """What would be replayed is done again, into the same memory."""

    fails_with: Exception | None = None
    records = replays = 0

    def replayable(self, work: Callable[[], Any], numbers: Tensor, shape: tuple[int, ...]) -> Callable[[], None]:
        if self.fails_with is not None:
            raise self.fails_with
        self.records += 1
        with torch.no_grad():
            logits = self.forward(numbers, shape)

        def replay() -> None:
            self.replays += 1
            logits.copy_(self.forward(numbers, shape))

        given, self.forward = self.forward, lambda *_: logits  # type: ignore[method-assign]  # what `work` is to keep
        work()
        self.forward = given  # type: ignore[method-assign]
        logits.fill_(torch.nan)  # not one kernel of it has run yet
        return replay


@pytest.fixture
def answers(make: Make) -> Callable[..., tuple[dongu.Loop, Redone]]:
    def made(**options: Any) -> tuple[dongu.Loop, Redone]:
        loop = make(**options)
        engine = loop.engine
        engine.answers = Redone(engine._compute, engine.classifier)
        return loop, engine.answers

    return made


@pytest.mark.parametrize("options", [{}, {"lora": 2}, {"precision": "bf16"}], ids=["usual", "LoRA", "bf16"])
def test_the_bits_are_those_that_python_launches(
    make: Make, answers: Callable[..., tuple[dongu.Loop, Redone]], options: dict[str, Any]
) -> None:
    """At each evaluation of a training: launched, recorded and replayed, replayed."""
    if "lora" in options:
        pytest.importorskip("peft", reason="peft is not installed")
    usual, (loop, answering) = make(**options), answers(**options)
    counts = []
    for _ in range(3):
        wanted, got = usual.evaluate(), loop.evaluate()
        assert got.logits.tolist() == wanted.logits.tolist()
        counts.append((answering.records, answering.replays))
        next(iter(usual)), next(iter(loop))
    assert counts[0] == (0, 0)
    shapes = counts[1][0]
    assert shapes > 0
    assert counts == [(0, 0), (shapes, shapes), (shapes, 2 * shapes)]


def test_what_cannot_be_recorded_is_launched(answers: Callable[..., tuple[dongu.Loop, Redone]]) -> None:
    loop, answering = answers()
    wanted = loop.evaluate().logits.tolist()
    answering.fails_with = RuntimeError("operation not permitted when stream is capturing\nmore")
    assert loop.evaluate().logits.tolist() == wanted
    assert answering.not_recorded == "operation not permitted when stream is capturing"
    answering.fails_with = None
    assert loop.evaluate().logits.tolist() == wanted
    assert answering.records == 0


def test_another_model_is_recorded_anew(answers: Callable[..., tuple[dongu.Loop, Redone]]) -> None:
    """Weights that lie elsewhere: a recording would read where they were."""
    loop, answering = answers()
    for _ in range(2):
        loop.evaluate()
    records = answering.records
    weight = loop.model.classifier.weight
    weight.data = weight.data * 2
    seen = [loop.evaluate().logits.tolist() for _ in range(3)]
    assert seen[0] == seen[1] == seen[2]
    assert answering.records == 2 * records


def test_threads_answer_one_after_the_other(answers: Callable[..., tuple[dongu.Loop, Redone]]) -> None:
    """All replays of a shape write into the same memory."""
    loop, answering = answers()
    engine, rows = loop.engine.eval(), [torch.tensor([2, first, 9, 3]) for first in range(5, 25)]
    lengths = torch.tensor([4])
    with torch.no_grad():
        engine.answers = None
        wanted = [engine.logits(row, lengths) for row in rows]
        engine.answers = answering
        _ = [engine.logits(rows[0], lengths) for _ in range(2)]
    got: list[Tensor | None] = [None] * len(rows)

    def ask(row: int) -> None:
        with torch.no_grad():
            got[row] = engine.logits(rows[row], lengths)

    threads = [threading.Thread(target=ask, args=(row,)) for row in range(len(rows))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answering.replays == 1 + len(rows)
    for one, other in zip(got, wanted, strict=True):
        assert one is not None
        assert torch.equal(one, other)
