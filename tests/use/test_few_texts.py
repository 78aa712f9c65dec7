"""A few texts are answered without PyTorch as with it, and files without transformers to the bit; all that is not known
exactly is left to the two."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForSequenceClassification

import dongu
from conftest import WORDS
from dongu.cli.main import run
from dongu.data.tokens import tokenize
from dongu.engine.packed import PaddingFree
from dongu.model.load import load_tokenizer
from dongu.use import few_texts
from dongu.use.bare import BarePaddingFree, load_bare
from dongu.use.classifier import Classifier
from dongu.use.few_texts import answers_without_torch
from dongu.use.known import KnownModel, open_classifier
from dongu.use.numpy_encoder import NumpyEncoder, gelu
from dongu.use.saved import SavedModel
from dongu.use.tokenizer_file import saved_tokenizer
from word_tokenizer import word_tokenizer

SENTENCES = [*WORDS, "élan café naïve", "Good FILM, was it?", "not-bad film 👍"]
TEXTS = ["word0 film", "Élan, café 👍  GOOD\tfilm", ".", "電影 word1 \u200d was not bad?", " ".join(WORDS)]
PAIRS = [TEXTS, [*reversed(TEXTS)]]


def trained(model: Any, trainer: Any, splits: Any) -> Any:
    """The model of a tokenizer that has read the sentences, as tokenizer.json has it."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = splits
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(SENTENCES, trainer(special_tokens=special, show_progress=False))
    return json.loads(tokenizer.to_str())["model"]


def own_tokenizer(family: str) -> Any:
    """A tokenizer of the class that transformers has for the family."""
    if family in ("bert", "electra", "distilbert"):
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, ".", ",", "?", "elan", "cafe", "電", "##s"]
        kind = transformers.DistilBertTokenizer if family == "distilbert" else transformers.BertTokenizer
        return kind(vocab={token: i for i, token in enumerate(tokens)}, model_max_length=64)
    if family == "roberta":
        splits = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = splits.alphabet()
        made = trained(
            models.BPE(), functools.partial(trainers.BpeTrainer, vocab_size=320, initial_alphabet=alphabet), splits
        )
        merges = [tuple(pair) for pair in made["merges"]]
        return transformers.RobertaTokenizer(vocab=made["vocab"], merges=merges, model_max_length=64)
    made = trained(
        models.Unigram(),
        functools.partial(trainers.UnigramTrainer, vocab_size=120, unk_token="<unk>"),
        pre_tokenizers.Metaspace(),
    )
    vocabulary = [tuple(token) for token in made["vocab"]]
    kind = transformers.CamembertTokenizer if family == "camembert" else transformers.XLMRobertaTokenizer
    return kind(vocab=vocabulary, model_max_length=64)


