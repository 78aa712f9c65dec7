"""A data set ready to be tokenized: its task, its label names, and the rows of each split."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any, ClassVar

import numpy as np

from dongu.config import NUMBERS, RunConfig, Task, option_flag, task_problems
from dongu.data.cells import column_of, json_of, take_rows, uncollected
from dongu.data.columns import (
    Columns,
    choose_columns,
    length_of_texts,
    named_parts,
    read_texts,
    text_faults,
    with_texts,
)
from dongu.data.flags import flag_faults, join_flags
from dongu.data.forms import Form, as_read, form_of, malformed
from dongu.data.glue import glue_task
from dongu.data.labels import class_names, hides_labels, name_labels, read_column, read_targets, with_names, with_other
from dongu.data.shares import SAID, share_columns, soft_splits, with_shares
from dongu.data.sources import Source
from dongu.data.splits import CUT_SPLITS, cut, groups_of, shares_of
from dongu.data.table import BadRow, Cell, Table, place_of
from dongu.data.tokenized import Split, tokenized
from dongu.data.tokens import check_known
from dongu.errors import DataError, UsageError
from dongu.text import counted, listed
from dongu.waiting import Waiting


@dataclass(frozen=True)
class Examples:
    """The rows of one split.

    `ids` are row numbers in the source, from 0; `texts` holds one column a text; `targets` are class ids (int64) or
    numbers (float32), (rows,), or 1 for each label of a row (float32), (rows, labels); None where the source hides
    them; `lines` says where in the file each row begins, (rows,), and is None where there are no lines; `columns` are
    the numeric ones beside the text, (rows,) float32 each; `groups` has a number for each value of a column of users or
    the like, the same in all splits, -1 where a row has none, (rows,) int64 each.
    """

    ids: np.ndarray
    texts: tuple[Sequence[str], ...]
    targets: np.ndarray | None
    origin: str
    lines: np.ndarray | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)
    digest: str | None = None  # of rows that are prepared, and not read through
    told: str = ""  # and what `told_by` gave of them while they had texts

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, row: int) -> str:
        """The place of a row in the source, as `Table.where` has it."""
        return place_of(self.origin, int(self.ids[row]), 0 if self.lines is None else int(self.lines[row]))

    def texts_of(self, row: int) -> list[str]:
        """One, or the two of a pair."""
        return [column[row] for column in self.texts]

    def take(self, mask: np.ndarray) -> Examples:
        """The rows where the mask, (rows,), is true."""
        return replace(
            self,
            ids=self.ids[mask],
            texts=tuple(column_of(compress(column, mask.tolist())) for column in self.texts),
            targets=None if self.targets is None else self.targets[mask],
            lines=None if self.lines is None else self.lines[mask],
            columns={name: numbers[mask] for name, numbers in self.columns.items()},
            groups={name: codes[mask] for name, codes in self.groups.items()},
        )


@dataclass(frozen=True)
class TextData:
    """A data set ready to be tokenized: its columns, its task, its label names and its splits."""

    name: str
    place: str | None  # DATA as given; None for rows in memory
    hub_name: str | None  # the same, for data from the Hub
    columns: Columns
    task: Task
    label_names: tuple[str, ...]  # class id → name; for regression the label column alone, for ordinal the scale
    splits: dict[str, Examples]
    unused_columns: tuple[str, ...]  # that train has and the run does not read
    held_out: tuple[str, ...]  # the splits that were cut from train
    form: Form  # how the label column is written
    left_out: int  # rows without a gold label, of all splits
    unused_texts: dict[str, float]  # characters a train row, of columns of text that nobody chose to leave out
    not_read: tuple[str, ...] = ()  # files of a folder and splits of a Hub data set
    said: tuple[str, ...] = ()  # how the files were read, a sentence each
    without_text: int = 0  # rows that were left out for that, of all splits
    joined: tuple[str, ...] = ()  # rare classes that are `other`
    dropped: tuple[BadRow, ...] = ()
    has_texts: ClassVar[bool] = True  # rows that are tokenized already have none

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what a model answers: the labels, or the label column where that is a number."""
        return (self.columns.label,) if self.task in NUMBERS else self.label_names

    def with_options(self, config: RunConfig) -> RunConfig:
        """The options of a run, with those that the rows have decided."""
        return config

    def check_model(self, model: Any, tokenizer: Any, name: str) -> None:
        """Have rows that are tokenized already held against what the model of this name can read."""

    def split(self, name: str, tokenizer: Any, config: RunConfig) -> Split:
        """A split as a model reads it, with the tokens that the cache has.

        Raises:
            UsageError: pairs have no windows, and are cut at one end.
            DataError: the tokenizer knows no token of most rows.
        """
        rows = self.splits[name]
        split = tokenized(tokenizer, rows.texts, config, name, rows.ids, rows.targets, rows.columns)
        if name == "train":
            check_known(split.tokens, tokenizer, rows.origin)
        return split

    def look_through(self) -> str:
        """Read what a run reads only when it comes to it, and say how much there is."""
        return ""

    def in_order_of(self, names: Sequence[str]) -> TextData:
        """The same rows with class ids in the order of these names, where they are the data's own; else as they are."""
        own = self.label_names
        if own == tuple(names) or sorted(own) != sorted(names):
            return self
        old_ids = np.array([own.index(name) for name in names])  # new id → old id
        new_ids = np.argsort(old_ids)

        def moved(targets: np.ndarray) -> np.ndarray:
            return targets[:, old_ids] if targets.ndim == 2 else new_ids[targets]

        splits = {
            name: examples if examples.targets is None else replace(examples, targets=moved(examples.targets))
            for name, examples in self.splits.items()
        }
        return replace(self, label_names=tuple(names), splits=splits)


