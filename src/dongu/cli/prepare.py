"""`dongu prepare`: tokenize once what is trained on often."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from dongu.cli.options import add_options, add_reading, reading_of
from dongu.cli.parser import Parser, add_shared, define, print_answer, whole_number
from dongu.cli.show import INSPECTED
from dongu.config import RunConfig, make_config
from dongu.errors import UsageError
from dongu.files import refuse_if_taken
from dongu.text import NAMES
from dongu.waiting import loading

DECIDING = tuple(name for name in INSPECTED if name != "batch_size")


def add_prepare(parser: Parser) -> None:
    define(
        parser,
        _prepare,
        usage="dongu prepare DATA --out SHARDS [options]",
        description="Tokenizes a data set once, and writes a folder that `dongu train` takes as DATA: a run on it"
        " starts in seconds, whatever its size. The texts are not kept.",
        epilog="The folder is for models with the tokenizer of --model; another one is refused.",
    )
    parser.add_argument("data", metavar="DATA", help=RunConfig.model_fields["data"].description)
    parser.add_argument("--out", metavar="SHARDS", type=Path, help="folder to write, which must not exist yet")
    parser.add_argument("--processes", metavar="N", help="processes among which the rows are divided (1)")
    add_options(parser, DECIDING)
    add_reading(parser)
    add_shared(parser, "--json")


def _prepare(parsed: argparse.Namespace) -> None:
    processes = whole_number(parsed.processes, "processes", 1)
    options: Any = {name: getattr(parsed, name) for name in DECIDING} | reading_of(parsed)
    config = make_config(options | {"data": parsed.data})
    if parsed.out is None:
        raise UsageError("where to?", where="dongu prepare", hint="give --out SHARDS, a folder that is not there yet")
    refuse_if_taken(parsed.out)
    from dongu.data.examples import read_examples
    from dongu.data.sources import read_source
    from dongu.doctor.lengths import load_plain_tokenizer
    from dongu.doctor.overview import describe_columns, describe_rows
    from dongu.model.place import resolve_model

    name = config.tokenizer or config.model
    path, (_, limit) = resolve_model(name), load_plain_tokenizer(name)
    data = read_examples(read_source(parsed.data, config), config)
    with loading():
        from dongu.data.shards import prepare
        from dongu.model.load import load_tokenizer

    config = config.model_copy(update={"max_length": config.max_length or limit})
    made = prepare(data, load_tokenizer(path), config, parsed.out, processes=processes)
    tokens = {name: shard.tokens for name, shard in made.splits.items()}
    size = sum(file.stat().st_size for file in parsed.out.iterdir())
    rows = {name: shard.rows for name, shard in made.splits.items()}
    cut = sum(shard.lengths["cut"] for shard in made.splits.values())
    train = shlex.join(["dongu", "train", str(parsed.out), "--model", config.model])
    said = {
        "data": describe_rows(data),
        "columns": describe_columns(data),
        "tokens": f"{sum(tokens.values()):,}; {cut:,} rows are cut at {config.max_length}",
        "saved": f"{parsed.out}: {size / 1e6:,.1f} MB",
        "next": train,
    }
    content = {"path": str(parsed.out), "rows": rows, "tokens": tokens, "bytes": size, "sha256": made.sha256}
    print_answer(parsed, content, (f"{title:<{NAMES}}{text}" for title, text in said.items()))
