"""Parts of a run that are the user's own: read from a file, called, digested, and what they leave of the promises."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, SupportsFloat

import numpy as np
import torch
from torch import Tensor, nn

from dongu.config import option_flag
from dongu.errors import UsageError
from dongu.files import read_regular
from dongu.part_sources import PARTS_MODULE, imported_files, importing_beside, source_of_part
from dongu.plain_parts import why_not_plain
from dongu.text import kind_of_part, one_line

PLAIN_TOO = ("tokenizer", "lr_scheduler", "columns")  # that may also be a plain value, which is an option then
FUNCTIONS = ("loss", "optimizer", "lr_scheduler", "order", "collate", "setup", "update", "eval_model")
BY_PLACE = {"loss": 2, "update": 2, "collate": 2, "metrics": 1}  # arguments of parts that are called by place alone
AS_THEY_ARE = {"model": nn.Module, "optimizer": torch.optim.Optimizer}  # parts that need not be functions
LIBRARIES = ("torch", "torchmetrics", "transformers", "sklearn")  # what they have is called by their own conventions
MADE: dict[str, Any] = {
    "optimizer": torch.optim.Optimizer,
    "lr_scheduler": SupportsFloat,
    "eval_model": (nn.Module, NoneType),
}
PARTS = ("model", "tokenizer", *FUNCTIONS[:5], "columns", "metrics", *FUNCTIONS[5:])
READERS = ("model", "loss", "order", "collate", "setup", "update", "eval_model")  # that columns beside the text reach


@dataclass(frozen=True)
class Own:
    """What takes the place of a run's own parts; None is the run's own.

    `file` is where they were read from, `beside` what it imports of its folder, with SHA-256 by place there. `digest`
    is the SHA-256 of the file, or of the source of what was handed in.
    """

    model: Any = None  # a module, or a function (number of labels, config) → module
    tokenizer: Any = None
    loss: Any = None  # (model, batch) → (rows,)
    optimizer: Any = None  # (parameters by name, config) → Optimizer
    lr_scheduler: Any = None  # (step, total steps) → share of the learning rate
    order: Any = None  # (split, epoch, seed) → row positions
    collate: Any = None  # (split, rows) → tensors by name
    metrics: Mapping[str, Callable[[Any], float]] = field(default_factory=dict)  # (evaluation) → number
    setup: Any = None  # (loop), before the first update
    update: Any = None  # (loop, update): the statements of one update
    eval_model: Any = None  # (loop) → the module that is evaluated and kept
    file: Path | None = None
    digest: str = ""
    beside: Mapping[str, str] = field(default_factory=dict)
    handed: tuple[str, ...] = ()  # the names of those that came from no file

    @property
    def names(self) -> list[str]:
        """The parts that there are, in the order of `PARTS`."""
        there = {name: getattr(self, name) for name in PARTS if name != "columns"}
        return [name for name, part in there.items() if part is not None and part != {}]

    def identity(self) -> dict[str, Any]:
        """What tells them from others, for `run.json`; nothing where there are none."""
        beside = {"imports": dict(self.beside)} if self.beside else {}
        return {"parts": {"names": self.names, "sha256": self.digest, **beside}} if self.names else {}


def take_own(options: dict[str, Any], file: str | Path | None) -> Own:
    """Take the parts out of what was given to a loop and out of a file; plain values stay, or become, options.

    Raises:
        UsageError: the file cannot be run or has no part, or something is given twice or is no part.
    """
    found = {} if file is None else read_parts(Path(file))
    options |= {name: str(options[name]) for name in ("model", "tokenizer") if isinstance(options.get(name), Path)}
    given = {name: options.pop(name) for name in PARTS if name in options and not _is_option(name, options[name])}
    given = {name: value for name, value in given.items() if value is not None}
    for name in (name for name in found if name in given):
        raise UsageError(f"`{name}` is in {file} too", where=f"{name}=", hint="give it in one place")
    for name in [name for name in found if _is_option(name, found[name])]:
        value = found.pop(name)
        if options.get(name) is not None and _names(options[name]) != _names(value):
            raise UsageError(f"is {_names(value)} in {file}", where=option_flag(name), hint="give it in one place")
        options[name] = value
    own = {**found, **given}
    if not isinstance(metrics := own.get("metrics", {}), Mapping):
        hint = 'metrics={"qwk": lambda evaluation: …}'
        raise UsageError(f"{kind_of_part(metrics)} has no names", where="metrics=", hint=hint)
    parts = [(f"{name}=", name, own[name]) for name in ("model", "tokenizer", *FUNCTIONS) if name in own]
    for where, name, part in [*parts, *((f"metrics[{key!r}]", "metrics", part) for key, part in metrics.items())]:
        _check_part(part, name, where)
    digest = hashlib.sha256(read_regular(Path(file), follow=True)) if file is not None else hashlib.sha256()
    for name in (name for name in PARTS if name in given):
        digest.update(f"{name}\n{source_of_part(given[name])}\n".encode())
    place, handed = None if file is None else Path(file), tuple(name for name in PARTS if name in given)
    folder, files = (place or Path()).resolve().parent, imported_files(place) if place and own else {}
    beside = {path.relative_to(folder).as_posix(): found for path, found in files.items()}
    return Own(**own, file=place, digest=digest.hexdigest() if own else "", beside=beside, handed=handed)


def check_columns_read(own: Own, columns: Any) -> None:
    """Raise `UsageError` if columns are given that no part of a whole run reads; a loop by hand may read them."""
    if columns and not {*READERS} & {*own.names}:
        hint = "leave them out, or give --parts FILE with a loss or a model that reads them"
        raise UsageError("nothing in this run reads such columns", where=f"--columns {_names(columns)}", hint=hint)


def _check_part(part: Any, name: str, where: str) -> None:
    """Raise `UsageError` if a part is no function, or one that is not called as this part is."""
    thing = part.func if isinstance(part, functools.partial) else part
    is_class, library = inspect.isclass(thing), str(getattr(thing, "__module__", "")).partition(".")[0]
    is_fast_tokenizer = name == "tokenizer" and hasattr(thing, "backend_tokenizer")
    if not is_class and (is_fast_tokenizer or isinstance(thing, AS_THEY_ARE.get(name, ()))):
        return
    if not callable(part) or name == "tokenizer" or (is_class and name != "model"):
        kind = f"the class {thing.__name__}" if is_class else kind_of_part(thing)
        what = f"{kind} is not a {'tokenizer' if name == 'tokenizer' else 'function'}"
    elif library in LIBRARIES:
        what = f"{getattr(thing, '__name__', type(thing).__name__)} of {library} is called otherwise"
    elif not _takes(part, BY_PLACE.get(name)):
        what = "takes other arguments"
    else:
        return
    raise UsageError(what, where=where, hint=f"it is {SIGNATURES[name]}")


def _takes(function: Any, places: int | None) -> bool:
    """Whether it can be called with so many arguments; those of a function in C are not known."""
    try:
        return places is None or bool(inspect.signature(function).bind(*range(places)))
    except TypeError:
        return False
    except ValueError:
        return True


SIGNATURES = {
    "model": "called as model(labels, config) and makes a torch.nn.Module for so many labels",
    "tokenizer": "a fast tokenizer of transformers, as AutoTokenizer.from_pretrained(NAME) gives, or a name",
    "loss": "called as loss(model, batch) and gives one number a row: lambda model, batch:"
    " cross_entropy(model(**batch.inputs).logits, batch.labels, reduction='none')",
    "optimizer": "called as optimizer(parameters), parameters by their names:"
    " lambda parameters: SGD(parameters.values(), lr=0.1)",
    "lr_scheduler": "called as lr_scheduler(step, total_steps) and gives a share of the learning rate:"
    " lambda step, total_steps: 1 - step / total_steps",
    "order": "called as order(split, epoch, seed) and gives the positions of the rows of an epoch",
    "collate": "called as collate(split, rows) and gives tensors by name",
    "metrics": "called as metric(evaluation) and gives a number: lambda evaluation: evaluation.right.mean()",
    "setup": "called as setup(loop)",
    "update": "called as update(loop, update), and calls update.backward() and update.step()",
    "eval_model": "called as eval_model(loop) and gives the module that is evaluated",
}


def read_parts(path: Path) -> dict[str, Any]:
    """Run a file and take what is named as a part.

    Raises:
        UsageError: it cannot be read or run, or it defines no part.
    """
    where = f"--parts {path}"
    try:
        digest = hashlib.sha256(read_regular(path, follow=True)).hexdigest()
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror or error})", where=where) from error
    name = f"{PARTS_MODULE}{digest[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError("is not a Python file", where=where, hint="give one whose name ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # data classes and pickled functions look their module up
    try:
        with importing_beside(path):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's statements raise: a script may end in `sys.exit()`
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        place = f"{path}:{(lines or [1])[-1]}"
        if isinstance(error, SyntaxError):  # which may be of a file that this one imports
            place = f"{error.filename or path}:{error.lineno}"
        hint = "leave the dot out: `from helper import …` finds a file beside this one"
        hint = hint if isinstance(error, ImportError) and "relative import" in str(error) else ""
        raise UsageError(f"{type(error).__name__}: {one_line(str(error))}", where=place, hint=hint) from error
    found = {part: getattr(module, part) for part in PARTS if getattr(module, part, None) is not None}
    if not found:
        raise UsageError("has no part of a run", where=where, hint=f"a part is called {', '.join(PARTS)}")
    return found


def called(function: Any, name: str, **offered: Any) -> Any:
    """Call a part with those of the arguments that it names, or, under other names, with as many as it takes.

    Raises:
        UsageError: it takes more, or gives something else.
    """
    places, named = arguments(function, name, **offered)
    made = function(*places, **named)
    if not isinstance(made, MADE.get(name, object)):
        raise UsageError(f"gave {kind_of_part(made)}", where=name, hint=f"it is {SIGNATURES[name]}")
    return made


def arguments(function: Any, name: str, **offered: Any) -> tuple[list[Any], dict[str, Any]]:
    """What a part takes of the arguments that it is offered: by their places, and by their names.

    One that has a default, and a name that is not offered, is the part's own: `lambda step, warmup=10: …`.

    Raises:
        UsageError: it takes more.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of a function in C: all that there are
        return [*offered.values()], {}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    wanted = {
        key: each
        for key, each in parameters.items()
        if each.kind not in variadic and (key in offered or each.default is inspect.Parameter.empty)
    }
    if wanted and wanted.keys() <= offered.keys():
        return [], {key: offered[key] for key in wanted}
    places = [each for each in wanted.values() if each.kind is not inspect.Parameter.KEYWORD_ONLY]
    if len(places) > len(offered):
        raise UsageError(f"takes {len(places)} arguments", where=name, hint=f"it is {SIGNATURES[name]}")
    for key, other in zip(wanted, offered, strict=False):
        if key in offered and key != other:
            raise UsageError(f"has `{key}` where `{other}` is", where=name, hint=f"it is {SIGNATURES[name]}")
    all_of_them = any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters.values())
    return [*offered.values()][: len(offered) if all_of_them else len(places)], {}


