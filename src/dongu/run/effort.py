"""What the steps of a run amounted to: examples, tokens, padding, and how much of the machine they used."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from dongu.engine.products import FEWEST_TOKENS, has_fast_products, product
from dongu.evaluate import eval_mode
from dongu.loop import Loop
from dongu.run.spared import tried
from dongu.update import Step

PROBE_SIZES = {"cpu": 768, "mps": 2048, "cuda": 4096}  # rows and columns of the product that the probe times
PROBE_SECONDS = 0.1
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
COMPARED_OPERATIONS = 2e7  # of the product by which they are compared: a few milliseconds even where bf16 is emulated
COMPARED_ROUNDS = 3
WORTH_SAYING = 1.5  # times as fast
SEEN_ROWS = 4_096  # among which a usual one is looked for


@dataclass
class Effort:
    """Sums over the steps that this process made since the run was started or went on."""

    steps: int = 0
    examples: int = 0
    tokens: int = 0
    padded_tokens: int = 0  # what they would be, or are, with each row padded to the longest of its micro-batch
    seconds: float = 0.0
    per_second: dict[str, float] = field(default_factory=dict)  # filled by `close`
    not_measured: str = field(default="", init=False)  # why `per_second` says nothing of the machine

    def add(self, step: Step) -> None:
        self.steps += 1
        self.examples += step.examples
        self.tokens += step.tokens
        self.padded_tokens += step.padded_tokens
        self.seconds += step.seconds

    def close(self, loop: Loop) -> dict[str, Any]:
        """The sums, with the rates and the peak of memory; times two small products to know what the machine can.

        What cannot be measured is left out.
        """
        device, seconds = loop.accelerator.device, max(self.seconds, 1e-9)  # a clock may stand still
        self.per_second = {"examples": self.examples / seconds, "tokens": self.tokens / seconds}
        if loop.is_sharded:
            machine, self.not_measured = None, "each process has a part of the weights"
        else:
            machine, self.not_measured = tried(lambda: self._of_the_machine(loop))
        self.per_second |= machine or {}
        sums = {name: value for name, value in asdict(self).items() if name != "not_measured"}
        return {**sums, "peak_memory_bytes": tried(lambda: peak_memory_bytes(device))[0]}

    def _of_the_machine(self, loop: Loop) -> dict[str, float]:
        """Operations a second that the run made, and those of products."""
        device, precision = loop.accelerator.device, loop.config.precision
        offsets = loop.splits["train"].tokens.offsets
        lengths = np.diff(offsets[: SEEN_ROWS + 1])
        usual = int(np.abs(lengths - lengths.mean()).argmin())  # a real row: some models look for its last token
        inputs = loop.collate(loop.splits["train"], np.array([usual]))
        inputs.pop("labels", None)
        engine = loop.accelerator.unwrap_model(loop.engine)
        flops = pass_flops(engine, inputs, backward=True) / int(lengths[usual]) * self.tokens
        probe_seconds = min(PROBE_SECONDS, self.seconds / 100)
        rates = {"product_flops": product_rate(device, precision, probe_seconds)}
        if device.type != "cpu":  # of a CPU `precision_seconds` has told, and where bf16 is emulated it takes long
            rates["bf16_product_flops"] = product_rate(device, "bf16", probe_seconds)
        return {"model_flops": flops / max(self.seconds, 1e-9), **rates}

    def lines(self, loop: Loop) -> list[tuple[str, str]]:
        """The same for a person, after `close`."""
        return tried(lambda: self._lines(loop))[0] or []

    def _lines(self, loop: Loop) -> list[tuple[str, str]]:
        config, rate = loop.config, self.per_second
        padding = 1 - self.tokens / self.padded_tokens
        peak = peak_memory_bytes(loop.accelerator.device)
        memory = f"{peak / 1e9:.1f} GB" if peak >= 1e9 else f"{peak / 1e6:.0f} MB"
        left_out = "left out" if config.engine == "packed" else "computed"
        digits = 1 if rate["examples"] < 100 else 0
        tokens = f"{rate['tokens']:,.0f} tokens/s"
        if loop.accelerator.num_processes > 1:  # examples are counted over all, and what memory holds is this one's too
            tokens += " a process"
        speed = f"{rate['examples']:,.{digits}f} examples/s, {tokens}, {memory} peak"
        use = f"not measured ({self.not_measured})" if self.not_measured else self._use(config.precision)
        return [("speed", f"{speed}; {padding:.1%} padding {left_out}"), ("machine", use)]

    def _use(self, precision: str) -> str:
        """The share of what the machine can, as far as the probe tells."""
        rate = self.per_second
        probed = f"{rate['product_flops'] / 1e9:,.0f} GFLOP/s of {precision} matrix products"
        share = rate["model_flops"] / rate["product_flops"]
        if share > 1:
            return f"more than the {probed} in a probe that other load disturbed"
        faster = rate.get("bf16_product_flops", 0.0) / rate["product_flops"]
        hint = " (--precision bf16 has more)" if faster >= WORTH_SAYING else ""
        return f"{share:.0%} of {probed}{hint}"


def pass_flops(model: Any, inputs: Mapping[str, Tensor], *, backward: bool = False) -> int:
    """Floating-point operations of the products and the attention of a forward pass, with `backward` of both passes.

    They are counted as they are made, so what is frozen, or left out, is not among them. Gradients are as before.
    """
    device = next(model.parameters()).device
    given = {name: tensor.to(device) for name, tensor in inputs.items()}
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad] if backward else []
    before = [parameter.grad for parameter in learning]
    counter = FlopCounterMode(display=False, custom_mapping=_uncounted())
    with eval_mode(model), torch.set_grad_enabled(backward), ExitStack() as held, counter:
        for parameter in learning:  # no gradient is kept, for which there may be no memory
            parameter.grad = None
            hook = parameter.register_post_accumulate_grad_hook(lambda each: setattr(each, "grad", None))
            held.callback(hook.remove)
        try:
            logits = model(**given).logits
            if backward:
                logits.sum().backward()
        finally:
            for parameter, gradient in zip(learning, before, strict=True):
                parameter.grad = gradient
    return int(counter.get_total_flops())


def _uncounted() -> dict[Any, Callable[..., int]]:
    """Kernels that PyTorch's counter does not know: attention on a CPU, and the products of `engine/products.py`."""

    def of_attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

    def of_product(left: Sequence[int], right: Sequence[int], *_: Any, **__: Any) -> int:
        return 2 * math.prod(left) * right[0]

    def of_attention_backward(_: Sequence[int], *shapes: Sequence[int], **__: Any) -> int:
        query, key, value = shapes[:3]
        return int(sdpa_backward_flop_count(query, query, key, value))  # type: ignore[no-untyped-call]

    products = {torch.ops.mkldnn._linear_pointwise: of_product} if has_fast_products() else {}
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    return {attention: of_attention, backward: of_attention_backward, **products}


