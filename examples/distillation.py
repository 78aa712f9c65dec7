"""Distillation: a small model learns what a larger one, trained before, says of the same rows."""

import os
import sys

import torch
import torch.nn.functional as F

import dongu

TEACHER = os.environ.get("TEACHER", "runs/large")  # a run folder
TEMPERATURE, SHARE = 2.0, 0.5
known = {}


def setup(loop):
    teacher = dongu.Loop(loop.data, model=f"{TEACHER}/model", max_length=loop.config.max_length)
    known["logits"] = torch.from_numpy(teacher.evaluate("train").logits).to(loop.accelerator.device)


def loss(model, batch):
    logits = model(**batch.inputs).logits.float()
    soft = (known["logits"][batch.rows] / TEMPERATURE).softmax(-1).to(logits)
    distilled = F.kl_div((logits / TEMPERATURE).log_softmax(-1), soft, reduction="none").sum(-1) * TEMPERATURE**2
    return SHARE * distilled + (1 - SHARE) * F.cross_entropy(logits, batch.labels, reduction="none")


if __name__ == "__main__":
    data, model, out = sys.argv[1:]
    with dongu.Loop(data, model=model, parts=__file__, epochs=2).run(out) as run:
        for step in run:
            print(f"step {step.number}  loss {step.loss:.3f}")
    print(run.result.metrics)
