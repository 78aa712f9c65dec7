"""What a model's files may ask of transformers: data, never code, and never another place.

transformers runs no remote code unless it is told to, but its configuration files still decide which class loads the
folder, which kernel is downloaded, and which files are read: `"tokenizer_class": "AutoModel"`, for one, reaches
`torch.load`. So every file is looked at here before transformers opens it, and before torch is loaded.
"""

from __future__ import annotations

import ast
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dongu.errors import ModelError
from dongu.files import open_regular, read_regular
from dongu.text import typed

SETTINGS_LIMIT = 8 * 2**20  # bytes of a JSON file of settings, and of the header of a safetensors file
VOCABULARY_LIMIT = 256 * 2**20  # bytes; the largest published tokenizer.json has 35 MB
TENSOR_LIMIT = 100_000  # in one file
# What config.json may count, far above any published model: with more, transformers would be at it for hours.
COUNT_LIMITS = (
    (re.compile("layer"), 10_000),
    (re.compile("vocab|position|size|dim|hidden|inner|ffn|width|head|expert|group|block"), 2**24),
)
FOLLOWED_FILES = ("config.json", "tokenizer_config.json", "special_tokens_map.json")
ADAPTER_CONFIG = "adapter_config.json"  # of peft
SETTINGS_FILES = (*FOLLOWED_FILES, "added_tokens.json", ADAPTER_CONFIG, "chat_template.jinja")
INDEX_FILE = "model.safetensors.index.json"
VOCABULARY_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)

# Keys that make transformers run, fetch or open something, where they hold anything at all; at any depth.
REFUSED_KEYS = {
    "auto_map": "wants to run code of its own",
    "custom_pipelines": "wants to run code of its own",
    "trust_remote_code": "wants to run code of its own",
    "kernel_config": "wants to run code from the Hub",
    "use_kernels": "wants to run code from the Hub",
    "quantization_config": "is quantized",
    "configuration_files": "hands over to another file",
    "backbone": "names another model",
    "use_pretrained_backbone": "names another model",
    "_auto_class": "wants to be saved with code",
}
# Arguments of tokenizer classes, which take a path for some of them. `tokenizer_file` and its like, of which published
# models are full, are not here: transformers puts the files of the folder in their place.
REFUSED_TOKENIZER_KEYS = ("vocab", "merges", "init_inputs", "gguf_file", "tokenizer_object")
CLASSIFIERS = "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"  # transformers' name for the table of them
LABEL_KEYS = ("id2label", "label2id")  # hold the names of classes, which may be any words
HINTS = {
    "wants to run code of its own": "dongu runs no remote code; use a model that transformers itself implements",
    "is quantized": "fine-tuning needs the weights themselves: use the model that this one was made from",
}

IMPLEMENTATION_KEY = re.compile(r"_?(attn|experts)_implementation(_internal)?")
LOCAL_ATTENTION = ("eager", "sdpa", "flex_attention")  # torch has these; the others may be downloaded
OTHER_ATTENTION = ("flash_attention_2", "flash_attention_3", "flash_attention_4", "paged|eager")
LOCAL_EXPERTS = ("eager", "batched_mm", "grouped_mm")
OTHER_EXPERTS = ("deepgemm", "sonicmoe")

WEIGHTS_NAME = re.compile(r"\w[\w.-]*\.safetensors")
WEIGHTS_OR_INDEX_NAME = re.compile(r"\w[\w.-]*\.safetensors(\.index\.json)?")
TOKENIZER_NAME = re.compile(r"tokenizer\.(\w[\w.-]*\.)?json")
DISTRIBUTED_NAME = re.compile(r"shard-\d{5}-model-.*\.safetensors")  # makes transformers leave its usual way of loading


# An exported graph, and the one with weights of eight bits: where transformers.js and Optimum look for them.
GRAPH, GRAPH_INT8 = "onnx/model.onnx", "onnx/model_quantized.onnx"


