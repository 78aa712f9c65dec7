"""The pieces behind some decisions of the engine without padding, each timed alone, in milliseconds.

    python benchmarks/pieces.py

Products of 430 tokens by the layers of MiniLM: in PyTorch's way, and in fp32 by oneDNN's too, at a number of tokens
that is new to the process and at one that is not. Attention of eight and of 32 rows as long as MRPC's, forward and
backward, with blocks of one length and with blocks of like lengths. Dropout of a million values: PyTorch's own, by a
mask of booleans, and by the derivative of a threshold as `dongu.engine.dropout` has it. The norm of a gradient, by
PyTorch and row by row. Attention of one row of 2,048 tokens, whole and in tiles, with and without a window. Seeding
the draws of a step. What Python does around a replayed update of MiniLM, 8 rows as long as MRPC's: collating, layout,
copies, schedule, counts and checks, while a stand-in for the recordings does nothing. A step; one without dropout, one
with frozen word embeddings, one of next to no values. Products of a frozen layer in fp32, bf16 and int8. Where there
is a C++ compiler, a padded step compiled, and what `torch.compile` makes of the elementwise parts of a layer.
"""

from __future__ import annotations

import copy
import itertools
import math
import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from dongu.draws import seed_draws
from dongu.engine import pending
from dongu.engine.attention import attend
from dongu.engine.dropout import draw, drop, keep, to_width_of
from dongu.engine.gradients import total_norm
from dongu.engine.graphs import Graphs
from dongu.engine.layout import CELLS_OF_PADDING, Layout
from dongu.engine.products import product
from dongu.engine.replays import Replays
from dongu.engine.tiles import Tiling
from dongu.loop import Loop
from dongu.model.optimizer import skip_flag
from dongu.model.place import resolve_model

TOKENS, REPEATS, STEPS = 430, 40, 15
LAYERS = ((384, 384), (384, 1536), (1536, 384))  # values in, values out


def median_ms(run: Callable[[int], object]) -> float:
    """Of a call with 0, 1, 2, …"""
    seconds = []
    for i in range(REPEATS):
        started = time.perf_counter()
        run(i)
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds)


def products() -> None:
    """Forward, and the gradient of the weights, at fresh and at known numbers of tokens."""
    for dtype in (torch.float32, torch.bfloat16):
        for values_in, values_out in LAYERS:
            weight, bias = torch.randn(values_out, values_in, dtype=dtype), torch.randn(values_out, dtype=dtype)
            hidden = [torch.randn(TOKENS - i, values_in, dtype=dtype) for i in range(REPEATS)]
            gradient = [torch.randn(TOKENS - i, values_out, dtype=dtype) for i in range(REPEATS)]
            ways = {
                "forward": partial(forward, F.linear, hidden, weight, bias),
                "gradient of the weights": partial(weight_gradient, hidden, gradient),
            }
            if dtype == torch.float32:
                ways["forward by oneDNN"] = partial(forward, product, hidden, weight, bias)
                ways["gradient of the weights by oneDNN"] = partial(weight_gradient_by_onednn, hidden, gradient)
            for name, way in ways.items():
                fresh, known = median_ms(way), median_ms(partial(always_the_first, way))
                shape = f"{values_in} to {values_out}, {str(dtype).removeprefix('torch.')}"
                print(f"{shape:<26} {name:<34} new size {fresh:6.3f}   known size {known:6.3f}")


def forward(product: Callable[..., Tensor], hidden: list[Tensor], weight: Tensor, bias: Tensor, i: int) -> Tensor:
    return product(hidden[i], weight, bias)


def weight_gradient(hidden: list[Tensor], gradient: list[Tensor], i: int) -> Tensor:
    return gradient[i].t() @ hidden[i]


def weight_gradient_by_onednn(hidden: list[Tensor], gradient: list[Tensor], i: int) -> Tensor:
    return product(gradient[i].t(), hidden[i].t())


def always_the_first(way: Callable[[int], Tensor], _: int) -> Tensor:
    return way(0)


def attention() -> None:
    """Of MiniLM, with dropout."""
    random, module = np.random.default_rng(0), torch.nn.Dropout(0.1)
    for count in (8, 32):
        lengths = np.clip(random.normal(53, 13, count), 20, 110).astype(int).tolist()
        for dtype in (torch.float32, torch.bfloat16):
            for cells in (0, CELLS_OF_PADDING):
                with mock.patch("dongu.engine.layout.CELLS_OF_PADDING", cells):
                    layout = Layout.of(lengths, 12, rounded=True)
                    shape = (len(layout.source), 12, 32)
                    q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))
                    gradient = torch.randn(shape, dtype=dtype).flatten(1)
                    gradient[layout.tokens :] = 0
                    took = median_ms(lambda _: torch.autograd.backward(attend(q, k, v, layout, module), gradient))  # noqa: B023
                    kind = f"{count} rows, {str(dtype).removeprefix('torch.')}, {len(layout.blocks)} blocks"
                    print(f"attention of {kind:<30} {took:6.3f}")


