"""`--seeds N`: N ordinary runs, what they came to together, and the same command again after an end in between."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import dongu
from dongu.cli.main import run as run_command
from dongu.errors import UsageError
from dongu.judge.intervals import verdict
from dongu.run.several import told_of_several
from dongu.sweep import options_in, seeds_lines, soup_lines, spread_of

OPTIONS: dict[str, Any] = {"max_steps": 6, "batch_size": 8, "lr": 2e-3, "eval_steps": 3, "threads": 1}
FLAGS = [text for name, value in OPTIONS.items() for text in (f"--{name}", str(value))]


@pytest.fixture
def command(tiny_model: Callable[..., str], data_folder: Callable[..., str]) -> Callable[..., list[str]]:
    """`command(out, *more)`: the command of three seeds, 42 to 44."""

    def make(out: Path, *more: str) -> list[str]:
        model = tiny_model(dropout=0.1)
        return ["train", data_folder(), *FLAGS, "--model", model, "--seeds", "3", "--out", str(out), *more]

    return make


ODD_PLACES: list[Any] = [[], 3, "x", {"model": 3}]


@pytest.mark.parametrize(
    "content", [{}, {"options": 3}, *({"options": {}, "relative_places": places} for places in ODD_PLACES)]
)
def test_a_damaged_summary_holds_no_options(content: dict[str, Any], tmp_path: Path) -> None:
    """Of `seeds.json`, `folds.json` and `tune.json`, which one function reads."""
    (tmp_path / "seeds.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UsageError, match="holds no options"):
        options_in(tmp_path, "seeds.json")


def files(folder: Path) -> dict[str, bytes]:
    """What has no times in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("timing.jsonl", "run.json", "report.html", ".lock")
    }


def end_after(monkeypatch: pytest.MonkeyPatch, steps: int, received: signal.Signals = signal.SIGTERM) -> None:
    """Have a signal come in a step, counted over all runs."""
    from dongu.run.journal import Journal

    write, made = Journal.step, []

    def step(self: Journal, one: dongu.Step) -> None:
        write(self, one)
        made.append(one)
        if len(made) == steps:
            os.kill(os.getpid(), received)

    monkeypatch.setattr(Journal, "step", step)


def killed_after(monkeypatch: pytest.MonkeyPatch, steps: int, arguments: list[str]) -> None:
    """Run a command in a process that SIGKILL ends in a step."""
    if (child := os.fork()) == 0:
        end_after(monkeypatch, steps, signal.SIGKILL)
        run_command(arguments)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_each_labelled_split_is_told() -> None:
    splits = {name: {"accuracy": spread_of([0.25, 0.75])} for name in ("validation", "test_hard")}
    summary = {"options": {"seed": 1}, "relative_places": {"data": "x"}, "seeds": [1, 2], "metric": "accuracy"}
    _, *lines, _ = seeds_lines({**summary, "best": "seed-2", **splits}, Path("out"))
    assert [line.split()[:3] for line in lines] == [[name, "accuracy", "0.5000"] for name in splits]


