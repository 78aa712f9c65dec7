"""`dynamics.bin`: the loss of every training row each time that an update used it."""

from __future__ import annotations

import os
from bisect import bisect_right
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dongu.files import open_regular, read_log

if TYPE_CHECKING:  # a report is made without torch
    from dongu.update import Step

# One after the other, 12 bytes each: `np.fromfile("dynamics.bin", dtype=RECORD)`.
RECORD = np.dtype([("step", "<u4"), ("row", "<u4"), ("loss", "<f4")])


def records(step: Step) -> bytes:
    """What an update adds: a record an example, with its row number in the source, from 0."""
    added = np.empty(step.examples, RECORD)
    added["step"], added["row"], added["loss"] = step.number, step.ids, step.row_losses
    return added.tobytes()


def read_dynamics(path: Path) -> np.ndarray:
    """The whole records of a run in the order in which they were made, (uses,); none without the file.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    content = read_log(path)
    return np.frombuffer(content[: len(content) // RECORD.itemsize * RECORD.itemsize], RECORD)


def bytes_until(path: Path, step: int) -> int:
    """The length of the records up to those of a step."""
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    with os.fdopen(descriptor, "rb") as file:  # looked at in a few places: it may be larger than memory

        def step_of(number: int) -> int:
            return int.from_bytes(os.pread(file.fileno(), 4, number * RECORD.itemsize), "little")

        uses = os.fstat(file.fileno()).st_size // RECORD.itemsize
        return bisect_right(range(uses), step, key=step_of) * RECORD.itemsize
