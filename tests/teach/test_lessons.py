"""The lessons show what their programs do: each is run, and each text holds its parts and what it prints."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from conftest import ROOT
from dongu.teach.language import LANGUAGES
from dongu.teach.quiz import LESSONS

DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

from include_lessons import TEXTS, included, regions  # noqa: E402

NUMBER = re.compile(r"\d[\d,]*\.?\d*")


def text_of(language: str, lesson: str) -> str:
    return (DOCS / language / "lessons" / f"{lesson}.md").read_text(encoding="utf-8")


@pytest.fixture
def fresh_state() -> Iterator[None]:
    """Accelerate keeps device and precision for the whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.cases(test=3, ci=6)
@pytest.mark.usefixtures("fresh_state")
@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_holds_and_prints_what_its_texts_show(
    lesson: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(DOCS / "lessons")
    runpy.run_path(str(DOCS / "lessons" / f"{lesson}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    for language in LANGUAGES:
        shown = "".join(re.findall(r"^```text\n(.*?)^```$", text_of(language, lesson), re.MULTILINE | re.DOTALL))
        assert NUMBER.sub("#", shown) == NUMBER.sub("#", printed), language
        for one, other in zip(numbers(shown), numbers(printed), strict=True):
            # Random numbers and the size of what is kept are a little different on other processors.
            assert one == pytest.approx(other, rel=0.1, abs=0.05), language


def numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in NUMBER.findall(text)]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: "/".join(path.relative_to(DOCS).parts))
def test_the_texts_hold_the_parts_of_the_programs(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert included(text) == text, "python docs/include_lessons.py brings the text up to date"
    assert text.count("```python") == text.count("<!-- lessons/"), "a block that no program has"


@pytest.mark.parametrize("lesson", LESSONS)
def test_both_languages_show_each_part_once_and_in_order(lesson: str) -> None:
    parts = {
        language: re.findall(rf"<!-- lessons/{lesson}\.py: (\w+) -->", text_of(language, lesson))
        for language in LANGUAGES
    }
    assert parts["en"] == parts["tr"] == list(regions(DOCS / "lessons" / f"{lesson}.py"))


def test_nothing_is_missing() -> None:
    """Each lesson has its text in both languages, and the index leads to it."""
    names = {"index", *LESSONS}
    assert {(path.parts[-3], path.stem) for path in TEXTS} == {(l, name) for l in LANGUAGES for name in names}  # noqa: E741
    assert {path.stem for path in (DOCS / "lessons").glob("*.py")} == {"tiny", *LESSONS}
    for language in LANGUAGES:
        assert tuple(re.findall(r"\]\((\w+)\.md\)", text_of(language, "index"))) == LESSONS


def test_a_part_that_changed_is_brought_up_to_date() -> None:
    text = text_of("en", "adamw")
    stale = text.replace("STEPS = 1000", "STEPS = 10")
    assert stale != text
    assert included(stale) == text
