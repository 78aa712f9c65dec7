"""An exported model as it is told: its figures, and the README that shows how to use it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from dongu.comparison.words import sentence
from dongu.config import NUMBERS, Task
from dongu.judge.paired import MetricDifference
from dongu.model.safety import GRAPH, GRAPH_INT8
from dongu.text import counted, template, with_interval

MODEL = "model"  # a form of itself, beside `GRAPH` and `GRAPH_INT8`
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
        logits = "numbers" if task in NUMBERS else "logits"
        yield (
            f"{GRAPH}: {_megabytes(plain)}; on {counted(self.rows, 'row')} of validation its {logits} are at most "
            f"{plain.difference:.1e} from the model's, which reach {self.largest:.3g}; "
            f"{plain.rows_a_second / self.forms[MODEL].rows_a_second:.1f} times as fast as PyTorch"
        )
        if small := self.forms.get(GRAPH_INT8):
            alike = "" if task in NUMBERS else f"; {small.same:,} of {counted(self.rows, 'row')} answered alike"
            yield (
                f"{GRAPH_INT8}: {_megabytes(small)}{alike}; "
                f"{small.rows_a_second / plain.rows_a_second:.1f} times as fast as {GRAPH}"
            )

    def metric_rows(self) -> Iterator[list[str]]:
        """A table: each metric's name, and its value and 95% interval in each of the files."""
        names = [name for name in self.forms if name != MODEL]
        for metric in self.forms[MODEL].results:
            yield [metric, *(with_interval(self.forms[name].results[metric], "–") for name in names)]

    def loss_lines(self) -> Iterator[str]:
        """What eight bits cost: a sentence a metric."""
        if small := self.forms.get(GRAPH_INT8):
            for name, found in small.lost.items():
                yield sentence(name, found, found.p, self.rows, "the model", "int8")

    def readme(self, task: Task, *, pair: bool, max_length: int, abstains: bool) -> str:
        """Markdown with an example that runs in the folder."""
        return template(Path(__file__).with_name("onnx.md.jinja")).render(
            files=[name for name in self.forms if name != MODEL],
            graph=GRAPH,
            int8=GRAPH_INT8 in self.forms,
            abstains=abstains,
            max_length=max_length,
            pair=pair,
            made=self,
            rows=counted(self.rows, "row"),
            task=task,
            versions=", ".join(f"{name} {version(name)}" for name in VERSIONS),
        )


def _megabytes(form: ExportedForm) -> str:
    return f"{form.size_bytes / 1e6:,.1f} MB"