def check_folder(folder: Path, *, graph: bool = False) -> None:
    """Refuse a folder that lacks what a model needs, or whose files are not plain data.

    With `graph` it may be an export: an ONNX graph does in place of weights.

    Raises:
        ModelError: with the folder, and the file.
    """
    where = f"--model {folder}"
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    _refuse_adapter(folder, where)
    if "config.json" not in names:
        of_run = f"it is a run: train on from its model, --model {folder / 'model'}"
        hint = of_run if "run.json" in names else "a model folder is what save_pretrained writes"
        raise ModelError("has no config.json", where=where, hint=hint)
    if not any(name.endswith(".safetensors") for name in names) and not (graph and (folder / GRAPH).is_file()):
        unsafe = any(name.endswith((".bin", ".pt", ".pth")) for name in names)
        reason = "has pickled weights only, which can run code" if unsafe else "has no model.safetensors"
        raise ModelError(reason, where=where, hint="save it again with save_pretrained of a current transformers")
    if not names & {*VOCABULARY_FILES} - {"merges.txt"}:
        raise ModelError("has no tokenizer.json", where=where, hint="save the tokenizer into the same folder")
    check_files(folder, where)


def check_tokenizer(folder: Path) -> None:
    """Refuse a folder without a tokenizer, or whose files are not plain data; it may be a model's.

    Raises:
        ModelError: with the folder, and the file.
    """
    where = f"--tokenizer {folder}"
    if not {path.name for path in folder.iterdir()} & {*VOCABULARY_FILES} - {"merges.txt"}:
        raise ModelError("has no tokenizer.json", where=where, hint="it is what tokenizer.save_pretrained writes")
    check_files(folder, where, has_model=(folder / "config.json").exists())


def check_files(folder: Path, where: str, *, has_model: bool = True) -> None:
    """Read what transformers would follow, and refuse what is not plain data of this folder.

    It is a model's, or a tokenizer's alone, or a snapshot in the Hub's cache, whose files are links.

    Raises:
        ModelError: with the file and the key.
    """
    files = {path.name: path for path in sorted(folder.iterdir()) if _is_read(path.name)}
    for name, path in files.items():
        _check_kind(name, path, where)
    _refuse_adapter(folder, where)
    settings = {name: read_object(files[name], where) for name in FOLLOWED_FILES if name in files}
    for name, values in settings.items():
        _check_settings(name, values, where)
    if has_model:
        _check_model_type(settings.get("config.json", {}), where)
    for name, path in files.items():
        if name.endswith(".safetensors.index.json"):
            shards(path, where)
        elif name.endswith(".safetensors"):
            _check_header(name, path, where)


def _refuse_adapter(folder: Path, where: str) -> None:
    if (folder / ADAPTER_CONFIG).is_file():
        hint = "merge it into its model first: `merge_and_unload` of peft, then save_pretrained"
        if (folder.parent / "config.json").is_file() and [*folder.parent.glob("*.safetensors")]:  # as a run saves it
            hint = f"it is merged into the model beside it: give {typed(folder.parent)}"
        raise ModelError(f"is an adapter of another model ({ADAPTER_CONFIG})", where=where, hint=hint)


def read_object(path: Path, where: str) -> dict[str, Any]:
    """A JSON object, each of whose keys stands there once: what we check is what transformers gets.

    Raises:
        ModelError: it is none.
    """
    try:
        return _parse_object(path.name, read_regular(path, SETTINGS_LIMIT, follow=True), where)
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read ({error.strerror})", where=where) from error


def shards(index: Path, where: str) -> list[str]:
    """Names of the files that an index of weights spreads them over: safetensors, beside the index.

    Raises:
        ModelError: it names other files, or none.
    """
    weight_map = read_object(index, where).get("weight_map")
    names = sorted({str(name) for name in weight_map.values()}) if isinstance(weight_map, dict) else []
    for name in names:
        if not WEIGHTS_NAME.fullmatch(name):
            what = f"{index.name} sends `weight_map` to {shown(name)}"
            raise ModelError(what, where=where, hint=_beside(".safetensors"))
    if not names:
        raise ModelError(f"{index.name} has no `weight_map`", where=where)
    return names


