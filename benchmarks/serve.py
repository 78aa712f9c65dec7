"""Requests a second and their latency: `dongu serve` beside a plain FastAPI endpoint over transformers' `pipeline`.

With a folder of `dongu export` also beside one over onnxruntime, and `dongu serve --engine onnx`.

    python benchmarks/serve.py MODEL TEXTS.csv               # 1, 8 and 64 clients, each for 20 seconds and server
    python benchmarks/serve.py MODEL TEXTS.csv --seconds 2   # to see that it works

Both servers are processes of their own that live at once; they take turns, so that what else the machine does slows
both. Each client has one connection, asks for one text at a time, and asks again when it has the answer. The clients
are a process of their own too, which takes a part of the processor: the same one for both. A text is drawn anew for
each question, from the same rows in the same order for both servers. The first second of each turn does not count.

The plain endpoint is what its documentation shows: a `def` route, which FastAPI calls in a thread a request.
Needs `pip install ".[serve]"`. The numbers go to benchmarks/out/serve.json and, with an export, into
the table of docs/serve.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from dongu.engine.device import describe_processor
from pages import put_between

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "benchmarks" / "out" / "serve.json"
PAGE = ROOT / "docs" / "serve.md"
NAMES = {
    "dongu": "`dongu serve`",
    "pipeline": "FastAPI and transformers' `pipeline`",
    "dongu onnx": "`dongu serve --engine onnx`",
    "onnx": "FastAPI and onnxruntime",
}
CLIENTS = (1, 8, 64)
WARM_UP_SECONDS = 1.0
PLAIN = """
import sys
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

classify = pipeline("text-classification", model=sys.argv[1], device=sys.argv[3])
app = FastAPI()

class Question(BaseModel):
    texts: list[str]

@app.post("/predict")
def predict(question: Question):
    return classify(question.texts, truncation=True, top_k=None)

@app.get("/health")
def health():
    return {}

uvicorn.run(app, port=int(sys.argv[2]), log_level="warning", access_log=False)
"""

PLAIN_ONNX = """
import json
import sys
import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from tokenizers import Tokenizer

names = json.load(open(sys.argv[1] + "/config.json"))["id2label"]
tokenizer = Tokenizer.from_file(sys.argv[1] + "/tokenizer.json")
session = onnxruntime.InferenceSession(sys.argv[1] + "/onnx/model.onnx")
columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
app = FastAPI()

class Question(BaseModel):
    texts: list[str]

@app.post("/predict")
def predict(question: Question):
    rows = tokenizer.encode_batch(question.texts)
    inputs = {i.name: np.array([getattr(row, columns[i.name]) for row in rows]) for i in session.get_inputs()}
    [logits] = session.run(None, inputs)
    sure = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    return [{names[str(i)]: float(p) for i, p in enumerate(row)} for row in sure]

