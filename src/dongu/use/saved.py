"""A model by its name, and the rows it is asked about: whatever may be wrong with them is said without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dongu.config import ABSTAIN_BELOW, NUMBERS, PROBLEM_TYPES, RunConfig, Task, make_config
from dongu.data.columns import choose_columns, named_parts, read_texts, usual_texts
from dongu.data.examples import Examples, digest_of, read_examples, read_rows
from dongu.data.sources import Source, read_source
from dongu.data.table import Table, as_cell, no_column
from dongu.errors import DataError, InputError, ModelError, UsageError, install_hint
from dongu.extras import require_packages
from dongu.judge.metrics import MetricSet
from dongu.model.place import PACKAGED, find_model, pin_model
from dongu.model.safety import ADAPTER_CONFIG, GRAPH, check_folder, read_object
from dongu.run.folder import RunFolder
from dongu.run.several import FOLDS
from dongu.text import is_blank

EXAMPLES = ('["a text", "another"]', '[("a text", "what it is compared with")]')  # of what can be asked
OWN_CLASS = "the model is a class of your own"
USUAL_LABELS = 2  # of a model whose config.json names none
TASKS: dict[Any, Task] = {kind: task for task, kind in PROBLEM_TYPES.items() if task != "ordinal"}


@dataclass(frozen=True)
class SavedModel:
    """A classifier that is read back: the folder of its weights, its options, its labels and metrics.

    `name` is what messages call it. `run` is the folder of the run that it belongs to; of any other classifier it is
    None, and its options are those of its own config.json and tokenizer. `constant_answer` is the answer of the
    baseline, where it is known. `others` are the models that answer together with it, of an ensemble. `abstain_below`
    is the probability below which it gives no label; 0: it always does.
    `graph` is the ONNX file in `path` that answers in place of weights.
    """

    name: str
    path: Path
    run: RunFolder | None
    config: RunConfig
    metrics: MetricSet
    constant_answer: list[float] | None
    others: tuple[Path, ...] = ()
    abstain_below: float = 0.0
    graph: str | None = None

    @staticmethod
    def open(
        model: str | Path,
        *,
        device: str = "auto",
        batch_size: int = 32,
        abstain_below: float | None = None,
        graph: str | None = None,
        **options: Any,
    ) -> SavedModel:
        """
        Args:
            model: a run folder, its `model/`, the folder of any classifier, or a name of the Hub, `owner/name` or
                `owner/name@revision`; or a folder of `--folds`, whose models answer together.
            device: as `--device`.
            batch_size: rows a forward pass.
            abstain_below: the probability below which it gives no label (default: its own, of `--abstain`).
            graph: the ONNX file of an export that answers in place of the weights; of a run, that of `dongu export`.
            options: overrides of the options of the run, by the names of `RunConfig`.

        Raises:
            InputError: there is no such model, or it is not what was written.
        """
        given = {"device": device, "eval_batch_size": batch_size, **options}
        saved = SavedModel._open(model, given, graph)
        if abstain_below is None:
            return saved
        if saved.metrics.task != "single-label":
            what = f"{saved.name} has no probabilities of classes: its task is {saved.metrics.task}"
            raise UsageError(what, where="--abstain-below")
        return replace(saved, abstain_below=abstain_below)

    @staticmethod
    def _open(model: str | Path, given: Mapping[str, Any], graph: str | None) -> SavedModel:
        if folds := folds_in(Path(model)):
            return SavedModel._of_folds(str(model), folds, given)
        if (run := run_of(model)) is not None and graph is None:
            return SavedModel._of_run(run, given)
        if run is not None:
            model = run / "onnx"  # where `dongu export` writes it
        folder = Path(model)
        if graph is not None or ((folder / GRAPH).is_file() and not [*folder.glob("*.safetensors")]):
            return SavedModel._of_export(folder, given, graph or GRAPH)
        try:
            place = Path(find_model(str(model)))
            if place.is_dir():
                return SavedModel._of_folder(str(model), place, given)
            name = pin_model(str(model))
            from dongu.model.load import fetch_classifier

            return SavedModel._of_folder(name, fetch_classifier(name), given)
        except ModelError as error:
            error.where = error.where.removeprefix("--model ")
            raise

    @staticmethod
    def _of_folder(name: str, folder: Path, options: Mapping[str, Any], *, graph: bool = False) -> SavedModel:
        """Any classifier, whose config.json says what it answers.

        Raises:
            ModelError: it is none, or its outputs have no names of their own each.
        """
        check_folder(folder, graph=graph)
        content = read_object(folder / "config.json", name)
        names = _names_of_outputs(content)
        task = TASKS.get(content.get("problem_type") or (None, "regression")[len(names) == 1], "single-label")
        if len({*names}) < len(names) or (task == "regression" and len(names) > 1):
            what = f"has {len(names)} outputs of the task {task}, called {', '.join(names[:5])}"
            raise ModelError(what, where=name, hint="dongu uses models with a name for each label, or one number")
        precision = {"precision": "fp32"} if task == "regression" else {}  # as in a run
        columns = {"text_columns": _pair_of(content)}
        config = make_config({"model": name, "task": task, **columns, **options, **precision})
        return SavedModel(
            name, folder, None, config, MetricSet.of(task, names), None, (), _abstains_below(content, name)
        )

    @staticmethod
    def _of_export(folder: Path, given: Mapping[str, Any], graph: str) -> SavedModel:
        require_packages("onnxruntime", where=str(folder), hint=install_hint("onnx"))
        if not (folder / graph).is_file():
            hint = f"`dongu export` writes it{', with --int8' if graph != GRAPH else ''}"
            raise ModelError(f"has no {graph}", where=str(folder), hint=hint)
        if given["device"] not in ("auto", "cpu"):
            raise UsageError("a graph is computed on the CPU", where=f"--device {given['device']}")
        fixed = {"device": "cpu", "engine": "plain", "precision": "fp32"}
        return replace(SavedModel._of_folder(str(folder), folder, {**given, **fixed}, graph=True), graph=graph)

    @staticmethod
    def _of_run(run: Path, given: Mapping[str, Any]) -> SavedModel:
        folder = RunFolder(run)
        record = folder.read_record()
        options = {**record["options"], "threads": None, **given}
        if options["task"] in NUMBERS:
            options["precision"] = "fp32"  # answers in the unit of the labels need more digits than bf16 has
        config = make_config(options)
        if not folder.model.is_dir():
            what, hint = "the run has no model yet", "it is saved at the first evaluation"
            if folder.is_finished:
                what, hint = "the model of the run was removed", "of a search `dongu tune` keeps that of the best trial"
            raise InputError(what, where=str(run), hint=hint)
        folder.check_written("model/")
        content = read_object(folder.model / "config.json", f"--model {folder.model}")
        if not content.get("model_type") and record.get("parts"):
            hint = "in Python, make it and put the weights in: safetensors.torch.load_model(model, FILE)"
            raise ModelError(OWN_CLASS, where=str(folder.model), hint=hint)
        check_folder(folder.model)
        names = record["label_names"]
        wanted = 1 if options["task"] in NUMBERS else len(names)
        if (outputs := len(_names_of_outputs(content))) != wanted:
            what = f"the model has {outputs} outputs, and run.json names {len(names)} labels"
            raise ModelError(what, where=str(run), hint="restore both from a copy")
        metrics = MetricSet.recorded(record["options"]["task"], names, config.data, record["metric"])
        abstains = _abstains_below(content, str(run))
        return SavedModel(str(run), folder.model, folder, config, metrics, record.get("constant_answer"), (), abstains)

    @staticmethod
    def _of_folds(name: str, folds: Sequence[Path], given: Mapping[str, Any]) -> SavedModel:
        """Folds, together: no run, since each has held out rows that the others have learnt from."""
        first, *others = (SavedModel._of_run(run, given) for run in folds)
        for other in others:
            if other.label_names != first.label_names:
                raise ModelError("has other labels than the first fold", where=other.name, hint="name one of the folds")
        paths = tuple(other.path for other in others)
        # A threshold holds for the probabilities of one model, and not for their mean.
        return replace(first, name=name, run=None, others=paths, abstain_below=0.0)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.metrics.label_names

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that a row needs: one, or two for a pair; none where nothing says so, and rows may be either."""
        return self.config.text_columns or ()

    def bag_of_words(self) -> list[dict[str, Any]]:
        """What a bag of words reaches on the splits of the run's own data; empty where that is not known.

        Raises:
            InputError: the results of the run are damaged.
        """
        if self.run is None or not self.run.is_finished:
            return []
        return list(self.run.read_results().get("bag_of_words", ()))

    def reading(self, options: Mapping[str, Any]) -> RunConfig:
        """How other data are read for this run: by these options, and with the columns that the run reads."""
        names = ("text_columns", "label_column", "columns")
        return make_config({**{name: getattr(self.config, name) for name in names}, **options})

    def columns_of(self, texts: Any) -> Sequence[Sequence[str]]:
        """One column a text, of whatever holds texts: see `Classifier.predict`.

        Raises:
            DataError: it holds none, lacks a column, or a text is empty or no pair where a pair is needed.
        """
        if (table := _table_of(texts)) is not None:
            return self.texts_of(table)
        wanted = len(self.text_columns)
        is_pair = isinstance(texts, tuple) and len(texts) == 2 and all(isinstance(text, str) for text in texts)
        if isinstance(texts, str) or (wanted == 2 and is_pair):
            texts = [texts]
        rows = [(text,) if isinstance(text, str) else text for text in _items_of(texts)]
        wanted = wanted or (2 if rows and isinstance(rows[0], list | tuple | np.ndarray) and len(rows[0]) == 2 else 1)
        form = "a text" if wanted == 1 else "a pair of texts"
        for number, row in enumerate(rows, start=1):
            known = isinstance(row, list | tuple | np.ndarray) and len(row) == wanted
            if not known or not all(isinstance(text, str) and not is_blank(text) for text in row):
                hint = f"give {form} for each row: {EXAMPLES[wanted - 1]}"
                raise DataError(f"text {number} is not {form}, or is empty", hint=hint)
        return [[str(row[i]) for row in rows] for i in range(wanted)]

    def texts_of(self, table: Table) -> tuple[Sequence[str], ...]:
        """The texts of a file's rows, which need no label.

        Raises:
            DataError: a text column is missing, or a text is empty.
        """
        _check_columns(table, self.text_columns, "--text-columns names others")
        return read_texts(table, self.text_columns or usual_texts(table))

    def own_examples(
        self, split: str | None = None, source: Source | None = None, takes_data: str = ""
    ) -> dict[str, Examples]:
        """The rows of the run's own data, the held-out part cut again by the same rule.

        Args:
            split: one of the splits; all but train by default.
            source: the data, where they lie elsewhere now; as with the next one, not for a score: rows may be others.
            takes_data: as in `RunFolder.reopen`.

        Raises:
            DataError: the data are not there any more, have other labels or rows now, or have no such split.
        """
        if self.run is None:
            raise UsageError("is not a run, and has no data of its own", where=self.name, hint="give DATA")
        if source is None and self.config.data is None:
            raise DataError("the run's data were in memory", hint="give DATA")
        with self.run.own_data(source, takes_data):
            data = read_examples(source or read_source(self.config.data, self.config), self.config)
        data = data.in_order_of(self.label_names)  # of a run that went on from a classifier: the model's own
        if data.label_names != self.label_names:
            raise DataError("the labels differ from those of the run", where=data.place or data.name)
        chosen = {name: data.splits[name] for name in _chosen(data.splits, split, data.place or data.name)}
        was = self.run.read_record()["data"]
        for name, examples in ({} if takes_data or source is not None else chosen).items():  # it may have learnt others
            if digest_of(examples) != was.get(name, {}).get("texts"):
                rows = f"{len(examples):,} rows, and {was.get(name, {}).get('rows', 0):,} then"
                hint = "put back the data that the run read; rows that it has not learnt are given as DATA"
                raise DataError(f"{name} has other rows than the run had ({rows})", where=examples.origin, hint=hint)
        return chosen

    def other_examples(self, source: Source, split: str | None = None) -> dict[str, Examples]:
        """Other labelled rows: all splits but train, or the only one there is.

        Raises:
            DataError: a column is missing, a text is empty, a label is not one of the model's or is hidden.
        """
        examples, config = {}, self.config
        for name in _chosen(source.splits, split, source.name):
            _check_columns(source.splits[name], config.text_columns or (), "--text-columns names others")
            if config.text_columns is None or config.label_column is None:
                columns = choose_columns(source.splits[name], config.text_columns, config.label_column)
                config = config.model_copy(update={"text_columns": columns.texts, "label_column": columns.label})
            rows = read_rows(source.splits[name], config, self.label_names)
            if rows.targets is None:
                hint = "--label-column names another; rows without labels are for `dongu predict`"
                _check_columns(source.splits[name], [config.label_column or ""], hint)
                raise DataError("there are no labels", where=rows.origin, hint="use `dongu predict`")
            shown = name if len(source.splits) > 1 else source.name  # the one table of a file is no train split
            examples[shown] = rows
        return examples

    def learnt_from(self, data: str) -> bool:
        """Whether these are rows that the run was trained on, by the place that they lie in."""
        given, own = Path(data).resolve(), Path(self.config.data or "").resolve()
        return given.is_file() and (given == own or (given.parent == own and given.stem == "train"))