@cache
def classifiers() -> dict[str, str]:
    """The class of the sequence classifier of each `model_type` that transformers has one for.

    The table is read and not imported: its module takes torch along.
    """
    package = find_spec("transformers")
    root = Path(package.origin).parent if package is not None and package.origin is not None else Path()
    for node in ast.parse((root / "models/auto/modeling_auto.py").read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == CLASSIFIERS
            and isinstance(node.value, ast.Call)
        ):
            return dict(ast.literal_eval(node.value.args[0]))
    raise ModelError("transformers has no table of sequence classifiers", where=str(root))


def use_local_kernels(config: Any) -> None:
    """Let the model choose its attention where config.json names one that transformers may have to download."""
    if config._attn_implementation not in (None, *LOCAL_ATTENTION):
        config._attn_implementation = None
    if config._experts_implementation not in (None, *LOCAL_EXPERTS):
        config._experts_implementation = None
    for key in config.sub_configs:
        if (part := getattr(config, key, None)) is not None:
            use_local_kernels(part)


def _check_kind(name: str, path: Path, where: str) -> None:
    """A pipe would hang whoever reads it, a link to a device would never end."""
    try:
        found = path.stat()
    except OSError as error:
        raise ModelError(f"{name} cannot be read ({error.strerror})", where=where) from error
    if not stat.S_ISREG(found.st_mode):
        raise ModelError(f"{name} is not a regular file", where=where)
    if not os.access(path, os.R_OK):
        raise ModelError(f"{name} cannot be read (permission denied)", where=where)
    if DISTRIBUTED_NAME.fullmatch(name):
        raise ModelError(f"{name} is a distributed checkpoint", where=where, hint="save the whole with save_pretrained")
    limit = VOCABULARY_LIMIT if _is_vocabulary(name) else SETTINGS_LIMIT
    if found.st_size > limit and not name.endswith(".safetensors"):
        raise ModelError(f"{name} has {found.st_size:,} bytes, above {limit:,}", where=where)


