"""What takes long says so, where somebody may look: how much of it is done, and how long it will be."""

from __future__ import annotations

import gc
import io
import itertools
import os
import subprocess
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest

from dongu import waiting
from dongu.cli import main
from dongu.cli.output import standard_streams, told_before
from dongu.waiting import Waiting, idle, loading, shown_on


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(waiting, "REDRAWN_SECONDS", 0.01)
    monkeypatch.setattr(waiting, "LINE_SECONDS", 0.02)


def shown(stream: io.StringIO, wait: Waiting, count: int) -> str:
    with shown_on(stream), wait:
        wait.add(count)
        until = time.monotonic() + 10
        while f"{count:,} of" not in stream.getvalue() and time.monotonic() < until:
            time.sleep(0.005)
    return stream.getvalue()


def test_a_terminal_gets_a_bar_that_goes_away() -> None:
    text = shown(Terminal(), Waiting("tokenizing", 4000, "rows"), 1000)
    assert "tokenizing" in text
    assert "1,000 of 4,000 rows" in text
    assert "rows/s" in text
    assert " left" in text
    assert text.endswith("\r")
    assert not text.rpartition("\r")[0].rpartition("\r")[2].strip()  # wiped


def test_a_file_gets_a_line_now_and_then() -> None:
    stream = io.StringIO()
    with shown_on(stream), Waiting("reading a.csv", 4_000_000, "bytes") as wait:
        wait.add(1_000_000)
        time.sleep(0.3)
    lines = stream.getvalue().splitlines()
    assert lines
    assert len(lines) <= 4  # after 0.02, 0.06, 0.14, 0.3 s
    assert all(line.startswith("reading a.csv: 1 of 4 MB, ") for line in lines)


def test_nobody_who_did_not_ask_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with Waiting("tokenizing", 10, "rows"):
        time.sleep(0.05)
    with shown_on(None), Waiting("tokenizing", 10, "rows"):
        time.sleep(0.05)
    assert "".join(capsys.readouterr()) == ""


def test_several_short_ones_are_no_longer_silence_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "FIRST_SECONDS", 0.2)
    stream = Terminal()
    with shown_on(stream):
        for name in "abcd":
            with Waiting(f"phase {name}"):
                time.sleep(0.1)
    assert "phase" in stream.getvalue()


def test_the_innermost_is_shown_on_one_line() -> None:
    stream = Terminal()
    with shown_on(stream), Waiting("outer"):
        time.sleep(0.05)
        with Waiting("inner"):
            time.sleep(0.05)
        time.sleep(0.05)
    shown = [line.split()[0] for line in stream.getvalue().split("\r") if line.strip()]
    assert [name for name, _ in itertools.groupby(shown)] == ["outer", "inner", "outer"]
    assert "\n" not in stream.getvalue()


def test_nothing_is_drawn_while_a_person_is_waited_for() -> None:
    stream = Terminal()
    with shown_on(stream), Waiting("dongu predict"), idle():
        time.sleep(0.05)
    assert stream.getvalue() == ""


@pytest.mark.skipif(os.name != "posix", reason="there are no pseudo-terminals")
def test_what_a_command_prints_stands_alone_on_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar is on standard error, the answers on standard output: to a terminal it is one screen."""
    reads, writes = os.openpty()
    with os.fdopen(writes, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setattr(sys, "stderr", terminal)
        with standard_streams(), shown_on(sys.stderr) as screen:
            assert screen is not None
            with told_before(screen.clear), Waiting("dongu compare"):
                for answer in ("one", "two"):
                    time.sleep(0.1)
                    print(answer)
    said = b""
    with suppress(OSError):  # after the last byte
        while part := os.read(reads, 1 << 16):
            said += part
    os.close(reads)
    screen_lines = said.decode().split("\r\n")
    assert [line.split("\r")[-1] for line in screen_lines] == ["one", "two", ""]
    assert all(line.split("\r")[-2].isspace() and "dongu compare" in line for line in screen_lines[:2])


def test_whatever_a_command_does_is_shown_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also where a phase has no name of its own; and no line of it goes to a file."""
    monkeypatch.setattr("dongu.comparison.listing.list_runs", lambda *_: time.sleep(0.1))
    monkeypatch.setattr("dongu.comparison.listing.listing_lines", lambda *_: ())
    monkeypatch.setattr("dongu.comparison.listing.listing_json", lambda *_: {})
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        assert main.run(["runs", str(tmp_path)]) == 0
        assert ("dongu runs" in stream.getvalue()) == stream.isatty()


def test_to_say_something_loads_no_torch() -> None:
    """Else it would be loaded before anything says so, and by a garbage collector that does not rest."""
    code = "import sys, dongu.run.console; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_garbage_collector_rests_while_libraries_load_and_passes_them_over_then() -> None:
    gc.unfreeze()
    waiting._pass_over.cache_clear()
    try:
        with loading():
            assert not gc.isenabled()
        with pytest.raises(ImportError), loading():
            import_module("no_such_library")
        assert gc.isenabled()
        assert (frozen := gc.get_freeze_count()) > 10_000
        later: list[list[int]] = [[] for _ in range(1000)]
        with loading():
            pass
        assert gc.get_freeze_count() <= frozen  # what came later can be collected
        gc.disable()
        with loading():
            pass
        assert not gc.isenabled()  # somebody wants it so
        assert len(later) == 1000
    finally:
        gc.enable()
        gc.unfreeze()
