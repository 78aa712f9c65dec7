"""The languages that dongu teaches in, and their words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

Language = Literal["en", "tr"]
LESSON_WIDTH = 88  # characters of a line: what a terminal of 90 shows whole
LANGUAGES: tuple[Language, ...] = get_args(Language)


def language_of(environment: Mapping[str, str]) -> Language:
    """The language of the messages that the locale asks for; English where dongu does not speak it."""
    variables = (environment.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    locale = next(filter(None, variables), "")
    return "tr" if locale.partition("_")[0].partition(".")[0] == "tr" else "en"


def read_words(name: str, language: Language) -> dict[str, Any]:
    """The table NAME.LANGUAGE.toml beside this file."""
    import tomllib

    return tomllib.loads(Path(__file__).with_name(f"{name}.{language}.toml").read_text(encoding="utf-8"))
