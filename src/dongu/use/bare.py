"""A saved model of BERT's kind in its padding-free form, without transformers."""

from __future__ import annotations

import numpy as np
import torch

from dongu.data.collate import Collator
from dongu.engine.bare import BareClassifier, BareConfig
from dongu.engine.packed import TOLERANCE, PaddingFree
from dongu.use.known import KnownModel

COLLATE = Collator(("input_ids", "token_type_ids"), 0, 0, "right", flat=True)  # which pads nothing


class BarePaddingFree(PaddingFree):
    """Gives the logits, (batch, labels), with nothing around them."""

    forward = PaddingFree.logits


def load_bare(known: KnownModel) -> PaddingFree | None:
    """The model on the CPU, in eval mode; None where its answers to some rows are not those of NumPy.

    The usual way compares with transformers' own forward in its place. Rounding is far below a tenth of what it allows.
    """
    encoder = known.encoder
    with known.weights("pt") as file:  # copied out of the mapped file, as `load_saved` does
        tensors = {name: file.get_tensor(name).clone() for name in encoder.shapes}
    config = BareConfig(**{"problem_type": None, **encoder.config, "num_labels": encoder.labels})
    kind = encoder.kind
    head, padding = {kind.dense.removesuffix(".dense"): kind.activation}, config.pad_token_id if kind.counted else None
    model = BarePaddingFree(BareClassifier(config, tensors, kind.base, head, padding)).eval()
    split = known.split([["a", "a a a", "a a"]] * max(1, len(known.config.text_columns or ())))
    with known.weights() as file, torch.no_grad():
        wanted = encoder.logits(file, split.tokens)
        difference = np.abs(model(**COLLATE(split, np.arange(len(split)))).numpy() - wanted).max()
    return model if difference <= TOLERANCE / 10 * np.abs(wanted).max() else None
