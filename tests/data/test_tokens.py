"""Tokens are what the tokenizer itself would give, and a cached answer is never a stale one."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dongu
from conftest import WORDS
from dongu.data import pages
from dongu.data import tokens as module
from dongu.data.pages import cache_folder, in_cache_folder
from dongu.data.tokens import Tokens, tokenize
from dongu.model.load import load_tokenizer


@pytest.fixture
def make_tokenizer(tiny_model: Callable[..., str]) -> Callable[..., Any]:
    """A tokenizer of one's own, to be changed at will."""
    return lambda family="bert": load_tokenizer(tiny_model(family))


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: None) -> Path:
    monkeypatch.setenv("DONGU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def sentences(count: int, seed: int = 0, longest: int = 30) -> list[str]:
    words = random.Random(seed)
    return [" ".join(words.choices([*WORDS, "unknown", "[SEP]"], k=words.randint(1, longest))) for _ in range(count)]


def ragged(tokens: Tokens, values: np.ndarray | None) -> list[list[int]]:
    assert values is not None
    return [values[start:end].tolist() for start, end in zip(tokens.offsets, tokens.offsets[1:], strict=False)]


def same(a: Tokens, b: Tokens) -> bool:
    """Equal to the bit and in type, wherever they come from."""
    pairs = [(a.input_ids, b.input_ids), (a.offsets, b.offsets), (a.truncated, b.truncated)]
    if (a.token_type_ids is None) != (b.token_type_ids is None):
        return False
    if a.token_type_ids is not None and b.token_type_ids is not None:
        pairs.append((a.token_type_ids, b.token_type_ids))
    return all(x.dtype == y.dtype and x.shape == y.shape and bool((x == y).all()) for x, y in pairs)


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("max_length", [8, 25, 64])
def test_tokens_are_those_of_the_tokenizer(
    make_tokenizer: Callable[..., Any], family: str, side: str, columns: int, max_length: int
) -> None:
    tokenizer = make_tokenizer(family)
    tokenizer.truncation_side = side
    texts = [sentences(40, seed) for seed in range(columns)]
    expected = tokenizer(*texts, truncation=True, max_length=max_length)
    uncut = tokenizer(*texts)
    tokens = tokenize(tokenizer, texts, max_length)

    assert len(tokens) == 40
    assert ragged(tokens, tokens.input_ids) == expected["input_ids"]
    assert tokens.lengths.tolist() == [len(row) for row in expected["input_ids"]]
    assert tokens.truncated.tolist() == [len(row) > max_length for row in uncut["input_ids"]]
    assert (tokens.token_type_ids is None) == ("token_type_ids" not in expected)
    if tokens.token_type_ids is not None:
        assert ragged(tokens, tokens.token_type_ids) == expected["token_type_ids"]


@pytest.mark.parametrize("memory_bytes", [0, pages.MEMORY_BYTES])
@pytest.mark.parametrize("count", [7, 13, 14, 15])
def test_tokens_are_made_in_parts(
    make_tokenizer: Callable[..., Any], count: int, memory_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [sentences(count), sentences(count, 1)]
    whole = tokenize(make_tokenizer(), texts, 20, cache=False)
    monkeypatch.setattr(module, "PART_ROWS", 7)
    monkeypatch.setattr(module, "COPIED_BYTES", 10)
    monkeypatch.setattr(pages, "MEMORY_BYTES", memory_bytes)
    seen: list[int] = []
    tokenizer = make_tokenizer()

    class Counted:
        """The backend, and how many rows it gets at a time."""

        def __init__(self, backend: Any) -> None:
            self._backend = backend

        def __getattr__(self, name: str) -> Any:
            return getattr(self._backend, name)

        def encode_batch_fast(self, rows: list[Any]) -> Any:
            seen.append(len(rows))
            return self._backend.encode_batch_fast(rows)

    counted = Counted(tokenizer.backend_tokenizer)
    monkeypatch.setattr(type(tokenizer), "backend_tokenizer", property(lambda _: counted))
    for cached in (False, True):
        tokens = tokenize(tokenizer, texts, 20)
        assert tokens.cached is cached
        assert same(tokens, whole)
    assert max(seen) == 7
    assert sum(seen) == count


def test_the_longer_text_of_a_pair_is_cut_first(make_tokenizer: Callable[..., Any]) -> None:
    long, short = " ".join(["good"] * 20), "bad film"
    tokens = tokenize(make_tokenizer(), [[long, short, short], [short, long, short]], 12)
    good, bad = (make_tokenizer().convert_tokens_to_ids(word) for word in ("good", "bad"))
    assert tokens.truncated.tolist() == [True, True, False]
    assert [(row.count(good), row.count(bad)) for row in ragged(tokens, tokens.input_ids)] == [(7, 1), (7, 1), (0, 2)]


# --- the cache


def test_the_second_call_reads_the_cache(make_tokenizer: Callable[..., Any], empty_cache: Path) -> None:
    texts = [sentences(20), sentences(20, 1)]
    first = tokenize(make_tokenizer(), texts, 20)
    second = tokenize(make_tokenizer(), texts, 20)
    assert (first.cached, second.cached) == (False, True)
    assert same(first, second)
    assert [path.suffix for path in empty_cache.iterdir()] == [".tokens"]
    assert tokenize(make_tokenizer("roberta"), texts, 20).cached is False  # without token types
    assert tokenize(make_tokenizer("roberta"), texts, 20).token_type_ids is None


def test_an_earlier_call_of_the_tokenizer_changes_no_key(make_tokenizer: Callable[..., Any]) -> None:
    texts = [sentences(5)]
    tokenizer = make_tokenizer()
    tokenize(tokenizer, texts, 20)
    tokenizer(["good", "bad film"], padding="max_length", truncation=True, max_length=9)
    assert tokenize(tokenizer, texts, 20).cached
    assert same(tokenize(tokenizer, texts, 20), tokenize(tokenizer, texts, 20, cache=False))


def test_without_the_cache_nothing_is_written(make_tokenizer: Callable[..., Any], empty_cache: Path) -> None:
    tokenize(make_tokenizer(), [["good"]], 20, cache=False)
    assert not empty_cache.exists()


def add_token(tokenizer: Any) -> None:
    tokenizer.add_tokens(["unknown"])


def change_normalizer(tokenizer: Any) -> None:
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("unknown", "good")


def change_template(tokenizer: Any) -> None:
    from tokenizers import processors

    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", pair="[CLS] $A $B:1", special_tokens=[("[CLS]", 2)]
    )


def drop_token_types(tokenizer: Any) -> None:
    tokenizer.model_input_names = ["input_ids", "attention_mask"]


def cut_on_the_left(tokenizer: Any) -> None:
    tokenizer.truncation_side = "left"


def split_special_tokens(tokenizer: Any) -> None:
    tokenizer.split_special_tokens = True


@pytest.mark.parametrize(
    "change",
    [add_token, change_normalizer, change_template, drop_token_types, cut_on_the_left, split_special_tokens],
)
def test_a_changed_tokenizer_gets_no_stale_answer(
    make_tokenizer: Callable[..., Any], change: Callable[[Any], None]
) -> None:
    texts = [[*sentences(10), "unknown good[SEP]bad"]]
    before = tokenize(make_tokenizer(), texts, 10)
    changed = make_tokenizer()
    change(changed)
    after = tokenize(changed, texts, 10)
    assert same(after, tokenize(changed, texts, 10, cache=False))
    assert not same(after, before)
    assert not after.cached
    assert same(tokenize(make_tokenizer(), texts, 10), before)


DIFFERENT: list[Sequence[Sequence[str]]] = [
    [["a b"], ["c"]],
    [["a"], ["b c"]],
    [["a b", "c"]],
    [["a", "b c"]],
    [["a", "b", "c"]],
    [["a"], ["b"]],
    [["a", "b"]],
    [['a", "b']],
    [["a b c"]],
    [["a  b c"]],
    [["a", "c"], ["b", "d"]],
    [["a", "b"], ["c", "d"]],
]


def test_other_texts_and_lengths_have_other_keys(make_tokenizer: Callable[..., Any], empty_cache: Path) -> None:
    for texts in DIFFERENT:
        for max_length in (8, 9):
            assert not tokenize(make_tokenizer(), texts, max_length).cached, (texts, max_length)
    assert len(list(empty_cache.iterdir())) == 2 * len(DIFFERENT)


def damage(content: bytes) -> list[bytes]:
    """The file cut at many places, with one bit flipped at many places, with something after its end, and empty."""
    places = [*range(0, len(content), len(content) // 25), len(content) - 1]
    flipped = [content[:i] + bytes([content[i] ^ 1 << i % 8]) + content[i + 1 :] for i in places]
    return [*(content[:i] for i in places), *flipped, content + b"\0", content * 2]


@pytest.mark.parametrize("mapped_bytes", [0, module.MAPPED_BYTES])
def test_a_damaged_cache_is_made_anew(
    make_tokenizer: Callable[..., Any], empty_cache: Path, mapped_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAPPED_BYTES", mapped_bytes)
    texts = [sentences(8), sentences(8, 1)]
    tokenizer = make_tokenizer()
    right = tokenize(tokenizer, texts, 20)
    (path,) = empty_cache.iterdir()
    content = path.read_bytes()
    for wrong in damage(content):
        path.write_bytes(wrong)
        tokens = tokenize(tokenizer, texts, 20)
        assert not tokens.cached
        assert same(tokens, right)
        assert path.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_no_matter(
    make_tokenizer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DONGU_CACHE", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        tokens = tokenize(make_tokenizer(), [["good film"]], 20)
        assert not tokens.cached
        assert ragged(tokens, tokens.input_ids) == make_tokenizer()(["good film"])["input_ids"]


def test_a_cache_file_that_is_a_folder_is_no_matter(make_tokenizer: Callable[..., Any], empty_cache: Path) -> None:
    tokenize(make_tokenizer(), [["good film"]], 20)
    (path,) = empty_cache.iterdir()
    path.unlink()
    path.mkdir()
    assert not tokenize(make_tokenizer(), [["good film"]], 20).cached


def test_the_tokenizer_is_not_asked_where_the_cache_answers(
    make_tokenizer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenize(make_tokenizer(), [["good film"]], 20)
    monkeypatch.setattr(module, "pack_tokens", lambda *_: pytest.fail("the texts were tokenized again"))
    assert tokenize(make_tokenizer(), [["good film"]], 20).cached


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DONGU_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "dongu" / "tokens"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "dongu" / "tokens"


def test_a_user_without_a_home_has_no_cache(
    tiny_model: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs as a number; large data, and what is fetched, go to the system's folder."""

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    for name in ("DONGU_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dongu.data.pages.MEMORY_BYTES", 8)
    rows = [{"text": f"word{i} film", "label": "ab"[i % 2]} for i in range(20)]
    loop = dongu.Loop({"train": rows, "validation": rows[:4]}, model=tiny_model(), max_steps=1)
    assert [step.number for step in loop] == [1]
    with in_cache_folder(lambda folder: tempfile.TemporaryDirectory(dir=folder)) as made:
        assert Path(made).parent == Path(tempfile.gettempdir())
    assert list(tmp_path.iterdir()) == []
