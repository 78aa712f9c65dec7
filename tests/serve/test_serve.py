"""`dongu serve`: answers in batches, within bounds, for programs and for a person, to the last question."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import dongu
from browser import CHROMIUM, browsing
from dongu.cli.main import run as command
from dongu.config import NUMBERS
from dongu.errors import UsageError
from dongu.model.safety import GRAPH
from dongu.run.signals import EXIT_CODES, end_at_once, handled
from dongu.serve.app import make_app
from dongu.serve.batcher import Batcher, QueueFullError
from dongu.serve.forms import Limits
from dongu.serve.guard import HEADERS, is_local, told_once
from dongu.serve.server import open_socket, read_keys
from dongu.serve.workers import serve_by_workers
from dongu.use.classifier import Classifier
from drivers import HANGS
from forked import fork
from serve_load import hostile_request

TEXTS = ["word0 film", "word1 not a film at all", "word0"]
KEY = "a-key-of-some-length"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]) -> Callable[..., Path]:
    """`runs(task)`: a tiny run."""
    made: dict[str, Path] = {}

    def make(task: str = "single-label") -> Path:
        if task not in made:
            others: dict[str, list[Any]] = {"regression": [1.5, 0.25], "multi-label": [["a", "b"], ["b"]]}
            labels = {**others, "ordinal": [1, 3]}.get(task, ["bad", "good"])
            given: Any = {"task": "ordinal"} if task == "ordinal" else {}
            rows = [{"text": f"word{i % 2} film {i}", "label": labels[i % 2]} for i in range(24)]
            if task == "pairs":
                rows = [{"sentence1": row["text"], "sentence2": "a film", "label": row["label"]} for row in rows]
            out = tmp_path_factory.mktemp("served") / "run"
            data = {"train": rows, "validation": rows[:8]}
            dongu.train(data, model=tiny_model(), out=str(out), max_steps=3, threads=1, device="cpu", **given)
            made[task] = out
        return made[task]

    return make


@pytest.fixture(scope="module")
def classifier(runs: Callable[..., Path]) -> Classifier:
    return dongu.load(runs(), device="cpu")


@contextlib.contextmanager
def asking(classifier: Classifier, limits: Limits | None = None, **options: Any) -> Iterator[TestClient]:
    app = make_app(classifier, limits or Limits(), **options)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def predicted(client: TestClient, texts: Any, **more: Any) -> list[dict[str, Any]]:
    answer = client.post("/predict", json={"texts": texts, **more})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["predictions"]
    return found


def test_answers_are_those_of_the_model(classifier: Classifier) -> None:
    wanted = classifier.predict(TEXTS)
    with asking(classifier) as client:
        found = predicted(client, TEXTS)
        assert [row["prediction"] for row in found] == [row["prediction"] for row in wanted]
        for row, answer in zip(found, wanted, strict=True):
            labels = {item["label"]: item["probability"] for item in row["labels"]}
            assert labels == pytest.approx(answer["probabilities"])
            assert [*labels.values()] == sorted(labels.values(), reverse=True)
            assert row["truncated"] is False
        assert predicted(client, TEXTS[0])[0]["prediction"] == found[0]["prediction"]
        assert predicted(client, []) == []
        assert predicted(client, "film " * 500)[0]["truncated"] is True
        [sure] = predicted(client, TEXTS[0], top=1, threshold=0.0)
        assert len(sure["labels"]) == 1
        assert sure["prediction"] == sure["labels"][0]["label"]
        assert predicted(client, TEXTS[0], threshold=1.0)[0]["prediction"] is None, "nothing is so sure"
        about = client.get("/model").json()
        assert about["labels"] == ["bad", "good"]
        assert (about["texts_a_row"], about["threshold"]) == (1, None)


@pytest.mark.parametrize("task", ["pairs", "multi-label", "regression", "ordinal"])
def test_each_task(task: str, runs: Callable[..., Path]) -> None:
    model = dongu.load(runs(task), device="cpu")
    texts: Any = [(text, "a film") for text in TEXTS] if task == "pairs" else TEXTS
    wanted = model.predict(texts)
    with asking(model) as client:
        found = predicted(client, texts)
        if task == "regression":
            assert [row["prediction"] for row in found] == pytest.approx([row["prediction"] for row in wanted])
            assert "labels" not in found[0]
        elif task == "ordinal":
            assert found[0].keys() == {"prediction", "number", "truncated"}
            assert [row["number"] for row in found] == pytest.approx([row["number"] for row in wanted])
            assert {row["prediction"] for row in found} <= {"1", "3"}
        else:
            assert [row["prediction"] for row in found] == [row["prediction"] for row in wanted]
        if task == "multi-label":
            assert predicted(client, TEXTS[0], threshold=0.0)[0]["prediction"] == ["a", "b"]
            assert predicted(client, TEXTS[0], threshold=1.0)[0]["prediction"] == []
            assert client.get("/model").json()["threshold"] == model.threshold
        if task in NUMBERS:
            assert client.get("/model").json()["threshold"] is None, "a number has no probability"
        if task == "pairs":
            refused = client.post("/predict", json={"texts": "one alone"})
            assert (refused.status_code, refused.json()["error"]) == (422, "text 1 is not a pair of texts, or is empty")


def test_what_is_refused(classifier: Classifier) -> None:
    limits = Limits(texts=2, bytes=200)
    with asking(classifier, limits, local=True) as client:

        def refused(content: Any, **headers: str) -> tuple[int, str]:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            answer = client.post("/predict", content=body, headers={"content-type": "application/json", **headers})
            assert "secret" not in answer.text
            return answer.status_code, answer.json()["error"]

        assert refused({"texts": TEXTS}) == (413, "3 texts, above 2")
        assert refused({"texts": "secret " * 100})[0] == 413
        assert refused(b"{secret")[0] == 422
        assert refused({"texts": 3, "secret": 1})[0] == 422
        assert refused({"texts": ["secret", " "]}) == (422, "text 2 is not a text, or is empty")
        assert refused(b'{"texts": "\\ud800"}') == (422, "a text has a surrogate that stands alone")
        assert refused(b"[" * 150)[0] == 422
        assert refused({"texts": "a"}, **{"content-type": "text/plain"})[0] == 422, "a form of another site sends that"
        assert refused({"texts": "a"}, host="evil.example")[0] == 421
        assert refused({"texts": "a"}, host="127.0.0.1.evil.example")[0] == 421
        for host in ("localhost:8000", "[::1]:80", "[::1]", "127.0.0.1", "127.0.0.2:8000"):
            assert client.post("/predict", json={"texts": "a"}, headers={"host": host}).status_code == 200
        for answer, status in ((client.get("/nothing"), 404), (client.get("/predict"), 405)):
            assert (answer.status_code, {*answer.json()}) == (status, {"error", "hint"})
        assert client.get("/predict").headers["allow"] == "POST"
        for path, status in (("/health", 200), ("/", 200), ("/nothing", 404), ("/predict", 405)):
            assert client.head(path).status_code == status
        assert refused(b'{"texts": "\xff"}')[0] == 400
        chunks = (b" " * 150 for _ in range(9))  # of which no length is said
        assert client.post("/predict", content=chunks).status_code == 413


def test_keys(classifier: Classifier, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n\nanother-key-of-some-length\n")
    with asking(classifier, keys=read_keys(file)) as client:
        for given, status in {None: 401, "Bearer nothing": 401, f"Basic {KEY}": 401, f"Bearer {KEY}": 200}.items():
            headers = {} if given is None else {"authorization": given}
            for path in ("/model", "/metrics"):
                assert client.get(path, headers=headers).status_code == status, given
            assert client.post("/predict", json={"texts": "a"}, headers=headers).status_code == status
        assert [client.get(path).status_code for path in ("/", "/health", "/ready")] == [200, 200, 200]
    for content in ("", "short\n", f"{KEY}ä\n"):
        file.write_text(content)
        with pytest.raises(UsageError, match="needs a key of 16"):
            read_keys(file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_keys(tmp_path / "nothing")


class Held:
    """A classifier that computes when it may, and remembers how many rows a batch had."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier, self.go, self.fail = classifier, threading.Event(), ""
        self.rows: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._classifier, name)

    def logits(self, split: Any) -> Any:
        assert self.go.wait(60)
        self.rows.append(len(split))
        if self.fail and len(split) == int(self.fail):
            raise RuntimeError("a secret text")
        return self._classifier.logits(split)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_waits_is_computed_together_and_no_more_than_may_wait(classifier: Classifier) -> None:
    held: Any = Held(classifier)
    batcher = Batcher(held, 6)
    batcher.start()
    first = batcher.submit([TEXTS[:1]])
    until(first.running)
    others = [batcher.submit([TEXTS[:2]]) for _ in range(2)]
    unwanted = batcher.submit([TEXTS[:1]])
    with pytest.raises(QueueFullError) as full:
        batcher.submit([TEXTS[:1]])
    assert 1 <= full.value.retry_after_seconds <= 60
    assert unwanted.cancel()
    held.go.set()
    batcher.stop()
    assert first.done()
    assert held.rows in ([1, 4], [5]), "all that was there when the thread came round, but what nobody wants any more"
    for other in others:
        assert other.result().logits == pytest.approx(classifier.logits(classifier.split([TEXTS[:2]])), abs=1e-5)
    assert (batcher.pending, batcher.work.texts) == (0, 5)
    assert not batcher.alive


