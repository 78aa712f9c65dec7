"""What two texts are compared by."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from dongu.text import plain

# Nothing is known of a code that nobody has given a meaning: of those some do.
NAMELESS = ("Cn", "Co")
CODES = [
    code for code in range(sys.maxunicode + 1) if code % 101 == 0 or unicodedata.category(chr(code)) not in NAMELESS
]


@pytest.mark.parametrize("pattern", ["{}", "a{} b", "{}a{}{}b"])
def test_every_character_in_every_place(pattern: str) -> None:
    for code in CODES:
        text = pattern.replace("{}", chr(code))
        # Surrogates too: a reader refuses them, and a comparison must not fail before.
        assert plain(text) == " ".join(unicodedata.normalize("NFKC", text).casefold().split()), hex(code)
