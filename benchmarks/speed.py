"""Seconds of a training step, an evaluation and a start: `dongu` beside the plain loop, Trainer and Lightning.

    python benchmarks/speed.py                         # batches of 8 and 32; needs an idle machine
    python benchmarks/speed.py --base --rounds 4       # a random model of BERT-base's size, batches of 8
    python benchmarks/speed.py --random qwen3 --rounds 4 --only plain dongu-plain dongu       # or --random modernbert
    python benchmarks/speed.py --fp32                  # on a processor without instructions for bf16
    python benchmarks/speed.py --evaluate | --startup | --profile
    python benchmarks/speed.py --device cuda --warm-up 60 --rounds 6 --steps 8     # on a GPU, with or without --base
    python benchmarks/speed.py --table                 # only writes the tables of what was measured

Every peer is a process of its own, so no setting and no allocator leaks into another, and all of them live at once and
take turns (A B C A B C …). A turn is a few whole updates as a user pays for them: making the batch, forward, backward,
the gradient norm where the peer computes one, optimizer, schedule, log and progress bar at their defaults. Its first
update, which finds the caches full of another peer's data, does not count. All train
the same MRPC pairs from the same weights, in the same order unless they group by length; a turn counts as seconds a
real token, and ratios are taken inside a round. Peak memory is that of the process. The peers named `products` run
nothing but the matrix products of a step on its real tokens: the share of the machine that a step reaches. On a GPU
a turn ends when the device has done all that it was asked for, and memory is the device's.

Where others use the machine, `OMP_NUM_THREADS=1` with `--clock cpu` counts what the processor did for the peer.
The numbers go to benchmarks/out/speed.json, those of --fp32 to benchmarks/speed-fp32.json, the tables to
docs/performance.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from pages import put_between

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "benchmarks" / "out" / "speed.json"
OUTPUT_FP32 = ROOT / "benchmarks" / "speed-fp32.json"  # of processors without instructions for bf16
DOCUMENT = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- speed: {} -->", "<!-- /speed: {} -->"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
SEED = 42
REST_SECONDS = 0.02  # between turns: waiting OpenMP threads spin for some milliseconds
UNPROFILED_STEPS = 30  # in the first ones the heap still grows, and new memory takes longer to fill than old
PROFILED_STEPS = 12
LISTED_OPERATIONS = 40  # all the others together are a few hundredths


@dataclass(frozen=True)
class Job:
    """What one process does."""

    peer: str
    data: str
    model: str
    folder: str  # of its own, to write to
    batch_size: int
    steps: int  # all of them
    warm_up: int
    clock: str
    uncounted: int = 0  # updates at the beginning of each turn, 0 or 1
    device: str = "cpu"  # or cuda
    epochs: int = 1  # of `dongu`
    began: float = 0.0  # when the process was asked for, seconds since the epoch


@dataclass
class Turns:
    """The updates of a process, in turns that the controller asks for over a pipe; the first is the warm-up."""

    job: Job
    answers: IO[str]
    tokens: list[int] = field(default_factory=list)  # real ones of each batch, as they are made
    done: int = 0  # updates in earlier turns
    count: int = 0  # updates of this turn that count
    left: int = 0
    operations: float = 0.0  # of this turn, where they are counted
    since: float = 0.0

    def __post_init__(self) -> None:
        self.begin(self.job.warm_up)

    def begin(self, count: int, uncounted: int = 0) -> None:
        """A turn of so many updates, after some that find the caches full of another peer's data."""
        self.count, self.left = count, uncounted + count
        self.operations = 0.0
        self.since = CLOCKS[self.job.clock]()

    def tick(self) -> None:
        """An update is made. At the end of a turn: report it, and wait for the next."""
        self.left -= 1
        if self.left == self.count:  # the last that does not count
            self.done += 1
            self.begin(self.count)
        if self.left:
            return
        peak = self.peak_mib()  # waits for a GPU
        seconds = CLOCKS[self.job.clock]() - self.since
        tokens = sum(self.tokens[self.done : self.done + self.count])
        self.done += self.count
        mean = {"seconds": seconds, "tokens": tokens, "operations": self.operations}
        self.say({**{name: value / self.count for name, value in mean.items()}, "peak_mib": peak})
        word = sys.stdin.readline().strip()
        if not word:  # the controller has no more turns, or is gone
            os._exit(0)
        self.begin(int(word), self.job.uncounted)

    def peak_mib(self) -> float:
        """The most memory that the process has used, or that it has used of its GPU, when that has nothing to do."""
        if self.job.device == "cuda":
            import torch

            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() / 2**20
        # ru_maxrss is in KiB, but in bytes on macOS.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)

    def say(self, message: dict[str, Any]) -> None:
        """One line to the controller."""
        print(json.dumps(message), file=self.answers, flush=True)


# --- The peers: each trains, and calls `turns.tick()` after every update. ---


def ordered_rows(job: Job, split: str = "train") -> tuple[list[dict[str, Any]], Any]:
    """The tokenized rows of the job in the order of `dongu`'s first epoch, and the tokenizer."""
    import numpy as np
    from transformers import AutoTokenizer

    import plain_loop

    tokenizer = AutoTokenizer.from_pretrained(job.model)
    rows = plain_loop.tokenize(plain_loop.read_rows(Path(job.data), split), "mrpc", tokenizer)
    if split != "train":
        return rows, tokenizer
    return [rows[i] for i in np.random.default_rng([SEED, 0]).permutation(len(rows))], tokenizer


