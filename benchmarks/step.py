"""Time of one training step on real MRPC lengths: the model's own forward beside the padding-free one.

All variants live in one process and take turns (A B C A B C), each on the same micro-batches with a model, an
optimizer and dropout of its own; ratios are taken inside a round, and their medians and quartiles printed. What the
loop sets for the allocator is set for all of them.

    python benchmarks/step.py --batch-size 8 --rounds 12
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorWithPadding

import plain_loop
from dongu.model.device import _keep_freed_memory
from dongu.model.load import load_model, load_tokenizer, resolve_model
from dongu.model.padding_free import PaddingFree, flatten

DATA = Path(os.environ.get("DONGU_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def padded_batches(path: str, batch_size: int, count: int) -> list[dict[str, torch.Tensor]]:
    """Micro-batches of MRPC's training pairs, padded to their longest row, with labels."""
    tokenizer = load_tokenizer(path)
    rows = plain_loop.tokenize(plain_loop.read_rows(DATA / "mrpc", "train"), "mrpc", tokenizer)
    order = np.random.default_rng(0).permutation(len(rows))
    pad = DataCollatorWithPadding(tokenizer)
    return [dict(pad([rows[i] for i in order[k * batch_size : (k + 1) * batch_size]])) for k in range(count)]


def make_variant(
    path: str, engine: str, precision: str, fused: bool, clock: Callable[[], float]
) -> Callable[[dict[str, torch.Tensor]], float]:
    """A function that trains on one micro-batch and returns its seconds."""
    model: Any = load_model(path, label_names=("no", "yes"), task="single-label", pad_token_id=0, seed=1)
    run = PaddingFree(model) if engine == "packed" else model
    optimizer = torch.optim.AdamW(run.parameters(), lr=1e-5, weight_decay=0.01, fused=fused or None)
    run.train()

    def step(batch: dict[str, torch.Tensor]) -> float:
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        began = clock()
        autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()
        with autocast:
            logits = run(**(flatten(inputs) if engine == "packed" else inputs)).logits
        torch.nn.functional.cross_entropy(logits.float(), batch["labels"]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        return clock() - began

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=2, help="steps a turn; one more is not timed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: where others use the machine, one thread")
    parser.add_argument(
        "--variants", nargs="+", default=["plain/fp32", "plain/fp32/fused", "packed/fp32/fused", "packed/bf16/fused"]
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    _keep_freed_memory()
    path = resolve_model(options.model)
    batches = padded_batches(path, options.batch_size, options.rounds * (options.steps + 1))
    real = sum(int(batch["attention_mask"].sum()) for batch in batches)
    padded = sum(batch["attention_mask"].numel() for batch in batches)
    steps = {}
    for variant in options.variants:
        engine, precision, *fused = variant.split("/")
        steps[variant] = make_variant(path, engine, precision, bool(fused), CLOCKS[options.clock])
    seconds: dict[str, list[float]] = {variant: [] for variant in steps}
    for turn in range(options.rounds):
        mine = batches[turn * (options.steps + 1) : (turn + 1) * (options.steps + 1)]
        for variant, step in steps.items():
            seconds[variant].append(statistics.median([step(batch) for batch in mine][1:]))
    base = seconds[options.variants[0]]
    how = f"{options.threads} thread(s), {options.clock} clock"
    print(f"batch {options.batch_size}, {how}, {1 - real / padded:.0%} of the places are padding")
    for variant, times in seconds.items():
        ratios = [b / t for b, t in zip(base, times, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            json.dumps(
                {
                    "variant": variant,
                    "milliseconds": round(1000 * statistics.median(times), 1),
                    "ratio": round(middle, 2),
                    "quartiles": [round(low, 2), round(high, 2)],
                }
            )
        )


if __name__ == "__main__":
    main()
