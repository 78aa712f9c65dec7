"""Data that were once read as nobody meant them, in silence: each is read as it is meant, said, or refused."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import openpyxl
import pandas as pd
import pytest

from dongu.cli.main import run as run_command
from dongu.config import make_config
from dongu.data.examples import TextData, read_examples
from dongu.data.readers import read_file
from dongu.data.sources import read_source
from dongu.doctor.checkup import check_up
from dongu.doctor.overview import describe_labels, describe_rows
from dongu.errors import DataError

TEXTS = [f"{word} film number {i}" for i, word in enumerate(["good", "bad", "fine", "poor"] * 5)]
LABELS = ["pos", "neg"] * 10
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]


def delimited(labels: Sequence[Any] = LABELS, header: str = "text,label\n") -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(zip(TEXTS, labels, strict=True))
    return header + file.getvalue()


def write(folder: Path, **files: str | bytes) -> Path:
    """Files by their names, in which `__` stands for a slash and the last `_` for the point."""
    for name, content in files.items():
        path = folder / ".".join(name.replace("__", "/").rsplit("_", 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def read(data: Any, **options: Any) -> TextData:
    config = make_config(options)
    return read_examples(read_source(data, config), config)


def refusal(data: Any, **options: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        read(data, **options)
    assert caught.value.hint
    return caught.value


# --- rows


def test_columns_of_json_are_joined_by_their_keys(tmp_path: Path) -> None:
    """As pandas reads them: `orient="columns"` writes the index of each column, and an editor may sort one of them."""
    columns = {"text": dict(enumerate(TEXTS)), "label": {i: LABELS[i] for i in reversed(range(20))}}
    path = write(tmp_path, a_json=json.dumps(columns)) / "a.json"
    table = read_file(path)
    assert (table.columns["text"], table.columns["label"]) == (TEXTS, LABELS)
    assert "not an object with a key" in refusal(write(tmp_path, b_json="{}") / "b.json").what


def book(path: Path, rows: Sequence[Sequence[Any]], change: Callable[[Any], None] = lambda _: None) -> Path:
    workbook = openpyxl.Workbook()
    for row in rows:
        workbook.active.append(row)
    change(workbook)
    workbook.save(path)
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "xlsx"])
def test_a_header_in_the_middle_is_no_row(tmp_path: Path, ending: str) -> None:
    """As `cat a.csv b.csv` leaves it; the class `label` had three rows."""
    rows = [["text", "label"], *map(list, zip(TEXTS, LABELS, strict=True))] * 3
    path = tmp_path / f"a.{ending}"
    if ending == "xlsx":
        book(path, rows)
    else:
        path.write_text("".join({"csv": ",", "tsv": "\t"}[ending].join(row) + "\n" for row in rows), encoding="utf-8")
    error = refusal(path)
    assert error.where == f"{path}:22"
    assert "the header once more" in error.what
    data = read(path, bad_rows="drop=5%")
    assert data.label_names == ("neg", "pos")
    assert [row.where for row in data.dropped] == [f"{path}:22", f"{path}:43"]


def test_a_number_is_no_name_of_a_column_of_numbers(tmp_path: Path) -> None:
    """The first row was lost; of classes it was found, since one of other rows is the same."""
    path = write(tmp_path, a_csv=delimited([f"{i}.{i + 10}" for i in range(20)], header="")) / "a.csv"
    error = refusal(path)
    assert "the first line may be a row: `0.10`" in error.what
    assert "--header" in error.hint
    assert sum(map(len, read(path, header="text,label").splits.values())) == 20
    assert sum(map(len, read(path, label_column="0.10").splits.values())) == 19


@pytest.mark.parametrize(
    ("ending", "cell", "said"),
    [
        ("tsv", '"{}"', "--quoting csv"),  # as write.table of R writes it
        ("csv", "'{}'", "quotes are kept around the cells of text"),
        ("csv", ' "{}"', "quotes are kept around the cells of text"),
    ],
)
def test_quotes_around_all_cells_are_said(tmp_path: Path, ending: str, cell: str, said: str) -> None:
    mark = {"csv": ",", "tsv": "\t"}[ending]
    path = tmp_path / f"a.{ending}"
    rows = [f"{label}{mark}{cell.format(text)}\n" for text, label in zip(TEXTS, LABELS, strict=True)]
    path.write_text(f"label{mark}text\n" + "".join(rows), encoding="utf-8")
    assert said in "".join(read(path).said)
    assert not read(path, quoting="none").said
    path.write_text(path.read_text(encoding="utf-8") + f"pos{mark}bare\n", encoding="utf-8")
    assert not read(path).said


def test_what_excel_writes_by_its_number_is_the_character(tmp_path: Path) -> None:
    path = book(
        tmp_path / "a.xlsx", [["text", "label"], ["one_x000D_\ntwo", "a"], ["_x005F_x000D_ a_x0_ _xD83D_", "b"]]
    )
    assert read_file(path).columns["text"] == ["one\r\ntwo", "_x000D_ a_x0_ _xD83D_"]


def test_a_hidden_sheet_is_not_the_first(tmp_path: Path) -> None:
    def hide(workbook: Any) -> None:
        workbook.active.sheet_state = "hidden"
        workbook.create_sheet("shown").append(["text", "label"])
        workbook["shown"].append(["a film", "x"])

    path = book(tmp_path / "a.xlsx", [["text", "label"], ["an older film", "y"]], hide)
    table = read_file(path)
    assert (table.columns["text"], table.said) == (["a film"], ("the sheet `shown` of 2 (--sheet names another)",))
    assert read_file(path, make_config({"sheet": "Sheet"})).columns["text"] == ["an older film"]
    empty = book(tmp_path / "b.xlsx", [], lambda workbook: workbook.create_sheet("rows"))
    assert "the sheet `Sheet` of 2" in refusal(empty).hint


def test_a_tar_archive_is_called_one(tmp_path: Path) -> None:
    write(tmp_path, a_csv=delimited())
    with tarfile.open(tmp_path / "rows.csv.gz", "w:gz") as archive:
        archive.add(tmp_path / "a.csv", "a.csv")
    error = refusal(tmp_path / "rows.csv.gz")
    assert "a tar archive" in error.what
    assert "tar -xf" in error.hint


# --- folders and patterns


def test_what_lies_beside_the_splits_is_said(tmp_path: Path) -> None:
    """A `test/` beside `train.csv`, a workbook of the older kind, a folder in `train/`: their rows are not read."""
    write(tmp_path, one__train_csv=delimited(), one__test__test_csv=delimited(), one__test_xls="x", one__README_md="x")
    (tmp_path / "one" / "__MACOSX").mkdir()
    assert describe_rows(read(tmp_path / "one")).endswith("; not used: test, test.xls")
    more = delimited().replace("film", "play")
    write(tmp_path, two__train__a_csv=delimited(), two__train__more__b_csv=more, two__test_csv=more)
    assert describe_rows(read(tmp_path / "two")).endswith("; not used: train/more, test.csv")


def texts_by_class(folder: Path, names: Sequence[str]) -> Path:
    for number, name in enumerate(names):
        for i, text in enumerate(TEXTS[:4]):
            write(folder, **{f"{name}__{i}_txt": f"{text} {number}"})
    return folder


def test_what_a_system_leaves_beside_classes_is_none(tmp_path: Path) -> None:
    """As an archive of macOS does: its folders hold hidden files, one for each text."""
    folder = texts_by_class(tmp_path / "texts", ["pos", "neg"])
    wanted = describe_rows(read(folder))
    for place in ("__MACOSX/pos", "notes", "images"):
        (folder / place).mkdir(parents=True)
        (folder / place / "._0.txt").write_text("x", encoding="utf-8")
    write(folder, images__a_png=b"\x89PNG")
    assert describe_rows(read(folder)) == f"{wanted}; not used: images, notes"


def test_no_class_is_lost_for_what_lies_beside_its_texts(tmp_path: Path) -> None:
    folder = texts_by_class(tmp_path, ["pos", "neg", "neutral"])
    write(folder, images__a_png=b"\x89PNG", neutral__more__a_txt="a film")
    error = refusal(folder)
    assert error.where == str(folder / "neutral")
    assert "holds more beside its texts" in error.what
    (folder / "neutral" / "more" / "a.txt").unlink()
    (folder / "neutral" / "more").rmdir()
    assert read(folder).label_names == ("neg", "neutral", "pos")


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        (["test", "dev"], True),
        (["pos", "neg", "test"], True),
        (["train_pos", "train_neg", "test_pos", "test_neg"], True),
        (["test_drive", "test_match", "football"], False),
    ],
)
def test_a_split_is_no_class(tmp_path: Path, names: list[str], refused: bool) -> None:
    by_file = write(tmp_path / "files", **{f"{name}_txt": "\n".join(TEXTS) for name in names})
    for folder in (texts_by_class(tmp_path / "folders", names), by_file):
        if refused:
            assert "would be a class, and has the name of a split" in refusal(folder).what
        else:
            assert read(folder).label_names == tuple(sorted(names))


@pytest.mark.parametrize(
    ("names", "pattern", "refused"),
    [
        (["train__en__a", "test__en__a"], "**/*.csv", True),
        (["split=train__a", "split=test__a"], "*/*.csv", True),
        (["train_1", "train_2", "test"], "*.csv", True),
        (["train_1", "train_2", "test"], "train*.csv", False),
        (["test__a", "test__b"], "test/*.csv", False),  # who names the folder means it
        (["en__a", "de__a"], "*/*.csv", False),
    ],
)
def test_a_pattern_mixes_no_splits(tmp_path: Path, names: list[str], pattern: str, refused: bool) -> None:
    write(tmp_path, **{f"{name}_csv": delimited() for name in names})
    if refused:
        assert "by their names are not one split" in refusal(str(tmp_path / pattern)).what
    else:
        assert sum(map(len, read(str(tmp_path / pattern)).splits.values())) == 40


# --- rows in memory


def test_a_transform_is_not_left_out() -> None:
    rows = datasets.Dataset.from_list(ROWS).with_transform(lambda batch: {"text": ["x"] * len(batch["text"])})
    assert "has a transform" in refusal(rows).what
    rows.reset_format()
    assert len(read_source(rows).splits["train"]) == 20


def test_lists_of_classes_of_a_stream_keep_their_names() -> None:
    kinds = {"text": datasets.Value("string"), "label": datasets.Sequence(datasets.ClassLabel(names=["pos", "neg"]))}
    rows = [{"text": text, "label": [i % 2]} for i, text in enumerate(TEXTS)]
    whole = datasets.Dataset.from_list(rows, features=datasets.Features(kinds))
    assert read(whole.to_iterable_dataset()).label_names == read(whole).label_names == ("pos", "neg")


def test_series_of_other_indexes_are_no_rows() -> None:
    frame = pd.DataFrame(ROWS)
    assert "other indexes" in refusal({"text": frame.text, "label": frame.label.sort_values()}).what
    assert read({"text": frame.text, "label": frame.label}).label_names == ("neg", "pos")


# --- labels

SEVERAL = ["joy,fear", "joy", "fear", "anger,joy", "anger"] * 4


@pytest.mark.parametrize("odd", ["joy,", "joy,joy", "joy,,fear"])
@pytest.mark.parametrize("mark", [",", "|"])
def test_one_odd_cell_does_not_hide_the_labels_of_all(tmp_path: Path, odd: str, mark: str) -> None:
    """Each combination was a class of its own; and `--bad-rows`, as the message advises, leaves the row out."""
    labels = [label.replace(",", mark) for label in [*SEVERAL[:-1], odd]]
    path = tmp_path / "a.csv"
    path.write_text(delimited(labels), encoding="utf-8")
    error = refusal(path)
    assert error.where == f"{path}:21"
    assert "--bad-rows" in error.hint
    data = read(path, bad_rows="drop=5%")
    assert (data.label_names, len(data.dropped)) == (("anger", "fear", "joy"), 1)
    config = make_config({"bad_rows": "drop=5%", "model": "not/here"})
    findings = check_up(read_source(path, config), config).findings
    assert [finding.what for finding in findings if finding.severity == "error"] == []
    assert any("1 train row without a label in `label`" in finding.what for finding in findings)


def test_marks_that_are_often_a_part_of_names_are_warned_of(tmp_path: Path) -> None:
    config = make_config({"model": "not/here"})
    for labels, warned in ((SEVERAL, True), (["input/output", "client/server", "other", "none"] * 5, False)):
        path = write(tmp_path, a_csv=delimited([label.replace(",", "/") for label in labels])) / "a.csv"
        found = [finding.what for finding in check_up(read_source(path, config), config).findings]
        assert any("with `/` in the name" in what for what in found) == warned


def test_an_object_as_text_is_no_class(tmp_path: Path) -> None:
    path = write(tmp_path, a_csv=delimited([f"{{'joy': {i % 2}, 'fear': 1}}" for i in range(20)])) / "a.csv"
    assert "is not a list" in refusal(path).what
    assert len(read(path, task="single-label").label_names) == 2


@pytest.mark.parametrize(
    ("numbers", "refused"),
    [
        ([3e38, -3.3e38, 1.5], True),  # the loss was infinite, after the model was loaded
        ([1e9 + 0.25, 1e9 + 0.5, 1e9 + 0.75], True),  # as float32 they are one number
        ([1.5e-300, 2.5e-300], True),
        ([1700000000.5, 1700000300.75], True),
        ([1.5e17, -2.5e17], False),
        ([1.5e-17, 2.5e-17], False),
        ([1990.5, 2020.25], False),
        ([0.5, 0.5], False),  # that is told of in its own words, where it matters
    ],
)
def test_numbers_that_float32_cannot_learn(numbers: list[float], refused: bool) -> None:
    rows = [{"text": text, "label": numbers[i % len(numbers)]} for i, text in enumerate(TEXTS)]
    if refused:
        assert "float32 cannot learn" in refusal(rows).what
        assert len(read(rows, task="single-label").label_names) == len(numbers)
    else:
        assert len(read(rows, task="regression").label_names) == 1


def test_the_mean_of_large_numbers_is_shown() -> None:
    rows = [{"text": text, "label": 3.4e38} for text in TEXTS]
    data = read(rows, task="regression")
    assert describe_labels(data, data.splits["train"]) == "numbers from 3.4e+38 to 3.4e+38, mean 3.4e+38"


def test_rows_that_a_run_does_not_take_are_told_in_its_words(
    tiny_model: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option of a run is said to be one, a declared class has its name, and cells with tabs are no texts."""
    rows, run = str(write(tmp_path, a_csv=delimited([0, 1] * 10)) / "a.csv"), str(tmp_path / "run")
    options = ["--device", "cpu", "--max-steps", "1"]
    assert run_command(["train", rows, "--model", tiny_model(), "--out", run, *options]) == 0
    names = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    declared = datasets.Dataset.from_list([{"text": text, "label": 1} for text in TEXTS], features=names)
    declared.to_parquet(tmp_path / "named.parquet")
    write(tmp_path, ragged_csv=delimited([0, 1] * 10) + "a,b,c\n", lines_txt="a film\t0\na play\t1\n")
    for command, said in [
        (["evaluate", run, str(tmp_path / "ragged.csv")], "; or a run with --bad-rows drop=1% leaves"),
        (["predict", run, "--data", str(tmp_path / "ragged.csv")], "; or a run with --bad-rows drop=1% leaves"),
        (["evaluate", run, str(tmp_path / "named.parquet")], "the label `yes` does not occur in train"),
        (["predict", run, "--data", str(tmp_path / "lines.txt")], "name it .tsv"),
    ]:
        capsys.readouterr()
        assert run_command(command) == 2
        error = capsys.readouterr().err
        assert said in error
        assert len(error.splitlines()) <= 3


