"""What the doctor says: the whole report for `dongu inspect`, a few lines before a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from dongu.config import RunConfig
from dongu.doctor.checkup import Checkup
from dongu.doctor.finding import Finding
from dongu.doctor.overview import overview
from dongu.text import counted

WARNINGS_BEFORE_A_RUN = 3
LOOKED_FOR = "Looked for empty cells, copies within and between the splits, texts with two labels, unknown, look-alike,"


def report(checkup: Checkup, config: RunConfig) -> Iterator[str]:
    """The figures of the data, each finding with its effect, advice and rows, and the count."""
    if checkup.data is not None:
        for name, text in overview(checkup.data, checkup.lengths, config):
            yield f"{name:<10} {text}"
        yield ""
    for finding in checkup.findings:
        yield from _paragraph(finding)
        yield ""
    if checkup.data is None:
        yield "Not looked for: anything else, without rows that training could use."
    else:
        yield LOOKED_FOR
        yield f"rare and missing classes{', and truncation' if checkup.lengths else ''}."
    if (error := checkup.no_lengths) is not None:
        yield f"Not looked at: lengths, truncation and padding, for {error.where} {error.what}"
        yield f"({error.hint})."
    counts = Counter(finding.severity for finding in checkup.findings)
    found = [counted(counts[severity], severity) for severity in ("error", "warning", "note") if counts[severity]]
    yield f"Found: {', '.join(found) or 'nothing'}."


def _paragraph(finding: Finding) -> Iterator[str]:
    yield f"{finding.severity.upper():<8} {finding.what}"
    yield f"  effect {finding.effect}"
    yield f"  advice {finding.advice}"
    for i, example in enumerate(finding.examples):
        yield f"  {'' if i else 'rows':<6} {example}"


def warnings_before_a_run(findings: Sequence[Finding], more: str) -> Iterator[str]:
    """The worst few, a line each with the place of one case; `more` says where all of them are."""
    grave = [finding for finding in findings if finding.severity != "note"]
    for finding in grave[:WARNINGS_BEFORE_A_RUN]:
        places = f" ({' and '.join(finding.examples[0].where)})" if finding.examples else ""
        yield f"WARNING: {finding.what}{places}: {finding.effect}"
    if len(grave) > WARNINGS_BEFORE_A_RUN:
        yield f"… and {counted(len(grave) - WARNINGS_BEFORE_A_RUN, 'more warning')}: {more}"
