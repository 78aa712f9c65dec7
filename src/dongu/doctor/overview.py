"""What a data set is, in figures: classes, baseline, lengths, padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from dongu.config import NUMBERS, RunConfig
from dongu.data.by_class import SHOWN_NAMES
from dongu.data.examples import Examples, TextData
from dongu.data.labels import OTHER
from dongu.data.weights import label_counts
from dongu.doctor.lengths import Lengths
from dongu.text import NAMES, counted, listed, percent

SHOWN_LABELS = 6


def overview(data: TextData, lengths: Mapping[str, Lengths], config: RunConfig) -> Iterator[tuple[str, str]]:
    """(name, text) a line, for `text.fields`; an empty name goes on with the one before."""
    yield from _describe_found(data)
    yield from _by_split("labels", {name: describe_labels(data, examples) for name, examples in data.splits.items()})
    if baseline := _baseline(data):
        yield "baseline", baseline
    if lengths:
        yield from _by_split(
            "tokens", {name: _describe_lengths(found, len(data.splits[name])) for name, found in lengths.items()}
        )
        yield "padding", _describe_padding(lengths["train"], config)


def describe_rows(data: TextData) -> str:
    """How many rows each split has, and where validation comes from."""
    rows = " · ".join(f"{name} {len(examples):,}" for name, examples in data.splits.items())
    held_out = f" ({' and '.join(data.held_out)} held out of train)" if data.held_out else ""
    left_out = f"; left out: {counted(data.left_out, 'row')} without a gold label" if data.left_out else ""
    left_out += f"; left out: {counted(data.without_text, 'row')} without a text" if data.without_text else ""
    if data.dropped:
        left_out += f"; left out: {counted(len(data.dropped), 'row')} that cannot be read (--bad-rows)"
    not_read = f"; not used: {listed(data.not_read, SHOWN_NAMES)}" if data.not_read else ""
    return f"{rows} rows{held_out}{left_out}{not_read}"


def describe_data(data: TextData) -> Iterator[tuple[str, str]]:
    """What was found, left out and not used, which is told before a model is loaded."""
    yield from _describe_found(data)
    yield "labels", describe_labels(data, data.splits["train"])


def _describe_found(data: TextData) -> Iterator[tuple[str, str]]:
    yield "data", describe_rows(data)
    yield from (("" if number else "read as", sentence) for number, sentence in enumerate(data.said))
    yield "columns", describe_columns(data)


def describe_columns(data: TextData) -> str:
    """Which columns are read, as what, and which are not."""
    form = f"; {data.form.said}" if data.form.said else ""
    if data.joined:
        joined = counted(len(data.joined), "rare class", "rare classes")
        form += f"; {joined} are `{OTHER}`: {listed(data.joined)}"
    unused = f"; not used: {', '.join(data.unused_columns)}" if data.unused_columns else ""
    return f"{data.columns} ({data.task}{form}){unused}"


def describe_labels(data: TextData, examples: Examples) -> str:
    """The share of each class or label, or the range of the numbers."""
    targets = examples.targets
    if targets is None:
        return "hidden"
    if data.task in NUMBERS:
        steps = f"{len(data.label_names)} classes in order, " if data.task == "ordinal" else ""
        return f"{steps}numbers from {targets.min():g} to {targets.max():g}, mean {targets.mean(dtype=np.float64):.3g}"
    counts = label_counts(examples, data.label_names)
    shown = [f"{name} {count / len(examples):.1%}" for name, count in list(counts.items())[:SHOWN_LABELS]]
    more = f" · and {len(counts) - SHOWN_LABELS:,} more" if len(counts) > SHOWN_LABELS else ""
    a_row = ""
    if data.task == "multi-label":
        labels = targets.sum(-1)
        none = f", none for {percent((labels == 0).mean())} of the rows" if (labels == 0).any() else ""
        a_row = f"; {labels.mean():.2g} a row{none}"
    kind = ("label", "labels") if data.task == "multi-label" else ("class", "classes")
    return f"{counted(len(counts), *kind)}: {' · '.join(shown)}{more}{a_row}"


def _by_split(name: str, texts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    width = max(map(len, texts))
    for split, text in texts.items():
        yield f"{name:<{NAMES}}{split:<{width}}  ", text
        name = ""


def _baseline(data: TextData) -> str:
    """The accuracy of the majority baseline, which always predicts train's most frequent class."""
    train = data.splits["train"].targets
    if data.task != "single-label" or train is None:
        return ""
    majority = int(np.bincount(train).argmax())
    shares = [
        f"{float((examples.targets == majority).mean()):.4f} on {name}"
        for name, examples in data.splits.items()
        if name != "train" and examples.targets is not None
    ]
    return f"majority class `{data.label_names[majority]}`: accuracy {', '.join(shares)}"


def _describe_lengths(found: Lengths, rows: int) -> str:
    median, most, nearly_all = np.percentile(found.tokens, [50, 90, 99])
    sample = "" if len(found.rows) == rows else f" (a sample of {len(found.rows):,} rows)"
    cut = "none cut"
    if found.cut.any():
        cut = f"{percent(found.cut.mean())} cut, and {percent(found.cut_share)} of all tokens lost,"
    return (
        f"median {median:.0f}, 90% ≤ {most:.0f}, 99% ≤ {nearly_all:.0f}, max {found.tokens.max():,}; "
        f"{cut} at {found.max_length}{sample}"
    )


def _describe_padding(train: Lengths, config: RunConfig) -> str:
    shuffled, grouped = (train.padding(config.batch_size, config.seed, grouped=grouped) for grouped in (False, True))
    return (
        f"{percent(shuffled)} of the tokens of a batch of {config.batch_size}, {percent(grouped)} with "
        "--group-by-length; --engine packed (the default) computes none"
    )
