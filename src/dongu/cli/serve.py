"""`dongu serve`: a model as a server of answers."""

from __future__ import annotations

import argparse
import math
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from dongu.cli.options import add_options, given_columns
from dongu.cli.parser import Parser, add_shared, define, print_answer, probability, real_number, whole_number
from dongu.errors import UsageError, install_hint
from dongu.extras import require_packages
from dongu.waiting import Waiting, idle, loading


def add_serve(parser: Parser) -> None:
    define(
        parser,
        _serve,
        description="Serves predictions over HTTP: POST /predict with texts or pairs, a page at / to try it by hand,"
        " /openapi.json, /health, /ready, and /metrics for Prometheus. Waiting requests are batched.",
        epilog="It listens on this machine only unless --host is given. On SIGTERM it answers all requests, then ends.",
    )
    add_shared(parser, "model")
    parser.add_argument("--host", default="127.0.0.1", help="name or address to listen on (127.0.0.1)")
    parser.add_argument("--port", default="8000", metavar="N", help="port to listen on; 0: any free one (8000)")
    parser.add_argument(
        "--api-key-file", metavar="FILE", type=Path, help="file of API keys, one per line; each request needs one"
    )
    parser.add_argument("--max-texts", metavar="N", help="maximum number of texts per request (256)")
    parser.add_argument("--max-bytes", metavar="N", help="maximum number of bytes per request (1048576)")
    parser.add_argument("--timeout", default="30", metavar="SECONDS", help="seconds until a request is answered (30)")
    parser.add_argument("--queue", metavar="N", help="texts that may wait; a request beyond that gets a 429 (1024)")
    add_shared(parser, "--abstain-below")
    parser.add_argument("--batch-size", default="32", metavar="N", help="size of a batch, in rows of 128 tokens (32)")
    add_shared(parser, "--device")
    parser.add_argument("--workers", metavar="N", help="processes that serve, each with its own copy of the model (1)")
    what = "how batches are computed: as in training, or by an exported ONNX graph, also with 8-bit weights (packed)"
    parser.add_argument("--engine", choices=("packed", "plain", "onnx", "onnx-int8"), help=what)
    add_options(parser, ("precision", "threads", "text_columns"), default_shown=False)
    add_shared(parser, "--json")


def _serve(parsed: argparse.Namespace) -> None:
    require_packages("fastapi", "uvicorn", where="dongu serve", hint=install_hint("serve"))
    from dongu.model.safety import GRAPH, GRAPH_INT8
    from dongu.serve.forms import Limits
    from dongu.serve.guard import is_local
    from dongu.serve.server import address_of, open_socket, read_keys, serve
    from dongu.use.saved import SavedModel

    limits = Limits(
        whole_number(parsed.max_texts, "max-texts", Limits.texts),
        whole_number(parsed.max_bytes, "max-bytes", Limits.bytes),
        real_number(parsed.timeout, "--timeout", "seconds above 0", lambda number: 0 < number < math.inf),
        whole_number(parsed.queue, "queue", Limits.queue_texts),
    )
    if limits.queue_texts < limits.texts:
        raise UsageError(f"must hold a request of --max-texts {limits.texts}", where=f"--queue {limits.queue_texts}")
    keys = [] if parsed.api_key_file is None else read_keys(parsed.api_key_file)
    port = 0 if parsed.port == "0" else whole_number(parsed.port, "port", 0)
    given = {name: value for name in ("precision", "threads") if (value := getattr(parsed, name)) is not None}
    if (engine := parsed.engine) in ("packed", "plain"):
        given["engine"] = engine
    count = whole_number(parsed.workers, "workers", 1)
    if count > 1:
        given.setdefault("threads", max(1, (os.cpu_count() or 1) // count))
    options = {
        **given,
        **given_columns(parsed),
        "device": parsed.device,
        "batch_size": whole_number(parsed.batch_size, "batch-size", 32),
        "abstain_below": probability(parsed.abstain_below),
        "graph": {"onnx": GRAPH, "onnx-int8": GRAPH_INT8}.get(engine),
    }
    name, local = SavedModel.open(parsed.model, **options).name, is_local(parsed.host)
    # The port before the model is loaded, so that one in use is told soon.
    with open_socket(parsed.host, port) as listening, idle(), ExitStack() as starting:
        starting.enter_context(Waiting("loading the model"))
        from dongu.serve.workers import Serving, serve_by_workers

        def announce() -> None:
            starting.close()
            if not local and not keys:
                print("WARNING: whoever reaches this address may ask; --api-key-file asks for a key", file=sys.stderr)
            address = address_of(listening)
            print_answer(parsed, {"model": name, "address": address}, [f"{name} at {address}"])
            sys.stdout.flush()  # who waits for it has it before more is done

        serving = Serving(parsed.model, options, limits, keys, local)
        if count > 1:
            serve_by_workers(serving, listening, count, announce)
            return
        with loading():
            classifier = serving.classifier()
        announce()
        serve(classifier, listening, limits, keys, local=local)
