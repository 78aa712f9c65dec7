"""The same result: `dongu`, the plain loop of the original and Transformers' Trainer, step for step on real MRPC.

    python benchmarks/parity.py --data DATA_FOLDER [--model FOLDER] [--steps 120]

All three start from the same weights (the packaged MiniLM with a new head, dropout 0), see the same rows in the same
order, and use AdamW at 5e-5 with a linear schedule. It prints the largest difference of the losses and of the final
weights to the plain loop's: `dongu` must agree to the bit with its plain engine, and to rounding without padding, as
Trainer must.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    get_scheduler,
)

import dongu
from plain_loop import read_rows, tokenize, update

ROOT = Path(__file__).resolve().parent.parent
BATCH_SIZE = 8
SEED = 42


@dataclass(frozen=True)
class Trace:
    """Loss of each update, (steps,), and all weights after the last, flat."""

    losses: np.ndarray
    weights: np.ndarray


def prepare_model(source: str, folder: Path) -> None:
    """A classifier with a new head and without dropout, saved where all three load it."""
    torch.manual_seed(SEED)
    config = AutoConfig.from_pretrained(source, num_labels=2)
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    AutoModelForSequenceClassification.from_pretrained(source, config=config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def trace_dongu(data: Path, model: Path, steps: int, engine: Any = "plain") -> Trace:
    """The loop under test."""
    loop = dongu.Loop(
        str(data / "mrpc"), model=str(model), max_steps=steps, batch_size=BATCH_SIZE, seed=SEED, engine=engine
    )
    losses = [step.loss for step in loop]
    return Trace(np.array(losses), flat_weights(loop.model))


def ordered_rows(data: Path, model: Path, steps: int) -> tuple[list[dict[str, Any]], Any]:
    """The tokenized rows of the first updates in the order of `dongu`'s first epoch, by the formula it documents."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = tokenize(read_rows(data / "mrpc", "train"), "mrpc", tokenizer)
    order = np.random.default_rng([SEED, 0]).permutation(len(rows))
    if steps * BATCH_SIZE > len(rows):
        raise SystemExit("more steps than an epoch has")
    return [rows[i] for i in order[: steps * BATCH_SIZE]], tokenizer


def trace_plain(data: Path, model_folder: Path, steps: int) -> Trace:
    """The original's statements."""
    rows, tokenizer = ordered_rows(data, model_folder, steps)
    loader: Any = DataLoader(rows, batch_size=BATCH_SIZE, collate_fn=DataCollatorWithPadding(tokenizer))  # type: ignore[arg-type]
    model = AutoModelForSequenceClassification.from_pretrained(model_folder, num_labels=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    lr_scheduler = get_scheduler("linear", optimizer=optimizer, num_warmup_steps=0, num_training_steps=steps)
    model.train()
    losses = [update(model, batch, optimizer, lr_scheduler).item() for batch in loader]
    return Trace(np.array(losses), flat_weights(model))


class RecordingTrainer(Trainer):  # type: ignore[misc]
    """Trainer, with the losses it computes written down whole; its own log rounds them."""

    losses: list[float]

    def compute_loss(self, *arguments: Any, **options: Any) -> Any:
        """Trainer's loss."""
        loss = super().compute_loss(*arguments, **options)
        self.losses.append(float(loss[0] if isinstance(loss, tuple) else loss))
        return loss


def trace_trainer(data: Path, model_folder: Path, steps: int) -> Trace:
    """Trainer with the same optimizer, schedule and order, and without its gradient clipping."""
    rows, tokenizer = ordered_rows(data, model_folder, steps)
    model = AutoModelForSequenceClassification.from_pretrained(model_folder, num_labels=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    lr_scheduler = get_scheduler("linear", optimizer=optimizer, num_warmup_steps=0, num_training_steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = RecordingTrainer(
            model=model,
            args=TrainingArguments(
                folder,
                per_device_train_batch_size=BATCH_SIZE,
                max_steps=steps,
                max_grad_norm=0.0,
                train_sampling_strategy="sequential",
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                disable_tqdm=True,
                logging_steps=10**9,
            ),
            train_dataset=rows,
            data_collator=DataCollatorWithPadding(tokenizer),
            optimizers=(optimizer, lr_scheduler),
        )
        trainer.losses = []
        trainer.train()
    return Trace(np.array(trainer.losses), flat_weights(model))


def flat_weights(model: Any) -> np.ndarray:
    """All parameters in one row."""
    flat: np.ndarray = torch.cat([p.detach().flatten() for p in model.parameters()]).numpy()
    return flat


def main() -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("DONGU_DATA", ROOT.parent / "shared" / "data"))
    )
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--steps", type=int, default=120)
    arguments = parser.parse_args()
    from dongu.model.place import resolve_model

    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder)
        prepare_model(resolve_model(arguments.model), model)
        plain = trace_plain(arguments.data, model, arguments.steps)
        traces: dict[str, Callable[[Path, Path, int], Trace]] = {
            "dongu": trace_dongu,
            "packed": partial(trace_dongu, engine="packed"),
            "Trainer": trace_trainer,
        }
        print(f"{len(plain.losses)} updates on MRPC, loss {plain.losses[0]:.4f} → {plain.losses[-1]:.4f}")
        for name, trace in traces.items():
            other = trace(arguments.data, model, arguments.steps)
            loss = np.abs(other.losses - plain.losses).max()
            weight = np.abs(other.weights - plain.weights).max()
            print(f"{name:<8} largest difference to the plain loop: loss {loss:.3g}, weight {weight:.3g}")


if __name__ == "__main__":
    main()
