"""`dongu evaluate` and `dongu predict`: what a trained model says to rows."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dongu import launch
from dongu.cli.options import MODEL_COLUMNS, add_options, add_reading, given_columns, reading_of
from dongu.cli.parser import Parser, add_shared, define, print_json, probability, refuse_existing, whole_number
from dongu.config import ABSTAIN_BELOW, RunConfig, make_config
from dongu.errors import DataError, InputError, UsageError
from dongu.text import counted, is_blank, printable, typed, wrapped
from dongu.waiting import idle

if TYPE_CHECKING:
    from dongu.use.saved import SavedModel

ANSWER_FILES = (".jsonl", ".csv", ".tsv")
THREADS = "OPENBLAS_NUM_THREADS"  # which NumPy reads when it is imported


def add_evaluate(parser: Parser) -> None:
    define(
        parser,
        _evaluate,
        description="Metrics of a run's best model on its own splits, or of any classifier on the rows of a file.",
    )
    add_shared(parser, "model")
    parser.add_argument("data", metavar="DATA", nargs="?", help="labelled rows (default: those of the run)")
    parser.add_argument("--split", default=None, help="one split only (default: all but train)")
    what = "find the probability below which no label should be given, so that this share of the given ones is right"
    parser.add_argument("--abstain", metavar="SHARE", help=what)
    add_options(parser, MODEL_COLUMNS)
    add_shared(parser, "--batch-size", "--device", "--json")
    add_reading(parser)


def _evaluate(parsed: argparse.Namespace) -> None:
    from dongu.data.sources import read_source

    saved = open_model(parsed)
    if parsed.data is None:
        examples = saved.own_examples(parsed.split)
    else:
        examples = saved.other_examples(read_source(parsed.data, saved.reading(reading_of(parsed))), parsed.split)
    if all(split.targets is None for split in examples.values()):
        where = next(iter(examples.values())).origin
        raise DataError("the labels are hidden", where=where, hint="`dongu predict` answers rows without labels")
    share = None
    if parsed.abstain is not None:
        share = make_config({"abstain": parsed.abstain, "task": saved.metrics.task}).abstain
    from dongu.judge.abstention import abstained, coverage, fit_threshold
    from dongu.judge.intervals import verdict
    from dongu.judge.words import Yardstick, coverage_table, judged, said_of
    from dongu.run.console import Console
    from dongu.use.known import open_classifier

    classifier = open_classifier(saved, [column for split in examples.values() for column in split.texts])
    evaluations = classifier.evaluate(examples)
    if not classifier.accelerator.is_main_process:
        return
    results = {
        split: verdict(evaluation, saved.metrics, saved.constant_answer, saved.config.seed)
        for split, evaluation in evaluations.items()
    }
    said: dict[str, Any] = {"bag_of_words": [] if parsed.data is not None else saved.bag_of_words()}
    if share is not None or saved.abstain_below:
        first = next(iter(evaluations.values()))
        threshold = saved.abstain_below if share is None else fit_threshold(first, share)
        rows = [] if threshold is None else [abstained(each, threshold) for each in evaluations.values()]
        said |= {ABSTAIN_BELOW: threshold, "abstained": rows}
    curves: dict[str, list[dict[str, float]]] = {}
    if saved.metrics.task == "single-label":
        curves = {split: list(coverage(evaluation)) for split, evaluation in evaluations.items()}
    if parsed.json:
        print_json("evaluate", {split: _flat(split, entries, said, curves) for split, entries in results.items()})
        return
    yardstick = Yardstick.of(saved.metrics, saved.constant_answer)
    console = Console()
    if parsed.data is not None and saved.learnt_from(parsed.data):
        console.lines(wrapped(f"the run was trained on rows of {parsed.data}: these figures are too good", "WARNING: "))
    rows_of = {name: len(evaluation.ids) for name, evaluation in evaluations.items()}
    console.lines(said_of({**results, **said}, rows_of, yardstick))
    console.lines(coverage_table(curves.get(split := judged(results), ()), split))
    if share is not None and said[ABSTAIN_BELOW] is not None:
        limit = f"--abstain-below {said[ABSTAIN_BELOW]:g}"
        model = typed(parsed.model)
        console.line(f"to abstain so: dongu predict {model} {limit}, or dongu serve {model} {limit}")


def _flat(
    split: str,
    entries: Mapping[str, Mapping[str, float]],
    said: Mapping[str, Any],
    curves: Mapping[str, list[dict[str, float]]],
) -> dict[str, Any]:
    """`accuracy`, `accuracy_low`, `accuracy_high`, `accuracy_baseline`, `accuracy_bag_of_words`: one number a key.

    Of classes also `coverage`, a list; and what abstention does on the split, as `results.json` has it.
    """
    from dongu.judge.words import bag_of_words

    found: dict[str, Any] = {
        name if key == "value" else f"{name}_{key}": number
        for name, entry in entries.items()
        for key, number in entry.items()
    }
    found |= {f"{name}_bag_of_words": value for name, value in bag_of_words(said, split).items()}
    if split in curves:
        found["coverage"] = curves[split]
    if ABSTAIN_BELOW in said:
        found[ABSTAIN_BELOW] = said[ABSTAIN_BELOW]
        found["abstained"] = next((row for row in said["abstained"] if row["split"] == split), None)
    return found


def add_predict(parser: Parser) -> None:
    define(
        parser,
        _predict,
        usage="dongu predict MODEL (TEXT ... | --data DATA) [options]",
        description="Labels and probabilities for texts, in input order. A model of pairs reads two texts at a time.",
        epilog="Without TEXT and --data, or with - as TEXT, lines of standard input are read; the two texts of a pair"
        " are on one line, with a tab between them.",
    )
    add_shared(parser, "model")
    parser.add_argument("texts", metavar="TEXT", nargs="*", default=[], help="texts")
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="rows: a file, or anything that `dongu train` reads, or a .txt with one text per line",
    )
    parser.add_argument("--split", default=None, help="the split of --data, if it has several")
    parser.add_argument("--out", metavar="FILE", type=Path, help="file to write: .jsonl, .csv or .tsv")
    parser.add_argument(
        "--glue",
        metavar="TASK",
        nargs="?",
        const="",
        help="write the file for GLUE's server, from the run's test split, to the folder --out (TASK: as in glue:TASK)",
    )
    add_shared(parser, "--abstain-below")
    add_options(parser, ["text_columns"])
    add_shared(parser, "--batch-size", "--device", "--json")
    add_reading(parser)


def open_model(parsed: argparse.Namespace) -> SavedModel:
    """The model that a command is given, with what else is given of it.

    Raises:
        InputError: there is no such model.
    """
    from dongu.use.saved import SavedModel

    batch_size = whole_number(parsed.batch_size, "batch-size", 32)
    below = probability(getattr(parsed, ABSTAIN_BELOW, None))
    return SavedModel.open(
        parsed.model, device=parsed.device, batch_size=batch_size, abstain_below=below, **given_columns(parsed)
    )


def _predict(parsed: argparse.Namespace) -> None:
    if parsed.texts == ["-"]:  # standard input, as for --data and for other programs
        parsed.texts = []
    if parsed.data is None and not parsed.texts and not launch.alone():
        return  # standard input is read once, and GLUE's files are written once
    if parsed.glue is not None:
        _submit(parsed)
        return
    _import_numpy()
    from dongu.data.sources import read_source
    from dongu.use.answer_file import beside, check_cells, json_of_row, write_answers

    refuse_existing(parsed.out)
    if parsed.out is not None and parsed.out.suffix not in ANSWER_FILES:
        raise UsageError(f"must end in {', '.join(ANSWER_FILES)}", where=f"--out {parsed.out}")
    if parsed.data is not None and parsed.texts:
        raise UsageError("give either TEXT or --data, not both")
    saved = open_model(parsed)
    texts: Sequence[Sequence[str]]
    pair = len(saved.text_columns) == 2
    lines = None if parsed.data is None else _lines_of(Path(parsed.data), saved.reading(reading_of(parsed)), pair=pair)
    if parsed.data is not None and lines is None:
        table = _one_split(read_source(parsed.data, saved.reading(reading_of(parsed))).splits, parsed)
        texts, given = saved.texts_of(table), table.columns
    else:
        if lines is not None:
            read = _rows_of_lines(lines, parsed.data, pair=pair)
        else:
            read = _typed(parsed.texts, pair=pair) if parsed.texts else _piped(pair=pair)
        texts = saved.columns_of(list(read))
        given = dict(zip(saved.text_columns or ("text",), texts, strict=True))
    if parsed.out is not None:
        check_cells(parsed.out, _rows_of(given))
    from dongu.use.few_texts import answers_without_torch
    from dongu.use.known import open_classifier

    # A file's answers have the same bits from one process, from several and in Python.
    if (answers := answers_without_torch(saved, texts) if parsed.data is None else None) is None:
        answers = open_classifier(saved, texts).answers(texts)
    if launch.rank() > 0:
        next(answers, None)  # its part of all rows
        return
    if parsed.out is None and not parsed.json:
        for answer, shown in zip(answers, zip(*texts, strict=True), strict=True):
            print(printable(_answer_line(answer, shown)))
        return
    as_table = parsed.out is not None and parsed.out.suffix != ".jsonl"
    rows = beside(_rows_of(given), answers, list(given), saved.metrics, table=as_table, say=_say)
    if parsed.out is None:
        for row in rows:
            print(json_of_row(row))
        return
    write_answers(parsed.out, rows)
    _say(f"{len(texts[0]):,} predictions in {parsed.out}")


def _import_numpy() -> None:
    """With one thread, unless this variable says how many: for the products of a few texts others only spin."""
    given = THREADS in os.environ
    os.environ.setdefault(THREADS, "1")
    import_module("numpy")
    if not given:
        del os.environ[THREADS]  # PyTorch may read it too


def _one_split(splits: Mapping[str, Any], parsed: argparse.Namespace) -> Any:
    if parsed.split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if parsed.split not in splits:
        what = "which split?" if parsed.split is None else f"there is no split `{parsed.split}`"
        raise UsageError(what, where=f"--data {parsed.data}", hint=f"--split is one of: {', '.join(splits)}")
    return splits[parsed.split]


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr)


def _rows_of(columns: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """A file's own columns, its own id among them; without one, rows are counted from 0."""
    for number, cells in enumerate(zip(*columns.values(), strict=True)):
        yield {"id": number, **dict(zip(columns, cells, strict=True))}


