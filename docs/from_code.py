"""What the site takes from the code: a line `<!-- from the code: NAME -->` of a page becomes options, say.

mkdocs calls the functions whose names begin with `on_`; `mkdocs.yml` names this file under `hooks`. Nothing here needs
torch, so the site is built in seconds.
"""

from __future__ import annotations

import argparse
import ast
import html
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import dongu.errors
from dongu.cli.main import COMMANDS, add_commands
from dongu.cli.parser import Parser
from dongu.cli.schemas import OF_COMMANDS, SCHEMAS
from dongu.config import ALIASES, RunConfig, option_flag
from dongu.data.glue import GLUE

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "dongu"
PLACE = re.compile(r"^<!-- from the code: (\w+)((?: [\w./]+)*) -->$", re.MULTILINE)
ANY_COUNT = 2**31  # what a limit is where there is none to speak of
LESSONS = {"en": "Lessons", "tr": "Dersler"}  # folder of docs/ → heading in the navigation


def on_config(config: Any) -> None:
    """Add the lessons to the navigation, in the order in which their index names them."""
    for language, heading in LESSONS.items():
        folder = Path(language, "lessons")
        index = Path(config["docs_dir"]) / folder / "index.md"
        if index.is_file():
            pages = ["index.md", *re.findall(r"\]\((\w+\.md)\)", index.read_text(encoding="utf-8"))]
            config["nav"].append({heading: [(folder / page).as_posix() for page in pages]})


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the places of a page."""
    return fill(markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Mark the flags, so that the style sheet can keep `--` and the word behind it on one line."""
    return re.sub(r"<code>(--[\w-]+)</code>", r'<code class="flag">\1</code>', content)


def fill(markdown: str) -> str:
    """
    Raises:
        KeyError: a place asks for what is not in `WRITERS`.
    """
    return PLACE.sub(lambda place: WRITERS[place[1]](*place[2].split()), markdown)


def options() -> str:
    """Each option of a run under its flag: what it is, its default, what it may be, its other names."""
    parts = []
    for name, field in RunConfig.model_fields.items():
        if name == "data":
            continue
        what, _, default = (field.description or "").partition(" (default: ")
        facts = [f"Default: {default.removesuffix(')') or _default(field.default)}", _values(name)]
        facts += ["also " + ", ".join(f"`--{alias}`" for alias, option in ALIASES.items() if option == name)]
        parts += [
            f"### `{option_flag(name)}` {{ #{name.replace('_', '-')} }}",
            _sentence(what),
            "; ".join(fact for fact in facts if fact not in ("", "also ")) + ".",
        ]
    return "\n\n".join(parts)


def commands() -> str:
    """Each command: what it does, how it is called, its arguments."""
    return "\n\n".join(part for name, parser in parsers().items() for part in _command(name, parser))


def parsers() -> Mapping[str, argparse.ArgumentParser]:
    """The parser of each command by its name, in the order of `dongu --help`."""
    made = Parser(prog="dongu").add_subparsers(parser_class=Parser)
    add_commands(made, COMMANDS)
    return made.choices


def answers() -> str:
    """What `--json` of each command prints: its schemas, and their keys."""
    parts = []
    for command in COMMANDS:
        for schema in (f"dongu.{name}/1" for name in OF_COMMANDS.get(command, (command,))):
            model = SCHEMAS[schema]
            heading = f"## `dongu {command}`: `{schema}`"
            if heading.endswith("train/1`") and command != "train":
                parts.append(f"## `dongu {command}` {{ #{command} }}\n\nAs [`dongu train`](#train) of one run.")
                continue
            anchor = command if schema == f"dongu.{command}/1" else schema.partition("/")[0].rpartition(".")[2]
            what = " ".join((model.__doc__ or "").split()).partition(": ")[2]
            rows = [
                f"| `{field.alias or name}` | {_cell(field.description)} |"
                for name, field in model.model_fields.items()
                if field.alias != "schema"
            ]
            parts.append(f"{heading} {{ #{anchor} }}\n\n{_sentence(what)}")
            parts += ["\n".join(["| key | is |", "| --- | --- |", *rows])] if rows else []
    return "\n\n".join(parts)