def columns_of(source: Source, config: RunConfig) -> Columns:
    """The columns of the texts and the label: as asked for, as GLUE has them, or by the names they usually have.

    Raises:
        DataError: one is missing, or cannot be told.
    """
    glue = glue_task(source.hub_name)
    texts = config.text_columns or (glue.texts if glue else None)
    return choose_columns(source.splits["train"], texts, config.label_column)


@uncollected()
@Waiting("telling columns and labels")
def read_examples(source: Source, config: RunConfig) -> TextData:
    """Choose the columns and the task, check every row that will be used, hold rows out if there is no validation.

    Raises:
        UsageError: an option does not fit the task.
        DataError: a column is missing, a text or a label is empty or of the wrong kind, a label of another split
            does not occur in train, or the data cannot be split.
    """
    if source.prepared is not None:
        from dongu.data.prepared import open_prepared

        return open_prepared(source.prepared, source.place, config)
    columns = columns_of(source, config)
    kept = _kept_rows(source, columns, config)
    task = kept.form.task
    tables, joined = _with_classes(kept, columns.label, config)
    names = name_labels(tables["train"], task, columns.label)
    names = names if config.positive is None else _with_positive(names, config.positive)
    splits = {
        name: _examples(
            table, columns, task, names, config.columns, hidden_allowed=name in kept.hidden, train=name == "train"
        )
        for name, table in tables.items()
    }
    for column, codes in groups_of(tables, config.group_column).items():
        for name, split in splits.items():
            splits[name] = replace(split, groups={**split.groups, column: codes[name]})
    parted = cut(splits["train"], tables["train"], config, task, names, shares_of(config, splits))
    splits |= parted
    if (
        task == "single-label"
        and (targets := splits["train"].targets) is not None
        and len(targets)
        and not np.ptp(targets)
    ):
        what = f"all rows of train have the label `{names[int(targets[0])]}`"
        hint = "a classifier needs two: were whole classes held out, or is this the beginning of rows in their order?"
        raise DataError(what, where=splits["train"].origin, hint=hint)
    unused = _unused(source.splits["train"], columns, config)
    lengths = {} if config.text_columns else {name: length_of_texts(cells) for name, cells in unused.items()}
    return TextData(
        source.name,
        source.place,
        source.hub_name,
        columns,
        task,
        names,
        {name: splits[name] for name in dict.fromkeys([*CUT_SPLITS, *splits]) if name in splits},
        (*unused,),
        tuple(name for name in parted if name != "train"),
        kept.form,
        kept.left_out,
        {name: length for name, length in lengths.items() if length},
        source.not_read,
        source.said,
        kept.without_text,
        joined,
        kept.dropped,
    )


