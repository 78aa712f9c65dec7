"""A tokenizer that a tiny model needs: a token a word, and BERT's names for the special ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]  # the first ids
PAD, UNKNOWN, CLS, SEP, MASK = range(len(SPECIAL))


def word_tokenizer(words: Sequence[str], longest: int, single: str, pair: str | None = None, **options: Any) -> Any:
    """
    Args:
        words: the vocabulary, after the special tokens.
        longest: tokens of a row at most.
        single, pair: templates of a text and of two.
        options: of `PreTrainedTokenizerFast`.
    """
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=longest,
        **options,
    )
