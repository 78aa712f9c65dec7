"""A model folder that somebody else made: nothing in it runs, and nothing outside it is read."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch

import dongu
from dongu.engine import generic
from dongu.errors import InputError, ModelError
from dongu.model import safety
from dongu.model.load import load_classifier

ROWS = [{"text": f"a {word} film", "label": word} for word in ("good", "bad")] * 6
IDS = 72  # of the tiny tokenizer; another file has fewer
COMMIT = "0123456789abcdef0123456789abcdef01234567"
Change = Callable[[Path], object]


class Bomb:
    """Unpickled, it leaves the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.canary, "w")


@pytest.fixture(scope="module")
def good(tiny_model: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved classifier, to be copied: a start model and the model of a run."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path_factory.mktemp("good")
    AutoModelForSequenceClassification.from_pretrained(tiny_model()).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model()).save_pretrained(folder)
    return folder


@pytest.fixture
def model(tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil, with code and pickles beside it, and a smaller tokenizer in a folder next to it."""
    folder = tmp_path / "model"
    shutil.copytree(good, folder)
    canary = tmp_path / "canary"
    (folder / "hostile.py").write_text(f"open({str(canary)!r}, 'w')\nclass Model: pass\nTokenizer = Model\n")
    for name in ("training_args.bin", "optimizer.pt", "pytorch_model.bin", "adapter_model.bin", "x.bin"):
        (folder / name).write_bytes(pickle.dumps(Bomb(canary)))
    other = tmp_path / "other"
    other.mkdir()
    tokenizer = json.loads((good / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {word: i for word, i in tokenizer["model"]["vocab"].items() if i < 20}
    for name in ("tokenizer.json", "tokenizer.4.0.json"):
        (other / name).write_text(json.dumps(tokenizer))
    shutil.copy(good / "model.safetensors", other)

    def refuse(path: Any, *_: Any, **__: Any) -> None:
        pytest.fail(f"torch.load was called with {path}")

    monkeypatch.setattr(torch, "load", refuse)
    return folder


@pytest.fixture(autouse=True)
def no_canary(tmp_path: Path) -> Any:
    """Whatever a test does: nothing that was planted has run."""
    yield
    assert not (tmp_path / "canary").exists()
    assert "hostile" not in sys.modules


def start(folder: Path) -> int:
    return len(dongu.Loop(ROWS, model=str(folder), max_steps=1, device="cpu").tokenizer)


def open_run(folder: Path) -> int:
    return len(load_classifier(folder)[1])


entries = pytest.mark.parametrize("entry", [start, open_run])


def settings(name: str = "config.json", **changes: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**before, **changes}))

    return change


def tokenizer_settings(**changes: Any) -> Change:
    return settings("tokenizer_config.json", **changes)


def text(name: str, content: str | bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def index(*names: Any) -> Change:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": {f"weight{i}": name for i, name in enumerate(names)}})
        )
        shutil.copy(folder.parent / "other/model.safetensors", folder / "spare.safetensors")

    return change


def pipe(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def link(name: str, target: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return change


def directory(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def grown(name: str, size: int) -> Change:
    """Larger without taking room: a hole at the end."""
    return lambda folder: os.truncate(folder / name, size)


def pickled(name: str) -> Change:
    return lambda folder: (folder / name).write_bytes(pickle.dumps(Bomb(folder.parent / "canary")))


def header(content: bytes, length: int | None = None, size: int = 0) -> Change:
    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(struct.pack("<Q", len(content) if length is None else length) + content)
        if size:
            os.truncate(path, size)

    return change


def twice(folder: Path) -> None:
    """A reader that keeps the last of two values sees no code, one that keeps the first does."""
    path = folder / "config.json"
    path.write_text('{"auto_map": {"AutoConfig": "hostile.Model"}, "auto_map": null,' + path.read_text().strip()[1:])


CODE = {"AutoModelForSequenceClassification": "hostile.Model", "AutoConfig": "hostile.Model"}
TENSOR = b'"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}'

HOSTILE: dict[str, tuple[Change, list[str]]] = {
    # code
    "code": (settings(auto_map=CODE), ["config.json", "`auto_map`", "no remote code"]),
    "code of another repository": (settings(auto_map={"AutoConfig": "evil/repo--hostile.Model"}), ["`auto_map`"]),
    "code inside": (settings(vision_config={"deep": [{"auto_map": CODE}]}), ["config.json", "`auto_map`"]),
    "code of a tokenizer": (
        tokenizer_settings(auto_map={"AutoTokenizer": ["hostile.Tokenizer", None]}),
        ["tokenizer_config.json", "`auto_map`"],
    ),
    "code of a tokenizer, old form": (tokenizer_settings(auto_map=["hostile.Tokenizer", None]), ["`auto_map`"]),
    "code of a pipeline": (settings(custom_pipelines={"x": {"impl": "hostile.Model"}}), ["`custom_pipelines`"]),
    "trust": (settings(trust_remote_code=True), ["config.json", "`trust_remote_code`"]),
    "trust of a tokenizer": (
        tokenizer_settings(trust_remote_code=True),
        ["tokenizer_config.json", "`trust_remote_code`"],
    ),
    "saved with code": (settings(_auto_class="AutoConfig"), ["`_auto_class`"]),
    "quantized": (settings(quantization_config={"quant_method": "bitsandbytes"}), ["`quantization_config`"]),
    # kernels
    "kernel": (settings(_attn_implementation="evil/kernel"), ["`_attn_implementation`", "evil/kernel"]),
    "kernel, public key": (settings(attn_implementation="evil/kernel@v1:fn"), ["`attn_implementation`"]),
    "kernel, private key": (settings(_attn_implementation_internal="evil/k"), ["`_attn_implementation_internal`"]),
    "kernel of a part": (settings(attn_implementation={"": "sdpa", "text_config": "evil/k"}), ["evil/k"]),
    "kernel inside": (settings(text_config={"attn_implementation": "evil/k"}), ["`attn_implementation`"]),
    "kernel, pages": (settings(attn_implementation="paged|evil/k"), ["`attn_implementation`"]),
    "kernel of experts": (settings(experts_implementation="evil/k"), ["`experts_implementation`"]),
    "no such kernel": (settings(attn_implementation="own"), ["`attn_implementation`", "own"]),
    "kernels": (settings(kernel_config={"kernel_mapping": {"RMSNorm": "evil/k:x"}}), ["`kernel_config`"]),
    # other places
    "other settings": (settings(configuration_files=["config.4.0.0.json"]), ["`configuration_files`"]),
    "backbone": (settings(vision_config={"backbone": "hf-hub:evil/x"}), ["`backbone`"]),
    "other weights": (settings(transformers_weights="../other/model.safetensors"), ["`transformers_weights`"]),
    "pickled weights": (settings(transformers_weights="adapter_model.bin"), ["`transformers_weights`"]),
    "adapter": (settings("adapter_config.json", base_model_name_or_path="evil/x"), ["adapter_config.json"]),
    "shards outside": (index("../other/model.safetensors"), ["model.safetensors.index.json", "`weight_map`"]),
    "shards at a path": (index("/etc/passwd"), ["`weight_map`", "/etc/passwd"]),
    "shards that are pickles": (index("spare.safetensors", "x.bin"), ["`weight_map`", "x.bin"]),
    "no shards": (index(), ["`weight_map`"]),
    "distributed": (
        lambda folder: (folder / "model.safetensors").rename(folder / "shard-00001-model-00001-of-00001.safetensors"),
        ["shard-00001-model-00001-of-00001.safetensors"],
    ),
    # classes and files of a tokenizer
    "model as tokenizer": (tokenizer_settings(tokenizer_class="AutoModel"), ["`tokenizer_class`", "AutoModel"]),
    "function as tokenizer": (tokenizer_settings(tokenizer_class="pipeline"), ["`tokenizer_class`", "pipeline"]),
    "tokenizer of parts": (tokenizer_settings(tokenizer_class="RagTokenizer"), ["`tokenizer_class`", "fast"]),
    "class with dots": (tokenizer_settings(tokenizer_class="hostile.Tokenizer"), ["`tokenizer_class`"]),
    "class of a repository": (
        settings(tokenizer_class="evil/repo--hostile.Tokenizer"),
        ["config.json", "`tokenizer_class`"],
    ),
    "no class": (tokenizer_settings(tokenizer_class=["BertTokenizer"]), ["`tokenizer_class`"]),
    "other tokenizer": (
        tokenizer_settings(fast_tokenizer_files=["../other/tokenizer.4.0.json"]),
        ["tokenizer_config.json", "`fast_tokenizer_files`"],
    ),
    "other vocabulary": (tokenizer_settings(vocab="/etc/passwd"), ["`vocab`"]),
    "other merges": (tokenizer_settings(merges="/etc/passwd"), ["`merges`"]),
    "arguments": (tokenizer_settings(init_inputs=["/etc/passwd"]), ["`init_inputs`"]),
    "gguf": (tokenizer_settings(gguf_file="../other/x.gguf"), ["`gguf_file`"]),
    "file among tokens": (
        settings("special_tokens_map.json", tokenizer_file="../other/tokenizer.json"),
        ["special_tokens_map.json", "`tokenizer_file`"],
    ),
    # kinds of model
    "no kind": (settings(model_type=None), ["`model_type`"]),
    "a slip": (settings(model_type="distillbert"), ["`model_type`", "'distilbert'"]),
    "no text classifier": (settings(model_type="whisper"), ["`model_type`", "no sequence classifier"]),
    "kind with a path": (settings(model_type="../hostile"), ["`model_type`"]),
    "kind of kinds": (settings(model_type={"bert": "bert"}), ["`model_type`"]),
    # JSON
    "twice": (twice, ["config.json", "`auto_map` twice"]),
    "a list": (text("config.json", "[]"), ["config.json"]),
    "nested": (text("config.json", '{"a":' * 100_000), ["config.json", "nested"]),
    "nested lists": (text("tokenizer_config.json", '{"a":' + "[" * 100_000), ["tokenizer_config.json", "nested"]),
    "nested tokenizer": (text("tokenizer.json", "[" * 100_000), []),
    "no text": (text("config.json", b"\xff\xfe{}"), ["config.json"]),
    "large": (grown("config.json", 9 * 2**20), ["config.json", "9,437,184"]),
    "large settings": (grown("tokenizer_config.json", 2**40), ["tokenizer_config.json"]),
    "large tokenizer": (grown("tokenizer.json", 2**40), ["tokenizer.json"]),
    # kinds of file
    "pipe": (pipe("config.json"), ["config.json", "regular"]),
    "pipe of weights": (pipe("model.safetensors"), ["model.safetensors", "regular"]),
    "pipe of a tokenizer": (pipe("tokenizer.json"), ["tokenizer.json", "regular"]),
    "pipe of a template": (pipe("chat_template.jinja"), ["chat_template.jinja", "regular"]),
    "endless": (link("tokenizer_config.json", "/dev/zero"), ["tokenizer_config.json", "regular"]),
    "circle": (link("config.json", "config.json"), ["config.json"]),
    "directory": (directory("tokenizer.json"), ["tokenizer.json", "regular"]),
    # weights
    "header bomb": (header(b"{}", length=2**62), ["model.safetensors"]),
    "large header": (header(b"{}", length=2**24, size=2**25), ["model.safetensors", "16,777,216"]),
    "header of nothing": (text("model.safetensors", b""), ["model.safetensors"]),
    "nested header": (header(b'{"a":' * 10_000), ["model.safetensors", "nested"]),
    "many tensors": (
        header(b"{" + b", ".join(b'"%d": 0' % i for i in range(100_001)) + b"}"),
        ["model.safetensors", "100,001"],
    ),
    "tensor twice": (header(b"{%s, %s}" % (TENSOR, TENSOR)), ["model.safetensors", "`a` twice"]),
    "message bomb": (index("x\n\x1b[2J" * 10_000), ["`weight_map`", "x\\n\\x1b"]),
    "short weights": (lambda folder: os.truncate(folder / "model.safetensors", 4096), []),
    # pickles under other names
    "pickled config.json": (pickled("config.json"), ["config.json"]),
    "pickled tokenizer_config.json": (pickled("tokenizer_config.json"), ["tokenizer_config.json"]),
    "pickled special_tokens_map.json": (pickled("special_tokens_map.json"), ["special_tokens_map.json"]),
    "pickled tokenizer.json": (pickled("tokenizer.json"), []),
    "pickled model.safetensors": (pickled("model.safetensors"), ["model.safetensors"]),
}

STALE = "/nonexistent/cache/tokenizer.json"
HARMLESS: dict[str, Change] = {
    "as it is": lambda _: None,
    "where it came from": settings(
        _name_or_path="/nonexistent/cache/bert", architectures=["BertModel"], torch_dtype="float16"
    ),
    "its tokenizer": settings(tokenizer_class="BertTokenizer"),
    "an old class": tokenizer_settings(tokenizer_class="PreTrainedTokenizerFast"),
    "a class that is gone": tokenizer_settings(tokenizer_class="RetriBertTokenizerFast"),
    "empty": settings(auto_map={}, quantization_config=None, custom_pipelines={}),
    "its attention": settings(_attn_implementation="eager", _attn_implementation_autoset=True),
    "attention that may be downloaded": settings(attn_implementation="flash_attention_2"),
    "labels of any words": settings(id2label={0: "auto_map", 1: "backbone"}, label2id={"auto_map": 0, "backbone": 1}),
    "old paths": tokenizer_settings(tokenizer_file=STALE, special_tokens_map_file=STALE, vocab_file=STALE),
    "its files": tokenizer_settings(fast_tokenizer_files=["tokenizer.json"], init_inputs=[]),
    "tokens": settings("special_tokens_map.json", cls_token="[CLS]", additional_special_tokens=[]),
    "a pickle as vocabulary": pickled("vocab.txt"),
    "a folder": lambda folder: (folder / "1_Pooling").mkdir(),
}


@entries
@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused(model: Path, entry: Callable[[Path], int], name: str) -> None:
    spoil, said = HOSTILE[name]
    spoil(model)
    with pytest.raises(ModelError) as caught:
        entry(model)
    assert caught.value.exit_code == 2
    message = str(caught.value)
    for part in [f"--model {model}", *said]:
        assert part in message
    assert message.count("\n") < 3
    assert len(message) < 600


@pytest.mark.cases(test=8, ci=29)
@entries
@pytest.mark.parametrize("name", HARMLESS)
def test_published_models_still_load(model: Path, entry: Callable[[Path], int], name: str) -> None:
    HARMLESS[name](model)
    assert entry(model) == IDS


def test_an_existing_file_elsewhere_is_not_read(model: Path) -> None:
    elsewhere = str(model.parent / "other/tokenizer.json")
    tokenizer_settings(tokenizer_file=elsewhere, special_tokens_map_file=elsewhere, vocab_file=elsewhere)(model)
    assert start(model) == open_run(model) == IDS


def test_attention_is_the_models_own_choice(model: Path) -> None:
    settings(attn_implementation="flash_attention_2", experts_implementation="sonicmoe")(model)
    config = load_classifier(model)[0].config
    assert config._attn_implementation == "sdpa"
    assert config._experts_implementation in safety.LOCAL_EXPERTS


def test_what_is_known_of_transformers_without_loading_it() -> None:
    from transformers import AttentionInterface
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    assert safety.classifiers() == dict(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
    known = {"eager", *AttentionInterface().valid_keys()} - {generic.NAME}  # ours, which no file may name
    assert known == {*safety.LOCAL_ATTENTION, *safety.OTHER_ATTENTION}


@entries
def test_weights_in_shards_load(model: Path, entry: Callable[[Path], int]) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification

    whole = load_file(model / "model.safetensors")
    AutoModelForSequenceClassification.from_pretrained(model).save_pretrained(model, max_shard_size="5KB")
    (model / "model.safetensors").unlink()
    assert len(list(model.glob("model-*.safetensors"))) > 2
    assert entry(model) == IDS
    loaded = load_classifier(model)[0].state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in whole.items())


def test_a_finished_run_is_checked_too(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run folder that somebody sends you, through the public door and through the command."""
    from dongu.cli.main import run as run_command

    run = tmp_path / "run"
    dongu.train(ROWS, model=str(model), out=str(run), max_steps=1, device="cpu")
    assert dongu.load(run).predict(["a good film"])
    assert [path.name for kind in ("*.py", "*.bin", "*.pt", "*.pkl") for path in run.rglob(kind)] == ["dynamics.bin"]
    settings(auto_map=CODE)(run / "model")
    with pytest.raises(InputError, match="bytes, not"):  # already by its digest
        dongu.load(run)
    (run / "MANIFEST.json").unlink()  # whoever sends a run can send a list that fits, or none
    with pytest.raises(ModelError, match="auto_map"):
        dongu.load(run)
    assert run_command(["predict", str(run), "a good film"]) == 2
    assert "`auto_map`" in capsys.readouterr().err


# --- the Hub


@pytest.fixture
def hub(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model as `owner/name` in a cache of the Hub: the snapshot's files are links to blobs."""
    repository = tmp_path / "hub/models--owner--name"
    snapshot, blobs = repository / "snapshots" / COMMIT, repository / "blobs"
    for folder in (snapshot, blobs, repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    for path in model.iterdir():
        shutil.copy(path, blobs / f"blob-{path.name}")
        (snapshot / path.name).symlink_to(f"../../blobs/blob-{path.name}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return snapshot


def test_a_cached_model_loads_by_its_name_and_by_its_path(hub: Path) -> None:
    assert start(Path("owner/name")) == IDS
    assert start(hub) == IDS


@pytest.mark.parametrize(
    "name", ["code", "code of a tokenizer", "kernel", "model as tokenizer", "adapter", "header bomb"]
)
def test_a_model_of_the_hub_is_refused(hub: Path, name: str) -> None:
    spoil, said = HOSTILE[name]
    spoil(hub)
    with pytest.raises(ModelError) as caught:
        start(Path("owner/name"))
    for part in ["--model owner/name", *said]:
        assert part in str(caught.value)


def test_shards_of_the_hub_are_safetensors(hub: Path) -> None:
    (hub / "model.safetensors").unlink()
    text("model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": {"a": "x.bin"}}))(hub)
    with pytest.raises(ModelError, match="weight_map"):
        start(Path("owner/name"))


# --- the files themselves


def test_a_number_that_is_none_is_let_through(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": NaN}')
    assert list(safety.read_object(tmp_path / "config.json", "here")) == ["a"]
