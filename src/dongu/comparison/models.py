"""Any classifier beside finished runs: what it answers to the rows of one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dongu.comparison.sides import FinishedRun, Side
from dongu.config import make_config
from dongu.data.examples import read_examples, told_by
from dongu.data.sources import read_source
from dongu.errors import InputError, UsageError
from dongu.judge.intervals import verdict
from dongu.judge.metrics import MetricSet
from dongu.use.saved import SavedModel


def answer_rows_of(run: FinishedRun, model: Path, split: str) -> Side:
    """A classifier that is no run, at work on a split of a run.

    The run's data are read again, where they were. The classifier has the labels of the run, in any order.

    Raises:
        InputError: there is no such model, it answers something else, or the data have moved or changed.
    """
    options: dict[str, Any] = run.record["options"]
    config, names = make_config({**options, "threads": None}), tuple(run.record["label_names"])
    if config.data is None:
        what = f"cannot answer the rows of {run.path}, because its data were in memory"
        raise UsageError(what, where=str(model), hint="compare two runs")
    columns = {name: options[name] for name in ("text_columns", "label_column", "max_length") if name in options}
    saved = SavedModel.open(model, **columns)
    own, task = saved.label_names, saved.metrics.task
    if task != options["task"] or (task != "regression" and sorted(own) != sorted(names)):
        what = f"answers {', '.join(own[:5])} ({task}), and {run.path} {', '.join(names[:5])} ({options['task']})"
        raise UsageError(what, where=saved.name, hint="models of the same labels can be compared")
    data = read_examples(read_source(config.data, config), config).in_order_of(names)
    rows = data.splits.get(split)
    if rows is None or told_by(rows) != run.fingerprint(split):
        raise InputError(f"holds other rows than {run.path} had", where=config.data, hint="compare two runs")
    from dongu.use.classifier import Classifier

    metrics = MetricSet.recorded(task, own, config.data, run.record["metric"])
    theirs = data.in_order_of(own).splits[split] if task != "regression" else rows
    [found] = Classifier(replace(saved, metrics=metrics)).evaluate({split: theirs}).values()
    if task != "regression":
        found = replace(found, logits=found.logits[:, [own.index(name) for name in names]], targets=rows.targets)
    entries: Mapping[str, Any] = verdict(found, metrics, run.record.get("constant_answer"), config.seed)
    record = {**run.record, "options": {**options, "model": saved.name}}
    return Side(model, (FinishedRun(model, record, {"metric": metrics.main, split: entries}, found),))