def _submit(parsed: argparse.Namespace) -> None:
    from dongu.use.submission import write_submission

    if parsed.out is None or parsed.data is not None or parsed.texts:
        raise UsageError("the run's own test split goes to a folder", where="--glue", hint="give --out FOLDER alone")
    for path in write_submission(parsed.model, parsed.out, parsed.glue or None):
        print(f"wrote {path}", file=sys.stderr)


def _typed(texts: Sequence[str], *, pair: bool) -> Iterator[tuple[str, ...]]:
    from dongu.data.readers import SUFFIXES

    for text in texts:
        if Path(text).suffix in SUFFIXES and Path(text).is_file():
            raise UsageError(f"{text} is a file", hint=f"to predict for its rows: --data {text}")
    if pair and len(texts) % 2:
        hint = "give them in pairs, each text in quotes"
        raise UsageError(f"the model compares two texts, and {counted(len(texts), 'was', 'were')} given", hint=hint)
    yield from (tuple(texts[i : i + 1 + pair]) for i in range(0, len(texts), 1 + pair))


def _lines_of(path: Path, config: RunConfig, *, pair: bool) -> list[str] | None:
    """The lines of a .txt of texts alone; None where --data is anything else, a file of fastText too.

    Nor are they texts where each has a tab, and the model reads no pairs: the cells of a table, which --data refuses.
    """
    from dongu.data.fasttext import MARK
    from dongu.data.readers import lines_of_text

    if path.suffix.lower() != ".txt" or not path.is_file():
        return None
    try:
        lines = lines_of_text(path, config)
    except OSError:  # reading it as rows says what is wrong
        return None
    cells = not pair and len(lines) > 1 and all("\t" in line for line in lines)
    return None if lines[0].startswith(MARK) or cells else lines


