"""Several processes: what a launcher sets, who speaks, and what ends where the processes are not of one run."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest

import dongu
from dongu import launch
from dongu.cli.main import run as run_command
from dongu.config import make_config
from dongu.engine.device import SETTINGS, refuse_settings
from dongu.errors import UsageError, WorkerError
from drivers import Pool, read_lines

# What `accelerate launch` sets whatever it is told, and what changes nothing.
HARMLESS = [
    {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO", "ACCELERATE_DYNAMO_MODE": "default"},
    {"ACCELERATE_DYNAMO_USE_FULLGRAPH": "False", "ACCELERATE_USE_CPU": "False", "ACCELERATE_USE_FSDP": "false"},
    {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1", "ACCELERATE_CPU_AFFINITY": "1", "ACCELERATE_USE_CPU": "true"},
    {"ACCELERATE_MIXED_PRECISION": "bf16", "--precision": "bf16"},
    {"ACCELERATE_MIXED_PRECISION": "no", "--precision": "bf16"},
]
REFUSED = [
    {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
    {"ACCELERATE_MIXED_PRECISION": "bf16"},
    {"ACCELERATE_MIXED_PRECISION": "fp16", "--precision": "bf16"},
    {"ACCELERATE_MIXED_PRECISION": "fp8"},
    {"ACCELERATE_FP8_BACKEND": "TE"},
    {"ACCELERATE_USE_FSDP": "true"},
    {"ACCELERATE_USE_DEEPSPEED": "true"},
    {"ACCELERATE_USE_MEGATRON_LM": "True"},
    {"ACCELERATE_USE_PARALLELISM_CONFIG": "true"},
    {"PARALLELISM_CONFIG_TP_SIZE": "2"},
    {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"},
    {"ACCELERATE_TORCH_DEVICE": "cuda:1"},
    {"ACCELERATE_USE_CPU": "true", "--device": "cuda"},
]
# Read only with one of the settings above, or by no part of Accelerate that is used, or of no influence on numbers.
ELSEWHERE = re.compile(
    "ACCELERATE_(DEEPSPEED_.*|CONFIG_DS_FIELDS|DYNAMO_.*|DEBUG_.*|CPU_AFFINITY|LOG_LEVEL|ALLOW_CP_STANDALONE|USE_SAGEMAKER"
    "|INIT_INCLUDE_BUFFERS|BYPASS_DEVICE_MAP|ENABLE_RICH|DISABLE_RICH|LAUNCHER.*|NUM_PROCESSES|TPU.*|FP8_?|USE_)"
)


def options_of(case: dict[str, str]) -> dict[str, Any]:
    return {name[2:]: value for name, value in case.items() if name.startswith("--")}


@pytest.mark.found("accelerate-environment")
@pytest.mark.parametrize("case", [*HARMLESS, *REFUSED], ids=str)
def test_a_setting_is_honoured_or_refused(case: dict[str, str]) -> None:
    config = make_config({"data": "x.csv", **options_of(case)})
    environment = {name: value for name, value in case.items() if not name.startswith("--")}
    if case in HARMLESS:
        refuse_settings(config, environment)
        return
    with pytest.raises(UsageError) as caught:
        refuse_settings(config, environment)
    assert caught.value.where in {f"{name}={value}" for name, value in environment.items()}
    assert caught.value.hint


@pytest.mark.found("accelerate-environment")
def test_no_setting_of_accelerate_is_undecided() -> None:
    """A new version of Accelerate may read more."""
    package = Path(accelerate.__file__).parent
    paths = [*package.glob("*.py"), *package.glob("utils/*.py")]
    names = {
        name for path in paths for name in re.findall(r"[\"'](ACCELERATE_[A-Z0-9_]+)[\"']", path.read_text("utf-8"))
    }
    assert len(names) > 20
    known = {"ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_CPU"}
    patterns = [pattern for pattern, *_ in SETTINGS]
    decided = {name for name in names if ELSEWHERE.fullmatch(name) or any(re.fullmatch(p, name) for p in patterns)}
    assert names - decided - known == set()


@pytest.mark.found("accelerate-environment")
def test_a_gradient_is_never_divided(tiny_model: Callable[..., str], data_folder: Callable[..., str]) -> None:
    norms = []
    for steps in (1, 4):
        loop = dongu.Loop(data_folder(), model=tiny_model(), threads=1)
        loop.accelerator.gradient_accumulation_steps = steps
        norms.append(next(iter(loop)).grad_norm)
    assert norms[0] == norms[1]


@pytest.mark.found("accelerate-environment")
def test_a_setting_ends_a_command(
    tiny_model: Callable[..., str],
    data_folder: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert run_command(["train", data_folder(), "--model", tiny_model(), "--out", str(tmp_path / "run")]) == 2
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


class Ranks:
    """Two processes of one `dongu train`, which may be given other things."""

    def __init__(self, pool: Pool, model: str, data: str, out: Path) -> None:
        self.pool, self.model, self.data, self.out = pool, model, data, out

    def train(self, *more: str, data: str | None = None, out: str | None = None) -> list[str]:
        options = ["--model", self.model, "--threads", "1", "--max-steps", "4", "--save-steps", "2"]
        return ["train", data or self.data, *options, "--out", out or str(self.out), *more]

    def both(self, first: list[str], second: list[str]) -> tuple[list[int], list[str]]:
        """Their exit codes and what they printed."""
        answers = self.pool.ranks(first, {"arguments": first}, {"arguments": second})
        return [answer["code"] for answer in answers], [own_lines(answer["output"]) for answer in answers]


def own_lines(output: str) -> str:
    """Without what PyTorch has to say of itself."""
    lines = output.splitlines(keepends=True)
    return "".join(line for line in lines if "FutureWarning" not in line and "DistributedDataParallel" not in line)


@pytest.fixture
def ranks(
    make_pool: Callable[..., Pool], tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path
) -> Ranks:
    return Ranks(make_pool(), tiny_model(), data_folder(train=20, validation=8, test=0), tmp_path / "run")


@pytest.mark.crash
@pytest.mark.found("processes-compared")
def test_processes_of_different_runs(ranks: Ranks, data_folder: Callable[..., str], tmp_path: Path) -> None:
    flipped = tmp_path / "flipped"
    flipped.mkdir()
    for path in Path(ranks.data).iterdir():
        text = path.read_text(encoding="utf-8")
        text = text.replace("class0", "x").replace("class1", "class0").replace("x", "class1")
        (flipped / path.name).write_text(text, encoding="utf-8")
    cases = {
        "--learning-rate is 0.01 on rank 1, and 5e-05 on rank 0": ranks.train("--lr", "1e-2"),
        "--seed is 43 on rank 1, and 42 on rank 0": ranks.train("--seed", "43"),
        "train is 20 rows": ranks.train(data=str(flipped)),
        "train is 35 rows": ranks.train(data=data_folder(train=35, validation=8, test=0)),
    }
    for text, other in cases.items():
        codes, said = ranks.both(ranks.train(), other)
        assert codes == [2, 2], said
        assert text in said[0]
        assert "the processes do not belong to one run" in said[0]
        assert said[1] == "", "what all meet is said once"
        assert not ranks.out.exists()


@pytest.mark.found("node-local-folder")
def test_a_folder_that_not_all_see(ranks: Ranks, tmp_path: Path) -> None:
    codes, said = ranks.both(ranks.train(), ranks.train(out=str(tmp_path / "other")))
    assert codes == [2, 2], said
    assert "is not one folder for all processes: rank 1 does not see" in said[0]
    assert [path.name for path in ranks.out.iterdir()] == [".lock"]


@pytest.mark.found("ranks-speak")
def test_each_process_says_what_it_met(ranks: Ranks, tmp_path: Path) -> None:
    missing = ranks.train(data=str(tmp_path / "missing.csv"))
    codes, said = ranks.both(ranks.train(), missing)
    assert codes == [8, 2], said
    assert f"[rank 1] dongu: error: {tmp_path}/missing.csv: no such file" in said[1]
    assert "another process of the run has ended (rank 1) before the run began" in said[0]
    codes, said = ranks.both(missing, missing)
    assert codes == [2, 2]
    assert "dongu: error: " in said[0]
    assert said[1] == "", "what all meet is said once"


@pytest.mark.crash
@pytest.mark.found("ranks-speak")
def test_a_process_that_is_killed(ranks: Ranks) -> None:
    ranks.train()
    killed = {"phase": "evaluation", "signals": [signal.SIGKILL]}
    mine, other = ranks.pool.ranks(ranks.train("--eval-steps", "2"), {}, killed)
    assert (mine["code"], other["code"]) == (8, -signal.SIGKILL), mine["output"]
    assert "dongu: error: another process of the run has ended" in mine["output"]
    assert "internal error" not in mine["output"]


SLOW = """\
import os
import time
from pathlib import Path
from dongu import launch
from dongu.run.checkpoint import Checkpoints

