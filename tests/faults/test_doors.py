"""A run folder, a model or a cache that somebody else has laid out: nothing is reached through it, nor waited for."""

from __future__ import annotations

import ast
import json
import os
import resource
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dongu
from conftest import cut_off_in_step
from dongu import verify
from dongu.best import save_best
from dongu.cli.main import run as run_command
from dongu.data.tokens import Tokens, tokenize
from dongu.eject.script import eject
from dongu.errors import InputError
from dongu.files import replace_folder
from dongu.model.load import load_tokenizer
from dongu.page.trace import previous_run, read_trace
from dongu.run.checkpoint import Checkpoints, RunState
from dongu.run.folder import RunFolder
from dongu.run.identity import identity
from dongu.run.plan import Plan

SPARSE_BYTES = 20 * 10**9
PATIENCE_SECONDS = 60  # of a command that waits for a pipe
REFUSED = {0, 1, 2, 4, 6}  # a file that a command does without is none of its matters


@pytest.fixture(scope="module")
def runs(tiny_model: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run that is finished, and one that was cut off with its last step to come."""
    folder = tmp_path_factory.mktemp("doors")
    rows = [{"text": f"the film was {['good', 'bad'][i % 2]} word{i}", "label": f"class{i % 2}"} for i in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options: dict[str, Any] = {"model": tiny_model(), "batch_size": 8, "epochs": 1, "eval_steps": 2, "save_steps": 2}
    options |= {"device": "cpu", "threads": 1}
    dongu.train(str(folder / "rows.jsonl"), out=str(folder / "finished"), **options)
    with cut_off_in_step(5):
        dongu.train(str(folder / "rows.jsonl"), out=str(folder / "unfinished"), **options)
    return {"finished": folder / "finished", "unfinished": folder / "unfinished"}


def names_of(folder: Path) -> list[str]:
    """Of all files and folders; of checkpoints, one stands for the others."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    first = next((name for name in names if name.startswith("checkpoints/")), "checkpoints")
    return [name for name in names if not name.startswith("checkpoints/") or name.startswith(first)]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def no_waiting() -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def aside(path: Path) -> None:
    """Make room for something else in the place of a file or folder."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)


# --- nothing is written through a link


@pytest.mark.crash
@pytest.mark.found("links")
def test_nothing_is_written_through_a_link(runs: Mapping[str, Path], tmp_path: Path) -> None:
    """Every name that a run writes, derived from what runs have written: as a link to a file, or to a folder."""
    names = {
        *names_of(runs["finished"]),
        *names_of(runs["unfinished"]),
        "onnx",
        "tensorboard",
        "tensorboard/hparams.yml",
    }
    names |= {"tracking.json", "model/calibration.json"}
    assert {".lock", "predictions", "metrics.jsonl", "checkpoints", "MANIFEST.json"} < names
    reached = []
    for number, name in enumerate(sorted(names)):
        run, victim = tmp_path / f"run{number}", tmp_path / f"victim{number}"
        shutil.copytree(runs["unfinished"], run)
        source = next((folder / name for folder in runs.values() if (folder / name).exists()), None)
        if source is not None and source.is_dir():
            shutil.copytree(source, victim)
            (victim / ".mine.1.tmp").write_text("mine")
        else:
            victim.write_bytes(b"mine\n" if source is None else source.read_bytes())
        before = snapshot(victim) if victim.is_dir() else victim.read_bytes()
        aside(run / name)
        (run / name).symlink_to(victim)
        codes = [run_command([command, str(run)]) for command in ("resume", "report")]
        after = snapshot(victim) if victim.is_dir() else victim.read_bytes()
        if before != after or not {*codes} <= REFUSED:
            reached.append((name, codes))
    assert reached == []


@pytest.mark.found("links")
def test_a_run_folder_that_is_a_link_is_the_users_own(runs: Mapping[str, Path], tmp_path: Path) -> None:
    shutil.copytree(runs["unfinished"], tmp_path / "run")
    (tmp_path / "link").symlink_to("run")
    assert run_command(["resume", str(tmp_path / "link")]) == 0
    kept = {"results.json", "metrics.jsonl", "dynamics.bin", "model/model.safetensors", "MANIFEST.json"}
    assert all((tmp_path / "run" / name).read_bytes() == (runs["finished"] / name).read_bytes() for name in kept)
    assert run_command(["report", str(tmp_path / "link")]) == 0


# --- a pipe, a socket, a device or gigabytes in the place of any file


def pipe(path: Path) -> None:
    os.mkfifo(path)


def gigabytes(path: Path) -> None:
    path.touch()
    os.truncate(path, SPARSE_BYTES)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def connection(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        before = Path.cwd()
        os.chdir(path.parent)  # the name of a socket is short
        server.bind(path.name)
        os.chdir(before)


PLANTS = (pipe, gigabytes, endless, connection)


@pytest.mark.cases(test=0, ci=1)
@pytest.mark.found("kinds-and-sizes")
@pytest.mark.parametrize("first", [0, *(pytest.param(i, marks=pytest.mark.crash) for i in range(1, len(PLANTS)))])
@pytest.mark.parametrize(
    ("which", "commands"),
    [
        ("unfinished", [["resume", "RUN"]]),
        ("finished", [["report", "RUN"], ["predict", "RUN", "a good film"], ["compare", "RUN", "OTHER"]]),
    ],
)
def test_what_is_no_file_is_refused(
    runs: Mapping[str, Path], tmp_path: Path, which: str, commands: list[list[str]], first: int
) -> None:
    """Each file as one of these things; the crash tests try each file as each of them."""
    wrong = []
    for number, name in enumerate(name for name in names_of(runs[which]) if (runs[which] / name).is_file()):
        run = tmp_path / f"run{number}"
        shutil.copytree(runs[which], run)
        aside(run / name)
        PLANTS[(first + number) % len(PLANTS)](run / name)
        for command in commands:
            given = [{"RUN": str(run), "OTHER": str(runs["finished"])}.get(word, word) for word in command]
            with no_waiting():
                code = run_command(given)
            if code not in REFUSED:
                wrong.append((name, command, code))
        shutil.rmtree(run)
    assert wrong == []


@pytest.mark.found("kinds-and-sizes")
@pytest.mark.parametrize("plant", PLANTS)
def test_files_beside_a_run_are_not_waited_for(
    runs: Mapping[str, Path], tmp_path: Path, plant: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The results of a folder beside it, which the report looks for; a recipe."""
    shutil.copytree(runs["finished"], tmp_path / "run")
    (tmp_path / "other").mkdir()
    plant(tmp_path / "other" / "results.json")
    shutil.copy(runs["finished"] / "run.json", tmp_path / "other")
    os.utime(tmp_path / "run" / "run.json", (2**31, 2**31))
    plant(tmp_path / "recipe.toml")
    with no_waiting():
        assert run_command(["report", str(tmp_path / "run")]) == 0
        assert run_command(["train", "rows.csv", "--config", str(tmp_path / "recipe.toml")]) == 2
    assert "recipe.toml: not a readable recipe" in capsys.readouterr().err


# --- a token cache answers for its own texts alone


@pytest.fixture
def tokenizer(tiny_model: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DONGU_CACHE", str(tmp_path / "cache"))
    return load_tokenizer(tiny_model())


GOOD, OTHERS = [["a good film", "good"]], {"as many rows": [["the bad film", "bad"]], "more rows": [["bad"] * 5]}


@pytest.mark.found("token-cache-key")
@pytest.mark.parametrize("other", OTHERS)
def test_a_cache_file_of_other_texts_is_not_used(tokenizer: Any, tmp_path: Path, other: str) -> None:
    right = tokenize(tokenizer, GOOD, 16)
    [mine] = (tmp_path / "cache").iterdir()
    tokenize(tokenizer, OTHERS[other], 16)
    [others] = {*(tmp_path / "cache").iterdir()} - {mine}
    shutil.copy(others, mine)
    again = tokenize(tokenizer, GOOD, 16)
    assert again.same_as(right)
    assert not again.cached
    assert tokenize(tokenizer, GOOD, 16).cached  # it was made anew


@pytest.mark.found("kinds-and-sizes")
@pytest.mark.parametrize("plant", PLANTS)
def test_a_cache_file_that_is_none(tokenizer: Any, tmp_path: Path, plant: Callable[[Path], None]) -> None:
    right = tokenize(tokenizer, GOOD, 16)
    [mine] = (tmp_path / "cache").iterdir()
    mine.unlink()
    plant(mine)
    with no_waiting():
        assert tokenize(tokenizer, GOOD, 16).same_as(right)


@pytest.mark.found("token-cache-key")
def test_verify_does_not_believe_the_cache(runs: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache file that fits its name and holds other tokens, as a run of it would have."""

    def wrong(tokenizer: Any, texts: Any, max_length: int, *, cache: bool = True, **_: Any) -> Tokens:
        tokens = tokenize(tokenizer, texts, max_length, cache=False)
        if not cache:
            return tokens
        return replace(tokens, input_ids=np.where(tokens.input_ids == tokens.input_ids[2], 9, tokens.input_ids))

    monkeypatch.setattr("dongu.data.tokenized.tokenize", wrong)
    loop = RunFolder(runs["finished"]).reopen()
    states = {runs["finished"]: RunState(identity=identity(loop))}
    with pytest.raises(Exception, match="the cache has other tokens of train than the tokenizer makes"):
        verify._inputs(RunFolder(runs["finished"]), {}, loop, states)


# --- code in run.json stays out of the script of `dongu eject`

HOSTILE = (
    'cpu", 1) if __import__("os").system("touch PWNED") else ("""\'\'\'\n__import__("os").system("touch PWNED")\n#'
)


def planted(value: Any, hostile: Any) -> Any:
    """JSON whose values are all this one."""
    if isinstance(value, dict) and value:
        return {key: planted(part, hostile) for key, part in value.items()}
    return [planted(part, hostile) for part in value] if isinstance(value, list) and value else hostile


@pytest.mark.cases(test=0, ci=2)
@pytest.mark.found("eject-literals")
@pytest.mark.parametrize("hostile", [HOSTILE, {HOSTILE: HOSTILE}], ids=["text", "object"])
def test_only_literals_come_from_run_json(runs: Mapping[str, Path], tmp_path: Path, hostile: Any) -> None:
    """Each value of it is replaced by code: the script is refused, or holds it as a literal, or not at all.

    Where all values below a key are replaced at once and the script is the same, none of them comes into it.
    """
    run = Path(shutil.copytree(runs["finished"], tmp_path / "run"))
    record = json.loads((run / "run.json").read_text())
    shutil.rmtree(run / "checkpoints")  # which know the options
    right, made, places = eject(run), 0, [(key,) for key in record]
    while places:
        place: tuple[Any, ...] = places.pop()
        changed = json.loads(json.dumps(record))
        holder = changed
        for key in place[:-1]:
            holder = holder[key]
        was, holder[place[-1]] = holder[place[-1]], planted(holder[place[-1]], hostile)
        (run / "run.json").write_text(json.dumps(changed))
        try:
            script = eject(run)
        except Exception as error:
            if not isinstance(error, InputError) and not isinstance(was, dict | list):
                raise
            script = ""
        if script != right and isinstance(was, dict | list):
            places += [(*place, key) for key in (was if isinstance(was, dict) else range(len(was)))]
        made += script != ""
        nodes = [*ast.walk(ast.parse(script))]
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        assert not {"__import__", "system"} & (names | attributes), place
    assert made > 3


@pytest.mark.found("eject-literals")
@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("device", 'cpu", torch.bfloat16) if 1 else torch.autocast("cpu', "device"),
        ("device", "disk", "device"),
        ("processes", 0, "processes"),
        ("metrics", ["accuracy", "fame"], "no metric fame"),
        ("options", {"learning_rate": 0.05}, "--learning-rate is 0.05, and was 5e-05"),
    ],
)
def test_a_script_of_what_no_run_wrote(
    runs: Mapping[str, Path], tmp_path: Path, key: str, value: Any, said: str
) -> None:
    run = Path(shutil.copytree(runs["finished"], tmp_path / "run"))
    record = json.loads((run / "run.json").read_text())
    record[key] = {**record[key], **value} if isinstance(value, dict) else value
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=said):
        eject(run)


