"""What memory the updates of a run need, found before the first of them."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dongu.data.collate import make_micro_batch
from dongu.draws import DRAWING
from dongu.engine.device import autocast_of
from dongu.engine.generic import layers_of
from dongu.engine.packed import PaddingFree
from dongu.engine.recompute import recompute_layers
from dongu.engine.shard import own_part
from dongu.errors import UsageError
from dongu.loop import Loop
from dongu.model.loss import logits_of
from dongu.run.spared import tried
from dongu.text import counted
from dongu.waiting import Waiting

LOOKED_UPDATES = 10_000  # for the largest of them
SHORTEST = 16  # tokens a row that are worth a try
EVERY = ("--micro-batch-size 1", "--gradient-checkpointing", "--lora 16", "--base-precision bf16", "--max-length")
SCORES_A_TOKEN = 768  # that take the memory of a token's other activations, in a model of BERT's shape


@dataclass(frozen=True)
class Need:
    """Bytes of one process. `peak` is of all together: activations go while gradients come."""

    weights: int
    gradients: int
    optimizer_state: int
    activations: int  # that the forward pass of the largest micro-batch leaves for backward
    peak: int
    rows: int  # of that micro-batch
    tokens: int


@Waiting("measuring the memory of an update")
def memory_need(loop: Loop) -> Need | None:
    """What the loop's updates need, on the first process.

    None where it fails, and where parts of the user's own decide, which are not called once more.
    """
    return tried(lambda: _memory_need(loop))[0] if loop.accelerator.is_main_process else None


def _memory_need(loop: Loop) -> Need | None:
    own, sharded = loop.given, loop.is_sharded
    if own.model is not None or own.loss is not None or own.optimizer is not None or own.update is not None:
        return None
    if any(module._forward_hooks or module._forward_pre_hooks for module in loop.model.modules()) and not sharded:
        return None
    return rehearse(loop, largest_micro_batch(loop))


def said_of_memory(loop: Loop, need: Need, free: int | None) -> str:
    """The need in words; where it is more than is free beside the weights, which are there already, what would fit."""
    unit, factor = ("GB", 1e9) if need.peak >= 1e9 else ("MB", 1e6)

    def of(size: int) -> str:
        digits = 1 if unit == "GB" else 0 if size >= 1e7 else 1 if size >= 1e6 else 2
        return f"{size / factor:.{digits}f}"

    each = " a process" if loop.accelerator.num_processes > 1 else ""
    said = f"{of(need.peak)} {unit}{each}: weights {of(need.weights)}, gradients {of(need.gradients)}, optimizer "
    said += f"{of(need.optimizer_state)}, activations {of(need.activations)}"
    if free is None or need.peak - need.weights <= free:
        return said
    said += f" of {counted(need.rows, 'row')} with {counted(need.tokens, 'token')}"
    fitting = [f"{option} ({of(peak)})" for option, peak in smaller(loop, need, free) if peak - need.weights <= free]
    hint = f"would fit: {', '.join(fitting)}" if fitting else "give several of " + ", ".join(EVERY) + " at once"
    return f"{said}; more than is free, {of(free)} {unit} beside the weights; {hint}"


def smaller(loop: Loop, need: Need, free: int) -> Iterator[tuple[str, int]]:
    """Options that the run does not have yet, and the peak that it would have with each."""
    config, peak = loop.config, need.peak
    rows, size = largest_micro_batch(loop), need.rows
    while size > 1 and peak - need.weights > free:
        size //= 2
        peak = rehearse(loop, rows[:size]).peak
    if size < need.rows:
        yield f"--micro-batch-size {size}", peak
    if not config.gradient_checkpointing:
        with suppress(UsageError):
            yield "--gradient-checkpointing", rehearse(loop, rows, recomputed=True).peak
    lora, frozen = "", need.peak
    if config.lora is None:
        frozen = max(need.peak - need.gradients - need.optimizer_state, need.weights + need.activations)
        lora = "--lora 16 "
        yield "--lora 16", frozen
    if config.base_precision == "fp32":
        yield f"{lora}--base-precision bf16", frozen - need.weights // 2
        if not loop.is_sharded and find_spec("bitsandbytes"):
            tables = sum(size_of(each.weight) for each in loop.model.modules() if isinstance(each, nn.Embedding))
            packed = (need.weights - tables) * 9 // 64 + tables // 2  # 4 bits of 32, and 32 for 64 of them
            yield f"{lora}--base-precision 4bit", frozen - need.weights + packed
    if need.activations:
        longest = loop.train_updates.split.pieces.tokens.longest
        fixed = need.peak - need.weights - need.activations
        length = int(longest * (free - fixed) / need.activations)
        if length >= SHORTEST:
            yield f"--max-length {length}", need.weights + free


def largest_micro_batch(loop: Loop) -> np.ndarray:
    """The rows of the micro-batch that takes most memory, (rows,), in the first epoch as far as it is looked through.

    A share of an update that falls to a process is cut as if there were no other process.
    """
    updates, steps = loop.train_updates, min(loop.total_steps, loop.steps_per_epoch, LOOKED_UPDATES)
    rows = np.concatenate([updates.rows(step) for step in range(steps)])
    _, lengths = updates.split.pieces.tokens.spans(updates.split.drawn(rows, updates.seed, 0))
    starts = np.arange(0, len(rows), micro_batch_rows(loop))
    if loop.config.engine == "plain":  # rows are padded to the longest
        lengths = np.repeat(np.maximum.reduceat(lengths, starts), np.diff([*starts, len(rows)]))
    start = starts[np.add.reduceat(lengths * (lengths + SCORES_A_TOKEN), starts).argmax()]
    return rows[start : start + starts[1]] if len(starts) > 1 else rows


def micro_batch_rows(loop: Loop) -> int:
    """Of one forward pass."""
    share = -(-loop.config.batch_size // loop.accelerator.num_processes)
    return min(int(loop.train_updates.micro_batch_size), int(share))


def rehearse(loop: Loop, rows: np.ndarray, *, recomputed: bool = False) -> Need:
    """One update, by a copy of the model whose tensors have shapes and no memory; nothing of the loop moves.

    Every operation of forward and backward is called as in a real update, on the same device and so by the same
    kernels, and gives what has the size of its result: so no family of models needs a formula.

    `rows` are those of its largest micro-batch. With `recomputed` it is an update with --gradient-checkpointing,
    whatever the loop does.
    """
    split, device = loop.train_updates.split, loop.accelerator.device
    micro_batch = make_micro_batch(split.pieces, loop.collate, split.drawn(rows, loop.config.seed, 0), 0)
    inputs = {name: x.float() if x.is_floating_point() else x for name, x in micro_batch.to(device).items()}
    inputs.pop("labels", None)
    count = Tally()
    model = hollow_copy(_outline(loop) if loop.is_sharded else loop.model, count, device)
    weights = count.now
    if recomputed:
        recompute_layers(model)
    own = loop.accelerator.unwrap_model(loop.engine)
    engine = own.copy_to(model) if isinstance(own, PaddingFree) else model
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = sum(map(size_of, learning))
    with DRAWING, torch.random.fork_rng([device] if device.type == "cuda" else []):
        if len(rows) < loop.config.batch_size // loop.accelerator.num_processes:  # others have been before
            for parameter in learning:
                parameter.grad = torch.empty_like(parameter)
        before = count.now
        with nullcontext() if loop.is_sharded else autocast_of(loop.config, device):
            loss = logits_of(engine(**inputs)).float().sum()
        activations = count.now - before
        if loop.is_sharded:
            for parameter in learning:  # what goes to the other processes is not kept whole
                parameter.register_post_accumulate_grad_hook(lambda each: setattr(each, "grad", None))
        loss.backward()  # type: ignore[no-untyped-call]
    if loop.is_sharded:
        need = _of_a_process(loop, model, count.peak - weights)
        return replace(need, activations=activations, rows=len(rows), tokens=micro_batch.tokens)
    buckets = gradients if loop.accelerator.num_processes > 1 else 0  # in which DDP sends them
    state = 2 * gradients
    peak = max(count.peak, weights + gradients + step_bytes(loop, learning)) + state + buckets
    return Need(weights, gradients + buckets, state, activations, peak, len(rows), micro_batch.tokens)


def _outline(loop: Loop) -> Any:
    """What a process computes with, without memory, in the precision that FSDP gathers the weights in."""
    model = copy.deepcopy(loop.outline).train()
    return model.bfloat16() if loop.config.precision == "bf16" else model


def _of_a_process(loop: Loop, model: nn.Module, computed: int) -> Need:
    """The need of a process that has some rows of every weight.

    Its peak is while a layer computes, where there are, whole, what is in no layer, this layer, the next and a
    gradient; or at the end of backward, with what is in no layer and its gradient.

    `model` is the loop's `outline`, `computed` the most bytes of activations and their gradients at a time, and of one
    parameter's.
    """
    parameters = [*loop.model.parameters()]
    weights, gradients = (sum(map(size_of, each)) for each in (parameters, [p for p in parameters if p.requires_grad]))
    parts = [] if loop.not_sharded else layers_of(model)
    within = {id(parameter) for part in parts for parameter in part.parameters()}
    layer, layer_learning = max(_whole_bytes(part.parameters()) for part in parts) if parts else (0, 0)
    kept, learning = _whole_bytes(each for each in model.parameters() if id(each) not in within)
    state = 2 * gradients
    peak = weights + gradients + state + kept + max(computed + 2 * layer + layer_learning, 2 * learning)
    return Need(weights, gradients, state, computed, peak, 0, 0)


def _whole_bytes(parameters: Iterable[nn.Parameter]) -> tuple[int, int]:
    """Of parameters, and of those that learn."""
    sizes = [(int(each.nbytes), each.requires_grad) for each in parameters]
    return sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns)


def hollow_copy(model: Any, count: Tally, device: torch.device) -> Any:
    """The model with tensors of a device that take no memory."""
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        learns = isinstance(tensor, nn.Parameter) and tensor.requires_grad
        made: Any = Hollow.of(tensor.detach().to("meta"), device, count, requires_grad=learns)
        made._is_param = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = made
    copied = copy.deepcopy(model, memo)
    copied.__dict__.pop("forward", None)  # which Accelerate has bound to the model that was copied
    return copied


def step_bytes(loop: Loop, learning: list[nn.Parameter]) -> int:
    """What a step of AdamW needs for a moment: nothing fused, else two of a parameter, or on CUDA one of all."""
    if loop.optimizer.defaults.get("fused"):
        return 0
    sizes = [size_of(parameter) for parameter in learning]
    return sum(sizes) if loop.accelerator.device.type == "cuda" else 2 * max(sizes)


def size_of(tensor: Tensor) -> int:
    """Bytes that this process holds of it."""
    return int(own_part(tensor).nbytes)


class Tally:
    """Bytes of the storages that are alive now, and of those that ever were together."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._alive: dict[int, Any] = {}

    def add(self, storage: Any) -> None:
        """One more, unless it is counted already; until nobody holds it."""
        key, size = id(storage), storage.nbytes()
        if key not in self._alive:
            self.now += size
            self.peak = max(self.peak, self.now)
            self._alive[key] = weakref.ref(storage, lambda _: self._forget(key, size))

    def _forget(self, key: int, size: int) -> None:
        del self._alive[key]
        self.now -= size


