"""The model card of `model/README.md`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from dongu.config import RunConfig
from dongu.metrics import MetricSet


def write_card(config: RunConfig, metrics: MetricSet, *, name: str, results: Mapping[str, Any], version: str) -> str:
    """Markdown with the Hub's front matter: what it was trained on, how, and what it reaches."""
    base = _base_model(config)
    front_matter = _front_matter(name, base, results)
    rows = "\n".join(
        f"| {split} | {metric} | {_number(entry['value'])} | {_number(entry['low'])} to {_number(entry['high'])} "
        f"| {_number(entry.get('baseline', math.nan))} |"
        for split, metric, entry in _entries(results)
    )
    labels = "\n".join(f"- `{label}`" for label in metrics.label_names)
    options = "\n".join(
        f"| `{option}` | {_cell(value)} |" for option, value in _shown_options(config).items() if value is not None
    )
    inputs = " and ".join(f"`{column}`" for column in config.text_columns or ())
    return f"""---
{front_matter}
---

# {name}

A text classifier ({metrics.task}) for {inputs}, fine-tuned from `{base}` with dongu {version}.

```python
from transformers import pipeline

classifier = pipeline("text-classification", model="PATH/TO/THIS/FOLDER")
```

## What it answers

{labels}

## Results

The model of step {results["best_step"]}, chosen by {metrics.main} on validation, so its figures there flatter it.

| split | metric | value | 95% interval | {"train mean" if metrics.task == "regression" else "majority class"} |
| --- | --- | --- | --- | --- |
{rows}

The intervals are of a bootstrap over the rows. {_calibration(results)}

## How it was trained

| option | value |
| --- | --- |
{options}

It knows the language and the labels of its training rows, and nothing of others.
"""


def _entries(results: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, float]]]:
    for split, entries in results.items():
        if isinstance(entries, Mapping):
            for metric, entry in entries.items():
                yield split, metric, entry


def _calibration(results: Mapping[str, Any]) -> str:
    if "temperature" not in results:
        return "The last column is what the mean of the training rows would reach, whatever the text."
    temperature = f"{results['temperature']:.4f}"
    done = (
        f"The probabilities are calibrated: the head is divided by the temperature {temperature}"
        if results["calibrated"]
        else f"The probabilities are as they were trained; dividing the logits by {temperature} would calibrate them"
    )
    return (
        "The last column is what always saying the most frequent class of the training rows would reach, its loss that"
        f" of the classes' shares. {done}, which was fitted on validation."
    )


def _front_matter(name: str, base: str, results: Mapping[str, Any]) -> str:
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        model_name=name,
        base_model=base,
        tags=["dongu", "text-classification"],
        eval_results=[
            EvalResult(
                task_type="text-classification",
                dataset_type=name,
                dataset_name=name,
                dataset_split=split,
                metric_type=metric,
                metric_value=entry["value"],
            )
            for split, metric, entry in _entries(results)
            if math.isfinite(entry["value"])
        ],
    )
    return str(data.to_yaml())


def _base_model(config: RunConfig) -> str:
    """A Hub name whole; of a folder its last name alone, which says nothing of this machine."""
    local = config.model.startswith(("/", ".", "~"))
    return config.model.rstrip("/").rsplit("/", 1)[-1] if local else config.model


def _shown_options(config: RunConfig) -> dict[str, Any]:
    """What decides the result; paths and devices do not."""
    hidden = {"data", "model", "out", "device", "workers", "threads", "text_columns", "label_column"}
    return {name: value for name, value in config.model_dump().items() if name not in hidden}


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "–"


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|")
