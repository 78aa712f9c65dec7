"""What a run can spare: its statistics, its page, its trackers. Where one of them fails, the run goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def tried(act: Callable[[], _T]) -> tuple[_T | None, str]:
    """What `act` gives and an empty reason, or None and in a line why it failed."""
    try:
        return act(), ""
    except Exception as error:  # noqa: BLE001 - whatever it is, the run is worth more
        return None, f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
