"""What stands before the routes: keys, bounds on bytes and on time, headers for browsers, counts; no text is logged."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dongu.serve.counters import Requests
from dongu.serve.forms import Limits

GUARDED = ("/predict", "/model", "/metrics")  # which want a key where there are keys
COUNTED = (*GUARDED, "/", "/health", "/ready", "/openapi.json")  # by their names; all others together
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def error_response(status: int, error: str, hint: str = "", retry_after_seconds: int | None = None) -> JSONResponse:
    """An answer that says what is wrong, and what to do."""
    headers = {"retry-after": str(retry_after_seconds)} if retry_after_seconds is not None else {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse({"error": error, "hint": hint}, status, headers)


def is_local(host: str) -> bool:
    """Whether it is a name or an address that leads to this machine alone."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


class Guard:
    """An ASGI application around another one.

    A body is read whole before the other sees it, within the limits of bytes and seconds. Where the server is for this
    machine alone, a request that calls it by another name is refused: a page of elsewhere whose name leads here (DNS
    rebinding) would speak with that name.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, requests: Requests, keys: Sequence[str] = (), *, local: bool = False
    ) -> None:
        self.app, self.limits, self.requests, self.local = app, limits, requests, local
        self._keys = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the lifespan."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        try:
            refused, replayed = await self._admit(scope, receive)
            if scope["method"] == "HEAD":  # asks for the head of what GET answers; the server leaves the body out
                scope = {**scope, "method": "GET"}
            await (self.app if refused is None else refused)(scope, replayed, counted)
        except Exception as error:  # noqa: BLE001 - it is answered already; its words may hold a text
            logging.getLogger("dongu").error("a request failed: %s", type(error).__name__)
        finally:
            path = scope["path"] if scope["path"] in COUNTED else "other"
            self.requests.add(path, status, time.perf_counter() - began)

    async def _admit(self, scope: Scope, receive: Receive) -> tuple[JSONResponse | None, Receive]:
        """Why the request is refused, if it is; and what gives its body again."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if self.local and not is_local(name.strip("[]")):
            return error_response(421, "this server is for its own machine alone", "ask it as localhost"), receive
        if self._keys and scope["path"] in GUARDED and not self._is_known(headers):
            return error_response(401, "there is no valid key", "send the header Authorization: Bearer KEY"), receive
        length, limit = headers.get("content-length", "0"), self.limits.bytes
        if not length.isdecimal() or int(length) > limit:
            return error_response(413, f"{length} bytes, above {limit}", "ask for some of the texts at a time"), receive
        try:
            body = await asyncio.wait_for(_read(receive, limit), self.limits.seconds)
        except TimeoutError:
            return error_response(408, f"the request did not come within {self.limits.seconds:g} s"), receive
        if body is None:
            return error_response(413, f"more than {limit} bytes", "ask for some of the texts at a time"), receive
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return messages.pop() if messages else await receive()

        return None, again

    def _is_known(self, headers: dict[str, str]) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(given.strip().encode("latin-1")).digest()
        found = [hmac.compare_digest(digest, key) for key in self._keys]  # all of them, in the same time
        return scheme.lower() == "bearer" and any(found)


def told_once() -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """For an event loop: what goes wrong outside a request is a line in the log, where asyncio has a traceback.

    Once, since connections that find no file descriptor would be thousands of lines a second.
    """
    told: set[str] = set()

    def tell(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        line = f"{context['message']}: {getattr(error, 'strerror', None) or type(error).__name__}"
        if line not in told:
            told.add(line)
            logging.getLogger("dongu").error("%s", line)

    return tell


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The body; None where it has more bytes."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        if not message.get("more_body", False):
            return bytes(body)
