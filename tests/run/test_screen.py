"""What a person reads: of a run on one screen, of its results in a sentence, and nothing that is not so."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import dongu
from dongu.cli.main import COMMANDS
from dongu.cli.main import run as run_command
from dongu.config import Task
from dongu.judge.words import Yardstick, calibration, table
from dongu.run.console import Console
from dongu.run.effort import Effort
from dongu.text import _COMMAND, WIDTH, fields, wrapped

LINES = 50  # of a screen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.cases(test=1, ci=3)
@pytest.mark.parametrize("task", ["single-label", "regression", "multi-label"])
def test_a_run_fits_a_screen(
    task: Task,
    tiny_model: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Data with more warnings than are shown, three epochs, and a validation and a test split."""
    monkeypatch.chdir(tmp_path)
    # However busy this machine is, and however much the tests before have left in memory.
    monkeypatch.setattr("dongu.run.effort.product_rate", lambda *_: 1e12)
    monkeypatch.setattr("dongu.run.effort.peak_memory_bytes", lambda *_: 2e9)
    label = {"single-label": "{0}", "regression": "{0}.5", "multi-label": "l{0}|l{1}"}[task]
    (tmp_path / "data").mkdir()
    for split, rows in (("train", 60), ("validation", 20), ("test", 20)):
        lines = [f"film word{i % 12}, {label.format(i % 2, 2 + i % 3)}" for i in range(rows)]
        (tmp_path / "data" / f"{split}.csv").write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    shutil.copytree(tiny_model(), "model")
    assert run_command(["train", "data", "--model", "model", "--out", "run", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert len(lines) <= LINES, "\n".join(lines)
    assert "warning" in "\n".join(lines)


@pytest.mark.parametrize(("seconds", "rows"), [(0.0, 0), (0.01, 0), (1.0, 1), (100.0, 9)])
def test_a_file_gets_a_handful_of_rows(seconds: float, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("dongu.run.progress.time.perf_counter", lambda: now)
    stream = io.StringIO()
    with Console(stream=stream).progress(40, 0, ["accuracy"]) as progress:
        for number in range(1, 41):
            now += seconds
            progress.step(SimpleNamespace(number=number, epoch=number / 10, loss=0.5, examples=8, seconds=seconds))  # type: ignore[arg-type]
        progress.evaluation(40, 4.0, {"loss": 0.25, "accuracy": math.nan}, best=False)
    lines = stream.getvalue().splitlines()
    assert lines[-1] == "  40   4.00    0.5000 │   0.2500  undefined"
    assert sum(" left" in line for line in lines) == rows
    if rows == 9:
        assert lines[3] == f"   4   0.40    0.5000 │ 0.1 examples/s  {'1:00:00'} left"


def test_of_several_runs_what_differs_is_said_again() -> None:
    stream = io.StringIO()
    console = Console(stream=stream, several=True)
    runs = [("few rows (36)", "rate 1e-4"), ("the textbook", "rate 5e-5"), ("few rows (35)", "rate 5e-5")]
    for recipe, optimizer in runs:
        console.next_run()
        console.fields([("data", "36 rows"), ("recipe", recipe), ("optimizer", optimizer)])
    names = [line.split()[0] for line in stream.getvalue().splitlines()]
    assert names == ["data", "recipe", "optimizer", "recipe", "recipe"]
    for i in range(2):
        console.next_run()
        assert [console.is_new(f"`v{count}` is null in {count} rows") for count in (1, 2)] == [i == 0] * 2


def test_a_bar_goes_when_the_table_has_said_it() -> None:
    stream = Terminal()
    with Console(stream=stream).progress(2, 0, ["accuracy"]) as progress:
        progress.step(SimpleNamespace(number=1, epoch=1, loss=0.5, examples=8, seconds=1.0))  # type: ignore[arg-type]
    assert "/2 " in stream.getvalue()
    assert stream.getvalue().endswith("\r")


@pytest.mark.parametrize(
    ("low", "value", "high", "said"),
    [
        (0.71, 0.8, 0.9, "better than always answering “yes” (0.7000)."),
        (0.69, 0.8, 0.9, "not clearly better than always answering “yes” (0.7000)."),
        (0.6, 0.7, 0.8, "not better than always answering “yes” (0.7000)."),
        (0.5, 0.6, 0.8, "not better than always answering “yes” (0.7000)."),
        (0.5, 0.6, 0.69, "worse than always answering “yes” (0.7000)."),
    ],
)
def test_the_verdict_on_classes(low: float, value: float, high: float, said: str) -> None:
    yardstick = Yardstick("single-label", "accuracy", ("no", "yes"), [0.3, 0.7])
    entry = {"value": value, "low": low, "high": high, "baseline": 0.7}
    assert yardstick.sentence("test", entry, 1725) == (
        f"Accuracy on 1,725 rows of test is {value:.4f}, 95% interval {low:.4f} to {high:.4f}: {said}"
    )
    assert yardstick.sentence("validation", entry, 1).endswith("so these figures are a little too good.")


@pytest.mark.parametrize(
    ("task", "metric", "entry", "said"),
    [
        ("regression", "spearman", {"value": 0.2, "low": 0.1, "high": 0.3}, "better than answering at random (0.0000)"),
        ("regression", "loss", {"value": 1, "low": 0.5, "high": 2, "baseline": 3}, "better than always answering the"),
        ("single-label", "loss", {"value": 9, "low": 8, "high": 10, "baseline": 3}, "worse than answering with the"),
        (
            "multi-label",
            "micro_f1",
            {"value": 0.4, "low": 0.1, "high": 0.5, "baseline": 0.3},
            "not clearly better than",
        ),
        ("single-label", "f1", {"value": 0.4, "low": 0.1, "high": 0.5, "baseline": math.inf}, "95% interval"),
        ("regression", "pearson", {"value": math.nan, "low": math.nan, "high": math.nan}, "is undefined"),
    ],
)
def test_the_verdict_on_the_rest(task: Task, metric: str, entry: dict[str, float], said: str) -> None:
    assert said in Yardstick(task, metric, ("a", "b"), [0.3, 0.7]).sentence("test", entry, 9)


@pytest.mark.parametrize(
    ("temperature", "calibrated", "after", "rows", "said"),
    [
        (0.5, False, 0.05, 400, "calibrate  --calibrate (temperature 0.5000): error on test 0.1000 → 0.0500"),
        (0.5, False, 0.15, 400, "calibrate  temperature 0.5000 would not help: error on test 0.1000 → 0.1500"),
        (0.5, True, 0.05, 400, "calibrated temperature 0.5000 in the saved head: error on test 0.1000 → 0.0500"),
        (0.5, True, 0.05, 30, "0.0500; fitted on 30 rows only, which is too few to trust it"),
    ],
)
def test_what_a_temperature_mends(temperature: float, calibrated: bool, after: float, rows: int, said: str) -> None:
    entries = {"calibration_error": {"value": 0.1, "before": 0.1, "after": after}}
    results: dict[str, Any] = {"calibrated": calibrated, "validation": entries, "test": entries}
    results["temperature"] = temperature
    lines = list(calibration(results, {"validation": rows}))
    assert " ".join(" ".join(lines).split()).endswith(" ".join(said.split()))
    assert max(map(len, lines)) <= WIDTH
    assert list(calibration({"calibrated": False, "validation": entries}, {"validation": rows})) == []


def test_the_longest_names_fit() -> None:
    entry = {"value": 0.12345, "low": -0.5, "high": 0.9, "baseline": 0.4}
    lines = list(table({"validation_mismatched": {"matthews_correlation": entry}}, "single-label"))
    assert max(map(len, lines)) <= WIDTH
    assert lines[-1].endswith("0.1235   -0.5000 to 0.9000   0.4000 majority class")


def test_a_probe_that_was_disturbed_is_no_measure(
    tiny_model: Callable[..., str], data_folder: Callable[..., str]
) -> None:
    loop = dongu.Loop(data_folder(), model=tiny_model(), device="cpu", max_steps=2)
    effort = Effort()
    for step in loop:
        effort.add(step)
    effort.close(loop)
    said: dict[float, str] = {}
    for share in (0.5, 5.71):
        effort.per_second |= {"model_flops": share * 2e9, "product_flops": 2e9, "bf16_product_flops": 9e9}
        said[share] = dict(effort.lines(loop))["machine"]
    assert said[0.5].startswith("50% of 2 GFLOP/s of fp32 matrix products (--precision bf16 has more)")
    assert said[5.71].startswith("more than the 2 GFLOP/s of fp32 matrix products in a probe that other load disturbed")


def test_tokens_a_second_are_those_of_one_process(
    tiny_model: Callable[..., str], data_folder: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Examples are counted over all processes: of two numbers side by side the reader is told which is which."""
    loop = dongu.Loop(data_folder(), model=tiny_model(), device="cpu", max_steps=1)
    effort = Effort(1, 8, 100, 200, 1.0, {"examples": 8.0, "tokens": 100.0})
    effort.not_measured = "there is no probe"
    assert dict(effort.lines(loop))["speed"].startswith("8.0 examples/s, 100 tokens/s, ")
    monkeypatch.setattr(loop, "accelerator", SimpleNamespace(num_processes=2, device=torch.device("cpu")))
    assert dict(effort.lines(loop))["speed"].startswith("8.0 examples/s, 100 tokens/s a process, ")


def test_words_are_wrapped_below_themselves() -> None:
    lines = list(fields([("steps", "word " * 30), ("run", "/a/path/" + "x" * 90)]))
    assert lines[0].startswith("steps      word")
    assert all(line.startswith(" " * 11 + "word") for line in lines[1:-1])
    assert max(map(len, lines[:-2])) <= WIDTH
    assert wrapped("", "run") == ["run"]


def test_an_error_is_wrapped_where_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {}
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr("sys.stderr", stream)
        assert run_command(["train", "no-such-folder"]) == 2
        shown[stream.isatty()] = stream.getvalue()
    assert len(shown[False].splitlines()) == 2
    assert max(map(len, shown[True].splitlines())) <= WIDTH < max(map(len, shown[False].splitlines()))
    assert shown[True].split() == shown[False].split()


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("these are the run's data; where are they now? {0}", "dongu resume '/a long/path of words/run' DATA"),
        ("{0} continues it; --overwrite starts again, and more words follow it", "dongu resume " + "x" * 70),
        ("give one of them: a; `{0}` lists them, the best first", "dongu runs '/a long/path of words/runs'"),
        ("to abstain so, whatever the model: {0}, or another", "dongu serve 'a b c' --abstain-below 0.5"),
        ("it is not installed; install it in a clone of dongu: {0}", 'pip install ".[serve]"'),
    ],
)
def test_a_command_to_copy_is_never_cut(text: str, whole: str) -> None:
    for more in range(60):
        lines = wrapped("x" * more + " " + text.format(whole), "", "  ")
        assert any(whole in line for line in lines)
        assert all(len(line) <= WIDTH for line in lines if whole not in line)


def test_the_commands_are_known_to_the_lines() -> None:
    for name in COMMANDS:
        assert _COMMAND.search(f"now: dongu {name} a b c") is not None, name


@pytest.mark.parametrize(
    ("encoding", "said"), [("ascii", "a ? b ? c"), ("cp1252", "a · b ? c"), ("utf-8", "a · b → c")]
)
def test_a_stream_that_lacks_a_character_ends_no_run(encoding: str, said: str) -> None:
    """That of a caller in Python; the command makes its own UTF-8."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    Console(stream=stream).line("a · b → c")
    assert raw.getvalue().decode(encoding) == f"{said}\n"
