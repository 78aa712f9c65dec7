"""What a script says of a row's texts and its label, and what that does, from the simplest on."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from dongu.config import Task
from dongu.data.labels import OTHER, SEPARATOR

RowsRead: TypeAlias = Mapping[str, Sequence[Any]]  # a column each
TextRule: TypeAlias = Callable[[RowsRead, Any], list[Any]]
LabelRule: TypeAlias = Callable[[RowsRead, str, Sequence[str]], list[Any]]

# For data of another kind.
NOT_SO = (AttributeError, LookupError, NotImplementedError, SyntaxError, TypeError, ValueError)

TEXT_RULES: dict[str, TextRule] = {
    "rows[name]": lambda rows, name: [*rows[name]],
    "[str(text) for text in rows[name]]": lambda rows, name: [str(text) for text in rows[name]],
    "[text.decode() for text in rows[name]]": lambda rows, name: [text.decode() for text in rows[name]],
    '[re.sub("^(__label__[^ ]* ?)+", "", line) for line in rows[name]]': (  # of fastText
        lambda rows, name: [re.sub("^(__label__[^ ]* ?)+", "", line) for line in rows[name]]
    ),
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
        "[*map(int, rows[LABEL])]": lambda rows, label, _: [*map(int, rows[label])],
        '[LABELS.index(f"{float(label):.0f}") for label in rows[LABEL]]': lambda rows, label, names: [
            names.index(f"{float(cell):.0f}") for cell in rows[label]
        ],
        "[LABELS.index(label[0]) for label in rows[LABEL]]": lambda rows, label, names: [
            names.index(cell[0]) for cell in rows[label]
        ],
        '[LABELS.index(label if label in LABELS else "other") for label in rows[LABEL]]': lambda rows, label, names: [
            names.index(cell if cell in names else OTHER) for cell in rows[label]
        ],
        '[LABELS.index(line.split(" ")[0].removeprefix("__label__")) for line in rows["text"]]': (
            lambda rows, _, names: [names.index(line.split(" ")[0].removeprefix("__label__")) for line in rows["text"]]
        ),
    },
    "multi-label": {
        "[[float(name in label) for name in LABELS] for label in rows[LABEL]]": lambda rows, label, names: [
            [float(name in [*cell]) for name in names]  # not within a text, which happens to hold some names
            for cell in rows[label]
        ],
        "[[float(i in label) for i in range(len(LABELS))] for label in rows[LABEL]]": lambda rows, label, names: [
            [float(i in cell) for i in range(len(names))] for cell in rows[label]
        ],
        "[[float(int(name) in label) for name in LABELS] for label in rows[LABEL]]": lambda rows, label, names: [
            [float(int(name) in cell) for name in names] for cell in rows[label]
        ],
        "[[float(name in names) for name in LABELS] for names in map(ast.literal_eval, rows[LABEL])]": (
            lambda rows, label, names: [
                [float(name in cell) for name in names] for cell in map(ast.literal_eval, rows[label])
            ]
        ),
        '[[float(f"__label__{name}" in line.split(" ")) for name in LABELS] for line in rows["text"]]': (
            lambda rows, _, names: [
                [float(f"__label__{name}" in line.split(" ")) for name in names] for line in rows["text"]
            ]
        ),
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
    "regression": {
        "[*map(float, rows[LABEL])]": lambda rows, label, _: [*map(float, rows[label])],
        '[float(label.replace(",", ".")) for label in rows[LABEL]]': lambda rows, label, _: [
            float(cell.replace(",", ".")) for cell in rows[label]
        ],
    },
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


def label_rules(task: Task, separator: str | None) -> dict[str, LabelRule]:
    """Those of the task; of texts with a mark between their labels first."""
    if task != "multi-label":
        return LABEL_RULES[task]
    mark = separator or SEPARATOR
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
        **LABEL_RULES[task],
    }
