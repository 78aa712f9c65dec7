"""Memory and seconds to the first step of 10 thousand, 100 thousand and a million rows.

    python benchmarks/scale.py                        # 10,000 100,000 1,000,000: some minutes, 2 GB of disk
    python benchmarks/scale.py 10000 100000           # other sizes
    python benchmarks/scale.py --kind json            # or jsonl
    python benchmarks/scale.py --formats              # only reads a million short rows of each format
    python benchmarks/scale.py --table                # only writes the table of what was measured

Pairs of about MRPC's length are written as one file, from which `dongu` holds validation out; a json file is one array
on one line. The rows of all files are alike: the number in each has seven digits. Each start is a process of its own
with the real WordPiece tokenizer of the packaged MiniLM and a random model of two tiny layers, so that the data are all
that grows: first with an empty token cache, then with the cache that this has left. Then `dongu predict` answers the
rows, or the first 300 thousand. The second largest size is measured again after the largest, and growth is told from
the mean of the two: other work on the machine makes the processor's seconds longer, and changes from minute to minute.

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
from statistics import mean
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "benchmarks" / "out" / "scale.json"
DOCUMENT = ROOT / "docs" / "scale.md"
BEGIN, END = "<!-- scale: table -->", "<!-- /scale: table -->"
SIZES = (10_000, 100_000, 1_000_000)
ANSWERED_ROWS = 1_000_000  # at most: each is a forward pass
SEED = 42
FORMATS = ("csv", "tsv", "jsonl", "json", "csv.gz", "parquet")  # that --formats reads
SAMPLE_SECONDS = 0.02
STAGES = ("libraries", "rows", "model", "tokens", "digests", "first step")
BYTES_A_ROW = 64  # of memory: what a row may take that is not packed or mapped; numbers of 8 bytes, mostly
HEAD = (
    "| rows | file MiB | token cache | memory MiB | mapped MiB | CPU seconds | libraries | rows | model | tokens |"
    " digests | first step | wall seconds |\n| --: | --: | --- |" + " --: |" * 10
)

ANSWERS_HEAD = (
    "| rows answered | file MiB | answers MiB | memory MiB | mapped MiB | CPU seconds | wall seconds |\n|"
    + " --: |" * 7
)


def write_rows(path: Path, rows: int) -> None:
    """A file of so many different pairs, each text two sentences of the demonstration's and a number."""
    from dongu.demo.run import SPLITS, read_csv

    chance = random.Random(SEED)
    pairs = [pair for split in SPLITS for pair in csv.DictReader(read_csv(split).decode().splitlines())]
    sentences = [pair[name] for pair in pairs for name in ("sentence1", "sentence2")]
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        if path.suffix == ".csv":
            table.writerow(["sentence1", "sentence2", "label"])
        for number in range(rows):
            one, two, other = chance.choices(sentences, k=3)
            label = number % 2
            first, second = f"{one} {two} {number:07d}", f"{other if label else one} {two}"
            if path.suffix == ".csv":
                table.writerow([first, second, label])
                continue
            row = json.dumps({"sentence1": first, "sentence2": second, "label": label})
            before, after = ("", "\n") if path.suffix == ".jsonl" else (", " if number else "[", "")
            file.write(before + row + after)
        if path.suffix == ".json":
            file.write("]")


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
        from dongu import parts as module
        from dongu.loop import Loop
        from dongu.run.identity import identity
    for stage, names in {
        "rows": ("read_source", "read_examples"),
        "model": ("load_tokenizer", "load_model"),
        "tokens": ("tokenized",),
    }.items():
        for name in names:
            setattr(module, name, stages.of(stage, getattr(module, name)))
    began = time.perf_counter()
    loop = Loop(data, model=model, batch_size=8, device="cpu", max_length=128)
    with stages.stage("digests"):
        identity(loop)
    with stages.stage("first step"):
        step = next(iter(loop))
    seconds = time.perf_counter() - began + stages.rows["libraries"]["seconds"]
    peak = {name: max(row[name] for row in stages.rows.values()) for name in ("own", "mapped")}
    print(json.dumps({"seconds": seconds, **peak, "loss": step.loss, "stages": stages.rows}))


def read(data: str) -> None:
    """The rows of a file, as far as a model is needed; prints memory and seconds as JSON."""
    stages = Stages()
    from dongu.config import make_config
    from dongu.data.examples import read_examples
    from dongu.data.sources import read_source

    with stages.stage("rows"):
        config = make_config({})
        rows = sum(map(len, read_examples(read_source(data, config), config).splits.values()))
    print(json.dumps({"rows": rows, **stages.rows["rows"]}))


