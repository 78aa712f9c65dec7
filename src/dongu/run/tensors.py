"""The tensors of a run's state: weights by name, the optimizer's state, and state of the user's own."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dongu.errors import UsageError
from dongu.loop import Loop
from dongu.run.tensor_file import DTYPES
from dongu.text import one_line

_OF_TORCH = {"defaults", "state", "param_groups", "step", "_opt_called", "_zero_grad_profile_name"}
_OF_TORCH |= {"_warned_capturable_if_run_uncaptured", "found_inf"}
HOLDS = "it may hold tensors, numbers, strings, and lists and dicts of them"


def referenced_tensors(loop: Loop) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Trainable weights by name, each shared one once, and the optimizer's state as `PARAMETER.NAME`, not copied.

    Frozen weights are those of `--model`, whose digest is part of the run's identity; with parts of the user's own,
    which may thaw them on the way, and once some were frozen or thawed, all are taken. They are on their device, and
    sharded where the model is.
    """
    model = loop.model
    kept, every = set(model.state_dict()), bool(loop.given.names or loop.own or loop.keeps_all)
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad or every}
    named = {**learning, **dict(model.named_buffers())}
    weights = {name: tensor for name, tensor in named.items() if name in kept}
    for key, entry in loop.optimizer.state_dict()["state"].items():
        if not isinstance(entry, Mapping):
            hint = f"keep it in a parameter group, or in loop.own[{key!r}]"
            raise UsageError(f"keeps `{key}` in its state, which belongs to no parameter", where="optimizer", hint=hint)
    moments = {
        f"{index}.{name}": value
        for index, entry in loop.optimizer.state_dict()["state"].items()
        for name, value in entry.items()
        if isinstance(value, Tensor)
    }
    return weights, moments


def settings_of(loop: Loop) -> dict[str, Any]:
    """What may be changed between two updates and is in no tensor, as JSON has it.

    These are the parameters that are frozen, the modules that are in eval mode while others train, the parameters of
    each group of the optimizer by their names, and the numbers of the groups that no schedule sets.
    """
    names = {id(parameter): name for name, parameter in loop.model.named_parameters()}
    modes = loop.modes()
    return {
        "frozen": [name for name, parameter in loop.model.named_parameters() if not parameter.requires_grad],
        "eval": [name for name, module in loop.model.named_modules() if not modes.get(module, True)],
        "groups": [[names.get(id(each)) for each in group["params"]] for group in loop.optimizer.param_groups],
        "numbers": [
            {name: repr(value) for name, value in group.items() if name not in ("params", "lr", "initial_lr")}
            for group in loop.optimizer.param_groups
        ],
    }


def take_settings(loop: Loop, settings: Mapping[str, Any]) -> None:
    """The reverse of `settings_of`; the numbers of the groups are with those of the optimizer.

    Raises:
        KeyError, TypeError, AttributeError: they are of another model.
    """
    parameters = dict(loop.model.named_parameters())
    for name, parameter in parameters.items():
        parameter.requires_grad_(name not in settings["frozen"])
    for name, module in loop.model.named_modules():
        module.training = name not in settings["eval"]
    loop.keeps_all = True
    for group in settings["groups"][len(loop.optimizer.param_groups) :]:
        loop.optimizer.add_param_group({"params": [parameters[name] for name in group]})


class Attributes:
    """What the optimizer of a loop keeps in attributes, where neither its state nor its groups have it.

    Args:
        loop: before its first update; None where there are no updates to come.
    """

    def __init__(self, loop: Loop | None) -> None:
        self._loop, self._known, self._is_looked_at = loop, loop and loop.optimizer, False
        self._alive: list[Any] = []  # so that nothing new gets the identity of what was
        self._marks = {name: self._mark(value) for name, value in self._all().items()}

    def look(self, _step: Any) -> None:
        """After the first update, see that a checkpoint can hold them: not only when the first is written.

        Raises:
            UsageError: one that has changed holds something else than plain values.
        """
        if not self._is_looked_at and self._loop is not None and self._loop.has_own_optimizer:
            optimizer_numbers(self._loop, self.changed())
        self._is_looked_at = True

    def changed(self) -> dict[str, Any]:
        """Those that are not as they were, but for what `loop.own` holds."""
        if self._loop is not None and self._loop.optimizer is not self._known:  # one that was assigned meanwhile
            self._known, self._marks = self._loop.optimizer, {}
        held = {id(thing) for thing in self._loop.own.values()} if self._loop else set()
        return {
            name: value
            for name, value in self._all().items()
            if id(value) not in held and self._mark(value) != self._marks.get(name)
        }

    def _all(self) -> dict[str, Any]:
        known = {} if self._known is None else vars(self._known)
        return {
            name: value
            for name, value in known.items()
            if name not in _OF_TORCH
            and not name.startswith("_optimizer_")
            and not (callable(value) or isinstance(value, nn.Module))
        }

    def _mark(self, value: Any) -> Any:
        """Something that is equal as long as a value does not change; the weights themselves are none of it."""
        if isinstance(value, Mapping):
            return [(str(key) if isinstance(key, str | int) else "", self._mark(item)) for key, item in value.items()]
        if isinstance(value, list | tuple | set | deque):
            return [*map(self._mark, value)]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, torch.Generator):
            return value.get_state().tolist()
        if isinstance(value, np.random.Generator):
            return self._mark(value.bit_generator.state)
        if isinstance(value, np.ndarray):
            return hash(value.tobytes())
        if hasattr(value, "state_dict"):
            return self._mark(value.state_dict())
        self._alive.append(value)
        return (id(value), value._version if isinstance(value, Tensor) and not value.requires_grad else 0)


