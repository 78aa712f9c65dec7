"""The processes that a launcher starts: which one this is, and what they tell each other of how they end.

A launcher (torchrun, accelerate launch) numbers them in the environment. They meet at a store beside the process
group, which is there before the group is, and outlives a collective that cannot end.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from importlib import import_module
from typing import Any

from dongu.errors import UsageError, WorkerError

PATIENCE_SECONDS = 10.0  # for what another process may be about to say; on a busy machine one is seconds behind
POLL_SECONDS = 0.02
TIMES_AS_LONG = 10  # as the first process others may take for what it has done
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
_NOBODY = (RuntimeError, ValueError, LookupError, ImportError, UsageError)  # said by a store that cannot be reached


def rank() -> int:
    """The number of this process, from 0; 0 where it is the only one, whatever the environment calls it."""
    number, count = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    return int(number) if number.isdecimal() and count != "1" and count else 0


def processes() -> int:
    """How many there are.

    Raises:
        UsageError: the environment has no number for it, or for this process.
    """
    for name in ("RANK", "WORLD_SIZE"):
        if not (value := os.environ.get(name) or "0").isdecimal():
            what = f"must be a whole number, got `{value}`"
            raise UsageError(what, where=name, hint="a launcher sets it: unset it, or start torchrun")
    return int(os.environ.get("WORLD_SIZE") or "1")


def alone() -> bool:
    """Whether this process is the one to do what is done once: the first, which then waits for no other."""
    if rank() > 0:
        return False
    for name in LAUNCHER:
        os.environ.pop(name, None)
    return True


def meet() -> None:
    """Wait until all processes are here; nothing under an agent of torchrun, which ends them all if one ends.

    Raises:
        UsageError: the environment does not say where to meet.
        WorkerError: one has ended before it came here.
    """
    if (count := processes()) == 1:
        return
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            hint = "a launcher sets both: start torchrun, or unset WORLD_SIZE"
            raise UsageError(f"is not set, and WORLD_SIZE is {count}", where=name, hint=hint)
    if _agent():
        return
    store = _reached()
    store.set(f"here/{rank()}", "")
    waiting = set(range(count))
    while waiting:
        for other in sorted(waiting):
            if store.check([f"here/{other}"]):
                waiting.remove(other)
            elif store.check([f"error/{other}"]):
                raise ended(f" (rank {other}) before the run began")
        time.sleep(0.01)


def tell(error: str) -> bool:
    """Tell the other processes what ends this one; whether it is something else than what ends the first one.

    The first waits a little for those that want to know before they speak.
    """
    me = rank()
    try:
        if (count := processes()) == 1:
            return False
        store = _store()
        deadline = time.monotonic() + PATIENCE_SECONDS  # to load torch may have taken as long
        store.set(f"error/{me}", error)
        store.set("errors", "")
        if me == 0:
            _wait(store, [f"read/{other}" for other in range(1, count)], deadline)
            return False
        differs = not _wait(store, ["error/0"], deadline) or store.get("error/0").decode() != error
        store.set(f"read/{me}", "")
    except _NOBODY:
        return me > 0
    return differs


@contextlib.contextmanager
def among_processes() -> Iterator[None]:
    """Say what the process group says in the block when a process of it is gone.

    Raises:
        WorkerError: one is gone.
    """
    try:
        yield
    except RuntimeError as error:
        distributed: Any = sys.modules.get("torch.distributed")
        if distributed is None or processes() == 1:
            raise
        if not (isinstance(error, distributed.DistError) or "gloo" in str(error)):
            raise
        raise _late(str(error)) from error


def wait_for_first() -> None:
    """Wait as long as the first process is at what it does alone; no collective does, whose time is limited.

    Raises:
        WorkerError: it has ended.
    """
    if processes() == 1:
        return
    me = rank()
    try:
        store = _store()
        times = store.add(f"alone/{me}", 1)
        while store.add("alone/0", 0) < times:
            if store.check(["error/0"]):
                raise ended(" (rank 0)")
            time.sleep(POLL_SECONDS)
    except _NOBODY as error:
        raise ended(" (rank 0)") from error


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """The first process does what is in the block, and then the others do: they find what it has left.

    On another machine they may have to do it again. So all wait for all, outside of any collective, but not for ever:
    one that was killed says nothing, and the next collective notices.
    """
    if (me := rank()) > 0:
        wait_for_first()
    began = time.monotonic()
    yield
    if (count := processes()) == 1:
        return
    with contextlib.suppress(*_NOBODY):
        store = _store()
        if me == 0:
            store.set("alone/seconds", str(time.monotonic() - began))
            wait_for_first()
        deadline = time.monotonic() + PATIENCE_SECONDS + TIMES_AS_LONG * float(store.get("alone/seconds"))
        wanted = count * store.add(f"done/{me}", 1)
        store.add("done", 1)
        while store.add("done", 0) < wanted and not store.check(["errors"]) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def _late(error: str) -> WorkerError:
    """What a collective that cannot end says of the other processes: they are gone, or one has not come in time."""
    with contextlib.suppress(*_NOBODY):
        store, every = _store(), range(processes())
        store.set(f"waits/{rank()}", "")  # it has come, and knows no more
        if "timed out" in error.lower():
            _wait(store, [f"waits/{each}" for each in every], time.monotonic() + PATIENCE_SECONDS)
            missing = [str(each) for each in every if not store.check([f"waits/{each}"])]
            who = f"rank {', '.join(missing)} did not come in time" if missing else "another process came too late"
            hint = "it hangs, or needs longer; a run that has a checkpoint can be resumed"
            return WorkerError(f"{who} to where the others wait (--timeout)", hint=hint)
    return ended("")


def ended(which: str) -> WorkerError:
    """That another process is gone."""
    hint = "its own message says why, if it had the time; `dongu resume RUN` continues a run that has a checkpoint"
    return WorkerError(f"another process of the run has ended{which}", hint=hint)


def _reached() -> Any:
    """The store, when the first process is there to keep it."""
    while True:
        with contextlib.suppress(RuntimeError):
            return _store()


@cache
def _store() -> Any:
    """That of the launcher, or the first process's own, which the process group then shares.

    After a restart the launcher's is still the same, and holds what was said before; a process's own is a new one. Of
    two agents, one may have counted a restart, and the other not.
    """
    distributed: Any = import_module("torch.distributed")
    store = distributed.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=rank() == 0 and not _agent(),
        timeout=timedelta(seconds=PATIENCE_SECONDS),
        wait_for_workers=False,
        multi_tenant=True,
    )
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", 0) if _agent() else 0
    return distributed.PrefixStore(f"dongu/{restarts}", store)


def _agent() -> bool:
    """Whether torchrun keeps a store itself; then it also ends all processes when one ends."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _wait(store: Any, keys: list[str], deadline: float) -> bool:
    """Whether all of them are there in time."""
    while not store.check(keys):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
