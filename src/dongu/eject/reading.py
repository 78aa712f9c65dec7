"""How a plain script reads the rows of a run: in a few words, which are tried on all rows before they are believed."""

from __future__ import annotations

import contextlib
import csv
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from dongu.data.columns import parts_of
from dongu.data.examples import Examples, TextData
from dongu.data.labels import SEPARATOR
from dongu.errors import DataError
from dongu.hub import split_commit

Rows: TypeAlias = Mapping[str, Sequence[Any]]  # a column each
TextRule: TypeAlias = Callable[[Rows, Any], list[Any]]
LabelRule: TypeAlias = Callable[[Rows, str, Sequence[str]], list[Any]]


# What a script says, and what that does, from the simplest on.
TEXT_RULES: dict[str, TextRule] = {
    "rows[name]": lambda rows, name: [*rows[name]],
    "[str(text) for text in rows[name]]": lambda rows, name: [str(text) for text in rows[name]],
    '["\\n".join(filter(str.strip, parts)) for parts in zip(*(rows[part] for part in name), strict=True)]': (
        lambda rows, name: [
            "\n".join(filter(str.strip, parts)) for parts in zip(*(rows[part] for part in name), strict=True)
        ]
    ),
    '["\\n".join(filter(None, parts)) for parts in zip(*(rows[part] for part in name), strict=True)]': (
        lambda rows, name: [
            "\n".join(filter(None, parts)) for parts in zip(*(rows[part] for part in name), strict=True)
        ]
    ),
}
LABEL_RULES: dict[str, dict[str, LabelRule]] = {
    "single-label": {
        "[LABELS.index(label) for label in rows[LABEL]]": lambda rows, label, names: [*map(names.index, rows[label])],
        "rows[LABEL]": lambda rows, label, _: [cell if type(cell) is int else None for cell in rows[label]],
        "[LABELS.index(str(label)) for label in rows[LABEL]]": lambda rows, label, names: [
            names.index(str(cell)) for cell in rows[label]
        ],
        "[LABELS.index(str(label).lower()) for label in rows[LABEL]]": lambda rows, label, names: [
            names.index(str(cell).lower()) for cell in rows[label]
        ],
    },
    "multi-label": {
        "[[float(name in label) for name in LABELS] for label in rows[LABEL]]": lambda rows, label, names: [
            [float(name in [*cell]) for name in names]  # not within a text, which happens to hold some names
            for cell in rows[label]
        ],
        "[[float(i in label) for i in range(len(LABELS))] for label in rows[LABEL]]": lambda rows, label, names: [
            [float(i in cell) for i in range(len(names))] for cell in rows[label]
        ],
        "[[*map(float, label)] for label in rows[LABEL]]": lambda rows, label, _: [
            [*map(float, cell)] for cell in rows[label]
        ],
        "[[*map(float, flags)] for flags in zip(*(rows[name] for name in LABELS), strict=True)]": (
            lambda rows, _, names: [[*map(float, flags)] for flags in zip(*(rows[name] for name in names), strict=True)]
        ),
        '[[float(flag.lower() == "true") for flag in flags] for flags in zip(*map(rows.get, LABELS), strict=True)]': (
            lambda rows, _, names: [
                [float(flag.lower() == "true") for flag in flags] for flags in zip(*map(rows.get, names), strict=True)
            ]
        ),
    },
    "regression": {"[*map(float, rows[LABEL])]": lambda rows, label, _: [*map(float, rows[label])]},
}
NAME_RULES: dict[str, Callable[[Any, str], Sequence[str]]] = {
    'source["train"].features[LABEL].names': lambda part, label: part.features[label].names,
    'sorted(source["train"].unique(LABEL))': lambda part, label: sorted(part.unique(label)),
    'sorted(source["train"].unique(LABEL), key=int)': lambda part, label: sorted(part.unique(label), key=int),
    '[*map(str, sorted(source["train"].unique(LABEL)))]': lambda part, label: [*map(str, sorted(part.unique(label)))],
    'sorted({name for label in source["train"].unique(LABEL) for name in label.split("|") if name})': (
        lambda part, label: sorted({name for cell in part.unique(label) for name in cell.split("|") if name})
    ),
    'sorted({name for label in source["train"][LABEL] for name in label})': (
        lambda part, label: sorted({name for cell in part[label] for name in cell})
    ),
}
ROOM = 97  # characters that a line of a script has between `source = load_dataset(` and `)`
NOT_SO = (AttributeError, KeyError, NotImplementedError, TypeError, ValueError)  # a rule for data of another kind