uvicorn.run(app, port=int(sys.argv[2]), log_level="warning", access_log=False)
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: str) -> None:
    """One question over a connection that stays open, and its answer.

    Raises:
        RuntimeError: the answer is a refusal.
    """
    body = json.dumps({"texts": [text]}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    writer.write(f"{head}\r\n\r\n".encode() + body)
    answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    content = await reader.readexactly(int(answer.split("content-length:")[1].split("\r\n")[0]))
    if " 200 " not in answer.split("\r\n")[0]:
        raise RuntimeError(f"{answer} {content.decode()}")


async def turn(port: int, texts: list[str], clients: int, seconds: float) -> list[float]:
    """The seconds of each question that was answered in the time that counts."""
    began = time.perf_counter()
    took: list[float] = []

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        place = number
        while (asked := time.perf_counter()) < began + WARM_UP_SECONDS + seconds:
            await ask(reader, writer, texts[place % len(texts)])
            place += clients
            if WARM_UP_SECONDS < (answered := time.perf_counter()) - began < WARM_UP_SECONDS + seconds:
                took.append(answered - asked)
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return took


def until_there(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"a server has ended with {process.returncode}")


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    texts = read_texts(options.texts)
    ports = {name: free_port() for name in ("dongu", "pipeline", *(("dongu onnx", "onnx") if options.export else ()))}
    dongu = [sys.executable, "-m", "dongu", "serve", options.model, "--device", options.device]
    commands = {
        "dongu": [*dongu, "--port", str(ports["dongu"])],
        "pipeline": [sys.executable, "-c", PLAIN, model_folder(options.model), str(ports["pipeline"]), options.device],
    }
    if options.export:
        graph = [sys.executable, "-m", "dongu", "serve", options.export, "--engine", "onnx"]
        commands["dongu onnx"] = [*graph, "--port", str(ports["dongu onnx"])]
        commands["onnx"] = [sys.executable, "-c", PLAIN_ONNX, options.export, str(ports["onnx"])]
    servers = {name: subprocess.Popen(command, env=os.environ) for name, command in commands.items()}
    rows = []
    try:
        for name, process in servers.items():
            until_there(ports[name], process)
        for clients in CLIENTS:
            for name, port in ports.items():
                took = sorted(asyncio.run(turn(port, texts, clients, options.seconds)))
                if len(took) < 2:
                    raise SystemExit(f"{name}: fewer than two answers in {options.seconds} s")
                cuts = statistics.quantiles(took, n=100)
                row = {
                    "server": name,
                    "clients": clients,
                    "requests_a_second": len(took) / options.seconds,
                    "p50_ms": 1e3 * cuts[49],
                    "p99_ms": 1e3 * cuts[98],
                    "requests": len(took),
                }
                print({key: round(value, 1) if isinstance(value, float) else value for key, value in row.items()})
                rows.append(row)
    finally:
        for process in servers.values():
            process.terminate()
            process.wait()
    return rows


def table(rows: list[dict[str, Any]], seconds: float, device: str) -> str:
    """What the page says of them."""
    found = {(row["server"], row["clients"]): row for row in rows}
    lines = [
        "| | " + " | ".join(f"{clients} client{'s' * (clients > 1)}" for clients in CLIENTS) + " |",
        "| --- |" + " --: |" * len(CLIENTS),
    ]
    for server, name in NAMES.items():
        cells = (found[server, clients] for clients in CLIENTS)
        told = (f"{x['requests_a_second']:.0f} ({x['p50_ms']:.0f}, {x['p99_ms']:.0f})" for x in cells)
        lines.append(f"| {name} | " + " | ".join(told) + " |")
    for server, beside in (("dongu", "pipeline"), ("dongu onnx", "onnx")):
        ratios = (
            found[server, clients]["requests_a_second"] / found[beside, clients]["requests_a_second"]
            for clients in CLIENTS
        )
        lines.append(f"| {NAMES[server]} over {NAMES[beside]} | " + " | ".join(f"{r:.2f}" for r in ratios) + " |")
    where = f"{len(os.sched_getaffinity(0))} cores ({describe_processor()})" if device == "cpu" else device
    return "\n".join([*lines, "", f"{where}, {seconds:g} seconds of each."])


def model_folder(name: str) -> str:
    """What `pipeline` loads of a run."""
    return f"{name}/model" if (Path(name) / "run.json").exists() else name


def read_texts(path: Path) -> list[str]:
    from dongu.config import make_config
    from dongu.data.columns import read_texts as texts_of
    from dongu.data.columns import usual_texts
    from dongu.data.readers import read_file

    table = read_file(path, make_config({}))
    return list(texts_of(table, usual_texts(table))[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("texts", type=Path, help="file of rows with a column of texts")
    parser.add_argument("export", nargs="?", help="a folder of dongu export: onnxruntime is measured too")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    rows = measure(options)
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps({"model": options.model, "device": options.device, "turns": rows}, indent=1))
    if options.export:
        text = table(rows, options.seconds, options.device)
        put_between(PAGE, "<!-- serve: table -->", text, "<!-- /serve: table -->")


if __name__ == "__main__":
    main()
