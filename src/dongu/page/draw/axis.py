"""A range of numbers on a line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dongu.page.draw.svg import minus, power

TICKS = 5
NO_RANGE = 1e-12


@dataclass(frozen=True)
class Axis:
    """A range of numbers with round ticks; a logarithmic one has powers of ten."""

    low: float
    high: float
    ticks: tuple[float, ...]
    name: str = ""
    log: bool = False

    @staticmethod
    def of(
        values: Sequence[float] | np.ndarray,
        name: str = "",
        *,
        zero: bool = False,
        log: bool = False,
        whole: bool = False,
    ) -> Axis:
        """The axis that just holds these values, and 0 where it is wanted. Of counts, ticks are whole numbers."""
        known = np.asarray(values, dtype=np.float64).ravel()
        known = known[np.isfinite(known) & ((known > 0) if log else True)]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        if log and len(known) and high / low >= 30:
            powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            every = math.ceil(len(powers) / (TICKS + 1))
            ticks = tuple(10.0**power for power in powers[::every])
            return Axis(10.0 ** powers[0], 10.0 ** powers[-1], ticks, name, log=True)
        low, high = (min(low, 0.0), max(high, 0.0)) if zero else (low, high)
        if high - low <= NO_RANGE * max(abs(low), abs(high), NO_RANGE):
            spread = abs(high) / 2 or 0.5
            low, high = low - (0 if zero and low == 0 else spread), high + spread
        return Axis.between(low, high, name, whole=whole)

    @staticmethod
    def between(low: float, high: float, name: str = "", *, exact: bool = False, whole: bool = False) -> Axis:
        """An axis from one number to another, or to the next ticks around them."""
        rough = max((high - low) / TICKS, 1.0 if whole else 0.0)
        power = 10.0 ** math.floor(math.log10(rough))
        units = (power * factor for factor in (1, 2, 2.5, 5, 10) if not whole or (power * factor).is_integer())
        unit = next(unit for unit in units if unit >= rough * 0.999)
        first, last = math.floor(low / unit + 1e-9), math.ceil(high / unit - 1e-9)
        ticks = tuple(unit * number for number in range(first, last + 1))
        if exact:
            return Axis(low, high, tuple(tick for tick in ticks if low <= tick <= high), name)
        return Axis(ticks[0], ticks[-1], ticks, name)

    def share(self, values: np.ndarray | float) -> np.ndarray:
        """Where values are on the axis, from 0 to 1."""
        numbers = np.asarray(values, dtype=np.float64)
        if self.log:
            numbers = np.log10(np.maximum(numbers, self.low))
            return np.asarray((numbers - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low)))
        return np.asarray((numbers - self.low) / (self.high - self.low))

    def labels(self) -> list[str]:
        """The ticks in words, with as many digits as tell them apart."""
        if self.log:
            return [f"{tick:g}" if 0.001 <= tick <= 9999 else power(tick) for tick in self.ticks]
        if not any(self.ticks):
            return ["0"] * len(self.ticks)
        largest = max(map(abs, self.ticks))
        if largest < 0.001 or largest >= 1e7:
            return ["0" if abs(tick) < largest / 1e6 else power(tick) for tick in self.ticks]
        unit = min((b - a for a, b in zip(self.ticks, self.ticks[1:], strict=False)), default=largest)
        digits = max(0, -math.floor(math.log10(unit) + 1e-9))
        digits += abs(round(unit * 10**digits) - unit * 10**digits) > 1e-6
        return [minus(f"{tick or 0.0:,.{digits}f}") for tick in self.ticks]
