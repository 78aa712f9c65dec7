"""What was once wrong, each by a name: no entry of the list without a test that holds its right value.

A test says which entries it holds by the marker `found`: `@pytest.mark.found(NAME)`.
"""

from __future__ import annotations

import re
from pathlib import Path

FOUND = {
    # On every machine
    "bf16-speed": "a precision that is slower, or faster, on this processor is said at the start, with by how much",
    # Wrong in silence
    "labels-numbers-in-lists": "a list of 0 and 1 marks its labels by position; numbers in a list are never names",
    "labels-soft": "shares that sum to one are refused as soft labels, with the row",
    "labels-list-as-text": "a list written as text in a cell is several labels",
    "labels-separator": "several labels in a cell, with a separator: inferred where the parts recur, and said",
    "labels-whole-floats": "0.0 in one file and 0 in another are one class; numbers that are classes keep their order",
    "labels-decimal-comma": "`3,5` is a number where all cells are, or it is refused; never a class in silence",
    "labels-unlabelled": "rows with -1 for a label are named as rows without a label, and left out on demand",
    "objects-as-text": "bytes, sets, enums and other objects are read by their meaning or refused, never by str()",
    "label-order-of-a-classifier": "a classifier of the same labels goes on with its own order of them",
    "head-of-another-task": "a head for other labels or another task is a new one, and the header says so",
    "regression-unit": "a regression model that is trained on keeps the unit of its head",
    "predict-frames": "a frame or a dict of columns answers its rows, a string is one text",
    "predict-columns-kept": "answers keep every value of their row and never overwrite a column",
    "text-not-used": "a longer text that is not used is a finding, with the option to give",
    "notebook-interrupt": "an interrupt inside a step changes neither the weights to come nor the number of updates",
    "notebook-look": "an evaluation leaves each module in the mode it had",
    "notebook-not-finite": "an update that is not finite leaves no gradients",
    "third-split": "every split that is given is there, or it is refused by name",
    "hooks-and-forwards": "a hook, a replaced forward or gradient checkpointing is never bypassed",
    "replaced-parts": "a replaced optimizer, schedule, model or head is honoured or refused",
    "log-is-what-was-done": "a step reports the rate and the rows that were used",
    "half-taken": "what is assigned to a part of the loop is taken whole or refused",
    "accelerate-environment": "each setting of Accelerate's environment is honoured or refused by name",
    "processes-compared": "processes that were given other data or options end at the start, and say which",
    "token-cache-key": "a token cache is used for the texts that it was made of, and no others; verify sees it",
    "hub-commit": "the commits of a Hub model and data set are recorded, and a repeated run uses them",
    "edited-results": "results that the manifest disagrees with are never shown as true",
    # Open doors
    "links": "nothing in a run folder is written through a link",
    "eject-literals": "every value in an ejected script is a checked literal",
    "kinds-and-sizes": "a pipe, a device or a file of gigabytes in any place is refused by kind and size",
    "tokenizer-panic": "a tokenizer whose expressions backtrack ends in an error of three lines",
    "config-limits": "a model that is too large to be true is refused before memory is taken",
    # Crashes and lost work
    "model-types": "every model type with a sequence classifier trains, or is refused in one sentence",
    "statistics": "a statistic never ends a run",
    "lora-experts": "LoRA on mixtures of experts works or is refused in one sentence",
    "answers-alone": "a model that answers otherwise alone than in a batch is said to",
    "standard-output": "standard output that is full, closed or a closed pipe ends no run and hides no exit code",
    "ranks-speak": "each process says what it met, with its number; the others say that another one ended",
    "node-local-folder": "a run folder that not all processes see is refused at the start",
    "verify-processes": "a sound run of two processes verifies on one",
    "commands-on-processes": "predict, export and report write once under a launcher",
    "model-mode": "all files of a model have the mode that the umask gives",
    "config-identity": "RunConfig(**config.model_dump()) is the identity, and derives what make_config does",
    "constant-validation": "a validation part without two different numbers is refused before the first step",
    # Said rightly
    "demo-answers": "the demonstration says beside each answer whether it is right",
    "few-passes": "the report claims nothing from fewer passes or rows than it needs",
    "few-rows-temperature": "no temperature is advised from few rows or where chance explains the error",
    "hub-refusals": "what the Hub refuses is told as what it is, and retried where that helps",
    "advice": "advice fits what the user did",
    "extra-positional": "an extra path is called a path",
}


def test_every_entry_has_a_test() -> None:
    here = Path(__file__).parent
    texts = (path.read_text(encoding="utf-8") for path in here.rglob("*.py"))
    held = {name for text in texts for name in re.findall(r'mark\.found\("([a-z0-9-]+)"\)', text)}
    assert held - FOUND.keys() == set()
    assert FOUND.keys() - held == set()
