"""The frame around every command: errors, bugs and signals in few words, the rank that speaks, no torch for a help."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dongu.cli import answer, train
from dongu.cli.main import run as run_command
from dongu.files import Disk


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is written by default is written here."""
    monkeypatch.chdir(tmp_path)


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["train", "missing.csv", "--debug"]) == 2
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert "dongu: error: missing.csv: no such file or folder" in said


def test_a_bug_is_said_as_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(_: Any) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(train, "_run", bug)
    assert run_command(["train", "data"]) == 70
    first, second = capsys.readouterr().err.splitlines()
    assert first == "dongu: error: internal error: ZeroDivisionError: division by zero"
    assert "--debug" in second


def test_docstrings_are_needed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "flags", SimpleNamespace(optimize=2))
    assert run_command(["train", "data"]) == 2
    assert capsys.readouterr().err.startswith("dongu: error: python -OO: removes docstrings")


def test_a_folder_that_is_taken_is_said_before_the_rows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where `--out` is not given: nothing is printed of a run that will not begin, and no torch is loaded."""
    Path("reviews.csv").write_text("text,label\n" + "a,x\nb,y\n" * 10, encoding="utf-8")
    Path("runs/reviews").mkdir(parents=True)
    Path("runs/reviews/run.json").write_text("{}", encoding="utf-8")
    Path("runs/reviews/results.json").write_text("{}", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "dongu.training", None)
    assert run_command(["train", "reviews.csv", "--model", "minilm"]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert "holds a finished run\nchoose another --out (runs/reviews-{n} is numbered)" in said.err


def test_a_link_to_nowhere_is_no_place(capsys: pytest.CaptureFixture[str]) -> None:
    Path("reviews.csv").write_text("text,label\n" + "a,x\nb,y\n" * 10, encoding="utf-8")
    Path("link").symlink_to("nowhere")
    assert run_command(["train", "reviews.csv", "--model", "minilm", "--out", "link"]) == 2
    assert "--out link: is a link to nowhere, which does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGUSR1", 143)])
def test_a_signal_outside_of_the_steps(
    name: str,
    code: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    def interrupt(_: Any) -> None:
        os.kill(os.getpid(), signal.Signals[name])
        time.sleep(5)

    inherited = signal.signal(signal.Signals[name], signal.SIG_DFL)  # nohup and `&` of a shell have some ignored
    request.addfinalizer(lambda: signal.signal(signal.Signals[name], inherited))
    monkeypatch.setattr(train, "_run", interrupt)
    assert run_command(["train", "data"]) == code
    assert capsys.readouterr().err == f"dongu: stopped by {name} during the set-up; nothing was lost\n"
    monkeypatch.setattr(answer, "_predict", interrupt)
    assert run_command(["predict", "run", "text"]) == code
    assert capsys.readouterr().err == f"dongu: stopped by {name}\n"
    assert signal.getsignal(signal.Signals[name]) == signal.SIG_DFL


def test_a_signal_that_a_library_makes_another_error_of(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pydantic does, where Python handles it in a pattern that is compared."""

    def interrupt(_: Any) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            raise ValueError("the text does not match the pattern") from error

    monkeypatch.setattr(answer, "_predict", interrupt)
    assert run_command(["predict", "run", "text"]) == 143
    assert capsys.readouterr().err == "dongu: stopped by SIGTERM\n"


def test_a_signal_that_python_can_raise_nowhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def interrupt(_: Any) -> None:
        Gone()
        for _ in range(100):
            time.sleep(0.05)

    monkeypatch.setattr(answer, "_predict", interrupt)
    assert run_command(["predict", "run", "text"]) == 143
    assert capsys.readouterr().err == "dongu: stopped by SIGTERM\n"


