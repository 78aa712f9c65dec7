"""Gradient checkpointing: only the input of a layer is kept, and its activations are computed again in backward.

The layers of transformers call a function that they were given for it. The padding-free encoders look whether a layer
was given one. Dropout draws the same again: the generators are put back to their state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from torch.utils.checkpoint import checkpoint

from dongu.errors import UsageError

Surroundings = Callable[[], AbstractContextManager[Any]]
_surroundings: ContextVar[Surroundings] = ContextVar("surroundings", default=nullcontext)


@contextmanager
def surrounded(make: Surroundings) -> Iterator[None]:
    """Enter `make()` for the block, and again whenever a layer of the block is recomputed."""
    outer = _surroundings.get()

    @contextmanager
    def both() -> Iterator[None]:
        with ExitStack() as entered:
            entered.enter_context(outer())
            entered.enter_context(make())
            yield

    token = _surroundings.set(both)
    try:
        with make():
            yield
    finally:
        _surroundings.reset(token)


def recompute(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`; only the arguments are kept for backward."""
    surroundings = _surroundings.get()
    return checkpoint(function, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), surroundings()))


def as_layer(module: Any, function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` in place of a module, recomputed in backward if the module would be."""
    is_recomputed = getattr(module, "gradient_checkpointing", False) and module.training
    return recompute(function, *args) if is_recomputed else function(*args)


def recompute_layers(model: Any) -> None:
    """Recompute every layer of the model in backward.

    Raises:
        UsageError: the model does not support it.
    """
    try:
        model._set_gradient_checkpointing(enable=True, gradient_checkpointing_func=recompute)
    except (AttributeError, ValueError) as error:
        what = f"a {type(model).__name__} does not support gradient checkpointing"
        hint = "give a smaller --micro-batch-size instead: the updates are the same"
        raise UsageError(what, where="--gradient-checkpointing", hint=hint) from error


def recomputes(model: Any, *, otherwise: bool = False) -> bool:
    """Whether some module computes again in backward, or does so otherwise than by `recompute`."""
    asked = (module for module in model.modules() if getattr(module, "gradient_checkpointing", False))
    return any(
        not otherwise or getattr(module, "_gradient_checkpointing_func", None) is not recompute for module in asked
    )