first = Path(__file__).with_suffix(".first")
save = Checkpoints.save

def slow(self, loop, state):
    time.sleep(2.5 if state.step == 2 else 0)
    save(self, loop, state)

Checkpoints.save = slow

def update(loop, update):
    if loop.number == 2 and loop.accelerator.is_main_process:
        first.write_text(str(os.getpid()))
    if loop.number == 3:
        launch.PATIENCE_SECONDS = 1.0
        while not loop.accelerator.is_main_process and Path("/proc", first.read_text()).exists():
            time.sleep(0.05)
    update.backward()
    update.step()
"""


@pytest.mark.crash
def test_a_process_that_hangs_is_named(ranks: Ranks, tmp_path: Path) -> None:
    """It hangs until the first one has ended; and none runs into the timeout while that saves for longer."""
    parts = tmp_path / "slow.py"
    parts.write_text(SLOW, encoding="utf-8")
    train = ranks.train("--timeout", "2", "--parts", str(parts))
    codes, said = ranks.both(train, train)
    assert codes[0] == 8, said
    assert "rank 1 did not come in time to where the others wait" in said[0]
    assert [line["step"] for line in read_lines(ranks.out) if line["event"] == "step"] == [1, 2, 3]
    assert (ranks.out / "checkpoints" / "step-00000002" / "MANIFEST.json").exists()


def test_who_has_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that hangs is named; one that comes after all, and finds the others gone, has not ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for name, value in {"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "PATIENCE_SECONDS", 1.0)
    launch._store.cache_clear()
    try:
        store = launch._store()
        for come, said in ((0, "rank 1, 2 did not"), (1, "rank 2 did not"), (2, "another process came too late")):
            store.set(f"waits/{come}", "")
            with pytest.raises(WorkerError, match=said), launch.among_processes():
                raise RuntimeError("[gloo] Timed out waiting 2000ms for recv operation to complete")
        with pytest.raises(WorkerError, match="another process of the run has ended"), launch.among_processes():
            raise RuntimeError("[gloo] Connection closed by peer")
    finally:
        launch._store.cache_clear()


COUNTED = """\
import torch.distributed as distributed

