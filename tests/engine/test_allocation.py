"""What glibc is asked to keep: seen in a process of its own, since it is for good."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from drivers import HANGS

BLOCKS = """
import resource
import torch
from dongu.engine.device import keep_freed_memory

keep_freed_memory()
for _ in range(12):
    since = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = torch.ones(12 << 20)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - since)
    del block
"""


@pytest.mark.crash
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is no glibc here")
def test_a_freed_block_is_used_again_and_not_faulted_in_again() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKS], capture_output=True, text=True, check=True, timeout=HANGS)
    faults = [int(line) for line in done.stdout.split()]
    # The first few lie here and there, beside what else is freed.
    assert sorted(faults)[len(faults) // 2] < 100
