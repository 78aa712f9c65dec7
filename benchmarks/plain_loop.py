"""The loop of the original, statement by statement: what `dongu` is measured against.

It is the Hugging Face course's "A full training loop" on local files: AdamW at 5e-5, a linear schedule without
warm-up, batches of 8, dynamic padding, 3 epochs. It knows nothing of `dongu`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    get_scheduler,
    set_seed,
)

TASKS: dict[str, dict[str, Any]] = {
    "mrpc": {"texts": ["sentence1", "sentence2"], "label": "label", "num_labels": 2},
    "sst2": {"texts": ["sentence"], "label": "label", "num_labels": 2},
    "stsb": {"texts": ["sentence1", "sentence2"], "label": "score", "num_labels": 1},
}


def read_rows(folder: Path, split: str) -> list[dict[str, str]]:
    """The rows of one split, read by the standard library."""
    if (path := folder / f"{split}.jsonl").exists():
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    with (folder / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def tokenize(rows: list[dict[str, str]], task: str, tokenizer: Any) -> list[dict[str, Any]]:
    """Model inputs and labels of the rows, truncated, not yet padded."""
    spec = TASKS[task]
    encoded = tokenizer(*([row[name] for row in rows] for name in spec["texts"]), truncation=True)
    number = int if spec["num_labels"] > 1 else float
    return [
        {**{key: encoded[key][i] for key in encoded}, "labels": number(row[spec["label"]])}
        for i, row in enumerate(rows)
    ]


def update(model: Any, batch: Any, optimizer: Any, lr_scheduler: Any) -> Any:
    """One update, in the original's statements; its loss."""
    outputs = model(**batch)
    loss = outputs.loss
    loss.backward()

    optimizer.step()
    lr_scheduler.step()
    optimizer.zero_grad()
    return loss


def predict(model: Any, dataloader: DataLoader[Any]) -> np.ndarray:
    """Logits in the order of the rows, (rows, labels)."""
    model.eval()
    logits = []
    for batch in dataloader:
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        with torch.no_grad():
            logits.append(model(**batch).logits)
    return torch.cat(logits).cpu().numpy()


def score(task: str, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The task's GLUE metrics."""
    if TASKS[task]["num_labels"] == 1:
        values = logits[:, 0]
        return {"pearson": float(pearsonr(values, labels)[0]), "spearman": float(spearmanr(values, labels)[0])}
    predictions = logits.argmax(axis=-1)
    return {"accuracy": float(accuracy_score(labels, predictions)), "f1": float(f1_score(labels, predictions))}


def train(data: Path, task: str, checkpoint: str, seed: int, epochs: int = 3) -> Iterator[tuple[Any, int, int]]:
    """Fine-tune as the original does; after each update the model, how many were made, and of how many."""
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    rows = tokenize(read_rows(data / task, "train"), task, tokenizer)
    data_collator = DataCollatorWithPadding(tokenizer)
    train_dataloader: Any = DataLoader(rows, shuffle=True, batch_size=8, collate_fn=data_collator)  # type: ignore[arg-type]

    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=TASKS[task]["num_labels"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    num_training_steps = epochs * len(train_dataloader)
    lr_scheduler = get_scheduler(
        "linear", optimizer=optimizer, num_warmup_steps=0, num_training_steps=num_training_steps
    )

    model.train()
    made = 0
    for _ in range(epochs):
        for batch in train_dataloader:
            update(model, batch, optimizer, lr_scheduler)
            made += 1
            yield model, made, num_training_steps


def evaluate(model: Any, data: Path, task: str, checkpoint: str, split: str) -> dict[str, float]:
    """The task's metrics on a split, in batches of like lengths."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    rows = tokenize(read_rows(data / task, split), task, tokenizer)
    rows.sort(key=lambda row: len(row["input_ids"]))
    loader: Any = DataLoader(rows, batch_size=8, collate_fn=DataCollatorWithPadding(tokenizer))  # type: ignore[arg-type]
    return score(task, predict(model, loader), np.array([row["labels"] for row in rows]))


def fine_tune(data: Path, task: str, checkpoint: str, seed: int, epochs: int = 3) -> dict[str, dict[str, float]]:
    """The metrics of the last epoch's model on validation and test."""
    *_, (model, _, _) = train(data, task, checkpoint, seed, epochs)
    return {split: evaluate(model, data, task, checkpoint, split) for split in ("validation", "test")}