def _check_columns(table: Table, names: Iterable[str], hint: str) -> None:
    for name in names:
        if named_parts(name, table.columns) is None:
            raise no_column(table, name, behind=f"; {hint}")


def _table_of(rows: Any) -> Table | None:
    """The table of a frame, a data set, a dict of columns or of one row, or a list of dicts; None for other things."""
    where = "the rows to predict"
    if isinstance(rows, Sequence) and not isinstance(rows, str) and any(isinstance(row, Mapping) for row in rows):
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, Mapping) or row.keys() != rows[0].keys():
                raise DataError("has other keys than the first row", where=f"{where}, row {number}")
        return Table(where, {str(name): [as_cell(row[name]) for row in rows] for name in rows[0]})
    names = list(rows) if isinstance(rows, Mapping) else getattr(rows, "column_names", None)
    names = getattr(rows, "columns", None) if names is None else names
    if names is None:
        return None
    columns = {str(name): _cells_of(rows[name]) for name in names}
    if len({*map(len, columns.values())}) > 1:
        raise DataError("the columns differ in length", where=where)
    return Table(where, columns)


def _cells_of(column: Any) -> list[Any]:
    """The cells of a column: a list, or what frames and Arrow have in its place; a text is the cell of one row."""
    if isinstance(column, str):
        return [column]
    return [as_cell(cell) for cell in (column.to_pylist() if hasattr(column, "to_pylist") else _items_of(column))]


