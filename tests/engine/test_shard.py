"""`--shard`: two processes that each hold half of every weight train as one that holds all of them."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from transformers import AutoConfig, AutoModel, AutoTokenizer

import dongu
from conftest import unwrapped
from dongu.cli.main import run as run_command
from dongu.errors import CheckpointError, UsageError
from dongu.run.checkpoint import Checkpoint
from dongu.run.manifest import check_file, entry_of
from dongu.run.tensor_file import AT_ONCE, DTYPES, TensorFile, write_tensors
from drivers import Pool, forked, read_lines

# What the engine computes → the model, options, and what `promises` says of it.
CASES: dict[str, tuple[str, list[str], str]] = {
    "plain": ("bert", ["--engine", "plain", "--max-grad-norm", "0.2", "--abstain", "0.2"], "yes"),
    "packed by hand": (
        "bert",
        ["--max-grad-norm", "0.2", "--class-weights", "class1=2", "--calibrate"],
        "the weights are whole",
    ),
    "packed, generic": ("qwen3", ["--max-grad-norm", "0.2"], "yes"),
    "gradient checkpointing": ("qwen3", ["--gradient-checkpointing", "--engine", "plain"], "yes"),
    "frozen, packed by hand": ("bert", ["--freeze", "1", "--gradient-checkpointing"], "the weights are whole"),
    "frozen, generic": ("qwen3", ["--freeze", "1", "--gradient-checkpointing"], "yes"),
    "bf16": ("qwen3", ["--precision", "bf16"], "yes"),
    "LoRA": ("bert", ["--lora", "4", "--engine", "plain"], "yes"),
}
KINDS = ("moments", "weights")
DEAR = [name for name in CASES if name != "packed, generic"]


@pytest.mark.cases(test=0, ci=2)
@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=[pytest.mark.crash] if name in DEAR else []) for name in CASES]
)
def test_two_processes_train_as_one(
    case: str,
    tiny_model: Callable[..., str],
    data_folder: Callable[..., str],
    make_pool: Callable[..., Pool],
    tmp_path: Path,
) -> None:
    """In micro-batches of 3, of which one process has one more than the other; the last update has one row."""
    family, more, promise = CASES[case]
    tolerance = 0.05 if case == "bf16" else 1e-5  # one process computes norms in fp32 (autocast), FSDP all in bf16
    train = ["train", data_folder(train=25, validation=13, test=7), "--model", tiny_model(family), "--epochs", "2"]
    train += ["--micro-batch-size", "3", "--eval-batch-size", "1", "--lr", "1e-3", "--recipe", "original", *more]
    assert run_command([*train, "--threads", "1", "--out", str(tmp_path / "one")]) == 0
    output = forked(make_pool(), *train, "--threads", "1", "--out", str(tmp_path / "two"), "--shard")
    assert output.count("\nnext ") == 1
    one, two = read_lines(tmp_path / "one"), read_lines(tmp_path / "two")
    assert len(one) == len(two) == 10
    for a, b in zip(one, two, strict=True):
        for name, value in a.items():
            close = pytest.approx(value, rel=tolerance) if name in ("loss", "grad_norm") else value
            assert b[name] == close or (case == "bf16" and a["event"] == "evaluation"), (name, a, b)
    for split in ("validation", "test"):
        alone, together = (read_lines(tmp_path / run, f"predictions/{split}.jsonl") for run in ("one", "two"))
        for a, b in zip(alone, together, strict=True):
            assert b["probabilities"] == pytest.approx(a["probabilities"], abs=tolerance)
    record = json.loads((tmp_path / "two" / "run.json").read_text(encoding="utf-8"))
    assert promise in record["promises"]["shard"]
    assert "FSDP" not in unwrapped(output)
    saved = [torch_file(tmp_path / run / "model" / "model.safetensors") for run in ("one", "two")]
    assert saved[0] == saved[1]
    configs = [(tmp_path / run / "model" / "config.json").read_text(encoding="utf-8") for run in ("one", "two")]
    assert configs[0] == configs[1]


def torch_file(path: Path) -> dict[str, Any]:
    """The shapes of its tensors."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def content(run: Path) -> dict[str, bytes]:
    """What has the same bytes in each run of one recipe."""
    names = ("metrics.jsonl", "dynamics.bin", "results.json", "model/model.safetensors")
    checkpoints = [str(path.relative_to(run)) for path in sorted((run / "checkpoints").glob("*/*.safetensors"))]
    return {name: (run / name).read_bytes() for name in (*names, *checkpoints)}