counted, before, all_reduce = [], [], distributed.all_reduce

def counting(*given, **options):
    counted.append(given)
    return all_reduce(*given, **options)

distributed.all_reduce = counting

def update(loop, update):
    before.append(len(counted))
    update.backward()
    update.step()
    if update.number == loop.total_steps:
        print("reductions", [after - each for each, after in zip(before, before[1:])])
"""


@pytest.mark.crash
def test_a_step_has_one_reduction_besides_its_gradients(ranks: Ranks, tmp_path: Path) -> None:
    parts = tmp_path / "counted.py"
    parts.write_text(COUNTED, encoding="utf-8")
    train = ranks.train("--save-steps", "9", "--eval-steps", "4", "--parts", str(parts))
    codes, said = ranks.both(train, train)
    assert codes == [0, 0], said
    assert ["reductions [1, 1, 1]" in each for each in said] == [True, True], said


SIGNALLED = """\
import signal

from dongu.engine.arrival import Arrival
from dongu.launch import rank
from dongu.run.recorder import Recorder

def update(loop, update):
    if update.number == 2 and rank() == 1:
        signal.raise_signal(signal.SIGTERM)
    update.backward()
    update.step()
"""
AS_ON_GPUS = """
made = Recorder.__init__
Recorder.__init__ = lambda self, *observers, **_: made(self, *observers, evenly=True)
Arrival.is_there = property(lambda _: rank() == 0)
"""


@pytest.mark.crash
@pytest.mark.parametrize(("more", "last"), [("", 2), (AS_ON_GPUS, 3)], ids=["as on CPUs", "as on GPUs"])
def test_a_signal_to_one_process_travels_with_the_losses(more: str, last: int, ranks: Ranks, tmp_path: Path) -> None:
    """GPUs are not waited for: their numbers are read a step later, by all alike, whatever has arrived where."""
    parts = tmp_path / "signalled.py"
    parts.write_text(SIGNALLED + more, encoding="utf-8")
    train = ranks.train("--save-steps", "9", "--parts", str(parts))
    codes, said = ranks.both(train, train)
    assert codes == [143, 143], said
    assert f"SIGTERM ended the run after step {last} of 4" in said[0]


LONG = """\
import os
import time

