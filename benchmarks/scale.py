"""Memory and seconds to the first step of 10 thousand, 100 thousand and a million rows.

    python benchmarks/scale.py                        # 10,000 100,000 1,000,000: some minutes, 2 GB of disk
    python benchmarks/scale.py 10000 100000           # other sizes
    python benchmarks/scale.py --kind json            # or jsonl
    python benchmarks/scale.py --formats              # only reads a million short rows of each format
    python benchmarks/scale.py --prepared             # prepared rows: a million and ten, 2 GB of disk
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

With --prepared, a hundred thousand pairs are prepared by one process and by two. For the larger sizes rows of random
ids are written by what `dongu prepare` writes with, in place of what a tokenizer would have made: short rows of 8 to 24
tokens, and 10,000 of validation. A start is a whole one: up to the first step that a run has recorded in its folder.
Then an update in the middle of the second epoch is asked for, and all updates of one window of the order.
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
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import mean
from typing import Any

from pages import put_between

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "benchmarks" / "out" / "scale.json"
DOCUMENT = ROOT / "docs" / "scale.md"
BEGIN, END = "<!-- scale: table -->", "<!-- /scale: table -->"
SIZES = (10_000, 100_000, 1_000_000)
ANSWERED_ROWS = 1_000_000  # at most: each is a forward pass
SEED = 42
FORMATS = ("csv", "tsv", "jsonl", "json", "txt", "csv.gz", "parquet")  # that --formats reads
PREPARED_SIZES = (1_000_000, 10_000_000)
TOKENIZED_ROWS = 100_000  # by one process, and by two
PREPARED_BEGIN, PREPARED_END = "<!-- scale: prepared -->", "<!-- /scale: prepared -->"
PREPARED_BYTES_A_ROW, PREPARED_SECONDS = 16, 20  # of memory, and to the first step: expected at most
PREPARED_HEAD = (
    "| rows | folder MiB | memory MiB | mapped MiB | CPU seconds | of them libraries | first step after seconds"
    " | an update in the middle, ms | rows/s of one process |\n|" + " --: |" * 9
)
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
        elif kind == "txt":  # of fastText
            with data.open("w", encoding="utf-8") as file:
                file.writelines(f"__label__{row['label']} {row['text']}\n" for row in table.to_pylist())
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


# --- prepared rows


def write_prepared(out: Path, rows: int, model: str) -> None:
    """A folder of so many rows of random ids, as `dongu prepare` would have written it."""
    import numpy as np

    from dongu.config import make_config
    from dongu.data import shards
    from dongu.data.columns import Columns
    from dongu.data.examples import Examples, TextData
    from dongu.data.forms import Form
    from dongu.data.tokens import Tokens
    from dongu.model.load import load_tokenizer

    def made(tokenizer: Any, examples: Examples, _: Any, block_rows: int, *__: Any) -> Iterator[Tokens]:
        chance = np.random.default_rng(SEED)
        for start in range(0, len(examples), block_rows):
            lengths = chance.integers(8, 25, min(block_rows, len(examples) - start))
            ids = chance.integers(1000, len(tokenizer), lengths.sum(), dtype=np.int32)
            offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
            yield Tokens(ids, np.zeros(len(ids), np.uint8), offsets, np.zeros(len(lengths), bool))

    shards.__dict__["_tokenized"] = made
    splits = {
        name: Examples(np.arange(count), (), np.arange(count) % 2, name)
        for name, count in {"train": rows, "validation": 10_000}.items()
    }
    columns, form = Columns(("text",), "label"), Form("single-label")
    data = TextData("made", None, None, columns, "single-label", ("a", "b"), splits, (), (), form, 0, {})
    config = make_config({"model": model, "max_length": 128})
    shards.prepare(data, load_tokenizer(model), config, out)


def start_prepared(data: str, model: str, rows: int) -> None:
    """A run up to its first recorded step, then updates elsewhere; prints the stages as JSON."""
    stages = Stages()
    began = time.perf_counter()
    with stages.stage("libraries"):
        from dongu.data.order import WINDOW_BLOCKS
        from dongu.loop import Loop
        from dongu.running import Run
    with stages.stage("start"):
        loop = Loop(data, model=model, batch_size=32, device="cpu", out=f"{data}-run")
        with suppress(KeyboardInterrupt), Run(loop) as run:
            next(iter(run))
            seconds = time.perf_counter() - began
            raise KeyboardInterrupt  # as by Ctrl-C: the run is not finished
    updates, first = loop.train_updates, time.perf_counter()
    with stages.stage("middle"):
        updates[loop.steps_per_epoch * 3 // 2]
    middle = time.perf_counter() - first
    window = WINDOW_BLOCKS * (updates.split.block_rows or 0)
    with stages.stage("window"):
        for index in range(window // updates.batch_size):
            updates[loop.steps_per_epoch + index]
    peak = {name: max(row[name] for row in stages.rows.values()) for name in ("own", "mapped")}
    rate = window / stages.rows["window"]["seconds"]
    print(json.dumps({"rows": rows, "seconds": seconds, "middle": middle, "rate": rate, **peak, "stages": stages.rows}))


def measure_prepared(sizes: list[int], folder: Path) -> list[str]:
    """The lines of the document: how long `dongu prepare` takes, and a start from each size."""
    environment = {**os.environ, "DONGU_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    save_model(folder / "model")
    write_rows(folder / "rows.csv", TOKENIZED_ROWS)
    lines = []
    for processes in ("1", "2"):
        command = [sys.executable, "-m", "dongu", "prepare", str(folder / "rows.csv"), "--max-length", "128"]
        command += ["--model", str(folder / "model"), "--out", str(folder / f"by-{processes}")]
        began, worked = time.perf_counter(), os.times()
        subprocess.run([*command, "--processes", processes], env=environment, check=True, capture_output=True)
        seconds, now = time.perf_counter() - began, os.times()
        cpu = now.children_user + now.children_system - worked.children_user - worked.children_system
        lines.append(
            f"- `dongu prepare` of {TOKENIZED_ROWS:,} pairs of MRPC's length, {processes} of `--processes`:"
            f" {seconds:.1f} s, {cpu:.1f} CPU seconds"
        )
        print(lines[-1], flush=True)
    lines += ["", PREPARED_HEAD]
    print(PREPARED_HEAD)
    found = []
    for rows in sizes:
        out = folder / f"shards-{rows}"
        for what in ("--write-prepared", "--start-prepared"):
            command = [sys.executable, __file__, what, str(out), "--model", str(folder / "model"), str(rows)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        size = sum(path.stat().st_size for path in out.iterdir()) / 2**20
        lines.append(prepared_line(found[-1], size))
        print(lines[-1], flush=True)
        shutil.rmtree(out)
    taken = (found[-1]["own"] - found[0]["own"]) * 2**20 / (sizes[-1] - sizes[0])
    later = found[-1]["seconds"] - found[0]["seconds"]
    kept = taken <= PREPARED_BYTES_A_ROW and max(row["seconds"] for row in found) <= PREPARED_SECONDS
    lines += [
        "",
        f"- {sizes[0]:,} to {sizes[-1]:,} rows: {taken:.2f} bytes of memory a row and process (expected: at most"
        f" {PREPARED_BYTES_A_ROW}), {later:+.1f} s to the first step (expected: at most {PREPARED_SECONDS} s in all):"
        f" {'as expected' if kept else '**more than expected**'}",
    ]
    print(lines[-1])
    return lines


def prepared_line(row: dict[str, Any], size: float) -> str:
    """A row of the table of prepared rows."""
    libraries, began = (row["stages"][name]["cpu_seconds"] for name in ("libraries", "start"))
    return (
        f"| {row['rows']:,} | {size:,.0f} | {row['own']:,.0f} | {row['mapped']:,.0f} | {libraries + began:.1f} |"
        f" {libraries:.1f} | {row['seconds']:.1f} | {1000 * row['middle']:.0f} | {row['rate']:,.0f} |"
    )


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
    """The tables of what was measured."""
    starts = [line(row) for row in measured if row["cache"] != "answers"]
    answers = [answers_line(row) for row in measured if row["cache"] == "answers"]
    lines = [HEAD, *starts, "", ANSWERS_HEAD, *answers, "", *growth(measured)]
    put_between(DOCUMENT, BEGIN, "\n".join(lines), END)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int)
    parser.add_argument("--kind", choices=("csv", "jsonl", "json"), default="csv")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--formats", action="store_true")
    parser.add_argument("--prepared", action="store_true")
    parser.add_argument("--write-prepared", help=argparse.SUPPRESS)
    parser.add_argument("--start-prepared", help=argparse.SUPPRESS)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    parser.add_argument("--start", help=argparse.SUPPRESS)
    parser.add_argument("--answer", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.sizes = options.sizes or (PREPARED_SIZES if options.prepared else SIZES)
    if options.prepared:
        with tempfile.TemporaryDirectory(prefix="dongu-scale-") as folder:
            lines = measure_prepared(list(options.sizes), Path(folder))
        return put_between(DOCUMENT, PREPARED_BEGIN, "\n".join(lines), PREPARED_END)
    if options.write_prepared:
        return write_prepared(Path(options.write_prepared), options.sizes[0], options.model)
    if options.start_prepared:
        return start_prepared(options.start_prepared, options.model, options.sizes[0])
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
