"""A write that fails leaves the old content, no litter, and an error that names the path."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dongu.errors import LockedError, StorageError
from dongu.files import Disk, disk, open_to_write, remove_leftovers, replace_folder, write_file
from dongu.run.folder import RunFolder


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def broken(*_: Any, **__: Any) -> Any:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def on_call(number: int, real: Callable[..., Any], fault: Callable[..., Any] = broken) -> Callable[..., Any]:
    """The real function, but for its call of this number, counted from 1."""
    calls = 0

    def function(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return (fault if calls == number else real)(*arguments, **options)

    return function


def contents(folder: Path) -> dict[str, str]:
    """Every file below the folder, with what it holds."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


# --- one file


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "results.json"
    for content in (b"old", b"", b"\x00\xffnew"):
        write_file(target, content)
        assert target.read_bytes() == content
        assert [path.name for path in target.parent.iterdir()] == ["results.json"]


FILE_FAULTS: list[tuple[Any, str, str]] = [
    (os, "fsync", "the content does not reach the disk"),
    (Path, "replace", "the name cannot be taken"),
    (os, "open", "the staged file cannot be opened"),
]


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize(("owner", "name", "meaning"), FILE_FAULTS)
def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, meaning: str, old: str | None
) -> None:
    target = tmp_path / "results.json"
    if old is not None:
        target.write_text(old)
    monkeypatch.setattr(owner, name, full)
    with pytest.raises(StorageError) as caught:
        write_file(target, b"new")
    monkeypatch.undo()
    assert contents(tmp_path) == ({} if old is None else {"results.json": old}), meaning
    assert caught.value.where == str(target)
    assert "No space left" in caught.value.what
    assert "free some space" in caught.value.hint
    assert caught.value.exit_code == 6


def test_a_write_that_stops_half_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the content is in the staged file when the disk is full: nobody ever sees it."""
    target = tmp_path / "results.json"
    target.write_text("old")
    real_open = open_to_write

    def open_short(*arguments: Any) -> Any:
        file = real_open(*arguments)

        class Short:
            def __enter__(self) -> Short:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def write(self, content: bytes) -> None:
                file.write(content[: len(content) // 2])
                file.flush()
                full()

        return Short()

    monkeypatch.setattr("dongu.files.open_to_write", open_short)
    with pytest.raises(StorageError):
        write_file(target, b"new content")
    monkeypatch.undo()
    assert contents(tmp_path) == {"results.json": "old"}


def test_the_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        events.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        fsync(descriptor)

    def noted_replace(path: Path, target: Path) -> Path:
        events.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    write_file(tmp_path / "results.json", b"new")
    assert events == ["sync file", "rename", "sync folder"]


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(StorageError) as caught:
        write_file(tmp_path / "runs" / "results.json", b"new")
    assert str(tmp_path / "runs") in caught.value.where
    assert contents(tmp_path) == {"runs": "in the way"}


def test_a_target_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "results.json").mkdir()
    with pytest.raises(StorageError):
        write_file(tmp_path / "results.json", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


# --- a folder


def fill(folder: Path, content: str) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "weights").write_text(content)
    (folder / "config").write_text(content)


def fill_and_fail(target: Path, error: BaseException) -> None:
    with replace_folder(target) as stage:
        fill(stage, "new")
        raise error


def model(content: str) -> dict[str, str]:
    return {"model/deep/weights": content, "model/config": content}


def test_a_folder_is_written_and_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with replace_folder(target) as stage:
        assert not target.exists()
        fill(stage, "old")
        (stage / "only here").write_text("x")
    assert contents(tmp_path) == {**model("old"), "model/only here": "x"}
    with replace_folder(target) as stage:
        assert list(stage.iterdir()) == []
        fill(stage, "new")
        assert (target / "config").read_text() == "old"  # until the block ends
    assert contents(tmp_path) == model("new")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [True, False])
def test_an_error_in_the_block_leaves_the_old_folder(tmp_path: Path, error: type[BaseException], old: bool) -> None:
    target = tmp_path / "model"
    if old:
        target.mkdir()
        fill(target, "old")
    with pytest.raises(error):
        fill_and_fail(target, error())
    assert contents(tmp_path) == (model("old") if old else {})
    assert {path.name for path in tmp_path.iterdir()} <= {"model"}


def cannot_exchange(one: Path, other: Path) -> bool:
    """As on a system, or a file system, that cannot swap two names."""
    return False


# The fault hits this call of the function, counted from 1. Without an exchange of names, the first rename moves the old
# folder aside.
FOLDER_FAULTS: list[tuple[Any, str, int, bool]] = [
    (os, "fsync", 1, True),
    (os, "fsync", 2, True),
    (os, "fsync", 3, True),
    (os, "fsync", 4, False),
    (Path, "rename", 1, False),
    (Path, "rename", 2, False),
]


@pytest.mark.parametrize(("owner", "name", "call", "exchanges"), FOLDER_FAULTS)
def test_a_failed_replacement_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, exchanges: bool
) -> None:
    target = tmp_path / "model"
    target.mkdir()
    fill(target, "old")
    if not exchanges:
        monkeypatch.setattr(disk, "exchange", cannot_exchange)
    monkeypatch.setattr(owner, name, on_call(call, getattr(owner, name)))
    with pytest.raises(StorageError) as caught, replace_folder(target) as stage:
        fill(stage, "new")
    monkeypatch.undo()
    assert contents(tmp_path) == model("old")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert caught.value.where == str(target)
    with replace_folder(target) as stage:  # and the next attempt succeeds
        fill(stage, "new")
    assert contents(tmp_path) == model("new")


@pytest.mark.parametrize("exchanges", [True, False])
def test_the_name_is_there_at_every_instant_where_the_system_can_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    """A swap is one step. Elsewhere the old folder is moved aside first, and nothing is left of that either."""
    target, seen = tmp_path / "model", []
    target.mkdir()
    fill(target, "old")
    if not exchanges:
        monkeypatch.setattr(disk, "exchange", cannot_exchange)
    elif not Disk().exchange(tmp_path / "model", tmp_path / "model"):
        pytest.skip("this system cannot swap two names")
    rename = Path.rename

    def noted_rename(path: Path, new: Path) -> Path:
        moved = rename(path, new)
        seen.append(target.exists())
        return moved

    monkeypatch.setattr(Path, "rename", noted_rename)
    with replace_folder(target) as stage:
        fill(stage, "new")
    assert seen == ([] if exchanges else [False, True])
    assert contents(tmp_path) == model("new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_exchange_of_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    assert not Disk().exchange(tmp_path / "one", tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_what_cannot_be_written_is_called_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by that of the temporary file, which nobody knows and which is gone."""

    def refused(_: Disk, path: Path, *_rest: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Disk, "write", refused)
    with pytest.raises(StorageError) as error:
        write_file(tmp_path / "report.html", b"page")
    assert error.value.where == str(tmp_path / "report.html")
    with pytest.raises(StorageError) as error, replace_folder(tmp_path / "onnx") as stage:
        disk.write(stage / "config.json", b"{}")
    assert error.value.where == str(tmp_path / "onnx" / "config.json")