# --- what the manifest disagrees with is never shown as true


def more_accurate(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    results["validation"]["accuracy"]["value"] = 0.99
    (run / "results.json").write_text(json.dumps(results, indent=2) + "\n")


def lines_swapped(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join([lines[1], lines[0], *lines[2:]]))


def another_answer(run: Path) -> None:
    path = run / "predictions" / "validation.jsonl"
    first, *others = path.read_text().splitlines(keepends=True)
    row = json.loads(first)
    row["probabilities"] = dict(zip(row["probabilities"], reversed(row["probabilities"].values()), strict=True))
    path.write_text("".join([json.dumps(row) + "\n", *others]))


@pytest.mark.found("edited-results")
@pytest.mark.parametrize(
    ("edit", "readers"),
    [
        (more_accurate, ["report", "compare"]),
        (lines_swapped, ["report"]),
        (another_answer, ["report", "compare"]),
    ],
)
def test_edited_results_are_refused(
    runs: Mapping[str, Path],
    tmp_path: Path,
    edit: Callable[[Path], None],
    readers: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(shutil.copytree(runs["finished"], tmp_path / "run"))
    (run / "report.html").unlink()
    edit(run)
    for reader in readers:
        assert run_command([reader, str(run), *([str(runs["finished"])] if reader == "compare" else [])]) == 2
        error = capsys.readouterr().err
        assert "bytes" in error
        assert "MANIFEST.json" in error
        assert len(error.splitlines()) <= 3
    assert not (run / "report.html").exists()


@pytest.mark.found("edited-results")
def test_an_edited_run_beside_it_is_no_yardstick(runs: Mapping[str, Path], tmp_path: Path) -> None:
    for name in ("other", "run"):
        shutil.copytree(runs["finished"], tmp_path / name)
    os.utime(tmp_path / "run" / "run.json", (2**31, 2**31))
    trace = read_trace(RunFolder(tmp_path / "run"))
    assert previous_run(RunFolder(tmp_path / "run"), trace) is not None
    more_accurate(tmp_path / "other")
    os.utime(tmp_path / "other" / "results.json", (2**30, 2**30))
    assert previous_run(RunFolder(tmp_path / "run"), trace) is None


# --- a tokenizer that gives up, a model that is too large to be true


def edited(folder: Path, name: str, **changes: Any) -> Path:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | changes))
    return folder