class Hollow(Tensor):
    """A tensor of a device that has all but memory: an operation on it is made on PyTorch's `meta` device.

    PyTorch's own FakeTensor says the same, and takes longer.
    """

    count: Tally
    bare: Tensor  # on the device `meta`; its storage is what is counted

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def of(bare: Tensor, device: torch.device, count: Tally, *, requires_grad: bool = False) -> Hollow:
        """One of a tensor on the device `meta`."""
        made: Any = Tensor._make_wrapper_subclass(
            Hollow, bare.shape, strides=bare.stride(), storage_offset=bare.storage_offset(), dtype=bare.dtype,
            device=device, requires_grad=requires_grad,
        )  # fmt: skip
        made.bare, made.count = bare, count
        count.add(bare.untyped_storage())
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """What `func` gives has the shape that the real one has, and no memory."""
        given: dict[int, Hollow] = {}
        args, kwargs = _bared(args, given), {name: _bared(value, given) for name, value in (kwargs or {}).items()}
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("meta")
        return _hollow(func(*args, **kwargs), given)


def _bared(value: Any, given: dict[int, Hollow]) -> Any:
    """Arguments on the device `meta`; `given` takes those that were hollow."""
    if isinstance(value, Hollow):
        given[id(value.bare)] = value
        return value.bare
    if isinstance(value, Tensor):
        return value.to("meta")
    return [_bared(each, given) for each in value] if isinstance(value, list | tuple) else value


def _hollow(value: Any, given: dict[int, Hollow]) -> Any:
    """Results as hollow tensors; what was changed in place is the argument that it was."""
    if isinstance(value, Tensor):
        known, like = given.get(id(value)), next(iter(given.values()))
        return Hollow.of(value, like.device, like.count) if known is None else known
    return type(value)(_hollow(each, given) for each in value) if isinstance(value, list | tuple) else value
