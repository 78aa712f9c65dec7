"""The findings as text: the whole report of `dongu inspect`, and a few lines before a run."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

from dongu.doctor.checkup import Checkup
from dongu.doctor.finding import SEVERITIES, Finding
from dongu.doctor.overview import overview
from dongu.text import WIDTH, counted, excerpt, fields, file_name, wrapped

SHOWN_BEFORE_A_RUN = 3  # findings
LEAST_TEXT = 24  # columns of an example's text, however long its place is
LOOKED_FOR = (
    "Looked for unusable cells, leaks between the splits, conflicting labels, duplicates, near duplicates, unknown,"
    " look-alike, rare and missing classes"
)


def checkup_lines(checkup: Checkup) -> Iterator[str]:
    """The figures of the data, each finding with its effect, advice and rows, and the count."""
    if checkup.data is not None:
        yield from fields(overview(checkup.data, checkup.lengths, checkup.config))
        yield ""
    for finding in checkup.findings:
        yield from _paragraph(finding)
        yield ""
    looked = "Nothing else was looked for, for no rows are left that training could use."
    if checkup.data is not None:
        looked = f"{LOOKED_FOR}{', and truncation' if checkup.lengths else ''}."
        if not checkup.data.has_texts:
            looked = "Looked for look-alike, rare and missing classes alone: the texts are not kept."
    yield from wrapped(looked)
    if (error := checkup.no_lengths) is not None:
        hint = f" ({error.hint})" if error.hint else ""
        yield from wrapped(f"Not looked at: lengths, truncation and padding, for {error.where} {error.what}{hint}.")
    yield f"Found: {', '.join(_counts(checkup.findings)) or 'nothing'}."


def _paragraph(finding: Finding) -> Iterator[str]:
    yield from wrapped(finding.what, f"{finding.severity.upper():<9}")
    yield from wrapped(finding.effect, "  effect ")
    yield from wrapped(finding.advice, "  advice ")
    for i, example in enumerate(finding.examples):
        places = f"  {'' if i else 'rows':<6} {' and '.join(map(file_name, example.where))}  "
        yield places + excerpt(example.text, max(LEAST_TEXT, WIDTH - len(places)))


def before_a_run(findings: Sequence[Finding], more: str) -> Iterator[str]:
    """The worst findings: warnings with their effect, notes without it; `more` is the command that prints all."""
    for finding in findings[:SHOWN_BEFORE_A_RUN]:
        if finding.severity == "note":
            yield from wrapped(finding.what, "note: ")
        else:
            yield from wrapped(f"{finding.what}: {finding.effect}", "WARNING: ")
    if rest := _counts(findings[SHOWN_BEFORE_A_RUN:]):
        yield from _before_a_command(f"and {', '.join(rest)} more:", more)
    elif findings:
        yield from _before_a_command("rows, effects and advice:", more)


def _before_a_command(said: str, command: str) -> Iterator[str]:
    """A sentence and a command on one line, or the command below it on lines that a shell joins."""
    if len(line := f"{said} {command}") <= WIDTH:
        yield line
        return
    whole = re.sub(r"'[^']*'|\"[^\"]*\"", lambda quoted: quoted[0].replace(" ", "\0"), command)  # no break within
    *lines, last = textwrap.wrap(
        whole, WIDTH - 2, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    yield from (line.replace("\0", " ") for line in [said, *(f"{line} \\" for line in lines), last])


def _counts(findings: Sequence[Finding]) -> list[str]:
    counts = Counter(finding.severity for finding in findings)
    return [counted(counts[severity], severity) for severity in SEVERITIES if counts[severity]]
