"""The columns of public data sets are found by their names, and seldom taken for others."""

from __future__ import annotations

from pathlib import Path

import pytest

from dongu.config import make_config
from dongu.data.columns import choose_columns
from dongu.data.examples import read_examples
from dongu.data.names import words_of
from dongu.data.sources import read_source
from dongu.data.table import Cell, Table
from dongu.errors import DataError

# Set, its columns, its texts and its label. `a,b` is a pair, `a|b` is one or the other, `a+b` are labels of 0 and 1.
KNOWN = [line.split("\t") for line in Path(__file__).with_name("known_columns.tsv").read_text("utf-8").splitlines()]


def table_of(columns: str, label: str) -> Table:
    """Cells that say nothing of texts; 0 and 1 where these are labels."""
    flags: list[Cell] = ["0", "1", "1", "0"]
    plain: list[Cell] = ["x", "y", "y", "x"]
    joined = label.split("+") if "+" in label else []
    names = [name or f"Unnamed: {place}" for place, name in enumerate(columns.split(","))]
    return Table("data.csv", {name: flags if name in joined else plain for name in names})


def outcome(columns: str, texts: str, label: str) -> str:
    try:
        found = choose_columns(table_of(columns, label), None, None)
    except DataError:
        return "asked"
    rightly = ",".join(found.texts) in texts.split("|") and found.label in label.split("|")
    return "found" if rightly else f"wrong: {found}"


def test_public_data_sets_are_read_without_a_hint() -> None:
    outcomes = {name: outcome(columns, texts, label) for name, columns, texts, label in KNOWN}
    assert len(outcomes) == len(KNOWN) > 250
    wrong = {name: said for name, said in outcomes.items() if said.startswith("wrong")}
    asked = [name for name, said in outcomes.items() if said == "asked"]
    assert len(asked) + len(wrong) <= 0.1 * len(KNOWN), asked
    assert len(wrong) <= 0.02 * len(KNOWN), wrong


@pytest.mark.parametrize("name", ["Review Text", "review_text", "reviewText", "REVIEW-TEXT", "Review.Text"])
def test_names_are_compared_by_their_words(name: str) -> None:
    assert words_of(name) == ("review", "text")


def test_what_is_read_of_others() -> None:
    def found(columns: dict[str, list[Cell]]) -> str:
        return str(choose_columns(Table("data.csv", columns), None, None))

    kinds: list[Cell] = ["a", "b", "a", "b"]
    texts: list[Cell] = [f"a long enough text number {i}" for i in range(4)]
    # The one column of texts, whatever it is called; an id, a date or a column without a name is not what is left.
    assert found({"label": kinds, "note": texts, "kind": kinds}) == "note → label"
    assert found({"Unnamed: 0": kinds, "note": texts, "kind": kinds, "Created At": kinds}) == "note → kind"
    assert found({"text": texts, "worth": [*["1.5", "2.25", "3", "4"]]}) == "text → worth"
    declared = Table("data.csv", {"note": texts, "kind": kinds, "part": kinds}, label_names={"kind": ["a", "b"]})
    assert str(choose_columns(declared, None, None)) == "note → kind"
    flags: dict[str, list[Cell]] = {"text": texts, **{name: [*"0110"] for name in ("toxic", "rude", "threat")}}
    for asked in (None, ["text"]):
        assert str(choose_columns(Table("data.csv", flags), asked, None)) == "text → toxic+rude+threat"
    for doubtful in (
        {"text": texts, "summary": texts},
        {"text": texts, "row": [*"1234"]},
        {"text": texts, "stars": kinds, "rating": kinds},
        {"question": texts, "answer": texts, "label": kinds},
    ):
        with pytest.raises(DataError, match="it is unclear which"):
            found(doubtful)


def test_columns_without_a_name_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "spam.csv").write_text("v1,v2,,,\n" + "ham,good day,,,\nspam,win now,x,,\n" * 10, encoding="utf-8")
    (tmp_path / "index.csv").write_text("Unnamed: 0,text,label\n" + "0,a,x\n1,b,y\n" * 10, encoding="utf-8")
    sources = [read_source(str(tmp_path / name)) for name in ("spam.csv", "index.csv")]
    spam, index = (read_examples(source, make_config({})) for source in sources)
    assert str(spam.columns) == "v2 → v1"
    assert str(index.columns) == "text → label"
    assert index.unused_columns == ("Unnamed: 0",)