def takes_config(optimizer: Any) -> bool:
    """Whether an optimizer of one's own is made with the options in sight."""
    if isinstance(optimizer, torch.optim.Optimizer):
        return False
    places, named = arguments(optimizer, "optimizer", parameters=False, config=True)
    return True in (*places, *named.values())


def coupled(loss: Any) -> Any:
    """Decorate a loss whose rows depend on each other (`@dongu.coupled`): an update is then not split.

    Such a loss returns one number for all rows, or one for each row.
    """
    loss.coupled = True
    return loss


class Array:
    """An array of your own that is saved in checkpoints: `loop.own["hard"] = dongu.Array(np.zeros(rows))`.

    Read and change it as `.value`. You may also assign another array, of another shape or dtype.

    Raises:
        UsageError: the array is not numeric.
    """

    def __init__(self, value: Any) -> None:
        self.value = np.array(value)
        self.state_dict()  # or it is an error

    def state_dict(self) -> dict[str, Tensor]:
        """The array as a tensor."""
        try:
            return {"value": torch.from_numpy(np.array(self.value))}
        except TypeError as error:
            what, hint = f"holds {np.asarray(self.value).dtype}, which no checkpoint does", "give it numbers"
            raise UsageError(what, where="dongu.Array", hint=hint) from error

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the array of a checkpoint: in place, unless its shape or dtype has changed."""
        saved = state["value"].numpy()
        if not isinstance(self.value, np.ndarray) or (self.value.shape, self.value.dtype) != (saved.shape, saved.dtype):
            self.value = np.empty_like(saved)
        self.value[...] = saved


def why_no_script(own: Own, precision: str, base_precision: str = "fp32") -> str | None:
    """Why a run with these parts cannot be written as one plain script; None where it can."""
    if base_precision != "fp32":
        return f"a plain script holds all weights in fp32, and the run those that LoRA leaves in {base_precision}"
    if not own.names:
        return None
    if own.file is None or own.handed:
        return f"{', '.join(own.handed)} came from no file"
    if own.loss is not None and precision == "bf16":
        return "a plain script computes a loss of its own in fp32, and the run computes the model in bf16"
    if own.optimizer is not None and takes_config(own.optimizer):
        return "a plain script has no config, which optimizer takes"
    if own.beside:
        return f"a plain script is one file, and that of the parts imports {', '.join(own.beside)}"
    return why_not_plain(read_regular(own.file, follow=True).decode(), own.names)


def _is_option(name: str, value: Any) -> bool:
    return name == "columns" or (name in ("model", *PLAIN_TOO) and isinstance(value, str))


def _names(value: Any) -> str:
    """A plain value as it can be compared: a name without its commit, or several."""
    return str(value).partition("@")[0] if isinstance(value, str) else ", ".join(map(str, value))


def module_of(model: Any, labels: int, config: Any) -> nn.Module:
    """The user's model: as it is, or as the function or the class makes it.

    Raises:
        UsageError: it is no module.
    """
    made = model
    if callable(model) and not isinstance(model, nn.Module):
        made = called(model, "model", labels=labels, config=config)
    if not isinstance(made, nn.Module):
        hint = "give a torch.nn.Module, or a function that makes one"
        raise UsageError(f"{kind_of_part(made)} is not a model", where="model=", hint=hint)
    return made
