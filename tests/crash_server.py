"""Runs `dongu` in forked children and sends them signals.

A fork costs milliseconds where a new interpreter costs seconds, so hundreds of kills fit into a test. Each connection
gets a driver of its own, so that several can be busy; a request and its answer are one JSON line each:

    {"arguments": ["train", ...], ...}   one life of a child; see `Life`
    {"orphans": SECONDS}                 how many processes that children left behind live longer than that
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
import torch._dynamo  # otherwise each child imports it anew
import torch.distributed
import torch.nn.parallel
from accelerate.state import AcceleratorState, GradientState

import dongu
import dongu.best
import dongu.cli.main
import dongu.engine.processes
import dongu.running
import dongu.training
import dongu.use.classifier
from conftest import save_tiny_model  # and the path to `forked`
from dongu.data.batches import EvalBatches, TrainUpdates
from dongu.run.checkpoint import Checkpoints
from dongu.run.signals import EXIT_CODES, StopSignals, end_at_once
from drivers import HANGS
from forked import fork

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>: a signal for when the parent ends
PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>: what a killed child leaves behind becomes the driver's
PHASES = {"u": "set-up", "r": "steps", "s": "save", "k": "retention", "e": "evaluation", "b": "export", "j": "judging"}
LETTERS = {name: letter for letter, name in PHASES.items()}


def announce(pipe: int, module: Any, name: str, phase: str) -> None:
    """Have a function write to the pipe when it starts and ends, so that the killer knows the phase."""
    inner = getattr(module, name)

    def announced(*arguments: Any, **options: Any) -> Any:
        os.write(pipe, LETTERS[phase].encode())
        try:
            return inner(*arguments, **options)
        finally:
            os.write(pipe, b".")

    setattr(module, name, announced)


def break_worker(batches: Any, kind: str, index: int) -> None:
    """Have the data worker that prepares this item die, raise or hang; a run without workers is not disturbed.

    One that `survives` loses its run before PyTorch has asked who its parent is.
    """
    if kind == "survives":
        module: Any = torch.utils.data._utils.worker
        watch = module.ManagerWatchdog

        def orphaned() -> Any:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(0.2)
            return watch()

        module.ManagerWatchdog = orphaned
        return
    inner = batches.__getitem__

    def broken(self: Any, item: int) -> Any:
        if item == index and torch.utils.data.get_worker_info() is not None:
            if kind == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == "raises":
                raise OSError("the disk is on fire")
            time.sleep(3600)
        return inner(self, item)

    batches.__getitem__ = broken


def child(request: dict[str, Any], pipe: int) -> int:
    """One command; its exit code."""
    os.environ.update(request.get("environment", {}))
    if "torchrun" in request:
        return agent(request["torchrun"], request["arguments"])

    class Announced(StopSignals):  # from when the run's own handlers are in place until they no longer are
        def __enter__(self) -> Self:
            entered = super().__enter__()
            os.write(pipe, LETTERS["steps"].encode())
            return entered

        def __exit__(self, *error: object) -> None:
            os.write(pipe, b".")
            super().__exit__(*error)

    setattr(dongu.running, "StopSignals", Announced)  # noqa: B010 - a name of the module, and a class to mypy
    announce(pipe, Checkpoints, "save", "save")
    announce(pipe, Checkpoints, "retire", "retention")
    announce(pipe, dongu.Loop, "evaluate", "evaluation")
    announce(pipe, dongu.running, "save_best", "export")
    announce(pipe, dongu.best, "save_best", "export")
    announce(pipe, dongu.running, "judge", "judging")
    make_parser: Callable[..., Any] = dongu.cli.main.make_parser

    def in_command(*called: str) -> Any:
        os.write(pipe, LETTERS["set-up"].encode())  # from here on signals are the command's
        return make_parser(*called)

    dongu.cli.main.make_parser = in_command
    if fault := request.get("fault"):
        break_worker(TrainUpdates if fault["in"] == "training" else EvalBatches, fault["kind"], fault["index"])
    while time.monotonic() < request.get("start", 0.0):
        pass  # several children begin together
    end_at_once()  # as `python -m dongu` begins
    code: int = dongu.cli.main.run(request["arguments"])
    atexit._run_exitfuncs()
    return code


def agent(options: list[str], arguments: list[str]) -> int:
    """torchrun's agent, whose processes are forks of it: nothing is imported anew, when they are restarted neither."""
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, parse_args

    def work() -> None:
        end_at_once()
        if code := dongu.cli.main.run(arguments):
            sys.exit(code)

    config, _, _ = config_from_args(parse_args([*options, "-m", "dongu"]))  # type: ignore[no-untyped-call]
    config.start_method = "fork"
    elastic_launch(config, work)()
    return 0