def long_row() -> None:
    """Attention of MiniLM's shape, forward and backward."""
    layout = Layout.of([2048], 12)
    q, k, v = (torch.randn(2049, 12, 32, requires_grad=True) for _ in range(3))
    gradient, module = torch.ones(2049, 384), torch.nn.Dropout(0.1)
    for window in (None, 64):
        for name, of in (("in tiles", Tiling.of), ("whole", lambda *_: None)):
            with mock.patch.object(Tiling, "of", of):
                seconds = []
                for _ in range(5):
                    started = time.perf_counter()
                    torch.autograd.backward(attend(q, k, v, layout, module, window=window), gradient)
                    seconds.append(time.perf_counter() - started)
            shown = "all keys" if window is None else f"{window} keys on either side"
            print(f"attention of a row of 2,048 tokens, {shown}, {name}: {1e3 * statistics.median(seconds):.0f}")


def dropout() -> None:
    """A share of 0.1 of a million values."""
    values, dropped = torch.randn(1_000_000), 6554
    bits = draw(values.numel(), values)
    by_threshold = median_ms(lambda _: keep(values, to_width_of(bits, values.dtype), dropped))
    print(f"PyTorch's dropout                {median_ms(lambda _: F.dropout(values, 0.1)):6.3f}")
    print(f"drawing 16 bits a value          {median_ms(lambda _: draw(values.numel(), values)):6.3f}")
    print(f"applied by booleans              {median_ms(lambda _: values * (bits >= dropped - 2**15)):6.3f}")
    print(f"applied by a threshold           {by_threshold:6.3f}")


def norm() -> None:
    """Of a gradient of BERT-base's size."""
    shapes = [(30_522, 768), *[(768, 768)] * 48, *[(3072, 768)] * 24]
    gradients = [torch.randn(shape) for shape in shapes]
    wanted = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))
    for name, exactly in (("PyTorch's", True), ("row by row", False)):
        took = median_ms(lambda _: total_norm(gradients, exactly_as_pytorch=exactly))  # noqa: B023
        error = abs(float(total_norm(gradients, exactly_as_pytorch=exactly)) / wanted - 1)
        print(f"gradient norm, {name:<17} {took:6.3f}, relative error {error:.0e}")


def seeding() -> None:
    """`torch.manual_seed`, and the same for one device, called from as deep as a step calls it."""
    ways: dict[str, Callable[[int], object]] = {
        "torch.manual_seed": torch.manual_seed,
        "of the device alone": partial(seed_draws, torch.device("cpu")),
    }

    def from_below(depth: int, way: Callable[[int], object], seed: int) -> object:
        return from_below(depth - 1, way, seed) if depth else way(seed)

    for name, way in ways.items():
        print(f"a seed, {name:<24} {median_ms(partial(from_below, 20, way)):6.3f}")


class Idle(Graphs):
    """Recordings of nothing."""

    def replayable(self, work: Callable[[], None], numbers: Tensor, shape: tuple[int, ...]) -> Callable[[], None]:  # noqa: ARG002
        if not self.used_parameters:
            self.used_parameters = [*self._parameters]
            self.static_gradients = [torch.zeros_like(parameter) for parameter in self._parameters]
        return lambda: None


WORDS = (
    "of",
    "a",
    "the",
    "and",
    "in",
    "he",
    "had",
    "they",
    "which",
    "was",
    "not",
    "for",
    "on",
    "with",
    "his",
    "to",
    "it",
)


def rows_like_mrpc() -> list[dict[str, str]]:
    """4,000 rows of words, as long as MRPC's."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.normal(50, 13, 4000), 17, 107).astype(int).tolist()
    return [{"text": " ".join(random.choice(WORDS, n)), "label": str(i % 2)} for i, n in enumerate(lengths)]


def host() -> None:
    """Of an update that a GPU replays; pinning memory and CUDA's own calls are left out."""
    rows = rows_like_mrpc()
    nothing = mock.Mock(return_value=None)
    with (
        mock.patch.multiple(torch.cuda, Stream=nothing, graph_pool_handle=nothing),
        mock.patch.object(Tensor, "pin_memory", lambda tensor: tensor),
        mock.patch.object(pending, "skip_on_gpu", skip_flag),
    ):
        loop = Loop({"train": rows, "validation": rows[:8]}, model="minilm", device="cpu", epochs=1)
        loop.engine.graphs = Idle(loop.engine._compute, loop.engine.classifier)
        loop.replays = Replays(loop)
        loop.replays.is_checked = True
        steps, milliseconds = iter(loop), []
        for _ in range(300):
            began = time.thread_time()
            next(steps)
            milliseconds.append(1e3 * (time.thread_time() - began))
    least, median = min(milliseconds), statistics.median(milliseconds)
    print(f"Python around an update          {median:6.3f}, at least {least:.3f}, of processor time")


