"""`--long`: what is read of a text that is longer than `--max-length`, in training, evaluation and use."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import dongu
from conftest import WORDS
from dongu.cli.main import run as run_command
from dongu.config import make_config
from dongu.data.tokenized import Split, tokenized
from dongu.errors import UsageError

LENGTH = 16
FILLER = WORDS[:60]


def texts_of(count: int, words: int = 60, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(FILLER, k=draw.randint(1, words))) for _ in range(count)]


def read(model: str, texts: list[str], long: str) -> tuple[Any, Split]:
    tokenizer = AutoTokenizer.from_pretrained(model)
    config = make_config({"max_length": LENGTH, "long": long})
    return tokenizer, tokenized(tokenizer, [texts], config, "texts", np.arange(len(texts)), cache=False)


def row(tokens: Any, i: int) -> list[int]:
    found: list[int] = tokens.input_ids[tokens.offsets[i] : tokens.offsets[i + 1]].tolist()
    return found


def test_what_is_kept_of_a_long_text(tiny_model: Callable[..., str]) -> None:
    texts = texts_of(40)
    for long in ("head", "tail", "head+tail", "windows"):
        tokenizer, split = read(tiny_model(), texts, long)
        first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
        for i, text in enumerate(texts):
            whole = tokenizer(text, add_special_tokens=False)["input_ids"]
            room = LENGTH - 2
            cut = {
                "head": whole[:room],
                "tail": whole[-room:],
                "head+tail": whole
                if len(whole) <= room
                else whole[: LENGTH // 2 - 1] + whole[-(LENGTH - LENGTH // 2 - 1) :],
                "windows": whole[:room],
            }[long]
            assert row(split.tokens, i) == [first, *cut, last]
            assert split.tokens.truncated[i] == (len(whole) > room)
            if long == "windows":
                step = room - room // 4
                windows = [whole[start : start + room] for start in range(0, max(1, len(whole) - room // 4), step)]
                mine = np.flatnonzero(split.pieces.ids == i)
                assert [row(split.pieces.tokens, int(k)) for k in mine] == [[first, *part, last] for part in windows]
    assert len(split.pieces) > len(split)


def test_training_draws_each_window_as_often_and_answers_are_the_mean(tiny_model: Callable[..., str]) -> None:
    _, split = read(tiny_model(), texts_of(30), "windows")
    counts = np.bincount(split.pieces.ids)
    rows = np.arange(30)
    drawn = np.stack([split.drawn(rows, 7, epoch) for epoch in range(60)])
    assert (split.pieces.ids[drawn] == rows).all(), "a window of its own row"
    for i, count in enumerate(counts):
        assert len({*drawn[:count, i].tolist()}) == count, "all of them in as many epochs"
    assert (split.drawn(rows[5:9], 7, 3) == drawn[3, 5:9]).all(), "whatever rows are beside it"
    assert (split.drawn(rows, 8, 0) != drawn[0]).any()
    logits = np.random.default_rng(0).normal(size=(len(split.pieces), 3)).astype(np.float32)
    for i in range(30):
        assert np.allclose(split.pooled(logits)[i], logits[split.pieces.ids == i].mean(0), atol=1e-6)


def test_pairs_are_cut_at_one_end(tiny_model: Callable[..., str]) -> None:
    rows = [{"text1": "a film", "text2": "the film", "label": i % 2} for i in range(20)]
    for long in ("head+tail", "windows"):
        with pytest.raises(UsageError, match="pairs of texts are cut at one end"):
            dongu.Loop(rows, model=tiny_model(), long=long)
    assert dongu.Loop(rows, model=tiny_model(), long="tail").tokenizer.truncation_side == "left"


@pytest.fixture
def task(tmp_path: Path) -> Callable[[int], str]:
    """`task(words)`: texts of so many words, whose last 25 say the class."""

    def write(words: int) -> str:
        draw, folder = random.Random(1), tmp_path / f"words-{words}"
        folder.mkdir()
        for name, count in (("train", 160), ("validation", 40)):
            lines = []
            for i in range(count):
                text = " ".join(
                    [*draw.choices(FILLER, k=words - 25), *draw.choices([("bad", "was"), ("good", "the")][i % 2], k=25)]
                )
                lines.append(json.dumps({"text": text, "label": ("no", "yes")[i % 2]}) + "\n")
            (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        return str(folder)

    return write


OPTIONS: dict[str, Any] = {"epochs": 4, "batch_size": 16, "lr": 5e-3, "threads": 1}


@pytest.mark.cases(test=1, ci=2)
@pytest.mark.parametrize(("long", "words"), [("head", 100), ("tail", 100), ("head+tail", 100), ("windows", 100)])
def test_an_answer_at_the_end_is_found(
    long: Any, words: int, task: Callable[[int], str], tiny_model: Callable[..., str], tmp_path: Path
) -> None:
    data, out = task(words), tmp_path / "run"
    result = dongu.train(data, model=tiny_model(), long=long, out=str(out), **OPTIONS)
    accuracy = result.metrics["accuracy"]
    if long == "head":
        assert accuracy < 0.8
        return
    assert accuracy >= 0.95
    model = dongu.load(out)
    rows = [json.loads(line) for line in (Path(data) / "validation.jsonl").read_text(encoding="utf-8").splitlines()]
    answers = model.predict([row["text"] for row in rows])
    assert (
        np.mean([answer["prediction"] == row["label"] for answer, row in zip(answers, rows, strict=True)]) == accuracy
    )

    card = (out / "model/README.md").read_text(encoding="utf-8")
    if long != "tail":  # the lines of the card, with plain transformers
        code = (
            card.partition("```python\nimport torch")[2]
            .partition("```")[0]
            .replace('from_pretrained(".")', f"from_pretrained({str(out / 'model')!r})")
        )
        for k in (0, 1):
            known: dict[str, Any] = {"torch": torch}
            exec(code.replace('"a long text"', repr(rows[k]["text"])), known)
            sure = known["logits"].softmax(-1).tolist()
            assert sure == pytest.approx([*answers[k]["probabilities"].values()], abs=1e-5)
        assert run_command(["export", str(out)]) == 2
    else:
        tokenizer = AutoTokenizer.from_pretrained(out / "model")
        plain = AutoModelForSequenceClassification.from_pretrained(out / "model").eval()
        with torch.no_grad():
            logits = plain(**tokenizer(rows[0]["text"], truncation=True, return_tensors="pt")).logits
        assert logits.softmax(-1)[0].tolist() == pytest.approx([*answers[0]["probabilities"].values()], abs=1e-5)
    assert run_command(["eject", str(out), str(tmp_path / "script.py")]) == 2
    if long == "windows":
        assert run_command(["verify", str(out)]) == 0
        again = tmp_path / "again"
        assert run_command(["train", "--config", str(out / "run.json"), "--out", str(again)]) == 0
        weights = [(path / "model/model.safetensors").read_bytes() for path in (out, again)]
        assert weights[0] == weights[1]


def test_an_update_is_the_same_however_it_is_split(task: Callable[[int], str], tiny_model: Callable[..., str]) -> None:
    options: dict[str, Any] = {"model": tiny_model(), "long": "windows", "batch_size": 16, "threads": 1}
    data = task(150)
    whole, parts = (
        [step.loss for step in dongu.Loop(data, micro_batch_size=size, max_steps=4, **options)] for size in (16, 4)
    )
    assert whole == pytest.approx(parts, abs=1e-5)
