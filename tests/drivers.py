"""Whoever wants `dongu` in a process of its own, and no new interpreter for it, asks `crash_server.py` from here."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HANGS = 600  # seconds that nothing here takes, however busy the machine is


class Driver:
    """One connection to the crash server: one child at a time."""

    def __init__(self, address: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(address))
        self._stream = self._socket.makefile("rw", encoding="utf-8")

    def ask(self, **request: Any) -> dict[str, Any]:
        self._stream.write(json.dumps(request) + "\n")
        self._stream.flush()
        answer: dict[str, Any] = json.loads(self._stream.readline())
        assert "error" not in answer, answer["error"]
        return answer

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


@contextmanager
def serving(folder: Path) -> Iterator[Callable[[], Driver]]:
    """Gives `server()`, which makes a driver. The server is a fork of this process, which has imported PyTorch."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen()
        process = os.fork()
        if process == 0:
            try:
                import crash_server

                os.environ |= {"OMP_NUM_THREADS": "1", "DONGU_CACHE": str(folder / "token-cache")}
                crash_server.main(listener)
            except BaseException:  # noqa: BLE001 - there is nobody to catch it, and what follows is the tests' own
                traceback.print_exc(file=sys.__stderr__)
            finally:
                os._exit(1)
    drivers: list[Driver] = []

    def driver() -> Driver:
        drivers.append(Driver(folder / "socket"))
        return drivers[-1]

    try:
        yield driver
    finally:
        for each in drivers:
            each.close()
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


class Pool:
    """Some drivers, each busy with one item at a time."""

    def __init__(self, driver: Callable[[], Driver], size: int) -> None:
        self._free: queue.SimpleQueue[Driver] = queue.SimpleQueue()
        self.size = size
        for _ in range(size):
            self._free.put(driver())

    def map(self, function: Callable[[Driver, Any], Any], items: Sequence[Any]) -> list[Any]:
        """`function(driver, item)` of each item, in their order."""

        def with_driver(item: Any) -> Any:
            driver = self._free.get()
            try:
                return function(driver, item)
            finally:
                self._free.put(driver)

        with ThreadPoolExecutor(self.size) as threads:
            return list(threads.map(with_driver, items))

    def ranks(self, arguments: Sequence[str], *requests: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One command on two processes, as a launcher starts them, and what else each is asked for; their answers."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        common |= {"TORCHELASTIC_RUN_ID": "none", "TEACHER": os.environ.get("TEACHER", "")}

        def one(driver: Driver, rank: int) -> dict[str, Any]:
            environment = {
                **common,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "TEACHER": os.environ.get("TEACHER", ""),
            }
            more = requests[rank] if requests else {}
            return driver.ask(**{"arguments": list(arguments), "environment": environment, **more})

        return self.map(one, [0, 1])

    def check_nothing_lives_on(self) -> None:
        """A data worker ends with its run, were it killed or not."""
        for _ in range(self.size):
            assert self._free.get().ask(orphans=5)["orphans"] == 0


def forked(pool: Pool, *arguments: str) -> str:
    """One command on two processes, at a tenth of a launcher's time; the output of both, the main process first."""
    answers = pool.ranks(arguments)
    assert [answer["code"] for answer in answers] == [0, 0], answers[0]["output"]
    return "".join(answer["output"] for answer in answers)


def read_lines(run: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text(encoding="utf-8").splitlines()]
