"""The classifier of scikit-learn's kind, in scikit-learn's own hands; and what objects say of themselves."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

import dongu
from dongu.errors import DataError, UsageError

TEXTS = [f"word{i % 2} film {i}" for i in range(40)]
LABELS = [(7, -1)[i % 2] for i in range(40)]


@pytest.fixture(scope="module")
def quick(tiny_model: Callable[..., str]) -> dict[str, Any]:
    return {"model": tiny_model(), "max_steps": 30, "learning_rate": 5e-3, "threads": 1, "device": "cpu"}


def test_fit_and_predict(quick: dict[str, Any]) -> None:
    made = dongu.TextClassifier(**quick)
    with pytest.raises(NotFittedError):
        made.predict(TEXTS)
    assert made.fit(TEXTS, LABELS) is made
    assert made.classes_.tolist() == [-1, 7], "of their own type, sorted"
    probabilities = made.predict_proba(TEXTS)
    assert probabilities.shape == (40, 2)
    assert probabilities.sum(1) == pytest.approx(np.ones(40))
    assert made.predict(TEXTS).tolist() == made.classes_[probabilities.argmax(1)].tolist()
    assert made.score(TEXTS, LABELS) > 0.9
    assert made.predict(np.array(TEXTS[:3])).tolist() == made.predict(pd.Series(TEXTS[:3])).tolist()
    assert made.predict([]).shape == (0,)
    folder = made.run_
    assert folder.exists()
    again = clone(made)
    assert again.get_params() == made.get_params()
    assert not hasattr(again, "classes_")
    del made
    gc.collect()
    assert not folder.exists()


def test_frames_and_pairs(quick: dict[str, Any], tmp_path: Path) -> None:
    labels = [("yes", "no")[i % 2] for i in range(40)]
    frame = pd.DataFrame({"premise": TEXTS, "label": "a film"}, index=range(100, 140))
    made = dongu.TextClassifier(**quick, out=str(tmp_path / "run")).fit(frame, labels)
    assert made.run_ == tmp_path / "run"
    pairs = list(zip(frame["premise"], frame["label"], strict=True))
    assert np.array_equal(made.predict(frame), made.predict(pairs))
    assert {*made.predict(pairs)} <= {"yes", "no"}


def test_it_is_pickled_and_copied_with_its_model(quick: dict[str, Any], tmp_path: Path) -> None:
    made = dongu.TextClassifier(**{**quick, "max_steps": 2}).fit(TEXTS, LABELS)
    folder, expected, saved = made.run_, made.predict_proba(TEXTS[:4]), pickle.dumps(made)
    alike = copy.copy(made)
    del made
    gc.collect()
    assert not folder.exists()
    for other in (alike, pickle.loads(saved)):
        assert other.run_.is_dir()
        assert other.run_ != folder
        assert np.array_equal(other.predict_proba(TEXTS[:4]), expected)
        assert other.classes_.tolist() == [-1, 7]
    assert pickle.loads(pickle.dumps(clone(alike))).get_params() == alike.get_params()
    before = alike.run_
    assert alike.fit(TEXTS, LABELS).run_.is_dir()
    assert not before.exists(), "of several fits one folder is left"


def test_classes_are_called_as_they_are(quick: dict[str, Any]) -> None:
    labels = [("10", "2, or -1")[i % 2] for i in range(40)]
    few = {**quick, "max_steps": 2}
    made = dongu.TextClassifier(**few, class_weights={"10": 2.0, "2, or -1": 1.0}, positive="10").fit(TEXTS, labels)
    assert dongu.load(made.run_).model.config.id2label == {0: "2, or -1", 1: "10"}, "the positive one last"
    assert made.classes_.tolist() == ["10", "2, or -1"]
    options = json.loads((made.run_ / "run.json").read_text(encoding="utf-8"))["options"]
    assert (options["class_weights"], options["positive"]) == ({"10": 2.0, "2, or -1": 1.0}, "10")
    own: dict[str, Any] = {"class_weights": {-1: 2.0, 7: 1.0}, "positive": -1}
    numbers = dongu.TextClassifier(**few, **own).fit(TEXTS, LABELS)
    assert dongu.load(numbers.run_).model.config.id2label == {0: "7", 1: "-1"}
    floats = dongu.TextClassifier(**few).fit(TEXTS, [label / 2 for label in LABELS])
    assert {*floats.predict(TEXTS)} <= {-0.5, 3.5}


APPLY = (  # to a classifier of texts; of these `check_estimator` itself takes the first alone, the others draw numbers
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_mixin_order",
    "check_get_params_invariance",
    "check_set_params",
    "check_estimators_unfitted",
)


@pytest.mark.filterwarnings("ignore:Can't test estimator:sklearn.exceptions.SkipTestWarning")
def test_scikit_learns_own_checks(quick: dict[str, Any]) -> None:
    made = dongu.TextClassifier(**quick)
    checked = estimator_checks.check_estimator(made, on_fail="raise", on_skip=None)
    assert [each["check_name"] for each in checked if each["status"] == "passed"] == [APPLY[0]]
    for name in APPLY:
        getattr(estimator_checks, name)("TextClassifier", made)


@pytest.mark.exhaustive
def test_what_scikit_learn_does_with_it(quick: dict[str, Any]) -> None:
    few = dongu.TextClassifier(**{**quick, "max_steps": 2})
    scores = cross_val_score(few, TEXTS, LABELS, cv=2, error_score="raise")
    assert scores.shape == (2,)
    search = GridSearchCV(few, {"max_steps": [1, 30]}, cv=2, error_score="raise").fit(TEXTS, LABELS)
    assert search.best_params_ == {"max_steps": 30}
    assert search.predict_proba(TEXTS[:2]).shape == (2, 2)
    line = make_pipeline(FunctionTransformer(lambda texts: [text.upper().lower() for text in texts]), few)
    assert line.fit(TEXTS, LABELS).predict(TEXTS[:3]).shape == (3,)


def test_what_it_refuses(quick: dict[str, Any]) -> None:
    given: dict[str, Any] = {"task": "regression", "rare": "join=5", "label_names": ["a", "b"], "abstain": 0.9}
    for name, value in given.items():
        with pytest.raises(UsageError, match=f"there is no option {name}"):
            dongu.TextClassifier(**{name: value})
    made = dongu.TextClassifier(**quick)
    with pytest.raises(ValueError, match="Invalid parameter 'epoch'"):
        made.set_params(epoch=3)
    for texts, labels, said in (
        ("one", ["a"], "one text is not a list of texts"),
        (TEXTS[:3], [1, 2], "one class for each row"),
        (TEXTS[:2], [["a"], ["b"]], "one class for each row"),
        ([("a", "b", "c")], ["a"], "neither texts nor pairs"),
        (TEXTS[:3], [1.0, float("nan"), 0.0], "y, row 2: there is no class"),
        (TEXTS[:3], ["a", None, "b"], "y, row 2: there is no class"),
        (TEXTS[:3], ["a", "", "b"], "y, row 2: there is no class"),
        (TEXTS[:2], ["a", "a"], "one class only, `a`"),
        (
            TEXTS * 40,
            [*range(40 * len(TEXTS))],
            r"has 1 row.* classes in all\)(.|\n)*task='regression'",
        ),
        (TEXTS[:3], ["a", "b", "b"], "y: the class `a` has 1 row(.|\n)*leave its row out of X and y"),
        (["a", None], ["a", "b"], "neither texts nor pairs"),
        ([], [], "there are no rows"),
    ):
        with pytest.raises(DataError, match=said):
            made.fit(texts, labels)


def test_what_objects_say_of_themselves(quick: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"text": text, "label": f"class {label}"} for text, label in zip(TEXTS, LABELS, strict=True)]
    loop = dongu.Loop({"train": rows, "validation": rows[:8]}, **quick)
    assert repr(loop) == f"<Loop {quick['model']} on {loop.data.name}: step 0 of 30>"
    next(iter(loop))
    assert repr(loop).endswith(": step 1 of 30>")
    said = repr(loop.evaluate("validation"))
    assert said.startswith("<Evaluation validation: 8 rows, loss 0.")
    assert len(said) < 100
    result = dongu.RunResult(tmp_path, {"accuracy": 0.75, "f1": float("nan")}, {})
    assert repr(result) == f"<RunResult {tmp_path}: accuracy 0.7500, f1 undefined on validation>"


def test_names_are_those_that_one_may_use() -> None:
    program = "import sys, dongu; print(*dir(dongu)); print(sorted({'torch', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    names, loaded = done.stdout.splitlines()
    assert {*dongu.__all__} <= {*names.split()}
    assert not {"Any", "TYPE_CHECKING", "annotations", "import_module"} & {*names.split()}
    assert loaded == "[]"


def test_without_scikit_learn() -> None:
    program = "import sys; sys.modules['sklearn'] = None\nimport dongu\ndongu.TextClassifier"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith('install it in a clone of dongu: pip install ".[sklearn]"')
