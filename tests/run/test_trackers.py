"""`--track`: what a tracker is handed is what the log has, and nothing of the run depends on it."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

import dongu
from dongu.cli.main import run as run_command
from dongu.config import make_config
from dongu.errors import UsageError
from dongu.extras import require_extras
from dongu.run.console import Console
from dongu.run.folder import RunFolder
from dongu.run.journal import Journal
from dongu.run.trackers import Trackers

OPTIONS: dict[str, Any] = {"max_steps": 6, "batch_size": 8, "lr": 2e-3, "eval_steps": 3, "threads": 1}


@pytest.fixture(scope="module")
def begin(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]
) -> Iterator[Callable[..., dongu.RunResult]]:
    """`begin(out, **options)`: train on a few rows."""
    folder = tmp_path_factory.mktemp("tracked")
    for split, count in {"train": 40, "validation": 12}.items():
        rows = [{"text": f"word{i} word{i % 2} the film {split}", "label": f"class{i % 2}"} for i in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def train(out: Path, **options: Any) -> dongu.RunResult:
        return dongu.train(str(folder), **{**OPTIONS, "model": tiny_model(dropout=0.1), "out": str(out), **options})

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DONGU_CACHE", str(folder / "cache"))
        yield train


@pytest.fixture(scope="module")
def plain(begin: Callable[..., dongu.RunResult], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without trackers."""
    return begin(tmp_path_factory.mktemp("plain") / "run").path


def same_bytes(run: Path, plain: Path) -> bool:
    names = ["metrics.jsonl", "results.json", "model/model.safetensors", "predictions/validation.jsonl"]
    return all((run / name).read_bytes() == (plain / name).read_bytes() for name in names)


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


