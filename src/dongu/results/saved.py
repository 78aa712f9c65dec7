"""A run that has a model, and the rows it is asked about: whatever may be wrong with them is said without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dongu.config import RunConfig, make_config
from dongu.data.columns import read_texts
from dongu.data.examples import Examples, read_examples, read_rows
from dongu.data.sources import Source, read_source
from dongu.data.table import Table
from dongu.errors import DataError, InputError, ModelError
from dongu.metrics import MetricSet
from dongu.model.safety import check_folder, read_object
from dongu.run.folder import RunFolder
from dongu.text import is_blank

USUAL_LABELS = 2  # of a model whose config.json names none


@dataclass(frozen=True)
class SavedRun:
    """What a run says of itself: where it lies, its options, and what its model answers.

    `constant_answer` is the best to say without reading; None in runs of older versions.
    """

    folder: RunFolder
    config: RunConfig
    metrics: MetricSet
    constant_answer: list[float] | None

    @staticmethod
    def open(run: str | Path, *, device: str = "auto", batch_size: int = 32, **options: Any) -> SavedRun:
        """
        Args:
            run: the run folder.
            device: as `--device`.
            batch_size: rows a forward pass.
            options: those of `RunConfig` that shall be others than the run's.

        Raises:
            InputError: the folder is no run with a model, or the model is not what was written.
        """
        folder = RunFolder(Path(run))
        record = folder.read_record()
        options = {**record["options"], "device": device, "eval_batch_size": batch_size, **options}
        if options["task"] == "regression":
            options["precision"] = "fp32"  # answers in the unit of the labels need more digits than bf16 has
        config = make_config({**options, "threads": None})
        if not folder.model.is_dir():
            raise InputError("the run has no model yet", where=str(run), hint="it is saved at the first evaluation")
        folder.check_model()
        check_folder(folder.model)
        names = record["label_names"]
        if (outputs := _outputs(folder.model)) != len(names):
            what = f"the model has {outputs} outputs, and run.json names {len(names)} labels"
            raise ModelError(what, where=str(run), hint="restore both from a copy")
        metrics = MetricSet.of(record["options"]["task"], names, config.data, record["metric"])
        return SavedRun(folder, config, metrics, record.get("constant_answer"))

    @property
    def label_names(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.metrics.label_names

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that a row needs: one, or two for a pair."""
        return self.config.text_columns or ()

    def columns_of(self, texts: Sequence[str | Sequence[str]]) -> list[list[str]]:
        """Texts, or pairs of them, as one column a text.

        Raises:
            DataError: a text is empty, or no pair where a pair is needed.
        """
        rows = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
        wanted = len(self.text_columns)
        for number, row in enumerate(rows, start=1):
            if len(row) != wanted or not all(isinstance(text, str) and not is_blank(text) for text in row):
                form = "a text" if wanted == 1 else "a pair of texts"
                raise DataError(f"text {number} is not {form} with something in it")
        return [[row[i] for row in rows] for i in range(wanted)]

    def texts_of(self, table: Table) -> tuple[Sequence[str], ...]:
        """The texts of a file's rows, which need no label.

        Raises:
            DataError: a text column is missing, or a text is empty.
        """
        return read_texts(table, self.text_columns)

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
        data = data.in_order_of(self.label_names)  # of a run that went on from a classifier: the model's own
        if data.label_names != self.label_names:
            raise DataError("the labels are not those of the run any more", where=data.place or data.name)
        return {name: data.splits[name] for name in _chosen(data.splits, split, data.place or data.name)}

    def other_examples(self, source: Source, split: str | None = None) -> dict[str, Examples]:
        """Other labelled rows: all splits but train, or the only one there is.

        Raises:
            DataError: a column is missing, a text is empty, a label is not one of the model's or is hidden.
        """
        examples = {}
        for name in _chosen(source.splits, split, source.name):
            rows = read_rows(source.splits[name], self.config, self.label_names)
            if rows.targets is None:
                raise DataError("there are no labels", where=rows.origin, hint="use `dongu predict`")
            shown = name if len(source.splits) > 1 else source.name  # the one table of a file is no train split
            examples[shown] = rows
        return examples

    def learnt_from(self, data: str) -> bool:
        """Whether these are rows that the run was trained on, by the place that they lie in."""
        given, own = Path(data).resolve(), Path(self.config.data or "").resolve()
        return given.is_file() and (given == own or (given.parent == own and given.stem == "train"))


def _outputs(model: Path) -> int:
    """The labels of a saved model."""
    config = read_object(model / "config.json", f"--model {model}")
    names = config.get("id2label")
    return len(names) if isinstance(names, dict) else USUAL_LABELS


def _chosen(splits: Mapping[str, Any], split: str | None, where: str) -> list[str]:
    if split is None:
        return [name for name in splits if name != "train"] or list(splits)
    if split not in splits:
        raise DataError(f"there is no split `{split}`", where=where, hint=f"the splits are: {', '.join(splits)}")
    return [split]
