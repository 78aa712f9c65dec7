"""Lines of fastText: the labels, each with a mark before it, and then the text."""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedReader

from dongu.data.cells import Rows
from dongu.data.encoding import text_lines
from dongu.data.table import Cell, Table, data_error

MARK = "__label__"


def read_fasttext(file: BufferedReader, origin: str) -> Table:
    """A row a line: its label, or a list of them where any line has several.

    Raises:
        DataError: a line has no label.
    """
    single = all(len(labels) == 1 for labels, _ in _lines(file, origin))
    file.seek(0)
    rows = Rows(["text", "label"], origin)
    for number, (labels, text) in enumerate(_lines(file, origin), 1):
        rows.add([text, labels[0] if single else labels], number)
    return rows.table(said=[f"lines of fastText: {'a label' if single else 'labels'} and a text each"])


def _lines(file: BufferedReader, origin: str) -> Iterator[tuple[list[Cell], str]]:
    for number, line in enumerate(text_lines(file, origin), 1):
        labels: list[Cell] = []
        text = line.rstrip("\r\n")
        while text.startswith(MARK):
            label, _, text = text.removeprefix(MARK).partition(" ")
            labels.append(label)
        if not labels:
            what = f"the line does not begin with {MARK}, as those of fastText do"
            hint = "cells with tabs or commas: name it .tsv or .csv; one text per file: a folder per class (pos/*.txt)"
            raise data_error(f"{origin}:{number}", what, hint)
        yield labels, text