class Life:
    """A child from its fork to its end.

    Request:
        arguments: of the `dongu` command.
        environment: variables to set.
        torchrun: its options; then the command is that of each process that it starts.
        fault: of a data worker; see `break_worker`.
        start: when to begin, on the monotonic clock.
        phase, occurrence, delay: signals are sent so many seconds after the n-th time that the child comes to this
            phase, or after the fork.
        signals, gap: which, with so many seconds between them.
        to: `child` (default), `worker` (its first data worker) or `all` (both, as a terminal or systemd does).

    Answer:
        pid: its process.
        code: the exit code, negative after a signal that ended it.
        sent: how many signals were sent before it ended.
        at: where it was when the first signal was sent, from the outermost phase on.
        phases: where it was at its end.
        seconds: from the first signal, or from the fork without one, to the end.
        output: what it printed.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.output = os.memfd_create("output")
        self.announced, pipe = os.pipe()
        self.letters = ""
        self.code: int | None = None
        self.began = time.monotonic()
        self.pid = fork(lambda: child(request, pipe), self.output)
        os.close(pipe)
        self.ended = os.pidfd_open(self.pid)

    def wait(self, seconds: float, phase: str | None = None, occurrence: int = 1) -> None:
        """Until the child ends, comes to a phase, or the time is over."""
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self.ended, select.POLLIN)
        poll.register(self.announced, select.POLLIN)
        while self.code is None and (phase is None or self.letters.count(LETTERS[phase]) < occurrence):
            left = deadline - time.monotonic()
            if left <= 0:
                return
            if left < 0.001:  # poll(2) counts whole milliseconds
                time.sleep(left)
            for descriptor, _ in poll.poll(left * 1000 // 1):
                if descriptor == self.ended:
                    _, status = os.waitpid(self.pid, 0)
                    self.code = os.waitstatus_to_exitcode(status)
                elif letters := os.read(self.announced, 1 << 16):
                    self.letters += letters.decode()
                else:
                    poll.unregister(self.announced)

    def live(self) -> dict[str, Any]:
        """All of it; the answer."""
        request, sent, since = self.request, 0, self.began
        at: list[str] = []
        if (phase := request.get("phase")) is not None:
            self.wait(HANGS, phase, request.get("occurrence", 1))
        pause = request.get("delay", 0.0)
        for number in request.get("signals", ()):
            self.wait(pause)
            if self.code is not None:
                break
            to, workers = request.get("to", "child"), children_of(self.pid)
            targets = {"child": [self.pid], "worker": workers[:1], "all": [self.pid, *workers]}[to]
            if sent == 0:
                self.read()
                at, since = self.phases(), time.monotonic()
            for target in targets:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(target, number)
            sent += bool(targets)
            pause = request.get("gap", 0.0)
        self.wait(HANGS)
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait(HANGS)
            raise TimeoutError(f"{request} did not end by itself")
        seconds = time.monotonic() - since
        self.read()
        output = os.pread(self.output, 1 << 20, 0).decode(errors="replace")
        for descriptor in (self.announced, self.ended, self.output):
            os.close(descriptor)
        return {
            "pid": self.pid,
            "code": self.code,
            "sent": sent,
            "at": at,
            "phases": self.phases(),
            "seconds": seconds,
            "output": output,
        }

    def read(self) -> None:
        """What was announced so far; not more, for a data worker that lives on keeps the pipe open."""
        while select.select([self.announced], [], [], 0)[0] and (letters := os.read(self.announced, 1 << 16)):
            self.letters += letters.decode()

    def phases(self) -> list[str]:
        """What the child was in, from the outside in."""
        inside: list[str] = []
        for letter in self.letters:
            if letter == ".":
                inside.pop()
            else:
                inside.append(PHASES[letter])
        return inside


def children_of(pid: int) -> list[int]:
    """The processes that it started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except FileNotFoundError:
        return []


def orphans(seconds: float) -> dict[str, Any]:
    """How many processes that children left behind are there after so many seconds; what has ended is reaped."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return {"orphans": 0}
        if pid == 0:
            time.sleep(0.02)
    return {"orphans": len(children_of(os.getpid()))}


def serve(connection: socket.socket) -> None:
    """A driver: one request after the other, until the test hangs up."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with connection.makefile("rw", encoding="utf-8") as stream:
        for line in stream:
            request = json.loads(line)
            try:
                answer = orphans(request["orphans"]) if "orphans" in request else Life(request).live()
            except Exception:  # noqa: BLE001 - the test shows it
                answer = {"error": traceback.format_exc()}
            stream.write(json.dumps(answer) + "\n")
            stream.flush()


def warm_up() -> None:
    """A run in this process: whatever a process does but once, the children find done."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tiny_model("bert", 0.2, folder / "model")
        rows = [{"text": f"word{i % 9} film", "label": f"class{i % 2}"} for i in range(20)]
        options: dict[str, Any] = {"max_steps": 2, "max_grad_norm": 1.0, "device": "cpu", "threads": 1}
        dongu.train(rows, model=str(folder / "model"), out=str(folder / "run"), **options)
    AcceleratorState._reset_state(reset_partial_state=True)  # a child may be one of two processes
    GradientState._reset_state()
    gc.freeze()  # what is there now is not looked at again, and so not copied


def main(listener: socket.socket) -> None:
    """Serve, in a fork of the process of the tests, whose runs are quick, until that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    vars(weakref.finalize)["_registry"].clear()  # temporary folders, which the tests still need
    warnings.resetwarnings()  # which are errors in a test
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind)
    # pytest has put its own in their place.
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, "utf-8", closefd=False) for number in (1, 2))
    torch.set_num_threads(1)
    for number in EXIT_CODES:  # whatever a shell or a service has told this process to ignore
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    dongu.engine.processes.SEEN_SECONDS = 0.5
    warm_up()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # or each child would end with what is left in it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # drivers leave no zombies
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            serve(connection)
            os._exit(0)
        connection.close()