@pytest.mark.parametrize("kind", ["moved aside", "replaced", "a file", "a link", "of another program"])
def test_leftovers(tmp_path: Path, kind: str) -> None:
    """An old folder is put back where no other has its name yet; what is not ours stays."""
    old = tmp_path / ".model.7.old"
    if kind == "a file":
        (tmp_path / ".results.json.7.tmp").write_text("half")
    elif kind == "a link":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / ".model.7.tmp").symlink_to("elsewhere")
    elif kind == "of another program":
        for name in (".model.tmp", "model.7.tmp", ".model.7.swp", ".7.tmp.bak"):
            (tmp_path / name).write_text("theirs")
    else:
        old.mkdir()
        fill(old, "old")
        (tmp_path / ".model.7.tmp").mkdir()
        if kind == "replaced":
            (tmp_path / "model").mkdir()
            fill(tmp_path / "model", "new")
    before = contents(tmp_path)
    remove_leftovers(tmp_path)
    if kind in ("moved aside", "replaced"):
        assert contents(tmp_path) == model("old" if kind == "moved aside" else "new")
        assert [path.name for path in tmp_path.iterdir()] == ["model"]
    elif kind == "a file":
        assert list(tmp_path.iterdir()) == []
    else:
        assert contents(tmp_path) == before
        assert kind != "a link" or (tmp_path / ".model.7.tmp").is_symlink()
    remove_leftovers(tmp_path / "is not there")


def test_a_full_disk_in_the_block(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        fill_and_fail(tmp_path / "model", OSError(errno.ENOSPC, "No space left on device"))
    assert caught.value.where == str(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_litter_of_the_same_process_is_no_matter(tmp_path: Path) -> None:
    litter = tmp_path / f".model.{os.getpid()}.tmp"
    litter.mkdir()
    (litter / "half").write_text("x")
    with replace_folder(tmp_path / "model") as stage:
        fill(stage, "new")
    assert contents(tmp_path) == model("new")


def test_looking_at_a_lock_does_not_let_go_of_it(tmp_path: Path) -> None:
    """POSIX drops a process's lock when it closes any descriptor of the file, were it only to look."""
    take = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"

    def is_free() -> bool:
        command = [sys.executable, "-c", take, str(tmp_path / ".lock")]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    folder, other = RunFolder(tmp_path), RunFolder(tmp_path / ".." / tmp_path.name)
    with folder.lock():
        assert other.is_locked
        with pytest.raises(LockedError, match="this process writes to this run"), other.lock():
            pass
        assert not is_free()
        if (child := os.fork()) == 0:  # which holds nothing
            os._exit(0 if other.is_locked else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert not is_free()
    assert not RunFolder(tmp_path).is_locked
    assert is_free()