def test_a_run_a_seed_and_their_spread(
    command: Callable[..., list[str]],
    tiny_model: Callable[..., str],
    data_folder: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert run_command(command(out)) == 0
    shown = capsys.readouterr().out
    summary = json.loads((out / "seeds.json").read_text(encoding="utf-8"))
    assert summary["seeds"] == [42, 43, 44]
    results = [json.loads((out / f"seed-{seed}/results.json").read_text(encoding="utf-8")) for seed in (42, 43, 44)]
    assert set(summary["validation"]) == set(results[0]["validation"])
    for split in ("validation", "test"):
        for name, spread in summary[split].items():
            values = [result[split][name]["value"] for result in results]
            assert spread["values"] == values
            assert spread["mean"] == pytest.approx(np.mean(values))
            assert spread["std"] == pytest.approx(np.std(values, ddof=1))
            assert (spread["min"], spread["max"]) == (min(values), max(values))
    assert summary["metric"] == "accuracy"
    values = summary["validation"]["accuracy"]["values"]
    assert summary["best"] == f"seed-{42 + int(np.argmax(values))}"
    loss = summary["test"]["loss"]
    assert len(set(loss["values"])) == 3, "another seed is another run"
    assert f"{loss['mean']:.4f} ± {loss['std']:.4f}   {loss['min']:.4f} to {loss['max']:.4f}" in shown
    assert f"best by accuracy on validation: {out}/{summary['best']}" in shown
    for number, seed in enumerate((42, 43, 44), 1):
        assert f"seed {seed}, {number} of 3, in {out}/seed-{seed}" in shown
    starts = [line.split()[0] for line in shown.splitlines() if line and line[0] != " "]
    for name in ("data", "tokens", "optimizer", "device"):
        assert starts.count(name) == 1, "the header stands once"
    assert starts.count("Accuracy") == 3, "each run has its verdict"
    assert not {"speed", "saved"} & {*starts}, "the summary of all is enough"

    assert run_command(["predict", str(out), "a text"]) == 2
    assert f"give one of them: {out}/seed-42, {out}/seed-43, {out}/seed-44" in capsys.readouterr().err

    single = dongu.train(data_folder(), **OPTIONS, model=tiny_model(dropout=0.1), seed=43, out=str(tmp_path / "one"))
    assert files(out / "seed-43") == files(single.path), "each is an ordinary run"

    before = files(out)
    capsys.readouterr()
    assert run_command(command(out, "--json")) == 0, "the same command again has nothing to do"
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"schema": "dongu.seeds/1", "path": str(out), **summary}
    assert "seed 44 is finished" in captured.err
    assert files(out) == before


