"""A model that is a finished classifier already: what it has learnt of its labels goes on, or is drawn anew."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import dongu
from conftest import cut_off_in_step, run_script
from dongu.cli.main import run as command
from dongu.eject.script import eject
from dongu.errors import ModelError
from dongu.model.head import head_of
from dongu.page.report import read_data
from dongu.run.derived import describe
from dongu.run.folder import RunFolder
from dongu.verify import verify

NAMES = ("POSITIVE", "NEGATIVE")  # not in the order of the alphabet
OPTIONS: dict[str, Any] = {"threads": 1, "epochs": 1, "lr": 1e-3}


def rows(count: int, names: Sequence[str] = NAMES, *, several: bool = False) -> list[dict[str, Any]]:
    return [
        {
            "text": f"word{i} film " + ("good " if i % 2 == 0 else "bad ") * 3,
            "label": [names[i % 2]] if several else names[i % 2],
        }
        for i in range(count)
    ]


def numbers(count: int, mean: float = 65.0, std: float = 10.0) -> list[dict[str, str]]:
    return [{"text": "film " + "good " * (i % 7), "score": repr(mean + std * (i % 7 - 3) / 2)} for i in range(count)]


def both(make: Callable[..., Any], *arguments: Any, **options: Any) -> dict[str, Any]:
    return {"train": make(60, *arguments, **options), "validation": make(20, *arguments, **options)}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]) -> Callable[[str], Path]:
    """`classifier(kind)`: the folder of a trained model of two labels, or of several a row, or of numbers."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            out = tmp_path_factory.mktemp(kind)
            data = both(numbers) if kind == "regression" else both(rows, several=kind == "multi-label")
            options: dict[str, Any] = {"label_column": "score", "task": "regression"} if kind == "regression" else {}
            run = dongu.train(data, model=tiny_model(), out=str(out / "run"), threads=1, epochs=8, lr=5e-3, **options)
            made[kind] = run.path / "model"
        return made[kind]

    return make


def turned(model: Path, out: Path, names: Sequence[str] = NAMES, **changes: Any) -> Path:
    """The same classifier, with its outputs in the order of these names."""
    model = Path(shutil.copytree(model, out))
    loaded = AutoModelForSequenceClassification.from_pretrained(model)
    own = [loaded.config.id2label[i] for i in range(len(names))]
    if sorted(own) == sorted(names):
        place = [own.index(name) for name in names]
        with torch.no_grad():
            for parameter in head_of(loaded)[1].parameters():  # type: ignore[index]
                parameter.copy_(parameter[place].clone())
    loaded.save_pretrained(model)
    file = model / "config.json"
    config = json.loads(file.read_text("utf-8")) | {"id2label": dict(enumerate(names))} | changes
    config["label2id"] = {name: i for i, name in enumerate(names)}
    file.write_text(json.dumps(config), "utf-8")
    return model


@pytest.mark.cases(test=1, ci=2)
@pytest.mark.found("label-order-of-a-classifier")
@pytest.mark.parametrize("kind", ["single-label", "multi-label"])
@pytest.mark.parametrize("extra", [{}, {"lora": 2}])
def test_a_classifier_of_the_same_labels_goes_on(
    kind: str, extra: dict[str, Any], classifier: Callable[[str], Path], tmp_path: Path
) -> None:
    """With its own order of them, so that it answers as it did; and so do all who read the run."""
    several = kind == "multi-label"
    model = turned(classifier(kind), tmp_path / "model", threshold=0.3)
    loop = dongu.Loop(both(rows, several=several), model=str(model), **OPTIONS, **extra)
    assert loop.data.label_names == NAMES
    assert [loop.model.config.id2label[i] for i in range(2)] == [*NAMES]
    assert loop.model.new_head is None
    assert not several or loop.model.config.threshold == 0.3
    assert loop.evaluate()["average_precision" if several else "accuracy"] == 1.0


