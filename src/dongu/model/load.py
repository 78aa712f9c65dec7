"""A tokenizer and a sequence classifier, from the Hub or from a folder: safetensors only, no remote code."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from torch.nn.modules.module import register_module_module_registration_hook
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers import logging as transformers_logging
from transformers.initialization import no_init_weights
from transformers.modeling_layers import GenericForSequenceClassification

from dongu.config import ABSTAIN_BELOW, DEFAULT_THRESHOLD, PROBLEM_TYPES, Task
from dongu.data.tokens import token_limit
from dongu.errors import ModelError, no_panic
from dongu.hub import asked, commit_of, split_revision
from dongu.model.dropout import set_dropout
from dongu.model.graph import OnnxModel
from dongu.model.head import NO_HEAD, NewHead, declared_labels, draw_head, head_of, why_other
from dongu.model.place import find_model, hub_error
from dongu.model.safety import (
    INDEX_FILE,
    SETTINGS_FILES,
    VOCABULARY_FILES,
    WEIGHTS_NAME,
    check_files,
    check_folder,
    check_tokenizer,
    shards,
    use_local_kernels,
)
from dongu.model.tokenizer_class import check_tokenizer_class
from dongu.text import listed
from dongu.waiting import Waiting

HUB_FILES = [*SETTINGS_FILES, *VOCABULARY_FILES, "tokenizer.*.json", INDEX_FILE]  # all that is read but the weights
NEW_WEIGHTS = 1 << 24  # of a head that the files lack, at most
MOST_MODULES, MODULE_BYTES = 10_000, 1 << 10  # of a model whose files are small; a module more for so many bytes


def load_tokenizer(path: str, option: str = "--model", model: str | None = None, *, graph: bool = False) -> Any:
    """The fast tokenizer of a resolved model, or with `graph` of an ONNX graph; it pads where the head expects it.

    Args:
        path: what `resolve_model` gives; as `--tokenizer` any name, and a folder may be a tokenizer's alone.
        option: by which it was given.
        model: the resolved model that it is for, where that is another.

    Raises:
        ModelError: there is none, or it cannot pad.
    """
    path = find_model(path, option) if option == "--tokenizer" else path
    where = f"{option} {path}"
    with _loading(path, option):
        folder = _checked_folder(path, graph=graph, option=option)
        has_model = (folder / "config.json").exists()
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False) if has_model else None
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, use_fast=True, trust_remote_code=False)
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError("has no fast tokenizer", where=where, hint="it needs a tokenizer.json")
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError("has a tokenizer without a padding token", where=where)
        tokenizer.pad_token = tokenizer.eos_token  # decoders have none; the attention mask hides it
    if model is not None:
        with _loading(model):
            config = AutoConfig.from_pretrained(_checked_folder(model), trust_remote_code=False)
    if config is not None and reads_last_token(config):
        # What comes after a row changes nothing for a decoder; what comes before it shifts learnt positions, and is
        # what the head reads of a row that holds nothing but the padding token.
        tokenizer.padding_side = "right"
    return tokenizer


def load_model(
    path: str,
    *,
    label_names: Sequence[str],
    task: Task,
    pad_token_id: int,
    seed: int,
    dropout: float | None = None,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
) -> Any:
    """`AutoModelForSequenceClassification` in fp32 with a head for these labels; with "auto" as it was saved.

    A classifier of the same labels and task keeps its head, and with it the order of its labels: `config.id2label` has
    it. Every other head is a new one, which `seed` alone decides; then `model.new_head` says why, and else it is None.
    A `dropout` takes the place of every probability of dropout in the config, and is saved with it.

    Raises:
        ModelError: the model cannot be loaded safely, or knows no sequence classification.
    """
    with _loading(path):
        folder = _checked_folder(path, weights=True)
        saved = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if (other := why_other(saved, label_names, task)) is None:
            label_names = declared_labels(saved)
        config = AutoConfig.from_pretrained(
            folder,
            trust_remote_code=False,
            num_labels=len(label_names),
            id2label=dict(enumerate(label_names)),
            label2id={name: i for i, name in enumerate(label_names)},
        )
        use_local_kernels(config)
        config.problem_type = PROBLEM_TYPES[task]
        config.__dict__.pop(ABSTAIN_BELOW, None)  # of another run: what is trained on from here has other probabilities
        if task == "multi-label" and (other or not hasattr(config, "threshold")):
            config.threshold = DEFAULT_THRESHOLD  # of the probability from which on a label is given
        if config.model_type == "reformer":
            what = "a `reformer` trains on rows of one length alone, the product of its `axial_pos_shape`"
            raise ModelError(what, where=f"--model {path}", hint="longformer and big_bird take long rows of any length")
        if dropout is not None:
            set_dropout(config, dropout)
        if reads_last_token(config):
            decoder = config.get_text_config()  # of a model of pictures too, its part for texts
            decoder.pad_token_id = pad_token_id  # whatever it was: by this one the head finds the last token
            decoder.use_cache = False  # keys and values for tokens to come, which nobody generates
        elif getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = pad_token_id
        _check_size(config, folder, f"--model {path}")
        torch.manual_seed(seed)  # the new head
        model, found = AutoModelForSequenceClassification.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # a head for other labels is replaced by a new one
            output_loading_info=True,
        )
    _check_encoder_is_whole(model, found, path)
    model.new_head = _renew_head(model, found, other, seed)
    return _own_memory(model)


def _renew_head(model: Any, found: Any, other: str | None, seed: int) -> NewHead | None:
    """See to it that a head for other labels is new, also one of the same size; say what became of the head."""
    head = head_of(model)
    missing = {key if isinstance(key, str) else key[0] for key in (*found["missing_keys"], *found["mismatched_keys"])}
    if head is not None and f"{head[0]}.weight" in missing:
        absent = f"{head[0]}.weight" in found["missing_keys"]
        return NO_HEAD if absent else NewHead(other or "the model's own has another size", replaced=False)
    if other is None:
        return None
    draw_head(model, seed)
    return NewHead(other, replaced=True)


def fetch_classifier(name: str) -> Path:
    """The files of a classifier of the Hub, `owner/name@revision`, in the folder of its commit in the cache.

    Raises:
        ModelError: the Hub refuses or is out of reach, or the files are not what a model needs.
    """
    with _loading(name):
        return _checked_folder(name, weights=True)


def load_classifier(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer as a run saved them.

    Raises:
        ModelError: the folder is no saved classifier.
    """
    check_folder(folder)
    tokenizer = load_tokenizer(str(folder))
    return load_saved(folder), tokenizer


