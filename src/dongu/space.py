"""`learning_rate=1e-5..5e-4:log`: the values of an option that a search may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dongu.config import ALIASES, READING, RunConfig, did_you_mean, make_config, option_flag
from dongu.errors import UsageError

DEFAULT_SPACE = ("learning_rate=1e-5..5e-4:log", "batch_size=8,16,32", "epochs=1..5")
# What says which rows are judged, by which metric, or where things lie: trials that differ in it cannot be compared.
NOT_SEARCHED = frozenset(
    {
        *("data", "out", "strict", "seed", "metric", "task", "text_columns", "label_column", "label_separator"),
        *("columns", "unlabelled", "validation", "test", "group_column", "time_column", "fold", "split_file", "device"),
        *("track", "keep", "save_steps", *READING),
    }
)


@dataclass(frozen=True)
class Dimension:
    """The values of one option: `choices`, or all from `low` to `high`, whole ones where both ends are whole."""

    name: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def suggest(self, trial: Any) -> Any:
        """The value that an Optuna trial takes."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def place(self, value: Any) -> Any:
        """The option's value as the search writes it; None where it is not in the space."""
        if self.choices:
            return next((choice for choice in self.choices if _number(choice) == _number(str(value))), None)
        try:
            number = float(value)
        except (TypeError, ValueError):
            return None
        within = self.low <= number <= self.high and (not self.whole or number.is_integer())
        return (int(number) if self.whole else number) if within else None


def read_space(
    texts: Sequence[str], options: Mapping[str, Any], unknown: Mapping[str, str] | None = None
) -> dict[str, Dimension]:
    """The space of a search; without texts `DEFAULT_SPACE`, less what the options fix.

    Args:
        texts: `NAME=LOW..HIGH`, `NAME=LOW..HIGH:log` or `NAME=A,B,C`.
        options: the others of the runs, which are the same in all trials.
        unknown: options that a part of the user's own does not know, and which part that is.

    Raises:
        UsageError: an option that there is not, that is fixed or that changes nothing, or a value that it cannot have.
    """
    space: dict[str, Dimension] = {}
    unknown = unknown or {}
    given = {ALIASES.get(name, name) for name, value in options.items() if value is not None}
    for text in texts or DEFAULT_SPACE:
        where = f"--space {text}"
        name, _, values = text.partition("=")
        name = name.strip().replace("-", "_")
        name = ALIASES.get(name, name)
        if name not in RunConfig.model_fields:
            raise UsageError("there is no such option", where=where, hint=did_you_mean(name))
        fixed = name in given or (name == "epochs" and ("max_steps" in given or options.get("recipe") == "quick"))
        if not texts and (fixed or name in unknown):
            continue
        if name in unknown:
            what = f"the {unknown[name]} is your own, and does not know {option_flag(name)}"
            raise UsageError(what, where=where, hint=f"leave it out, or heed it in your {unknown[name]}")
        if name in NOT_SEARCHED or name in given or name in space:
            what = "cannot be searched" if name in NOT_SEARCHED else "is given twice"
            hint = "trials have to be judged alike" if name in NOT_SEARCHED else "give it once: fixed, or as a space"
            raise UsageError(f"{option_flag(name)} {what}", where=where, hint=hint)
        space[name] = dimension = _dimension(name, values, where)
        ends = dimension.choices or (dimension.low, dimension.high)
        for value in ends:
            make_config({**options, name: int(value) if dimension.whole else value})
    if not space:
        what = "all options of the usual space are fixed"
        raise UsageError(what, where="--space", hint="--space weight_decay=0..0.1")
    return space


def _dimension(name: str, values: str, where: str) -> Dimension:
    body, log, rest = values.partition(":log")
    if ".." not in body:
        choices = tuple(choice.strip() for choice in body.split(","))
        if log or "" in choices or len({*choices}) < max(2, len(choices)):
            hint = "two values or more, as 8,16,32; or a range, as 1e-5..5e-4:log"
            raise UsageError("has no values to choose from", where=where, hint=hint)
        return Dimension(name, choices)
    low, _, high = (part.strip() for part in body.partition(".."))
    ends = _number(low), _number(high)
    if rest or isinstance(ends[0], str) or isinstance(ends[1], str) or not ends[0] < ends[1] or (log and ends[0] <= 0):
        hint = "the lower end comes first, as 1e-5..5e-4:log; a logarithmic range begins above 0"
        raise UsageError("is not a range", where=where, hint=hint)
    whole = low.isdecimal() and high.isdecimal()
    return Dimension(name, (), ends[0], ends[1], log=bool(log), whole=whole)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
