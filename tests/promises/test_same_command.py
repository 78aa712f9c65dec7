"""`dongu train … --resume`: the same command starts a run, goes on with it, or says that it is finished."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dongu
from conftest import cut_off_in_step
from dongu.cli.main import run as run_command
from dongu.errors import UsageError
from drivers import HANGS, Driver, Pool, forked

FILES = ("metrics.jsonl", "dynamics.bin", "model/model.safetensors", "results.json")
# Ends the process of rank 0 in step 5, once.
KILLER = """\
import os, signal
from pathlib import Path
from dongu.run.journal import Journal

write = Journal.step

def step(journal, made):
    write(journal, made)
    killed = Path(os.environ.get("KILLED", "/"))
    if made.number == 5 and os.environ["RANK"] == "0" and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)

Journal.step = step
metrics = {"one": lambda evaluation: 1.0}
"""


def same_bytes(one: Path, other: Path, *more: Path) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in (*FILES, *map(str, more)))


def test_it_starts_goes_on_and_ends(
    tiny_model: Callable[..., str],
    data_folder: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--model", tiny_model(dropout=0.1), "--max-steps", "8", "--save-steps", "2", "--lr", "1e-3"]
    train = ["train", data_folder(), *options, "--out", str(tmp_path / "run"), "--resume"]
    assert run_command(["train", data_folder(), *options, "--out", str(tmp_path / "whole")]) == 0
    with cut_off_in_step(5):
        dongu.train(train[1], model=options[1], max_steps=8, save_steps=2, lr=1e-3, out=train[-2], resume=True)
    assert run_command(train[:-1]) == 2, "without the option the folder is taken"
    capsys.readouterr()
    assert run_command([*train, "--lr", "1e-2"]) == 2
    said = capsys.readouterr().err
    assert "--learning-rate is 0.01, and was 0.001" in said
    assert "the same command with --allow learning-rate" in said
    assert run_command([*train[:1], data_folder(train=35), *train[2:]]) == 2
    assert "train has other rows than before" in capsys.readouterr().err
    torch.set_num_threads(2)  # as on a machine of more cores: a run that goes on has the threads that it began with
    assert run_command(train) == 0
    said = capsys.readouterr().out
    assert "resuming after step 4 of 8" in said
    assert not [line for line in said.splitlines() if line.startswith(("columns", "labels"))], "said when it began"
    assert same_bytes(tmp_path / "run", tmp_path / "whole")
    assert run_command([*train, "--lr", "1e-2"]) == 2, "of a finished run too"
    capsys.readouterr()
    assert run_command(train) == 0
    assert "the run is finished" in capsys.readouterr().out
    assert run_command([*train[:-3], "--resume"]) == 2
    assert "give its folder: --out RUN" in capsys.readouterr().err
    assert run_command([*train[:-1], "--allow", "data"]) == 2


def test_in_python_and_with_the_commit_of_its_model(tmp_path: Path, tiny_model: Callable[..., str]) -> None:
    """Which stands for the model's name where none is given."""
    from dongu.run.taken import as_begun

    rows = [{"text": f"word{i} film", "label": "ab"[i % 2]} for i in range(20)]
    options: dict[str, Any] = {"model": tiny_model(), "out": str(tmp_path / "run"), "max_steps": 2, "threads": 1}
    result = dongu.train(rows, **options, resume=True)
    assert dongu.train(rows, **options, resume=True).metrics == result.metrics
    with pytest.raises(UsageError, match="--seed is 43, and was 42"):
        dongu.train(rows, **options, seed=43, resume=True)
    record, commit = tmp_path / "run" / "run.json", "a" * 40
    text = record.read_text(encoding="utf-8").replace('"commits": {}', f'"commits": {{"model": "{commit}"}}')
    record.write_text(text, encoding="utf-8")
    named = {"out": options["out"], "model": options["model"]}
    assert as_begun(named) == {**named, "model": f"{named['model']}@{commit}", "threads": 1}
    assert as_begun({**named, "model": "owner/other"})["model"] == "owner/other"


@pytest.mark.crash
def test_torchrun_restarts_a_killed_worker(
    tiny_model: Callable[..., str],
    data_folder: Callable[..., str],
    make_pool: Callable[..., Pool],
    tmp_path: Path,
) -> None:
    """Two agents, as on two machines, and a sharded model; rank 0 is killed in step 5, and all ends in the same bytes:
    torchrun gives the same command again. One agent is started as on a command line; the processes of the other are
    forks, which import nothing anew.
    """
    killer, killed = tmp_path / "killer.py", tmp_path / "killed"
    killer.write_text(KILLER, encoding="utf-8")
    options = ["--model", tiny_model("qwen3"), "--shard", "--max-steps", "6", "--save-steps", "2", "--keep", "9"]
    train = ["train", data_folder(train=25, validation=13, test=0), *options, "--threads", "1", "--device", "cpu"]
    train += ["--recipe", "original", "--lr", "1e-3", "--parts", str(killer), "--resume", "--out"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run, whole = tmp_path / "run", tmp_path / "whole"
    agent = ["--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "3", "--rdzv-backend", "c10d"]
    agent += ["--rdzv-id", "job", "--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1"]
    agent += ["--rdzv-conf", f"last_call_timeout={HANGS}"]  # one comes seconds after the other
    more = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "KILLED": str(killed)}
    environment = {**os.environ, **more, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "torch.distributed.run", *agent, "-m", "dongu", *train, str(run)]
    pool = make_pool()

    def agent_of(driver: Driver, forks: bool) -> tuple[int, str]:
        if forks:
            answer = driver.ask(torchrun=agent, arguments=[*train, str(run)], environment=more)
            return answer["code"], answer["output"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=HANGS)
        return done.returncode, done.stdout + done.stderr

    ends = pool.map(agent_of, [False, True])
    said = "".join(output for _, output in ends)
    assert [code for code, _ in ends] == [0, 0], said
    assert killed.exists()
    assert "resuming after step 4 of 6" in said
    forked(pool, *train, str(whole))
    checkpoints = [path.relative_to(whole) for path in (whole / "checkpoints").glob("*/*.safetensors")]
    assert {path.name for path in checkpoints} == {
        f"{kind}-0000{i}-of-00002.safetensors" for kind in ("weights", "moments") for i in (1, 2)
    }
    assert len(checkpoints) == 3 * 4
    assert same_bytes(run, whole, *checkpoints)
