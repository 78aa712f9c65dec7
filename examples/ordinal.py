"""Ordinal regression (cumulative logits), and quadratic kappa as the metric that chooses the best model."""

import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel

import dongu


class Ordinal(nn.Module):
    def __init__(self, encoder, labels):
        super().__init__()
        self.encoder = AutoModel.from_pretrained(encoder)
        self.score = nn.Linear(self.encoder.config.hidden_size, 1)
        self.steps = nn.Parameter(torch.linspace(-1, 1, labels - 1))

    def forward(self, input_ids, attention_mask):
        score = self.score(self.encoder(input_ids, attention_mask).last_hidden_state[:, 0])  # (batch, 1)
        above = (score - self.steps).sigmoid()  # (batch, labels - 1), of the label being above each step
        return (F.pad(above, (1, 0), value=1) - F.pad(above, (0, 1))).clamp_min(1e-6).log()  # (batch, labels)


def model(labels, config):
    return Ordinal(config.tokenizer, labels)


def kappa(evaluation):
    labels = evaluation.logits.shape[1]
    counts = np.zeros((labels, labels))
    np.add.at(counts, (evaluation.targets, evaluation.logits.argmax(-1)), 1)
    apart = np.subtract.outer(np.arange(labels), np.arange(labels)) ** 2
    chance = np.outer(counts.sum(1), counts.sum(0)) / counts.sum()
    return 1 - (apart * counts).sum() / max((apart * chance).sum(), 1e-12)


metrics = {"kappa": kappa}


if __name__ == "__main__":
    data, tokenizer, out = sys.argv[1:]
    with dongu.Loop(data, tokenizer=tokenizer, parts=__file__, metric="kappa", epochs=2).run(out) as run:
        for step in run:
            print(f"step {step.number}  loss {step.loss:.3f}")
    print(run.result.metrics)
