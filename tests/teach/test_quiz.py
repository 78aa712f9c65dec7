"""The quiz asks the same in both languages, reads what it is given, and counts right."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from string import Formatter

import pytest

from conftest import ROOT
from dongu.cli.main import run
from dongu.teach.language import LANGUAGES, LESSON_WIDTH, Language, read_words
from dongu.teach.quiz import LESSONS, Quiz

LETTERS = "abc"


def play(quiz: Quiz, *lines: str, echo: bool = False) -> str:
    return "".join(quiz.run(iter(lines), echo=echo))


def right_answers(quiz: Quiz) -> list[str]:
    return [LETTERS[question.right] for question in quiz.questions]


def test_both_languages_hold_the_same_questions_with_the_same_right_answers() -> None:
    tables = {language: read_words("quiz", language) for language in LANGUAGES}
    english, turkish = (tables[language]["question"] for language in ("en", "tr"))
    assert len(english) >= 20
    assert len({entry["id"] for entry in english}) == len(english)
    for one, other in zip(english, turkish, strict=True):
        for key in ("id", "lesson", "right"):
            assert one[key] == other[key], one["id"]
        assert list(one["answers"]) == list(other["answers"]) == list(LETTERS), one["id"]
        assert one["text"] != other["text"]
        assert len(set(other["answers"].values())) == len(set(one["answers"].values())) == 3, one["id"]
    words = [{key: text for key, text in table.items() if key != "question"} for table in tables.values()]
    fields = [
        {key: {name for _, name, _, _ in Formatter().parse(text)} for key, text in table.items()} for table in words
    ]
    assert fields[0] == fields[1]


def test_each_lesson_is_asked_about_and_no_letter_is_a_good_guess() -> None:
    questions = Quiz("en").questions
    assert list(dict.fromkeys(question.lesson for question in questions)) == list(LESSONS)
    assert min(Counter(question.lesson for question in questions).values()) >= 3
    assert min(Counter(right_answers(Quiz("en"))).values()) >= len(questions) // 4
    for language in LANGUAGES:
        for lesson in LESSONS:
            assert (ROOT / "docs" / language / "lessons" / f"{lesson}.md").exists()


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("seed", [None, 7])
def test_all_right(language: Language, seed: int | None) -> None:
    quiz = Quiz(language, seed=seed)
    shown = play(quiz, *right_answers(quiz), echo=True)
    count = len(quiz.questions)
    assert (quiz.asked, quiz.missed) == (count, [])
    assert shown.endswith(
        {"en": f"\n\n{count} of {count} right.\n", "tr": f"\n\n{count} sorudan {count} doğru.\n"}[language]
    )
    assert max(map(len, shown.splitlines())) <= LESSON_WIDTH


def test_the_seed_decides_the_order_and_nothing_else() -> None:
    written, one, again, other = Quiz("en"), Quiz("en", seed=1), Quiz("en", seed=1), Quiz("en", seed=2)
    assert one.questions == again.questions
    orders = [[question.id for question in quiz.questions] for quiz in (written, one, other)]
    assert len({tuple(order) for order in orders}) == 3
    for quiz in (one, other):
        assert sorted(question.id for question in quiz.questions) == sorted(orders[0])
        right = {question.id: question.answers[question.right] for question in quiz.questions}
        assert right == {question.id: question.answers[question.right] for question in written.questions}
    answers = {question.id: question.answers for question in written.questions}
    assert any(question.answers != answers[question.id] for question in one.questions)
    assert [q.id for q in Quiz("tr", seed=1).questions] == orders[1], "the same order in each language"


def test_wrong_passed_and_unclear_answers() -> None:
    quiz = Quiz("en", "adamw")
    assert right_answers(quiz) == ["a", "c", "a"]
    shown = play(quiz, "B\r\n", "d\n", "ab\n", "\n", " A \n")
    assert shown.count("A letter from a to c, please.") == 2
    assert "No, a: 5e-5." in shown
    assert "It is c: those with large gradients." in shown
    assert shown.count("Right. ") == 1
    assert "1 of 3 right.\nWorth reading again: docs/en/lessons/adamw.md\n" in shown
    assert "You stopped" not in shown


def test_the_end_of_the_answers_ends_it_politely() -> None:
    quiz = Quiz("en", "order")
    shown = play(quiz, "b\n", "x\n")
    assert shown.endswith("> \n\nYou stopped after 1 of 4.\n1 of 1 right.\n")
    assert play(Quiz("tr", "order")).endswith("4 sorudan 0 tanesini gördükten sonra bıraktınız.\n0 sorudan 0 doğru.\n")


def test_the_command_reads_a_pipe_and_needs_no_torch() -> None:
    program = (
        "import sys; from dongu.cli.main import run; code = run(['quiz', 'order', '--language', 'tr']);"
        "print(code, {'torch', 'numpy', 'transformers'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], input=b"b\nc\n\xff\na\n", capture_output=True, check=True)
    assert done.stderr.decode().split("\n")[0] == "0 set()"
    shown = done.stdout.decode()
    assert "> b\nDoğru." in shown, "an answer from a pipe is shown"
    assert "3 sorudan 3 doğru." in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seed", "-1"], "--seed"),
        (["--seed", "one"], "--seed: must be a whole number, got `one`"),
        (["bert"], "invalid choice: 'bert'"),
        (["--language", "de"], "invalid choice: 'de'"),
        (["--sed=1"], "did you mean --seed?"),
    ],
)
def test_bad_use(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["quiz", *arguments]) == 2
    assert said in capsys.readouterr().err
