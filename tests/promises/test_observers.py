"""What only looks on changes no bit of the weights."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dongu
from dongu.model.load import load_classifier
from dongu.run.console import Console


def weights(run: Path) -> str:
    """Digest of the model that the last step left; each run below keeps that one."""
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def train_once(tiny_model: Callable[..., str], shared_data_folder: Callable[..., str]) -> Callable[..., str]:
    """Train with dropout and give the digest of the final weights."""
    data = shared_data_folder(train=45)
    base: dict[str, Any] = {"model": tiny_model(dropout=0.2), "epochs": 2, "lr": 1e-3, "device": "cpu", "threads": 1}

    def train(**options: Any) -> str:
        loop = dongu.Loop(data, **{**base, **options})
        for step in loop:
            if options.get("eval_steps") and step.number % options["eval_steps"] == 0:
                loop.evaluate()
                loop.evaluate("test")
        state = loop.model.state_dict()
        return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state.values())).hexdigest()

    return train


@pytest.fixture(scope="module")
def unobserved(train_once: Callable[..., str]) -> str:
    return train_once()


OBSERVERS: dict[str, dict[str, Any]] = {
    "evaluating at every step": {"eval_steps": 1},
    "evaluating at every fifth step": {"eval_steps": 5},
    "another evaluation batch": {"eval_steps": 3, "eval_batch_size": 2},
    "one data worker": {"workers": 1},
    "two data workers": {"workers": 2},
    "patience": {"patience": 50},
    "another metric": {"metric": "loss"},
}


@pytest.mark.cases(test=4, ci=8)
@pytest.mark.parametrize("observer", OBSERVERS)
def test_observers_do_not_move_the_weights(observer: str, train_once: Callable[..., str], unobserved: str) -> None:
    assert train_once(**OBSERVERS[observer]) == unobserved


def test_what_should_change_the_weights_does(train_once: Callable[..., str], unobserved: str) -> None:
    """The digests above are equal because nothing changed, not because they see nothing."""
    assert train_once(seed=43) != unobserved
    assert train_once(micro_batch_size=4) != unobserved  # other dropout positions, other rounding


def test_the_users_own_use_of_random_numbers_is_harmless(
    tiny_model: Callable[..., str], data_folder: Callable[..., str]
) -> None:
    def losses(disturb: bool) -> list[float]:
        loop = dongu.Loop(data_folder(train=45), model=tiny_model(dropout=0.2), max_steps=5, device="cpu")
        seen = []
        for step in loop:
            seen.append(step.loss)
            assert loop.model.training, "dropout is on, or there is nothing to disturb"
            if disturb:
                torch.rand(step.number)
                loop.model.eval()
        return seen

    assert losses(disturb=True) == losses(disturb=False)


@pytest.mark.exhaustive
def test_a_whole_run_in_other_surroundings(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path
) -> None:
    """Hash seed, locale, working folder, output path, progress lines: other bytes nowhere but in run.json and times."""
    data = data_folder(train=45)
    options = ["--model", tiny_model(dropout=0.2), "--epochs", "1", "--device", "cpu", "--threads", "1"]
    options += ["--recipe", "original"]
    command = [sys.executable, "-m", "dongu", "train", data, *options]
    folder = tmp_path / "a folder ğ"
    folder.mkdir()
    runs = [folder / "out" / "run"]
    environment = {**os.environ, "PYTHONHASHSEED": "2", "LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Istanbul"}
    subprocess.run([*command, "--out", str(runs[0])], check=True, cwd=folder, env=environment, capture_output=True)
    here = dongu.train(
        data,
        model=tiny_model(dropout=0.2),
        epochs=1,
        device="cpu",
        threads=1,
        out=str(tmp_path / "here"),
        console=Console(enabled=False),
    )
    runs.append(here.path)
    for name in ("metrics.jsonl", "results.json", "predictions/validation.jsonl", "model/config.json"):
        assert len({(run / name).read_bytes() for run in runs}) == 1, name
    assert len({weights(run) for run in runs}) == 1


class Terminal(io.StringIO):
    """A stream that says it is a terminal, so that the progress bar is drawn."""

    def isatty(self) -> bool:
        return True


@pytest.mark.cases(test=1, ci=2)
@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["bar", "lines"])
def test_recording_saving_and_showing_progress(
    stream: io.StringIO, tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path
) -> None:
    """A whole run, evaluated and saved at every step, saves the weights that the bare loop has at that step."""
    data = data_folder(train=45)
    options: dict[str, Any] = {"model": tiny_model(dropout=0.2), "epochs": 2, "lr": 1e-3, "device": "cpu"}
    console = Console(stream=stream)
    result = dongu.train(data, **options, eval_steps=1, metric="loss", out=str(tmp_path / "run"), console=console)
    assert result.results["steps"] == 12
    best_step = result.results["best_step"]
    assert best_step > 3
    loop = dongu.Loop(data, **options)
    next(step for step in loop if step.number == best_step)
    saved, _ = load_classifier(tmp_path / "run" / "model")
    for name, tensor in loop.model.state_dict().items():
        assert torch.equal(saved.state_dict()[name], tensor), name
    shown = stream.getvalue()
    assert ("\r" in shown) == stream.isatty() == bool(re.search(r"examples/s  \d:\d\d left", shown))
    log = (result.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    train = {line["step"]: line["loss"] for line in map(json.loads, log) if line["event"] == "step"}
    best = math.inf
    for line in (line for line in map(json.loads, log) if line["event"] == "evaluation"):
        numbers = [train[line["step"]], line["loss"], line["accuracy"], line["f1"]]
        loss, *values = (f"{number:8.4f}" for number in numbers)
        row = f"{line['step']:4}  {line['step'] / 6:5.2f}  {loss} │ {'  '.join(values)}"
        assert row + ("  kept\n" if line["loss"] < best else "\n") in shown
        best = min(best, line["loss"])


def test_a_cold_and_a_warm_token_cache(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DONGU_CACHE", str(tmp_path / "cache"))
    data = data_folder(train=45)
    runs = [
        dongu.train(data, model=tiny_model(dropout=0.2), epochs=1, device="cpu", out=str(tmp_path / name)).path
        for name in ("cold", "warm")
    ]
    assert len(list((tmp_path / "cache").iterdir())) == 3
    for file in sorted((runs[0] / "model").iterdir()):
        assert file.read_bytes() == (runs[1] / "model" / file.name).read_bytes(), file.name


def test_a_bf16_run_is_bf16_throughout(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"model": tiny_model(), "precision": "bf16", "max_steps": 4, "device": "cpu"}
    data = data_folder(train=45)
    losses = [step.loss for step in dongu.Loop(data, **options)]
    run = dongu.train(data, **options, out=str(tmp_path / "run")).path
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["loss"] for line in lines if line["event"] == "step"] == losses
    evaluated = dongu.load(run, device="cpu").evaluate_own()
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert evaluated["validation"]["loss"] == results["validation"]["loss"]["value"]
