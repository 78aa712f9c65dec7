"""The loop's other half: eval mode, no gradient, every row exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dongu.config import DEFAULT_THRESHOLD, NUMBERS, PROBLEM_TYPES, Task
from dongu.data.batches import EvalBatches
from dongu.data.loader import make_dataloader
from dongu.engine.modes import kept_modes
from dongu.engine.packed import PaddingFree
from dongu.engine.shard import is_sharded
from dongu.errors import DonguError, ModelError, NonFiniteError, UsageError
from dongu.judge.answers import Evaluation
from dongu.judge.metrics import MetricSet
from dongu.launch import among_processes, wait_for_first
from dongu.model.loss import logits_of, row_losses
from dongu.model.scale import UNSCALED, Scale
from dongu.text import one_line
from dongu.waiting import Waiting

# Types whose answers depend on the other rows of a batch, or do with another tokenizer or config.json. The tests try
# every type (tests/model/test_model_types.py): at the start of each run that would cost some tenths of a step.
MAY_DIFFER_ALONE = frozenset(
    {"canine", "convbert", "fnet", "funnel", "mra", "nystromformer", "t5gemma", "t5gemma2", "xlnet", "yoso"}
)
LOOKED_THROUGH = 64  # rows
_TOGETHER = 4
ROUNDING = 1e-4  # of the largest logit, in fp32; it is a hundredth of that


@contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Dropout off and no gradient inside the block; each module's own mode of before after it, whatever happens."""
    with kept_modes(model) as training, torch.no_grad():
        if training:  # a server asks a thousand times for one row, and the walk is dear
            model.eval()
        yield


@contextmanager
def with_weights(model: torch.nn.Module, other: torch.nn.Module | None) -> Iterator[None]:
    """Inside the block the model has the weights of another; after it its own, to the bit.

    Raises:
        UsageError: the other lacks some of them.
    """
    if other is None or other is model:
        yield
        return
    state, theirs = model.state_dict(), other.state_dict()
    if missing := [name for name in state if name not in theirs or theirs[name].shape != state[name].shape]:
        raise UsageError(f"lacks `{missing[0]}` of loop.model", where="eval_model", hint="give a copy of loop.model")
    own = {name: tensor.clone() for name, tensor in state.items()}
    try:
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(theirs[name])
        yield
    finally:
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(own[name])


def evaluate(
    model: Any,
    batches: EvalBatches,
    accelerator: Any,
    metrics: MetricSet,
    *,
    scale: Scale = UNSCALED,
    choose_threshold: bool = False,
    workers: int = 0,
) -> Evaluation:
    """Evaluate on all processes together; each gets the whole answer.

    The loss is the mean over rows in double precision, so it does not depend on the batch size. Where a row has
    several labels, `choose_threshold` takes the best threshold for these rows, in place of the model's own. `scale` is
    that of the numbers that a model in training answers; a saved one answers in their own unit.
    """
    split = batches.split
    logits = scale.undo(predict_logits(model, batches, accelerator, workers=workers))  # (rows, labels)
    threshold = model_threshold(model)
    if split.targets is None:
        return Evaluation(split.name, split.ids, logits, None, None, {}, threshold, metrics.task, metrics.scale)
    losses = row_losses(metrics.task, logits, split.targets)
    if choose_threshold and metrics.task == "multi-label":
        threshold = metrics.best_threshold(logits, split.targets)
    found = Evaluation(split.name, split.ids, logits, split.targets, losses, {}, threshold, metrics.task, metrics.scale)
    return replace(found, metrics=metrics.values(found))


