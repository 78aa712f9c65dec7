"""Proofs about a run, on this machine and with its own data: it holds what was written, and it comes out again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dongu.baseline import measure_bag_of_words
from dongu.best import read_best
from dongu.config import ABSTAIN_BELOW
from dongu.data.pages import cache_folder
from dongu.data.tokenized import tokenized
from dongu.errors import CheckpointError, DonguError
from dongu.evaluate import model_threshold
from dongu.judge.abstention import fit_threshold
from dongu.judge.calibration import Calibration
from dongu.judge.intervals import constant_answer, verdict
from dongu.loop import Loop
from dongu.run.checkpoint import OWN, Checkpoint, RunState, own_checkpoints
from dongu.run.folder import RunFolder, dump_json
from dongu.run.identity import differences, identity
from dongu.run.journal import check_log, read_lines, step_line
from dongu.run.manifest import check_file, read_manifest
from dongu.run.tensor_file import entry_of_tensors
from dongu.run.tensors import own_tensors, referenced_tensors
from dongu.text import counted

_TOLERANCE = 1e-6  # of gradients, relative; what is left is the rounding of the loss, which is fp32


@dataclass(frozen=True)
class Proof:
    """One line: what was looked at, whether it holds (None: it was not looked at), and what was seen, or why not."""

    name: str
    holds: bool | None
    text: str


def verify(run: str | Path, data: Any = None, *, parts: str | Path | None = None, **own: Any) -> Iterator[Proof]:
    """Each proof as it is done, the quick ones first.

    The run may be finished or not. Its `data` are given again where they were in memory or lie elsewhere now, and so
    are its own parts: the file of them, or, in `own`, those that were handed in.

    Raises:
        InputError: the folder is no run, its data or model cannot be read, or its own parts are not given.
    """
    folder = RunFolder(Path(run))
    record = folder.read_record()
    finished = folder.is_finished
    if finished:
        yield _proof("files", lambda: _files(folder))
    else:
        yield Proof("files", None, "the run has not ended: its model and results are not looked at")
    states, damaged = _read_checkpoints(folder)
    yield _proof("checkpoints", lambda: _all_checkpoints(states, damaged))
    yield _proof("log", lambda: _log(folder, states))
    again: dict[str, Any] = {"data": data, "parts": parts, "takes_data": "verify", **own}
    loop = folder.reopen(**again)
    yield _proof("inputs", lambda: _inputs(folder, record, loop, states))
    yield _proof("replay", lambda: _replay(folder, record, loop, states))
    if finished:
        yield _proof("results", lambda: _results(folder, loop))
    yield _proof("accumulation", lambda: _accumulation(folder.reopen(**again, precision="fp32")))


class _Broken(Exception):  # noqa: N818 - it carries what was seen to `_proof`, and goes no further
    """A proof that does not hold."""


class _Skipped(Exception):  # noqa: N818 - as the one above
    """A proof that cannot be looked at here."""


def _proof(name: str, look: Callable[[], str]) -> Proof:
    try:
        return Proof(name, True, look())
    except _Broken as broken:
        return Proof(name, False, str(broken))
    except _Skipped as skipped:
        return Proof(name, None, f"not looked at: {skipped}")
    except DonguError as error:
        return Proof(name, False, f"{error.where} {error.what}".strip())
    except OSError as error:  # a folder where a file is expected, no permission
        return Proof(name, False, f"{error.filename} cannot be read ({error.strerror})")


def _files(folder: RunFolder) -> str:
    entries = read_manifest(folder.path)
    for name, entry in entries.items():
        check_file(folder.path / name, entry)
    size = sum(entry["size"] for entry in entries.values())
    return f"{len(entries)} files, {size:,} bytes, hold what was written"


def _read_checkpoints(folder: RunFolder) -> tuple[dict[Path, RunState], list[str]]:
    """The states of those that are whole, oldest first, and what is wrong with the others; one in memory at a time."""
    states, damaged = {}, []
    for path in own_checkpoints(folder.checkpoints):
        try:
            states[path] = Checkpoint.read(path).state
        except CheckpointError as error:
            damaged.append(f"{error.where} {error.what}")
    return states, damaged


def _all_checkpoints(states: Mapping[Path, RunState], damaged: Sequence[str]) -> str:
    if damaged or not states:
        raise _Broken("; ".join(damaged) or "there is none")
    return (
        f"{counted(len(states), 'is', 'are')} whole, of step {', '.join(str(state.step) for state in states.values())}"
    )


def _log(folder: RunFolder, states: Mapping[Path, RunState]) -> str:
    for state in states.values():
        check_log(folder.metrics, state.log)
    numbers = [line["step"] for line in _logged_steps(folder)]
    if numbers != list(range(1, len(numbers) + 1)):
        raise _Broken(f"{folder.metrics} does not have each step once, in order")
    return f"{len(numbers):,} steps, each once and in order, as the checkpoints know them"


def _logged_steps(folder: RunFolder) -> list[dict[str, Any]]:
    try:
        return [line for line in read_lines(folder.metrics) if line["event"] == "step"]
    except (ValueError, KeyError) as error:
        raise _Broken(f"{folder.metrics} has a line that is not its own ({error})") from error


def _inputs(folder: RunFolder, record: dict[str, Any], loop: Loop, states: Mapping[Path, RunState]) -> str:
    was, where = record, folder.record
    for path, state in states.items():  # the newest knows best
        was, where = state.identity, path
    found = list(differences(was, identity(loop), loop, str(where)))
    if any(difference.name for difference in found):
        raise _Broken("; ".join(difference.text for difference in found))
    read = loop.data.look_through()
    for name, examples in loop.data.splits.items() if loop.data.has_texts else ():
        split, texts = loop.splits[name], examples.texts
        anew = tokenized(loop.tokenizer, texts, loop.config, name, examples.ids, cache=False)
        pieces = split.windows if anew.windows is None else anew.windows
        if not (anew.tokens.same_as(split.tokens) and (pieces is None or pieces.same_as(split.pieces.tokens))):
            raise _Broken(f"the cache has other tokens of {name} than the tokenizer makes: remove {cache_folder()}")
    rows = sum(len(examples) for examples in loop.data.splits.values())
    changes = "".join(f"; changed at step {change['step']:,}" for change in record.get("changes", ()))
    harmless = "".join(f"; {difference.text}" for difference in found)
    same = "rows, options, starting weights, versions and hardware are what they were"
    return f"{rows:,} {same}{harmless}{changes}{read and f'; {read}'}"


def _replay(folder: RunFolder, record: dict[str, Any], loop: Loop, states: Mapping[Path, RunState]) -> str:
    """From one checkpoint to the next, over the shortest stretch that the run still holds and nothing changed in."""
    if not states:
        raise _Broken("there is no checkpoint to compare with")
    places = {0: None, **{state.step: path for path, state in states.items()}}
    *_, newest = states.values()
    processes = newest.identity.get("processes", 1)
    if processes != loop.accelerator.num_processes:  # sums over other parts of the rows round otherwise
        raise _Skipped(f"needs {counted(processes, 'process', 'processes')}, as the run had: start it with torchrun")
    if loop.is_sharded or loop.config.shard:
        raise _Skipped("a replay compares whole weights, and the run's are sharded")
    last = max((change["step"] for change in record.get("changes", ())), default=0)
    stretches = [(start, end) for start, end in pairwise(places) if start >= last]
    if not stretches:
        raise _Skipped(f"what the run depends on changed at step {last:,}, and no two checkpoints are of later ones")
    start, end = min(stretches, key=lambda pair: (pair[1] - pair[0], -pair[1]))
    if (path := places[start]) is not None:
        Checkpoint.read(path).restore(loop)
    logged = {line["step"]: line for line in _logged_steps(folder)}
    for step in loop:
        if step_line(step) != logged.get(step.number):
            raise _Broken(f"step {step.number:,} has other numbers than the log")
        if step.number == end:
            break
    target = folder.checkpoints / f"step-{end:08}"
    entries = read_manifest(target)  # the files are whole, or would not be among the states
    files = dict(zip(("weights.safetensors", "moments.safetensors"), referenced_tensors(loop), strict=True))
    if loop.own:
        files[OWN] = own_tensors(loop)[1]
    for name, tensors in files.items():
        if entry_of_tensors(tensors) != entries.get(name):
            raise _Broken(f"step {end:,}, replayed from step {start:,}, has other bytes than {target / name}")
    return f"steps {start + 1:,} to {end:,}: every logged number, weight and moment again, to the byte"


def _results(folder: RunFolder, loop: Loop) -> str:
    results = folder.read_json("results.json")  # `files` looks at its digest
    read_best(loop, folder)
    threshold = model_threshold(loop.model)
    splits = [name for name in loop.splits if name in results]
    constant = constant_answer(loop.metrics, loop.splits["train"].targets)
    calibration = Calibration(results["temperature"], results["calibrated"]) if "temperature" in results else None
    if calibration is not None and folder.temperature() != (calibration.temperature if calibration.applied else None):
        raise _Broken(f"the saved model's head is divided by {folder.temperature()}, and results.json says otherwise")
    labelled = {}
    for split in splits:
        evaluation = labelled[split] = loop.evaluate(split, model=loop.model)
        entries = verdict(evaluation, loop.metrics, constant, loop.config.seed)
        if calibration is not None and evaluation.targets is not None:
            entries["calibration_error"] |= calibration.errors(evaluation.logits, evaluation.targets)
        for name, entry in json.loads(dump_json(entries)).items():
            for key, number in entry.items():
                try:
                    written = results[split][name][key]
                except (KeyError, TypeError) as error:
                    raise _Broken(f"results.json has no {key} of {name} on {split}") from error
                if number != written:
                    raise _Broken(f"{split} {name}: {key} is {number!r}, and results.json has {written!r}")
        if split == "validation" and results.get(ABSTAIN_BELOW) is not None:
            limit = fit_threshold(evaluation, loop.config.abstain or 0)
            saved = folder.read_json("model/config.json").get(ABSTAIN_BELOW)
            if not limit == saved == results[ABSTAIN_BELOW]:
                raise _Broken(f"the model abstains below {saved!r}, and {limit!r} is what validation proves")
        if evaluation.threshold != threshold:
            raise _Broken(f"the threshold is {threshold!r}, and {evaluation.threshold!r} is best on {split}")
    found = json.loads(dump_json(measure_bag_of_words(loop, labelled))) if "bag_of_words" in results else None
    if found != results.get("bag_of_words"):
        raise _Broken("a bag of words reaches other metrics than results.json has of it")
    return f"the saved model has the metrics of results.json on {', '.join(splits)}, to the last digit"


def _accumulation(loop: Loop) -> str:
    """The gradient of the run's first and of its last, short update, whole and in pieces, without dropout."""
    if (split := loop.promises["split"]) != "yes":
        raise _Skipped(split.removeprefix("no: "))
    if loop.is_sharded:
        raise _Skipped("it computes in double precision, on one process: start verify without torchrun")
    model = loop.model
    if loop.accelerator.device.type != "mps":  # which has no double precision
        model.double()
    model.eval()
    worst, splits = 0.0, []
    short = loop.steps_per_epoch - 1
    for index in sorted({0, short} if len(loop.train_updates.rows(short)) < len(loop.train_updates.rows(0)) else {0}):
        rows = len(loop.train_updates.rows(index))
        sizes = sorted({rows, -(-rows // 2), 3, 1} & set(range(1, rows + 1)), reverse=True)
        whole, *pieces = [_gradients(loop, index, size) for size in sizes]
        splits.append(f"{rows} rows ({', '.join(f'by {size}' for size in sizes)})")
        for piece in pieces:
            worst = max(worst, *(_distance(whole[name], piece[name]) for name in whole))
    if not worst <= _TOLERANCE:
        raise _Broken(f"the split of an update changes its gradient by {worst:.1e} ({'; '.join(splits)})")
    return f"one gradient however an update is split, of {' and of '.join(splits)}: at most {worst:.0e} apart"


def _gradients(loop: Loop, index: int, micro_batch_size: int) -> dict[str, Tensor]:
    loop.train_updates.micro_batch_size = micro_batch_size
    loop.optimizer.zero_grad()
    loop.gradients(loop.train_updates[index])
    named = loop.model.named_parameters()
    return {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}


def _distance(one: Tensor, other: Tensor) -> float:
    """Relative to the larger one; 0 where both are nothing but rounding."""
    scale = torch.maximum(one.norm(), other.norm())
    return float((one - other).norm() / scale) if scale > 1e-12 else 0.0
