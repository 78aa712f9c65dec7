"""What `--json` prints, command by command: the schema of each answer, with its version.

Nothing here runs when a command does: tests/cli/test_json.py holds what is printed against it, and docs/json.md is
written from it. A key more is no new version; a key that goes, or that means something else, is.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

MaybeNumber = float | None  # null stands for NaN and infinity, which JSON lacks


class JsonAnswer(BaseModel):
    """An object that a command prints."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    name: Annotated[str, Field(alias="schema", description="`dongu.NAME/VERSION`")]


class OpenAnswer(JsonAnswer):
    """An object with more keys than those that have a name here."""

    model_config = ConfigDict(extra="allow")


class MetricEntry(BaseModel):
    """A metric: its `value`, the ends `low` and `high` of its 95% interval, and what it is compared with."""

    model_config = ConfigDict(extra="forbid", strict=True)

    value: MaybeNumber
    low: MaybeNumber
    high: MaybeNumber
    baseline: MaybeNumber = None
    chance: MaybeNumber = None
    before: MaybeNumber = None
    after: MaybeNumber = None
    kurtosis: MaybeNumber = None


class Results(OpenAnswer):
    """`train` and `resume` of one run, `demo`: what `results.json` holds, under the name of each split its metrics."""

    __pydantic_extra__: dict[str, dict[str, MetricEntry]]

    path: Annotated[str, Field(description="the run folder")]
    best_step: Annotated[int, Field(description="the step of the model that was kept")]
    steps: Annotated[int, Field(description="updates that were made")]
    metric: Annotated[str, Field(description="the metric that chose the model")]
    calibrated: Annotated[bool, Field(description="whether the saved head is divided by a temperature")] = False
    temperature: Annotated[MaybeNumber, Field(description="that temperature, or the one that is advised")] = None
    threshold: Annotated[MaybeNumber, Field(description="probability from which on a label is given")] = None
    per_class: Annotated[list[dict[str, Any]], Field(description="a row a class and split: its precision, …")] = []
    bag_of_words: Annotated[list[dict[str, Any]], Field(description="a row a metric and split: the baseline")] = []
    no_bag_of_words: Annotated[str, Field(description="why there is no such baseline")] = ""


class Several(OpenAnswer):
    """`train --seeds` and `train --folds`: what `seeds.json` or `folds.json` holds, with the spread of each metric."""

    path: Annotated[str, Field(description="the folder of the runs")]
    options: Annotated[dict[str, Any], Field(description="the options that they have in common")]


class Search(OpenAnswer):
    """`tune`: what `tune.json` holds."""

    path: Annotated[str, Field(description="the folder of the search")]
    trials: Annotated[list[dict[str, Any]], Field(description="a row a trial: state, score, options")]


class Evaluated(OpenAnswer):
    """`evaluate`: under the name of each split its metrics, one number a key: `accuracy`, `accuracy_low`, …"""

    __pydantic_extra__: dict[str, dict[str, Any]]


class Predicted(BaseModel):
    """`predict`: a line a row: the row as it was given, with its `id`, and the answer. It has no key `schema`, as the
    keys are those of the row."""

    model_config = ConfigDict(extra="allow", strict=True)

    id: Annotated[Any, Field(description="of the row, or its number from 0")]
    prediction: Annotated[str | float | list[str], Field(description="the label, the labels, or the number")]
    probabilities: Annotated[dict[str, float], Field(description="of each label; of a number there are none")] = {}


class Written(OpenAnswer):
    """`report`, `eject --out`, `export`: where the file or the folder is."""

    path: Annotated[str, Field(description="what was written")]


class Script(JsonAnswer):
    """`eject`: the script, or where it is."""

    script: Annotated[str | None, Field(description="its text; null where `--out` is given")]
    path: Annotated[str | None, Field(description="where it is; null without `--out`")]


