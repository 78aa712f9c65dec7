"""A BERT of two small layers with random weights: what the lessons try things on, without a download."""

import torch
from transformers import BertConfig, BertForSequenceClassification


def tiny_bert(layers: int = 2) -> BertForSequenceClassification:
    """Two classes, 100 words, 32 numbers a token, BERT's own dropout of 0.1."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=0.2,
        attn_implementation="eager",
    )
    return BertForSequenceClassification(config)