def padding(tokenizer: Any, turns: Turns) -> Callable[[Any], Any]:
    """The usual collator, which also counts the real tokens."""
    from transformers import DataCollatorWithPadding

    pad = DataCollatorWithPadding(tokenizer)

    def collate(rows: Any) -> Any:
        turns.tokens.append(sum(len(row["input_ids"]) for row in rows))
        return pad(rows)

    return collate


def classifier(job: Job) -> Any:
    """The pretrained encoder with a new head."""
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(SEED)
    return AutoModelForSequenceClassification.from_pretrained(job.model, num_labels=2).to(job.device)


def train_plain(job: Job, turns: Turns, *, fused: bool = False, keep: bool = False) -> None:
    """The course's statements; with fused AdamW, and with an allocator that keeps freed memory, to see what each is
    worth."""
    import torch
    from torch.utils.data import DataLoader
    from tqdm.auto import tqdm
    from transformers import get_scheduler

    if keep:
        from dongu.engine.device import keep_freed_memory

        keep_freed_memory()
    rows, tokenizer = ordered_rows(job)
    loader: Any = DataLoader(rows, batch_size=job.batch_size, collate_fn=padding(tokenizer, turns))  # type: ignore[arg-type]
    model = classifier(job)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=fused or None)
    lr_scheduler = get_scheduler("linear", optimizer=optimizer, num_warmup_steps=0, num_training_steps=job.steps)
    progress_bar = tqdm(range(job.steps))
    model.train()
    for batch in loader:
        batch = {name: tensor.to(job.device) for name, tensor in batch.items()}
        outputs = model(**batch)
        loss = outputs.loss
        loss.backward()
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
        progress_bar.update(1)
        turns.tick()


def train_trainer(job: Job, turns: Turns, **flags: Any) -> None:
    """Transformers' Trainer. Its batches of like lengths come in chance order here: it puts the longest first, and a
    measurement ends before the short ones."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Ticking(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.tick()

    class Shuffled(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *options: Any) -> Any:
            order = list(super()._get_train_sampler(*options))
            if flags.get("train_sampling_strategy") != "group_by_length":
                return order
            full = len(order) - len(order) % job.batch_size
            batches = [order[start : start + job.batch_size] for start in range(0, full, job.batch_size)]
            random.Random(SEED).shuffle(batches)
            return [place for batch in batches for place in batch] + order[full:]

    rows, tokenizer = ordered_rows(job)
    arguments = TrainingArguments(
        job.folder,
        per_device_train_batch_size=job.batch_size,
        num_train_epochs=1,
        use_cpu=job.device == "cpu",
        report_to="none",
        **{"train_sampling_strategy": "sequential", **flags},
    )
    Shuffled(
        model=classifier(job),
        args=arguments,
        train_dataset=rows,
        data_collator=padding(tokenizer, turns),
        callbacks=[Ticking()],
    ).train()


def train_lightning(job: Job, turns: Turns) -> None:
    """PyTorch Lightning with bf16 on a LightningModule as its manual writes it."""
    import torch
    from torch.utils.data import DataLoader
    from transformers import get_scheduler

    lightning: Any = importlib.import_module("lightning")

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = classifier(job).train()

        def training_step(self, batch: Any, _: int) -> Any:
            return self.model(**batch).loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=5e-5)
            schedule = get_scheduler("linear", optimizer=optimizer, num_warmup_steps=0, num_training_steps=job.steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    class Ticking(lightning.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, *_: Any, **__: Any) -> None:
            turns.tick()

    rows, tokenizer = ordered_rows(job)
    loader: Any = DataLoader(rows, batch_size=job.batch_size, collate_fn=padding(tokenizer, turns))  # type: ignore[arg-type]
    trainer = lightning.Trainer(
        accelerator="cpu" if job.device == "cpu" else "gpu",
        devices=1,
        precision="bf16-mixed",
        max_epochs=1,
        default_root_dir=job.folder,
        callbacks=[Ticking()],
    )
    trainer.fit(Module(), loader)


def train_dongu(job: Job, turns: Turns, **options: Any) -> None:
    """`dongu.train`, with its log, its journal and its progress bar."""
    import dongu.training
    import plain_loop
    from dongu.loop import Loop
    from dongu.run.console import Console
    from dongu.update import Step

    class Ticking(Loop):
        def __iter__(self) -> Iterator[Step]:
            for step in super().__iter__():
                turns.tokens.append(step.tokens)
                yield step
                turns.tick()

    dongu.training.Loop = Ticking  # type: ignore[attr-defined]
    data = {name: plain_loop.read_rows(Path(job.data), name) for name in ("train", "validation")}
    dongu.training.train(
        data,
        console=Console(),
        model=job.model,
        out=f"{job.folder}/run",
        batch_size=job.batch_size,
        epochs=job.epochs,
        seed=SEED,
        device=job.device,
        **options,
    )


def train_products(job: Job, turns: Turns, *, precision: str) -> None:
    """Only the matrix products of each step, on its real tokens.

    Each Linear of the encoder is one product forward and two backward. In the last layer all tokens give keys and
    values, and the first of each row alone goes through the rest: the head reads no other.
    """
    import torch
    from transformers import AutoConfig

    from dongu.engine.device import keep_freed_memory

    keep_freed_memory()
    rows, _ = ordered_rows(job)
    config = AutoConfig.from_pretrained(job.model)
    width, inner = config.hidden_size, config.intermediate_size
    dtype = getattr(torch, precision)
    shapes = [(width, width)] * 4 + [(inner, width), (width, inner)]  # query, output, key, value, feed-forward
    weights = [[torch.randn(shape).to(dtype) for shape in shapes] for _ in range(config.num_hidden_layers)]
    batches = [rows[start : start + job.batch_size] for start in range(0, len(rows), job.batch_size)]
    counts = [sum(len(row["input_ids"]) for row in batch) for batch in batches]
    given = {size: torch.randn(max(counts), size).to(dtype) for size in (width, inner)}
    turns.tokens = counts
    for batch, tokens in zip(batches, counts, strict=True):
        for layer in weights:
            for place, weight in enumerate(layer):
                count = len(batch) if layer is weights[-1] and place not in (2, 3) else tokens
                x, gradient = given[weight.shape[1]][:count], given[weight.shape[0]][:count]
                torch.mm(x, weight.t())
                torch.mm(gradient, weight)
                torch.mm(gradient.t(), x)
                turns.operations += 6 * count * weight.numel()
        turns.tick()


def evaluate_plain(job: Job, turns: Turns) -> None:
    """The course's evaluation: batches of 8 in their order, padded."""
    import numpy as np
    from torch.utils.data import DataLoader

    import plain_loop

    rows, tokenizer = ordered_rows(job, "validation")
    labels = np.array([row["labels"] for row in rows])
    model = classifier(job)
    for _ in range(job.steps):
        loader: Any = DataLoader(rows, batch_size=job.batch_size, collate_fn=padding(tokenizer, Turns(job, sys.stderr)))  # type: ignore[arg-type]
        plain_loop.score("mrpc", plain_loop.predict(model, loader), labels)
        turns.tokens.append(sum(len(row["input_ids"]) for row in rows))
        turns.tick()


