"""What a server counts, in the text form that Prometheus reads."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator

BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Requests:
    """Requests by path and status, and how long those to /predict took."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, int]] = Counter()
        self._buckets = [0] * (len(BUCKETS_SECONDS) + 1)
        self._seconds = 0.0

    def add(self, path: str, status: int, seconds: float) -> None:
        """One that has been answered."""
        with self._lock:
            self._counts[path, status] += 1
            if path == "/predict":
                self._buckets[bisect_left(BUCKETS_SECONDS, seconds)] += 1
                self._seconds += seconds

    def lines(self) -> Iterator[str]:
        """Of the text form."""
        with self._lock:
            counts, buckets, seconds = dict(self._counts), list(self._buckets), self._seconds
        yield from head("dongu_requests_total", "counter", "Requests that were answered, by path and status.")
        for (path, status), count in sorted(counts.items()):
            yield f'dongu_requests_total{{path="{path}",status="{status}"}} {count}'
        name = "dongu_request_seconds"
        yield from head(name, "histogram", "Seconds from the head of a request to /predict to its answer.")
        so_far = 0
        for limit, count in zip([*map(str, BUCKETS_SECONDS), "+Inf"], buckets, strict=True):
            so_far += count
            yield f'{name}_bucket{{le="{limit}"}} {so_far}'
        yield f"{name}_sum {seconds:.6f}"
        yield f"{name}_count {so_far}"


def head(name: str, kind: str, text: str) -> Iterator[str]:
    """What stands before the samples of a metric."""
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def sample(name: str, kind: str, text: str, value: float) -> Iterator[str]:
    """A metric of one sample."""
    yield from head(name, kind, text)
    yield f"{name} {value:.6f}" if isinstance(value, float) else f"{name} {value}"


def of_worker(lines: Iterable[str], worker: int | None) -> Iterator[str]:
    """The lines with the worker as one label more; as they are where there is one alone."""
    for line in lines:
        name, brace, rest = line.partition("{")
        if worker is None or line.startswith("#"):
            yield line
        elif brace:
            yield f'{name}{{worker="{worker}",{rest}'
        else:
            name, _, value = line.rpartition(" ")
            yield f'{name}{{worker="{worker}"}} {value}'


def escaped(value: str) -> str:
    """The value of a label."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
