"""Long columns are what short ones are, page by page, and the memory of a page is all that they take."""

from __future__ import annotations

import errno
import json
import os
import random
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import pytest
from test_sources import BROKEN, READ, failure, ids, parquet, write

import dongu
from dongu.data import cells, pages, readers, tokens
from dongu.data.cells import PagedColumn, Rows, column_of, json_of, parts_of
from dongu.data.joined import join_tables
from dongu.data.pages import Pages
from dongu.data.readers import read_file
from dongu.data.sources import read_source
from dongu.data.table import Number, Table
from dongu.errors import DataError, DonguError, StorageError
from dongu.files import Disk
from dongu.run.identity import identity


@pytest.fixture(params=[0, 100, 1 << 20], ids=["all in a file", "some in a file", "none in a file"])
def small_pages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows a page, so that every column is a long one."""
    monkeypatch.setattr(cells, "PAGE_ROWS", 3)
    monkeypatch.setattr(pages, "MEMORY_BYTES", request.param)


COLUMNS: list[list[Any]] = [
    ["a", "", "döngü \U0001f600", "\u2028", "e", "\n", "g"],
    [Number("1"), Number("1.50"), Number("-0"), Number("1e400"), Number("2"), Number("3"), Number("4")],
    ["1", Number("1"), "1", "1", "1", "1", Number("1")],
    [None, "a", None, "b", "c", "d", None],
    [True, False, True, True, False, True, False],
    [["a", "b"], [], {"c": "d"}, "e", "f", "g", "h"],
]


def test_a_new_column_copies_no_row() -> None:
    """Else a file whose keys come one by one takes the square of its rows."""

    class Row(list[str]):
        """A list that can be referred to weakly."""

    rows, row = Rows(["text"]), Row(["a"])
    alive = ref(row)
    rows.add(row)
    del row
    for name in "xy":
        rows.add_columns([name])
    assert alive() is not None
    rows.add(["b", "c", "d"])
    assert rows.columns() == [["a", "b"], [None, "c"], [None, "d"]]


@pytest.mark.usefixtures("small_pages")
def test_tables_are_joined_page_by_page() -> None:
    """Long and short ones in any order; what a table has of its own may go, its file too."""
    names, rows = [str(i) for i in range(len(COLUMNS))], list(zip(*COLUMNS, strict=True))

    def tables() -> Iterator[Table]:
        for count in (7, 2, 4, 1, 1, 7):
            made = Rows(names, f"{count} rows")
            for line, row in enumerate(rows[:count], 1):
                made.add(row, line)
            yield made.table()

    joined = join_tables(tables(), "all", said="joined")
    expected = [row for count in (7, 2, 4, 1, 1, 7) for row in rows[:count]]
    for column, wanted in zip(joined.columns.values(), zip(*expected, strict=True), strict=True):
        assert [(type(cell), cell) for cell in column] == [(type(cell), cell) for cell in wanted]
    assert list(joined.lines or ()) == [line for count in (7, 2, 4, 1, 1, 7) for line in range(1, count + 1)]
    assert [joined.where(row) for row in (8, 9)] == ["2 rows:2", "4 rows:1"]


@pytest.mark.parametrize("count", [3, 4, 6, 7])
@pytest.mark.usefixtures("small_pages")
def test_a_long_column_is_the_list_of_its_cells(count: int) -> None:
    names = [str(i) for i in range(len(COLUMNS))]
    rows = Rows(names)
    for row in list(zip(*COLUMNS, strict=True))[:count]:
        rows.add(row)
    for column, expected in zip(rows.columns(), [column[:count] for column in COLUMNS], strict=True):
        assert isinstance(column, PagedColumn)
        assert list(column) == expected
        assert [type(cell) for cell in column] == [type(cell) for cell in expected]
        assert len(column) == count
        assert [column[i] for i in range(-count, count)] == expected * 2
        assert [type(column[i]) for i in range(count)] == [type(cell) for cell in expected]
        assert column[1:] == expected[1:]
        assert column[::-2] == expected[::-2]
        for place in (count, -count - 1):
            with pytest.raises(IndexError):
                column[place]
        texts = column.as_texts()
        assert list(texts) == [str(cell) for cell in expected]
        assert {type(text) for text in texts} == {str}


@pytest.mark.usefixtures("small_pages")
def test_columns_grow_apart_in_one_file() -> None:
    """Pages of two tables do not meet, and a column outlives what made it."""
    one, other = (column_of(f"{name} {i}" for i in range(20)) for name in ("one", "other"))
    assert list(one) == [f"one {i}" for i in range(20)]
    assert list(other) == [f"other {i}" for i in range(20)]


def test_a_short_column_is_a_list() -> None:
    assert column_of("abc") == ["a", "b", "c"]
    assert column_of([]) == []


def test_few_rows_of_many_characters_are_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "PAGE_CHARACTERS", 10)
    monkeypatch.setattr(cells, "COUNTS_A_PAGE", cells.PAGE_ROWS)  # after each row
    rows = Rows(["text"])
    for text in ("long enough", "a", "b", "another that is long enough", "c"):
        rows.add((text,))
    [column] = rows.columns()
    assert isinstance(column, PagedColumn)
    assert [len(page) for page in column._pages] == [1, 3, 1]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 6, 7])
@pytest.mark.usefixtures("small_pages")
def test_the_json_of_a_column_is_that_of_the_list(count: int) -> None:
    column = column_of(["a b", 'say "a"', "ç", "", "\\", "\n", "x"][:count])
    assert b"".join(json_of(column)) == json.dumps(list(column)).encode()
    assert list(parts_of(column, 2)) == [list(column)[start : start + 2] for start in range(0, count, 2)]


# --- what is read page by page


@pytest.mark.parametrize(("name", "content", "columns", "lines"), READ, ids=ids(READ))
@pytest.mark.usefixtures("small_pages")
def test_a_well_formed_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: str,
    columns: dict[str, list[Any]],
    lines: list[int],
) -> None:
    monkeypatch.setattr(cells, "PAGE_ROWS", 1)
    path = write(tmp_path, name, content)
    table = read_file(path)
    assert {name: list(column) for name, column in table.columns.items()} == columns
    assert all(isinstance(column, PagedColumn) for column in table.columns.values())
    assert list(table.lines or ()) == lines
    assert table.where(len(lines) - 1) == f"{path}:{lines[-1]}"


@pytest.mark.parametrize(("name", "content", "line", "what", "hint"), BROKEN, ids=ids(BROKEN))
def test_a_broken_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: str | bytes,
    line: int | None,
    what: str,
    hint: str,
) -> None:
    monkeypatch.setattr(cells, "PAGE_ROWS", 1)
    path = write(tmp_path, name, content)
    error = failure(path)
    assert error.where == (f"{path}" if line is None else f"{path}:{line}")
    assert what in error.what
    assert hint in error.hint


@pytest.mark.usefixtures("small_pages")
def test_arrow_and_rows_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd
    import pyarrow as pa
    from datasets import ClassLabel, Dataset, Features, Value

    monkeypatch.setattr(readers, "BATCH_ROWS", 4)
    rows = [{"text": f"text {i}", "label": i % 2, "score": i / 4} for i in range(11)]
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"]), "score": Value("float64")})
    dataset = Dataset.from_list(rows, features=features)
    expected = {
        "text": [row["text"] for row in rows],
        "label": [str(row["label"]) for row in rows],
        "score": [repr(row["score"]) for row in rows],
    }
    file = parquet(tmp_path, "a.parquet", pa.Table.from_pylist(rows))
    for data in (str(file), dataset, dataset.select(range(11)), rows, pd.DataFrame(rows)):
        table = read_source(data).splits["train"]
        assert {name: list(column) for name, column in table.columns.items()} == expected
        assert table.lines is None
        assert table.where(10).endswith(", row 11")
    assert read_source(dataset).splits["train"].label_names == {"label": ["no", "yes"]}


def many_rows(path: Path, count: int) -> int:
    """A csv or jsonl file of so many different rows; gives its bytes."""
    chance = random.Random(0)
    texts = [" ".join(f"{chance.getrandbits(40):x}" for _ in range(20)) for _ in range(count)]
    if path.suffix == ".csv":
        lines = ["text,label", *(f"{text},{i % 2}" for i, text in enumerate(texts))]
    else:
        lines = [json.dumps({"text": text, "label": i % 2}) for i, text in enumerate(texts)]
    return path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.cases(test=0, ci=2)
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json"])
def test_reading_takes_the_memory_of_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(cells, "PAGE_ROWS", 500)
    monkeypatch.setattr(pages, "MEMORY_BYTES", 1 << 16)
    path = tmp_path / f"a.{kind}"
    size = many_rows(tmp_path / ("a.csv" if kind in ("csv", "tsv") else "a.jsonl"), 20_000)
    if kind == "tsv":
        path.write_text((tmp_path / "a.csv").read_text().replace(",", "\t"))
    elif kind == "json":
        (tmp_path / "a.jsonl").rename(path)
    tracemalloc.start()
    table = read_file(path)
    texts = dongu.data.columns.read_texts(table, ["text"])[0]
    digest = sum(len(part) for part in json_of(texts))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(texts) == 20_000
    assert digest > 0.9 * size
    assert peak < size / 4, f"{peak:,} bytes for a file of {size:,}"


# --- the file without a name


def test_nothing_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DONGU_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pages, "MEMORY_BYTES", 10)
    store = Pages()
    assert store.add(b"0123456789") == 0
    assert not (tmp_path / "cache").exists(), "there is room in memory"
    assert store.add(b"abc") == 10
    assert list((tmp_path / "cache").iterdir()) == []
    assert (store.read(8, 4), store.size, bytes(store.whole())) == (b"89ab", 13, b"0123456789abc")
    with pytest.raises(TypeError):
        store.whole()[0] = 1


def test_a_cache_folder_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DONGU_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(pages, "MEMORY_BYTES", 0)
    store = Pages()
    store.add(b"abc")
    assert store.read(0, 3) == b"abc"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(StorageError, match="cannot write"):
        Pages().add(b"abc")


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pages, "MEMORY_BYTES", 0)
    monkeypatch.setattr(cells, "PAGE_ROWS", 3)
    monkeypatch.setattr(Disk, "append", full)
    with pytest.raises(StorageError) as caught:
        read_file(write(tmp_path, "a.csv", "text,label\n" + "x,1\n" * 5))
    assert caught.value.exit_code == 6
    assert "free some space" in caught.value.hint


# --- a run


@pytest.mark.parametrize("pair", [False, True])
def test_a_run_is_the_same_to_the_bit(
    pair: bool,
    tmp_path: Path,
    tiny_model: Callable[..., str],
    data_folder: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = str(Path(data_folder(train=83, validation=0, test=7, pair=pair)))
    options: dict[str, Any] = {"model": tiny_model(dropout=0.1), "epochs": 1, "device": "cpu", "lr": 1e-3}
    expected = dongu.Loop(data, **options)
    known = identity(expected)
    steps = [(step.loss, step.grad_norm) for step in expected]

    monkeypatch.setattr(cells, "PAGE_ROWS", 5)
    monkeypatch.setattr(tokens, "PART_ROWS", 7)
    monkeypatch.setattr(tokens, "MAPPED_BYTES", 0)
    monkeypatch.setattr(pages, "MEMORY_BYTES", 0)
    monkeypatch.setenv("DONGU_CACHE", str(tmp_path / "cache"))
    for cached in (False, True):
        loop = dongu.Loop(data, **options)
        assert loop.data.held_out
        assert all(isinstance(column, PagedColumn) for column in loop.data.splits["train"].texts)
        assert {split.tokens.cached for split in loop.splits.values()} == {cached}
        assert identity(loop) == known
        assert [(step.loss, step.grad_norm) for step in loop] == steps
        for name, examples in loop.data.splits.items():
            assert list(map(list, examples.texts)) == list(map(list, expected.data.splits[name].texts))
            assert np.array_equal(examples.ids, expected.data.splits[name].ids)


def test_data_workers_share_what_is_in_files(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"model": tiny_model(), "max_steps": 4, "device": "cpu"}
    expected = [step.loss for step in dongu.Loop(data_folder(), **options)]
    monkeypatch.setattr(tokens, "MAPPED_BYTES", 0)
    monkeypatch.setattr(pages, "MEMORY_BYTES", 0)
    assert [step.loss for step in dongu.Loop(data_folder(), workers=2, **options)] == expected


def test_an_error_far_down_the_file_keeps_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "PAGE_ROWS", 5)
    good = "".join(f'"two\nlines {i}",{i % 2}\n' for i in range(50))
    options: dict[str, Any] = {"model": "none"}
    path = write(tmp_path, "a.csv", f"text,label\n{good}  ,1\n")
    with pytest.raises(DataError, match="`text` is empty") as caught:
        dongu.Loop(str(path), **options)
    assert caught.value.where == f"{path}:102"
    path = write(tmp_path, "b.csv", f"text,label\n{good}x,\n")
    with pytest.raises(DonguError, match="label `label` is empty") as empty:
        dongu.Loop(str(path), **options)
    assert empty.value.where == f"{path}:102"
