"""What may be wrong with a user's data, one case a row, and what a well-formed file is read as."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import subprocess
import sys
import zipfile
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dongu.config import make_config
from dongu.data import json_rows, sources
from dongu.data.readers import read_file
from dongu.data.sources import read_source
from dongu.data.table import Number
from dongu.errors import DataError

GOOD = "text,label\nhello,1\nworld,0\n"


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def failure(data: Any) -> DataError:
    """The error of reading; each of its parts is one line, and there is a place and a hint."""
    with pytest.raises(DataError) as caught:
        read_file(data) if isinstance(data, Path) and not data.is_dir() else read_source(data)
    error = caught.value
    assert error.hint
    assert "\n" not in error.what + error.where + error.hint
    return error


def parquet(folder: Path, name: str, table: Any) -> Path:
    from pyarrow import parquet as pq

    pq.write_table(table, folder / name)
    return folder / name


# --- text files

# name, content, the line of the error (None: the whole file), a part of what, a part of the hint
BROKEN: list[tuple[str, str | bytes, int | None, str, str]] = [
    ("a.csv", b"", None, "0 bytes", "again"),
    ("a.jsonl", b"", None, "0 bytes", "again"),
    ("a.parquet", b"", None, "0 bytes", "again"),
    ("a.csv", "text,label\n", None, "no rows", "one row"),
    ("a.tsv", "text\tlabel", None, "no rows", "one row"),
    ("a.csv", "\n\r\n \n", None, "only blank lines", "again"),
    ("a.json", "\n\n", None, "only blank lines", "again"),
    ("a.csv", b"\xef\xbb\xbf\n", None, "only blank lines", "again"),
    # not UTF-8 text
    ("a.csv", "text,label\nok,1\ncafé,0\n".encode("cp1252"), 3, "0xE9", "--encoding cp1252"),
    ("a.jsonl", '{"text": "café"}'.encode("latin-1"), 1, "0xE9", "--encoding cp1252"),
    ("a.csv", b"text\n\xed\xa0\x80\n", 2, "0xED", "--encoding"),
    ("a.csv", GOOD.encode("utf-16") + b"\0", 4, "not in utf-16 (truncated data)", "--encoding"),
    ("a.csv", GOOD.encode("utf-32")[:-2], 3, "not in utf-32 (truncated data)", "--encoding"),
    ("a.csv", GOOD.encode("utf-16-le"), 1, "NUL", "utf-16"),
    ("a.csv", "text,label\nok,1\nb\0d,0\n", 3, "NUL", "remove"),
    ("a.csv", b"\x1f\x8b\x08\x00rest", None, "gzip", ".gz"),
    ("a.jsonl", b"\x1f\x8b\x08\x00rest", None, "gzip", ".gz"),
    ("a.csv", b"PK\x03\x04 xl/workbook.xml", None, "Excel", ".xlsx"),
    ("a.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", None, "Excel", ".xlsx"),
    ("a.csv", b"PAR1\x15\x04 \xff PAR1", None, "parquet", ".parquet"),
    # csv
    ("a.csv", "text,label\nok,1\na, b,0\n", 3, "3 cells, and the header has 2", "comma"),
    ("a.csv", 'text,label\n"two\nlines",1\nshort\n', 4, "1 cell,", "comma"),
    ("a.csv", "text,label\nok,1\n\nok,0\n", 3, "0 cells", "comma"),
    ("a.csv", "text,label\nok,1\n  \n", 3, "1 cell,", "comma"),
    ("a.csv", 'text,label\nok,1\n"open,0\nmore,1\nend,0\n', 3, "never closes", "double quote"),
    ("a.csv", 'text,label\nok,1\n"open,0\nmore,1\n"end",0\n', 3, "runs on to line 5", "quote"),
    ("a.csv", 'text,label\n"he said "hi"",1\n', 2, "closing quote", '""'),
    ("a.csv", "text,label\nok\rno,1\n", 2, "new-line", "quotes"),
    ("a.csv", "text,label\rok,1\r", None, "carriage return", "LF"),
    ("a.csv", "text;label\nok\n", 2, "1 cell, and the header has 2", "semicolon"),
    ("a.csv", "text\tlabel\nok\n", 2, "1 cell, and the header has 2", "a tab"),
    ("a.csv", "text,text\na,b\n", 1, "two columns are named 'text'", "rename"),
    ("a.csv", ",\n0,b\n", 1, "column 1 has no name", "name"),
    ("a.csv", "\ntext,label\nb,1\n", 1, "first line is empty", "names"),
    # tsv
    ("a.tsv", "text\tlabel\nok\t1\na\tb\t0\n", 3, "3 cells, and the header has 2", "tab"),
    ("a.tsv", "text\tlabel\nok\n", 2, "1 cell,", "tab"),
    ("a.tsv", "text\tlabel\n\nok\t1\n", 2, "0 cells", "tab"),
    ("a.tsv", "text,label\nok\n", 2, "1 cell,", "comma"),
    ("a.tsv", "text\ttext\na\tb\n", 1, "two columns", "rename"),
    ("a.tsv", "text\tlabel\rok\t1", None, "carriage return", "LF"),
    # JSON Lines
    ("a.jsonl", '{"a": 1}\n{"a": 1, "b": 2, "a": 3}\n', 2, "'a' is given twice", "remove"),
    ("a.jsonl", '{"a": {"b": 1, "b": 2}}\n', 1, "'b' is given twice", "remove"),
    ("a.jsonl", '{"a": 1}\n{"a": NaN}\n', 2, "NaN", "replace"),
    ("a.jsonl", '{"a": -Infinity}\n', 1, "-Infinity", "replace"),
    ("a.jsonl", '{"a": "x"}\n{"a": "\\ud800"}\n', 2, "surrogate", "replace"),
    ("a.jsonl", '{"a": "x"}\n{"a": ["\\uDFFF"]}\n', 2, "surrogate", "replace"),
    ("a.jsonl", '{"\\ud83d": "x"}\n', 1, "surrogate", "replace"),
    ("a.jsonl", '{"a": "x"}\n{"a": "y', 2, "middle of a value", "cut off"),
    ("a.jsonl", '{"a": "x"}\n{"a": "y"', 2, "middle of a value", "cut off"),
    ("a.jsonl", '{"a": "x"}\n{"a":\n', 2, "middle of a value", "cut off"),
    ("a.jsonl", '{\n  "a": "x"\n}\n', 1, "middle of a value", "several lines"),
    ("a.jsonl", '{"a": "x"}\n{"a": y}\n', 2, "not JSON (Expecting value, column 7)", "correct"),
    ("a.jsonl", "{'a': 'x'}\n", 1, "not JSON", "correct"),
    ("a.jsonl", '{"a": "x"}\n["y"]\n', 2, "not an object", "every row"),
    ("a.jsonl", '[{"a": "x"}]\n', 1, "not an object", "every row"),
    ("a.jsonl", '{"a": "x"}\n3\n', 2, "not an object", "every row"),
    ("a.jsonl", "{}\n", 1, "not an object with a key", "every row"),
    ("a.jsonl", '{"a": "x"} {"a": "y"}\n', 1, "text follows", "one object per line"),
    ("a.jsonl", '{"a": "x"},\n', 1, "text follows", "one object per line"),
    ("a.jsonl", '{"a": 1}\n{"a": 1, "": 2}\n', 2, "column 2 has no name", "name"),
    ("a.jsonl", "".join(f'{{"{i}": 1}}\n' for i in range(2000)), 1025, "more than 1,024 different keys", "same ones"),
    ("a.jsonl", '{"a": 1}\n\n{"a": 2}\n', 2, "blank line", "end"),
    ("a.jsonl", '{"a": 1, "": 2}\n', 1, "column 2 has no name", "name"),
    ("a.jsonl", "[" * 200_000, 1, "nested too deeply", "remove"),
    # .json
    ("a.json", "[]", None, "no rows", "one row"),
    ("a.json", '[{"a": 1},\n\n 4]', 3, "not an object", "every row"),
    ("a.json", '[{"a": 1},\n {"a": "', 2, "middle of a value", "cut off"),
    ("a.json", '[{"a": 1},\n {"a": 2}', 2, "closing ] is missing", "cut off"),
    ("a.json", '[{"a": 1}\n {"a": 2}]', 1, "comma or the closing ]", "["),
    ("a.json", '[{"a": 1},\n]', 2, "not JSON", "correct"),
    ("a.json", '[{"a": 1}] x', 1, "text follows the end", "["),
    ("a.json", "[] x", 1, "text follows the end", "["),
    ("a.json", '[{"a": 1},\n{"a": NaN}]', 2, "NaN", "replace"),
    ("a.json", '[{"a": 1},\n{"a": 1, "a": 2}]', 2, "given twice", "replace"),
    ("a.json", '[{"a": "x"},\n{"a": "\\ud800"}]', 2, "surrogate", "replace"),
    ("a.json", '{"train": [{"a": 1}], "test": [{"a": 1}]}', None, "several lists of rows: train, test", "--field test"),
    ("a.json", '{"text": ["x", "y"], "label": [0]}', None, "whole columns", "one object per row"),
    ("a.json", '{"a": [{"b": 1}] "c": 2}', 1, "a comma or the closing }", "cut off"),
    ("a.json", '{"a": [{"b": 1}], "a": 2}', 1, "'a' is given twice", "remove"),
    ("a.json", '{"a": [{"b": 1}], 3: 2}', 1, "has no name", "correct"),
    ("a.json", '{"a": [{"b": 1}', 1, "closing ] is missing", "cut off"),
    ("a.json", '{"a": [{"b": 1}]', 1, "a comma or the closing }", "cut off"),
    ("a.json", '{"a": [{"b": 1}]} x', 1, "text follows the object", "one object per line"),
]

PAGE, LFS = (
    "\ufeff\n<!DOCTYPE html>\n<html></html>",
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 1\n",
)
OBJECTS = [{"text": f"x, {i}", "label": i % 2} for i in range(3)]
MISNAMED = [  # name, content, a part of what, the hint or a part of it
    ("a.csv", PAGE, "a web page", "browser"),
    ("a.jsonl", PAGE.encode("utf-16"), "a web page", "browser"),
    ("a.json", "<?xml version='1.0'?>\n<a/>", "is XML", "csv"),
    ("a.csv", LFS, "Git LFS", "git lfs pull"),
    ("a.csv", json.dumps(OBJECTS), "JSON, not csv", "rename it to end in .json"),
    ("a.csv", json.dumps(OBJECTS, indent=1), "JSON, not csv", "rename it to end in .json"),
    ("a.csv", json.dumps(OBJECTS[0], indent=1), "JSON, not csv", "rename it to end in .json"),
    ("a.tsv", "".join(json.dumps(row) + "\n" for row in OBJECTS), "JSON, not tsv", "rename it to end in .jsonl"),
    ("a.json", GOOD, "cells with `,` between", "rename it to end in .csv"),
    ("a.jsonl", '"text";"label"\n"a";"b"\n', "cells with `;` between", "rename it to end in .csv"),
    ("a.ndjson", GOOD.replace(",", "\t"), "cells with tabs between", "rename it to end in .tsv"),
    ("a.csv", gzip.compress(GOOD.encode()), "a gzip archive", "rename it to a.csv.gz"),
    ("a.csv", bz2.compress(GOOD.encode()), "a bzip2 archive", "rename it to a.csv.bz2"),
    ("a.csv", lzma.compress(GOOD.encode()), "an xz archive", "rename it to a.csv.xz"),
    ("a.csv", b"\x28\xb5\x2f\xfd\x04\0", "a Zstandard archive", "rename it to a.csv.zst"),
    ("a.csv", b"%PDF-1.4\n", "a PDF", "the table"),
    ("a.csv", b"SQLite format 3\0", "an SQLite database", "as csv"),
    ("a.jsonl", b"ARROW1\0\0\xff", "an Arrow file", "rename it to end in .arrow"),
    ("a.parquet", GOOD, "is text: cells with `,` between them, not parquet", "rename it to end in .csv"),
    ("a.xlsx", GOOD.replace(",", "\t"), "cells with tabs between them, not xlsx", "rename it to end in .tsv"),
    ("a.XLSX", b"\xd0\xcf\x11\xe0\xa1\xb1", "of the older kind, or one with a password, not xlsx", "save it as .xlsx"),
    ("a.xlsx", PAGE, "a web page", "browser"),
    ("a.parquet", LFS, "Git LFS", "git lfs pull"),
    ("a.parquet", json.dumps(OBJECTS), "JSON, not parquet", "rename it to end in .json"),
    ("a.feather", "one\ntwo\n", "is text, not feather", "rename it to end in that of its kind, .csv say"),
    ("a.arrow", b"%PDF-1.4\n", "a PDF, not arrow", "the table"),
    ("a.csv.gz", GOOD, "cells with `,` between them, not gz", "rename it to a.csv"),
    ("a.csv.zip", GOOD, "not zip", "rename it to a.csv"),
    ("a.jsonl.zst", PAGE, "a web page", "browser"),
    ("a.gz", GOOD, "not gz", "rename it to end in .csv"),
    ("a.csv.gz", bz2.compress(GOOD.encode()), "a bzip2 archive, not gz", "rename it to a.csv.bz2"),
    ("a.csv.bz2", lzma.compress(GOOD.encode()), "an xz archive, not bz2", "rename it to a.csv.xz"),
    ("a.csv.xz", gzip.compress(GOOD.encode()), "a gzip archive, not xz", "rename it to a.csv.gz"),
]


def ids(cases: list[Any]) -> list[str]:
    return [f"{case[0]}-{number}" for number, case in enumerate(cases)]


@pytest.mark.parametrize("indent", [None, 1])
def test_of_an_array_only_a_part_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None
) -> None:
    """Also where it is written on one line."""
    rows = [{"text": f"{i} " + "é" * 90, "label": str(i % 2)} for i in range(5000)]
    path = write(tmp_path, "a.json", json.dumps(rows, indent=indent, ensure_ascii=False))
    sizes, decode = [], json_rows._decode

    def note(text: str, start: int) -> Any:
        sizes.append(len(text))
        return decode(text, start)

    monkeypatch.setattr(json_rows, "_decode", note)
    table = read_file(path)
    assert table.columns == {name: [row[name] for row in rows] for name in ("text", "label")}
    assert table.lines == (None if indent is None else [2 + 4 * i for i in range(5000)])
    assert table.where(2) == (f"{path}, row 3" if indent is None else f"{path}:10")
    assert max(sizes) < 3 * json_rows.WINDOW_CHARACTERS < path.stat().st_size / 2
    assert len(sizes) < 1.1 * len(rows)


@pytest.mark.parametrize(("name", "content", "line", "what", "hint"), BROKEN, ids=ids(BROKEN))
def test_broken_file(tmp_path: Path, name: str, content: str | bytes, line: int | None, what: str, hint: str) -> None:
    path = write(tmp_path, name, content)
    error = failure(path)
    assert error.where == (f"{path}" if line is None else f"{path}:{line}")
    assert what in error.what
    assert hint in error.hint


@pytest.mark.parametrize(("name", "content", "what", "hint"), MISNAMED, ids=ids(MISNAMED))
def test_a_misnamed_file_is_told_by_its_content(
    tmp_path: Path, name: str, content: str | bytes, what: str, hint: str
) -> None:
    error = failure(path := write(tmp_path, name, content))
    assert error.where == str(path)
    assert what in error.what
    assert hint in error.hint


def test_a_zip_archive_is_told_from_a_workbook(tmp_path: Path) -> None:
    for member, what in (("xl/workbook.xml", "an Excel workbook"), ("train.csv", "a zip archive")):
        with zipfile.ZipFile(tmp_path / "a.csv", "w") as archive:
            archive.writestr("x" * 100, "x")
            archive.writestr(member, "x" * (1 << 17))
        assert what in failure(tmp_path / "a.csv").what


def test_what_only_looks_like_another_kind_is_read(tmp_path: Path) -> None:
    """The first row of a file without a header, a name with a brace, lines that are left out."""
    named = make_config({"header": "text,label"})
    row = '{"a": 1}\tx\n'
    assert read_file(write(tmp_path, "a.tsv", row * 2), named).columns["text"] == ['{"a": 1}'] * 2
    assert list(read_file(write(tmp_path, "b.csv", "{text},label\na,b\n")).columns) == ["{text}", "label"]
    dropping = make_config({"bad_rows": "drop=70%"})
    lines = write(tmp_path, "c.jsonl", 'a, b\nc, d\n{"text": "x"}\n')
    assert read_file(lines, dropping).columns == {"text": ["x"]}


ONE_LINE = [  # the elements of an array on one line, the row of the error
    ('{"a": 1}, 4', 2),
    ('{"a": 1}, {"a": 1}, {"a": NaN}', 3),
    ('{"a": 1}, {"a": 1, "a": 2}', 2),
    ('{"a": 1}, {"a": 1} {"a": 1}', 2),
    ('{"a": 1}, {"a": "', 2),
]


@pytest.mark.parametrize(("elements", "row"), ONE_LINE)
def test_the_row_is_named_where_all_are_on_one_line(tmp_path: Path, elements: str, row: int) -> None:
    path = write(tmp_path, "a.json", f"\n[{elements}]\n")
    assert failure(path).where == f"{path}, row {row}"
    path = write(tmp_path, "b.json", f"[{elements},\n3]\n")
    assert failure(path).where == f"{path}:1"


def test_a_row_behind_one_that_was_left_out_keeps_its_number(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", '[{"a": 1}, 4, {"a": 2}]')
    table = read_file(path, make_config({"bad_rows": "drop=50%"}))
    assert [bad.where for bad in table.bad] == [f"{path}, row 2"]
    assert table.where(1) == f"{path}, row 3"


@pytest.mark.parametrize("name", ["train.csv", "test.csv", "folder", "owner/name"])
def test_a_link_to_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As DATA, and in a folder, where the split would be missing in silence."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    (tmp_path / name).symlink_to("nowhere.csv")
    if name == "test.csv":
        write(tmp_path, "train.csv", GOOD)
    for data in [name, *([str(tmp_path)] if name.endswith(".csv") else [])]:
        error = failure(data)
        assert error.where.endswith(name)
        assert "nothing is where it points to: nowhere.csv" in error.what


NUMBER = Number("1.50")
# name, content, the columns, the line of each row
READ: list[tuple[str, str, dict[str, list[Any]], list[int]]] = [
    ("a.csv", GOOD, {"text": ["hello", "world"], "label": ["1", "0"]}, [2, 3]),
    ("a.CSV", "\ufeff" + GOOD, {"text": ["hello", "world"], "label": ["1", "0"]}, [2, 3]),
    (
        "a.csv",
        GOOD.replace("\n", "\r\n") + "\r\n\r\n",
        {"text": ["hello", "world"], "label": ["1", "0"]},
        [2, 3],
    ),
    ("a.csv", "PAR1,b\n1,2", {"PAR1": ["1"], "b": ["2"]}, [2]),
    (
        "a.csv",
        "a,b\nnull,NA\n01,nan\n x ,\n",
        {"a": ["null", "01", " x "], "b": ["NA", "nan", ""]},
        [2, 3, 4],
    ),
    (
        "a.csv",
        'a,b\n"two\r\nlines",1\n"say ""hi"", you",2\n"","\n\n"\n"\r",5\n',
        {"a": ["two\r\nlines", 'say "hi", you', "", "\r"], "b": ["1", "2", "\n\n", "5"]},
        [2, 4, 5, 8],
    ),
    ("a.csv", "a,b\nit's 5\" wide,1\n", {"a": ["it's 5\" wide"], "b": ["1"]}, [2]),
    ("a.csv", 'a\nx\n\n""\ny\n\n', {"a": ["x", "", "", "y"]}, [2, 3, 4, 5]),
    ("a.csv", "a,b\n\u2028x\x85,1\x0c\n", {"a": ["\u2028x\x85"], "b": ["1\x0c"]}, [2]),
    ("a.tsv", 'a\tb\n"x\t1\r\ny" z,\t\n\n', {"a": ['"x', 'y" z,'], "b": ["1", ""]}, [2, 3]),
    (
        "a.jsonl",
        '{"t": "\\ud83d\\ude00", "n": 1.50, "b": true}\n{"b": false, "n": null, "t": " \\u2028"}\r\n \n',
        {"t": ["\U0001f600", " \u2028"], "n": [NUMBER, None], "b": [True, False]},
        [1, 2],
    ),
    (
        "a.jsonl",
        '{"a": [1.50, {"b": 1.50}]}\n{"a": 1e400}',
        {"a": [[NUMBER, {"b": NUMBER}], Number("1e400")]},
        [1, 2],
    ),
    ("a.jsonl", f'{{"a": {"9" * 5000}}}', {"a": [Number("9" * 5000)]}, [1]),
    ("a.jsonl", '{"text": "one row", "labels": [1, 0]}', {"text": ["one row"], "labels": [["1", "0"]]}, [1]),
    ("a.json", '{"a": "x"}\n{"a": "y"}\n', {"a": ["x", "y"]}, [1, 2]),
    ("a.NDJSON", '{"a": "x"}\n{"a": "y"}\n', {"a": ["x", "y"]}, [1, 2]),
    ("a.json", '\n[\n {"a":\n "x"}, {"a": "y"},\n\n {"a": "z"}\n]\n', {"a": ["x", "y", "z"]}, [3, 4, 6]),
]


@pytest.mark.parametrize(("name", "content", "columns", "lines"), READ, ids=ids(READ))
def test_well_formed_file(
    tmp_path: Path, name: str, content: str, columns: dict[str, list[Any]], lines: list[int]
) -> None:
    path = write(tmp_path, name, content)
    table = read_file(path)
    assert table.columns == columns
    assert table.lines == lines
    assert len(table) == len(lines)
    assert table.where(len(lines) - 1) == f"{path}:{lines[-1]}"


def test_numbers_are_told_from_text(tmp_path: Path) -> None:
    table = read_file(write(tmp_path, "a.jsonl", '{"a": 1}\n{"a": "1"}\n'))
    assert [type(cell) for cell in table.columns["a"]] == [Number, str]


def test_long_cell_and_the_process_wide_limit(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    text = "word " * 1_000_000
    assert read_file(write(tmp_path, "a.csv", f'text,label\n"{text}",1\n')).columns["text"] == [text]
    failure(write(tmp_path, "b.csv", f'text,label\n"{text},1\n'))
    assert csv.field_size_limit() == before


# --- parquet and Arrow


def test_parquet_types(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table(
        {
            "text": pa.array(["a", None, "NA"]),
            "large": pa.array(["a", "b", "c"], pa.large_string()),
            "dictionary": pa.array(["x", None, "x"]).dictionary_encode(),
            "int": pa.array([1, None, -3], pa.int8()),
            "float": pa.array([1.0, float("nan"), None]),
            "decimal": pa.array([Decimal("1.50"), None, Decimal("2.00")]),
            "bool": pa.array([True, None, False]),
            "list": pa.array([[1, 2], [], None]),
            "struct": pa.array([{"a": 1}, {"a": None}, None]),
            "date": pa.array([date(2020, 1, 2), None, None]),
        }
    )
    read = read_file(parquet(tmp_path, "a.parquet", table))
    assert read.columns == {
        "text": ["a", None, "NA"],
        "large": ["a", "b", "c"],
        "dictionary": ["x", None, "x"],
        "int": ["1", None, "-3"],
        "float": ["1.0", "nan", None],
        "decimal": ["1.50", None, "2.00"],
        "bool": [True, None, False],
        "list": [["1", "2"], [], None],
        "struct": [{"a": "1"}, {"a": None}, None],
        "date": ["2020-01-02", None, None],
    }
    assert {type(read.columns[name][0]) for name in ("int", "float", "decimal")} == {Number}
    assert type(read.columns["dictionary"][0]) is str
    assert read.lines is None
    assert read.where(2) == f"{tmp_path / 'a.parquet'}, row 3"


FEATURES = {
    "label": {"_type": "ClassLabel", "names": ["no", "yes"]},
    "labels": {"_type": "List", "feature": {"_type": "ClassLabel", "names": ["p", "q"]}},
    "text": {"_type": "ClassLabel", "names": ["stale"]},
    "gone": {"_type": "ClassLabel", "names": ["x"]},
    "other": {"_type": "Value", "dtype": "string"},
}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"info": {"features": FEATURES}}, {"label": ["no", "yes"], "labels": ["p", "q"]}),
        ({"info": {"features": {"label": {"_type": "ClassLabel"}}}}, {}),
        ({"info": {"features": ["label"]}}, {}),
        ({"info": None}, {}),
        ([], {}),
    ],
)
def test_parquet_label_names(tmp_path: Path, metadata: Any, expected: dict[str, list[str]]) -> None:
    import pyarrow as pa

    table = pa.table({"text": ["a"], "label": [1], "labels": [[0, 1]]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    assert read_file(parquet(tmp_path, "a.parquet", table)).label_names == expected


def test_broken_parquet(tmp_path: Path) -> None:
    import pyarrow as pa

    good = parquet(tmp_path, "a.parquet", pa.table({"a": ["x"] * 50})).read_bytes()
    for content in (good[:-9], good[9:], b"PAR1" * 10, good[:-8] + b"\xff" * 4 + b"PAR1"):
        error = failure(write(tmp_path, "b.parquet", content))
        assert "damaged, or not of this kind" in error.what
    assert "the file is text, not parquet" in failure(write(tmp_path, "b.parquet", b"text,label\n")).what
    assert "no rows" in failure(parquet(tmp_path, "c.parquet", pa.table({"a": pa.array([], pa.string())}))).what
    twice = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["a", "a"])
    assert "two columns" in failure(parquet(tmp_path, "d.parquet", twice)).what
    assert ".parquet" in failure(write(tmp_path, "e.csv", good)).hint


# --- folders and names


def test_folder(tmp_path: Path) -> None:
    write(tmp_path, "Train.CSV", GOOD)
    write(tmp_path, "dev.jsonl", '{"text": "x", "label": "1"}')
    write(tmp_path, "test.tsv", "text\tlabel\nx\t1\n")
    write(tmp_path, "README.md", "notes")
    write(tmp_path, "train.txt", "notes")
    source = read_source(tmp_path)
    assert source.name == tmp_path.name
    assert source.hub_name is None
    assert list(source.splits) == ["train", "validation", "test"]
    assert source.splits["validation"].origin == str(tmp_path / "dev.jsonl")
    assert read_source(str(tmp_path) + "/").name == tmp_path.name


@pytest.mark.parametrize("alias", ["validation", "dev", "valid", "val"])
def test_validation_aliases(tmp_path: Path, alias: str) -> None:
    write(tmp_path, "train.csv", GOOD)
    write(tmp_path, f"{alias}.csv", GOOD + "more,1\n")
    assert list(read_source(tmp_path).splits) == ["train", "validation"]


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["train.csv", "train.tsv"], "train.csv and train.tsv are both the train split"),
        (["train.csv", "dev.csv", "val.csv"], "dev.csv and val.csv are both the validation split"),
        (["test.csv", "notes.txt"], "there is no train split; there is notes.txt, test.csv"),
        ([f"{i:02}.csv" for i in range(12)], "09.csv and 2 more"),
        ([], "there is nothing"),
    ],
)
def test_unclear_folder(tmp_path: Path, names: list[str], what: str) -> None:
    for name in names:
        write(tmp_path, name, GOOD)
    error = failure(tmp_path)
    assert what in error.what
    assert error.where == str(tmp_path)


def test_one_file_is_train_and_a_local_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    write(tmp_path / "owner" / "name", "train.csv", GOOD)
    monkeypatch.chdir(tmp_path)
    source = read_source("owner/name/train.csv")
    assert (source.name, list(source.splits)) == ("train", ["train"])
    assert source.splits["train"].where(0) == "owner/name/train.csv:2"
    source = read_source("owner/name")
    assert (source.name, source.hub_name) == ("name", None)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_source("~/owner/name").name == "name"


@pytest.mark.parametrize(
    ("name", "what", "hint"),
    [
        ("revews.csv", "no such file or folder", "did you mean reviews.csv?"),
        ("./revews", "no such file or folder", "did you mean reviews"),
        ("nowhere/train.csv", "no such file or folder", "folder nowhere does not exist"),
        ("/nowhere", "no such file or folder", "check the path"),
        ("~nobody-at-all/x", "no such file or folder", "does not exist"),
        ("a\0b.csv", "no such file or folder", "check the path"),
        ("x" * 5000 + ".csv", "no such file or folder", "check the path"),
        ("reviews", "not a file or folder here, nor a Hub name", "did you mean reviews.csv? DATA is a folder"),
        ("qqqq", "not a file or folder here, nor a Hub name", "DATA is a folder"),
        ("", "not a file or folder here", "DATA is a folder"),
        ("a/b/c", "not a file or folder here", "DATA is a folder"),
        ("notes.txt", "does not begin with __label__", "a folder per class"),
        ("glue", "GLUE has no task ''", "mrpc"),
        ("glue:mrcp", "GLUE has no task 'mrcp'", "mrpc"),
    ],
)
def test_wrong_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, what: str, hint: str) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "reviews.csv", GOOD)
    write(tmp_path, "notes.txt", "notes")
    error = failure(name)
    assert what in error.what
    assert hint in error.hint


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path, "a.csv", GOOD)
    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in failure(path).what
    monkeypatch.setattr(Path, "iterdir", refuse)
    assert "Permission denied" in failure(tmp_path).what
    monkeypatch.setattr(Path, "stat", refuse)
    assert "Permission denied" in failure(str(path)).what


def test_read_file_refuses_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a folder, and one file is needed"):
        read_file(tmp_path)


# --- the Hub and data in memory


class Hub:
    """Stands in for `datasets.load_dataset`, and remembers the calls."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.calls.append((*args, options))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def dataset() -> Any:
    import datasets

    features = {
        "sentence": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["unacceptable", "acceptable"]),
    }
    rows = {"sentence": ["one", "two"], "label": [1, -1]}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    import datasets

    stand_in = Hub(None)
    monkeypatch.setattr(datasets, "load_dataset", stand_in)
    return stand_in


