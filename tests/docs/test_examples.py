"""The programs of `examples/`: each keeps the promises with parts of its own, or says which it cannot keep."""

from __future__ import annotations

import csv
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import dongu
from conftest import ROOT
from dongu.cli.main import run as run_command
from dongu.run.journal import Journal
from drivers import Pool, forked, read_lines

EXAMPLES = ROOT / "examples"
SCRIPTS = ("group_k_fold", "lr_finder", "optuna_search")  # programs around a loop, without parts
OWN_MODELS = ("ordinal", "own_head", "two_heads")
PARTS = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem not in SCRIPTS)
STEPS = 6
# Among them they have a loss, columns, an optimizer, a schedule, a model, an order, statements and state of their own.
QUICK = ("gradual_unfreezing", "hard_examples", "own_head", "r_drop")
MOST_AS_CRASH = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.crash]) for name in PARTS]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 training rows with a number, a weight and a group beside the text."""
    folder = tmp_path_factory.mktemp("data")
    for split, rows in (("train", 30), ("validation", 12)):
        with (folder / f"{split}.csv").open("w") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label", "age", "weight", "group"])
            for i in range(rows):
                text = " ".join(f"word{(i * 7 + j * j) % 23}" for j in range(2 + i % 9)) + f" {split} {i}"
                writer.writerow([text, ["poor", "fair", "good"][i % 3], i % 5 / 4, 0.5 + i % 2, f"g{i % 5}"])
    return folder


@pytest.fixture(scope="module")
def teacher(data: Path, tiny_model: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> str:
    run = tmp_path_factory.mktemp("teacher") / "run"
    dongu.train(str(data), model=tiny_model(), epochs=1, out=str(run))
    return str(run)


@pytest.fixture
def command(data: Path, tiny_model: Callable[..., str], teacher: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`dongu train` with an example's parts."""
    monkeypatch.setenv("TEACHER", teacher)

    def made(name: str, *more: str, dropout: float = 0.1) -> list[str]:
        place = ["--tokenizer" if name in OWN_MODELS else "--model", tiny_model("bert", dropout)]
        metric = ["--metric", "kappa"] if name == "ordinal" else []
        options = ["--max-steps", str(STEPS), "--eval-steps", "3", "--text-columns", "text", "--threads", "1"]
        return ["train", str(data), *place, *options, *metric, "--parts", str(EXAMPLES / f"{name}.py"), *more]

    return made


def test_there_are_a_dozen_and_each_is_short() -> None:
    lines = {path.name: path.read_text(encoding="utf-8").count("\n") for path in EXAMPLES.glob("*.py")}
    assert len(lines) >= 12
    assert max(lines.values()) < 60, lines


