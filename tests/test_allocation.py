"""What glibc is asked to keep: seen in processes of their own, since it is for good."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is no glibc here")

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
BLOCKS = """
import re, resource
import torch
from dongu.model.device import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def kib(name, file):
    return int(re.search(name + r":\\s+(\\d+)", open(file).read())[1])

before = kib("VmSize", "/proc/self/status"), kib("VmRSS", "/proc/self/status")
keep_freed_memory()
print(kib("VmSize", "/proc/self/status") - before[0], kib("VmRSS", "/proc/self/status") - before[1])
for _ in range(3):
    since = faults()
    block = torch.ones(12 << 20)
    print(faults() - since, kib("AnonHugePages", "/proc/self/smaps_rollup"))
    del block
"""


def run(before: str = "") -> list[list[int]]:
    """The numbers that the process prints, line by line."""
    command = [sys.executable, "-c", before + BLOCKS]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout
    return [[int(number) for number in line.split()] for line in output.splitlines()]


def test_a_freed_block_is_used_again_and_not_faulted_in_again() -> None:
    (_, resident), *blocks = run()
    assert resident < 4096  # addresses are not memory
    assert [faults < 100 for faults, _ in blocks[1:]] == [True, True]


@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[never]" in HUGE_PAGES.read_text(encoding="ascii"),
    reason="the kernel gives no huge pages",
)
def test_the_heap_is_in_huge_pages() -> None:
    assert all(kib >= 40 << 10 for _, kib in run()[1:])


def test_where_addresses_are_limited_none_are_taken_for_later() -> None:
    unlimited, *_ = run()
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))\n"
    limited, *_ = run(limit)
    assert unlimited[0] > 4000 << 10
    assert limited[0] < 100 << 10
