"""The site: its recipes run, its tables say what the code says, and it is built without a warning.

A recipe runs in bash with a `dongu` that hands its arguments to this process: torch is loaded once for all of them. The
named models become a tiny random one, and numbers of epochs and seeds become small.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import importlib.util
import io
import json
import os
import random
import re
import runpy
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from torch.distributed.run import get_args_parser

import dongu
from browser import CHROMIUM, browsing
from conftest import ROOT, WORDS
from dongu.cli.main import make_parser, run
from dongu.cli.train import show_result, train_options
from dongu.config import Metric, RunConfig, make_config, option_flag
from dongu.errors import DonguError
from dongu.run.console import Console
from dongu.run.signals import EXIT_CODES

DOCS = ROOT / "docs"
RECIPES = DOCS / "recipes"
# The pages of this site alone; the others were there before it, and are read on their own.
PAGES = {
    name: (DOCS / f"{name}.md").read_text(encoding="utf-8")
    for name in (
        *("index", "quick-start", "recipes", "python", "coming-from"),
        *("commands", "options", "data", "run-folder", "metrics", "errors"),
        *("several-machines", "house", "security", "promises", "inspect", "export", "serve"),
    )
}
STAND_INS = {
    "torchrun": 'while [ "$1" != -m ]; do shift; done; shift 2; exec dongu "$@"',
    "srun": 'SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=1 exec "$@"',
    "scontrol": 'echo "$@" >> scontrol.log',
    "pip": "",
}
# Asks this process to do what was asked of it.
DONGU = """#!{python} -S
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as call:
    call.connect({address!r})
    call.sendall(json.dumps(sys.argv[1:]).encode() + b"\\n")
    answer = json.loads(call.makefile(encoding="utf-8").read())
sys.stdout.write(answer["output"])
sys.exit(answer["code"])
"""


def load_from_code() -> Any:
    spec = importlib.util.spec_from_file_location("from_code", DOCS / "from_code.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


from_code = load_from_code()


# --- recipes


def write_table(path: Path, columns: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def sentence(seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=6))


def write_data(folder: Path) -> None:
    reviews = [[f"{sentence(i)} {'good' if i % 3 else 'bad'}", "positive" if i % 3 else "negative"] for i in range(45)]
    write_table(folder / "reviews.csv", ["text", "label"], reviews)
    write_table(folder / "few.csv", ["text", "label"], reviews[:24])
    write_table(folder / "other-reviews.csv", ["text", "label"], [[f"{text} film", name] for text, name in reviews[:9]])
    write_table(folder / "new.csv", ["text"], [[sentence(100)], [sentence(101)]])
    tickets = [[str(i), sentence(200 + i), sentence(300 + i), ["sales", "support"][i % 2]] for i in range(40)]
    write_table(folder / "tickets.csv", ["id", "title", "body", "queue"], tickets)
    write_table(folder / "new-tickets.csv", ["id", "title", "body"], [row[:3] for row in tickets[:3]])


class Bench:
    """A folder with data and a tiny model, in which recipes run."""

    def __init__(self, folder: Path, model: str) -> None:
        self.folder = folder
        self.asked: list[list[str]] = []  # arguments of each `dongu`, as the recipe has them
        self.output = ""
        self._reduced = {"--model": model, "--seeds": "2", "--epochs": "1"}
        write_data(folder)
        (folder / "models").mkdir()
        (folder / "models" / "bert-base-uncased").symlink_to(model)
        recipe = (RECIPES / "recipe.toml").read_text(encoding="utf-8").replace("minilm", model)
        (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
        self._address = str(folder / "socket")
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        stand_ins = {name: f"#!/usr/bin/env bash\n{body}\n" for name, body in STAND_INS.items()}
        stand_ins["dongu"] = DONGU.format(python=sys.executable, address=self._address)
        for name, content in stand_ins.items():
            (bin_folder / name).write_text(content, encoding="utf-8")
            (bin_folder / name).chmod(0o755)

    def run(self, name: str) -> tuple[int, str]:
        """The exit code and the output of a recipe; it runs in this process what it asks `dongu` for."""
        path = f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        with contextlib.chdir(self.folder), socket.socket(socket.AF_UNIX) as server:
            Path(self._address).unlink(missing_ok=True)
            server.bind(self._address)
            server.listen()
            server.settimeout(0.02)
            with subprocess.Popen(
                ["bash", RECIPES / name],
                env={**os.environ, "PATH": path, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "a"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as process:
                while process.poll() is None:
                    with contextlib.suppress(TimeoutError):
                        self._serve(server)
                output = process.stdout.read() if process.stdout else ""
                return process.returncode, output

    def _serve(self, server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, connection.makefile(encoding="utf-8") as lines:
            arguments = json.loads(lines.readline())
            self.asked.append(arguments)
            output = io.StringIO()
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                code = run(self.reduced(arguments))
            connection.sendall(json.dumps({"code": code, "output": output.getvalue()}).encode())

    def reduced(self, arguments: list[str]) -> list[str]:
        before = ["", *arguments]
        return [
            self._reduced.get(flag, value) if not value.startswith("models/") else value
            for flag, value in zip(before, arguments, strict=False)
        ]


@pytest.fixture(scope="module")
def make_bench(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]
) -> Iterator[Callable[[], Bench]]:
    """`make_bench()`: a new one. The model is one that knows all bytes, so any text can be learnt."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DONGU_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield lambda: Bench(tmp_path_factory.mktemp("recipe"), tiny_model("gpt2"))


