"""Memory and seconds to the first step of 10 thousand, 100 thousand and a million rows.

    python benchmarks/scale.py                        # 10,000 100,000 1,000,000: some minutes, 2 GB of disk
    python benchmarks/scale.py 10000 100000           # other sizes
    python benchmarks/scale.py --kind jsonl
    python benchmarks/scale.py --table                # only writes the table of what was measured

Pairs of about MRPC's length are written as one file, from which `dongu` holds validation out. Each start is a process
of its own with the real WordPiece tokenizer of the packaged MiniLM and a random model of two tiny layers, so that the
data are all that grows: first with an empty token cache, then with the cache that this has left.

A thread reads /proc/self/status fifty times a second. *Memory* is what only the process itself can give back
(RssAnon); *mapped* is what it reads of files through memory, which the system takes back when it needs room (RssFile).
The numbers go to benchmarks/out/scale.json, the table to docs/scale.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "benchmarks" / "out" / "scale.json"
DOCUMENT = ROOT / "docs" / "scale.md"
BEGIN, END = "<!-- scale: table -->", "<!-- /scale: table -->"
SIZES = (10_000, 100_000, 1_000_000)
SEED = 42
SAMPLE_SECONDS = 0.02
STAGES = ("libraries", "rows", "model", "tokens", "digests", "first step")
BYTES_A_ROW = 64  # of memory: what a row may take that is not packed or mapped; numbers of 8 bytes, mostly
HEAD = (
    "| rows | file MiB | token cache | memory MiB | mapped MiB | CPU seconds | libraries | rows | model | tokens |"
    " digests | first step | wall seconds |\n| --: | --: | --- |" + " --: |" * 10
)


def write_rows(path: Path, rows: int) -> None:
    """A csv or jsonl file of so many different pairs, each text two sentences of the demonstration's and a number."""
    from dongu.demo.grammar import write_pairs

    chance = random.Random(SEED)
    sentences = [pair[name] for pair in write_pairs(4000, SEED) for name in ("sentence1", "sentence2")]
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        if path.suffix == ".csv":
            table.writerow(["sentence1", "sentence2", "label"])
        for number in range(rows):
            one, two, other = chance.choices(sentences, k=3)
            label = number % 2
            first, second = f"{one} {two} {number}", f"{other if label else one} {two}"
            if path.suffix == ".csv":
                table.writerow([first, second, label])
            else:
                file.write(json.dumps({"sentence1": first, "sentence2": second, "label": label}) + "\n")


def save_model(folder: Path) -> None:
    """MiniLM's tokenizer, and a random BERT that is next to nothing."""
    import torch
    from transformers import BertConfig, BertModel

    from dongu.model.load import load_tokenizer
    from dongu.model.place import resolve_model

    tokenizer = load_tokenizer(resolve_model("minilm"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(SEED)
    BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=128,
        )
    ).save_pretrained(folder)


# --- one start, in a process of its own


def resident_mib() -> tuple[float, float]:
    """Memory of this process's own, and of files mapped into it, MiB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, mapped = (int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
    return own, mapped


class Stages:
    """Seconds and highest memory of each stage; a thread looks."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, float]] = {}
        self.own = self.mapped = 0.0
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            self.note()
            time.sleep(SAMPLE_SECONDS)

    def note(self) -> None:
        own, mapped = resident_mib()
        self.own, self.mapped = max(self.own, own), max(self.mapped, mapped)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage; one that comes again adds its seconds."""
        self.own = self.mapped = 0.0
        self.note()
        began, worked = time.perf_counter(), time.process_time()
        yield
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - worked
        self.note()
        row = self.rows.setdefault(name, dict.fromkeys(("seconds", "cpu_seconds", "own", "mapped"), 0.0))
        row["seconds"] += seconds
        row["cpu_seconds"] += cpu_seconds
        row["own"], row["mapped"] = max(row["own"], self.own), max(row["mapped"], self.mapped)
        row["left"] = resident_mib()[0]

    def of(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as a stage."""

        def call(*arguments: Any, **options: Any) -> Any:
            with self.stage(name):
                return function(*arguments, **options)

        return call


