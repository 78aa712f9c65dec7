"""`report.html`: what a run did, on one page that asks for nothing.

The page is a function of the run folder, of the finished runs beside it and of the data: the same bytes each time. It
has no script and no address, and allows itself none: its policy forbids all but its own style sheet. Whatever comes
from data, names or paths is escaped where it is written, by the template's engine or by `svg`.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dongu.config import make_config
from dongu.data.examples import TextData, digest_of, read_examples
from dongu.data.sources import read_source
from dongu.doctor.finding import worst_first
from dongu.errors import DonguError
from dongu.files import write_file
from dongu.judge.intervals import baseline_name
from dongu.judge.words import metric_name
from dongu.page.answers import answers_shown
from dongu.page.clock import speed, time_charts
from dongu.page.data import data_charts
from dongu.page.draw.svg import format_number, words
from dongu.page.headline import facts, headline
from dongu.page.learning import curves
from dongu.page.origin import origin
from dongu.page.rows import hardest, suspects
from dongu.page.trace import previous_run, read_trace
from dongu.run.folder import RunFolder
from dongu.text import counted, file_name, percent


def write_report(folder: RunFolder, data: TextData | None, results: Mapping[str, Any] | None = None) -> None:
    """Write the page of a run into its folder. Without its data, rows are shown by their numbers.

    `results` are what `results.json` will hold, where that is yet to come.

    Raises:
        InputError: the folder is no run, or one of its files is damaged.
        StorageError: the page could not be written.
    """
    write_file(folder.report, make_report(folder, data, results), within=folder.path)


def make_report(folder: RunFolder, data: TextData | None, results: Mapping[str, Any] | None = None) -> bytes:
    """The page, from what `write_report` says.

    Raises:
        InputError: as `write_report`.
    """
    data = data if data is not None and data.has_texts else None
    trace = read_trace(folder, results)
    return render(
        "report.html.jinja",
        trace=trace,
        verdict=headline(trace, previous_run(folder, trace)),
        facts=facts(trace),
        curves=curves(trace),
        answers=answers_shown(trace),
        hardest=hardest(trace, data),
        suspects=suspects(trace, data),
        no_texts=data is None,
        findings=worst_first(trace.findings),
        here=file_name,
        data_charts=data_charts(trace),
        time_charts=time_charts(trace),
        speed=speed(trace),
        origin=origin(trace),
    )


def render(file: str, /, **content: Any) -> bytes:
    """A template of this folder as a page, with the style sheet that its policy allows."""
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    content["style"] = Markup(style)  # noqa: S704 - a file of this package
    content["policy"] = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    page = _environment().get_template(file).render(content)
    return page.encode("utf-8", "replace")  # a name on the disk may be no UTF-8


def read_data(folder: RunFolder) -> TextData | None:
    """The rows of a run as they are read today; None where they are gone, or are not what they were."""
    record = folder.read_record()
    options = record["options"]
    if (place := options.get("data")) is None:
        return None
    try:
        config = make_config(options)
        data = read_examples(read_source(place, config), config).in_order_of(record["label_names"])
        known = {name: entry["texts"] for name, entry in record["data"].items()}
    except (DonguError, KeyError, TypeError, AttributeError):
        return None
    return data if known == {name: digest_of(examples) for name, examples in data.splits.items()} else None


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: words(value, 4000) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": format_number, "percent": percent, "counted": counted}
    environment.filters |= {"metric": metric_name, "baseline_name": baseline_name}
    return environment