def aliases() -> str:
    """Hugging Face's spellings and the option that each stands for."""
    rows = [f"| `--{alias}` | [`{option_flag(name)}`]({_page_of(name)}) |" for alias, name in ALIASES.items()]
    return "\n".join(["| spelling | option |", "| --- | --- |", *rows])


def allowed() -> str:
    """The names that `dongu resume --allow` takes for options."""
    harmless = literal(PACKAGE / "run" / "identity.py", "HARMLESS")
    return ", ".join(f"`{option_flag(name)[2:]}`" for name in RunConfig.model_fields if name not in harmless) + "."


def harmless() -> str:
    """The options that may differ in a resumed run without being allowed."""
    names = literal(PACKAGE / "run" / "identity.py", "HARMLESS")
    return ", ".join(f"`{option_flag(name)}`" for name in RunConfig.model_fields if name in names) + "."


def errors() -> str:
    """The tree of errors as its module draws it."""
    drawn = textwrap.dedent((dongu.errors.__doc__ or "").split("\n\n")[1])
    return f"```text\n{drawn}\n```"


def label_columns() -> str:
    """The usual names of a label column, in their order."""
    return f"{_shown(_names('LABEL_COLUMNS'))}."


def often_label_columns() -> str:
    """The names of label columns that often stand beside another label too, a group a line."""
    return "\n".join(f"- {_shown(line)}" for line in _names("OFTEN_LABEL_COLUMNS").strip().splitlines())


def text_columns() -> str:
    """The usual names of text columns, pairs first."""
    return f"{_shown(_names('PAIRS_OF_COLUMNS'))}; {_shown(_names('TEXT_COLUMNS'))}."


def _names(name: str) -> str:
    return str(literal(PACKAGE / "data" / "names.py", name))


def _shown(names: str) -> str:
    return ", ".join(f"`{' '.join(name.split())}`" for name in names.split(","))


def glue() -> str:
    """GLUE's tasks: texts, classes, metrics, and the metric that chooses."""
    rows = [
        f"| `glue:{name}` | {', '.join(task.texts)} | {', '.join(task.labels) or 'a number'} "
        f"| {', '.join(f'**{metric}**' if metric == task.best else metric for metric in task.metrics)} |"
        for name, task in GLUE.items()
    ]
    head = "| DATA | texts | classes | metrics (the bold one chooses the best model) |"
    return "\n".join([head, "| --- | --- | --- | --- |", *rows])


TRAINERS_WAY = {  # the usual recipe, by the name of our program
    "focal": "a subclass with `compute_loss`; a mean there is wrong under accumulation, and says nothing",
    "r_drop": "a subclass with `compute_loss` that calls the model twice",
    "fgm": "a subclass with a copy of `training_step`",
    "distillation": "a subclass that holds the teacher, with `compute_loss`",
    "ema": "a callback that copies weights after each step, and one that swaps them for evaluation",
    "own_head": "a model that computes its own loss, and a collator for the column",
    "two_heads": "a subclass with `compute_loss`, and `prediction_step` for the second answer",
    "gradual_unfreezing": "a callback; the optimizer through `optimizers=` or a subclass",
    "balanced_order": "a subclass with `_get_train_sampler`",
    "hard_examples": "a sampler of your own and a callback; checkpoints do not hold its state",
    "ordinal": "a model that computes its own loss, and `compute_metrics`",
    "group_k_fold": "a new Trainer a fold",
    "optuna_search": "`hyperparameter_search`",
    "lr_finder": "a callback that stops, and a schedule of your own",
}