def optimizer_numbers(loop: Loop, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What an optimizer knows beside tensors: with its `attributes`, and what its `state_dict` has `more`.

    Raises:
        UsageError: it is nothing that JSON holds.
    """
    known = loop.optimizer.state_dict()
    groups = [{name: value for name, value in group.items() if name != "params"} for group in known["param_groups"]]
    numbers = {
        str(index): {name: value for name, value in entry.items() if not isinstance(value, Tensor)}
        for index, entry in sorted(known["state"].items(), key=lambda item: str(item[0]))  # whatever came first
    }
    more = {name: value for name, value in known.items() if name not in ("state", "param_groups")}
    beside = {name: values for name, values in (("attributes", attributes), ("more", more)) if values}
    content, tensors = taken_apart({"groups": groups, "state": numbers, **beside}, "optimizer")
    if tensors:
        hint = "give it as a number, or keep it in self.state[parameter], which checkpoints hold"
        raise UsageError(f"has a tensor in `{next(iter(tensors))}`", where="optimizer", hint=hint)
    return content  # type: ignore[no-any-return]


def taken_apart(value: Any, name: str) -> tuple[Any, dict[str, Tensor]]:
    """What `state_dict` gives as JSON with names in place of tensors, and the tensors by these names.

    Raises:
        UsageError: there is something in it that is neither.
    """
    if isinstance(value, Tensor) and value.dtype in DTYPES and value.layout == torch.strided:
        return {"tensor": name}, {name: value.detach()}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}, {}
    if isinstance(value, Mapping):
        items = [(key, *taken_apart(item, f"{name}.{key}")) for key, item in value.items()]
        if all(isinstance(key, str | int) for key, *_ in items):
            return {"items": [[key, part] for key, part, _ in items]}, _joined(items)
    if isinstance(value, list | tuple):
        items = [(i, *taken_apart(item, f"{name}.{i}")) for i, item in enumerate(value)]
        kind = "tuple" if type(value) is tuple else "list"
        return {kind: [part for _, part, _ in items]}, _joined(items)
    found = value.dtype if isinstance(value, Tensor) else type(value).__name__
    raise UsageError(f"has a {found}, which no checkpoint holds", where=name, hint=HOLDS)


def put_together(content: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The reverse of `taken_apart`.

    Raises:
        KeyError, TypeError, ValueError: the content is none of its.
    """
    [(kind, value)] = content.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "items":
        return {key: put_together(part, tensors) for key, part in value}
    if kind in ("list", "tuple"):
        parts = [put_together(part, tensors) for part in value]
        return parts if kind == "list" else tuple(parts)
    if kind != "value":
        raise ValueError(f"there is no {kind}")
    return value


def own_tensors(loop: Loop) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """State of the user's own (`loop.own`) by its names, and its tensors."""
    parts = {name: taken_apart(thing.state_dict(), name) for name, thing in loop.own.items()}
    tensors = {key: tensor for _, found in parts.values() for key, tensor in found.items()}
    return {name: content for name, (content, _) in parts.items()}, tensors


def take_own_state(loop: Loop, contents: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """The reverse of `own_tensors`.

    Raises:
        UsageError: something does not take its state back.
    """
    for name, thing in loop.own.items():
        state = put_together(contents[name], tensors)
        try:
            thing.load_state_dict(state)
        except Exception as error:  # of the user's own class
            what = f"does not take its state back ({one_line(str(error))})"
            hint = "let its load_state_dict make it what it was when it was saved"
            raise UsageError(what, where=f"loop.own[{name!r}]", hint=hint) from error


def _joined(items: list[tuple[Any, Any, dict[str, Tensor]]]) -> dict[str, Tensor]:
    return {name: tensor for _, _, found in items for name, tensor in found.items()}
