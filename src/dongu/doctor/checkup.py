"""The whole examination: of data that are ready to be trained on, or of any that can be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dongu.config import RunConfig, make_config
from dongu.data.examples import TextData, columns_of, read_examples
from dongu.data.sources import Source
from dongu.doctor.cells import set_aside
from dongu.doctor.classes import check_classes
from dongu.doctor.columns import check_columns
from dongu.doctor.duplicates import check_duplicates
from dongu.doctor.finding import Finding, worst_first
from dongu.doctor.groups import check_groups
from dongu.doctor.lengths import Lengths, check_lengths, load_plain_tokenizer, measure
from dongu.doctor.near import check_near
from dongu.errors import DataError, ModelError
from dongu.text import Readable, counted
from dongu.waiting import Waiting


@dataclass(frozen=True, repr=False)
class Checkup(Readable):
    """What was found, worst first; it prints as `dongu inspect` does.

    `data` are the rows that can be used, None where there are none; `lengths` are empty where no tokenizer could be
    loaded, and `no_lengths` says why.
    """

    findings: list[Finding]
    data: TextData | None
    lengths: dict[str, Lengths]
    no_lengths: ModelError | None = None
    config: RunConfig = field(default_factory=lambda: make_config({}))  # that the data were read with
    read_as: tuple[str, ...] = ()  # `Source.said`

    def lines(self) -> Iterator[str]:
        from dongu.doctor.words import checkup_lines

        return checkup_lines(self)


def inspected(checkup: Checkup) -> dict[str, Any]:
    """What `dongu inspect --json` prints: how the data are read, and the findings as in `findings.json`."""
    data, findings = checkup.data, [finding.as_json() for finding in checkup.findings]
    rows = {} if data is None else {name: len(examples) for name, examples in data.splits.items()}
    content: dict[str, Any] = {"rows": rows, "findings": findings, "read_as": checkup.read_as}
    if data is None:
        return content
    return content | {
        "text_columns": data.columns.texts,
        "label_column": data.columns.label,
        "unused_columns": {name: data.unused_texts.get(name, 0.0) for name in data.unused_columns},
        "task": data.task,
        "label_names": data.label_names,
        "said": [*data.said, *filter(None, [data.form.said])],
        "held_out": data.held_out,
        "dropped": [row.as_json() for row in data.dropped],
        "joined": data.joined,
    }


def examine(data: TextData, lengths: Mapping[str, Lengths]) -> list[Finding]:
    """Everything that can be found in data that training accepts, worst first; without texts, by the labels."""
    if not data.has_texts:
        return worst_first(check_classes(data))
    rows = sum(map(len, data.splits.values()))
    with Waiting(f"looking at {counted(rows, 'row')}"):
        return worst_first(
            [
                *check_columns(data),
                *check_duplicates(data),
                *check_near(data),
                *check_groups(data),
                *check_lengths(data.splits, lengths),
                *check_classes(data),
            ]
        )


def check_up(source: Source, config: RunConfig) -> Checkup:
    """Everything that can be found in a source: rows that training would refuse are set aside, the others examined.

    Raises:
        DataError: the columns cannot be told.
    """
    if source.prepared is not None:
        data = read_examples(source, config)
        read_as = (*data.said, data.look_through())
        return Checkup(examine(data, {}), replace(data, said=read_as), {}, config=config, read_as=read_as)
    usable = set_aside(source, columns_of(source, config), config)
    if not all(map(len, usable.splits.values())):
        return Checkup(usable.findings, None, {}, config=config, read_as=source.said)
    try:
        data = read_examples(replace(source, splits=usable.splits), config)
    except DataError as error:
        refused = Finding("error", f"{error.where}: {error.what}", "training does not start", error.hint)
        return Checkup(worst_first([*usable.findings, refused]), None, {}, config=config, read_as=source.said)
    lengths, no_lengths = _measure(data, config)
    return Checkup(
        worst_first([*usable.findings, *examine(data, {} if config.long == "windows" else lengths)]),
        data,
        lengths,
        no_lengths,
        config,
        source.said,
    )


def _measure(data: TextData, config: RunConfig) -> tuple[dict[str, Lengths], ModelError | None]:
    try:
        asked = bool({"model", "tokenizer"} & config.model_fields_set)
        tokenizer, limit = load_plain_tokenizer(config.tokenizer or config.model, asked=asked)
    except ModelError as error:
        return {}, error
    return {
        name: measure(tokenizer, examples, config.max_length, limit, config.seed)
        for name, examples in data.splits.items()
    }, None


def refuse_findings(findings: Sequence[Finding], where: str, *, strict: bool) -> None:
    """Raise `DataError` if training would refuse the data, or there is a warning and `--strict` allows none."""
    errors = [finding for finding in findings if finding.severity == "error"]
    warnings = [finding for finding in findings if finding.severity == "warning"]
    if errors:
        raise DataError(f"{counted(len(errors), 'error')}: training would not start", where=where)
    if warnings and strict:
        what = f"{counted(len(warnings), 'warning')} where --strict allows none: {warnings[0].what}"
        raise DataError(what, where=where, hint=warnings[0].advice)
