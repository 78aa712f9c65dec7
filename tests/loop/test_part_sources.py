"""Changed code of the user's own is noticed wherever it lies: in the file of parts, beside it, or in a script."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import dongu
from dongu.errors import UsageError
from dongu.own import take_own
from dongu.part_sources import imported_files, source_of_part

TREE = {
    "mine.py": "import json\nimport torch\nimport dongu\nfrom helper import SHARE\n"
    "def lr_scheduler(step, total_steps):\n    if step < 0:\n        import late\n    return SHARE\n",
    "helper.py": "from package.inner import SHARE\n",
    "late.py": "import nothing_of_this_name\nimport broken\n",
    "broken.py": "def (\n",
    "package/inner.py": "from . import beside\nfrom .below.deep import SHARE\n",  # without an __init__.py
    "package/beside.py": "def late():\n    import mine\n",
    "package/below/__init__.py": "",
    "package/below/deep.py": "SHARE = 0.5\n",
    "unused.py": "",
    "venv/site-packages/other.py": "",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, content in TREE.items():
        (tmp_path / "parts" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "parts" / name).write_text(content)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # an edit within the same second is not seen by its time
    yield tmp_path / "parts"
    for name in [name for name, module in sys.modules.items() if str(tmp_path) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


def test_what_a_file_imports_of_its_folder_is_found(folder: Path) -> None:
    names = [str(path.relative_to(folder)) for path in imported_files(folder / "mine.py")]
    found = {*TREE} - {"mine.py", "unused.py", "venv/site-packages/other.py"}
    assert names == sorted(found)


def test_a_file_beside_the_parts_is_read_anew_and_that_of_this_folder(folder: Path) -> None:
    """Else a session records code that did not run."""

    def share(file: Path) -> Any:
        own = take_own({}, file)
        return own.lr_scheduler.__globals__["SHARE"], own.beside.get("package/below/deep.py")

    first = share(folder / "mine.py")
    assert first[0] == 0.5
    helper = sys.modules["helper"]
    assert share(folder / "mine.py") == first
    assert sys.modules["helper"] is helper, "nothing has changed"
    (folder / "package/below/deep.py").write_text("SHARE = 0.25\n")
    second = share(folder / "mine.py")
    assert second[0] == 0.25
    assert second[1] != first[1]
    other = folder.parent / "other"
    other.mkdir()
    (other / "mine.py").write_text(TREE["mine.py"])
    (other / "helper.py").write_text("SHARE = 0.75\n")
    assert share(other / "mine.py")[0] == 0.75
    assert share(folder / "mine.py") == second


def test_a_run_does_not_go_on_with_other_code_beside_its_parts(
    folder: Path, data_folder: Callable[..., str], tiny_model: Callable[..., str], tmp_path: Path
) -> None:
    told: Any = {"model": tiny_model(), "max_steps": 2, "quiet": True, "parts": folder / "mine.py"}
    dongu.train(data_folder(train=16), out=str(tmp_path / "run"), **told)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["parts"]["imports"].keys() == take_own({}, folder / "mine.py").beside.keys()
    why = record["promises"]["eject"]
    assert why.startswith("no: a plain script is one file, and that of the parts imports broken.py, helper.py"), why
    (tmp_path / "run" / "results.json").unlink()
    (folder / "package/below/deep.py").write_text("SHARE = 0.25\n")
    with pytest.raises(UsageError, match=r"package/below/deep.py, which the parts of your own import, has changed"):
        dongu.resume(tmp_path / "run", parts=folder / "mine.py", quiet=True)
    (folder / "package/below/deep.py").write_text("SHARE = 0.5\n")
    (folder / "helper.py").write_text("SHARE = 0.5\n")
    with pytest.raises(UsageError, match=r"helper.py, .*has changed; package/.*, which the parts .* imported, is gone"):
        dongu.resume(tmp_path / "run", parts=folder / "mine.py", quiet=True)
    (folder / "helper.py").write_text(TREE["helper.py"])
    dongu.resume(tmp_path / "run", parts=folder / "mine.py", quiet=True)


SCRIPT = """
import functools, math, torch
GAMMA = {gamma}
TIMES = []

def power(losses, by=GAMMA):
    return [losses ** each for each in (by,)]{more}

class Base:
    def of(self, x):
        return x * {base}

class Focal(Base):
    def __init__(self, by):
        self.by = by

    def __call__(self, model, batch):
        return power(torch.ones(1)) * self.by

def loss(model, batch, share={share}):
    TIMES.append(1)
    return power(math.sqrt(2)) * batch.labels

def made(by):
    return lambda model, batch: power(by)
"""
SAME = {"gamma": 2, "more": "", "base": 1, "share": 1}


@pytest.mark.parametrize("changed", [{"gamma": 3}, {"more": "  # other"}, {"share": 2}, {"base": 2}, {}])
def test_what_is_handed_in_is_told_by_what_it_names(changed: dict[str, Any], tmp_path: Path) -> None:
    """Else a script that goes on with a changed helper, or number, is not refused."""

    def sources(name: str, **words: Any) -> dict[str, str]:
        (tmp_path / f"{name}.py").write_text(SCRIPT.format(**words))
        space: dict[str, Any] = {"__name__": "__main__"}
        exec(compile((tmp_path / f"{name}.py").read_text(), str(tmp_path / f"{name}.py"), "exec"), space)
        monkeys = sys.modules["__main__"]
        sys.modules["__main__"] = type(sys)("__main__")
        sys.modules["__main__"].__dict__.update(space, __file__=str(tmp_path / f"{name}.py"))
        try:
            space["TIMES"].append(name)
            parts = {name: space[name] for name in ("loss", "power")}
            parts |= {
                "object": space["Focal"](1),
                "closure": space["made"](1),
                "partial": partial(space["loss"], share=9),
            }
            return {key: source_of_part(part) for key, part in parts.items()}
        finally:
            sys.modules["__main__"] = monkeys

    was, now = sources("one", **SAME), sources("two", **(SAME | changed))
    other = {name for name in was if was[name] != now[name]}
    of = {"gamma": {*was}, "more": {*was}, "share": {"loss", "partial"}, "base": {"object"}}
    assert other == set().union(*(of[name] for name in changed))


def test_what_an_object_was_made_with_counts() -> None:
    import torch

    class Own(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    weights = [torch.zeros(1)]
    was = source_of_part(Own)
    Own(weights, lr=0.1)  # for which PyTorch wraps the step of the class
    assert source_of_part(Own) == was
    assert source_of_part(torch.optim.SGD(weights, lr=0.1)) == source_of_part(torch.optim.SGD([torch.ones(2)], lr=0.1))
    assert source_of_part(torch.optim.SGD(weights, lr=0.1)) != source_of_part(torch.optim.SGD(weights, lr=0.2))
    assert source_of_part(partial(max, 1)) != source_of_part(partial(max, 2))
    assert source_of_part(lambda by=1: by) != source_of_part(lambda by=2: by)