@dataclass(frozen=True)
class _Kept:
    """The rows that are used, with the label column in the plainest way, and how many are not."""

    tables: dict[str, Table]
    form: Form
    hidden: list[str]  # splits whose labels are
    without_text: int
    dropped: tuple[BadRow, ...]
    left_out: int


def _kept_rows(source: Source, columns: Columns, config: RunConfig) -> _Kept:
    """Raise `UsageError` if an option does not fit the task, `DataError` for rows that may not be left out."""
    label, tables = columns.label, dict(source.splits)
    whole = sum(len(table) + len(table.bad) for table in tables.values())
    if config.task in (None, "single-label"):
        tables = soft_splits(tables, label, config.label_names, drop=config.bad_rows is not None)
    soft = share_columns(tables["train"], label)
    dropped = [row for table in tables.values() for row in table.bad]

    def leave_out(name: str, reasons: Sequence[str]) -> None:
        dropped.extend(BadRow(tables[name].where(row), reason) for row, reason in enumerate(reasons) if reason)
        if any(reasons):
            tables[name] = take_rows(tables[name], [not reason for reason in reasons])

    if config.bad_rows is not None:
        for name in tables:
            leave_out(name, text_faults(tables[name], columns.texts))
            leave_out(name, flag_faults(tables[name], columns.label))
    tables = {name: join_flags(table, columns.label) for name, table in tables.items()}
    before = sum(map(len, tables.values()))
    if config.empty == "drop":
        tables = {name: with_texts(table, columns.texts) for name, table in tables.items()}
    without_text = before - sum(map(len, tables.values()))
    form = form_of(tables["train"], columns.label, config.task, config.label_separator)
    form = replace(form, said=SAID) if soft else form
    problems = task_problems(config, form.task)
    for name in ("class_weights", "rare") if soft else ():
        if getattr(config, name) is not None:
            problems.append(f"{option_flag(name)}: soft labels are not of one class")
    if problems:
        raise UsageError("; ".join(problems))
    hidden = [name for name in tables if name.startswith("test") and hides_labels(tables[name], columns.label)]
    labelled = [name for name in tables if name not in hidden]
    if config.bad_rows is not None:
        for name in [name for name in labelled if columns.label in tables[name].columns]:
            leave_out(name, [malformed(cell, form) for cell in tables[name].columns[columns.label]])
        _check_share(dropped, whole, config.bad_rows)
    before = sum(map(len, tables.values()))
    tables |= {name: as_read(tables[name], columns.label, form, drop=config.unlabelled == "drop") for name in labelled}
    return _Kept(tables, form, hidden, without_text, tuple(dropped), before - sum(map(len, tables.values())))


def _with_classes(kept: _Kept, label: str, config: RunConfig) -> tuple[dict[str, Table], tuple[str, ...]]:
    """The tables with classes as `--label-names` and `--rare` want them, and the classes that `--rare` joins."""
    tables, labelled = dict(kept.tables), [name for name in kept.tables if name not in kept.hidden]
    if config.label_names is not None and not share_columns(tables["train"], label):
        tables |= {name: with_names(tables[name], label, config.label_names) for name in labelled}
    if config.rare is None:
        return tables, ()
    counts = Counter(class_names(tables["train"], label))
    known = {name for name, count in counts.items() if count >= int(config.rare.partition("=")[2])}
    tables |= {name: with_other(tables[name], label, known) for name in labelled}
    return tables, tuple(sorted(counts.keys() - known))


