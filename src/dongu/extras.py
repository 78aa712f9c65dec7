"""Packages that only some runs need, and how to get them."""

from __future__ import annotations

import re
from importlib.util import find_spec

from dongu.config import RunConfig
from dongu.errors import UsageError, install_hint

RECORDED_VERSIONS = ("dongu", "torch", "transformers", "tokenizers", "accelerate", "datasets", "numpy")  # of each run

_NAMES = re.compile(r"(?:^|[&;])([^=&;]+)=")  # of a query
_SECRET = re.compile(r"(?i)(?:^|[-_.])(?:sig|signature|token|secret|password|passwd|pwd|credentials?|auth|key|apikey)$")


def require_extras(config: RunConfig) -> None:
    """Raise `UsageError` if an option needs a package that is not installed."""
    if config.data and "://" in config.data:
        require_protocol(config.data)
    if config.lora is not None:
        require_packages("peft", where="--lora", hint=install_hint("lora"))
    if config.base_precision == "4bit":
        require_packages("bitsandbytes", where="--base-precision 4bit", hint=install_hint("quant"))
    for name in config.track or ():
        require_packages(name, where=f"--track {name}")


def require_packages(*packages: str, where: str, hint: str = "") -> None:
    """Raise `UsageError` if one of them is not installed."""
    if missing := [name for name in packages if not _installed(name)]:
        what = f"needs the package{'s' if len(missing) > 1 else ''} {' and '.join(missing)}"
        raise UsageError(what, where=where, hint=hint or f"pip install {' '.join(missing)}")


def require_protocol(address: str) -> None:
    """Raise `UsageError` if an address has a secret in it, or fsspec lacks a package to read it."""
    protocol, _, rest = address.partition("://")
    user, at, host = rest.partition("/")[0].rpartition("@")
    if at and ":" in user:
        hint = "give it as the store's own programs take it: the environment, or a file of credentials"
        raise UsageError("has a password in it, which a run would record", where=f"{protocol}://…@{host}", hint=hint)
    path, _, query = rest.partition("#")[0].partition("?")
    if found := next((name for name in _NAMES.findall(query) if _SECRET.search(name)), None):
        what, where = f"has a secret in it (`{found}`), which a run would record", f"{protocol}://{path}?…"
        raise UsageError(what, where=where, hint="fetch the file first: curl -L -o FILE ADDRESS")
    if not is_fsspec(protocol):
        return
    from fsspec.registry import known_implementations

    package = known_implementations[protocol]["class"].partition(".")[0]
    require_packages(package, where=f"{protocol}://", hint=install_hint("s3") if package == "s3fs" else "")


def is_fsspec(protocol: str) -> bool:
    """Whether fsspec reads it, and not `--download` by itself: http alone is read by anybody on the way."""
    from fsspec.registry import known_implementations

    return protocol in known_implementations and protocol not in ("http", "https")


def _installed(package: str) -> bool:
    found = find_spec(package)
    return found is not None and found.origin is not None  # a folder of that name, as wandb leaves one, is no package
