"""Data as people have them: a row for each shape that is read at once, as docs/data.md lists them.

A row is a `Shape`: its name as the table of docs/data.md has it, its files, the options that it needs, and what is
read, cell by cell. All are read; those that are the first of their kind are trained on for two steps too.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import dongu
from dongu.config import make_config
from dongu.data.sources import read_source
from dongu.errors import DataError

Columns = Mapping[str, Sequence[Any]]

TEXT = ["a good film, was it", "bad; the film was bad", "not 'bad' word1", 'the "good" film', "ağaç word2", "bad word3"]
LABEL = ["pos", "neg", "pos", "pos", "pos", "neg"]
ROWS = {"text": TEXT, "label": LABEL}
WESTERN = {"text": [*TEXT[:4], "café crème", "naïve film"], "label": LABEL}  # what cp1252 can write


@dataclass(frozen=True)
class Shape:
    """One shape of data."""

    name: str
    """Unique; the first cell of its row in docs/data.md."""
    kind: str
    """Of several shapes of a kind, the first is trained on."""
    files: Mapping[str, str | bytes | Callable[[Path], Any]] = field(default_factory=dict)
    """Path → content, or what writes it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    read: Columns | Mapping[str, Columns] = field(default_factory=lambda: ROWS)
    """Column → cells of train, or split → column → cells; columns that are not named here are not looked at."""
    said: str = ""
    """A part of what is said of the reading; nothing is said where it is empty."""
    data: str | Callable[[Path], Any] = ""
    """DATA below the folder of the files, or what makes it; by default the only file, or the folder."""

    def __str__(self) -> str:
        return self.name.replace("`", "").replace(" ", "-")

    def write(self, folder: Path) -> Any:
        """DATA."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if callable(content):
                content(path)
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)
        if callable(self.data):
            return self.data(folder)
        [name, *others] = self.files
        return str(folder / (self.data or ("" if others else name)))

    def expected(self) -> Mapping[str, Columns]:
        """Split → column → cells."""
        columns: Any = self.read
        splits: dict[str, Columns] = (
            columns if isinstance(next(iter(columns.values())), Mapping) else {"train": columns}
        )
        return splits


def rows_of(columns: Columns) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def delimited(mark: str, columns: Columns = ROWS, **options: Any) -> str:
    """As Python's csv writes it."""
    file = io.StringIO()
    csv.writer(file, delimiter=mark, lineterminator="\n", **options).writerows(
        [list(columns), *zip(*columns.values(), strict=True)]
    )
    return file.getvalue()


QUOTED = 'text\tlabel\n"a ""good"" film"\tpos\n"a ""bad"" film"\tneg\n"so ""good"""\tpos\n"so ""bad"""\tneg\n'
UNQUOTED = {"text": ['a "good" film', 'a "bad" film', 'so "good"', 'so "bad"'], "label": ["pos", "neg", "pos", "neg"]}
ESCAPED = QUOTED.replace('""', '\\"').replace('\\"\t', '\\""\t').replace("\t", ",")
INDEX = {"": range(6), **ROWS}
U16 = {"encoding": "utf-16-be"}