EVERY_CELL_A_TEXT = "usecols=[*COLUMNS], converters=COLUMNS, na_filter=False"
FORMATS = {  # what load_dataset is told of a file, by the file's ending
    ".csv": ("csv", EVERY_CELL_A_TEXT),
    ".tsv": ("csv", f'{EVERY_CELL_A_TEXT}, sep="\\t", quoting=3'),
    ".jsonl": ("json", ""),
    ".json": ("json", ""),
    ".parquet": ("parquet", ""),
}


@dataclass(frozen=True)
class Reading:
    """What a script says about its data."""

    hub: tuple[str, ...] | None  # what load_dataset is given, for data of the Hub
    commit: str | None  # of these
    paths: dict[str, str]  # split → file, or what the split is called on the Hub
    texts: list[str] | list[list[str]]  # the columns; of each text, where it joins some
    text_of: str
    label_of: str
    label_names: str | None  # how they follow from the rows, if they do
    numeric: tuple[str, ...] = ()  # columns beside the text

    @property
    def label_columns(self) -> bool:
        """Whether each label is a column of its own."""
        return "rows[LABEL]" not in self.label_of

    @property
    def columns(self) -> str | None:
        """The columns of a file whose cells have no type of their own; None where none is such a file."""
        if self.hub is not None or not any("converters" in _format(path)[1] for path in self.paths.values()):
            return None
        texts = "*(column for text in TEXTS for column in text)" if "join(" in self.text_of else "*TEXTS"
        labels = "*LABELS" if self.label_columns else "LABEL"
        return f"dict.fromkeys([{', '.join([texts, labels, *map(json.dumps, self.numeric)])}], str)"

    @property
    def load(self) -> str:
        """The words that read all rows."""
        if self.hub is not None:
            return f"load_dataset(*HUB{', revision=DATA_COMMIT' if self.commit else ''})"
        kinds = {name: _format(path) for name, path in self.paths.items()}
        if len({*kinds.values()}) == 1:
            kind, options = kinds["train"]
            call = f'"{kind}", data_files=DATA{options and f", {options}"}'
            return f"load_dataset(\n    {call}\n)" if len(call) > ROOM else f"load_dataset({call})"
        parts = []
        for name, (kind, options) in kinds.items():
            arguments = [
                f'"{kind}"',
                f'data_files=DATA["{name}"]',
                'split="train"',
                *(options.split(", ") if options else ()),
            ]
            parts += [f'    "{name}": load_dataset(', *(f"        {argument}," for argument in arguments), "    ),"]
        return "\n".join(["{", *parts, "}"])


def _format(path: str) -> tuple[str, str]:
    if (suffix := Path(path).suffix.lower()) not in FORMATS:
        raise DataError("a plain script cannot read it", where=path, hint=AS_ROWS)
    return FORMATS[suffix]


def find_reading(data: TextData) -> Reading:
    """The simplest words that give a script the rows of a run.

    Raises:
        DataError: none of them reads the data as the run did.
    """
    splits = {name: examples for name, examples in data.splits.items() if examples.targets is not None}
    own = [name for name in splits if name not in data.held_out]
    if data.hub_name is None:
        hub, paths = None, {name: str(Path(splits[name].origin).absolute()) for name in own}
    else:
        hub = _hub_name(data.hub_name)
        paths = {name: splits[name].origin.removeprefix(f"{data.hub_name} ") for name in own}
    commit = split_commit(data.place or "")[1]
    with _loaded(data, hub, commit, paths) as parts:
        if sum(map(len, parts.values())) != sum(map(len, splits.values())):
            raise _unlike(data, "rows")
        whole = {name: part[:] for name, part in parts.items()}
        label_names = _label_names(data, parts["train"])
    used = {name: _take(whole[name if name in own else "train"], splits[name]) for name in splits}
    text_of, texts = _text_rule(data, used, splits)
    label_of = next(
        (
            words
            for words, answer in _label_rules(data).items()
            if all(_same_targets(answer, data, used[name], splits[name]) for name in splits)
        ),
        None,
    )
    if label_of is None:
        raise _unlike(data, "labels")
    numbers = splits["train"].columns
    for name, read in numbers.items():
        try:
            same = np.array_equal(np.array([*map(float, used["train"][name])], np.float32), read)
        except NOT_SO:
            same = False
        if not same:
            raise _unlike(data, f"numbers (`{name}`)")
    return Reading(hub, commit, paths, texts, text_of, label_of, label_names, (*numbers,))