def measure_formats(rows: int, folder: Path) -> None:
    """A table of the file formats: what it takes to read so many rows of a short text and a label."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet

    print("| format | file MiB | memory MiB | CPU seconds |\n| --- | --: | --: | --: |")
    chance = random.Random(SEED)
    words = [f"word{i}" for i in range(1000)]
    table = pa.table(
        {
            "text": [f"{' '.join(chance.choices(words, k=10))} {number:07d}" for number in range(rows)],
            "label": [("good", "bad")[number % 2] for number in range(rows)],
        }
    )
    for kind in FORMATS:
        data = folder / f"rows.{kind}"
        if kind == "parquet":
            parquet.write_table(table, data)
        elif kind in ("csv", "tsv", "csv.gz"):
            options = arrow_csv.WriteOptions(delimiter="\t" if kind == "tsv" else ",", quoting_style="needed")
            with pa.output_stream(data, compression="gzip" if kind == "csv.gz" else None) as stream:
                arrow_csv.write_csv(table, stream, options)
        else:
            objects = (json.dumps(row) for batch in table.to_batches(1 << 14) for row in batch.to_pylist())
            with data.open("w", encoding="utf-8") as file:
                if kind == "json":
                    file.write("[" + next(objects))
                    file.writelines(f",\n{text}" for text in objects)
                    file.write("]")
                else:
                    file.writelines(f"{text}\n" for text in objects)
        command = [sys.executable, __file__, "--read", str(data)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["rows"] == rows
        size = data.stat().st_size / 2**20
        print(f"| .{kind} | {size:,.0f} | {found['own']:,.0f} | {found['cpu_seconds']:.1f} |", flush=True)
        data.unlink()


def answer(data: str, run: str) -> None:
    """`dongu predict` for a file; prints memory and seconds as JSON."""
    stages = Stages()
    with stages.stage("libraries"):
        import dongu.use.classifier  # noqa: F401 - for the seconds that it takes
        from dongu.cli.main import run as run_command
    began = time.perf_counter()
    with stages.stage("answers"):
        out = Path(data).with_name("answers.csv")
        if run_command(["predict", run, "--data", data, "--out", str(out), "--device", "cpu"]):
            raise SystemExit(1)
    size = out.stat().st_size / 2**20
    out.unlink()
    row = stages.rows["answers"]
    print(json.dumps({"seconds": time.perf_counter() - began, "answers_mib": size, **row, "stages": stages.rows}))


# --- all starts


def measure(sizes: list[int], kind: str, folder: Path) -> list[dict[str, Any]]:
    """For each size a start with an empty cache, one with a full one, and the answers to its rows."""
    import dongu

    environment = {**os.environ, "DONGU_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    environment |= {"OMP_NUM_THREADS": "1"}  # of the model: threads that wait for one another count as work
    save_model(folder / "model")
    write_rows(folder / f"few.{kind}", 100)
    dongu.train(folder / f"few.{kind}", model=str(folder / "model"), out=str(folder / "run"), max_steps=1, device="cpu")
    measured: list[dict[str, Any]] = []
    for rows in [*sizes, *sizes[-2:-1]]:
        data, again = folder / f"{rows}.{kind}", any(row["rows"] == rows for row in measured)
        for cache in ("empty", "full") if again else ("empty", "full", "answers"):
            number = min(rows, ANSWERED_ROWS) if cache == "answers" else rows
            if not data.exists() or number < rows:
                write_rows(data, number)
            what, model = ("--answer", "run") if cache == "answers" else ("--start", "model")
            command = [sys.executable, __file__, what, str(data), "--model", str(folder / model)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
            measured.append({"rows": number, "file_mib": data.stat().st_size / 2**20, "cache": cache, **found})
            print((answers_line if cache == "answers" else line)(measured[-1]), flush=True)
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


def answers_line(row: dict[str, Any]) -> str:
    """A row of the table of answers."""
    return (
        f"| {row['rows']:,} | {row['file_mib']:,.0f} | {row['answers_mib']:,.0f} | {row['own']:,.0f} |"
        f" {row['mapped']:,.0f} | {row['cpu_seconds']:.1f} | {row['seconds']:.1f} |"
    )


def growth(measured: list[dict[str, Any]]) -> list[str]:
    """What the rows beyond the second largest size cost, beside what is expected."""
    lines = []
    for cache, name in {"empty": "empty cache", "full": "full cache", "answers": "answers"}.items():
        rows = [row for row in measured if row["cache"] == cache]
        sizes = sorted({row["rows"] for row in rows})[-2:]
        of_size = [[row for row in rows if row["rows"] == size] for size in sizes]
        own = [mean(row["own"] for row in each) for each in of_size]
        spent = [mean(sum(stage["cpu_seconds"] for stage in stages_of(row)) for row in each) for each in of_size]
        taken, times = (own[1] - own[0]) * 2**20 / (sizes[1] - sizes[0]), sizes[1] / sizes[0]
        kept = taken <= BYTES_A_ROW and spent[1] / spent[0] <= times
        lines.append(
            f"- {sizes[0]:,} to {sizes[1]:,} rows, {name}: {taken:.0f} bytes of memory a row (expected: at most"
            f" {BYTES_A_ROW}), CPU seconds × {spent[1] / spent[0]:.1f} without the libraries"
            f" (expected: at most × {times:.0f}): {'as expected' if kept else '**more than expected**'}"
        )
    return lines


def stages_of(row: dict[str, Any]) -> list[dict[str, float]]:
    """Those that grow with the rows."""
    return [stage for name, stage in row["stages"].items() if name != "libraries"]


def write_table(measured: list[dict[str, Any]]) -> None:
    """Between the markers of the document."""
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    starts = [line(row) for row in measured if row["cache"] != "answers"]
    answers = [answers_line(row) for row in measured if row["cache"] == "answers"]
    table = "\n".join([BEGIN, HEAD, *starts, "", ANSWERS_HEAD, *answers, "", *growth(measured), END])
    DOCUMENT.write_text(before + table + after, encoding="utf-8")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES)
    parser.add_argument("--kind", choices=("csv", "jsonl", "json"), default="csv")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--formats", action="store_true")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    parser.add_argument("--start", help=argparse.SUPPRESS)
    parser.add_argument("--answer", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        return read(options.read)
    if options.formats:
        with tempfile.TemporaryDirectory(prefix="dongu-scale-") as folder:
            return measure_formats(max(options.sizes), Path(folder))
    if options.start:
        return start(options.start, options.model)
    if options.answer:
        return answer(options.answer, options.model)
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
