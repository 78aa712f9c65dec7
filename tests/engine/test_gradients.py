"""The norm of a gradient."""

from __future__ import annotations

import math

import pytest
import torch

from dongu.engine.gradients import total_norm


def test_the_norm_of_many_values_is_right() -> None:
    torch.manual_seed(0)
    gradients = [
        torch.randn(30_000, 384),
        torch.randn(384, 384),
        torch.randn(384),
        torch.randn(2, 3, 4),
        torch.randn(()),
    ]
    wanted = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))
    assert float(total_norm(gradients, exactly_as_pytorch=False)) == pytest.approx(wanted, rel=1e-6)
    # The reason for a way of our own; where PyTorch has mended it, ours can go.
    assert float(torch.nn.utils.get_total_norm(gradients)) != pytest.approx(wanted, rel=1e-5)


def test_the_norm_is_the_same_on_any_number_of_threads() -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(3000, 384), torch.randn(1536, 384).t(), torch.randn(70_000)]
    threads = torch.get_num_threads()
    try:
        norms = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            norms.append(float(total_norm(gradients, exactly_as_pytorch=False)))
    finally:
        torch.set_num_threads(threads)
    assert len(set(norms)) == 1


def test_the_plain_engine_has_the_norm_of_the_textbook() -> None:
    gradients = [torch.randn(3000, 384), torch.randn(384)]
    assert total_norm(gradients, exactly_as_pytorch=True) == torch.nn.utils.get_total_norm(gradients)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_shows_in_the_norm(value: float) -> None:
    gradients = [torch.ones(5, 5), torch.full((3,), value)]
    assert not math.isfinite(total_norm(gradients, exactly_as_pytorch=False))
