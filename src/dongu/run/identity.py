"""What the bytes of a result depend on, as it was when the run started, and what has changed since."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from dongu.config import ABSTAIN_BELOW, RunConfig, option_flag
from dongu.data.examples import Examples, digest_of, told_by
from dongu.engine.device import describe_device, describe_processor
from dongu.engine.shard import whole
from dongu.errors import CheckpointError, UsageError
from dongu.extras import RECORDED_VERSIONS
from dongu.loop import Loop
from dongu.model.head import head_of
from dongu.model.place import from_root
from dongu.model.probe import Probe
from dongu.own import Own
from dongu.text import counted
from dongu.waiting import Waiting

version = cache(metadata.version)  # which reads a file each time
# Options that change where things lie or how often the state is saved, and not one bit of the result. The device is
# not among them; it is recorded as the hardware that it stands for. What a recipe has derived is recorded too.
HARMLESS = frozenset(
    {"data", "split_file", "out", "workers", "save_steps", "keep", "device", "strict", "track", "recipe", "timeout"}
)

_NAMED = ("model", "tokenizer")  # options that are a place, or a name on the Hub
# What a model's config.json has and no update depends on: where it comes from, and how its answers are read.
_BESIDE = ("_name_or_path", "transformers_version", "threshold", ABSTAIN_BELOW, "text_columns")
OTHERS = ("data", "parts", "versions", "hardware")  # that may differ, besides options


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was. `name` is what `--allow` calls it, and empty where nothing has to be allowed."""

    name: str
    text: str


@Waiting("digests of rows and weights")
def identity(loop: Loop) -> dict[str, Any]:
    """Options, data, versions, hardware, processes and weights, as JSON has them.

    They are those of a loop before its first step, and before a checkpoint is put into it.
    """
    options = options_of(loop.config, loop.given)
    return {
        "options": {name: value for name, value in options.items() if name not in HARMLESS},
        "data": {
            name: {
                "rows": len(examples),
                "texts": digest_of(examples),
                "tokens": loop.splits[name].pieces.tokens.digest(),
                **_compared(examples),
            }
            for name, examples in loop.data.splits.items()
        },
        "versions": software_versions(quantized=loop.config.base_precision == "4bit"),
        "hardware": {"device": describe_device(loop.accelerator), "cpu": describe_processor()},
        "label_names": [*loop.data.label_names],
        "processes": loop.accelerator.num_processes,
        "weights": _digest_of_weights(loop.model, computed=_probed_names(loop)),
        "architecture": _digest_of_config(loop.model),
        **loop.given.identity(),
    }


def options_of(config: RunConfig, own: Own) -> dict[str, Any]:
    """All of them as JSON has them, and where a model or a tokenizer lies from the root: another folder may be the
    current one when they are read. The name of one of the user's own is no path."""
    options = config.model_dump(mode="json")
    names = [name for name in _NAMED if options[name] and getattr(own, name) is None]
    return options | {name: from_root(options[name]) for name in names}


def _compared(examples: Examples) -> dict[str, str]:
    """What comparisons tell rows by, where the digest of all that is read has more in it, or no texts."""
    return {"compared": told_by(examples)} if examples.columns or examples.digest else {}


def differences(was: Mapping[str, Any], now: Mapping[str, Any], loop: Loop, where: str) -> Iterator[Difference]:
    """What is not as it was, a line each; `was` is an identity that was read from `where`, `now` that of the loop.

    Raises:
        CheckpointError: `was` is no identity.
    """
    known = ("options", "data", "versions", "hardware")
    if not all(isinstance(was.get(name), dict) for name in known) or type(was.get("processes")) is not int:
        raise CheckpointError("does not say what the result depends on", where=where)
    yield from option_differences(was, now)
    if (names := was.get("label_names", now["label_names"])) != now["label_names"]:
        yield Difference("model", f"the labels are {_shown(now['label_names'])}, and were {_shown(names)}")
    for split, old in was["data"].items():
        if split not in now["data"]:
            yield Difference("data", f"the split {split} is gone")
            continue
        new, origin = now["data"][split], loop.data.splits[split].origin
        if new["texts"] != old["texts"]:
            counts = f"{new['rows']:,} rows, and {old['rows']:,} then"
            yield Difference("data", f"{split} has other rows than before ({origin}: {counts})")
        elif new["tokens"] != old["tokens"]:
            yield Difference("data", f"the tokenizer gives other tokens for {split}")
    if (parts := was.get("parts")) != now.get("parts"):
        yield from (Difference("parts", text) for text in other_parts(parts, now.get("parts"), loop.given.file))
    same_seed = was["options"].get("seed") == now["options"]["seed"]  # another one makes another head
    if same_seed and was.get("weights", now["weights"]) != now["weights"]:
        yield Difference("model", f"the weights of --model {loop.config.model} have changed since the start")
    same_dropout = was["options"].get("dropout") == now["options"]["dropout"]  # which is written into the config
    same_library = was["versions"].get("transformers") == now["versions"]["transformers"]  # another has other defaults
    if same_dropout and same_library and was.get("architecture", now["architecture"]) != now["architecture"]:
        yield Difference("model", f"the config.json of --model {loop.config.model} has changed since the start")
    for name, old in was["versions"].items():
        if (new := now["versions"].get(name)) != old:
            yield Difference("" if name == "python" else "versions", f"{name} is {new}, and was {old}")
    for name, old in was["hardware"].items():
        if (new := now["hardware"].get(name)) != old:
            yield Difference("hardware", f"the {name} is {new}, and was {old}")
    if now["processes"] != was["processes"]:  # the order of the rows stays the same, and sums round otherwise
        here = counted(now["processes"], "process", "processes")
        yield Difference("", f"the run has {here}, and had {was['processes']}: other rounding")