class Fake:
    """A tracker that keeps what it is told, and fails where it is asked to."""

    name = "fake"
    made: ClassVar[list[Fake]] = []
    fails_at: ClassVar[int | str] = ""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.options: dict[str, Any] = {}
        self.tracker = SimpleNamespace(info=SimpleNamespace(run_id="run-7"))
        self.finished = 0
        Fake.made.append(self)

    def start(self) -> None:
        if Fake.fails_at == "start":
            raise ValueError("no key")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.options = values

    def log(self, values: dict[str, float], step: int) -> None:
        if step == Fake.fails_at:
            raise ConnectionError("no route")
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    """All trackers but TensorBoard's are of this kind, and installed."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    for name in ("wandb", "mlflow", "trackio"):
        monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, name, Fake)
    monkeypatch.setattr("dongu.extras.find_spec", lambda name: SimpleNamespace(origin=name))
    monkeypatch.setattr(Fake, "made", [])
    monkeypatch.setattr(Fake, "fails_at", "")
    return Fake


# --- the others themselves, where they are installed: each keeps what it is told in a folder of its own


def wandb_points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    protocol = importlib.import_module("wandb.proto.wandb_internal_pb2")
    points: dict[str, list[tuple[int, float]]] = {}
    [path] = folder.glob("wandb/offline-run-*/*.wandb")
    for content in wandb_records(path.read_bytes()):
        record = protocol.Record()
        record.ParseFromString(content)
        values = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for name, value in values.items():
            points.setdefault(name, []).append((values["_step"], value))
    return points


def wandb_records(content: bytes) -> Iterator[bytes]:
    """Its file is a log as LevelDB writes one: blocks of parts, each with a checksum, a length and a kind."""
    block, head, first, last = 32768, 7, 2, 4
    place, record = head, b""  # a head of the file, as long as that of a part
    while place + head <= len(content):
        if block - place % block < head:
            place += block - place % block
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        part = content[place + head : place + head + length]
        record = part if kind in (1, first) else record + part
        if kind in (1, last):
            yield record
        place += head + length


def mlflow_points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that it imports
        return mlflow_points_quietly(folder)


def mlflow_points_quietly(folder: Path) -> dict[str, list[tuple[int, float]]]:
    mlflow = importlib.import_module("mlflow")
    client = mlflow.MlflowClient(mlflow_at(folder))
    [experiment] = [each for each in client.search_experiments() if each.name != "Default"]
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["batch_size"] == "8"
    return {
        name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }


def mlflow_at(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


def trackio_points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    import sqlite3

    [path] = folder.glob("*.db")
    with contextlib.closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT step, metrics FROM metrics ORDER BY step").fetchall()
    points: dict[str, list[tuple[int, float]]] = {}
    for step, metrics in rows:
        for name, value in json.loads(metrics).items():
            points.setdefault(name, []).append((step, value))
    return points


@pytest.mark.parametrize(
    ("name", "points_in"), [("wandb", wandb_points), ("mlflow", mlflow_points), ("trackio", trackio_points)]
)
def test_a_tracker_has_every_number_and_the_run_not_a_bit_of_it(
    name: str,
    points_in: Callable[[Path], dict[str, list[tuple[int, float]]]],
    begin: Callable[..., dongu.RunResult],
    plain: Path,
    tmp_path: Path,
    tiny_model: Callable[..., str],
) -> None:
    """In a process of its own, for a tracker stays in the one that it was started in."""
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    kept = tmp_path / "kept"
    kept.mkdir()
    data = json.loads((plain / "run.json").read_text(encoding="utf-8"))["options"]["data"]
    options = {**OPTIONS, "model": tiny_model(dropout=0.1), "out": str(tmp_path / "run"), "track": name}
    places = {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(kept),
        "MLFLOW_TRACKING_URI": mlflow_at(kept),
        "TRACKIO_DIR": str(kept),
    }
    program = f"import dongu; dongu.train({data!r}, **{options!r})"
    environment = {**os.environ, **places, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=kept, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert same_bytes(tmp_path / "run", plain)
    told = points_in(kept)
    log = log_of(tmp_path / "run")
    for curve, event, key in (
        ("train/loss", "step", "loss"),
        ("train/grad_norm", "step", "grad_norm"),
        ("train/learning_rate", "step", "learning_rate"),
        ("validation/accuracy", "evaluation", "accuracy"),
        ("validation/loss", "evaluation", "loss"),
    ):
        assert told[curve] == [(line["step"], line[key]) for line in log if line["event"] == event], curve


# --- TensorBoard itself


def points_of(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every point of every curve, as TensorBoard reads its files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that it imports
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
        events.Reload()
        return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def check_points(run: Path) -> None:
    """TensorBoard shows the log: every number to float32, every step once and in order."""
    import numpy as np

    points, log = points_of(run), log_of(run)
    steps = [line for line in log if line["event"] == "step"]
    for name in ("loss", "learning_rate", "grad_norm", "epoch"):
        assert points[f"train/{name}"] == [(line["step"], float(np.float32(line[name]))) for line in steps]
    evaluations = [line for line in log if line["event"] == "evaluation"]
    for name in ("loss", "accuracy", "f1"):
        expected = [(line["step"], float(np.float32(line[name]))) for line in evaluations]
        assert points[f"validation/{name}"] == expected
    assert len(steps) == 6
    assert len(evaluations) == 2


def test_tensorboard_has_every_number_and_the_run_not_a_bit_of_it(
    begin: Callable[..., dongu.RunResult], plain: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    run = begin(tmp_path / "run", track="tensorboard").path
    check_points(run)
    assert same_bytes(run, plain)
    assert not (plain / "tensorboard").exists()
    [options] = (run / "tensorboard").glob("*/hparams.yml")
    assert "learning_rate: 0.002\n" in options.read_text(encoding="utf-8")


def test_a_run_that_was_killed_goes_on_in_the_same_curves(
    begin: Callable[..., dongu.RunResult], plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps after the last checkpoint are made, and handed on, again: they are there once all the same."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    write = Journal.step

    def die(self: Journal, step: dongu.Step) -> None:
        write(self, step)
        if step.number == 6:
            raise MemoryError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "step", die)
        with pytest.raises(MemoryError):
            begin(tmp_path / "run", track=["tensorboard"])
    assert [step for step, _ in points_of(tmp_path / "run")["train/loss"]] == [1, 2, 3, 4, 5], "closed on the way out"
    run = dongu.resume(tmp_path / "run").path
    check_points(run)
    assert same_bytes(run, plain)
    assert len(list((run / "tensorboard").glob("events.*"))) == 2


# --- any tracker


def test_what_a_tracker_is_told(begin: Callable[..., dongu.RunResult], tmp_path: Path, fake: type[Fake]) -> None:
    run = begin(tmp_path / "run", track=["wandb", "mlflow", "trackio"]).path
    from accelerate.tracking import MLflowTracker, TrackioTracker, WandBTracker

    wandb, mlflow, trackio = fake.made
    expected = [
        (line["step"], {f"train/{name}": line[name] for name in ("loss", "learning_rate", "grad_norm", "epoch")})
        if line["event"] == "step"
        else (line["step"], {f"validation/{name}": line[name] for name in ("loss", "accuracy", "f1")})
        for line in log_of(run)
    ]
    for tracker in fake.made:
        assert tracker.logged == expected
        assert tracker.finished == 1
        assert (tracker.options["learning_rate"], tracker.options["text_columns"]) == (2e-3, '["text"]')
        assert all(isinstance(value, bool | int | float | str) for value in tracker.options.values())
    known = json.loads((run / "tracking.json").read_text(encoding="utf-8"))
    project = wandb.arguments["run_name"]
    assert wandb.arguments == {"run_name": project, "name": "run", "id": known["id"], "resume": "allow"}
    assert mlflow.arguments == {"experiment_name": project, "run_name": "run", "run_id": None}
    assert trackio.arguments["name"] == f"run-{known['id'][:8]}"
    assert known["mlflow"] == "run-7"
    for kind, tracker in zip((WandBTracker, MLflowTracker, TrackioTracker), fake.made, strict=True):
        inspect.signature(kind).bind(**tracker.arguments)  # a TypeError where Accelerate calls them otherwise


def test_a_resumed_run_has_its_name_again(
    begin: Callable[..., dongu.RunResult],
    plain: Path,
    tmp_path: Path,
    fake: type[Fake],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake.fails_at = 4  # the tracker is gone, and the run ends two steps later
    write = Journal.step

    def die(self: Journal, step: dongu.Step) -> None:
        write(self, step)
        if step.number == 5:
            raise MemoryError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "step", die)
        with pytest.raises(MemoryError):
            begin(tmp_path / "run", track=["wandb", "mlflow"])
    fake.fails_at = ""
    assert same_bytes(dongu.resume(tmp_path / "run").path, plain)
    wandb, mlflow, wandb_again, mlflow_again = fake.made
    assert wandb_again.arguments == wandb.arguments
    assert mlflow_again.arguments == {**mlflow.arguments, "run_id": "run-7"}
    assert not wandb_again.options, "told once"
    assert [step for step, values in wandb_again.logged if "train/loss" in values] == [4, 5, 6]


def test_a_tracker_that_fails_does_not_end_the_run(
    begin: Callable[..., dongu.RunResult],
    plain: Path,
    tmp_path: Path,
    fake: type[Fake],
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake.fails_at = 4
    run = begin(tmp_path / "run", track="wandb", console=Console()).path
    assert same_bytes(run, plain)
    assert [step for step, _ in fake.made[0].logged] == [1, 2, 3, 3]
    shown = capsys.readouterr().out
    assert shown.count("fake failed at step 4 (ConnectionError: no route); the run continues without it") == 1


def test_a_tracker_that_cannot_be_started_ends_it_before_it_begins(
    begin: Callable[..., dongu.RunResult], plain: Path, tmp_path: Path, fake: type[Fake]
) -> None:
    fake.fails_at = "start"
    with pytest.raises(UsageError, match="no key") as caught:
        begin(tmp_path / "run", track=["tensorboard", "wandb"])
    assert caught.value.where == "--track wandb"
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock"}
    assert same_bytes(begin(tmp_path / "run").path, plain), "the folder is as good as new"


def test_one_process_tracks(tmp_path: Path, fake: type[Fake]) -> None:
    loop: Any = SimpleNamespace(
        config=make_config({"data": "x", "track": "wandb"}), accelerator=SimpleNamespace(is_main_process=False)
    )
    with contextlib.closing(Trackers(loop, RunFolder(tmp_path), Console(), step=0)) as trackers:
        trackers.evaluation(1, SimpleNamespace(split="validation", metrics={"loss": 1.0}))  # type: ignore[arg-type]
    assert not fake.made
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_said_before_the_data_are_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dongu.extras.find_spec", lambda _: None)
    assert run_command(["train", "no-such-file.csv", "--track", "wandb"]) == 2
    said = capsys.readouterr().err
    assert "--track wandb: needs the package wandb" in said
    assert "pip install wandb" in said
    with pytest.raises(UsageError, match="needs the package mlflow"):
        dongu.train("no-such-file.csv", track="mlflow")


def test_a_folder_of_that_name_is_no_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "trackio").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match="needs the package trackio"):
        require_extras(make_config({"data": "x", "track": "trackio"}))


def test_options_that_name_no_tracker(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["train", "x", "--track", "tensorbord"]) == 2
    assert "--track: must be 'tensorboard', 'wandb', 'mlflow' or 'trackio'" in capsys.readouterr().err
    assert run_command(["train", "x", "--track", "wandb", "wandb"]) == 2
    assert "--track: wandb, wandb has one twice" in capsys.readouterr().err