def load_graph(folder: Path, graph: str) -> tuple[OnnxModel, Any]:
    """An exported graph and its tokenizer.

    Raises:
        ModelError: the folder is no export, or the runtime does not know what is in it.
    """
    tokenizer = load_tokenizer(str(folder), graph=True)
    with _loading(str(folder)):
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    return OnnxModel(folder / graph, config), tokenizer


def load_saved(folder: Path) -> Any:
    """The model of `load_classifier`, without the seconds that a large vocabulary takes."""
    check_folder(folder)
    with _loading(str(folder)):
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        use_local_kernels(config)
        _check_size(config, folder, f"--model {folder}")
        model, found = AutoModelForSequenceClassification.from_pretrained(
            str(folder),
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if missing := sorted(found["missing_keys"]):
        hint = "is it a classifier? one is trained from it by: dongu train DATA --model MODEL"
        raise ModelError(f"lacks weights ({listed(missing, 1)})", where=f"--model {folder}", hint=hint)
    return _own_memory(model)


def reads_last_token(config: Any) -> bool:
    """Whether it is a decoder, whose head reads the last token of a row that is not the padding token."""
    classifier = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    return not config.is_encoder_decoder and (
        issubclass(classifier, GenericForSequenceClassification)
        or "use_cache" in inspect.signature(classifier.forward).parameters
        or config.model_type == "openai-gpt"  # the first GPT, older than either
    )


def _check_encoder_is_whole(model: Any, found: Any, path: str) -> None:
    """A head may be new; an encoder that is new in part would train, badly, and nobody would be told."""
    prefix = f"{model.base_model_prefix}."
    mismatched = [key if isinstance(key, str) else key[0] for key in found["mismatched_keys"]]
    broken = sorted(
        key for key in (*found["missing_keys"], *mismatched) if key.startswith(prefix) and "pooler" not in key
    )
    if broken:
        what = f"its weights do not fill the model that config.json describes ({listed(broken, 1)})"
        raise ModelError(what, where=f"--model {path}", hint="are config.json and the weights of the same model?")


def _check_size(config: Any, folder: Path, where: str) -> None:
    """Build the model that config.json describes, on the device that takes no memory.

    Raises:
        ModelError: it has more weights or more parts than its files could hold.
    """
    held = sum(path.stat().st_size for path in folder.iterdir() if WEIGHTS_NAME.fullmatch(path.name))
    hint = "are config.json and the weights of the same model?"
    modules = 0

    def count(*_: Any) -> None:
        nonlocal modules
        modules += 1
        if modules > MOST_MODULES + held // MODULE_BYTES:
            parts = f"more than {modules - 1:,} parts"
            what = f"config.json describes a model of {parts}, and its files have {held:,} bytes"
            raise ModelError(what, where=where, hint=hint)

    counting = register_module_module_registration_hook(count)
    try:
        with torch.device("meta"), no_init_weights():  # there are no values to draw, which takes most of the time
            model = AutoModelForSequenceClassification.from_config(config)
    finally:
        counting.remove()
    model.tie_weights()
    weights = sum(parameter.numel() for parameter in model.parameters())
    if weights > held + NEW_WEIGHTS:  # a byte a weight at least; the head may be new
        what = f"config.json describes a model of {weights:,} weights, and its files have {held:,} bytes"
        raise ModelError(what, where=where, hint=hint)


def _own_memory(model: Any) -> Any:
    """Copy the weights out of the mapped file.

    A mapped tensor lies wherever the file has it, and matrix products of a few rows round differently by the
    alignment of their operands: the same model would answer with other bits after `fork`, under a launcher, or from
    a file with a longer header. Besides, a mapped file that somebody truncates kills the process.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


def model_columns(model: Any) -> tuple[str, ...]:
    """The inputs that the model's forward takes, of those that a tokenizer makes: all where it takes whatever comes."""
    accepted, inputs = forward_parameters(model), ("input_ids", "attention_mask", "token_type_ids")
    takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in accepted.values())
    if takes_all and "input_ids" not in accepted:
        return inputs
    return tuple(name for name in inputs if name in accepted)


