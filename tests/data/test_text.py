"""What two texts are compared by."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from conftest import EXHAUSTIVE
from dongu.text import plain, reason_of

# Nothing is known of a code that nobody has given a meaning, and a letter without cases and parts stands for itself: of
# those some do.
ALIKE = ("Cn", "Co", *([] if EXHAUSTIVE else ["Lo"]))


@pytest.mark.cases(test=1, ci=3)
@pytest.mark.parametrize("pattern", ["{}", "a{} b", "{}a{}{}b"])
def test_every_character_in_every_place(pattern: str) -> None:
    for code in range(sys.maxunicode + 1):
        if code % 101 and unicodedata.category(chr(code)) in ALIKE and not unicodedata.decomposition(chr(code)):
            continue
        text = pattern.replace("{}", chr(code))
        # Surrogates too: a reader refuses them, and a comparison must not fail before.
        assert plain(text) == " ".join(unicodedata.normalize("NFKC", text).casefold().split()), hex(code)


def test_the_reason_of_another_librarys_error() -> None:
    """Some raise an error without a word, or begin their message with an empty line."""
    errors = (ValueError(), ValueError("\n  "), ValueError("\n no such file\nat a place"))
    assert [*map(reason_of, errors)] == ["ValueError", "ValueError", "no such file"]
