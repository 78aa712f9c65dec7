"""A run as an ONNX graph: the same answers without torch, or nothing at all."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import io
import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import dongu
from conftest import ROOT, WORDS, checked
from dongu.cli.main import run as run_command
from dongu.cli.share import PACKAGES
from dongu.errors import ModelError
from dongu.export import folder as exporting
from dongu.export.onnx import write_onnx
from dongu.files import Disk
from dongu.model.graph import OnnxModel
from dongu.model.load import load_model, load_tokenizer, model_columns
from dongu.model.safety import GRAPH, GRAPH_INT8

missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason="the extra [onnx] is not installed")

HOSTILE = ('<b>"bold" `x`</b>', "class1\u2028---\tevil: true", "sınıf")  # names of classes
LENGTH = 12  # tokens a row at most, so that long texts are cut


@pytest.fixture(scope="module")
def runs(tiny_model: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """`runs(kind)`: a trained run of this kind, to be read only."""
    folder, made = tmp_path_factory.mktemp("runs"), set()

    def labelled(kind: str, row: int, text: str) -> dict[str, Any]:
        if kind == "numbers":
            return {"text": f"{text} word{row % 5}", "label": 2000.5 + 10 * (row % 5)}
        if kind == "sets":
            return {"text": f"{text} word{row % 3}", "label": ["word0", HOSTILE[0]][: row % 3]}
        return {"one": f"word{row % 3} {text}", "other": f"word{row % 3} bad", "label": HOSTILE[row % 3]}

    def make(kind: str) -> Path:
        if kind not in made:
            draw = random.Random(5)
            texts = [" ".join(draw.choices(WORDS, k=draw.randint(2, 20))) for _ in range(132)]
            rows = [json.dumps(labelled(kind, row, text)) for row, text in enumerate(texts)]
            data = folder / f"{kind}-data"
            data.mkdir()
            for split, part in {"train": rows[:72], "validation": rows[72:]}.items():
                (data / f"{split}.jsonl").write_text("\n".join(part) + "\n", encoding="utf-8")
            options = ["--max-length", str(LENGTH), "--lr", "5e-3", "--epochs", "2", "--device", "cpu"]
            options += ["--text-columns", "one", "other", "--calibrate"] if kind == "classes" else []
            out = str(folder / kind)
            assert run_command(["train", str(data), "--model", tiny_model(dropout=0.1), "--out", out, *options]) == 0
            made.add(kind)
        return folder / kind

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DONGU_CACHE", str(folder / "cache"))
        yield make


@pytest.fixture(scope="module")
def exported(runs: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The run of classes, of pairs of texts, exported with int8, and what `--json` says of it."""
    run, out = str(runs("classes")), tmp_path_factory.mktemp("exported") / "new" / "onnx"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert run_command(["export", run, "--out", str(out), "--int8", "--json"]) == 0
    return out, checked(said.getvalue())


def example_of(folder: Path) -> str:
    [example] = re.findall(r"^```python\n(.*?)^```", (folder / "README.md").read_text("utf-8"), re.M | re.S)
    assert set(re.findall(r"^import (\w+)", example, re.M)) == {"json", "numpy", "onnxruntime", "tokenizers"}
    assert set(re.findall(r"^from (\w+)", example, re.M)) == {"pathlib"}
    return str(example)


def said_by(example: str, folder: Path) -> list[str]:
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as said:
        exec(example, {})
    return said.getvalue().splitlines()


