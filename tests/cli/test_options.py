"""Options of a run as a type checker knows them: the same names and types as `RunConfig` has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from conftest import ROOT
from dongu import config
from dongu.config import RunConfig
from dongu.estimator import REPLACED
from dongu.options import FitOptions, LoadOptions, Options
from dongu.own import PARTS

SEVERAL = ("text_columns", "label_names", "label_column", "columns", "track")  # that may be given as a list
PATHS = ("out",)


def spelt(name: str) -> str:
    """The type of an option in words: as a person would write what `RunConfig` takes."""
    names = [*_spelt(get_type_hints(RunConfig, include_extras=True)[name])]
    if name in SEVERAL and "Sequence[str]" not in names and "Sequence[Tracker]" not in names:
        names.insert(1, "Sequence[str]")
    if name in PATHS:
        names.insert(1, "Path")
    none = ["None"] if "None" in names else []
    return " | ".join([*(each for each in names if each != "None"), *none])


def _spelt(annotation: Any) -> list[str]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _spelt(arguments[0])
    if origin in (Union, UnionType):
        return [name for argument in arguments for name in _spelt(argument)]
    if origin is tuple:
        [name] = _spelt(arguments[0])
        return [name, f"Sequence[{name}]"]
    if origin is dict:
        return ["Mapping[str, float]"]
    if origin is Literal:
        known = {getattr(config, name): name for name in ("Scheduler", "Task", "Tracker")}
        if annotation == config.Metric:
            return []  # or the name of a metric of one's own: a text
        values = ", ".join(map(repr, arguments))
        return [known.get(annotation) or f"Literal[{values}]"]
    return ["None" if annotation is NoneType else annotation.__name__]


def test_each_option_has_the_type_of_the_config() -> None:
    written = {
        name: getattr(hint, "__forward_arg__", hint)
        for kind in (FitOptions, Options)
        for name, hint in kind.__annotations__.items()
    }
    parts = {name for name in PARTS if name != "columns"}
    assert written.keys() - {"lr"} == (RunConfig.model_fields.keys() - {"data"}) | parts
    plain = [name for name in RunConfig.model_fields if name != "data" and name not in parts]
    assert {name: written[name] for name in plain} == {name: spelt(name) for name in plain}
    assert written["lr"] == written["learning_rate"]


def test_a_model_is_loaded_with_options_of_the_same_types() -> None:
    known = {**FitOptions.__annotations__, **Options.__annotations__}
    assert LoadOptions.__annotations__.items() <= known.items()


def test_an_estimator_takes_what_fit_is_not_given() -> None:
    assert FitOptions.__annotations__.keys() - {"lr"} == RunConfig.model_fields.keys() - {*REPLACED}


SNIPPET = """\
import dongu

dongu.train("reviews.csv", model="minilm", epochs=3, learning_rate=2e-5, lr_scheduler="cosine", patience=None)
dongu.train("reviews.csv", epoch=3)
dongu.train("reviews.csv", batch_size="8")
dongu.Loop("reviews.csv", engine="packd")
dongu.load("runs/reviews", device="cpu").predict("a text")
dongu.TextClassifier(epochs=1, fold="1/2")
dongu.train("reviews.csv", quiet=True, overwrite=True, class_weights={"spam": 5.0}, text_columns=["title", "body"])
reveal_type(dongu.compare("a", "b").pairs)
"""
WRONG = {4: "epoch", 5: "batch_size", 6: "engine", 8: "fold"}  # line: what the checker names


@pytest.mark.exhaustive
def test_a_type_checker_knows_the_options(tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(SNIPPET, encoding="utf-8")
    (tmp_path / "mypy.ini").write_text(
        f"[mypy]\nmypy_path = {ROOT / 'src'}\nfollow_imports = silent\n"
        "[mypy-torch.*,transformers.*,numpy.*,pydantic.*]\nfollow_imports = skip\nignore_missing_imports = True\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", "cache", "snippet.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    errors = [line for line in done.stdout.splitlines() if "snippet.py" in line and " error: " in line]
    assert [int(line.split(":")[1]) for line in errors] == [*WRONG], done.stdout
    assert all(f'"{name}"' in line for line, name in zip(errors, WRONG.values(), strict=True)), done.stdout
    assert 'Revealed type is "tuple[dongu.comparison.pairs.Pair' in done.stdout.replace("builtins.", "")
