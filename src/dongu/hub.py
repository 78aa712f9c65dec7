"""The Hub: the commit that a name stands for, asked for again where that helps, and what a refusal means."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from dongu.text import reason_of

Kind = Literal["model", "dataset"]
Answer = TypeVar("Answer")

WAITS_SECONDS = (0.5, 2.0, 5.0)  # between the tries
LONGEST_WAIT_SECONDS = 60.0  # that the Hub may ask for by `Retry-After`
REACH_SECONDS = 5.0  # for the first answer: a network that swallows everything would keep us for minutes

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LOG_IN = "`hf auth login`, or set HF_TOKEN"


def split_revision(name: str) -> tuple[str, str | None]:
    """`owner/name@v1` → `owner/name` and `v1`, which is a branch, a tag or a commit."""
    repository, _, revision = name.partition("@")
    return repository, revision or None


def split_commit(name: str) -> tuple[str, str | None]:
    """The same where the revision is a whole commit; any other name as it is, and None."""
    repository, revision = split_revision(name)
    return (repository, revision) if revision and _COMMIT.fullmatch(revision) else (name, None)


def join_commits(record: dict[str, Any]) -> Any:
    """The options of a `run.json`, with its commits in the names: so a repeated run is made of what the first was.

    Raises:
        KeyError, ValueError: there are no options, or commits that are none.
    """
    options, commits = record["options"], record.get("commits", {})
    if not (isinstance(options, dict) and isinstance(commits, dict)):
        return options
    for part, commit in commits.items():
        if part not in ("model", "data") or not (isinstance(commit, str) and _COMMIT.fullmatch(commit)):
            raise ValueError(f"`commits` has {part!r}: {commit!r}")
    pinned = {part: f"{split_revision(str(options.get(part)))[0]}@{commit}" for part, commit in commits.items()}
    return {"recipe": "original", **options, **pinned}  # which runs had before there were others


def commit_of(name: str, kind: Kind) -> str:
    """The commit that `owner/name` or `owner/name@revision` is now; by the cache where the Hub is out of reach.

    Raises:
        Exception: what `refusal` has words for.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionResolutionError

    repository, revision = split_revision(name)
    try:
        return ask_commit(name, kind)
    except Exception as error:
        if not out_of_reach(error):
            raise
        try:
            cached = HfApi().resolve_revision(repository, repo_type=kind, revision=revision, local_files_only=True)
        except RevisionResolutionError:
            raise error from None
        say_cached(name, error, f", commit {cached.resolved}")
        return cached.resolved


def ask_commit(name: str, kind: Kind) -> str:
    """The same by the Hub alone; a commit is what it is, and nobody is asked."""
    from huggingface_hub import HfApi, is_offline_mode
    from huggingface_hub.errors import OfflineModeIsEnabled

    repository, revision = split_revision(name)
    if revision and _COMMIT.fullmatch(revision):
        return revision
    if is_offline_mode():
        raise OfflineModeIsEnabled(f"{name} is not asked for: HF_HUB_OFFLINE is set")
    api = HfApi()
    asked(lambda: api.repo_info(repository, repo_type=kind, revision=revision, timeout=REACH_SECONDS))
    return api.resolve_revision(repository, repo_type=kind, revision=revision).resolved  # which the cache remembers


def say_cached(name: str, error: BaseException, what: str = "") -> None:
    """A line about the Hub that is out of reach, unless that was asked for."""
    from huggingface_hub import is_offline_mode

    if not is_offline_mode():
        log = logging.getLogger("dongu")
        log.warning("the Hub is out of reach (%s): %s is the cache's%s", reason_of(error), name, what)


def asked(ask: Callable[[], Answer]) -> Answer:
    """An answer of the Hub, which is asked again where it has too much to do, fails, or cuts the connection."""
    waits = iter(WAITS_SECONDS)
    while True:
        try:
            return ask()
        except Exception as error:
            wait = _wait_seconds(error, next(waits, None))
            if wait is None:
                raise
        time.sleep(wait)


