"""Leaks by group: rows of one user, author or conversation in train and in the split that judges."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dongu.data.examples import TextData
from dongu.doctor.finding import SHOWN_EXAMPLES, Finding, example, share_of_rows

FEW_GROUPS = 10  # of a column that nobody named: fewer are rather kinds of rows


def check_groups(data: TextData) -> Iterator[Finding]:
    """A warning for the column that was asked for, a note for one whose name says so."""
    train = data.splits["train"]
    for column, codes in train.groups.items():
        known = np.unique(codes[codes >= 0])
        guessed = column in data.unused_columns
        if guessed and not FEW_GROUPS <= len(known) < len(codes):
            continue
        for name in [name for name in data.splits if name != "train"]:
            new = data.splits[name]
            found = np.flatnonzero(np.isin(new.groups[column], known))
            if not found.size:
                continue
            firsts = [int(np.flatnonzero(codes == new.groups[column][row])[0]) for row in found[:SHOWN_EXAMPLES]]
            leak = share_of_rows(len(found), name, len(new), "leaks", "leak")
            yield Finding(
                "note" if guessed else "warning",
                f"{leak} by group: train has their `{column}` too",
                f"the model may know the `{column}`: the score on {name} says less about new ones",
                f"--group-column {column} holds out whole groups"
                if name in data.held_out
                else f"split the data by `{column}`, if new ones will be met",
                tuple(
                    example([train.where(first), new.where(int(row))], *new.texts_of(row))
                    for first, row in zip(firsts, found[:SHOWN_EXAMPLES], strict=True)
                ),
            )
