"""What a script says of a row's texts and its label, and what that does, from the simplest on.

Each rule stands here once: a lambda is called to try it, and what a script says is its body, word for word.
"""
# ruff: noqa: N803, ARG005 - LABEL and LABELS are what a script calls them, and not every rule needs both

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from dongu.config import Task
from dongu.data.labels import SEPARATOR

RowsRead: TypeAlias = Mapping[str, Sequence[Any]]  # a column each
TextRule: TypeAlias = Callable[[RowsRead, Any], Sequence[Any]]
LabelRule: TypeAlias = Callable[[RowsRead, str, Sequence[str]], Sequence[Any]]
NameRule: TypeAlias = Callable[[Mapping[str, Any], str], Sequence[str]]

# For data of another kind.
NOT_SO = (AttributeError, LookupError, NotImplementedError, SyntaxError, TypeError, ValueError)

_SOURCE = Path(__file__).read_text(encoding="utf-8")
_BODIES = {node.lineno: node.body for node in ast.walk(ast.parse(_SOURCE)) if isinstance(node, ast.Lambda)}


def said_by(rule: Callable[..., Any]) -> str:
    """A rule as a script says it, on one line."""
    return re.sub(r"\n *", "", str(ast.get_source_segment(_SOURCE, _BODIES[rule.__code__.co_firstlineno])))


TEXT_RULES: tuple[TextRule, ...] = (
    lambda rows, name: rows[name],
    lambda rows, name: [str(text) for text in rows[name]],
    lambda rows, name: [text.decode() for text in rows[name]],
    lambda rows, name: [re.sub("^(__label__[^ ]* ?)+", "", line) for line in rows[name]],  # of fastText
    lambda rows, name: (
        ["\n".join(filter(str.strip, parts)) for parts in zip(*(rows[part] for part in name), strict=True)]
    ),
    lambda rows, name: ["\n".join(filter(None, parts)) for parts in zip(*(rows[part] for part in name), strict=True)],
)
LABEL_RULES: dict[str, tuple[LabelRule, ...]] = {
    "single-label": (
        lambda rows, LABEL, LABELS: [LABELS.index(label) for label in rows[LABEL]],
        lambda rows, LABEL, LABELS: rows[LABEL],
        lambda rows, LABEL, LABELS: [LABELS.index(str(label)) for label in rows[LABEL]],
        lambda rows, LABEL, LABELS: [LABELS.index(str(label).lower()) for label in rows[LABEL]],
        lambda rows, LABEL, LABELS: [*map(int, rows[LABEL])],
        lambda rows, LABEL, LABELS: [LABELS.index(f"{float(label):.0f}") for label in rows[LABEL]],
        lambda rows, LABEL, LABELS: [LABELS.index(label[0]) for label in rows[LABEL]],
        lambda rows, LABEL, LABELS: [LABELS.index(label if label in LABELS else "other") for label in rows[LABEL]],
        lambda rows, LABEL, LABELS: (
            [LABELS.index(line.split(" ")[0].removeprefix("__label__")) for line in rows["text"]]
        ),
    ),
    "multi-label": (
        lambda rows, LABEL, LABELS: [[float(name in label) for name in LABELS] for label in rows[LABEL]],
        lambda rows, LABEL, LABELS: [[float(i in label) for i in range(len(LABELS))] for label in rows[LABEL]],
        lambda rows, LABEL, LABELS: [[float(int(name) in label) for name in LABELS] for label in rows[LABEL]],
        lambda rows, LABEL, LABELS: (
            [[float(name in names) for name in LABELS] for names in map(ast.literal_eval, rows[LABEL])]
        ),
        lambda rows, LABEL, LABELS: (
            [[float(f"__label__{name}" in line.split(" ")) for name in LABELS] for line in rows["text"]]
        ),
        lambda rows, LABEL, LABELS: [[*map(float, label)] for label in rows[LABEL]],
        lambda rows, LABEL, LABELS: (
            [[*map(float, flags)] for flags in zip(*(rows[name] for name in LABELS), strict=True)]
        ),
        lambda rows, LABEL, LABELS: (
            [[float(flag.lower() == "true") for flag in flags] for flags in zip(*map(rows.get, LABELS), strict=True)]
        ),
    ),
    "regression": (
        lambda rows, LABEL, LABELS: [*map(float, rows[LABEL])],
        lambda rows, LABEL, LABELS: [float(label.replace(",", ".")) for label in rows[LABEL]],
    ),
}
NAME_RULES: tuple[NameRule, ...] = (
    lambda source, LABEL: source["train"].features[LABEL].names,
    lambda source, LABEL: sorted(source["train"].unique(LABEL)),
    lambda source, LABEL: sorted(source["train"].unique(LABEL), key=int),
    lambda source, LABEL: [*map(str, sorted(source["train"].unique(LABEL)))],
    lambda source, LABEL: sorted(
        {name for label in source["train"].unique(LABEL) for name in label.split("|") if name}
    ),
    lambda source, LABEL: sorted({name for label in source["train"][LABEL] for name in label}),
)


def label_rules(task: Task, separator: str | None, *, in_texts: bool) -> list[tuple[str, LabelRule]]:
    """Those of the task, each with its words; where texts hold several labels, the mark between them comes first."""
    rules = [(said_by(rule), rule) for rule in LABEL_RULES[task]]
    if task != "multi-label" or not in_texts:
        return rules
    mark = separator or SEPARATOR
    shown = json.dumps(mark, ensure_ascii=False) if mark.isprintable() else ascii(mark)
    by_mark: tuple[LabelRule, ...] = (
        lambda rows, LABEL, LABELS: [[float(name in label.split(mark)) for name in LABELS] for label in rows[LABEL]],
        lambda rows, LABEL, LABELS: (
            [[float(name in map(str.strip, label.split(mark))) for name in LABELS] for label in rows[LABEL]]
        ),
    )
    marked = [(said_by(rule).replace("(mark)", f"({shown})"), rule) for rule in by_mark]
    return [*marked, *rules[1:]]  # the first is of lists: a text may happen to hold a name
