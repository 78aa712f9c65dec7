"""A saved tokenizer by its files alone, where transformers is known to make the same of them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from dongu.files import read_regular
from dongu.model.safety import VOCABULARY_LIMIT, read_object

Settings = Mapping[str, Any]  # a file of JSON

BERT_SPECIAL_TOKENS = ("cls_token", "mask_token", "pad_token", "sep_token", "unk_token")
SPECIAL_TOKENS = (*BERT_SPECIAL_TOKENS, "bos_token", "eos_token")
# Of tokenizer_config.json: what is read here, and what changes no token.
KNOWN_SETTINGS = frozenset((
    *SPECIAL_TOKENS, "add_prefix_space", "backend", "clean_up_tokenization_spaces", "do_basic_tokenize",
    "do_lower_case", "errors", "extra_special_tokens", "is_local", "local_files_only", "max_length",
    "model_input_names", "model_max_length", "never_split", "pad_to_multiple_of", "pad_token_type_id", "padding_side",
    "stride", "strip_accents", "tokenize_chinese_chars", "tokenizer_class", "trim_offsets", "truncation_side",
    "truncation_strategy",
))  # fmt: skip
OLDER_FILES = ("added_tokens.json", "special_tokens_map.json")  # which say more of the tokens
TOKENIZER_PARTS = ("normalizer", "pre_tokenizer", "model", "post_processor")  # of tokenizer.json


@dataclass(frozen=True)
class SavedTokenizer:
    """What `tokenize` asks of a tokenizer of transformers.

    `model_max_length` is whatever tokenizer_config.json says. `special` are the tokens that a text may name: how they
    are cut out of it is not known here.
    """

    backend_tokenizer: Any
    model_input_names: Collection[str]
    truncation_side: Any
    model_max_length: Any
    name_or_path: str
    special: Collection[str]
    split_special_tokens: bool = False

    def num_special_tokens_to_add(self) -> int:
        """Of a row of one text."""
        return int(self.backend_tokenizer.num_special_tokens_to_add(False))


def saved_tokenizer(folder: Path) -> SavedTokenizer | None:
    """The tokenizer of a checked folder; None where transformers might make another one, or pads on the left.

    Raises:
        Exception: the files are not what a tokenizer's should be.
    """
    settings = read_object(folder / "tokenizer_config.json", str(folder))
    if not settings.keys() <= KNOWN_SETTINGS or any((folder / name).exists() for name in OLDER_FILES):
        return None
    content = read_regular(folder / "tokenizer.json", VOCABULARY_LIMIT, follow=True)
    parts, tokenizer = json.loads(content), Tokenizer.from_buffer(content)
    needed, make = TOKENIZER_CLASSES[settings["tokenizer_class"]]
    special = {token["content"] for token in parts["added_tokens"]}
    named = {settings[name] for name in needed} | {settings.get(name) for name in SPECIAL_TOKENS} - {None}
    if not named.union(settings.get("extra_special_tokens", ())) <= special:
        return None  # it would add them
    if parts["normalizer"] and any(token["normalized"] for token in parts["added_tokens"]):
        return None  # a text could name them in other letters
    if parts["truncation"] or parts["padding"] or settings.get("padding_side", "right") != "right":
        return None
    made = zip(TOKENIZER_PARTS, make(settings, parts, tokenizer), strict=True)
    if not parts["post_processor"] or any(_shown(part) != _shown(parts[name]) for name, part in made):
        return None
    types = ["token_type_ids"] if settings["tokenizer_class"] == "BertTokenizer" else []
    return SavedTokenizer(
        tokenizer,
        settings.get("model_input_names", types),
        settings.get("truncation_side", "right"),
        settings.get("model_max_length"),
        str(folder),
        special,
    )


def _shown(part: Any) -> Any:
    """A part of a tokenizer as tokenizer.json has it, without the vocabulary."""
    if not isinstance(part, dict | None):
        part = json.loads(part.__getstate__())
    return part and {key: value for key, value in part.items() if key not in ("vocab", "merges")}


def _as_it_is(_: Settings, parts: Settings, __: Any) -> Sequence[Any]:
    return [parts[name] for name in TOKENIZER_PARTS]


def _bert(settings: Settings, _: Settings, tokenizer: Any) -> Sequence[Any]:
    cls, sep = settings["cls_token"], settings["sep_token"]
    return (
        normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
            strip_accents=settings.get("strip_accents"),
            lowercase=settings.get("do_lower_case", True),
        ),
        pre_tokenizers.BertPreTokenizer(),
        models.WordPiece({}, unk_token=settings["unk_token"]),
        processors.TemplateProcessing(
            single=f"{cls}:0 $A:0 {sep}:0",
            pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
        ),
    )


def _roberta(settings: Settings, _: Settings, tokenizer: Any) -> Sequence[Any]:
    spaced = settings.get("add_prefix_space", False)
    sep, cls = ((settings[name], tokenizer.token_to_id(settings[name])) for name in ("sep_token", "cls_token"))
    return (
        None,
        pre_tokenizers.ByteLevel(add_prefix_space=spaced),
        models.BPE({}, [], dropout=None, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False),
        processors.RobertaProcessing(sep, cls, settings.get("trim_offsets", True), spaced),
    )


def _sentencepiece(settings: Settings, parts: Settings, tokenizer: Any) -> Sequence[Any]:
    bos, eos = settings["bos_token"], settings["eos_token"]
    scheme = "always" if settings.get("add_prefix_space", True) else "never"
    cut = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)]
    fixed = settings["tokenizer_class"] == "XLMRobertaTokenizer"
    unknown = 3 if fixed else tokenizer.token_to_id(settings["unk_token"])
    return (
        parts["normalizer"] if parts["normalizer"] and parts["normalizer"]["type"] == "Precompiled" else None,
        pre_tokenizers.Sequence(cut),
        {"type": "Unigram", "unk_id": unknown, "byte_fallback": False},
        processors.TemplateProcessing(
            single=f"{bos} $A {eos}",
            pair=f"{bos} $A {eos} {eos} $B {eos}",
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in (bos, eos)],
        ),
    )


# transformers' classes: the tokens that each one has, and what its own code makes beside the vocabulary. The last takes
# the whole file, but for a processor if it lacks one.
TOKENIZER_CLASSES = {
    "BertTokenizer": (BERT_SPECIAL_TOKENS, _bert),
    "DistilBertTokenizer": (BERT_SPECIAL_TOKENS, _bert),
    "RobertaTokenizer": (SPECIAL_TOKENS, _roberta),
    "XLMRobertaTokenizer": (SPECIAL_TOKENS, _sentencepiece),
    "CamembertTokenizer": (SPECIAL_TOKENS, _sentencepiece),
    "TokenizersBackend": (("pad_token",), _as_it_is),
}
