"""What is asked and answered over HTTP, as OpenAPI has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import Body
from pydantic import BaseModel, ConfigDict, Field

from dongu.judge.metrics import MetricSet
from dongu.run.predictions import answer_rows


@dataclass(frozen=True)
class Limits:
    """What a server takes."""

    texts: int = 256  # of a request
    bytes: int = 1 << 20  # of a request
    seconds: float = 30.0  # until it is answered
    queue_texts: int = 1024  # that wait or are computed at one time


class PredictRequest(BaseModel):
    """Texts, and how much of the answer is wanted."""

    model_config = ConfigDict(extra="forbid")

    texts: str | list[str] | list[tuple[str, str]] = Field(
        description="one text; a list of texts; or a list of pairs, for a model that compares two texts"
    )
    top: int | None = Field(None, ge=1, description="labels in each answer: the most probable ones (default: all)")
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="the probability from which on a label is given, in place of the model's own. Where a row has one"
        " label, an answer below it has no prediction",
    )


class Label(BaseModel):
    """A label and its probability."""

    label: str
    probability: float


class Prediction(BaseModel):
    """The answer to one row: a label, a list of labels, or a number; `null` where none reaches the threshold."""

    prediction: str | list[str] | float | None
    number: float | None = Field(None, description="of an ordinal task, the number that the label is nearest to")
    labels: list[Label] | None = Field(
        None, description="the labels of the model, the most probable first; not there where the answer is a number"
    )
    truncated: bool = Field(description="whether the model could not read the whole text")


class PredictResponse(BaseModel):
    """The answers, in the order of the texts."""

    model: str
    predictions: list[Prediction]


class Refusal(BaseModel):
    """Why there is no answer, and what to do about it."""

    error: str
    hint: str = ""


class About(BaseModel):
    """The model, and the limits of a request."""

    model: str
    task: str
    labels: list[str]
    texts_a_row: int | None = Field(description="1, or 2 for a model of pairs; null where rows may be either")
    max_length: int = Field(description="tokens of a row that are read")
    threshold: float | None = Field(description="the probability from which on a label is given, if the model has one")
    max_texts: int
    max_bytes: int


_EXAMPLES: dict[str, Any] = {
    "one text": {"value": {"texts": "I loved every minute of it."}},
    "texts, the most probable label of each": {"value": {"texts": ["A fine film.", "It was dull."], "top": 1}},
    "pairs": {"value": {"texts": [["The rate rose.", "The rate went up."]]}},
    "only sure answers": {"value": {"texts": ["A fine film."], "threshold": 0.9}},
}
Asked = Annotated[PredictRequest, Body(openapi_examples=_EXAMPLES)]


def predictions_of(
    logits: np.ndarray, truncated: np.ndarray, metrics: MetricSet, threshold: float, question: PredictRequest
) -> Iterator[dict[str, Any]]:
    """`Prediction`s of (rows, labels) logits; `threshold` is the model's own."""
    wanted = threshold if question.threshold is None else question.threshold
    for answer, cut in zip(answer_rows(logits, metrics, wanted), truncated.tolist(), strict=True):
        if "probabilities" not in answer:
            yield {**answer, "truncated": cut}
            continue
        ranked: Sequence[tuple[str, float]] = sorted(answer["probabilities"].items(), key=lambda pair: -pair[1])
        labels = [{"label": name, "probability": value} for name, value in ranked[: question.top]]
        yield {"prediction": answer["prediction"], "labels": labels, "truncated": cut}