SHAPES: list[Shape] = [
    # Cells between delimiters, and their encodings
    Shape("csv", "csv", {"a.csv": delimited(",")}),
    Shape("tsv", "csv", {"a.tsv": "text\tlabel\n" + "".join(f"{t}\t{n}\n" for t, n in zip(TEXT, LABEL, strict=True))}),
    Shape("csv with `;`", "csv with ;", {"a.csv": delimited(";")}, said="a semicolon between the cells (--delimiter)"),
    Shape("csv with tabs", "csv", {"a.csv": delimited("\t")}, said="a tab between the cells (--delimiter)"),
    Shape("csv with bars", "csv", {"a.csv": delimited("|")}, said="a bar between the cells (--delimiter)"),
    Shape("tsv with commas", "csv", {"a.tsv": delimited(",")}, said="a comma between the cells (--delimiter)"),
    Shape("csv with another mark", "csv", {"a.csv": delimited("~")}, {"delimiter": "~"}),
    Shape("csv in UTF-16 with its mark", "utf-16", {"a.csv": delimited(",").encode("utf-16")}, said="utf-16 by its"),
    Shape("Excel's Unicode text", "csv", {"a.csv": delimited("\t").encode("utf-16")}, said="utf-16 by"),
    Shape("csv in UTF-16 without a mark", "csv", {"a.csv": delimited(",").encode("utf-16-be")}, U16),
    Shape("csv in UTF-8 with its mark", "csv", {"a.csv": "\ufeff" + delimited(",")}),
    Shape(
        "csv of a Western Windows", "csv", {"a.csv": delimited(";", WESTERN).encode("cp1252")},
        {"encoding": "cp1252"}, WESTERN, said="a semicolon",
    ),
    Shape("csv of a Turkish Windows", "csv", {"a.csv": delimited(",").encode("cp1254")}, {"encoding": "cp1254"}),
    Shape("csv with pandas' index", "csv", {"a.csv": delimited(",", INDEX)}, said="for want of a name: column 1"),
    Shape("tsv of pandas", "csv", {"a.tsv": QUOTED}, {"quoting": "csv"}, UNQUOTED),
    Shape("tsv with quotes", "csv", {"a.tsv": QUOTED}, {}, {"label": UNQUOTED["label"]}, said="--quoting csv"),
    Shape("csv without quoting", "csv", {"a.csv": '"a,b\nx",y\n'}, {"quoting": "none"}, {'"a': ['x"'], "b": ["y"]}),
    Shape("csv of Spark", "csv", {"a.csv": ESCAPED}, {"escape": "\\"}, UNQUOTED),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_shape_is_read_cell_by_cell(shape: Shape, tmp_path: Path) -> None:
    source = read_source(shape.write(tmp_path), make_config(shape.options))
    assert list(source.splits) == list(shape.expected())
    for split, columns in shape.expected().items():
        found = source.splits[split].columns
        assert {name: [*found[name]] for name in columns} == {name: [*cells] for name, cells in columns.items()}
    said = "; ".join(source.said)
    assert shape.said in said
    assert bool(shape.said) == bool(said)


def first_of_each(shapes: Iterable[Shape]) -> list[Shape]:
    first: dict[str, Shape] = {}
    for shape in shapes:
        first.setdefault(shape.kind, shape)
    return [*first.values()]


@pytest.mark.parametrize("shape", first_of_each(SHAPES), ids=str)
def test_a_shape_is_trained_on(shape: Shape, tmp_path: Path, tiny_model: Any) -> None:
    loop = dongu.Loop(shape.write(tmp_path), model=tiny_model(), max_steps=2, batch_size=2, **shape.options)
    assert len(list(loop)) == 2


def test_names_are_unique() -> None:
    assert len({shape.name for shape in SHAPES}) == len(SHAPES)


@pytest.mark.parametrize(
    ("content", "options", "what", "hint"),
    [
        ("text;a|label;b\nx;y|1;2\nz;w|3;4\n", {}, "both a semicolon and a bar may stand", "--delimiter"),
        ("text;label\nx;y;1\n", {}, "3 cells, and the header has 2", "semicolon"),
        ('text,label\n"he said \\"no\\"",1\n', {}, "closing quote", "--escape '\\'"),
        ("text,label\ncafé,1\n".encode("cp1252"), {}, "0xE9", "--encoding cp1252"),
        ("text,label\nx,1\n".encode("utf-16"), {"encoding": "cp1252"}, "mark of utf-16", "leave --encoding cp1252 out"),
        ("text,label\nx,1\ny\x81,0".encode("latin-1"), {"encoding": "cp1252"}, "not in cp1252", "--encoding"),
        ("text,label\nx,1\n".encode("utf-16-le"), {}, "NUL", "--encoding utf-16-le"),
    ],
)
def test_a_refusal_names_what_would_accept(
    content: str | bytes, options: dict[str, Any], what: str, hint: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        read_source(path, make_config(options))
    assert what in caught.value.what
    assert hint in caught.value.hint
