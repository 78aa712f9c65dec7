"""Every family of models: what dongu saves, plain transformers answers with, alone or in a batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

import dongu
from conftest import DECODERS, END, FAMILIES, unwrapped
from dongu.cli.main import run as run_command
from dongu.doctor.lengths import SHIFTED_POSITIONS, limit_of_files
from dongu.errors import UsageError
from dongu.model.load import position_count

OPTIONS: dict[str, Any] = {"device": "cpu", "batch_size": 8, "learning_rate": 5e-3}
# Of the sums from a token to a logit of a tiny model: query, score, 64 values, output, the inner layer twice; the head.
TERMS = 2 * (16 + 8 + 64 + 16 + 16 + 32) + 16
ROUNDING = TERMS * 2**-24  # that fp32 may leave between two orders of them, for numbers of about one
ONCE = 4 * 2**-24  # that a few roundings of fp64 to fp32 may leave


def change(folder: Path, name: str, **values: Any) -> None:
    """Set keys of a JSON file."""
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


@pytest.fixture
def own_model(tiny_model: Callable[..., str], tmp_path: Path) -> Callable[..., Path]:
    """`own_model(family)`: a copy of a tiny model whose files a test may change."""

    def copy(family: str) -> Path:
        folder = tmp_path / f"own-{family}"
        folder.mkdir()
        for path in Path(tiny_model(family)).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        return folder

    return copy


def logits_of_each_alone(folder: Path, rows: list[dict[str, str]], dtype: torch.dtype = torch.float32) -> np.ndarray:
    """(rows, labels) by plain transformers, a row at a time: nothing is padded."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [[value for name, value in row.items() if name != "label"] for row in rows]
    inputs = [tokenizer(*row, truncation=True, return_tensors="pt") for row in texts]
    with torch.no_grad():
        return np.concatenate([model.eval()(**row).logits.numpy() for row in inputs])


def scores_of_a_pipeline(
    folder: Path, rows: list[dict[str, str]], batch_size: int = 4, dtype: torch.dtype = torch.float32
) -> np.ndarray:
    """(rows, labels) probabilities."""
    from transformers import pipeline

    texts = [
        {"text": row["sentence1"], "text_pair": row["sentence2"]} if "sentence1" in row else row["text"] for row in rows
    ]
    options = {"top_k": None, "device": "cpu", "batch_size": batch_size, "dtype": dtype}
    classify: Any = pipeline("text-classification", model=str(folder), **options)
    answers = [sorted(answer, key=lambda item: item["label"]) for answer in classify(texts, truncation=True)]
    return np.array([[item["score"] for item in answer] for answer in answers])


@pytest.mark.cases(test=4, ci=6)
@pytest.mark.parametrize("family", [*FAMILIES, *DECODERS, "xlnet"])
def test_what_is_saved_answers_alike_elsewhere(
    family: str,
    tiny_model: Callable[..., str],
    data_folder: Callable[..., str],
    make_rows: Callable[..., list[dict[str, str]]],
    tmp_path: Path,
) -> None:
    data = data_folder(train=24, validation=13, test=0, pair=True)
    run = dongu.train(data, model=tiny_model(family), max_steps=2, out=str(tmp_path / "run"), **OPTIONS)
    rows = make_rows(13, seed=1, pair=True)
    ours = dongu.load(run.path, device="cpu").evaluate_own()["validation"].logits
    assert np.ptp(ours, axis=0).min() > 1e-3, "answers that are all alike prove nothing"
    alone = logits_of_each_alone(run.path / "model", rows)
    assert np.abs(ours - alone).max() <= 1e-5
    probabilities = torch.softmax(torch.from_numpy(alone), -1).numpy()
    batch_size = 1 if family == "xlnet" else 4  # no pipeline can take what an XLNet remembers apart by rows
    assert np.abs(scores_of_a_pipeline(run.path / "model", rows, batch_size) - probabilities).max() <= 1e-5