@pytest.mark.cases(test=4, ci=12)
@pytest.mark.parametrize("name", PARTS)
def test_an_update_is_the_same_however_it_is_split(
    name: str, data: Path, tiny_model: Callable[..., str], teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER", teacher)
    place = {"tokenizer" if name in OWN_MODELS else "model": tiny_model("bert", 0.0)}

    def gradients(size: int) -> list[Tensor]:
        options: dict[str, Any] = {**place, "text_columns": "text", "engine": "plain", "micro_batch_size": size}
        loop = dongu.Loop(str(data), parts=EXAMPLES / f"{name}.py", **options)
        loop.model.double()
        loop.model.eval()
        seen: list[Tensor] = []
        loop.optimizer.register_step_pre_hook(
            lambda optimizer, *_: seen.extend(
                p.grad.clone() for group in optimizer.param_groups for p in group["params"] if p.grad is not None
            )
        )
        next(iter(loop))
        return seen

    whole = gradients(8)
    assert len(whole) >= 2
    for size in (4, 3):
        for one, other in zip(whole, gradients(size), strict=True):
            assert float((one - other).norm()) <= 1e-6 * max(float(one.norm()), 1e-9)


@pytest.mark.cases(test=1, ci=2)
@pytest.mark.parametrize("name", MOST_AS_CRASH)
def test_two_processes_train_as_one(name: str, command: Any, make_pool: Callable[..., Pool], tmp_path: Path) -> None:
    """Without dropout, which is drawn by the micro-batch."""
    assert run_command(command(name, "--out", str(tmp_path / "one"), dropout=0.0)) == 0
    forked(make_pool(), *command(name, "--out", str(tmp_path / "two"), dropout=0.0))
    one, two = (
        [line["loss"] for line in read_lines(tmp_path / run) if line["event"] == "step"] for run in ("one", "two")
    )
    assert len(one) == STEPS
    assert two == pytest.approx(one, rel=1e-4)  # of fp32 sums, over several updates
    assert two[0] == pytest.approx(one[0], rel=1e-6)


def cut_off(journal: Journal, step: dongu.Step) -> None:
    """The end of a process in the middle of a run, without a word to anybody."""
    if step.number == 5:
        raise KeyboardInterrupt
    write_step(journal, step)


write_step = Journal.step


@pytest.mark.cases(test=1, ci=2)
@pytest.mark.parametrize("name", MOST_AS_CRASH)
def test_killed_and_started_again_it_ends_in_the_same_bytes(
    name: str, command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run_command(command(name, "--out", str(whole), "--save-steps", "3")) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "step", cut_off)
        assert run_command(command(name, "--out", str(cut), "--save-steps", "3")) == 130
    parts = ["--parts", str(EXAMPLES / f"{name}.py")]
    for refused in (["resume", str(cut)], ["verify", str(whole)]):
        capsys.readouterr()
        assert run_command(refused) == 2
        said = capsys.readouterr().err
        assert "parts of its own" in said
        assert f"{name}.py" in said
    assert run_command(["resume", str(cut), *parts]) == 0
    for file in ("metrics.jsonl", "dynamics.bin", "model/model.safetensors", "results.json"):
        assert (cut / file).read_bytes() == (whole / file).read_bytes(), file
    capsys.readouterr()
    code = run_command(["verify", str(whole), *parts])
    assert code == 0, capsys.readouterr().out
    assert run_command(["predict", str(whole), "a text"]) == (2 if name in OWN_MODELS else 0)
    assert (whole / "parts.py").read_bytes() == (EXAMPLES / f"{name}.py").read_bytes()


@pytest.mark.parametrize("name", ["focal", "own_head"])  # the last lines of the others are theirs
def test_the_script_itself(name: str, data: Path, tiny_model: Callable[..., str], tmp_path: Path) -> None:
    """As its last lines have it; started again, it says what has come out."""
    arguments = [str(EXAMPLES / f"{name}.py"), str(data), tiny_model(), str(tmp_path / "run")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        first = runpy.run_path(arguments[0], run_name="__main__")["run"].result
        again = runpy.run_path(arguments[0], run_name="__main__")["run"].result
    assert first.metrics == again.metrics


@pytest.mark.cases(test=1, ci=3)
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_program_around_a_loop(
    name: str, data: Path, tiny_model: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "optuna_search":
        pytest.importorskip("optuna", reason="the dev extra is not installed")
    out = [str(tmp_path / "out.csv")] if name == "group_k_fold" else []
    place = str(data / "train.csv") if out else str(data)
    if out:
        rows = list(csv.DictReader((data / "train.csv").read_text().splitlines()))
        place = str(tmp_path / "rows.csv")
        with Path(place).open("w") as file:
            writer = csv.DictWriter(file, ["text", "label", "group"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{name}.py", place, tiny_model(), *out])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    said = capsys.readouterr().out
    if out:
        answers = list(csv.DictReader(Path(out[0]).read_text().splitlines()))
        assert [row["text"] for row in answers] == [row["text"] for row in rows]
        for row in answers:
            assert sum(float(value) for key, value in row.items() if key.startswith("prob")) == pytest.approx(1)
    else:
        assert said.splitlines()[-1].startswith(("best: ", "the loss is lowest at"))
