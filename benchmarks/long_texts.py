"""Accuracy of `--long head`, `tail`, `head+tail` and `windows` where the end of 2,000 words says the class.

    python benchmarks/long_texts.py [ROWS] [EPOCHS] [LONG ...]

trains a random model with one layer, so that all of it takes some minutes on one core. The texts are made up: words of
the demonstration's vocabulary, and at the end twenty of six words that say good, or bad. Half of the rows are of each
class.
"""

from __future__ import annotations

import math
import random
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dongu
from dongu.demo.run import read_csv

WORDS = 2_000
LENGTH = 512  # tokens that the model reads at once
VERDICT = 20  # words, the last ones
VERDICTS = {
    "good": "great success happy wonderful pleased best",
    "bad": "terrible failure angry awful disappointed worst",
}


def vocabulary() -> list[str]:
    """The words that texts are made of."""
    words = {*re.findall("[a-z]+", read_csv("train").decode().lower())}
    return sorted(words - {*" ".join(VERDICTS.values()).split()})


def rows_of(count: int, draw: random.Random) -> list[dict[str, str]]:
    """Texts and labels."""
    words = vocabulary()
    labels = [("good", "bad")[i % 2] for i in range(count)]
    return [
        {
            "text": " ".join(
                [*draw.choices(words, k=WORDS - VERDICT), *draw.choices(VERDICTS[label].split(), k=VERDICT)]
            ),
            "label": label,
        }
        for label in labels
    ]


def save_model(folder: Path) -> None:
    """A random BERT with one layer, and a tokenizer that knows each word."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = {*vocabulary(), *" ".join(VERDICTS.values()).split()}
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(words)]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(names), max_position_embeddings=LENGTH, **shape)).save_pretrained(folder)


def main() -> None:
    """Train, print."""
    count, epochs = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((1, 480), (2, 8)))
    draw = random.Random(0)
    data = {"train": rows_of(count, draw), "validation": rows_of(200, draw)}
    asked: Any = sys.argv[3:] or ("head", "tail", "head+tail", "windows")
    for long in asked:
        with tempfile.TemporaryDirectory() as folder:
            save_model(Path(folder))
            began = time.process_time()
            run = dongu.train(
                data, model=folder, long=long, max_length=LENGTH, epochs=epochs, lr=5e-3, batch_size=16, pooling="mean",
                eval_steps=epochs * math.ceil(count / 16), out=str(Path(folder) / "run"), threads=1,
            )  # fmt: skip
            seconds = time.process_time() - began
        print(f"| `--long {long}` | {run.metrics['accuracy']:.3f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
