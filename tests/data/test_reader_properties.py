"""The readers against what nobody thought of: what is written is read back, and whatever else comes is a `DataError`.

The examples are the same at every run. `DONGU_EXAMPLES=20 pytest tests/data/test_reader_properties.py` tries other
ones, and twenty times as many; what it finds, it prints with the smallest content that shows it.
"""

from __future__ import annotations

import io
import json
import os
import re
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dongu.data import encoding, json_rows
from dongu.data.readers import SUFFIXES, read_file
from dongu.data.table import Table, kind_of
from dongu.errors import DataError
from dongu.text import is_blank
from dongu.use.answer_file import write_answers

FACTOR = int(os.environ.get("DONGU_EXAMPLES", "1"))


def examples(count: int) -> settings:
    return settings(
        max_examples=count * FACTOR,
        derandomize=FACTOR == 1,
        database=None,
        deadline=timedelta(seconds=60),  # for an input on which a reader hangs, not for a slow machine
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def read(suffix: str, content: bytes) -> Table:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        path.write_bytes(content)
        return read_file(path)


def check_read(suffix: str, content: bytes) -> None:
    """A table that is one, or an error that says what and what to do, each on a line."""
    try:
        table = read(suffix, content)
    except DataError as error:
        check_message(error)
    else:
        check_table(table, content)


def check_message(error: DataError) -> None:
    assert error.what
    assert error.hint
    assert len(str(error).splitlines()) == 2


def check_table(table: Table, content: bytes) -> None:
    assert len(table) > 0
    assert {len(cells) for cells in table.columns.values()} == {len(table)}
    assert table.lines is None or (len(table.lines) == len(table) and sorted(table.lines) == table.lines)
    if not content.startswith(b"PK"):  # the lines of a sheet are no lines of its file
        assert table.lines is None or 1 <= table.lines[0] <= table.lines[-1] <= content.count(b"\n") + 1
    assert all(kind_of(cell) for cells in table.columns.values() for cell in cells)
    json.dumps(table.columns, ensure_ascii=False).encode()  # nothing that cannot be written again


# --- what is written

characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
# Words that another reader would take for something else, marks that mean something, and any text.
texts = st.one_of(
    st.sampled_from(
        ["", " ", "null", "NA", "nan", "None", "01", "1.0", "1e5", "true", "inf", "#", "=1+1", '"', ",", "\t"]
    ),
    st.text(st.one_of(st.sampled_from(list("\",;\t\r\n'\\{}[]:ab \ufeff\u2028\x85")), characters), max_size=12),
)
names = st.text(characters.filter(lambda character: character not in ";\t"), min_size=1, max_size=6).filter(
    lambda name: not is_blank(name) and name != "prediction"
)
headers = st.lists(names, min_size=1, max_size=4, unique=True)


@st.composite
def tables(draw: st.DrawFn, cells: st.SearchStrategy[Any]) -> dict[str, list[Any]]:
    header = draw(headers)
    count = draw(st.integers(1, 5))
    return {name: draw(st.lists(cells, min_size=count, max_size=count)) for name in header}


def rows_of(table: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]


def quoted(text: str, *, always: bool) -> str:
    return '"' + text.replace('"', '""') + '"' if always or set(text) & set('",\r\n') else text


@examples(100)
@given(table=tables(texts), end=st.sampled_from(["\n", "\r\n"]), mark=st.booleans(), always=st.booleans())
def test_csv_comes_back(table: dict[str, list[str]], end: str, mark: bool, always: bool) -> None:
    always = always or len(table) == 1  # an empty line at the end is none, and "" is an empty cell
    rows = [list(table), *zip(*table.values(), strict=True)]
    content = "".join(",".join(quoted(cell, always=always) for cell in row) + end for row in rows)
    if mark or content.startswith("\ufeff"):  # the first one of a file is no text
        content = "\ufeff" + content
    assert read(".csv", content.encode()).columns == table


@examples(100)
@given(cells=st.lists(texts, min_size=1, max_size=5), end=st.sampled_from(["\n", "\r\n"]))
def test_tsv_comes_back(cells: list[str], end: str) -> None:
    cells = [re.sub("[\t\r\n]", "", cell) for cell in cells]
    content = f"id\ttext{end}" + "".join(f"{i}\t{cell}{end}" for i, cell in enumerate(cells))
    assert read(".tsv", content.encode()).columns["text"] == cells


@examples(60)
@given(table=tables(texts), suffix=st.sampled_from([".csv", ".tsv", ".jsonl"]))
def test_written_answers_come_back(table: dict[str, list[str]], suffix: str) -> None:
    rows = [{**row, "prediction": "a\rb", "probabilities": {"a\rb": 0.5, "c,": 0.5}} for row in rows_of(table)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"answers{suffix}"
        try:
            write_answers(path, rows)
        except DataError:
            assert suffix == ".tsv"
            assert not path.exists()
            return
        found = read_file(path).columns
    assert {name: found[name] for name in table} == table
    assert set(found["prediction"]) == {"a\rb"}


numbers = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
values = st.recursive(
    st.one_of(texts, numbers, st.booleans(), st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(characters, max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def as_read(value: Any) -> Any:
    """Numbers are kept as they are written."""
    if isinstance(value, dict):
        return {key: as_read(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_read(item) for item in value]
    return json.dumps(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


@pytest.mark.crash
@examples(100)
@given(table=tables(values), escaped=st.booleans(), array=st.booleans(), indent=st.sampled_from([None, 0, 2]))
def test_json_comes_back(table: dict[str, list[Any]], escaped: bool, array: bool, indent: int | None) -> None:
    rows = rows_of(table)
    holds_all = len(rows) == 1 and all(isinstance(cells[0], list | dict) for cells in table.values())
    if array:
        content = json.dumps(rows, ensure_ascii=escaped, indent=indent)
    else:
        content = "".join(json.dumps(row, ensure_ascii=escaped) + "\n" for row in rows)
    if holds_all:  # a whole data set in one object: not what a row is
        check_read(".json", content.encode())
        with pytest.raises(DataError, match="whole columns or splits"):
            read(".json" if array else ".jsonl", content.encode())
        return
    found = read(".json" if array else ".jsonl", content.encode())
    assert found.columns == as_read(table)


@examples(60)
@given(
    columns=headers.flatmap(
        lambda header: st.integers(1, 5).flatmap(
            lambda count: st.fixed_dictionaries(
                {
                    name: st.one_of(
                        *(
                            st.lists(st.none() | kind, min_size=count, max_size=count)
                            for kind in (
                                texts,
                                st.integers(-(2**63), 2**63 - 1),
                                st.floats(),
                                st.booleans(),
                            )
                        )
                    )
                    for name in header
                }
            )
        )
    )
)
def test_parquet_comes_back(columns: dict[str, list[Any]]) -> None:
    found = read(".parquet", parquet(columns))
    for name, cells in columns.items():
        expected = [repr(cell) if type(cell) in (int, float) else cell for cell in cells]
        assert found.columns[name] == expected


def parquet(columns: dict[str, list[Any]]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


def arrow(columns: dict[str, list[Any]], *, file: bool) -> bytes:
    import pyarrow as pa

    sink, table = pa.BufferOutputStream(), pa.table(columns)
    with (pa.ipc.new_file if file else pa.ipc.new_stream)(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def workbook() -> bytes:
    book, file = openpyxl.Workbook(), io.BytesIO()
    for row in [("text", "label"), ("good", 1), ("bad", None), (0.5, "x")]:
        book.active.append(row)
    book.save(file)
    return file.getvalue()


# --- anything else

ROWS = [{"text": f'a "b", {i}\n', "label": i % 2, "score": i / 4, "on": i > 1, "l": [i]} for i in range(4)]
VALID = {
    ".csv": b'text,label\n"two\nlines",1\r\nplain,0\n"say ""hi""",1\n\n',
    ".tsv": b'text\tlabel\n"bare\t1\r\nplain\t0\n\n',
    **dict.fromkeys((".jsonl", ".ndjson"), "\n".join(map(json.dumps, ROWS)).encode()),
    ".json": json.dumps(ROWS, indent=1).encode(),
    ".parquet": parquet({key: [row[key] for row in ROWS] for key in ROWS[0]}),
    ".arrow": arrow({key: [row[key] for row in ROWS] for key in ROWS[0]}, file=False),
    ".xlsx": workbook(),
    ".txt": b"__label__a one text\n__label__b two\r\n__label__a  three",
    ".feather": arrow({key: [row[key] for row in ROWS] for key in ROWS[0]}, file=True),
}
FRAGMENTS = [
    b"",
    *b"\" ' , ; \n \r \t \\ { } [ ] : \0 -".split(b" "),
    b"\\ud800",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b'"":',
]
FRAGMENTS += [b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1f\x8b", b"PK\x03\x04", b"PAR1", b"\xed\xa0\x80", b"[" * 3000]
FRAGMENTS += [b'"text"', b'{"text": 1, "text": 2}', b"x" * 200_000, b"\xe2\x80\xa8", b"9" * 5000]


@st.composite
def spoilt(draw: st.DrawFn, content: bytes) -> bytes:
    """A well-formed file with some of its bytes replaced, doubled or gone, or in another encoding."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        gone = draw(st.sampled_from([0, 0, 1, 4, 20, 10**6]))
        piece = draw(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=8)))
        content = content[:start] + piece + content[start + gone :]
    encoding = draw(st.sampled_from([None] * 9 + ["utf-16", "utf-16-be", "utf-32"]))
    return content if encoding is None else content.decode("latin-1").encode(encoding)


@pytest.mark.cases(test=2, ci=6)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_spoilt_file_is_a_table_or_an_error(suffix: str) -> None:
    @examples(125)
    @given(content=spoilt(VALID[suffix]))
    def check(content: bytes) -> None:
        check_read(suffix, content)

    check_read(suffix, VALID[suffix])
    read(suffix, VALID[suffix])
    check()


@pytest.mark.cases(test=2, ci=9)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_bytes_are_a_table_or_an_error(suffix: str) -> None:
    soup = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.sampled_from([b"a", b"1", b"b\n"])), max_size=12)

    @examples(100)
    @given(content=st.one_of(st.binary(max_size=200), soup.map(b"".join)))
    def check(content: bytes) -> None:
        check_read(suffix, content)

    check()


@examples(60)
@given(
    content=st.one_of(
        tables(values).map(lambda table: json.dumps(rows_of(table), ensure_ascii=False).encode()),
        spoilt(VALID[".json"]),
        spoilt(json.dumps(ROWS).encode()),
    ),
    size=st.sampled_from([1, 2, 3, 7, 50]),
)
def test_an_array_is_the_same_in_small_pieces(content: bytes, size: int) -> None:
    """Its table, or its error to the letter, for wherever the pieces end.

    What is no UTF-8 is told as it is read, and may come before what is wrong on an earlier line of the same piece.
    """
    content = content.replace(b"\0", b" ").decode("utf-8", "replace").encode()

    def found() -> Any:
        try:
            table = read(".json", b"[" + content)
        except DataError as error:
            return error.what, Path(error.where).name, error.hint
        return table.columns, table.lines

    whole = found()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "PIECE_BYTES", size)
        patch.setattr(json_rows, "WINDOW_CHARACTERS", size)
        assert found() == whole
