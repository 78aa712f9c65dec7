"""What annotation tools export, as rows: a text, a label, and which rows were not accepted.

`TOOLS` is the table of them: a tool more is an entry more.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from dongu.data.cells import Rows, column_of
from dongu.data.table import FLAGS, Number, Table, data_error, is_flag
from dongu.text import counted

Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Tool:
    """One tool: by what its rows are known, and what they are for training."""

    name: str  # as the documentation of the tool has it
    is_of: Callable[[Row], bool]  # whether a row is one of it; the first row of a file is asked
    read: Callable[[Row], Row | str]  # the row as it is learnt, or why it is left out
    one_label: bool = True  # whether lists of labels are what the tool writes for single labels too


def _label_studio(row: Row) -> Row | str:
    """Each control (`from_name`) becomes a column; what several people say of a text counts where they agree."""
    answers: list[Row] = []
    for annotation in row.get("annotations") or row.get("completions") or ():
        if isinstance(annotation, dict) and not annotation.get("was_cancelled"):
            results = [_result_of(item) for item in annotation.get("result") or () if isinstance(item, dict)]
            answers.append({name: value for name, value in results if value is not None})
    if not any(answers):
        return "without an annotation"
    if any(answer != answers[0] for answer in answers):
        return "on which the annotators disagree"
    names = [*answers[0]]
    labels = {"label": answers[0][names[0]]} if len(names) == 1 else answers[0]
    return {**{name: cell for name, cell in row["data"].items() if name not in labels}, **labels}


def _result_of(item: Row) -> tuple[str, Any]:
    value = item.get("value")
    value = value if isinstance(value, dict) else {}
    found = next((value[name] for name in ("choices", "rating", "number") if name in value), None)
    return str(item.get("from_name")), found


def _label_studio_min(row: Row) -> Row | str:
    return {
        name: cell["choices"] if isinstance(cell, dict) and "choices" in cell else cell for name, cell in row.items()
    }


def _doccano(row: Row) -> Row | str:
    if any(isinstance(label, list) for label in row["label"]):
        return "with spans, which are not classes"
    return row


def _prodigy(row: Row) -> Row | str:
    if row.get("answer", "accept") != "accept":
        return f"`answer` is {row['answer']}"
    return {**row, "label": row["accept"]} if isinstance(row.get("accept"), list) else row


def _spacy(row: Row) -> Row | str:
    if not all(map(is_flag, row["cats"].values())):  # shares: --label-column cats.a+cats.b
        return row
    return {**row, "label": [name for name, value in row["cats"].items() if FLAGS[str(value).lower()]]}


def _argilla(row: Row) -> Row | str:
    """Each question becomes a column; what several people answer counts where they agree."""
    if "annotation" in row:  # of version 1
        texts = row["inputs"] if isinstance(row.get("inputs"), dict) else {"text": row.get("text")}
        return "without an annotation" if row["annotation"] is None else {**texts, "label": row["annotation"]}
    answers: dict[str, list[Any]] = {}
    if isinstance(row.get("fields"), dict):
        fields = row["fields"]
        for name, given in row["responses"].items():
            answers[name] = [answer["value"] for answer in given or () if answer.get("status", _SENT) == _SENT]
    else:  # as `to_datasets` writes it
        fields, questions = {}, [name.removesuffix(_ANSWERS) for name in row if name.endswith(_ANSWERS)]
        beside = tuple(f"{question}." for question in questions)
        for name, cell in row.items():
            if name not in ("id", "status", "_server_id") and not name.startswith(beside):
                fields[name] = cell
        for name in questions:
            given = row[name + _ANSWERS] or []
            states = row.get(f"{name}{_ANSWERS}.status") or [_SENT] * len(given)
            answers[name] = [value for value, state in zip(given, states, strict=True) if state == _SENT]
    labels = {name: values[0] for name, values in answers.items() if values}
    if not labels:
        return "without a response"
    if any(value != labels[name] for name, values in answers.items() for value in values):
        return "on which the annotators disagree"
    return {**fields, **({"label": next(iter(labels.values()))} if len(answers) == 1 else labels)}


def _chat(row: Row) -> Row | str:
    """The question and the answer of a fine-tuning file of OpenAI; what the system is told is the same in all rows."""
    said = {role: [turn["content"] for turn in row["messages"] if turn["role"] == role] for role in _ROLES}
    if len(said["user"]) != 1 or len(said["assistant"]) != 1:
        return "whose conversation is not one question and one answer"
    return {"text": said["user"][0], "label": said["assistant"][0]}


_ROLES = ("user", "assistant")
_ANSWERS, _SENT = ".responses", "submitted"
_ARGILLA_1 = {"annotation", "annotation_agent", "prediction", "status"}
_MIN_KEYS = {"annotator", "annotation_id", "lead_time"}
_NO_LABELS = {"Comments", "comments", "accept", "options"}
_DOCCANO_KEYS = {"Comments", "comments", "annotation_approver", "meta"}
TOOLS: Mapping[str, Tool] = {
    "label-studio": Tool(
        "Label Studio",
        lambda row: isinstance(row.get("data"), dict) and bool({"annotations", "completions"} & row.keys()),
        _label_studio,
    ),
    "label-studio-min": Tool("Label Studio (JSON-MIN)", lambda row: row.keys() >= _MIN_KEYS, _label_studio_min),
    "doccano": Tool(
        "doccano",
        lambda row: isinstance(row.get("label"), list) and "text" in row and bool(_DOCCANO_KEYS & row.keys()),
        _doccano,
    ),
    "prodigy": Tool(
        "Prodigy",
        lambda row: {"text", "answer"} <= row.keys() and bool({"_task_hash", "accept"} & row.keys()),
        _prodigy,
    ),
    "argilla": Tool(
        "Argilla",
        lambda row: (
            (isinstance(row.get("fields"), dict) and isinstance(row.get("responses"), dict))
            or any(name.endswith(_ANSWERS) for name in row)
            or row.keys() >= _ARGILLA_1
        ),
        _argilla,
    ),
    "chat": Tool(
        "a conversation each: a question and its answer",
        lambda row: (
            bool(row)
            and row.keys() <= {"messages", "metadata"}
            and all(isinstance(turn, dict) and turn.keys() >= {"role", "content"} for turn in row.get("messages") or ())
        ),
        _chat,
    ),
    "spacy": Tool("spaCy", lambda row: "text" in row and isinstance(row.get("cats"), dict), _spacy, one_label=False),
}


class Converter:
    """Makes rows of what a tool exports, and knows what there is to say of them.

    Args:
        rows: which are to be made, and know which are left out.
        name: the tool as `--format` names it; None where it is to be found by the first object.
    """

    def __init__(self, rows: Rows, name: str | None) -> None:
        self._rows, self._given = rows, name is not None
        self._tool = TOOLS.get(name or "")  # none where the rows are plain
        self._left_out: Counter[str] = Counter()

    def converted(self, objects: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """The objects, each with its line or number, as they are learnt.

        Raises:
            DataError: an object is not one of the tool, or none is left.
        """
        plain = "--format plain takes the rows as they are"
        for place, (number, row) in enumerate(objects):
            known = isinstance(row, dict)
            if not place and not self._given:
                self._tool = next((tool for tool in TOOLS.values() if known and tool.is_of(row)), None)
            if self._tool is None:
                yield number, row
                yield from objects
                return
            try:
                read = self._tool.read(row) if known and self._tool.is_of(row) else None
            except (AttributeError, LookupError, TypeError, ValueError):  # something in it is not what the tool writes
                read = None
            if read is None:
                what = f"this row is not one of {self._tool.name}, as the first one is"
                raise data_error(self._rows.where(number), what, plain)
            if isinstance(read, str):
                self._left_out[read] += 1
                self._rows.skip()
            else:
                yield number, read
        if self._left_out and not len(self._rows):
            why = ", ".join(f"{counted(count, 'row')} {reason}" for reason, count in self._left_out.items())
            raise data_error(self._rows.origin, f"no row is left ({why})", plain)

    def finished(self, table: Table) -> Table:
        """The table with single labels where no row has several, and with what there is to say."""
        if self._tool is None:
            return table
        said = [] if self._given else [f"rows of {self._tool.name} (--format plain takes them as they are)"]
        said += [f"left out: {counted(count, 'row')}, {why}" for why, count in self._left_out.items()]
        columns = dict(table.columns)
        for name, column in columns.items():
            if self._tool.one_label and name not in _NO_LABELS and _is_of_one_label(column):
                lists: Sequence[Any] = column
                columns[name] = column_of(cell[0] if cell else None for cell in lists)
                said.append(f"each list of `{name}` has one label at most: single labels")
        return replace(table, columns=columns, said=(*said, *table.said))


def with_choices(table: Table) -> Table:
    """A csv of Label Studio, in which several labels of a row are JSON, as lists; any other table as it is."""
    if not table.columns.keys() >= _MIN_KEYS:
        return table
    columns, start = dict(table.columns), '{"choices":'
    for name in table.columns:
        column: Sequence[Any] = table.columns[name]
        if any(cell.startswith(start) for cell in column):
            try:
                columns[name] = column_of(
                    [*map(str, json.loads(cell)["choices"])] if cell.startswith(start) else [cell] if cell else []
                    for cell in column
                )
            except ValueError:  # it only looks like it: the cells stay what they are
                continue
            said = f"each cell of `{name}` as a list, by the choices of Label Studio (--format plain)"
            table = replace(table, said=(*table.said, said))
    return replace(table, columns=columns)


def _is_of_one_label(column: Any) -> bool:
    """Whether all cells are lists of a name or a number, or of none, and not all of none."""
    return any(column) and all(
        isinstance(cell, list) and len(cell) < 2 and all(type(x) in (str, Number) for x in cell) for cell in column
    )
