"""Group k-fold: each group of rows is held out once, and every row gets the answer of a model that never saw it."""

import csv
import sys
from pathlib import Path

import numpy as np

import dongu

FOLDS = 3

if __name__ == "__main__":
    data, model, out = sys.argv[1:]
    with Path(data).open() as file:
        rows = list(csv.DictReader(file))
    groups = sorted({row["group"] for row in rows})
    answers = {}
    for fold in range(FOLDS):
        held = set(groups[fold::FOLDS])
        train = [row for row in rows if row["group"] not in held]
        validation = [row for row in rows if row["group"] in held]
        loop = dongu.Loop({"train": train, "validation": validation}, model=model, label_column="label", epochs=1)
        for step in loop:
            print(f"fold {fold}  step {step.number}  loss {step.loss:.3f}")
        logits = loop.evaluate("validation").logits.astype(np.float64)
        chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        answers |= {id(row): chance for row, chance in zip(validation, chances, strict=True)}
    with Path(out).open("w") as file:
        writer = csv.writer(file)
        writer.writerow([*rows[0], *(f"probability of {name}" for name in loop.data.label_names)])
        writer.writerows([*row.values(), *answers[id(row)]] for row in rows)