def _items_of(texts: Any) -> list[Any]:
    if isinstance(texts, Iterable) and not isinstance(texts, bytes | bytearray | set | frozenset):
        return list(texts)
    what = f"{type(texts).__name__} is not an ordered collection of texts"
    raise DataError(what, hint="give a text, a list of them, a frame, or a dict of columns")


def run_of(model: str | Path) -> Path | None:
    """The run folder that the name of a model means; None where it is another classifier's."""
    folder = Path(model)
    if (
        any((folder / name).is_file() for name in ("config.json", ADAPTER_CONFIG))
        and not (folder / "run.json").exists()
    ):
        return folder.parent if folder.name == "model" and (folder.parent / "run.json").exists() else None
    return None if not folder.exists() and _is_hub_name(str(model)) else folder


def folds_in(folder: Path) -> list[Path]:
    """The runs of a folder that `--folds` wrote; none where it is another one.

    Raises:
        InputError: not all folds are finished.
    """
    if (folder / "run.json").exists() or not (folder / FOLDS).is_file():
        return []
    summary = RunFolder(folder).read_json(FOLDS)
    names = summary.get("folds", ())
    if "pooled" not in summary:
        hint = "the command that started them continues them; or name one of them"
        raise InputError("not all folds are finished", where=str(folder), hint=hint)
    found = [folder / str(name) for name in names]
    if not found or not all(path.parent == folder and path.is_dir() for path in found):
        raise InputError("its runs are not there", where=str(folder), hint="restore them from a copy")
    return found