def evaluate_dongu(job: Job, turns: Turns, **options: Any) -> None:
    """`Loop.evaluate`, at its defaults."""
    import dongu

    loop = dongu.Loop(job.data, model=job.model, seed=SEED, device=job.device, **options)
    for _ in range(job.steps):
        loop.evaluate("validation")
        turns.tokens.append(int(loop.splits["validation"].tokens.lengths.sum()))
        turns.tick()


# --- From the command to the first step. ---


def start_dongu(job: Job, turns: Turns) -> None:
    """`dongu train DATA --model MODEL`, with a clock around its parts."""
    seconds = {"interpreter": time.time() - job.began}
    began = time.perf_counter()
    import dongu.cli.main
    import dongu.loop
    import dongu.training
    from dongu.loop import Loop
    from dongu.update import Step

    seconds["imports"] = time.perf_counter() - began

    def watch(owner: Any, name: str, part: str) -> None:
        inner = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            since = time.perf_counter()
            try:
                return inner(*arguments, **options)
            finally:
                seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - since

        setattr(owner, name, timed)

    for name in ("read_source", "read_examples"):
        watch(dongu.loop, name, "reading")
    for name in ("load_tokenizer", "load_model"):
        watch(dongu.loop, name, "model")
    watch(dongu.loop, "tokenize", "tokens")

    class Ticking(Loop):
        def __iter__(self) -> Iterator[Step]:
            since = time.perf_counter()
            for _ in super().__iter__():
                seconds["first step"] = time.perf_counter() - since
                tell_start(job, turns, seconds)
                yield _

    dongu.training.Loop = Ticking  # type: ignore[attr-defined]
    dongu.cli.main.run(["train", job.data, "--model", job.model, "--out", f"{job.folder}/run"])


