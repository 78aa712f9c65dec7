"""Gradient checkpointing: of a layer only its input is kept, and its activations are computed again in backward.

transformers' layers ask for it themselves, by a function that they were given; the padding-free encoders ask the same
layers whether they were given one. Dropout draws what it drew: the generators are where they were.
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
    """Be inside `make()` within the block, and again wherever a layer of the block is computed again."""
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
    """`function(*args)`, of which backward keeps the arguments alone."""
    surroundings = _surroundings.get()
    return checkpoint(function, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), surroundings()))


def as_layer(module: Any, function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`, which computes what the module does, recomputed in backward where the module would be."""
    is_recomputed = getattr(module, "gradient_checkpointing", False) and module.training
    return recompute(function, *args) if is_recomputed else function(*args)


def recompute_layers(model: Any) -> None:
    """Have every layer of the model computed again in backward.

    Raises:
        UsageError: the model knows no such layers.
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
