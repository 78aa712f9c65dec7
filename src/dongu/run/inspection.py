"""What is looked at before a run begins: whether a best model can be chosen, and what the data doctor says."""

from __future__ import annotations

import shlex

from dongu.config import READING, RunConfig, option_flag
from dongu.data.names import LABELS, TEXTS, by_words, pair_of
from dongu.doctor.checkup import examine
from dongu.doctor.finding import Finding
from dongu.doctor.lengths import measure
from dongu.errors import DataError, InputError
from dongu.hub import split_commit
from dongu.loop import Loop
from dongu.model.load import usual_length
from dongu.run.folder import FINDINGS, RunFolder


def check_validation(loop: Loop) -> None:
    """Raise `InputError` if no best model can be chosen by the rows of validation."""
    validation = loop.data.splits.get("validation")
    if validation is None or validation.targets is None:
        raise InputError("validation has no labels", hint="a best model cannot be chosen without")
    if why := loop.metrics.why_undefined(validation.targets):
        what = f"validation {why}: {loop.metrics.main} is undefined, and no best model can be chosen"
        hint = "give other rows for validation" + (", or --metric loss" if len(validation) else "")
        raise DataError(what, where=validation.origin, hint=hint)


def inspection(loop: Loop, folder: RunFolder) -> str:
    """The command that shows these findings whole, or for rows in memory the file that holds them."""
    config = loop.config
    if not config.data:
        return str(folder.path / FINDINGS)
    length = None if config.max_length == usual_length(loop.model, loop.tokenizer) else config.max_length
    same = (
        "model", "label_separator", "unlabelled", "empty", "bad_rows", "rare", "positive",
        "batch_size", "seed", *READING,
        "long", "validation", "test", "group_column", "time_column", "fold", "split_file",
    )  # fmt: skip
    told = {"max_length": length, **{name: getattr(config, name) for name in same}}
    told["model"] = split_commit(config.model)[0]
    texts = config.text_columns or ()
    if pair_of(texts) != texts and not (len(texts) == 1 and by_words(texts).keys() <= {*TEXTS}):
        told["text_columns"] = config.text_columns
    if by_words([config.label_column or ""]).keys().isdisjoint(LABELS):
        told["label_column"] = config.label_column
    words = ["dongu", "inspect", split_commit(config.data)[0]]
    for name, value in told.items():
        if value not in (None, RunConfig.model_fields[name].default):
            parts = [] if value is True else value if isinstance(value, tuple) else [str(value)]
            words += [option_flag(name), *parts]
    return shlex.join(words)


def findings_of(loop: Loop) -> list[Finding]:
    """What the data doctor says about the rows of a loop, which are tokenized already."""
    if not loop.data.has_texts:
        return examine(loop.data, {})
    tokenizer, limit = loop.tokenizer.backend_tokenizer, usual_length(loop.model, loop.tokenizer)
    lengths = {
        name: measure(tokenizer, examples, loop.config.max_length, limit, loop.config.seed, loop.splits[name].tokens)
        for name, examples in loop.data.splits.items()
    }
    return examine(loop.data, {} if loop.config.long == "windows" else lengths)  # they leave nothing out
