"""Whatever becomes of a checkpoint's files, by accident or on purpose: it is seen, named, and never run or believed."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

import dongu
from dongu.cli.main import run as run_command
from dongu.errors import CheckpointError
from dongu.run.checkpoint import CONTENTS, Checkpoint, Checkpoints
from dongu.run.folder import RunFolder
from dongu.run.journal import Journal
from dongu.run.manifest import MANIFEST, entry_of, manifest_bytes
from dongu.run.plan import Plan

FILES = (*CONTENTS, MANIFEST)
OLDER, NEWER = "step-00000010", "step-00000012"
OPTIONS: dict[str, Any] = {"max_steps": 14, "batch_size": 8, "lr": 2e-3, "device": "cpu", "threads": 1}
OPTIONS |= {"save_steps": 2, "eval_steps": 5, "keep": 2}


class CutError(Exception):
    """Ends a run from inside."""


@pytest.fixture(scope="module")
def master(tiny_model: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A run cut off after 13 of 14 steps, whose newest checkpoints are 10 and 12; and what it would come to."""
    draw, folder = random.Random(5), tmp_path_factory.mktemp("damage")
    (folder / "data").mkdir()
    for name, count in {"train": 48, "validation": 8}.items():
        texts = (" ".join(draw.choices(["good", "bad", "film", "the", "not"], k=6)) for _ in range(count))
        rows = [json.dumps({"text": text, "label": f"class{i % 2}"}) for i, text in enumerate(texts)]
        (folder / "data" / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    step = Journal.step

    def stop(self: Journal, made: dongu.Step) -> None:
        step(self, made)
        if made.number == 13:
            raise CutError

    options = {**OPTIONS, "model": tiny_model(dropout=0.2)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "step", stop)
        with pytest.raises(CutError):
            dongu.train(str(folder / "data"), out=str(folder / "run"), **options)
    assert {OLDER, NEWER} <= {path.name for path in (folder / "run" / "checkpoints").iterdir()}
    dongu.train(str(folder / "data"), out=str(folder / "whole"), **options)
    return folder / "run", result_of(folder / "whole")


@pytest.fixture
def run(master: tuple[Path, dict[str, bytes]], tmp_path: Path) -> Path:
    """A copy of that run, to be damaged."""
    return Path(shutil.copytree(master[0], tmp_path / "run"))


@pytest.fixture
def settle(master: tuple[Path, dict[str, bytes]], capsys: pytest.CaptureFixture[str]) -> Callable[..., int]:
    """`settle(run, named)`: resume, which ends in the bytes of the whole run, or is refused with nothing changed."""

    def resume(run: Path, named: Path) -> int:
        before = snapshot(run)
        capsys.readouterr()
        code = run_command(["resume", str(run)])
        output = capsys.readouterr()
        if code == 0:
            assert f"WARNING: {named}" in output.out, output.out
            assert "resuming after step 10 of" in output.out
            assert result_of(run) == master[1]
        else:
            assert code == 4, output.err
            assert str(named) in output.err, output.err
            assert snapshot(run) == before
            assert len(output.err.strip().splitlines()) <= 3
        return code

    return resume


@pytest.fixture(scope="module")
def loop(master: tuple[Path, dict[str, bytes]]) -> dongu.Loop:
    return RunFolder(master[0]).reopen()


@pytest.fixture
def look(loop: dongu.Loop) -> Callable[[Path, Path], None]:
    """`look(run, checkpoint)`: what `settle` does, without the run: it is passed over, or refused with nothing changed.

    What then goes on from step 10 is the same each time.
    """

    def look_at(run: Path, checkpoint: Path) -> None:
        found, damaged = newest(run)
        if not damaged:
            assert found is not None
            before = {name: tensor.clone() for name, tensor in loop.model.state_dict().items()}
            with pytest.raises(CheckpointError) as refused:
                found.restore(loop)
            damaged = [refused.value]
            assert loop.number == 0
            assert all(torch.equal(tensor, before[name]) for name, tensor in loop.model.state_dict().items())
            assert not loop.optimizer.state_dict()["state"]
        else:
            assert found is not None
            assert found.state.step == 10
        [error] = damaged
        assert error.where.startswith(str(checkpoint))

    return look_at


def snapshot(run: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and not path.is_symlink() and path.name != ".lock"
    }


def result_of(run: Path) -> dict[str, bytes]:
    changing = ("run.json", "timing.jsonl", "report.html")
    return {name: content for name, content in snapshot(run).items() if name not in changing}


def newest(run: Path) -> tuple[Checkpoint | None, list[CheckpointError]]:
    return Checkpoints(run / "checkpoints", 2, Plan(14, 5, 2)).newest(run / "metrics.jsonl")


def assert_passed_over(run: Path, named: Path) -> None:
    """The older checkpoint is used, and the file is named."""
    found, damaged = newest(run)
    assert found is not None
    assert found.state.step == 10
    assert [error.where for error in damaged] == [str(named)]


# --- accidents


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_bit_is_seen(run: Path, name: str) -> None:
    file = run / "checkpoints" / NEWER / name
    content, draw = file.read_bytes(), random.Random(name)
    for _ in range(20):
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file.write_bytes(flipped)
        found, damaged = newest(run)
        assert found is not None
        assert found.state.step == 10
        # A digit of a digest may be flipped, and then the manifest accuses the file that it is of.
        assert damaged[0].where in {str(file), *(str(file.with_name(other)) for other in FILES if name == MANIFEST)}
    file.write_bytes(content)
    assert newest(run)[1] == []


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_or_extended_anywhere(run: Path, name: str) -> None:
    """Within the header, at its end, within the content, to nothing, by one byte; with more behind it."""
    file = run / "checkpoints" / NEWER / name
    content = file.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0] if name.endswith("safetensors") else len(content) // 3
    for length in {0, 1, 7, 8, header - 1, header, header + 1, len(content) // 2, len(content) - 1}:
        file.write_bytes(content[:length])
        assert_passed_over(run, file)
    for more in (b"\0", b"\n", b" ", content):
        file.write_bytes(content + more)
        assert_passed_over(run, file)


@pytest.mark.parametrize("name", FILES)
def test_files_swapped_between_two_checkpoints(run: Path, name: str) -> None:
    """Each is a file of its kind, and of this run. (With its manifest swapped, a checkpoint's files are the others.)"""
    older, newer = (run / "checkpoints" / step / name for step in (OLDER, NEWER))
    contents = older.read_bytes(), newer.read_bytes()
    older.write_bytes(contents[1])
    newer.write_bytes(contents[0])
    for path in (older.parent, newer.parent):
        with pytest.raises(CheckpointError, match="bytes"):
            Checkpoint.read(path)
    if [path.name for path in (run / "checkpoints").iterdir()] == [OLDER, NEWER]:
        with pytest.raises(CheckpointError, match="no checkpoint is valid"):
            newest(run)


def test_two_checkpoints_under_each_others_name(run: Path) -> None:
    """Every byte is right but the step: to believe the name would do steps again at each resume, or leave some out."""
    older, newer = run / "checkpoints" / OLDER, run / "checkpoints" / NEWER
    newer.rename(run / "aside")
    older.rename(newer)
    (run / "aside").rename(older)
    for path in (older, newer):
        with pytest.raises(CheckpointError) as caught:
            Checkpoint.read(path)
        assert str(path) in caught.value.where


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "link to itself", "link to a device", "hard to read"])
@pytest.mark.parametrize("name", FILES)
def test_something_else_than_a_file(run: Path, name: str, kind: str) -> None:
    """A pipe would hang whoever opens it, and a device never ends."""
    file = run / "checkpoints" / NEWER / name
    aside = file.rename(run / name)
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "hard to read":
        if os.geteuid() == 0:
            pytest.skip("root reads everything")
        shutil.copy(aside, file)
        file.chmod(0)
    else:
        file.symlink_to({"link": aside, "link to itself": file, "link to a device": Path("/dev/zero")}[kind])
    assert_passed_over(run, file)