def test_a_batch_has_so_many_tokens(classifier: Classifier) -> None:
    held: Any = Held(classifier)
    batcher = Batcher(held, 100)
    batcher.room = 2 * len(classifier.split([TEXTS[1:2]]).tokens.input_ids)
    jobs = [batcher.submit([TEXTS[1:2]]) for _ in range(5)]
    held.go.set()
    batcher.start()
    batcher.stop()
    assert held.rows == [2, 2, 1]
    assert all(job.result().logits.shape == (1, 2) for job in jobs)


def test_windows_of_long_texts(runs: Callable[..., Path]) -> None:
    model = dongu.load(runs(), device="cpu", long="windows")
    texts = ["film " * 200 + "word0", *TEXTS]
    with asking(model) as client:
        found = predicted(client, texts)
    for row, answer in zip(found, model.predict(texts), strict=True):
        probabilities = {item["label"]: item["probability"] for item in row["labels"]}
        assert probabilities == pytest.approx(answer["probabilities"])
        assert not row["truncated"], "all of it is read"
    batcher = Batcher(model, 100)
    jobs = [batcher.submit([[text]]) for text in texts]
    batcher.start()
    batcher.stop()
    assert batcher.work.batches == 1
    alone = [model.logits(model.split([[text]])) for text in texts]
    for job, logits in zip(jobs, alone, strict=True):
        assert job.result().logits == pytest.approx(logits, abs=1e-5)


