"""One process and two: the same order, the same losses, the same evaluation, under both launchers."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_seeds import end_after

import dongu
from conftest import unwrapped
from dongu.cli.main import run as run_command
from dongu.run.dynamics import read_dynamics
from drivers import HANGS, Pool, forked, read_lines

LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", "{port}"],
    # On a machine without a GPU it starts several processes only if told that they are for several GPUs.
    "accelerate": [
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--main_process_port",
        "{port}",
    ],
}


def launch(launcher: str | None, *arguments: str, fails: bool = False) -> str:
    """Run `dongu` here, or on two processes of one thread each; its output."""
    if launcher is None:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            assert run_command(arguments) == 0
        return output.getvalue()
    port = str(20000 + os.getpid() % 20000)
    prefix = ["-m", *(part.format(port=port) for part in LAUNCHERS[launcher])]
    # Without GPUs both launchers say so at length on standard error; only our own lines are looked at.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *prefix, "-m", "dongu", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=HANGS)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("launcher", "lora"),
    [
        (None, True),
        pytest.param(None, False, marks=pytest.mark.crash),
        pytest.param("torchrun", False, marks=pytest.mark.exhaustive),
        pytest.param("accelerate", True, marks=pytest.mark.exhaustive),
    ],
)
def test_two_processes_train_as_one(
    launcher: str | None,
    lora: bool,
    tiny_model: Callable[..., str],
    data_folder: Callable[..., str],
    make_pool: Callable[..., Pool],
    tmp_path: Path,
) -> None:
    # 41 rows at 8 an update: the last update of an epoch has 1 row, so one process has none.
    options = [
        "--model",
        tiny_model(),
        "--batch-size",
        "8",
        "--epochs",
        "2",
        "--eval-batch-size",
        "4",
        "--threads",
        "1",
    ]
    options += ["--lr", "1e-3", "--recipe", "original"]
    if lora:
        options += ["--lora", "4"]
    else:
        # The weights of an update are those of all processes' rows, and their shares of the classes differ.
        options += ["--micro-batch-size", "3", "--class-weights", "class1=2", "--label-smoothing", "0.1", "--calibrate"]
    train = ["train", data_folder(train=41, validation=13, test=7), *options]
    launch(None, *train, "--out", str(tmp_path / "one"))
    train += ["--out", str(tmp_path / "two")]
    output = launch(launcher, *train) if launcher else forked(make_pool(), *train)
    assert output.count("\nnext ") == 1, "only the main process prints"
    assert "over 2 processes" in unwrapped(output)

    one, two = read_lines(tmp_path / "one"), read_lines(tmp_path / "two")
    assert len(one) == len(two) == 14  # 12 updates, 2 evaluations: each line once
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            wanted = pytest.approx(value, rel=1e-5) if name in ("loss", "grad_norm") else value
            assert b[name] == wanted, (name, a, b)
    own, shared = (read_dynamics(tmp_path / run / "dynamics.bin") for run in ("one", "two"))
    assert len(own) == 82  # each row's own loss, wherever it was computed
    assert own[["step", "row"]].tolist() == shared[["step", "row"]].tolist()
    assert shared["loss"].tolist() == pytest.approx(own["loss"].tolist(), rel=1e-4)
    for split, rows in (("validation", 13), ("test", 7)):
        alone, together = (read_lines(tmp_path / run, f"predictions/{split}.jsonl") for run in ("one", "two"))
        assert [line["id"] for line in together] == list(range(rows))
        for a, b in zip(alone, together, strict=True):
            assert b["probabilities"] == pytest.approx(a["probabilities"], abs=1e-3)
    if lora:  # without --calibrate so few rows have no temperature
        return
    temperature = json.loads((tmp_path / "two" / "results.json").read_text(encoding="utf-8"))["temperature"]
    assert temperature < 0.8 or temperature > 1.2, "else a process that does not calibrate would not be noticed"


def test_two_processes_evaluate_to_the_same_bits(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], make_pool: Callable[..., Pool], tmp_path: Path
) -> None:
    run = str(tmp_path / "run")
    data = data_folder(train=20, validation=13, test=17)
    launch(None, "train", data, "--model", tiny_model(), "--epochs", "1", "--out", run)
    arguments = ["evaluate", run, data, "--json", "--batch-size", "3"]
    alone = json.loads(launch(None, *arguments))
    together = json.loads(forked(make_pool(), *arguments).splitlines()[-1])
    assert together == alone  # every digit
    assert set(alone) == {"schema", "validation", "test"}


@pytest.mark.parametrize("launcher", [None, pytest.param("torchrun", marks=pytest.mark.exhaustive)])
def test_two_processes_share_the_rows_of_answers(
    launcher: str | None,
    tiny_model: Callable[..., str],
    data_folder: Callable[..., str],
    make_pool: Callable[..., Pool],
    tmp_path: Path,
) -> None:
    """In batches of 4, of which rank 0 has one more: each row is written once, in the order of the file."""
    data, run = data_folder(train=20, validation=13, test=33), str(tmp_path / "run")
    train = ["train", data, "--model", tiny_model(), "--max-steps", "2", "--device", "cpu", "--threads", "1"]
    launch(None, *train, "--out", run)
    predict = ["predict", run, "--data", f"{data}/test.jsonl", "--batch-size", "4", "--json"]
    evaluate = ["evaluate", run, data, "--split", "test", "--batch-size", "4", "--json"]
    alone = [launch(None, *command) for command in (predict, evaluate)]
    pool = make_pool()
    both = [launch(launcher, *each) if launcher else forked(pool, *each) for each in (predict, evaluate)]
    assert both == alone
    rows = [json.loads(line) for line in alone[0].splitlines()]
    given = [json.loads(line) for line in Path(data, "test.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows] == [row["text"] for row in given]
    assert len({row["probabilities"]["class0"] for row in rows}) > 20


@pytest.mark.exhaustive
def test_an_error_is_said_once(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere.csv"
    command = [sys.executable, "-m", *LAUNCHERS["torchrun"][:3], "-m", "dongu", "train", str(missing)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANGS)
    assert done.returncode != 0
    assert done.stderr.count("dongu: error:") == 1


@pytest.mark.crash
def test_several_seeds_on_two_processes(
    tiny_model: Callable[..., str],
    data_folder: Callable[..., str],
    make_pool: Callable[..., Pool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What one process has begun, two go on with; then they train the other seed."""
    options: dict[str, Any] = {"model": tiny_model(), "max_steps": 6, "eval_steps": 2, "lr": 1e-3, "threads": 1}
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    train = ["train", data_folder(test=0), *flags, "--out", str(tmp_path / "out")]
    for seed in (42, 43):
        dongu.train(data_folder(test=0), **options, seed=seed, out=str(tmp_path / f"alone-{seed}"))
    with monkeypatch.context() as patch:
        end_after(patch, steps=3)
        assert run_command([*train, "--seeds", "2"]) == 143
    output = forked(make_pool(), *train, "--seeds", "2")
    assert output.count("resuming after step 3 of 6") == 1
    assert output.count("2 seeds: mean") == 1, "only the main process prints"
    assert json.loads((tmp_path / "out" / "seeds.json").read_text())["seeds"] == [42, 43]
    for seed in (42, 43):
        alone, together = (read_lines(tmp_path / run) for run in (f"alone-{seed}", f"out/seed-{seed}"))
        assert [line["step"] for line in together] == [line["step"] for line in alone]
        assert [line["loss"] for line in together] == pytest.approx([line["loss"] for line in alone], rel=1e-5)
