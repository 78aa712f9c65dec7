"""A model is anything that can be named: a run, its model/, any classifier's folder, a name of the Hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dongu
from dongu.cli.main import run as command
from dongu.errors import InputError
from dongu.use.saved import SavedModel, run_of
from hub_standin import Hub, standing_in

TEXTS = ["word0 film", "word1 not"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]) -> Path:
    """A run of a file that lies beside it."""
    place = tmp_path_factory.mktemp("trained")
    rows = [{"text": f"word{i % 2} film {i}", "label": ("bad", "good")[i % 2]} for i in range(40)]
    for split, part in {"train": rows[:24], "validation": rows[24:]}.items():
        (place / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), "utf-8")
    dongu.train(str(place), model=tiny_model(), out=str(place / "run"), max_steps=4, threads=1, device="cpu")
    return place / "run"


@pytest.fixture
def alone(trained: Path, tmp_path: Path) -> Path:
    """The same classifier in a folder that tells of no run."""
    return Path(shutil.copytree(trained / "model", tmp_path / "classifier"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with standing_in(tmp_path / "cache", monkeypatch) as server:
        yield server


def test_every_name_gives_the_same_answers(trained: Path, alone: Path, hub: Hub) -> None:
    commit = hub.publish("models/owner/tiny", alone, revision="v1")
    answers = dongu.load(trained).predict(TEXTS)
    for name in (trained / "model", alone, "owner/tiny@v1", f"owner/tiny@{commit}"):
        assert dongu.load(name).predict(TEXTS) == answers, name
    assert run_of(trained) == run_of(trained / "model") == trained
    assert run_of(alone) is run_of("owner/tiny@v1") is None
    named = dongu.load("owner/tiny@v1")
    assert named.saved.name == f"owner/tiny@{commit}"
    assert repr(named) == f"<Classifier owner/tiny@{commit}: single-label, bad, good>"
    assert dongu.load(alone).config.max_length == dongu.load(trained).config.max_length, "the tokenizer's"


def test_what_config_json_says(alone: Path) -> None:
    config = json.loads((alone / "config.json").read_text("utf-8"))

    def task(**changes: Any) -> tuple[str, tuple[str, ...]]:
        (alone / "config.json").write_text(json.dumps({**config, **changes}), "utf-8")
        saved = SavedModel.open(alone)
        return saved.metrics.task, saved.label_names

    assert task() == ("single-label", ("bad", "good"))
    assert task(problem_type="multi_label_classification") == ("multi-label", ("bad", "good"))
    assert task(problem_type=None, id2label={"10": "c", "9": "b"}) == ("single-label", ("b", "c")), "by number"
    assert task(problem_type=None, id2label={"0": "score"}) == ("regression", ("score",))
    assert task(problem_type=None, id2label=None) == ("single-label", ("LABEL_0", "LABEL_1"))
    with pytest.raises(InputError, match="has 2 outputs of the task single-label, called yes, yes"):
        task(id2label={"0": "yes", "1": "yes"})
    with pytest.raises(InputError, match="has 2 outputs of the task regression"):
        task(problem_type="regression", id2label={"0": "a", "1": "b"})


def test_a_classifier_that_names_no_columns(alone: Path) -> None:
    model = dongu.load(alone)
    assert model.predict({"n": [1, 2], "text": TEXTS}) == model.predict(TEXTS), "by the usual names"
    assert model.predict({"words": TEXTS}) == model.predict(TEXTS), "or the only column"
    [pair] = model.predict([("word0", "film")])
    assert pair != model.predict(["word0"])[0]
    with pytest.raises(InputError, match="it is unclear which columns are the text"):
        model.predict({"a": TEXTS, "b": TEXTS})
    assert dongu.load(alone, text_columns="a").predict({"a": TEXTS, "b": TEXTS}) == model.predict(TEXTS)


def test_an_engine_that_answers_otherwise_is_not_used(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has compared it before, of a classifier that no run has trained."""
    model = dongu.load(alone)
    assert model.collate.flat
    answers = model.predict(TEXTS)
    monkeypatch.setattr("dongu.engine.packed.self_check", lambda *_: 0.01)
    other = dongu.load(alone)
    assert not other.collate.flat
    for one, two in zip(answers, other.predict(TEXTS), strict=True):
        assert one["probabilities"] == pytest.approx(two["probabilities"], abs=1e-5)


