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
import re
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPMessage
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
from dongu.data.download import _opener, address_file
from dongu.data.examples import Examples, TextData, read_examples
from dongu.data.sources import read_source
from dongu.doctor.checkup import check_up
from dongu.eject.reading import find_reading, write_rows
from dongu.errors import DataError, InputError, UsageError
from dongu.extras import require_extras

Columns = Mapping[str, Any]

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
    texts: Sequence[str] | None = None
    """The texts of the rows that a run reads of train, before any are held out; by default those of `read`."""
    means: Sequence[Any] | None = None
    """The label of each of these: a name, the names of several, or a number; by default those of `read`."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """The rows of splits that are cut from train."""
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
            columns if isinstance(next(iter(columns.values()), None), Mapping) else {"train": columns}
        )
        return splits

    def meant(self) -> tuple[Sequence[str] | None, Sequence[Any] | None]:
        train = self.expected()["train"]
        texts, means = train.get("text"), train.get("label")
        return self.texts or texts, self.means or means


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
OPEN = {"text": ['"a good film', 'a bad" film', 'so "good', '"so bad"'], "label": ["pos", "neg", "pos", "neg"]}
OPEN_QUOTES = "text,label\n" + "".join(f"{text},{label}\n" for text, label in zip(*OPEN.values(), strict=True))
INDEX = {"": range(6), **ROWS}
U16 = {"encoding": "utf-16-be"}


def halved(columns: Columns, first: bool) -> Columns:
    return {name: [*cells][:3] if first else [*cells][3:] for name, cells in columns.items()}


CSV = delimited(",").encode()
GZIPPED = gzip.compress(CSV, mtime=0)  # the same bytes at any second
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
CONFIGS_TWO = CONFIGS.replace("configs:\n", "configs:\n- config_name: small\n  data_files: x/*\n")
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

LINES = {"text": [TEXT[0] + "\nand more", *TEXT[1:]], "label": LABEL}
CRLF = {"text": [TEXT[0] + "\r\nand more", *TEXT[1:]], "label": LABEL}
BARE = "".join(f"{label}\t{text}\n" for text, label in zip(TEXT, LABEL, strict=True))
BARE_ROWS = {TEXT[0]: TEXT[1:], LABEL[0]: LABEL[1:]}
FASTTEXT = "".join(f"__label__{label} {text}\n" for text, label in zip(TEXT, LABEL, strict=True))
FASTTEXT_2 = ("__label__pos " + FASTTEXT.replace("__label__pos", "__label__neg", 1)).encode()
BOTH = [sorted(cell) for cell in SEVERAL["label"]]
ONES = [int(label == "pos") for label in LABEL]
INDEXED = pd.DataFrame(ROWS, index=[*"abcdef"])
CODED = {"text": TEXT, "label": [*map(str, ONES)]}
TEST_ROWS = {"id": [8, 9], "text": ["one", "two"]}
KAGGLE = {"train.csv": delimited(",", {"id": range(6), **ROWS}), "test.csv": delimited(",", TEST_ROWS)}
KAGGLE["sample_submission.csv"] = delimited(",", {"id": [8, 9], "label": ["pos", "pos"]})
KAGGLE_ZIP = {f"{name}.zip": zipped({name: text.encode()}) for name, text in KAGGLE.items()}
KAGGLE_READ: Any = {"train": ROWS, "test": {"text": ["one", "two"]}}
BIGQUERY = {f"out-00000000000{i}.csv.gz": gzip.compress(half.encode(), mtime=0) for i, half in enumerate((HALF, REST))}
STUDIO_CSV = {"annotation_id": range(6), "annotator": [1] * 6, "lead_time": [1.5] * 6, "sentiment": LABEL, "text": TEXT}
CHOSEN = ['{"choices":["pos","neg"]}', *LABEL[1:]]
STUDIO_CSV_2 = {**STUDIO_CSV, "sentiment": CHOSEN}
STARS = {"text": TEXT, "label": [*"415451"]}
RATED: list[dict[str, Any]] = [task(text, ["x"]) for text in TEXT]
for made_task, stars in zip(RATED, STARS["label"], strict=True):
    made_task["annotations"][0]["result"][0]["value"] = {"rating": int(stars)}


def argilla(text: str, *labels: str) -> dict[str, Any]:
    responses = {"feeling": [{"value": label, "user_id": "u", "status": "submitted"} for label in labels]}
    return {"id": "1", "fields": {"text": text}, "metadata": {}, "suggestions": {}, "responses": responses}


ARGILLA = [argilla(text, label) for text, label in zip(TEXT, LABEL, strict=True)] + [argilla("x", "pos", "neg")]
ARGILLA_FLAT = [
    {
        "id": "1", "status": "completed", "_server_id": "s", "text": text, "feeling.responses": label and [label],
        "feeling.responses.users": label and ["u"], "feeling.responses.status": label and ["submitted"],
    }
    for text, label in [*zip(TEXT, LABEL, strict=True), ("x", None)]
]  # fmt: skip
ARGILLA_1 = [
    {
        "text": text,
        "inputs": {"text": text},
        "prediction": None,
        "annotation": label,
        "annotation_agent": "me",
        "status": "Validated",
    }
    for text, label in [*zip(TEXT, LABEL, strict=True), ("x", None)]
]


def chat(*turns: str) -> dict[str, Any]:
    """As OpenAI's fine-tuning wants it."""
    roles = ("system", *("user", "assistant") * 2)
    return {"messages": [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]}


