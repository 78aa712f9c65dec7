"""Requests as batches: one thread takes what is waiting, up to so many tokens, and computes it without padding."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dongu.data.batches import USUAL_TOKENS
from dongu.data.tokenized import Split
from dongu.data.tokens import Tokens
from dongu.errors import no_panic
from dongu.use.classifier import Classifier

LONGEST_ADVICE_SECONDS = 60  # of `Retry-After`


@dataclass(frozen=True)
class Answered:
    """What the model says of the rows of one request: (rows, labels) fp32, and whether each row was cut, (rows,)."""

    logits: np.ndarray
    truncated: np.ndarray


class QueueFullError(Exception):
    """More texts are waiting than may wait."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__("the queue is full")
        self.retry_after_seconds = retry_after_seconds


@dataclass
class Work:
    """What the batches came to so far; read by others while the thread writes."""

    batches: int = 0
    texts: int = 0
    tokens: int = 0
    seconds: float = 0.0  # of tokenizer and model


@dataclass(frozen=True)
class _Job:
    columns: Sequence[Sequence[str]]
    answer: Future[Answered] = field(default_factory=Future)

    @property
    def texts(self) -> int:
        return len(self.columns[0])


class Batcher:
    """Takes rows from any thread and answers them from one of its own, in the order in which they came.

    A batch is what is waiting when the one before it is done, up to the room of `--batch-size` rows of 128 tokens; so
    a request that comes alone does not wait for others. An error of a batch of several requests has each of them
    computed again by itself: a request never fails by another one.

    Args:
        classifier: what computes; from `start` to `stop` by that thread alone.
        queue_texts: texts that may wait or be computed at one time.
    """

    def __init__(self, classifier: Classifier, queue_texts: int) -> None:
        self.classifier, self.queue_texts, self.work = classifier, queue_texts, Work()
        self.room = classifier.config.eval_batch_size * USUAL_TOKENS  # tokens of a batch
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self.pending = 0  # texts that wait or are computed now
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="dongu-serve", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether there is a thread that computes."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    def stop(self) -> None:
        """Answer all that was taken, then end."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def submit(self, columns: Sequence[Sequence[str]]) -> Future[Answered]:
        """Rows, one column a text; the answer comes later, or is cancelled by whoever no longer wants it.

        Raises:
            QueueFullError: there is no room for them.
        """
        job = _Job(columns)
        with self._changed:
            if self._stopping or self.pending + job.texts > self.queue_texts:
                raise QueueFullError(self._seconds_to_wait())
            self.pending += job.texts
            self._jobs.append(job)
            self._changed.notify()
        return job.answer

    def _seconds_to_wait(self) -> int:
        """How long the texts that are waiting take, at the speed so far."""
        speed = self.work.texts / self.work.seconds if self.work.seconds else self.pending
        return int(min(max(1, self.pending / max(speed, 1e-9)), LONGEST_ADVICE_SECONDS))

    def _next(self, *, wait: bool) -> _Job | None:
        """The next request that somebody still wants; None where there is none, or none will come."""
        with self._changed:
            while True:
                while self._jobs:
                    job = self._jobs.popleft()
                    if job.answer.set_running_or_notify_cancel():
                        return job
                    self.pending -= job.texts
                if not wait or self._stopping:
                    return None
                self._changed.wait()

    def _run(self) -> None:
        device = self.classifier.accelerator.device
        if device.type == "cuda":  # each thread has a current device of its own
            torch.cuda.set_device(device)
        ready: tuple[_Job, Split] | None = None
        while (first := ready or self._tokenized(wait=True)) is not None:
            batch, tokens = [first], _count(first[1])
            while (ready := self._tokenized(wait=False)) is not None:
                if tokens + _count(ready[1]) > self.room:
                    break  # it is the first of the next batch
                batch.append(ready)
                tokens += _count(ready[1])
            self._answer(batch)

    def _tokenized(self, *, wait: bool) -> tuple[_Job, Split] | None:
        """The next request with its tokens; one that has none fails."""
        while (job := self._next(wait=wait)) is not None:
            began = time.perf_counter()
            try:
                with no_panic():
                    return job, self.classifier.split(job.columns)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is this request's alone
                self._done(job, error)
            finally:
                self.work.seconds += time.perf_counter() - began
        return None

    def _answer(self, batch: Sequence[tuple[_Job, Split]]) -> None:
        split = _joined([split for _, split in batch])
        began = time.perf_counter()
        try:
            with no_panic():
                logits = self.classifier.logits(split)
        except Exception as error:  # noqa: BLE001 - of one of them, or of so many at once
            if len(batch) == 1:
                self._done(batch[0][0], error)
                return
            for each in batch:
                self._answer([each])
            return
        self.work.seconds += time.perf_counter() - began
        self.work.batches += 1
        self.work.texts += len(split)
        self.work.tokens += _count(split)
        truncated = split.tokens.truncated & (split.windows is None)  # windows read all of a text
        first = 0
        for job, _ in batch:
            rows = slice(first, first := first + job.texts)
            self._done(job, Answered(logits[rows], truncated[rows]))

    def _done(self, job: _Job, answer: Answered | Exception) -> None:
        with self._changed:
            self.pending -= job.texts
        if isinstance(answer, Exception):
            job.answer.set_exception(answer)
        else:
            job.answer.set_result(answer)


def _count(split: Split) -> int:
    return int(split.pieces.tokens.offsets[-1])


def _joined(splits: Sequence[Split]) -> Split:
    """The rows of several requests, one after the other."""
    if len(splits) == 1:
        return splits[0]
    tokens = _joined_tokens([split.tokens for split in splits])
    windows = [split.windows for split in splits if split.windows is not None]
    return Split("texts", np.arange(len(tokens)), tokens, None, {}, _joined_tokens(windows) if windows else None)


def _joined_tokens(parts: Sequence[Tokens]) -> Tokens:
    types: Any = [part.token_type_ids for part in parts]
    return Tokens(
        np.concatenate([part.input_ids for part in parts]),
        None if types[0] is None else np.concatenate(types),
        np.cumsum(np.concatenate([[0], *(np.diff(part.offsets) for part in parts)])),
        np.concatenate([part.truncated for part in parts]),
    )
