"""LoRA: what learns, what a checkpoint holds, and a saved model that nobody can tell from a plain one."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file, save
from transformers import AutoModelForSequenceClassification, pipeline

import dongu
from conftest import cut_off_in_step, unwrapped
from dongu.cli.main import run as run_command
from dongu.config import make_config
from dongu.errors import UsageError
from dongu.model.lora import count_parameters, merged, plain_weights
from dongu.model.optimizer import make_optimizer
from encoders import run_updates

RANK, RATE, DECAY = 3, 1e-2, 0.5
OPTIONS: dict[str, Any] = {"lora": RANK, "max_steps": 9, "lr": RATE, "save_steps": 2, "eval_steps": 4, "threads": 1}
LABELS: dict[str, Callable[[int], str]] = {
    "multi-label": lambda i: f"tag{i % 3}|other{i % 2}",
    "regression": lambda i: f"{i * 7 % 36}.5",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data")
    for name, count in {"train": 41, "validation": 13}.items():
        rows = [
            {"text": f"word{i % 7} word{i % 2} the film" + " a" * (i % 5), "label": f"class{i % 2}"}
            for i in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


@pytest.fixture(scope="module")
def whole(tiny_model: Callable[..., str], data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DONGU_CACHE", str(run.parent / "cache"))
        dongu.train(data, model=tiny_model(dropout=0.1), **OPTIONS, calibrate=True, out=str(run))
    return run


@pytest.mark.parametrize("family", ["bert", "albert", "deberta-v2", "modernbert", "mpnet", "gpt2", "llama"])
def test_merged_it_is_the_same_model(family: str, tiny_model: Callable[..., str]) -> None:
    """Beside the layers and in their weights: one function, with the names of a plain model; and back to the bit."""
    rows = [{"text": f"word{i % 9} good", "label": f"class{i % 2}"} for i in range(16)]
    loop = dongu.Loop(
        {"train": rows, "validation": rows[:4]}, model=tiny_model(family), lora=RANK, lr=RATE, max_steps=2
    )
    learning = {name: p.detach().clone() for name, p in loop.model.named_parameters() if p.requires_grad}
    frozen = {name: p.detach().clone() for name, p in loop.model.named_parameters() if not p.requires_grad}
    assert len(list(loop)) == 2
    named = dict(loop.model.named_parameters())
    assert all(torch.equal(named[name], tensor) for name, tensor in frozen.items())
    # After two updates both matrices have moved; a part of a head that no logit depends on does not.
    assert {name for name in learning if "lora" in name} <= {
        n for n in learning if not torch.equal(named[n], learning[n])
    }

    inputs = loop.tokenizer(["word1 good", "word3 bad the film"], padding=True, return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    before = {name: tensor.clone() for name, tensor in loop.model.state_dict().items()}
    with torch.no_grad():
        beside = loop.model.eval()(**inputs).logits
        with merged(loop.model):
            inside = loop.model(**inputs).logits
        assert torch.allclose(inside, beside, rtol=1e-4, atol=1e-5)
        plain = AutoModelForSequenceClassification.from_config(loop.model.config).eval()
        plain.load_state_dict(plain_weights(loop.model))
        assert torch.equal(plain(**inputs).logits, inside)
    assert all(torch.equal(tensor, before[name]) for name, tensor in loop.model.state_dict().items())
    assert count_parameters(loop.model)[0] == sum(parameter.numel() for parameter in plain.parameters())


def test_any_split_gives_the_same_update(tiny_model: Callable[..., str], data_folder: Callable[..., str]) -> None:
    data = data_folder(train=45, pair=True)
    whole, *split = [run_updates(data, tiny_model(), size, lora=RANK)[0] for size in (None, 7, 2)]
    for update in split:
        assert update == pytest.approx(whole, rel=1e-6)


def test_the_saved_model_needs_no_peft(whole: Path, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It loads as any model does, and answers what the run's own evaluation did, to the bit."""
    monkeypatch.setitem(sys.modules, "peft", None)
    results = json.loads((whole / "results.json").read_text())
    logged = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    best = next(line for line in logged if line["event"] == "evaluation" and line["step"] == results["best_step"])
    assert results["validation"]["accuracy"]["value"] == best["accuracy"]
    assert results["validation"]["calibration_error"]["before"] != results["validation"]["calibration_error"]["value"]

    _, found = AutoModelForSequenceClassification.from_pretrained(whole / "model", output_loading_info=True)
    assert not any(found.values())
    rows = [json.loads(line) for line in (whole / "predictions" / "validation.jsonl").read_text().splitlines()]
    texts = [json.loads(line)["text"] for line in (Path(data) / "validation.jsonl").read_text().splitlines()]
    answers = pipeline("text-classification", model=str(whole / "model"), device="cpu")(texts, top_k=None)
    for row, answer in zip(rows, answers, strict=True):
        assert {item["label"]: item["score"] for item in answer} == pytest.approx(row["probabilities"], abs=1e-6)
    assert run_command(["evaluate", str(whole)]) == 0


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks for it
def test_peft_loads_the_adapter(whole: Path, data: str, tiny_model: Callable[..., str]) -> None:
    """Beside the merged model, with the head that is divided by the temperature, on the model that was trained."""
    from peft import PeftModel

    saved = AutoModelForSequenceClassification.from_pretrained(whole / "model").eval()
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model(dropout=0.1), num_labels=2)
    adapted = PeftModel.from_pretrained(base, whole / "model" / "adapter").eval()
    config = json.loads((whole / "model" / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["task_type"], config["modules_to_save"]) == (
        RANK,
        "SEQ_CLS",
        ["bert.pooler", "classifier"],
    )
    inputs = torch.arange(24).reshape(3, 8) + 1
    with torch.no_grad():
        logits, wanted = (model(input_ids=inputs).logits for model in (adapted, saved))
    assert torch.allclose(logits, wanted, atol=1e-5)
    assert logits.std() > 1e-3, "rows that are told apart"
    written = load_file(whole / "model" / "adapter" / "adapter_model.safetensors")
    assert all(tensor.any() for name, tensor in written.items() if "lora_" in name), "not those of a model taken over"


def test_the_adapter_alone_is_no_model(whole: Path, data: str, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = whole / "model" / "adapter"
    for command in (["train", data, "--model"], ["predict"], ["evaluate"]):
        assert run_command([*command, str(adapter)]) == 2
        said = capsys.readouterr().err
        assert f"{adapter}: is an adapter of another model (adapter_config.json)" in said
        assert f"it is merged into the model beside it: give {whole / 'model'}\n" in said
    assert run_command(["predict", str(whole / "model"), "a text"]) == 0


def test_a_checkpoint_holds_what_learns(whole: Path) -> None:
    path = max((whole / "checkpoints").iterdir())
    weights = load_file(path / "weights.safetensors")
    assert {name.split(".")[-2] for name in weights if "lora" in name} == {"default"}
    others = {name for name in weights if "lora" not in name}
    assert others == {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert len(load_file(path / "moments.safetensors")) == 3 * len(weights)


@pytest.mark.crash
def test_resumed_and_proved(
    whole: Path, data: str, tiny_model: Callable[..., str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Cut off in the seventh step and resumed, the run ends in the bytes of one that was not, and verify agrees."""
    cut, model = tmp_path / "cut", tmp_path / "model"
    shutil.copytree(tiny_model(dropout=0.1), model)
    with cut_off_in_step(7):
        dongu.train(data, model=str(model), **OPTIONS, calibrate=True, out=str(cut))

    # The weights that no checkpoint holds must be those that the run began with.
    content = (model / "model.safetensors").read_bytes()
    weights = load(content)
    weights["embeddings.word_embeddings.weight"][3, 5] += 1e-6
    (model / "model.safetensors").write_bytes(save(weights, {"format": "pt"}))
    with pytest.raises(UsageError, match="have changed since the start") as caught:
        dongu.resume(cut)
    assert "--allow model" in caught.value.hint
    (model / "model.safetensors").write_bytes(content)

    dongu.resume(cut)
    for name in ("metrics.jsonl", "results.json", "model/model.safetensors", "model/config.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    capsys.readouterr()
    assert run_command(["verify", str(cut), "--json"]) == 0
    proofs = [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()]
    assert {"replay", "results", "accumulation"} <= set(proofs)


@pytest.mark.cases(test=1, ci=2)
@pytest.mark.parametrize("kind", LABELS)
def test_thresholds_and_units(
    kind: str, tiny_model: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both are saved with the merged model, and its own evaluation finds them again to the last digit."""
    path = tmp_path / "rows.jsonl"
    rows = [{"text": f"word{i % 7} good word{i % 3} the film", "label": LABELS[kind](i)} for i in range(36)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = tmp_path / "run"
    options = {**OPTIONS, "max_steps": 4}
    dongu.train(str(path), model=tiny_model(), **options, out=str(run))
    assert run_command(["verify", str(run)]) == 0
    assert "ok    results" in capsys.readouterr().out


def test_the_learning_rate_is_ten_times_the_usual_and_said(
    tiny_model: Callable[..., str], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = make_config({}).learning_rate
    assert make_config({"lora": 8}).learning_rate == 10 * usual
    assert make_config({"lora": 8, "lr": usual}).learning_rate == usual
    train = ["train", data, "--model", tiny_model(), "--lora", "2", "--max-steps", "1"]
    assert run_command([*train, "--out", str(tmp_path / "derived")]) == 0
    output = unwrapped(capsys.readouterr().out)
    assert (
        "rank 2: 1,202 trainable parameters, 16.6% of the model's number; 10 times the default learning rate" in output
    )
    assert "learning rate 0.0005 " in output
    assert run_command([*train, "--out", str(tmp_path / "given"), "--lr", "1e-3"]) == 0
    assert "times the usual" not in capsys.readouterr().out


def test_a_rate_for_each_layer(tiny_model: Callable[..., str]) -> None:
    rows = [{"text": f"word{i} good", "label": f"class{i % 2}"} for i in range(8)]
    loop = dongu.Loop({"train": rows, "validation": rows}, model=tiny_model(), lora=RANK, lr=RATE, layer_decay=DECAY)
    optimizer = make_optimizer(loop.model, loop.config)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in loop.model.named_parameters():
        expected = RATE * DECAY if ".layer.0." in name else RATE
        assert rates.get(id(parameter)) == (expected if parameter.requires_grad else None), name
    assert set(rates.values()) == {RATE, RATE * DECAY}


def test_what_is_refused(
    tiny_model: Callable[..., str], data: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = tmp_path / "run"
    train = ["train", data, "--model", tiny_model(), "--out", str(run), "--lora"]
    assert run_command([*train, "33"]) == 2
    assert "--lora 33: the largest weight of `bert` has rank 16" in capsys.readouterr().err
    assert run_command([*train, "3", "--pooling", "mean"]) == 2  # its adapter would answer otherwise on --model
    assert "--model has no such layer, and the adapter of --lora is put on it" in unwrapped(capsys.readouterr().err)
    monkeypatch.setitem(sys.modules, "peft", None)
    assert run_command(["train", str(tmp_path / "no-such-data"), "--lora", "4"]) == 2
    said = capsys.readouterr().err
    assert "--lora: needs the package peft" in said
    assert 'pip install ".[lora]"' in said
    assert not run.exists()