def option_differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    """Options that the result depends on and that are not as they were.

    Args:
        was: an identity as it was recorded.
        now: another, or that of the loop.
    """
    same_model = all(was.get(name) == now.get(name) is not None for name in ("weights", "architecture"))
    for name, old in was["options"].items():
        if name in _NAMED and isinstance(old, str) and str(Path(old).absolute()) == now["options"].get(name):
            continue  # a relative path, as an older run.json has it
        if name in _NAMED and same_model:
            continue  # which lies somewhere else; what a tokenizer makes of the rows is compared with them
        if name not in HARMLESS and (new := now["options"].get(name)) != old:
            yield Difference(name.replace("_", "-"), f"{option_flag(name)} is {_shown(new)}, and was {_shown(old)}")


def refuse(found: Collection[Difference], allowed: Collection[str], where: str) -> None:
    """Raise `UsageError` if differences change the result and are not allowed by name, or there is no such name."""
    known = [*(option_flag(name).removeprefix("--") for name in RunConfig.model_fields), *OTHERS]
    if unknown := [name for name in allowed if name not in known]:
        close = get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"names are {', '.join(OTHERS)}, and those of options"
        raise UsageError("is not a name that can be allowed", where=f"--allow {unknown[0]}", hint=hint)
    refused = [difference for difference in found if difference.name and difference.name not in allowed]
    if refused:
        names = " ".join(dict.fromkeys(difference.name for difference in refused))
        raise UsageError(
            f"would not end as it began: {'; '.join(difference.text for difference in refused)}",
            where=where,
            hint=f"put it back as it was, or accept another result: the same command with --allow {names}",
        )


def software_versions(*, quantized: bool = False) -> dict[str, str]:
    """The packages whose version may change a result."""
    names = (*RECORDED_VERSIONS, "bitsandbytes") if quantized else RECORDED_VERSIONS
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _probed_names(loop: Loop) -> set[str]:
    """The parameters that were computed from the others and the rows, and may round otherwise on another processor."""
    begun = loop.config.head == "probe" and isinstance(loop.probed.get(loop.config.pooling), Probe)
    found = head_of(loop.model) if begun else None
    return {f"{found[0]}.{name}" for name, _ in found[1].named_parameters()} if found else set()


def _digest_of_weights(model: Any, computed: Collection[str]) -> str:
    """Of all that a run starts with, the new head and what does not learn among it, which no checkpoint holds."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if name in computed:
            continue
        digest.update(name.encode())
        content: Any = whole(tensor.detach()).cpu().flatten().view(torch.uint8).numpy()  # numpy has no bfloat16
        digest.update(content)
    return digest.hexdigest()


def _digest_of_config(model: Any) -> str:
    """Of what the model's class makes of the weights."""
    config: Any = getattr(model, "config", None)
    content = config.to_dict() if hasattr(config, "to_dict") else {}
    told = {name: value for name, value in content.items() if name not in _BESIDE}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def other_parts(was: Any, now: Any, file: Path | None) -> Iterator[str]:
    """What is not as it was about the parts of the user's own, a line each; `file` is where they come from now."""
    if _parts(was) != _parts(now):
        yield f"the parts of your own are {_parts(now, file)}, and were {_parts(was)}"
    old, new = (parts.get("imports", {}) if isinstance(parts, dict) else {} for parts in (was, now))
    for name in sorted(name for name in {*old, *new} if old.get(name) != new.get(name)):
        how = "import, has changed" if name in new else "imported, is gone"
        how = how if name in old else "import, was not there"
        yield f"{name}, which the parts of your own {how}"


def _parts(parts: Any, file: Path | None = None) -> str:
    if not isinstance(parts, dict):
        return "none"
    return f"{', '.join(parts['names'])} ({f'{file}, ' if file else ''}sha256 {parts['sha256'][:12]})"


def _shown(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)