def _parse_object(name: str, content: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(content.decode("utf-8"), object_pairs_hook=partial(_unique, name, where))
    except ValueError as error:
        raise ModelError(f"{name} is not JSON ({error})", where=where) from error
    except RecursionError:
        raise ModelError(f"{name} is nested too deeply", where=where) from None
    if not isinstance(found, dict):
        raise ModelError(f"{name} holds no object", where=where)
    return found


def _unique(name: str, where: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ModelError(f"{name} has `{shown(key)[1:-1]}` twice", where=where)
        found[key] = value
    return found


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth; without recursion, which a nested file could exhaust."""
    left = [value]
    while left:
        here = left.pop()
        if isinstance(here, list):
            left.extend(here)
        elif isinstance(here, dict):
            yield from here.items()
            left.extend(inner for key, inner in here.items() if key not in LABEL_KEYS)


def _check_settings(name: str, values: Mapping[str, Any], where: str) -> None:
    for key, value in _pairs(values):
        if value and (reason := REFUSED_KEYS.get(key)):
            raise ModelError(f"{name} {reason} (`{key}`)", where=where, hint=HINTS.get(reason, ""))
        if IMPLEMENTATION_KEY.fullmatch(key):
            _check_implementation(name, key, value, where)
        if name == "config.json":
            _check_count(key, value, where)
        if key == "transformers_weights" and value and not _is_name(value, WEIGHTS_OR_INDEX_NAME):
            raise ModelError(f"{name} sends `{key}` to {shown(value)}", where=where, hint=_beside(".safetensors"))
    if name == "special_tokens_map.json":
        # transformers merges all of it into the arguments of the tokenizer's class, file names included.
        for key in values:
            if not key.endswith(("_token", "_tokens")):
                raise ModelError(f"{name} has `{shown(key)[1:-1]}`, which is not a special token", where=where)
        return
    if name == "tokenizer_config.json":
        for key in REFUSED_TOKENIZER_KEYS:
            if values.get(key):
                raise ModelError(f"{name} replaces the tokenizer's files (`{key}`)", where=where)
        others = values.get("fast_tokenizer_files") or []
        if not isinstance(others, list) or not all(_is_name(other, TOKENIZER_NAME) for other in others):
            what = f"{name} sends `fast_tokenizer_files` to {shown(others)}"
            raise ModelError(what, where=where, hint=_beside(".json"))


def _check_count(key: str, value: Any, where: str) -> None:
    limit = next((limit for form, limit in COUNT_LIMITS if form.search(key)), None)
    if limit is not None and isinstance(value, int | float) and not -limit <= value <= limit:
        raise ModelError(f"config.json has `{shown(key)[1:-1]}` {shown(value)}, above {limit:,}", where=where)


def _check_implementation(name: str, key: str, value: Any, where: str) -> None:
    """A name with a slash is a repository of the Hub whose code transformers downloads and runs."""
    known = (*LOCAL_ATTENTION, *OTHER_ATTENTION, *LOCAL_EXPERTS, *OTHER_EXPERTS, None)
    for choice in value.values() if isinstance(value, dict) else (value,):
        if choice not in known:
            what = f"{name} wants an implementation that transformers does not have (`{key}`: {shown(choice)})"
            raise ModelError(what, where=where, hint="take the key out: dongu runs no remote code")


def _check_model_type(config: Mapping[str, Any], where: str) -> None:
    kind = config.get("model_type")
    known = classifiers()
    if isinstance(kind, str) and kind in known:
        return
    if kind is None:
        raise ModelError("config.json has no `model_type`", where=where, hint='a BERT needs "model_type": "bert"')
    what = f"config.json has the `model_type` {shown(kind)}, of which transformers has no sequence classifier"
    hint = "bert, roberta, distilbert and modernbert are some that have one"
    if close := get_close_matches(str(kind), known, n=1):
        hint = f"did you mean {close[0]!r}?"
    raise ModelError(what, where=where, hint=hint)


def _check_header(name: str, path: Path, where: str) -> None:
    """The header of a safetensors file: its length as 8 bytes, then a JSON object with a tensor a key."""
    with os.fdopen(open_regular(path, os.O_RDONLY, follow=True), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or 8 + length > size:
            raise ModelError(f"{name} cannot be loaded: it is cut off, or no safetensors file", where=where)
        if length > SETTINGS_LIMIT:
            raise ModelError(f"{name} has a header of {length:,} bytes, above {SETTINGS_LIMIT:,}", where=where)
        header = _parse_object(name, file.read(length), where)
    tensors = [tensor for key, tensor in header.items() if key != "__metadata__" and isinstance(tensor, dict)]
    if size < 8 + length + max((_end_of(tensor) for tensor in tensors), default=0):
        raise ModelError(f"{name} cannot be loaded: it is cut off", where=where)
    if len(header) > TENSOR_LIMIT:
        raise ModelError(f"{name} has {len(header):,} tensors, above {TENSOR_LIMIT:,}", where=where)


def _end_of(tensor: Mapping[str, Any]) -> int:
    """Where the bytes of a tensor end, after the header; 0 where that is not said as it should be."""
    match tensor.get("data_offsets"):
        case [int(), int(end)]:
            return end
    return 0


def _is_read(name: str) -> bool:
    """Of all that may lie in a folder, what transformers opens."""
    return name in SETTINGS_FILES or _is_vocabulary(name) or WEIGHTS_OR_INDEX_NAME.fullmatch(name) is not None


def _is_vocabulary(name: str) -> bool:
    return name in VOCABULARY_FILES or TOKENIZER_NAME.fullmatch(name) is not None


def _is_name(value: Any, form: re.Pattern[str]) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None


def _beside(kind: str) -> str:
    return f"it may only name {kind} files beside it"


def shown(value: Any) -> str:
    """A value of the file in a message: escaped, on one line, short."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
