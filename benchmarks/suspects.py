"""How many of the rows that a page calls possibly mislabelled are: SST-2 with 5% of the labels flipped on purpose.

    python benchmarks/suspects.py --data DATA_FOLDER      # minutes on two cores; runs that are done are kept

DATA_FOLDER holds sst2/. Three draws of 700 rows with 35 flipped labels, three epochs of MiniLM each. A line a draw, and
one for all: the rows that are suspect, how many of them are flipped, and what the old rule found: every row whose own
label is given less than guessing would, on the mean of the passes after the first.

    python benchmarks/suspects.py --data DATA_FOLDER --folds    # a minute: the same rule beside cleanlab's

DATA_FOLDER holds subj/ and clinc150/ (150 classes) too. 2,000 rows of each, 2, 5 and 10% of them flipped, two draws;
the probabilities are those of a logistic regression over TF-IDF on four folds, the same for both. It needs cleanlab:
pip install cleanlab.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "out" / "suspects"
SEEDS = (1, 2, 3)
ROWS, FLIPPED, JUDGED = 700, 35, 150  # of train, of these, of validation
FOLD_ROWS = 2_000


def draw(data: Path, seed: int) -> tuple[dict[str, list[dict[str, object]]], list[int]]:
    """Train and validation, and which rows of train have the other label."""
    chosen = random.Random(seed)
    train, validation = (
        chosen.sample(list(csv.DictReader((data / "sst2" / f"{name}.csv").open(newline="", encoding="utf-8"))), count)
        for name, count in (("train", ROWS), ("validation", JUDGED))
    )
    flipped = sorted(set(chosen.sample(range(ROWS), FLIPPED)))
    labels = [int(row["label"]) ^ (i in flipped) for i, row in enumerate(train)]
    return {
        "train": [{"text": row["sentence"], "label": label} for row, label in zip(train, labels, strict=True)],
        "validation": [{"text": row["sentence"], "label": int(row["label"])} for row in validation],
    }, flipped


def measure(data: Path, seed: int) -> np.ndarray:
    """Suspect and flipped, suspect, flipped and below guessing, below guessing."""
    import dongu
    from dongu.page.suspects import learnt
    from dongu.run.dynamics import read_dynamics

    rows, flipped = draw(data, seed)
    run = OUT / f"seed-{seed}"
    if not (run / "results.json").exists():
        dongu.train(rows, model="minilm", epochs=3, seed=seed, threads=1, out=str(run))
    found = learnt(read_dynamics(run / "dynamics.bin"), "single-label", 2)
    if found is None:
        raise SystemExit(f"{run} has no dynamics")
    wrong, below = np.isin(found.ids, flipped), found.score < 1 / 2
    masks = (found.suspect & wrong, found.suspect, below & wrong, below)
    return np.array([mask.sum() for mask in masks])


def beside_cleanlab(data: Path, name: str, text: str, label: str, share: float) -> None:
    """A line: precision and recall of the page's rule, and of cleanlab's two usual ones, on out-of-fold answers."""
    from cleanlab.filter import find_label_issues
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline

    from dongu.page.suspects import PASSES, learnt

    counts: dict[str, np.ndarray] = {}
    for seed in SEEDS[:2]:
        rows = random.Random(seed).sample(read(data / name), FOLD_ROWS)
        names = sorted({row[label] for row in rows})
        draws = np.random.default_rng(seed)
        flipped = np.isin(np.arange(FOLD_ROWS), draws.choice(FOLD_ROWS, int(share * FOLD_ROWS), replace=False))
        moved = flipped * draws.integers(1, len(names), FOLD_ROWS)
        labels = (np.array([names.index(row[label]) for row in rows]) + moved) % len(names)
        model = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True), LogisticRegression(C=5, max_iter=200)
        )
        sure = cross_val_predict(model, [row[text] for row in rows], labels, cv=4, method="predict_proba")
        records = np.zeros(PASSES * FOLD_ROWS, [("row", np.int64), ("loss", np.float64)])
        records["row"] = np.tile(np.arange(FOLD_ROWS), PASSES)
        records["loss"] = np.tile(-np.log(sure[np.arange(FOLD_ROWS), labels]), PASSES)
        found = learnt(records, "single-label", len(names))
        if found is None:
            raise SystemExit("no row was judged")
        masks = {"this rule": found.suspect}
        for rule in ("confident_learning", "prune_by_noise_rate"):
            masks[f"cleanlab {rule}"] = find_label_issues(labels, sure, filter_by=rule, n_jobs=1)
        for rule, mask in masks.items():
            more = np.array([(mask & flipped).sum(), mask.sum(), flipped.sum()])
            counts[rule] = counts.get(rule, 0) + more
    said = [f"{rule}: {a / b:.0%} of {b} are flipped, {a / c:.0%} are found" for rule, (a, b, c) in counts.items()]
    print(f"{name}, {share:.0%} flipped: {'; '.join(said)}", flush=True)


def read(folder: Path) -> list[dict[str, str]]:
    """The train rows, of csv or jsonl."""
    if (path := folder / "train.csv").exists():
        return list(csv.DictReader(path.open(newline="", encoding="utf-8")))
    return [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]


def say(name: str, counts: np.ndarray, flipped: int) -> None:
    right, suspect, right_below, below = counts
    print(
        f"{name}: {suspect} rows suspect, {right} of them flipped ({right / suspect:.0%}), of {flipped} flipped;"
        f" below guessing {below} rows, {right_below} of them flipped ({right_below / below:.0%})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folds", action="store_true", help="the rule beside cleanlab's on out-of-fold answers")
    options = parser.parse_args()
    data = options.data
    if options.folds:
        for columns in (("sst2", "sentence", "label"), ("subj", "text", "label"), ("clinc150", "text", "intent")):
            for share in (0.02, 0.05, 0.10):
                beside_cleanlab(data, *columns, share)
        return
    counts = [measure(data, seed) for seed in SEEDS]
    for seed, found in zip(SEEDS, counts, strict=True):
        say(f"draw {seed}", found, FLIPPED)
    say("all", np.sum(counts, axis=0), FLIPPED * len(SEEDS))


if __name__ == "__main__":
    main()
