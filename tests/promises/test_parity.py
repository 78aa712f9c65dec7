"""The same result as the plain loop and as Trainer, step for step, on real MRPC."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import REAL_DATA, real_data

STEPS = 120


@pytest.mark.crash
@real_data
def test_losses_and_weights_agree_for_120_updates(tiny_model: Callable[..., str], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Trainer's own
        import parity

        parity.prepare_model(tiny_model("bert"), tmp_path)
        plain = parity.trace_plain(REAL_DATA, tmp_path, STEPS)
        ours = parity.trace_dongu(REAL_DATA, tmp_path, STEPS)
        packed = parity.trace_dongu(REAL_DATA, tmp_path, STEPS, engine="packed")
        trainer = parity.trace_trainer(REAL_DATA, tmp_path, STEPS)
    assert len(plain.losses) == len(ours.losses) == len(trainer.losses) == STEPS
    assert np.ptp(plain.losses) > 0.1, "a loss that does not move proves nothing"
    assert np.array_equal(ours.losses, plain.losses)
    assert np.array_equal(ours.weights, plain.weights)
    assert packed.losses == pytest.approx(plain.losses, rel=1e-6)
    assert trainer.losses == pytest.approx(plain.losses, rel=1e-6)
