"""Where the run computes, with how many processes and threads, and in which precision."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import threading
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState, PartialState

from dongu.config import RunConfig
from dongu.errors import UsageError
from dongu.launch import among_processes, meet, processes

_MAKING = threading.Lock()  # of an accelerator, whose library keeps one state for all threads
OFF = frozenset({"", "0", "false", "no", "n", "off", "f"})  # as Accelerate reads a switch
_WHOLE = "every process holds the whole model: start without it (torchrun, or accelerate launch --multi_gpu)"
# Environment variables by which Accelerate would change the arithmetic: a pattern of the name, the values that change
# nothing, and the hint for any other value. `accelerate launch` always sets some of them. The other variables of
# FSDP_…, MEGATRON_LM_…, ACCELERATE_DEEPSPEED_… and ACCELERATE_DYNAMO_… are read only where one of these is set.
SETTINGS = (
    ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", {"1"}, "an update is split by --micro-batch-size: unset it"),
    ("ACCELERATE_GRADIENT_CLIPPING", {"none"}, "give --max-grad-norm, and unset it"),
    ("ACCELERATE_USE_(FSDP|DEEPSPEED|MEGATRON_LM|PARALLELISM_CONFIG)", OFF, _WHOLE),
    (r"PARALLELISM_CONFIG_\w+_SIZE", {"1"}, _WHOLE),
    ("ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE", {"no"}, _WHOLE),
    ("ACCELERATE_DYNAMO_BACKEND", {"no"}, "nothing is compiled: start without --dynamo_backend, or unset it"),
    (r"ACCELERATE_FP8_\w+", OFF, "give --precision bf16, and unset it"),
    ("ACCELERATE_DOWNCAST_BF16", OFF, "give --precision bf16, and unset it"),
    ("ACCELERATE_TORCH_DEVICE", OFF, "give --device, and unset it"),
)


def refuse_settings(config: RunConfig, environment: Mapping[str, str]) -> None:
    """
    Raises:
        UsageError: the environment asks Accelerate for another arithmetic than the options do.
    """
    wanted = {name: value.strip() for name, value in environment.items() if value.strip()}
    refused = [
        (name, hint)
        for pattern, harmless, hint in SETTINGS
        for name in wanted
        if re.fullmatch(pattern, name) and wanted[name].lower() not in harmless
    ]
    precision = wanted.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision not in ("no", config.precision):
        known = f"give --precision {precision}, or" if precision == "bf16" else "--precision is fp32 or bf16:"
        hint = f"{known} start without --mixed_precision, or with no"
        refused.append(("ACCELERATE_MIXED_PRECISION", hint))
    if wanted.get("ACCELERATE_USE_CPU", "no").lower() not in OFF and config.device not in ("auto", "cpu"):
        refused.append(
            ("ACCELERATE_USE_CPU", f"unset it (accelerate launch --cpu), or leave --device {config.device} out")
        )
    for name, hint in refused:
        raise UsageError(
            "the environment asks Accelerate for what dongu does not do", where=f"{name}={wanted[name]}", hint=hint
        )


def make_accelerator(config: RunConfig, *, has_own_model: bool = False) -> Accelerator:
    """One `Accelerator` for the options: alone, or one of the processes of `torchrun` or `accelerate launch`.

    Args:
        config: the run's.
        has_own_model: whether the model is the user's own, of which some parameters may have no part in the loss.

    Raises:
        UsageError: the device is not there, or the environment asks for another arithmetic.
        WorkerError: another process of the launcher has ended.
    """
    refuse_settings(config, os.environ)
    keep_threads(config)
    kind, _, index = config.device.partition(":")
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(kind, True):
        what = f"this machine has no {kind} device that PyTorch {torch.__version__} can use"
        raise UsageError(what, where=f"--device {config.device}", hint="leave --device out, or give cpu")
    if index:
        if int(index) >= torch.cuda.device_count():
            raise UsageError(f"there are {torch.cuda.device_count()} CUDA devices", where=f"--device {config.device}")
        torch.cuda.set_device(int(index))
    keep_freed_memory()
    # Buffers (position ids) are the same in all processes; to broadcast them at each forward would change nothing.
    handlers: list[Any] = [DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=has_own_model)]
    if config.timeout is not None:
        handlers.append(InitProcessGroupKwargs(timeout=timedelta(seconds=config.timeout)))
    precision = "bf16" if config.precision == "bf16" else "no"
    # Without `cpu=True`, Accelerate on a machine without a GPU treats each process of a launcher as the only one.
    on_cpu = kind == "cpu" or (kind == "auto" and not any(available.values()))
    with among_processes():
        if not torch.distributed.is_available() or not torch.distributed.is_initialized():
            meet()
        with _MAKING:
            _forget_earlier_accelerator()
            accelerator = Accelerator(cpu=on_cpu, mixed_precision=precision, kwargs_handlers=handlers)
            # A later loop or classifier of this process has a device and a precision of its own.
            accelerator.state.__dict__ = {**accelerator.state.__dict__}
    if accelerator.num_processes != (launched := processes()):
        what = f"the launcher started {launched} processes, and they work as {accelerator.num_processes}"
        hint = "start one process, or give --device cpu or cuda"
        raise UsageError(what, where=f"--device {config.device}", hint=hint)
    return accelerator


def keep_threads(config: RunConfig) -> None:
    """Compute on as many threads as the run says: the last bits of sums depend on it, and it is one number for all."""
    if config.threads is not None and torch.get_num_threads() != config.threads:
        torch.set_num_threads(config.threads)


def autocast_of(config: RunConfig, device: torch.device) -> torch.autocast:
    """The precision of the run's matrix products. Accelerate's own is that of the process's last accelerator."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")


