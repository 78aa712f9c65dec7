"""What a user sees, word for word: one file in `golden/` for each screen.

Figures, times and the breaks of lines are left out of the comparison, so only another wording differs. After a change
of words on purpose, `pytest tests/cli/test_golden.py --golden-write` writes them anew: read what differs as a user.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dongu.cli.main import make_parser, run

GOLDEN = Path(__file__).with_name("golden")
NUMBER = re.compile(r"(?<![\w#])[-+]?\d[\d,.:]*(?:e[-+]?\d+)?(?!\w)")
UNIT = re.compile(r"# (?:s|ms|min|h|[kMG]i?B)\b")


def wording(text: str) -> str:
    """A screen without what differs between two machines: figures, their widths, and where a line is broken."""
    lines: list[str] = []
    for line in UNIT.sub("# s", NUMBER.sub("#", text)).splitlines():
        if line.startswith(" " * 8) and lines and lines[-1]:
            lines[-1] += f" {line.strip()}"
        elif not re.fullmatch(r"(?:#|to|·|%| )+", line):
            lines.append(line.rstrip())
    return "\n".join(re.sub(r"(?<=\S) {2,}", "  ", line) for line in lines) + "\n"


class Verdict(HTMLParser):
    """The texts of a report's section `verdict`."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self._inside = False
        self.lines: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "section":
            self._inside = ("id", "verdict") in attrs

    def handle_data(self, data: str) -> None:
        if self._inside and data.strip():
            self.lines.append(" ".join(data.split()))


def write_data(folder: Path) -> None:
    """Rows with a duplicate, a leak, conflicting labels, a rare class and a column that is not used."""
    folder.mkdir()
    for split, rows in (("train", 60), ("validation", 20), ("test", 20)):
        table = [f"film {split} word{i % 20},{'good' if i % 2 else 'bad'},{i}" for i in range(rows)]
        table[:3] = ["the same film,good,0", f"a film of {split},good,1", f"a film of {split},bad,2"]
        if split == "train":
            table[3] = "the film,mixed,3"
        (folder / f"{split}.csv").write_text("\n".join(["text,label,number", *table]) + "\n", encoding="utf-8")


def test_every_screen_has_its_words(
    tiny_model: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    pytestconfig: pytest.Config,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("dongu.run.effort.product_rate", lambda *_: 1e12)
    monkeypatch.setattr("dongu.run.effort.peak_memory_bytes", lambda *_: 2e9)
    write_data(tmp_path / "data")
    shutil.copytree(tiny_model(), "model")
    capsys.readouterr()

    def said(*arguments: str) -> str:
        assert run(list(arguments)) == 0
        return capsys.readouterr().out

    usual = ("data", "--model", "model", "--device", "cpu", "--threads", "1", "--epochs", "1")
    screens = {
        "help": make_parser().format_help(),
        "inspect": said("inspect", "data", "--model", "model"),
        "train": said("train", *usual, "--out", "a"),
        "train-2": said("train", *usual, "--out", "b", "--seed", "43"),
        "compare": said("compare", "a", "b").split("only A is right")[0],  # which rows these are is arithmetic
        "report": "\n".join(Verdict(Path("a/report.html").read_text(encoding="utf-8")).lines),
    }
    del screens["train-2"]
    if pytestconfig.getoption("golden_write"):
        for name, text in screens.items():
            (GOLDEN / f"{name}.txt").write_text(wording(text), encoding="utf-8")
    for name, text in screens.items():
        assert wording(text) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8"), name
