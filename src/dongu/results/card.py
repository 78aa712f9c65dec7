"""The model card of `model/README.md`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from dongu.config import RunConfig
from dongu.metrics import MetricSet


def write_card(
    config: RunConfig,
    metrics: MetricSet,
    *,
    name: str,
    step: int,
    values: Mapping[str, float],
    threshold: float,
    version: str,
) -> str:
    """Markdown with the Hub's front matter: what it was trained on, how, and what it reaches on validation.

    `threshold` is the probability from which on a label is given, where a row has several.
    """
    base = _base_model(config)
    front_matter = _front_matter(name, base, values)
    rows = "\n".join(f"| {metric} | {value:.4f} |" for metric, value in values.items())
    labels = "\n".join(f"- `{label}`" for label in metrics.label_names)
    options = "\n".join(
        f"| `{option}` | {_cell(value)} |" for option, value in _shown_options(config).items() if value is not None
    )
    several = metrics.task == "multi-label"
    rule = f"\n\nAny number of them, each where its probability is at least {threshold:.4g}." if several else ""
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

{labels}{rule}

## Results on validation

The model of step {step}, chosen by {metrics.main}.

| metric | value |
| --- | --- |
{rows}

## How it was trained

| option | value |
| --- | --- |
{options}

It knows the language and the labels of its training rows, and nothing of others.
"""


def _front_matter(name: str, base: str, values: Mapping[str, float]) -> str:
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
                dataset_split="validation",
                metric_type=metric,
                metric_value=value,
            )
            for metric, value in values.items()
            if not math.isnan(value)
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


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|")
