"""The model card of `model/README.md`: what the model answers, how well, from what it was made, where it ends."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from dongu.config import Task, option_flag
from dongu.data.sources import hub_parts
from dongu.hub import split_revision
from dongu.judge.intervals import CONSTANT_ANSWERS, constant_answer
from dongu.loop import Loop
from dongu.model.place import HUB_NAMES, find_model
from dongu.text import counted, listed, one_line, percent

FEW_CLASS_ROWS = 30  # of a class, on which its figures say little
KIND = "text-classification"  # in the Hub's words, whatever the task


def write_card(loop: Loop, results: Mapping[str, Any], version: str) -> str:
    """Markdown with the Hub's front matter. Names that come from the data can end neither the one nor the other.

    Args:
        loop: the run.
        results: `results.json`.
        version: of dongu.
    """
    name = one_line(loop.data.name)
    task, texts = loop.metrics.task, loop.config.text_columns or ()
    rows = "\n".join(
        f"| {split} | {metric} | {_number(entry['value'])} | {_number(entry['low'])} to {_number(entry['high'])} "
        f"| {_number(entry.get('baseline', math.nan))} |"
        for split, metric, entry in _entries(results)
    )
    return f"""---
{_front_matter(loop, name, results)}
---

# {_plain(name)}

A text classifier ({task}) for {" and ".join(map(_code, texts))}, fine-tuned from {_plain(_base_model(loop)[0])} with
dongu {version}.

```python
from transformers import pipeline

classifier = pipeline("text-classification", model="PATH/TO/THIS/FOLDER")
```

## What it answers

{_answers(loop, results)}

## Results

The model of step {results["best_step"]}, chosen by {loop.metrics.main} on validation, so its figures there flatter it.

| split | metric | value | 95% interval | {CONSTANT_ANSWERS[task]} |
| --- | --- | --- | --- | --- |
{rows}

The intervals are of a bootstrap over the rows. {_last_column(task)}{_calibration(results)}

## Data

{_data(loop)}

## How it was trained

| option | value |
| --- | --- |
{_options(loop)}

## Limits

{_limits(loop, results)}
"""


def _answers(loop: Loop, results: Mapping[str, Any]) -> str:
    """The labels, each with its share of the training rows; or what the numbers are."""
    names, shares = loop.metrics.label_names, constant_answer(loop.metrics, loop.splits["train"].targets) or []
    if loop.metrics.task == "regression":
        return f"A number, {_code(names[0])}, whose mean over the training rows is {shares[0]:.4g}."
    lines = [
        f"- {_code(name)}, {percent(share)} of the training rows" for name, share in zip(names, shares, strict=True)
    ]
    if loop.metrics.task == "multi-label":
        lines += ["", f"Any number of them, each where its probability is at least {results['threshold']:.4g}."]
    return "\n".join(lines)


def _data(loop: Loop) -> str:
    place = f"[{loop.data.name}](https://huggingface.co/datasets/{_data_set(loop)[0]})" if loop.data.hub_name else ""
    rows = "\n".join(
        f"| {name} | {len(split):,} | {split.tokens.lengths.mean():.1f} | {percent(split.tokens.truncated.mean())} |"
        for name, split in loop.splits.items()
    )
    held_out = "\n\nValidation was held out of the training rows, by the seed." if loop.data.held_out else ""
    return f"""{place or _plain(one_line(loop.data.name))}