def test_a_request_fails_alone(classifier: Classifier, caplog: pytest.LogCaptureFixture) -> None:
    held: Any = Held(classifier)
    batcher = Batcher(held, 100)
    jobs = [batcher.submit([TEXTS[:rows]]) for rows in (1, 2)]
    held.fail = "2"
    fails_together = held.logits
    held.logits = lambda split: fails_together(split) if len(split) < 3 else (_ for _ in ()).throw(RuntimeError("both"))
    held.go.set()
    batcher.start()
    batcher.stop()
    assert jobs[0].result().logits.shape == (1, 2)
    assert str(jobs[1].exception()) == "a secret text"
    held.fail = "1"
    with asking(held) as client, caplog.at_level(logging.DEBUG):
        answer = client.post("/predict", json={"texts": "a secret"})
        assert (answer.status_code, answer.json()["error"]) == (500, "internal error: RuntimeError")
        assert client.get("/health").status_code == 200
    assert "secret" not in caplog.text
    assert "a request failed: RuntimeError" in caplog.text


@pytest.mark.crash
def test_no_hostile_body_is_an_error_of_the_server(classifier: Classifier) -> None:
    """`benchmarks/serve_load.py` sends ten thousand of them."""
    draw = random.Random(7)
    with asking(classifier) as client:
        found = Counter(
            client.post("/predict", content=body, headers=headers).status_code
            for body, headers in (hostile_request(draw) for _ in range(400))
        )
        assert predicted(client, TEXTS)
    assert found.keys() <= {200, 400, 413, 422}, found
    assert found[422] > 100


