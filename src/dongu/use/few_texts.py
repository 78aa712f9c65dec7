"""A few texts answered by NumPy: to import PyTorch and transformers takes seconds, and the arithmetic milliseconds."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dongu.config import DEFAULT_THRESHOLD
from dongu.launch import processes
from dongu.run.predictions import answer_rows
from dongu.use.known import KnownModel, unless_wrong
from dongu.use.saved import TASKS, SavedModel

AT_MOST_ROWS = 256  # above which not even their tokens are counted
AT_MOST_PRODUCTS = 2e10  # tokens times weights of the layers
OF_ACCELERATE = ("ACCELERATE_", "PARALLELISM_CONFIG_")  # variables that may change the arithmetic, or be refused


def answers_without_torch(saved: SavedModel, texts: Sequence[Sequence[str]]) -> Iterator[dict[str, Any]] | None:
    """What `Classifier(saved).answers(texts)` gives, up to rounding; None where the classifier has to be asked.

    That is where the texts, columns that have been checked, are many, and where anything is not exactly what is known
    of such models.
    """
    elsewhere = processes() > 1 or any(name.startswith(OF_ACCELERATE) for name in os.environ)
    if elsewhere or len(texts[0]) > AT_MOST_ROWS or (known := KnownModel.of(saved, texts)) is None:
        return None
    return unless_wrong(_answers, saved, known, texts)  # type: ignore[no-any-return]


def _answers(saved: SavedModel, known: KnownModel, texts: Sequence[Sequence[str]]) -> Iterator[dict[str, Any]] | None:
    split, encoder = known.split(texts), known.encoder
    tokens = split.pieces.tokens
    if len(tokens.input_ids) * encoder.weights > AT_MOST_PRODUCTS:
        return None
    with known.weights() as file:
        logits = split.pooled(encoder.logits(file, tokens))
    if not np.isfinite(logits).all():
        return None
    threshold = saved.abstain_below
    if saved.metrics.task != "single-label":
        several = TASKS.get(encoder.config.get("problem_type")) == "multi-label"
        threshold = float(encoder.config.get("threshold", DEFAULT_THRESHOLD)) if several else DEFAULT_THRESHOLD
    return answer_rows(logits, saved.metrics, threshold)
