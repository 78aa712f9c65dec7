"""How a plain script reads the rows of a run: in a few words, which are tried on all rows before they are believed."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from dongu.data.columns import parts_of
from dongu.data.examples import Examples, TextData
from dongu.errors import DataError
from dongu.results import plain

MANY_LABELS = 12  # above which a script takes their names from the rows

Row: TypeAlias = dict[str, Any]
TextRule: TypeAlias = Callable[[Row, Any], Any]
LabelRule: TypeAlias = Callable[[Row, str, Sequence[str]], Any]

# What a script says, and what that does, from the simplest on.
TEXT_RULES: dict[str, TextRule] = {
    "row[name]": lambda row, name: row[name],
    "str(row[name])": lambda row, name: str(row[name]),
    "joined(row, name)": plain.joined,
}
LABEL_RULES: dict[str, dict[str, LabelRule]] = {
    "single-label": {
        "LABELS.index(row[LABEL])": lambda row, label, names: names.index(row[label]),
        "row[LABEL]": lambda row, label, _: row[label] if type(row[label]) is int else None,
        "LABELS.index(str(row[LABEL]))": lambda row, label, names: names.index(str(row[label])),
        "LABELS.index(str(row[LABEL]).lower())": lambda row, label, names: names.index(str(row[label]).lower()),
    },
    "multi-label": {
        '[float(name in row[LABEL].split("|")) for name in LABELS]': lambda row, label, names: [
            float(name in row[label].split("|")) for name in names
        ],
        '[float(name in map(str.strip, row[LABEL].split("|"))) for name in LABELS]': lambda row, label, names: [
            float(name in map(str.strip, row[label].split("|"))) for name in names
        ],
        "[float(name in row[LABEL]) for name in LABELS]": lambda row, label, names: [
            float(name in row[label]) for name in names
        ],
        "[float(i in row[LABEL]) for i in range(len(LABELS))]": lambda row, label, names: [
            float(i in row[label]) for i in range(len(names))
        ],
        "[float(row[name]) for name in LABELS]": lambda row, _, names: [float(row[name]) for name in names],
        '[float(str(row[name]).lower() == "true") for name in LABELS]': lambda row, _, names: [
            float(str(row[name]).lower() == "true") for name in names
        ],
    },
    "regression": {"float(row[LABEL])": lambda row, label, _: float(row[label])},
}
NAME_RULES: dict[str, Callable[[Sequence[Row], str], list[str]]] = {
    'sorted({row[LABEL] for row in rows["train"]})': lambda rows, label: sorted({row[label] for row in rows}),
    'sorted({row[LABEL] for row in rows["train"]}, key=int)': (
        lambda rows, label: sorted({row[label] for row in rows}, key=int)
    ),
}
NOT_SO = (AttributeError, KeyError, TypeError, ValueError)  # a rule for data of another kind

READERS: dict[str, Callable[[str], Sequence[Row]]] = {
    ".csv": plain.read_csv,
    ".tsv": plain.read_tsv,
    ".jsonl": plain.read_jsonl,
    ".json": plain.read_json,
    ".parquet": plain.read_parquet,
}


@dataclass(frozen=True)
class Reading:
    """What a script says about its data."""

    hub: tuple[str, ...] | None  # what load_dataset is given, for data of the Hub
    paths: dict[str, str]  # split → file, or what the split is called on the Hub
    readers: dict[str, Callable[[str], Sequence[Row]]]  # split → what reads its file
    texts: list[str] | list[list[str]]  # the columns; of each text, where it joins some
    text_of: str
    label_of: str
    label_names: str | None  # how they follow from the rows, where there are too many to list


def find_reading(data: TextData) -> Reading:
    """The simplest words that give a script the rows of a run.

    Raises:
        DataError: none of them reads the data as the run did.
    """
    splits = {name: examples for name, examples in data.splits.items() if examples.targets is not None}
    own = [name for name in splits if not (data.held_out and name == "validation")]
    if data.hub_name is None:
        hub, paths = None, {name: str(Path(splits[name].origin).absolute()) for name in own}
        readers = {name: _reader(path) for name, path in paths.items()}
        rows = {name: _read(readers[name], path) for name, path in paths.items()}
    else:
        hub, readers = _hub_name(data.hub_name), {}
        paths = {name: splits[name].origin.removeprefix(f"{data.hub_name} ") for name in own}
        rows = _load(hub, paths)
    if sum(map(len, rows.values())) != sum(map(len, splits.values())):
        raise _unlike(data, "rows")
    used = {name: [rows[name if name in own else "train"][i] for i in splits[name].ids] for name in splits}

    names = [*data.columns.texts]
    parts = [[*(parts_of(name, [*rows["train"][0]]) or ())] for name in names]
    columns = {words: parts if text is plain.joined else names for words, text in TEXT_RULES.items()}
    text_of = next(
        (
            words
            for words, text in TEXT_RULES.items()
            if all(_same_texts(text, columns[words], used[name], splits[name]) for name in splits)
        ),
        None,
    )
    label_of = next(
        (
            words
            for words, answer in LABEL_RULES[data.task].items()
            if all(_same_targets(answer, data, used[name], splits[name]) for name in splits)
        ),
        None,
    )
    if text_of is None or label_of is None:
        raise _unlike(data, "texts" if text_of is None else "labels")
    return Reading(hub, paths, readers, columns[text_of], text_of, label_of, _label_names(data, rows["train"]))


def _same_texts(text: TextRule, columns: Sequence[Any], rows: Sequence[Row], examples: Examples) -> bool:
    try:
        return all(
            [text(row, column) for row in rows] == [*read] for column, read in zip(columns, examples.texts, strict=True)
        )
    except NOT_SO:
        return False


def _same_targets(answer: LabelRule, data: TextData, rows: Sequence[Row], examples: Examples) -> bool:
    targets = np.asarray(examples.targets)
    try:
        told = [answer(row, data.columns.label, data.label_names) for row in rows]
        return np.array_equal(np.array(told, targets.dtype), targets)
    except NOT_SO:
        return False


def _label_names(data: TextData, rows: Sequence[Row]) -> str | None:
    if len(data.label_names) > MANY_LABELS and data.task == "single-label":
        for words, rule in NAME_RULES.items():
            with contextlib.suppress(*NOT_SO):
                if rule(rows, data.columns.label) == [*data.label_names]:
                    return words
    return None


def _reader(path: str) -> Callable[[str], Sequence[Row]]:
    """By the ending, but for a .json of JSON Lines."""
    suffix = Path(path).suffix.lower()
    if suffix == ".json":
        with Path(path).open(encoding="utf-8-sig") as file:
            first = next((line.lstrip() for line in file if line.strip()), "")
        return plain.read_json if first.startswith("[") else plain.read_jsonl
    return READERS[suffix]


def _read(reader: Callable[[str], Sequence[Row]], path: str) -> Sequence[Row]:
    try:
        return reader(path)
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"a plain script cannot read it ({error})", where=path) from error


def _hub_name(name: str) -> tuple[str, ...]:
    """`glue:mrpc` as `load_dataset` wants it."""
    repository, _, config = name.partition(":")
    return ("nyu-mll/glue" if repository == "glue" else repository, *([config] if config else []))


def _load(hub: tuple[str, ...], splits: Mapping[str, str]) -> dict[str, Sequence[Row]]:
    from datasets import load_dataset

    loaded = load_dataset(*hub)
    return {name: loaded[key].to_list() for name, key in splits.items()}


def _unlike(data: TextData, what: str) -> DataError:
    return DataError(
        f"a plain script would read other {what} than the run did",
        where=data.place or data.name,
        hint="write the data as csv or jsonl, a text and a label a row, and train on that",
    )
