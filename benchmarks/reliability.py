"""The same faults against Transformers' Trainer, a loop on Accelerate, and `dongu`: what each makes of them.

    python benchmarks/reliability.py           # about 3 minutes; prints what was found
    python benchmarks/reliability.py --table   # the same as Markdown, and puts it between the marks in the document

A random BERT with dropout learns 36 updates of generated data on one thread, with a checkpoint every 4 updates and
the last two of them kept. Each run is a forked process that a signal, a damaged file or a full disk may meet. A restart
is the user's command again: it goes on from the newest checkpoint, or begins where there is none. Weights are compared
by a digest of all their bytes. The numbers of one run go to benchmarks/out/reliability.json.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import json
import os
import random
import re
import select
import shutil
import signal
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import accelerate
import accelerate.utils.other
import torch
import torch._dynamo  # otherwise each child imports it anew
import transformers
import transformers.modeling_utils
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import ProjectConfiguration, set_seed
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    get_linear_schedule_with_warmup,
)
from transformers.trainer_jit_checkpoint import JITCheckpointCallback
from transformers.trainer_utils import get_last_checkpoint

import dongu
import dongu.cli.main
import dongu.training
import dongu.use.classifier
from dongu.files import Disk
from forked import fork
from pages import put_between
from word_tokenizer import CLS, SPECIAL, word_tokenizer

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "out" / "reliability.json"
DOCUMENT = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- peers -->", "<!-- /peers -->"

ROWS, BATCH_SIZE, EPOCHS, SAVE_STEPS = 96, 8, 3, 4
STEPS_PER_EPOCH = ROWS // BATCH_SIZE
STEPS = EPOCHS * STEPS_PER_EPOCH
HALT_STEP = 16  # in the middle of the second epoch, just after a checkpoint
LEARNING_RATE = 1e-3
SEED = 42

WORDS = [f"word{i}" for i in range(64)]

NAN_STEP = 5
SIGTERMS = 10
RUNS_TO_KILL, KILLS_A_RUN = 5, 2
LATEST_TERM, LATEST_KILL = 24, 12  # batches of a life, at most, before the clock starts for the signal
TIMEOUT_SECONDS = 120.0
JIT_WAIT_SECONDS = 0.02
SPLITS = {"4 × 2": 2, "3 + 3 + 2": 3}
DAMAGES = ("missing", "empty", "cut", "one bit flipped")
NOTICE = re.compile(r"warning|error|damaged|corrupt|missing|could not|cannot|failed", re.IGNORECASE)


# Model and data.


def make_inputs(folder: Path) -> str:
    """`dropout/` and `plain/`, the same classifier with and without dropout, and `data/`; gives the folder."""
    tokenizer = word_tokenizer(WORDS, 32, "[CLS] $A [SEP]")
    for name, dropout in (("dropout", 0.1), ("plain", 0.0)):
        torch.manual_seed(SEED)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
            initializer_range=0.2,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            classifier_dropout=dropout,
        )
        BertForSequenceClassification(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "data").mkdir()
    for seed, (split, count) in enumerate({"train": ROWS, "validation": 16}.items()):
        random_words = random.Random(seed)
        rows = [
            {"text": " ".join([*random_words.choices(WORDS, k=random_words.randint(5, 16)), f"word{i % 2}"])}
            for i in range(count)
        ]
        lines = [json.dumps({**row, "label": i % 2}) + "\n" for i, row in enumerate(rows)]
        (folder / "data" / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return str(folder)


def read_rows(inputs: Path, tokenizer: Any) -> list[dict[str, Any]]:
    """The tokenized training rows."""
    lines = (inputs / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [{**tokenizer(record["text"], truncation=True), "labels": record["label"]} for record in records]


def digest_of(weights: dict[str, torch.Tensor]) -> str:
    """Of the names and all bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


# The three systems.


class System(Protocol):
    """What a fault is tried on."""

    name: str
    setup: str
    stops: str  # what it does about SIGTERM
    first_checkpoint: str
    weights_file: str
    optimizer_file: str

    def run(self, folder: Path, inputs: Path, keep: int = 2, **options: Any) -> str:
        """Start, or go on from the newest checkpoint in the folder; the digest of the final weights."""

    def checkpoints(self, folder: Path) -> list[Path]:
        """Oldest first."""

    def losses(self, folder: Path) -> list[float | None]:
        """What the log on disk says of each step; None where it is not a number."""

    def first_update(self, inputs: Path, micro_batch_size: int) -> tuple[float, float]:
        """Loss and gradient norm that are logged for one update of the first 8 rows."""


