"""Settings for few rows: what is derived, the layer that begins as the mean, the head that begins as a regression."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from transformers import MambaConfig, pipeline

import dongu
from conftest import FAMILIES, cut_off_in_step, run_script
from dongu.cli.main import run as run_command
from dongu.eject.script import eject
from dongu.errors import ModelError, UsageError
from dongu.evaluate import eval_mode
from dongu.model.dropout import set_dropout
from dongu.model.head import head_of
from dongu.model.layers import layer_depths
from dongu.model.mean_layer import LAYERS_AND_POOLER, give_mean_layer
from dongu.model.probe import RIDGES, Probe, probe
from dongu.model.recipe import FOR_FEW_ROWS, QUICK
from dongu.run.derived import describe

Rows = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere the tests have the original's settings, however few their rows."""
    monkeypatch.setattr("dongu.model.recipe.ENOUGH_UPDATES", 1_000)


@pytest.fixture
def make_loop(tiny_model: Callable[..., str], make_rows: Callable[..., Rows]) -> Callable[..., dongu.Loop]:
    def make(family: str = "bert", rows: int = 41, **options: Any) -> dongu.Loop:
        data = {"train": make_rows(rows, seed=0), "validation": make_rows(13, seed=1), "test": make_rows(11, seed=2)}
        return dongu.Loop(data, model=tiny_model(family), threads=1, **options)

    return make


def settings(loop: dongu.Loop) -> dict[str, Any]:
    return {name: getattr(loop.config, name) for name in ("recipe", "epochs", *FOR_FEW_ROWS)}


ORIGINAL = {"recipe": "original", "epochs": 3.0, "learning_rate": 5e-5, "warmup": 0.0, "head": "random"}


def test_few_rows_have_settings_of_their_own(make_loop: Callable[..., dongu.Loop]) -> None:
    assert settings(make_loop()) == {"recipe": "auto", "epochs": 3.0, **FOR_FEW_ROWS}
    assert settings(make_loop(learning_rate=3e-4, epochs=2))["learning_rate"] == 3e-4
    assert settings(make_loop(learning_rate=3e-4, epochs=2))["epochs"] == 2
    assert settings(make_loop(head="random"))["head"] == "random"
    assert settings(make_loop(**FOR_FEW_ROWS))["recipe"] == "auto", "the pooling is still derived"
    assert settings(make_loop(lora=4))["learning_rate"] == 5e-4, "ten times the usual one, as --lora implies"


