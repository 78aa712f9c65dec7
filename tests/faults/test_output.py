"""Standard output and standard error that are full, closed, or a pipe that nobody reads; and words too many."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

from dongu.cli.main import run as run_command


@pytest.fixture
def stream_of() -> Iterator[Callable[[str], TextIO | None]]:
    """`stream_of(kind)`: a standard stream as a shell makes it."""
    made: list[TextIO] = []

    def make(kind: str) -> TextIO | None:
        stream = make_stream(kind)
        made.extend([stream] if stream is not None else [])
        return stream

    yield make
    for stream in made:
        stream.close()


def make_stream(kind: str) -> TextIO | None:
    if kind == "none":  # `>&-`
        return None
    if kind == "full":
        return Path("/dev/full").open("w", encoding="utf-8")
    read, write = os.pipe()
    os.close(read)
    stream = os.fdopen(write, "w", encoding="utf-8")
    if kind == "closed":
        stream.close()
    return stream


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]) -> Path:
    """A folder with good rows and with bad ones, and a finished run."""
    folder = tmp_path_factory.mktemp("output")
    rows = [{"text": f"word{i} word{i % 3} film", "label": f"class{i % 2}"} for i in range(24)]
    (folder / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "bad.jsonl").write_text("".join(json.dumps({**row, "label": "one"}) + "\n" for row in rows))
    assert run_command(train(folder / "good.jsonl", tiny_model(), folder / "run")) == 0
    return folder


def train(data: Path, model: str, out: Path) -> list[str]:
    return ["train", str(data), "--model", model, "--max-steps", "2", "--threads", "1", "--out", str(out)]


ANSWERS = {
    "inspect": ["inspect", "good.jsonl"],
    "predict": ["predict", "run", "a film"],
    "predict --json": ["predict", "run", "a film", "--json"],
    "evaluate": ["evaluate", "run"],
    "report": ["report", "run"],
    "help": ["train", "--help"],
}
LOST = "standard output: cannot be written (No space left on device)"


@pytest.mark.found("standard-output")
@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_cannot_be_written(
    name: str,
    place: Path,
    stream_of: Callable[[str], TextIO | None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place)
    for kind, code in (("full", 6), ("pipe", 0), ("none", 0), ("closed", 0)):
        monkeypatch.setattr(sys, "stdout", stream_of(kind))
        try:
            ended = run_command(ANSWERS[name])
        except SystemExit as stop:
            ended = stop.code  # type: ignore[assignment]
        said = capsys.readouterr().err
        assert ended == code, (kind, said)
        assert (LOST in said) == (code == 6), (kind, said)
        assert "internal error" not in said


@pytest.mark.found("standard-output")
@pytest.mark.parametrize("kind", ["full", "pipe", "none", "closed"])
def test_an_error_keeps_its_code(
    kind: str,
    place: Path,
    stream_of: Callable[[str], TextIO | None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream_of(kind))
        assert run_command(["inspect", "bad.jsonl"]) == 2
    assert "bad.jsonl" in capsys.readouterr().err
    for command, code in ((["inspect", "bad.jsonl"], 2), (["predict", "run", "a film", "--out", f"{kind}.csv"], 0)):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream_of(kind))
            assert run_command(command) == code


@pytest.mark.found("standard-output")
@pytest.mark.parametrize("kind", ["full", "pipe", "none"])
def test_a_run_goes_on(
    kind: str,
    place: Path,
    tiny_model: Callable[..., str],
    stream_of: Callable[[str], TextIO | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdout", stream_of(kind))
    command = train(place / "good.jsonl", tiny_model(), tmp_path / "run")
    assert run_command(command) == 0
    said = capsys.readouterr().err
    told = "standard output cannot be written (No space left on device); the run continues"
    assert said.count(told) == (kind == "full")
    for name in ("results.json", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (place / "run" / name).read_bytes()
    if kind == "full":  # with --json there is an answer, and it is lost
        assert run_command([*command[:-1], str(tmp_path / "json"), "--json"]) == 6
        assert LOST in capsys.readouterr().err
        assert (tmp_path / "json" / "results.json").exists()


@pytest.mark.found("standard-output")
def test_a_closed_stream_gives_its_number_to_no_file(tmp_path: Path) -> None:
    """What is meant for the terminal would be written into the first file of the run."""
    child = os.fork()
    if child == 0:
        for number in (0, 1, 2):
            os.close(number)
        sys.stdout = sys.stderr = None
        code = 1
        try:
            code = run_command(["inspect", "missing.csv"])
            code = code if os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT) > 2 else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2


EXTRA = {
    "inspect good.jsonl bad.jsonl": ["extra path", "dongu inspect … bad.jsonl", "one folder with train.*"],
    "train good.jsonl bad.jsonl --out new": ["extra path", "bad.jsonl", "one folder with train.*"],
    "report run good.jsonl": ["extra path", "`dongu report --help`"],
    "inspect good.jsonl more": ["extra argument", "dongu inspect … more"],
    "inspect good.jsonl bad.jsonl --sed 1": ["there is no option --sed", "did you mean --seed?"],
}


@pytest.mark.found("extra-positional")
@pytest.mark.parametrize("command", EXTRA)
def test_a_word_too_many(
    command: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert run_command(command.split()) == 2
    said = capsys.readouterr().err
    assert [part for part in EXTRA[command] if part not in said] == [], said
