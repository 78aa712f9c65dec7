"""`dongu export`: the best model of a run in another format."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dongu.errors import UsageError
from dongu.text import printable

PACKAGES = ("onnx", "onnxruntime")  # of the extra [onnx]


def add(commands: Any) -> None:
    export = commands.add_parser(
        "export",
        help="the best model as an ONNX graph, checked against it",
        description="Writes a run's best model as an ONNX graph, with its tokenizer, its labels and an example of use,"
        " after it has compared their answers on rows of validation.",
        allow_abbrev=False,
    )
    export.add_argument("folder", metavar="RUN", type=Path, help="run folder")
    export.add_argument("data", metavar="DATA", nargs="?", help="where the data are now (default: where they were)")
    export.add_argument("--format", choices=("onnx",), default="onnx", help="onnx, the only one there is (onnx)")
    export.add_argument("--out", metavar="FOLDER", type=Path, help="folder to write (default: RUN/onnx)")
    export.add_argument("--int8", action="store_true", help="a graph of eight bits a weight too, with what it loses")
    export.add_argument("--json", action="store_true", help="JSON on standard output")
    export.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> None:
    from dongu.data.sources import read_source
    from dongu.files import refuse_if_taken
    from dongu.run.folder import RunFolder

    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        hint = 'install what it needs with: pip install "dongu[onnx]"'
        raise UsageError(f"{' and '.join(missing)} not installed", where="dongu export", hint=hint)
    record = RunFolder(parsed.folder).read_record()
    out = parsed.out or parsed.folder / "onnx"
    refuse_if_taken(out)
    source = None if parsed.data is None else read_source(parsed.data)
    from dongu.export.folder import export
    from dongu.run.folder import dump_json

    made = export(parsed.folder, out, source, int8=parsed.int8)
    if parsed.json:
        print(dump_json({**asdict(made), "path": str(made.path)}))
        return
    task = record["options"]["task"]
    for line in made.size_lines(task):
        print(printable(line))
    for metric, *values in made.metric_rows():
        print(f"validation  {metric:<20} {'  →  '.join(values)}")
    for line in made.loss_lines():
        print(printable(line))
    print(printable(f"wrote {made.path}; its README.md shows how to use it"))
