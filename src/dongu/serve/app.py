"""The routes of a server: questions and answers, how it stands, and a page for a person."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException  # of which FastAPI's is a kind, and a path that is not there is not

from dongu import __version__
from dongu.errors import DonguError, InputError
from dongu.files import read_regular
from dongu.serve.batcher import Batcher, QueueFullError
from dongu.serve.counters import Requests, escaped, head, of_worker, sample
from dongu.serve.forms import About, Asked, Limits, PredictResponse, Refusal, predictions_of
from dongu.serve.guard import Guard, error_response, told_once
from dongu.use.classifier import Classifier

PAGE_FILES = {"": "text/html", "page.css": "text/css", "page.js": "text/javascript", "page.svg": "image/svg+xml"}
DESCRIPTION = "Answers texts with the labels of a classifier and their probabilities."
REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": Refusal, "description": "There is no valid key in `Authorization: Bearer KEY`."},
    413: {"model": Refusal, "description": "The request has more bytes or more texts than are taken."},
    422: {"model": Refusal, "description": "The request is not what this path takes, or a text is empty."},
    429: {"model": Refusal, "description": "Too much is waiting; `Retry-After` says when to ask again."},
    503: {"model": Refusal, "description": "There was no answer in time, or the server is ending."},
}


def make_app(
    classifier: Classifier, limits: Limits, *, keys: Sequence[str] = (), local: bool = False, worker: int | None = None
) -> Guard:
    """The application, whose batches begin and end with its lifespan.

    Args:
        classifier: what answers.
        limits: of a request and of all of them.
        keys: one of which a request must bring; none: all may ask.
        local: whether it is for this machine alone, so that it goes by no other name.
        worker: its number among several, which each count by themselves.
    """
    batcher, requests = Batcher(classifier, limits.queue_texts), Requests()
    app = FastAPI(
        title=f"dongu: {classifier.saved.name}",
        description=DESCRIPTION,
        version=__version__,
        lifespan=partial(_lifespan, batcher),
        docs_url=None,  # its page loads a script from elsewhere
        redoc_url=None,
    )
    _add_questions(app, batcher, limits)
    _add_standing(app, batcher, requests, limits, worker)
    for file, kind in PAGE_FILES.items():
        app.get(f"/{file}", include_in_schema=False)(_file(file or "page.html", kind))
    for error in (RequestValidationError, HTTPException, QueueFullError, DonguError, Exception):
        app.exception_handler(error)(_refused)
    return Guard(app, limits, requests, keys, local=local)


@asynccontextmanager
async def _lifespan(batcher: Batcher, _: FastAPI) -> AsyncIterator[None]:
    asyncio.get_running_loop().set_exception_handler(told_once())
    batcher.start()
    yield
    await asyncio.to_thread(batcher.stop)


def _add_questions(app: FastAPI, batcher: Batcher, limits: Limits) -> None:
    """`/predict`, and `/model`, which says what may be asked there."""
    classifier, metrics, name = batcher.classifier, batcher.classifier.metrics, batcher.classifier.saved.name
    abstains = metrics.task == "single-label" and classifier.threshold > 0
    threshold = classifier.threshold if metrics.task == "multi-label" or abstains else None

    @app.post("/predict", response_model=PredictResponse, responses=REFUSALS)
    async def predict(question: Asked) -> Response:
        """The answer to each text, in their order."""
        if isinstance(question.texts, list) and len(question.texts) > limits.texts:
            hint = "ask for some of them at a time"
            return error_response(413, f"{len(question.texts)} texts, above {limits.texts}", hint)
        columns = classifier.saved.columns_of(_encodable(question.texts))
        if not len(columns[0]):
            return JSONResponse({"model": name, "predictions": []})
        future = asyncio.wrap_future(batcher.submit(columns))
        try:
            found = await asyncio.wait_for(future, limits.seconds)
        except TimeoutError:
            return error_response(503, f"no answer within {limits.seconds:g} s", "ask for fewer or shorter texts", 1)
        rows = predictions_of(found.logits, found.truncated, metrics, classifier.threshold, question)
        return JSONResponse({"model": name, "predictions": list(rows)})

    @app.get("/model", response_model=About)
    async def about() -> Response:
        """The labels of the model, and the limits of a request."""
        about = About(
            model=name,
            task=metrics.task,
            labels=list(classifier.label_names),
            texts_a_row=len(classifier.text_columns) or None,
            max_length=classifier.config.max_length or 0,
            threshold=threshold,
            max_texts=limits.texts,
            max_bytes=limits.bytes,
        )
        return JSONResponse(about.model_dump())


def _add_standing(app: FastAPI, batcher: Batcher, requests: Requests, limits: Limits, worker: int | None) -> None:
    """`/health`, `/ready` and `/metrics`: how the server stands."""

    @app.get("/health", responses={503: REFUSALS[503]})
    async def health() -> Response:
        """Whether the process is well; where it is not, it should be started again."""
        if not batcher.alive:
            return error_response(503, "the thread that computes has ended")
        return JSONResponse({"status": "ok"})

    @app.get("/ready", responses={503: REFUSALS[503]})
    async def ready() -> Response:
        """Whether it takes questions now."""
        if not batcher.alive or batcher.pending >= limits.queue_texts:
            return error_response(503, "the queue is full", "", 1)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", response_class=Response)
    async def exposition() -> Response:
        """Counts for Prometheus, in its text form."""
        lines = [*requests.lines(), *_work_lines(batcher)]
        lines += head("dongu_model_info", "gauge", "The model and the version.")
        model = escaped(batcher.classifier.saved.name)
        lines.append(f'dongu_model_info{{model="{model}",version="{__version__}"}} 1')
        lines = [*of_worker(lines, worker)]
        return Response("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


def _encodable(texts: Any) -> Any:
    """The texts, unless one has half of a character, which JSON may hold and no tokenizer takes."""
    for text in [texts] if isinstance(texts, str) else texts:
        for part in [text] if isinstance(text, str) else text:
            try:
                part.encode()
            except UnicodeEncodeError as error:
                raise InputError("a text has a surrogate that stands alone", hint="send UTF-8") from error
    return texts


def _work_lines(batcher: Batcher) -> Iterator[str]:
    work = batcher.work
    yield from sample("dongu_pending_texts", "gauge", "Texts that wait or are computed.", batcher.pending)
    yield from sample("dongu_batches_total", "counter", "Batches that were computed.", work.batches)
    yield from sample("dongu_texts_total", "counter", "Rows that were answered.", work.texts)
    yield from sample("dongu_tokens_total", "counter", "Tokens of these rows.", work.tokens)
    yield from sample("dongu_compute_seconds_total", "counter", "Seconds of tokenizer and model.", work.seconds)


def _file(name: str, kind: str) -> Callable[[], Any]:
    content = read_regular(Path(__file__).with_name(name))

    async def answer() -> Response:
        return Response(content, media_type=kind)

    return answer


async def _refused(_: Request, error: Exception) -> Response:
    """What is wrong and what to do, without what was sent."""
    if isinstance(error, RequestValidationError):
        told = [f"{'.'.join(map(str, item['loc'][1:])) or 'the body'}: {item['msg']}" for item in error.errors()[:3]]
        return error_response(422, "; ".join(told), "GET /openapi.json says what a request looks like")
    if isinstance(error, HTTPException):
        answer = error_response(error.status_code, str(error.detail), "GET /openapi.json says what there is")
        answer.headers.update(error.headers or {})  # a 405 says what is allowed
        return answer
    if isinstance(error, QueueFullError):
        seconds = error.retry_after_seconds
        return error_response(429, str(error), f"try again in {seconds} s", seconds)
    if isinstance(error, DonguError):  # of the request, or of the model
        return error_response(422 if isinstance(error, InputError) else 500, error.what, error.hint)
    return error_response(500, f"internal error: {type(error).__name__}", "please report it")
