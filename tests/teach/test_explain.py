"""The lesson tells the numbers of the run, and looks on without changing a bit of it."""

from __future__ import annotations

import io
import json
import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
import torch

import dongu
from conftest import WORDS
from dongu.cli.main import run
from dongu.model.loss import row_losses
from dongu.run.console import Console
from dongu.teach.explain import EXPLAINED_STEPS, explained
from dongu.teach.language import LANGUAGES, LESSON_WIDTH, language_of, read_words
from dongu.teach.watch import Watch
from dongu.update import Step

NAMES = ("rude", "funny", "sad")
RUNS: dict[str, dict[str, Any]] = {
    "packed": {},
    "plain": {"engine": "plain"},
    "accumulation": {"micro_batch_size": 3, "max_grad_norm": 0.5, "weight_decay": 0.0},
    "warm-up": {"warmup": 2, "class_weights": "balanced"},
    "bf16": {"precision": "bf16"},
    "regression": {"task": "regression"},
    "multi-label": {"task": "multi-label"},
    "one step": {"max_steps": 1},
}


@pytest.fixture(scope="module")
def make_loop(tiny_model: Callable[..., str]) -> Callable[[str], dongu.Loop]:
    """`make_loop(name)`: four steps, or as many as `RUNS` says, of a tiny model with dropout on rows that suit it."""

    def make(name: str) -> dongu.Loop:
        options, words = RUNS[name], random.Random(0)
        rows: list[dict[str, Any]] = []
        for i in range(30):
            label: Any = f"class{i % 2}"
            if options.get("task") == "regression":
                label = 100 + 1.5 * (i % 7)
            if options.get("task") == "multi-label":
                label = [name for k, name in enumerate(NAMES) if (i + k) % 3]
            rows.append({"text": " ".join(words.choices(WORDS, k=words.randint(3, 20))), "label": label})
        data = {"train": rows, "validation": rows[:6]}
        return dongu.Loop(data, **{"model": tiny_model(dropout=0.2), "max_steps": 4, "device": "cpu", **options})

    return make


@dataclass(frozen=True)
class Pair:
    """A loop on its own, and the same one while it was explained."""

    bare: dongu.Loop
    bare_steps: list[Step]
    loop: dongu.Loop
    steps: list[Step]
    shown: str

    @property
    def said(self) -> str:
        """All of it on one line."""
        return " ".join(self.shown.split())


@pytest.fixture(scope="module")
def pairs(make_loop: Callable[[str], dongu.Loop]) -> dict[str, Pair]:
    made = {}
    for name in RUNS:
        bare, loop, stream = make_loop(name), make_loop(name), io.StringIO()
        bare_steps, steps = list(bare), list(explained(loop, Console(stream=stream), "en"))
        made[name] = Pair(bare, bare_steps, loop, steps, stream.getvalue())
    return made


@pytest.mark.cases(test=1, ci=2)
@pytest.mark.parametrize("name", RUNS)
def test_it_changes_no_bit_and_tells_the_runs_own_numbers(name: str, pairs: dict[str, Pair]) -> None:
    pair = pairs[name]
    for one, other in zip(pair.bare_steps, pair.steps, strict=True):
        assert (one.loss, one.grad_norm, one.learning_rate) == (other.loss, other.grad_norm, other.learning_rate)
    states = [loop.model.state_dict().values() for loop in (pair.bare, pair.loop)]
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))
    for hooks in (pair.loop.engine._forward_hooks, pair.loop.optimizer._optimizer_step_pre_hooks):
        assert not hooks, "nobody listens any more"

    first, row = pair.steps[0], pair.loop.train_updates[0].micro_batches[0].rows[0]
    words = pair.loop.data.splits["train"].texts[0][row].split()
    assert f"[CLS] {' '.join(words[:3])}" in pair.said
    assert f"rows is {first.loss:.4f}" in pair.said or f"{first.loss:.4f} over" in pair.said
    assert f"norm is {first.grad_norm:.4g}" in pair.said
    for step in pair.steps[1:EXPLAINED_STEPS]:
        assert re.search(rf"Step {step.number} .* loss {step.loss:.4f} ", pair.said)
    assert max(map(len, pair.shown.splitlines())) <= LESSON_WIDTH
    assert pair.said.count("line by line") == 1


