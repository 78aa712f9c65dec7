"""A search: what it may take, how it goes on after a kill, what it leaves, what it says of its gain."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import checked, cut_off_in_step
from dongu.cli.main import run as run_command
from dongu.data.sources import read_source
from dongu.errors import UsageError
from dongu.page.tuned import _verdict, gain_lines
from dongu.run.console import Console
from dongu.run.folder import RunFolder
from dongu.space import Dimension, read_space
from dongu.sweep import spread_of
from dongu.tune import _Search, _study, tune

SPACE = ("learning_rate=1e-4..1e-2:log", "batch_size=4,8")


def test_a_space_is_read() -> None:
    space = read_space(["lr=1e-5..5e-4:log", "batch-size=8,16", "epochs=1..5", "warmup=0.0..0.1"], {})
    assert space == {
        "learning_rate": Dimension("learning_rate", (), 1e-5, 5e-4, log=True),
        "batch_size": Dimension("batch_size", ("8", "16")),
        "epochs": Dimension("epochs", (), 1, 5, whole=True),
        "warmup": Dimension("warmup", (), 0.0, 0.1),
    }
    assert [space[name].place(value) for name, value in (("batch_size", 8), ("epochs", 3.0), ("warmup", 0.0))] == [
        *("8", 3, 0.0)
    ]
    assert [space[name].place(value) for name, value in (("batch_size", 4), ("epochs", 2.5), ("warmup", 5))] == [
        None
    ] * 3


def test_what_is_fixed_is_not_in_the_usual_space() -> None:
    assert [*read_space([], {"epochs": 2.0, "learning_rate": None})] == ["learning_rate", "batch_size"]
    assert [*read_space([], {"max_steps": 5})] == ["learning_rate", "batch_size"], "epochs would change nothing"
    assert [*read_space([], {"recipe": "quick"})] == ["learning_rate", "batch_size"], "its epochs are its own"


@pytest.mark.parametrize(
    ("recipe", "enough", "first"),
    [
        ("auto", 1_000, {"learning_rate": 1e-4, "batch_size": "8"}),
        ("quick", 1_000, {"learning_rate": 1e-4, "batch_size": "8"}),  # which is `auto` with so few rows
        ("quick", 0, {"learning_rate": 1e-4, "batch_size": "16"}),
        ("auto", 0, {"learning_rate": 5e-5, "batch_size": "8"}),
    ],
)
def test_a_search_begins_with_what_a_run_does(
    recipe: str,
    enough: int,
    first: dict[str, Any],
    tiny_model: Callable[..., str],
    make_rows: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dongu.model.recipe.ENOUGH_UPDATES", enough)
    source = read_source({"train": make_rows(41, seed=0), "validation": make_rows(13, seed=1)})
    options = {"recipe": recipe, "model": tiny_model()}
    search = _Search(_study(tmp_path), source, options, read_space([], options), tmp_path, Console(enabled=False), None)
    search.begin()
    search.begin()
    [trial] = search.study.get_trials()
    assert first.items() <= trial.system_attrs["fixed_params"].items()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rat=1..2", "did you mean --learning-rate?"),
        ("learning_rate=1e-4..2", "--learning-rate: must be less than or equal to 1"),
        ("learning_rate=1e-3..1e-4", "is not a range"),
        ("learning_rate=0..1:log", "is not a range"),
        ("learning_rate=1e-4..1e-3:lin", "is not a range"),
        ("batch_size=8,x", "--batch-size: must be a whole number"),
        ("batch_size=8", "has no values to choose from"),
        ("batch_size=8,8", "has no values to choose from"),
        ("metric=loss,accuracy", "--metric cannot be searched"),
        ("seed=1..5", "--seed cannot be searched"),
        ("epochs=1..2", "--epochs is given twice"),
    ],
)
def test_a_wrong_space_is_an_error(text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        read_space([text], {"epochs": 1.0})
    assert said in str(error.value)


def test_a_disk_without_room_for_the_study(
    tiny_model: Callable[..., str],
    data_folder: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The words are SQLite's, for a file that may not grow."""
    command = ["tune", data_folder(), "--model", tiny_model(), "--max-steps", "1", "--out", str(tmp_path / "search")]
    former, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, former[1]))
    try:
        assert run_command(command) == 6
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
        signal.signal(signal.SIGXFSZ, ignored)
    assert re.search(r"study\.db: cannot be read or written \(.*disk", capsys.readouterr().err)
    (tmp_path / "search" / "study.db").write_bytes(b"another file" * 1_000)
    assert run_command(command) == 6
    assert "study.db: cannot be read or written (file is not a database)" in capsys.readouterr().err


