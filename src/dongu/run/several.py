"""Folders of several runs, for whoever gives one where a run is wanted: what each is, and what to give."""

from __future__ import annotations

from pathlib import Path

from dongu.text import listed, typed

SEEDS = "seeds.json"  # what the folder of several seeds has in place of a run.json
FOLDS = "folds.json"  # what the runs of a cross-validation came to, in the folder that holds them
SEARCH = "tune.json"  # the same of a search
SOUP_FOLDER = "soup"  # in the folder of several seeds, the mean of their weights, where it was kept
FITTING = {
    SEEDS: ("holds one run per seed", "; the same command continues them, and dongu compare takes two such folders"),
    FOLDS: ("holds one run per fold", "; predict, evaluate and serve take the folder as one model"),
    SEARCH: ("holds the runs of a search", "; its page is tune.html, and the same command continues it"),
}


def told_of_several(folder: Path) -> tuple[str, str] | None:
    """What a folder with runs in it is, and what to give in its place; None where there is none in it."""
    runs = [run.parent for pattern in ("*/run.json", "*/*/run.json") for run in folder.glob(pattern)]
    found = [typed(run) for run in sorted(runs, key=lambda run: ("winner" not in run.parts, run))]  # of a search
    if not found:
        return None
    what, more = next((FITTING[name] for name in FITTING if (folder / name).is_file()), ("holds several runs", ""))
    if (folder / SOUP_FOLDER / "config.json").is_file():
        more += f"; predict, evaluate, serve and export take {typed(folder / SOUP_FOLDER)}, the mean of their weights"
    hint = f"give one of them: {listed(found)}; `dongu runs {typed(folder)}` lists them, the best first"
    return f"{what}, and is not a run itself", hint + more