@pytest.fixture(scope="module")
def quick_start(make_bench: Callable[[], Bench]) -> Bench:
    """The bench after the quick start."""
    bench = make_bench()
    code, bench.output = bench.run("quick-start.sh")
    assert code == 0, bench.output
    return bench


def test_quick_start(quick_start: Bench) -> None:
    assert [arguments[0] for arguments in quick_start.asked] == [
        "inspect",
        "train",
        "predict",
        "predict",
        "evaluate",
        "verify",
    ]
    with (quick_start.folder / "answers.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 2


# Recipe → what it asks for, and a file that it leaves.
RUN: dict[str, tuple[list[str], str]] = {
    "own-csv.sh": (["inspect", "train", "predict"], "answers.csv"),
    "imbalance.sh": (["train", "train", "evaluate", "evaluate"], "runs/balanced/results.json"),
    "small-data.sh": (["train", "predict"], "runs/few/seeds.json"),
    "several-gpus.sh": (["train"], "runs/reviews/results.json"),
    "offline.sh": (["train", "train"], "runs/bert/results.json"),
    "recipe.sh": (["train", "train"], "runs/again/results.json"),
}


@pytest.mark.cases(test=1, ci=6)
@pytest.mark.parametrize("name", RUN)
def test_a_recipe_runs(name: str, make_bench: Callable[[], Bench]) -> None:
    bench, (commands, file) = make_bench(), RUN[name]
    code, output = bench.run(name)
    assert code == 0, output
    assert [arguments[0] for arguments in bench.asked] == commands
    assert (bench.folder / file).exists()


def end_at_step_3(patch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    from dongu.run.journal import Journal

    write = Journal.step

    def step(journal: Journal, step: Any) -> None:
        write(journal, step)
        if step.number == 3:
            signal.raise_signal(number)

    patch.setattr(Journal, "step", step)


STOPPED = {"slurm.sh": signal.SIGUSR1, "several-machines.sh": signal.SIGUSR1, "preemptible.sh": signal.SIGTERM}


@pytest.mark.cases(test=1, ci=3)
@pytest.mark.parametrize(("name", "number"), STOPPED.items())
def test_a_recipe_goes_on_after_a_signal(
    name: str, number: signal.Signals, make_bench: Callable[[], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench()
    with monkeypatch.context() as patch:
        end_at_step_3(patch, number)
        code, output = bench.run(name)
    assert code == EXIT_CODES[number] == 143, output
    assert not (bench.folder / "runs/reviews/results.json").exists()
    assert bench.run(name)[0] == 0
    assert bench.asked[0] == bench.asked[1]
    if number == signal.SIGUSR1:
        assert "requeue 7\n" in (bench.folder / "scontrol.log").read_text()
    code, output = bench.run(name)
    assert code == 0
    assert "the run is finished" in output


@pytest.mark.parametrize("name", ["own_loop.py", "own_run.py", "train_and_predict.py", "catch_errors.py"])
def test_a_python_recipe_runs(name: str, quick_start: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    source = (RECIPES / name).read_text(encoding="utf-8")
    script = quick_start.folder / name
    script.write_text(source.replace('"minilm"', repr(quick_start.reduced(["--model", ""])[1])), encoding="utf-8")
    with contextlib.chdir(quick_start.folder):
        runpy.run_path(str(script), run_name="__main__")
    api = "runs/api "
    said = {"own_loop.py": r"5 \d", "own_run.py": r"accuracy \d", "train_and_predict.py": api, "catch_errors.py": "2 "}
    assert re.search("^" + said[name], capsys.readouterr().out, re.MULTILINE)


def test_each_shell_recipe_parses_and_is_run() -> None:
    scripts = sorted(RECIPES.glob("*.sh"))
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True)
    unrun = {path.name for path in scripts} - {*RUN, *STOPPED, "quick-start.sh"}
    assert unrun == {"offline-fetch.sh", "tune.sh"}  # one needs a network, one half an hour: promises/test_tune.py


def under_torchrun(arguments: list[str]) -> tuple[Any, Any]:
    """What PyTorch's parser makes of an agent's arguments, and `dongu`'s of the command that the agent starts."""
    agent = get_args_parser().parse_args(arguments)
    assert (agent.module, agent.training_script) == (True, "dongu")
    command = agent.training_script_args
    return agent, make_parser(command[0]).parse_args(command)


def test_each_command_of_a_launcher_has_options_that_exist() -> None:
    """Those of `torchrun` too: the stand-in, with which the recipes run, passes over them."""
    found = [
        (path.name, shlex.split(command))
        for path in (*sorted(DOCS.glob("*.md")), *sorted(RECIPES.glob("*.sh")))
        for command in re.findall(
            r"torchrun (-[^`\n]* -m dongu [^`\n]*)", path.read_text(encoding="utf-8").replace("\\\n", " ")
        )
    ]
    [direct] = re.findall(r"^command=\((.*)\)$", (RECIPES / "slurm.sh").read_text(encoding="utf-8"), re.MULTILINE)
    parsed = [(name, under_torchrun(arguments)[1]) for name, arguments in found]
    parsed.append(("slurm.sh", make_parser("train").parse_args(shlex.split(direct))))
    assert {name for name, _ in parsed} >= {"several-machines.md", "several-machines.sh", "several-gpus.sh", "slurm.sh"}
    for name, command in parsed:
        if command.command == "train":
            assert make_config(train_options(command, processes=16)).data, name


def test_the_manifest_of_a_job_is_one() -> None:
    """The pods find each other by the service, the command fits both parsers, and its files lie on shared volumes."""
    service, job = yaml.safe_load_all((RECIPES / "job.yaml").read_text(encoding="utf-8"))
    assert (service["kind"], job["apiVersion"], job["kind"]) == ("Service", "batch/v1", "Job")
    name, pod = job["metadata"]["name"], job["spec"]["template"]["spec"]
    assert service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["selector"] == {"job-name": name}
    [container] = pod["containers"]
    assert container["command"] == ["torchrun"]
    agent, command = under_torchrun(container["args"])
    assert agent.rdzv_endpoint.partition(":")[0] == f"{name}-0.{pod['subdomain']}"
    assert int(agent.nnodes.split(":")[1]) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert int(agent.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert agent.shutdown_timeout < pod["terminationGracePeriodSeconds"], "else the pod is killed in its last save"
    assert {entry["name"]: entry["value"] for entry in container["env"]} == {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    config = make_config(train_options(command, processes=16))
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    for path in (config.data, config.model, config.out):
        assert mounts[f"/{str(path).split('/')[1]}"] == "shared"
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts.values())
    assert command.resume


def test_each_block_is_a_file_and_each_file_is_shown() -> None:
    shown = set()
    for name, text in PAGES.items():
        blocks = r"^```(sh|python|toml|json|yaml)\n(.*?)^```"
        for language, body in re.findall(blocks, text, flags=re.MULTILINE | re.DOTALL):
            found = re.fullmatch(r'--8<-- "([\w./-]+?)(:\w+)?"\n', body)
            assert found, f"{name}: a block of {language} that is no file"
            assert (ROOT / found[1]).is_file(), found[1]
            shown.add(Path(found[1]).name)
    assert shown == {path.name for path in RECIPES.rglob("*") if path.is_file()} - {
        "reviews-head.csv",
        "end-of-train.txt",
    }


# --- what the code says


def section(page: str, heading: str) -> str:
    """The text under a heading, down to the next one of its level, without blocks."""
    text = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[heading]


def first_cells(text: str) -> list[str]:
    """The first cell of each row of the tables in a text, without their heads."""
    rows = [line.strip("|").split("|")[0].strip() for line in text.splitlines() if line.startswith("|")]
    return [cell for cell in rows if not set(cell) <= {"-", " ", ":"}]


def code_words(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def test_places_are_filled() -> None:
    for text in PAGES.values():
        assert "<!-- from the code" not in from_code.fill(text)
    with pytest.raises(KeyError):
        from_code.fill("<!-- from the code: nothing -->")


def test_every_file_is_named_with_what_it_is() -> None:
    rows = re.findall(r"^\| `([\w/]+\.py)` \| (.+) \|$", from_code.files(), flags=re.MULTILINE)
    package = Path(dongu.__file__).parent
    files = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if path.name != "__init__.py"}
    assert {name for name, _ in rows} == files
    assert all(10 < len(what) < 200 for _, what in rows)


def test_options_and_commands_are_complete() -> None:
    options, commands = from_code.options(), from_code.commands()
    for name in RunConfig.model_fields:
        assert name == "data" or f"### `{option_flag(name)}`" in options
    assert "Default: `8`; a whole number from 1." in options
    assert "Default: `0.01`; a number from 0 up to 1." in options
    assert "Default: the model's limit; a whole number from 8;" in options
    for name, parser in from_code.parsers().items():
        assert f"## `dongu {name}`" in commands
        for action in parser._actions:
            if action.help != "==SUPPRESS==" and action.option_strings and action.dest != "help":
                assert f"`{action.option_strings[0]}" in commands + options, name


def test_the_names_to_allow_are_those_of_resume() -> None:
    from dongu.run.identity import HARMLESS

    assert code_words(from_code.allowed()) == {
        option_flag(name)[2:] for name in RunConfig.model_fields if name not in HARMLESS
    }
    assert code_words(from_code.harmless()) == {option_flag(name) for name in HARMLESS}


def test_flags_that_the_pages_name_exist() -> None:
    others = {
        *(
            "--debug",
            "--help",
            "--directory",
            "--nproc-per-node",
            "--signals-to-handle",
            "--max-restarts",
            "--nnodes",
            "--shutdown-timeout",
            "--multi_gpu",
            "--num_processes",
        ),
        *("--signal", "--constraint", "--wheel-dir"),
        *section("coming-from", "run_glue_no_trainer.py").split("`"),  # the script's own
    }
    known = {flag for parser in from_code.parsers().values() for flag in parser._option_string_actions}
    for name, text in PAGES.items():
        asked = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text))
        assert asked <= known | {word.split()[0] for word in others if word.strip()}, name
    here = "\n".join(
        line.split("|")[2]
        for line in section("coming-from", "run_glue_no_trainer.py").splitlines()
        if line.startswith("|")
    )
    assert set(re.findall(r"--[a-z][\w-]+", here)) <= known


def test_every_exit_code_is_explained() -> None:
    subclasses = [DonguError]
    for kind in subclasses:
        subclasses += kind.__subclasses__()
    codes = {0, 1, *(kind.exit_code for kind in subclasses), *EXIT_CODES.values()}
    assert [int(code) for code in first_cells(section("errors", "Exit codes"))[1:]] == sorted(codes)
    tree = from_code.errors()
    for kind in subclasses:
        assert kind.__name__ in tree


def test_every_proof_that_can_fail_is_explained(quick_start: Bench) -> None:
    names = re.findall(r"^ok    (\w+) ", quick_start.output, flags=re.MULTILINE)
    assert [cell.strip("`") for cell in first_cells(section("errors", "A proof that fails"))[1:]] == names


def test_every_metric_is_defined() -> None:
    defined = [cell.strip("`") for cell in first_cells(section("metrics", "Definitions"))[1:]]
    assert sorted(defined) == sorted([*get_args(Metric), "calibration_error"])


def test_the_metrics_of_each_task() -> None:
    from dongu.judge.metrics import MetricSet

    tasks: list[tuple[Any, list[str]]] = [
        ("single-label", ["a", "b"]),
        ("single-label", ["a", "b", "c"]),
        ("multi-label", ["a", "b", "c"]),
        ("regression", ["score"]),
    ]
    rows = [line for line in section("metrics", "Which ones, and which one chooses").splitlines() if "`" in line]
    for (task, labels), row in zip(tasks, rows, strict=False):
        metrics, (_, names, main) = MetricSet.of(task, labels), row.strip("|").split("|")
        assert re.findall(r"`(\w+)`", names) == list(metrics.names)
        assert main.strip() == f"`{metrics.main}`"


def test_trainer_has_these_defaults() -> None:
    from transformers import TrainingArguments

    fields = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
    fields["output_dir"] = "none"
    seen = 0
    for line in section("coming-from", "TrainingArguments").splitlines():
        if line.startswith("| `"):
            names, defaults, _ = line.strip("|").split("|", 2)
            for name, default in zip(re.findall(r"`(\w+)`", names), defaults.split(","), strict=True):
                seen += 1
                assert str(fields[name]).removeprefix("SchedulerType.") == default.strip(), name
    assert seen > 30


# --- the run folder

UNLESS = {  # keys that this run has no reason to have
    *("parts", "parts_file", "optimizer", "settings", "own"),
    *("scale", "changes", "threshold", "the rest", "validation`, `test`, …"),
    *("temperature", "before", "after"),  # of so few rows none is advised
    *("abstain_below", "abstained"),
}


def keys(value: Any) -> set[str]:
    return set(value) if isinstance(value, dict) else {key for item in value for key in keys(item)}


@pytest.mark.parametrize(
    ("heading", "file"),
    [
        ("run.json", "run.json"),
        ("metrics.jsonl", "metrics.jsonl"),
        ("timing.jsonl", "timing.jsonl"),
        ("results.json", "results.json"),
        ("predictions/", "predictions/validation.jsonl"),
        ("checkpoints/", "checkpoints/*/state.json"),
        ("MANIFEST.json", "MANIFEST.json"),
    ],
)
def test_every_key_of_a_run_is_explained(heading: str, file: str, quick_start: Bench) -> None:
    [path, *_] = (quick_start.folder / "runs/reviews").glob(file)
    text = path.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()] if file.endswith(".jsonl") else [json.loads(text)]
    page = section("run-folder", heading)
    metrics = {"accuracy", "f1"} if heading == "metrics.jsonl" else set()
    assert keys(lines) - metrics <= code_words(page)
    inner = {key for line in lines for value in line.values() if isinstance(value, dict) for key in keys(value)}
    promised = {word for cell in first_cells(page) for word in code_words(cell)}
    there = keys(lines) | inner | {path.name for path in path.parent.iterdir()} | UNLESS
    assert promised <= there | {"test", "calibration_error", "average_precision"}


def test_every_file_of_a_run_is_listed(quick_start: Bench) -> None:
    run_folder = quick_start.folder / "runs/reviews"
    listed = set(re.findall(r"^  ([\w.]+)/? ", PAGES["run-folder"], flags=re.MULTILINE))
    assert {path.name for path in run_folder.iterdir()} == listed
    for path in run_folder.rglob("*"):
        assert (
            path.is_dir()
            or path.parent.name.startswith("step-")
            or path.name in PAGES["run-folder"]
            or (path.parent.name == "model" and path.name.startswith("tokenizer"))
        ), path


@pytest.mark.parametrize(
    ("sample", "file"),
    [("step", "metrics"), ("evaluation", "metrics"), ("prediction", "predictions/validation")],
)
def test_a_sample_line_is_like_a_real_one(sample: str, file: str, quick_start: Bench) -> None:
    shown = json.loads((RECIPES / "samples" / f"{sample}.json").read_text(encoding="utf-8"))
    text = (quick_start.folder / f"runs/reviews/{file}.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert any(list(line) == list(shown) and line.get("event") == shown.get("event") for line in lines)


def test_the_end_of_a_run_looks_as_shown(quick_start: Bench) -> None:
    def words(line: str) -> str:
        return re.sub(r"[\d.,]+", "N", line)

    shown = (RECIPES / "samples" / "end-of-train.txt").read_text(encoding="utf-8").splitlines()
    real = {words(line) for line in quick_start.output.splitlines()}
    stream = io.StringIO()  # for the model here learns nothing, and gets other commands
    with contextlib.chdir(quick_start.folder):
        show_result(dongu.RunResult(Path("runs/reviews"), {}, {}), Console(stream=stream), as_json=False)
    real |= {words(line) for line in stream.getvalue().splitlines()}
    assert len(shown) > 3
    assert not [line for line in shown if words(line) not in real]


def test_no_measured_table_was_lost() -> None:
    """A benchmark that knows no figures writes “not measured” over those that the page has."""
    for page in DOCS.glob("*.md"):
        lines = page.read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if "not measured" in (line, *line.split(" | "))], page.name


# --- the site


def test_lessons_have_a_place_where_there_are_some(tmp_path: Path) -> None:
    config: dict[str, Any] = {"docs_dir": str(tmp_path), "nav": []}
    from_code.on_config(config)
    assert config["nav"] == []
    (tmp_path / "en" / "lessons").mkdir(parents=True)
    (tmp_path / "en" / "lessons" / "index.md").write_text("1. [Order](order.md)\n2. [Decay](adamw.md)\n")
    from_code.on_config(config)
    assert config["nav"] == [{"Lessons": [f"en/lessons/{page}.md" for page in ("index", "order", "adamw")]}]


class Addresses(HTMLParser):
    """What a browser fetches for a page without being asked."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source") and given.get("src"):
            self.fetched.append(str(given["src"]))
        if tag == "link" and given.get("rel") not in ("prev", "next", "canonical"):
            self.fetched.append(str(given.get("href")))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("the extra [docs] is not installed")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (built.returncode, built.stderr) == (0, "")
    return folder


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
@pytest.mark.crash
def test_the_search_works_from_plain_files(site: Path, tmp_path: Path) -> None:
    with browsing(tmp_path / "profile") as browser:
        browser.open((site / "en" / "lessons" / "adamw.html").as_uri())
        first = browser.value(
            """new Promise(found => {
                document.querySelector("#__search").click();
                const query = document.querySelector(".md-search__input");
                query.value = "majority class";
                query.focus();
                query.dispatchEvent(new KeyboardEvent("keyup"));
                const look = () => {
                    const link = document.querySelector(".md-search-result__link");
                    link ? found(link.href) : setTimeout(look, 50);
                };
                look();
            })"""
        )
    assert first.startswith(f"{site.as_uri()}/")


@pytest.mark.crash
def test_the_site_fetches_nothing(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert {f"{name}.html" for name in PAGES} <= {page.name for page in pages}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "--8&lt;--" not in text
        assert "<!-- from the code" not in text
        addresses = Addresses()
        addresses.feed(text)
        assert addresses.fetched
        assert not [address for address in addresses.fetched if re.match(r"(https?:)?//", address)], page.name
