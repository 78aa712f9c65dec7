"""What an ejected script says of itself at its head: what comes out the same, and what does not."""

from __future__ import annotations

import contextlib
import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from dongu.eject.spelling import LINE
from dongu.errors import CheckpointError
from dongu.files import read_log
from dongu.loop import Loop
from dongu.run.checkpoint import own_checkpoints, read_state
from dongu.run.folder import RunFolder
from dongu.text import counted, one_line


def head_of_script(
    record: Mapping[str, Any], facts: Mapping[str, Any], loop: Loop, folder: RunFolder, name: str
) -> str:
    """What the script does, and what comes out the same."""
    options, versions = record["options"], record["versions"]
    processes, threads = counted(record["processes"], "process", "processes"), counted(options["threads"], "thread")
    machine = f"{record['hardware']['device']}, {processes}" + (f" of {threads}" if facts["on_cpu"] else "")
    launch = f"torchrun --nproc-per-node {record['processes']}" if facts["distributed"] else "python"
    arguments = f"{'' if facts['hub'] else ' [--data FOLDER_OR_FILES]'} [--model MODEL] [--out FOLDER]"
    packages = f"torch {versions['torch']}, transformers {versions['transformers']}"
    wrote = (
        "It writes metrics.jsonl, results.json, the best model, and at each evaluation a checkpoint: it goes on there."
    )
    paragraphs = [
        f"Fine-tune {options['model']} on {loop.data.name}: all that the run `{folder.path.name}` did, in one file.",
        f"    {launch} {name}{arguments}",
        " ".join([wrote, f"The run: {machine}; {packages}.", *_promises(options, facts, folder)]),
    ]
    safe = (one_line(text).replace("\\", "\\\\").replace('"', "'") for text in paragraphs)
    filled = (
        text if text.startswith(" ") else textwrap.fill(text, LINE - 3, break_long_words=False)  # a command to copy
        for text in safe
    )
    return "\n\n".join(filled)


def _promises(options: Mapping[str, Any], facts: Mapping[str, Any], folder: RunFolder) -> Iterator[str]:
    """A sentence each: what is equal on the same machine, and what is not and by how much."""
    if options["engine"] == "packed":
        yield "The run left padding out (--engine packed), and this script does not; to compare digits, train with"
        yield "--engine plain."
        if facts["has_dropout"]:
            # `benchmarks/quality.py` measures it; tests/eject/test_eject.py compares it with docs/results.md.
            yield "Dropout is drawn in another way too, so they differ as two seeds do: over three seeds MiniLM reached"
            yield "79.46 ± 0.98% of MRPC's test rows in such runs, and 80.46 ± 0.68% as this script computes."
        else:
            # `benchmarks/eject.py` measures it.
            yield "Sums round otherwise: with MiniLM on MRPC 20 losses differed by up to 2e-7 of their size."
    elif _memory_ran_out(folder):
        yield "Memory ran out on the way, and the run continued with smaller micro-batches than the script has from the"
        yield "first step on: other draws of dropout, and other rounding."
    elif options["calibrate"]:
        yield "On that machine metrics.jsonl comes out as the run's, byte for byte."
    else:
        yield "On that machine metrics.jsonl comes out as the run's, byte for byte, and results.json with its metrics,"
        yield "digit for digit."
    if options["calibrate"]:
        yield "The run divided the last layer of its best model by a temperature (--calibrate), which is not done here:"
        yield f"answers are the same, their probabilities and the loss in results.json are not{_calibrated(folder)}."
    if options.get("abstain") is not None:
        yield "The run set a probability below which its model gives no label (--abstain), which is not done here."
    if not facts["on_cpu"]:
        yield "(As far as the device repeats itself: some of its sums have no fixed order.)"


def _memory_ran_out(folder: RunFolder) -> bool:
    for path in own_checkpoints(folder.checkpoints):
        with contextlib.suppress(CheckpointError):
            if read_state(path).micro_batch_size:
                return True
    return False


def _calibrated(folder: RunFolder) -> str:
    """What a temperature did to the loss on validation, if the run is over."""
    if not (folder.path / "results.json").exists():
        return ""
    folder.check_written("metrics.jsonl")
    results = folder.read_results()
    lines = map(json.loads, read_log(folder.metrics).splitlines())
    [before] = [
        line["loss"] for line in lines if line["event"] == "evaluation" and line["step"] == results["best_step"]
    ]
    return f" ({before:.4f} on validation, {results['validation']['loss']['value']:.4f} after the division)"
