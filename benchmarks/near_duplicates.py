"""Recall, precision and seconds of the doctor's near duplicates: `python benchmarks/near_duplicates.py [ROWS ...]`.

Sentences of 8 to 30 words, drawn as a language has them, a few often and most seldom. A tenth as many rows are held
against them: nine of ten are new, one is an edited copy, with a slip of a finger, a word replaced, dropped or added,
or other marks and case. A pair counts as found where the row that was copied is named.
"""

from __future__ import annotations

import random
import resource
import sys
import time

import numpy as np

from dongu.doctor.near import band_keys, near_rows

VOCABULARY = 20_000
EDITS = ("slip", "replaced", "dropped", "added", "marks")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def edited(draw: random.Random, text: str, words: list[str], kind: str) -> str:
    """A copy that a person would call the same text."""
    parts = text.split()
    place = draw.randrange(len(parts))
    if kind == "slip":
        at = draw.randrange(len(parts[place]))
        parts[place] = parts[place][:at] + draw.choice(LETTERS).upper() + "q" + parts[place][at + 1 :]
    elif kind == "replaced":
        parts[place] = draw.choice(words)
    elif kind == "dropped":
        del parts[place]
    elif kind == "added":
        parts.insert(place, draw.choice(words))
    else:
        return ", ".join(parts).title() + "!"
    return " ".join(parts)


def measure(rows: int) -> None:
    """Plant, look, print."""
    draw, random_numbers = random.Random(0), np.random.default_rng(0)
    words = sorted({"".join(draw.choices(LETTERS, k=draw.randint(2, 9))) for _ in range(VOCABULARY)})
    shares = 1 / np.arange(3, len(words) + 3)  # Zipf's law
    drawn = iter(random_numbers.choice(len(words), 31 * (rows + rows // 10), p=shares / shares.sum()).tolist())
    sentences = [" ".join(words[next(drawn)] for _ in range(draw.randint(8, 30))) for _ in range(rows + rows // 10)]
    seen, new = sentences[:rows], sentences[rows:]
    planted = {row: (draw.randrange(rows), EDITS[row // 10 % len(EDITS)]) for row in range(0, len(new), 10)}
    for row, (origin, kind) in planted.items():
        new[row] = edited(draw, seen[origin], words, kind)
    began = time.perf_counter()
    keys = [band_keys([texts]) for texts in (seen, new)]
    hashed = time.perf_counter()
    found = near_rows([seen], keys[0], [new], keys[1])
    ended = time.perf_counter()
    right = {kind: [found.get(row) == origin for row, (origin, k) in planted.items() if k == kind] for kind in EDITS}
    recall = ", ".join(f"{kind} {np.mean(hits):.3f}" for kind, hits in right.items())
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{rows:,} rows and {len(new):,}: recall {np.mean([h for hits in right.values() for h in hits]):.4f} ({recall})"
    )
    print(f"  precision {sum(row in planted for row in found) / max(1, len(found)):.4f}; {memory_mb:,.0f} MB")
    print(f"  {hashed - began:.1f} s for the keys, {ended - hashed:.1f} s for the pairs", flush=True)


if __name__ == "__main__":
    for count in map(int, sys.argv[1:] or ("10000", "100000")):
        measure(count)