def entry(**changes: Any) -> dict[str, Any]:
    return {"size": 3, "sha256": "0" * 64, **changes}


def manifests(entries: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """What a manifest with these entries may be turned into."""

    def plain(entries: Any, **more: Any) -> bytes:
        return (json.dumps({"format": 2, "files": entries, **more}, indent=2) + "\n").encode()

    def put_before(key: str, twin: str) -> bytes:
        return plain(entries).replace(f'"{key}"'.encode(), f'"{key}": {twin}, "{key}"'.encode(), 1)

    weights, state = CONTENTS[0], CONTENTS[2]
    yield "unknown file", plain({**entries, "extra.bin": entry()})
    yield "missing file", plain({name: entries[name] for name in CONTENTS[:2]})
    yield "no file", plain({})
    for path in ("../x", "../../run.json", "/etc/passwd", "a/b", ".", "..", "", "state.json\0"):
        yield f"path {path!r}", plain({**entries, path: entry()})
        renamed = {path if name == state else name: item for name, item in entries.items()}
        yield f"path {path!r} for one", plain(renamed)
    for size in (2**30, 2**63, 10**40, -1, 0, 1.5, "3", None, True, [3], float("nan"), float("inf")):
        yield f"size {size!r}", plain({**entries, weights: {**entries[weights], "size": size}})
    for digest in ("", "0" * 63, "G" * 64, None, 0, ["0" * 64]):
        yield f"digest {digest!r}", plain({**entries, state: {**entries[state], "sha256": digest}})
    upper = {name: {**item, "sha256": item["sha256"].upper()} for name, item in entries.items()}
    yield "upper case", plain(upper)
    yield "one more key", plain({**entries, state: {**entries[state], "mode": 493}})
    yield "one more key at the top", plain(entries, auto_map={})
    yield "a space", plain(entries) + b" "
    yield "no indent", json.dumps({"format": 2, "files": entries}).encode()
    yield "format of another version", plain(entries).replace(b'"format": 2', b'"format": 3')
    yield "duplicate key", put_before("files", "{}")
    yield "duplicate entry", put_before(state, '{"size": 1, "sha256": ""}')
    yield "deep nesting", b'{"files": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    yield "deep nesting of objects", b'{"files": ' + b'{"a": ' * 100_000 + b"1" + b"}" * 100_000 + b"}"
    yield "many digits", b'{"format": 2, "files": ' + b"9" * 10_000 + b"}"
    for content in (b"", b"null", b"[]", b"{}", b"3", b'"x"', b"\xff\xfe{}", b"\0" * 100, b"{", b'{"files": null}'):
        yield f"only {content[:10]!r}", content
    yield "entries as a list", plain(list(entries))
    yield "entries as numbers", plain(dict.fromkeys(entries, 3))
    yield "utf-16", plain(entries).decode().encode("utf-16")
    yield "byte order mark", b"\xef\xbb\xbf" + plain(entries)


def test_a_manifest_that_lies(run: Path) -> None:
    file, believed = run / "checkpoints" / NEWER / MANIFEST, {}
    cases = dict(manifests(json.loads(file.read_bytes())["files"]))
    assert len(cases) > 50
    for kind, content in cases.items():
        file.write_bytes(content)
        try:
            found, damaged = newest(run)
        except Exception as error:  # noqa: BLE001 - the worst of all answers, and one line of the list
            believed[kind] = repr(error)
            continue
        where = [Path(error.where).parent for error in damaged]
        if found is None or found.state.step != 10 or where != [file.parent]:
            believed[kind] = str(where)
    assert believed == {}


# --- the log


def test_a_log_that_is_shorter_or_edited(run: Path, settle: Callable[..., int]) -> None:
    """Lines of step 11 are gone or others: what stood at step 10 is there, so 10 is used."""
    log = run / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    at_10 = json.loads((run / "checkpoints" / OLDER / "state.json").read_bytes())["log"]["bytes"]
    kept = len(b"".join(lines)[:at_10].splitlines())
    for content in (
        b"".join(lines[:kept]),
        b"".join(lines[: kept + 1])[:-3],
        b"".join([*lines[:kept], lines[kept].replace(b"1", b"2", 1), *lines[kept + 1 :]]),
        b"".join(lines)[:at_10] + b"\0" * 500,
    ):
        copy = Path(shutil.copytree(run, run.with_name("copy")))
        (copy / "metrics.jsonl").write_bytes(content)
        assert settle(copy, copy / "metrics.jsonl") == 0
        shutil.rmtree(copy)


@pytest.mark.parametrize("kind", ["missing", "empty", "edited", "folder"])
def test_a_log_that_no_checkpoint_knows(run: Path, settle: Callable[..., int], kind: str) -> None:
    log = run / "metrics.jsonl"
    content = log.read_bytes()
    log.unlink()
    if kind == "folder":
        log.mkdir()
    elif kind != "missing":
        log.write_bytes(b"" if kind == "empty" else b" " + content[1:])
    assert settle(run, log) == 4


def test_all_checkpoints_are_gone(run: Path, settle: Callable[..., int]) -> None:
    """No silent fresh start over what is left of a run."""
    shutil.rmtree(run / "checkpoints")
    assert settle(run, run / "checkpoints") == 4


# --- on purpose: contents that a valid manifest vouches for


def plant(checkpoint: Path, name: str, content: bytes) -> Path:
    """Other content, with the manifest that goes with it."""
    (checkpoint / name).write_bytes(content)
    entries = {name: entry_of((checkpoint / name).read_bytes()) for name in CONTENTS}
    (checkpoint / MANIFEST).write_bytes(manifest_bytes(entries))
    return checkpoint / name


class Bomb:
    """Unpickled, it leaves a canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


@pytest.mark.parametrize("name", CONTENTS)
def test_a_pickle_is_not_run(run: Path, tmp_path: Path, name: str, settle: Callable[..., int]) -> None:
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Bomb(canary)))
    assert canary.exists(), "the bomb works"
    canary.unlink()
    torch.save(Bomb(canary), tmp_path / "zip")
    for content in (pickle.dumps(Bomb(canary)), (tmp_path / "zip").read_bytes()):
        copy = Path(shutil.copytree(run, tmp_path / "copy"))
        settle(copy, plant(copy / "checkpoints" / NEWER, name, content).parent)
        shutil.rmtree(copy)
    assert not canary.exists()


def headers(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Safetensors files that are bombs, or lie of their content."""
    length = struct.unpack("<Q", content[:8])[0]
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    first = next(name for name in header if name != "__metadata__")

    def made(header: Any, body: bytes = body) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + body

    yield "a header longer than the file", struct.pack("<Q", 2**40) + content[8:]
    yield "a header of the largest number", struct.pack("<Q", 2**64 - 1) + content[8:]
    yield "a deep header", made(b'{"a":' * 50_000 + b"1" + b"}" * 50_000)
    yield "a header that is no object", made(b"[]")
    yield "no header", b""
    yield "NaN in the header", made(json.dumps(header).encode().replace(b"[0,", b"[NaN,", 1))
    for key, value in {
        "data_offsets": [0, 2**62],
        "shape": [2**40, 2**40],
        "dtype": "PICKLE",
    }.items():
        yield f"{key} {value}", made({**header, first: {**header[first], key: value}})
    yield "overlapping tensors", made({**header, "twin": header[first]})
    yield "a hole", made(header, body + b"\0" * 64)
    yield (
        "many empty tensors",
        made({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(5000)}, b""),
    )


def other_tensors(content: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    """Files in order, with tensors that are not this run's."""
    tensors = load(content)
    first = next(key for key, tensor in tensors.items() if tensor.dim() > 0)
    broken = tensors[first].clone()
    broken.view(-1)[0] = float("nan")
    yield "NaN", save({**tensors, first: broken})
    yield "infinity", save({**tensors, first: torch.full_like(tensors[first], float("inf"))})
    yield "another shape", save({**tensors, first: torch.zeros(3, 5)})
    yield "another type", save({**tensors, first: tensors[first].to(torch.float16)})
    yield "one more", save({**tensors, "x.y": torch.zeros(2)})
    yield "one less", save({key: tensor for key, tensor in tensors.items() if key != first})
    yield "none", save({})
    if name.startswith("moments"):
        yield "an unknown moment", save({**tensors, f"{first.partition('.')[0]}.surprise": tensors[first].clone()})
        yield "a scalar for a moment", save({**tensors, first: torch.tensor(1.0)})


HEADER_CASES = [
    "a header longer than the file", "a header of the largest number", "a deep header", "a header that is no object",
    "no header", "NaN in the header", f"data_offsets {[0, 2**62]}", f"shape {[2**40, 2**40]}", "dtype PICKLE",
    "overlapping tensors", "a hole", "many empty tensors",
]  # fmt: skip
TENSOR_CASES = ["NaN", "infinity", "another shape", "another type", "one more", "one less", "none"]
MOMENT_CASES = ["an unknown moment", "a scalar for a moment"]


@pytest.mark.cases(test=12, ci=30)
# One reader takes both files: of headers, the second one has one case here.
@pytest.mark.parametrize(
    ("name", "kind"),
    [(CONTENTS[0], kind) for kind in (*HEADER_CASES, *TENSOR_CASES)]
    + [(CONTENTS[1], kind) for kind in (HEADER_CASES[0], *TENSOR_CASES, *MOMENT_CASES)],
)
def test_tensors_that_are_not_this_runs(
    run: Path, name: str, kind: str, settle: Callable[..., int], look: Callable[[Path, Path], None]
) -> None:
    checkpoint = run / "checkpoints" / NEWER
    content = (checkpoint / name).read_bytes()
    cases = dict(headers(content)) | dict(other_tensors(content, name))
    assert kind in cases
    plant(checkpoint, name, cases[kind])
    look(run, checkpoint)
    if kind in (HEADER_CASES[0], "another shape"):  # one that is passed over, and one that is refused
        settle(run, checkpoint)


STATE_CASES: dict[str, Any] = {
    "step": ["12", -1, 0, 1.5, None, True, 10**9, 10**40, [12]],
    "evaluated_step": ["10", -1, None, 10**9],
    "best_step": ["5", -1, 3.5, [5], 10**9],
    "best_metrics": [[], 3, "f1", {"f1": "high"}, {}, {"surprise": 1.0}],
    "evaluations_since_best": ["1", -1, None, 1.5],
    "micro_batch_size": ["4", 0, -4, 1.5, [4]],
    "log": [None, 3, {}, {"bytes": "5", "sha256": ""}, {"bytes": -1, "sha256": ""}],
    "identity": [None, 3, [], {}, {"options": 3}, {"options": {}, "data": {}, "versions": 1}],
    "format": [None, "2", 1, 3, 10**30],
    "surprise": [1],
}


@pytest.mark.cases(test=16, ci=50)
@pytest.mark.parametrize(
    ("key", "value"),
    [(key, value) for key, values in STATE_CASES.items() for value in values],
    ids=repr,
)
def test_a_state_of_wrong_types(
    run: Path, key: str, value: Any, settle: Callable[..., int], look: Callable[[Path, Path], None]
) -> None:
    checkpoint = run / "checkpoints" / NEWER
    state = json.loads((checkpoint / "state.json").read_bytes())
    plant(checkpoint, "state.json", json.dumps({**state, key: value}).encode())
    if key == "identity" or value == "12":  # what the identity is worth is seen by the run that goes on
        settle(run, checkpoint)
    else:
        look(run, checkpoint)


@pytest.mark.parametrize("key", [*STATE_CASES][:-1])
def test_a_state_that_lacks_something(
    run: Path, key: str, settle: Callable[..., int], look: Callable[[Path, Path], None]
) -> None:
    """A default in its place would be a guess: without its mark the log would be cut to nothing."""
    checkpoint = run / "checkpoints" / NEWER
    state = json.loads((checkpoint / "state.json").read_bytes())
    del state[key]
    plant(checkpoint, "state.json", json.dumps(state).encode())
    if key in ("identity", "log"):
        settle(run, checkpoint)
    else:
        look(run, checkpoint)


def test_a_mark_far_behind_the_end_of_the_log(run: Path, settle: Callable[..., int]) -> None:
    """No memory is asked for that much."""
    checkpoint = run / "checkpoints" / NEWER
    state = json.loads((checkpoint / "state.json").read_bytes())
    plant(checkpoint, "state.json", json.dumps({**state, "log": {"bytes": 10**18, "sha256": ""}}).encode())
    assert settle(run, run / "metrics.jsonl") == 0


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"[" * 100_000, b"\xff", b'{"format": NaN}'],
    ids=lambda content: repr(content[:12]),
)  # fmt: skip
def test_a_state_that_is_none(run: Path, content: bytes, look: Callable[[Path, Path], None]) -> None:
    checkpoint = run / "checkpoints" / NEWER
    plant(checkpoint, "state.json", content)
    look(run, checkpoint)
