"""What is drawn is a function of a seed: where seeds come from, and the generators that they set."""

from __future__ import annotations

import random
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

# Held by whoever draws by a seed from the generators that all threads of the process share, until it has drawn: two
# loops in two threads would take each other's dropout.
DRAWING = threading.RLock()


def dropout_seed(seed: int, step: int, position: int, again: int = 0) -> int:
    """The seed of one micro-batch's dropout: a function of where it stands in the run, 32 bits.

    Args:
        seed: of the run.
        step: the update, from 1.
        position: examples of the update that come before.
        again: backward passes of the same update that came before.
    """
    return zlib.crc32(f"{seed}/{step}/{position}{f'/{again}' if again else ''}".encode())


def seed_python(seed: int) -> None:
    """Python's own generator and NumPy's shared one, which parts of the user's own may draw from."""
    random.seed(seed)
    np.random.seed(seed)


def seed_draws(device: torch.device, seed: int) -> None:
    """`torch.manual_seed` for this device and the host alone.

    `torch.manual_seed` seeds every kind of device that there is, and for each that the machine lacks it keeps a stack
    trace: a fifth of a millisecond (`benchmarks/pieces.py`).
    """
    with DRAWING:
        if device.type not in ("cpu", "cuda"):
            torch.manual_seed(seed)
            return
        torch.default_generator.manual_seed(seed)  # on CUDA too: a model may drop whole layers by the host's generator
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            torch.cuda.default_generators[index].manual_seed(seed)


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Inside the block all draws are a function of the seed; after it the generators are where they were."""
    python, shared = random.getstate(), np.random.get_state()
    with DRAWING:
        states = torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        seed_draws(device, seed)
        seed_python(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(shared)
        with DRAWING:
            torch.set_rng_state(states[0])
            if states[1] is not None:
                torch.cuda.set_rng_state(states[1], device)
