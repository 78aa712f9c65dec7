"""One recipe with several seeds: a run each, and how far their results lie apart."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from dongu import launch
from dongu.config import LOWER_IS_BETTER, SET_ONCE, RunConfig, make_config, option_flag
from dongu.data.examples import digest_of, read_examples
from dongu.data.sources import Source
from dongu.doctor.overview import describe_data
from dongu.errors import StoppedError, UsageError
from dongu.files import is_leftover
from dongu.judge.calibration import NO_TEMPERATURE
from dongu.judge.words import abstention, judged, splits_of
from dongu.own import Own, take_own
from dongu.relocation import found_again, is_same_place, relative_places
from dongu.run.console import Console
from dongu.run.folder import RunFolder
from dongu.run.identity import HARMLESS, options_of, other_parts
from dongu.run.several import SEEDS, SOUP_FOLDER
from dongu.soup import check_soup, make_soup
from dongu.text import counted, decimals, fields
from dongu.training import resume, train

_NO_SPLITS = {"options", "relative_places", "soup"}  # of seeds.json, which are objects too


def train_seeds(
    source: Source,
    count: int,
    options: Mapping[str, Any],
    console: Console,
    *,
    parts: Path | None = None,
    soup: bool = False,
) -> tuple[Path, dict[str, Any]]:
    """Train with `count` seeds from `seed` on, each in a run folder OUT/seed-N, and write OUT/seeds.json.

    What an earlier call has finished is kept, what was cut off goes on. With `soup` the mean of the weights is kept in
    OUT/soup, where validation says that it is no worse than the best run.

    Returns:
        OUT, and what seeds.json holds.

    Raises:
        UsageError: OUT holds something else, or runs with other options or of other rows; nothing was changed.
        InputError, LockedError, NonFiniteError, StorageError, WorkerError, StoppedError: as `train`.
    """
    options = dict(options)
    own = take_own(options, parts)  # the plain values among them are options
    first = make_config(options)
    runs = {f"seed-{seed}": make_config({**options, "seed": seed}) for seed in range(first.seed, first.seed + count)}
    if soup:
        check_soup(source, [*runs.values()])
    out, summary = train_runs(source, "seed", runs, options, console, parts=parts, summary=SEEDS, summarize=summarize)
    if soup:
        folders = {name: RunFolder(out / name) for name in runs}
        written = RunFolder(out).read_json(SEEDS)
        summary = {**written, "soup": make_soup(out, folders, source, summary["metric"], own.metrics)}
        RunFolder(out).write_json(SEEDS, summary)
    return out, summary


def train_runs(
    source: Source,
    option: str,
    runs: Mapping[str, RunConfig],
    options: Mapping[str, Any],
    console: Console,
    *,
    parts: Path | None,
    summary: str,
    summarize: Callable[[Mapping[str, RunFolder], RunConfig], dict[str, Any]],
) -> tuple[Path, dict[str, Any]]:
    """Train the runs of one recipe that differ in one option, each in a folder of OUT, and write what they came to.

    The `runs` are given by the names of their folders, with the `options` of the recipe. After each run the file
    `summary` is written in OUT; what it holds, `summarize` makes of the folders of the finished runs by name, and of
    the recipe.
    """
    first = next(iter(runs.values()))
    out = Path(first.out or f"runs/{source.name}")
    folders = {name: RunFolder(out / name) for name in runs}
    done = {name: folder for name, folder in folders.items() if folder.record.exists() and folder.is_finished}
    own_parts = take_own(dict(options), parts)
    shared = shared_by(first, {option}, own_parts)
    _refuse_other_use(out, shared, own_parts.file, option, summary)
    for name, folder in folders.items():
        refuse_other_rows(folder, source, runs[name])
    main = launch.rank() == 0
    console = Console(enabled=console.enabled, stream=console.stream, several=True)
    given = {name: value for name, value in options.items() if name not in {*SET_ONCE, option}}

    def summed() -> dict[str, Any]:
        finished = {name: done[name] for name in runs if name in done}
        content = {"options": shared, "relative_places": relative_places(shared, out), **summarize(finished, first)}
        RunFolder(out).keep_json(summary, content)
        return content

    content: dict[str, Any] = {}
    for number, (name, config) in enumerate(runs.items(), 1):
        folder, said = folders[name], f"{option} {getattr(config, option)}"
        if name in done:
            console.line(f"{said} is finished, in {folder.path}")
            continue
        which = said if option == "fold" else f"{said}, {number} of {len(runs)}"  # a fold says 1/5
        console.next_run()
        console.line(f"{which}, in {folder.path}")
        own = {option: getattr(config, option), "strict": first.strict, "out": str(folder.path)}
        try:
            data = read_examples(source, config)  # its own rows held out
            if folder.record.exists():
                resume(folder.path, data, console=console, parts=parts, **given)
            else:
                console.fields(describe_data(data))
                train(data, console=console, parts=parts, **{**given, **own})
            done[name] = folder
        except StoppedError as error:
            error.hint = "its state is saved; the same command continues it"
            raise
        finally:
            if main and folder.path.exists():
                content = summed()
    return out, content or (summed() if main else {})


def summarize(folders: Mapping[str, RunFolder], _: RunConfig) -> dict[str, Any]:
    """Mean, standard deviation (of a sample) and range of every metric over the finished runs, and the best of them."""
    results = [folder.read_results() for folder in folders.values()]
    summary: dict[str, Any] = {"seeds": [int(name.removeprefix("seed-")) for name in folders]}
    if not results:
        return summary
    metric = results[0]["metric"]
    values = [result["validation"][metric]["value"] for result in results]
    best = min(values) if metric in LOWER_IS_BETTER else max(values)
    summary |= {"metric": metric, "best": [*folders][values.index(best)]}
    for split, metrics in splits_of(results[0]).items():
        summary[split] = {name: spread_of([result[split][name]["value"] for result in results]) for name in metrics}
    return summary


def seeds_lines(summary: Mapping[str, Any], out: Path) -> Iterator[str]:
    """One line a metric and split: mean, standard deviation, range; what became of the soup, and which run is best."""
    several = len(summary["seeds"]) > 1
    yield counted(len(summary["seeds"]), "seed") + (": mean ± standard deviation, and range" if several else "")
    splits = {name: entries for name, entries in splits_of(summary).items() if name not in _NO_SPLITS}
    for split, entries in splits.items():
        for name, spread in entries.items():
            mean, deviation, low, high = (decimals(spread[key]) for key in ("mean", "std", "min", "max"))
            yield f"{split:<11} {name:<21} {mean}" + (f" ± {deviation}   {low} to {high}" if several else "")
    if (soup := summary.get("soup")) is not None:
        yield from soup_lines(soup, summary["metric"], out)
    yield f"best by {summary['metric']} on validation: {out / summary['best']}; all figures in {out}/{SEEDS}"


def soup_lines(soup: Mapping[str, Any], metric: str, out: Path) -> Iterator[str]:
    """What became of the mean of the weights."""
    if "reason" in soup:
        yield f"no mean of the weights: {soup['reason']}"
        return
    for split, metrics in splits_of(soup).items():
        yield f"{split:<11} {metric:<21} {decimals(metrics[metric]['value'])} by the mean of the weights"
    best = f"the best run on validation has {decimals(soup['best'])}"
    kept = f"the mean is kept, in {out / SOUP_FOLDER}" if soup["kept"] else "the mean is worse, and is not kept"
    yield f"{best}: {kept}"
    if soup["kept"]:
        if "temperature" in soup:
            said = f"temperature {decimals(soup['temperature'], '')} in the head of the mean"
            yield from fields([("calibrated", said if soup["temperature"] is not None else f"no: {NO_TEMPERATURE}")])
        yield from abstention(soup, judged(soup))


def spread_of(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean, standard deviation and range of a metric over runs; None where a run has no value."""
    defined = [value for value in values if value is not None]
    whole = len(defined) == len(values)  # a mean over the runs that have a value would flatter
    return {
        "mean": fmean(defined) if whole else None,
        "std": stdev(defined) if whole and len(defined) > 1 else None,
        "min": min(defined) if whole else None,
        "max": max(defined) if whole else None,
        "values": list(values),
    }


