"""`dongu eject`, `export` and `push`: a run for others, and for programs without dongu."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from dongu.cli.parser import Parser, add_shared, define, elsewhere, print_answer, print_json, refuse_existing
from dongu.errors import UsageError, install_hint
from dongu.text import typed
from dongu.waiting import loading

PACKAGES = ("onnx", "onnxruntime")  # of the extra [onnx]


def add_eject(parser: Parser) -> None:
    define(
        parser,
        _eject,
        description="Writes a run as one plain script that does not need dongu. With the plain engine the script"
        " reproduces every loss and every metric to the last digit; its head says what to expect.",
    )
    add_shared(parser, "folder", "--parts")
    parser.add_argument("--out", metavar="FILE", type=Path, help="file to write (default: standard output)")
    what = "write the run's rows to this folder, from which the script reads them; for data that it cannot read itself"
    parser.add_argument("--rows", metavar="FOLDER", type=Path, help=what)
    add_shared(parser, "--json")


def _eject(parsed: argparse.Namespace) -> None:
    from dongu.files import refuse_if_taken
    from dongu.run.folder import RunFolder

    refuse_existing(parsed.out)
    if parsed.rows is not None:
        refuse_if_taken(parsed.rows)
    RunFolder(parsed.folder).check_parts(parsed.parts)
    from dongu.files import write_file

    with loading():
        from dongu.eject.script import eject

    name = "train.py" if parsed.out is None else parsed.out.name
    script = eject(parsed.folder, name, parts=parsed.parts, rows=parsed.rows)
    if parsed.out is not None:
        write_file(parsed.out, script.encode())
    if parsed.json:
        place = None if parsed.out is None else str(parsed.out)
        print_json("eject", {"path": place, "script": script if place is None else None})
    elif parsed.out is not None:
        print(f"wrote {parsed.out}; run it with: python {typed(parsed.out)}")
    else:
        print(script, end="")


def add_export(parser: Parser) -> None:
    define(
        parser,
        _export,
        description="Writes a run's best model, or any classifier, as an ONNX graph, with its tokenizer, its labels and"
        " an example of use. The predictions of graph and model are compared first, on validation rows.",
    )
    from dongu.cli.options import MODEL_COLUMNS, add_options

    add_shared(parser, "model")
    what = "where the run's data are now (default: where they were); for any other model, labelled rows"
    parser.add_argument("data", metavar="DATA", nargs="?", help=what)
    parser.add_argument(
        "--format", choices=("onnx",), default="onnx", help="format of the graph; there is only onnx (onnx)"
    )
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="folder to write (default: RUN/onnx)")
    add_options(parser, MODEL_COLUMNS)
    parser.add_argument(
        "--int8", action="store_true", help="also write a graph with 8-bit weights, and say how much accuracy it loses"
    )
    add_shared(parser, "--json")


def _export(parsed: argparse.Namespace) -> None:
    from dongu.cli.options import given_columns
    from dongu.data.sources import read_source
    from dongu.extras import require_packages
    from dongu.files import refuse_if_taken
    from dongu.use.saved import SavedModel

    require_packages(*PACKAGES, where="dongu export", hint=install_hint("onnx"))
    given = given_columns(parsed)
    saved = SavedModel.open(parsed.model, device="cpu", **given)
    out: Path | None = parsed.out or (None if saved.run is None else saved.run.path / "onnx")
    if out is None:
        raise UsageError("is not a run, so it has no folder to write to", where=saved.name, hint="give --out FOLDER")
    refuse_if_taken(out)
    source = None if parsed.data is None else read_source(parsed.data, saved.config)

    with loading():
        from dongu.export.folder import export

    with elsewhere(parsed.out, "FOLDER"):
        made = export(parsed.model, out, source, int8=parsed.int8, **given)
    lines = [
        *made.size_lines(saved.metrics.task),
        *(f"validation  {metric:<20} {'  →  '.join(values)}" for metric, *values in made.metric_rows()),
        *made.loss_lines(),
        f"wrote {made.path}; its README.md shows how to use it",
    ]
    print_answer(parsed, {**asdict(made), "path": str(made.path)}, lines)


def add_push(parser: Parser) -> None:
    define(parser, _push, description="Uploads the model folder of a finished run, with its card, to the Hub.")
    add_shared(parser, "folder")
    parser.add_argument("name", metavar="OWNER/NAME", help="repository to upload to; it is created if needed")
    parser.add_argument("--public", action="store_true", help="make a new repository public (default: private)")
    parser.add_argument("--license", metavar="ID", help="license of the model, for its card: apache-2.0, mit, other, …")
    parser.add_argument("--language", metavar="CODE", nargs="+", default=[], help="language of the texts: en, tr, …")
    add_shared(parser, "--json")


def _push(parsed: argparse.Namespace) -> None:
    from dongu.export.hub import check_access, published_card, push
    from dongu.run.folder import RunFolder

    RunFolder(parsed.folder).read_record()
    published_card("", parsed.name, parsed.license, parsed.language)  # before anything is asked of the Hub
    check_access(parsed.name)
    more = {"license_id": parsed.license, "languages": parsed.language}
    url = push(parsed.folder, parsed.name, public=parsed.public, **more)
    print_answer(parsed, {"url": str(url)}, [f"pushed to {url}"])
