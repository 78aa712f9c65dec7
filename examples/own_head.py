"""A head of one's own: the mean of all tokens, beside a numeric column."""

import sys

import torch
from torch import nn
from transformers import AutoModel

import dongu

columns = ["age"]


class MeanPooled(nn.Module):
    def __init__(self, encoder, labels):
        super().__init__()
        self.encoder = AutoModel.from_pretrained(encoder)
        self.head = nn.Linear(self.encoder.config.hidden_size + 1, labels)

    def forward(self, input_ids, attention_mask, age):
        hidden = self.encoder(input_ids, attention_mask).last_hidden_state  # (batch, tokens, hidden)
        mask = attention_mask[..., None]
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return self.head(torch.cat([mean, age[:, None]], dim=-1))


def model(labels, config):
    return MeanPooled(config.tokenizer, labels)


if __name__ == "__main__":
    data, tokenizer, out = sys.argv[1:]
    with dongu.Loop(data, tokenizer=tokenizer, parts=__file__, epochs=2).run(out) as run:
        for step in run:
            print(f"step {step.number}  loss {step.loss:.3f}")
    print(run.result.metrics)
