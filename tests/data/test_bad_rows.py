"""`--bad-rows drop=SHARE`: rows that cannot be read are left out, counted and written down."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet as pq

import dongu
from dongu.config import make_config
from dongu.data.examples import TextData, read_examples
from dongu.data.sources import read_source
from dongu.doctor.checkup import check_up
from dongu.doctor.overview import describe_rows
from dongu.errors import DataError, UsageError

BAD: dict[str, tuple[str, int, str]] = {  # file → content after two good rows, the line of the bad one, what is said
    "cells.csv": ("a,b,c\n", 4, "the row has 3 cells, and the header has 2 columns"),
    "cells.tsv": ("a\n", 4, "the row has 1 cell, and"),
    "json.jsonl": ("{no json\n", 3, "not"),
    "number.jsonl": ("12\n", 3, "not an object"),
    "object.jsonl": ('{"text": "a", "label": {"is": "x"}}\n', 3, "the label is an object"),
}


ARRAY: dict[str, tuple[str, str]] = {  # file → element, what is said
    "number.json": ("12", "not an object"),
    "nan.json": ('{"text": "a", "label": NaN}', "NaN is not a JSON value"),
    "twice.json": ('{"text": "a", "text": "b", "label": "x"}', "the key 'text' is given twice"),
    "text.json": ('{"text": {"of": "a"}, "label": "x"}', "`text` is an object, not a text"),
    "label.json": ('{"text": "a", "label": {"is": "x"}}', "the label is an object"),
}


def write(folder: Path, name: str, bad: str) -> str:
    suffix = name.partition(".")[2]
    mark = {"csv": ",", "tsv": "\t"}.get(suffix)
    good = [("one good film", "x"), ("two", "y")] * 10
    lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in good]
    if mark:
        lines = [f"text{mark}label\n", *(f"{text}{mark}{label}\n" for text, label in good)]
    place = 3 if mark else 2
    path = folder / name
    path.write_text("".join([*lines[:place], bad, *lines[place:]]), encoding="utf-8")
    return str(path)


def read(path: Any, **options: Any) -> TextData:
    config = make_config(options)
    return read_examples(read_source(path, config), config)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_left_out_on_demand(name: str, tmp_path: Path) -> None:
    bad, line, what = BAD[name]
    path = write(tmp_path, name, bad)
    with pytest.raises(DataError) as caught:
        read(path)
    assert caught.value.where.startswith(f"{path}:{line}")
    data = read(path, bad_rows="drop=5%")
    assert sum(map(len, data.splits.values())) == 20
    [dropped] = [row.as_json() for row in data.dropped]
    assert (dropped["file"], dropped["line"]) == (path, line)
    assert what in dropped["reason"]
    assert describe_rows(data).endswith("left out: 1 row that cannot be read (--bad-rows)")
    with pytest.raises(DataError, match=r"1 row of 21 cannot be used") as caught:
        read(path, bad_rows="drop=4.5%")
    assert "allow 4.8% or more" in caught.value.hint
    assert caught.value.where.startswith(f"{path}:{line}")


def test_bad_rows_of_each_file_of_a_split_are_told(tmp_path: Path) -> None:
    shards = [tmp_path / f"train-0000{i}-of-00002.csv" for i in (0, 1)]
    for shard in shards:
        Path(write(tmp_path, "cells.csv", BAD["cells.csv"][0])).rename(shard)
    places = [f"{shard}:4" for shard in shards]
    data = read(str(tmp_path), bad_rows="drop=5%")
    assert [row.where for row in data.dropped] == places
    with pytest.raises(DataError, match=r"2 rows of 42 cannot be used"):
        read(str(tmp_path), bad_rows="drop=4%")


def test_rows_keep_their_numbers_where_bad_ones_are_left_out(tmp_path: Path) -> None:
    """By them `--split-file` says which row is meant, and predictions and reports name it."""
    csv = tmp_path / "rows.csv"
    cells = [f"film {i},{'ab'[i % 2]}" for i in range(40)]
    cells[0] = cells[5] = cells[6] = cells[39] = "a,b,c"
    csv.write_text("\n".join(["text,label", *cells]), encoding="utf-8")
    array = tmp_path / "rows.json"
    objects = [{"text": f"film {i}", "label": "ab"[i % 2]} for i in range(40)]
    array.write_text(
        json.dumps([12 if cells[i] == "a,b,c" else row for i, row in enumerate(objects)]), encoding="utf-8"
    )
    shards = tmp_path / "shards"
    shards.mkdir()
    for i in (0, 1):
        (shards / f"train-0000{i}-of-00002.csv").write_bytes(csv.read_bytes())
    split = tmp_path / "split.json"
    for source, count in ((csv, 40), (array, 40), (shards, 80)):
        rows = [row for row in range(count) if row % 40 not in (0, 5, 6, 39)]
        split.write_text(json.dumps({"validation": rows[3:9], "train": rows[:3] + rows[9:]}), encoding="utf-8")
        data = read(str(source), bad_rows="drop=10%", split_file=str(split))
        assert data.splits["validation"].ids.tolist() == rows[3:9] == [4, 7, 8, 9, 10, 11]
        assert [*data.splits["validation"].texts[0]] == [f"film {row}" for row in rows[3:9]]
        assert data.splits["train"].ids.tolist()[-1] == rows[-1]
    where = [
        read_source(str(source), make_config({"bad_rows": "drop=10%"})).splits["train"].where(5)
        for source in (csv, array)
    ]
    assert where == [f"{csv}:10", f"{array}, row 9"]


def test_files_with_lines_and_files_without_are_one_split(tmp_path: Path) -> None:
    """A row of parquet has no line, nor has one of an array on one line, unless rows of it were left out."""
    rows = [{"text": text, "label": text[0]} for text in ("one film", "two") * 10]
    for name, content in {
        "train-00000-of-00002.json": [*rows[:3], 12, *rows[3:]],
        "train-00001-of-00002.json": rows,
    }.items():
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    data = read(str(tmp_path), bad_rows="drop=5%")
    assert [row.where for row in data.dropped] == [f"{tmp_path}/train-00000-of-00002.json, row 4"]
    assert sum(map(len, data.splits.values())) == 40
    mixed = tmp_path / "mixed" / "train"
    mixed.mkdir(parents=True)
    (mixed / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), mixed / "b.parquet")
    table = read_source(str(mixed.parent)).splits["train"]
    assert [table.where(row) for row in (19, 20)] == [f"{mixed}/a.jsonl:20", f"{mixed}/b.parquet, row 1"]


def test_a_bad_row_of_a_store_is_told_by_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.setenv("DONGU_CACHE", str(tmp_path / "cache"))
    content = Path(write(tmp_path, "cells.csv", BAD["cells.csv"][0])).read_bytes()
    store = fsspec.filesystem("memory")
    store.pipe({"/bad/train.csv": content})
    try:
        assert [row.where for row in read("memory://bad", bad_rows="drop=5%").dropped] == ["memory://bad/train.csv:4"]
    finally:
        store.rm("/bad", recursive=True)


@pytest.mark.parametrize("field", [False, True])
@pytest.mark.parametrize("name", ARRAY)
def test_an_element_of_an_array_is_left_out_too(name: str, field: bool, tmp_path: Path) -> None:
    bad, what = ARRAY[name]
    good = [json.dumps({"text": text, "label": text[0]}) for text in ("one film", "two") * 10]
    path = tmp_path / name
    array = ",\n".join([*good[:3], bad, *good[3:]])
    path.write_text(f'{{"data": [{array}]}}' if field else f"[{array}]", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read(str(path))
    assert "--bad-rows drop=1%" in caught.value.hint
    data = read(str(path), bad_rows="drop=5%")
    assert sum(map(len, data.splits.values())) == 20
    [dropped] = data.dropped
    assert dropped.where == f"{path}:4"
    assert what in dropped.what
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    with pytest.raises(DataError, match="ends in the middle"):
        read(str(path), bad_rows="drop=5%")


ROWS = [{"text": text, "label": text[0]} for text in ("one film", "two") * 10]


@pytest.mark.parametrize(
    ("bad", "options", "starts"),
    [
        ({"text": ["a"], "label": "o"}, {}, False),
        ({"text": ["a"], "label": "o"}, {"empty": "drop"}, False),  # it is not empty
        ({"text": ["a"], "label": "o"}, {"bad_rows": "drop=1%"}, False),  # of 21 rows
        ({"text": ["a"], "label": "o"}, {"bad_rows": "drop=5%"}, True),
        ({"text": "", "label": "o"}, {"bad_rows": "drop=5%"}, False),
        ({"text": None, "label": "o"}, {"empty": "drop"}, True),
        ({"text": "a", "label": {"is": "o"}}, {"bad_rows": "drop=1%"}, False),
        ({"text": "a", "label": {"is": "o"}}, {"bad_rows": "drop=5%"}, True),
    ],
)
def test_inspect_refuses_what_training_refuses(bad: dict[str, Any], options: dict[str, str], starts: bool) -> None:
    config = make_config(options)
    errors = [
        finding for finding in check_up(read_source([*ROWS, bad]), config).findings if finding.severity == "error"
    ]
    assert (errors == []) == starts
    if starts:
        assert sum(map(len, read([*ROWS, bad], **options).splits.values())) == 20
        return
    with pytest.raises(DataError) as caught:
        read([*ROWS, bad], **options)
    assert caught.value.hint[:10] == errors[0].advice[:10]  # the same option


def test_as_many_bad_rows_as_the_refusal_says_are_enough() -> None:
    rows = [*ROWS * 3, *[{"text": ["a"], "label": "o"}] * 2]  # 3.22%
    with pytest.raises(DataError) as caught:
        read(rows, bad_rows="drop=1%")
    [share] = re.findall(r"allow (\S+%) or more", caught.value.hint)
    assert len(read(rows, bad_rows=f"drop={share}").dropped) == 2


@pytest.mark.parametrize(
    ("rows", "options", "what"),
    [
        ([*ROWS, {"text": b"\xff", "label": "o"}], {}, "`text` is bytes that are not UTF-8, not a text"),
        ([*ROWS, {"text": "a", "label": ["o"]}], {"task": "single-label"}, "the label is a list"),
        ([*ROWS, 7], {}, "not an object"),
        (
            [
                *({**row, "label": ["o"]} for row in ROWS[1:]),
                ROWS[0] | {"label": ["t"]},
                {"text": "a", "label": ["o"] * 2},
            ],
            {},
            "a label twice",
        ),
        ([{**row, "label": [1, 0, 1]} for row in ROWS] + [{"text": "a", "label": [1, 0]}], {}, "of 3 numbers 0 and 1"),
        ([{**row, "a": 1, "b": 0} for row in ROWS] + [{"text": "a", "a": 2, "b": 0}], {"label_column": "a+b"}, "not 0"),
    ],
    ids=range(6),
)
def test_a_row_in_memory_and_in_parquet(rows: list[Any], options: Any, what: str, tmp_path: Path) -> None:
    sources: list[Any] = [rows]
    if isinstance(rows[-1], dict) and options != {"task": "single-label"}:
        columns = {name: [row.get(name) for row in rows] for name in rows[-1]}
        if columns["text"][-1] == b"\xff":
            columns["text"] = [text if isinstance(text, bytes) else text.encode() for text in columns["text"]]
        pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
        sources.append(str(tmp_path / "rows.parquet"))
    for source in sources:
        with pytest.raises(DataError) as caught:
            read(source, **options)
        assert "--bad-rows" in caught.value.hint
        data = read(source, bad_rows="drop=5%", **options)
        assert sum(map(len, data.splits.values())) == 20
        [dropped] = data.dropped
        assert dropped.where.endswith(", row 21")
        assert what in dropped.what


def test_a_blank_line_among_json_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "blank.jsonl", "\n")
    with pytest.raises(DataError, match="blank line") as caught:
        read(path)
    assert "--bad-rows" in caught.value.hint
    assert [row.where for row in read(path, bad_rows="drop=5%").dropped] == [f"{path}:3"]


def test_a_word_among_numbers(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    scores = [*(f"{i}.5" for i in range(20)), "n/a", ""]
    path.write_text("text,label\n" + "".join(f"film {i},{score}\n" for i, score in enumerate(scores)), encoding="utf-8")
    with pytest.raises(DataError, match="is not a number") as caught:
        read(str(path), task="regression", unlabelled="drop")
    assert "--bad-rows" in caught.value.hint
    data = read(str(path), task="regression", unlabelled="drop", bad_rows="drop=5%")
    assert [row.where for row in data.dropped] == [f"{path}:22"]
    assert (data.left_out, sum(map(len, data.splits.values()))) == (1, 20)


def test_the_run_keeps_what_it_left_out(tiny_model: Callable[..., str], tmp_path: Path) -> None:
    path = write(tmp_path, "cells.csv", BAD["cells.csv"][0])
    out = tmp_path / "run"
    dongu.train(path, model=tiny_model(), max_steps=1, bad_rows="drop=5%", out=str(out), device="cpu")
    [line] = (out / "dropped.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {"file": path, "line": 4, "reason": BAD["cells.csv"][2]}
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["options"]["bad_rows"] == "drop=5%"


def test_the_doctor_says_so_too(tmp_path: Path) -> None:
    path = write(tmp_path, "object.jsonl", BAD["object.jsonl"][0])
    for share, severity in ((None, "error"), ("drop=5%", "note")):
        config = make_config({"model": "not/here", "bad_rows": share})
        findings = check_up(read_source(path, config), config).findings
        [found] = [finding for finding in findings if "an object" in finding.what]
        assert found.severity == severity


@pytest.mark.parametrize("value", ["drop", "1%", "drop=1", "drop=101%", "drop=-1%", "keep=1%"])
def test_what_is_no_share(value: str) -> None:
    with pytest.raises(UsageError, match="--bad-rows"):
        make_config({"bad_rows": value})
