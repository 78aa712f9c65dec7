"""A classifier as scikit-learn knows them: `fit`, `predict`, `predict_proba`, for pipelines and searches of its own."""

from __future__ import annotations

import inspect
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, Unpack

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from dongu.config import RunConfig, did_you_mean
from dongu.data.table import MANY_CLASSES
from dongu.errors import DataError, UsageError
from dongu.files import read_regular
from dongu.options import FitOptions
from dongu.training import train
from dongu.use.classifier import load

# What `fit` is given stands in their place.
OF_CLASSES = ("label_names", "rare", "abstain")  # an answer of scikit-learn's is a class that `fit` was given
REPLACED = ("data", "label_column", "label_separator", "task", "columns", "fold", "split_file", *OF_CLASSES)
OPTIONS = tuple(name for name in RunConfig.model_fields if name not in REPLACED)


class TextClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A transformer classifier as a scikit-learn estimator.

    Args:
        options: those of `RunConfig` by name, such as `model`, `epochs`, `learning_rate`; each is a parameter that
            `clone`, `GridSearchCV` and so on may set. Without `out` the run folder is temporary, and is removed with
            this object.

    Attributes:
        classes_: the classes of `y`, sorted, (classes,).
        run_: the run folder.
        classifier_: the `dongu.Classifier` that predicts.
    """

    __signature__: ClassVar[inspect.Signature] = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in OPTIONS]
    )

    def __init__(self, **options: Unpack[FitOptions]) -> None:
        if unknown := options.keys() - {*OPTIONS}:
            hint = "its options are those of RunConfig; data and labels are given to fit, and stay as they are"
            hint = hint if min(unknown) in REPLACED else did_you_mean(min(unknown))
            raise UsageError(f"there is no option {min(unknown)}", where="TextClassifier", hint=hint)
        for name in OPTIONS:
            setattr(self, name, options.get(name))

    @classmethod
    def _get_param_names(cls) -> list[str]:
        return sorted(OPTIONS)

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803 - scikit-learn's names
        """Fine-tune. A tenth of the rows is held out to choose the best model, unless `validation` says otherwise.

        Args:
            X: texts, or pairs of texts; or a frame with the text columns.
            y: the class of each row, of any type that `numpy.unique` sorts.

        Raises:
            DonguError: as `dongu.train`.
        """
        columns = _columns_of(X)
        labels = np.asarray(y)
        if labels.ndim != 1 or any(len(cells) != len(labels) for cells in columns.values()):
            raise DataError("fit takes one class for each row", where="y", hint="dongu.train takes lists of labels")
        missing = [row for row, label in enumerate(labels.tolist(), 1) if label in (None, "") or label != label]
        if missing:
            raise DataError("there is no class", where=f"y, row {missing[0]:,}", hint="leave such rows out of X and y")
        self.classes_, ids = np.unique(labels, return_inverse=True)
        if not len(labels):
            raise DataError("there are no rows", where="y", hint="at least one row of each class is needed")
        if len(self.classes_) < 2:
            raise DataError(f"there is one class only, `{self.classes_[0]}`", where="y", hint="a classifier needs two")
        self._names = {str(name): number for number, name in enumerate(self.classes_.tolist())}
        label = next(name for name in ("label", "_label", "__label") if name not in columns)
        given: dict[str, Any] = {name: value for name in OPTIONS if (value := getattr(self, name)) is not None}
        texts = given.pop("text_columns", None) or (tuple(columns) if len(columns) <= 2 else None)
        if "positive" in given:
            given["positive"] = str(given["positive"])
        if isinstance(given.get("class_weights"), Mapping):
            given["class_weights"] = {str(name): weight for name, weight in given["class_weights"].items()}
        few = np.flatnonzero(np.bincount(ids) < 2)
        if len(few) and not {"group_column", "time_column"} & {*given}:
            what = f"the class `{self.classes_[few[0]]}` has 1 row: it cannot be both trained on and held out"
            hint = "add rows of it, leave its row out of X and y, or give rare classes one name in y"
            if len(self.classes_) > MANY_CLASSES:
                what, hint = (
                    f"{what} ({len(self.classes_):,} classes in all)",
                    "is y what is to be predicted? numbers are for dongu.train(…, task='regression')",
                )
            raise DataError(what, where="y", hint=hint)
        former = self.__dict__.pop("_end", None)
        if "out" not in given:
            given["out"] = self._temporary()
        rows = {**columns, label: [str(number) for number in ids.tolist()]}
        data = [dict(zip(rows, cells, strict=True)) for cells in zip(*rows.values(), strict=True)]
        more: dict[str, Any] = {"text_columns": texts, "label_column": label, "task": "single-label"}
        more["label_names"] = [*self._names]
        self.run_ = train(data, quiet=True, **more, **given).path
        self._load()
        if former is not None:
            former()
        return self

    def _temporary(self) -> str:
        """A folder that ends with this object."""
        folder = tempfile.mkdtemp(prefix="dongu-")
        self._end = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _load(self) -> None:
        options = {name: value for name in ("device", "threads") if (value := getattr(self, name)) is not None}
        self.classifier_ = load(self.run_, batch_size=self.eval_batch_size or 32, **options)

    def __getstate__(self) -> dict[str, Any]:
        """What is copied or pickled: of one that is fitted, the files of its run are in it, but for its checkpoints."""
        state = {name: value for name, value in super().__getstate__().items() if name not in ("classifier_", "_end")}
        if "run_" in state:
            found = sorted(path for path in self.run_.rglob("*") if path.is_file())
            names = {path.relative_to(self.run_): path for path in found}
            state["_files"] = {
                name.as_posix(): read_regular(path, path.stat().st_size)
                for name, path in names.items()
                if name.parts[0] != "checkpoints"
            }
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """The run is in a temporary folder then, also where `out` named another."""
        files = state.get("_files")
        super().__setstate__({name: value for name, value in state.items() if name != "_files"})
        if files is not None:
            self.run_ = Path(self._temporary())
            for name, content in files.items():
                (self.run_ / name).parent.mkdir(parents=True, exist_ok=True)
                (self.run_ / name).write_bytes(content)
            self._load()

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """The probability of each class, (rows, classes), in the order of `classes_`."""
        check_is_fitted(self, "classifier_")
        columns = _columns_of(X)
        texts: Any = columns if hasattr(X, "columns") else [*zip(*columns.values(), strict=True)]
        found = np.zeros((len(next(iter(columns.values()))), len(self.classes_)))
        for row, answer in enumerate(self.classifier_.predict(texts) if len(found) else []):
            for name, value in answer["probabilities"].items():
                found[row, self._names[name]] = value
        return found

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """The most probable class of each row, (rows,)."""
        probabilities = self.predict_proba(X)
        return np.asarray(self.classes_[probabilities.argmax(-1)])

    def __sklearn_tags__(self) -> Any:
        """That it takes texts, and no numbers."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        return tags


def _columns_of(texts: Any) -> dict[str, list[Any]]:
    """The columns of a frame; or one of texts, or two of pairs."""
    if hasattr(texts, "columns"):
        return {str(name): texts[name].tolist() for name in texts.columns}
    if isinstance(texts, str):
        raise DataError("one text is not a list of texts", where="X", hint='give ["a text"]')
    several = (list, tuple, np.ndarray)
    rows = [(text,) if isinstance(text, str) else tuple(text) if isinstance(text, several) else () for text in texts]
    if len({*map(len, rows)}) > 1 or (rows and len(rows[0]) not in (1, 2)):
        raise DataError("the rows are neither texts nor pairs of texts", where="X")
    names = ("text", "text_pair")[: len(rows[0]) if rows else 1]
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}
