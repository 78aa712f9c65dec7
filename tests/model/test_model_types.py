"""Every type of model that transformers has a classifier for, tiny; and that no statistic ends a run of one."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

import dongu
import model_types
from conftest import unwrapped
from dongu.cli.main import run as run_command
from dongu.errors import ModelError
from dongu.evaluate import difference_alone
from dongu.model.safety import classifiers
from dongu.run.console import Console
from dongu.run.effort import pass_flops

PAGE = model_types.PAGE.read_text(encoding="utf-8").splitlines()
# One for each way of going on: all that are no plain encoder or decoder, and some of those. `make test-crash` has all,
# which take a minute.
QUICK = (
    "albert", "bart", "bert", "big_bird", "bloom", "canine", "convbert", "ctrl", "deberta-v2", "deepseek_v3", "fnet",
    "funnel", "gemma3", "gpt2", "layoutlm", "layoutlmv2", "llama", "mbart", "nystromformer", "openai-gpt", "reformer",
    "t5", "xlm-roberta-xl", "xlnet", "yoso", "zamba",
)  # fmt: skip


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """transformers warns of many a configuration."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    transformers.logging.set_verbosity(verbosity)


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., str]:
    """`tiny(model_type, **sizes)`: the folder of a tiny random model."""

    def save(model_type: str, **sizes: Any) -> str:
        folder = tmp_path / model_type
        torch.manual_seed(7)
        config = model_types.tiny_config(model_type, **sizes)
        transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        model_types.tiny_tokenizer(model_type).save_pretrained(folder)
        return str(folder)

    return save


@pytest.mark.cases(test=8, ci=24)
@pytest.mark.found("model-types")
@pytest.mark.found("lora-experts")
@pytest.mark.parametrize(
    "model_type", [pytest.param(each, marks=[] if each in QUICK else [pytest.mark.crash]) for each in classifiers()]
)
def test_a_type_trains_or_is_refused(model_type: str, in_memory: Path) -> None:
    """As its row of docs/models.md says; `python benchmarks/model_types.py --write` brings the page up to date."""
    outcome = model_types.attempt(model_type, in_memory)
    assert outcome.engine != "fault", outcome.note
    assert outcome.row() in PAGE


def test_the_page_has_no_other_types() -> None:
    rows = [line.split("`")[1] for line in PAGE if line.startswith("| `") and "model_type" not in line]
    assert rows == list(classifiers())


@pytest.mark.found("statistics")
@pytest.mark.parametrize("model_type", ["bart", "t5"])
def test_an_encoder_decoder_runs_to_its_end(
    model_type: str, tiny: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dongu.run.effort.pass_flops", pass_flops)  # as it is outside of tests
    options = {**model_types.OPTIONS, "model": tiny(model_type), "out": str(tmp_path / "run")}
    run = dongu.train(model_types.DATA, **options).path
    summary = json.loads((run / "timing.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert summary["per_second"]["model_flops"] > 0
    [answer] = dongu.load(run, device="cpu").predict(["word1 word2"])
    assert sum(answer["probabilities"].values()) == pytest.approx(1)


@pytest.mark.cases(test=2, ci=5)
@pytest.mark.found("statistics")
@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("dongu.run.effort.pass_flops", "machine not measured (KeyError: 'broken')"),
        ("dongu.run.effort.product_rate", "machine not measured (KeyError: 'broken')"),
        ("dongu.run.effort.peak_memory_bytes", ""),
        ("dongu.run.derived.precision_seconds", ""),
        ("dongu.running.write_report", "report.html was not written (KeyError: 'broken')"),
    ],
)
def test_a_statistic_never_ends_a_run(
    broken: str,
    said: str,
    tiny_model: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("broken")

    monkeypatch.setattr(broken, fail)
    out = tmp_path / "run"
    options = {**model_types.OPTIONS, "model": tiny_model(), "out": str(out)}
    dongu.train(model_types.DATA, console=Console(), **options)
    assert (out / "results.json").exists()
    assert said in unwrapped(capsys.readouterr().out)
    monkeypatch.undo()
    assert run_command(["report", str(out)]) == 0


@pytest.mark.found("lora-experts")
@pytest.mark.parametrize("model_type", ["deepseek_v3", "phimoe"])
def test_experts_stay_as_they_are(
    model_type: str, tiny: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny(model_type)
    options = {**model_types.OPTIONS, "model": folder, "out": str(tmp_path / "run"), "lora": 2}
    run = dongu.train(model_types.DATA, console=Console(), **options).path
    assert "of the model are in no linear layer (experts, say) and are frozen" in unwrapped(capsys.readouterr().out)
    was, now = (load_file(Path(place) / "model.safetensors") for place in (folder, run / "model"))
    assert was.keys() == now.keys()
    moved = {name.split(".")[-2] for name in was if not torch.equal(was[name], now[name])}
    assert moved >= {"o_proj", "score"}
    assert not any("expert" in name for name in moved)


@pytest.mark.found("answers-alone")
@pytest.mark.parametrize(("model_type", "said"), [("fnet", True), ("albert", False), ("gpt2", False), ("bert", False)])
def test_answers_that_depend_on_the_batch_are_said(
    model_type: str, said: bool, tiny: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {**model_types.OPTIONS, "model": tiny(model_type), "out": str(tmp_path / "run"), "max_steps": 1}
    dongu.train(model_types.DATA, console=Console(), **options)
    output = unwrapped(capsys.readouterr().out)
    assert ("predicts a row differently alone than in a batch" in output) == said
    assert ("so --eval-batch-size changes the metrics" in output) == said


@pytest.mark.found("answers-alone")
def test_asking_alone_moves_no_random_state(tiny: Callable[..., str]) -> None:
    """Not of a model that draws whenever it answers."""
    loop = dongu.Loop(model_types.DATA, model=tiny("yoso"), **model_types.OPTIONS)
    torch.manual_seed(3)
    wanted = torch.rand(3)
    torch.manual_seed(3)
    assert difference_alone(loop.model, loop.collate, loop.splits["train"], torch.device("cpu"), "single-label") > 0
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.found("model-types")
def test_rows_that_the_model_itself_refuses(tiny: Callable[..., str]) -> None:
    """A Nystromformer averages segments of one length, and raises where a batch cannot be cut into them."""
    model = tiny("nystromformer", num_landmarks=4)
    with pytest.raises(ModelError, match="`nystromformer` cannot compute such rows") as caught:
        dongu.Loop(model_types.DATA, model=model, **model_types.OPTIONS)
    assert len(str(caught.value).splitlines()) == 2