CHATS = [chat("Is it good?", *row.values()) for row in rows_of(ROWS)] + [chat("Is it good?", "a", "pos", "b", "neg")]
LIGHTTAG = {
    "examples": [
        {"content": text, "metadata": {}, "annotations": [], "classifications": [{"classname": label}]}
        for text, label in zip(TEXT, LABEL, strict=True)
    ]
}
SEVERAL_FLAGS = [[1, 1], [1, 0], *[[0, 1]] * 4]
FLAGS = {"text": TEXT, "rude": [1, 1, 0, 0, 0, 0], "sad": [1, 0, 1, 1, 0, 0], "odd": [0, 0, 0, 1, 0, 1]}


def classed() -> Any:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    return datasets.Dataset.from_dict({"text": TEXT, "label": LABEL}, features=features)


def by_key(key: str) -> dict[str, Any]:
    return {key.format(i): row for i, row in enumerate(rows_of(ROWS))}


def labels(
    name: str, cells: Sequence[Any], means: Sequence[Any], options: Mapping[str, Any] | None = None,
    *, mark: str = "", kind: str = "labels", said: str = "",
) -> list[Shape]:  # fmt: skip
    """A label column of jsonl, or of a csv where a mark is named."""
    columns = {"text": TEXT, "label": cells}
    files = {"a.csv": delimited(mark, columns)} if mark else {"a.jsonl": lines_of(rows_of(columns))}
    return [Shape(f"labels: {name}", kind, files, options or {}, {}, said=said, texts=TEXT, means=means)]