import dongu.best
import dongu.running
from dongu.data import tokens
from dongu.launch import rank
from dongu.run.checkpoint import Checkpoints

def sleeps(home, name, call=1, ranks=(0,)):
    inner, calls = getattr(home, name), []

    def slowly(*given, **options):
        calls.append(name)
        if rank() in ranks and len(calls) == call:
            time.sleep(2.5)
            print("slept in", name)
        return inner(*given, **options)

    setattr(home, name, slowly)

os.environ["DONGU_CACHE"] = f"{__file__}-{rank()}"  # each on a machine of its own
sleeps(tokens, "pack_tokens", ranks=(0, 1))
sleeps(dongu.running, "remove_run")
sleeps(dongu.running, "memory_need")
sleeps(dongu.running, "write_report")
sleeps(Checkpoints, "retire", call=2)
sleeps(dongu.best, "saved_weights")
metrics = {"one": lambda evaluation: 1.0}
"""


@pytest.mark.crash
def test_what_the_first_process_does_alone_may_take_longer_than_the_timeout(ranks: Ranks, tmp_path: Path) -> None:
    """And others for the tokens that they do not find, as on another machine."""
    parts = tmp_path / "long.py"
    parts.write_text(LONG, encoding="utf-8")
    assert run_command(ranks.train("--max-steps", "1")) == 0
    train = ranks.train("--shard", "--timeout", "2", "--eval-steps", "2", "--parts", str(parts), "--overwrite")
    codes, said = ranks.both(train, train)
    assert codes == [0, 0], said
    slept = [re.findall("^slept in (.*)$", each, re.MULTILINE) for each in said]
    alone = ["remove_run", "memory_need", "write_report", "retire", "saved_weights"]
    assert slept == [["pack_tokens", *alone], ["pack_tokens"]]


@pytest.mark.crash
@pytest.mark.found("verify-processes")
@pytest.mark.found("commands-on-processes")
def test_a_run_of_two_processes_afterwards(ranks: Ranks, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes, said = ranks.both(ranks.train(), ranks.train())
    assert codes == [0, 0], said
    assert run_command(["verify", str(ranks.out), "--json"]) == 0
    proofs = {line["name"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert {name for name, proof in proofs.items() if proof["holds"] is not True} == {"replay"}
    assert proofs["replay"]["holds"] is None
    assert proofs["replay"]["text"].startswith("not looked at: needs 2 processes")
    assert "the run has 1 process, and had 2" in proofs["inputs"]["text"]

    run, csv, script = str(ranks.out), str(tmp_path / "answers.csv"), str(tmp_path / "script.py")
    rows, copy = f"{ranks.data}/validation.jsonl", str(tmp_path / "copy")
    shutil.copytree(run, copy)
    commands = {
        ("verify", run): "ok    replay",
        ("predict", run, "a film", "the film"): "\tthe film\n",
        ("predict", run, "--data", rows, "--out", csv): "8 predictions in",
        ("evaluate", run): "accuracy",
        ("report", run): "report.html",
        ("compare", run, copy): "accuracy",
        ("eject", run, "--out", script): "",
        ("inspect", ranks.data): "rows",
    }
    for command, text in commands.items():
        codes, said = ranks.both([*command], [*command])
        assert codes == [0, 0], (command, said)
        assert text in said[0], (command, said[0])
        assert said[1] == "", (command, said[1])
    alone = tmp_path / "alone.csv"
    assert run_command(["predict", run, "--data", rows, "--out", str(alone)]) == 0
    assert Path(csv).read_bytes() == alone.read_bytes(), "each row once, in their order"
    assert len(alone.read_text(encoding="utf-8").splitlines()) == 9