BACKTRACKS = {"type": "Split", "pattern": {"Regex": "(a|aa|a*)*$"}, "behavior": "Isolated", "invert": False}
LONG = "a" * 40 + "!"


@pytest.mark.found("tokenizer-panic")
@pytest.mark.parametrize("command", ["train", "inspect", "predict"])
def test_a_tokenizer_that_backtracks(
    runs: Mapping[str, Path], tiny_model: Callable[..., str], tmp_path: Path, command: str, capsys: Any
) -> None:
    run = Path(shutil.copytree(runs["finished"], tmp_path / "run"))
    (run / "MANIFEST.json").unlink()
    edited(run / "model", "tokenizer.json", pre_tokenizer=BACKTRACKS)
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"{LONG}{i},{i % 2}\n" for i in range(20)))
    data = [str(tmp_path / "rows.csv"), "--model", str(run / "model")]
    given = {"train": [*data, "--out", str(tmp_path / "new")], "inspect": data, "predict": [str(run), LONG]}[command]
    assert run_command([command, *given]) == 2
    error = capsys.readouterr().err
    assert "its tokenizer fails on a text (Onig: Regex search error" in error
    assert len(error.splitlines()) <= 3


TOO_MUCH: dict[str, dict[str, Any]] = {
    "layers": {"num_hidden_layers": 10**7},
    "layers that could be": {"num_hidden_layers": 9000},
    "more layers than a list holds": {"num_hidden_layers": 10**12},
    "width": {"hidden_size": 10**9},
    "width that could be": {"hidden_size": 65536, "intermediate_size": 65536},
    "vocabulary": {"vocab_size": 10**12},
    "vocabulary that could be": {"vocab_size": 10**7},
    "positions": {"max_position_embeddings": 10**9},
    "positions that could be": {"max_position_embeddings": 10**7},
    "a number that is none": {"hidden_size": 1e300},
}


