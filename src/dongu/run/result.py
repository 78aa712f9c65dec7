"""What a run came to, in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from dongu.text import decimals, with_interval


@dataclass(frozen=True, repr=False)
class RunResult:
    """What a run came to. `metrics` are those of the best model on validation; `results` is `results.json`.

    `advice` is what to try where the run is no better than a baseline, and empty where it is.
    """

    path: Path
    metrics: dict[str, float]
    results: dict[str, Any]
    advice: str = ""

    def __repr__(self) -> str:
        metrics = ", ".join(f"{name} {decimals(value)}" for name, value in self.metrics.items())
        return f"<RunResult {self.path}: {metrics} on validation>"

    def _repr_html_(self) -> str:
        """A table for a notebook: each metric of each split with its 95% interval, and what it is compared with."""
        rows = [
            (split, name, with_interval(entry), decimals(entry.get("baseline"), ""))
            for split, entries in self.results.items()
            if isinstance(entries, Mapping)
            for name, entry in entries.items()
        ]
        return html_table(("split", "metric", "value (95% interval)", "baseline"), rows, str(self.path))

    @staticmethod
    def of(path: Path, results: dict[str, Any]) -> RunResult:
        """The result of a finished run."""
        return RunResult(path, {name: entry["value"] for name, entry in results["validation"].items()}, results)


def html_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], caption: str = "") -> str:
    """A plain table, as a notebook shows it."""
    tagged = [("th", head), *(("td", row) for row in rows)]
    lines = ["".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) for tag, row in tagged]
    return f"<table><caption>{escape(caption)}</caption>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
