"""Data as people have them: a row for each shape that is read at once, as docs/data.md lists them.

A row is a `Shape`: its name as the table of docs/data.md has it, its files, the options that it needs, and what is
read, cell by cell. All are read; those that are the first of their kind are trained on for two steps too.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import openpyxl
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

import dongu
from conftest import ROOT
from dongu.cli.main import run as run_command
from dongu.config import make_config
from dongu.data.download import _SafeRedirects
from dongu.data.examples import read_examples
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


def halved(columns: Columns, first: bool) -> Columns:
    return {name: [*cells][:3] if first else [*cells][3:] for name, cells in columns.items()}


CSV = delimited(",").encode()
JSONL = "".join(json.dumps(row) + "\n" for row in rows_of(ROWS))
UTF16 = delimited("\t").encode("utf-16")
HALF_ROWS = halved(ROWS, True)
HALF, REST = (delimited(",", halved(ROWS, first)) for first in (True, False))
TEST: Any = {"train": ROWS, "test": HALF_ROWS}
TEST_HALF: Any = {"train": ROWS, "test": halved(ROWS, False)}
TWO: Any = {"train": ROWS, "test": ROWS}
THREE: Any = {"train": ROWS, "validation": HALF_ROWS, "test": ROWS}
NOTES = {"README.md": "# notes", ".gitattributes": "x"}


def parquet(columns: Columns = ROWS) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({name: [*cells] for name, cells in columns.items()}), sink)
    return bytes(sink.getvalue())


def arrow(*, file: bool) -> bytes:
    sink, table = pa.BufferOutputStream(), pa.table(ROWS)
    with (pa.ipc.new_file if file else pa.ipc.new_stream)(sink, table.schema) as writer:
        writer.write_table(table, 2)
    return bytes(sink.getvalue())


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


def zipped(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def shards(pattern: str) -> dict[str, bytes]:
    halves = (parquet(halved(ROWS, first)) for first in (True, False))
    return {pattern.format(f"{number:05}-of-00002"): half for number, half in enumerate(halves)}


def saved(folder: Path, *splits: str | None) -> str:
    """As `save_to_disk` of `datasets` writes it."""
    data = datasets.Dataset.from_dict(dict(ROWS))
    made = data if splits == (None,) else datasets.DatasetDict({str(name): data for name in splits})
    made.save_to_disk(folder / "saved")
    return str(folder / "saved")


CONFIGS = """---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: x/*
  - split: test
    path: [x/00001-of-00002.parquet]
---
"""
CONFIGS_TWO = CONFIGS.replace("configs:\n", "configs:\n- config_name: small\n  data_files: x/00000*\n")
BY_CLASS = {f"{label}/{i}.txt": text for i, (text, label) in enumerate(zip(TEXT, LABEL, strict=True))}
CLASSES = {
    "text": [TEXT[i] for i in (1, 5, 0, 2, 3, 4)],
    "label": ["neg"] * 2 + ["pos"] * 4,
    "file": ["neg/1.txt", "neg/5.txt", "pos/0.txt", "pos/2.txt", "pos/3.txt", "pos/4.txt"],
}
IMDB = {f"{split}/{name}": text for split in ("train", "test") for name, text in BY_CLASS.items()} | {
    **{"train/unsup/1.txt": "no label", "train/labeledBow.feat": "9 0:9", "imdb.vocab": "the", "README": "notes"}
}
GROUPS = ("alt.atheism", "sci.space")
NEWS = {f"{group}/{i}": f"naïve {group} {i}".encode("latin-1") for group in GROUPS for i in (1, 2)}
NEWS_READ = {
    "text": [f"naïve {group} {i}" for group in GROUPS for i in (1, 2)],
    "label": [group for group in GROUPS for _ in (1, 2)],
}
LATIN = {"encoding": "latin-1"}


class Frame:
    """What polars has of Arrow's interface; polars is not among the packages of the tests."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return pa.table(dict(ROWS)).__arrow_c_stream__(requested_schema)


def made() -> Any:
    return datasets.Dataset.from_dict(dict(ROWS))


def lines_of(rows: Iterable[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def workbook(path: Path, **sheets: Columns) -> None:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, columns in sheets.items():
        sheet = book.create_sheet(name)
        for row in [list(columns), *zip(*columns.values(), strict=True)]:
            sheet.append(row)
    book.save(path)


DEEP = {"version": "1.1", "out": {"count": 6, "rows": rows_of(ROWS), "more": []}, "end": [{"text": "no row"}]}
PANDAS = {name: {str(i): cell for i, cell in enumerate(cells)} for name, cells in ROWS.items()}
SPLIT = {"columns": [*ROWS], "index": [*range(6)], "data": [*zip(TEXT, LABEL, strict=True)]}
SCHEMA = {"schema": {"fields": [{"name": "text"}], "primaryKey": ["index"]}, "data": rows_of(ROWS)}
OPTIONAL = lines_of([{**row, "note": "x"} if i in (1, 4) else row for i, row in enumerate(rows_of(ROWS))])
NESTED = lines_of({"q": {"text": text}, "a": [{"label": label}]} for text, label in zip(TEXT, LABEL, strict=True))
PATHS = {"text_columns": ("q.text",), "label_column": "a.0.label"}
LISTED: dict[str, list[Any]] = {"text": TEXT, "label": [[label] for label in LABEL]}
SEVERAL: dict[str, list[Any]] = {"text": TEXT, "label": [["pos", "neg"], *([label] for label in LABEL[1:])]}


def task(text: str, labels: Sequence[str], **more: Any) -> dict[str, Any]:
    """As Label Studio exports it."""
    value = {"value": {"choices": labels}, "from_name": "sentiment", "to_name": "text", "type": "choices"}
    return {"id": 1, "data": {"text": text}, "annotations": [{"result": [value] if labels else [], **more}]}


STUDIO = [task(text, [label]) for text, label in zip(TEXT, LABEL, strict=True)]
STUDIO += [task("not yet", []), task("skipped", ["pos"], was_cancelled=True)]
STUDIO_2 = [task(text, labels) for text, labels in zip(TEXT, SEVERAL["label"], strict=True)]
STUDIO_MIN = [{"id": 1, **row, "annotator": 1, "annotation_id": 1, "lead_time": 1.5} for row in rows_of(ROWS)]
DOCCANO = [{"id": i, **row, "Comments": []} for i, row in enumerate(rows_of(LISTED))]
DOCCANO_2 = [{"id": i, **row, "Comments": []} for i, row in enumerate(rows_of(SEVERAL))]
PRODIGY = [{**row, "_task_hash": 1, "answer": "accept"} for row in rows_of(ROWS)]
PRODIGY.insert(1, {"text": "no", "label": "pos", "_task_hash": 2, "answer": "reject"})
CHOICES = [{"text": row["text"], "accept": [row["label"]], "answer": "accept"} for row in rows_of(ROWS)]
CHOICES.append({"text": "no", "accept": [], "answer": "ignore"})
CATS = [
    {"text": text, "cats": {name: float(name == label) for name in ("pos", "neg")}}
    for text, label in zip(TEXT, LABEL, strict=True)
]

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
    # Compressed
    Shape("csv in gzip", "archive", {"a.csv.gz": gzip.compress(CSV)}),
    Shape("csv in bzip2", "archive", {"a.csv.bz2": bz2.compress(CSV)}),
    Shape("jsonl in xz", "archive", {"a.jsonl.xz": lzma.compress(JSONL.encode())}),
    Shape("csv in zstd", "archive", {"a.csv.zst": zstd(CSV)}),
    Shape("csv in zip", "archive", {"a.zip": zipped({"b/r.csv": CSV, "__MACOSX/r.csv": b"x"})}, said="b/r.csv in it"),
    Shape("csv of an Excel in zip", "archive", {"a.zip": zipped({"r.csv": UTF16})}, said="utf-16"),
    Shape("parquet in gzip", "archive", {"a.parquet.gz": lambda path: path.write_bytes(gzip.compress(parquet()))}),
    # Arrow
    Shape("parquet", "parquet", {"a.parquet": parquet()}),
    Shape("arrow of a stream", "arrow", {"a.arrow": arrow(file=False)}),
    Shape("arrow of a file", "arrow", {"a.arrow": arrow(file=True)}),
    Shape("feather", "arrow", {"a.feather": arrow(file=True)}),
    Shape("a `Dataset` that was saved", "saved", data=lambda folder: saved(folder, None)),
    Shape("a `DatasetDict` that was saved", "saved", data=lambda folder: saved(folder, "train", "test"), read=TWO),
    # Folders
    Shape("a folder of splits", "folder", {"train.csv": CSV, "dev.csv": HALF, "test.jsonl": JSONL}, read=THREE),
    Shape("a folder of splits in gzip", "folder", {"train.csv.gz": gzip.compress(CSV), "test.csv": HALF}, read=TEST),
    Shape("shards of a split", "shards", shards("train-{}.parquet"), said="2 files in the order of their names"),
    Shape("the Hub's layout", "shards", {**shards("data/train-{}.parquet"), **NOTES}, said="2 files"),
    Shape("a folder in the Hub's layout", "shards", {**shards("plain_text/train-{}.parquet"), **NOTES}, said="2 files"),
    Shape(
        "a README.md with `configs`", "shards", {**shards("x/{}.parquet"), "README.md": CONFIGS},
        read=TEST_HALF, said="2 files",
    ),
    Shape(
        "one of several `configs`", "shards", {**shards("x/{}.parquet"), "README.md": CONFIGS_TWO},
        read=HALF_ROWS, data=lambda folder: f"{folder}:small",
    ),
    Shape("a folder for each split", "shards", {"train/part-0.csv": HALF, "train/part-1.csv": REST}, said="2 files"),
    Shape("a pattern", "shards", {"x/part-0.csv": HALF, "x/part-1.csv": REST}, data="x/*.csv", said="2 files"),
    Shape("a pattern of splits", "shards", {"train.csv": CSV, "test.csv": HALF}, data="*.csv", read=TEST),
    Shape("a folder for each class", "classes", BY_CLASS, read=CLASSES, said="2 folders of texts"),
    Shape("IMDB's folders", "classes", IMDB, read={"train": CLASSES, "test": CLASSES}, said="each a class: neg, pos"),
    Shape("20 Newsgroups' folders", "classes", NEWS, LATIN, NEWS_READ, said="a class: alt.atheism, sci.space"),
    # JSON
    Shape("jsonl", "json", {"a.jsonl": JSONL}),
    Shape("a json array", "json", {"a.json": json.dumps(rows_of(ROWS), indent=1)}),
    Shape("json lines in a .json", "json", {"a.json": JSONL}),
    Shape("`{\"data\": [...]}`", "field", {"a.json": json.dumps({"n": 1, "data": rows_of(ROWS)})}, said="field `data`"),
    Shape("a list of rows by its path", "field", {"a.json": json.dumps(DEEP, indent=1)}, {"field": "out.rows"}),
    Shape("pandas' `to_json()`", "json", {"a.json": json.dumps(PANDAS)}, said="an object of 2 columns"),
    Shape("pandas' `orient=\"split\"`", "json", {"a.json": json.dumps(SPLIT)}, said="an object of 3 columns"),
    Shape("pandas' `orient=\"table\"`", "json", {"a.json": json.dumps(SCHEMA)}, said="the rows of the field `data`"),
    Shape("a json of columns", "json", {"a.json": json.dumps(ROWS, indent=1)}, said="an object of 2 columns"),
    Shape("jsonl with optional keys", "json", {"a.jsonl": OPTIONAL}, said="`note` is null in 4 of 6 rows"),
    Shape("nested fields", "nested", {"a.jsonl": NESTED}, PATHS, {"q.text": TEXT, "a.0.label": LABEL}),
    # Annotation tools
    Shape("Label Studio", "tool", {"a.json": json.dumps(STUDIO)}, said="2 rows, without an annotation"),
    Shape("Label Studio, several labels", "tool", {"a.json": json.dumps(STUDIO_2)}, read=SEVERAL, said="Label Studio"),
    Shape("Label Studio JSON-MIN", "tool", {"a.json": json.dumps(STUDIO_MIN)}, said="Label Studio (JSON-MIN)"),
    Shape("doccano", "tool", {"a.jsonl": lines_of(DOCCANO)}, said="each list of `label` has one label at most"),
    Shape("doccano, several labels", "tool", {"a.jsonl": lines_of(DOCCANO_2)}, read=SEVERAL, said="rows of doccano"),
    Shape("doccano, as it is", "tool", {"a.jsonl": lines_of(DOCCANO)}, {"format": "plain"}, LISTED),
    Shape("Prodigy", "tool", {"a.jsonl": lines_of(PRODIGY)}, said="left out: 1 row, `answer` is reject"),
    Shape("Prodigy's choices", "tool", {"a.jsonl": lines_of(CHOICES)}, said="left out: 1 row, `answer` is ignore"),
    Shape("spaCy's `cats`", "tool", {"a.jsonl": lines_of(CATS)}, read=LISTED, said="rows of spaCy"),
    # Excel
    Shape("Excel", "excel", {"a.xlsx": lambda path: workbook(path, first=ROWS)}),
    Shape("a sheet of Excel", "excel", {"a.xlsx": lambda path: workbook(path, x=INDEX, y=ROWS)}, {"sheet": "y"}),
    Shape("Excel's first sheet", "excel", {"a.xlsx": lambda path: workbook(path, x=ROWS, y=INDEX)}, said="`x` of 2"),
    # From memory
    Shape("a list of dicts", "memory", data=lambda _: rows_of(ROWS)),
    Shape("a dict of lists", "memory", data=lambda _: dict(ROWS)),
    Shape("a dict of splits", "memory", data=lambda _: {"train": rows_of(ROWS), "test": pd.DataFrame(ROWS)}, read=TWO),
    Shape("a pandas frame", "memory", data=lambda _: pd.DataFrame(ROWS, index=[7] * 6)),
    Shape("an Arrow table", "memory", data=lambda _: pa.table(dict(ROWS))),
    Shape("a polars frame, by Arrow's interface", "memory", data=lambda _: Frame()),
    Shape("a `Dataset`", "memory", data=lambda _: datasets.Dataset.from_dict(dict(ROWS))),
    Shape("a `DatasetDict`", "memory", data=lambda _: datasets.DatasetDict(train=made(), test=made()), read=TWO),
    Shape("an `IterableDataset`", "memory", data=lambda _: made().to_iterable_dataset()),
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


def test_the_documentation_lists_all_shapes_and_no_others() -> None:
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    table = page.partition("<!-- shapes -->")[2].partition("<!-- /shapes -->")[0]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.strip().splitlines()[2:]]
    assert rows == [shape.name for shape in SHAPES]


def test_fields_within_a_column_are_named_where_the_label_cannot_be_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"ticket": "x", "meta": {"by": {"id": 1}, "queue": "y"}}\n', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_examples(read_source(tmp_path / "a.jsonl"), make_config({}))
    assert "ticket, meta.by.id, meta.queue" in caught.value.hint


class Pipe(io.BytesIO):
    """Standard input that is no terminal."""

    @property
    def buffer(self) -> Pipe:
        return self


@pytest.mark.parametrize(
    "content", [CSV, JSONL.encode(), parquet(), gzip.compress(CSV), UTF16, json.dumps({"data": rows_of(ROWS)}).encode()]
)
def test_standard_input_is_read_by_how_it_begins(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Pipe(content))
    source = read_source("-")
    assert source.splits["train"].columns == ROWS
    assert source.place is None


class Server:
    """Answers every address, as urllib's opener would."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def open(self, request: Any, **_: Any) -> io.BytesIO:
        assert request.full_url == "https://example.org/a%20b.csv.gz?x=1"
        return io.BytesIO(self.content)


def test_an_address_is_fetched_if_that_is_asked_for_and_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    address, config = "https://example.org/a%20b.csv.gz?x=1", make_config({"download": True})
    with pytest.raises(DataError, match="not read unless that is asked for"):
        read_source(address)
    with pytest.raises(DataError, match="only https://"):
        read_source(address.replace("https", "http"), config)
    monkeypatch.setattr("dongu.data.download._opener", lambda: Server(gzip.compress(CSV)))
    source = read_source(address, config)
    assert source.name == "a b"
    assert source.splits["train"].columns == ROWS
    assert source.place == f"{address}#sha256={hashlib.sha256(gzip.compress(CSV)).hexdigest()}"
    assert read_source(source.place, config).place == source.place
    monkeypatch.setattr("dongu.data.download._opener", lambda: Server(gzip.compress(CSV + b"x,y\n")))
    with pytest.raises(DataError, match="another content than it had"):
        read_source(source.place, config)


def test_redirects_stay_https() -> None:
    request = urllib.request.Request("https://example.org/a.csv")
    with pytest.raises(ValueError, match="which is not https"):
        _SafeRedirects().redirect_request(request, None, 302, "", {}, "http://example.org/a.csv")


def test_all_commands_read_alike(
    tmp_path: Path, tiny_model: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found is said before the run is; run.json has the options; other data take them too."""
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_bytes(delimited("~", WESTERN).encode("cp1252"))
    Path("b.csv.gz").write_bytes(gzip.compress(delimited(";", WESTERN).encode("cp1252")))
    told = ["--delimiter", "~", "--encoding", "cp1252"]
    options = ["--model", tiny_model(), "--max-steps", "2", "--batch-size", "2", "--out", "run", "--device", "cpu"]
    assert run_command(["train", "a.csv", *told, *options]) == 0
    recipe = json.loads(Path("run/run.json").read_text(encoding="utf-8"))["options"]
    assert (recipe["delimiter"], recipe["encoding"]) == ("~", "cp1252")
    assert run_command(["evaluate", "run"]) == 0
    assert run_command(["evaluate", "run", "b.csv.gz", "--encoding", "cp1252"]) == 0
    assert run_command(["predict", "run", "--data", "b.csv.gz", "--encoding", "cp1252", "--out", "new.jsonl"]) == 0
    answers = Path("new.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(answer)["text"] for answer in answers] == WESTERN["text"]
    capsys.readouterr()
    assert run_command(["inspect", "b.csv.gz", "--encoding", "cp1252", "--json", "--model", tiny_model()]) in (0, 2)
    assert json.loads(capsys.readouterr().out)["read_as"] == ["b.csv.gz: a semicolon between the cells (--delimiter)"]


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
def test_a_refusal_of_a_csv_names_what_would_accept(
    content: str | bytes, options: dict[str, Any], what: str, hint: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        read_source(path, make_config(options))
    assert what in caught.value.what
    assert hint in caught.value.hint


BOMB = bytes(1 << 29)
NO_SHARD = {f"data/train-{i:05}-of-00003.csv": CSV for i in (0, 2)}
ELSEWHERE = "---\nconfigs:\n- config_name: default\n  data_files: %s\n---\n"
REFUSED: list[tuple[Mapping[str, str | bytes], str, str]] = [
    ({"a.csv.gz": gzip.compress(BOMB, 1)}, "more than 268,435,456 bytes", "--max-expansion N"),
    ({"a.csv.bz2": bz2.compress(BOMB)}, "more than 268,435,456 bytes", "--max-expansion N"),
    ({"a.zip": zipped({"a.csv": BOMB})}, "more than 268,435,456 bytes", "--max-expansion N"),
    ({"a.csv.zst": zstd(CSV)[:-9]}, "archive is damaged", "fetch it again"),
    ({"a.csv.gz": gzip.compress(CSV)[:-9]}, "archive is damaged", "fetch it again"),
    ({"a.csv.xz": lzma.compress(CSV)[:-9]}, "archive is damaged", "fetch it again"),
    ({"a.csv.bz2": b"text,label"}, "archive is damaged", "fetch it again"),
    ({"a.zip": zipped({"train.csv": CSV, "test.csv": CSV})}, "holds 2 files (train.csv, test.csv)", "unpack it"),
    ({"a.zip": zipped({"../../x.exe": CSV})}, "files ending in .exe are not read", ".csv"),
    ({"a.tar.gz": gzip.compress(CSV)}, "files ending in .tar are not read", "unpack it"),
    (NO_SHARD, "of 3 shards of train, number 1 is missing", "fetch it again"),
    ({"a.csv": CSV, "README.md": ELSEWHERE % "../b.csv"}, "'../b.csv' is no path in the folder", "correct"),
    ({"a.csv": CSV, "README.md": ELSEWHERE % "/etc/*"}, "'/etc/*' is no path in the folder", "correct"),
    ({"a.csv": CSV, "README.md": ELSEWHERE % "b/*"}, "there is no file 'b/*'", "fetch"),
    ({"x/README.md": CONFIGS_TWO.replace("default", "b")}, "there are the configurations small, b", ":small"),
    ({"state.json": '{"_data_files": [{"filename": "../x.arrow"}]}'}, "does not name the files", "load_from_disk"),
    ({"train/part-0.csv": HALF, "train/part-1.jsonl": JSONL.replace("text", "t")}, "are t, label, and those", "same"),
    ({"pos/1.txt": "x", "neg/1.txt": b"\xff\xfe\xff"}, "not in utf-16", "--encoding"),
    ({"pos/1.csv": "x", "neg/1.csv": "x"}, "no train split; there is neg, pos", "folders by class hold files of text"),
]


@pytest.mark.parametrize(("files", "what", "hint"), REFUSED, ids=range(len(REFUSED)))
def test_a_refusal_names_what_would_accept(
    files: Mapping[str, str | bytes], what: str, hint: str, tmp_path: Path
) -> None:
    data = Shape("", "", files).write(tmp_path)
    with pytest.raises(DataError) as caught:
        read_source(data.removesuffix("/README.md").removesuffix("/state.json"))
    assert what in caught.value.what
    assert hint in caught.value.hint


def test_more_may_come_out_of_an_archive_if_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dongu.data.archives.FREE_BYTES", 1000)
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\n" + b"good,1\n" * 10_000))
    with pytest.raises(DataError, match="far more than its own size") as caught:
        read_source(path)
    assert "--max-expansion" in caught.value.hint
    assert len(read_source(path, make_config({"max_expansion": 1000})).splits["train"]) == 10_000


def test_a_row_of_a_shard_is_named_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for number, half in enumerate((HALF, REST)):
        (tmp_path / "train" / f"{number}.csv").write_text(half, encoding="utf-8")
    table = read_source(tmp_path).splits["train"]
    assert [table.where(row) for row in (2, 3)] == [f"{tmp_path}/train/0.csv:4", f"{tmp_path}/train/1.csv:2"]
