"""One thing that the doctor found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from dongu.text import counted, excerpt, percent

Severity = Literal["error", "warning", "note"]  # training refuses the data; the result suffers; good to know
SEVERITIES: tuple[Severity, ...] = get_args(Severity)  # the worst first
SHOWN_EXAMPLES = 3


@dataclass(frozen=True)
class Example:
    """Rows that show a finding: their places (`train.csv:17`), and the text that they share or begin with."""

    where: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Finding:
    """What is so, what it does to the result, and what to do about it, in a clause each, with a few examples."""

    severity: Severity
    what: str
    effect: str
    advice: str
    examples: tuple[Example, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For `findings.json`."""
        return asdict(self)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors, warnings, notes; within these in the order in which they were found."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def share_of_rows(count: int, split: str, rows: int, does: str, do: str) -> str:
    """`1 test row of 20 (5.0%) leaks`."""
    return f"{counted(count, f'{split} row')} of {rows:,} ({percent(count / rows)}) {does if count == 1 else do}"


def example(where: Iterable[str], *texts: object) -> Example:
    """One row, or rows that belong together; the two texts of a pair get a bar between them."""
    return Example(tuple(where), " | ".join(excerpt(str(text)) for text in texts))
