"""How a plain script reads the rows of a run: in a few words, which are tried on all rows before they are believed."""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import json
import lzma
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from dongu.config import NUMBERS, RunConfig
from dongu.data.columns import named_parts
from dongu.data.delimited import DELIMITERS
from dongu.data.examples import Examples, TextData
from dongu.data.forms import Form
from dongu.data.labels import SEPARATOR
from dongu.data.readers import AS_FOUND
from dongu.errors import DataError
from dongu.files import write_lines
from dongu.hub import split_commit

RowsRead: TypeAlias = Mapping[str, Sequence[Any]]  # a column each
TextRule: TypeAlias = Callable[[RowsRead, Any], list[Any]]
LabelRule: TypeAlias = Callable[[RowsRead, str, Sequence[str]], list[Any]]


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
LOADERS = {  # what load_dataset calls a file, by the file's ending
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".json", ".jsonl"), "json"),
    **dict.fromkeys((".arrow", ".feather"), "arrow"),
    ".parquet": "parquet",
}
OPENED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}  # as `datasets` does


@dataclass(frozen=True)
class Format:
    """What load_dataset is told of a file."""

    kind: str
    columns: Sequence[str] = ()  # those whose cells are texts, whatever they look like
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The same, as it stands in a call."""
        words = [EVERY_CELL_A_TEXT] if self.columns else []
        return ", ".join([*words, *(f"{name}={json.dumps(value)}" for name, value in self.options.items())])


@dataclass(frozen=True)
class Reading:
    """What a script says about its data."""

    hub: tuple[str, ...] | None  # what load_dataset is given, for data of the Hub
    commit: str | None  # of these
    paths: dict[str, str]  # split → file, or what the split is called on the Hub
    formats: dict[str, Format]  # of these files
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
        if not any(form.columns for form in self.formats.values()):
            return None
        texts = "*(column for text in TEXTS for column in text)" if "join(" in self.text_of else "*TEXTS"
        labels = "*LABELS" if self.label_columns else "LABEL"
        return f"dict.fromkeys([{', '.join([texts, labels, *map(json.dumps, self.numeric)])}], str)"

    @property
    def load(self) -> str:
        """The words that read all rows."""
        if self.hub is not None:
            return f"load_dataset(*HUB{', revision=DATA_COMMIT' if self.commit else ''})"
        kinds = {name: (form.kind, form.words) for name, form in self.formats.items()}
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


def _format(path: str, data: TextData, config: RunConfig) -> Format:
    """
    Raises:
        DataError: `datasets` does not read such a file.
    """
    file = Path(path)
    opened: Callable[..., Any] = Path.open
    if file.suffix.lower() in OPENED:
        opened = OPENED[file.suffix.lower()]
        file = Path(file.stem)
    suffix = file.suffix.lower()
    if suffix not in LOADERS:
        raise DataError("a plain script cannot read it", where=path, hint=AS_ROWS)
    if LOADERS[suffix] != "csv":
        return Format(LOADERS[suffix])
    with contextlib.suppress(UnicodeError, csv.Error, StopIteration), opened(Path(path), "rb") as content:
        first = content.readline(1 << 20).decode(config.encoding or "utf-8-sig")
        usual = "," if suffix == ".csv" else "\t"
        for mark in [config.delimiter] if config.delimiter else dict.fromkeys([usual, *DELIMITERS]):
            plain = config.quoting == "none" or (config.quoting is None and usual == mark == "\t")
            options: dict[str, Any] = {} if mark == "," else {"sep": mark}
            options |= {"quoting": int(csv.QUOTE_NONE)} if plain else {}
            options |= {"encoding": config.encoding} if config.encoding else {}
            head = next(csv.reader([first], delimiter=mark, quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL))
            names = (*data.columns.texts, data.columns.label, *data.splits["train"].columns)
            if all(found := [named_parts(name, head) for name in names]):
                return Format("csv", [part for parts in found for part in parts or ()], options)
    raise DataError("a plain script cannot read its first line", where=path, hint=AS_ROWS)


def find_reading(data: TextData, config: RunConfig = AS_FOUND) -> Reading:
    """The simplest words that give a script the rows of a run.

    Args:
        config: how the run read its files.

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
    formats = {} if hub else {name: _format(path, data, config) for name, path in paths.items()}
    with _loaded(hub, commit, paths, formats) as parts:
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
    return Reading(hub, commit, paths, formats, texts, text_of, label_of, label_names, (*numbers,))