def examples() -> str:
    """The programs of the folder `examples/` beside Trainer's way, with their lines without blank ones and the script
    at their end."""
    rows = []
    for name, there in TRAINERS_WAY.items():
        text = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
        title = (ast.get_docstring(ast.parse(text)) or "").splitlines()[0].rstrip(".")
        code = text if name in ("group_k_fold", "optuna_search", "lr_finder") else text.partition("\nif __name__")[0]
        lines = sum(bool(line.strip()) for line in code.splitlines())
        rows.append(f"| {title} | {there} | `examples/{name}.py`, {lines} lines |")
    return "\n".join(["| what | in Trainer | here |", "| --- | --- | --- |", *rows])


def storeys() -> str:
    """The rooms of the house, the top storey first, as tests/test_house.py holds them."""
    plan: list[list[str]] = literal(ROOT / "tests" / "test_house.py", "STOREYS")
    lines = ['<div class="house" role="list" aria-label="The storeys of the house, from the top">']
    for rooms in reversed(plan):
        boxes = "".join(f'<span class="room"><b>{_room(name)}</b> {_purpose(name)}</span>' for name in rooms)
        lines.append(f'<div class="storey" role="listitem">{boxes}</div>')
    return "\n".join([*lines, "</div>"])


def files() -> str:
    """Every file of the package with what it is, by rooms: the first sentence of its module."""
    rooms: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "__init__.py":
            continue
        doc, place = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "", path.relative_to(PACKAGE)
        first = re.split(r"\n\n|(?<=\.) (?=[A-Z])", doc, maxsplit=1)[0].replace("\n", " ")
        rooms.setdefault(place.parent.as_posix(), []).append(f"| `{place.as_posix()}` | {first} |")
    return "\n".join(["| file | is |", "| --- | --- |", *(row for room in sorted(rooms) for row in rooms[room])])


def source(path: str, name: str) -> str:
    """A class or a function of the package as it stands in its file: `loop.py Loop.__iter__`."""
    text = (PACKAGE / path).read_text(encoding="utf-8")
    node: Any = ast.parse(text)
    for part in name.split("."):
        node = next(item for item in node.body if getattr(item, "name", None) == part)
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    lines = text.splitlines()[first - 1 : node.end_lineno]
    indent = len(lines[0]) - len(lines[0].lstrip())
    body = "\n".join(line[indent:] for line in lines)
    return f'```python title="src/dongu/{path}"\n{body}\n```'


