"""`--json` of every command: what is printed fits the schema that the documentation shows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import checked
from dongu.cli.main import COMMANDS, make_parser, run
from dongu.cli.schemas import OF_COMMANDS, SCHEMAS


@pytest.fixture(scope="module")
def place(tiny_model: Callable[..., str], shared_data_folder: Callable[..., str]) -> Path:
    """A folder with data, a model, and a run of two steps, `run`, and its copy `other`. None changes the two."""
    folder = Path(shared_data_folder()).parent
    shutil.move(shared_data_folder(), folder / "data")
    shutil.copytree(tiny_model(), folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["train", *TRAIN, "--out", "run"]) == 0
        shutil.copytree("run", "other")
    return folder


TRAIN = ["data", "--model", "model", "--max-steps", "2", "--threads", "1", "--device", "cpu"]
CALLS: dict[str, list[list[str]]] = {  # command: its arguments
    "train": [
        [*TRAIN, "--out", "x-{n}"],
        [*TRAIN, "--out", "seeds", "--seeds", "2"],
        ["data/train.jsonl", *TRAIN[1:], "--out", "folds", "--folds", "2"],
    ],
    "evaluate": [["run"], ["run", "data/test.jsonl"]],
    "predict": [["run", "a film"], ["run", "--data", "data/test.jsonl"]],
    "report": [["run", "--out", "page.html"]],
    "compare": [["run", "other"], ["seeds", "seeds-2"]],
    "runs": [["."]],
    "prepare": [["data", "--model", "model", "--out", "shards-{n}"]],
    "inspect": [["data", "--model", "model"]],
    "verify": [["run"]],
    "eject": [["run"], ["run", "--out", "script.py"]],
    "push": [["run", "owner/name"]],
    "quiz": [[], ["padding", "--seed", "1"]],
    "completion": [["bash"]],
    "demo": [[]],
    "serve": [["run"]],
}
ELSEWHERE = {"tune", "export", "resume"}  # tests/promises/test_tune.py, tests/export/test_export.py; resume is as train


def test_every_command_has_json_and_a_schema() -> None:
    [commands] = [each for each in make_parser(*COMMANDS)._actions if each.dest == "command"]
    choices: Any = commands.choices
    assert [name for name, each in choices.items() if "--json" not in each._option_string_actions] == []
    assert {*CALLS} | ELSEWHERE == {*COMMANDS}
    named = {f"dongu.{schema}/1" for name in COMMANDS for schema in OF_COMMANDS.get(name, (name,))}
    assert named == {*SCHEMAS}


@pytest.mark.parametrize("command", CALLS)
def test_what_is_printed_fits_its_schema(
    command: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place)
    if command == "push":
        monkeypatch.setattr("dongu.export.hub.check_access", lambda name: None)
        monkeypatch.setattr("dongu.export.hub.push", lambda *_, **__: "https://huggingface.co/owner/name")
    elif command == "serve":
        monkeypatch.setattr("dongu.serve.server.serve", lambda *_, **__: None)
    elif command == "demo":
        from dongu.run.result import RunResult

        made = RunResult.of(Path("run"), json.loads(Path("run/results.json").read_text(encoding="utf-8")))
        monkeypatch.setattr("dongu.demo.run.run_demo", lambda *_: made)
    elif command == "compare" and not Path("seeds").exists():
        for name in ("seeds", "seeds-2"):
            assert run(["train", *TRAIN, "--out", name, "--seeds", "2"]) == 0
    capsys.readouterr()
    for arguments in CALLS[command]:
        assert run([command, *arguments, "--json"]) == 0, arguments
        said = capsys.readouterr().out
        lines = said.splitlines() if command in ("predict", "verify") else [said]
        schemas = {checked(line).get("schema", "dongu.predict/1") for line in lines}
        assert schemas <= {f"dongu.{schema}/1" for schema in OF_COMMANDS.get(command, (command,))}
        assert len(schemas) == 1
    for name in ("seeds", "seeds-2") if command == "compare" else ("seeds", "folds"):
        shutil.rmtree(name, ignore_errors=True)