def test_with_more_rows_a_class_the_rate_falls_to_the_original(
    make_loop: Callable[..., dongu.Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    for rows, rate in {20.5: 1e-4, 12: 7.7e-5, 41 / 8: 5e-5, 3: 5e-5}.items():  # of each class there are 20.5
        monkeypatch.setattr("dongu.model.recipe.RATE_FALLS_AFTER", rows)
        assert settings(make_loop()) == {"recipe": "auto", "epochs": 3.0, **FOR_FEW_ROWS, "learning_rate": rate}


def test_all_folds_have_one_recipe(
    tiny_model: Callable[..., str], make_rows: Callable[..., Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dongu.model.recipe.ENOUGH_UPDATES", 3 * 4)  # which 25 rows have, and 24 have not
    rows = {"train": make_rows(49, seed=0)}
    loops = [dongu.Loop(rows, model=tiny_model(), threads=1, fold=f"{k}/2") for k in (1, 2)]
    assert {len(loop.splits["train"]) for loop in loops} == {24, 25}
    assert [settings(loop)["recipe"] for loop in loops] == ["auto", "auto"]
    assert all("settings for few rows (24)" in dict(describe(loop))["recipe"] for loop in loops)


def test_the_original_is_the_original(make_loop: Callable[..., dongu.Loop], monkeypatch: pytest.MonkeyPatch) -> None:
    loop = make_loop(recipe="original")
    assert settings(loop) == ORIGINAL
    assert loop.config.pooling == "model"
    assert settings(make_loop(loss=lambda model, batch: model(**batch.inputs).logits[:, 0])) == ORIGINAL
    monkeypatch.setattr("dongu.model.recipe.ENOUGH_UPDATES", 3 * 6)  # 41 rows are 6 batches
    assert settings(make_loop()) == ORIGINAL
    monkeypatch.setattr("dongu.model.recipe.ENOUGH_UPDATES", 3 * 6 + 1)
    assert settings(make_loop())["recipe"] == "auto"


def test_a_quick_run_has_few_epochs_and_no_dropout(
    make_loop: Callable[..., dongu.Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    def quick_settings(loop: dongu.Loop) -> dict[str, Any]:
        return {name: getattr(loop.config, name) for name in ("recipe", *QUICK)}

    assert settings(make_loop(recipe="quick"))["recipe"] == "auto", "of so few rows there are few updates anyway"
    monkeypatch.setattr("dongu.model.recipe.ENOUGH_UPDATES", 3 * 6)
    monkeypatch.setattr("dongu.model.recipe.ENOUGH_QUICK_UPDATES", 1.75 * 3)  # 41 rows are 3 batches of 16
    loop = make_loop(recipe="quick")
    assert quick_settings(loop) == {"recipe": "quick", **QUICK}
    assert loop.total_steps == 6
    assert "1.75 epochs, dropout 0" in dict(describe(loop))["recipe"]
    assert make_loop(recipe="quick", batch_size=8, warmup=0).config.warmup == 0
    own = make_loop(recipe="quick", epochs=1, dropout=0.2)
    assert (own.config.epochs, own.config.dropout, own.config.recipe) == (1, 0.2, "quick")
    assert dict(describe(own))["model"].endswith("; dropout 0.2")
    assert make_loop().config.dropout is None
    monkeypatch.setattr("dongu.model.recipe.ENOUGH_UPDATES", 1_000)
    written = {name: getattr(loop.config, name) for name in ("recipe", "epochs", "dropout", *FOR_FEW_ROWS)}
    few = make_loop(**written)  # as a run of few rows has them from the run.json of a quick one
    assert few.config.recipe == "original", "nothing suits few rows"
    assert (few.config.epochs, few.config.dropout) == (QUICK["epochs"], 0)


def test_of_fewer_rows_a_quick_run_trains_the_upper_layers_for_longer(
    make_loop: Callable[..., dongu.Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(**options: Any) -> tuple[int | None, float, list[bool]]:
        loop = make_loop(recipe="quick", **options)
        depths, layers = layer_depths(loop.model) if "family" not in options else ({}, 0)
        learn = [all(p.requires_grad for n, p in loop.model.named_parameters() if depths.get(n) == i) for i in range(4)]
        return loop.config.freeze, loop.config.epochs, learn[: layers + 1]

    monkeypatch.setattr("dongu.model.recipe.ENOUGH_UPDATES", 3 * 6)
    monkeypatch.setattr("dongu.model.recipe.ENOUGH_QUICK_UPDATES", 1.75 * 3 + 0.01)
    assert made() == (0, 1.75, [True] * 3), "of two layers none is a third"
    for layers in (5, 3):  # of which the tiny model has two
        monkeypatch.setattr("dongu.model.recipe.layer_depths", lambda _, layers=layers: ({}, layers))
        assert made() == (1, 2.25, [False, False, True])
    assert made(epochs=1) == (1, 1, [False, False, True])
    assert made(freeze=0) == (0, 1.75, [True] * 3), "as with more rows, and as the run.json of such a run has it"
    assert made(lora=4)[:2] == (0, 1.75)
    monkeypatch.setattr("dongu.model.recipe.layer_depths", layer_depths)
    assert made(family="albert")[:2] == (0, 1.75), "its layers are one"


def test_a_recipe_sets_nothing_that_parts_of_ones_own_do_not_know(
    make_loop: Callable[..., dongu.Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it called a recipe where it sets nothing, and the run is made again of what was recorded."""
    own: dict[str, Any] = {
        "optimizer": lambda parameters: torch.optim.SGD([*parameters.values()], lr=0.1),
        "lr_scheduler": lambda step, total_steps: 1 - step / total_steps,
    }
    monkeypatch.setattr("dongu.model.recipe.ENOUGH_UPDATES", 3 * 6)
    loop = make_loop(recipe="quick", **own)
    assert settings(loop) == {**ORIGINAL, "recipe": "quick", "epochs": QUICK["epochs"]}
    written = loop.config.model_dump(exclude={"data", "model", "threads", "lr_scheduler"})
    assert make_loop(**written, **own).config == loop.config
    assert make_loop(lora=2, **own).config.learning_rate == 5e-4, "which --lora implies, and nobody has given"
    with pytest.raises(UsageError, match="--learning-rate: the optimizer is your own"):
        make_loop(lora=2, learning_rate=1e-3, **own)
    monkeypatch.setattr("dongu.model.recipe.ENOUGH_UPDATES", 1_000)
    of_model = dongu.Loop(loop.data, model=loop.model, tokenizer=loop.tokenizer)
    assert settings(of_model) == ORIGINAL
    assert "recipe" not in dict(describe(of_model))


@pytest.mark.cases(test=4, ci=11)
@pytest.mark.parametrize("family", [*FAMILIES, "gpt2", "qwen3"])
def test_dropout_is_everywhere_what_is_given(
    family: str, tiny_model: Callable[..., str], make_rows: Callable[..., Rows], tmp_path: Path
) -> None:
    data = {"train": make_rows(8), "validation": make_rows(4)}
    loops = [dongu.Loop(data, model=tiny_model(family, 0.1), dropout=p, threads=1) for p in (0.0, 0.9)]
    inputs = dict(loops[0].tokenizer(["the film was good", "bad"], padding=True, return_tensors="pt"))

    def answer(loop: dongu.Loop, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        logits: torch.Tensor = loop.model.train()(**inputs).logits
        return logits.detach()

    assert torch.equal(answer(loops[0], 1), answer(loops[0], 2))
    assert not torch.allclose(answer(loops[1], 1), answer(loops[1], 2))
    if family != "qwen3":  # whose attention alone has dropout
        assert {module.p for module in loops[1].model.modules() if isinstance(module, torch.nn.Dropout)} == {0.9}
    loops[1].model.save_pretrained(tmp_path)
    assert 0.9 in json.loads((tmp_path / "config.json").read_text()).values()


def test_dropout_that_nothing_has_is_refused(make_loop: Callable[..., dongu.Loop]) -> None:
    with pytest.raises(ModelError, match=r"--dropout 0\.1: `mamba` has no dropout"):
        set_dropout(MambaConfig(), 0.1)
    own = make_loop(recipe="original")
    with pytest.raises(UsageError, match=r"--dropout: the model is your own"):
        dongu.Loop(own.data, model=own.model, tokenizer=own.tokenizer, dropout=0.1)
    with pytest.raises(UsageError, match=r"--recipe quick: the model is your own"):
        dongu.Loop(own.data, model=own.model, tokenizer=own.tokenizer, recipe="quick")


def test_a_head_that_is_there_goes_on(
    make_loop: Callable[..., dongu.Loop], make_rows: Callable[..., Rows], tmp_path: Path
) -> None:
    trained = make_loop()
    trained.model.save_pretrained(tmp_path)
    trained.tokenizer.save_pretrained(tmp_path)
    loop = dongu.Loop({"train": make_rows(20), "validation": make_rows(8)}, model=str(tmp_path), head="probe")
    assert settings(loop) == {**ORIGINAL, "head": "probe"}
    assert loop.probed == {}
    assert all(torch.equal(a, b) for a, b in zip(loop.model.parameters(), trained.model.parameters(), strict=True))


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_the_layer_begins_as_the_mean(make_loop: Callable[..., dongu.Loop], family: str) -> None:
    loop = make_loop(family, recipe="original")
    more = copy.deepcopy(loop.model)
    give_mean_layer(more)
    inputs = dict(loop.tokenizer(["the film was good", "bad"], padding=True, return_tensors="pt"))
    with eval_mode(loop.model), eval_mode(more):
        states = loop.model.base_model(**inputs).last_hidden_state
        found = more.base_model(**inputs).last_hidden_state[:, 0]
    mask = inputs["attention_mask"][..., None]
    mean = (states * mask).sum(1) / mask.sum(1)
    wanted = torch.nn.functional.layer_norm(10 * mean + states[:, 0], mean.shape[-1:])
    assert torch.allclose(found, wanted, atol=1e-5)
    added = more.get_submodule(LAYERS_AND_POOLER[family][0])[-1]
    query = added.attention.self.query.weight
    more(**inputs).logits.square().sum().backward()
    assert float(query.grad.abs().max()) > 0, "it learns which tokens count"


def test_a_model_that_cannot_have_the_layer_is_refused(make_loop: Callable[..., dongu.Loop]) -> None:
    with pytest.raises(ModelError, match=r"--pooling mean.*\n.*distilbert|distilbert"):
        make_loop("distilbert", pooling="mean")
    assert make_loop("distilbert").config.pooling == "model"


def features_of(loop: dongu.Loop, model: Any) -> np.ndarray:
    read: list[torch.Tensor] = []
    head = head_of(model)
    assert head is not None
    hook = head[1].register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    split = loop.splits["train"]
    with eval_mode(model):
        for i in range(len(split)):
            begin, end = split.tokens.offsets[i : i + 2]
            ids = torch.from_numpy(np.asarray(split.tokens.input_ids[begin:end])[None].astype(np.int64))
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    hook.remove()
    return torch.cat(read).double().numpy()


@pytest.mark.parametrize("family", ["bert", "distilbert", "electra"])
def test_the_head_is_the_logistic_regression(make_loop: Callable[..., dongu.Loop], family: str) -> None:
    loop = make_loop(family, pooling="model")
    found, head, features = loop.probed["model"], head_of(loop.model), features_of(loop, loop.model)
    assert isinstance(found, Probe)
    assert head is not None
    mean, std = features.mean(0), np.maximum(features.std(0), 1e-6)  # a unit may be dead
    targets = loop.splits["train"].targets
    assert targets is not None
    penalty = 1 / (2 * found.ridge_for("single-label") * len(targets))  # of scikit-learn: 1/2 ‖w‖² + C Σ loss
    # Two outputs of a softmax have the weights ±w/2, and together half of the penalty of one of a sigmoid.
    wanted = LogisticRegression(C=2 * penalty, tol=1e-9, max_iter=10_000).fit((features - mean) / std, targets)
    own = (head[1].weight[1] - head[1].weight[0]).detach().numpy() * std
    assert np.allclose(own, wanted.coef_[0], atol=2e-3 * np.abs(wanted.coef_).max())


@pytest.mark.parametrize("task", ["regression", "ordinal"])
def test_numbers_begin_as_a_linear_regression(tiny_model: Any, make_rows: Any, task: Any) -> None:
    rows = [{"text": row["text"], "label": 1 + i % 4} for i, row in enumerate(make_rows(40, labels=4))]
    loop = dongu.Loop({"train": rows, "validation": rows[:8]}, model=tiny_model("bert"), threads=1, task=task)
    assert loop.config.head == "probe"
    metrics = loop.evaluate("validation").metrics
    assert metrics["mae"] < 1, "always answering the mean is 1 off"


def test_rows_left_out_in_closed_form(make_loop: Callable[..., dongu.Loop]) -> None:
    loop = make_loop(rows=12, recipe="original")
    features, targets = features_of(loop, loop.model), loop.splits["train"].targets
    assert targets is not None
    columns = np.eye(2)[targets.astype(int)]
    split = loop.splits["train"]
    batches = (
        {k: v for k, v in loop._usual_collator()(split, np.array([i])).items() if k != "labels"} for i in range(12)
    )
    found = probe(loop.model, batches, torch.from_numpy(columns))
    assert isinstance(found, Probe)
    x = (features - features.mean(0)) / features.std(0)
    errors = []
    for ridge in RIDGES:
        # The centre and the scale of the features stay those of all rows; the centre of the targets is left-out too.
        models = [Ridge(alpha=12 * ridge).fit(np.delete(x, i, 0), np.delete(columns, i, 0)) for i in range(12)]
        errors.append([((model.predict(x[[i]]) - columns[i]) ** 2).sum() for i, model in enumerate(models)])
    base = [((np.delete(columns, i, 0).mean(0) - columns[i]) ** 2).sum() for i in range(12)]
    chosen = RIDGES.index(found.ridge)
    assert found.errors.numpy() == pytest.approx(errors[chosen], abs=1e-9)
    assert found.explained == pytest.approx(1 - sum(errors[chosen]) / sum(base), abs=1e-9)
    best = min(errors, key=sum)
    bound = np.mean(best) + np.std(best, ddof=1) / np.sqrt(12)
    assert [np.mean(each) <= bound for each in errors][chosen:] == [True, *[False] * (len(RIDGES) - 1 - chosen)]


def test_where_the_encoder_tells_nothing_there_is_nothing_to_begin_with(tiny_model: Callable[..., str]) -> None:
    rows = [{"text": "the same words", "label": "yes" if i % 4 else "no"} for i in range(40)]
    data = {"train": rows, "validation": rows[:8]}
    loop = dongu.Loop(data, model=tiny_model("bert"), threads=1, learning_rate=1e-3)
    assert settings(loop) == {**ORIGINAL, "learning_rate": 1e-3}
    assert loop.model.config.num_hidden_layers == 2
    asked = dongu.Loop(data, model=tiny_model("bert"), threads=1, head="probe")
    logits = asked.evaluate("validation").logits[0]
    assert np.exp(logits - np.logaddexp(*logits))[1] == pytest.approx(0.75, abs=1e-3), "the frequency of the class"


@pytest.mark.parametrize(("noise", "settings_of"), [(0, "few rows"), (4, "the original")])
def test_what_is_told_of_pairs_has_to_be_much(
    noise: int, settings_of: str, tiny_model: Callable[..., str], make_rows: Callable[..., Rows]
) -> None:
    """A quarter of the variance; of one text whatever is no chance is enough."""
    rows = make_rows(120, pair=True)
    for i, row in enumerate(rows):  # so many of twenty have the other class than their words
        row["label"] = f"class{1 - i % 2}" if i % 20 < noise else f"class{i % 2}"
    texts = [{"text": row["sentence1"], "label": row["label"]} for row in rows]
    loops = [
        dongu.Loop({"train": data, "validation": data[:8]}, model=tiny_model("bert"), threads=1)
        for data in (rows, texts)
    ]
    told = [[each for each in loop.probed.values() if isinstance(each, Probe)] for loop in loops]
    assert all(max(each, key=lambda probe: probe.explained).tells_something for each in told)
    few = {"recipe": "auto", "epochs": 3.0, **FOR_FEW_ROWS}
    assert settings(loops[0]) == (few if settings_of == "few rows" else ORIGINAL)
    assert settings(loops[1]) == few
    # The layer that begins as the mean tells more, and is left out where that is too little.
    assert [loop.config.pooling for loop in loops] == ["model" if noise else "mean", "mean"]
    assert [loop.model.config.num_hidden_layers for loop in loops] == [2 if noise else 3, 3]


def test_several_labels_begin_with_their_frequencies(tiny_model: Callable[..., str]) -> None:
    """Rare ones would be answered with 0.5 for most of a run of few rows, where nothing tells them."""
    rows = [{"text": "the same words", "labels": ["a"] if i % 4 else ["a", "b"]} for i in range(40)]
    loop = dongu.Loop({"train": rows, "validation": rows[:8]}, model=tiny_model("bert"), threads=1)
    assert settings(loop) == {"recipe": "auto", "epochs": 3.0, **FOR_FEW_ROWS}
    assert 1 / (1 + np.exp(-loop.evaluate("validation").logits[0][1])) == pytest.approx(0.25, abs=1e-2)


@pytest.fixture
def run_of_few(make_loop: Callable[..., dongu.Loop], data_folder: Callable[..., str], tiny_model: Any) -> Any:
    def train(out: Path, **options: Any) -> Any:
        return dongu.train(data_folder(), model=tiny_model("bert", 0.1), out=str(out), threads=1, **options)

    return train


@pytest.mark.crash
def test_a_killed_run_of_few_rows_ends_in_the_same_bytes(run_of_few: Callable[..., Any], tmp_path: Path) -> None:
    run_of_few(tmp_path / "whole", epochs=2)
    with cut_off_in_step(9):
        run_of_few(tmp_path / "cut", epochs=2)
    dongu.resume(tmp_path / "cut")
    for name in ("metrics.jsonl", "model/model.safetensors", "model/config.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    options = json.loads((tmp_path / "whole/run.json").read_text())["options"]
    assert (options["recipe"], options["head"]) == ("auto", "probe")


def test_a_run_that_goes_on_keeps_its_recipe(run_of_few: Callable[..., Any], tmp_path: Path, capsys: Any) -> None:
    """It was recorded as another one, and nothing else of the run was another."""
    with cut_off_in_step(3):
        run_of_few(tmp_path / "run", epochs=1)
    before = (tmp_path / "run/run.json").read_bytes()
    assert run_command(["resume", str(tmp_path / "run"), "--recipe", "original"]) == 2
    assert "--recipe original: the run began with auto" in capsys.readouterr().err
    assert (tmp_path / "run/run.json").read_bytes() == before
    assert run_command(["resume", str(tmp_path / "run"), "--recipe", "auto"]) == 0


def test_a_run_whose_rows_tell_nothing_goes_on(tiny_model: Callable[..., str], tmp_path: Path) -> None:
    """It has looked at what it then did not use, and a run that goes on does not look."""
    rows = [{"text": "the same words", "label": "yes" if i % 4 else "no"} for i in range(40)]
    data = {"train": rows, "validation": rows[:8]}
    with cut_off_in_step(3):
        dongu.train(data, model=tiny_model("bert"), out=str(tmp_path / "run"), threads=1, epochs=1)
    dongu.resume(tmp_path / "run", data)


def test_a_run_of_few_rows_is_proved(run_of_few: Callable[..., Any], tmp_path: Path) -> None:
    """Its files, a replay, its model again, and an update split in several ways."""
    run_of_few(tmp_path / "run", epochs=1, pooling="mean")
    assert run_command(["verify", str(tmp_path / "run")]) == 0


def test_a_recipe_is_repeated_from_its_run(run_of_few: Callable[..., Any], tmp_path: Path) -> None:
    run_of_few(tmp_path / "first", epochs=1)
    from dongu.recipe_file import read_config

    options = read_config(tmp_path / "first/run.json")
    dongu.train(**{**options, "out": str(tmp_path / "again")})
    assert (tmp_path / "again/metrics.jsonl").read_bytes() == (tmp_path / "first/metrics.jsonl").read_bytes()


def test_a_run_from_before_recipes_is_the_original(run_of_few: Callable[..., Any], tmp_path: Path) -> None:
    run_of_few(tmp_path / "old", epochs=1, recipe="original")
    record = json.loads((tmp_path / "old/run.json").read_text())
    for name in ("recipe", "head", "pooling"):
        del record["options"][name]
    (tmp_path / "old/run.json").write_text(json.dumps(record))
    from dongu.recipe_file import read_config

    assert read_config(tmp_path / "old/run.json")["recipe"] == "original"


def test_what_is_saved_loads_without_dongu(run_of_few: Callable[..., Any], tmp_path: Path) -> None:
    result = run_of_few(tmp_path / "run", epochs=1, pooling="mean", dropout=0.05)
    answers = pipeline("text-classification", model=str(tmp_path / "run/model"), top_k=None)(["word1 word1 good"])
    [ours] = dongu.load(result.path).predict(["word1 word1 good"])
    for answer in answers[0]:
        assert answer["score"] == pytest.approx(ours["probabilities"][answer["label"]], abs=1e-5)
    assert json.loads((tmp_path / "run/model/config.json").read_text())["num_hidden_layers"] == 3
    card = (tmp_path / "run/model/README.md").read_text()
    assert "one layer more" in card
    assert "Its dropout is 0.05" in card


def number(row: dict[str, Any]) -> dict[str, Any]:
    return {"text": row["text"], "score": 3.0 + len(row["text"]) / 10}


def two_labels(row: dict[str, Any]) -> dict[str, Any]:
    return {"text": row["text"], "labels": ["good"] * ("good" in row["text"]) + ["film"] * ("film" in row["text"])}


@pytest.mark.cases(test=1, ci=3)
@pytest.mark.parametrize(
    ("family", "change", "options"),
    [
        ("bert", None, {"pooling": "mean"}),
        ("bert", number, {"max_grad_norm": 1.0}),
        ("roberta", two_labels, {"pooling": "mean"}),
        ("gpt2", None, {}),
        ("gpt2", None, {"dropout": 0.3}),
    ],
)
def test_the_script_begins_as_the_run_did(
    family: str, change: Any, options: Any, tiny_model: Any, make_rows: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("train", "validation")):
        rows = [row if change is None else change(row) for row in make_rows((41, 13)[seed], seed=seed)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dongu.train(str(tmp_path), model=tiny_model(family, 0.1), out="run", threads=1, engine="plain", epochs=1, **options)
    assert json.loads(Path("run/run.json").read_text())["options"]["head"] == "probe"
    Path("script.py").write_text(eject("run", "script.py"))
    run_script(Path("script.py"))
    assert Path("run-plain/metrics.jsonl").read_text() == Path("run/metrics.jsonl").read_text()
    assert len(Path("script.py").read_text().splitlines()) <= 200 + 45, "two functions more"