@pytest.mark.cases(test=6, ci=11)
@pytest.mark.found("config-limits")
@pytest.mark.parametrize(
    ("command", "name"),
    [*(("train", name) for name in TOO_MUCH), ("predict", "layers"), ("predict", "width that could be")],
)
def test_a_model_that_is_too_large_to_be_true(
    runs: Mapping[str, Path], tmp_path: Path, command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused in our words, within little memory and time."""
    run = Path(shutil.copytree(runs["finished"], tmp_path / "run"))
    (run / "MANIFEST.json").unlink()
    edited(run / "model", "config.json", **TOO_MUCH[name])
    data = str(runs["finished"].parent / "rows.jsonl")
    train = ["train", data, "--model", str(run / "model"), "--out", str(tmp_path / "new"), "--device", "cpu"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with no_waiting():
        assert run_command(train if command == "train" else ["predict", str(run), "a good film"]) == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 500_000  # KiB
    error = capsys.readouterr().err
    assert "config.json" in error
    assert "above" in error or "its files have" in error
    assert len(error.splitlines()) <= 3


# --- what is written: for whom, and what a kill leaves


@pytest.mark.found("model-mode")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_all_files_have_the_mode_of_the_umask(tmp_path: Path, tiny_model: Callable[..., str], mask: int) -> None:
    """safetensors would give its files to their owner alone."""
    loop = dongu.Loop([{"text": f"a film {i}", "label": i % 2} for i in range(20)], model=tiny_model(), device="cpu")
    folder = RunFolder(tmp_path / "run")
    before = os.umask(mask)
    try:
        folder.path.mkdir()
        save_best(loop, folder)
        Checkpoints(folder.checkpoints, 2, Plan(3, 1, 1)).save(loop, RunState())
        with folder.lock():
            folder.write_json("run.json", {})
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.path.rglob("*") if path.is_file()}
    assert {"model.safetensors", "config.json", "state.json", "run.json", ".lock"} < modes.keys()
    assert modes == dict.fromkeys(modes, 0o666 & ~mask)


def test_what_a_killed_export_left_goes_with_the_next(tmp_path: Path) -> None:
    """And nothing else: not what a process is at that still runs, nor what belongs to another name."""
    process = os.fork()
    if process == 0:
        os._exit(0)
    os.waitpid(process, 0)  # nobody has this number now
    kept = {f".onnx.{os.getppid()}.tmp", f".other.{process}.tmp", f".onnx.{process}.txt", "onnx.tmp"}
    for name in (f".onnx.{process}.tmp", *kept):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_text("half")
    with replace_folder(tmp_path / "onnx") as stage:
        (stage / "model.onnx").write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {"onnx", *kept}