@pytest.mark.crash
def test_a_sharded_run_goes_on(
    tiny_models: Callable[[str, float, int], str],
    data_folder: Callable[..., str],
    make_pool: Callable[..., Pool],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Rank 1 is killed in a save. Two processes end in the same bytes, one in the same numbers but for rounding."""
    pool, data = make_pool(), data_folder(train=25, validation=13, test=0)
    model = tiny_models("qwen3", 0.0, 1)  # of more, each layer is gathered as the one
    options = ["--model", model, "--max-steps", "6", "--save-steps", "2", "--lr", "1e-3", "--shard"]
    train = ["train", data, *options, "--threads", "1", "--keep", "3", "--resume", "--out"]
    forked(pool, *train, str(tmp_path / "whole"))
    killed = {"phase": "save", "occurrence": 3, "signals": [signal.SIGKILL]}
    mine, other = pool.ranks([*train, str(tmp_path / "cut")], {}, killed)
    assert (mine["code"], other["code"]) == (8, -signal.SIGKILL), mine["output"]
    newest = max((tmp_path / "cut" / "checkpoints").glob("step-*"))
    assert {path.name for path in newest.iterdir()} == {
        *(f"{kind}-0000{i}-of-00002.safetensors" for kind in ("weights", "moments") for i in (1, 2)),
        *("state.json", "MANIFEST.json"),
    }
    for name in ("one", "damaged"):
        shutil.copytree(tmp_path / "cut", tmp_path / name)
    assert "resuming after step" in forked(pool, *train, str(tmp_path / "cut"))
    wanted = content(tmp_path / "whole")
    assert len(wanted) == 4 + 3 * 4
    assert content(tmp_path / "cut") == wanted

    file = tmp_path / "damaged" / "checkpoints" / newest.name / "moments-00002-of-00002.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    output = unwrapped(forked(pool, *train, str(tmp_path / "damaged")))
    assert "moments-00002-of-00002.safetensors holds other bytes than were written; an older" in output
    assert content(tmp_path / "damaged") == wanted

    capsys.readouterr()
    assert run_command([*train, str(tmp_path / "one")]) == 0
    assert "the run has 1 process, and had 2" in capsys.readouterr().out
    one, two = (read_lines(tmp_path / run) for run in ("one", "whole"))
    assert [line["loss"] for line in one] == pytest.approx([line["loss"] for line in two], rel=1e-5)
    state = load_file(max((tmp_path / "one" / "checkpoints").glob("step-*")) / "weights.safetensors")
    model = load_file(tmp_path / "one" / "model" / "model.safetensors")
    assert {name: tensor.shape for name, tensor in state.items()}.items() >= {
        name: tensor.shape for name, tensor in model.items()
    }.items()


def cut_off_after(run: Path, step: int, out: Path) -> list[str]:
    """A copy of a run as it was when its checkpoint of this step was the newest, and the files of that."""
    shutil.copytree(run, out)
    (out / "results.json").unlink()
    for path in (out / "checkpoints").iterdir():
        if path.name > f"step-{step:08}":
            shutil.rmtree(path)
    return sorted(path.name for path in (out / "checkpoints" / f"step-{step:08}").glob("*.safetensors"))


def test_a_checkpoint_of_one_process_is_resumed_by_two_and_theirs_by_one(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], make_pool: Callable[..., Pool], tmp_path: Path
) -> None:
    """One process makes four updates, two make two more, one makes the last two: as one that was not cut off."""
    options = ["--model", tiny_model("qwen3"), "--max-steps", "8", "--save-steps", "2", "--keep", "9", "--lr", "1e-3"]
    train = ["train", data_folder(train=25, validation=13, test=0), *options, "--shard", "--threads", "1"]
    train += ["--micro-batch-size", "3", "--resume", "--out"]
    whole, two, one = (tmp_path / name for name in ("whole", "two", "one"))
    assert run_command([*train, str(whole)]) == 0
    assert cut_off_after(whole, 4, two) == ["moments.safetensors", "weights.safetensors"]
    assert "resuming after step 4 of 8" in forked(make_pool(), *train, str(two))
    assert cut_off_after(two, 6, one) == [f"{kind}-0000{i}-of-00002.safetensors" for kind in KINDS for i in (1, 2)]
    assert run_command([*train, str(one)]) == 0
    for run in (two, one):
        for step in (6, 8):
            wanted, found = (Checkpoint.read(each / "checkpoints" / f"step-{step:08}") for each in (whole, run))
            for ours, theirs in ((found.weights, wanted.weights), (found.moments, wanted.moments)):
                assert ours.keys() == theirs.keys()
                assert len(ours) > 20
                for name, tensor in ours.items():
                    assert tensor.dtype == torch.float32
                    largest = theirs[name].abs().max()
                    assert (tensor - theirs[name]).abs().max() <= 1e-5 * largest, (run.name, step, name)


# Prints the most that PyTorch and Python had allocated at a time in a call, beyond what was there before: of a run that
# goes on in what only such a one does, since to measure takes longer than to do it.
MEASURING = """\
import tracemalloc
from pathlib import Path

import torch

import dongu.best
import dongu.running
from dongu.run.checkpoint import Checkpoint, Checkpoints

def measured(home, name):
    inner = getattr(home, name)

    def measuring(*given, **options):
        tracemalloc.start()
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
            answer = inner(*given, **options)
            peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        events = [each for each in profile.profiler.kineto_results.events() if each.name() == "[memory]"]
        alive = [0]
        for each in sorted(events, key=lambda each: each.start_ns()):
            alive.append(alive[-1] + each.nbytes())
        print("peak of", name, peak + max(alive))
        return answer

    setattr(home, name, measuring)

if Path(__file__).with_name("cut").exists():
    measured(Checkpoints, "newest")
    measured(Checkpoint, "restore")
else:
    measured(Checkpoints, "save")
    measured(dongu.running, "save_best")
    measured(dongu.best, "read_best")
metrics = {"one": lambda evaluation: 1.0}
"""


@pytest.mark.crash
def test_no_process_holds_more_than_its_rows_while_it_saves_and_reads(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], make_pool: Callable[..., Pool], tmp_path: Path
) -> None:
    """Beyond these a few tensors: 8 of its 57 MB. Only the first gathers `model/`."""
    folder, parts = tmp_path / "model", tmp_path / "measuring.py"
    AutoTokenizer.from_pretrained(tiny_model()).save_pretrained(folder)
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4}
    model = AutoModel.from_config(AutoConfig.from_pretrained(tiny_model(), **sizes))
    model.save_pretrained(folder)
    whole = sum(parameter.nbytes for parameter in model.parameters())
    few = 8 * max(parameter.nbytes for parameter in model.parameters())
    assert 2 * few < whole
    parts.write_text(MEASURING, encoding="utf-8")
    train = ["train", data_folder(train=25, validation=13, test=0), "--model", str(folder), "--shard", "--threads", "1"]
    train += ["--max-steps", "2", "--save-steps", "1", "--keep", "9", "--parts", str(parts), "--resume", "--out"]
    pool, peaks = make_pool(), []
    for run in ("run", "cut"):
        answers = pool.ranks([*train, str(tmp_path / run)])
        assert [answer["code"] for answer in answers] == [0, 0], answers[0]["output"]
        for answer in answers:
            found: dict[str, int] = {}
            for name, number in re.findall(r"^peak of (\w+) (\d+)$", answer["output"], re.MULTILINE):
                found[name] = max(int(number), found.get(name, 0))
            peaks.append(found)
        if run == "run":
            cut_off_after(tmp_path / "run", 1, tmp_path / "cut")
    for rank, found in enumerate(peaks[:2]):
        assert found["save"] < few
        assert rank == 0 or max(found["save_best"], found["read_best"]) < few
    assert peaks[0]["save_best"] > whole, "else a copy would not be noticed"
    for found in peaks[2:]:
        assert found["newest"] < few
        assert whole < found["restore"] < whole + few, "its rows of two moments, which are the optimizer's by then"


def test_parts_of_a_file(tmp_path: Path) -> None:
    """A file is written by tensors and hashed on the way, as safetensors reads it; its rows are read as asked for."""
    tensors = {
        "b": torch.arange(12, dtype=torch.float32).reshape(4, 3),
        **{f"é{i}": torch.ones(i % 3).to(dtype) for i, dtype in enumerate(DTYPES)},
        **{f"large {i}": torch.arange(size) for i, size in enumerate((AT_ONCE // 8, 3, AT_ONCE // 9, AT_ONCE // 9))},
        "empty": torch.zeros((0, 5)),
        "step": torch.tensor(7.0),
        "flag": torch.tensor([True, False]),
    }
    entry = write_tensors(tmp_path / "x.safetensors", tensors)
    assert (tmp_path / "x.safetensors").read_bytes() == save(tensors)
    assert entry == entry_of(save(tensors))
    loaded, file = load_file(tmp_path / "x.safetensors"), TensorFile(tmp_path / "x.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor)
        assert torch.equal(file.rows(name), tensor)
    assert torch.equal(file.rows("b", slice(1, 3)), tensors["b"][1:3])
    check_file(tmp_path / "x.safetensors", entry)
    with pytest.raises(CheckpointError, match="holds other bytes"):
        check_file(tmp_path / "x.safetensors", {**entry, "sha256": "0" * 64})
    (tmp_path / "y.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(CheckpointError, match="cannot be read"):
        TensorFile(tmp_path / "y.safetensors")


def test_what_is_refused(tiny_model: Callable[..., str], data_folder: Callable[..., str]) -> None:
    def optimizer(parameters: dict[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters.values(), lr=0.1)

    with pytest.raises(UsageError, match="the optimizer is your own, and has not been tried"):
        dongu.Loop(data_folder(), model=tiny_model(), optimizer=optimizer, shard=True)
    loop = dongu.Loop(data_folder(), model=tiny_model(), shard=True)
    assert loop.promises["shard"] == "no: there is one process"
