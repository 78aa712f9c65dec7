"""Saved models of which nothing is unknown: those of BERT's kind, whose files are exactly what is expected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open

from dongu.config import NUMBERS, RunConfig
from dongu.data.tokenized import Split, tokenized
from dongu.data.tokens import token_limit
from dongu.errors import no_panic
from dongu.model.safety import read_object
from dongu.use.numpy_encoder import NumpyEncoder
from dongu.use.saved import SavedModel
from dongu.use.tokenizer_file import SavedTokenizer, saved_tokenizer
from dongu.waiting import loading

if TYPE_CHECKING:
    from dongu.use.classifier import Classifier


def unless_wrong(function: Callable[..., Any], *args: Any) -> Any:
    """What it gives; None where it fails: whatever is wrong with the files, the usual way has the words for it."""
    try:
        with no_panic():
            return function(*args)
    except Exception:  # noqa: BLE001
        return None


@dataclass(frozen=True)
class KnownModel:
    """A saved model that needs no transformers, with the options of its run and a length of its rows."""

    path: Path
    config: RunConfig
    encoder: NumpyEncoder
    tokenizer: SavedTokenizer

    @staticmethod
    def of(saved: SavedModel, columns: Iterable[Sequence[str]]) -> KnownModel | None:
        """The model for these texts, all that it will be asked; None where anything is not exactly what is known.

        That is in its files, in a text that names a token, and where something else was asked for than fp32 on the CPU.
        """
        return unless_wrong(KnownModel._of, saved, columns)  # type: ignore[no-any-return]

    @staticmethod
    def _of(saved: SavedModel, columns: Iterable[Sequence[str]]) -> KnownModel | None:
        config = saved.config
        usual = (config.engine, config.precision) == ("packed", "fp32") and config.device in ("auto", "cpu")
        if not usual or saved.graph or saved.others or len([*saved.path.glob("*.safetensors*")]) > 1:
            return None
        content = read_object(saved.path / "config.json", saved.name)
        encoder = NumpyEncoder.of(content, labels=1 if saved.metrics.task in NUMBERS else len(saved.label_names))
        tokenizer = saved_tokenizer(saved.path)
        if encoder is None or tokenizer is None:
            return None
        if any(token in text for column in columns for text in column for token in tokenizer.special):
            return None
        length = config.max_length or token_limit(tokenizer.model_max_length, encoder.most_tokens)
        known = KnownModel(saved.path, config.model_copy(update={"max_length": length}), encoder, tokenizer)
        with known.weights() as file:
            return known if encoder.fits(file) else None

    def weights(self, framework: str = "numpy") -> Any:
        """The open file of its weights."""
        return safe_open(self.path / "model.safetensors", framework)

    def split(self, texts: Sequence[Sequence[str]]) -> Split:
        """Rows, a column a text, as its tokens."""
        return tokenized(self.tokenizer, texts, self.config, "texts", np.arange(len(texts[0])), cache=False)


def open_classifier(saved: SavedModel, columns: Iterable[Sequence[str]]) -> Classifier:
    """The classifier for these texts, all that it will be asked; transformers is imported if it is needed."""
    known = KnownModel.of(saved, columns)
    with loading("PyTorch" if known else "PyTorch and transformers"):
        from dongu.use.classifier import Classifier

        if known is None:
            import dongu.model.load  # noqa: F401
    return Classifier(saved, known)
