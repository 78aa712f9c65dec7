"""The benchmark's own arithmetic: when a score is reached for good, and how long a run takes that was made in part."""

from __future__ import annotations

import numpy as np
import pytest

import time_to_quality


@pytest.mark.parametrize(
    ("scores", "seconds"),
    [((0.6, 0.9, 0.7, 0.8), 40.0), ((0.6, 0.8, 0.8, 0.9), 20.0), ((0.9, 0.9, 0.9, 0.79), None), ((0.8,) * 4, 10.0)],
)
def test_reached_for_good(scores: tuple[float, ...], seconds: float | None) -> None:
    curve = np.column_stack([(10.0, 20.0, 30.0, 40.0), scores])
    assert time_to_quality.reached(curve, 0.8) == seconds


def test_a_part_of_a_run_tells_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """5 seconds to the first update, 2 for each other."""
    clock = iter([0.0, 5.0, 5.0, 7.0, 7.0, 9.0, 9.0])
    monkeypatch.setattr("time_to_quality.time.process_time", lambda: next(clock))
    watch = time_to_quality.Watch(lambda _: 0.0, 3, 4, since=next(clock))
    watch.look(None, 1, 101)
    watch.look(None, 2, 101)
    with pytest.raises(time_to_quality.EnoughError):
        watch.look(None, 3, 101)
    assert watch.seconds == 5 + 2 * 100
    assert watch.curve == []


def test_the_seconds_are_those_that_were_taken_side_by_side() -> None:
    """The curves of two seeds, made while the machine was busy, and a part of a run, timed beside the others."""
    curves = [[[30.0, 0.5], [100.0, 0.8]], [[50.0, 0.7], [100.0, 0.9]]]
    cells = [{"seconds": 100.0, "updates": None, "curve": curve} for curve in curves]
    assert time_to_quality.mean_curve(cells) == pytest.approx(np.array([[40, 0.6], [100, 0.85]]))
    cells.append({"seconds": 50.0, "updates": 40, "curve": []})
    assert time_to_quality.seconds_of(cells) == 50
    assert time_to_quality.mean_curve(cells) == pytest.approx(np.array([[20, 0.6], [50, 0.85]]))