def forward_parameters(model: Any) -> Mapping[str, inspect.Parameter]:
    """What the model's forward takes; of one that torch.compile made, what it was made of does."""
    return inspect.signature(getattr(model, "_orig_mod", model).forward).parameters


def usual_length(model: Any, tokenizer: Any) -> int:
    """`token_limit` of a loaded model and its tokenizer."""
    positions = position_count(model) or getattr(model.config, "max_position_embeddings", None)
    return token_limit(tokenizer.model_max_length, positions)


def position_count(model: Any) -> int | None:
    """Tokens a row for which the model has learnt positions, above which it breaks; None where it computes them."""
    counts = [
        # RoBERTa's kind counts positions from the padding index on: 514 of them hold 512 tokens. OPT's has an offset.
        module.num_embeddings - getattr(module, "offset", 0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in model.named_modules()
        if name.endswith(("position_embeddings", "embed_positions", "wpe")) and isinstance(module, torch.nn.Embedding)
    ]
    configured = getattr(model.config, "max_position_embeddings", None)
    if counts and isinstance(configured, int):
        counts.append(configured)  # Nyströmformer's kind never reads two positions of its table
    return min(counts, default=None)


def check_vocabulary(model: Any, tokenizer: Any, path: str) -> None:
    """
    Raises:
        ModelError: the tokenizer makes ids that the model has no embedding for.
    """
    rows = vocabulary_size(model)
    if rows is not None and len(tokenizer) > rows:
        what = f"the tokenizer has {len(tokenizer):,} ids, the model {rows:,}"
        raise ModelError(what, where=f"--model {path}", hint="tokenizer and model do not belong together")


def vocabulary_size(model: Any) -> int | None:
    """Ids that the model knows; None where it hashes them, and so knows any (CANINE)."""
    try:
        table = model.get_input_embeddings()
    except (NotImplementedError, AttributeError):  # the last of a module of the user's own
        table = None
    size = getattr(table, "num_embeddings", None)  # not of I-BERT's table, and Perceiver gives its latents
    return size if size is not None else getattr(model.config, "vocab_size", None)


@contextmanager
def _loading(path: str, option: str = "--model") -> Iterator[None]:
    """Quiet loading, and one kind of error for the many that transformers raises."""
    try:
        with no_panic(), quiet_transformers(bars=not Path(path).is_dir()), Waiting("loading the model"):
            yield
    except ModelError:
        raise
    except Exception as error:
        raise hub_error(error, path, option) from error


@contextmanager
def quiet_transformers(*, bars: bool = False) -> Iterator[None]:
    """No messages of transformers inside the block, and no progress bars unless something is downloaded."""
    verbosity = transformers_logging.get_verbosity()
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    if not bars:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shown:
            transformers_logging.enable_progress_bar()


def _checked_folder(path: str, *, weights: bool = False, graph: bool = False, option: str = "--model") -> Path:
    """The folder of a resolved model, whose files were checked; for one of the Hub, the snapshot of one commit.

    A branch may move between the check and the loading; a commit cannot.
    """
    where = f"{option} {path}"
    if Path(path).is_dir():
        if option == "--tokenizer":
            check_tokenizer(Path(path))
        else:
            check_folder(Path(path), graph=graph)
        check_tokenizer_class(Path(path), where)
        return Path(path)
    name, commit = split_revision(path)[0], commit_of(path, "model")
    with quiet_transformers():  # no bars for small files
        folder = Path(asked(lambda: snapshot_download(name, revision=commit, allow_patterns=HUB_FILES)))
    check_files(folder, where)
    check_tokenizer_class(folder, where)
    if weights:
        index = folder / INDEX_FILE
        for file in shards(index, where) if index.exists() else ["model.safetensors"]:
            try:
                asked(partial(hf_hub_download, name, file, revision=commit))
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError as error:
                raise ModelError(f"has no {file}", where=where, hint="dongu loads safetensors only") from error
        check_files(folder, where)
    return folder
