"""Prepared rows: the same run from them, an order in constant memory, and nothing of a folder is trusted."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dongu
from conftest import cut_off_in_step
from dongu.cli.main import run
from dongu.config import make_config
from dongu.data import order as order_module
from dongu.data import shards as shards_module
from dongu.data.columns import Columns
from dongu.data.examples import Examples, TextData, read_examples
from dongu.data.forms import Form
from dongu.data.order import BlockOrder, epoch_order
from dongu.data.prepared import Manifest
from dongu.data.shards import _packed, prepare
from dongu.data.sources import read_source
from dongu.data.tokens import Tokens
from dongu.errors import DataError, InputError, ModelError, UsageError, WorkerError
from dongu.interrupts import forks_in_peace
from dongu.model.load import load_tokenizer
from dongu.run.derived import describe
from dongu.run.identity import identity
from dongu.run.inspection import findings_of
from dongu.run.signals import StopSignals
from dongu.verify import verify
from drivers import Pool, forked, read_lines

RUN: dict[str, Any] = {"batch_size": 8, "epochs": 1, "threads": 1, "device": "cpu", "save_steps": 2, "eval_steps": 4}


def prepared(data: str, model: str, out: Path, *, processes: int = 1, block_rows: int = 8, **options: Any) -> Path:
    """What `dongu prepare` does, with blocks of a few rows."""
    config = make_config({"data": data, "max_length": 64, **options})
    rows = read_examples(read_source(data, config), config)
    prepare(rows, load_tokenizer(model), config, out, processes=processes, block_rows=block_rows)
    return out


@pytest.fixture(scope="module")
def shards(
    tiny_model: Callable[..., str], shared_data_folder: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """61 rows in blocks of 8; none changes it."""
    return prepared(shared_data_folder(train=61), tiny_model(), tmp_path_factory.mktemp("prepared") / "shards")


@pytest.fixture
def copied(shards: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    copy = tmp_path / "shards"
    copy.mkdir()
    for path in shards.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The list with a change, and with a digest of its own that is true."""
    content = json.loads((folder / "prepared.json").read_bytes())
    change(content)
    manifest = Manifest.model_validate_json(json.dumps(content))
    digest = hashlib.sha256(manifest.content().encode()).hexdigest()
    (folder / "prepared.json").write_text(manifest.model_copy(update={"sha256": digest}).model_dump_json())


def written(out: Path) -> list[bytes]:
    """The bytes of a run that say what it has learnt."""
    return [(out / name).read_bytes() for name in ("model/model.safetensors", "metrics.jsonl", "dynamics.bin")]


def test_a_run_on_prepared_rows_is_the_run_on_the_rows(
    shards: Path, tiny_model: Callable[..., str], shared_data_folder: Callable[..., str], tmp_path: Path
) -> None:
    for out, data in (("a", shared_data_folder(train=61)), ("b", str(shards))):
        dongu.train(data, model=tiny_model(dropout=0.1), out=str(tmp_path / out), quiet=True, max_length=64, **RUN)
    assert written(tmp_path / "a") == written(tmp_path / "b")
    results = json.loads((tmp_path / "b" / "results.json").read_bytes())
    assert "not kept" in results["no_bag_of_words"]
    compared = dongu.compare(tmp_path / "b", tmp_path / "a")
    assert (compared.rows, "train" in compared.differs) == (11, False)
    assert compared.no_texts == "", "the rows of the other run have them"
    pages = [(tmp_path / out / "report.html").read_text(encoding="utf-8") for out in ("a", "b")]
    assert ["word1" in page for page in pages] == [True, False]


def test_columns_that_rows_were_prepared_with_may_go_unread(tiny_model: Callable[..., str], tmp_path: Path) -> None:
    """They are there for parts of one's own; a run without any is no error, and its record is a recipe."""
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label,age\n" + "".join(f"word{i},l{i % 2},{i}\n" for i in range(30)))
    shards = prepared(str(rows), tiny_model(), tmp_path / "shards", columns=("age",))
    command = ["train", str(shards), "--model", tiny_model(), "--max-steps", "2", "--out", str(tmp_path / "a")]
    assert run(command) == 0
    assert run(["train", "--config", str(tmp_path / "a" / "run.json"), "--out", str(tmp_path / "b")]) == 0
    assert written(tmp_path / "a") == written(tmp_path / "b")
    assert run([*command[:-1], str(tmp_path / "c"), "--columns", "age"]) == 2
    assert run(["train", str(rows), *command[2:-1], str(tmp_path / "d")]) == 0
    assert dongu.compare(tmp_path / "a", tmp_path / "d").rows == 4


