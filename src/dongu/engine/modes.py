"""Which modules are in training mode and which in eval mode, put back one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[bool]:
    """After the block each module is in the mode it had before, whatever happens inside.

    `model.train()` would not do: a frozen encoder in eval mode under a head in training mode is usual.

    Yields:
        Whether any of them is in training mode.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield any(training for _, training in modes)
    finally:
        for module, training in modes:
            module.training = training
