"""`dongu tune`: a search for options, and an honest account of what it gained."""

from __future__ import annotations

import argparse
import sys

from dongu.cli.options import add_options
from dongu.cli.parser import add_shared, define, print_answer, real_number, whole_number
from dongu.cli.train import train_options
from dongu.config import RunConfig, check_metric, make_config
from dongu.errors import install_hint
from dongu.extras import require_extras, require_packages
from dongu.space import DEFAULT_SPACE, read_space
from dongu.waiting import loading

EPILOG = """\
examples:
  dongu tune reviews.csv --model minilm --trials 20 --minutes 30
  dongu tune reviews.csv --space learning_rate=1e-5..5e-4:log --space batch_size=8,16,32
the same command continues a stopped search; started while another is running, it shares the trials."""


def add_tune(parser: argparse.ArgumentParser) -> None:
    define(
        parser,
        _run,
        usage="dongu tune DATA [options]",
        description="Search for better options: each trial is a run, scored on validation, and stopped early if others"
        " were better. The best options and the defaults are then trained on the same new seeds and compared on test.",
        epilog=EPILOG,
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("data", metavar="DATA", nargs="?", help=RunConfig.model_fields["data"].description)
    parser.add_argument("--trials", metavar="N", help="trials of the search, over all processes (20)")
    parser.add_argument("--minutes", metavar="M", help="start no new trial after this many minutes (default: no limit)")
    parser.add_argument(
        "--space",
        metavar="NAME=VALUES",
        action="append",
        default=[],
        help="an option to search: NAME=LOW..HIGH, NAME=LOW..HIGH:log or NAME=A,B,C; repeat it for several options"
        f" ({' '.join(DEFAULT_SPACE)}, without those that are given)",
    )
    parser.add_argument("--seeds", metavar="N", help="seeds to train the winner and the default options with (3)")
    add_shared(parser, "--config", "--parts", "--json")
    fixed = parser.add_argument_group("options of `dongu train`, the same for all trials")
    add_options(fixed, (name for name in RunConfig.model_fields if name != "data"))
    parser.set_defaults(per_device_train_batch_size=None, gradient_accumulation_steps=None)


def _run(parsed: argparse.Namespace) -> None:
    options = train_options(parsed, processes=1)
    trials, seeds = whole_number(parsed.trials, "trials", 20), whole_number(parsed.seeds, "seeds", 3)
    given = "inf" if parsed.minutes is None else parsed.minutes
    minutes = real_number(given, "--minutes", "a number above 0", lambda number: number > 0)
    read_space(parsed.space, options)
    config = make_config(options)
    require_extras(config)
    require_packages("optuna", where="dongu tune", hint=install_hint("tune"))
    if parsed.parts is None:
        check_metric(config.metric)
    from dongu.data.sources import read_source
    from dongu.model.place import pin_model
    from dongu.run.console import Console

    with loading():
        from dongu.page.tuned import gain_lines
        from dongu.tune import tune

    source = read_source(options["data"], config)
    if parsed.parts is None and "model" in options:
        options["model"] = pin_model(config.model)  # one commit for all trials
    console = Console(stream=sys.stderr if parsed.json else sys.stdout)
    out, content = tune(
        source, options, console, trials=trials, minutes=minutes, space=parsed.space, seeds=seeds, parts=parsed.parts
    )
    print_answer(parsed, {"path": str(out), **content}, gain_lines(content, out))