@pytest.mark.cases(test=3, ci=7)
@pytest.mark.parametrize(("family", "side"), [*((family, "right") for family in DECODERS), ("gpt2", "left")])
def test_a_decoder_reads_the_last_token_of_each_row(
    family: str, side: str, own_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Rows that hold the padding token, in the middle, at the end, or alone; a config.json that pads otherwise."""
    model = own_model(family)
    change(model, "tokenizer_config.json", padding_side=side)
    change(model, "config.json", pad_token_id=9)
    texts = ["good", f"a {END} film", f"the film was bad {END}", f"{END} {END}", END, "word7 word7", "word1 " * 30]
    rows = [{"text": text, "label": f"class{i % 2}"} for i, text in enumerate(texts * 2)]
    data: Any = {"train": rows, "validation": rows[: len(texts)]}
    run = dongu.train(data, model=str(model), max_steps=2, out=str(tmp_path / "run"), **OPTIONS)
    folder = run.path / "model"
    wanted = logits_of_each_alone(folder, rows[: len(texts)], torch.float64)
    loop = dongu.Loop(data, model=str(folder), **OPTIONS)
    loop.model.double()
    assert np.abs(loop.evaluate().logits - wanted).max() <= ONCE * np.abs(wanted).max()
    probabilities = torch.softmax(torch.from_numpy(wanted), -1).numpy()
    scores = scores_of_a_pipeline(folder, rows[: len(texts)], dtype=torch.float64)
    assert np.abs(scores - probabilities).max() <= ONCE
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["pad_token_id"] == 0
    lines = (run.path / "predictions" / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    assert np.array([list(json.loads(line)["probabilities"].values()) for line in lines]) == pytest.approx(
        probabilities, abs=ROUNDING
    )
    [typed] = dongu.load(run.path, device="cpu").predict([END])
    assert list(typed["probabilities"].values()) == pytest.approx(probabilities[4], abs=ROUNDING)


@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_is_loaded_whole(
    family: str, tiny_model: Callable[..., str], data_folder: Callable[..., str]
) -> None:
    """From a file of the language model: nothing tied to the output layer is lost, and no row of padding zeroed."""
    from transformers import AutoModelForCausalLM

    loaded = dongu.Loop(data_folder(), model=tiny_model(family), **OPTIONS).model.state_dict()
    published = AutoModelForCausalLM.from_pretrained(tiny_model(family)).state_dict()
    shared = loaded.keys() & published.keys()
    assert loaded.keys() - shared == {"score.weight"}
    assert len(published.keys() - shared) == 1, "the output layer alone is left behind"
    assert all(torch.equal(loaded[name], published[name]) for name in shared)


@pytest.mark.cases(test=1, ci=2)
@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_a_decoder_goes_on_to_the_bit(
    family: str,
    tiny_model: Callable[..., str],
    data_folder: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dongu.run.journal import Journal

    options = {**OPTIONS, "model": tiny_model(family, dropout=0.2), "max_steps": 5, "save_steps": 2}
    data = data_folder(train=24)
    whole = dongu.train(data, out=str(tmp_path / "whole"), **options).path
    write = Journal.step

    def stop(self: Journal, step: dongu.Step) -> None:
        write(self, step)
        if step.number == 3:
            raise KeyError

    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "step", stop)
        with pytest.raises(KeyError):
            dongu.train(data, out=str(cut), **options)
    assert run_command(["resume", str(cut)]) == 0
    for name in ("metrics.jsonl", "results.json", "model/model.safetensors", "model/config.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize("family", DECODERS)
def test_training_keeps_no_cache_of_keys(
    family: str, tiny_model: Callable[..., str], data_folder: Callable[..., str]
) -> None:
    loop = dongu.Loop(data_folder(), model=tiny_model(family), engine="plain", **OPTIONS)
    inputs = loop.train_updates[0].micro_batches[0].to(torch.device("cpu"))
    inputs.pop("labels")
    assert loop.engine(**inputs).past_key_values is None


def test_a_decoder_is_computed_without_padding(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    assert run_command(["train", data_folder(), "--model", tiny_model("qwen3"), "--max-steps", "1", "--out", out]) == 0
    output = unwrapped(capsys.readouterr().out)
    assert "padding-free" not in output
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["promises"]["padding_free"] == "yes"


@pytest.mark.cases(test=2, ci=6)
@pytest.mark.parametrize("family", DECODERS)
def test_decoders_in_bf16(family: str, tiny_model: Callable[..., str], data_folder: Callable[..., str]) -> None:
    data, losses = data_folder(train=32), {}
    for precision in ("fp32", "bf16"):
        loop = dongu.Loop(data, model=tiny_model(family), precision=precision, max_steps=4, **OPTIONS)
        losses[precision] = [step.loss for step in loop]
        assert {parameter.dtype for parameter in loop.model.parameters()} == {torch.float32}
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)


@pytest.mark.parametrize(("family", "learnt"), [("gpt2", True), ("opt", True), ("llama", False), ("xlnet", False)])
def test_positions_that_were_learnt_are_a_limit(
    family: str, learnt: bool, tiny_model: Callable[..., str], data_folder: Callable[..., str]
) -> None:
    data = data_folder(train=16)
    assert dongu.Loop(data, model=tiny_model(family), max_length=80, **OPTIONS).config.max_length == 80
    if learnt:
        with pytest.raises(UsageError, match="the model has 80 positions"):
            dongu.Loop(data, model=tiny_model(family), max_length=81, **OPTIONS)
    else:
        assert dongu.Loop(data, model=tiny_model(family), max_length=81, **OPTIONS).config.max_length == 81


@pytest.mark.parametrize("kind", [*SHIFTED_POSITIONS, "bert", "gpt2", "mra", "nystromformer", "opt", "yoso"])
def test_a_model_takes_as_many_tokens_as_its_files_say(kind: str) -> None:
    config = AutoConfig.for_model(kind)
    config.update(dict.fromkeys({"num_hidden_layers", "n_layer"} & {*config.to_dict()}, 1))
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    assert position_count(model) == limit_of_files({}, config.to_dict())


def test_a_model_that_was_made_for_another_task(
    own_model: Callable[..., Path], data_folder: Callable[..., str]
) -> None:
    """Its problem type and its labels give way to those of the data."""
    model = own_model("bert")
    change(
        model, "config.json", problem_type="multi_label_classification", id2label={str(i): f"x{i}" for i in range(5)}
    )
    loop = dongu.Loop(data_folder(labels=3), model=str(model), max_steps=1, **OPTIONS)
    list(loop)
    assert loop.model.config.problem_type == "single_label_classification"
    assert loop.model.config.id2label == {0: "class0", 1: "class1", 2: "class2"}
    assert loop.evaluate().logits.shape == (13, 3)
