"""The loop's other half: eval mode, no gradient, every row exactly once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dongu.data.batches import EvalBatches, make_dataloader
from dongu.errors import DonguError, NonFiniteError
from dongu.metrics import MetricSet
from dongu.model.loss import row_losses


@dataclass(frozen=True)
class Evaluation:
    """What the model says of a split, in the order of its rows.

    `ids` (rows,) are row numbers in the source, `logits` (rows, labels) fp32, `targets` (rows,) or None where they
    are hidden, `losses` (rows,) in double precision. `evaluation["accuracy"]` reads a metric.
    """

    split: str
    ids: np.ndarray
    logits: np.ndarray
    targets: np.ndarray | None
    losses: np.ndarray | None
    metrics: dict[str, float]

    def __getitem__(self, name: str) -> float:
        return self.metrics[name]


@contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Dropout off and no gradient inside the block; the mode of before after it, whatever happens."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def evaluate(model: Any, batches: EvalBatches, accelerator: Any, metrics: MetricSet, *, workers: int = 0) -> Evaluation:
    """Evaluate on all processes together; each gets the whole answer.

    The loss is the mean over rows in double precision, so it does not depend on the batch size.
    """
    split = batches.split
    logits = predict_logits(model, batches, accelerator, workers=workers)  # (rows, labels)
    if split.targets is None:
        return Evaluation(split.name, split.ids, logits, None, None, {})
    losses = row_losses(metrics.task, torch.from_numpy(logits), torch.from_numpy(split.targets)).numpy()
    values = {"loss": math.fsum(losses) / len(losses), **metrics.compute(logits, split.targets)}
    return Evaluation(split.name, split.ids, logits, split.targets, losses, values)


def predict_logits(model: Any, batches: EvalBatches, accelerator: Any, *, workers: int = 0) -> np.ndarray:
    """Logits of every row, (rows, labels) fp32, on every process.

    Process r computes the batches r, r + processes, …, whole. Each row is then summed over the processes, where all
    but one hold zeros: exact, and it needs no padding rows that would have to be dropped again.

    Raises:
        DonguError: some row was not computed exactly once.
        NonFiniteError: the model has a NaN or an infinity for some row.
    """
    device = accelerator.device
    own = range(accelerator.process_index, len(batches), accelerator.num_processes)
    loader = make_dataloader(batches, own, workers=workers, pin_memory=device.type == "cuda")
    model = accelerator.unwrap_model(model)  # DDP would wait for every process at every batch
    logits = torch.zeros((len(batches.split), model.config.num_labels), dtype=torch.float32, device=device)
    counts = torch.zeros(len(batches.split), dtype=torch.int64, device=device)
    with eval_mode(model):
        for micro_batch in loader:
            inputs = micro_batch.to(device)
            inputs.pop("labels", None)
            rows = torch.from_numpy(micro_batch.rows).to(device)
            logits[rows] = model(**inputs).logits.float()
            counts[rows] += 1
    logits, counts = accelerator.reduce(logits, "sum"), accelerator.reduce(counts, "sum")
    if not bool((counts == 1).all()):
        wrong = batches.split.ids[(counts != 1).cpu().numpy()][:10].tolist()
        raise DonguError("rows were not counted exactly once", where=f"{batches.split.name}, rows {wrong}")
    answer: np.ndarray = logits.cpu().numpy()
    if not (finite := np.isfinite(answer).all(axis=-1)).all():
        wrong = batches.split.ids[~finite]
        where = f"{batches.split.name} rows {', '.join(map(str, wrong[:32].tolist()))}"
        raise NonFiniteError(f"the model's answer is not finite for {len(wrong):,} rows", where=where)
    return answer
