"""The longest time for which each command shows nothing, into docs/commands.md.

    python benchmarks/silence.py [--rows 40000] [--model MODEL] [--times 1] [--only COMMAND ...]

Each command is run under a pseudo-terminal, and again with a pipe in place of it, on so many made-up rows that every
phase lasts; without --model that of a random model of one layer, of which the rows take the time and not the products.
A silence goes from byte to byte, and from the start and to the end of the process. What a busy machine makes longer is
told by the processor seconds in it, and by --times: the table has the least of so many calls.
"""

from __future__ import annotations

import argparse
import csv
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from commands import COMMANDS, add_only, make_runs, measure_each, words_of
from pages import put_between

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "commands.md"
BEGIN, END = "<!-- silence: seconds -->", "<!-- /silence: seconds -->"
NOT_TIMED = ("--help", "train --help", "train {data} --learning-rat 1", "completion bash", "quiz --json")
WATCHED = {name: command for name, command in COMMANDS.items() if command not in NOT_TIMED} | {
    "`predict` of a file": "predict {a} --data {rows} --out {answers}",
    "`evaluate` of a file": "evaluate {a} {rows}",
    "`compare` of a run and a model": "compare {a} {other}",
    "`train --seeds 2`": "train {data} --model {model} --max-steps 1 --seeds 2 --out {new}",
    "`train --folds 2`": "train {rows} --model {model} --max-steps 1 --folds 2 --out {new}",
    "`eject --rows`": "eject {a} --rows {new} --out {page}",
    "`demo`": "demo --out {new}",
}
WORDS = [f"word{i}" for i in range(5000)]
COLUMNS, LINES = 100, 40  # of the terminal
LISTENS = b'"address"'  # what a server says, which does not end by itself
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Silence:
    """A time without a byte; `after` is the last line on the screen by then."""

    seconds: float
    cpu_s: float
    after: str


def processor_seconds(pid: int) -> float:
    """Of a process and those of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def bytes_of(words: list[str], *, terminal: bool) -> Iterator[tuple[float, float, bytes]]:
    """What a command writes, as it comes: seconds since its start, its processor seconds, bytes; none at its end.

    Raises:
        RuntimeError: it failed.
    """
    reads, writes = pty.openpty() if terminal else os.pipe()
    if terminal:
        termios.tcsetwinsize(writes, (LINES, COLUMNS))
    started, said, cpu_s = time.perf_counter(), b"", 0.0
    command = [sys.executable, "-m", "dongu", *words]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=writes, stderr=writes)
    os.close(writes)
    while True:
        ready, _, _ = select.select([reads], [], [], 0.05)
        with suppress(ProcessLookupError, FileNotFoundError):
            cpu_s = max(cpu_s, processor_seconds(process.pid))
        part = b""
        if ready:
            with suppress(OSError):  # a terminal whose other side is closed
                part = os.read(reads, 1 << 16)
            if not part:
                break
            said += part
            yield time.perf_counter() - started, cpu_s, part
        if LISTENS in said:
            process.send_signal(signal.SIGTERM)
            break
    os.close(reads)
    if process.wait() and LISTENS not in said:
        raise RuntimeError(f"dongu {' '.join(words)}: {said[-2000:].decode(errors='replace')}")
    if LISTENS not in said:
        yield time.perf_counter() - started, cpu_s, b""


def last_line(said: bytes) -> str:
    """The last line that is not blank."""
    lines = re.split(r"[\r\n]+", CONTROL.sub("", said.decode(errors="replace")))
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")


def silences(words: list[str], *, terminal: bool) -> tuple[float, list[Silence]]:
    """The seconds of a command, and its silences, the longest first."""
    found, before, cpu_before, said = [], 0.0, 0.0, b""
    for now, cpu_s, part in bytes_of(words, terminal=terminal):
        found.append(Silence(now - before, cpu_s - cpu_before, last_line(said[-2000:])))
        before, cpu_before, said = now, cpu_s, said + part
    return before, sorted(found, key=lambda silence: -silence.seconds)


def make_model(folder: Path) -> str:
    """A random encoder of one layer, with a token a word."""
    import torch
    from transformers import BertConfig, BertModel

    from word_tokenizer import word_tokenizer

    tokenizer = word_tokenizer(WORDS, 64, "[CLS] $A [SEP]")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_data(folder: Path, rows: int) -> str:
    """csv files of train, validation and test: so many rows, and a quarter of that twice."""
    folder.mkdir()
    for seed, (split, count) in enumerate({"train": rows, "validation": rows // 4, "test": rows // 4}.items()):
        draw = random.Random(seed)
        with (folder / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for number in range(count):
                label = number % 2
                words = [*draw.choices(WORDS, k=draw.randint(10, 40)), WORDS[label]]
                writer.writerow([" ".join(words), f"class{label}"])
    return str(folder)


def row_of(name: str, places: Mapping[str, list[str]], folder: Path, times: int) -> str:
    """The row of one command; what it shows before its longest silences is printed."""
    seconds, longest = [], []
    for terminal in (True, False):
        tries = []
        for number in range(times):
            new = folder / f"{number}-{terminal}-{name}".translate(str.maketrans("` ,", "---"))
            known = {**places, "answers": [f"{new}.jsonl"]}
            tries.append(silences(words_of(WATCHED[name], known, new), terminal=terminal))
            if terminal:
                print(f"{name}: {tries[-1][0]:.1f} s", file=sys.stderr)
                for silence in tries[-1][1][:4]:
                    said = f"{silence.seconds:6.2f} s, {silence.cpu_s:5.2f} of the processor, after: {silence.after}"
                    print(said, file=sys.stderr, flush=True)
        seconds.append(min(took for took, _ in tries))
        longest.append(min((found[0] for _, found in tries), key=lambda silence: silence.seconds))
    shown, piped = longest
    return f"| {name} | {seconds[0]:.0f} | {shown.seconds:.1f} | {shown.cpu_s:.1f} | {piped.seconds:.0f} |"


def main() -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40_000, help="of train; validation and test have a quarter (40000)")
    parser.add_argument("--model", help="a model; without it a random one of one layer")
    parser.add_argument("--times", type=int, default=1, help="calls of each command (1)")
    add_only(parser)
    options = parser.parse_args()
    lines = [
        f"{options.rows:,} rows to train on, load average {os.getloadavg()[0]:.1f} before, calls of each:"
        f" {options.times} (the least).",
        "",
        "| command | seconds | longest silence on a terminal | processor seconds in it | in a file |",
        "| --- | --: | --: | --: | --: |",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["DONGU_CACHE"] = str(folder / "tokens")
        model = options.model or make_model(folder / "model")
        places = make_runs(folder, make_data(folder / "data", options.rows), model)
        places |= {"rows": [f"{places['data'][0]}/test.csv"], "other": [f"{places['b'][0]}/model"]}
        put = partial(put_between, DOCUMENT, BEGIN, end=END)
        measure_each(WATCHED, options.only, lines, lambda name: row_of(name, places, folder, options.times), put)


if __name__ == "__main__":
    main()