def _wait_seconds(error: Exception, usual: float | None) -> float | None:
    """How long to wait before the next try; None where there shall be none."""
    status, http = _status(error)
    if usual is None or not (status == 429 or status >= 500 or _was_cut(error)):
        return None
    wanted = http.response.headers.get("Retry-After", "") if http is not None else ""
    seconds = float(wanted) if wanted.isdecimal() else 0.0
    return max(usual, seconds) if seconds <= LONGEST_WAIT_SECONDS else None


def out_of_reach(error: Exception) -> bool:
    """Whether the Hub said nothing about the name: no network, none wanted, or it has no time."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    status, _ = _status(error)
    return status == 429 or status >= 500 or _find(error, OfflineModeIsEnabled, _httpx().TransportError) is not None


def refusal(error: Exception, name: str, kind: Kind) -> tuple[str, str] | None:
    """What went wrong with the Hub, and what to do about it; None where the error, with its causes, is another one."""
    from huggingface_hub import constants, errors, get_token

    repository, revision = split_revision(name)
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repository}"
    local = "a local folder or `--model minilm` does not" if kind == "model" else "a local folder or file does not"
    token = get_token() is not None
    noun, tries = "model" if kind == "model" else "data set", f"{len(WAITS_SECONDS) + 1} times"
    status, http = _status(error)
    reason = reason_of(error)
    if _find(error, errors.GatedRepoError):
        lacks = "your token has no access to it" if token else "there is no token for the Hub"
        log_in = "" if token else f"; then {_LOG_IN}"
        return f"is gated, and {lacks}", f"accept the terms at {page}{log_in}"
    if _find(error, errors.RevisionNotFoundError):
        return f"has no revision {revision} on the Hub", f"its revisions: {page}/commits/main; without @ it is `main`"
    if _find(error, errors.RepositoryNotFoundError):
        private = "your token has no access to" if token else "nobody may see without a token"
        hint = f"check the name{'' if token else f'; for a private one: {_LOG_IN}'}"
        return f"is no {noun} on the Hub, or a private one that {private}", hint
    if status == 401:
        return "the Hub does not take the token (401)", f"{_LOG_IN} to a valid one; a public {noun} needs none"
    if status == 429:
        hint = f"try again in some minutes; with a token the limit is higher: {_LOG_IN}"
        return "the Hub takes no more requests for now (429)", hint
    if status >= 500:
        hint = "try again later; https://status.huggingface.co shows its status"
        return f"the Hub has failed ({status}, {tries})", hint
    if http is not None:
        settings = f"check what your token may do at {constants.ENDPOINT}/settings/tokens"
        return f"the Hub refuses ({status}: {http.server_message or reason})", settings if status == 403 else page
    if _was_cut(error):
        return f"the Hub cut the connection ({tries})", f"try again; the Hub needs a network, {local}"
    if _find(error, errors.OfflineModeIsEnabled) or (
        constants.is_offline_mode() and _find(error, errors.LocalEntryNotFoundError, errors.RevisionResolutionError)
    ):
        return "is not in the cache, or not all of it, and HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE to download it"
    if unreachable := _find(error, _httpx().TransportError):
        return f"the Hub is out of reach ({unreachable})", f"check the network: the Hub needs one, {local}"
    if _find(error, errors.HFValidationError):
        hint = "give a folder, or a name on the Hub: owner/name, owner/name@revision"
        return f"cannot be a name on the Hub ({reason})", hint
    return None


def _was_cut(error: BaseException) -> bool:
    found = _find(error, _httpx().NetworkError, _httpx().RemoteProtocolError)
    return found is not None and not isinstance(found, _httpx().ConnectError)  # where nobody is, nobody will be


def _status(error: BaseException) -> tuple[int, Any]:
    """The status of the Hub's answer, and the error that has it; 0 and None where it gave none."""
    from huggingface_hub.errors import HfHubHTTPError

    http: Any = _find(error, HfHubHTTPError)
    return (0, None) if http is None else (http.response.status_code, http)


def _find(error: BaseException, *kinds: type[BaseException]) -> BaseException | None:
    """The error of these kinds among this one and what it came of."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen and not isinstance(cause, kinds):
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return cause if isinstance(cause, kinds) else None


def _httpx() -> Any:
    """The library that the Hub's speaks with: httpx, or what has come after it."""
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    return httpx
