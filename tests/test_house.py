"""The house rules, held by the syntax tree: one direction of imports, short loop, no pickle, light start."""

from __future__ import annotations

import ast
import functools
import graphlib
import inspect
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dongu
from conftest import spread
from dongu.cli.main import COMMANDS
from dongu.loop import Loop

PACKAGE = Path(dongu.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# From the top of the house down: a module imports at its head only from its own storey's earlier rooms or from below.
STOREYS = [
    ["dongu.text", "dongu.waiting"],
    ["dongu.errors"],
    ["dongu.hub"],
    ["dongu.relocation"],
    [
        "dongu.values",
        "dongu.config",
        "dongu.recipe_file",
        "dongu.options",
        "dongu.space",
        "dongu.files",
        "dongu.extras",
        "dongu.launch",
        "dongu.interrupts",
        "dongu.draws",
    ],
    ["dongu.data"],
    ["dongu.model", "dongu.engine"],
    ["dongu.judge"],
    ["dongu.evaluate", "dongu.doctor"],
    ["dongu.plain_parts", "dongu.part_sources"],
    ["dongu.own"],
    ["dongu.consistency", "dongu.contract", "dongu.parts", "dongu.update", "dongu.loop"],
    ["dongu.run"],
    ["dongu.comparison", "dongu.eject", "dongu.export", "dongu.use", "dongu.teach"],
    ["dongu.page", "dongu.serve"],
    ["dongu.baseline"],
    ["dongu.best"],
    ["dongu.running", "dongu.verify"],
    ["dongu.asked", "dongu.training", "dongu.soup", "dongu.sweep", "dongu.folds", "dongu.estimator", "dongu.tune"],
    ["dongu.demo"],
    ["dongu.cli"],
    ["dongu.__main__"],
]
BANNED_MODULES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "yaml"}
BANNED_CALLS = {"torch.load", "torch.save", "os.system", "eval", "exec", "tempfile.mktemp"}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


@functools.cache
def trees() -> list[tuple[str, ast.Module]]:
    return [(name_of(path), ast.parse(path.read_text(encoding="utf-8"))) for path in MODULES]


def imports(tree: ast.Module, *, inside: bool = False) -> set[str]:
    """What a module imports at its head; `inside`: in functions too, but not what only types need."""
    names: set[str] = set()
    for node in _statements(tree) if inside else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from _statements(child)


def storey(name: str) -> int:
    found = [i for i, rooms in enumerate(STOREYS) if any(name == room or name.startswith(room + ".") for room in rooms)]
    assert found, f"{name} stands on no storey: put it into the plan"
    return found[0]


def test_imports_go_down_only() -> None:
    modules = {name for name, _ in trees()}
    seen = 0
    for name, tree in trees():
        if name == "dongu":
            continue
        for imported in imports(tree, inside=True) & modules - {"dongu"}:
            seen += 1
            assert storey(imported) <= storey(name), f"{name} imports {imported}"
    assert seen > 50


def test_no_cycle() -> None:
    parsed = dict(trees())
    graph = {name: imports(tree) & (parsed.keys() - {"dongu"}) for name, tree in parsed.items()}
    graphlib.TopologicalSorter(graph).prepare()  # names the cycle


def test_the_cases_that_are_run_are_spread_over_all() -> None:
    items: list[Any] = [*range(9)]
    assert [spread(items, number) for number in (0, 1, 3, 9, 12)] == [[], [4], [1, 4, 7], items, items]


def test_no_file_is_long() -> None:
    lengths = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}


def names_of(node: ast.stmt) -> set[str]:
    """What a statement at the head of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def test_no_public_name_stands_twice() -> None:
    homes: dict[str, set[str]] = {}
    for module, tree in trees():
        for name in {name for node in tree.body for name in names_of(node) if not name.startswith("_")}:
            homes.setdefault(name, set()).add(module)
    twice = {name: modules for name, modules in homes.items() if len(modules) > 1}
    del twice["pearson"]  # which an ejected script has as it is
    assert twice == {}


def test_the_loop_is_short() -> None:
    source = textwrap.dedent(inspect.getsource(Loop.__iter__))
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert (function.end_lineno or 0) - function.body[0].lineno + 1 < 80


def test_nothing_banned_is_called() -> None:
    calls = 0
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & BANNED_MODULES, name
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in BANNED_MODULES, name
            elif isinstance(node, ast.Call):
                calls += 1
                assert ast.unparse(node.func) not in BANNED_CALLS, f"{name}:{node.lineno}"
                for keyword in node.keywords:
                    value = ast.unparse(keyword.value)
                    assert (keyword.arg, value) not in {("trust_remote_code", "True"), ("shell", "True")}, name
            assert not isinstance(node, ast.Assert), f"{name}:{getattr(node, 'lineno', 0)}: assert in the package"
            assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"{name}: bare except"
    assert calls > 500


READS_DATA = {
    "dongu.data.readers",
    "dongu.data.download",
    "dongu.data.archives",
    "dongu.data.excel",
    "dongu.eject.reading",
}  # files that the user names
READS_THE_SYSTEM = {"dongu.engine.device", "dongu.model.safety"}  # /proc, transformers


def test_files_are_opened_in_one_place() -> None:
    """`files.open_regular` follows no link and waits for no pipe; the user's data may be what they are."""
    for name, tree in trees():
        if name in {"dongu.files", *READS_DATA, *READS_THE_SYSTEM}:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                words = ast.unparse(node)
                opens = ast.unparse(node.func).split(".")[-1] in {"open", "read_text", "read_bytes", "write_text"}
                known = any(word in words for word in ("__file__", "open_regular", "os.devnull", "SavedModel.open"))
                assert not opens or known, f"{name}:{node.lineno}: {words}"


def test_public_names_are_sorted_complete_and_resolve() -> None:
    assert list(dongu.__all__) == sorted(dongu.__all__)
    for name in dongu.__all__:
        assert getattr(dongu, name) is not None


HEAVY = ("torch", "transformers", "datasets", "accelerate", "numpy", "scipy", "pyarrow", "jinja2", "tqdm")


def test_import_and_help_load_little() -> None:
    """In one process, from what loads least to what loads most; `--help` is to answer within 0.3 seconds."""
    commands = {name for name, _ in (home.split(":") for home, _ in COMMANDS.values())}
    least = {*HEAVY, "pydantic", "json", "tomllib", "dongu.config", *(f"dongu.cli.{name}" for name in commands)}
    calls: list[tuple[list[str], set[str]]] = [
        ([], least),
        (["--help"], least),
        (["-V"], least),
        (["runs", "--help"], least - {"dongu.cli.runs"}),
        (["eject", "--help"], least - {"json", "dongu.cli.share", "dongu.cli.runs"}),
        (["train", "--help"], {*HEAVY, "tomllib", "dongu.cli.show"}),
        (["inspect", "--help"], {*HEAVY, "tomllib"}),
    ]
    program = (
        "import sys, contextlib, dongu\nprint(*sys.modules, file=sys.stderr)\nfrom dongu.cli.main import run\n"
        f"for call in {[call for call, _ in calls]}:\n"
        "    with contextlib.suppress(SystemExit):\n        run(call)\n"
        "    print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    for (call, unwanted), loaded in zip([(["import"], least), *calls], lines, strict=True):
        assert not unwanted & {*loaded.split()}, call
