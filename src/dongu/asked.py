"""What a data set or a run is like, asked in Python: `dongu.inspect`, `dongu.report`, `dongu.compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

from dongu.comparison.pairs import Comparison, compare_folders
from dongu.config import make_config
from dongu.data.sources import read_source
from dongu.doctor.checkup import Checkup, check_up
from dongu.files import write_file
from dongu.options import Options
from dongu.run.folder import RunFolder


def inspect(data: Any, *, parts: str | Path | None = None, **options: Unpack[Options]) -> Checkup:
    """Look at the data as `dongu.train` would read them, and for problems that would harm the result.

    Args:
        data: a folder, a file, a Hub name, or rows in memory, as for `dongu.Loop`.
        parts: a Python file of parts of your own.
        options: those of `RunConfig` by name.

    Raises:
        InputError: the options cannot be used, or the columns cannot be found.
    """
    given: dict[str, Any] = {**options}
    if parts is not None:
        from dongu.own import take_own  # which loads torch

        take_own(given, parts)  # the columns among them, and the name of the tokenizer, count here
    config = make_config(given | ({"data": data} if isinstance(data, str) else {}))
    return check_up(read_source(data, config), config)


def report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a run, finished or not, and return its path: `report.html` in the run folder, or `out`.

    Raises:
        InputError: the folder is no run, or one of its files is damaged.
        StorageError: the report could not be written.
    """
    return write_page_of(RunFolder(Path(run)), None if out is None else Path(out))[0]


def write_page_of(folder: RunFolder, out: Path | None) -> tuple[Path, bool]:
    """The page of `report`, and whether its rows are shown by their texts, and not by their numbers alone."""
    from dongu.page.report import make_report, read_data

    folder.read_record()
    data = read_data(folder)
    write_file(out or folder.report, make_report(folder, data), within=folder.path if out is None else None)
    return out or folder.report, data is not None


def compare(*runs: str | Path, split: str | None = None) -> Comparison:
    """Compare finished runs with the first one, or recipes of several seeds.

    Args:
        runs: two or more run folders (beside one, also other classifiers), or folders of `--seeds`.
        split: the rows to compare on; by default test if it has labels, else validation.

    Raises:
        InputError: a run is unfinished or damaged, or rows, tasks or labels differ.
    """
    return compare_folders([Path(run) for run in runs], split)
