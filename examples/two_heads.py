"""Two heads on one encoder: the label, and a numeric column that is learnt on the side."""

import sys
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel

import dongu

columns = ["age"]
SIDE = 0.1  # what the second task counts


class Answer(NamedTuple):
    logits: torch.Tensor
    age: torch.Tensor


class TwoHeads(nn.Module):
    def __init__(self, encoder, labels):
        super().__init__()
        self.encoder = AutoModel.from_pretrained(encoder)
        self.label = nn.Linear(self.encoder.config.hidden_size, labels)
        self.age = nn.Linear(self.encoder.config.hidden_size, 1)

    def forward(self, input_ids, attention_mask):
        first = self.encoder(input_ids, attention_mask).last_hidden_state[:, 0]  # (batch, hidden)
        return Answer(self.label(first), self.age(first)[:, 0])


def model(labels, config):
    return TwoHeads(config.tokenizer, labels)


def loss(model, batch):
    answer = model(**batch.inputs)
    side = F.mse_loss(answer.age, batch.columns["age"], reduction="none")
    return F.cross_entropy(answer.logits, batch.labels, reduction="none") + SIDE * side


if __name__ == "__main__":
    data, tokenizer, out = sys.argv[1:]
    with dongu.Loop(data, tokenizer=tokenizer, parts=__file__, epochs=2).run(out) as run:
        for step in run:
            print(f"step {step.number}  loss {step.loss:.3f}")
    print(run.result.metrics)
