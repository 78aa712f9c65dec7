"""`dongu demo`: unpack a data set, fine-tune the packaged encoder on it, compare, predict."""

from __future__ import annotations

import bz2
import csv
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from dongu.files import write_file
from dongu.run.console import Console
from dongu.run.folder import RunFolder
from dongu.run.result import RunResult
from dongu.text import decimals, typed
from dongu.training import train
from dongu.use.classifier import load

# What suits a few thousand short pairs; every other option has its default.
RECIPE: dict[str, Any] = {"model": "minilm", "epochs": 1, "batch_size": 16, "learning_rate": 1e-4, "warmup": 0.1}
SPLITS = ("train", "validation", "test")


def run_demo(out: Path | None, seed: int, console: Console) -> RunResult:
    """Write the data beside the run folder, train, and print what it came to.

    Raises:
        DonguError: as `train` does; the packaged model is missing, say.
    """
    run = out or next(path for path in map(_numbered, count(1)) if not path.exists())
    RunFolder(run).refuse_if_taken()
    files = {split: read_csv(split) for split in SPLITS}
    data = run.with_name(f"{run.name}-data")
    for split, content in files.items():
        write_file(data / f"{split}.csv", content)
    splits = {split: list(csv.DictReader(content.decode().splitlines())) for split, content in files.items()}
    console.line(f"Wrote {sum(map(len, splits.values())):,} pairs of sentences to {data}: do the two say the same?")
    for row in splits["train"][:4]:
        console.line(f"  {row['label']:<10}  {row['sentence1']}")
        console.line(f"  {'':<10}  {row['sentence2']}")
    console.line()
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in RECIPE.items())
    console.line(f"$ dongu train {typed(data)} {flags} --seed {seed} --out {typed(run)}")
    result = train(str(data), console=console, seed=seed, out=str(run), **RECIPE)

    ours = result.results["test"]["accuracy"]
    majority = ours["baseline"]
    rows = result.results["bag_of_words"]
    [bag] = [row["value"] for row in rows if (row["split"], row["metric"]) == ("test", "accuracy")]
    console.line()
    both = f"bag of words {decimals(bag)}   majority {decimals(majority)}"
    console.line(f"accuracy on test   dongu {decimals(ours['value'])}   {both}")
    console.line(
        f"margin             {100 * (ours['value'] - bag):+.1f} points over the bag of words, "
        f"{100 * (ours['value'] - majority):+.1f} over the majority class"
    )
    console.line()
    console.line("What it says of the first pair of each class in test, none of which it has seen:")
    classifier = load(run)
    for label in classifier.label_names[::-1]:
        row = next(row for row in splits["test"] if row["label"] == label)
        [answer] = classifier.predict([(row["sentence1"], row["sentence2"])])
        console.line(f'$ dongu predict {typed(run)} "{row["sentence1"]}" "{row["sentence2"]}"')
        console.line(judged_answer(answer, label))
    return result


def judged_answer(answer: Mapping[str, Any], label: str) -> str:
    """An answer with its probability, and whether it is the label that the row has."""
    given = answer["prediction"]
    truth = "right" if given == label else f"wrong: its label is “{label}”"
    return f"{given}  {answer['probabilities'][given]:.4f}   {truth}"


def read_csv(split: str) -> bytes:
    """The packaged csv file of a split, with the columns `sentence1`, `sentence2` and `label`."""
    return bz2.decompress(Path(__file__).with_name(f"{split}.csv.bz2").read_bytes())


def _numbered(number: int) -> Path:
    return Path("runs") / ("demo" if number == 1 else f"demo-{number}")