def _take(rows: Rows, examples: Examples) -> Rows:
    return {name: [column[i] for i in examples.ids] for name, column in rows.items()}


def _text_rule(data: TextData, used: Mapping[str, Rows], splits: Mapping[str, Examples]) -> tuple[str, list[Any]]:
    names = [*data.columns.texts]
    parts = [[*(parts_of(name, [*used["train"]]) or ())] for name in names]
    for words, text in TEXT_RULES.items():
        columns = parts if "join(" in words else names
        if all(_same_texts(text, columns, used[name], splits[name]) for name in splits):
            return words, columns
    raise _unlike(data, "texts")


def _same_texts(text: TextRule, columns: Sequence[Any], rows: Rows, examples: Examples) -> bool:
    try:
        return all(text(rows, column) == [*read] for column, read in zip(columns, examples.texts, strict=True))
    except NOT_SO:
        return False


def _same_targets(answer: LabelRule, data: TextData, rows: Rows, examples: Examples) -> bool:
    targets = np.asarray(examples.targets)
    try:
        return np.array_equal(np.array(answer(rows, data.columns.label, data.label_names), targets.dtype), targets)
    except NOT_SO:
        return False


def _label_names(data: TextData, part: Any) -> str | None:
    for words, rule in NAME_RULES.items():
        with contextlib.suppress(*NOT_SO):
            if [*rule(part, data.columns.label)] == [*data.label_names]:
                return words
    return None


def _hub_name(name: str) -> tuple[str, ...]:
    """`glue:mrpc` as `load_dataset` wants it."""
    repository, _, config = name.partition(":")
    return ("nyu-mll/glue" if repository == "glue" else repository, *([config] if config else []))


@contextlib.contextmanager
def _loaded(
    data: TextData, hub: tuple[str, ...] | None, commit: str | None, paths: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """The parts as a script would load them, without leaving a copy of a user's files in the cache of `datasets`."""
    import datasets

    if hub is not None:
        loaded = datasets.load_dataset(*hub, **({"revision": commit} if commit else {}))
        yield {name: loaded[key] for name, key in paths.items()}
        return
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory() as cache:
            yield {name: _load(path, data, cache) for name, path in paths.items()}
    finally:
        if shown:
            datasets.enable_progress_bars()


def _load(path: str, data: TextData, cache: str) -> Any:
    from datasets import load_dataset

    kind, words = _format(path)
    options: dict[str, Any] = {"sep": "\t", "quoting": csv.QUOTE_NONE} if "sep=" in words else {}
    try:
        if "converters" in words:
            with Path(path).open(encoding="utf-8-sig", newline="") as file:
                head = next(csv.reader(file, "excel-tab" if options else "excel"))
            names = (*data.columns.texts, data.columns.label, *data.splits["train"].columns)
            columns = [part for name in names for part in parts_of(name, head) or ()]
            options |= {"usecols": columns, "converters": dict.fromkeys(columns, str), "na_filter": False}
        return load_dataset(kind, data_files=path, split="train", cache_dir=cache, **options)
    except Exception as error:  # of any of the readers behind it
        reason = " ".join(str(error.__cause__ or error).split())
        raise DataError(f"a plain script cannot read it ({reason})", where=path, hint=AS_ROWS) from error


AS_ROWS = "write the data as csv or jsonl, a text and a label a row, and train on that"


def _label_rules(data: TextData) -> dict[str, LabelRule]:
    """Those of the task; of texts with a mark between their labels first."""
    if data.task != "multi-label":
        return LABEL_RULES[data.task]
    mark = data.form.separator or SEPARATOR
    shown = json.dumps(mark, ensure_ascii=False) if mark.isprintable() else ascii(mark)
    return {
        f"[[float(name in label.split({shown})) for name in LABELS] for label in rows[LABEL]]": (
            lambda rows, label, names: [[float(name in cell.split(mark)) for name in names] for cell in rows[label]]
        ),
        f"[[float(name in map(str.strip, label.split({shown}))) for name in LABELS] for label in rows[LABEL]]": (
            lambda rows, label, names: [
                [float(name in map(str.strip, cell.split(mark))) for name in names] for cell in rows[label]
            ]
        ),
        **LABEL_RULES[data.task],
    }


def _unlike(data: TextData, what: str) -> DataError:
    what = f"a plain script would read other {what} than the run did"
    return DataError(what, where=data.place or data.name, hint=AS_ROWS)