def _take(rows: RowsRead, examples: Examples) -> RowsRead:
    return {name: [column[i] for i in examples.ids] for name, column in rows.items()}


def _text_rule(data: TextData, used: Mapping[str, RowsRead], splits: Mapping[str, Examples]) -> tuple[str, list[Any]]:
    names = [*data.columns.texts]
    parts = [[*(named_parts(name, [*used["train"]]) or ())] for name in names]
    for words, text in TEXT_RULES.items():
        columns = parts if "join(" in words else names
        if all(_same_texts(text, columns, used[name], splits[name]) for name in splits):
            return words, columns
    raise _unlike(data, "texts")


def _same_texts(text: TextRule, columns: Sequence[Any], rows: RowsRead, examples: Examples) -> bool:
    try:
        return all(text(rows, column) == [*read] for column, read in zip(columns, examples.texts, strict=True))
    except NOT_SO:
        return False


def _same_targets(answer: LabelRule, data: TextData, rows: RowsRead, examples: Examples) -> bool:
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
    hub: tuple[str, ...] | None, commit: str | None, paths: Mapping[str, str], formats: Mapping[str, Format]
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
            yield {name: _load(path, formats[name], cache) for name, path in paths.items()}
    finally:
        if shown:
            datasets.enable_progress_bars()


def _load(path: str, form: Format, cache: str) -> Any:
    from datasets import load_dataset

    options: dict[str, Any] = dict(form.options)
    if form.columns:
        options |= {"usecols": form.columns, "converters": dict.fromkeys(form.columns, str), "na_filter": False}
    try:
        return load_dataset(form.kind, data_files=path, split="train", cache_dir=cache, **options)
    except Exception as error:  # of any of the readers behind it
        reason = " ".join(str(error.__cause__ or error).split())
        raise DataError(f"a plain script cannot read it ({reason})", where=path, hint=AS_ROWS) from error


AS_ROWS = "--rows FOLDER writes the rows that the run read as jsonl, and the script reads these"


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


# --- rows in files of their own


def write_rows(data: TextData, folder: Path) -> TextData:
    """Write the labelled rows of each split as jsonl, those that are held out among them, and give the data of these.

    A row has its texts, its label (a name, a list of names, or a number) and its numeric columns, by their names.

    Raises:
        StorageError: a file cannot be written.
    """
    splits = {}
    for name, examples in data.splits.items():
        if examples.targets is not None:
            path = folder / f"{name.replace(':', '-')}.jsonl"
            write_lines(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in _rows_of(data, examples)))
            splits[name] = replace(examples, ids=np.arange(len(examples)), lines=None, origin=str(path))
    return replace(data, splits=splits, held_out=(), hub_name=None, place=str(folder), form=Form(data.task))


def _rows_of(data: TextData, examples: Examples) -> Iterator[dict[str, Any]]:
    several, numbers = data.task == "multi-label", data.task in NUMBERS
    for row, target in enumerate(np.asarray(examples.targets)):
        label = float(target) if numbers else [data.label_names[i] for i in np.flatnonzero(target)] if several else None
        yield {
            **{name: column[row] for name, column in zip(data.columns.texts, examples.texts, strict=True)},
            data.columns.label: data.label_names[target] if label is None else label,
            **{name: float(column[row]) for name, column in examples.columns.items()},
        }
