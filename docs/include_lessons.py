"""Puts the parts of the lessons' programs into their texts: `python docs/include_lessons.py`.

A part lies between `# region NAME` and `# endregion` in docs/lessons/*.py. In a text, `<!-- lessons/FILE.py: NAME -->`
stands before the block that shows it. A test holds both to each other.
"""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parent
TEXTS = sorted(path for language in ("en", "tr") for path in (DOCS / language / "lessons").glob("*.md"))
MARKED = re.compile(r"(<!-- lessons/(\w+\.py): (\w+) -->\n```python\n).*?(^```$)", flags=re.MULTILINE | re.DOTALL)
REGION = re.compile(r"^# region (\w+)\n(.*?)^# endregion$", flags=re.MULTILINE | re.DOTALL)


def regions(program: Path) -> dict[str, str]:
    """The parts of a program by their names."""
    return {name: f"{code.strip()}\n" for name, code in REGION.findall(program.read_text(encoding="utf-8"))}


def included(text: str) -> str:
    """The text with each marked block as its program has it."""
    return MARKED.sub(lambda block: f"{block[1]}{regions(DOCS / 'lessons' / block[2])[block[3]]}{block[4]}", text)


if __name__ == "__main__":
    for path in TEXTS:
        path.write_text(included(path.read_text(encoding="utf-8")), encoding="utf-8")
