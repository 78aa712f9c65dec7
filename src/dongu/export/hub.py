"""A run's model on the Hub, where somebody asks for that by name: nothing else is ever sent anywhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dongu.errors import InputError, StorageError, UsageError
from dongu.files import read_regular
from dongu.hub import asked, out_of_reach, refusal
from dongu.run.folder import RunFolder
from dongu.text import reason_of, typed

_CARD = "README.md"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*|multilingual|code")
_NAME = re.compile(r"(?!.*(--|\.\.))\w[\w.-]*/\w[\w.-]{0,95}(?<![.-])", re.ASCII)


def check_access(name: str) -> None:
    """Ask the Hub who we are, before hours of training.

    Raises:
        UsageError: there can be no such repository, there is no token, or the Hub does not take it or is out of reach.
    """
    from huggingface_hub import HfApi, get_token

    if not _NAME.fullmatch(name):
        hint = "give OWNER/NAME, with your own name or an organization's for OWNER"
        raise UsageError("is not a valid name for a model on the Hub", where=name, hint=hint)
    if get_token() is None:
        raise UsageError("there is no token for the Hub", where=name, hint="`hf auth login`, or set HF_TOKEN")
    try:
        asked(HfApi().whoami)
    except Exception as error:  # failures of the network, of the token and of the service share no other base
        hint = "check the token and the network, or train without it and push later: dongu push RUN OWNER/NAME"
        raise UsageError(f"the Hub refuses access ({_reason(error, name)})", where=name, hint=hint) from error


def push(
    run: str | Path, name: str, *, public: bool = False, license_id: str | None = None, languages: Sequence[str] = ()
) -> str:
    """Upload the best model with its card and tokenizer, and return its address.

    What `dongu export` has written in the run folder goes along: there transformers.js looks for the graphs.

    Args:
        run: the folder of a finished run.
        name: OWNER/NAME. A repository that is not there is made, private unless `public`; one that is stays what it is.
        license_id: of the model, by the Hub's name for it, for the card.
        languages: of the texts, by their codes, for the card.

    Raises:
        InputError: the folder is no finished run, or its model is not what was written.
        StorageError: the Hub refused, or could not be reached; the run is as it was.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    folder = RunFolder(Path(run))
    folder.read_record()
    if not folder.is_finished:
        raise InputError("the run has not ended", where=str(run), hint=f"continue it: dongu resume {typed(run)}")
    folder.check_written("model/")
    if not (folder.model / _CARD).is_file():
        raise InputError("is not there", where=str(folder.model / _CARD), hint="restore it from a copy")
    places = {path.relative_to(folder.model).as_posix(): path for path in sorted(folder.model.rglob("*"))}
    places |= {f"onnx/{path.name}": path for path in sorted((folder.path / "onnx" / "onnx").glob("*.onnx"))}
    card = published_card(read_regular(places.pop(_CARD)).decode(), name, license_id, languages)
    files = [CommitOperationAdd(place, str(path)) for place, path in places.items() if path.is_file()]
    files.append(CommitOperationAdd(_CARD, card.encode()))
    api = HfApi()
    try:
        address = asked(lambda: api.create_repo(name, private=not public, exist_ok=True))
        message = "Model of dongu, with its card"
        asked(lambda: api.create_commit(name, files, commit_message=message))
    except Exception as error:  # as above
        hint = f"the run is complete; push it later: dongu push {typed(run)} {name}"
        raise StorageError(f"could not be pushed ({_reason(error, name)})", where=name, hint=hint) from error
    return str(address)


def published_card(card: str, name: str, license_id: str | None, languages: Sequence[str]) -> str:
    """The card as it stands on the Hub: its lines load the model from there, and its head has licence and language.

    Raises:
        UsageError: a licence or a language is no word.
    """
    from huggingface_hub import ModelCard

    asked_for = (
        ("--license", [license_id or "other"], _LICENSE, "the Hub's names: apache-2.0, mit, cc-by-4.0, other"),
        ("--language", languages, _LANGUAGE, "codes: en, tr, multilingual"),
    )
    for flag, words, form, hint in asked_for:
        if wrong := [word for word in words if not form.fullmatch(word)]:
            raise UsageError(f"`{wrong[0]}` is not one", where=flag, hint=hint)
    text = card.replace('model=".")  # this folder', f'model="{name}")')
    text = text.replace('from_pretrained(".")', f'from_pretrained("{name}")')
    if license_id is None and not languages:
        return text
    made = ModelCard(text)
    data: Any = made.data
    data.license, data.language = license_id, [*languages] or None
    return str(made)


def _reason(error: Exception, name: str) -> str:
    if out_of_reach(error) and (told := refusal(error, name, "model")):
        return told[0]
    return reason_of(error)