def test_a_run_that_was_cut_off_goes_on_to_the_same_bytes(
    shards: Path, tiny_model: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order_module, "WINDOW_BLOCKS", 2)
    options: dict[str, Any] = {"model": tiny_model(dropout=0.1), "quiet": True, **RUN}
    dongu.train(str(shards), out=str(tmp_path / "whole"), **options)
    with cut_off_in_step(6):
        dongu.train(str(shards), out=str(tmp_path / "cut"), **options)
    dongu.resume(tmp_path / "cut", quiet=True)
    assert written(tmp_path / "cut") == written(tmp_path / "whole")
    proofs = {proof.name: proof for proof in verify(tmp_path / "cut")}
    assert [name for name, proof in proofs.items() if not proof.holds] == []
    assert "85 rows" in proofs["inputs"].text  # of all splits, each read and held against its digest


@pytest.mark.parametrize(("rows", "block_rows"), [(1000, 10), (1003, 10), (9, 2), (128, 2), (130, 2)])
def test_the_order_is_a_permutation_of_blocks_and_within_windows(
    rows: int, block_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order_module, "WINDOW_BLOCKS", 8)
    order = BlockOrder(rows, block_rows, seed=5, epoch=1)
    whole = order[0:rows]
    assert sorted(whole) == list(range(rows))
    for start in range(0, rows, 7):  # each place by itself, in any order of asking
        assert np.array_equal(BlockOrder(rows, block_rows, 5, 1)[start : start + 7], whole[start : start + 7])
    assert not np.array_equal(whole, BlockOrder(rows, block_rows, 5, 2)[0:rows])
    assert not np.array_equal(whole, BlockOrder(rows, block_rows, 6, 1)[0:rows])
    window = whole[: 8 * block_rows - block_rows]
    assert len(np.unique(window // block_rows)) <= 8  # of all that are near in the order
    if rows > 8 * block_rows:
        assert np.abs(np.diff(window)).mean() > 1  # and they are shuffled
        assert not np.array_equal(whole, epoch_order(rows, 5, 1))


def test_few_rows_have_the_usual_order() -> None:
    assert np.array_equal(BlockOrder(100, 10, 5, 1)[0:100], epoch_order(100, 5, 1))


def test_an_update_is_one_however_it_is_split(
    shards: Path, tiny_model: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order_module, "WINDOW_BLOCKS", 2)
    updates = dongu.Loop(str(shards), model=tiny_model(), **RUN).train_updates
    whole = [updates[index] for index in range(8)]
    updates.processes, updates.micro_batch_size = 3, 2
    parts = []
    for process in range(3):
        updates.process = process
        parts.append([updates[index] for index in range(8)])
    for index, update in enumerate(whole):
        of_all = [batch for part in parts for batch in part[index].micro_batches if batch.examples]
        assert np.concatenate([batch.rows for batch in of_all]).tolist() == update.rows.tolist()
        assert sum(batch.tokens for batch in of_all) == update.micro_batches[0].tokens


@pytest.mark.crash
def test_two_processes_train_as_one(
    shards: Path, tiny_model: Callable[..., str], make_pool: Callable[..., Pool], tmp_path: Path
) -> None:
    call = ["train", str(shards), "--model", tiny_model(), "--epochs", "1", "--lr", "1e-3", "--recipe", "original"]
    call += ["--threads", "1", "--device", "cpu", "--workers", "1", "--out"]
    assert run([*call, str(tmp_path / "one")]) == 0
    forked(make_pool(), *call, str(tmp_path / "two"))
    one, two = (read_lines(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == 9  # 8 updates and an evaluation
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-5)


def test_a_process_that_is_ended_as_it_begins_ends_in_silence(
    tiny_model: Callable[..., str],
    shared_data_folder: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Others have done what there was to do, and it is still a copy of this process, with its handlers."""
    util: Any = multiprocessing.util
    close = util._close_stdin  # what a child does first

    def slowly() -> None:
        time.sleep(1)
        close()

    config = make_config({"data": shared_data_folder(train=61), "max_length": 64})
    rows, tokenizer = read_examples(read_source(str(config.data), config), config), load_tokenizer(tiny_model())
    blocks = (block for each in rows.splits.values() for block in _packed(tokenizer, each, config, 8, 0, 1))
    monkeypatch.setattr(util, "_close_stdin", slowly)
    monkeypatch.setattr(shards_module, "_received", lambda _: next(blocks))
    capfd.readouterr()
    with StopSignals() as signals, signals.at_once():
        prepare(rows, tokenizer, config, tmp_path / "shards", processes=2, block_rows=8)
    for child in multiprocessing.active_children():
        child.join()
    assert capfd.readouterr().err == ""


def test_a_signal_waits_for_the_end_of_a_fork_where_there_are_other_threads() -> None:
    """One of them takes it, and Python handles it in this one: as in each command, which shows how long it takes."""
    over, came = threading.Event(), list[int]()
    former = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        with forks_in_peace():
            signal.pthread_kill(int(thread.ident or 0), signal.SIGTERM)
            time.sleep(0.05)
            assert came == []
        assert came == [signal.SIGTERM]
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGTERM, former)


def test_several_processes_write_the_same_files(
    shards: Path, tiny_model: Callable[..., str], shared_data_folder: Callable[..., str], tmp_path: Path
) -> None:
    other = prepared(shared_data_folder(train=61), tiny_model(), tmp_path / "other", processes=3)
    assert {path.name: path.read_bytes() for path in other.iterdir()} == {
        path.name: path.read_bytes() for path in shards.iterdir()
    }


def test_where_the_system_does_not_say_which_cores_may_be_used(  # as macOS does not
    tiny_model: Callable[..., str],
    shared_data_folder: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert prepared(shared_data_folder(train=61), tiny_model(), tmp_path / "shards", processes=2).is_dir()


def test_a_process_that_is_killed_is_said(
    tiny_model: Callable[..., str],
    shared_data_folder: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dongu.data.shards.pack_tokens", lambda *_: os._exit(9))
    with pytest.raises(WorkerError, match="has ended"):
        prepared(shared_data_folder(train=61), tiny_model(), tmp_path / "other", processes=2)
    assert not [*tmp_path.iterdir()]


def test_the_command(
    tiny_model: Callable[..., str], shared_data_folder: Callable[..., str], tmp_path: Path, capsys: Any
) -> None:
    out = str(tmp_path / "shards")
    call = ["prepare", shared_data_folder(), "--model", tiny_model(), "--out", out]
    assert run([*call, "--processes", "2"]) == 0
    assert f"next       dongu train {out} --model" in capsys.readouterr().out
    assert run(call) == 2
    assert "is not empty" in capsys.readouterr().err
    assert run(["prepare", out, "--model", tiny_model(), "--out", f"{out}-2"]) == 2
    assert "is prepared already" in capsys.readouterr().err
    assert run([*call[:-1], f"{out}-2", "--long", "windows"]) == 2
    assert "--long windows" in capsys.readouterr().err
    assert run(["inspect", out]) == 0
    said = capsys.readouterr().out
    assert "65 rows" in said
    assert "hold what was written" in said
    assert "Looked for look-alike, rare and missing classes alone" in said


def test_the_steps_of_a_scale_are_labels(tiny_model: Callable[..., str], tmp_path: Path) -> None:
    """They are learnt as numbers, and need not be the places of their names."""
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"word{i},{(1, 2, 5)[i % 3]}\n" for i in range(30)))
    shards = prepared(str(rows), tiny_model(), tmp_path / "shards", task="ordinal")
    data = read_examples(read_source(str(shards)), make_config({}))
    assert {*np.asarray(data.splits["train"].targets).tolist()} == {1.0, 2.0, 5.0}
    dongu.train(str(shards), model=tiny_model(), out=str(tmp_path / "run"), quiet=True, **RUN)


def test_what_its_labels_tell_is_found(
    tiny_model: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"film {i},{'good' if i % 2 else 'bad'}" for i in range(60)] + ["film,rare"] * 3
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *rows]))
    out = str(tmp_path / "shards")
    assert run(["prepare", str(tmp_path / "a.csv"), "--model", tiny_model(), "--out", out]) == 0
    capsys.readouterr()
    assert run(["inspect", out]) == 0
    assert "1 class with fewer than" in capsys.readouterr().out
    train = ["train", out, "--model", tiny_model(), "--device", "cpu", "--max-steps", "2"]
    assert run([*train, "--out", str(tmp_path / "run")]) == 0
    assert "1 class with fewer than" in capsys.readouterr().out


def test_another_tokenizer_and_other_rows_are_refused(
    shards: Path, tiny_model: Callable[..., str], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="was prepared for the tokenizer of") as caught:
        dongu.Loop(str(shards), model=tiny_model("roberta"), **RUN)
    assert "dongu prepare DATA" in caught.value.hint
    others: list[dict[str, Any]] = [{"max_length": 32}, {"label_column": "other"}, {"long": "tail"}]
    for other in others:
        with pytest.raises(UsageError, match="the rows were prepared with"):
            dongu.Loop(str(shards), model=tiny_model(), **other)
    loop = dongu.Loop(str(shards), model=tiny_model(), **RUN)
    assert loop.config.max_length == 64
    assert loop.promises["eject"].startswith("no: ")


def test_who_needs_the_texts_says_so(
    shards: Path, tiny_model: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    assert run(["train", str(shards), "--model", tiny_model(), "--max-steps", "1", "--out", out, "--threads", "1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the texts are not kept, so what the data doctor, the bag of words and the report read in them is" in said
    for call in (["evaluate", out], ["eject", out], ["predict", out, "--data", str(shards)]):
        assert run(call) == 2, call
        said = "the texts of prepared rows are not kept" if call[0] == "eject" else "has tokens, and no texts"
        assert said in capsys.readouterr().err
    assert run(["report", out]) == 0


def test_no_array_of_all_rows_is_in_memory(
    tiny_model: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order_module, "WINDOW_BLOCKS", 2)
    monkeypatch.setattr("dongu.data.weights.COUNTED_ROWS", 1000)
    monkeypatch.setattr("dongu.run.need.LOOKED_UPDATES", 100)

    def made(tokenizer: Any, examples: Examples, *_: Any) -> Iterator[Tokens]:
        for start in range(0, len(examples), 1000):
            rows = min(1000, len(examples) - start)
            yield Tokens(np.full(3 * rows, 5, np.int32), None, np.arange(rows + 1) * 3, np.zeros(rows, bool))

    monkeypatch.setattr(shards_module, "_tokenized", made)
    columns, form, config = Columns(("text",), "label"), Form("single-label"), make_config({"max_length": 64})
    tokenizer = load_tokenizer(tiny_model())
    peaks: list[int] = []
    for rows in (5_000, 5_000, 205_000):  # the first one loads what is loaded once
        splits = {
            name: Examples(np.arange(count), (), np.arange(count) % 2, name)
            for name, count in (("train", rows), ("validation", 10))
        }
        data = TextData("made", None, None, columns, "single-label", ("a", "b"), splits, (), (), form, 0, {})
        out = tmp_path / f"{len(peaks)}"
        prepare(data, tokenizer, config, out, block_rows=1000)
        del data, splits
        tracemalloc.start()
        loop = dongu.Loop(str(out), model=tiny_model(), **RUN)
        assert next(iter(loop)).examples == 8
        identity(loop)
        findings_of(loop)
        describe(loop)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < 100_000  # half a byte a row: a boolean of each would be seen


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("array", ["starts", "rows", "ids", "types", "cut", "targets"])
@pytest.mark.parametrize("last", [False, True])
def test_a_block_is_looked_at_before_it_is_used(
    array: str, last: bool, copied: Path, tiny_model: Callable[..., str]
) -> None:
    path = copied / f"train.{array}"
    flip(path, len(path.read_bytes()) - 8 if last else 0)
    loop = dongu.Loop(str(copied), model=tiny_model(), batch_size=8, engine="plain", device="cpu") if last else None
    with pytest.raises(DataError, match=r"rows \d+ to \d+ are not what was written"):
        for _ in loop or dongu.Loop(str(copied), model=tiny_model(), batch_size=8, device="cpu"):
            pass
    with pytest.raises(DataError, match="are not what was written"):
        dongu.inspect(str(copied))


@pytest.mark.parametrize("kind", ["cut", "longer", "missing", "link"])
@pytest.mark.parametrize("name", ["train.ids", "validation.targets", "prepared.json"])
def test_a_file_of_another_size_or_kind_is_refused(kind: str, name: str, copied: Path) -> None:
    path = copied / name
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-3], "longer": content + b"1234"}.get(kind, content))
    if kind in ("missing", "link"):
        path.rename(copied / "elsewhere")
    if kind == "link":
        path.symlink_to(copied / "elsewhere")
    with pytest.raises(InputError):
        dongu.inspect(str(copied))


def reset(folder: Path, array: str, place: int, value: int) -> None:
    """Another number, and digests that are true of it."""
    content = np.frombuffer(
        (folder / f"train.{array}").read_bytes(), {"ids": "i4", "types": "u1"}.get(array, "i8")
    ).copy()
    content[place] = value
    (folder / f"train.{array}").write_bytes(content.tobytes())
    arrays = ("starts", "rows", "ids", "types", "cut", "targets")
    kinds = dict(zip(arrays, ("i8", "i8", "i4", "u1", "?", "i8"), strict=True))
    parts = {name: np.frombuffer((folder / f"train.{name}").read_bytes(), kinds[name]) for name in arrays}

    def change(manifest: dict[str, Any]) -> None:
        blocks, token = manifest["splits"]["train"]["blocks"], 0
        for number, block in enumerate(blocks):
            rows, tokens = slice(number * 8, min(number * 8 + 8, 61)), slice(token, token + block[0])
            digest = hashlib.sha256()
            for name, part in parts.items():
                starts = slice(rows.start, rows.stop + 1)
                cut = starts if name == "starts" else tokens if name in ("ids", "types") else rows
                digest.update(part[cut].tobytes())
            block[1], token = digest.hexdigest(), token + block[0]

    edited(folder, change)


@pytest.mark.parametrize(
    ("array", "place", "value", "said"),
    [
        ("ids", 20, 2**30, "beyond the vocabulary"),
        ("ids", 20, -1, "beyond the vocabulary"),
        ("starts", 3, 2**40, "other lengths"),
        ("starts", 3, -(2**40), "other lengths"),
        ("starts", 61, 2**40, "other lengths"),
        ("targets", 20, 2, "labels that there are not"),
        ("targets", 20, -1, "labels that there are not"),
    ],
)
def test_numbers_that_no_model_could_read(
    array: str, place: int, value: int, said: str, copied: Path, tiny_model: Callable[..., str]
) -> None:
    reset(copied, "rows", 0, 0)  # what is written here is what it was: nothing has to be refused
    dongu.inspect(str(copied))
    reset(copied, array, place, value)
    with pytest.raises(DataError, match=said):
        dongu.inspect(str(copied))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(vocabulary=2**31),
        lambda m: m["splits"]["train"].update(rows=60),
        lambda m: m["splits"]["train"].update(longest=65),
        lambda m: m["splits"]["train"].update(types=False),
        lambda m: m["splits"]["train"]["blocks"].pop(),
        lambda m: m["options"].update(max_length=None),
        lambda m: m["options"].pop("long"),
        lambda m: m["splits"].pop("train"),
        lambda m: m.update(block_rows=16),
        lambda m: m.update(task="multi-label"),
    ],
)
def test_a_list_that_is_true_of_itself_alone(
    change: Callable[[dict[str, Any]], None], copied: Path, tiny_model: Callable[..., str]
) -> None:
    edited(copied, change)
    with pytest.raises(InputError):
        for _ in dongu.Loop(str(copied), model=tiny_model(), **RUN):
            pass


def test_a_token_type_that_the_model_has_not(copied: Path, tiny_model: Callable[..., str]) -> None:
    reset(copied, "types", 20, 200)
    with pytest.raises(DataError, match="token types that the model has not"):
        for _ in dongu.Loop(str(copied), model=tiny_model(), **RUN):
            pass


def test_a_flipped_bit_of_the_list_is_seen(copied: Path) -> None:
    content = (copied / "prepared.json").read_bytes()
    (copied / "prepared.json").write_bytes(content.replace(b"class0", b"class2"))
    with pytest.raises(DataError, match="is not what was written"):
        dongu.inspect(str(copied))
