"""Which share of the device's measured rate of bf16 products a training step of a large model reaches.

    python benchmarks/share.py                                  # on a GPU: minutes, 16 GB of disk
    python benchmarks/share.py --device cpu --divide 16 --steps 4 --rows 4 8        # small, shows that it runs

BERT-base, all of it trained, and a decoder with the shape of Llama 3 8B, whose weights stay in bf16 and which is
trained by LoRA of rank 16; both with random weights, dropout as in the original models, and rows of random words, 128
tokens and more in the decoder's case. The operations are counted as they are made, the rate is that of a large product,
timed on the same device in the same process: the line `machine` of `dongu train` says the same of any run.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from dongu.loop import Loop
from dongu.model.place import resolve_model
from dongu.run.effort import Effort
from pieces import WORDS

MODELS: dict[str, dict[str, Any]] = {
    "BERT-base": {
        "shape": {"model_type": "bert", "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12},
        "heads": {"num_attention_heads": 12},
        "options": {},
        "words": (30, 100),
    },
    "decoder of 8B, LoRA": {
        "shape": {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
        "heads": {"num_attention_heads": 32, "num_key_value_heads": 8},
        "options": {"lora": 16, "base_precision": "bf16"},
        "words": (100, 400),
    },
}


def make(name: str, folder: str, arguments: argparse.Namespace) -> None:
    """The model and its tokenizer, in a folder."""
    shape, heads = MODELS[name]["shape"], MODELS[name]["heads"]
    sizes = {key: value // arguments.divide if isinstance(value, int) else value for key, value in shape.items()}
    sizes["num_hidden_layers"] = max(2, sizes["num_hidden_layers"])
    heads = {key: max(1, value // arguments.divide) for key, value in heads.items()}
    config = AutoConfig.for_model(**sizes, **heads, vocab_size=32_000, max_position_embeddings=1024, pad_token_id=0)
    dtype = torch.bfloat16 if "base_precision" in MODELS[name]["options"] else torch.float32
    torch.manual_seed(0)
    AutoTokenizer.from_pretrained(resolve_model("minilm")).save_pretrained(folder)
    with torch.device(arguments.device):
        AutoModelForSequenceClassification.from_config(config, dtype=dtype).save_pretrained(folder)


def share(name: str, rows: int, folder: str, arguments: argparse.Namespace) -> str:
    """A line of the table: milliseconds a step, tokens a second, and the share."""
    random = np.random.default_rng(0)
    fewest, most = MODELS[name]["words"]
    lengths = random.integers(fewest, most, 2048 if arguments.device == "cuda" else 64)
    data = [{"text": " ".join(random.choice(WORDS, n)), "label": str(i % 2)} for i, n in enumerate(lengths)]
    loop = Loop(
        {"train": data, "validation": data[:8]},
        model=folder,
        device=arguments.device,
        precision="bf16",
        recipe="original",
        batch_size=rows,
        max_steps=2 * arguments.steps,
        max_length=512,
        **MODELS[name]["options"],
    )
    effort, steps = Effort(), iter(loop)
    for _ in range(arguments.steps):  # recordings, compiled products, full caches
        next(steps)
    if arguments.device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(arguments.steps):
        effort.add(next(steps))
    if arguments.device == "cuda":
        torch.cuda.synchronize()
    effort.seconds = time.perf_counter() - began
    rates = effort.close(loop)["per_second"]
    done, can = rates["model_flops"] / 1e12, rates["product_flops"] / 1e12
    milliseconds = 1e3 * effort.seconds / arguments.steps
    return (
        f"| {name}, batches of {rows} | {milliseconds:,.1f} | {rates['tokens']:,.0f} | {done:.3g} | {can:.3g} | "
        f"{done / can:.0%} |"
    )


def main() -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--divide", type=int, default=1, help="of widths, heads and layers")
    parser.add_argument("--steps", type=int, default=40, help="that are timed, after as many that are not")
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 32])
    arguments = parser.parse_args()
    print(
        "| bf16 | ms a step | tokens/s | TFLOP/s | TFLOP/s of products | share |\n| --- | --: | --: | --: | --: | --: |"
    )
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            make(name, folder, arguments)
            for rows in arguments.rows:
                gc.collect()
                if arguments.device == "cuda":
                    torch.cuda.empty_cache()
                print(share(name, rows, folder, arguments), flush=True)


if __name__ == "__main__":
    main()