def test_the_commands_take_it(
    trained: Path, alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = str(trained.parent / "validation.jsonl")
    assert command(["evaluate", str(trained), "--json"]) == 0
    own = json.loads(capsys.readouterr().out)["validation"]
    assert command(["evaluate", str(alone), rows, "--json"]) == 0
    other = json.loads(capsys.readouterr().out)["validation"]
    assert other["accuracy"] == own["accuracy"]
    assert other["loss_low"] == own["loss_low"]
    assert command(["predict", str(alone), *TEXTS]) == 0
    assert [line.split("\t")[2] for line in capsys.readouterr().out.splitlines()] == TEXTS
    assert command(["predict", str(alone), "a", "b", "--text-columns", "one", "two"]) == 0
    assert capsys.readouterr().out.endswith("\ta | b\n")
    monkeypatch.chdir(tmp_path)
    copy = str(shutil.copytree(alone, tmp_path / "copy"))
    for arguments, said in {
        ("evaluate", str(alone)): f"{alone}: is not a run, and has no data of its own\ngive DATA",
        (
            "export",
            str(alone),
            rows,
        ): f"{alone}: is not a run, so it has no folder to write to\ngive --out FOLDER",
        ("compare", str(alone), copy): "none of them is a run",
        ("predict", "classifier/typo", "a"): "classifier/typo: is not a run: it has no run.json",
        ("predict", "nobody/nothing", "a"): "nobody/nothing: is not in the cache, or not all of it",
        ("predict", "minilm", "a"): "lacks weights (classifier",
    }.items():
        assert command(arguments) == 2, arguments
        assert said in capsys.readouterr().err


def test_a_run_is_compared_with_any_classifier(trained: Path, alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whose labels may have another order."""
    from safetensors.torch import load_file, save_file

    weights = load_file(alone / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name].flip(0).contiguous()
    save_file(weights, alone / "model.safetensors", {"format": "pt"})
    config = json.loads((alone / "config.json").read_text("utf-8"))
    config |= {"id2label": {"0": "good", "1": "bad"}, "label2id": {"good": 0, "bad": 1}}
    (alone / "config.json").write_text(json.dumps(config), "utf-8")
    assert command(["compare", str(trained / "model"), str(alone), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    one, two = (side["metrics"] for side in found["runs"])
    assert one["accuracy"]["value"] == two["accuracy"]["value"]
    assert two["loss"]["value"] == pytest.approx(one["loss"]["value"], rel=1e-5)
    assert found["pairs"][0]["rows"]["only_first"] == found["pairs"][0]["rows"]["only_second"] == 0
    assert found["differs"]["model"][1] == str(alone)
    config["id2label"] = {"0": "good", "1": "worse"}
    (alone / "config.json").write_text(json.dumps(config), "utf-8")
    assert command(["compare", str(trained), str(alone)]) == 2
    assert f"{alone}: answers good, worse (single-label), and {trained} bad, good" in capsys.readouterr().err


def test_a_name_that_the_hub_refuses(hub: Hub) -> None:
    with pytest.raises(InputError, match=r"^owner/nothing: is no model on the Hub"):
        dongu.load("owner/nothing")
    asked = len(hub.asked)
    with pytest.raises(InputError, match=r"^nothing: is not a run"):
        SavedModel.open("nothing")
    assert 0 < asked == len(hub.asked), "a word that may be a folder's name is sent nowhere"