@pytest.mark.crash
def test_a_kill_a_signal_and_the_same_command_again(
    command: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run_command(command(whole)) == 0
    killed_after(monkeypatch, 5, command(out))
    assert {path.name for path in out.iterdir()} == {"seed-42"}
    with monkeypatch.context() as patch:
        end_after(patch, steps=3 + 4)  # the three that are left of seed 42, and the fourth of seed 43
        assert run_command(command(out)) == 143
    captured = capsys.readouterr()
    assert "resuming after step 3 of 6" in captured.out
    assert "the same command continues it" in captured.err
    assert json.loads((out / "seeds.json").read_text(encoding="utf-8"))["seeds"] == [42]
    assert not (out / "seed-44").exists()
    kept = (out / "seed-42/results.json").stat().st_mtime_ns
    assert run_command(command(out)) == 0
    assert "resuming after step 4 of 6" in capsys.readouterr().out
    assert (out / "seed-42/results.json").stat().st_mtime_ns == kept
    assert files(out) == files(whole)


def test_other_options_rows_or_uses_of_the_folder_are_refused(
    command: Callable[..., list[str]],
    data_folder: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert run_command([*command(out), "--seeds", "1"]) == 0
    before = files(out)
    assert json.loads(before["seeds.json"])["test"]["loss"]["std"] is None, "one run has no spread"
    capsys.readouterr()

    assert run_command(command(out, "--weight-decay", "0.5")) == 2
    assert "--weight-decay is 0.5, and was 0.01" in capsys.readouterr().err
    assert run_command(command(out, "--recipe", "quick")) == 2, "what it derives is known with the rows alone"
    assert "--recipe is quick, and was auto" in capsys.readouterr().err
    (tmp_path / "mine.py").write_text("def lr_scheduler(step, total_steps):\n    return 1.0\n")
    assert run_command(command(out, "--parts", str(tmp_path / "mine.py"))) == 2
    assert "the parts of your own are lr_scheduler (" in capsys.readouterr().err
    assert run_command(command(out / "seed-42")) == 2
    assert "holds a finished run" in capsys.readouterr().err
    assert run_command(command(tmp_path, "--seeds", "0")) == 2
    assert "--seeds: must be a whole number of at least 1" in capsys.readouterr().err
    validation = Path(data_folder()) / "validation.jsonl"
    lines = validation.read_text(encoding="utf-8").splitlines()
    validation.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    arguments = command(out)
    validation.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    assert run_command(arguments) == 2
    assert "was trained on other rows" in capsys.readouterr().err
    assert files(out) == before


def test_what_cannot_be_trained_leaves_nothing(
    command: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run_command(command(out, "--max-length", "1000")) == 2
    assert "--max-length 1000" in capsys.readouterr().err
    assert not out.exists()


def test_each_seed_holds_out_its_own_rows(
    command: Callable[..., list[str]], data_folder: Callable[..., str], tmp_path: Path
) -> None:
    """As a run of that seed alone would: so it can be resumed and verified by itself, and kept at the next call."""
    out = tmp_path / "out"
    arguments = command(out, "--seeds", "2")
    arguments[1] = str(Path(data_folder()) / "train.jsonl")
    assert run_command(arguments) == 0
    records = [json.loads((out / f"seed-{seed}/run.json").read_text(encoding="utf-8")) for seed in (42, 43)]
    assert records[0]["data"]["validation"]["texts"] != records[1]["data"]["validation"]["texts"]
    assert run_command(arguments) == 0


@pytest.mark.crash
def test_the_mean_of_the_weights_is_kept_where_it_is_no_worse(
    command: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    for decided, better in (("kept", 1.0), ("not kept", -1.0)):

        def shifted(*given: Any, better: float = better) -> Any:
            found = verdict(*given)
            found["accuracy"]["value"] += better
            return found

        with monkeypatch.context() as patched:
            patched.setattr("dongu.soup.verdict", shifted)
            assert run_command(command(out, "--keep", "soup")) == 0
        found = json.loads((out / "seeds.json").read_text(encoding="utf-8"))["soup"]
        assert found["kept"] is (decided == "kept")
        assert (out / "soup").exists() is found["kept"]
        assert ("the mean is kept" in capsys.readouterr().out) is found["kept"]
        if found["kept"]:
            states = [load_file(out / name / "model/model.safetensors") for name in found["runs"]]
            mean = load_file(out / "soup/model.safetensors")
            for name, tensor in mean.items():
                assert torch.equal(tensor, torch.stack([state[name].double() for state in states]).mean(0).float())
            plain = AutoModelForSequenceClassification.from_pretrained(out / "soup")
            assert plain.config.id2label == dongu.load(out / "soup").model.config.id2label


def test_one_seed_has_no_deviation() -> None:
    summary = {"seeds": [42], "metric": "loss", "best": "seed-42", "validation": {"loss": spread_of([0.5])}}
    assert [*seeds_lines(summary, Path("out"))][:2] == ["1 seed", "validation  loss                  0.5000"]


def test_a_mean_needs_several_runs_that_hold_out_the_same_rows(
    command: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = command(tmp_path / "one")
    del alone[alone.index("--seeds") : alone.index("--seeds") + 2]
    assert run_command([*alone, "--keep", "soup"]) == 2
    assert "give --seeds N too" in capsys.readouterr().err
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"a b {i},{i % 2}\n" for i in range(40)), encoding="utf-8")
    given = command(tmp_path / "other", "--keep", "soup")
    assert run_command(["train", str(rows), *given[2:]]) == 2
    assert "each seed holds out other rows" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_mean_is_refused_by_each_of_several_processes(
    command: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one, too, which would otherwise train alone and be another run."""
    monkeypatch.setattr("dongu.launch.tell", lambda _: False)
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert run_command(command(tmp_path / "out", "--keep", "soup")) == 2
        assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == (rank, "2")
        assert not (tmp_path / "out").exists()


def test_the_folder_says_where_the_mean_is(tmp_path: Path) -> None:
    out = tmp_path / "few rows"
    for name in ("seed-42/run.json", "seeds.json"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("{}", encoding="utf-8")
    told = told_of_several(out)
    assert told is not None
    assert "mean" not in told[1]
    (out / "soup").mkdir()
    (out / "soup" / "config.json").write_text("{}", encoding="utf-8")
    told = told_of_several(out)
    assert told is not None
    assert told[1].endswith(f"take '{out}/soup', the mean of their weights")
    soup = {"kept": True, "best": 0.5, "validation": {"loss": {"value": 0.5}}}
    assert [*soup_lines(soup, "loss", out)][-1].endswith(f"the mean is kept, in {out}/soup")