@pytest.mark.parametrize(
    ("name", "call", "short"),
    [
        ("glue:mrpc", ("nyu-mll/glue", "mrpc", {}), "mrpc"),
        ("owner/name", ("owner/name", None, {}), "name"),
        ("owner/na-me.2:con.fig", ("owner/na-me.2", "con.fig", {}), "na-me.2-con.fig"),
    ],
)
def test_hub(hub: Hub, name: str, call: tuple[Any, ...], short: str) -> None:
    import datasets

    hub.answer = datasets.DatasetDict(
        {"unsupervised": dataset(), "test": dataset(), "valid": dataset(), "train": dataset()}
    )
    source = read_source(name)
    assert hub.calls == [call]
    assert (source.name, source.hub_name) == (short, name)
    assert list(source.splits) == ["train", "validation", "test"]
    table = source.splits["train"]
    assert table.columns == {"sentence": ["one", "two"], "label": ["1", "-1"]}
    assert type(table.columns["label"][0]) is Number
    assert table.label_names == {"label": ["unacceptable", "acceptable"]}
    assert table.where(1) == f"{name} train, row 2"


def test_mnli(hub: Hub) -> None:
    names = ("validation_mismatched", "train", "validation_matched", "test_matched", "test_mismatched")
    hub.answer = {name: dataset() for name in names}
    source = read_source("glue:mnli")
    assert list(source.splits) == ["train", "validation", "test", "validation_mismatched", "test_mismatched"]
    assert source.splits["validation"].origin == "glue:mnli validation_matched"