@pytest.fixture(scope="module")
def exported(runs: Callable[..., Path]) -> Path:
    """The run with its export beside it, as `--engine onnx` wants it."""
    if find_spec("onnxruntime") is None:
        pytest.skip("the extra [onnx] is not installed")
    data = runs().parent / "data.jsonl"  # the run had them in memory
    rows = [{"text": f"word{i % 2} film {i}", "label": ("bad", "good")[i % 2]} for i in range(24)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert command(["export", str(runs() / "model"), str(data), "--out", str(runs() / "onnx")]) == 0
    return runs()


def test_a_graph_answers_as_the_model_does(
    exported: Path, classifier: Classifier, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = classifier.predict([*TEXTS, "film " * 300])
    for name, graph in {exported: GRAPH, exported / "onnx": None}.items():
        model = dongu.load(name, graph=graph)
        with asking(model) as client:
            for row, answer in zip(predicted(client, [*TEXTS, "film " * 300]), wanted, strict=True):
                found = {item["label"]: item["probability"] for item in row["labels"]}
                assert found == pytest.approx(answer["probabilities"], abs=1e-5)
            assert client.get("/model").json()["max_length"] == classifier.config.max_length
    assert command(["predict", str(exported / "onnx"), TEXTS[0], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prediction"] == wanted[0]["prediction"]
    for arguments, said in {
        ("--engine", "onnx-int8"): "has no onnx/model_quantized.onnx",
        ("--engine", "onnx", "--device", "cuda"): "a graph is computed on the CPU",
    }.items():
        assert command(["serve", str(exported), *arguments]) == 2
        assert said in capsys.readouterr().err
    assert command(["train", "missing.csv", "--model", str(exported / "onnx")]) == 2, "it has no weights to train"


def test_a_full_queue_and_a_late_answer(classifier: Classifier) -> None:
    held: Any = Held(classifier)
    with asking(held, Limits(texts=2, queue_texts=2, seconds=0.5)) as client, ThreadPoolExecutor(1) as pool:
        late = pool.submit(client.post, "/predict", json={"texts": TEXTS[:2]})
        until(lambda: client.get("/ready").status_code == 503)
        full = client.post("/predict", json={"texts": "a"})
        assert (full.status_code, full.json()["error"]) == (429, "the queue is full")
        assert 1 <= int(full.headers["retry-after"]) <= 60
        assert late.result().status_code == 503
        assert client.get("/health").status_code == 200
        held.go.set()
        until(lambda: client.get("/ready").status_code == 200)
        assert len(predicted(client, TEXTS[:2])) == 2


def test_the_numbers_for_prometheus(classifier: Classifier) -> None:
    with asking(classifier) as client:
        predicted(client, TEXTS)
        client.post("/predict", content=b"{")
        client.get("/somewhere")
        answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.text.splitlines()
    samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert samples['dongu_requests_total{path="/predict",status="200"}'] == "1"
    assert samples['dongu_requests_total{path="/predict",status="422"}'] == "1"
    assert samples['dongu_requests_total{path="other",status="404"}'] == "1"
    assert samples["dongu_texts_total"] == "3"
    assert int(samples["dongu_tokens_total"]) == len(classifier.split([TEXTS]).tokens.input_ids)
    assert samples['dongu_request_seconds_bucket{le="+Inf"}'] == samples["dongu_request_seconds_count"] == "2"
    assert not {line.split("{")[0].split(" ")[0] for line in samples} - {
        re.sub(r"^(\w+?)$", r"\1", line.split()[2]) + suffix
        for line in lines
        if line.startswith("# TYPE")
        for suffix in ("", "_bucket", "_sum", "_count")
    }, "each has a type"


def test_openapi_says_what_is_asked_and_answered(classifier: Classifier) -> None:
    with asking(classifier) as client:
        content = client.get("/openapi.json").json()
        for path in ("/docs", "/redoc"):
            assert client.get(path).status_code == 404, "they would load from elsewhere"
        asked = content["paths"]["/predict"]["post"]
        examples = asked["requestBody"]["content"]["application/json"]["examples"]
        assert len(examples) == 4
        for name, example in examples.items():
            status = client.post("/predict", json=example["value"]).status_code
            assert status == (422 if name == "pairs" else 200), name
    assert {*asked["responses"]} == {"200", "401", "413", "422", "429", "503"}
    assert {*content["paths"]} == {"/predict", "/model", "/health", "/ready", "/metrics"}


@contextlib.contextmanager
def served(run: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    line = [sys.executable, "-m", "dongu", "serve", str(run), "--port", "0", "--device", "cpu", "--threads", "1"]
    with subprocess.Popen([*line, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said.startswith(f"{run} at http://127.0.0.1:"), process.communicate()
            yield process, said.split()[-1]
        finally:
            process.kill()


def said_by(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Output and errors until its end, without what a slow machine hears while it waits."""
    out, said = process.communicate(timeout=60)
    return out, "".join(line for line in said.splitlines(keepends=True) if not line.startswith("loading "))


def served_here(run: Path, output: Path, *arguments: str) -> tuple[int, str]:
    """The id and the address of such a process that is a fork of this one, which has imported all of it already."""

    def serve() -> int:
        sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, "utf-8", closefd=False) for number in (1, 2))
        warnings.simplefilter("ignore")  # which are errors in a test
        end_at_once()  # as `python -m dongu` begins
        return command(["serve", str(run), "--port", "0", "--device", "cpu", "--threads", "1", *arguments])

    with output.open("wb") as file:
        process = fork(serve, file.fileno())
    until(lambda: output.read_text().endswith("\n"))
    said = output.read_text().splitlines()[-1]
    assert said.startswith(f"{run} at http://127.0.0.1:"), said
    return process, said.split()[-1]


@pytest.mark.crash
def test_a_signal_ends_it_when_all_is_answered(runs: Callable[..., Path], tmp_path: Path) -> None:
    def ask(address: str) -> tuple[int, int]:
        body = json.dumps({"texts": TEXTS * 80}).encode()
        request = urllib.request.Request(f"{address}/predict", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, len(json.load(answer)["predictions"])

    def metrics() -> bytes:
        with urllib.request.urlopen(f"{address}/metrics") as answer:
            content: bytes = answer.read()
        return content

    output = tmp_path / "output"
    process, address = served_here(runs(), output, "--queue", "100000")
    said = output.read_text()
    ended = os.pidfd_open(process)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert ask(address) == (200, 240)
            asked = [pool.submit(ask, address) for _ in range(8)]
            until(lambda: b"dongu_pending_texts 0" not in metrics())
            until(lambda: b'path="/predict",status="200"} 1\n' in metrics() or any(each.done() for each in asked))
            os.kill(process, signal.SIGTERM)
            assert select.select([ended], [], [], HANGS)[0]
            taken = [each for each in asked if each.exception() is None]
    finally:
        signal.pidfd_send_signal(ended, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        os.close(ended)
    assert (code, output.read_text()) == (0, said), "it ends as it should, and has nothing to say"
    assert taken
    assert {each.result() for each in taken} == {(200, 240)}
    for each in asked:  # those that came when nobody listened any more were never taken
        assert each in taken or "refused" in str(each.exception()) or "reset" in str(each.exception())


@pytest.mark.exhaustive
def test_several_workers(runs: Callable[..., Path]) -> None:
    """All answer at one socket, and end together by a signal."""
    seen: set[str] = set()

    def see(address: str) -> bool:
        text = urllib.request.urlopen(f"{address}/metrics").read().decode()
        seen.update(re.findall(r'^dongu_batches_total{worker="(\d)"} ', text, re.M))
        return seen == {"0", "1"}

    with served(runs(), "--workers", "2") as (process, address):
        body = json.dumps({"texts": TEXTS}).encode()
        request = urllib.request.Request(f"{address}/predict", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert len(json.load(answer)["predictions"]) == 3
        until(lambda: see(address))
        process.send_signal(signal.SIGTERM)
        assert said_by(process) == ("", "")
        assert process.returncode == 0


@pytest.mark.exhaustive
def test_none_of_several_workers_is_left_when_one_dies(runs: Callable[..., Path]) -> None:
    with served(runs(), "--workers", "2") as (process, _):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        [worker, *_] = [int(c) for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]
        os.kill(worker, signal.SIGKILL)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 8
        assert "a worker has ended (dongu-serve-" in said
        until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_to_all_processes_is_the_first_ones(times: int) -> None:
    """As Ctrl-C in a terminal is; a worker that would hear it as well could only end as if by itself."""

    def work(_: Any, listening: socket.socket, number: int, ready: Any) -> None:
        for each in EXIT_CODES:  # as in a process that is no fork
            signal.signal(each, signal.SIG_IGN if times == 2 and each == signal.SIGTERM else signal.SIG_DFL)
        with contextlib.suppress(threading.BrokenBarrierError):  # told before it has come out of it
            ready.wait()
        time.sleep(HANGS)

    def serve() -> int:
        os.setpgid(0, 0)
        for each in EXIT_CODES:  # what a shell started in the background has Ctrl-C ignored
            signal.signal(each, signal.SIG_DFL)
        forking = multiprocessing.get_context("fork")
        with pytest.MonkeyPatch.context() as patch, open_socket("127.0.0.1", 0) as listening:
            patch.setattr("dongu.serve.workers._work", work)
            patch.setattr("dongu.serve.workers.multiprocessing.get_context", lambda _: forking)
            serve_by_workers(Any, listening, 2, lambda: os.write(1, b"ready"))  # type: ignore[arg-type]
        return 0

    read, write = os.pipe()
    process = fork(serve, write)
    os.close(write)
    with os.fdopen(read, "rb") as output:
        assert output.read(5) == b"ready"
        os.killpg(process, signal.SIGINT)
        while times == 2 and not select.select([output], [], [], 0.2)[0]:  # two that come at once are one
            os.killpg(process, signal.SIGINT)
        said = output.read()  # until no process is left
    assert (os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), said) == (0, b"")


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    with handled(signal.SIG_IGN, [signal.SIGHUP]), handled(signal.default_int_handler, EXIT_CODES):
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler


def test_what_goes_wrong_outside_a_request_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """As where clients leave no file descriptor for the next: asyncio has two thousand tracebacks a second."""
    tell = told_once()
    for _ in range(3):
        tell(None, {"message": "no accept()", "exception": OSError(24, "Too many open files")})  # type: ignore[arg-type]
    tell(None, {"message": "no task", "exception": RuntimeError("a secret text")})  # type: ignore[arg-type]
    assert [record.getMessage() for record in caplog.records] == [
        "no accept(): Too many open files",
        "no task: RuntimeError",
    ]


@pytest.mark.exhaustive
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
def test_a_person_types_a_text(runs: Callable[..., Path], tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(KEY)
    with served(runs(), "--api-key-file", str(file)) as (_, address), browsing(tmp_path / "profile") as browser:
        for width in (1200, 360):
            events = browser.open(f"{address}/", width)
            asked = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
            assert all(each["request"]["url"].startswith(address) for each in asked)
            assert not [event for event in events if event["method"] == "Audits.issueAdded"], "nothing is blocked"
            assert browser.value("document.documentElement.scrollWidth <= innerWidth")
            wait = "new Promise(done => { const look = () => %s ? done(true) : setTimeout(look, 20); look(); })"
            assert browser.value(wait % "!document.getElementById('keyed').hidden"), "it asks for the key"
            browser.value("document.getElementById('key').focus()")
            browser.ask("Input.insertText", text=KEY)
            browser.value("document.getElementById('first').focus()")
            assert browser.value(wait % "document.getElementById('name').textContent.endsWith('run')")
            browser.ask("Input.insertText", text="<b>word0</b> film")
            key: dict[str, Any] = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "modifiers": 2}
            browser.ask("Input.dispatchKeyEvent", type="keyDown", **key)
            assert browser.value(wait % "document.querySelectorAll('#rows tr').length == 2")
            best = browser.value("document.querySelector('#rows tr.given td').textContent")
            assert browser.value("document.getElementById('prediction').textContent") == best
            assert best in ("bad", "good")


def test_the_page_asks_for_nothing_elsewhere(classifier: Classifier) -> None:
    with asking(classifier) as client:
        page = client.get("/")
        assert page.headers["content-security-policy"] == HEADERS["content-security-policy"]
        assert not re.search(r"<script(?! src=\"page\.js\")|<style|style=|\son\w+=|https?://", page.text)
        for name, kind in {"page.css": "text/css", "page.js": "text/javascript", "page.svg": "image/svg+xml"}.items():
            answer = client.get(f"/{name}")
            assert answer.headers["content-type"].startswith(kind)
            assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")


def test_the_command_refuses(
    runs: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, said in {
            (str(tmp_path),): "is not a run: it has no run.json",
            (str(runs()), "--port", port): f"--host 127.0.0.1 --port {port}: cannot be listened to (",
            (str(runs()), "--port", "99999"): "--port 99999: cannot be listened to (above 65535)",
            (str(runs()), "--timeout", "nan"): "--timeout: must be seconds above 0, got `nan`",
            (str(runs()), "--queue", "100"): "--queue 100: must hold a request of --max-texts 256",
            (str(runs()), "--api-key-file", str(tmp_path / "no")): "cannot be read",
        }.items():
            assert command(["serve", *arguments]) == 2, arguments
            assert said in capsys.readouterr().err
    monkeypatch.setattr("dongu.extras.find_spec", lambda name: None)
    assert command(["serve", str(runs())]) == 2
    what, hint = capsys.readouterr().err.splitlines()
    assert what == "dongu: error: dongu serve: needs the packages fastapi and uvicorn"
    assert hint == 'install it in a clone of dongu: pip install ".[serve]"'


def test_who_can_reach_it() -> None:
    assert [is_local(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert [is_local(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org")] == [False] * 4
    with open_socket("127.0.0.1", 0) as one:
        for host, hint in {"127.0.0.1": "another --port", "[::1]": "--host is", "192.0.2.1": "--host is"}.items():
            with pytest.raises(UsageError, match="cannot be listened to") as refused:
                open_socket(host, one.getsockname()[1])
            assert hint in refused.value.hint, host


def test_an_answer_does_not_wait_for_the_acknowledgement_of_its_head() -> None:
    with open_socket("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()[:2]):
        connection, _ = listening.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