class Compared(JsonAnswer):
    """`compare`: each run or recipe, and each beside the first."""

    split: Annotated[str, Field(description="whose rows they are compared on")]
    rows: Annotated[int | None, Field(description="how many; null where each seed has rows of its own")]
    metric: Annotated[str, Field(description="the main one")]
    bag_of_words: Annotated[dict[str, float], Field(description="what one reaches by metric, if the same for all")] = {}
    runs: Annotated[list[dict[str, Any]], Field(description="each run with its metrics")] = []
    recipes: Annotated[list[dict[str, Any]], Field(description="instead of runs: folders of `--seeds`")] = []
    differs: Annotated[dict[str, list[Any]], Field(description="a value a side of what is not the same for all")]
    pairs: Annotated[list[dict[str, Any]], Field(description="each but the first: `differences`, `rows`, `examples`")]


class Listed(JsonAnswer):
    """`runs`: the runs below a folder, the best first."""

    folder: Annotated[str, Field(description="the folder")]
    differs: Annotated[list[str], Field(description="options that are not the same for all")]
    runs: Annotated[list[dict[str, Any]], Field(description="each: `path`, `state`, `metric`, `step`, splits, options")]


class Inspected(OpenAnswer):
    """`inspect`: how the data are read, and what was found. The keys after `read_as` are there if rows can be used."""

    rows: Annotated[dict[str, int], Field(description="of each split")]
    findings: Annotated[list[dict[str, Any]], Field(description="`severity`, `what`, `effect`, `advice`, `examples`")]
    read_as: Annotated[list[str], Field(description="how the files were read, where that was found out")]


class PreparedRows(JsonAnswer):
    """`prepare`: what was written."""

    path: Annotated[str, Field(description="the folder")]
    rows: Annotated[dict[str, int], Field(description="of each split")]
    tokens: Annotated[dict[str, int], Field(description="of each split")]
    size: Annotated[int, Field(alias="bytes", description="of all its files")]
    sha256: Annotated[str, Field(description="of its list, which has the digests of the rows")]


class Proved(JsonAnswer):
    """`verify`: a line a proof."""

    name_: Annotated[str, Field(alias="name", description="what was looked at")]
    holds: Annotated[bool | None, Field(description="null: it was not looked at")]
    text: Annotated[str, Field(description="what was seen, or why not")]


class Pushed(JsonAnswer):
    """`push`: where the model is."""

    url: Annotated[str, Field(description="of the repository or the commit")]


class Served(JsonAnswer):
    """`serve`: one line as soon as it listens."""

    model: Annotated[str, Field(description="the model as it was named")]
    address: Annotated[str, Field(description="where it listens")]


class QuizQuestions(JsonAnswer):
    """`quiz`: all questions with their answers; none is asked."""

    questions: Annotated[list[dict[str, Any]], Field(description="`id`, `lesson`, `text`, `answers`, `right`, `why`")]


class Completed(JsonAnswer):
    """`completion`: what a shell would complete."""

    commands: Annotated[dict[str, dict[str, str]], Field(description="the options of each command, and what each is")]


SCHEMAS: dict[str, type[BaseModel]] = {
    "dongu.train/1": Results,
    "dongu.seeds/1": Several,
    "dongu.folds/1": Several,
    "dongu.tune/1": Search,
    "dongu.evaluate/1": Evaluated,
    "dongu.predict/1": Predicted,
    "dongu.report/1": Written,
    "dongu.compare/1": Compared,
    "dongu.runs/1": Listed,
    "dongu.prepare/1": PreparedRows,
    "dongu.inspect/1": Inspected,
    "dongu.verify/1": Proved,
    "dongu.eject/1": Script,
    "dongu.export/1": Written,
    "dongu.serve/1": Served,
    "dongu.push/1": Pushed,
    "dongu.quiz/1": QuizQuestions,
    "dongu.completion/1": Completed,
}
OF_COMMANDS = {  # the schemas of a command, where they do not go by its name
    "train": ("train", "seeds", "folds"),
    "resume": ("train",),
    "demo": ("train",),
}
