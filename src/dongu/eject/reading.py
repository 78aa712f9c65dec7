"""How a plain script reads the rows of a run: in a few words, which are tried on all rows before they are believed."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import csv
import gzip
import json
import lzma
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import TextIOWrapper
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dongu.config import NUMBERS, RunConfig
from dongu.data.archives import unpacked
from dongu.data.columns import named_parts
from dongu.data.delimited import DECLARED, DELIMITERS
from dongu.data.encoding import mark_of
from dongu.data.examples import Examples, TextData
from dongu.data.forms import Form
from dongu.data.readers import AS_FOUND
from dongu.data.sources import hub_parts
from dongu.data.table import Places
from dongu.eject.rules import NAME_RULES, NOT_SO, TEXT_RULES, RowsRead, label_rules, said_by
from dongu.errors import DataError, StorageError
from dongu.files import NO_ROOM, write_lines
from dongu.hub import split_commit
from dongu.plain_parts import why_rows

ROOM = 97  # characters that a line of a script has between `source = load_dataset(` and `)`
EVERY_CELL_A_TEXT = ("usecols=[*COLUMNS]", "converters=COLUMNS", "na_filter=False")
LOADERS = {  # what load_dataset calls a file, by the file's ending
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "json"),
    **dict.fromkeys((".arrow", ".feather"), "arrow"),
    ".parquet": "parquet",
    ".txt": "text",
}
OPENED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}  # as `datasets` does


@dataclass(frozen=True)
class Format:
    """What load_dataset is told of a file."""

    kind: str
    columns: Sequence[str] = ()  # those whose cells are texts, whatever they look like
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> tuple[str, ...]:
        """The same, as it stands in a call."""
        words = EVERY_CELL_A_TEXT if self.columns else ()
        return (*words, *(f"{name}={json.dumps(value)}" for name, value in self.options.items()))


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
            call = ", ".join([f'"{kind}"', "data_files=DATA", *options])
            return f"load_dataset(\n    {call}\n)" if len(call) > ROOM else f"load_dataset({call})"
        parts = []
        for name, (kind, options) in kinds.items():
            arguments = [f'"{kind}"', f'data_files=DATA["{name}"]', 'split="train"', *options]
            parts += [f'    "{name}": load_dataset(', *(f"        {argument}," for argument in arguments), "    ),"]
        return "\n".join(["{", *parts, "}"])


def _path(origin: str) -> str:
    """The file of a split, or a pattern that stands for its files and for no others.

    Raises:
        DataError: there is none.
    """
    if not isinstance(origin, Places):
        return str(Path(origin).absolute())
    files = [Path(name).absolute() for name in origin.names]
    alike = takewhile(lambda letters: len({*letters}) == 1, zip(*(file.name for file in files), strict=False))
    start = "".join(letter for letter, *_ in alike).rstrip("0123456789")
    pattern = files[0].parent / f"{start}*{''.join(files[0].suffixes)}"
    if sorted(pattern.parent.glob(pattern.name)) != files:
        raise DataError("a plain script cannot read so many files", where=origin, hint=AS_ROWS)
    return str(pattern)


def _format(path: str, data: TextData, config: RunConfig) -> Format:
    if not Path(path).is_file():
        raise DataError("a plain script reads files", where=path, hint=AS_ROWS)
    with Path(path).open("rb") as packed:
        content, file = packed, Path(path)
        if file.suffix.lower() == ".zip":
            content, name, _ = unpacked(packed, file.name, path, config.max_expansion)
            file = Path(name)
        elif file.suffix.lower() in OPENED:
            content, file = OPENED[file.suffix.lower()](packed), Path(file.stem)
        suffix = file.suffix.lower()
        if suffix not in LOADERS:
            raise DataError("a plain script cannot read it", where=path, hint=AS_ROWS)
        if LOADERS[suffix] != "csv":
            field = config.field or _field(content) if suffix == ".json" else None
            return Format(LOADERS[suffix], options={"field": field} if field else {})
        marked = mark_of(content.read(4))
        content.seek(0)
        encoding = config.encoding if marked in ("", "utf-8") else marked
        with (
            contextlib.suppress(UnicodeError, csv.Error, StopIteration),
            TextIOWrapper(content, encoding or "utf-8-sig", newline="") as lines,
        ):
            if found := _delimited(lines, suffix, data, config):
                return replace(found, options=found.options | ({"encoding": encoding} if encoding else {}))
    raise DataError("a plain script cannot read its first line", where=path, hint=AS_ROWS)


def _field(content: Any) -> str | None:
    """The only list of rows in an object; None in other files."""
    begins = content.readline(1 << 10).strip().removeprefix(codecs.BOM_UTF8).startswith(b"{")
    content.seek(0)
    with contextlib.suppress(ValueError, RecursionError):
        whole = json.load(content) if begins else {}
        fields = [name for name, value in whole.items() if isinstance(value, list) and isinstance([*value, 0][0], dict)]
        return fields[0] if len(fields) == 1 else None
    return None


def _delimited(lines: TextIOWrapper, suffix: str, data: TextData, config: RunConfig) -> Format | None:
    """How the header becomes the columns of the run; None where it does not.

    Raises:
        UnicodeError, csv.Error, StopIteration: there is no header.
    """
    usual, first = "," if suffix == ".csv" else "\t", lines.readline(1 << 20)
    declared = DECLARED.fullmatch(first)
    first = lines.readline(1 << 20) if declared else first
    given = config.delimiter or (declared and declared[1])
    for mark in [given] if given else dict.fromkeys([usual, *DELIMITERS]):
        plain = config.quoting == "none" or (config.quoting is None and usual == mark == "\t")
        quoting: Literal[0, 3] = csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL
        head = config.header or next(csv.reader([first], delimiter=mark, quoting=quoting, escapechar=config.escape))
        names = (*data.columns.texts, data.columns.label, *data.splits["train"].columns)
        if all(found := [named_parts(name, head) for name in names]):
            told = {
                "sep": None if mark == "," else mark,
                "quoting": int(quoting) or None,
                "skiprows": 1 if declared else None,
                "escapechar": config.escape,
                "column_names": config.header,
            }
            options = {name: value for name, value in told.items() if value is not None}
            return Format("csv", [part for parts in found for part in parts or ()], options)
    return None


def find_reading(data: TextData, config: RunConfig = AS_FOUND) -> Reading:
    """The simplest words that give a script the rows of a run.

    Raises:
        DataError: none of them reads the data as the run did.
    """
    if why := why_rows(data, config):
        raise DataError(f"cannot be one plain script: {why}", where=data.place or data.name, hint=AS_ROWS)
    splits = {name: examples for name, examples in data.splits.items() if examples.targets is not None}
    own = [name for name in splits if name not in data.held_out]
    if data.hub_name is None:
        hub, paths = None, {name: _path(splits[name].origin) for name in own}
    else:
        hub = tuple(filter(None, hub_parts(data.hub_name)))
        paths = {name: splits[name].origin.removeprefix(f"{data.hub_name} ") for name in own}
    commit = split_commit(data.place or "")[1]
    files = {name: (*getattr(splits[name].origin, "names", ()), path)[0] for name, path in paths.items()}
    formats = {} if hub else {name: _format(file, data, config) for name, file in files.items()}
    with _loaded(hub, commit, paths, formats) as parts:
        if sum(map(len, parts.values())) != sum(map(len, splits.values())):
            raise _unlike(data, "rows")
        whole = {name: part[:] for name, part in parts.items()}
        label_names = _label_names(data, parts["train"])
    used = {name: _take(whole[name if name in own else "train"], splits[name]) for name in splits}
    text_of, texts = _text_rule(data, used, splits)
    label_of = _label_rule(data, used, splits)
    numbers = splits["train"].columns
    for name, read in numbers.items():
        with contextlib.suppress(*NOT_SO):
            if np.array_equal(np.array([*map(float, used["train"][name])], np.float32), read):
                continue
        raise _unlike(data, f"numbers (`{name}`)")
    return Reading(hub, commit, paths, formats, texts, text_of, label_of, label_names, (*numbers,))


def _take(rows: RowsRead, examples: Examples) -> RowsRead:
    return {name: [column[i] for i in examples.ids] for name, column in rows.items()}


def _text_rule(data: TextData, used: Mapping[str, RowsRead], splits: Mapping[str, Examples]) -> tuple[str, list[Any]]:
    names = [*data.columns.texts]
    parts = [[*(named_parts(name, [*used["train"]]) or ())] for name in names]
    for rule in TEXT_RULES:
        words = said_by(rule)
        columns = parts if "join(" in words else names
        with contextlib.suppress(*NOT_SO):
            if all(
                [*rule(used[name], column)] == [*read]
                for name, examples in splits.items()
                for column, read in zip(columns, examples.texts, strict=True)
            ):
                return words, columns
    raise _unlike(data, "texts")


def _label_rule(data: TextData, used: Mapping[str, RowsRead], splits: Mapping[str, Examples]) -> str:
    label = data.columns.label
    in_texts = any(isinstance(cell, str) for rows in used.values() for cell in rows.get(label, ()))
    for words, rule in label_rules(data.task, data.form.separator, in_texts=in_texts):
        with contextlib.suppress(*NOT_SO):
            found = {name: rule(rows, label, data.label_names) for name, rows in used.items()}
            ids = data.task != "single-label" or all(type(cell) is int for cells in found.values() for cell in cells)
            targets = {name: np.asarray(examples.targets) for name, examples in splits.items()}
            if ids and all(np.array_equal(np.array(found[name], of.dtype), of) for name, of in targets.items()):
                return words
    raise _unlike(data, "labels")


def _label_names(data: TextData, train: Any) -> str | None:
    for rule in NAME_RULES:
        with contextlib.suppress(*NOT_SO):
            if [*rule({"train": train}, data.columns.label)] == [*data.label_names]:
                return said_by(rule)
    return None


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
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.errno in NO_ROOM:
            hint = "free some space, or name a folder on another disk by TMPDIR"
            raise StorageError(f"cannot write ({cause.strerror})", where=cache, hint=hint) from error
        reason = " ".join(str(cause).split())
        raise DataError(f"a plain script cannot read it ({reason})", where=path, hint=AS_ROWS) from error


AS_ROWS = "--rows FOLDER writes the rows that the run read as jsonl, and the script reads these"


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
    all_of_them = replace(data, splits=splits, held_out=(), left_out=0, without_text=0, dropped=())
    return replace(all_of_them, hub_name=None, place=str(folder), form=Form(data.task))


def _rows_of(data: TextData, examples: Examples) -> Iterator[dict[str, Any]]:
    several, numbers = data.task == "multi-label", data.task in NUMBERS
    for row, target in enumerate(np.asarray(examples.targets)):
        label = float(target) if numbers else [data.label_names[i] for i in np.flatnonzero(target)] if several else None
        yield {
            **{name: column[row] for name, column in zip(data.columns.texts, examples.texts, strict=True)},
            data.columns.label: data.label_names[target] if label is None else label,
            **{name: float(column[row]) for name, column in examples.columns.items()},
        }