def start_trainer(job: Job, turns: Turns) -> None:
    """The same job as the course has it: `load_dataset`, `map`, Trainer."""
    seconds = {"interpreter": time.time() - job.began}
    since = time.perf_counter()

    def lap(part: str) -> None:
        nonlocal since
        now = time.perf_counter()
        seconds[part], since = now - since, now

    from datasets import load_dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    lap("imports")
    files = {name: f"{job.data}/{name}.jsonl" for name in ("train", "validation", "test")}
    raw = load_dataset("json", data_files=files)
    lap("reading")
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    model = AutoModelForSequenceClassification.from_pretrained(job.model, num_labels=2)
    lap("model")
    tokenized = raw.map(lambda rows: tokenizer(rows["sentence1"], rows["sentence2"], truncation=True), batched=True)
    lap("tokens")

    class Ticking(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            lap("first step")
            tell_start(job, turns, seconds)

    trainer = Trainer(
        model=model,
        args=TrainingArguments(job.folder, use_cpu=True, report_to="none"),
        train_dataset=tokenized["train"],
        eval_dataset=tokenized["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[Ticking()],
    )
    lap("set-up")
    trainer.train()


def tell_start(job: Job, turns: Turns, seconds: dict[str, float]) -> None:
    """The first step is made; the rest of the run is not needed."""
    total = time.time() - job.began
    turns.say({"seconds": {"set-up": total - sum(seconds.values()), **seconds, "total": total}})
    os._exit(0)


# --- What a step is made of. ---

PARTS = {  # beginnings of PyTorch's names
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn", "aten::mkldnn"),
    "AdamW": ("aten::_fused_adamw",),
    "gradient norm": ("aten::_foreach_norm", "aten::linalg_vector_norm", "aten::norm"),
    "GELU": ("aten::gelu",),
    "dropout, once drawn": ("aten::threshold_backward",),
    "softmax": ("aten::_softmax",),
    "LayerNorm": ("aten::native_layer_norm",),
    "copies, casts and gathers": (
        "aten::copy_", "aten::cat", "aten::index", "aten::_index", "aten::select_backward", "aten::slice_backward",
    ),
    "zeros (the embedding gradient)": ("aten::zero_", "aten::fill_"),
    "sums, products, scaling": ("aten::add", "aten::mul", "aten::sum", "aten::div"),
}  # fmt: skip


def profile_dongu(job: Job, turns: Turns, **options: Any) -> None:
    """Milliseconds of a step by kind of operation."""
    import torch
    from torch.profiler import ProfilerActivity

    import dongu

    loop = dongu.Loop(job.data, model=job.model, batch_size=job.batch_size, seed=SEED, **options)
    steps = iter(loop)
    for _ in range(UNPROFILED_STEPS):
        next(steps)
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as found:
        began = time.perf_counter()
        for _ in range(PROFILED_STEPS):
            next(steps)
        wall = 1000 * (time.perf_counter() - began) / PROFILED_STEPS
    milliseconds = {event.key: event.self_cpu_time_total / 1000 / PROFILED_STEPS for event in found.key_averages()}
    largest = dict(sorted(milliseconds.items(), key=lambda item: -item[1])[:LISTED_OPERATIONS])
    turns.say({"wall": wall, "operations": largest})
    os._exit(0)


def make_model(job: Job, turns: Turns, *, model_type: str, **sizes: Any) -> None:
    """A random model of these sizes, with the tokenizer of the given one."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    tokenizer.save_pretrained(job.folder)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{token}_token_id") for name, token in SPECIAL.items()}
    config = AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **ids, **sizes)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(job.folder)
    turns.say({})


def find_model(job: Job, turns: Turns) -> None:
    """Where the model is, and what this machine has."""
    import torch

    from dongu.engine.device import describe_processor
    from dongu.model.place import resolve_model

    versions = {name: importlib.import_module(name).__version__ for name in ("torch", "transformers")}
    if find_spec("lightning"):
        versions["lightning"] = importlib.import_module("lightning").__version__
    name = torch.cuda.get_device_name() if job.device == "cuda" else "CPU"
    threads = torch.get_num_threads()
    facts = {"threads": threads, "versions": versions, "device": name, "processor": describe_processor()}
    turns.say({"path": resolve_model(job.model), **facts})


SPECIAL = {"pad": "pad", "bos": "cls", "cls": "cls", "eos": "sep", "sep": "sep"}
SMALL = {"hidden_size": 384, "num_attention_heads": 6}  # about 30 million weights, with the layers below
RANDOM: dict[str, tuple[str, dict[str, Any]]] = {
    "base": ("BERT-base, random", {"model_type": "bert"}),
    "qwen3": (
        "Qwen3 of 29 million weights, random",
        {
            **SMALL, "model_type": "qwen3", "num_hidden_layers": 8, "intermediate_size": 1536, "head_dim": 64,
            "num_key_value_heads": 3, "use_cache": False,
        },
    ),
    "modernbert": (
        "ModernBERT of 30 million weights, random",
        {**SMALL, "model_type": "modernbert", "num_hidden_layers": 12, "intermediate_size": 768},
    ),
}  # fmt: skip
BEST: dict[str, Any] = {"bf16": True, "optim": "adamw_torch_fused", "train_sampling_strategy": "group_by_length"}
TRAINING: dict[str, tuple[str, Callable[[Job, Turns], None]]] = {
    "plain": ("the plain loop", train_plain),
    "plain-fused": ("the plain loop + fused AdamW", partial(train_plain, fused=True)),
    "plain-kept": ("the plain loop + fused AdamW + freed memory kept", partial(train_plain, fused=True, keep=True)),
    "trainer": ("Trainer, defaults", train_trainer),
    "trainer-best": ("Trainer, bf16 + fused AdamW + length groups", partial(train_trainer, **BEST)),
    "trainer-fp32": ("Trainer, fused AdamW + length groups", partial(train_trainer, **{**BEST, "bf16": False})),
    "trainer-compiled": ("the same + `torch_compile`", partial(train_trainer, **BEST, torch_compile=True)),
    "lightning": ("Lightning, bf16-mixed", train_lightning),
    "dongu-plain": ("`dongu --engine plain`, fp32", partial(train_dongu, engine="plain")),
    "dongu": ("`dongu`, fp32", partial(train_dongu, engine="packed")),
    "dongu-bf16": ("`dongu --precision bf16`", partial(train_dongu, engine="packed", precision="bf16")),
    "dongu-grouped": (
        "`dongu --precision bf16 --group-by-length`",
        partial(train_dongu, engine="packed", precision="bf16", group_by_length=True),
    ),
    "products-fp32": ("the matrix products alone, fp32", partial(train_products, precision="float32")),
    "products-bf16": ("the matrix products alone, bf16", partial(train_products, precision="bfloat16")),
}
EVALUATION: dict[str, tuple[str, Callable[[Job, Turns], None]]] = {
    "evaluate-plain": ("the plain loop, batches of 8", evaluate_plain),
    "evaluate-dongu": ("`dongu`, fp32", evaluate_dongu),
    "evaluate-dongu-bf16": ("`dongu --precision bf16`", partial(evaluate_dongu, precision="bf16")),
}
OTHERS: dict[str, Callable[[Job, Turns], None]] = {
    "find-model": find_model,
    **{f"make-{name}": partial(make_model, **sizes) for name, (_, sizes) in RANDOM.items()},
    "start-dongu": start_dongu,
    "start-trainer": start_trainer,
    "profile-fp32": profile_dongu,
    "profile-bf16": partial(profile_dongu, precision="bf16"),
}
NOT_BY_DEFAULT = {"trainer-fp32", "trainer-compiled", "plain-fused", "plain-kept"}
FP32 = ["plain", "trainer", "trainer-fp32", "dongu", "products-fp32"]  # where bf16 has no instructions


def work(job: Job) -> None:
    """A process of one peer. What it prints goes to its log; the controller hears only answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    turns = Turns(job, answers)
    {**OTHERS, **{name: run for name, (_, run) in {**TRAINING, **EVALUATION}.items()}}[job.peer](job, turns)


# --- The controller: it loads no model, and only waits. ---


class Process:
    """A peer, and the pipe to it."""

    def __init__(self, job: Job, log: Path, environment: dict[str, str] | None = None) -> None:
        self.log = log
        self.peer = job.peer
        spec = json.dumps({**asdict(job), "began": time.time()})
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, __file__, "--worker", spec],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **(environment or {})},
            )

    def hear(self) -> dict[str, Any]:
        """The next answer; what went wrong, where there is none."""
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            tail = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-12:]
            raise SystemExit("\n".join([f"{self.peer} ended:", *tail]))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def turn(self, steps: int) -> dict[str, Any]:
        """Some updates."""
        print(steps, file=self.process.stdin, flush=True)
        return self.hear()

    def end(self) -> None:
        """No more turns."""
        self.process.kill()  # what it has written is in a folder that goes
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()