def start(data: str, model: str) -> None:
    """What `dongu train` does up to its first step; prints the stages as JSON."""
    stages = Stages()
    with stages.stage("libraries"):
        from dongu import loop as module
        from dongu.run.identity import identity
    for stage, names in {
        "rows": ("read_source", "read_examples"),
        "model": ("load_tokenizer", "load_model"),
        "tokens": ("tokenize",),
    }.items():
        for name in names:
            setattr(module, name, stages.of(stage, getattr(module, name)))
    began = time.perf_counter()
    loop = module.Loop(data, model=model, batch_size=8, device="cpu", max_length=128)
    with stages.stage("digests"):
        identity(loop)
    with stages.stage("first step"):
        step = next(iter(loop))
    seconds = time.perf_counter() - began + stages.rows["libraries"]["seconds"]
    peak = {name: max(row[name] for row in stages.rows.values()) for name in ("own", "mapped")}
    print(json.dumps({"seconds": seconds, **peak, "loss": step.loss, "stages": stages.rows}))


# --- all starts


def measure(sizes: list[int], kind: str, folder: Path) -> list[dict[str, Any]]:
    """A start with an empty cache and one with a full one for each size."""
    save_model(folder / "model")
    measured = []
    for rows in sizes:
        data = folder / f"{rows}.{kind}"
        write_rows(data, rows)
        size = data.stat().st_size / 2**20
        for cache in ("empty", "full"):
            environment = {**os.environ, "DONGU_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
            command = [sys.executable, __file__, "--start", str(data), "--model", str(folder / "model")]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            measured.append(
                {"rows": rows, "file_mib": size, "cache": cache, **json.loads(done.stdout.splitlines()[-1])}
            )
            print(line(measured[-1]), flush=True)
        data.unlink()
        shutil.rmtree(folder / "cache", ignore_errors=True)
    return measured


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    seconds = [row["stages"][name]["cpu_seconds"] for name in STAGES]
    return (
        f"| {row['rows']:,} | {row['file_mib']:,.0f} | {row['cache']} | {row['own']:,.0f} | {row['mapped']:,.0f} |"
        f" {sum(seconds):.1f} | {' | '.join(f'{value:.1f}' for value in seconds)} | {row['seconds']:.1f} |"
    )


def growth(measured: list[dict[str, Any]]) -> list[str]:
    """What the rows beyond the second largest size cost, beside what is expected."""
    lines = []
    for cache in ("empty", "full"):
        smaller, larger = [row for row in measured if row["cache"] == cache][-2:]
        rows = larger["rows"] - smaller["rows"]
        taken = (larger["own"] - smaller["own"]) * 2**20 / rows
        spent = [sum(row["stages"][name]["cpu_seconds"] for name in STAGES[1:]) for row in (smaller, larger)]
        kept = (
            "as expected"
            if taken <= BYTES_A_ROW and spent[1] / spent[0] <= larger["rows"] / smaller["rows"]
            else ("**more than expected**")
        )
        lines.append(
            f"- {smaller['rows']:,} to {larger['rows']:,} rows, {cache} cache: {taken:.0f} bytes of memory a row"
            f" (expected: at most {BYTES_A_ROW}), CPU seconds × {spent[1] / spent[0]:.1f} without the libraries"
            f" (expected: at most × {larger['rows'] / smaller['rows']:.0f}): {kept}"
        )
    return lines


def write_table(measured: list[dict[str, Any]]) -> None:
    """Between the markers of the document."""
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    table = "\n".join([BEGIN, HEAD, *map(line, measured), "", *growth(measured), END])
    DOCUMENT.write_text(before + table + after, encoding="utf-8")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES)
    parser.add_argument("--kind", choices=("csv", "jsonl"), default="csv")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--start", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start:
        return start(options.start, options.model)
    if not options.table:
        with tempfile.TemporaryDirectory(prefix="dongu-scale-") as folder:
            measured = measure(list(options.sizes), options.kind, Path(folder))
        options.output.parent.mkdir(exist_ok=True)
        options.output.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    measured = json.loads(options.output.read_text(encoding="utf-8"))
    print("\n".join(growth(measured)))
    write_table(measured)
    return None


if __name__ == "__main__":
    main()
