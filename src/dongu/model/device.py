"""Where the run computes, with how many processes and threads, and in which precision."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, PartialState

from dongu.config import RunConfig
from dongu.errors import UsageError


def make_accelerator(config: RunConfig) -> Accelerator:
    """One `Accelerator` for the options: alone, or one of the processes of `torchrun` or `accelerate launch`.

    Raises:
        UsageError: the device is not there.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    kind, _, index = config.device.partition(":")
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(kind, True):
        raise UsageError(
            f"this machine has no {kind} device that PyTorch {torch.__version__} can use",
            where=f"--device {config.device}",
            hint="leave --device out, or give cpu",
        )
    _forget_earlier_accelerator()
    if index:
        if int(index) >= torch.cuda.device_count():
            raise UsageError(f"there are {torch.cuda.device_count()} CUDA devices", where=f"--device {config.device}")
        torch.cuda.set_device(int(index))
    keep_freed_memory()
    # Buffers (position ids) are the same everywhere; sending them around at each forward would change nothing.
    handlers = [DistributedDataParallelKwargs(broadcast_buffers=False)]
    precision = "bf16" if config.precision == "bf16" else "no"
    # Said outright, or Accelerate would leave the processes of a launcher on a machine without a GPU alone, each of
    # them believing that it is the only one.
    on_cpu = kind == "cpu" or (kind == "auto" and not any(available.values()))
    accelerator = Accelerator(cpu=on_cpu, mixed_precision=precision, kwargs_handlers=handlers)
    if accelerator.num_processes != (launched := int(os.environ.get("WORLD_SIZE", "1"))):
        raise UsageError(
            f"the launcher started {launched} processes, and they work as {accelerator.num_processes}",
            where=f"--device {config.device}",
            hint="start one process, or give --device cpu or cuda",
        )
    return accelerator


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
    """What the processor's products, and so their last bits, depend on: its instructions, and who made it."""
    return ", ".join(filter(None, [torch.backends.cpu.get_cpu_capability(), processor_vendor()]))


def processor_vendor() -> str:
    """Who made the processor, as it says itself; empty where Linux does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "vendor_id":
                return value.strip()
    return ""
