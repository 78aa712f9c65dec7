"""The seconds of every command, and what it waits for, into docs/performance.md.

    python benchmarks/commands.py [--data DATA] [--times 3]

Without --data on the packaged demonstration. Two runs of a few updates are made first, on which the others work. Each
call is a process of its own; the table has medians. One more call of each counts its imports.
`demo` is `train` and `predict`; `push` waits for the network.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dongu.demo.run import SPLITS, read_csv
from dongu.engine.device import describe_processor
from pages import put_between

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- commands: seconds -->", "<!-- /commands: seconds -->"
# {a} and {b} are runs, {stopped} one without its results, {new} a place with nothing in it
COMMANDS = {
    "`dongu --help`": "--help",
    "`train --help`": "train --help",
    "an option that there is not": "train {data} --learning-rat 1",
    "`completion bash`": "completion bash",
    "`quiz --json`": "quiz --json",
    "`runs`": "runs {runs}",
    "`report`": "report {a} --out {page}",
    "`compare` of two runs": "compare {a} {b}",
    "`inspect`": "inspect {data}",
    "`eject`": "eject {a}",
    "`prepare`": "prepare {data} --model {model} --out {new}",
    "`predict` of one text": "predict {a} {texts}",
    "`evaluate`, validation and test": "evaluate {a}",
    "`train` of one update": "train {data} --model {model} --max-steps 1 --out {new}",
    "`resume` of one update": "resume {stopped}",
    "`verify`": "verify {a}",
    "`export`": "export {a} --out {new}",
    "`serve`, until it listens": "serve {a} --port 0 --json",
    "`tune`, two trials of one update, one seed": (
        "tune {data} --model {model} --max-steps 1 --trials 2 --seeds 1 --out {new}"
    ),
}
SMALL = ["train", "--max-steps", "8", "--save-steps", "4"]
SERVED = "serve"  # does not end by itself: what it prints is that it listens
IMPORT = re.compile(r"import time: +(\d+) \| +\d+ \| +(\w+)")
PACKAGES = {
    **dict.fromkeys(("torch", "sympy", "mpmath", "torchgen"), "PyTorch"),
    **dict.fromkeys(("transformers", "tokenizers", "huggingface_hub", "accelerate", "regex"), "transformers"),
    **dict.fromkeys(("scipy", "numpy"), "SciPy and NumPy"),
    **dict.fromkeys(("datasets", "pandas", "pyarrow"), "datasets"),
    "dongu": "dongu's modules",
}


@dataclass(frozen=True)
class Call:
    """What one call took."""

    wall_s: float
    cpu_s: float
    stderr: str


def call(words: list[str], **environment: str) -> Call:
    """Run the command to its end; a server until it listens."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "dongu", *words],
            stdout=subprocess.PIPE if words[0] == SERVED else subprocess.DEVNULL,
            stderr=errors,
            env=os.environ | environment,
        )
        if process.stdout is not None:
            process.stdout.readline()
            wall_s = time.perf_counter() - started
            process.send_signal(signal.SIGTERM)
            process.communicate()
        else:
            process.wait()
            wall_s = time.perf_counter() - started
        errors.seek(0)
        said = errors.read()
    if process.returncode not in (0, 2 if "--learning-rat" in words else 0, 143 if words[0] == SERVED else 0):
        raise RuntimeError(f"dongu {' '.join(words)}: {said[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Call(wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, said)


def imports_of(called: Call) -> Counter[str]:
    """Microseconds by package, of a call with PYTHONPROFILEIMPORTTIME."""
    found: Counter[str] = Counter()
    for self_us, package in IMPORT.findall(called.stderr):
        found[PACKAGES.get(package, "other modules")] += int(self_us)
    return found


def waits_for(called: Call) -> str:
    """Where the time of that call went, the longest first; less than a tenth of it is not said."""
    parts, whole = imports_of(called), int(1e6 * called.wall_s)
    parts["its work"] = max(0, whole - parts.total())
    return ", ".join(f"{what} {spent / whole:.0%}" for what, spent in parts.most_common() if spent >= whole / 10)


def make_runs(folder: Path, data: str | None, model: str = "minilm") -> dict[str, list[str]]:
    """What stands in the braces of `COMMANDS`: the data, two runs of eight updates, a text for each column."""
    if data is None:
        data = str(folder / "data")
        Path(data).mkdir()
        for split in SPLITS:
            (Path(data) / f"{split}.csv").write_bytes(read_csv(split))
    runs = [str(folder / "runs" / name) for name in "ab"]
    for seed, run in enumerate(runs):
        call([*SMALL, data, "--model", model, "--seed", str(seed), "--out", run])
    columns = json.loads(Path(runs[0], "run.json").read_bytes())["options"]["text_columns"]
    places = {"data": [data], "model": [model], "runs": [str(folder / "runs")], "a": runs[:1], "b": runs[1:]}
    return places | {"texts": [f"a text of {name}" for name in columns]}


def words_of(command: str, places: Mapping[str, list[str]], new: Path) -> list[str]:
    """The words of one call; `new` is a place with nothing in it."""
    if "{stopped}" in command:
        shutil.copytree(places["a"][0], new)
        (new / "results.json").unlink()
    known = {**places, "new": [str(new)], "page": [f"{new}.html"], "stopped": [str(new)]}
    return [word for part in command.split() for word in (known[part[1:-1]] if part[0] == "{" else [part])]


def row_of(name: str, places: Mapping[str, list[str]], folder: Path, times: int) -> str:
    """The row of one command."""
    news = [folder / f"{i}-{name}".translate(str.maketrans("` ,", "---")) for i in range(times + 2)]
    calls = [call(words_of(COMMANDS[name], places, new)) for new in news[1:]][1:]  # the first fills the caches
    traced = call(words_of(COMMANDS[name], places, news[0]), PYTHONPROFILEIMPORTTIME="1")
    wall, processor = (statistics.median(getattr(one, key) for one in calls) for key in ("wall_s", "cpu_s"))
    imports = wall * imports_of(traced).total() / 1e6 / traced.wall_s
    return f"| {name} | {wall:.2f} | {processor:.2f} | {imports:.2f} | {waits_for(traced)} |"


def add_only(parser: argparse.ArgumentParser) -> None:
    """The option that chooses among the commands."""
    parser.add_argument("--only", nargs="+", default=[], metavar="COMMAND", help="print these; the page stays as it is")


def measure_each(
    commands: Mapping[str, str],
    only: Sequence[str],
    head: Sequence[str],
    row: Callable[[str], str],
    put: Callable[[str], None],
) -> None:
    """A row for each command; of some alone the rows are printed.

    Args:
        commands: by their names in the table.
        only: the first words of those that are wanted; all without any.
        head: the lines above the rows.
        row: measures one.
        put: keeps the table after each row, for all together take long.
    """
    lines = [*head]
    for name, command in commands.items():
        if not only or command.split()[0] in only:
            lines.append(row(name))
            if only:
                print(lines[-1], flush=True)
            else:
                put("\n".join(lines))


def main() -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="labelled data; without it those of the demonstration")
    parser.add_argument("--times", type=int, default=3, help="calls of each command (3)")
    add_only(parser)
    options = parser.parse_args()
    lines = [
        f"{len(os.sched_getaffinity(0))} cores ({describe_processor()}), load average {os.getloadavg()[0]:.1f} before, "
        f"calls of each: {options.times} (median).",
        "",
        "| command | seconds | processor seconds | imports | what it waits for |",
        "| --- | --: | --: | --: | --- |",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["DONGU_CACHE"] = str(Path(scratch, "tokens"))
        places = make_runs(Path(scratch), options.data)
        put = partial(put_between, DOCUMENT, BEGIN, end=END)
        measure_each(
            COMMANDS, options.only, lines, lambda name: row_of(name, places, Path(scratch), options.times), put
        )


if __name__ == "__main__":
    main()