def test_a_model_of_pairs_is_one_without_its_run(
    exported: tuple[Path, dict[str, Any]],
    runs: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two texts are one pair, and not two rows with an answer each."""
    alone = shutil.copytree(runs("classes") / "model", tmp_path / "alone")
    capsys.readouterr()
    for place in (exported[0], alone):
        assert run_command(["predict", str(place), "one text", "another text"]) == 0
        [line] = capsys.readouterr().out.splitlines()
        assert line.endswith("\tone text | another text")
    rows = tmp_path / "rows.csv"
    rows.write_text("premise,hypothesis,label\none text,another text,0\n", encoding="utf-8")
    assert run_command(["evaluate", str(alone), str(rows)]) == 2
    assert "--text-columns names others" in capsys.readouterr().err
    content = json.loads((alone / "config.json").read_text(encoding="utf-8"))
    for other in (7, ["text"], ["text", "text"], ["a", "b", "c"]):  # of another program
        (alone / "config.json").write_text(json.dumps({**content, "text_columns": other}), encoding="utf-8")
        assert run_command(["predict", str(alone), "one text", "another text"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_full_disk_is_told_from_a_graph_that_cannot_be(
    runs: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter leaves half a file without a word, of which the next step knows no more than that it is none."""

    def of_half_a_file(*_: Path) -> None:
        raise ModelError("the graph cannot be quantized to eight bits (Wire format was corrupt)")

    monkeypatch.setattr("dongu.export.folder.write_int8", of_half_a_file)
    command = ["export", str(runs("classes")), "--out", str(tmp_path / "onnx"), "--int8"]
    assert run_command(command) == 2
    usage = SimpleNamespace(total=1 << 30, used=1 << 30, free=0)
    monkeypatch.setattr("dongu.export.folder.shutil.disk_usage", lambda _: usage)
    capsys.readouterr()
    assert run_command(command) == 6
    assert "cannot write (No space left on device)" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_the_folder_and_what_is_said_of_it(exported: tuple[Path, dict[str, Any]], runs: Callable[[str], Path]) -> None:
    import onnx

    out, said = exported
    names = {"onnx", "README.md", "config.json", "calibration.json"}
    assert {path.name for path in out.iterdir()} == names | {"tokenizer.json", "tokenizer_config.json"}
    graphs = ["model.onnx", "model_quantized.onnx"]  # where transformers.js and Optimum look for them
    assert sorted(path.name for path in (out / "onnx").iterdir()) == graphs
    assert [path.name for path in out.parent.iterdir()] == ["onnx"]
    for name in ("config.json", "calibration.json"):
        assert (out / name).read_bytes() == (runs("classes") / "model" / name).read_bytes()
    model, graph, small = (said["forms"][name] for name in ("model", GRAPH, GRAPH_INT8))
    assert 0 < graph["difference"] <= 1e-5 < 1e-4 < small["difference"], "int8 is another model, and is measured"
    assert graph["size_bytes"] == (out / GRAPH).stat().st_size
    tensors = onnx.load(out / GRAPH_INT8).graph.initializer
    weights = [onnx.numpy_helper.to_array(each) for each in tensors if each.data_type == onnx.TensorProto.INT8]
    assert weights, "a tiny file is not made smaller by it"
    # A processor without VNNI adds two products with activations of eight bits in sixteen.
    assert 2 * 255 * max(int(np.abs(each.astype(int)).max()) for each in weights) < 2**15
    written = json.loads((runs("classes") / "results.json").read_text(encoding="utf-8"))["validation"]
    for metric in ("loss", "accuracy", "macro_f1"):
        for form in (model, graph):
            assert form["results"][metric]["value"] == pytest.approx(written[metric]["value"], rel=1e-5)
            assert form["results"][metric]["low"] == pytest.approx(written[metric]["low"], rel=1e-5)
    assert (model["lost"], graph["lost"]) == ({}, {})
    assert [*small["lost"]] == [
        "loss",
        *(name for name in small["results"] if name in small["lost"] and name != "loss"),
    ]
    for metric, lost in small["lost"].items():
        difference = small["results"][metric]["value"] - model["results"][metric]["value"]
        assert lost["value"] == pytest.approx(difference, abs=1e-12), metric
        assert lost["low"] <= lost["value"] <= lost["high"], metric
    one, other, both = (
        entry["high"] - entry["low"]
        for entry in (model["results"]["loss"], small["results"]["loss"], small["lost"]["loss"])
    )
    assert 0 < both**2 < one**2 + other**2, "pairs tell more than two samples"
    assert said["rows"] == model["same"] == graph["same"]
    assert all(form["rows_a_second"] > 0 for form in said["forms"].values())
    readme = (out / "README.md").read_text(encoding="utf-8")
    assert f"| accuracy | {written['accuracy']['value']:.4f} (" in readme
    assert re.search(r"^- (no difference in accuracy that these|int8 is better|the model is better)", readme, re.M)
    assert not any(line in readme for label in HOSTILE for line in label.splitlines())


def test_the_graph_answers_as_predict_does(exported: tuple[Path, dict[str, Any]], runs: Callable[[str], Path]) -> None:
    """Any number of rows of any length: cut, padded, one alone; with the temperature in the head."""
    import onnxruntime
    from tokenizers import Tokenizer

    out, _ = exported
    classifier = dongu.load(runs("classes"), device="cpu")
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    session = onnxruntime.InferenceSession(out / GRAPH)
    labels = json.loads((out / "config.json").read_text(encoding="utf-8"))["id2label"]
    for ones in (["good"], ["word1 " * 90, "word0 a", "unheard of"], ["bad"] * 7, ["the film was bad", "a film was"]):
        texts = [(one, "a bad film") for one in ones]
        rows = tokenizer.encode_batch(texts)
        assert max(len(row.ids) for row in rows) <= LENGTH
        columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        inputs = {name: np.array([getattr(row, field) for row in rows]) for name, field in columns.items()}
        [logits] = session.run(None, inputs)
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        for row, answer in zip(probabilities, classifier.predict(texts), strict=True):
            found = {labels[str(i)]: float(value) for i, value in enumerate(row)}
            assert found == pytest.approx(answer["probabilities"], abs=1e-5)


@pytest.mark.cases(test=1, ci=3)
@pytest.mark.parametrize("kind", ["classes", "sets", "numbers"])
def test_the_example_of_the_readme_runs(
    kind: str, runs: Callable[[str], Path], exported: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    out = exported[0] if kind == "classes" else runs(kind) / "onnx"
    if kind != "classes":
        capsys.readouterr()
        assert run_command(["export", str(runs(kind))]) == 0
        said = capsys.readouterr().out.splitlines()
        assert re.match(
            r"onnx/model\.onnx: 0\.1 MB; on 60 rows of validation its \w+ are at most [0-9.e+-]+ from", said[0]
        )
        assert said[-1] == f"wrote {out}; its README.md shows how to use it"
    example = example_of(out)
    assert len([line for line in example.splitlines() if line and "import" not in line]) <= 10
    pairs = [("one text", "another text"), ("a third", "a fourth")]
    texts = pairs if kind == "classes" else ["a text", "another text"]
    shown = said_by(example, out)
    for line, answer in zip(shown, dongu.load(runs(kind), device="cpu").predict(texts), strict=True):
        given = answer["prediction"]
        if kind == "numbers":
            assert 1990 < float(line) < 2060
            assert float(line) == pytest.approx(given, rel=1e-6)
        elif kind == "sets":
            assert line.startswith(f"{given} [")
        else:
            assert line.startswith(f"{given} ")
            assert float(line.split()[-1]) == pytest.approx(answer["probabilities"][given], abs=1e-5)


@pytest.mark.parametrize("kind", ["classes", "sets", "numbers"])
def test_the_example_of_the_card_runs(kind: str, runs: Callable[[str], Path]) -> None:
    """As it stands, with transformers alone, in the folder of the model: one text, or a pair."""
    folder = runs(kind) / "model"
    [example] = re.findall(r"^```python\n(.*?)^```", (folder / "README.md").read_text("utf-8"), re.M | re.S)
    [shown] = said_by(example, folder)
    [answer] = dongu.load(runs(kind), device="cpu").predict(
        [("a text", "another text") if kind == "classes" else "a text"]
    )
    if kind == "numbers":
        assert float(shown) == pytest.approx(answer["prediction"], rel=1e-5)
    elif kind == "sets":
        assert shown == str(sorted(answer["prediction"], key=lambda name: -answer["probabilities"][name]))
    else:
        assert shown.startswith(f"{answer['prediction']} ")
        assert float(shown.split()[-1]) == pytest.approx(max(answer["probabilities"].values()), abs=1e-5)


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_javascript_answers_as_the_model_does(
    kind: str, runs: Callable[[str], Path], exported: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """The README's lines in Node, by transformers.js, whose files `make javascript` fetches."""
    node, packages = shutil.which("node"), Path(os.environ.get("DONGU_NODE", ROOT / "build" / "node")) / "node_modules"
    if node is None or not (packages / "@huggingface" / "transformers").is_dir():
        pytest.skip("needs node, and transformers.js: make javascript")
    out = exported[0]
    if kind == "numbers":
        out = tmp_path / "exported"
        assert run_command(["export", str(runs(kind)), "--out", str(out)]) == 0
    [example] = re.findall(r"^```js\n(.*?)^```", (out / "README.md").read_text("utf-8"), re.M | re.S)
    (tmp_path / "node_modules").symlink_to(packages)
    program = tmp_path / "example.mjs"
    classifier = dongu.load(runs(kind), device="cpu")
    pairs = kind == "classes"
    # A text that is too long is cut; of a pair transformers.js cuts what is last, and not the longer one.
    for text in ("a text", "a text" if pairs else "word1 film " * 90):
        lines = example.replace('"NAME"', json.dumps(out.name)).replace('"q8"', '"fp32"')
        program.write_text(lines.replace('["one text"]' if pairs else '["a text"]', json.dumps([text])), "utf-8")
        done = subprocess.run([node, program], cwd=out, capture_output=True, text=True, timeout=60, check=True)
        split = classifier.split([[text], ["another text"]] if pairs else [[text]])
        found = json.loads(done.stdout.replace("'", '"'))
        assert np.array(found) == pytest.approx(classifier.logits(split), rel=1e-4, abs=1e-4), text


@pytest.mark.cases(test=2, ci=6)
@pytest.mark.parametrize("family", ["distilbert", "roberta", "mpnet", "modernbert", "gpt2", "llama"])
def test_families(family: str, tiny_model: Callable[..., str], tmp_path: Path) -> None:
    """Rows of other numbers and lengths than those of the trace, with padding and without.

    ModernBERT's local layers see eight tokens here, and the rows of the trace are shorter.
    """
    path = tiny_model(family, 0.1)
    if family == "modernbert":
        path = str(shutil.copytree(path, tmp_path / "model"))
        file = tmp_path / "model" / "config.json"
        config = json.loads(file.read_text(encoding="utf-8")) | {"local_attention": 8, "sliding_window": 8}
        file.write_text(json.dumps({**config, "layer_types": ["full_attention", "sliding_attention"]}), "utf-8")
    tokenizer = load_tokenizer(path)
    pad = tokenizer.pad_token_id
    model = load_model(path, label_names=["a", "b", "c"], task="single-label", pad_token_id=pad, seed=1).eval()

    def rows(*lengths: int) -> dict[str, torch.Tensor]:
        ids = torch.full((len(lengths), max(lengths)), pad)
        for row, length in enumerate(lengths):
            ids[row, :length] = torch.arange(5 + row, 5 + row + length) % 60 + 1
        inputs = {"input_ids": ids, "attention_mask": (ids != pad).long(), "token_type_ids": torch.zeros_like(ids)}
        return {name: inputs[name] for name in model_columns(model) if name in tokenizer.model_input_names}

    write_onnx(model, rows(3, 5), tmp_path / "model.onnx")
    assert not model.training
    graph = OnnxModel(tmp_path / "model.onnx", model.config)
    for lengths in ((3, 5), (1,), (40, 2, 17), (8, 8, 8, 8), (60,)):
        with torch.no_grad():
            expected = model(**rows(*lengths)).logits
        assert expected.abs().max() > 0.05
        torch.testing.assert_close(graph(**rows(*lengths)).logits, expected, rtol=0, atol=5e-6)


def test_a_graph_that_answers_otherwise_is_refused(
    runs: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = OnnxModel.forward

    def wrong(self: OnnxModel, **inputs: torch.Tensor) -> Any:
        answer = forward(self, **inputs)
        answer.logits[0, 0] += 2e-3
        return answer

    monkeypatch.setattr(OnnxModel, "forward", wrong)
    assert run_command(["export", str(runs("classes")), "--out", str(tmp_path / "onnx")]) == 2
    what, hint = capsys.readouterr().err.splitlines()[-2:]  # to make the model may have drawn a bar
    assert "BertForSequenceClassification as ONNX: the graph's logits are up to 2.0e-03 from the model's" in what
    assert hint.startswith("nothing was written")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_traced_is_said(tmp_path: Path) -> None:
    class Odd(torch.nn.Module):
        def forward(self, **_: torch.Tensor) -> Any:
            raise RuntimeError("no such operator\nand much more")

    with pytest.raises(dongu.DonguError, match=r"^the model cannot be written as ONNX \(no such operator\)\nnothing"):
        write_onnx(Odd(), {"input_ids": torch.ones(1, 1)}, tmp_path / "model.onnx")
    (tmp_path / "no.onnx").write_bytes(b"no graph")
    with pytest.raises(dongu.DonguError, match="the graph cannot be read"):
        OnnxModel(tmp_path / "no.onnx", None)
    huge = torch.nn.Module()
    huge.register_buffer("weights", torch.empty(0).expand(2**30, 0))
    huge.weights = torch.empty(1).expand(2**30)  # four gigabytes that take no memory
    with pytest.raises(dongu.DonguError, match=r"has 4\.3 GB of weights"):
        write_onnx(huge, {}, tmp_path / "model.onnx")


def test_nothing_is_overwritten_and_nothing_left(
    runs: Callable[[str], Path],
    exported: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, (out, _) = str(runs("classes")), exported
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for taken in (out, out / GRAPH):
        assert run_command(["export", run, "--out", str(taken)]) == 2
        assert "nothing was touched" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    write = Disk.write

    def full(self: Disk, path: Path, content: bytes) -> None:
        if path.name == "README.md":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(self, path, content)

    monkeypatch.setattr(Disk, "write", full)
    assert run_command(["export", run, "--out", str(tmp_path / "onnx")]) == 6
    assert "No space left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()

    def slow(*arguments: Any) -> None:
        (tmp_path / "onnx").mkdir()
        (tmp_path / "onnx" / "mine").touch()

    monkeypatch.setattr(exporting, "_copy_settings", slow)
    assert run_command(["export", run, "--out", str(tmp_path / "onnx")]) == 2
    assert [path.name for path in (tmp_path / "onnx").iterdir()] == ["mine"], "somebody came meanwhile"


def test_bad_input(
    runs: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(runs("classes"))
    for arguments, said in {
        (str(tmp_path),): "is not a run: it has no run.json",
        (run, "--format", "tflite"): "invalid choice: 'tflite'",
        (run, "missing.csv", "--out", str(tmp_path / "x")): "missing.csv: no such file or folder",
        (run, str(runs("numbers").with_name("numbers-data")), "--out", str(tmp_path / "x")): "one",
        (run, "--out", str(tmp_path / "\0")): "cannot be looked at",
    }.items():
        assert run_command(["export", *arguments]) == 2, arguments
        assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("dongu.extras._installed", lambda name: name != "onnxruntime")
    assert run_command(["export", run]) == 2
    what, hint = capsys.readouterr().err.splitlines()[-2:]  # to make the model may have drawn a bar
    assert what == "dongu: error: dongu export: needs the package onnxruntime"
    assert hint == 'install it in a clone of dongu: pip install ".[onnx]"'
