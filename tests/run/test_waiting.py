"""What takes long says so, where somebody may look: how much of it is done, and how long it will be."""

from __future__ import annotations

import gc
import io
import time
from importlib import import_module

import pytest

from dongu import waiting
from dongu.waiting import Waiting, loading, shown_on


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


def test_the_garbage_collector_rests_while_libraries_load_and_passes_them_over_then() -> None:
    gc.unfreeze()
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