| split | rows | tokens a row | cut at {loop.config.max_length} tokens |
| --- | --- | --- | --- |
{rows}{held_out}"""


def _limits(loop: Loop, results: Mapping[str, Any]) -> str:
    """What the figures above do not show."""
    limits = [
        "It knows the language and the labels of its training rows, and nothing of others: whatever the text, it gives"
        " one of its own answers, also to another kind of text, and often a sure one."
    ]
    if {split for split, *_ in _entries(results)} == {"validation"}:
        limits.append("No rows but those that chose its step were there to judge it: new ones will be harder.")
    rare = [
        row for row in results.get("per_class", ()) if row["split"] == "validation" and row["rows"] < FEW_CLASS_ROWS
    ]
    if rare:
        names = listed([f"{_code(row['class'])} ({row['rows']:,})" for row in rare], 5)
        limits.append(f"Fewer than {FEW_CLASS_ROWS} rows of validation are behind what is said of {names}.")
    if cut := int(loop.splits["train"].tokens.truncated.sum()):
        limits.append(
            f"It reads {loop.config.max_length} tokens of a text. {counted(cut, 'training row')} had more, and what"
            " stood at their end was not learnt."
        )
    limits.append("Nobody has looked at how it treats groups of people, or at who should not use it: its owner must.")
    return "\n".join(f"- {limit}" for limit in limits)


def _entries(results: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, float]]]:
    for split, entries in results.items():
        if isinstance(entries, Mapping):
            for metric, entry in entries.items():
                yield split, metric, entry


def _last_column(task: Task) -> str:
    answers = {
        "single-label": "always saying the most frequent class of the training rows would reach, its loss that of the"
        " classes' shares",
        "multi-label": "each label's share of the training rows would reach as its probability, whatever the text",
        "regression": "the mean of the training rows would reach, whatever the text",
    }
    return f"The last column is what {answers[task]}."


def _calibration(results: Mapping[str, Any]) -> str:
    if "calibrated" not in results:
        return ""
    if "temperature" not in results:
        return " The probabilities are as they were trained."
    temperature = f"{results['temperature']:.4f}"
    if results["calibrated"]:
        done = f"The probabilities are calibrated: the head is divided by the temperature {temperature}"
    else:
        done = f"The probabilities are as they were trained; dividing the logits by {temperature} would calibrate them"
    return f" {done}, which was fitted on validation."


def _front_matter(loop: Loop, name: str, results: Mapping[str, Any]) -> str:
    """YAML of what the Hub shows and searches; each metric with its interval, in words and in numbers."""
    identifier, config = _data_set(loop)
    base, on_hub = _base_model(loop)
    evaluations = [
        EvalResult(
            task_type=KIND,
            task_name=loop.metrics.task,
            dataset_type=identifier,
            dataset_name=name,
            dataset_config=config,
            dataset_split=split,
            metric_type=metric,
            metric_name=f"{metric}{_interval(entry)}",
            metric_value=entry["value"],
            metric_args={"level": 0.95, "low": entry["low"], "high": entry["high"]} if _interval(entry) else None,
        )
        for split, metric, entry in _entries(results)
        if math.isfinite(entry["value"])
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=KIND,
        model_name=name,
        base_model=base if on_hub else None,
        datasets=[identifier] if loop.data.hub_name else None,
        metrics=list(loop.metrics.names),
        tags=["dongu", KIND],
        eval_results=evaluations,
    )
    return str(data.to_yaml())


def _data_set(loop: Loop) -> tuple[str, str | None]:
    """The data's name on the Hub and their configuration there; elsewhere a name of the same form."""
    if loop.data.hub_name:
        return hub_parts(loop.data.hub_name)
    return re.sub(r"[^A-Za-z0-9]+", "-", loop.data.name).strip("-") or "data", None


def _base_model(loop: Loop) -> tuple[str, bool]:
    """What it was fine-tuned from, and whether that is a name on the Hub.

    Of a folder its last name alone, which says nothing of this machine.
    """
    name = loop.config.model
    if name in HUB_NAMES:
        return HUB_NAMES[name], True
    folder = Path(find_model(name))
    return (one_line(folder.resolve().name), False) if folder.is_dir() else (split_revision(name)[0], True)


def _interval(entry: Mapping[str, float]) -> str:
    low, high = entry["low"], entry["high"]
    return f" (95% interval {low:.4f} to {high:.4f})" if math.isfinite(low) and math.isfinite(high) else ""


def _options(loop: Loop) -> str:
    """What decides the result; paths and devices do not."""
    hidden = {"data", "model", "out", "device", "workers", "threads", "text_columns", "label_column"}
    shown = loop.config.model_dump(exclude=hidden, exclude_none=True)
    return "\n".join(f"| `{option_flag(name)}` | {_value(value)} |" for name, value in shown.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):  # weights by the names of classes
        return ", ".join(f"{_code(name)} {weight:.4g}" for name, weight in value.items()).replace("|", "\\|")
    return str(value)


def _plain(name: str) -> str:
    """A name as it is where Markdown has no use for any of its characters, else as code."""
    return name if re.fullmatch(r"\w[\w ./-]*", name) and "__" not in name else _code(name)


def _code(name: str) -> str:
    """Markdown's code, in which nothing is markup: its marks are longer than any in the name."""
    text = one_line(name)
    marks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text[:1] in ("`", " ", "") or text[-1:] in ("`", " ") else ""
    return f"{marks}{space}{text}{space}{marks}"


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "–"