def distributed(accelerator: Accelerator, engine: Any) -> Any:
    """The engine, under DDP where there are several processes: each with all weights."""
    engine = accelerator.prepare_model(engine)
    if accelerator.num_processes > 1:
        # The loop moves what has to be moved. DDP would move flat rows too, and their layout would wait for them.
        engine.device_ids = None
    return engine


def keep_freed_memory() -> None:
    """Have glibc keep large blocks instead of giving them back and faulting them in again at each step.

    The gradient of a word embedding is such a block. It changes speed only, and nothing where there is no glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        trim_threshold, mmap_threshold = -1, -3  # mallopt(3)
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)


def _forget_earlier_accelerator() -> None:
    """Accelerate keeps device and precision for the whole process; a second loop may want others."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    AcceleratorState._reset_state(reset_partial_state=not distributed)
    if not distributed:
        PartialState._reset_state()


def describe_device(accelerator: Any) -> str:
    """The device in words: its kind, its name where it has one."""
    device = accelerator.device
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device.type)  # not cpu:0, as a launcher calls it


def describe_processor() -> str:
    """The instruction set and the vendor of the processor, on which the last bits of its products depend."""
    return ", ".join(filter(None, [torch.backends.cpu.get_cpu_capability(), processor_vendor()]))


def processor_vendor() -> str:
    """The vendor that the processor names; empty where there is no /proc/cpuinfo."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "vendor_id":
                return value.strip()
    return ""


def free_bytes(device: torch.device) -> int | None:
    """Memory that this process could still take: of a GPU, or of the machine or container; None if not known."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    found = []
    with contextlib.suppress(OSError, LookupError, ValueError):
        found.append(1024 * _numbers("/proc/meminfo")["MemAvailable:"])
    with contextlib.suppress(OSError, LookupError, ValueError):  # "max" is no number
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        found.append(limit - used + _numbers(str(group / "memory.stat"))["inactive_file"])
    return min(found, default=None) if device.type == "cpu" else None


def _numbers(file: str) -> dict[str, int]:
    """A file of the system with a name and a number on each line."""
    return {line.split()[0]: int(line.split()[1]) for line in Path(file).read_text(encoding="utf-8").splitlines()}