@pytest.mark.parametrize("error", [ConnectionError("no\nroute"), ValueError(""), RuntimeError("script"), KeyError(1)])
def test_hub_failure(hub: Hub, error: Exception) -> None:
    hub.answer = error
    raised = failure("owner/name")
    assert "cannot be loaded from the Hub" in raised.what
    assert type(error).__name__ in raised.what
    assert "offline" in raised.hint
    assert raised.__cause__ is error


def test_hub_answers_without_train(hub: Hub) -> None:
    hub.answer = {"test": dataset()}
    assert "there is test" in failure("owner/name").what


def test_dataset_of_another_format() -> None:
    data = dataset().with_format("numpy").select([1])
    source = read_source(data)
    assert source.name == "data"
    assert source.splits["train"].columns == {"sentence": ["two"], "label": ["-1"]}
    assert source.splits["train"].where(0) == "data, row 1"


def test_frame() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "text": ["a", None, " x "],
            "score": [0.5, float("nan"), 2.0],
            "label": pd.array([1, None, 3], dtype="Int64"),
            "when": [pd.Timestamp("2020-01-02"), pd.NaT, pd.NaT],
            "ok": [True, False, True],
        },
        index=[7, 7, 9],
    )
    table = read_source(frame).splits["train"]
    assert table.columns == {
        "text": ["a", None, " x "],
        "score": ["0.5", None, "2.0"],
        "label": ["1", None, "3"],
        "when": ["2020-01-02 00:00:00", None, None],
        "ok": [True, False, True],
    }
    assert table.columns["ok"][0] is True
    assert "not text" in failure(pd.DataFrame([["a", 1]])).what
    assert "two columns" in failure(pd.DataFrame([["a", 1]], columns=["x", "x"])).what
    assert "no rows" in failure(pd.DataFrame({"text": []})).what