def _piped(*, pair: bool) -> Iterator[tuple[str, ...]]:
    if sys.stdin.isatty():
        print("texts, one a line; Ctrl-D ends", file=sys.stderr)
    try:
        with idle():
            text = sys.stdin.buffer.read().decode("utf-8-sig")  # what Windows writes has a byte-order mark
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 ({error})", where="standard input") from error
    # Not splitlines(): it would also cut a text at U+2028 and its like.
    lines = text.removesuffix("\n").split("\n") if text else []
    yield from _rows_of_lines((line.removesuffix("\r") for line in lines), "standard input", pair=pair)


def _rows_of_lines(lines: Iterable[str], where: str, *, pair: bool) -> Iterator[tuple[str, ...]]:
    for number, line in enumerate(lines, start=1):
        texts = tuple(line.split("\t")) if pair else (line,)
        if len(texts) != 1 + pair or any(map(is_blank, texts)):
            form = "two texts with a tab between them" if pair else "a text"
            what = "is empty" if is_blank(line) else f"is not {form}"
            hint = f"each line is {form}; a file of rows (.csv, .jsonl, …) goes to --data"
            raise InputError(what, where=f"{where}:{number}", hint=hint)
        yield texts


def _answer_line(row: dict[str, Any], texts: Sequence[str]) -> str:
    text = " | ".join(texts).replace("\n", " ")  # a line an answer
    if "number" in row:  # which a class of a scale is the nearest to
        return f"{row['prediction']}\t{row['number']:.4f}\t{text}"
    if "probabilities" not in row:
        return f"{row['prediction']:.4f}\t{text}"
    if row["prediction"] is None:  # it abstains; how sure it would have been
        return f"-\t{max(row['probabilities'].values()):.4f}\t{text}"
    from dongu.data.labels import labels_cell  # not for a number

    several = isinstance(row["prediction"], list)
    given = row["prediction"] if several else [row["prediction"]]
    sure = [f"{row['probabilities'][name]:.4f}" for name in given]
    said = labels_cell(given, row["probabilities"]) if several and given else "".join(given)
    return f"{said or '-'}\t{'|'.join(sure) or '-'}\t{text}"
