"""An exported model as it is told: its figures, and the README that shows how to use it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from dongu.compare.words import sentence
from dongu.config import Task
from dongu.judge.paired import MetricDifference
from dongu.text import counted

MODEL, GRAPH, GRAPH_INT8 = "model", "model.onnx", "model_int8.onnx"  # the forms of a model
VERSIONS = ("dongu", "torch", "transformers", "onnxruntime")


@dataclass(frozen=True)
class ExportedForm:
    """One form of a model on the rows that it was checked on.

    `difference` is the largest between one of its logits and the model's, `same` the rows to which it gives the
    model's answer, `results` has each metric's `value`, `low` and `high`, and `lost` how far each is above the model's,
    on the same rows and resamples of them.
    """

    size_bytes: int
    rows_a_second: float
    difference: float
    same: int
    results: dict[str, dict[str, float]]
    lost: dict[str, MetricDifference]


@dataclass(frozen=True)
class Export:
    """What was written: the forms by the names of their files, `model` first, and on how many rows they were checked.

    `largest` is the model's largest logit, by which a difference is to be judged.
    """

    path: Path
    rows: int
    largest: float
    forms: dict[str, ExportedForm]

    def size_lines(self, task: Task) -> Iterator[str]:
        """One line a file: its size, how near its answers are, how fast it is."""
        plain = self.forms[GRAPH]
        logits = "numbers" if task == "regression" else "logits"
        yield (
            f"{GRAPH}: {_megabytes(plain)}; on {counted(self.rows, 'row')} of validation its {logits} are at most "
            f"{plain.difference:.1e} from the model's, which reach {self.largest:.3g}; "
            f"{plain.rows_a_second / self.forms[MODEL].rows_a_second:.1f} times as fast as PyTorch"
        )
        if small := self.forms.get(GRAPH_INT8):
            alike = "" if task == "regression" else f"; {small.same:,} of {counted(self.rows, 'row')} answered alike"
            yield (
                f"{GRAPH_INT8}: {_megabytes(small)}{alike}; "
                f"{small.rows_a_second / plain.rows_a_second:.1f} times as fast as {GRAPH}"
            )

    def metric_rows(self) -> Iterator[list[str]]:
        """A table: each metric's name, and its value and 95% interval in each of the files."""
        names = [name for name in self.forms if name != MODEL]
        for metric in self.forms[MODEL].results:
            yield [metric, *(_interval(self.forms[name].results[metric]) for name in names)]

    def loss_lines(self) -> Iterator[str]:
        """What eight bits cost: a sentence a metric."""
        if small := self.forms.get(GRAPH_INT8):
            for name, found in small.lost.items():
                yield sentence(name, found, found.p, self.rows, "the model", "int8")

    def readme(self, task: Task, *, pair: bool, max_length: int) -> str:
        """Markdown with an example that runs in the folder."""
        files = [name for name in self.forms if name != MODEL]
        table = "\n".join(f"| {' | '.join(row)} |" for row in self.metric_rows())
        sizes = "\n".join(f"- {line}" for line in self.size_lines(task))
        lost = "".join(f"\n- {line}" for line in self.loss_lines())
        lost = f"\nint8 beside the model, both on the same rows (paired bootstrap):\n{lost}\n" if lost else ""
        with_versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
        return f"""# A text classifier as an ONNX graph

It needs two packages: `pip install onnxruntime tokenizers`. In this folder:

```python
{_example(task, pair=pair)}```

`tokenizer.json` cuts at {max_length} tokens, the longer text of a pair first, and pads. `config.json` has the names of
the labels. The graph answers anything; dongu would refuse a text in which nothing is visible.

## Checked against the model

{sizes}

| 95% interval on {counted(self.rows, "row")} of validation | {" | ".join(files)} |
| --- |{" --- |" * len(files)}
{table}
{lost}
Written with {with_versions}.
"""


def _example(task: Task, *, pair: bool) -> str:
    texts = '("one text", "another text"), ("a third", "a fourth")' if pair else '"a text", "another text"'
    answers = {
        "single-label": """\
probabilities = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
for row in probabilities:
    print(config["id2label"][str(row.argmax())], row.max())
""",
        "multi-label": """\
for row in 1 / (1 + np.exp(-logits)):  # a probability a label
    print([config["id2label"][str(i)] for i in np.flatnonzero(row >= config["threshold"])], row)
""",
        "regression": """\
for row in logits:  # in the unit of the labels
    print(row[0])
""",
    }
    return f"""\
import json
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers

config = json.loads(Path("config.json").read_text(encoding="utf-8"))
tokenizer = tokenizers.Tokenizer.from_file("tokenizer.json")
session = onnxruntime.InferenceSession("{GRAPH}")

encoded = tokenizer.encode_batch([{texts}])
columns = {{"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}}
inputs = {{i.name: np.array([getattr(row, columns[i.name]) for row in encoded]) for i in session.get_inputs()}}
[logits] = session.run(None, inputs)
{answers[task]}"""


def _interval(entry: Mapping[str, float]) -> str:
    value, low, high = (f"{entry[key]:.4f}" if math.isfinite(entry[key]) else "–" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _megabytes(form: ExportedForm) -> str:
    return f"{form.size_bytes / 1e6:,.1f} MB"
