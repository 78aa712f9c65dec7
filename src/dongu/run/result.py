"""What a run came to, in Python."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from dongu.judge.words import splits_of
from dongu.text import decimals, with_interval


@dataclass(frozen=True, repr=False)
class RunResult:
    """The result of a run. `metrics` are the best model's on validation; `results` is the content of `results.json`.

    `advice` says what to do if the run is not shown to be better than its baselines; empty if it is.
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
            for split, entries in splits_of(self.results).items()
            for name, entry in entries.items()
        ]
        tagged = [("th", ("split", "metric", "value (95% interval)", "baseline")), *(("td", row) for row in rows)]
        lines = ["".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) for tag, row in tagged]
        table = "".join(f"<tr>{line}</tr>" for line in lines)
        return f"<table><caption>{escape(str(self.path))}</caption>{table}</table>"

    @staticmethod
    def of(path: Path, results: dict[str, Any]) -> RunResult:
        return RunResult(path, {name: entry["value"] for name, entry in results["validation"].items()}, results)