def split(name: str, options: Mapping[str, Any], **sizes: int) -> list[Shape]:
    """Twenty rows of four users and as many days, of which some are held out."""
    texts, names = [f"film number {i}" for i in range(20)], ["neg", "pos"] * 10
    columns = {
        "text": texts,
        "label": names,
        "user_id": [i // 4 for i in range(20)],
        "date": [f"2026-01-{i + 1:02}" for i in range(20)],
    }
    ids = "id,split\n" + "".join(f"{i},{'validation' if i < 6 else 'train'}\n" for i in range(20))
    files = {"rows.csv": delimited(",", columns), "ids.csv": ids}
    return [
        Shape(f"held out: {name}", "split", files, options, {}, texts=texts, means=names, sizes=sizes, data="rows.csv")
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
    Shape("csv without quoting", "csv", {"a.csv": OPEN_QUOTES}, {"quoting": "none"}, OPEN),
    Shape("csv of Spark", "csv", {"a.csv": ESCAPED}, {"escape": "\\"}, UNQUOTED),
    # Compressed
    Shape("csv in gzip", "archive", {"a.csv.gz": GZIPPED}),
    Shape("csv in bzip2", "archive", {"a.csv.bz2": bz2.compress(CSV)}),
    Shape("jsonl in xz", "archive", {"a.jsonl.xz": lzma.compress(JSONL.encode())}),
    Shape("csv in zstd", "archive", {"a.csv.zst": zstd(CSV)}),
    Shape("csv in zip", "archive", {"a.zip": zipped({"b/r.csv": CSV, "__MACOSX/r.csv": b"x"})}, said="b/r.csv in it"),
    Shape("csv of an Excel in zip", "archive", {"a.zip": zipped({"r.csv": UTF16})}, said="utf-16"),
    Shape("parquet in gzip", "archive", {"a.parquet.gz": lambda path: path.write_bytes(gzip.compress(parquet()))}),
    Shape("csv that says `sep=;`", "csv", {"a.csv": "sep=;\r\n" + delimited(";")}),
    Shape("csv with line breaks in cells", "csv", {"a.csv": delimited(",", LINES).replace("\n", "\r\n")}, read=CRLF),
    Shape("csv without a header", "csv", {"a.csv": delimited(",").partition("\n")[2]}, {"header": "text,label"}),
    Shape("tsv without a header", "csv", {"a.tsv": BARE}, {"header": "label,text"}),
    Shape(
        "a sheet without a header", "excel", {"a.xlsx": lambda path: workbook(path, x=BARE_ROWS)},
        {"header": "text,label"},
    ),
    Shape("fastText", "fasttext", {"a.txt": FASTTEXT}, said="lines of fastText: a label and a text"),
    Shape(
        "fastText, several labels", "fasttext", {"a.ft.txt.bz2": bz2.compress(FASTTEXT_2)}, read=SEVERAL,
        said="labels",
    ),
    # Arrow
    Shape("parquet", "parquet", {"a.parquet": parquet()}),
    Shape("arrow of a stream", "arrow", {"a.arrow": arrow(file=False)}),
    Shape("arrow of a file", "arrow", {"a.arrow": arrow(file=True)}),
    Shape("feather", "arrow", {"a.feather": arrow(file=True)}),
    Shape("a `Dataset` that was saved", "saved", data=lambda folder: saved(folder, None)),
    Shape("a `DatasetDict` that was saved", "saved", data=lambda folder: saved(folder, "train", "test"), read=TWO),
    Shape(
        "parquet with `ClassLabel`", "parquet", {"a.parquet": lambda path: classed().to_parquet(path)}, read=CODED,
        means=LABEL,
    ),
    Shape("parquet of pandas with its index", "parquet", {"a.parquet": lambda path: INDEXED.to_parquet(path)}),
    Shape(
        "parquet with bytes", "parquet", {"a.parquet": parquet({"text": [x.encode() for x in TEXT], "label": LABEL})},
    ),
    # Folders
    Shape("a folder of splits", "folder", {"train.csv": CSV, "dev.csv": HALF, "test.jsonl": JSONL}, read=THREE),
    Shape("a folder of splits in gzip", "folder", {"train.csv.gz": GZIPPED, "test.csv": HALF}, read=TEST),
    Shape("shards of a split", "shards", shards("train-{}.parquet"), said="2 files in the order of their names"),
    Shape("the Hub's layout", "shards", {**shards("data/train-{}.parquet"), **NOTES}, said="2 files"),
    Shape("a folder in the Hub's layout", "shards", {**shards("plain_text/train-{}.parquet"), **NOTES}, said="2 files"),
    Shape(
        "a README.md with `configs`", "shards", {**shards("x/{}.parquet"), "README.md": CONFIGS},
        read=TEST_HALF, said="2 files",
    ),
    Shape(
        "one of several `configs`", "shards", {**shards("x/{}.parquet"), "README.md": CONFIGS_TWO},
        data=lambda folder: f"{folder}:small", said="2 files",
    ),
    Shape("a folder for each split", "shards", {"train/part-0.csv": HALF, "train/part-1.csv": REST}, said="2 files"),
    Shape("a pattern", "shards", {"x/part-0.csv": HALF, "x/part-1.csv": REST}, data="x/*.csv", said="2 files"),
    Shape("a pattern of splits", "shards", {"train.csv": CSV, "test.csv": HALF}, data="*.csv", read=TEST),
    Shape("a folder for each class", "classes", BY_CLASS, read=CLASSES, said="2 folders of texts"),
    Shape("IMDB's folders", "classes", IMDB, read={"train": CLASSES, "test": CLASSES}, said="each a class: neg, pos"),
    Shape("20 Newsgroups' folders", "classes", NEWS, LATIN, NEWS_READ, said="a class: alt.atheism, sci.space"),
    Shape(
        "a file for each class", "classes", {"pos.txt": "a\nb\r\n\n", "neg.txt": "c\nd", "README.txt": "x", ".x": "x"},
        read={"text": [*"cdab"], "label": ["neg", "neg", "pos", "pos"]}, said="a row a line, each a class: neg, pos",
    ),
    Shape(
        "files whose names end in a split", "folder",
        {"reviews_train.csv": CSV, "reviews_dev.csv": HALF, "reviews_test.jsonl": JSONL}, read=THREE,
        said="reviews_test.jsonl: test, by the end of the name",
    ),
    Shape(
        "folders for each class with files of a system", "classes",
        {**BY_CLASS, ".DS_Store": "x", "pos/.DS_Store": "x", "neg/Thumbs.db": b"\0", "pos/desktop.ini": "x"},
        read=CLASSES, said="2 folders of texts",
    ),
    Shape("Kaggle's files", "folder", KAGGLE, read=KAGGLE_READ),
    Shape("Kaggle's archives", "folder", KAGGLE_ZIP, read=KAGGLE_READ, said="train.csv in it"),
    Shape("BigQuery's shards", "shards", BIGQUERY, data="out-*.csv.gz", said="2 files"),
    # JSON
    Shape("jsonl", "json", {"a.jsonl": JSONL}),
    Shape("jsonl called ndjson", "json", {"a.ndjson": JSONL}),
    Shape("a folder of ndjson in gzip", "folder", {"train.ndjson.gz": gzip.compress(JSONL.encode())}, data="."),
    Shape("a json array", "json", {"a.json": json.dumps(rows_of(ROWS), indent=1)}),
    Shape("json lines in a .json", "json", {"a.json": JSONL}),
    Shape("`{\"data\": [...]}`", "field", {"a.json": json.dumps({"n": 1, "data": rows_of(ROWS)})}, said="field `data`"),
    Shape("a list of rows by its path", "field", {"a.json": json.dumps(DEEP, indent=1)}, {"field": "out.rows"}),
    Shape("pandas' `to_json()`", "json", {"a.json": json.dumps(PANDAS)}, said="an object of 2 columns"),
    Shape("pandas' `orient=\"split\"`", "json", {"a.json": json.dumps(SPLIT)}, said="an object of 3 columns"),
    Shape("pandas' `orient=\"table\"`", "json", {"a.json": json.dumps(SCHEMA)}, said="the rows of the field `data`"),
    Shape("a json of columns", "json", {"a.json": json.dumps(ROWS, indent=1)}, said="an object of 2 columns"),
    Shape(
        "pandas' `orient=\"index\"`", "json", {"a.json": json.dumps(by_key("{}"))},
        said="6 rows; not used: their keys",
    ),
    Shape("an object of rows by their ids", "json", {"a.json": json.dumps(by_key("id {}"))}, said="6 rows; not used"),
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
    Shape(
        "Label Studio, ratings", "tool", {"a.json": json.dumps(RATED)}, read=STARS, means=STARS["label"],
        said="Label Studio",
    ),
    Shape(
        "Label Studio CSV", "tool", {"a.csv": delimited(",", STUDIO_CSV)}, {}, {"sentiment": LABEL}, texts=TEXT,
        means=LABEL,
    ),
    Shape(
        "Label Studio CSV, several labels", "tool", {"a.csv": delimited(",", STUDIO_CSV_2)},
        read={"text": TEXT, "sentiment": SEVERAL["label"]}, means=BOTH, said="each cell of `sentiment` as a list",
    ),
    Shape("doccano CSV", "tool", {"a.csv": delimited(",", {"id": range(6), **ROWS, "Comments": [""] * 6})}),
    Shape("Argilla", "tool", {"a.json": json.dumps(ARGILLA)}, said="left out: 1 row, on which the annotators disagree"),
    Shape("Argilla, flat", "tool", {"a.jsonl": lines_of(ARGILLA_FLAT)}, said="left out: 1 row, without a response"),
    Shape(
        "Argilla of version 1", "tool", {"a.json": json.dumps(ARGILLA_1)},
        said="left out: 1 row, without an annotation",
    ),
    Shape(
        "Snorkel's labels", "tool", {"a.csv": delimited(",", {"text": ["x", *TEXT], "label": [-1, *ONES]})},
        {"unlabelled": "drop"}, {}, texts=TEXT, means=[*map(str, ONES)],
    ),
    Shape("OpenAI's conversations", "tool", {"a.jsonl": lines_of(CHATS)}, said="left out: 1 row, whose conversation"),
    Shape(
        "LightTag, by its paths", "nested", {"a.json": json.dumps(LIGHTTAG)},
        {"text_columns": ("content",), "label_column": "classifications.0.classname"},
        {"content": TEXT, "classifications.0.classname": LABEL}, texts=TEXT, means=LABEL, said="field `examples`",
    ),
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
    Shape(
        "sets and members of an enum", "memory",
        data=lambda _: {"text": TEXT, "label": [{*cell} for cell in SEVERAL["label"]]}, read={"text": TEXT},
        means=BOTH,
    ),
    # What a label is
    *labels("lists of 0 and 1", SEVERAL_FLAGS, [["0", "1"], ["0"], *[["1"]] * 4], kind="several"),
    *labels("one-hot lists", [[float(i == j) for j in (0, 1)] for i in ONES], [[str(i)] for i in ONES]),
    *labels("lists of ids", [[7, 12], [7], *[[12]] * 4], [["7", "12"], ["7"], *[["12"]] * 4]),
    *labels("lists as text", [str(cell) for cell in SEVERAL["label"]], BOTH, mark=","),
    *labels("JSON lists as text", [json.dumps(cell) for cell in SEVERAL["label"]], BOTH, mark=","),
    *labels("names with bars", ["|".join(cell) for cell in SEVERAL["label"]], BOTH, mark=","),
    *labels(
        "names with commas", ["a,b", "a", "b", "a", "b", "b,a"], [["a", "b"], ["a"], ["b"], ["a"], ["b"], ["a", "b"]],
        mark=";", said="semicolon",
    ),
    *labels(
        "names with another mark", [" / ".join(cell) for cell in SEVERAL["label"]], BOTH, {"label_separator": " / "},
        mark=",",
    ),
    *labels("true and false", [label == "pos" for label in LABEL], [str(label == "pos").lower() for label in LABEL]),
    *labels("whole numbers with a point", [float(i) for i in ONES], [*map(str, ONES)]),
    *labels("numbers", [0.5, 2.5, 3.0, 1.5, 4.0, 2.0], [0.5, 2.5, 3.0, 1.5, 4.0, 2.0], kind="numbers"),
    *labels(
        "decimal commas", ["0,5", "2,5", "3", "1,5", "4", "2"], [0.5, 2.5, 3.0, 1.5, 4.0, 2.0], mark=";",
        said="semicolon",
    ),
    *labels("stars", [1, 2, 3, 3, 2, 1], ["1", "2", "3", "3", "2", "1"]),
    *labels("stars with their order", [1, 2, 3, 3, 2, 1], [1, 2, 3, 3, 2, 1], {"task": "ordinal"}, kind="scale"),
    *labels("ids with names", ONES, LABEL, {"label_names": "neg,pos"}),
    *labels("the positive class", LABEL, LABEL, {"positive": "neg"}),
    *labels("rare classes", ["a", "a", "a", "b", "c", "a"], ["a", "a", "a", "other", "other", "a"], {"rare": "join=2"}),
    *labels(
        "shares of classes", [[0.9, 0.1] if x else [0.2, 0.8] for x in ONES], [str(1 - x) for x in ONES], kind="soft",
    ),
    Shape(
        "columns of 0 and 1", "several", {"a.csv": delimited(",", FLAGS)}, read={}, texts=TEXT,
        means=[["rude", "sad"], ["rude"], ["sad"], ["sad", "odd"], [], ["odd"]],
    ),
    Shape(
        "rows without a label", "labels", {"a.jsonl": lines_of([*rows_of(ROWS), {"text": "x", "label": None}])},
        {"unlabelled": "drop"}, {}, texts=TEXT, means=LABEL,
    ),
    Shape(
        "rows without a text", "labels", {"a.csv": "text,label\n,pos\n" + CSV.decode().partition("\n")[2]},
        {"empty": "drop"}, {}, texts=TEXT, means=LABEL,
    ),
    Shape("rows that cannot be read", "labels", {"a.csv": CSV.decode() + "a,b,c\n"}, {"bad_rows": "drop=15%"}),
    Shape(
        "elements that are no rows", "labels", {"a.json": "[NaN, 7, " + json.dumps(rows_of(ROWS))[1:]},
        {"bad_rows": "drop=25%"},
    ),
    # Which columns
    Shape(
        "names in capitals", "columns", {"a.csv": delimited(",", {"ID": range(6), "Text": TEXT, "LABEL": LABEL})},
        read={}, texts=TEXT, means=LABEL,
    ),
    Shape(
        "names of several words", "columns", {"a.csv": delimited(",", {"Review Text": TEXT, "Star Rating": ONES})},
        read={}, texts=TEXT, means=[*map(str, ONES)],
    ),
    Shape(
        "one column left", "columns", {"a.csv": delimited(",", {"queue": LABEL, "what": TEXT})}, read={}, texts=TEXT,
        means=LABEL,
    ),
    Shape(
        "a pair of texts", "pair", {"a.csv": delimited(",", {"premise": TEXT, "hypothesis": TEXT, "label": LABEL})},
        read={}, texts=[f"{x} / {x}" for x in TEXT], means=LABEL,
    ),
    Shape(
        "two columns as one text", "columns",
        {"a.csv": delimited(",", {"title": TEXT, "body": TEXT, "label": LABEL})}, {"text_columns": ("title+body",)},
        {}, texts=[f"{x}\n{x}" for x in TEXT], means=LABEL,
    ),
    # Which rows are held out
    *split("shares", {"validation": 0.2, "test": 0.2}, train=12, validation=4, test=4),
    *split("groups", {"group_column": "user_id", "validation": 0.2}, train=16, validation=4),
    *split("the newest rows", {"time_column": "date", "validation": 0.2}, train=16, validation=4),
    *split("one of five folds", {"fold": "2/5"}, train=16, validation=4),
    *split("a file of ids", {"split_file": "ids.csv"}, train=14, validation=6),
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


def told(data: TextData, examples: Examples, row: int) -> Any:
    """The label of a row as a person says it."""
    assert examples.targets is not None
    target = examples.targets[row]
    if data.task == "multi-label":
        return sorted(name for name, flag in zip(data.label_names, target, strict=True) if flag)
    return data.label_names[target] if data.task == "single-label" else float(target)


@pytest.mark.parametrize("shape", [x for x in SHAPES if x.meant()[1]], ids=str)
def test_a_shape_means_what_it_says(shape: Shape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The texts and the labels of a run, row by row, whatever part they are held out for."""
    monkeypatch.chdir(tmp_path)  # the file of ids is named by its path
    config = make_config(shape.options)
    data = read_examples(read_source(shape.write(tmp_path), config), config)
    parts = {name: part for name, part in data.splits.items() if name in ("train", *data.held_out)}
    rows = sorted(
        (int(part.ids[row]), " / ".join(text[row] for text in part.texts), told(data, part, row))
        for part in parts.values()
        for row in range(len(part))
    )
    texts, means = shape.meant()
    assert means is not None
    assert texts is None or [text for _, text, _ in rows] == [*texts]
    assert [label for _, _, label in rows] == [sorted(label) if isinstance(label, list) else label for label in means]
    assert {name: len(part) for name, part in data.splits.items() if name in shape.sizes} == shape.sizes


def first_of_each(shapes: Iterable[Shape]) -> list[Shape]:
    first: dict[str, Shape] = {}
    for shape in shapes:
        first.setdefault(shape.kind, shape)
    return [*first.values()]


def test_there_are_many() -> None:
    assert len(SHAPES) >= 90
    assert len({shape.name for shape in SHAPES}) == len(SHAPES)


@pytest.mark.parametrize("shape", first_of_each(SHAPES), ids=str)
def test_a_shape_is_trained_on(shape: Shape, tmp_path: Path, tiny_model: Any) -> None:
    loop = dongu.Loop(shape.write(tmp_path), model=tiny_model(), max_steps=2, batch_size=2, **shape.options)
    assert len(list(loop)) == 2


def documented() -> list[list[str]]:
    """The cells of the table of docs/data.md."""
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    table = page.partition("<!-- shapes -->")[2].partition("<!-- /shapes -->")[0]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.strip().splitlines()[2:]]


def test_the_documentation_lists_all_shapes_and_no_others() -> None:
    assert [name for name, *_ in documented()] == [shape.name for shape in SHAPES]


@pytest.mark.cases(test=10, ci=60)
@pytest.mark.parametrize(
    ("shape", "eject"), [(x, row[3]) for x, row in zip(SHAPES, documented(), strict=True)], ids=map(str, SHAPES)
)
def test_an_ejected_script_reads_the_shapes_that_the_documentation_says(
    shape: Shape, eject: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reading of a script is tried on all rows, and what it cannot read is refused with the option that helps."""
    if eject == "no":
        assert shape.kind in ("memory", "scale", "soft")
        return
    monkeypatch.chdir(tmp_path)
    config = make_config(shape.options)
    data = read_examples(read_source(shape.write(tmp_path), config), config)
    if eject == "`--rows`":
        with pytest.raises(InputError) as caught:
            find_reading(data, config)
        assert "--rows FOLDER" in caught.value.hint
        data = write_rows(data, tmp_path / "rows")
    assert find_reading(data, config).paths["train"]


def test_fields_within_a_column_are_named_where_the_label_cannot_be_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"ticket": "x", "meta": {"by": {"id": 1}, "queue": "y"}}\n', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_examples(read_source(tmp_path / "a.jsonl"), make_config({}))
    assert "ticket, meta.by.id, meta.queue" in caught.value.hint


NESTED_LABEL = [
    {"body": {"title": "a", "text": text}, "labels": [{"name": "ab"[i % 2]}]} for i, text in enumerate(TEXT)
]


@pytest.mark.parametrize(
    ("rows", "options", "hint"),
    [
        (NESTED_LABEL, {"text_columns": "body.text"}, "name a field of it: labels.0.name; or a run with --bad-rows"),
        (NESTED_LABEL, {"label_column": "labels.0.name"}, "a field of it: body.title, body.text; or a run"),
        ([{"turns": [{"who": 1, "what": text}]} for text in TEXT], {}, "the columns are: turns.0.who, turns.0.what"),
    ],
)
def test_a_field_of_what_is_no_cell_is_named(rows: Any, options: Any, hint: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines_of(rows), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_examples(read_source(tmp_path / "a.jsonl", config := make_config(options)), config)
    assert hint in caught.value.hint


def test_another_sheet_is_named_where_the_first_has_no_rows(tmp_path: Path) -> None:
    workbook(tmp_path / "a.xlsx", info={"Export of": ["x"], "2026-01-01": ["y"]}, rows=ROWS)
    with pytest.raises(DataError, match="which column is the label") as caught:
        read_examples(read_source(tmp_path / "a.xlsx"), make_config({}))
    assert "the sheet `info` of 2 (--sheet names another)" in caught.value.hint


def test_a_sheet_without_rows_and_a_title_above_the_header_are_said(tmp_path: Path) -> None:
    workbook(tmp_path / "a.xlsx", info={"About these rows": []}, rows=ROWS)
    with pytest.raises(DataError, match="there are no rows") as caught:
        read_source(tmp_path / "a.xlsx")
    assert "the sheet `info` of 2 (--sheet names another)" in caught.value.hint
    workbook(tmp_path / "a.xlsx", x={"A title": ["text", *TEXT], "": ["label", *("ab" * len(TEXT))[: len(TEXT)]]})
    with pytest.raises(DataError, match="which column is the label") as caught:
        read_examples(read_source(tmp_path / "a.xlsx"), make_config({}))
    assert "the first row names one, `A title`" in caught.value.hint


def test_a_formula_without_a_stored_value_is_told_from_an_empty_cell(tmp_path: Path) -> None:
    """Programs that write workbooks do not compute. What Excel has stored is read; that may be an empty text."""
    columns = {"text": ["x", "y", "z"], "label": ["a", '=IF(1,"b","c")', '=IF(1,"","c")']}
    workbook(tmp_path / "a.xlsx", x=columns)
    with pytest.raises(DataError, match="`label` is a formula without a stored value") as caught:
        read_examples(read_source(tmp_path / "a.xlsx"), make_config({}))
    assert caught.value.where == f"{tmp_path / 'a.xlsx'}:3"
    assert "open the file in Excel or LibreOffice and save it once" in caught.value.what
    with zipfile.ZipFile(tmp_path / "a.xlsx") as old, zipfile.ZipFile(tmp_path / "b.xlsx", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("sheet1.xml"):
                for cell, value in ((b"B3", b"<v>b</v>"), (b"B4", b"<v></v>")):
                    before, at, after = content.partition(b'r="' + cell + b'"')
                    content = before + at + b' t="str"' + re.sub(rb"<v ?/>|<v></v>", value, after, count=1)
            new.writestr(name, content)
    assert read_source(tmp_path / "b.xlsx").splits["train"].columns["label"] == ["a", "b", None]


def test_quotes_that_look_like_those_of_csv_are_a_finding(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(QUOTED, encoding="utf-8")
    for quoting in (None, "none", "csv"):
        config = make_config({"quoting": quoting, "model": "not/here"})
        findings = check_up(read_source(tmp_path / "a.tsv", config), config).findings
        advice = [found.advice for found in findings if "double quote" in found.what]
        assert len(advice) == (quoting is None)
        assert all("--quoting csv" in words and "--quoting none" in words for words in advice)


@pytest.mark.parametrize(
    ("cells", "what"),
    [
        ([(label, f"{label} is a film {i} of many") for i in range(4) for label in ("p", "n")], "line may be a row"),
        ([(label, f"{label} is a film {i} of many") for i in range(4) for label in ("spam", "ham")], "may be a row"),
        (
            [(label, f"{label} {i}") for i in range(4) for label in ("p", "n")],
            "it is unclear which column is the label",
        ),
        (
            [("3", "a long title that no column has", f"a b c {i}") for i in range(5)],
            "it is unclear which column is the label",
        ),
    ],
)
def test_a_row_is_not_taken_for_a_header(cells: list[tuple[str, ...]], what: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("".join(",".join(row) + "\n" for row in cells), encoding="utf-8")
    with pytest.raises(DataError, match=what) as caught:
        read_examples(read_source(path), make_config({}))
    assert "--header" in caught.value.hint
    if len(cells[0]) == 2:
        header = {"text": [text for _, text in cells[1:]], cells[0][0]: [label for label, _ in cells[1:]]}
        path.write_text(delimited(",", header), encoding="utf-8")
        config = make_config({"label_column": cells[0][0], "text_columns": ["text"]})
        assert read_examples(read_source(path), config).columns.label == cells[0][0]


class Pipe(io.BytesIO):
    """Standard input that is no terminal."""

    @property
    def buffer(self) -> Pipe:
        return self


@pytest.mark.parametrize(
    "content",
    [CSV, JSONL.encode(), parquet(), GZIPPED, UTF16, json.dumps({"data": rows_of(ROWS)}).encode()],
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

    def open(self, address: str, **_: Any) -> io.BytesIO:
        assert address == "https://example.org/a%20b.csv.gz?x=1"
        return io.BytesIO(self.content)


def test_an_address_is_fetched_if_that_is_asked_for_and_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    address, config = "https://example.org/a%20b.csv.gz?x=1", make_config({"download": True})
    with pytest.raises(DataError, match="read only if you ask for it"):
        read_source(address)
    with pytest.raises(DataError, match="only https://"):
        read_source(address.replace("https", "http"), config)
    monkeypatch.setattr("dongu.data.download._opener", lambda: Server(GZIPPED))
    source = read_source(address, config)
    assert source.name == "a b"
    assert source.splits["train"].columns == ROWS
    assert source.place == f"{address}#sha256={hashlib.sha256(GZIPPED).hexdigest()}"
    assert read_source(source.place, config).place == source.place
    monkeypatch.setattr("dongu.data.download._opener", lambda: Server(gzip.compress(CSV + b"x,y\n", mtime=0)))
    with pytest.raises(DataError, match="its contents have changed"):
        read_source(source.place, config)


def test_what_fsspec_reads_is_read_as_files_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import fsspec

    monkeypatch.setenv("DONGU_CACHE", str(tmp_path))
    store = fsspec.filesystem("memory")
    store.pipe(
        {
            "/own/train.csv.gz": GZIPPED,
            "/own/test.jsonl": JSONL.encode(),
            "/own/a.parquet": parquet(),
        }
    )
    one, pattern = read_source("memory://own/train.csv.gz"), read_source("memory://own/*.parquet")
    folder = read_source("memory://own")
    assert one.splits["train"].columns == pattern.splits["train"].columns == ROWS
    assert {**folder.splits}.keys() >= {"train", "test"}
    assert folder.splits["test"].columns == ROWS
    assert (one.name, folder.name, pattern.name) == ("train", "own", "own")
    assert str(folder.splits["train"].origin) == "memory://own/train.csv.gz"
    assert one.place == f"memory://own/train.csv.gz#sha256={hashlib.sha256(GZIPPED).hexdigest()}"
    assert not list(tmp_path.iterdir())
    for source in (one, folder, pattern):
        assert read_source(source.place).place == source.place
    store.pipe({"/own/train.csv.gz": gzip.compress(CSV + b"x,y\n", mtime=0), "/own/bad.csv": b"text,label\na,b,c\n"})
    for source in (one, folder):
        with pytest.raises(DataError, match="its contents have changed"):
            read_source(source.place)
    with pytest.raises(DataError, match=r"memory://own/bad.csv:2"):
        read_source("memory://own/bad.csv")
    with pytest.raises(DataError, match=r"memory://own/none.csv: cannot be read \(nothing is there\)"):
        read_source("memory://own/none.csv")

    class NoCredentialsError(Exception):  # as botocore has it: of no common kind
        pass

    def refuse(*_: Any, **__: Any) -> Any:
        raise NoCredentialsError("Unable to locate credentials")

    monkeypatch.setattr(type(store), "open", refuse)
    with pytest.raises(DataError, match=r"cannot be read \(Unable to locate credentials\)"):
        read_source("memory://own/bad.csv")
    store.rm("/own", recursive=True)


def test_what_an_address_lacks_is_said_first() -> None:
    config = make_config({"data": "s3://bucket/a.csv", "download": True})
    with pytest.raises(UsageError, match="needs the package s3fs") as lacking:
        require_extras(config)
    assert 'pip install ".[s3]"' in str(lacking.value)
    with pytest.raises(UsageError, match="has a password in it") as secret:
        read_source("s3://key:topsecret@bucket/a.csv")
    assert "topsecret" not in str(secret.value)
    assert "key" not in str(secret.value)
    for name in ("X-Amz-Signature", "sig", "access_token", "api-key", "AUTH"):  # of addresses that stores sign
        with pytest.raises(UsageError, match=rf"has a secret in it \(`{name}`\)") as signed:
            read_source(f"https://example.org/a.csv?x=1&{name}=topsecret", config)
        assert "topsecret" not in str(signed.value)
    with pytest.raises(DataError, match="read only if you ask for it") as asked:
        read_source("hdfs://example.org/a.csv?keyword=1&design=2")
    assert "curl" not in asked.value.hint  # which does not know it


def test_the_name_of_an_address() -> None:
    """A run is called by it; only what fsspec reads has patterns."""
    names = {
        "https://example.org/a%20b[1]*.csv?x=1#sha256=0": "a b[1]*.csv",
        "https://example.org/": "example.org",
        "https://[example/a.csv": "a.csv",
        "s3://bucket/reviews/part-*.parquet": "reviews",
        "s3://bucket/*.parquet": "bucket",
        "s3://bucket/reviews/": "reviews",
    }
    assert {address: address_file(address) for address in names} == names
    with pytest.raises(DataError, match=r"https://\[example/a.csv: cannot be read"):
        read_source("https://[example/a.csv", make_config({"download": True}))


def test_redirects_stay_https() -> None:
    request = urllib.request.Request("https://example.org/a.csv")
    (follows,) = [each for each in _opener().handlers if isinstance(each, urllib.request.HTTPRedirectHandler)]
    with pytest.raises(ValueError, match="which is not https"):
        follows.redirect_request(request, io.BytesIO(), 302, "", HTTPMessage(), "http://example.org/a.csv")
    assert follows.redirect_request(request, io.BytesIO(), 302, "", HTTPMessage(), "https://example.org/b.csv")


def test_all_commands_read_alike(
    tmp_path: Path, tiny_model: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found is said before the run is; run.json has the options; other data take them too."""
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_bytes(delimited("~", WESTERN).encode("cp1252"))
    Path("b.csv.gz").write_bytes(gzip.compress(delimited(";", WESTERN).encode("cp1252"), mtime=0))
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
        ("text;a|label;b\nx;y|1;2\nz;w|3;4\n", {}, "both a semicolon and a bar may be the delimiter", "--delimiter"),
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


FREE_BYTES = 1 << 20  # in these tests, of any archive; by itself 256 times as many
BOMB = bytes(1 << 25)
NO_SHARD = {f"data/train-{i:05}-of-00003.csv": CSV for i in (0, 2)}
ELSEWHERE = "---\nconfigs:\n- config_name: default\n  data_files: %s\n---\n"
REFUSED: list[tuple[Mapping[str, str | bytes], str, str]] = [
    ({"a.csv.gz": gzip.compress(BOMB, 1)}, "far more than its own size", "--max-expansion N"),
    ({"a.csv.bz2": bz2.compress(BOMB)}, "far more than its own size", "--max-expansion N"),
    ({"a.zip": zipped({"a.csv": BOMB})}, "far more than its own size", "--max-expansion N"),
    ({"a.csv.zst": zstd(CSV)[:-9]}, "archive is damaged", "fetch it again"),
    ({"a.csv.gz": GZIPPED[:-9]}, "archive is damaged", "fetch it again"),
    ({"a.csv.xz": lzma.compress(CSV)[:-9]}, "archive is damaged", "fetch it again"),
    ({"a.csv.bz2": b"text,label"}, "the file is text, not bz2", "rename it to a.csv"),
    ({"a.zip": zipped({"train.csv": CSV, "test.csv": CSV})}, "holds 2 files (train.csv, test.csv)", "unpack it"),
    ({"a.zip": zipped({"../../x.exe": CSV})}, "files ending in .exe are not read", ".csv"),
    ({"a.tar.gz": GZIPPED}, "files ending in .tar are not read", "unpack it"),
    (NO_SHARD, "of 3 shards of train, number 1 is missing", "fetch it again"),
    ({"a.csv": CSV, "README.md": ELSEWHERE % "../b.csv"}, "'../b.csv' is not a path in the folder", "correct"),
    ({"a.csv": CSV, "README.md": ELSEWHERE % "/etc/*"}, "'/etc/*' is not a path in the folder", "correct"),
    ({"a.csv": CSV, "README.md": ELSEWHERE % "b/*"}, "there is no file 'b/*'", "fetch"),
    ({"x/README.md": CONFIGS_TWO.replace("default", "b")}, "there are the configurations small, b", ":small"),
    ({"state.json": '{"_data_files": [{"filename": "../x.arrow"}]}'}, "does not name the files", "load_from_disk"),
    ({"train/part-0.csv": HALF, "train/part-1.jsonl": JSONL.replace("text", "t")}, "are t, label, and those", "same"),
    ({"pos/1.txt": "x", "neg/1.txt": b"\xff\xfe\xff"}, "not in utf-16", "--encoding"),
    ({"a/1.txt": "x", "a/1.ann": "T1"}, "no train split; there is a", "in at least two classes"),
    ({"1.txt": "x", "1.ann": "T1 x"}, "no train split; there is 1.ann, 1.txt", "a folder for each class"),
    ({"a.txt": "a text\tx\n"}, "does not begin with __label__", "name it .tsv"),
    ({"a.json": '[{"text": "x", "label": NaN}]'}, "NaN is not a JSON value", "--bad-rows drop=1%"),
    ({"a.json": json.dumps([["x", "y"]])}, "not an object", "--bad-rows drop=1%"),
    ({"pos/1.csv": "x", "neg/1.csv": "x"}, "no train split; there is neg, pos", "folders by class hold files of text"),
    ({"pos/1.txt": "x", "neg/1.doc": "x", "README.md": "x"}, "no train split", "two classes; there is neg/1.doc"),
    ({"a.xlsx": "x"}, "the file is text, not xlsx", "rename it"),
    ({"a.xlsx": b"PK\x03\x04 and no more"}, "workbook cannot be read", "save it again"),
    ({"pos.txt": "x\n", "neg.txt": "y\n", "a.md": "x"}, "no train split", "a row a line) are read where nothing else"),
    ({"pos.txt": "__label__a x\n", "neg.txt": "__label__b y\n"}, "lines of fastText", "name it train.txt"),
    ({"pos.txt": b"PK\x03\x04", "neg.txt": "y\n"}, "a zip archive, not text", "unpack"),
    ({"a.csv": "# of a tool\ntext,label\nx,y\n"}, "2 cells, and the header has 1 column", "not a header, remove it"),
]


@pytest.mark.parametrize(("files", "what", "hint"), REFUSED, ids=range(len(REFUSED)))
def test_a_refusal_names_what_would_accept(
    files: Mapping[str, str | bytes], what: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dongu.data.archives.FREE_BYTES", FREE_BYTES)
    data = Shape("", "", files).write(tmp_path)
    with pytest.raises(DataError) as caught:
        read_source(data.removesuffix("/README.md").removesuffix("/state.json"))
    assert what in caught.value.what
    assert hint in caught.value.hint


def test_an_archive_may_unpack_to_so_much_by_itself(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(bytes(1 << 29), 1))
    with pytest.raises(DataError, match="more than 268,435,456 bytes"):
        read_source(tmp_path / "a.csv.gz")


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
