"""A trained classifier at work: labels and probabilities for new texts, metrics on other data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from dongu.config import RunConfig
from dongu.data.batches import EvalBatches
from dongu.data.collate import Collator
from dongu.data.examples import Examples
from dongu.data.tokenized import Split, tokenized
from dongu.draws import DRAWING
from dongu.engine.device import make_accelerator
from dongu.engine.packed import without_padding
from dongu.evaluate import evaluate, model_threshold, predict_logits
from dongu.judge.answers import Evaluation
from dongu.options import LoadOptions
from dongu.run.predictions import answer_rows
from dongu.text import listed
from dongu.use.bare import COLLATE, load_bare
from dongu.use.ensemble import Ensemble
from dongu.use.known import KnownModel, unless_wrong
from dongu.use.saved import SavedModel

ANSWERED_ROWS = 1 << 12  # rows whose probabilities are computed together


class Classifier:
    """A fine-tuned classifier that predicts: the best model of a run, or any other classifier.

    Args:
        saved: the model's folder, whose files have been checked.
        known: the model, if `dongu` can compute it without transformers, with the same bits; else None.

    Raises:
        ModelError: the model cannot be loaded.
    """

    def __init__(self, saved: SavedModel, known: KnownModel | None = None) -> None:
        self.saved, self.metrics = saved, saved.metrics
        self.accelerator = make_accelerator(saved.config)  # which sets the threads
        self.model: Any
        self.tokenizer: Any
        self.config: RunConfig
        self.collate: Collator
        on_cpu = self.accelerator.device.type == "cpu"
        with DRAWING:  # a loop in another thread, whose dropout what is loaded would take
            self._make(known if on_cpu else None)

    def _make(self, known: KnownModel | None) -> None:
        if known is not None and (bare := unless_wrong(load_bare, known)) is not None:
            self.model, self.tokenizer, self.config, self.collate = bare, known.tokenizer, known.config, COLLATE
        else:
            self._load()

    def _load(self) -> None:
        """The usual way, by transformers."""
        from dongu.model.load import load_classifier, load_graph, model_columns, usual_length

        saved = self.saved
        if saved.graph is None:
            self.model, self.tokenizer = load_classifier(saved.path)
            columns = model_columns(self.model)
        else:
            self.model, self.tokenizer = load_graph(saved.path, saved.graph)
            columns = self.model.columns
        models = [self.model, *(load_classifier(path)[0] for path in saved.others)]
        max_length = saved.config.max_length or usual_length(self.model, self.tokenizer)
        self.config = saved.config.model_copy(update={"max_length": max_length})
        self.collate = Collator.of(self.tokenizer, columns)
        if self.config.engine == "packed":  # compared with the model's own forward, as at the start of a run
            split = self.split([["a", "a a a", "a a"]] * max(1, len(self.text_columns)))
            inputs = self.collate(split, np.arange(len(split)))
            packed = [without_padding(model, inputs, self.tokenizer.padding_side) for model in models]
            if all(reason is None for _, reason in packed):
                models = [model for model, _ in packed]
                self.collate = replace(self.collate, flat=True)
        self.model = models[0] if len(models) == 1 else Ensemble(models, self.metrics.task)
        self.model.eval()  # once, and not for each answer
        self.model = self.accelerator.prepare_model(self.model, evaluation_mode=True)

    def __repr__(self) -> str:
        return f"<Classifier {self.saved.name}: {self.metrics.task}, {listed([*self.label_names])}>"

    @property
    def label_names(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.saved.label_names

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The text columns of a row: one, or two for a pair; empty if the model takes either."""
        return self.saved.text_columns

    def predict(self, texts: Any) -> list[dict[str, Any]]:
        """`{"prediction": …, "probabilities": {name: …}}` for each row, in order.

        For a regression there is the prediction alone, and for an ordinal task the class with the `number` that it is
        nearest to, both without probabilities. A multi-label prediction is a list of labels, which may be empty. A
        single-label prediction is None if the model abstains: its most probable label is below `threshold`.

        Args:
            texts: one string; a list of strings, or of pairs of strings for a model of pairs; or rows with the text
                columns of the run: a data frame, a `datasets.Dataset`, a dict of columns, or a list of dicts.

        Raises:
            DataError: `texts` is none of these, a text column is missing, a text is empty, or the model needs pairs.
        """
        return list(self.answers(self.saved.columns_of(texts)))

    def answers(self, texts: Sequence[Sequence[str]]) -> Iterator[dict[str, Any]]:
        """The same for columns of texts that have been checked. Of all rows only the logits are kept in memory."""
        if not len(texts[0]):
            return
        logits, threshold = self.logits(self.split(texts)), self.threshold
        for start in range(0, len(logits), ANSWERED_ROWS):
            yield from answer_rows(logits[start : start + ANSWERED_ROWS], self.metrics, threshold)

    @property
    def threshold(self) -> float:
        """The least probability at which a label is predicted."""
        if self.metrics.task == "single-label":
            return self.saved.abstain_below
        return model_threshold(self.model)

    def logits(self, split: Split) -> np.ndarray:
        """The model's logits for tokenized rows, (rows, labels) fp32."""
        return predict_logits(self.model, self._batches(split), self.accelerator)

    def evaluate(self, examples: Mapping[str, Examples]) -> dict[str, Evaluation]:
        """Metrics on each split. A split whose labels are hidden is left out."""
        return {
            name: evaluate(
                self.model, self._batches(self.split(split.texts, split.targets, name)), self.accelerator, self.metrics
            )
            for name, split in examples.items()
            if split.targets is not None
        }

    def evaluate_own(self, split: str | None = None) -> dict[str, Evaluation]:
        """Metrics on the splits of the run's data; by default on all but train."""
        return self.evaluate(self.saved.own_examples(split))

    def split(self, texts: Sequence[Sequence[str]], targets: np.ndarray | None = None, name: str = "texts") -> Split:
        """Tokenize columns of texts for a forward pass."""
        return tokenized(self.tokenizer, texts, self.config, name, np.arange(len(texts[0])), targets, cache=False)

    def _batches(self, split: Split) -> EvalBatches:
        alike = self.saved.graph is not None  # which is padded, and knows no other program's batches
        return EvalBatches(split, self.collate, self.config.eval_batch_size, alike=alike)


def load(
    model: str | Path,
    *,
    device: str = "auto",
    batch_size: int = 32,
    abstain_below: float | None = None,
    graph: str | None = None,
    **options: Unpack[LoadOptions],
) -> Classifier:
    """Load a classifier: a run folder, its `model/`, any classifier's folder, or `owner/name@revision` on the Hub.

    The arguments are those of `SavedModel.open`.

    Raises:
        InputError: there is no such model.
    """
    own: dict[str, Any] = {"abstain_below": abstain_below, "graph": graph, **options}
    return Classifier(SavedModel.open(model, device=device, batch_size=batch_size, **own))
