"""A few texts answered by NumPy: to import PyTorch and transformers takes seconds, and the arithmetic milliseconds."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from safetensors import safe_open

from dongu.config import DEFAULT_THRESHOLD, NUMBERS
from dongu.data.tokenized import tokenized
from dongu.data.tokens import token_limit
from dongu.errors import no_panic
from dongu.launch import processes
from dongu.model.safety import read_object
from dongu.run.predictions import answer_rows
from dongu.use.numpy_encoder import NumpyEncoder
from dongu.use.saved import TASKS, SavedModel
from dongu.use.tokenizer_file import saved_tokenizer

AT_MOST_ROWS = 256  # above which not even their tokens are counted
AT_MOST_PRODUCTS = 2e10  # tokens times weights of the layers
OF_ACCELERATE = ("ACCELERATE_", "PARALLELISM_CONFIG_")  # variables that may change the arithmetic, or be refused


def answers_without_torch(saved: SavedModel, texts: Sequence[Sequence[str]]) -> Iterator[dict[str, Any]] | None:
    """What `Classifier(saved).answers(texts)` gives, up to rounding; None where the classifier has to be asked.

    That is where the texts are many, where something else was asked for than fp32 on the CPU, and where anything in
    the files of the model is not exactly what is known here.

    Args:
        saved: the model, whose files have been looked at.
        texts: columns of texts that have been checked.
    """
    config = saved.config
    usual = (config.engine, config.precision) == ("packed", "fp32") and config.device in ("auto", "cpu")
    elsewhere = processes() > 1 or any(name.startswith(OF_ACCELERATE) for name in os.environ)
    if not usual or elsewhere or saved.graph or saved.others or len(texts[0]) > AT_MOST_ROWS:
        return None
    try:
        with no_panic():
            return _answers(saved, texts)
    except Exception:  # noqa: BLE001 - whatever is wrong with the files, the classifier has the words for it
        return None


def _answers(saved: SavedModel, texts: Sequence[Sequence[str]]) -> Iterator[dict[str, Any]] | None:
    content = read_object(saved.path / "config.json", saved.name)
    task = saved.metrics.task
    encoder = NumpyEncoder.of(content, labels=1 if task in NUMBERS else len(saved.label_names))
    tokenizer = saved_tokenizer(saved.path)
    if encoder is None or tokenizer is None or len([*saved.path.glob("*.safetensors*")]) > 1:
        return None
    if any(token in text for column in texts for text in column for token in tokenizer.special):
        return None
    length = saved.config.max_length or token_limit(tokenizer.model_max_length, encoder.most_tokens)
    config = saved.config.model_copy(update={"max_length": length})
    split = tokenized(tokenizer, texts, config, "texts", np.arange(len(texts[0])), cache=False)
    tokens = split.pieces.tokens
    if len(tokens.input_ids) * encoder.weights > AT_MOST_PRODUCTS:
        return None
    with safe_open(saved.path / "model.safetensors", "numpy") as file:
        if not encoder.fits(file):
            return None
        logits = split.pooled(encoder.logits(file, tokens))
    if not np.isfinite(logits).all():
        return None
    threshold = saved.abstain_below
    if task != "single-label":
        several = TASKS.get(content.get("problem_type")) == "multi-label"
        threshold = float(content.get("threshold", DEFAULT_THRESHOLD)) if several else DEFAULT_THRESHOLD
    return answer_rows(logits, saved.metrics, threshold)