def _unused(train: Table, columns: Columns, config: RunConfig) -> dict[str, Sequence[Cell]]:
    """The columns of train that the run does not read."""
    names = (*columns.texts, columns.label, *(config.columns or ()), config.group_column, config.time_column)
    used = {part for name in names if name is not None for part in named_parts(name, train.columns) or ()}
    if soft := share_columns(train, columns.label):  # which the doctor hands on
        used |= {*soft, *columns.label.split("+")}
    return {name: cells for name, cells in train.columns.items() if name not in used}


def _check_share(dropped: Sequence[BadRow], rows: int, allowed: str) -> None:
    """Raise `DataError` if more rows are bad than `--bad-rows` allows."""
    percent = float(allowed.removeprefix("drop=").removesuffix("%"))
    if 100 * len(dropped) > percent * rows:
        what = f"{counted(len(dropped), 'row')} of {rows:,} cannot be used: {dropped[0].what}"
        enough = math.ceil(1000 * len(dropped) / rows) / 10
        hint = f"--bad-rows {allowed} allows fewer; fix them, or allow {enough:g}% or more"
        raise DataError(what, where=dropped[0].where, hint=hint)


def _with_positive(names: Sequence[str], positive: str) -> tuple[str, ...]:
    """The two classes with the positive one behind the other: F1 is of the second."""
    if len(names) != 2 or positive not in names:
        what = f"the classes are {listed([f'`{name}`' for name in names])}, and one of two is wanted"
        raise UsageError(what, where=f"--positive {positive}", hint="name one of two classes, or leave it out")
    return tuple(sorted(names, key=lambda name: name == positive))


def read_rows(table: Table, config: RunConfig, names: Sequence[str]) -> Examples:
    """Other rows, with labels, for the model of a run, whose `config` has all that was inferred and `names` its labels.

    Raises:
        DataError: as `read_examples`; `targets` are None where the labels are hidden.
    """
    columns = Columns(config.text_columns or (), config.label_column or "")
    task = config.task or "single-label"
    if task == "single-label":
        table = with_shares(table, columns.label, names, sure=True)
    soft = share_columns(table, columns.label)
    table = join_flags(table, columns.label)
    if config.empty == "drop":
        table = with_texts(table, columns.texts)
    if not hides_labels(table, columns.label):
        ids = names if config.label_names is None else [*map(str, range(len(names)))]
        form = form_of(table, columns.label, task, config.label_separator, ids)
        table = as_read(table, columns.label, form, drop=config.unlabelled == "drop")
        if config.label_names is not None and not soft:
            table = with_names(table, columns.label, config.label_names, strict=False)
        if config.rare is not None:
            table = with_other(table, columns.label, names)
    return _examples(table, columns, task, names, config.columns, hidden_allowed=True)


def _examples(
    table: Table,
    columns: Columns,
    task: Task,
    names: Sequence[str],
    numeric: Sequence[str] | None,
    *,
    hidden_allowed: bool,
    train: bool = False,
) -> Examples:
    return Examples(
        ids=np.arange(len(table)) if table.ids is None else np.array(table.ids),
        texts=read_texts(table, columns.texts),
        targets=read_targets(table, columns.label, task, names, hidden_allowed=hidden_allowed, train=train),
        origin=table.origin,
        lines=None if table.lines is None else np.array(table.lines),
        columns={name: read_column(table, name) for name in (*(numeric or ()), *share_columns(table, columns.label))},
    )


def digest_of(examples: Examples) -> str:
    """Texts, targets and row numbers of a split as it was read."""
    if examples.digest is not None:
        return examples.digest
    digest = hashlib.sha256()
    for number, column in enumerate(examples.texts):
        digest.update(b", " if number else b"[")
        for part in json_of(column):
            digest.update(part)
    digest.update(b"]" + np.ascontiguousarray(examples.ids, dtype=np.int64).tobytes())
    if examples.targets is not None:
        digest.update(examples.targets.tobytes())
    for name, numbers in examples.columns.items():
        digest.update(name.encode() + numbers.tobytes())
    return digest.hexdigest()


def told_by(examples: Examples) -> str:
    """The digest of texts, targets and row numbers alone, which runs are compared by."""
    return examples.told if examples.digest is not None else digest_of(replace(examples, columns={}))
