"""The bag of words beside a run: trained on the same rows, judged on the same rows, compared row by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dongu.config import DEFAULT_THRESHOLD, LOWER_IS_BETTER, NUMBERS, Task
from dongu.judge.answers import Evaluation
from dongu.judge.bag_of_words import MOST_WEIGHTS, STEPS, BagOfWords
from dongu.judge.metrics import metric_value
from dongu.judge.paired import paired_differences
from dongu.loop import Loop
from dongu.model.lora import count_parameters
from dongu.model.loss import row_losses

MOST_ROWS = 200_000
LEAST_SECONDS = 5.0  # that it may always take
SHARE = 0.1  # of the run's time
# What the two estimates count with. No clock is asked: a run that was killed and went on has what it would have had.
OPERATIONS = {"cuda": 5e13}  # a second of training, by the kind of the device
USUAL_OPERATIONS = 5e10
WORD_SECONDS = 2e-6  # to count a word, and it with its neighbour
CELL_SECONDS = 6e-9  # of a step of the fit, for each word and output
WEIGHT_SECONDS = 5e-8  # the same for each weight


def why_left_out(loop: Loop) -> str | None:
    """Why no bag of words stands beside the run; None where one does."""
    train = loop.data.splits["train"]
    if train.targets is None or not len(train):
        return "the training rows have no labels"
    if not loop.data.has_texts:
        return "the rows are prepared, and their texts are not kept"
    if len(train) > MOST_ROWS:
        return f"there are more than {MOST_ROWS:,} training rows"
    words, outputs = int(loop.splits["train"].tokens.lengths.sum()), len(loop.data.outputs)
    weights = min(MOST_WEIGHTS, words * outputs) + len(train) * outputs
    seconds = words * WORD_SECONDS + STEPS * (words * outputs * CELL_SECONDS + weights * WEIGHT_SECONDS)
    tokens = loop.total_steps * loop.config.batch_size * words / len(train)
    rate = OPERATIONS.get(loop.accelerator.device.type, USUAL_OPERATIONS)
    if seconds > max(LEAST_SECONDS, SHARE * 6 * count_parameters(loop.model)[0] * tokens / rate):
        return f"it would take about {seconds:.0f} s, more than a tenth of the run"
    return None


def measure_bag_of_words(loop: Loop, evaluations: Mapping[str, Evaluation]) -> list[dict[str, Any]]:
    """What a bag of words reaches on each split, a row for each metric, and how far the run is above it.

    `evaluations` are the saved model's answers to labelled splits, `validation` among them.

    Returns:
        `split`, `metric` and `value` of the bag of words; of the main metric also `margin`, by which the run is better
        (of a loss: lower), with its 95% interval `low` to `high`, paired over the rows.
    """
    data, metrics = loop.data, loop.metrics
    train = data.splits["train"]
    task: Task = "regression" if metrics.task in NUMBERS else metrics.task
    bag = BagOfWords.fit(train.texts, np.asarray(train.targets), task, len(data.outputs))
    logits = {name: bag.logits(data.splits[name].texts) for name in evaluations}
    threshold = DEFAULT_THRESHOLD
    if metrics.task == "multi-label":  # chosen on validation, as the run's own is
        threshold = metrics.best_threshold(logits["validation"], np.asarray(data.splits["validation"].targets))
    rows = []
    for name, evaluation in evaluations.items():
        targets = np.asarray(evaluation.targets)
        losses = row_losses(metrics.task, logits[name], targets)
        answers = Evaluation(
            name, evaluation.ids, logits[name], targets, losses, {}, threshold, metrics.task, metrics.scale
        )
        for metric in ("loss", *metrics.names):
            if metric in metrics.own:
                continue  # it may ask more of a model than its answers
            row: dict[str, Any] = {"split": name, "metric": metric, "value": metric_value(answers, metric)}
            if metric == metrics.main:
                [found] = paired_differences(answers, evaluation, [metric], loop.config.seed).values()
                is_loss = metric in LOWER_IS_BETTER
                low, high = (-found.high, -found.low) if is_loss else (found.low, found.high)
                row |= {"margin": -found.value if is_loss else found.value, "low": low, "high": high}
            rows.append(row)
    return rows