@pytest.mark.crash
@pytest.mark.found("label-order-of-a-classifier")
def test_everyone_who_reads_the_run_has_its_order(classifier: Callable[[str], Path], tmp_path: Path) -> None:
    model = turned(classifier("single-label"), tmp_path / "model")
    file, out = tmp_path / "rows.jsonl", tmp_path / "run"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(80)), "utf-8")  # a part of train is held out
    options = ["--model", str(model), "--threads", "1", "--epochs", "1", "--engine", "plain"]
    assert command(["train", str(file), "--out", str(out), *options]) == 0
    config = json.loads((out / "model" / "config.json").read_text("utf-8"))
    assert [config["id2label"][key] for key in "01"] == [*NAMES]
    assert json.loads((out / "results.json").read_text("utf-8"))["validation"]["accuracy"]["value"] == 1.0
    assert [proof.text for proof in verify(out) if not proof.holds] == []
    assert dongu.load(out).evaluate_own()["validation"]["accuracy"] == 1.0
    assert [answer["prediction"] for answer in dongu.load(out).predict(["good good", "bad bad"])] == [*NAMES]
    assert read_data(RunFolder(out)) is not None
    # The same rows are held out whatever the order of the labels, and a plain script holds them out too.
    held = dongu.Loop(str(file), model=str(classifier("single-label")), **OPTIONS).splits["validation"].ids
    assert np.array_equal(dongu.load(out).saved.own_examples()["validation"].ids, held)
    script = tmp_path / "train.py"
    script.write_text(eject(out), "utf-8")
    run_script(script, "--out", str(tmp_path / "plain"))
    assert (tmp_path / "plain" / "metrics.jsonl").read_bytes() == (out / "metrics.jsonl").read_bytes()


@pytest.mark.crash
@pytest.mark.found("label-order-of-a-classifier")
def test_another_order_of_the_labels_is_another_run(classifier: Callable[[str], Path], tmp_path: Path) -> None:
    model, out = turned(classifier("single-label"), tmp_path / "model"), tmp_path / "run"
    with cut_off_in_step(3):
        dongu.train(both(rows), model=str(model), out=str(out), save_steps=2, **OPTIONS)
    shutil.rmtree(model)
    turned(classifier("single-label"), model, NAMES[::-1])
    with pytest.raises(dongu.DonguError, match=r'the labels are \["NEGATIVE", "POSITIVE"\], and were'):
        dongu.resume(out, both(rows))


@pytest.mark.cases(test=2, ci=5)
@pytest.mark.found("head-of-another-task")
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"names": ("LABEL_0", "LABEL_1")}, r"for other labels \(LABEL_0, LABEL_1\)"),
        ({"names": ("Positive", "Negative")}, r"for other labels \(Positive, Negative\)"),
        ({"names": ("sports", "politics")}, r"for other labels \(sports, politics\)"),
        ({"problem_type": "multi_label_classification"}, r"for another task \(multi_label_classification\)"),
        ({"problem_type": "regression"}, r"for another task \(regression\)"),
    ],
)
def test_a_head_for_something_else_is_drawn_anew(
    changes: dict[str, Any], why: str, classifier: Callable[[str], Path], tmp_path: Path
) -> None:
    """By the seed alone, whatever it was; the header and run.json say why."""
    model = turned(classifier("single-label"), tmp_path / "model", **changes)
    loops = [dongu.Loop(both(rows), model=str(model), seed=seed, **OPTIONS) for seed in (5, 5, 6)]
    first, again, other = (head_of(loop.model)[1].weight for loop in loops)  # type: ignore[index]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert loops[0].data.label_names == ("NEGATIVE", "POSITIVE")
    assert loops[0].model.new_head.replaced
    head = dict(describe(loops[0]))["head"]
    assert head.startswith("new, initialized by --seed 5: the model's own is ")
    assert dongu.Loop(both(rows), model=str(model), **OPTIONS).evaluate()["loss"] > 0.3, "and knows nothing"
    assert re.search(why, head)


