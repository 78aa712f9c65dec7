"""A server from its first request to its last: a socket, uvicorn, and an end that leaves no question unanswered."""

from __future__ import annotations

import contextlib
import errno
import math
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from dongu.errors import UsageError
from dongu.files import read_regular
from dongu.run.signals import EXIT_CODES, handled
from dongu.serve.forms import Limits

if TYPE_CHECKING:  # the process that starts several workers needs no torch
    from dongu.use.classifier import Classifier

SHORTEST_KEY = 16  # characters
MOST_PORTS = 65535
BACKLOG = 2048  # connections that wait to be taken


class _Server(uvicorn.Server):
    """uvicorn's, which would end by the signal that stopped it, and not with exit code 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let a signal end it: all requests that were taken are answered first; a second Ctrl-C ends it at once."""
        with handled(self.handle_exit, EXIT_CODES):
            yield


def open_socket(host: str, port: int) -> socket.socket:
    """Listen at a name or an address of this machine; the port 0 is any that is free.

    Raises:
        UsageError: it cannot be listened to.
    """
    try:
        if port > MOST_PORTS:  # which leaves a socket open
            raise OverflowError(f"above {MOST_PORTS}")
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
        # Its connections have this from it. asyncio sets it only where a socket names its protocol, and an answer whose
        # head and body are two packets then waits 40 ms for the acknowledgement of the first.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except (OSError, UnicodeError, OverflowError) as error:
        what = f"cannot be listened to ({getattr(error, 'strerror', None) or error})"
        of_port = isinstance(error, OverflowError) or getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES)
        hint = "give another --port, or 0" if of_port else "--host is a name or an address of this machine, as ::1"
        raise UsageError(what, where=f"--host {host} --port {port}", hint=hint) from error


def read_keys(path: Path) -> list[str]:
    """The keys of a file, one a line.

    Raises:
        UsageError: it cannot be read, holds none, or one that could be guessed.
    """
    where = f"--api-key-file {path}"
    try:
        keys = [line.strip() for line in read_regular(path, follow=True).decode().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot be read ({getattr(error, 'strerror', None) or error})", where=where) from error
    if not keys or not all(key.isascii() and key.isprintable() and len(key) >= SHORTEST_KEY for key in keys):
        hint = 'one a line: python -c "import secrets; print(secrets.token_urlsafe())" > FILE'
        raise UsageError(f"needs a key of {SHORTEST_KEY} ASCII characters or more on each line", where=where, hint=hint)
    return keys


def address_of(listening: socket.socket) -> str:
    """Where a person finds it."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(
    classifier: Classifier,
    listening: socket.socket,
    limits: Limits,
    keys: Sequence[str],
    *,
    local: bool,
    worker: int | None = None,
) -> None:
    """Answer at a socket until a signal comes, then close it; the other arguments are those of `make_app`."""
    from dongu.serve.app import make_app

    app = make_app(classifier, limits, keys=keys, local=local, worker=worker)
    # No access log: nothing that a request holds is written anywhere.
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=math.ceil(2 * limits.seconds) + 1,  # a body and its answer; then clients that hang
    )
    with listening:
        _Server(config).run(sockets=[listening])