def product_rate(device: torch.device, precision: str, seconds: float) -> float:
    """Floating-point operations a second of the product of two square matrices; the best of what so long allows."""
    size = PROBE_SIZES.get(device.type, PROBE_SIZES["cpu"])
    one = torch.ones((size, size), dtype=PRECISIONS[precision], device=device)
    multiply = _multiply(one)
    best = float("inf")
    with torch.no_grad():
        ending = time.perf_counter() + seconds
        while best == float("inf") or time.perf_counter() < ending:
            _wait_for(device)
            started = time.perf_counter()
            multiply(one, one)
            _wait_for(device)
            best = min(best, time.perf_counter() - started)
    return float(2 * size**3 / best)


def precision_seconds(loop: Loop) -> dict[str, float]:
    """Processor seconds of the products of the model's largest layer, forward and backward, in each precision.

    They are the best of a few, by the clock of the process and on one thread, so that what else the machine does counts
    little. Tokens, and then outputs of the layer, are as many as take milliseconds.
    """
    train, config = loop.splits["train"].tokens, loop.config
    mean = train.summary()["tokens"] / len(train)
    tokens = min(FEWEST_TOKENS, round(mean * (config.micro_batch_size or config.batch_size)))
    layers = [m for m in loop.model.modules() if not isinstance(m, nn.Embedding)]
    weights = [m.weight for m in layers if isinstance(getattr(m, "weight", None), Tensor) and m.weight.dim() == 2]
    outputs, inputs = max((weight.shape for weight in weights), key=math.prod)
    outputs = min(outputs, max(1, int(COMPARED_OPERATIONS / (6 * tokens * inputs))))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {name: _layer_seconds(tokens, inputs, outputs, dtype) for name, dtype in PRECISIONS.items()}
    finally:
        torch.set_num_threads(threads)


def _layer_seconds(tokens: int, inputs: int, outputs: int, dtype: torch.dtype) -> float:
    given, weight = torch.ones((tokens, inputs), dtype=dtype), torch.ones((outputs, inputs), dtype=dtype)
    gradient = torch.ones((tokens, outputs), dtype=dtype)
    multiply, seconds = _multiply(given), []
    for _ in range(1 + COMPARED_ROUNDS):  # the first compiles, and fills the caches
        started = time.process_time()
        multiply(given, weight.t())
        multiply(gradient, weight)
        multiply(gradient.t(), given)
        seconds.append(time.process_time() - started)
    return min(seconds[1:])


def precision_advice(precision: str, seconds: Mapping[str, float]) -> str:
    """What to say of the chosen precision, where the other one is faster by far; nothing elsewhere."""
    times = seconds["bf16"] / seconds["fp32"]
    if precision == "bf16" and times >= WORTH_SAYING:
        return f"products in bf16 take {times:.2g} times as long as in fp32 on this processor: give --precision fp32"
    if precision == "fp32" and 1 / times >= WORTH_SAYING:
        return f"products in bf16 are {1 / times:.2g} times as fast as in fp32 on this processor: try --precision bf16"
    return ""


def _multiply(left: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The matrix product by which a model computes Linears of such inputs, (tokens, in); it is compiled."""
    fast = left.device.type == "cpu" and left.dtype == torch.float32 and has_fast_products()
    if not fast or len(left) < FEWEST_TOKENS:
        return torch.mm

    def by_onednn(one: Tensor, other: Tensor) -> Tensor:
        return product(one, other.t())

    by_onednn(left, left.t())
    return by_onednn


def peak_memory_bytes(device: torch.device) -> int:
    """Of the device where it has its own, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _wait_for(device: torch.device) -> None:
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()