def step() -> None:
    """An update of 8 rows of MiniLM in fp32.

    Without dropout: more than what would be saved if another thread drew it. With frozen word embeddings: more than
    what would be saved if only the rows that occur were updated. With 12 values for 384 and one head for 12: what is
    left is mostly Python and autograd, of which one node a layer would save a part. Then forward and backward of the
    padded model, called by Python and compiled as a whole.
    """
    rows, inputs = rows_like_mrpc(), {"input_ids": torch.randint(1000, 9000, (8, 64))}
    inputs |= {"attention_mask": torch.ones(8, 64, dtype=torch.long), "labels": torch.randint(2, (8,))}
    data = {"train": rows, "validation": rows[:8]}
    options: dict[str, Any] = {"device": "cpu", "recipe": "original", "epochs": 1}
    usual, undropped, embedded = (Loop(data, model="minilm", **options, dropout=p) for p in (None, 0.0, None))
    embedded.model.get_input_embeddings().weight.requires_grad_(False)
    config = copy.deepcopy(usual.model.config)
    config.hidden_size, config.intermediate_size, config.num_attention_heads = 12, 48, 1
    narrow = Loop(data, model=AutoModelForSequenceClassification.from_config(config), tokenizer="minilm", **options)
    runs: dict[str, Callable[[], object]] = {
        "a step": partial(next, iter(usual)),
        "a step without dropout": partial(next, iter(undropped)),
        "a step with frozen embeddings": partial(next, iter(embedded)),
        "a step of 12 values, one head": partial(next, iter(narrow)),
    }
    if shutil.which("g++"):
        model: Any = AutoModelForSequenceClassification.from_pretrained(resolve_model("minilm")).train()
        runs["padded, called by Python"] = lambda: model(**inputs).loss.backward()
        whole: Any = torch.compile(model)
        runs["padded, compiled"] = lambda: whole(**inputs).loss.backward()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _, (name, run) in itertools.product(range(STEPS), runs.items()):  # they take turns
        began = time.process_time()
        run()
        seconds[name].append(time.process_time() - began)
    for name, each in seconds.items():
        print(f"{name:<32} {1e3 * statistics.median(each[3:]):6.1f} of processor time")


def frozen() -> None:
    """The products of a layer that is not trained, forward, of 430 tokens."""
    for inward, outward in LAYERS:
        layer, hidden = torch.nn.Linear(inward, outward), torch.randn(TOKENS, inward)
        ways = {"fp32": (layer, hidden), "bf16": (copy.deepcopy(layer).bfloat16(), hidden.bfloat16())}
        quantize: Any = torch.ao.quantization.quantize_dynamic
        quantized = quantize(torch.nn.Sequential(layer), dtype=torch.qint8)
        ways["int8"] = (quantized, hidden)
        with torch.no_grad():
            found = [f"{name} {median_ms(lambda _: way(values)):6.3f}" for name, (way, values) in ways.items()]  # noqa: B023
        print(f"frozen, {inward} to {outward:<19}", ", ".join(found))


def compiled() -> None:
    """What `torch.compile` makes of the elementwise parts of a layer, forward and backward, of 1,720 tokens in bf16."""
    if shutil.which("g++") is None:
        print("no compiler is installed: torch.compile is left out")
        return
    module, norm = torch.nn.Dropout(0.1), torch.nn.LayerNorm(384)

    def usual(hidden: Tensor, residual: Tensor) -> Tensor:
        answer: Tensor = norm(F.dropout(hidden.float(), 0.1) + residual)
        return answer

    def ours(hidden: Tensor, residual: Tensor) -> Tensor:
        answer: Tensor = norm(drop(hidden, module) + residual)
        return answer

    def activate(x: Tensor) -> Tensor:
        return F.gelu(x)

    hidden, wide = (torch.randn(1720, size, dtype=torch.bfloat16, requires_grad=True) for size in (384, 1536))
    residual = torch.randn(1720, 384, requires_grad=True)
    made: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
        "dropout, sum and norm": (ours, (hidden, residual)),
        "dropout, sum and norm, compiled": (torch.compile(usual), (hidden, residual)),
        "GELU": (F.gelu, (wide,)),
        "GELU, compiled": (torch.compile(activate), (wide,)),
    }
    for name, (function, given) in made.items():
        gradient = torch.randn_like(function(*given))
        print(f"{name:<32} {median_ms(lambda _: torch.autograd.backward(function(*given), gradient)):6.3f}")  # noqa: B023


if __name__ == "__main__":
    products()
    attention()
    long_row()
    dropout()
    norm()
    seeding()
    host()
    step()
    frozen()
    compiled()