class TrainerSystem:
    """Transformers' Trainer."""

    name = "Transformers' Trainer"
    setup = (
        f'`save_strategy="steps"`, `save_steps={SAVE_STEPS}`, `save_total_limit=2`, otherwise its defaults;'
        " a restart is `train(resume_from_checkpoint=get_last_checkpoint(output_dir))`"
    )
    stops = f"`enable_jit_checkpoint=True`, its wait of 3 s after the signal shortened to {JIT_WAIT_SECONDS} s"
    first_checkpoint = f"checkpoint-{SAVE_STEPS}"
    weights_file, optimizer_file = "model.safetensors", "optimizer.pt"

    def run(self, folder: Path, inputs: Path, keep: int = 2, **options: Any) -> str:
        """See `System`; options are those of `TrainingArguments`."""
        trainer = self._trainer(
            inputs,
            "dropout",
            ROWS,
            output_dir=str(folder),
            per_device_train_batch_size=BATCH_SIZE,
            num_train_epochs=EPOCHS,
            learning_rate=LEARNING_RATE,
            save_strategy="steps",
            save_steps=SAVE_STEPS,
            save_total_limit=keep,
            **options,
        )
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, JITCheckpointCallback) and callback.jit_manager is not None:
                callback.jit_manager.kill_wait = JIT_WAIT_SECONDS
        trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) if folder.is_dir() else None)
        return digest_of(trainer.model.state_dict())

    def checkpoints(self, folder: Path) -> list[Path]:
        """See `System`."""
        return sorted(folder.glob("checkpoint-*"), key=_last_number)

    def losses(self, folder: Path) -> list[float | None]:
        """See `System`."""
        state = json.loads((self.checkpoints(folder)[-1] / "trainer_state.json").read_text(encoding="utf-8"))
        return [_finite(line["loss"]) for line in state["log_history"] if "loss" in line]

    def first_update(self, inputs: Path, micro_batch_size: int) -> tuple[float, float]:
        """See `System`."""
        with tempfile.TemporaryDirectory() as folder:
            trainer = self._trainer(
                inputs,
                "plain",
                8,
                output_dir=folder,
                per_device_train_batch_size=micro_batch_size,
                gradient_accumulation_steps=-(-8 // micro_batch_size),
                num_train_epochs=1,
                save_strategy="no",
            )
            trainer.train()
        line = trainer.state.log_history[0]
        return float(line["loss"]), float(line["grad_norm"])

    def _trainer(self, inputs: Path, model: str, rows: int, **options: Any) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(inputs / model)
        arguments = {"logging_steps": 1, "report_to": "none", "disable_tqdm": True, "use_cpu": True, "seed": SEED}
        return Trainer(
            model=AutoModelForSequenceClassification.from_pretrained(inputs / model),
            args=TrainingArguments(**arguments, **options),
            train_dataset=read_rows(inputs, tokenizer)[:rows],
            data_collator=DataCollatorWithPadding(tokenizer),
        )


class AccelerateSystem:
    """A loop on Accelerate, in the statements of its examples and its guide to checkpoints."""

    name = "a loop on Accelerate"
    setup = (
        f"`save_state()` every {SAVE_STEPS} updates with `automatic_checkpoint_naming` and `total_limit=2`,"
        " `use_seedable_sampler=True` (not the default) except where the default sampler is named; a restart is"
        " `load_state` of the newest folder and `skip_first_batches`; accumulation is `accumulate(model)`"
    )
    stops = "it offers nothing: the signal ends the process, the restart is from the last periodic checkpoint"
    first_checkpoint = "checkpoint_0"
    weights_file, optimizer_file = "model.safetensors", "optimizer.bin"

    def run(
        self,
        folder: Path,
        inputs: Path,
        keep: int = 2,
        *,
        model_name: str = "dropout",
        seedable: bool = True,
        **options: Any,
    ) -> str:
        """See `System`; other options are those of `Accelerator`."""
        found = self.checkpoints(folder)
        done = (_last_number(found[-1]) + 1) * SAVE_STEPS if found else 0
        accelerator = Accelerator(
            cpu=True,
            project_config=ProjectConfiguration(
                project_dir=str(folder),
                automatic_checkpoint_naming=True,
                total_limit=keep,
                iteration=done // SAVE_STEPS,
            ),
            dataloader_config=DataLoaderConfiguration(use_seedable_sampler=seedable),
            **options,
        )
        set_seed(SEED)
        tokenizer = AutoTokenizer.from_pretrained(inputs / model_name)
        model = AutoModelForSequenceClassification.from_pretrained(inputs / model_name)
        train_dataloader: Any = DataLoader(
            read_rows(inputs, tokenizer),  # type: ignore[arg-type]
            shuffle=True,
            batch_size=BATCH_SIZE,
            collate_fn=DataCollatorWithPadding(tokenizer),
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
        lr_scheduler = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=0, num_training_steps=STEPS)
        model, optimizer, train_dataloader, lr_scheduler = accelerator.prepare(
            model, optimizer, train_dataloader, lr_scheduler
        )
        if found:
            accelerator.load_state(str(found[-1]))
        folder.mkdir(exist_ok=True)
        with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
            for epoch in range(done // STEPS_PER_EPOCH, EPOCHS):
                model.train()
                train_dataloader.set_epoch(epoch)
                skipped = done % STEPS_PER_EPOCH if epoch == done // STEPS_PER_EPOCH else 0
                batches = accelerator.skip_first_batches(train_dataloader, skipped) if skipped else train_dataloader
                for number, batch in enumerate(batches, start=epoch * STEPS_PER_EPOCH + skipped + 1):
                    loss = model(**batch).loss
                    accelerator.backward(loss)
                    optimizer.step()
                    lr_scheduler.step()
                    optimizer.zero_grad()
                    log.write(json.dumps({"loss": _finite(loss.item())}) + "\n")
                    if number % SAVE_STEPS == 0:
                        accelerator.save_state()
        return digest_of(accelerator.unwrap_model(model).state_dict())

    def checkpoints(self, folder: Path) -> list[Path]:
        """See `System`."""
        return sorted((folder / "checkpoints").glob("checkpoint_*"), key=_last_number)

    def losses(self, folder: Path) -> list[float | None]:
        """See `System`."""
        return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]

    def first_update(self, inputs: Path, micro_batch_size: int) -> tuple[float, float]:
        """See `System`."""
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=-(-8 // micro_batch_size))
        tokenizer = AutoTokenizer.from_pretrained(inputs / "plain")
        model = AutoModelForSequenceClassification.from_pretrained(inputs / "plain")
        collate = DataCollatorWithPadding(tokenizer)
        rows: Any = read_rows(inputs, tokenizer)[:8]
        loader: Any = DataLoader(rows, batch_size=micro_batch_size, collate_fn=collate)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        losses, grad_norm = [], 0.0
        model.train()
        for batch in loader:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    grad_norm = float(accelerator.clip_grad_norm_(model.parameters(), 1.0))
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
        return sum(losses) / len(losses), grad_norm


class DonguSystem:
    """The command of this project."""

    name = "dongu"
    setup = f"`dongu train --save-steps {SAVE_STEPS}`, otherwise its defaults (`--keep 2`); a restart is `dongu resume`"
    stops = "always on"
    first_checkpoint = f"step-{SAVE_STEPS:08}"
    weights_file, optimizer_file = "weights.safetensors", "moments.safetensors"

    def run(self, folder: Path, inputs: Path, keep: int = 2, **options: Any) -> str:
        """See `System`."""
        train = {
            "model": inputs / "dropout",
            "out": folder,
            "epochs": EPOCHS,
            "batch-size": BATCH_SIZE,
            "lr": LEARNING_RATE,
            "seed": SEED,
            "save-steps": SAVE_STEPS,
            "keep": keep,
            "device": "cpu",
            "threads": 1,
            **options,
        }
        flags = [text for name, value in train.items() for text in (f"--{name}", str(value))]
        begun = (folder / "run.json").exists()
        code = dongu.cli.main.run(["resume", str(folder)] if begun else ["train", str(inputs / "data"), *flags])
        if code:
            raise SystemExit(code)
        return digest_of(load_file(self.checkpoints(folder)[-1] / self.weights_file))

    def checkpoints(self, folder: Path) -> list[Path]:
        """See `System`."""
        return sorted((folder / "checkpoints").glob("step-*"), key=_last_number)

    def losses(self, folder: Path) -> list[float | None]:
        """See `System`."""
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        return [line["loss"] for line in lines if line["event"] == "step"]

    def first_update(self, inputs: Path, micro_batch_size: int) -> tuple[float, float]:
        """See `System`."""
        lines = (inputs / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines[:8]]
        loop = dongu.Loop(
            {"train": rows, "validation": rows},  # otherwise some of the 8 would be held out
            model=str(inputs / "plain"),
            batch_size=8,
            micro_batch_size=micro_batch_size,
            device="cpu",
        )
        step = next(iter(loop))
        return step.loss, step.grad_norm


SYSTEMS: tuple[System, ...] = (TrainerSystem(), AccelerateSystem(), DonguSystem())


# One life of a process, and what may meet it.


@dataclass(frozen=True)
class Faults:
    """What happens to a process. Batches are counted from 1, at the forward pass; 0 is never."""

    die_at: int = 0  # as by SIGKILL, before this batch
    nan_at: int = 0  # a row of the word embeddings is NaN from this batch on
    full_after: int = 0  # once this batch was seen, files of `full_for` cannot be written
    full_for: str = ""
    signal: signal.Signals | None = None
    after: int = 1  # the signal is sent `delay` seconds after this batch
    delay: float = 0.0


@dataclass(frozen=True)
class End:
    """How a process ended."""

    code: int  # negative: by a signal
    weights: str | None  # digest at the end of the training
    batches: list[list[int]]  # the rows of each batch that was trained on, each row as a checksum of its tokens
    seconds: float  # from the first batch to the last
    output: str


class Watch:
    """Sees every training batch, in each system at the same place: where the word embeddings are looked up."""

    def __init__(self, pipe: int, faults: Faults) -> None:
        self.pipe, self.faults, self.count = pipe, faults, 0

    def __call__(self, module: torch.nn.Module, inputs: Any) -> None:
        """A forward pre-hook of all modules."""
        if not isinstance(module, torch.nn.Embedding) or module.num_embeddings != len(SPECIAL) + len(WORDS):
            return
        tokens = [token for token in inputs[0].flatten().tolist() if token]  # without padding they come in one row
        starts = [place for place, token in enumerate(tokens) if token == CLS]
        if not (module.training and starts):  # no row: `dongu` counts the operations of its model
            return
        self.count += 1
        if self.count == self.faults.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.count == self.faults.nan_at:
            module.weight.data[CLS] = float("nan")  # in every row
        rows = [zlib.crc32(bytes(tokens[start:end])) for start, end in pairwise([*starts, len(tokens)])]
        os.write(self.pipe, (json.dumps(rows) + "\n").encode())  # less than PIPE_BUF: whole or not at all

    def refuse(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """A function whose second argument is a path, on a disk that is full for some files."""
        if self.count >= self.faults.full_after and Path(arguments[1]).name == self.faults.full_for:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[1]))
        return function(*arguments, **options)


def live(task: Callable[[], str], faults: Faults | None = None) -> End:
    """Run a task in a forked process and wait for its end."""
    faults = faults or Faults()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as answer:
        announced, pipe = os.pipe()
        pid = fork(partial(_child, task, Watch(pipe, faults), answer.fileno()), output.fileno())
        os.close(pipe)
        text, first, last, sent = "", 0.0, 0.0, faults.signal is None
        due = deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            left = (deadline if sent else due) - time.monotonic()
            if left <= 0 and (sent or due == deadline):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise TimeoutError("a run did not end")
            if left <= 0 and faults.signal is not None:
                os.kill(pid, faults.signal)
                sent = True
            elif select.select([announced], [], [], left)[0]:
                chunk = os.read(announced, 1 << 16).decode()
                if not chunk:
                    break
                last = time.monotonic()
                first = first or last
                text += chunk
                if text.count("\n") >= faults.after and due == deadline:
                    due = time.monotonic() + faults.delay
        os.close(announced)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        for file in (output, answer):
            file.seek(0)
        return End(
            code=code,
            weights=answer.read().decode() or None if code == 0 else None,
            batches=[json.loads(line) for line in text.splitlines()],
            seconds=last - first,
            output=output.read().decode(errors="replace"),
        )


def _child(task: Callable[[], str], watch: Watch, answer: int) -> int:
    torch.nn.modules.module.register_module_forward_pre_hook(watch)
    if watch.faults.full_for:
        for owner, name in (
            (torch, "save"),
            (transformers.modeling_utils, "safe_save_file"),
            (accelerate.utils.other, "safe_save_file"),
        ):
            setattr(owner, name, partial(watch.refuse, getattr(owner, name)))
        write = Disk.write
        Disk.write = lambda *arguments: watch.refuse(write, *arguments)  # type: ignore[method-assign]
    os.write(answer, task().encode())
    return 0


# The rows of the table. Each gives numbers for the file and a text for the cell.


@dataclass(frozen=True)
class Finding:
    """One cell."""

    text: str
    numbers: dict[str, Any]


class Bench:
    """One system: its run without a fault, its run that was halted, and the faults."""

    def __init__(self, system: System, inputs: Path, folder: Path) -> None:
        self.system, self.inputs, self.folder = system, inputs, folder
        folder.mkdir()
        whole = self.live(folder / "whole")
        again = self.live(folder / "again")
        if whole.weights is None or len(whole.batches) != STEPS or again.weights != whole.weights:
            raise RuntimeError(f"{system.name} is not repeatable without a fault\n{whole.output}\n{again.output}")
        self.weights, self.seconds = whole.weights, min(whole.seconds, again.seconds)
        self.halted = folder / "halted"
        self.before = self.live(self.halted, Faults(die_at=HALT_STEP + 1))
        self.after = self.live(self.copy("resumed"))
        if self.after.weights is None:
            raise RuntimeError(f"{system.name} does not resume\n{self.after.output}")

    def live(self, folder: Path, faults: Faults | None = None, **options: Any) -> End:
        """Start or restart the run in a folder."""
        return live(partial(self.system.run, folder, self.inputs, **options), faults)

    def copy(self, name: str) -> Path:
        """The halted run under another name."""
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.halted, target)
        if (record := target / "run.json").exists():  # it knows its own place
            record.write_text(record.read_text().replace(str(self.halted), str(target)))
        return target

    def outcome(self, end: End) -> str:
        """Of a restarted run, compared with the one that was left alone."""
        if end.weights is None:
            return "error"
        return "same" if end.weights == self.weights else "other"

    def surprise(self, number: signal.Signals, moments: random.Random, latest: int) -> Faults:
        """A signal some batches into a life, and then anywhere in the time from one save to the next."""
        after, delay = moments.randint(1, latest), moments.random() * SAVE_STEPS * self.seconds / STEPS
        return Faults(signal=number, after=after, delay=delay)

    def clean(self) -> Finding:
        """A restart after a halt in the middle of an epoch, nothing damaged."""
        return Finding(_bytes(self.after.weights == self.weights), {"same": self.after.weights == self.weights})

    def clean_with(self, **options: Any) -> bool:
        """Whether it ends in the bytes of a run without a halt where both have these options."""
        whole = self.live(self.folder / "other-whole", **options)
        run = self.folder / "other-halted"
        self.live(run, Faults(die_at=HALT_STEP + 1), **options)
        end = self.live(run, **options)
        if whole.weights is None or end.weights is None:
            raise RuntimeError(f"{self.system.name} does not resume\n{whole.output}\n{end.output}")
        return end.weights == whole.weights

    def damage(self) -> Finding:
        """Each file of the newest checkpoint, damaged in each way."""
        newest = self.system.checkpoints(self.halted)[-1]
        files = sorted(path.relative_to(newest) for path in newest.rglob("*") if path.is_file())
        usual = set(_notices(self.after.output))
        cells: dict[str, str] = {}
        for file in files:
            for kind in DAMAGES:
                run = self.copy("damaged")
                damage(self.system.checkpoints(run)[-1] / file, kind)
                end = self.live(run)
                if end.weights is None:
                    cells[f"{file}, {kind}"] = "error"
                elif set(_notices(end.output)) - usual:
                    same = end.weights == self.weights
                    cells[f"{file}, {kind}"] = "older one used" if same else "message"
                else:
                    same = end.weights == self.after.weights
                    cells[f"{file}, {kind}"] = "same" if same else "other"
        counts = Counter(cells.values())
        noticed = counts["error"] + counts["older one used"] + counts["message"]
        ways = [f"{counts[way]} × {way}" for way in ("error", "older one used", "message") if counts[way]]
        return Finding(
            f"{noticed} of {len(cells)} noticed ({', '.join(ways)}); unnoticed: {counts['other']} with other final"
            f" weights, {counts['same']} with the same ({len(files)} files)",
            {"files": [str(file) for file in files], "cells": cells, **counts},
        )

    def not_a_number(self, **options: Any) -> Finding:
        """A weight becomes NaN."""
        run = self.folder / "nan"
        shutil.rmtree(run, ignore_errors=True)
        end = self.live(run, Faults(nan_at=NAN_STEP), **options)
        losses = self.system.losses(run)
        files = [path for path in run.rglob("*.safetensors") if path.is_file()]
        spoilt = sum(any(bool(tensor.isnan().any()) for tensor in load_file(path).values()) for path in files)
        seen = len(end.batches)
        after = sorted({"NaN" if loss is None else f"{loss:.1f}" for loss in losses[NAN_STEP - 1 :]})
        ends = "runs to its end without an error" if end.code == 0 else f"stops at step {seen} (exit code {end.code})"
        logs = f"logs a loss of {', '.join(after)} from there on" if after else "logs no loss for it"
        return Finding(
            f"{ends}, {logs}; NaN in {spoilt} of {len(files)} weight files on disk",
            {"code": end.code, "steps": seen, "losses": losses, "spoilt": spoilt, "weight_files": len(files)},
        )

    def sigterm(self, **options: Any) -> Finding:
        """SIGTERM at a random moment, then a restart."""
        moments = random.Random(3)
        outcomes: list[str] = []
        twice = 0
        for number in range(SIGTERMS):
            run = self.folder / f"term-{number}"
            stopped = self.live(run, self.surprise(signal.SIGTERM, moments, LATEST_TERM), **options)
            if len(stopped.batches) >= STEPS:
                raise RuntimeError(f"the signal came too late: {stopped.output}")
            end = self.live(run, **options)
            outcomes.append(self.outcome(end))
            if end.weights is not None:
                twice += len(stopped.batches) + len(end.batches) - STEPS
        counts = Counter(outcomes)
        failed = f", {counts['error']} cannot be restarted" if counts["error"] else ""
        return Finding(
            f"{counts['same']} of {SIGTERMS} end in the same bytes{failed}; {twice} batches computed twice in all",
            {**counts, "batches_twice": twice},
        )

    def sigkill(self) -> Finding:
        """SIGKILL twice in each of some runs, at random times."""
        moments = random.Random(4)
        counts: Counter[str] = Counter()
        for number in range(RUNS_TO_KILL):
            run, kills, helped = self.folder / f"kill-{number}", 0, False
            while True:
                found = bool(self.system.checkpoints(run))
                faults = self.surprise(signal.SIGKILL, moments, LATEST_KILL) if kills < KILLS_A_RUN else None
                end = self.live(run, faults)
                counts["from a checkpoint"] += found and bool(end.batches)
                if end.code == -signal.SIGKILL:
                    kills += 1
                elif end.weights is None and self.system.checkpoints(run):
                    helped = True
                    shutil.rmtree(self.system.checkpoints(run)[-1])  # what a person would do
                else:
                    break
            counts[self.outcome(end)] += 1
            counts["by hand"] += helped
            counts["kills"] += kills
        return Finding(
            f"{counts['same']} of {RUNS_TO_KILL} runs end in the same bytes ({counts['kills']} kills,"
            f" {counts['from a checkpoint']} restarts from a checkpoint); {counts['by hand']} could not go on before"
            " the newest checkpoint was removed by hand",
            dict(counts),
        )

    def accumulation(self) -> Finding:
        """One update of 8 rows, whole and in parts."""

        def first_update(micro_batch_size: int) -> tuple[float, float]:
            end = live(lambda: json.dumps(self.system.first_update(self.inputs, micro_batch_size)))
            if end.weights is None:
                raise RuntimeError(end.output)
            loss, grad_norm = json.loads(end.weights)
            return loss, grad_norm

        whole = first_update(8)
        numbers: dict[str, Any] = {"8": whole}
        texts = []
        for name, size in SPLITS.items():
            numbers[name] = parts = first_update(size)
            loss, norm = (abs(part - full) / full for part, full in zip(parts, whole, strict=True))
            texts.append(f"{name}: loss off by {_share(loss)}, gradient norm by {_share(norm)}")
        return Finding("; ".join(texts), numbers)

    def order(self, **options: Any) -> Finding:
        """The rows of the epoch in whose middle the run was halted: before the halt and after the restart."""
        before, after = self.before, self.after
        if options:
            run = self.folder / "order"
            before = self.live(run, Faults(die_at=HALT_STEP + 1), **options)
            after = self.live(run, **options)
        epoch = [*before.batches[STEPS_PER_EPOCH:HALT_STEP], *after.batches[: 2 * STEPS_PER_EPOCH - HALT_STEP]]
        rows = [row for batch in epoch for row in batch]
        twice, never = len(rows) - len(set(rows)), ROWS - len(set(rows))
        return Finding(f"{twice} seen twice, {never} never", {"twice": twice, "never": never})

    def full_disk(self) -> Finding:
        """No space for the weights, then for the optimizer, of the second checkpoint, with one to be kept."""
        counts: Counter[str] = Counter()
        for file in (self.system.weights_file, self.system.optimizer_file):
            run = self.folder / f"full-{file}"
            failed = self.live(run, Faults(full_after=2 * SAVE_STEPS, full_for=file), keep=1)
            if failed.weights is not None:
                raise RuntimeError(f"the disk was not full: {failed.output}")
            older = any(path.name == self.system.first_checkpoint for path in self.system.checkpoints(run))
            end = self.live(run, keep=1)
            works = end.weights is not None and len(end.batches) == STEPS - SAVE_STEPS
            counts["there"] += older
            counts["restarted from it"] += works
            if older and end.weights is None:
                for path in self.system.checkpoints(run):
                    if path.name != self.system.first_checkpoint:
                        shutil.rmtree(path)  # what a person would do
                end = self.live(run, keep=1)
                works = end.weights is not None and len(end.batches) == STEPS - SAVE_STEPS
            counts["valid"] += older and works
            counts["same bytes"] += older and works and end.weights == self.weights
        return Finding(
            f"the older checkpoint is there in {counts['there']} of 2 cases and valid in {counts['valid']};"
            f" the usual restart goes on from it in {counts['restarted from it']}",
            dict(counts),
        )


