"""A DataLoader that ends when its workers do, and workers that end with the run."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from dongu.errors import WorkerError

WORKER_TIMEOUT_SECONDS = 8  # a batch takes milliseconds


class BatchLoader(DataLoader[Any]):
    """A DataLoader whose workers, when they die, fail or hang, end the iteration with a `WorkerError`."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator is all that a loop needs
        if self.num_workers == 0:  # what PyTorch does besides takes as long as a batch
            for index in self.sampler:
                item = self.dataset[index]
                yield item.pin_memory() if self.pin_memory else item
            return
        former = signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL  # None: it was not set from Python
        iterator = super().__iter__()
        workers = iterator._workers  # type: ignore[attr-defined]
        if in_main_thread := threading.current_thread() is threading.main_thread():
            # PyTorch's handler raises where it comes when a worker dies: in the middle of an update, or of a save.
            signal.signal(signal.SIGCHLD, former)
        try:
            for _ in range(len(self)):
                with _death_noticed(workers) if in_main_thread else contextlib.nullcontext():
                    batch = next(iterator)
                yield batch
        except Exception as error:
            for worker in workers:
                worker.kill()  # PyTorch would give each that hangs five more seconds
            what = f"a data worker failed: {(str(error).strip() or type(error).__name__).splitlines()[-1]}"
            hint = "`dongu resume RUN --workers 0` continues without workers"
            raise WorkerError(what, where=f"--workers {self.num_workers}", hint=hint) from error


@contextlib.contextmanager
def _death_noticed(workers: Sequence[Any]) -> Iterator[None]:
    """Inside the block the death of a worker is an error at once, not after the time-out."""

    def look(*_: object) -> None:
        for worker in workers:
            if not worker.is_alive():
                raise RuntimeError(f"process {worker.pid} ended with {worker.exitcode}")

    former = signal.signal(signal.SIGCHLD, look) or signal.SIG_DFL
    try:
        look()
        yield
    finally:
        signal.signal(signal.SIGCHLD, former)


def make_dataloader(dataset: Dataset[Any], indices: Sequence[int], *, workers: int, pin_memory: bool) -> BatchLoader:
    """A DataLoader that yields `dataset[i]` for the indices in their order; batches are made by the data set."""
    return BatchLoader(
        dataset,
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        pin_memory=pin_memory,
        collate_fn=_as_it_is,
        timeout=WORKER_TIMEOUT_SECONDS if workers else 0,
        worker_init_fn=_belong_to_the_run,
    )


def _belong_to_the_run(_: int) -> None:
    """A worker waits until the run, which gets the same signals, has come to the end of its step; it ends with it."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_run, daemon=True).start()


def _end_with_the_run() -> None:
    """PyTorch's worker asks only after its start who its parent is: had that been killed before, it would wait on."""
    if (run := multiprocessing.parent_process()) is not None:
        run.join()
        os._exit(1)


def _as_it_is(item: Any) -> Any:
    return item
