"""A training step of twelve families of models: `dongu` beside Trainer with its best flags for this processor.

    python benchmarks/families.py                          # those that are not measured yet; needs an idle machine
    python benchmarks/families.py --only bert llama --again --rounds 6
    python benchmarks/families.py --table                  # only writes the table of what was measured

A family takes one or two minutes, and is kept as soon as it is measured: the command can be stopped and given again.
Each has a random model of 10 to 30 million weights with MiniLM's tokenizer, and trains on pairs of MRPC, in turns as
in benchmarks/speed.py. Trainer has fused AdamW and length groups, and `--bf16` on a processor with instructions for it.
The numbers go to benchmarks/out/families.json, the table to docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import speed
from pages import put_between

OUTPUT = speed.OUTPUT.with_name("families.json")
BEGIN, END = "<!-- families: table -->", "<!-- /families: table -->"
BERT = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12}
DECODER: dict[str, Any] = {
    **BERT,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "use_cache": False,
}
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 256, "share_att_key": True}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BERT", BERT),
    "roberta": ("RoBERTa", {**BERT, "max_position_embeddings": 514}),
    "distilbert": ("DistilBERT", {"dim": 384, "hidden_dim": 1536, "n_layers": 6, "n_heads": 12}),
    "mpnet": ("MPNet", {**BERT, "max_position_embeddings": 514}),
    "electra": ("ELECTRA", {**BERT, "embedding_size": 128}),
    "albert": ("ALBERT", {**BERT, "hidden_size": 768, "intermediate_size": 3072, "embedding_size": 128}),
    "deberta-v2": ("DeBERTa v2 and v3", {**BERT, "num_attention_heads": 6, **RELATIVE, "norm_rel_ebd": "layer_norm"}),
    "modernbert": ("ModernBERT", {**BERT, "intermediate_size": 768, "num_attention_heads": 6}),
    "eurobert": ("EuroBERT", {**DECODER, "num_key_value_heads": 6}),
    "qwen3": ("Qwen3", DECODER),
    "llama": ("Llama", DECODER),
    "gemma3_text": ("Gemma 3", {**DECODER, "query_pre_attn_scalar": 64, "sliding_window": 128}),
}


def make(family: str, tokenizer: str, folder: str) -> None:
    """A random model of this family, in the folder."""
    job = speed.Job("", "", tokenizer, folder, 0, 0, 0, "wall")
    speed.make_model(job, speed.Turns(job, sys.stderr), model_type=family, **FAMILIES[family][1])


def measure(family: str, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Both peers in turns, and what is to be known of the family's model."""
    peers = ["trainer-best", "dongu-bf16"] if options.bf16 else ["trainer-fp32", "dongu"]
    total = options.warm_up + options.rounds * (options.steps + 1) + 1  # the last is never asked for
    job = speed.Job(
        "", str(options.data / "mrpc"), "minilm", str(scratch), options.batch_size, total, options.warm_up,
        options.clock, uncounted=1,
    )  # fmt: skip
    found = speed.ask(speed.Job(**{**vars(job), "peer": "find-model"}), scratch)
    folder = scratch / family
    subprocess.run([sys.executable, __file__, "--make", family, found["path"], str(folder)], check=True)
    mine = speed.Job(**{**vars(job), "model": str(folder)})
    section = speed.compare(peers, mine, options.rounds, options.steps, scratch)
    record = json.loads((scratch / f"{peers[1]}-{options.batch_size}-{family}" / "run" / "run.json").read_bytes())
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return section | {
        "batch_size": options.batch_size,
        "weights": size // 4,
        "padding_free": record["promises"]["padding_free"],
        "threads": found["threads"],
        "versions": found["versions"],
    }


def table(results: dict[str, Any]) -> str:
    """A row a family."""
    measured = [family for family in FAMILIES if family in results]
    if not measured:
        return "Not measured yet."
    first = results[measured[0]]
    trainer, mine = first["peers"]
    lines = [
        f"Batches of {first['batch_size']}, {first['rounds']} rounds of {first['steps']} steps,"
        f" {first['threads']} thread(s), {first['clock']} clock: {speed.TRAINING[trainer][0]}, and"
        f" {speed.TRAINING[mine][0]}",
        "",
        "| family | million weights | Trainer, ms a step | `dongu`, ms a step | times as fast (quartiles) |",
        "| --- | --: | --: | --: | --: |",
    ]
    for family in measured:
        section = results[family]
        trainer, mine = section["peers"]
        tokens = statistics.mean(turn["tokens"] for turn in section["peers"][mine])
        took = [
            statistics.median(1000 * turn["seconds"] / turn["tokens"] * tokens for turn in turns)
            for turns in section["peers"].values()
        ]
        plain = "" if section["padding_free"] == "yes" else " (padded)"
        ratio = speed.written(speed.ratios(section, trainer, mine))
        cells = [
            FAMILIES[family][0] + plain,
            f"{section['weights'] / 1e6:.0f}",
            *(f"{each:,.0f}" for each in took),
            ratio,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """The command line above."""
    if sys.argv[1:2] == ["--make"]:
        make(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("DONGU_DATA", speed.ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(data))
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=[*FAMILIES])
    parser.add_argument("--again", action="store_true", help="also those that are measured")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="updates a turn")
    parser.add_argument("--warm-up", type=int, default=3, help="updates before the first turn")
    parser.add_argument("--clock", choices=speed.CLOCKS, default="wall")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--out", type=Path, default=OUTPUT)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(options.out.read_bytes()) if options.out.exists() else {}
    for family in () if options.table else options.only:
        if family in results and not options.again:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            results[family] = measure(family, options, Path(scratch))
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")
        print(table({family: results[family]}).splitlines()[-1], file=sys.stderr, flush=True)
    if options.out == OUTPUT:
        put_between(speed.DOCUMENT, BEGIN, table(results), END)
    else:
        print(table(results))


if __name__ == "__main__":
    main()