@pytest.mark.parametrize(("indent", "place"), [(None, ", row 2"), (0, ":8")])
def test_a_row_that_is_not_of_the_annotation_tool_is_told_by_its_place(
    indent: int | None, place: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    task = {"data": {"text": "a film"}, "annotations": []}
    path.write_text(json.dumps([task, {"text": "a film", "label": "good"}], indent=indent), encoding="utf-8")
    with pytest.raises(DataError, match="not one of Label Studio") as caught:
        read_file(path)
    assert caught.value.where == f"{path}{place}"


def test_rows_keep_their_numbers_where_the_annotation_tool_has_others(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    choice = [{"result": [{"from_name": "label", "value": {"choices": ["good"]}}]}]
    tasks = [{"data": {"text": f"film {i}"}, "annotations": choice if i % 2 else []} for i in range(6)]
    for indent, places in ((None, [f"{path}, row {row}" for row in (2, 4, 6)]), (0, None)):
        path.write_text(json.dumps(tasks, indent=indent), encoding="utf-8")
        table = read_file(path)
        assert (table.columns["text"], table.ids) == (["film 1", "film 3", "film 5"], [1, 3, 5])
        assert places in (None, [table.where(row) for row in range(3)])
    shards = tmp_path / "shards"
    shards.mkdir()
    for i, written in enumerate(
        (tasks, tasks, tasks)
    ):  # the last row of the first is left out, the first of the others
        shard = shards / f"train-0000{i}-of-00003.json"
        shard.write_text(json.dumps(written[::-1] if i == 0 else written), encoding="utf-8")
    table = read_source(str(shards)).splits["train"]
    assert table.ids == [0, 2, 4, 7, 9, 11, 13, 15, 17]
    assert table.where(3) == f"{shards}/train-00001-of-00003.json, row 2"
    for i in range(3):  # a line that is none, between rows that the tool has and those that are left out
        (shards / f"train-0000{i}-of-00003.json").unlink()
        lines = [*map(json.dumps, tasks[:2]), "{", *map(json.dumps, tasks[2:])]
        (shards / f"train-0000{i}-of-00003.jsonl").write_text("\n".join(lines), encoding="utf-8")
    table = read_source(str(shards), make_config({"bad_rows": "drop=50%"})).splits["train"]
    assert table.ids == [1, 4, 6, 8, 11, 13, 15, 18, 20]
    assert [table.where(row).rpartition("/")[2] for row in (3, 8)] == [
        f"train-0000{i}-of-00003.jsonl:{line}" for i, line in ((1, 2), (2, 7))
    ]
    assert len(table.bad) == 3
