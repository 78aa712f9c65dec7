"""`dongu quiz`: questions on the lessons, on a terminal or from a pipe."""

from __future__ import annotations

import random
import textwrap
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from string import ascii_lowercase
from typing import Any

from dongu.teach.language import LESSON_WIDTH, Language, read_words

LESSONS = ("order", "adamw", "accumulation", "padding", "eval_mode", "no_grad", "prepare")  # in their order


@dataclass(frozen=True)
class Question:
    """One of a quiz; `right` is the place of the right answer."""

    id: str
    lesson: str
    text: str
    answers: tuple[str, ...]
    right: int
    why: str


class Quiz:
    """Questions in a language, and how they went so far.

    Args:
        language: of the questions and of what is said.
        lesson: the one that they are about; all, one after the other, by default.
        seed: draws an order of the questions and of their answers; by default both are as they were written.
    """

    def __init__(self, language: Language, lesson: str | None = None, seed: int | None = None) -> None:
        self._language = language
        self._words = read_words("quiz", language)
        questions = [_question(entry) for entry in self._words["question"] if lesson in (None, entry["lesson"])]
        if seed is not None:
            draw = random.Random(seed)  # noqa: S311 - an order, no secret
            questions = [_shuffled(question, draw) for question in draw.sample(questions, len(questions))]
        self.questions = questions
        self.asked = 0
        self.missed: list[Question] = []

    def run(self, lines: Iterator[str], *, echo: bool) -> Iterator[str]:
        """What to write, piece by piece; an answer is read from `lines` when the next piece is asked for.

        The end of the lines ends the quiz. `echo` repeats the answers, which a terminal shows by itself.
        """
        yield self._say("title", count=len(self.questions)) + "\n"
        for number, question in enumerate(self.questions, start=1):
            yield "\n" + self._say("number", number=number, count=len(self.questions)) + "\n"
            yield from _wrapped(question.text)
            for letter, answer in zip(ascii_lowercase, question.answers, strict=False):
                yield from _wrapped(answer, f"  {letter}  ")
            given = yield from self._answer(len(question.answers), lines, echo=echo)
            if given is None:
                break
            yield from self._judge(question, given)
        yield from self._result()

    def _answer(self, count: int, lines: Iterator[str], *, echo: bool) -> Generator[str, None, str | None]:
        """The letter of one of `count` answers; nothing for a question passed over, None for the end."""
        letters = ascii_lowercase[:count]
        while True:
            yield "> "
            line = next(lines, None)
            if line is None:
                yield "\n"
                return None
            given = line.strip().lower()
            if echo:
                yield f"{given}\n"
            if not given or given in list(letters):
                return given
            yield self._say("letter", first=letters[0], last=letters[-1]) + "\n"

    def _judge(self, question: Question, given: str) -> Iterator[str]:
        self.asked += 1
        letter = ascii_lowercase[question.right]
        verdict = "right" if given == letter else "wrong" if given else "passed"
        if verdict != "right":
            self.missed.append(question)
        said = self._say(verdict, letter=letter, answer=question.answers[question.right])
        yield from _wrapped(f"{said.removesuffix('.')}. {question.why}")

    def _result(self) -> Iterator[str]:
        yield "\n"
        if self.asked < len(self.questions):
            yield self._say("early", asked=self.asked, count=len(self.questions)) + "\n"
        yield self._say("score", right=self.asked - len(self.missed), asked=self.asked) + "\n"
        if self.missed:
            lessons = {question.lesson for question in self.missed}
            places = [f"docs/{self._language}/lessons/{lesson}.md" for lesson in LESSONS if lesson in lessons]
            yield from _wrapped(self._say("again", lessons=" ".join(places)))

    def _say(self, key: str, **values: Any) -> str:
        said: str = self._words[key].format(**values)
        return said


def _question(entry: dict[str, Any]) -> Question:
    letters, answers = zip(*entry["answers"].items(), strict=True)
    return Question(**{**entry, "answers": answers, "right": letters.index(entry["right"])})


def _shuffled(question: Question, draw: random.Random) -> Question:
    places = draw.sample(range(len(question.answers)), len(question.answers))
    answers = tuple(question.answers[place] for place in places)
    return replace(question, answers=answers, right=places.index(question.right))


def _wrapped(text: str, first: str = "") -> Iterator[str]:
    for line in textwrap.wrap(text, LESSON_WIDTH, initial_indent=first, subsequent_indent=" " * len(first)):
        yield f"{line}\n"
