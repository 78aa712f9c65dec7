"""Every error that dongu raises on purpose.

    DonguError                 70  an internal error when raised as itself
    ├── InputError              2  what the user gave cannot be used
    │   ├── UsageError             an option or an argument
    │   ├── DataError              a data set, a file, a row
    │   └── ModelError             a model or a tokenizer
    ├── CheckpointError         4  checkpoints exist, and none can be used
    ├── NonFiniteError          5  a NaN or an infinity, before it reached the weights
    ├── StorageError            6  a file could not be written, or a model not be pushed
    ├── LockedError             7  another process writes to the run folder
    ├── WorkerError             8  a process that prepares batches, or another one of the run, has ended
    └── StoppedError      129-143  a signal ended the run; its state is saved

The number is the exit code of the command. Each error says what happened, where, and what to do, a line each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dongu.text import one_line


class DonguError(Exception):
    """The base class of all errors that `dongu` raises.

    Args:
        what: what is wrong, in one sentence without a final full stop.
        where: the place: `FILE:LINE`, an option, a step. May be empty.
        hint: what to do about it. May be empty.
    """

    exit_code = 70

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        first = ": ".join(one_line(part) for part in (self.where, self.what) if part)
        return "\n".join([first, *([one_line(self.hint)] if self.hint else [])])


class InputError(DonguError):
    """What the user gave cannot be used."""

    exit_code = 2


class UsageError(InputError):
    """An option or an argument is wrong."""


class DataError(InputError):
    """A data set, a file or a row cannot be used."""


class ModelError(InputError):
    """A model or a tokenizer cannot be used."""


class CheckpointError(DonguError):
    """A checkpoint is damaged, or none of a run's checkpoints is valid."""

    exit_code = 4


class NonFiniteError(DonguError):
    """A NaN or an infinity was met before it reached the weights."""

    exit_code = 5


class StorageError(DonguError):
    """A file could not be written, or a model not be pushed to the Hub."""

    exit_code = 6


class LockedError(DonguError):
    """Another process writes to the run folder."""

    exit_code = 7


class WorkerError(DonguError):
    """A process that prepares batches died, failed or hangs, or another process of the run has ended."""

    exit_code = 8


class StoppedError(DonguError):
    """A signal ended the run at a step boundary, and its state is saved."""

    def __init__(self, what: str, *, exit_code: int, where: str = "", hint: str = "") -> None:
        super().__init__(what, where=where, hint=hint)
        self.exit_code = exit_code


@contextmanager
def no_panic() -> Iterator[None]:
    """Make an exception of a panic in tokenizers or safetensors, which are written in Rust: it is no `Exception`.

    Raises:
        RuntimeError: with what the panic said.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise RuntimeError(" ".join(str(error).split())) from error


def install_hint(extra: str) -> str:
    """How to get the packages of an extra. The name `dongu` on the index is nobody's yet: anybody could take it."""
    return f'install it in a clone of dongu: pip install ".[{extra}]"'
