"""The command line: parse, call, print. Nothing here imports torch before a command computes."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from dongu import __version__
from dongu.config import ALIASES, RunConfig, did_you_mean, make_config, option_flag, read_config
from dongu.errors import DonguError, InputError, StoppedError, UsageError
from dongu.run.signals import EXIT_CODES, Stop, StopSignals
from dongu.text import counted, is_blank, printable

if TYPE_CHECKING:
    from dongu.run.console import Console
    from dongu.training import RunResult

DATA_FILES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
ANSWER_FILES = (".jsonl", ".csv", ".tsv")
SEVERAL = {"text_columns": ("A", "B"), "class_weights": ("NAME=NUMBER", "...")}  # options of more than one value
SET_ONCE = ("data", "out", "strict")  # options that a run that goes on cannot have otherwise
INSPECTED = ("model", "text_columns", "label_column", "task", "max_length", "batch_size", "seed")
ALLOWED = "data, versions, hardware, or an option by its name (learning-rate)"
LAUNCHERS = """\
several processes, nothing else changed:
  torchrun --nproc-per-node 2 -m dongu train DATA ...
  accelerate launch -m dongu train DATA ..."""


class Parser(argparse.ArgumentParser):
    """argparse with errors of our kind: one tree, a suggestion, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"`{self.prog} --help` lists the options")


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; what went wrong goes to standard error."""
    debug = "--debug" in arguments
    _speak_utf8()
    try:
        with StopSignals() as signals, signals.at_once():  # a run that has begun waits for the end of its step
            parsed, unknown = make_parser().parse_known_args([item for item in arguments if item != "--debug"])
            if unknown:
                raise UsageError(f"there is no option {unknown[0]}", hint=_suggest(parsed.command, unknown[0]))
            command: Callable[[argparse.Namespace], int | None] = parsed.run
            code = command(parsed) or 0
        _leave_group()
        return code
    except DonguError as error:
        return _fail(error, error.exit_code, debug=debug)
    except KeyboardInterrupt as stop:
        received = stop.number if isinstance(stop, Stop) else signal.SIGINT
        more = " during the set-up; nothing was lost" if {"train", "resume"} & {*arguments[:2]} else ""
        print(f"dongu: stopped by {received.name}{more}", file=sys.stderr)
        return EXIT_CODES[received]
    except BrokenPipeError:
        # The reader of a pipe (`| head`) has enough; Python would complain once more while it closes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the last resort: a bug, said as one
        what = f"internal error: {type(error).__name__}: {error}"
        hint = "run it again with --debug for the traceback, and please report it"
        return _fail(DonguError(what, hint=hint), 70, debug=debug)


def _leave_group() -> None:
    """Take leave of the other processes of a launcher: one that just ends may abort while its threads still talk."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _speak_utf8() -> None:
    """Texts are UTF-8, whatever the locale says: under LC_ALL=C the first `·` would end the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")


def make_parser() -> Parser:
    """All commands and their options."""
    parser = Parser(
        prog="dongu",
        description="A full training loop for transformer text classifiers.",
        epilog="`dongu COMMAND --help` tells the options of one. --debug shows the traceback of an error.",
    )
    parser.add_argument("--version", action="version", version=f"dongu {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for add_command in (_add_train, _add_resume, _add_evaluate, _add_predict, _add_inspect, _add_verify, _add_demo):
        add_command(commands)
    return parser


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
        "train",
        usage="dongu train DATA [options]",
        help="fine-tune a model and write a run folder",
        description="Fine-tune a sequence classifier and write a run folder.",
        epilog=LAUNCHERS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    train.add_argument("data", metavar="DATA", nargs="?", help=RunConfig.model_fields["data"].description)
    train.add_argument("--config", metavar="FILE", type=Path, help="recipe: a TOML file, or a run's run.json")
    for name in RunConfig.model_fields:
        if name != "data":
            _add_option(train, name)
    train.add_argument(
        "--seeds", metavar="N", help="train N times, with the seeds from --seed on, in OUT/seed-42 and so on"
    )
    for flag in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        train.add_argument(*_spellings(flag), dest=flag, default=None, help=argparse.SUPPRESS)
    train.add_argument("--json", action="store_true", help="print results.json on standard output at the end")
    train.set_defaults(run=_train)


def _add_resume(commands: Any) -> None:
    resume = commands.add_parser(
        "resume",
        help="go on with a run that was stopped",
        description="Go on from the newest valid checkpoint: the run ends in the bytes it would have had.",
        allow_abbrev=False,
    )
    resume.add_argument("folder", metavar="RUN", type=Path, help="run folder")
    resume.add_argument("data", metavar="DATA", nargs="?", help="where the data are now (default: where they were)")
    resume.add_argument(
        "--allow", metavar="NAME", nargs="+", default=(), help="what may differ and change the result: " + ALLOWED
    )
    options = resume.add_argument_group("options of `dongu train` that shall be others from here on")
    for name in RunConfig.model_fields:
        if name not in SET_ONCE:
            _add_option(options, name, default_shown=False)
    resume.add_argument("--json", action="store_true", help="print results.json on standard output at the end")
    resume.set_defaults(run=_resume)


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="metrics of a run on its own splits or on other data",
        description="Metrics of a run's best model on its own splits, or on the rows of another file.",
        allow_abbrev=False,
    )
    evaluate.add_argument("folder", metavar="RUN", type=Path, help="run folder")
    evaluate.add_argument("data", metavar="DATA", nargs="?", help="other data (default: the run's own)")
    evaluate.add_argument("--split", default=None, help="one split only (default: all but train)")
    _add_compute_options(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _add_predict(commands: Any) -> None:
    predict = commands.add_parser(
        "predict",
        help="labels and probabilities for texts, in input order",
        description="Labels and probabilities for texts, in input order. A model of pairs takes the texts two by two.",
        epilog="Without TEXT and --data, lines of standard input are read; the two texts of a pair stand on one"
        " line, with a tab between them.",
        allow_abbrev=False,
    )
    predict.add_argument("folder", metavar="RUN", type=Path, help="run folder")
    predict.add_argument("texts", metavar="TEXT", nargs="*", help="texts")
    predict.add_argument("--data", metavar="FILE", type=Path, help="file of rows: csv, tsv, json, jsonl or parquet")
    predict.add_argument("--out", metavar="FILE", type=Path, help="file to write: .jsonl, .csv or .tsv")
    predict.add_argument(
        "--glue",
        metavar="TASK",
        nargs="?",
        const="",
        help="write what GLUE's server wants of the run's test split to the folder --out (TASK: that of glue:TASK)",
    )
    _add_compute_options(predict)
    predict.set_defaults(run=_predict)


def _add_inspect(commands: Any) -> None:
    inspect = commands.add_parser(
        "inspect",
        help="what is wrong with a data set, what it does to the result, what to do",
        description="Looks at a data set as `dongu train` would read it, and at what the result would suffer from:"
        " copies, leaks between the splits, contradictions, labels, lengths.",
        epilog="Exit code 2 where `dongu train` would refuse the data.",
        allow_abbrev=False,
    )
    inspect.add_argument("data", metavar="DATA", help=RunConfig.model_fields["data"].description)
    for name in INSPECTED:
        _add_option(inspect, name)
    inspect.add_argument("--strict", action="store_true", help="exit code 2 where there is a warning")
    inspect.set_defaults(run=_inspect)


def _add_verify(commands: Any) -> None:
    verify = commands.add_parser(
        "verify",
        help="prove on this machine that a run holds what was written and comes out again",
        description="Re-hashes what the run holds, replays a stretch between two checkpoints, evaluates the saved model"
        " again, and splits an update in several ways: one line a proof, exit code 0 if all hold, else 1.",
        allow_abbrev=False,
    )
    verify.add_argument("folder", metavar="RUN", type=Path, help="run folder")
    verify.add_argument("data", metavar="DATA", nargs="?", help="where the data are now (default: where they were)")
    verify.add_argument("--json", action="store_true", help="JSON on standard output, one line a proof")
    verify.set_defaults(run=_verify)


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="the main job on an embedded default: no network, about two minutes",
        description="Writes a paraphrase data set, fine-tunes the packaged MiniLM on it, and predicts.",
        allow_abbrev=False,
    )
    demo.add_argument("--out", metavar="RUN", type=Path, default=None, help="run folder (default: runs/demo)")
    demo.add_argument("--seed", type=int, default=42, help="decides the data and the run (42)")
    demo.set_defaults(run=_demo)


def _add_option(parser: Any, name: str, *, default_shown: bool = True) -> None:
    field = RunConfig.model_fields[name]
    default = field.default if default_shown else None
    if field.annotation is bool:
        flags = [spelling for flag in _spellings(name) for spelling in (flag, flag.replace("--", "--no-", 1))]
        parser.add_argument(flags[0], dest=name, action="store_true", default=None, help=field.description)
        for flag in flags[1:]:
            action = "store_false" if flag.startswith("--no-") else "store_true"
            parser.add_argument(flag, dest=name, action=action, default=None, help=argparse.SUPPRESS)
        return
    shown = "" if default is None else f" ({default:g})" if isinstance(default, float) else f" ({default})"
    choices = [value for item in (field.annotation, *get_args(field.annotation)) for value in get_args(item)]
    names = [value for value in choices if isinstance(value, str)]
    extra = f": {', '.join(names)}" if len(names) > 3 else ""
    common: dict[str, Any] = {"dest": name, "default": None, "nargs": "+" if name in SEVERAL else None}
    common["metavar"] = "{" + ",".join(names) + "}" if 0 < len(names) <= 3 else name.rsplit("_", 1)[-1].upper()
    common["metavar"] = SEVERAL.get(name, common["metavar"])
    main, *others = _spellings(name)
    others += [flag for alias, option in ALIASES.items() if option == name for flag in _spellings(alias)]
    short = ["--lr"] if name == "learning_rate" else []
    parser.add_argument(main, *short, help=f"{field.description}{extra}{shown}", **common)
    if others := [flag for flag in others if flag not in short]:
        parser.add_argument(*others, help=argparse.SUPPRESS, **common)  # accepted, not advertised


def _spellings(name: str) -> list[str]:
    """`--batch-size`, and `--batch_size` for hands that are used to it."""
    return list(dict.fromkeys([option_flag(name), f"--{name}"]))


def _add_compute_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch-size", default="32", metavar="N", help="rows a forward pass (32)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (auto)")
    parser.add_argument("--json", action="store_true", help="JSON on standard output")


def _train(parsed: argparse.Namespace) -> None:
    options = train_options(parsed, processes=int(os.environ.get("WORLD_SIZE", "1")))
    count = None if parsed.seeds is None else _count(parsed.seeds, "seeds", 1)
    config = make_config(options)  # first whatever may be wrong and needs no torch, which takes seconds to load
    from dongu.data.examples import read_examples
    from dongu.data.sources import read_source
    from dongu.data.weights import resolve_weights
    from dongu.run.folder import RunFolder

    if count is not None:
        _train_seeds(options, count, as_json=parsed.json)
        return
    if config.out is not None:
        RunFolder(Path(config.out)).refuse_if_taken()
    data = read_examples(read_source(options.pop("data")), config)
    resolve_weights(config, data)  # a class by a name that there is not
    from dongu.run.console import Console
    from dongu.training import train

    console = Console(stream=sys.stderr if parsed.json else sys.stdout)
    _show_result(train(data, console=console, **options), console, as_json=parsed.json)


def _train_seeds(options: dict[str, Any], count: int, *, as_json: bool) -> None:
    from dongu.data.sources import read_source

    source = read_source(options["data"])
    from dongu.run.console import Console
    from dongu.run.folder import dump_json
    from dongu.seeds import summary_table, train_seeds

    main = os.environ.get("RANK", "0") == "0"
    console = Console(enabled=main, stream=sys.stderr if as_json else sys.stdout)
    out, summary = train_seeds(source, count, options, console)
    if not main:
        return
    if as_json:
        print(dump_json(summary))
        return
    console.line(f"{counted(len(summary['seeds']), 'seed')}: mean ± standard deviation, and range")
    for line in summary_table(summary):
        console.line(line)
    console.line(f"best by {summary['metric']} on validation: {out / summary['best']}; all figures in {out}/seeds.json")


def _resume(parsed: argparse.Namespace) -> None:
    from dongu.run.folder import RunFolder

    options = {name: getattr(parsed, name) for name in RunConfig.model_fields if name not in SET_ONCE}
    given = {name: value for name, value in options.items() if value is not None}
    make_config({**RunFolder(parsed.folder).read_record()["options"], **given})
    from dongu.run.console import Console
    from dongu.training import resume

    console = Console(stream=sys.stderr if parsed.json else sys.stdout)
    result = resume(parsed.folder, parsed.data, allow=parsed.allow, console=console, **given)
    _show_result(result, console, as_json=parsed.json)


def _show_result(result: RunResult, console: Console, *, as_json: bool) -> None:
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        from dongu.run.folder import dump_json

        print(dump_json(result.results))
        return
    console.line()
    console.line(f"next:  dongu predict {result.path} {_example_texts(result.path)}")
    console.line(f"       dongu evaluate {result.path}")
    console.line(f"       dongu train --config {result.path}/run.json --out {result.path}-again")


def train_options(parsed: argparse.Namespace, processes: int) -> dict[str, Any]:
    """The recipe's options, overridden by the flags; a per-device batch size becomes the whole one.

    Raises:
        UsageError: a recipe or a batch size that cannot be used, or no DATA.
    """
    options = read_config(parsed.config) if parsed.config else {}
    flags = {name: getattr(parsed, name) for name in RunConfig.model_fields}
    per_device, accumulation = parsed.per_device_train_batch_size, parsed.gradient_accumulation_steps
    if per_device is not None or accumulation is not None:
        if flags["batch_size"] is not None:
            raise UsageError(
                "--batch-size is the whole batch already",
                hint="give either it, or --per_device_train_batch_size and --gradient_accumulation_steps",
            )
        counts = [
            _count(per_device, "per_device_train_batch_size", 8),
            _count(accumulation, "gradient_accumulation_steps", 1),
        ]
        flags["batch_size"] = counts[0] * counts[1] * processes
        if flags["micro_batch_size"] is None:
            flags["micro_batch_size"] = counts[0]
    options |= {name: value for name, value in flags.items() if value is not None}
    if options.get("data") is None:
        raise UsageError("which data?", where="dongu train", hint="dongu train DATA: a folder, a file, or glue:mrpc")
    return options


def _evaluate(parsed: argparse.Namespace) -> None:
    from dongu.data.sources import read_source
    from dongu.run.folder import RunFolder

    batch_size = _count(parsed.batch_size, "batch-size", 32)
    RunFolder(parsed.folder).read_record()
    source = None if parsed.data is None else read_source(parsed.data)
    from dongu.confidence import verdict
    from dongu.results.predict import load
    from dongu.run.console import results_table
    from dongu.run.folder import dump_json

    classifier = load(parsed.folder, device=parsed.device, batch_size=batch_size)
    evaluations = (
        classifier.evaluate_own(parsed.split) if source is None else classifier.evaluate_other(source, parsed.split)
    )
    if not classifier.accelerator.is_main_process:
        return
    results = {
        split: verdict(evaluation, classifier.metrics, classifier.constant_answer, classifier.config.seed)
        for split, evaluation in evaluations.items()
    }
    if parsed.json:
        print(dump_json({split: _flat(entries) for split, entries in results.items()}))
        return
    for line in results_table(results, classifier.metrics.task):
        print(printable(line))


def _flat(entries: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """`accuracy`, `accuracy_low`, `accuracy_high`, `accuracy_baseline`: one number a key."""
    return {
        name if key == "value" else f"{name}_{key}": number
        for name, entry in entries.items()
        for key, number in entry.items()
    }


def _predict(parsed: argparse.Namespace) -> None:
    from dongu.data.columns import read_texts
    from dongu.data.readers import read_file
    from dongu.run.folder import RunFolder

    if parsed.glue is not None:
        _hand_in(parsed)
        return
    if parsed.out is not None and parsed.out.exists():
        raise UsageError("the file exists", where=f"--out {parsed.out}", hint="remove it or choose another name")
    if parsed.out is not None and parsed.out.suffix not in ANSWER_FILES:
        raise UsageError(f"must end in {', '.join(ANSWER_FILES)}", where=f"--out {parsed.out}")
    if parsed.data is not None and parsed.texts:
        raise UsageError("give either TEXT or --data, not both")
    batch_size = _count(parsed.batch_size, "batch-size", 32)
    RunFolder(parsed.folder).read_record()
    table = None if parsed.data is None else read_file(parsed.data)
    from dongu.results.predict import load
    from dongu.results.predictions import write_answers

    classifier = load(parsed.folder, device=parsed.device, batch_size=batch_size)
    pair = len(classifier.text_columns) == 2
    if table is not None:
        texts = list(zip(*read_texts(table, classifier.text_columns), strict=True))
        answers = classifier.predict_table(table)
        inputs = [
            {name: "" if cell is None else str(cell) for name, cell in zip(table.columns, cells, strict=True)}
            for cells in zip(*table.columns.values(), strict=True)
        ]
    else:
        texts = list(_typed(parsed.texts, pair=pair) if parsed.texts else _piped(pair=pair))
        answers = classifier.predict([row if pair else row[0] for row in texts])
        inputs = [dict(zip(classifier.text_columns, row, strict=True)) for row in texts]
    # A file's own columns come back, its own id among them; without one, rows are counted from 0.
    rows = [{"id": i, **given, **answer} for i, (given, answer) in enumerate(zip(inputs, answers, strict=True))]
    if parsed.out is not None:
        write_answers(parsed.out, rows)
        print(f"{len(rows):,} predictions in {parsed.out}", file=sys.stderr)
    elif parsed.json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    else:
        for row, given in zip(rows, texts, strict=True):
            print(printable(_answer_line(row, given)))


def _hand_in(parsed: argparse.Namespace) -> None:
    from dongu.results.submission import write_submission

    if parsed.out is None or parsed.data is not None or parsed.texts:
        raise UsageError("the run's own test split goes to a folder", where="--glue", hint="give --out FOLDER alone")
    for path in write_submission(parsed.folder, parsed.out, parsed.glue or None):
        print(f"wrote {path}", file=sys.stderr)


def _inspect(parsed: argparse.Namespace) -> None:
    from dongu.config import make_config

    config = make_config({"data": parsed.data, **{name: getattr(parsed, name) for name in INSPECTED}})
    from dongu.data.sources import read_source
    from dongu.doctor.checkup import inspect, refuse_findings
    from dongu.doctor.words import report
    from dongu.text import printable

    checkup = inspect(read_source(parsed.data), config)
    for line in report(checkup, config):
        print(printable(line))
    refuse_findings(checkup.findings, parsed.data, strict=parsed.strict)


def _verify(parsed: argparse.Namespace) -> int:
    from dongu.run.folder import RunFolder

    RunFolder(parsed.folder).read_record()
    from dongu.results.verify import verify

    holds = True
    for proof in verify(parsed.folder, parsed.data):
        holds = holds and proof.holds
        if os.environ.get("RANK", "0") == "0":
            line = f"{'ok  ' if proof.holds else 'FAIL'}  {proof.name:<13} {proof.text}"
            print(json.dumps(vars(proof), ensure_ascii=False) if parsed.json else line, flush=True)
    return 0 if holds else 1


def _demo(parsed: argparse.Namespace) -> None:
    from dongu.demo.run import run_demo

    run_demo(parsed.out, parsed.seed)


def _typed(texts: Sequence[str], *, pair: bool) -> Iterator[tuple[str, ...]]:
    for text in texts:
        if Path(text).suffix in DATA_FILES and Path(text).is_file():
            raise UsageError(f"{text} is a file", hint=f"to predict for its rows: --data {text}")
    if pair and len(texts) % 2:
        raise UsageError(
            f"the model compares two texts, and {len(texts)} were given",
            hint="give them two by two, each in quotes",
        )
    yield from (tuple(texts[i : i + 1 + pair]) for i in range(0, len(texts), 1 + pair))


def _piped(*, pair: bool) -> Iterator[tuple[str, ...]]:
    if sys.stdin.isatty():
        print("texts, one a line; Ctrl-D ends", file=sys.stderr)
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 ({error})", where="standard input") from error
    # Not splitlines(): it would also cut a text at U+2028 and its like.
    for number, raw in enumerate(text.removesuffix("\n").split("\n") if text else [], start=1):
        line = raw.removesuffix("\r")
        texts = tuple(line.split("\t")) if pair else (line,)
        if len(texts) != 1 + pair or any(map(is_blank, texts)):
            form = "two texts with a tab between them" if pair else "a text"
            what = "is empty" if is_blank(line) else f"is not {form}"
            hint = f"each line is {form}; a file of rows goes to --data"
            raise InputError(what, where=f"standard input:{number}", hint=hint)
        yield texts


def _answer_line(row: dict[str, Any], texts: Sequence[str]) -> str:
    text = " | ".join(texts).replace("\n", " ")  # a line an answer
    if "probabilities" not in row:
        return f"{row['prediction']:.4f}\t{text}"
    given = row["prediction"] if isinstance(row["prediction"], list) else [row["prediction"]]
    sure = [f"{row['probabilities'][name]:.4f}" for name in given]
    return f"{'|'.join(given) or '-'}\t{'|'.join(sure) or '-'}\t{text}"


def _example_texts(path: Path) -> str:
    columns = json.loads((path / "run.json").read_text(encoding="utf-8"))["options"]["text_columns"]
    return '"a text"' if len(columns) == 1 else '"one text" "another text"'


def _count(value: str | None, name: str, default: int) -> int:
    if value is None:
        return default
    if not value.isdecimal() or int(value) < 1:
        raise UsageError(f"must be a whole number of at least 1, got `{value}`", where=f"--{name}")
    return int(value)


def _suggest(command: str | None, flag: str) -> str:
    if command == "train":
        return did_you_mean(flag.lstrip("-").split("=")[0])
    close = get_close_matches(
        flag,
        ["--data", "--out", "--glue", "--split", "--batch-size", "--device", "--json", "--seed", "--strict"],
        n=1,
    )
    return f"did you mean {close[0]}?" if close else f"`dongu {command} --help` lists the options"


def _fail(error: DonguError, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    if os.environ.get("RANK", "0") == "0":  # each process of a launcher fails alike: one says so
        kind = "" if isinstance(error, StoppedError) else "error: "
        print(f"dongu: {kind}{error}", file=sys.stderr)
    return code
