"""A NaN or an infinity stops the run before the update, says where, and is never in a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import dongu
from dongu.cli.main import run as run_command
from dongu.errors import NonFiniteError

OPTIONS: dict[str, Any] = {"epochs": 2, "batch_size": 8, "lr": 1e-3, "save_steps": 2, "device": "cpu", "threads": 1}


@pytest.fixture
def make_loop(tiny_model: Callable[..., str], data_folder: Callable[..., str]) -> Callable[..., dongu.Loop]:
    """`make_loop(**options)`: 5 updates an epoch."""

    def make(**options: Any) -> dongu.Loop:
        return dongu.Loop(data_folder(train=40), **{**OPTIONS, "model": tiny_model(), **options})

    return make


def spoil_logits(loop: dongu.Loop, value: float, *, in_step: int | None = None, in_evaluation: bool = False) -> None:
    """The model's first answer of a step, or of an evaluation, becomes a value."""

    def spoil(module: Any, _: Any, output: Any) -> Any:
        if (module.training and loop.number + 1 == in_step) or (not module.training and in_evaluation):
            output.logits = output.logits.clone()
            output.logits[0, 0] = value
        return output

    loop.engine.register_forward_hook(spoil)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite(make_loop: Callable[..., dongu.Loop], value: float) -> None:
    loop = make_loop()
    spoil_logits(loop, value, in_step=3)
    rows = loop.splits["train"].ids[loop.train_updates.rows(2)].tolist()
    steps = iter(loop)
    assert [next(steps).number, next(steps).number] == [1, 2]
    weights = {name: tensor.clone() for name, tensor in loop.model.state_dict().items()}
    with pytest.raises(NonFiniteError) as caught:
        next(steps)
    assert caught.value.exit_code == 5
    assert caught.value.where == f"step 3, train rows {', '.join(map(str, rows))}"
    assert loop.number == 2
    for name, tensor in loop.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), f"{name} was updated"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_under_a_finite_loss(make_loop: Callable[..., dongu.Loop], value: float) -> None:
    loop = make_loop(max_grad_norm=1.0)  # clipping by an infinite norm would make zeros of the others
    bias = loop.model.classifier.bias
    bias.register_hook(lambda grad: torch.full_like(grad, value) if loop.number == 1 else grad)
    with pytest.raises(NonFiniteError, match="gradient norm is") as caught:
        list(loop)
    assert caught.value.where.startswith("step 2, train rows ")
    assert all(torch.isfinite(parameter).all() for parameter in loop.model.parameters())


def test_a_model_that_is_not_finite_from_the_start(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in Path(tiny_model()).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][60, 3] = float("nan")  # a word that may never occur
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    run = tmp_path / "run"
    assert run_command(["train", data_folder(), "--model", str(folder), "--out", str(run)]) == 5
    error = capsys.readouterr().err
    assert "embeddings.word_embeddings.weight` holds 1 NaN or infinite of" in error
    assert not run.exists()


@pytest.mark.parametrize("place", ["weight", "moment"])
def test_nothing_that_is_not_finite_reaches_a_file(
    place: str, tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path, monkeypatch: Any
) -> None:
    from dongu.run.journal import Journal

    write = Journal.step
    loops: list[dongu.Loop] = []
    init = dongu.Loop.__init__

    def noted(self: dongu.Loop, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **options)
        loops.append(self)

    monkeypatch.setattr(dongu.Loop, "__init__", noted)

    def spoil(self: Journal, step: dongu.Step) -> None:
        write(self, step)
        if step.number == 4:
            words = loops[0].model.get_input_embeddings().weight
            if place == "weight":
                words.data[1, 0] = float("inf")  # [UNK] is in no row: no loss and no gradient knows of it
            else:
                loops[0].optimizer.state[words]["exp_avg_sq"][1, 0] = float("inf")

    monkeypatch.setattr(Journal, "step", spoil)
    run = tmp_path / "run"
    with pytest.raises(NonFiniteError, match=r"word_embeddings|exp_avg_sq") as caught:
        dongu.train(data_folder(train=40), **{**OPTIONS, "model": tiny_model(), "out": str(run)})
    assert caught.value.where == "after step 4"
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000002"]
    for path in run.rglob("*.safetensors"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(path).values()), path


def test_an_answer_that_is_not_finite_in_an_evaluation(make_loop: Callable[..., dongu.Loop]) -> None:
    loop = make_loop(eval_batch_size=4)
    spoil_logits(loop, float("nan"), in_evaluation=True)
    with pytest.raises(NonFiniteError) as caught:
        loop.evaluate()
    split = loop.splits["validation"]
    assert caught.value.where == f"after step 0, validation rows {split.ids[split.tokens.lengths.argmin()]}"


def test_an_undefined_metric_is_never_the_best(
    tiny_model: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spearman's correlation of constant answers is undefined: at the first evaluation here, or at all of them."""
    from dongu.judge import metrics

    real = metrics.NUMBER_METRICS["spearman"]
    calls = 0
    rows = [{"text": f"word{i % 9} good", "label": str(i / 7)} for i in range(24)]
    options = {**OPTIONS, "model": tiny_model(), "label_column": "label", "task": "regression"}

    def undefined(always: bool) -> Callable[..., Any]:
        def spearman(values: Any, targets: Any) -> Any:
            nonlocal calls
            calls += 1
            return (lambda _: [float("nan")]) if always or calls == 1 else real(values, targets)

        return spearman

    monkeypatch.setitem(metrics.NUMBER_METRICS, "spearman", undefined(always=False))
    result = dongu.train({"train": rows, "validation": rows[:9]}, out=str(tmp_path / "first"), **options)
    assert result.results["best_step"] == 6
    lines = (tmp_path / "first" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    evaluations = [line for line in map(json.loads, lines) if line["event"] == "evaluation"]
    assert [line["spearman"] is None for line in evaluations] == [True, False], "undefined is null, and no number"

    monkeypatch.setitem(metrics.NUMBER_METRICS, "spearman", undefined(always=True))
    with pytest.raises(NonFiniteError, match="spearman was undefined at every evaluation"):
        dongu.train({"train": rows, "validation": rows[:9]}, out=str(tmp_path / "all"), **options)
    assert not (tmp_path / "all" / "model").exists()