def literal(path: Path, name: str) -> Any:
    """The value of a constant, or what `frozenset(…)` is given, without importing what its file imports."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if name in map(ast.unparse, targets):
            return ast.literal_eval(node.value.args[0] if isinstance(node.value, ast.Call) else node.value)
    raise KeyError(f"{path} has no constant {name}")


WRITERS: dict[str, Callable[..., str]] = {
    writer.__name__: writer
    for writer in (
        options,
        commands,
        answers,
        aliases,
        allowed,
        harmless,
        errors,
        label_columns,
        often_label_columns,
        text_columns,
        glue,
        examples,
        storeys,
        files,
        source,
    )
}


def _command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS and action.dest != "help"]
    places = [action for action in shown if not action.option_strings]
    of_a_run = [action for action in shown if _is_option_of_a_run(action)]
    others = [action for action in shown if action not in of_a_run]
    yield f"## `dongu {name}` {{ #{name} }}"
    yield _sentence(parser.description)
    yield f"```text\ndongu {' '.join([name, *map(_called, places)])} [options]\n```"
    if others:
        rows = [f"| `{_flag(action)}` | {_cell(action.help)} |" for action in others]
        yield "\n".join(["| argument | is |", "| --- | --- |", *rows])
    flags = [action for action in of_a_run if action.option_strings]
    missing = [f"`{option_flag(name)}`" for name in RunConfig.model_fields if name not in {flag.dest for flag in flags}]
    if len(missing) < len(flags):
        but = f" but {', '.join(missing[1:])}" if missing[1:] else ""  # the first is DATA
        yield f"and every [option of a run](options.md){but}."
    elif flags:
        links = [f"[`{action.option_strings[0]}`]({_page_of(action.dest)})" for action in flags]
        yield f"and these [options of a run](options.md): {', '.join(links)}."
    if parser.epilog and "\n" in parser.epilog:
        yield f"```text\n{parser.epilog}\n```"
    elif parser.epilog:
        yield _sentence(parser.epilog)


def _is_option_of_a_run(action: argparse.Action) -> bool:
    field = RunConfig.model_fields.get(action.dest)
    return field is not None and (action.help or "").startswith(field.description or "") and bool(action.option_strings)


def _called(action: argparse.Action) -> str:
    name = str(action.metavar or (action.dest.upper() if action.option_strings else action.dest))
    return {"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} [{name} ...]"}.get(str(action.nargs), name)


def _flag(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest)
    return f"{action.option_strings[0]} {_called(action)}" if action.nargs != 0 else action.option_strings[0]


def _default(value: Any) -> str:
    if value is None or value is False:
        return "not set" if value is None else "off"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _values(name: str) -> str:
    """What a value may be, in words; empty where any text may."""
    annotation = get_type_hints(RunConfig, include_extras=True)[name]
    kinds, limits = _kinds(annotation), _limits(annotation)
    choices = [f"`{kind}`" for kind in kinds if isinstance(kind, str)]
    if len(choices) > 1:
        return f"one of {', '.join(choices)}"
    if bool in kinds:
        return f"a switch, undone by `{option_flag(name).replace('--', '--no-', 1)}`"
    if kinds[0] not in (int, float):
        return ""
    words = {"ge": "from", "gt": "above", "le": "up to", "lt": "and below"}
    bounds = [f"{words[key]} {limits[key]:,.10g}" for key in words if limits.get(key, ANY_COUNT) < ANY_COUNT]
    return " ".join(["a whole number" if int in kinds else "a number", *bounds])


def _kinds(annotation: Any) -> list[Any]:
    """The types and the literal texts that an annotation is made of, in its order."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _kinds(arguments[0])
    return [kind for argument in arguments for kind in _kinds(argument)] or [annotation]


def _limits(annotation: Any) -> dict[str, float]:
    """`ge`, `gt`, `le`, `lt` of an annotation; where one is there twice, the outer one."""
    found: dict[str, float] = {}
    for argument in get_args(annotation) if get_origin(annotation) not in (None, Literal) else ():
        found |= _limits(argument)
    for item in getattr(annotation, "__metadata__", ()):
        for limit in getattr(item, "metadata", [item]):
            found |= {key: getattr(limit, key) for key in ("ge", "gt", "le", "lt") if hasattr(limit, key)}
    return found


def _page_of(name: str) -> str:
    return f"options.md#{name.replace('_', '-')}"


def _sentence(text: str | None) -> str:
    """A help text as a sentence of a page."""
    words = _with_flags(html.escape(text or "", quote=False))
    return words[:1].upper() + words[1:] + ("" if words.endswith(".") else ".")


def _cell(text: str | None) -> str:
    """A help text in a table: `%%` is argparse's, `|` would end the cell."""
    words = html.escape((text or "").replace("%%", "%"), quote=False).replace("|", "\\|")
    return _with_flags(words)


def _with_flags(text: str) -> str:
    return re.sub(r"(?<![\w`-])(--[a-z][\w-]+)", r"`\1`", text)


def _room(name: str) -> str:
    """`dongu.data` → data/, `dongu.loop` → loop.py"""
    path = PACKAGE.joinpath(*name.split(".")[1:])
    return f"{path.name}/" if path.is_dir() else f"{path.name}.py"


def _purpose(name: str) -> str:
    """The first sentence of a room's docstring, up to its colon."""
    path = PACKAGE.joinpath(*name.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    words = html.escape(re.split(r": |[.;]", text.split("\n")[0])[0], quote=False)
    return re.sub("`(.*?)`", r"<code>\1</code>", words)
