"""Whether what parts of the user's own give is what they are for: asked before the first update, and of each call."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dongu.consistency import CHECKED_ROWS
from dongu.data.collate import EACH_ROW, Batch, Collator, collated
from dongu.draws import seed_draws, seed_python
from dongu.engine.modes import kept_modes
from dongu.errors import UsageError
from dongu.model.load import vocabulary_size
from dongu.model.loss import Loss, logits_of
from dongu.own import SIGNATURES, called
from dongu.text import kind_of_part

_ROUNDING, _ROUNDING_IN_HALF = 1e-3, 0.05  # of the largest loss of a row: what is further apart is another loss


def order_of(order: Any, split: Any, seed: int, epoch: int) -> np.ndarray:
    """The rows of an epoch, (rows,), by an order of the user's own.

    Raises:
        UsageError: it gives no rows.
    """
    given = called(order, "order", split=split, epoch=epoch, seed=seed)
    rows = np.asarray(given)
    if rows.ndim != 1 or not len(rows):
        hint = "an array of the positions of rows, at least one: np.random.default_rng([seed, epoch]).permutation(rows)"
        raise UsageError(
            f"gives {kind_of_part(given)}, not the positions of at least one row", where="order", hint=hint
        )
    return rows


def share_of(schedule: Any, steps: int, step: int) -> float:
    """The share of the learning rate that a schedule of the user's own gives.

    Raises:
        UsageError: it gives no number.
    """
    share = called(schedule, "lr_scheduler", step=step, total_steps=steps)
    try:
        return float(share)
    except (TypeError, ValueError) as error:  # of an array, say
        hint = f"it is {SIGNATURES['lr_scheduler']}"
        raise UsageError(f"gave {kind_of_part(share)}", where="lr_scheduler", hint=hint) from error


def collated_rows(loop: Any, split: Any, rows: np.ndarray) -> dict[str, Tensor]:
    """What a collate of the user's own makes of rows of a split, if the model can take it: see `check_inputs`."""
    tensors = collated(loop.collate, split, rows)
    check_inputs(loop, tensors)
    return tensors


def check_inputs(loop: Any, tensors: Mapping[str, Tensor]) -> None:
    """
    Raises:
        UsageError: a collate of the user's own gives no token ids, ids that the model does not know, or labels that
            are no classes.
    """
    if isinstance(loop.collate, Collator):
        return
    ids, known, what, hint = tensors.get("input_ids"), vocabulary_size(loop.model), "", EACH_ROW
    if ids is None and loop.given.model is None and "inputs_embeds" not in tensors:
        what = f"gives {', '.join(f'`{name}`' for name in tensors) or 'nothing'}, and no `input_ids`"
        hint = "give what the model reads, by name: input_ids, attention_mask; and labels"
    elif ids is not None and ids.numel() and known and not 0 <= int(ids.min()) <= int(ids.max()) < known:
        what = f"gives `input_ids` from {int(ids.min())} to {int(ids.max())}, and the model knows 0 to {known - 1}"
        hint = "give ids of the run's tokenizer, as split.tokens has them"
    labels, classes = tensors.get("labels"), len(loop.data.outputs)
    if not what and labels is not None and loop.data.task == "single-label" and loop.given.loss is None:
        are_shares = labels.is_floating_point() and labels.shape[1:] == (classes,)
        if not are_shares and (labels.dtype != torch.int64 or labels.dim() != 1 or int(labels.max()) >= classes):
            worst = f" up to {labels.max():g}" if labels.numel() else ""
            what = f"gives {kind_of_part(labels)}{worst} as `labels`, not a class of 0 to {classes - 1} a row, of int64"
    if what:
        raise UsageError(what, where="collate", hint=hint)


