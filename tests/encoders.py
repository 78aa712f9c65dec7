"""Models, micro-batches and updates that an engine is tried on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import dongu
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


def run_updates(
    data: Any, model: str, micro_batch_size: int | None, **options: Any
) -> tuple[list[float], list[Tensor]]:
    """Loss and gradient norm of each of two updates, and the gradients that they use, flat."""
    loop = dongu.Loop(
        data, model=model, batch_size=32, micro_batch_size=micro_batch_size, max_steps=2, learning_rate=1e-3, **options
    )
    caught: list[Tensor] = []
    loop.optimizer.register_step_pre_hook(
        lambda *_: caught.append(torch.cat([p.grad.flatten() for p in loop.model.parameters() if p.grad is not None]))
    )
    steps = list(loop)
    assert [step.examples for step in steps] == [32, 13]
    return [value for step in steps for value in (step.loss, step.grad_norm)], caught