def _is_hub_name(name: str) -> bool:
    """Whether it is asked for on the Hub, and not a folder that is not there: `runs/typo` is, where there is `runs`.

    Of the Hub's names without an owner none is a classifier's but by its old name; `name@main` asks for one.
    """
    if name in PACKAGED or "@" in name:
        return not name.startswith((".", "/", "~"))
    owner, _, rest = name.partition("/")
    return bool(owner and rest) and "/" not in rest and not owner.startswith((".", "~")) and not Path(owner).is_dir()


def _abstains_below(config: Mapping[str, Any], name: str) -> float:
    value = config.get(ABSTAIN_BELOW) or 0.0
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ModelError(f"`{ABSTAIN_BELOW}` of config.json is not a probability: {value!r}", where=name)
    return float(value)


def _pair_of(config: Mapping[str, Any]) -> list[str] | None:
    """The two columns of a model of pairs; None where it says nothing of them, or another program something else."""
    names = config.get("text_columns")
    if isinstance(names, list) and [*map(type, names)] == [str, str] and all(names) and names[0] != names[1]:
        return names
    return None


def _names_of_outputs(config: Mapping[str, Any]) -> list[str]:
    """The labels of a saved model, in the order of its logits."""
    names = config.get("id2label")
    if not isinstance(names, dict) or not all(map(str.isdecimal, names)):
        return [f"LABEL_{i}" for i in range(len(names) if isinstance(names, dict) else USUAL_LABELS)]
    return [str(names[key]) for key in sorted(names, key=int)]


def _chosen(splits: Mapping[str, Any], split: str | None, where: str) -> list[str]:
    if split is None:
        return [name for name in splits if name != "train"] or list(splits)
    if split not in splits:
        raise DataError(f"there is no split `{split}`", where=where, hint=f"the splits are: {', '.join(splits)}")
    return [split]
