"""A finished run at work: labels and probabilities for new texts, metrics on other data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dongu.config import make_config
from dongu.data.batches import Collator, EvalBatches, Split
from dongu.data.columns import read_texts
from dongu.data.examples import Examples, read_examples
from dongu.data.flags import join_flags
from dongu.data.labels import read_targets
from dongu.data.sources import Source, read_source
from dongu.data.table import Table
from dongu.data.tokens import tokenize
from dongu.errors import DataError, InputError, ModelError
from dongu.evaluate import Evaluation, evaluate, model_threshold, predict_logits
from dongu.metrics import MetricSet
from dongu.model.device import make_accelerator
from dongu.model.load import load_classifier, model_columns
from dongu.model.padding_free import PaddingFree, why_not
from dongu.results.predictions import answer_rows
from dongu.run.folder import RunFolder
from dongu.text import is_blank


class Classifier:
    """The best model of a run.

    Args:
        run: the run folder.
        device: as `--device`.
        batch_size: rows a forward pass.
        options: those of `RunConfig` that shall be others than the run's.

    Raises:
        InputError: the folder is no run with a model, or the model is not what was written.
    """

    def __init__(self, run: str | Path, *, device: str = "auto", batch_size: int = 32, **options: Any) -> None:
        self.folder = RunFolder(Path(run))
        record = self.folder.read_record()
        self.folder.check_model()
        options = {**record["options"], "device": device, "eval_batch_size": batch_size, **options}
        if options["task"] == "regression":
            options["precision"] = "fp32"  # answers in the unit of the labels need more digits than bf16 has
        self.config = make_config({**options, "threads": None})
        self.metrics = MetricSet.of(
            record["options"]["task"], record["label_names"], self.config.data, record["metric"]
        )
        self.constant_answer: list[float] | None = record.get("constant_answer")  # which older runs lack
        self.model, self.tokenizer = load_classifier(self.folder.model)
        if (outputs := self.model.config.num_labels) != len(self.label_names):
            what = f"the model has {outputs} outputs, and run.json names {len(self.label_names)} labels"
            raise ModelError(what, where=str(run), hint="restore both from a copy")
        self.collate = Collator.of(self.tokenizer, model_columns(self.model))
        if self.config.engine == "packed" and why_not(self.model, self.tokenizer.padding_side) is None:
            self.model, self.collate = PaddingFree(self.model), replace(self.collate, flat=True)
        self.accelerator = make_accelerator(self.config)
        self.model = self.accelerator.prepare_model(self.model, evaluation_mode=True)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.metrics.label_names

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that a row needs: one, or two for a pair."""
        return self.config.text_columns or ()

    def predict(self, texts: Sequence[str | Sequence[str]]) -> list[dict[str, Any]]:
        """`{"prediction": …, "probabilities": {name: …}}` for each text, in order; for numbers the prediction alone.

        Where a row may have several labels, the prediction is a list, of none too.

        Args:
            texts: strings, or pairs of strings where the model compares two.

        Raises:
            DataError: a text is empty, or no pair where a pair is needed.
        """
        rows = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
        wanted = len(self.text_columns)
        for number, row in enumerate(rows, start=1):
            if len(row) != wanted or not all(isinstance(text, str) and not is_blank(text) for text in row):
                form = "a text" if wanted == 1 else "a pair of texts"
                raise DataError(f"text {number} is not {form} with something in it")
        columns = [[row[i] for row in rows] for i in range(wanted)]
        return self._answers(columns) if rows else []

    def predict_table(self, table: Table) -> list[dict[str, Any]]:
        """The same for the rows of a file, which needs no label column.

        Raises:
            DataError: a text column is missing, or a text is empty.
        """
        return self._answers(read_texts(table, self.text_columns))

    def evaluate_own(self, split: str | None = None) -> dict[str, Evaluation]:
        """Metrics on the splits of the run's own data, the held-out part cut again by the same rule.

        Args:
            split: one of them; all but train by default. Splits with hidden labels are left out.

        Raises:
            DataError: the data are not there any more, have other labels now, or have no such split.
        """
        return {
            name: self._evaluate(examples.texts, examples.targets, name)
            for name, examples in self.own_examples(split).items()
            if examples.targets is not None
        }

    def own_examples(self, split: str | None = None, source: Source | None = None) -> dict[str, Examples]:
        """The rows of the run's own data, the held-out part cut again by the same rule.

        Args:
            split: one of the splits; all but train by default.
            source: the data, where they lie elsewhere now.

        Raises:
            DataError: the data are not there any more, have other labels now, or have no such split.
        """
        if source is None and self.config.data is None:
            raise DataError("the run's data were in memory", hint="give DATA")
        data = read_examples(read_source(self.config.data) if source is None else source, self.config)
        if data.label_names != self.label_names:
            raise DataError("the labels are not those of the run any more", where=data.place or data.name)
        return {name: data.splits[name] for name in _chosen(data.splits, split, data.place or data.name)}

    def evaluate_other(self, source: Source, split: str | None = None) -> dict[str, Evaluation]:
        """Metrics on other labelled rows: all splits but train, or the only one there is.

        Raises:
            DataError: a column is missing, a text is empty, a label is not one of the model's or is hidden.
        """
        evaluations = {}
        for name in _chosen(source.splits, split, source.name):
            table = join_flags(source.splits[name], self.config.label_column or "")
            targets = read_targets(
                table,
                self.config.label_column or "",
                self.metrics.task,
                self.label_names,
                hidden_allowed=True,
            )
            if targets is None:
                raise DataError("there are no labels", where=table.origin, hint="use `dongu predict`")
            shown = name if len(source.splits) > 1 else source.name  # the one table of a file is no train split
            evaluations[shown] = self._evaluate(read_texts(table, self.text_columns), targets, shown)
        return evaluations

    def _evaluate(self, texts: Sequence[Sequence[str]], targets: np.ndarray, name: str) -> Evaluation:
        return evaluate(self.model, self._batches(self.split(texts, targets, name)), self.accelerator, self.metrics)

    def _answers(self, texts: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        logits = predict_logits(self.model, self._batches(self.split(texts)), self.accelerator)
        threshold = model_threshold(self.accelerator.unwrap_model(self.model))
        return list(answer_rows(logits, self.metrics, threshold))

    def split(self, texts: Sequence[Sequence[str]], targets: np.ndarray | None = None, name: str = "texts") -> Split:
        """Rows, a column a text, ready for a forward pass."""
        tokens = tokenize(self.tokenizer, texts, self.config.max_length or 0, cache=False)
        return Split(name, np.arange(len(tokens)), tokens, targets)

    def _batches(self, split: Split) -> EvalBatches:
        return EvalBatches(split, self.collate, self.config.eval_batch_size)


def _chosen(splits: Mapping[str, Any], split: str | None, where: str) -> list[str]:
    if split is None:
        return [name for name in splits if name != "train"] or list(splits)
    if split not in splits:
        raise DataError(f"there is no split `{split}`", where=where, hint=f"the splits are: {', '.join(splits)}")
    return [split]


def load(run: str | Path, *, device: str = "auto", batch_size: int = 32, **options: Any) -> Classifier:
    """The classifier of a run folder; the arguments are those of `Classifier`.

    Raises:
        InputError: the folder is no finished run.
    """
    if not (Path(run) / "model").is_dir():
        RunFolder(Path(run)).read_record()  # says so where it is no run at all
        raise InputError("the run has no model yet", where=str(run), hint="it is saved at the first evaluation")
    return Classifier(run, device=device, batch_size=batch_size, **options)
