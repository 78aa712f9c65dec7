"""The page of a run: what it says, that nothing in the data can add to it, and how a browser takes it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import signal
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import dongu
from browser import CHROMIUM, browsing
from dongu.cli.main import run as run_command
from dongu.errors import InputError
from dongu.judge.answers import Evaluation
from dongu.judge.classes import Share, class_rows
from dongu.page.answers import _abstention
from dongu.page.draw.axis import Axis
from dongu.page.draw.plot import Plot
from dongu.page.draw.svg import CHART_WIDTH, LETTER, format_number
from dongu.page.report import make_report, read_data
from dongu.page.suspects import learnt
from dongu.page.trace import Outcome
from dongu.run.dynamics import RECORD, read_dynamics
from dongu.run.folder import RunFolder
from dongu.run.manifest import manifest_bytes

OPTIONS: dict[str, Any] = {"epochs": 3, "batch_size": 8, "micro_batch_size": 3, "lr": 2e-3, "threads": 1}
LABELS: dict[str, Callable[[int, random.Random], Any]] = {
    "single-label": lambda i, _: f"class{i % 3}",
    "multi-label": lambda i, _: [name for name, odd in (("odd", i % 2), ("third", i % 3 == 0)) if odd],
    "regression": lambda i, draw: round(i % 5 + draw.random(), 3),
}


@pytest.fixture(scope="module")
def runs(tiny_model: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run a task, of 30 training rows and 4 steps an epoch, each with its data beside it."""
    found = {}
    for task, label in LABELS.items():
        folder, draw = tmp_path_factory.mktemp(task), random.Random(4)
        (folder / "data").mkdir()
        for name, count in {"train": 30, "validation": 12, "test": 9}.items():
            rows = ({"text": " ".join(draw.choices(["good", "bad", "film", "the"], k=6))} for _ in range(count))
            lines = [json.dumps({**row, "label": label(i, draw)}) for i, row in enumerate(rows)]
            (folder / "data" / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        options = {**OPTIONS, "model": tiny_model(dropout=0.1), "task": task}
        found[task] = dongu.train(str(folder / "data"), out=str(folder / "runs" / "first"), **options).path
    return found


@pytest.fixture
def classes(runs: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the run of classes, to be changed; its data are where they were."""
    return Path(shutil.copytree(runs["single-label"], tmp_path / "runs" / "copy"))


class Tree(HTMLParser):
    """The elements of a page in their order, each with the names of its attributes, and what it says."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.values: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(sorted(name for name, _ in attributes))))
        self.values += [value or "" for _, value in attributes]
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        while self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"style"} & {*self.open}:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(run: Path) -> Tree:
    return Tree((run / "report.html").read_text(encoding="utf-8"))


def made(run: Path, data: bool = True) -> Tree:
    folder = RunFolder(run)
    return Tree(make_report(folder, read_data(folder) if data else None).decode())


# --- what it says


@pytest.mark.cases(test=1, ci=2)
def test_the_page_of_a_run_says_it_all(runs: dict[str, Path]) -> None:
    run = runs["single-label"]
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    page = page_of(run)
    entry = results["test"]["macro_f1"]
    numbers = [format_number(entry[key]) for key in ("value", "low", "high", "baseline")]
    assert "macro F1 on test" in page.text
    assert f"On 9 rows of test, 95% interval {numbers[1]} to {numbers[2]}." in page.text
    assert f"etter than guessing by class frequencies ({numbers[3]})." in page.text
    for title in (
        *("Loss", "Validation", "Learning rate", "Gradient norm", "Confusion matrix of test", "Reliability"),
        *("Map of the training rows", "Length of the training rows", "Padding in each step", "Labels of train"),
        *("Where the time went", "Tokens a second"),
    ):
        assert page.words.count(title) == 2, title  # above the drawing, and for who cannot see it
    assert "Expected calibration error" in page.text
    for row in results["per_class"]:
        if row["split"] == "test":
            assert all(f"{row[name]:.3f}" in page.text for name in ("precision", "recall", "f1"))
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    losses = [line["loss"] for line in lines if line["event"] == "step"]
    assert f"from {losses[0]:.4f} to {losses[-1]:.4f}" in page.text
    assert "--learning-rate 0.002" in page.text
    files = json.loads((run / "MANIFEST.json").read_text(encoding="utf-8"))["files"]
    assert {"dynamics.bin", "model/model.safetensors"} <= files.keys()
    assert all(entry["sha256"] in page.text for entry in files.values())
    assert re.search(r"validation\.jsonl:\d+", page.text), "the hardest rows have a place"
    assert page.text.index("Rows to look at") < page.text.index("The learning rate of each update"), "before the curves"
    assert str(run.parent) not in page.text
    assert str(Path.home()) not in page.text


def test_numbers_and_several_labels_have_forms_of_their_own(runs: dict[str, Path]) -> None:
    numbers, several = page_of(runs["regression"]), page_of(runs["multi-label"])
    assert {"Answer and label", "Answer minus label"} <= {*numbers.words}
    assert "answering at random (0.0000)" in numbers.text, "a correlation with a constant is no number"
    assert "Confusion matrix" not in numbers.text + several.text
    assert "Each label, with 95% intervals (Wilson)" in several.text
    assert "than answering with the label frequencies of train (0." in several.text
    assert "first" in several.text


def test_the_command_makes_the_same_bytes(runs: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    for run in runs.values():
        before = (run / "report.html").read_bytes()
        assert run_command(["report", str(run), "--out", str(tmp_path / f"{run.parts[-3]}.html")]) == 0
        assert (tmp_path / f"{run.parts[-3]}.html").read_bytes() == before
    assert run_command(["report", str(run)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(run / "report.html")
    assert run_command(["report", str(run), "--out", str(tmp_path)]) == 2
    assert run_command(["report", str(tmp_path)]) == 2


def test_what_is_not_there_is_left_out(classes: Path) -> None:
    """A run that was killed, one without its data, one from before there was a page."""
    whole = made(classes)
    assert "rows are given by their numbers" not in whole.text
    record = json.loads((classes / "run.json").read_text(encoding="utf-8"))
    for key in ("lengths", "constant_answer"):
        del record[key]
    (classes / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (classes / "dynamics.bin").unlink()
    older = made(classes)
    for gone in ("Possibly mislabelled", "Length of the training rows", "Labels of train"):
        assert gone in whole.text
        assert gone not in older.text
    without = made(classes, data=False)
    assert "rows are given by their numbers" in without.text
    assert "validation, row " in without.text

    for name in ("results.json", "MANIFEST.json", "findings.json", "timing.jsonl"):
        (classes / name).unlink()
    shutil.rmtree(classes / "predictions")
    lines = (classes / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (classes / "metrics.jsonl").write_text("".join(lines[:7]) + lines[7][:20], encoding="utf-8")
    killed = made(classes)
    assert "This run has not ended" in killed.text
    assert "The best so far, at step 4 of 12." in killed.text
    assert "Where the time went" not in killed.text
    (classes / "metrics.jsonl").unlink()
    assert "There is no evaluation yet." in made(classes).text


def test_damage_is_named(classes: Path, capsys: Any) -> None:
    for name, content in {
        "metrics.jsonl": '{"event": "step"}\n',
        "timing.jsonl": "[]\n",
        "findings.json": '[{"what": 3}]',
        "predictions/test.jsonl": '{"id": 0, "label": "class9", "prediction": "class0", "probabilities": {}}\n',
        "results.json": '{"test": {"loss": 3}}',
    }.items():
        before = (classes / name).read_bytes()
        (classes / name).write_text(content, encoding="utf-8")
        with pytest.raises(InputError) as caught:
            make_report(RunFolder(classes), None)
        assert str(classes / name) in caught.value.where
        assert run_command(["report", str(classes)]) == 2
        assert str(classes / name) in capsys.readouterr().err
        (classes / name).write_bytes(before)


def test_the_run_before_on_the_same_data_is_the_one_compared_with(classes: Path) -> None:
    def put(name: str, seconds: float, change: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        other = Path(shutil.copytree(classes, classes.parent / name))
        record = json.loads((other / "run.json").read_text(encoding="utf-8"))
        change(record)
        (other / "run.json").write_text(json.dumps(record), encoding="utf-8")
        os.utime(other / "results.json", (began + seconds, began + seconds))

    began = (classes / "run.json").stat().st_mtime
    assert "previous run" not in made(classes).text
    put("later", +9)
    put("before", -20)
    put("other-data", -5, lambda record: record["data"]["train"].update(texts="0" * 64))
    (classes.parent / "no-run").mkdir()
    (classes.parent / "no-run" / "results.json").write_text("[1", encoding="utf-8")
    os.utime(classes.parent / "no-run" / "results.json", (began - 1, began - 1))
    assert "Equal to the previous run on these data, before." in made(classes).text
    put("just-before", -10)
    results = json.loads((classes / "results.json").read_text(encoding="utf-8"))
    results["test"]["macro_f1"] |= {"value": 0.99, "low": 0.98, "high": 1.0}
    (classes / "MANIFEST.json").unlink()
    (classes / "results.json").write_text(json.dumps(results), encoding="utf-8")
    assert "above the previous run on these data, just-before; the intervals lie apart." in made(classes).text


# --- the dynamics


def test_every_row_is_recorded_once_an_epoch(runs: dict[str, Path], tiny_model: Callable[..., str]) -> None:
    """And the losses of an update's rows are what its own loss is the mean of."""
    for task, run in runs.items():
        records = read_dynamics(run / "dynamics.bin")
        assert [int(n) for n in np.bincount(records["step"])] == [0, *[8, 8, 8, 6] * 3], task
        for epoch in range(3):
            assert sorted(records["row"][30 * epoch : 30 * (epoch + 1)]) == list(range(30)), task
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        for line in lines:
            if line["event"] == "step":
                own = records["loss"][records["step"] == line["step"]]
                assert own.mean() == pytest.approx(line["loss"], rel=1e-5), task
                assert np.ptp(own) > 0
    loop = dongu.Loop(str(runs["multi-label"].parent.parent / "data"), model=tiny_model(), max_steps=1, threads=1)
    before = loop.evaluate("validation")
    loop.splits["train"] = loop.splits["validation"]
    loop.train_updates.split = loop.splits["train"]
    assert loop.gradients(loop.train_updates[0])[1:].tolist() == pytest.approx(
        np.asarray(before.losses)[loop.train_updates.rows(0)].tolist(), rel=1e-5
    )


def test_a_stopped_run_has_the_dynamics_of_a_whole_one(
    runs: dict[str, Path], tiny_model: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dongu.run.journal import Journal

    write = Journal.step

    def step(self: Journal, made: dongu.Step) -> None:
        write(self, made)
        if made.number == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Journal, "step", step)
    whole, run = runs["single-label"], tmp_path / "run"
    with pytest.raises(dongu.errors.StoppedError):
        dongu.train(str(whole.parents[1] / "data"), out=str(run), **{**OPTIONS, "model": tiny_model(dropout=0.1)})
    monkeypatch.undo()
    assert "This run has not ended" in page_of(run).text
    with (run / "dynamics.bin").open("ab") as file:
        file.write(b"of a step that was not saved" * 5)
    dongu.resume(run)
    assert (run / "dynamics.bin").read_bytes() == (whole / "dynamics.bin").read_bytes()
    assert "This run has not ended" not in page_of(run).text


def test_the_page_says_what_abstention_came_to() -> None:
    def said(**results: Any) -> str:
        trace: Any = SimpleNamespace(outcome=Outcome(best_step=1, **results))
        return _abstention(trace, "test")

    share = {"value": 0.5, "low": 0.4, "high": 0.6}
    row = {"split": "test", "answered": share, "accuracy": {**share, "value": 0.9}}
    assert said() == ""
    assert said(abstain_below=None, abstained=[]).startswith("Each row gets a label: no threshold is proved")
    told = said(abstain_below=0.75, abstained=[row])
    assert told.startswith("With a probability below 0.7500 the model abstains: on test 50.0%")
    assert "90.0% (40.0% to 60.0%) of these the right one" in told


@pytest.mark.found("few-passes")
def test_wrong_labels_are_the_suspects() -> None:
    """Rows 3 and 8 stay unlikely, row 5 is learnt late, row 7 was unlikely at its first use alone, row 2 is hard."""
    draw = np.random.default_rng(0)
    likely = {epoch: draw.uniform(0.8, 0.99, 10) for epoch in range(4)}
    for epoch, values in likely.items():
        values[[3, 8]] = (0.1, 0.2)
        values[5] = (0.1, 0.1, 0.1, 0.6)[epoch]
        values[2] = 0.4  # less than guessing, and no reason to think that another answer is the right one
        values[7] = 0.01 if epoch == 0 else 0.95
    records = np.concatenate(
        [
            np.array([(epoch, row, -np.log(values[row])) for row in draw.permutation(10)], RECORD)
            for epoch, values in likely.items()
        ]
    )
    found = learnt(records, "single-label", 2)
    assert found is not None
    assert found.ids[found.worst(5)].tolist() == [3, 8]
    assert found.history(5) == pytest.approx([0.1, 0.1, 0.1, 0.6], rel=1e-6)
    assert found.score[7] == pytest.approx(0.95, rel=1e-6)
    assert found.score[5] < found.limit < found.history(5)[-1]
    assert found.limit == pytest.approx(1 - found.score.mean())
    assert learnt(records[:0], "single-label", 2) is None
    early = learnt(records[records["step"] < 2], "single-label", 2)  # of two passes one counts: too few to accuse
    assert early is not None
    assert not early.judged.any()
    assert len(early.worst(5)) == 0
    records["loss"][records["row"] == 4] = 400
    numbers = learnt(records, "regression", 1)
    assert numbers is not None
    assert numbers.ids[numbers.worst(5)].tolist() == [4]


# --- a page that cannot be written


def test_a_run_goes_on_without_its_page(
    runs: dict[str, Path],
    tiny_model: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(*_: Any) -> bytes:
        raise RuntimeError("a bug\nin the page")

    monkeypatch.setattr("dongu.page.report.make_report", broken)
    whole, run = runs["single-label"], tmp_path / "run"
    flags = [part for name, value in OPTIONS.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command = ["train", str(whole.parents[1] / "data"), "--model", tiny_model(dropout=0.1), *flags, "--out", str(run)]
    assert run_command(command) == 0
    assert f"WARNING: report.html was not written (RuntimeError: a bug in the page); later: dongu report {run}" in (
        capsys.readouterr().out
    )
    assert not (run / "report.html").exists()
    assert (run / "results.json").read_bytes() == (whole / "results.json").read_bytes()


def test_the_command_is_what_was_typed(tiny_model: Callable[..., str], tmp_path: Path, runs: dict[str, Path]) -> None:
    """And not what was derived from the rows: settings for few of them, columns, a length."""
    data, model = str(runs["single-label"].parents[1] / "data"), tiny_model(dropout=0.1)
    few: dict[str, Any] = {"max_steps": 2, "batch_size": 4, "out": str(tmp_path / "few"), "threads": 1}
    run = dongu.train(data, model=model, **few, quiet=True).path
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert record["options"]["recipe"] == "original", "it was derived"
    assert record["given"] == ["model", "max_steps", "batch_size", "threads"]
    [command] = re.findall(r"dongu train data [^<]*", (run / "report.html").read_text(encoding="utf-8"))
    assert shlex.split(command) == ["dongu", "train", "data", "--model", Path(model).name, "--max-steps", "2",
                                    "--batch-size", "4"]  # fmt: skip


# --- what the data may hold


PAYLOADS = [
    *("<script>alert(1)</script>", "</script><script>alert(1)</script>", "<ScRiPt src=//x></sCrIpT>", "<script/x>"),
    *(
        "<img src=x onerror=alert(1)>",
        "<img/src=`x`onerror=alert(1)>",
        "<svg onload=alert(1)>",
        "<svg/onload=alert(1)//",
    ),
    *("</svg><script>alert(1)</script>", "<svg><style>*{}</style>", "</title><img src=x>", "</desc></svg><b>"),
    *(
        "</style><script>alert(1)</script>",
        "}*{background:url(//x)}",
        "</style>",
        "expression(alert(1))",
        "@import '//x';",
    ),
    *('" onmouseover="alert(1)', "' onmouseover='alert(1)", '"><b>', "'><b>", "` onload=`x", '" style="display:none'),
    *(
        "<a href=javascript:alert(1)>x</a>",
        "javascript:alert(1)",
        "data:text/html,<b>",
        "<iframe src=//x>",
        "<base href=//x>",
    ),
    *(
        "<meta http-equiv=refresh content=0>",
        "<link rel=stylesheet href=//x>",
        "<form action=//x><input>",
        "<object data=x>",
    ),
    *(
        "<table><tr><td>",
        "</table></div></main></body></html>",
        "</td></tr></tbody>",
        "<plaintext>",
        "<xmp>",
        "<noscript>",
    ),
    *(
        "<textarea>",
        "</textarea>",
        "<!--",
        "-->",
        "<!-- --!><b>",
        "<![CDATA[<b>]]>",
        "<?php echo 1 ?>",
        "<!DOCTYPE x>",
        "</p>",
    ),
    *(
        "&lt;script&gt;",
        "&#x3c;b&#x3e;",
        "&#60;b&#62;",
        "&amp;lt;b&amp;gt;",
        "&quot; onload=x",
        "&",
        "&#0;",
        "&#xD800;",
    ),
    *("{{7*7}}", "{% raw %}", "{# #}", "${7*7}", "%s%n{0}{x!r}", "{0.__class__}", "\\u003cb\\u003e", "\\x3cb\\x3e"),
    *(
        "\u202egnp.exe",
        "\u2066\u2067abc",
        "a\u0000b",
        "\u0007\u001b[31mred\u001b[0m",
        "\u200b\ufeff",
        "\u2028\u2029<b>",
    ),
    *(
        "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
        "Å̐͂" * 40,
        "<b>" * 3000,
        "A" * 9000,
        "\n\n\n<b>",
        "\t",
    ),
]


def infect(run: Path, words: Callable[[int], str]) -> RunFolder:
    """Put `words(i)` into the i-th place of a run folder where something of the user's stands."""
    (run / "run.json").chmod(0o644)
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    names = [f"{words(i)}{' ' * i}" for i in range(3)]  # names differ
    old = dict(zip(record["label_names"], names, strict=True))
    record["label_names"] = names
    record["metrics"], main = [words(3), *record["metrics"]], record["metric"]
    record["metric"] = words(26)
    record["options"] |= {"model": words(4), "data": words(5), "text_columns": [words(6)], "label_column": words(7)}
    record["options"]["class_weights"] = {words(8): 1.0}
    record["versions"], record["hardware"] = {words(9): words(10)}, {words(11): words(12)}
    record["changes"] = [{"step": 3, "changes": [words(13)]}]
    record["data"] = {words(14): {"rows": 3, "texts": words(15), "tokens": ""}}
    (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
    for file in (run / "predictions").glob("*.jsonl"):
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for line in lines:
            line["label"], line["prediction"] = old[line["label"]], old[line["prediction"]]
            line["probabilities"] = {old[name]: value for name, value in line["probabilities"].items()}
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    finding = {"severity": "warning", "what": words(16), "effect": words(17), "advice": words(18)}
    finding["examples"] = [{"where": [words(19)], "text": words(20)}]  # type: ignore[assignment]
    (run / "findings.json").write_text(json.dumps([finding]), encoding="utf-8")
    timing = (run / "timing.jsonl").read_text(encoding="utf-8")
    (run / "timing.jsonl").write_text(timing.replace('"setup"', json.dumps(words(21))), encoding="utf-8")
    log = (run / "metrics.jsonl").read_text(encoding="utf-8")
    log = log.replace('"loss"', f'{json.dumps(words(3))}: 1, "loss"').replace(f'"{main}"', json.dumps(words(26)))
    (run / "metrics.jsonl").write_text(log, encoding="utf-8")
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    for split in ("validation", "test"):
        results[split][words(26)] = results[split].pop(main)
    (run / "results.json").write_text(json.dumps(results), encoding="utf-8")
    (run / "MANIFEST.json").write_bytes(manifest_bytes({words(22): {"size": 1, "sha256": words(23)}}))
    return RunFolder(run)


PLACES = 27


class Texts:
    """Rows whose texts and file name are hostile too: all that a page asks of the data."""

    def __init__(self, words: Callable[[int], str]) -> None:
        self.ids = np.arange(30)
        self.texts = ([words(24)] * 30,)
        self.targets = np.zeros(30, np.int64)
        self._origin = words(25)

    def where(self, row: int) -> str:
        return f"{self._origin}:{row}"


def hostile_page(run: Path, folder: Path, words: Callable[[int], str]) -> bytes:
    copy = Path(shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoints", "model")))
    data: Any = type("Data", (), {"splits": dict.fromkeys(("train", "validation"), Texts(words)), "has_texts": True})
    return make_report(infect(copy, words), data)


@pytest.mark.cases(test=0, ci=1)
@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.crash)])
def test_no_text_adds_an_element(every: int, runs: dict[str, Path], tmp_path: Path) -> None:
    """Every payload in a third of all places, and as a crash test in each: a page has another one in each place."""
    run = runs["single-label"]
    assert len(PAYLOADS) >= 60
    harmless = Tree(hostile_page(run, tmp_path / "harmless", lambda i: f"place{i}z").decode())
    assert all(f"place{i}z" in harmless.text for i in range(PLACES)), "each place is on the page"
    for shift in range(0, len(PAYLOADS), every):
        folder = tmp_path / re.sub(r"[/\0]|^\.+$", "_", PAYLOADS[shift])[:60]
        page = hostile_page(run, folder, (PAYLOADS[shift:] + PAYLOADS).__getitem__)
        assert not set(page) & {*range(9), *range(11, 32), 127}, PAYLOADS[shift]
        tree = Tree(page.decode())
        assert tree.elements == harmless.elements, PAYLOADS[shift]
        assert tree.open == harmless.open
        assert not any(payload in value for payload in PAYLOADS[:55] for value in tree.values if len(payload) > 2)
        assert not re.search("[\u200b\u202a-\u202e\u2066-\u2069]", tree.text)
        shutil.rmtree(folder)


def test_the_policy_allows_the_style_and_nothing_else(runs: dict[str, Path]) -> None:
    page = (runs["single-label"] / "report.html").read_text(encoding="utf-8")
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    tree = Tree(page)
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert tree.values.count(policy) == 1
    assert page.index("Content-Security-Policy") < page.index("<style>")
    names = {name for _, attributes in tree.elements for name in attributes}
    assert not {name for name in names if name.startswith("on")} | (
        names & {"style", "src", "href", "srcset", "action"}
    )
    assert not {tag for tag, _ in tree.elements} & {"script", "link", "img", "a", "iframe", "object", "form", "base"}
    assert not re.search(r"url\(|@import|https?:", page)


# --- a browser


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here (Debian: apt-get install chromium)")
@pytest.mark.crash  # seconds for each page and width
def test_a_browser_shows_it_in_silence(runs: dict[str, Path], tmp_path: Path) -> None:
    words = [payload for payload in PAYLOADS if len(payload) < 2000]
    page = hostile_page(runs["single-label"], tmp_path / "hostile", lambda i: words[i * 7 % len(words)])
    (tmp_path / "hostile.html").write_bytes(page)
    (tmp_path / "loud.html").write_text(
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'\"><script>1</script><img src=x.png>",
        encoding="utf-8",
    )
    with browsing(tmp_path / "profile") as browser:

        def look(file: Path, **how: Any) -> tuple[list[str], list[str]]:
            """What the page complained of, and what it asked for beside itself."""
            events = browser.open(file.as_uri(), **how)
            methods = [event.get("method", "") for event in events]
            loud = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Audits.issueAdded")
            asked = [
                event["params"]["request"]["url"]
                for event in events
                if event.get("method") == "Network.requestWillBeSent"
            ]
            return [method for method in methods if method in loud], [url for url in asked if url != file.as_uri()]

        assert look(tmp_path / "loud.html")[0], "a page that complains is heard"
        pictures = {}
        for file in (tmp_path / "hostile.html", *(run / "report.html" for run in runs.values())):
            screens: dict[str, dict[str, Any]] = {"light": {}, "dark": {"dark": True}, "phone": {"width": 360}}
            for name in screens if file.name == "hostile.html" else ("phone",):
                how = screens[name]
                assert look(file, **how) == ([], []), (file, name)
                inner, outer = browser.value("[document.documentElement.scrollWidth, innerWidth]")
                assert inner <= outer, f"{file} is wider than the screen: {name}"
                if file.name == "hostile.html":
                    pictures[name] = browser.screenshot(tmp_path / f"{name}.png")
                    elements = browser.value("[...document.querySelectorAll('*')].map(e => e.localName)")
                    assert elements == [tag for tag, _ in Tree(page.decode()).elements]
        backgrounds = [browser.value("getComputedStyle(document.body).backgroundColor")]
        browser.open((tmp_path / "hostile.html").as_uri(), dark=True)
        backgrounds.append(browser.value("getComputedStyle(document.body).backgroundColor"))
        assert backgrounds[0] != backgrounds[1], "the style sheet is applied, and knows light from dark"
        assert len({*pictures.values()}) == 3
        browser.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


# --- the parts


def test_intervals_of_shares_hold_what_they_should() -> None:
    """Over many draws 95% of them hold the truth, and a full share is not certain."""
    draw = np.random.default_rng(1)
    for rows, truth in ((12, 0.5), (40, 0.9), (200, 0.03)):
        held = [low <= truth <= high for low, high in (Share(n, rows).ends for n in draw.binomial(rows, truth, 2000))]
        assert 0.92 < np.mean(held) < 0.985
    low, high = Share(9, 9).ends
    assert high == 1
    assert 0.6 < low < 0.8
    targets, given = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    answers = Evaluation("test", np.arange(4), np.eye(2)[given], targets, np.zeros(4), {})
    first, second = class_rows(answers, ("a", "b"))
    assert (first["rows"], first["precision"][0], first["recall"][0]) == (2, 1.0, 0.5)
    assert second["f1"][0] == pytest.approx(0.8)
    assert all(low < high for _, low, high in (first["f1"], second["f1"]))


def test_axes_hold_their_values_between_round_ticks() -> None:
    draw = random.Random(2)
    for _ in range(300):
        values = [draw.choice([-1, 1]) * 10 ** draw.uniform(-8, 8) for _ in range(draw.randint(1, 4))]
        axis = Axis.of(values, zero=draw.random() < 0.3)
        slack = 1e-8 * (axis.high - axis.low)
        assert axis.low - slack <= min(values) <= max(values) <= axis.high + slack
        assert 2 <= len(axis.ticks) <= 9
        assert len({*axis.labels()}) == len(axis.ticks), (values, axis.labels())
    assert Axis.of([]).labels() == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert Axis.of([3e-6, 4.0], log=True).log


def test_long_lines_keep_their_peaks() -> None:
    steps = np.arange(100_000.0)
    values = np.sin(steps / 9000)
    values[71_234] = 40.0
    plot = Plot("Loss", Axis.of(steps), Axis.of(values)).line("train", steps, values, 0)
    drawing = plot.chart().svg
    assert len(drawing) < 12_000
    assert f"{float(plot.px(71_234.0)):.1f} {float(plot.py(40.0)):.1f}" in drawing
    assert "highest 40.0000 at 71234" in drawing.replace(",", "")


def test_a_long_legend_stays_within_its_chart() -> None:
    names = ("quadratic weighted kappa", "accuracy", "mean absolute error")
    for shown in (names, names[:2]):
        plot = Plot("Validation", Axis.of([0, 20], "step"), Axis.of([0, 1], "metric"))
        for kind, name in enumerate(shown):
            plot.line(name, np.array([0, 20]), np.array([0.0, 1.0]), kind)
        keys = re.findall(r'class="key" x="([\d.]+)" y="(\d+)">([^<]+)<', str(plot.chart().svg))
        assert [name for *_, name in keys] == [*shown]
        assert all(float(x) + LETTER * len(name) <= CHART_WIDTH for x, _, name in keys)
        assert len({y for _, y, _ in keys}) == len(shown) - 1, "a line more where they are three"


def test_what_rounding_leaves_of_nothing_is_nothing() -> None:
    assert [format_number(value) for value in (2e-15, -2e-15, 3e-5)] == ["0.0000", "0.0000", "3e-5"]
