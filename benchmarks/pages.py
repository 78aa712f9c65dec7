"""What a benchmark writes into a page of the documentation: a text between two marks."""

from __future__ import annotations

from pathlib import Path


def put_between(page: Path, begin: str, text: str, end: str) -> None:
    """Print the text, and put it there.

    Raises:
        ValueError: the page has not each mark once.
    """
    print(text)
    head, rest = page.read_text(encoding="utf-8").split(begin)
    _, tail = rest.split(end)
    page.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")
