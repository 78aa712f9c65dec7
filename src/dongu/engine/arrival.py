"""The numbers of an update, copied from the device to the host without waiting."""

from __future__ import annotations

import time
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Arrival:
    """Numbers that a device computes, and the seconds it takes. Only reading them waits for the device.

    A GPU computes while Python continues. On other devices the numbers are there at once.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._began: Any = self._now()
        self._ended: Any = None

    def send(self, numbers: Tensor) -> None:
        """Start copying the numbers, (count,) fp32, to the host."""
        if self._on_gpu:
            room = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers = room.copy_(numbers.detach(), non_blocking=True)
            self._sent = self._now()
        else:
            self._numbers = numbers.detach().clone()

    def close(self) -> None:
        """Mark the end of the work, for `seconds`."""
        self._ended = self._now()

    @property
    def is_there(self) -> bool:
        """Whether reading returns without waiting."""
        return not self._on_gpu or bool(self._ended.query())

    @cached_property
    def numbers(self) -> np.ndarray:
        """(count,) fp32."""
        if self._on_gpu:
            self._sent.synchronize()
        return self._numbers.cpu().numpy()

    @cached_property
    def seconds(self) -> float:
        """From the beginning of the work to its end, on the device."""
        if self._on_gpu:
            self._ended.synchronize()
            return float(self._began.elapsed_time(self._ended)) / 1000
        return float(self._ended - self._began)

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
