"""The whole examination: of data that are ready to be trained on, or of any that can be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dongu.config import RunConfig
from dongu.data.columns import choose_columns
from dongu.data.examples import TextData, read_examples
from dongu.data.sources import Source
from dongu.doctor.cells import set_aside
from dongu.doctor.classes import check_classes
from dongu.doctor.copies import check_copies
from dongu.doctor.finding import Finding, worst_first
from dongu.doctor.lengths import Lengths, check_lengths, load_plain_tokenizer, measure
from dongu.errors import DataError, ModelError
from dongu.text import counted


@dataclass(frozen=True)
class Checkup:
    """What was found, worst first.

    `data` are the rows that can be used, None where there are none; `lengths` are empty where no tokenizer could be
    loaded, and `no_lengths` says why.
    """

    findings: list[Finding]
    data: TextData | None
    lengths: dict[str, Lengths]
    no_lengths: ModelError | None = None


def examine(data: TextData, lengths: Mapping[str, Lengths]) -> list[Finding]:
    """Everything that can be found in data that training accepts, worst first."""
    return worst_first([*check_copies(data), *check_lengths(data.splits, lengths), *check_classes(data)])


def inspect(source: Source, config: RunConfig) -> Checkup:
    """Everything that can be found in a source; what training would refuse is set aside, and the rest looked at.

    Raises:
        DataError: the columns cannot be told.
    """
    columns = choose_columns(source.splits["train"], config.text_columns, config.label_column)
    usable = set_aside(source, columns, config.task)
    if not all(len(table) for table in usable.source.splits.values()):
        return Checkup(usable.findings, None, {})
    try:
        data = read_examples(usable.source, config)
    except DataError as error:
        refused = Finding("error", f"{error.where}: {error.what}", "training does not start", error.hint)
        return Checkup([*usable.findings, refused], None, {})
    data = _with_ids(data, usable.ids)
    lengths, no_lengths = _measure(data, config)
    return Checkup(worst_first([*usable.findings, *examine(data, lengths)]), data, lengths, no_lengths)


def _with_ids(data: TextData, ids: Mapping[str, Any]) -> TextData:
    """The row numbers as they were before rows were set aside."""
    splits = {
        name: replace(examples, ids=ids["train" if data.held_out and name == "validation" else name][examples.ids])
        for name, examples in data.splits.items()
    }
    return replace(data, splits=splits)


def _measure(data: TextData, config: RunConfig) -> tuple[dict[str, Lengths], ModelError | None]:
    try:
        tokenizer, limit = load_plain_tokenizer(config.model)
    except ModelError as error:
        return {}, error
    return {
        name: measure(tokenizer, examples, config.max_length, limit, config.seed)
        for name, examples in data.splits.items()
    }, None


def refuse_findings(findings: Sequence[Finding], where: str, *, strict: bool) -> None:
    """
    Raises:
        DataError: training would refuse the data, or there is a warning and `--strict` allows none.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    warnings = [finding for finding in findings if finding.severity == "warning"]
    if errors:
        raise DataError(f"{counted(len(errors), 'error')}: training would not start", where=where)
    if warnings and strict:
        what = f"{counted(len(warnings), 'warning')} where --strict allows none: {warnings[0].what}"
        raise DataError(what, where=where, hint=warnings[0].advice)
