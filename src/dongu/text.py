"""What of a text can be seen: on a terminal, and at all."""

from __future__ import annotations

import unicodedata

INVISIBLE = ("Cc", "Cf", "Zs", "Zl", "Zp")  # categories of Unicode: control, format, the three kinds of space
LINE_LIMIT = 2000  # characters of a line of an error: a whole file in one cell may be what is wrong


def printable(text: str) -> str:
    """Text from data without what could move or recolour a terminal: control and direction characters."""
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf")
        else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )


def one_line(text: str) -> str:
    """For a message: printable, on one line, not too long."""
    return printable(" ".join(shortened(text, LINE_LIMIT).splitlines()))


def shortened(text: str, limit: int = 80) -> str:
    """The text itself, or its beginning and its end where it has more characters than `limit`."""
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 :]}"


def is_blank(text: str) -> bool:
    """Whether nothing in it is visible: spaces, control characters, and what has no width."""
    return all(unicodedata.category(character) in INVISIBLE for character in text)
