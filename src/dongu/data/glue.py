"""The tasks of GLUE, a row each: their texts, their classes, what they are judged by, what is handed in."""

from __future__ import annotations

from dataclasses import dataclass, field

from dongu.hub import split_revision


@dataclass(frozen=True)
class GlueTask:
    """One task as `nyu-mll/glue` has it."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]  # class id → name; none where the label is a number
    metrics: tuple[str, ...]
    best: str  # the metric that chooses the best model
    files: dict[str, str]  # split with hidden labels → the file that is handed in
    names_handed_in: bool = field(default=False, kw_only=True)  # in that file: the ids of the classes otherwise


TWO_SENTENCES = ("sentence1", "sentence2")

GLUE = {
    "cola": GlueTask(
        ("sentence",),
        ("unacceptable", "acceptable"),
        ("matthews_correlation", "accuracy", "f1"),
        "matthews_correlation",
        {"test": "CoLA.tsv"},
    ),
    "sst2": GlueTask(("sentence",), ("negative", "positive"), ("accuracy",), "accuracy", {"test": "SST-2.tsv"}),
    "mrpc": GlueTask(
        TWO_SENTENCES, ("not_equivalent", "equivalent"), ("accuracy", "f1"), "accuracy", {"test": "MRPC.tsv"}
    ),
    "stsb": GlueTask(TWO_SENTENCES, (), ("pearson", "spearman"), "spearman", {"test": "STS-B.tsv"}),
    "qqp": GlueTask(
        ("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1"), "accuracy", {"test": "QQP.tsv"}
    ),
    "mnli": GlueTask(
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        ("accuracy",),
        "accuracy",
        {"test": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"},
        names_handed_in=True,
    ),
    "qnli": GlueTask(
        ("question", "sentence"),
        ("entailment", "not_entailment"),
        ("accuracy",),
        "accuracy",
        {"test": "QNLI.tsv"},
        names_handed_in=True,
    ),
    "rte": GlueTask(
        TWO_SENTENCES,
        ("entailment", "not_entailment"),
        ("accuracy",),
        "accuracy",
        {"test": "RTE.tsv"},
        names_handed_in=True,
    ),
    "wnli": GlueTask(TWO_SENTENCES, ("not_entailment", "entailment"), ("accuracy",), "accuracy", {"test": "WNLI.tsv"}),
}


def glue_task(data: str | None) -> GlueTask | None:
    """The task of `glue:NAME`; None for any other data."""
    benchmark, _, name = split_revision(data or "")[0].partition(":")
    return GLUE.get(name) if benchmark == "glue" else None
