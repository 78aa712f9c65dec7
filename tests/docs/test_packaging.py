"""What is installed: bounds that the tests were run with, a description that stands alone, an image."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from conftest import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
TOOLS = ("dev", "docs")  # which nobody but a developer installs
CONSTRAINTS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
)


def test_no_bound_is_below_what_the_tests_were_run_with() -> None:
    """`torch>=2.6` stood there for long, and nobody had ever run it."""
    extras = [line for name, lines in EXTRAS.items() if name not in TOOLS for line in lines]
    for requirement in map(Requirement, [*PROJECT["project"]["dependencies"], *extras]):
        tested = Version(CONSTRAINTS[requirement.name])
        assert requirement.specifier.contains(tested), requirement
        least = next(Version(each.version) for each in requirement.specifier if each.operator in (">=", "=="))
        assert least.release[:2] == (*tested.release, 0)[:2] or least.release == tested.release[:1], requirement


def description() -> str:
    """The README as the wheel has it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for each in PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(each["pattern"], each["replacement"], text)
    return text


def test_the_description_needs_no_neighbours() -> None:
    assert re.search(r"\]\((?!https?:)", (ROOT / "README.md").read_text(encoding="utf-8")), (
        "else there is nothing to do"
    )
    text = description()
    assert re.findall(r"!?\[[^\]]*\]\((?!https?:)[^)]*\)", text) == []
    assert "The head of the report" not in text, "a picture that is not there"
    assert "[Documentation]" not in text
    assert "Documentation · Türkçe" in text
    assert "**Correct.**" in text


def test_nobody_is_told_to_install_a_name_of_the_index() -> None:
    """`dongu` is not registered there, so a stranger's could come; from wheels of one's own it may be asked for."""
    texts = [*(ROOT / "src").rglob("*.py"), *(ROOT / "src").rglob("*.jinja"), *ROOT.glob("*.md")]
    texts += [*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.sh"), *(ROOT / "benchmarks").glob("*.py")]
    for path in texts:
        for line in path.read_text(encoding="utf-8").splitlines():
            told = re.search(r"pip install (?!.*--no-index)[^`\n]*\bdongu(\[|$)", line)
            assert told is None, (path, line)


@pytest.fixture(scope="module")
def image() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile: name and rest, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line.partition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in lines]


def test_the_image_can_be_built_from_the_clone(image: list[tuple[str, str]]) -> None:
    """Where docker is, `docker build .` does it; here its parts are looked up."""
    assert {name for name, _ in image} <= {
        *("FROM", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD")
    }
    taken = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    stages = set(re.findall(r" AS (\w+)", " ".join(rest for name, rest in image if name == "FROM")))
    for name, rest in image:
        if name == "FROM":
            assert rest.startswith("python:3.11-slim"), "the Python of constraints.txt"
        if name == "COPY":
            *sources, _ = rest.split()
            if sources[0].startswith("--from="):
                assert sources[0].removeprefix("--from=") in stages
                continue
            for source in sources:
                assert (ROOT / source).exists()
                assert f"!{source}" in taken
    [install] = [rest for name, rest in image if name == "RUN" and "pip install" in rest]
    assert set(re.findall(r"\[([\w,]+)\]", install)[0].split(",")) <= EXTRAS.keys()
    needed = {PROJECT["project"]["license-files"][0], "README.md", "pyproject.toml", "src"}
    assert needed <= {word for name, rest in image if name == "COPY" for word in rest.split()}
    assert ("ENTRYPOINT", '["dongu"]') in image
    assert image.index(("USER", "dongu")) < image.index(("ENTRYPOINT", '["dongu"]')), "nobody answers as root"
    assert "dongu" in PROJECT["project"]["scripts"]