def difference_alone(model: Any, collate: Any, split: Any, device: torch.device, task: Task) -> float:
    """How far the answers to short rows are from those to the same rows in a batch, in probability; 0 for rounding.

    Of numbers it is in the unit that the model answers in. Two rows are asked alone, the shortest, which have the most
    padding beside others. No random state moves, whatever the model draws.

    Raises:
        ModelError: the model cannot compute a batch of rows.
    """
    lengths = np.diff(split.tokens.offsets[: LOOKED_THROUGH + 1])
    rows = np.unique(lengths, return_index=True)[1][:_TOGETHER]  # of different lengths, the shortest first
    logits = []
    with eval_mode(model), torch.random.fork_rng([device] if device.type == "cuda" else []):
        for asked in (rows, rows[:1], rows[1:2]):
            if len(asked):
                inputs = {name: tensor.to(device) for name, tensor in collate(split, asked).items()}
                inputs.pop("labels", None)
                try:
                    logits.append(model(**inputs).logits.float())
                except torch.OutOfMemoryError:
                    raise
                except Exception as error:  # each model refuses in its own way
                    raise ModelError(
                        f"`{model.config.model_type}` cannot compute such rows ({one_line(str(error))})",
                        where=f"train rows {', '.join(map(str, split.ids[asked].tolist()))}",
                        hint="transformers' own forward says so: its config.json may not fit rows of this kind",
                    ) from error
    together, alone = logits[0][: len(logits) - 1], torch.cat(logits[1:])
    if bool((together - alone).abs().max() <= ROUNDING * logits[0].abs().max()):
        return 0.0
    if task not in NUMBERS:
        several = task == "multi-label"
        together, alone = (x.sigmoid() if several else x.softmax(dim=-1) for x in (together, alone))
    return float((together - alone).abs().max())


def model_threshold(model: Any) -> float:
    """The probability from which on a model of several labels a row gives one, as its config.json has it."""
    config = (model if hasattr(model, "config") else model.module).config  # of DDP
    several = config.problem_type == PROBLEM_TYPES["multi-label"]
    return float(getattr(config, "threshold", DEFAULT_THRESHOLD)) if several else DEFAULT_THRESHOLD


@among_processes()
def predict_logits(model: Any, batches: EvalBatches, accelerator: Any, *, workers: int = 0) -> np.ndarray:
    """Logits of every row, (rows, labels) fp32, on every process; of a row's windows their mean.

    Process r computes the batches r, r + processes, …, whole. Each row is then summed over the processes, where all
    but one hold zeros: exact, and it needs no padding rows that would have to be dropped again.

    Raises:
        DonguError: some row was not computed exactly once.
        NonFiniteError: the model has a NaN or an infinity for some row.
        WorkerError: another process has ended.
    """
    wait_for_first()
    device = accelerator.device
    own = [*range(accelerator.process_index, len(batches), accelerator.num_processes)]
    asked = len(own)
    if is_sharded(model):  # then a forward pass is collective: who has a batch less computes one for the others
        own += [0] * (-(-len(batches) // accelerator.num_processes) - asked)
    loader = make_dataloader(batches, own, workers=workers, pin_memory=device.type == "cuda")
    if accelerator.num_processes > 1:
        model = accelerator.unwrap_model(model)  # DDP would wait for every process at every batch
    if device.type == "cuda" and isinstance(model, PaddingFree) and not is_sharded(model):
        model.replay_answers()
    logits = torch.zeros((len(batches.pieces), model.config.num_labels), dtype=torch.float32, device=device)
    counts = torch.zeros(len(batches.pieces), dtype=torch.int64, device=device)
    doing = "predicting" if batches.split.targets is None else "evaluating"
    rows_of_all = len(batches.pieces) // accelerator.num_processes
    with eval_mode(model), Waiting(f"{doing} {batches.split.name}", rows_of_all, "rows") as wait:
        for number, micro_batch in enumerate(loader):
            inputs = micro_batch.to(device)
            inputs.pop("labels", None)
            rows = torch.from_numpy(micro_batch.rows).to(device)
            answer_of_rows = logits_of(model(**inputs)).float()
            if number < asked:
                logits[rows] = answer_of_rows
                counts[rows] += 1
                wait.add(len(micro_batch.rows))
    logits, counts = accelerator.reduce(logits, "sum"), accelerator.reduce(counts, "sum")
    if not bool((counts == 1).all()):
        wrong = batches.pieces.ids[(counts != 1).cpu().numpy()][:10].tolist()
        raise DonguError("rows were not counted exactly once", where=f"{batches.split.name}, rows {wrong}")
    answer: np.ndarray = logits.cpu().numpy()
    if not (finite := np.isfinite(answer).all(axis=-1)).all():
        wrong = batches.pieces.ids[~finite]
        where = f"{batches.split.name} rows {', '.join(map(str, wrong[:32].tolist()))}"
        raise NonFiniteError(f"the model's answer is not finite for {len(wrong):,} rows", where=where)
    return batches.split.pooled(answer)
