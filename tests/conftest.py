"""Tiny models and data built here: no test needs a network, and one that tries fails."""

from __future__ import annotations

import functools
import gc
import json
import os
import random
import runpy
import socket
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from drivers import Driver, Pool, serving

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # tests fork data workers
os.environ.setdefault("OMP_NUM_THREADS", "1")

hypothesis.settings.register_profile("dongu", deadline=None)  # other work on the machine makes no test fail
hypothesis.settings.load_profile("dongu")

ROOT = Path(__file__).resolve().parent.parent
REAL_DATA = Path(os.environ.get("DONGU_DATA", ROOT.parent / "shared" / "data"))
WORDS = [f"word{i}" for i in range(60)] + ["good", "bad", "the", "a", "film", "was", "not"]
FAMILIES = ("bert", "roberta", "distilbert", "electra", "albert", "deberta-v2", "modernbert", "xlm-roberta", "mpnet")
# `make test-exhaustive`: every kill, signal and fault of docs/reliability.md; without it a third to a sixth of them.
EXHAUSTIVE = os.environ.get("DONGU_EXHAUSTIVE") == "1"
DECODERS = ("gpt2", "gpt_neox", "opt", "llama", "qwen2", "qwen3")  # their tokenizer has no padding token
# Folders and modules in which what a model computes is not in question: one layer, in three quarters of a run's time,
# proves as much as two, of which the one that is not the last goes another way.
OF_OTHERS = "data doctor faults judge page serve test_asked test_ensemble test_estimator test_files test_folds"
OF_OTHERS += " test_journal test_json test_naming test_ordinal test_ranks test_retention test_said test_same_command"
OF_OTHERS += " test_screen test_seeds test_trackers test_train test_tune test_verify"
END = "<|endoftext|>"  # closes a text for a decoder, and so pads

sys.path.insert(0, str(ROOT / "benchmarks"))

real_data = pytest.mark.skipif(
    not (REAL_DATA / "mrpc").is_dir(),
    reason=f"the real MRPC is not at {REAL_DATA}/mrpc (set DONGU_DATA)",
)


def checked(line: str) -> Any:
    """An answer of `--json`, held against its schema."""
    from dongu.cli.schemas import SCHEMAS

    content = json.loads(line)
    SCHEMAS[content.get("schema", "dongu.predict/1")].model_validate_json(line)
    return content


def computed(metrics: Any, logits: Any, targets: Any, threshold: float = 0.5) -> dict[str, float]:
    """Each metric of a `MetricSet`, but for the loss, of (rows, labels) logits against targets."""
    import numpy as np

    from dongu.judge.answers import Evaluation

    rows = np.arange(len(targets))
    answers = Evaluation("", rows, logits, targets, np.zeros(len(rows)), {}, threshold, metrics.task, metrics.scale)
    return {name: value for name, value in metrics.values(answers).items() if name != "loss"}