def compare(names: list[str], job: Job, rounds: int, steps: int, scratch: Path) -> dict[str, Any]:
    """All peers in turns; what each turn took."""
    processes: dict[str, Process] = {}
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    try:
        for name in names:
            folder = scratch / f"{name}-{job.batch_size}-{Path(job.model).name}"
            folder.mkdir()
            mine = Job(**{**asdict(job), "peer": name, "folder": str(folder)})
            processes[name] = Process(mine, folder.with_suffix(".log"))
            if job.device == "cpu":  # of which all want all; a GPU's start in parallel
                processes[name].hear()
        for name, process in processes.items():
            if job.device != "cpu":
                process.hear()
            print(f"{name} is ready", file=sys.stderr, flush=True)
        for turn in range(rounds):
            for name, process in processes.items():
                time.sleep(REST_SECONDS)
                turns[name].append(process.turn(steps))
            print(f"round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
    finally:
        for process in processes.values():
            process.end()
    return {"rounds": rounds, "steps": steps, "clock": job.clock, "peers": turns}


def startup(job: Job, rounds: int, scratch: Path) -> dict[str, Any]:
    """Both commands in turns, each with an empty cache and then with the one that it has just filled."""
    found: dict[str, list[dict[str, float]]] = {}
    for turn in range(rounds + 1):
        for state in ("cold", "warm"):
            for name in ("start-dongu", "start-trainer"):
                caches = {
                    "DONGU_CACHE": str(scratch / f"tokens-{turn}"),
                    "HF_DATASETS_CACHE": str(scratch / f"datasets-{turn}"),
                }
                folder = scratch / f"{name}-{state}-{turn}"
                folder.mkdir()
                mine = Job(**{**asdict(job), "peer": name, "folder": str(folder)})
                process = Process(mine, folder.with_suffix(".log"), caches)
                seconds = process.hear()["seconds"]
                process.end()
                if turn:  # the first fills the disk cache
                    found.setdefault(f"{name}/{state}", []).append(seconds)
                print(f"{name} {state}: {seconds['total']:.2f} s", file=sys.stderr, flush=True)
    return {"rounds": rounds, "peers": found}


def ask(job: Job, scratch: Path) -> dict[str, Any]:
    """One answer of a process of its own."""
    process = Process(job, scratch / f"{job.peer}.log")
    try:
        return process.hear()
    finally:
        process.end()


# --- Tables. ---


def spread(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) < 2:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratios(section: dict[str, Any], over: str, of: str) -> list[float]:
    """How many times faster `of` is than `over`, by round: seconds a real token."""
    peers = section["peers"]
    return [
        a["seconds"] / a["tokens"] / (b["seconds"] / b["tokens"]) for a, b in zip(peers[over], peers[of], strict=True)
    ]


def overall(section: dict[str, Any], over: str, of: str) -> float:
    """The same of all turns together."""
    paces = []
    for peer in (over, of):
        turns = section["peers"][peer]
        paces.append(float(sum(turn["seconds"] for turn in turns)) / sum(turn["tokens"] for turn in turns))
    return float(paces[0] / paces[1])


def written(values: list[float], digits: int = 2, unit: str = "") -> str:
    """A median and its quartiles."""
    low, middle, high = spread(values)
    return f"{middle:.{digits}f}{unit} ({low:.{digits}f}–{high:.{digits}f})"


def title(name: str) -> str:
    """A section of the results in words."""
    model, batch, *more = name.split("/")
    words = {"minilm": "MiniLM", **{name: words for name, (words, _) in RANDOM.items()}}.get(model, model)
    return ", ".join([words, f"batches of {batch}", *more])


def training_table(results: dict[str, Any], *, on_gpu: bool = False) -> str:
    """A row a peer: milliseconds a step, ratio to the plain loop, memory."""
    blocks = []
    for name, section in results.items():
        peers = section.get("peers", {})
        if "plain" not in peers or (section.get("device", "CPU") != "CPU") != on_gpu:
            continue
        lines = [
            f"**{title(name)}**, {section['rounds']} rounds of {section['steps']} steps, "
            f"{section['threads']} thread(s), {section['clock']} clock",
            "",
            "| | ms a step | times the plain loop (quartiles) | peak memory, MiB | over the plain loop's |",
            "| --- | --: | --: | --: | --: |",
        ]
        tokens = statistics.mean(turn["tokens"] for turn in peers["plain"])
        for peer, (label, _) in TRAINING.items():
            if peer not in peers:
                continue
            took = statistics.median(1000 * turn["seconds"] / turn["tokens"] * tokens for turn in peers[peer])
            peak, base = peers[peer][-1]["peak_mib"], peers["plain"][-1]["peak_mib"]
            memory = "| |" if peer.startswith("products") else f"| {peak:,.0f} | {peak / base:.2f} |"
            lines.append(
                f"| {label} | {took:,.{1 if on_gpu else 0}f} | {written(ratios(section, 'plain', peer))} {memory}"
            )
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


@dataclass(frozen=True)
class Target:
    """A goal: a ratio that shall be reached."""

    what: str
    section: str
    over: str
    of: str
    must: float
    aim: float
    least: bool = True  # or at most
    memory: bool = False
    whole: bool = False  # all turns together, in place of the median turn


TARGETS = [
    Target("fp32 over the plain loop, batch 8", "minilm/8", "plain", "dongu", 2.1, 2.5),
    Target("fp32 over the plain loop, batch 32", "minilm/32", "plain", "dongu", 1.9, 2.4),
    Target("bf16 over the plain loop, batch 8", "minilm/8", "plain", "dongu-bf16", 2.9, 4),
    Target("bf16 over the plain loop, batch 32", "minilm/32", "plain", "dongu-bf16", 3.0, 4),
    Target("bf16 over Trainer's best flags, batch 8", "minilm/8", "trainer-best", "dongu-bf16", 1.5, 2),
    Target("bf16 over Trainer's best flags, batch 32", "minilm/32", "trainer-best", "dongu-bf16", 1.3, 2),
    Target("bf16 over Trainer's best flags, BERT-base, batch 8", "base/8", "trainer-best", "dongu-bf16", 1.4, 2),
    Target("bf16, share of the matrix products alone, batch 8", "minilm/8", "products-bf16", "dongu-bf16", 0.4, 0.6),
    Target("bf16, share of the matrix products alone, batch 32", "minilm/32", "products-bf16", "dongu-bf16", 0.5, 0.7),
    Target(
        "bf16 with length groups over bf16, batch 8, three epochs",
        "minilm/8/three epochs",
        "dongu-bf16",
        "dongu-grouped",
        1.0,
        1.0,
        whole=True,
    ),
    Target(
        "bf16 with length groups over bf16, batch 32, three epochs",
        "minilm/32/three epochs",
        "dongu-bf16",
        "dongu-grouped",
        1.0,
        1.0,
        whole=True,
    ),
    Target(
        "bf16 over Trainer's best flags, both with length groups, batch 8",
        "minilm/8",
        "trainer-best",
        "dongu-grouped",
        1.5,
        2,
    ),
    Target(
        "bf16 over Trainer's best flags, both with length groups, batch 32",
        "minilm/32",
        "trainer-best",
        "dongu-grouped",
        1.3,
        2,
    ),
    Target("evaluation, fp32, over the plain loop's", "evaluate/8", "evaluate-plain", "evaluate-dongu", 1.9, 2.2),
    Target("evaluation, bf16, over the plain loop's", "evaluate/8", "evaluate-plain", "evaluate-dongu-bf16", 2.9, 4),
    Target("peak memory, fp32, batch 8", "minilm/8", "plain", "dongu", 1.1, 0.9, least=False, memory=True),
    Target("peak memory, bf16, batch 8", "minilm/8", "plain", "dongu-bf16", 1.1, 0.9, least=False, memory=True),
    Target("peak memory, fp32, batch 32", "minilm/32", "plain", "dongu", 1.1, 0.9, least=False, memory=True),
    Target("peak memory, bf16, batch 32", "minilm/32", "plain", "dongu-bf16", 1.1, 0.9, least=False, memory=True),
]


def target_table(results: dict[str, Any]) -> str:
    """Each goal, what was reached, and whether that is enough."""
    lines = ["| | reached (quartiles) | goal | far goal | |", "| --- | --: | --: | --: | --- |"]
    for target in TARGETS:
        peers = results.get(target.section, {}).get("peers", {})
        bounds = f"{target.must:g} | {target.aim:g}"
        if target.over not in peers or target.of not in peers:
            lines.append(f"| {target.what} | not measured | {bounds} | |")
            continue
        if target.memory:
            values = [peers[target.of][-1]["peak_mib"] / peers[target.over][-1]["peak_mib"]]
        else:
            values = ratios(results[target.section], target.over, target.of)
        middle = overall(results[target.section], target.over, target.of) if target.whole else spread(values)[1]
        enough = [middle >= bound if target.least else middle <= bound for bound in (target.must, target.aim)]
        verdict = "reached, the far goal too" if all(enough) else "reached" if enough[0] else "**not reached**"
        low, _, high = spread(values)
        shown = f"{middle:.2f}" if target.memory else f"{middle:.2f} ({low:.2f}–{high:.2f})"
        lines.append(f"| {target.what} | {shown} | {bounds} | {verdict} |")
    return "\n".join(lines)


def fp32_table(results: dict[str, Any]) -> str:
    """How near a step of `dongu` is to its limit, the products alone; then the rows of all peers."""
    lines = [
        "| | over Trainer's best flags (quartiles) | if a step were its products alone | share of the products |",
        "| --- | --: | --: | --: |",
    ]
    for name, section in results.items():
        if {"trainer-fp32", "dongu", "products-fp32"} <= section["peers"].keys():
            cells = [("trainer-fp32", "dongu"), ("trainer-fp32", "products-fp32"), ("products-fp32", "dongu")]
            lines.append(f"| {title(name)} | {' | '.join(written(ratios(section, *pair)) for pair in cells)} |")
    machine = ", ".join(dict.fromkeys(section["processor"] for section in results.values()))
    return "\n\n".join(["\n".join(lines), training_table(results), products_line(results), f"Processor: {machine}."])


def products_line(results: dict[str, Any]) -> str:
    """The rates of the matrix products."""
    lines = []
    for name, section in results.items():
        peers = section.get("peers", {})
        for peer, kind in {"products-fp32": "fp32", "products-bf16": "bf16"}.items():
            if peer in peers:
                rates = [turn["operations"] / turn["seconds"] / 1e9 for turn in peers[peer]]
                lines.append(f"{title(name)}, {kind}: {written(rates, 0, ' GFLOP/s')}")
    return "\n".join(f"- {line}" for line in lines)


def gpu_table(results: dict[str, Any]) -> str:
    """Training and evaluation on a GPU."""
    evaluations = [name for name in results if name.startswith("evaluate/8/")]
    tables = [f"**Evaluation**, {name.split('/')[2]}\n\n{evaluation_table(results, name)}" for name in evaluations]
    lines = [
        "| `dongu --precision bf16` over (quartiles) | Trainer, defaults | Trainer, best flags |",
        "| --- | --: | --: |",
    ]
    for name, section in results.items():
        if section.get("device", "CPU") != "CPU" and "trainer-best" in section["peers"]:
            found = [written(ratios(section, peer, "dongu-bf16"), 1) for peer in ("trainer", "trainer-best")]
            lines.append(f"| {title(name)} | {' | '.join(found)} |")
    return "\n\n".join(["\n".join(lines), training_table(results, on_gpu=True) or "not measured", *tables])


def evaluation_table(results: dict[str, Any], name: str = "evaluate/8") -> str:
    """Rows a second, and the ratio."""
    section = results.get(name)
    if section is None:
        return "not measured"
    lines = ["| | seconds | times the plain loop (quartiles) |", "| --- | --: | --: |"]
    for peer, (label, _) in EVALUATION.items():
        took = statistics.median(turn["seconds"] for turn in section["peers"][peer])
        lines.append(f"| {label} | {took:.2f} | {written(ratios(section, 'evaluate-plain', peer))} |")
    return "\n".join(lines)


def startup_table(results: dict[str, Any]) -> str:
    """Where the seconds to the first step go."""
    section = results.get("startup")
    if section is None:
        return "not measured"
    parts = ["interpreter", "imports", "reading", "model", "tokens", "set-up", "first step", "total"]
    lines = [f"| seconds | {' | '.join(parts)} |", f"| --- |{' --: |' * len(parts)}"]
    labels = {"start-dongu": "`dongu train`", "start-trainer": "Trainer"}
    for name, runs in section["peers"].items():
        peer, _, state = name.partition("/")
        medians = [statistics.median(run.get(part, 0.0) for run in runs) for part in parts]
        lines.append(f"| {labels[peer]}, {state} cache | {' | '.join(f'{value:.2f}' for value in medians)} |")
    return "\n".join(lines)


def part_of(operation: str) -> str | None:
    """The part of a step that an operation of PyTorch's belongs to."""
    return next((part for part, starts in PARTS.items() if operation.startswith(starts)), None)


def profile_table(results: dict[str, Any]) -> str:
    """Shares of a step."""
    found = {name: section for name, section in results.items() if name.startswith("profile")}
    if not found:
        return "not measured"
    heads = [name.removeprefix("profile-").replace("/", ", batch ") for name in found]
    lines = [f"| share of a step | {' | '.join(heads)} |", f"| --- |{' --: |' * len(heads)}"]
    rest = dict.fromkeys(found, 1.0)
    for part in PARTS:
        shares = []
        for name, section in found.items():
            spent = sum(ms for key, ms in section["operations"].items() if part_of(key) == part)
            shares.append(spent / section["wall"])
            rest[name] -= shares[-1]
        lines.append(f"| {part} | {' | '.join(f'{share:.0%}' for share in shares)} |")
    shares = [f"{share:.0%}" for share in rest.values()]
    lines.append(f"| the rest: Python, autograd, dropout's draws, the profiler | {' | '.join(shares)} |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "targets": target_table,
    "training": training_table,
    "gpu": gpu_table,
    "products": products_line,
    "evaluation": evaluation_table,
    "startup": startup_table,
    "profile": profile_table,
}


def write_tables() -> None:
    """Put each table between its marks in docs/performance.md, and print it."""
    if OUTPUT_FP32.exists():
        results = json.loads(OUTPUT_FP32.read_text(encoding="utf-8"))
        put_between(DOCUMENT, BEGIN.format("fp32"), fp32_table(results), END.format("fp32"))
    if OUTPUT.exists():
        results = json.loads(OUTPUT.read_text(encoding="utf-8"))
        for name, make in TABLES.items():
            print(name)
            put_between(DOCUMENT, BEGIN.format(name), make(results), END.format(name))


def keep(name: str, section: dict[str, Any], facts: dict[str, Any]) -> None:
    """Into the results, beside what other calls have measured."""
    path = OUTPUT_FP32 if "trainer-fp32" in section.get("peers", {}) else OUTPUT
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    results[name] = {**section, **facts}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def measure(options: argparse.Namespace, scratch: Path) -> None:
    """What the command line asks for."""
    job = Job(
        "", str(options.data / "mrpc"), "minilm", str(scratch), 8, 1, options.warm_up, options.clock,
        device=options.device, epochs=options.epochs,
    )  # fmt: skip
    found = ask(Job(**{**asdict(job), "peer": "find-model"}), scratch)
    facts = {name: found[name] for name in ("threads", "versions", "device", "processor")} | {
        "machine": platform.machine()
    }
    where = "" if options.device == "cpu" else f"/{found['device']}"
    job = Job(**{**asdict(job), "model": found["path"]})
    name = "minilm"
    if options.random:
        name, folder = options.random, scratch / "random"
        ask(Job(**{**asdict(job), "peer": f"make-{name}", "folder": str(folder)}), scratch)
        job = Job(**{**asdict(job), "model": str(folder)})
    if options.startup:
        keep("startup", startup(job, options.rounds, scratch), facts)
        return
    for size in options.batch_size:
        if options.profile:
            for precision in ("fp32", "bf16"):
                mine = Job(**{**asdict(job), "peer": f"profile-{precision}", "batch_size": size})
                keep(f"profile-{precision}/{size}", ask(mine, scratch), facts)
            continue
        if options.evaluate:
            mine = Job(**{**asdict(job), "batch_size": size, "steps": options.rounds + 2, "warm_up": 1})
            keep(f"evaluate/{size}{where}", compare(list(EVALUATION), mine, options.rounds, 1, scratch), facts)
            continue
        names = options.only or [
            peer for peer in TRAINING if peer not in NOT_BY_DEFAULT and not (where and peer.startswith("products"))
        ]
        if "lightning" in names and find_spec("lightning") is None:
            print("lightning: left out, it is not installed (pip install lightning)", file=sys.stderr)
            names = [peer for peer in names if peer != "lightning"]
        total = options.warm_up + options.rounds * (options.steps + 1) + 1  # the last is never asked for
        mine = Job(**{**asdict(job), "batch_size": size, "steps": total, "uncounted": 1})
        section = compare(names, mine, options.rounds, options.steps, scratch)
        keep(f"{name}/{size}" + (f"/{options.name}" if options.name else "") + where, section, facts)


def main() -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("DONGU_DATA", ROOT.parent / "shared" / "data"))
    )
    parser.add_argument("--batch-size", type=int, nargs="+")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="updates a turn")
    parser.add_argument("--warm-up", type=int, default=3, help="updates before the first turn")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: where others use the machine, one thread")
    parser.add_argument("--only", nargs="+", choices=TRAINING, metavar="NAMES", help=", ".join(TRAINING))
    parser.add_argument("--epochs", type=int, default=1, help="of `dongu`, to measure whole runs of it")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--name", help="of the results, beside the usual ones")
    parser.add_argument("--base", action="store_const", const="base", dest="random", help="--random base")
    parser.add_argument("--fp32", action="store_const", const=FP32, dest="only", help="--only " + " ".join(FP32))
    parser.add_argument("--random", choices=RANDOM, help="a random model of this kind")
    parser.add_argument("--evaluate", action="store_true")
    parser.add_argument("--startup", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(Job(**json.loads(options.worker)))
        return
    options.batch_size = options.batch_size or ([8] if options.random or options.evaluate else [8, 32])
    if not options.table:
        with tempfile.TemporaryDirectory() as folder:
            measure(options, Path(folder))
    write_tables()


if __name__ == "__main__":
    main()
