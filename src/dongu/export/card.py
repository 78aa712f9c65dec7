"""The model card of `model/README.md`: what the model answers, how well, from what it was made, where it ends."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from dongu.config import option_flag
from dongu.data.sources import hub_parts
from dongu.data.tokens import WINDOW_OVERLAP
from dongu.hub import split_revision
from dongu.judge.abstention import LEVEL
from dongu.judge.intervals import constant_answer
from dongu.judge.words import abstaining, bag_of_words, over_bag_of_words, splits_of
from dongu.loop import Loop
from dongu.model.place import HUB_NAMES, find_model
from dongu.text import counted, decimals, interval_ends, listed, one_line, percent, template

FEW_CLASS_ROWS = 30  # of a class, on which its figures say little
PIPELINE_EXAMPLES = ('"a text"', '{"text": "a text", "text_pair": "another text"}')  # of a row, as a pipeline takes it
KIND = "text-classification"  # in the Hub's words, whatever the task


def write_card(loop: Loop, results: Mapping[str, Any], version: str) -> str:
    """Markdown with the Hub's front matter. Names that come from the data can end neither the one nor the other."""
    name, entries = one_line(loop.data.name), list(_entries(results))
    per_class = [row for row in results.get("per_class", ()) if row["split"] == "validation"]
    hidden = {"data", "model", "out", "device", "workers", "threads", "text_columns", "label_column"}
    by_name: tuple[Any, ...] = (percent, counted, listed, interval_ends, abstaining, bag_of_words, over_bag_of_words)
    words: dict[str, Any] = {each.__name__: each for each in by_name}
    words |= {"code": _code, "plain": _plain, "number": _number, "value": _value, "flag": option_flag}
    return str(
        template(Path(__file__).with_name("card.md.jinja"), **words).render(
            front_matter=_front_matter(loop, name, results),
            name=name,
            base=base_model(loop)[0],
            version=version,
            task=loop.metrics.task,
            config=loop.config,
            data=loop.data,
            data_set=_data_set(loop)[0],
            metrics=loop.metrics,
            splits=loop.splits,
            shares=constant_answer(loop.metrics, loop.splits["train"].targets),
            results=results,
            entries=entries,
            options=loop.config.model_dump(exclude=hidden, exclude_none=True),  # what decides the result
            only_validation={split for split, *_ in entries} == {"validation"},
            few=FEW_CLASS_ROWS,
            rare=[f"{_code(row['class'])} ({row['rows']:,})" for row in per_class if row["rows"] < FEW_CLASS_ROWS],
            overlap=WINDOW_OVERLAP,
            example=PIPELINE_EXAMPLES[len(loop.config.text_columns or ()) - 1],
            level=LEVEL,
            cut=int(loop.splits["train"].tokens.truncated.sum()),
        )
    )


def _entries(results: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, float]]]:
    for split, entries in splits_of(results).items():
        for metric, entry in entries.items():
            yield split, metric, entry


def _front_matter(loop: Loop, name: str, results: Mapping[str, Any]) -> str:
    """YAML of what the Hub shows and searches; each metric with its interval, in words and in numbers."""
    identifier, config = _data_set(loop)
    base, on_hub = base_model(loop)
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


def base_model(loop: Loop) -> tuple[str, bool]:
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


def _number(value: float | None) -> str:
    return decimals(value, nothing="–")


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