@contextmanager
def cut_off_in_step(number: int) -> Iterator[None]:
    """Inside the block, a run ends abruptly in this step, as by a second Ctrl-C."""
    from dongu.run.journal import Journal

    write = Journal.step

    def cut(self: Journal, step: Any) -> None:
        write(self, step)
        if step.number == number:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "step", cut)
        with pytest.raises(KeyboardInterrupt):
            yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden-write", action="store_true", help="write tests/cli/golden/ anew (test_golden.py)")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test marked `cases(test=A, ci=B)`, `make test` runs A of its cases and CI runs B, spread over all of them.

    Those of `make test` come from the ones that bear no mark of their own.
    """
    cases: dict[tuple[str, str], list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("cases"):
            cases.setdefault((str(item.path), getattr(item, "originalname", item.name)), []).append(item)
    for found in cases.values():
        mark = next(found[0].iter_markers("cases"))
        quick = spread([item for item in found if not item.get_closest_marker("crash")], mark.kwargs["test"])
        rest = [item for item in found if item not in quick]
        in_ci = spread(rest, mark.kwargs["ci"] - len(quick))
        for item in rest:
            item.add_marker("crash" if item in in_ci else "exhaustive")


def spread(items: list[pytest.Item], number: int) -> list[pytest.Item]:
    """So many of them, at like distances."""
    number = min(number, len(items))
    return [items[((2 * i + 1) * len(items) - number) // (2 * number)] for i in range(number)]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to anywhere but this machine fails the test."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> Any:
        host = address[0] if isinstance(address, tuple) else ""
        if self.family in (socket.AF_INET, socket.AF_INET6) and host not in ("127.0.0.1", "::1", "localhost"):
            pytest.fail(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    return


@pytest.fixture(scope="session", autouse=True)
def quick_runs() -> Iterator[None]:
    """Much of a tiny run's time: nobody cuts the power of a test, nor asks how much it computes, and how fast.

    So a run says the same on every processor. For all of the session: runs that a module shares are quick too.
    """
    from dongu.waiting import loading

    with loading():  # it has the collector pass over what is there, once in a process: not in the middle of a test
        import dongu.training  # noqa: F401 - what is imported by now is passed over by `little_to_collect`
    from dongu.run.need import Need

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr("dongu.run.derived.precision_seconds", lambda _: {"fp32": 1.0, "bf16": 1.0})
        patch.setattr(
            "dongu.run.need.rehearse", lambda *_, **__: Need(10**6, 10**6, 2 * 10**6, 10**6, 4 * 10**6, 8, 128)
        )
        patch.setattr("dongu.model.recipe.ENOUGH_UPDATES", 0)  # all tests have few rows; tests/model/test_recipe.py
        patch.setattr("dongu.run.effort.PROBE_SECONDS", 0.0)
        patch.setattr("dongu.run.effort.PROBE_SIZES", {"cpu": 64})
        patch.setattr("dongu.run.effort.pass_flops", lambda *_, **__: 1)
        yield
        gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Nothing of what is loaded meanwhile is garbage, which the collector would see again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(scope="module", autouse=True)
def little_to_collect(quick_runs: None) -> None:
    """A loop has the garbage collected before it loads its model: not through all tests and libraries each time.

    For each module anew, since what it is the first to import stays as well.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Token caches of tests stay among themselves."""
    monkeypatch.setenv("DONGU_CACHE", str(tmp_path_factory.getbasetemp() / "token-cache"))


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """An empty folder, in memory where there is such a place: for thousands of small files."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="dongu-", dir=memory) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, float, int], str]:
    """What `tiny_model` has made, by family, dropout and layers."""

    @functools.cache
    def make(family: str, dropout: float, layers: int) -> str:
        folder = tmp_path_factory.mktemp(f"{family}-{dropout}-{layers}")
        save_tiny_model(family, dropout, folder, layers)
        return str(folder)

    return make


@pytest.fixture(scope="module")
def tiny_model(request: pytest.FixtureRequest, tiny_models: Callable[[str, float, int], str]) -> Callable[..., str]:
    """`tiny_model(family, dropout=0.0)`: the folder of a random model of few layers with a word-level tokenizer."""
    layers = 1 if {request.path.parent.name, request.path.stem} & {*OF_OTHERS.split()} else 2
    return lambda family="bert", dropout=0.0: tiny_models(family, dropout, layers)