@pytest.mark.parametrize("name", ["packed", "accumulation", "regression", "multi-label", "bf16"])
def test_what_is_seen_is_what_was_done(name: str, make_loop: Callable[[str], dongu.Loop]) -> None:
    loop = make_loop(name)
    before = {key: tensor.clone() for key, tensor in loop.model.state_dict().items()}
    with Watch(loop) as seen:
        step = next(iter(loop))
    update = loop.train_updates[0]
    labels = torch.cat([micro_batch.tensors["labels"] for micro_batch in update.micro_batches]).numpy()
    logits = loop.loss.scale.undo(torch.cat(seen.logits).numpy())
    assert float(row_losses(loop.data.task, logits, labels).mean()) == pytest.approx(step.loss, rel=1e-5)

    weight, parameters = seen.weight, dict(loop.model.named_parameters())
    assert weight.before == float(before[weight.name][weight.index])
    assert weight.after == float(parameters[weight.name].detach()[weight.index])
    made = weight.before * (1 - weight.rate * weight.decay) - weight.rate * weight.direction
    assert made == pytest.approx(weight.after, rel=3e-7)
    assert weight.after != weight.before
    assert abs(weight.direction) == pytest.approx(1, rel=1e-3), "AdamW's first step is the sign of the gradient"

    moved = torch.cat([(tensor - before[key]).abs().flatten() for key, tensor in parameters.items()])
    # A tiny model is not sampled: all its weights are seen. Those of unseen words have no gradient.
    assert seen.gradients.count == len(moved)
    assert seen.gradients.size_bytes == 4 * len(moved)
    assert 0.1 < seen.gradients.silent < 0.6
    assert seen.moved.distance == pytest.approx(step.learning_rate, rel=0.05)
    assert float((moved > step.learning_rate / 2).float().mean()) == pytest.approx(1 - seen.gradients.silent, abs=0.05)
    assert list(seen.gradients.shares) == ["embeddings", "1", "2", "after", "head"]
    assert sum(seen.gradients.shares.values()) == pytest.approx(1)


def test_what_is_said_fits_the_run(pairs: dict[str, Pair]) -> None:
    said = {name: pair.said for name, pair in pairs.items()}
    assert "laid end to end" in said["packed"]
    assert f"ln 2 = {math.log(2):.4f}" in said["packed"]
    assert "Only the decay moved them" in said["packed"]
    assert said["packed"].count("repeat these lines: 1.") == 1
    assert re.search(r"each row padded to the longest\. \d+ of the \d+ tokens are real", said["plain"])
    assert "the first of 3 forward passes, 3 rows at most" in said["accumulation"]
    assert "scaled down to 0.5 by --max-grad-norm" in said["accumulation"]
    assert "Nothing moved them" in said["accumulation"]
    assert "The learning rate of this step is 0" in said["warm-up"]
    assert "each with the weight of its class" in said["warm-up"]
    assert "linear: 0 was the learning rate of this step, 2.5e-05 is that of the next" in said["warm-up"]
    assert "in bf16" in said["bf16"]
    assert "mse_loss" in said["regression"]
    assert re.search(r"row \d+ 10\d\.\d is 10\d", said["regression"]), "answers are in the unit of the labels"
    assert "binary_cross_entropy" in said["multi-label"]
    assert "for funny, which it has" in said["multi-label"]
    assert said["one step"].endswith("added to them.")


@pytest.mark.crash
def test_a_whole_run_has_the_same_bytes(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = data_folder(train=30)
    options = ["--model", tiny_model(dropout=0.2), "--max-steps", "4", "--device", "cpu"]
    assert run(["train", data, *options, "--out", str(tmp_path / "bare")]) == 0
    assert "optimizer.step()" not in capsys.readouterr().out
    assert run(["train", data, *options, "--out", str(tmp_path / "shown"), "--explain", "--language", "tr"]) == 0
    shown = capsys.readouterr().out
    for name in ("metrics.jsonl", "results.json", "model/model.safetensors"):
        assert (tmp_path / "shown" / name).read_bytes() == (tmp_path / "bare" / name).read_bytes(), name
    assert "── 4 adımın 1. adımı, satır satır ──" in shown
    first = json.loads((tmp_path / "bare" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert f"ortalaması {first['loss']:.4f}" in " ".join(shown.split())


def test_the_languages_say_the_same() -> None:
    words = {language: read_words("explain", language) for language in LANGUAGES}
    assert list(words["en"]) == list(words["tr"])
    for key, text in words["en"].items():
        assert fields(text) == fields(words["tr"][key]), key


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "tr_TR.UTF-8"}, "tr"),
        ({"LANG": "tr"}, "tr"),
        ({"LANG": "tr_TR.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "tr_TR"}, "tr"),
        ({"LANG": "tr_TR", "LC_ALL": ""}, "tr"),
        ({"LANG": "trv_TW"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
    ],
)
def test_the_locale_chooses(environment: dict[str, str], language: str) -> None:
    assert language_of(environment) == language


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--language", "tr"], "--language: is for --explain only"),
        (["--explain", "--seeds", "2"], "--seeds: --explain shows one run"),
        (["--explain", "--language", "de"], "invalid choice: 'de'"),
    ],
)
def test_what_does_not_go_together(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "nowhere", *arguments]) == 2
    assert said in capsys.readouterr().err