def test_the_only_process_speaks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever number it has; several are in tests/promises/test_ranks.py."""
    monkeypatch.setenv("RANK", "1")
    assert run_command(["train"]) == 2
    assert "which data?" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "some")
    assert run_command(["train", "data.csv"]) == 2
    assert "WORLD_SIZE: must be a whole number, got `some`" in capsys.readouterr().err


LIGHT = """
import sys
import time
import dongu
from dongu.__main__ import main
sys.argv = ["dongu", *{arguments!r}]
code = 0
try:
    if sys.argv[1:]:
        main()
except SystemExit as stop:
    code = stop.code
heavy = {{name.partition(".")[0] for name in sys.modules}} & {{"torch", "transformers", "datasets", "sklearn", "scipy"}}
print("heavy:", sorted(heavy))
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 0, ""),
        (["--version"], 0, "dongu "),
        (["--help"], 0, "COMMAND"),
        (["train", "--help"], 0, "--batch-size"),
        (["evaluate", "--help"], 0, "--split"),
        (["predict", "--help"], 0, "--data"),
        (["compare", "--help"], 0, "--split"),
        (["demo", "--help"], 0, "--seed"),
        (["train", "x", "--batch-size", "0"], 2, ""),
    ],
)
def test_help_and_usage_errors_need_no_torch(arguments: list[str], code: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(arguments=arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert done.stdout.endswith("heavy: []\n")
    assert said in done.stdout


@pytest.mark.parametrize(
    ("arguments", "missing", "called"),
    [
        (["predict"], "MODEL missing", "dongu predict MODEL (TEXT ... | --data DATA) [options]"),
        (["evaluate"], "MODEL missing", "dongu evaluate MODEL [DATA]"),
        (["compare"], "RUN missing", "dongu compare RUN RUN ... [options]"),
        (["push"], "RUN and OWNER/NAME missing", "dongu push RUN OWNER/NAME"),
        (["verify"], "RUN missing", "dongu verify RUN [DATA]"),
    ],
)
def test_a_command_without_arguments_says_how_it_is_called(
    arguments: list[str], missing: str, called: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(arguments) == 2
    said = capsys.readouterr().err
    assert f"dongu {arguments[0]}: {missing}\n{called}; `dongu {arguments[0]} --help` says more\n" in said


def test_a_folder_that_cannot_be_written_to_has_a_way_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dongu report` writes into the run's folder, unless --out says otherwise."""
    write_run(Path("run"))

    def refused(_: Disk, path: Path, *_rest: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr("dongu.page.report.make_report", lambda *_: b"page")
    with monkeypatch.context() as patch:
        patch.setattr(Disk, "write", refused)
        assert run_command(["report", "run"]) == 6
        said = capsys.readouterr().err
        assert "run/report.html" in said
        assert said.endswith("--out FILE writes it elsewhere\n")
        assert run_command(["report", "run", "--out", "page.html"]) == 6
        assert "--out FILE" not in capsys.readouterr().err, "which was given"
    assert run_command(["report", "run", "--out", "page.html"]) == 0
    assert Path("page.html").read_bytes() == b"page"


def write_run(folder: Path) -> None:
    """What a command looks at before it looks further."""
    options = {"data": "rows.csv", "text_columns": ["text"], "label_column": "label", "task": "single-label"}
    record = {"options": options, "label_names": ["a", "b"], "metric": "accuracy", "data": {}}
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")


def test_what_you_may_not_read_is_no_bug(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is met: to look whether a file is there is refused in a folder that is closed."""
    run = tmp_path / "run"
    look = os.stat

    def refused(path: Any, *how: Any, **more: Any) -> os.stat_result:
        if str(path).startswith(f"{run}/"):
            raise PermissionError(13, "Permission denied", str(path))
        return look(path, *how, **more)

    monkeypatch.setattr(os, "stat", refused)
    run.mkdir()
    assert run_command(["predict", str(run), "a text"]) == 2
    said = capsys.readouterr().err
    assert f"{run}/run.json: cannot be read or written (Permission denied)\nyou may not" in said