def damage(path: Path, kind: str) -> None:
    """One of `DAMAGES`."""
    content = bytearray(path.read_bytes())
    if kind == "missing":
        path.unlink()
        return
    if kind == "one bit flipped":
        content[len(content) * 6 // 10] ^= 0x40
    length = {"empty": 0, "cut": len(content) // 2}.get(kind, len(content))
    path.write_bytes(content[:length])


def _notices(output: str) -> Iterator[str]:
    """The lines that tell of something wrong, without their numbers."""
    for line in output.splitlines():
        if NOTICE.search(line):
            yield re.sub(r"[\d.]+", "#", line)


def _bytes(same: bool) -> str:
    return "the same bytes" if same else "other weights"


def _last_number(path: Path) -> int:
    return int(re.findall(r"\d+", path.name)[-1])


def _finite(loss: float) -> float | None:
    return loss if loss == loss and abs(loss) != float("inf") else None


def _share(value: float) -> str:
    return f"{100 * value:.1f} %" if value >= 5e-4 else f"{value:.0e}" if value else "0"


# Running and printing.


def find_all(folder: Path) -> dict[str, list[Finding]]:
    """Every row of the table: its title, and a finding a system."""
    inputs = folder / "inputs"
    inputs.mkdir()
    prepared = live(partial(make_inputs, inputs))
    if prepared.code:
        raise RuntimeError(prepared.output)
    benches = [Bench(system, inputs, folder / str(index)) for index, system in enumerate(SYSTEMS)]
    trainer, loop, ours = benches
    rows: dict[str, list[Finding]] = {}

    def add(title: str, findings: Sequence[Finding]) -> None:
        rows[title] = list(findings)
        print(".", end="", file=sys.stderr, flush=True)

    no_dropout = loop.clean_with(model_name="plain")
    shown = loop.clean()
    add(
        "restart in the middle of an epoch, nothing damaged: final weights",
        [
            trainer.clean(),
            Finding(
                f"{shown.text}; without dropout {_bytes(no_dropout)}", {**shown.numbers, "same_no_dropout": no_dropout}
            ),
            ours.clean(),
        ],
    )
    add(
        f"each file of the newest checkpoint {', '.join(DAMAGES[:-1])} or with {DAMAGES[-1]}",
        [bench.damage() for bench in benches],
    )
    shown = trainer.not_a_number()
    unfiltered = trainer.not_a_number(logging_nan_inf_filter=False)
    add(
        f"a weight becomes NaN at step {NAN_STEP} of {STEPS}",
        [
            Finding(
                f"{shown.text}. With `logging_nan_inf_filter=False`: {unfiltered.text}",
                {"default": shown.numbers, "logging_nan_inf_filter=False": unfiltered.numbers},
            ),
            loop.not_a_number(),
            ours.not_a_number(),
        ],
    )
    add(
        f"SIGTERM at {SIGTERMS} random moments, then a restart",
        [trainer.sigterm(enable_jit_checkpoint=True), loop.sigterm(), ours.sigterm()],
    )
    add(
        f"SIGKILL at random times, {KILLS_A_RUN} in each of {RUNS_TO_KILL} runs", [bench.sigkill() for bench in benches]
    )
    accumulated = [bench.accumulation() for bench in benches]
    losses = [finding.numbers["8"][0] for finding in accumulated]
    if max(losses) - min(losses) > 1e-5:
        raise RuntimeError(f"the systems do not compute the same thing: {losses}")
    add("8 rows as one batch, and in parts by accumulation: what is logged", accumulated)
    default = loop.order(seedable=False)
    seedable = loop.order()
    add(
        f"rows of an epoch of {ROWS} with a restart in its middle",
        [
            trainer.order(),
            Finding(
                f"default sampler: {default.text}; `use_seedable_sampler=True`: {seedable.text}",
                {"default": default.numbers, "seedable": seedable.numbers},
            ),
            ours.order(),
        ],
    )
    add(
        "no space for the second checkpoint, one to be kept: weights, or optimizer",
        [bench.full_disk() for bench in benches],
    )
    return rows


def versions() -> str:
    """Of what was measured."""
    return (
        f"Transformers {transformers.__version__}, Accelerate {accelerate.__version__}, dongu {dongu.__version__},"
        f" PyTorch {torch.__version__}"
    )


def markdown(rows: dict[str, list[Finding]]) -> str:
    """The table for the document."""
    lines = [
        f"| fault | {' | '.join(system.name for system in SYSTEMS)} |",
        f"| --- |{' --- |' * len(SYSTEMS)}",
        *(f"| {title} | {' | '.join(finding.text for finding in findings)} |" for title, findings in rows.items()),
        "",
        f"{versions()}, one CPU thread.",
        "",
        *(f"- {system.name}: {system.setup}. SIGTERM: {system.stops}." for system in SYSTEMS),
    ]
    return "\n".join(lines)


def plain(rows: dict[str, list[Finding]]) -> str:
    """The same for a terminal."""
    width = max(len(system.name) for system in SYSTEMS)
    lines = [versions()]
    for title, findings in rows.items():
        lines += ["", title]
        lines += [
            f"  {system.name:<{width}}  {finding.text}" for system, finding in zip(SYSTEMS, findings, strict=True)
        ]
    return "\n".join([*lines, "", *(f"{s.name}: {s.setup}. SIGTERM: {s.stops}." for s in SYSTEMS)])


def main() -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="as Markdown, into docs/reliability.md too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        os.environ["DONGU_CACHE"] = str(Path(folder) / "token-cache")
        rows = find_all(Path(folder))
    seconds = time.monotonic() - started
    print(file=sys.stderr)
    found = {
        title: {s.name: {"text": f.text, **f.numbers} for s, f in zip(SYSTEMS, findings, strict=True)}
        for title, findings in rows.items()
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    content = {"versions": versions(), "seconds": seconds, "found": found}
    OUT.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if arguments.table:
        put_between(DOCUMENT, BEGIN, markdown(rows), END)
    else:
        print(plain(rows))
    print(f"\n{seconds:.0f} s; all numbers: {OUT.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