@pytest.mark.found("head-of-another-task")
@pytest.mark.parametrize(("kind", "why"), [("encoder", "; a new head"), ("three", "for other labels"), ("own", "")])
def test_the_header_says_what_became_of_the_head(
    kind: str, why: str, classifier: Callable[[str], Path], tiny_model: Callable[..., str]
) -> None:
    model = tiny_model() if kind == "encoder" else str(classifier("single-label"))
    data = both(rows)
    if kind == "three":
        data["train"] += [{"text": "neither", "label": "NEUTRAL"}] * 3
    loop = dongu.Loop(data, model=model, **OPTIONS)
    lines = dict(describe(loop))
    head = lines["model" if kind == "encoder" else "head"]  # it is the usual case
    assert ("head" in lines) == (kind != "encoder")
    assert why in head if why else head == "the model's own, with its labels in its own order"
    assert loop.model.new_head is None or not loop.model.new_head.replaced, "drawn as it always was"


@pytest.mark.found("head-of-another-task")
def test_a_plain_script_draws_the_same_head(classifier: Callable[[str], Path], tmp_path: Path) -> None:
    model, out = turned(classifier("single-label"), tmp_path / "model", ("LABEL_0", "LABEL_1")), tmp_path / "run"
    compare_with_script(tmp_path, rows(60), out, model=str(model))


@pytest.mark.cases(test=0, ci=1)
@pytest.mark.found("regression-unit")
@pytest.mark.parametrize(("mean", "std"), [(65.0, 10.0), (60.0, 3.0), (65.0, 40.0)])
def test_a_regression_goes_on_in_its_unit(
    mean: float, std: float, classifier: Callable[[str], Path], tmp_path: Path
) -> None:
    """Whatever the mean and the deviation of the new rows, its first answers are those that it gave."""
    model, data = classifier("regression"), both(numbers, mean, std)
    loop = dongu.Loop(data, model=str(model), label_column="score", task="regression", **OPTIONS)
    texts = [row["text"] for row in data["validation"]]
    given = [answer["prediction"] for answer in dongu.load(model.parent).predict(texts)]
    assert loop.evaluate().logits[:, 0] == pytest.approx(given, abs=1e-3)
    assert loop.model.new_head is None


@pytest.mark.crash
@pytest.mark.found("regression-unit")
def test_a_plain_script_goes_on_in_the_unit(classifier: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    compare_with_script(tmp_path, numbers(60, 60.0, 5.0), out, model=str(classifier("regression")), task="regression")
    assert [proof.text for proof in verify(out) if not proof.holds] == []


@pytest.mark.found("head-of-another-task")
def test_a_number_by_another_name_has_a_new_head(classifier: Callable[[str], Path]) -> None:
    data = {
        name: [{"text": row["text"], "price": row["score"]} for row in part] for name, part in both(numbers).items()
    }
    loop = dongu.Loop(data, model=str(classifier("regression")), label_column="price", task="regression", **OPTIONS)
    assert loop.model.new_head.why == "the model's own is for other labels (score)"


def compare_with_script(folder: Path, data: list[dict[str, Any]], out: Path, **options: Any) -> None:
    """Train, eject, run the script: its log is the run's."""
    for name in ("train", "validation"):
        (folder / "data").mkdir(exist_ok=True)
        cells = "".join(json.dumps({"n": name, **row}) + "\n" for row in data[: None if name == "train" else 20])
        (folder / "data" / f"{name}.jsonl").write_text(cells, "utf-8")
    dongu.train(str(folder / "data"), out=str(out), label_column=[*data[0]][-1], engine="plain", **OPTIONS, **options)
    (folder / "train.py").write_text(eject(out), "utf-8")
    run_script(folder / "train.py", "--out", str(folder / "plain"))
    assert (folder / "plain" / "metrics.jsonl").read_bytes() == (out / "metrics.jsonl").read_bytes()


def test_a_run_in_place_of_its_model_is_told(classifier: Callable[[str], Path]) -> None:
    run = classifier("single-label").parent
    with pytest.raises(ModelError, match=rf"it is a run: train on from its model, --model {run}/model"):
        dongu.Loop(both(rows), model=str(run))