def check_loss(loop: Any) -> None:
    """
    Asked about a few rows in eval mode, once; `loop.own` is put back.

    Raises:
        UsageError: a model of the user's own does not answer as a classifier, or what their loss gives has no gradient,
            depends on the other rows without saying so, or on parameters that neither model nor `loop.own` holds.
    """
    loss, model = loop.loss, loop.model
    if not isinstance(loss, Loss):
        hint = "give it to a new Loop: dongu.Loop(…, loss=…)"
        raise UsageError(f"a {type(loss).__name__} is not a loss for a run", where="loop.loss", hint=hint)
    given, known = loop.given, (loss, model)
    if (given.loss is None and given.model is None) or all(map(operator.is_, known, loop._asked)):
        return
    rows = loop.train_updates.rows(loop.number)[:CHECKED_ROWS]
    state = {name: copy.deepcopy(thing.state_dict()) for name, thing in loop.own.items()}
    with kept_modes(loop.engine), loop.accelerator.no_sync(loop.engine):
        loop.engine.eval()
        if given.model is not None:
            answer, wanted = logits_of(loop.engine(**_batch_of(loop, rows).inputs)), (len(rows), len(loop.data.outputs))
            if answer.shape != wanted:
                what = f"a {type(model).__name__} answers with logits of shape {tuple(answer.shape)}, not {wanted}"
                raise UsageError(what, where="model", hint="one row for each example, and one column for each label")
        summed, whole = _asked(loop, rows, 0)
        if given.loss is not None and not loss.is_coupled:
            draws = not whole.equal(_asked(loop, rows, 1)[1])  # then other rows are others by chance
            halves = torch.cat([_asked(loop, half, 0)[1] for half in np.array_split(rows, 2) if len(half)])
            bound = _ROUNDING if loop.config.precision == "fp32" else _ROUNDING_IN_HALF
            if not draws and not bool((halves - whole).abs().max() <= bound * whole.abs().max()):
                hint = "let a row's loss depend on that row alone, or mark it @dongu.coupled: then no update is split"
                raise UsageError(
                    "gives a row a different number when the other rows of the batch differ", where="loss", hint=hint
                )
    for name, saved in state.items():
        loop.own[name].load_state_dict(saved)
    if not summed.requires_grad:
        raise UsageError("has no gradient", where="loss", hint="compute it outside of torch.no_grad(), of the logits")
    check_leaves(loop, summed)
    loop._asked = known


def _batch_of(loop: Any, rows: np.ndarray) -> Batch:
    return loop._on_device(loop.train_updates.micro_batch(rows, epoch=0, position=0))  # type: ignore[no-any-return]


def _asked(loop: Any, rows: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
    """The loss of these rows, summed and of each, with these draws."""
    seed_draws(loop.accelerator.device, seed)
    seed_python(seed)
    return loop.loss.of(loop.engine, _batch_of(loop, rows))  # type: ignore[no-any-return]


def check_state(loop: Any) -> None:
    """Raise `UsageError` if there is something in `loop.own` that no checkpoint can hold."""
    for name, thing in loop.own.items():
        if not (hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")):
            what, hint = f"{kind_of_part(thing)} has no state_dict", "numbers go there as dongu.Array(numbers)"
            raise UsageError(what, where=f"loop.own[{name!r}]", hint=hint)


def check_leaves(loop: Any, loss: Tensor) -> None:
    """Raise `UsageError` if a loss depends on parameters that nobody trains or that no checkpoint holds."""
    trained = {id(parameter) for group in loop.optimizer.param_groups for parameter in group["params"]}
    named = {id(parameter) for parameter in loop.model.parameters()}
    states = (thing.state_dict().values() for thing in loop.own.values() if isinstance(thing, nn.Module))
    held = {tensor.data_ptr() for state in states for tensor in state}
    seen, ahead = set(), [loss.grad_fn]
    while ahead:
        if (node := ahead.pop()) is None or node in seen:
            continue
        seen.add(node)
        ahead += [following for following, _ in node.next_functions]
        leaf: Any = getattr(node, "variable", None)
        is_beside = isinstance(leaf, nn.Parameter) and id(leaf) not in named
        if is_beside and (id(leaf) not in trained or leaf.data_ptr() not in held):
            raise UsageError(
                f"depends on a parameter of shape {tuple(leaf.shape)} that loop.model does not have",
                where="loss",
                hint="make it part of the model; or in setup give it to loop.optimizer.add_param_group, and its module"
                " to loop.own; or freeze it (requires_grad_(False))",
            )