def options_in(out: Path, file: str) -> dict[str, Any]:
    """The options that the runs of a folder have in common, by its JSON file.

    Raises:
        InputError: it holds none.
    """
    try:
        options = found_again(RunFolder(out).read_json(file), out)
    except (KeyError, ValueError):  # said below
        options = None
    if not isinstance(options, dict):
        raise UsageError("holds no options", where=str(out / file), hint="choose another --out")
    return options


def other_options(now: Mapping[str, Any], was: Mapping[str, Any]) -> list[str]:
    """The names of those that are not as they were."""
    return [name for name in {**now, **was} if not is_same_place(name, was.get(name), now.get(name))]


def _refuse_other_use(out: Path, now: Mapping[str, Any], file: Path | None, option: str, summary: str) -> None:
    if not (out / summary).exists():
        if not out.is_dir() or not all(
            path.name.startswith(f"{option}-") or is_leftover(path) for path in out.iterdir()
        ):
            RunFolder(out).refuse_if_taken()
        return  # nothing yet, or the first run was killed
    was = options_in(out, summary)
    if other := other_options(now, was):
        usual = {name: field.default for name, field in RunConfig.model_fields.items()}  # a recipe that is not said
        pairs = {name: [{**usual, **each}.get(name) for each in (now, was)] for name in other if name != "parts"}
        texts = [f"{option_flag(name)} is {new}, and was {old}" for name, (new, old) in pairs.items()]
        differences = "; ".join([*texts, *other_parts(was.get("parts"), now.get("parts"), file)])
        hint = "give the options that it was started with, or choose another --out"
        raise UsageError(f"holds runs with other options: {differences}", where=f"--out {out}", hint=hint)


def refuse_other_rows(folder: RunFolder, source: Source, config: RunConfig) -> None:
    """
    Raises:
        UsageError: the folder is a link, or holds a run of other rows than the source has now.
    """
    if folder.path.is_symlink():
        raise UsageError("is a link", where=str(folder.path), hint="remove it, or choose another --out")
    if not folder.record.exists():
        return
    record = folder.read_record()
    was = {name: entry["texts"] for name, entry in record["data"].items()}
    now = read_examples(source, config).in_order_of(record["label_names"]).splits
    if was != {name: digest_of(examples) for name, examples in now.items()}:
        hint = "put the data back as they were, or choose another --out"
        raise UsageError("was trained on other rows than DATA has now", where=str(folder.path), hint=hint)


def shared_by(config: RunConfig, but: Collection[str], own: Own) -> dict[str, Any]:
    """What the runs of a folder have in common but for these options, as JSON has it.

    A recipe is among it, for what it derives is not: that is known with the rows.
    """
    recipe = {} if config.recipe == RunConfig.model_fields["recipe"].default else {"recipe": config.recipe}
    options = {name: value for name, value in options_of(config, own).items() if name not in {*HARMLESS, *but}}
    return {**options, **recipe, **own.identity()}