def plain_tokenizer(family: str) -> Any:
    """One that transformers takes as it is."""
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if family in ("bert", "electra") else [])]
    return word_tokenizer(WORDS, 64, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", model_input_names=inputs)


@pytest.fixture(scope="module")
def make_classifier(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_classifier(family="bert", labels=3, tokenizer=own_tokenizer, **config)`: a random one's folder."""

    @functools.cache
    def make(family: str = "bert", labels: int = 3, tokenizer: Any = own_tokenizer, **options: Any) -> Path:
        folder, made = tmp_path_factory.mktemp(family), tokenizer(family)
        sizes = {
            "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
            "layer_norm_eps": 0.01,
        }  # fmt: skip
        if family == "distilbert":
            sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
        if family == "electra":
            sizes["embedding_size"] = 8
        names = {i: f"label{i}" for i in range(labels)}
        config = AutoConfig.for_model(
            family, **sizes, max_position_embeddings=80, vocab_size=len(made), pad_token_id=made.pad_token_id,
            id2label=names, label2id={name: i for i, name in names.items()}, **options,
        )  # fmt: skip
        torch.manual_seed(3)
        model = AutoModelForSequenceClassification.from_config(config)
        for parameter in model.parameters():  # biases and norms too, which begin as nothing
            torch.nn.init.normal_(parameter, std=0.4)
        model.save_pretrained(folder)
        made.save_pretrained(folder)
        return folder

    return make


def known(saved: SavedModel, texts: Sequence[Sequence[str]]) -> KnownModel:
    found = KnownModel.of(saved, texts)
    assert found is not None
    return found


def check_same(saved: SavedModel, texts: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """The answers are those of PyTorch, up to rounding; without transformers they have its bits."""
    light, usual, bare = answers_without_torch(saved, texts), Classifier(saved), Classifier(saved, known(saved, texts))
    assert light is not None
    assert isinstance(bare.model, BarePaddingFree)
    assert np.array_equal(bare.logits(bare.split(texts)), usual.logits(usual.split(texts)))
    found, wanted = list(light), list(usual.answers(texts))
    assert list(bare.answers(texts)) == wanted
    assert len(found) == len(wanted) == len(texts[0])
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        if "probabilities" in one:
            assert one["prediction"] == other["prediction"]
            assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)
        else:
            assert one["prediction"] == pytest.approx(other["prediction"], abs=1e-6)
    return found


FAMILIES = ("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")


@pytest.mark.cases(test=4, ci=12)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokenizer", [own_tokenizer, plain_tokenizer])
def test_every_family_answers_as_with_torch(family: str, tokenizer: Any, make_classifier: Callable[..., Path]) -> None:
    saved = SavedModel.open(make_classifier(family, tokenizer=tokenizer))
    answers = check_same(saved, [TEXTS])
    if tokenizer is own_tokenizer or family in ("bert", "electra", "distilbert"):
        check_same(saved, PAIRS)
    assert len({answer["probabilities"]["label0"] for answer in answers}) == len(TEXTS)
    assert max(max(answer["probabilities"].values()) for answer in answers) < 0.999999


def test_every_task_answers_as_with_torch(make_classifier: Callable[..., Path]) -> None:
    several = make_classifier(problem_type="multi_label_classification", threshold=0.7)
    answers = check_same(SavedModel.open(several), [TEXTS])
    given = {name for answer in answers for name in answer["prediction"]}
    likely = {name for answer in answers for name, sure in answer["probabilities"].items() if sure > 0.5}
    assert given < likely, "the model's own threshold decides"
    check_same(SavedModel.open(make_classifier(labels=1, problem_type="regression")), PAIRS)
    folder = make_classifier()
    sure = sorted(max(answer["probabilities"].values()) for answer in check_same(SavedModel.open(folder), [TEXTS]))
    unsure = check_same(SavedModel.open(folder, abstain_below=(sure[1] + sure[2]) / 2), [TEXTS])
    assert [answer["prediction"] for answer in unsure].count(None) == 2


@pytest.mark.parametrize("long", ["head", "tail", "head+tail", "windows"])
def test_long_texts_are_cut_as_with_torch(long: str, make_classifier: Callable[..., Path]) -> None:
    folder = make_classifier()
    shorter = check_same(SavedModel.open(folder, max_length=16, long=long), [TEXTS])
    assert shorter[-1] != check_same(SavedModel.open(folder), [TEXTS])[-1]
    if long in ("head", "tail"):
        check_same(SavedModel.open(folder, max_length=16, long=long), PAIRS)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_positions_limit_the_tokens(family: str, make_classifier: Callable[..., Path], tmp_path: Path) -> None:
    """Where the tokenizer names no limit."""
    folder = shutil.copytree(make_classifier(family), tmp_path / "copy")
    in_json("tokenizer_config.json", model_max_length=None)(folder)
    check_same(SavedModel.open(folder), [[" ".join(TEXTS)] * 2, ["film"] * 2])


def test_activations(make_classifier: Callable[..., Path]) -> None:
    for name in ("relu", "tanh"):
        check_same(SavedModel.open(make_classifier(hidden_act=name)), [TEXTS])
    check_same(SavedModel.open(make_classifier("distilbert", activation="relu")), [TEXTS])


def test_gelu_is_exact_to_the_digits_of_fp32() -> None:
    x = torch.linspace(-9, 9, 20001)
    exact = torch.nn.functional.gelu(x.double()).numpy()
    assert np.abs(gelu(x.numpy()) - exact).max() < 2e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_transformers(family: str, make_classifier: Callable[..., Path]) -> None:
    folder = make_classifier(family)
    rows = [*TEXTS, " a", "a ", "A\u0301A\u00a0a", "\x07bell\ufffd", "ﬁlm Ⅳ", "▁word", "##s", "a" * 300, "<S> [sep]"]
    light = saved_tokenizer(folder)
    assert light is not None
    usual = load_tokenizer(str(folder))
    for texts in ([rows], [rows, [*reversed(rows)]]):
        for long in ("head", "tail"):
            tokens = tokenize(light, texts, 12, long=long, cache=False)
            wanted = tokenize(usual, texts, 12, long=long, cache=False)
            assert tokens.same_as(wanted)


def in_json(name: str, **changes: Any) -> Callable[[Path], None]:
    """Change some keys of a file of JSON; to None: remove them."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text("utf-8")) | changes
        (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return change


def in_tokenizer(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        change(content)
        (folder / "tokenizer.json").write_text(json.dumps(content))

    return changed


def in_weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return changed


HEAD = "classifier.weight"
UNKNOWN: dict[str, Callable[[Path], Any]] = {
    "layers that compute again": in_json("config.json", gradient_checkpointing=True),
    "tokens in chunks": in_json("config.json", chunk_size_feed_forward=4),
    "another activation": in_json("config.json", hidden_act="silu"),
    "a decoder": in_json("config.json", is_decoder=True),
    "relative positions": in_json("config.json", position_embedding_type="relative_key"),
    "another type": in_json("config.json", model_type="ernie"),
    "another width": in_json("config.json", intermediate_size=64),
    "a layer less": in_json("config.json", num_hidden_layers=1),
    "no width": in_json("config.json", hidden_size=None),
    "a threshold that is none": in_json("config.json", problem_type="multi_label_classification", threshold="x"),
    "a strange tensor": in_weights(lambda tensors: tensors.update(more=torch.ones(1))),
    "a missing tensor": in_weights(lambda tensors: tensors.pop(HEAD)),
    "another shape": in_weights(lambda tensors: tensors.update({HEAD: torch.ones(4, 16)})),
    "a tensor in bf16": in_weights(lambda tensors: tensors.update({HEAD: tensors[HEAD].bfloat16()})),
    "a tensor in fp16": in_weights(lambda tensors: tensors.update({HEAD: tensors[HEAD].half()})),
    "no finite answer": in_weights(lambda tensors: tensors.update({HEAD: tensors[HEAD] * torch.nan})),
    "another file of weights": lambda folder: save_file({"x": torch.ones(1)}, folder / "other.safetensors"),
    "an unknown setting": in_json("tokenizer_config.json", split_special_tokens=True),
    "another class": in_json("tokenizer_config.json", tokenizer_class="AlbertTokenizer"),
    "no class": in_json("tokenizer_config.json", tokenizer_class=None),
    "a setting that the file denies": in_json("tokenizer_config.json", do_lower_case=False),
    "padding on the left": in_json("tokenizer_config.json", padding_side="left"),
    "a token more": in_json("tokenizer_config.json", extra_special_tokens=["film"]),
    "a token by another name": in_json("tokenizer_config.json", mask_token="[MORE]"),
    "no token for padding": in_json("tokenizer_config.json", pad_token=None),
    "tokens of an older version": lambda folder: (folder / "special_tokens_map.json").write_text("{}"),
    "another normalizer": in_tokenizer(lambda content: content["normalizer"].update(clean_text=False)),
    "another template": in_tokenizer(lambda content: content["post_processor"]["single"].pop()),
    "other pieces": in_tokenizer(lambda content: content["model"].update(max_input_chars_per_word=4)),
    "a token in any letters": in_tokenizer(lambda content: content["added_tokens"][0].update(normalized=True)),
    "rows that are padded": in_tokenizer(
        lambda content: content.update(
            truncation={"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
        )
    ),
    "no tokenizer": in_tokenizer(lambda content: content.pop("model")),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_is_not_known_is_left_to_torch(what: str, make_classifier: Callable[..., Path], tmp_path: Path) -> None:
    folder = shutil.copytree(make_classifier(), tmp_path / "copy")
    assert answers_without_torch(SavedModel.open(folder), [TEXTS]) is not None
    UNKNOWN[what](folder)
    saved = SavedModel.open(folder)
    assert answers_without_torch(saved, [TEXTS]) is None
    if what != "a threshold that is none":  # of which transformers says the same
        found = KnownModel.of(saved, [TEXTS])
        assert found is None or load_bare(found) is None


def test_what_numpy_answers_otherwise_goes_the_usual_way(
    make_classifier: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = SavedModel.open(make_classifier())
    found, own = known(saved, [TEXTS]), NumpyEncoder.logits
    monkeypatch.setattr(NumpyEncoder, "logits", lambda *given: own(*given) * np.float32(1.0001))
    usual = Classifier(saved, found)
    assert type(usual.model) is PaddingFree
    assert usual.model.classifier.config.model_type == "bert"


@pytest.mark.parametrize(
    ("device", "has_gpu", "way"), [("auto", True, "usual"), ("auto", False, "bare"), ("cpu", True, "bare")]
)
def test_on_a_gpu_a_file_is_answered_the_usual_way(
    device: str, has_gpu: bool, way: str, make_classifier: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The form without transformers computes on the CPU alone, and `auto` takes a GPU where there is one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    asked: list[str] = []
    monkeypatch.setattr(Classifier, "_load", lambda self: asked.append(self.accelerator.device.type))
    saved = SavedModel.open(make_classifier(), device=device)
    classifier = open_classifier(saved, [TEXTS])
    assert asked == (["cuda"] if way == "usual" else [])
    assert hasattr(classifier, "model") == (way == "bare")


def test_a_tokenizer_without_a_template_is_left_to_torch(make_classifier: Callable[..., Path], tmp_path: Path) -> None:
    folder = shutil.copytree(make_classifier(tokenizer=plain_tokenizer), tmp_path / "copy")
    assert saved_tokenizer(folder) is not None
    in_tokenizer(lambda content: content.update(post_processor=None))(folder)
    assert saved_tokenizer(folder) is None


def test_what_is_asked_otherwise_is_left_to_torch(
    make_classifier: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_classifier()
    saved = SavedModel.open(folder)
    assert answers_without_torch(saved, [TEXTS]) is not None
    for name, value in {"device": "cuda", "engine": "plain", "precision": "bf16"}.items():
        other = replace(saved, config=saved.config.model_copy(update={name: value}))
        assert answers_without_torch(other, [TEXTS]) is None
        assert KnownModel.of(other, [TEXTS]) is None
    for other in (replace(saved, others=(folder,)), replace(saved, graph="onnx/model.onnx")):
        assert answers_without_torch(other, [TEXTS]) is None
        assert KnownModel.of(other, [TEXTS]) is None
    for text in ("a [SEP] b", "[MASK]"):
        assert answers_without_torch(saved, [["a", text]]) is None, "transformers cuts it out"
        assert KnownModel.of(saved, [["a"], ["b", text]]) is None
    assert answers_without_torch(saved, [["a"] * 257]) is None
    with monkeypatch.context() as patch:
        patch.setattr(few_texts, "AT_MOST_PRODUCTS", 20_000)
        assert answers_without_torch(saved, [["a"]]) is not None
        assert answers_without_torch(saved, [["a"] * 99]) is None
    for name, value in {"ACCELERATE_MIXED_PRECISION": "bf16", "WORLD_SIZE": "2"}.items():
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert answers_without_torch(saved, [["a"]]) is None


def test_the_command_needs_no_torch(make_classifier: Callable[..., Path], tmp_path: Path) -> None:
    """Texts, pairs and standard input, in a process that could not import it."""
    folder, pair = str(make_classifier()), str(make_classifier("roberta"))
    calls = [
        ["predict", folder, *TEXTS, "--json"],
        ["predict", folder, "-", "--json"],
        ["predict", pair, *PAIRS[0][:2], "--text-columns", "a", "b", "--json"],
        ["predict", folder, TEXTS[0]],
    ]
    program = (
        "import sys\nsys.modules['torch'] = None\nfrom dongu.cli.main import run\n"
        f"codes = [run(call) for call in {calls}]\n"
        "import os\ncodes.append(os.environ.get('OPENBLAS_NUM_THREADS'))\n"
        "print(*codes, *sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input="\n".join(TEXTS).encode(), capture_output=True, check=True, cwd=tmp_path
    )
    *codes, threads, loaded = done.stderr.decode().split(maxsplit=len(calls) + 1)
    assert codes == ["0"] * len(calls), done.stderr
    assert threads == str(os.environ.get("OPENBLAS_NUM_THREADS")), "PyTorch may read it after NumPy"
    assert not {"accelerate", "datasets", "pandas", "pyarrow", "scipy", "sklearn", "transformers"} & {*loaded.split()}
    *lines, last = done.stdout.decode().splitlines()
    answers = [json.loads(line) for line in lines]
    wanted = dongu.load(folder).predict(TEXTS) * 2 + dongu.load(pair, text_columns=["a", "b"]).predict([PAIRS[0][:2]])
    for answer, other in zip(answers, wanted, strict=True):
        assert answer["prediction"] == other["prediction"]
        assert answer["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)
    assert last.endswith(TEXTS[0])


def test_commands_with_files_need_no_transformers(
    make_classifier: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor SymPy, which takes long too."""
    rows = "".join(f"{text.replace(',', '')},label{i % 3}\n" for i, text in enumerate(TEXTS * 3))
    (tmp_path / "rows.csv").write_text(f"text,label\n{rows}", "utf-8")
    folder, file = str(make_classifier("electra")), str(tmp_path / "rows.csv")
    calls = [["evaluate", folder, file, "--json"], ["predict", folder, "--data", file, "--json"]]
    program = (
        f"import sys\nfrom dongu.cli.main import run\ncodes = [run(call) for call in {calls}]\n"
        "print(*codes, *sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    *_, said = done.stderr.splitlines()
    assert said.startswith("0 0 ")
    assert "torch" in said.split()
    assert not {"transformers", "sympy", "datasets", "pandas", "sklearn"} & {*said.split()}
    with mock.patch.object(KnownModel, "of", return_value=None):
        assert [run(call) for call in calls] == [0, 0]
    assert capsys.readouterr().out == done.stdout


@pytest.mark.parametrize("options", [{}, {"lora": 2}, {"task": "regression", "max_length": 12}])
def test_a_run_answers_as_with_torch(options: dict[str, Any], tiny_model: Callable[..., str], tmp_path: Path) -> None:
    rows = [{"text": f"word{i % 2} word{i} film", "label": str(i % 3)} for i in range(24)]
    data = {"train": rows, "validation": rows[:8]}
    run = dongu.train(data, model=tiny_model(), out=str(tmp_path / "run"), max_steps=3, threads=1, **options).path
    check_same(SavedModel.open(run), [TEXTS])
