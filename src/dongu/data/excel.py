"""A sheet of an Excel workbook (.xlsx): its first row names the columns."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from io import BufferedReader
from itertools import repeat
from typing import Any

from dongu.config import RunConfig
from dongu.data.archives import bound_of
from dongu.data.cells import Rows
from dongu.data.table import (
    REPEATED_ADVICE,
    REPEATED_HEADER,
    Cell,
    Other,
    Table,
    as_cell,
    check_names,
    data_error,
)
from dongu.errors import DonguError, install_hint
from dongu.text import is_blank, listed, reason_of, shortened

UNSTORED = "a formula without a stored value (open the file in Excel or LibreOffice and save it once)"
_FORMULA = re.compile(rb"</(\w+:)?f>")
_ESCAPED = re.compile(r"_x((?![Dd][89A-Fa-f])[0-9A-Fa-f]{4})_")  # what Excel writes by its number: _x000D_ is a CR
_READ_BYTES, _MARK_BYTES = 1 << 20, 32


def read_sheet(file: BufferedReader, origin: str, config: RunConfig) -> Table:
    """Cells keep their kinds: a number is a number, and what Excel shows as an error is neither text nor label.

    Nor is a formula whose value the program that wrote the file did not compute.

    Raises:
        DataError: openpyxl is not installed, the workbook is damaged or too large, or there is no such sheet.
    """
    if find_spec("openpyxl") is None:
        raise data_error(origin, "to read .xlsx, openpyxl is needed", f"{install_hint('excel')}, or save it as csv")
    try:
        archive = zipfile.ZipFile(file)
        size = sum(info.file_size for info in archive.infolist())  # no more is ever read of each
        if size > (limit := bound_of(file, config.max_expansion)):
            what = f"the workbook holds {size:,} bytes, and at most {limit:,} are likely"
            raise data_error(origin, what, "if that is right: --max-expansion N allows N times its size")
        return _table(file, origin, config, with_formulas=_has_formulas(archive))
    except DonguError:
        raise
    except Exception as error:  # of openpyxl, zipfile and the XML parser, which share no other base
        raise data_error(origin, f"the workbook cannot be read ({reason_of(error)})", "save it again") from error


def _has_formulas(archive: zipfile.ZipFile) -> bool:
    """Whether any sheet has one; told by the end of its mark, which may lie in two parts of the sheet."""
    for name in archive.namelist():
        if name.startswith("xl/worksheets/"):
            with archive.open(name) as sheet:
                end = b""
                while part := sheet.read(_READ_BYTES):
                    if _FORMULA.search(end + part):
                        return True
                    end = part[-_MARK_BYTES:]
    return False


def _table(file: BufferedReader, origin: str, config: RunConfig, *, with_formulas: bool) -> Table:
    name = config.sheet
    book = _opened(file, values=True)
    shown = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]  # what Excel itself opens with
    names = [sheet.title for sheet in dict.fromkeys([*shown, *book.worksheets])]
    if not names or (name is not None and name not in names):
        what = f"there is no sheet {name!r}" if names else "there is no sheet of cells"
        raise data_error(origin, what, f"the sheets are: {listed(names)}")
    said = f"the sheet `{names[0]}` of {len(names)} (--sheet names another)" if len(names) > 1 and not name else ""
    sheet: Any = book[name or names[0]]
    sheet.reset_dimensions()  # which a file may claim as it likes
    lines = enumerate(sheet.iter_rows(), 1)
    formulas = _rows_of_formulas(file, sheet.title) if with_formulas else repeat(())
    if not config.header:
        next(formulas, ())
    titles: list[Any] = [*(config.header or ())] or [cell.value for cell in next(lines, (1, ()))[1]]
    kept = [place for place, title in enumerate(titles) if title is not None and not is_blank(str(title))]
    if not kept:
        hint = f"begin with the names of the columns{said and f'; read as: {said}'}"
        raise data_error(origin, "the first row is empty", hint)
    columns = [str(titles[place]) for place in kept]
    check_names(columns, f"{origin}:1")
    rows, empty, unnamed = Rows(columns, origin, drop=config.bad_rows is not None), [], False
    for (line, cells), written in zip(lines, formulas, strict=False):
        row = [_cell(cells[place], written[place : place + 1]) if place < len(cells) else None for place in kept]
        unnamed = unnamed or any(cell.value is not None for place, cell in enumerate(cells) if place not in kept)
        if all(cell is None for cell in row):
            empty.append(line)  # those at the end are no rows
            continue
        for earlier in empty:
            rows.add([None] * len(kept), earlier)
        empty = []
        if row == columns and len(columns) > 1:
            rows.refuse(line, REPEATED_HEADER, REPEATED_ADVICE)
        else:
            rows.add(row, line)
    title = ""
    if len(columns) == 1:
        title = f"; the first row names one, `{shortened(columns[0])}`: remove what is not a header"
    nameless = f"not used, for want of a name: some columns{title}" if unnamed else ""
    return rows.table(said=[said, nameless])


def _opened(file: BufferedReader, *, values: bool) -> Any:
    """The workbook, whose formulas are the values that were stored with them, or themselves."""
    import openpyxl

    file.seek(0)
    return openpyxl.load_workbook(file, read_only=True, data_only=values)


def _rows_of_formulas(file: BufferedReader, title: str) -> Iterator[tuple[Any, ...]]:
    """The rows of a sheet as they are written, from the same file: each reader of a zip goes to its own place."""
    sheet: Any = _opened(file, values=False)[title]
    sheet.reset_dimensions()
    yield from sheet.iter_rows()


def _cell(cell: Any, written: Sequence[Any]) -> Cell:
    """A cell by its value, and as it is `written`, where the sheet may have formulas."""
    if cell.data_type == "e":
        return Other.of(cell.value, "an error of Excel")
    if cell.value is None and cell.data_type == "n" and written and written[0].data_type == "f":  # "str": an empty text
        return Other.of(str(written[0].value), UNSTORED)
    if isinstance(cell.value, str):
        return as_cell(_ESCAPED.sub(lambda found: chr(int(found[1], 16)), cell.value))
    return as_cell(cell.value)
