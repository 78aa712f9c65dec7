"""`dongu verify`: what holds is shown, and what does not hold is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dongu
from dongu.cli.main import run as run_command
from dongu.model.loss import Loss
from dongu.verify import Proof, verify

OPTIONS: dict[str, Any] = {
    "max_steps": 12,
    "batch_size": 8,
    "micro_batch_size": 3,
    "lr": 1e-3,
    "save_steps": 5,
    "group_by_length": True,
    "threads": 1,
}
ALL = ["files", "checkpoints", "log", "inputs", "replay", "results", "accumulation"]


@pytest.fixture(scope="module")
def master(
    tiny_model: Callable[..., str], shared_data_folder: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """12 steps of 5 and 1 row in the last of each epoch; checkpoints at 10 and 12."""
    run = tmp_path_factory.mktemp("finished") / "run"
    dongu.train(shared_data_folder(train=41), **{**OPTIONS, "model": tiny_model(dropout=0.2), "out": str(run)})
    return run


@pytest.fixture
def finished(master: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be damaged."""
    return Path(shutil.copytree(master, tmp_path / "run"))


def failures(run: Path) -> dict[str, str]:
    return {proof.name: proof.text for proof in verify(run) if not proof.holds}


def test_a_sound_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert run_command(["verify", str(finished)]) == 0
    *lines, verdict = capsys.readouterr().out.splitlines()
    assert verdict == "7 proofs hold: the run is what its files say"
    assert [line.split()[:2] for line in lines] == [["ok", name] for name in ALL]
    assert "steps 11 to 12: every logged number, weight and moment again" in lines[4]
    assert "of 8 rows (by 8, by 4, by 3, by 1) and of 1 rows" in lines[6]
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before, "it only looks"


def test_a_run_that_has_not_ended(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dongu.running.judge", killed)
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        dongu.train(data_folder(train=41), **{**OPTIONS, "model": tiny_model(dropout=0.2), "out": str(run)})
    proofs = list(verify(run))
    assert [proof.name for proof in proofs] == [name for name in ALL if name != "results"]
    assert "has not ended" in proofs[0].text
    assert [proof.name for proof in proofs if not proof.holds] == ["files"], proofs  # which was not looked at


DAMAGES: dict[str, tuple[str, bytes, bytes, set[str]]] = {
    # name: file, what stands there, what instead, the proofs that fail
    "a prediction": ("predictions/test.jsonl", b'"id": 0', b'"id": 9', {"files"}),
    "the result": ("results.json", b'"steps": 12', b'"steps": 13', {"files"}),
    "a logged loss": ("metrics.jsonl", b'"loss": 0.', b'"loss": 0.1', {"files", "log", "replay"}),
    "a logged line": ("metrics.jsonl", b'{"event"', b'["event"', {"files", "log", "replay"}),
    "a setting": ("run.json", b'"weight_decay": 0.01', b'"weight_decay": 0.02', {"inputs", "replay"}),
}


@pytest.mark.cases(test=1, ci=5)
@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found(name: str, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, old, new, expected = DAMAGES[name]
    path = finished / file
    content = path.read_bytes()
    assert old in content
    place = content.rindex(old)
    path.write_bytes(content[:place] + new + content[place + len(old) :])
    found = failures(finished)
    assert found
    assert found.keys() <= expected
    assert run_command(["verify", str(finished), "--json"]) == 1
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {each.pop("schema") for each in said} == {"dongu.verify/1"}
    proofs = [Proof(**each) for each in said]
    assert {proof.name for proof in proofs if not proof.holds} == found.keys()


def test_a_folder_in_place_of_a_file(finished: Path) -> None:
    (finished / "metrics.jsonl").unlink()
    (finished / "metrics.jsonl").mkdir()
    found = failures(finished)
    assert found.keys() == {"files", "log", "replay"}
    assert "metrics.jsonl cannot be read (is not a regular file)" in found["replay"]


def test_a_metric_that_the_model_does_not_have(finished: Path) -> None:
    path = finished / "results.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    results["validation"]["loss"]["value"] += 1e-12
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    assert failures(finished).keys() == {"files", "results"}
    del results["validation"]["loss"]["value"]
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    assert failures(finished)["results"] == "results.json has no value of loss on validation"


def test_a_bit_of_a_checkpoint(finished: Path) -> None:
    path = finished / "checkpoints" / "step-00000012" / "moments.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    found = failures(finished)
    assert str(path) in found["checkpoints"]


def test_a_model_that_is_not_what_was_written_is_not_used(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = finished / "model" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    for command in (["predict", str(finished), "a text"], ["evaluate", str(finished)]):
        assert run_command(command) == 2
        error = capsys.readouterr().err
        assert f"{path}: holds other bytes than were written" in error
        assert "MANIFEST.json" in error
    (finished / "MANIFEST.json").unlink()
    assert run_command(["predict", str(finished), "a text"]) == 0


def test_other_arithmetic_is_found_by_the_replay(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dongu import loop

    monkeypatch.setattr(loop, "dropout_seed", lambda seed, *_: seed)
    found = failures(finished)
    assert found.keys() == {"replay"}
    assert "other numbers than the log" in found["replay"]


def test_a_mean_of_means_is_found(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a loop does that divides each micro-batch by its own size, and the sum by their number."""

    def mean(_: Loss, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, labels) * 3

    monkeypatch.setattr(Loss, "summed", mean)
    found = failures(finished)
    assert {"replay", "accumulation"} == found.keys()
    assert "changes its gradient by" in found["accumulation"]


def test_other_data_are_found(finished: Path, data_folder: Callable[..., str]) -> None:
    other = Path(data_folder(train=41)).with_name("other")
    other.mkdir()
    for path in Path(data_folder(train=41)).iterdir():
        (other / path.name).write_bytes(path.read_bytes().replace(b"good", b"bad", 1))
    found = {proof.name for proof in verify(finished, str(other)) if not proof.holds}
    assert "inputs" in found


def test_data_that_lie_elsewhere_are_asked_for_by_what_works(
    master: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command says what it takes itself: `dongu resume` refuses a finished run."""
    data = Path(json.loads((master / "run.json").read_text(encoding="utf-8"))["options"]["data"])
    moved = data.rename(tmp_path / "moved")
    try:
        assert run_command(["verify", str(finished)]) == 2
        assert f"where are they now? dongu verify {finished} DATA" in capsys.readouterr().err
        assert run_command(["verify", str(finished), str(moved)]) == 0
        for command in ("eject", "evaluate"):
            assert run_command([command, str(finished)]) == 2
            said = capsys.readouterr().err
            assert f"write into {finished / 'run.json'} (`data`) where they are now" in said
        record = finished / "run.json"
        record.write_text(record.read_text(encoding="utf-8").replace(f'"{data}"', f'"{moved}"'), encoding="utf-8")
        for command in ("eject", "evaluate"):
            assert run_command([command, str(finished)]) == 0
    finally:
        moved.rename(data)