@pytest.fixture
def search(
    tiny_model: Callable[..., str], shared_data_folder: Callable[..., str], tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    data = shared_data_folder(train=48, validation=24, test=20)

    def run(out: str = "search", **options: Any) -> dict[str, Any]:
        given = {"model": tiny_model(), "epochs": 2.0, "device": "cpu", "out": str(tmp_path / out)}
        options = {"trials": 4, "space": SPACE, "seeds": 2, **options}
        return tune(read_source(data), given, Console(stream=io.StringIO()), **options)[1]

    return run


@pytest.mark.exhaustive
def test_a_search_and_what_it_leaves(search: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    content = search()
    out = tmp_path / "search"
    assert json.loads((out / "tune.json").read_text(encoding="utf-8")) == json.loads(json.dumps(content))
    trials = content["trials"]
    assert [row["trial"] for row in trials] == [0, 1, 2, 3]
    best = max((row for row in trials if row["state"] == "complete"), key=lambda row: row["score"])
    assert content["winner"]["trial"] == best["trial"]
    for row in trials:
        folder = out / f"trial-{row['trial']:04}"
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        if row["state"] == "complete":
            assert results["validation"]["accuracy"]["value"] == row["score"]
        assert (folder / "metrics.jsonl").exists()
        assert (folder / "model").exists() == (folder / "checkpoints").exists() == (row is best)
    for name in ("winner", "default"):
        assert content[name]["seeds"]["seeds"] == [43, 44], "the trials' own seed chose the winner"
    assert content["gain"]["split"] == "test"
    assert content["gain"]["low"] <= content["gain"]["value"] <= content["gain"]["high"]
    page = (out / "tune.html").read_text(encoding="utf-8")
    for title in ("What the search came to", "Trials", "learning-rate", "batch-size"):
        assert title in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    lines = "\n".join(gain_lines(content, out))
    assert "which chose it" in lines
    assert "gain over the usual options on test" in lines
    assert search()["trials"] == trials, "the same command again has nothing to do"
    once = search(seeds=1)
    assert "gain" not in once
    assert once["no_gain"] == "one seed has no spread; the same command with --seeds 3 measures it"
    assert search()["gain"] == content["gain"], "as it says"
    with pytest.raises(UsageError, match="other options and space"):
        search(space=["batch_size=4,8"])


def test_what_a_part_of_ones_own_does_not_know_is_not_searched(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path
) -> None:
    """It was found at the second trial, after the first, which has the usual value, had been trained."""
    own: dict[str, Any] = {"optimizer": lambda parameters: torch.optim.SGD(parameters.values(), lr=0.1)}
    options = {"model": tiny_model(), "max_steps": 2, "out": str(tmp_path / "out"), **own}
    source = read_source(data_folder())
    with pytest.raises(UsageError, match="the optimizer is your own, and does not know --learning-rate"):
        tune(source, options, Console(enabled=False), space=["learning_rate=1e-5..1e-3"])
    assert not (tmp_path / "out").exists()
    assert [*read_space([], {"max_steps": 2}, {"learning_rate": "optimizer"})] == ["batch_size"]


def test_one_seed_has_no_deviation() -> None:
    seeds = {"seeds": [43], "best": "seed-43", "test": {"accuracy": spread_of([0.5])}}
    side = {"seeds": seeds, "trial": 3, "options": {"learning_rate": 3e-5}, "score": 0.75}
    content = {"metric": "accuracy", "winner": side, "default": side, "trials": [{"state": "complete"}]}
    content["no_gain"] = "one seed has no spread"
    lines = gain_lines(content, Path("out"))
    assert "  no interval of the gain over the usual options: one seed has no spread" in lines
    assert [line.split()[-1] for line in lines if "new seeds, on test" in line] == ["0.5000", "0.5000"]
    chart, said = _verdict(content)
    assert "of one new seed" in said
    assert said.endswith("There is no interval of the gain over the usual options: one seed has no spread.")
    for name in ("the winning trial, on validation", "the winner's options, on test", "the usual options, on test"):
        assert name in unescape(str(chart.svg)), "whole, and not cut"
    assert "0.500 to" not in chart.svg


def test_the_usual_options_are_trained_once_where_they_win(
    search: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    out, options = tmp_path / "search", {"trials": 1, "space": ["learning_rate=1e-6..1e-2:log"]}
    content = search(**options)
    assert content["winner"]["is_default"]
    assert content["winner"]["seeds"] == content["default"]["seeds"]
    assert "gain" not in content
    assert not (out / "winner").exists()
    lines = gain_lines(content, out)
    assert any("no trial was better" in line for line in lines)
    assert str(out / "default" / content["default"]["seeds"]["best"]) in lines[-1]
    assert "No trial was better than the usual options" in (out / "tune.html").read_text(encoding="utf-8")
    assert search(**options) == content, "the same command again has nothing to do"


@pytest.mark.cases(test=0, ci=2)
def test_of_an_error_the_smallest_wins(
    tiny_model: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"a b {i},{i / 7}\n" for i in range(40)), encoding="utf-8")
    won: list[dict[str, Any]] = []

    def final(search: Any, best: dict[str, Any], seeds: int) -> dict[str, Any]:
        won.append(best)
        return {}

    monkeypatch.setattr("dongu.tune._final", final)
    monkeypatch.setattr("dongu.tune.write_page", lambda path, content: None)
    given = {"model": tiny_model(), "task": "regression", "metric": "mae", "max_steps": 3, "out": str(tmp_path / "out")}
    said = io.StringIO()
    tune(read_source(str(rows)), given, Console(stream=said), trials=2, space=["learning_rate=1e-6..1e-1:log"])
    results = [RunFolder(tmp_path / f"out/trial-000{i}").read_results()["validation"]["mae"]["value"] for i in (0, 1)]
    assert results[0] != results[1]
    assert won[0]["trial"] == int(np.argmin(results))
    assert won[0]["score"] == -min(results)
    assert f"best so far {min(results):.4f}" in said.getvalue()


def test_each_evaluation_of_a_trial_is_told_once(
    tiny_model: Callable[..., str],
    shared_data_folder: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:
    """Also the last one, within an epoch, and where a trial that was cut off begins anew."""
    monkeypatch.setattr("dongu.tune._final", lambda search, best, seeds: {})
    monkeypatch.setattr("dongu.tune.write_page", lambda path, content: None)
    source = read_source(shared_data_folder(train=48, validation=24, test=20))
    given = {"model": tiny_model(), "max_steps": 8, "device": "cpu", "out": str(tmp_path)}

    def searched() -> list[dict[str, Any]]:
        content = tune(source, given, Console(stream=io.StringIO()), trials=1, space=["batch_size=8,4"])[1]
        return list(content["trials"])

    with cut_off_in_step(7):
        searched()
    shutil.rmtree(tmp_path / "trial-0000")
    [trial] = searched()
    assert len(trial["evaluations"]) == 2, "after the epoch of 6 updates, and after 8"
    assert [str(each.message) for each in recwarn if "already reported" in str(each.message)] == []
    source = read_source(shared_data_folder(train=49, validation=24, test=20))
    with pytest.raises(UsageError, match="was trained on other rows than DATA has now"):
        searched()


def test_the_command(
    tiny_model: Callable[..., str], shared_data_folder: Callable[..., str], tmp_path: Path, capsys: Any
) -> None:
    data, out = shared_data_folder(train=48, validation=24, test=20), str(tmp_path / "search")
    words = ["tune", data, "--model", tiny_model(), "--epochs", "1", "--space", "batch_size=4,8", "--trials", "1"]
    assert run_command([*words, "--seeds", "1", "--device", "cpu", "--out", out, "--json"]) == 0
    content = checked(capsys.readouterr().out)
    assert [row["state"] for row in content["trials"]] == ["complete"]
    assert content["winner"]["seeds"]["seeds"] == [43]


@pytest.mark.exhaustive
def test_a_search_that_was_killed_goes_on(search: Callable[..., dict[str, Any]]) -> None:
    wanted = search("whole", seeds=1)["trials"]
    with cut_off_in_step(5):
        search("cut", seeds=1)
    found = search("cut", seeds=1)["trials"]
    assert found == wanted


@pytest.mark.exhaustive
def test_a_trial_of_another_process_is_left_to_it(search: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with cut_off_in_step(5):
        search()
    lock = next((tmp_path / "search" / "locks").glob("trial-*/.lock"))
    hold = f"import fcntl; f = open({str(lock)!r}, 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        content = search()
        assert [row["state"] for row in content["trials"]].count("running") == 1
        assert "winner" not in content, "the other process trains it"
        other.communicate(b"\n")
    assert "winner" in search()


@pytest.mark.crash
def test_two_processes_share_the_trials(
    search: Callable[..., dict[str, Any]], tiny_model: Callable[..., str], tmp_path: Path
) -> None:
    tiny_model()  # the same for both
    children = []
    for _ in range(2):
        if (child := os.fork()) == 0:
            failed = 1
            try:
                search("shared", seeds=1)
                failed = 0
            finally:
                if failed:
                    traceback.print_exc(file=sys.__stderr__)
                os._exit(failed)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    content = json.loads((tmp_path / "shared/tune.json").read_text(encoding="utf-8"))
    assert [row["trial"] for row in content["trials"]] == [0, 1, 2, 3], "none was tried twice, or left out"
    assert all(row["state"] in ("complete", "pruned") for row in content["trials"])
    assert content["winner"]["seeds"]["seeds"] == [43], "one of the two trained the winner"


def test_without_optuna_the_extra_is_named(
    tiny_model: Callable[..., str],
    shared_data_folder: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("dongu.extras._installed", lambda _: False)
    assert run_command(["tune", shared_data_folder(), "--model", tiny_model()]) == 2
    assert 'pip install ".[tune]"' in capsys.readouterr().err
