"""Several processes that answer at one socket, each with the model."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from dongu.errors import WorkerError
from dongu.run.signals import EXIT_CODES, handled
from dongu.serve.forms import Limits
from dongu.serve.server import serve
from dongu.use.saved import SavedModel

if TYPE_CHECKING:  # the process that starts the others needs no torch
    from dongu.use.classifier import Classifier


@dataclass(frozen=True)
class Serving:
    """What each worker is given: a model by its name, with the arguments of `SavedModel.open`, and how it is asked."""

    model: str
    options: Mapping[str, Any]
    limits: Limits
    keys: Sequence[str]
    local: bool

    def classifier(self) -> Classifier:
        """The model, ready to answer."""
        from dongu.use.classifier import Classifier

        classifier = Classifier(SavedModel.open(self.model, **self.options))
        classifier.predict([("a",) * len(classifier.text_columns or "a")])  # what is made once is made now
        return classifier


def serve_by_workers(serving: Serving, listening: socket.socket, count: int, announce: Any) -> None:
    """Answer by so many processes until a signal comes; each ends when all that it has taken is answered.

    `announce` is called when all of them are ready. The socket is closed at the end.

    Raises:
        WorkerError: one of them has ended by itself; the others were ended.
    """
    context = multiprocessing.get_context("spawn")  # a fork would have the locks of threads that it has not
    ready = context.Barrier(count + 1)
    workers = [
        context.Process(target=_work, args=(serving, listening, number, ready), name=f"dongu-serve-{number}")
        for number in range(count)
    ]
    told: list[signal.Signals] = []  # the workers, to end

    def end(number: int | None = None, _: Any = None) -> None:
        told.append(signal.SIGKILL if told and number == signal.SIGINT else signal.SIGTERM)
        ready.abort()
        for worker in workers:
            if worker.is_alive() and worker.pid is not None:
                os.kill(worker.pid, told[-1])

    with handled(end, EXIT_CODES), listening:
        # A Ctrl-C, which all processes of a terminal get, is this one's: one that loads would end with a traceback.
        here_alone = EXIT_CODES.keys() - {signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, here_alone)
        for worker in workers:
            worker.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, here_alone)
        if told:
            end()  # those that were not there yet
        threading.Thread(target=_announce, args=(ready, announce), daemon=True).start()
        wait([worker.sentinel for worker in workers])  # until the first one ends
        asked = bool(told)
        end()
        for worker in workers:
            worker.join()
    well = (0, *(-number for number in told)) if asked else (0,)  # who had not begun yet ends by the signal
    failed = [f"{worker.name} with {worker.exitcode}" for worker in workers if worker.exitcode not in well]
    if not asked or failed:
        what = f"a worker has ended ({', '.join(failed) or 'by itself'})"
        raise WorkerError(what, where="dongu serve", hint="start it again; its own message is above")


def _announce(ready: Any, announce: Any) -> None:
    try:
        ready.wait()
    except threading.BrokenBarrierError:
        return
    announce()


def _work(serving: Serving, listening: socket.socket, number: int, ready: Any) -> None:
    """One process: until it is told to end, or whoever started it is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    classifier = serving.classifier()
    try:
        ready.wait()
    except threading.BrokenBarrierError:
        return  # told to end, or another one could not begin
    serve(classifier, listening, serving.limits, serving.keys, local=serving.local, worker=number)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
