"""The same examples give the same update, however they are split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from conftest import DECODERS, EXHAUSTIVE, FAMILIES
from encoders import run_updates

# 45 rows at 32 an update: the second update of the epoch is short, and its last micro-batch ragged in every split.
SPLITS = (7, 2)


@pytest.mark.cases(test=5, ci=10)
@pytest.mark.parametrize("family", [*FAMILIES, *DECODERS])
def test_any_split_gives_the_same_update(
    family: str, tiny_model: Callable[..., str], data_folder: Callable[..., str]
) -> None:
    """Adam hides the scale of a gradient, so the first one is compared itself, before the update."""
    data = data_folder(train=45, pair=True)
    whole, [gradient, _] = run_updates(data, tiny_model(family), None)
    for size in SPLITS if EXHAUSTIVE or family in ("bert", "gpt2", "llama") else SPLITS[:1]:
        numbers, [first, _] = run_updates(data, tiny_model(family), size)
        assert numbers == pytest.approx(whole, rel=1e-6), f"micro-batches of {size}"
        assert (first - gradient).norm() <= 1e-6 * gradient.norm(), f"micro-batches of {size}"


def test_clipping_sees_the_whole_gradient(tiny_model: Callable[..., str], data_folder: Callable[..., str]) -> None:
    data = data_folder(train=45)
    _, [whole, _] = run_updates(data, tiny_model(), None, max_grad_norm=0.1)
    assert float(whole.norm()) == pytest.approx(0.1, rel=1e-5)
    for size in SPLITS:
        _, [split, _] = run_updates(data, tiny_model(), size, max_grad_norm=0.1)
        assert (split - whole).norm() <= 1e-6 * whole.norm()


def test_regression(tiny_model: Callable[..., str]) -> None:
    rows = [{"text": f"word{i % 9} good", "score": f"{i / 7:.3f}"} for i in range(45)]
    data: Any = {"train": rows, "validation": rows[:9]}
    whole, _ = run_updates(data, tiny_model(), None)
    for size in SPLITS:
        assert run_updates(data, tiny_model(), size)[0] == pytest.approx(whole, rel=1e-6)
