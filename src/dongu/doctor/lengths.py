"""How long the rows are in tokens, what truncation cuts off, and what padding costs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dongu.data.examples import Examples
from dongu.data.order import epoch_order, grouped_order, padding_share
from dongu.data.tokens import Tokens, encode, token_limit
from dongu.doctor.finding import SHOWN_EXAMPLES, Finding, example
from dongu.errors import ModelError, no_panic
from dongu.files import read_regular
from dongu.hub import ask_commit, asked, split_revision
from dongu.model.place import find_model, hub_error
from dongu.model.safety import VOCABULARY_LIMIT
from dongu.text import percent

TOKENIZED_ROWS = 10_000  # of a split that are tokenized: a share of 1% is then known to 0.2%
CHUNK_ROWS = 1_000  # tokenized at a time, so that the ids of a long split never lie in memory together
MUCH_CUT = 0.01  # of a split's tokens, from which the cut is worth a warning
FILES = ["tokenizer.json", "tokenizer_config.json", "config.json"]
# Position tables that begin after the padding index: 514 of them hold 512 tokens.
SHIFTED_POSITIONS = (
    "camembert", "data2vec-text", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip


@dataclass(frozen=True)
class Lengths:
    """Tokens of the rows that were looked at, before any was cut: `rows` of the split, `tokens`; (rows,) each."""

    rows: np.ndarray
    tokens: np.ndarray
    max_length: int  # tokens at which rows are cut
    model_limit: int  # tokens that the model can take

    @property
    def cut(self) -> np.ndarray:
        """Which rows are cut, (rows,)."""
        return self.tokens > self.max_length

    @property
    def cut_share(self) -> float:
        """The share of the tokens that the model never sees."""
        return 1 - float(np.minimum(self.tokens, self.max_length).sum() / self.tokens.sum())

    def padding(self, batch_size: int, seed: int, *, grouped: bool) -> float:
        """The share of padding in an epoch's batches."""
        tokens = np.minimum(self.tokens, self.max_length)
        order = grouped_order(tokens, batch_size, seed, 0) if grouped else epoch_order(len(tokens), seed, 0)
        return padding_share(tokens, order, batch_size)


def measure(
    tokenizer: Any,
    examples: Examples,
    max_length: int | None,
    model_limit: int,
    seed: int,
    known: Tokens | None = None,
) -> Lengths:
    """Tokenize the rows of a split, or a seeded sample of many, with a `tokenizers.Tokenizer`.

    Of a split whose tokens are `known` only those that were cut.
    """
    rows = np.arange(len(examples))
    if len(rows) > TOKENIZED_ROWS:
        rows = np.sort(np.random.default_rng([seed, 0xD0C]).choice(len(rows), TOKENIZED_ROWS, replace=False))
    lengths, asked = np.zeros(len(rows), np.int64), np.ones(len(rows), bool)
    if known is not None:
        lengths, asked = known.lengths[rows], known.truncated[rows]
    lengths[asked] = _count(tokenizer, examples, rows[asked])
    return Lengths(rows, lengths, max_length or model_limit, model_limit)


def _count(tokenizer: Any, examples: Examples, rows: np.ndarray) -> np.ndarray:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    counts: list[int] = []
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = [tuple(column[row] for column in examples.texts) for row in rows[start : start + CHUNK_ROWS]]
        inputs = chunk if len(examples.texts) == 2 else [text for (text,) in chunk]
        counts += [len(encoding.ids) for encoding in encode(tokenizer, inputs, "tokenizer.json")]
    return np.array(counts, dtype=np.int64)


def check_lengths(splits: Mapping[str, Examples], lengths: Mapping[str, Lengths]) -> Iterator[Finding]:
    """One finding for all splits, where much is cut in one."""
    if not any(split.cut_share >= MUCH_CUT for split in lengths.values()):
        return
    worst = max(lengths, key=lambda name: lengths[name].cut_share)
    examples, found = splits[worst], lengths[worst]
    longest = f"the longest row has {found.tokens.max():,}"
    advice = f"give --max-length up to {found.model_limit} ({longest}), or shorten the texts to what matters"
    if found.max_length >= found.model_limit:
        advice = f"--long windows reads all of them, --long tail their end; or take a model for longer ones ({longest})"
    shown = found.rows[np.argsort(-found.tokens, kind="stable")[: min(SHOWN_EXAMPLES, int(found.cut.sum()))]]
    yield Finding(
        "warning",
        f"{percent(found.cut_share)} of the tokens of {worst} are cut off, of {percent(found.cut.mean())} of its rows, "
        f"which are longer than {found.max_length} tokens",
        "the model does not see the rest of these texts, neither in training nor in evaluation",
        advice,
        tuple(example([examples.where(int(row))], *examples.texts_of(row)) for row in shown),
    )


def load_plain_tokenizer(name: str, *, asked: bool = True) -> tuple[Any, int]:
    """The tokenizer of a model and its limit in tokens, without torch and transformers: for counting only.

    Of a model that nobody has named (`asked`), nothing is asked of the Hub.

    Raises:
        ModelError: there is no such model here or on the Hub, or it has no tokenizer.json.
    """
    place = find_model(name)
    folder = Path(place) if Path(place).is_dir() else _fetch(place, here=not asked)
    if not (folder / "tokenizer.json").is_file():
        raise ModelError("has no tokenizer.json", where=f"--model {name}")
    from tokenizers import Tokenizer

    try:
        with no_panic():
            tokenizer = Tokenizer.from_buffer(read_regular(folder / "tokenizer.json", VOCABULARY_LIMIT, follow=True))
        settings, config = _read_object(folder / FILES[1]), _read_object(folder / FILES[2])
    except Exception as error:  # tokenizers raises Exception itself
        raise ModelError(f"cannot be read ({error})", where=f"--model {name}") from error
    return tokenizer, limit_of_files(settings, config)


def _fetch(name: str, *, here: bool) -> Path:
    """The folder of a Hub model's small files, from the cache where they are in it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, revision = split_revision(name)
    try:
        with contextlib.suppress(LocalEntryNotFoundError):
            return Path(snapshot_download(repository, revision=revision, allow_patterns=FILES, local_files_only=True))
        if here:
            what = "is the usual model, and not on this machine"
            raise ModelError(what, where=name, hint="--model NAME says whose tokenizer counts")
        commit = ask_commit(name, "model")
        return Path(asked(lambda: snapshot_download(repository, revision=commit, allow_patterns=FILES)))
    except ModelError:
        raise
    except Exception as error:  # failures of the network, the cache and the name share no other base
        raise hub_error(error, name) from error


def _read_object(path: Path) -> dict[str, Any]:
    content = json.loads(read_regular(path, follow=True)) if path.exists() else {}
    return content if isinstance(content, dict) else {}


def limit_of_files(settings: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """What `usual_length` says of the loaded model, by its files alone."""
    positions = config.get("max_position_embeddings", config.get("n_positions"))  # GPT-2's name for them
    if isinstance(positions, int) and (kind := config.get("model_type")) in SHIFTED_POSITIONS:
        padding = config.get("pad_token_id") if kind != "mpnet" else 1  # MPNet's is fixed
        positions -= (padding or 0) + 1
    return token_limit(settings.get("model_max_length"), positions)
