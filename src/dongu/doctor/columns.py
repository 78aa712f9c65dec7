"""What may be read otherwise than was meant: texts that are not used, and several labels that are taken for one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from dongu.data.columns import SAMPLED_ROWS
from dongu.data.delimited import KEPT_QUOTES
from dongu.data.examples import TextData
from dongu.doctor.finding import Finding
from dongu.text import counted, listed


def check_columns(data: TextData) -> Iterator[Finding]:
    """One for each column of text beside the one that is read, for quotes that are kept, for marks within labels."""
    [first, *others] = data.splits["train"].texts
    for name, characters in data.unused_texts.items() if not others else ():
        used = data.columns.texts[0]
        sample = [len(text) for text in islice(first, SAMPLED_ROWS)]
        mean = sum(sample) / len(sample)
        yield Finding(
            "warning",
            f"`{name}` is not used, and holds {characters / mean:.2g} times as much text as `{used}`:"
            f" {characters:.0f} characters a row against {mean:.0f}",
            "the model does not see what only this column says",
            f"--text-columns {used}+{name} reads both as one text; --text-columns {used} says that it is enough",
        )
    for said in data.said:
        if said.endswith(KEPT_QUOTES):
            yield Finding(
                "warning",
                f"{said.removesuffix(KEPT_QUOTES)}each double quote is as csv writes it, and is kept in the cells",
                "the model reads quotes that the texts do not have",
                '--quoting csv reads "" as a quote; --quoting none says that they are a part of the cells',
            )
    if mark := data.form.doubtful:
        marked = [f"`{name}`" for name in data.label_names if mark in name]
        yield Finding(
            "warning",
            f"{counted(len(marked), 'class', 'classes')} with `{mark}` in the name: {listed(marked)}",
            "if each is several labels, every combination becomes a class of its own",
            f'--label-separator "{mark}" reads several labels; --task single-label says that each is one name',
        )