def run_script(script: Path, *arguments: str) -> None:
    """An ejected script with these arguments, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(script), *arguments])
        runpy.run_path(str(script))


def save_tiny_model(family: str, dropout: float, folder: Path, layers: int = 2) -> None:
    """Save it as `save_pretrained` does, without a head."""
    save_model = save_decoder if family in DECODERS else save_encoder
    save_model(family, dropout, folder, layers)


def save_decoder(family: str, dropout: float, folder: Path, layers: int) -> None:
    """A language model as one is published: an output layer, which may be the embedding, and no padding token."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    bytes_known = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=[END], initial_alphabet=bytes_known)
    tokenizer.train_from_iterator([" ".join(WORDS)], trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)
    sizes = {"num_key_value_heads": 1, "head_dim": 8} if family in ("llama", "qwen2", "qwen3") else {}
    sizes |= {"ffn_dim": 32, "word_embed_proj_dim": 16} if family == "opt" else {}
    config = AutoConfig.for_model(
        family,
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=80,
        pad_token_id=None,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.2,
        init_std=0.2,
        **sizes,
    )
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout", "hidden_dropout", "attention_dropout"):
        if hasattr(config, name):
            setattr(config, name, dropout)
    torch.manual_seed(7)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def save_encoder(family: str, dropout: float, folder: Path, layers: int) -> None:
    """An encoder, whose tokenizer closes and pads as BERT's."""
    import torch
    from transformers import AutoConfig, AutoModel

    from word_tokenizer import CLS, PAD, SEP, word_tokenizer

    single, pair = "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"
    if family == "xlnet":  # its head reads the last token
        single, pair = "$A [SEP] [CLS]:2", "$A [SEP] $B:1 [SEP]:1 [CLS]:2"
    types = family in ("bert", "electra", "albert", "deberta-v2", "xlnet")
    tokenizer = word_tokenizer(
        WORDS,
        64,
        single,
        pair,
        padding_side="left" if family == "xlnet" else "right",
        model_input_names=["input_ids", "attention_mask", *(["token_type_ids"] if types else [])],
    )
    tokenizer.save_pretrained(folder)
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        **({"d_inner": 32, "d_head": 8} if family == "xlnet" else {"max_position_embeddings": 80}),
        pad_token_id=PAD,
        cls_token_id=CLS,
        sep_token_id=SEP,
        bos_token_id=CLS,
        eos_token_id=SEP,
        initializer_range=0.2,  # gradients well above rounding, so that 1e-6 means something
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    renamed: dict[str, dict[str, Any]] = {
        "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "seq_classif_dropout": dropout},
        "albert": {"embedding_size": 8, "classifier_dropout_prob": dropout},
        "electra": {"embedding_size": 8},
        "deberta-v2": {"type_vocab_size": 2},
    }
    for name, value in renamed.get(family, {}).items():
        setattr(config, name, value)
    for name in (
        "dropout",
        "attention_dropout",
        "mlp_dropout",
        "embedding_dropout",
        "pooler_dropout",
        "summary_last_dropout",
    ):
        if hasattr(config, name):
            setattr(config, name, dropout)
    config.classifier_dropout = dropout
    torch.manual_seed(7)
    AutoModel.from_config(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., list[dict[str, str]]]:
    """`make_rows(count, labels=2, pair=False, seed=0)`: rows whose label a model can learn from one word."""

    def make(count: int, labels: int = 2, pair: bool = False, seed: int = 0) -> list[dict[str, str]]:
        random_words = random.Random(seed)
        rows = []
        for i in range(count):
            label = i % labels
            text = " ".join(random_words.choices(WORDS, k=random_words.randint(3, 20)) + [f"word{label}"] * 3)
            row = (
                {"sentence1": text, "sentence2": " ".join(random_words.choices(WORDS, k=5))} if pair else {"text": text}
            )
            rows.append({**row, "label": f"class{label}"})
        return rows

    return make


@pytest.fixture
def data_folder(tmp_path: Path, make_rows: Callable[..., list[dict[str, str]]]) -> Callable[..., str]:
    """`data_folder(train=41, validation=13, test=11, **make_rows)`: a folder of JSON-lines files."""
    return folders_below(tmp_path, make_rows)


@pytest.fixture(scope="module")
def shared_data_folder(
    tmp_path_factory: pytest.TempPathFactory, make_rows: Callable[..., list[dict[str, str]]]
) -> Callable[..., str]:
    """`data_folder` for the runs that a module shares."""
    return folders_below(tmp_path_factory.mktemp("shared"), make_rows)


def folders_below(above: Path, make_rows: Callable[..., list[dict[str, str]]]) -> Callable[..., str]:
    def make(train: int = 41, validation: int = 13, test: int = 11, **options: Any) -> str:
        folder = above / f"data-{train}-{validation}-{test}"
        folder.mkdir(exist_ok=True)
        for seed, (name, count) in enumerate({"train": train, "validation": validation, "test": test}.items()):
            if count:
                lines = [json.dumps(row) for row in make_rows(count, seed=seed, **options)]
                (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(folder)

    return make


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Driver]]:
    """`server()`: a driver, which starts `dongu` in milliseconds, in processes that may be killed."""
    with serving(tmp_path_factory.mktemp("server")) as driver:
        yield driver


@pytest.fixture
def make_pool(server: Callable[[], Driver]) -> Iterator[Callable[..., Pool]]:
    """`make_pool(size=2)`: drivers whose children have left no process behind when the test ends."""
    pools: list[Pool] = []

    def make(size: int = 2) -> Pool:
        pools.append(Pool(server, size))
        return pools[-1]

    yield make
    for pool in pools:
        pool.check_nothing_lives_on()


def unwrapped(output: str) -> str:
    """What a terminal shows as one line, however it was cut to fit."""
    return " ".join(output.split())
