"""Models and micro-batches that the engine without padding is tried on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dongu.model.load import load_model

COVERED = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "mpnet", "modernbert")
RAGGED = (7, 30, 3, 30, 1, 12, 9)


def load(path: str) -> Any:
    return load_model(path, label_names=("a", "b", "c"), task="single-label", pad_token_id=0, seed=5)


def micro_batch(model: Any, lengths: tuple[int, ...] = RAGGED, seed: int = 0) -> dict[str, Tensor]:
    """Padded inputs with random tokens, and token types where the model has them, on its device."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    inputs = {"input_ids": torch.randint(4, 60, shape, generator=generator) * mask, "attention_mask": mask}
    if getattr(model.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.randint(0, 2, shape, generator=generator) * mask
    return {name: tensor.to(model.device) for name, tensor in inputs.items()}
