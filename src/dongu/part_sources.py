"""What tells parts of the user's own from others: the files beside theirs, and the source of what came from no file."""

from __future__ import annotations

import ast
import contextlib
import dis
import functools
import hashlib
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from typing import Any

from dongu.errors import UsageError
from dongu.files import read_regular
from dongu.text import one_line

_INSTALLED = {"site-packages", "dist-packages"}  # folders whose packages have versions, which a run records
_MARK = "__dongu_sha256__"  # of a module beside a file of parts: its file as it was imported
PARTS_MODULE = "dongu_parts_"  # how the name of a module begins that is a file of parts
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def imported_files(file: Path) -> dict[Path, str]:
    """The files in a file's folder or below that its import statements reach, directly or not, with their SHA-256.

    What is installed is not among them, nor dongu.
    """
    file, folder = file.resolve(), file.resolve().parent
    paths = [Path(entry).resolve() for entry in sys.path]
    roots = {folder, *(path for path in paths if folder.is_relative_to(path) or path.is_relative_to(folder))}
    found: dict[Path, str] = {}
    ahead = [file] if not _INSTALLED & {*folder.parts} else []
    while ahead:
        path = ahead.pop()
        for place in _places(path, [root for root in sorted(roots) if not _INSTALLED & {*root.parts}]):
            for module in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
                if module not in (file, *found) and module.is_relative_to(folder) and module.is_file():
                    found[module] = hashlib.sha256(read_regular(module, follow=True)).hexdigest()
                    ahead.append(module)
    return {path: found[path] for path in sorted(found)}


def raised_by_own(error: BaseException) -> UsageError | None:
    """What a file of parts, or a module beside it, has raised, or what it called, with its line there; else None."""
    places = [
        f"{frame.f_code.co_filename}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).startswith(PARTS_MODULE) or _MARK in frame.f_globals
    ]
    hint = "it comes from a part of your own; --debug shows the traceback"
    said = ": ".join(filter(None, (type(error).__name__, one_line(str(error)))))
    return UsageError(said, where=places[-1], hint=hint) if places else None


def _places(path: Path, roots: Sequence[Path]) -> Iterator[Path]:
    """Where the modules and packages would lie that a file imports, without their ending."""
    try:
        nodes = [*ast.walk(ast.parse(read_regular(path, follow=True)))]
    except (SyntaxError, ValueError, RecursionError):  # of an import that is never made, or the parts could not be read
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            bases, names = roots, [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            bases = [path.parents[node.level - 1]] if 0 < node.level <= len(path.parents) else roots
            names = [".".join(filter(None, (node.module, alias.name))) for alias in node.names]
        else:
            continue
        for parts in (name.split(".") for name in names if name.partition(".")[0] != "dongu"):
            yield from (base.joinpath(*parts[: i + 1]) for base in bases for i in range(len(parts)))


@contextmanager
def importing_beside(file: Path) -> Iterator[None]:
    """Inside the block the folder of a file is looked in first, as `python FILE` does; after it last.

    Modules that were so imported before are read anew where their files have changed since, or another folder's have
    the names of those that are there.
    """
    folder, files = file.resolve().parent, {str(path): digest for path, digest in imported_files(file).items()}
    names = {".".join(Path(path).relative_to(folder).with_suffix("").parts).removesuffix(".__init__") for path in files}
    known = {
        name: (_file_of(module), getattr(module, _MARK))
        for name, module in [*sys.modules.items()]
        if hasattr(module, _MARK) and (name in names or _file_of(module) in files)
    }
    if any(files.get(path) != digest for path, digest in known.values()):
        for name in known:
            del sys.modules[name]
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.path += [] if str(folder) in sys.path else [str(folder)]  # for imports that functions make
        for module in [*sys.modules.values()] if files else ():
            if (path := _file_of(module)) in files:
                setattr(module, _MARK, files[path])


def _file_of(module: Any) -> str:
    return str(getattr(module, "__file__", ""))


def source_of_part(part: Any, seen: set[int] | None = None) -> str:
    """What tells one part from another: its source, and that of the functions, classes and plain values it names.

    What is installed counts by its name alone, and so does all else that it names.
    """
    told = functools.partial(source_of_part, seen=(seen := set() if seen is None else seen))
    if isinstance(part, _PLAIN):
        return repr(part)
    if isinstance(part, Mapping):
        return "\n".join(f"{name}: {told(value)}" for name, value in part.items())
    if isinstance(part, tuple):
        return "\n".join(map(told, part))
    if isinstance(part, functools.partial):
        return told((part.func, part.args, part.keywords))
    if inspect.ismethod(part):
        return told((part.__func__, part.__self__))
    is_code = inspect.isfunction(part) or inspect.isclass(part)
    thing = part if is_code else type(part)
    name = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', thing)}"
    if id(part) in seen:
        return name
    seen.add(id(part))
    # With what it was made with.
    own = {**getattr(part, "__dict__", {}), **(getattr(part, "defaults", None) or {})}
    beyond = {} if is_code else {key: value for key, value in own.items() if _is_told(value)}
    try:
        is_standard = str(thing.__module__).partition(".")[0] in (*sys.stdlib_module_names, "dongu")
        is_installed = bool(_INSTALLED & {*Path(inspect.getfile(thing)).parts}) or is_standard
        source = name if is_installed else inspect.getsource(thing)
    except (OSError, TypeError):  # of a console, or written in C
        return f"{name}\n{told(beyond)}"
    if is_code and not is_installed:
        functions = [part] if inspect.isfunction(part) else [*filter(inspect.isfunction, vars(part).values())]
        bases = dict(enumerate(part.__bases__)) if inspect.isclass(part) else {}
        beyond = bases | {key: value for each in functions for key, value in _named_by(each) if _is_told(value)}
    return "\n".join([source, *([] if is_code or is_installed else [told(thing)]), told(beyond)])


def _is_told(value: Any) -> bool:
    """Whether it is code, or a value that cannot change by itself."""
    if isinstance(value, tuple):
        return all(map(_is_told, value))
    return isinstance(value, (*_PLAIN, functools.partial)) or inspect.isfunction(value) or inspect.isclass(value)


def _named_by(function: Any) -> Iterator[tuple[Any, Any]]:
    """What a function finds outside of its code: by names in its module, in the functions around it, as defaults."""
    while _INSTALLED & {*Path(function.__code__.co_filename).parts} and hasattr(function, "__wrapped__"):
        function = function.__wrapped__  # as PyTorch wraps the step of a class once there is an optimizer of it
    codes = [function.__code__]
    names: set[str] = set()
    while codes:
        code = codes.pop()
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        names |= {each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    yield from ((name, function.__globals__[name]) for name in sorted(names & function.__globals__.keys()))
    yield from enumerate(function.__defaults__ or ())
    yield from (function.__kwdefaults__ or {}).items()
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        with contextlib.suppress(ValueError):  # nothing is in it yet
            yield name, cell.cell_contents
