"""`dongu train` and `resume`: one run, or one for each of several seeds; and the end of one that was stopped."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dongu import launch
from dongu.cli.options import add_options, add_reading, spellings
from dongu.cli.parser import ALLOWED, Parser, add_language, add_shared, define, print_json, whole_number
from dongu.config import READING, SET_ONCE, RunConfig, check_metric, make_config
from dongu.errors import UsageError
from dongu.extras import require_extras
from dongu.teach.language import language_of
from dongu.text import NAMES, WIDTH, fields, printable, typed
from dongu.waiting import loading

if TYPE_CHECKING:
    from dongu.run.console import Console
    from dongu.run.result import RunResult

SOUP = "soup"  # in place of a number of checkpoints to keep
LAUNCHERS = """\
on several processes, with the same options:
  torchrun --nproc-per-node 2 -m dongu train DATA ...
  accelerate launch -m dongu train DATA ..."""


def add_train(parser: Parser) -> None:
    define(
        parser,
        _run,
        usage="dongu train DATA [options]",
        description="Fine-tune a sequence classifier and write a run folder.",
        epilog=LAUNCHERS,
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("data", metavar="DATA", nargs="?", help=RunConfig.model_fields["data"].description)
    add_shared(parser, "--config")
    add_options(parser, (name for name in RunConfig.model_fields if name not in ("data", *READING)))
    add_reading(parser)
    add_shared(parser, "--parts")
    parser.add_argument(
        "--overwrite", action="store_true", help="remove the run in --out first, unless another process writes to it"
    )
    parser.add_argument(
        "--seeds",
        metavar="N",
        help="train N times, with N seeds from --seed on, in OUT/seed-42 and so on; with --keep soup, also average"
        " their weights, and keep the average if it is no worse on validation",
    )
    parser.add_argument(
        "--folds",
        metavar="K",
        help="k-fold cross-validation: train K times, in OUT/fold-1 and so on, and pool the held-out predictions",
    )
    parser.add_argument(
        *spellings("push_to_hub"),
        metavar="OWNER/NAME",
        help="upload the model at the end; if the Hub has no such repository, a private one is created",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="start the run in OUT, or continue it, or say that it is finished: for repeating the same command",
    )
    parser.add_argument(
        "--allow", metavar="NAME", nargs="+", default=(), help="with --resume: accept differences: " + ALLOWED
    )
    parser.add_argument("--explain", action="store_true", help="show the first steps as a lesson, line by line")
    add_language(parser, "language of --explain")
    for flag in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        parser.add_argument(*spellings(flag), dest=flag, default=None, help=argparse.SUPPRESS)
    add_shared(parser, "--json")


def _run(parsed: argparse.Namespace) -> None:
    options = train_options(parsed, processes=launch.processes())
    count = None if parsed.seeds is None else whole_number(parsed.seeds, "seeds", 1)
    folds = None if parsed.folds is None else whole_number(parsed.folds, "folds", 2)
    soup = options.get("keep") == SOUP
    _check_together(parsed, count, folds, soup=soup)
    if soup:
        del options["keep"]
    # First whatever may be wrong and needs no torch, which takes seconds to load.
    config = make_config({**options, "fold": f"1/{folds}"} if folds else options)
    require_extras(config)
    if parsed.parts is None:
        check_metric(config.metric)
    from dongu.data.examples import read_examples
    from dongu.data.sources import read_source
    from dongu.data.weights import resolve_weights
    from dongu.doctor.overview import describe_data
    from dongu.model.place import resolve_model
    from dongu.run.folder import RunFolder
    from dongu.run.taken import as_begun, check_free

    if parsed.resume and (count or folds) is None:
        options = as_begun(options)
        config = make_config(options)
    if parsed.push_to_hub is not None:
        from dongu.export.hub import check_access

        check_access(parsed.push_to_hub)
    if parsed.parts is None:  # else the model may be among them
        resolve_model(config.model)
    if (count or folds) is not None:
        _train_several(options, config, parsed, seeds=count, folds=folds, soup=soup)
        return
    if config.out is not None and not parsed.resume:
        check_free(RunFolder(Path(config.out)), overwrite=parsed.overwrite)
    data = options.pop("data")
    stream = sys.stderr if parsed.json else sys.stdout
    if parsed.parts is None:  # else the columns may be among them
        source = read_source(data, config)
        if config.out is None:
            check_free(RunFolder(Path(f"runs/{source.name}")), overwrite=parsed.overwrite)
        data = read_examples(source, config)
        resolve_weights(config, data)  # a class by a name that there is not
        begins = not (parsed.resume and RunFolder(Path(str(config.out))).record.exists())  # or it was said then
        if begins and launch.rank() == 0:  # at once: to load torch and a model takes a while
            for line in fields(describe_data(data)):
                print(printable(line), file=stream, flush=True)
    from dongu.run.console import Console

    with loading():
        from dongu.training import train

    console = Console(stream=stream)
    how: dict[str, Any] = {"overwrite": parsed.overwrite, "resume": parsed.resume, "allow": parsed.allow}
    how["explain"] = (parsed.language or language_of(os.environ)) if parsed.explain else None
    result = train(data, console=console, parts=parsed.parts, **how, **options)
    show_result(result, console, as_json=parsed.json)
    if parsed.push_to_hub is not None and launch.rank() == 0:
        from dongu.export.hub import push

        console.line(f"pushed to {push(result.path, parsed.push_to_hub)}")


def _check_together(parsed: argparse.Namespace, count: int | None, folds: int | None, *, soup: bool) -> None:
    if count is not None and folds is not None:
        raise UsageError("several seeds or several folds", where="--folds", hint="give one of the two")
    if soup and count is None:
        raise UsageError("it averages several runs", where=f"--keep {SOUP}", hint="give --seeds N too")
    if parsed.overwrite and (count or folds) is not None:
        hint = "remove the folder, or choose another --out"
        raise UsageError("replaces one run, and these are several", where="--overwrite", hint=hint)
    if parsed.language is not None and not parsed.explain:
        raise UsageError("is for --explain only", where="--language", hint="give --explain too, or leave it out")
    if parsed.explain and (count or folds) is not None:
        where = "--folds" if count is None else "--seeds"
        raise UsageError("--explain shows one run", where=where, hint="give one of the two")
    if parsed.allow and not parsed.resume:
        raise UsageError("is for --resume only", where="--allow", hint="give --resume too, or leave it out")
    if parsed.push_to_hub is not None and (count or folds) is not None:
        hint = "push the best of them afterwards: dongu push RUN OWNER/NAME"
        raise UsageError("several runs have several models", where="--push-to-hub", hint=hint)


def _train_several(
    options: dict[str, Any],
    config: RunConfig,
    parsed: argparse.Namespace,
    *,
    seeds: int | None,
    folds: int | None,
    soup: bool,
) -> None:
    from dongu.data.sources import read_source
    from dongu.model.place import pin_model
    from dongu.run.console import Console

    source = read_source(options["data"], config)
    if parsed.parts is None:
        options["model"] = pin_model(config.model)  # one commit for all of them
    with loading():
        from dongu.folds import folds_lines, train_folds
        from dongu.sweep import seeds_lines, train_seeds

    main = launch.rank() == 0
    console = Console(enabled=main, stream=sys.stderr if parsed.json else sys.stdout)
    if seeds is None:
        out, summary = train_folds(source, folds or 0, options, console, parts=parsed.parts)
    else:
        out, summary = train_seeds(source, seeds, options, console, parts=parsed.parts, soup=soup)
    if main and parsed.json:
        print_json("folds" if seeds is None else "seeds", {"path": str(out), **summary})
    elif main:
        console.lines((folds_lines if seeds is None else seeds_lines)(summary, out))


def train_options(parsed: argparse.Namespace, processes: int) -> dict[str, Any]:
    """The recipe's options, overridden by the flags; a per-device batch size becomes the whole one.

    Raises:
        UsageError: a recipe or a batch size that cannot be used, or no DATA.
    """
    options: dict[str, Any] = {}
    if parsed.config:
        from dongu.recipe_file import read_config

        options = read_config(parsed.config, with_parts=parsed.parts is not None)
    flags = {name: getattr(parsed, name) for name in RunConfig.model_fields}
    per_device, accumulation = parsed.per_device_train_batch_size, parsed.gradient_accumulation_steps
    if per_device is not None or accumulation is not None:
        if flags["batch_size"] is not None:
            hint = "give either it, or --per_device_train_batch_size and --gradient_accumulation_steps"
            raise UsageError("--batch-size is the whole batch already", hint=hint)
        counts = [
            whole_number(per_device, "per_device_train_batch_size", 8),
            whole_number(accumulation, "gradient_accumulation_steps", 1),
        ]
        flags["batch_size"] = counts[0] * counts[1] * processes
        if flags["micro_batch_size"] is None:
            flags["micro_batch_size"] = counts[0]
    options |= {name: value for name, value in flags.items() if value is not None}
    if options.get("out") is not None:
        from dongu.run.taken import numbered

        options["out"] = numbered(options["out"])
    if options.get("data") is None:
        raise UsageError("which data?", where="dongu train", hint="dongu train DATA: a folder, a file, or glue:mrpc")
    return options


def add_resume(parser: Parser) -> None:
    define(
        parser, _resume, description="Continue from the newest valid checkpoint, to the bytes of an uninterrupted run."
    )
    add_shared(parser, "folder", "data")
    parser.add_argument(
        "--allow", metavar="NAME", nargs="+", default=(), help="accept differences that change the result: " + ALLOWED
    )
    add_shared(parser, "--parts")
    options = parser.add_argument_group("options of `dongu train` to override from here on")
    add_options(options, (name for name in RunConfig.model_fields if name not in SET_ONCE), default_shown=False)
    add_shared(parser, "--json")


def _resume(parsed: argparse.Namespace) -> None:
    from dongu.model.place import resolve_model
    from dongu.run.folder import RunFolder

    options = {name: getattr(parsed, name) for name in RunConfig.model_fields if name not in SET_ONCE}
    given = {name: value for name, value in options.items() if value is not None}
    config = make_config({**RunFolder(parsed.folder).read_record()["options"], **given})
    require_extras(config)
    if parsed.parts is None:
        RunFolder(parsed.folder).check_parts(parsed.parts)
        resolve_model(config.model)
    from dongu.run.console import Console

    with loading():
        from dongu.training import resume

    console = Console(stream=sys.stderr if parsed.json else sys.stdout)
    result = resume(parsed.folder, parsed.data, allow=parsed.allow, console=console, parts=parsed.parts, **given)
    show_result(result, console, as_json=parsed.json)


def show_result(result: RunResult, console: Console, *, as_json: bool) -> None:
    if launch.rank() > 0:
        return
    if as_json:
        print_json("train", {"path": str(result.path), **result.results})
        return
    from dongu.judge.words import UNPROVEN
    from dongu.run.folder import RunFolder

    record = RunFolder(result.path).read_record()
    commands = [*(_to_use if result.advice in ("", UNPROVEN) else _to_try)(result, record)]
    wide = max(len(command) for command, what in commands if what)
    console.line()
    for i, (command, what) in enumerate(commands):
        name = f"{'' if i else 'next':<{NAMES}}"
        line = f"{name}{command:<{wide}}   {what}"
        console.line(line if what and len(line) <= WIDTH else f"{name}{command}")


def _to_use(result: RunResult, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Commands, and what each is for."""
    texts = '"a text"' if len(record["options"]["text_columns"]) == 1 else '"one text" "another text"'
    yield f"dongu predict {typed(result.path)} {texts}", ""
    yield f"dongu evaluate {typed(result.path)} OTHER.csv", "on other labelled rows"
    yield f"dongu compare {typed(result.path)} OTHER", "which of two runs is better"


def _to_try(result: RunResult, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The same for a run that is no better than a baseline: what to train instead."""
    from dongu.judge.words import LEARNT, MORE

    options, parts = record["options"], f" --parts {typed(file)}" if (file := record.get("parts_file")) else ""
    longer = f"--epochs {3 * options['epochs']:g}"
    if options["max_steps"]:
        longer = f"--max-steps {10 * options['max_steps']}"
    is_short = result.advice == MORE or (options["max_steps"] and result.advice != LEARNT)
    changes = longer if is_short else "--model OTHER"
    again = typed(result.path / "run.json")
    yield f"dongu train --config {again} --out {typed(result.path)}-{{n}} {changes}{parts}", ""
    yield f"{result.path}/report.html", "its hardest rows"