def test_list_of_dicts() -> None:
    import numpy as np

    rows = [
        {"text": "a", "label": 1, "x": np.float64(0.5), "y": [1, np.int64(2)], "z": np.bool_(True)},
        {"text": np.str_("b"), "label": True, "x": float("nan"), "y": np.array([0.5]), "z": {"k": 10**20}},
    ]
    table = read_source(rows).splits["train"]
    assert table.columns == {
        "text": ["a", "b"],
        "label": ["1", True],
        "x": ["0.5", None],
        "y": [["1", "2"], ["0.5"]],
        "z": [True, {"k": str(10**20)}],
    }
    assert [type(cell) for cell in table.columns["text"]] == [str, str]
    assert type(table.columns["x"][0]) is Number


def test_dict_of_splits(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    rows = [{"text": "a", "label": 1}]
    path = write(tmp_path, "a.csv", GOOD)
    source = read_source({"hard": rows, "test": path, "dev": pd.DataFrame(rows), "train": rows})
    assert list(source.splits) == ["train", "validation", "test", "hard"]
    assert source.splits["validation"].where(0) == "data dev, row 1"
    assert len(source.splits["test"]) == 2
    with pytest.raises(DataError, match="data extra: int is not a data set"):
        read_source({"train": rows, "extra": 3})


def test_columns_may_be_arrays_and_series() -> None:
    pd = pytest.importorskip("pandas")
    lists = {"text": ["a", "b"], "label": [0.5, None], "flags": [[1, 0], [0, 1]]}
    arrays = {"text": np.array(["a", "b"]), "label": pd.Series([0.5, None]), "flags": np.array([[1, 0], [0, 1]])}
    assert read_source(arrays).splits["train"].columns == read_source(lists).splits["train"].columns
    with pytest.raises(DataError, match="Series is not a data set"):
        read_source(arrays["label"])


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("data", "what", "where"),
    [
        ([], "no rows", "data"),
        ([{"a": 1}, "text"], "not an object", "data, row 2"),
        ([{3: 1}], "3 is not text", "data, row 1"),
        ([{"a": 1}, {"a": 1, 3: 1}], "3 is not text", "data, row 2"),
        ([{"a": "\ud800"}], "surrogates not allowed", "data, row 1"),
        ([{"a": LOOP}], "cannot be read", "data, row 1"),
        ([{"a": 10**5000}], "cannot be read", "data, row 1"),
        ({}, "there is nothing", "data"),
        ({"text": ["a"], "label": [1, 2]}, "not of one length: `text` has 1, `label` has 2", "data"),
        ({"text": [], "label": []}, "no rows", "data"),
        ({"train": [{"a": 1}], "val": [{"a": 1}], "dev": [{"a": 1}]}, "val and dev are both", "data"),
        ({"train": 5}, "int is not a data set", "data train"),
        (None, "NoneType is not a data set", "data"),
        (b"a.csv", "bytes is not a data set", "data"),
    ],
)
def test_wrong_data_in_memory(data: Any, what: str, where: str) -> None:
    with pytest.raises(DataError) as caught:
        read_source(data)
    assert what in caught.value.what
    assert caught.value.where == where


# --- a promise about the whole module


def test_import_is_light() -> None:
    folder = str(Path(sources.__file__).parents[2])
    code = (
        f"import sys; sys.path.insert(0, {folder!r}); import dongu.data.sources; "
        "print([m for m in ('torch', 'datasets', 'pandas', 'pyarrow', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
