"""What a plain script can take of a file of parts: judged by the file's source, and copied as it stands there."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from dongu.config import RunConfig, option_flag

if TYPE_CHECKING:
    from dongu.data.examples import TextData

COPIED = ("loss", "optimizer", "lr_scheduler", "order", "metrics", "update")
# The attributes that a script has of an argument; None: it is itself.
OFFERED: dict[str, dict[str, set[str] | None]] = {
    "order": {"split": {"targets"}, "epoch": None, "seed": None},
    "metrics": {"evaluation": {"logits", "targets"}},
    "update": {"loop": {"model", "optimizer", "lr_scheduler"}, "update": {"number", "rows", "backward", "step"}},
}
_INDENT = " " * 4


def why_not_these(data: TextData, config: RunConfig, *, soft: bool) -> tuple[str, str] | None:
    """What about rows and options a plain script cannot do, and what to do instead; None where there is nothing.

    `soft` says whether labels are shares.
    """
    if not data.has_texts:
        return "the texts of prepared rows are not kept", "train on the data that they were prepared from"
    if config.data is None:
        return "the run's data were in memory", "write the rows to a file and train on it: a script reads files"
    if data.task == "ordinal":
        return "an ordinal task cannot be one plain script yet", "train with --task regression, and round the answers"
    if soft:
        what = "soft labels cannot be one plain script yet"
        return what, "what the run saved is a plain model: RUN/model needs no dongu"
    if config.long != "head":
        what = f"cannot be one plain script: it reads the beginning of a text, and the run --long {config.long}"
        return what, "train with --long head"
    return None


def why_rows(data: TextData, config: RunConfig) -> str | None:
    """Why a plain script needs the rows as `dongu eject --rows` writes them, as far as that is known without trying."""
    for name in ("test", "group_column", "time_column", "fold", "split_file"):
        if getattr(config, name) is not None and data.held_out:
            return f"it does not hold rows out by {option_flag(name)}"
    if data.left_out or data.without_text or data.dropped:
        return "it reads all rows, and the run left some out"
    return None


def why_not_plain(source: str, names: Collection[str]) -> str | None:
    """Why a plain script cannot have these parts of a file; None where it can."""
    if more := [name for name in names if name not in COPIED]:
        return f"a plain script has no place for {', '.join(more)} of its own"
    statements, _, of_dongu = _divided(source)
    for node in (node for statement in statements for node in ast.walk(statement)):
        if isinstance(node, ast.Name) and node.id in of_dongu:
            return f"line {node.lineno} of the file needs dongu"
        if isinstance(node, ast.Global) or (isinstance(node, ast.ImportFrom) and node.names[0].name == "*"):
            return f"line {node.lineno} of the file has no meaning inside a function: {ast.unparse(node)}"
    functions = {statement.name: statement for statement in statements if isinstance(statement, ast.FunctionDef)}
    for name in (name for name in OFFERED if name in names):
        written = _metrics(statements) if name == "metrics" else [name]
        if not written or not functions.keys() >= {*written}:
            return f"{name} is not written as a function in the file"
        for function in written:
            if unknown := next(_beyond(functions[function], OFFERED[name]), None):
                return f"a plain script has no {unknown}"
    if "update" in names and not _is_one_pass(functions["update"]):
        return "update does not call backward and step exactly once each, as statements"
    return None


def copied(source: str) -> str:
    """The file as the body of a function: without what it is as a program, what that imports, and dongu."""
    _, dropped, _ = _divided(source)
    inside = {  # lines within a string, which would be another one if they were moved
        number
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant | ast.JoinedStr)
        for number in range(node.lineno + 1, (node.end_lineno or 0) + 1)
    }
    lines: list[str] = []
    for number, line in enumerate(source.splitlines(), 1):
        if number in inside - dropped:
            lines.append(line)
        elif number not in dropped and (line.strip() or lines[-1:] not in ([], [""])):
            lines.append(line.strip() and f"{_INDENT}{line}")
    return "\n".join(lines).rstrip()


def needs_future(source: str) -> bool:
    """Whether its annotations are not evaluated, which a file says at its head."""
    return any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in ast.parse(source).body)


def _divided(source: str) -> tuple[list[ast.stmt], set[int], set[str]]:
    """The statements that are copied, the lines of those that are not, and the names that are dongu's."""
    tree = ast.parse(source)
    of_dongu = {
        alias.asname or alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if (getattr(node, "module", None) or alias.name).partition(".")[0] == "dongu"
    }
    kept, dropped = [], set()
    for node in tree.body:
        if _is_for_programs(node) or (node is tree.body[0] and isinstance(node, ast.Expr)):
            dropped |= _lines(node)
            continue
        for decorator in [*getattr(node, "decorator_list", ())]:
            if ast.unparse(decorator) in {f"{name}.coupled" for name in of_dongu}:
                dropped |= _lines(decorator)
                node.decorator_list.remove(decorator)  # type: ignore[attr-defined]
        kept.append(node)
    used = {node.id for statement in kept for node in ast.walk(statement) if isinstance(node, ast.Name)}
    for node in [node for node in kept if isinstance(node, ast.Import | ast.ImportFrom)]:
        names = {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        if not used & names and "*" not in names:
            dropped |= _lines(node)
            kept.remove(node)
    return kept, dropped, of_dongu


def _is_for_programs(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "__future__"
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def _lines(node: ast.stmt | ast.expr) -> set[int]:
    return {*range(node.lineno, (node.end_lineno or node.lineno) + 1)}


def _metrics(statements: Sequence[ast.stmt]) -> list[str]:
    """The functions of `metrics = {"kappa": kappa}`; none where it is written otherwise."""
    for statement in statements:
        if isinstance(statement, ast.Assign) and [ast.unparse(target) for target in statement.targets] == ["metrics"]:
            values = statement.value.values if isinstance(statement.value, ast.Dict) else []
            return [ast.unparse(value) for value in values]
    return []


def _beyond(function: ast.FunctionDef, offered: Mapping[str, set[str] | None]) -> Iterator[str]:
    """What a function uses of its arguments beyond the attributes that are offered; of a split its length is too."""
    own = function.args.args[len(function.args.args) - len(function.args.defaults) :]  # with defaults
    names = [argument.arg for argument in function.args.args if argument not in own or argument.arg in offered]
    keys = names if function.name == "order" and {*names} <= offered.keys() else [*offered]  # by name, or by place
    pairs = zip(names, (offered[key] for key in keys), strict=False)
    known = {name: attributes for name, attributes in pairs if attributes is not None}
    fine: set[int] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known:
            fine.add(id(node.value))
            if node.attr not in known[node.value.id]:
                yield f"{node.value.id}.{node.attr}, which {function.name} uses"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len":
            fine |= {id(argument) for argument in node.args if function.name == "order"}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("train", "eval"):
            yield f"train() or eval(), which line {node.lineno} of the file calls"
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and node.id in known and id(node) not in fine:
            yield f"{node.id} as dongu has it, which {function.name} hands on"


def _is_one_pass(function: ast.FunctionDef) -> bool:
    """Whether an update is `backward()` and `step()`, once each and as statements, with others around them."""
    name = function.args.args[1].arg if len(function.args.args) > 1 else ""
    calls = [ast.unparse(node) for node in function.body if isinstance(node, ast.Expr)]
    uses = [ast.unparse(node) for node in ast.walk(function) if isinstance(node, ast.Attribute)]
    made = (f"{name}.backward", f"{name}.step")
    in_order = [call for call in calls if call.removesuffix("()") in made] == [f"{each}()" for each in made]
    return in_order and all(uses.count(each) == 1 for each in made)
