"""Focal loss, and rows that count by a column of their own."""

import sys

import torch.nn.functional as F

import dongu

columns = ["weight"]
GAMMA = 2


def loss(model, batch):
    logits = model(**batch.inputs).logits
    surprise = F.cross_entropy(logits.float(), batch.labels, reduction="none")  # (rows,)
    return batch.columns["weight"] * (1 - (-surprise).exp()) ** GAMMA * surprise


if __name__ == "__main__":
    data, model, out = sys.argv[1:]
    with dongu.Loop(data, model=model, parts=__file__, epochs=2).run(out) as run:
        for step in run:
            print(f"step {step.number}  loss {step.loss:.3f}")
    print(run.result.metrics)
