"""What a server bears: hostile bodies without one 500, and memory that stays flat over many requests.

    python benchmarks/serve_load.py MODEL                             # 10,000 hostile bodies, then 100,000 requests
    python benchmarks/serve_load.py MODEL --hostile 500 --requests 0  # to see that it works

The server is a process of its own on loopback, the clients are asyncio's. A hostile body is drawn from the kinds of
`hostile_request`, with the bytes of one in four damaged. The memory is what the kernel counts as resident, before the
first request and after every tenth part of them. The numbers go to benchmarks/out/serve_load.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from serve import OUTPUT as SERVE_OUTPUT
from serve import ask, free_port, until_there

OUTPUT = SERVE_OUTPUT.with_name("serve_load.json")
PARTS = 10  # of the requests, after each of which the memory is read
ODD_TEXTS = ("", " ", "\u200b", "\x00", "\ud800", "a\ud83d", "\u202egnp", "\U0001f501" * 40, "a" * 5000, "null", "<b>")
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    1e308,
    10**400,
    "1",
    [],
    {},
    [[]],
    [None],
    [["a"]],
    [["a", "b", "c"]],
    [{"a": 1}],
)


def hostile_request(draw: random.Random) -> tuple[bytes, dict[str, str]]:
    """A body for POST /predict that nobody would send in good faith, and its headers."""
    headers = {"content-type": "application/json"}
    kind = draw.randrange(9)
    if kind == 0:
        body = draw.randbytes(draw.randrange(400))
    elif kind == 1:  # deep
        depth = draw.choice([10, 1000, 100_000])
        body = draw.choice([b"[" * depth, b'{"texts":' * depth, b"[" * depth + b"]" * depth])
    elif kind == 2:  # what JSON is not
        body = draw.choice(
            [b"NaN", b"[1,]", b"{'texts': 1}", b'{"texts": "a"} x', b"\xef\xbb\xbf{}", b"", b"\xff\xfe[\x00"]
        )
    elif kind == 3:  # keys twice, or unknown
        body = b'{"texts": "a", "texts": ["b"], "%s": 1}' % draw.choice([b"top", b"__proto__", b"model", b"\\ud800"])
    elif kind == 4:
        texts = [draw.choice([*ODD_TEXTS, "a film"]) for _ in range(draw.randrange(6))]
        body = json.dumps({"texts": draw.choice([texts, [texts[:2]], [tuple(texts[:2]), "a"]])}).encode()
    elif kind == 5:
        names = draw.sample(["texts", "top", "threshold"], draw.randint(1, 3))
        body = json.dumps({"texts": "a film", **{name: draw.choice(ODD_VALUES) for name in names}}).encode()
    elif kind == 6:  # large
        body = json.dumps({"texts": [draw.choice(["a film", "b" * 300])] * draw.choice([257, 5000])}).encode()
    elif kind == 7:  # another kind of content than is said
        headers["content-type"] = draw.choice(
            ["text/plain", "multipart/form-data; boundary=x", "application/xml", "", "x"]
        )
        body = b'{"texts": "a film"}'
    else:
        headers |= draw.choice([{"content-encoding": "gzip"}, {"authorization": "\x7f"}, {"accept": "image/png"}])
        body = b'{"texts": "a film", "threshold": %s}' % draw.choice([b"1e999", b"-0", b"1e-400", b"0.5", b"Infinity"])
    if draw.random() < 0.25 and body:
        damaged = bytearray(body)
        for _ in range(draw.randint(1, 5)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        body = bytes(damaged)
    return body, headers


async def status_of(port: int, body: bytes, headers: dict[str, str]) -> int:
    """Of one request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = ["POST /predict HTTP/1.1", "host: 127.0.0.1", "connection: close", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    try:
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body)
        answer = await reader.read()
    except ConnectionError:  # refused before all of it was sent
        answer = b"HTTP/1.1 413"
    writer.close()
    return int(answer.split(b" ")[1])


async def hostile(port: int, count: int, seed: int) -> Counter[int]:
    """How many of the answers had each status."""
    draw, found = random.Random(seed), Counter[int]()
    for _ in range(count):
        found[await status_of(port, *hostile_request(draw))] += 1
    return found


def resident_mb(process: int) -> float:
    """What the kernel counts as the process's resident memory."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS:"))) / 1024


async def well_meant(port: int, count: int, clients: int) -> None:
    """Requests of one text each, over connections that stay open."""

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for place in range(number, count, clients):
            await ask(reader, writer, f"a film of {place % 97} words " + "word " * (place % 23))
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(client(number) for number in range(clients)))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    port = free_port()
    line = [sys.executable, "-m", "dongu", "serve", options.model, "--port", str(port), "--device", "cpu"]
    process = subprocess.Popen(line)
    try:
        until_there(port, process)
        statuses = asyncio.run(hostile(port, options.hostile, options.seed))
        print("hostile bodies by the status of their answers:", dict(sorted(statuses.items())))
        asyncio.run(well_meant(port, min(1000, options.requests), options.clients))
        memory, began = [resident_mb(process.pid)], time.perf_counter()
        for _ in range(PARTS if options.requests else 0):
            asyncio.run(well_meant(port, options.requests // PARTS, options.clients))
            memory.append(resident_mb(process.pid))
            print(f"{memory[-1]:.1f} MB resident")
        seconds = time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()
    return {"hostile": dict(statuses), "resident_mb": memory, "requests": options.requests, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--hostile", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=42)
    found = measure(parser.parse_args())
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(found, indent=1))
    if any(status >= 500 for status in found["hostile"]):
        raise SystemExit("a hostile body had an error of the server for an answer")


if __name__ == "__main__":
    main()
