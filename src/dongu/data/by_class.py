"""Texts by class: a folder for each class with a text a file, or a file for each class with a text a line."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from io import BufferedReader, BytesIO
from pathlib import Path

from dongu.config import RunConfig
from dongu.data.cells import Rows
from dongu.data.encoding import decode_utf8, in_utf8
from dongu.data.fasttext import MARK
from dongu.data.readers import lines_of_text
from dongu.data.table import MANY_CLASSES, Places, Table, data_error, readable
from dongu.files import JSON_LIMIT, read_regular
from dongu.text import counted, listed

UNLABELLED = ("unsup", "unsupervised", "unlabelled", "unlabeled")  # names of what is no class
SHOWN_NAMES = 10  # names in a message
ABOUT = ("readme", "license", "licence")  # files that say something of the others
_OF_SYSTEMS = ("thumbs.db", "desktop.ini", "__macosx")  # that Windows and macOS leave behind


def entries_of(path: Path) -> list[Path]:
    with readable(str(path)):
        return sorted(path.iterdir())


def class_folders(path: Path) -> dict[str, list[Path]]:
    """Folder → its texts, of the folders that are classes: they hold files of text and nothing else.

    Raises:
        DataError: another folder beside them holds files of text too, which would be lost.
    """
    classes, others = {}, []
    for folder in entries_of(path):
        if is_hidden(folder) or folder.name.lower() in UNLABELLED or not folder.is_dir():
            continue
        files = [entry for entry in entries_of(folder) if not is_hidden(entry)]
        if files and all(is_text(file) for file in files):
            classes[folder.name] = files
        elif files:
            others.append((folder, next(file for file in files if not is_text(file))))
    for folder, odd in others if classes else ():
        if not all(map(is_hidden, folder.rglob("*.txt"))):
            what = f"holds {odd.name} beside its texts, so it is not a class, as {next(iter(classes))} is"
            raise data_error(str(folder), what, "a folder by class holds files of text (.txt) alone: move others out")
    return classes


def class_files(entries: Sequence[Path]) -> list[Path]:
    """The files of text that are a class each, a row a line; none where a folder holds more than such files."""
    files = [entry for entry in entries if not is_hidden(entry) and entry.stem.lower() not in ABOUT]
    if len(files) > MANY_CLASSES or not all(file.suffix.lower() == ".txt" and file.is_file() for file in files):
        return []
    return [file for file in files if file.stem.lower() not in UNLABELLED]


def read_class_files(path: Path, files: Sequence[Path], config: RunConfig) -> Table:
    """A row for each line of each file: the line, and the name of the file as the label.

    Raises:
        DataError: a file is none of text, or one of fastText.
    """
    starts: list[int] = []
    rows = Rows(["text", "label"], Places(str(path), starts, [*map(str, files)]))
    for file in files:
        starts.append(len(rows))
        with readable(str(file)):
            lines = lines_of_text(file, config)
        if lines[0].startswith(MARK):
            raise data_error(str(file), "holds lines of fastText, and there is no train split", "name it train.txt")
        for number, line in enumerate(lines, 1):
            rows.add([line, file.stem], number)
    names = listed([file.stem for file in files], SHOWN_NAMES)
    said = f"{counted(len(files), 'file')} of texts, a row a line, each a class: {names}"
    return rows.table(said=[said])


def is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _OF_SYSTEMS


def not_classes(entries: Iterable[Path], classes: Collection[str]) -> tuple[str, ...]:
    """The other entries of a folder; of one that has a name for texts without a label, this is said."""
    others = [entry.name for entry in entries if entry.name not in classes and not is_hidden(entry)]
    return tuple(f"{name} (unlabelled by its name)" if name.lower() in UNLABELLED else name for name in others)


def is_text(path: Path) -> bool:
    return path.is_file() and (path.suffix.lower() in (".txt", ".text", "") or path.suffix[1:].isdigit())


def read_class_folders(path: Path, classes: Mapping[str, list[Path]], config: RunConfig) -> Table:
    """A row for each file: its text, the name of its folder as the label, and its name."""
    places = [str(file) for files in classes.values() for file in files]
    rows = Rows(["text", "label", "file"], Places(str(path), range(len(places)), places))
    for name, files in classes.items():
        for file in files:
            rows.add([_text_of(file, config), name, f"{name}/{file.name}"], 1)
    said = f"{counted(len(classes), 'folder')} of texts, each a class: {listed([*classes], SHOWN_NAMES)}"
    return rows.table(said=[said])


def _text_of(path: Path, config: RunConfig) -> str:
    with readable(str(path), "a class has files of text alone"):
        content = read_regular(path, JSON_LIMIT, follow=True)
    file, _ = in_utf8(BufferedReader(BytesIO(content)), str(path), config.encoding)
    return "".join(decode_utf8(file, str(path)))
